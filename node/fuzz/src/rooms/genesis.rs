//! Genesis files.

use quorate_chain::Genesis;

use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[Target::new(
    "chain-genesis",
    genesis,
    genesis_seeds,
    Memory::DECODER,
)];

/// A file that an operator was given.
fn genesis(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    Genesis::parse(text).is_ok_and(|genesis| {
        let again = Genesis::parse(&genesis.to_json().to_string());
        let digest = again.map(|again| again.consortium_digest()).ok();
        assert_eq!(
            digest,
            Some(genesis.consortium_digest()),
            "a genesis does not read back"
        );
        true
    })
}

fn genesis_seeds() -> Vec<Vec<u8>> {
    let plain = figures::genesis_json();
    let private = plain.replacen(
        r#""quorate": {"#,
        r#""quorate": {"privacy": {"suite": 2}, "blockLimits": {"maxTransactions": 100}, "#,
        1,
    );
    vec![plain.into_bytes(), private.into_bytes()]
}
