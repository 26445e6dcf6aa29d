//! Code whose jump destinations are known, kept from block to block.
//!
//! The analysis is a function of the code, and the code of its hash: one cache serves all states and all threads.

use std::sync::LazyLock;

use alloy_primitives::map::B256Map;
use alloy_primitives::{B256, Bytes, keccak256};
use parking_lot::Mutex;
use quorate_state::ReadError;
use revm::state::Bytecode;

/// Most bytes of code that one generation keeps. There are two, so that at most twice this much is in memory: 24 KiB is the
/// largest code of a contract, which makes room for more than a thousand of them. When a generation is full, the older one goes,
/// and with it what was not used since the last change.
const GENERATION_BYTES_MAX: usize = 32 * 1024 * 1024;

static ANALYSED: LazyLock<Mutex<Generations>> =
    LazyLock::new(|| Mutex::new(Generations::new(GENERATION_BYTES_MAX)));

/// The analysed code of `hash`, from the cache or through `load`.
///
/// # Errors
/// What `load` said, or [`ReadError::Damaged`] if what it gave has another hash.
pub(crate) fn analysed(
    hash: B256,
    load: impl FnOnce() -> Result<Bytes, ReadError>,
) -> Result<Bytecode, ReadError> {
    if let Some(code) = ANALYSED.lock().get(&hash) {
        return Ok(code);
    }
    let bytes = load()?;
    let found = keccak256(&bytes);
    if found != hash {
        return Err(ReadError::Damaged {
            key: format!("code {hash}"),
            reason: format!("its hash is {found}"),
        });
    }
    let code = analyse(bytes);
    ANALYSED.lock().insert(hash, code.clone());
    Ok(code)
}

/// Code that begins like a delegation (EIP-7702) and is none can only stem from before EIP-3541; it is ordinary code then.
pub(crate) fn analyse(bytes: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(bytes.clone()).unwrap_or_else(|_| Bytecode::new_legacy(bytes))
}

struct Generations {
    bytes_max: usize,
    young: B256Map<Bytecode>,
    young_bytes: usize,
    old: B256Map<Bytecode>,
}

impl Generations {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            young: B256Map::default(),
            young_bytes: 0,
            old: B256Map::default(),
        }
    }

    fn get(&mut self, hash: &B256) -> Option<Bytecode> {
        if let Some(code) = self.young.get(hash) {
            return Some(code.clone());
        }
        let code = self.old.remove(hash)?;
        self.insert(*hash, code.clone());
        Some(code)
    }

    fn insert(&mut self, hash: B256, code: Bytecode) {
        // Padding and jump table are an eighth and a bit on top.
        let bytes = code.len() + code.len() / 8 + 128;
        if self.young_bytes + bytes > self.bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(hash, code).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(fill: u8) -> (B256, Bytecode) {
        let bytes = Bytes::from(vec![fill; 1_000]);
        (keccak256(&bytes), analyse(bytes))
    }

    #[test]
    fn code_in_use_stays_and_forgotten_code_leaves() {
        let mut cache = Generations::new(4_000);
        let (used, _) = code(0);
        let (unused, _) = code(1);
        for fill in 0..2 {
            let (hash, code) = code(fill);
            cache.insert(hash, code);
        }
        for fill in 2..200 {
            let (hash, code) = code(fill);
            cache.insert(hash, code);
            assert!(cache.get(&used).is_some());
            assert!(cache.young.len() + cache.old.len() <= 7);
        }
        assert!(cache.get(&unused).is_none());
    }

    #[test]
    fn code_with_another_hash_is_damage() {
        let claimed = keccak256(b"what was asked for");
        let error = analysed(claimed, || Ok(Bytes::from_static(b"something else"))).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }));
        // And it was not remembered.
        assert!(analysed(claimed, || Ok(Bytes::from_static(b"what was asked for"))).is_ok());
    }

    #[test]
    fn code_that_only_begins_like_a_delegation_runs_as_code() {
        assert!(analyse(Bytes::from_static(&[0xef, 0x01, 0x00, 0x01])).is_legacy());
        let mut delegation = vec![0xef, 0x01, 0x00];
        delegation.extend([7; 20]);
        assert!(analyse(delegation.into()).is_eip7702());
    }
}
