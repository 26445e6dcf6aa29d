//! When payloads were acknowledged as their senders asked. Nearly always the transaction is executed a moment later, and from then on
//! private state says that the payload was sent; only of the others it has to be written down.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_enclave::PayloadHash;

use crate::clock::now_ms;
use crate::exchange::Inner;
use crate::{Exchange, ExchangeError};

/// How long a transaction may take before the acknowledgement of its payload is written down.
const SOON: Duration = Duration::from_secs(10);

/// Acknowledgements that are written nowhere yet, with their time.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    at_ms: Mutex<BTreeMap<PayloadHash, u64>>,
}

impl Acknowledged {
    pub(crate) fn note(&self, hash: PayloadHash, now_ms: u64) {
        self.at_ms.lock().insert(hash, now_ms);
    }

    pub(crate) fn at_ms(&self, hash: &PayloadHash) -> Option<u64> {
        self.at_ms.lock().get(hash).copied()
    }

    /// Private state knows of these now.
    pub(crate) fn executed<'a>(&self, hashes: impl Iterator<Item = &'a PayloadHash>) {
        let mut at_ms = self.at_ms.lock();
        for hash in hashes {
            at_ms.remove(hash);
        }
    }

    /// Those noted at or before a time. They stay until they are [`written`](Self::written).
    fn until(&self, until_ms: u64) -> Vec<(PayloadHash, u64)> {
        let at_ms = self.at_ms.lock();
        let old = at_ms.iter().filter(|(_, at)| **at <= until_ms);
        old.map(|(hash, at)| (*hash, *at)).collect()
    }

    fn written(&self, written: &[(PayloadHash, u64)]) {
        let mut at_ms = self.at_ms.lock();
        for (hash, at) in written {
            if at_ms.get(hash) == Some(at) {
                at_ms.remove(hash);
            }
        }
    }
}

impl Exchange {
    /// Writes down what was acknowledged some time ago and not executed since; everything, if the node is about to stop.
    pub(crate) async fn write_acknowledged(&self, all: bool) -> Result<(), ExchangeError> {
        let soon = u64::try_from(SOON.as_millis()).unwrap_or(u64::MAX);
        let until = if all {
            u64::MAX
        } else {
            now_ms().saturating_sub(soon)
        };
        let noted = self.inner.acknowledged.until(until);
        if noted.is_empty() {
            return Ok(());
        }
        self.blocking(move |inner| {
            inner.records.set_acknowledged(noted.iter().copied())?;
            inner.acknowledged.written(&noted);
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// When a payload was acknowledged as its sender asked, if it was: `stored_at_ms` if nothing but its execution says so.
    pub(crate) fn acknowledged_at(
        &self,
        hash: &PayloadHash,
        stored_at_ms: u64,
    ) -> Result<Option<u64>, ExchangeError> {
        if let Some(at_ms) = self.acknowledged.at_ms(hash) {
            return Ok(Some(at_ms));
        }
        if let Some(at_ms) = self.records.acknowledged_at(hash)? {
            return Ok(Some(at_ms));
        }
        let executed = self.was_executed(hash);
        Ok(executed.then_some(stored_at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_executed_is_written_once_and_known_until_then() {
        let acknowledged = Acknowledged::default();
        let hash = |n| PayloadHash::from_bytes([n; 64]);
        for n in 1..=3 {
            acknowledged.note(hash(n), u64::from(n) * 10);
        }
        acknowledged.executed([hash(1)].iter());
        assert_eq!(acknowledged.at_ms(&hash(1)), None);
        let written = acknowledged.until(25);
        assert_eq!(written, [(hash(2), 20)]);
        // Again, while the first is being written.
        acknowledged.note(hash(2), 40);
        acknowledged.written(&written);
        assert_eq!(acknowledged.at_ms(&hash(2)), Some(40));
        let written = acknowledged.until(u64::MAX);
        acknowledged.written(&written);
        assert_eq!(acknowledged.at_ms(&hash(3)), None);
    }
}
