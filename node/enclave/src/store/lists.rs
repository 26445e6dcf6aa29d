//! Lists of the index: all payloads, a party's, erasures. What is entered together shares a value:
//!
//! ```text
//! key    prefix of the list | time | sequence, of the first entry
//! value  time (8) | sequence (8) | hash (64), of each entry, rising; or one hash alone, as earlier versions wrote it
//! ```
//! With a key for each entry, the lists would be most of what storing a payload costs. Values never overlap: what is shared stands
//! behind everything that was entered before. What is read again after a crash need not, and is entered apart.

use std::collections::BTreeMap;

use quorate_kv::{Batch, Direction, KeyRange, Kv};

use super::StoreError;
use crate::PayloadHash;

const STEP_BYTES: usize = 80;
/// Entries of one value: a value of the key-value store has 4096 bytes at most.
const STEPS_MAX: usize = 50;

/// An entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) time_ms: u64,
    pub(super) sequence: u64,
    pub(super) hash: PayloadHash,
}

impl Step {
    fn place(&self) -> (u64, u64) {
        (self.time_ms, self.sequence)
    }
}

/// Changes of lists that go into one batch.
#[derive(Debug, Default)]
pub(super) struct ListChanges {
    /// Every entry gets a value of its own, and may stand anywhere.
    apart: bool,
    /// By the list's prefix.
    added: BTreeMap<Vec<u8>, Vec<Step>>,
    /// Values that lose entries, by their keys, as they are then.
    lessened: BTreeMap<Vec<u8>, Vec<Step>>,
}

impl ListChanges {
    /// Changes whose entries need not stand behind all that are in their lists.
    pub(super) fn apart() -> Self {
        Self {
            apart: true,
            ..Self::default()
        }
    }

    /// Adds an entry. It must stand behind all that are in the list, unless it is entered apart.
    pub(super) fn add(&mut self, prefix: Vec<u8>, step: Step) {
        self.added.entry(prefix).or_default().push(step);
    }

    /// Removes the entry at a place, if it is there.
    pub(super) fn remove(
        &mut self,
        kv: &dyn Kv,
        prefix: &[u8],
        place: (u64, u64),
    ) -> Result<(), StoreError> {
        let mut end = place_key(prefix, place);
        end.push(0);
        let range = KeyRange::between(prefix.to_vec(), end);
        let Some(entry) = kv.scan(range, Direction::Descending).next() else {
            return Ok(());
        };
        let (key, value) = entry?;
        let steps = match self.lessened.get_mut(&key) {
            Some(steps) => steps,
            None => {
                let steps = decode(prefix.len(), &key, &value)?;
                self.lessened.entry(key).or_insert(steps)
            }
        };
        steps.retain(|step| step.place() != place);
        Ok(())
    }

    pub(super) fn write(self, batch: &mut Batch) {
        for (key, steps) in self.lessened {
            let prefix = key.get(..key.len().saturating_sub(16)).unwrap_or_default();
            let first = steps.first().map(|first| place_key(prefix, first.place()));
            if let Some(first) = &first {
                batch.put(first.clone(), encode(&steps));
            }
            if first.as_ref() != Some(&key) {
                batch.delete(key);
            }
        }
        let together = if self.apart { 1 } else { STEPS_MAX };
        for (prefix, steps) in self.added {
            for steps in steps.chunks(together) {
                if let Some(first) = steps.first() {
                    batch.put(place_key(&prefix, first.place()), encode(steps));
                }
            }
        }
    }
}

/// Entries of a list from a place on.
pub(super) fn steps(
    kv: &dyn Kv,
    prefix: Vec<u8>,
    from: (u64, u64),
) -> impl Iterator<Item = Result<Step, StoreError>> + '_ {
    let start = place_key(&prefix, from);
    // The value that begins before may reach beyond.
    let before = KeyRange::between(prefix.clone(), start.clone());
    let before = kv.scan(before, Direction::Descending).next();
    let behind = kv.scan(KeyRange::prefix_from(&prefix, start), Direction::Ascending);
    let mut next = from;
    before
        .into_iter()
        .chain(behind)
        .flat_map(move |entry| {
            let steps = entry
                .map_err(StoreError::from)
                .and_then(|(key, value)| decode(prefix.len(), &key, &value));
            match steps {
                Ok(steps) => steps.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        })
        // A value that loses its first entry moves to another key, and may be met a second time there.
        .filter(move |step| match step {
            Ok(step) if step.place() < next => false,
            Ok(step) => {
                next = (step.time_ms, step.sequence.saturating_add(1));
                true
            }
            Err(_) => true,
        })
}

fn place_key(prefix: &[u8], (time_ms, sequence): (u64, u64)) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&time_ms.to_be_bytes());
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

fn encode(steps: &[Step]) -> Vec<u8> {
    let mut value = Vec::with_capacity(steps.len() * STEP_BYTES);
    for step in steps {
        value.extend_from_slice(&step.time_ms.to_be_bytes());
        value.extend_from_slice(&step.sequence.to_be_bytes());
        value.extend_from_slice(step.hash.as_bytes());
    }
    value
}

fn decode(prefix: usize, key: &[u8], value: &[u8]) -> Result<Vec<Step>, StoreError> {
    let steps = match <[u8; 64]>::try_from(value) {
        Ok(hash) => {
            let mut one = key.get(prefix..).unwrap_or_default().to_vec();
            one.extend_from_slice(&hash);
            decode_steps(&one)
        }
        Err(_) => decode_steps(value),
    };
    steps.ok_or(StoreError::Index { entry: "t, p or e" })
}

fn decode_steps(value: &[u8]) -> Option<Vec<Step>> {
    let (steps, rest) = value.as_chunks::<STEP_BYTES>();
    let step = |bytes: &[u8; STEP_BYTES]| {
        let (time, rest) = bytes.split_first_chunk::<8>()?;
        let (sequence, hash) = rest.split_first_chunk::<8>()?;
        Some(Step {
            time_ms: u64::from_be_bytes(*time),
            sequence: u64::from_be_bytes(*sequence),
            hash: PayloadHash::from_bytes(hash.try_into().ok()?),
        })
    };
    if !rest.is_empty() || steps.is_empty() {
        return None;
    }
    steps.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use quorate_kv::MemoryKv;

    use super::*;

    const PREFIX: &[u8] = b"list/";

    fn step(n: u64) -> Step {
        Step {
            time_ms: 100 + n / 10,
            sequence: n,
            hash: PayloadHash::from_bytes([u8::try_from(n).unwrap(); 64]),
        }
    }

    fn add(kv: &MemoryKv, numbers: std::ops::Range<u64>) {
        let mut changes = ListChanges::default();
        for n in numbers {
            changes.add(PREFIX.to_vec(), step(n));
        }
        write(kv, changes);
    }

    fn remove(kv: &MemoryKv, numbers: &[u64]) {
        let mut changes = ListChanges::default();
        for n in numbers {
            changes.remove(kv, PREFIX, step(*n).place()).unwrap();
        }
        write(kv, changes);
    }

    fn write(kv: &MemoryKv, changes: ListChanges) {
        let mut batch = Batch::new();
        changes.write(&mut batch);
        kv.write(batch).unwrap();
    }

    fn listed(kv: &MemoryKv, from: u64) -> Vec<u64> {
        steps(kv, PREFIX.to_vec(), step(from).place())
            .map(|step| step.unwrap().sequence)
            .collect()
    }

    #[test]
    fn a_list_is_read_from_any_place_however_its_entries_were_written() {
        let kv = MemoryKv::new();
        add(&kv, 0..1);
        add(&kv, 1..4);
        add(&kv, 4..125);
        assert_eq!(kv.len(), 5);
        for from in 0..125 {
            assert_eq!(listed(&kv, from), (from..125).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_entered_apart_may_stand_anywhere() {
        let kv = MemoryKv::new();
        add(&kv, 0..3);
        let mut changes = ListChanges::apart();
        for n in [9, 12, 7, 3, 11] {
            changes.add(PREFIX.to_vec(), step(n));
        }
        write(&kv, changes);
        add(&kv, 20..22);
        let all = [0, 1, 2, 3, 7, 9, 11, 12, 20, 21];
        assert_eq!(listed(&kv, 0), all);
        assert_eq!(listed(&kv, 8), all[5..]);
    }

    #[test]
    fn entries_are_removed_from_shared_values_and_the_rest_stays() {
        let kv = MemoryKv::new();
        add(&kv, 0..7);
        remove(&kv, &[0, 3, 6, 9]);
        assert_eq!(listed(&kv, 0), [1, 2, 4, 5]);
        remove(&kv, &[2]);
        assert_eq!(listed(&kv, 2), [4, 5]);
        remove(&kv, &[5, 1, 4]);
        assert_eq!(kv.len(), 0);
    }

    #[test]
    fn a_value_that_is_met_again_under_another_key_gives_nothing_twice() {
        let kv = MemoryKv::new();
        // As a reader sees it that came by before the first entry was removed, and again after it.
        add(&kv, 0..4);
        add(&kv, 1..4);
        add(&kv, 4..8);
        assert_eq!(listed(&kv, 0), (0..8).collect::<Vec<_>>());
        assert_eq!(listed(&kv, 2), (2..8).collect::<Vec<_>>());
    }

    #[test]
    fn entries_of_earlier_versions_are_read_and_removed() {
        let kv = MemoryKv::new();
        let mut batch = Batch::new();
        for n in [1, 2] {
            let step = step(n);
            let key = place_key(PREFIX, step.place());
            batch.put(key, step.hash.as_bytes().to_vec());
        }
        kv.write(batch).unwrap();
        add(&kv, 3..5);
        assert_eq!(listed(&kv, 0), [1, 2, 3, 4]);
        remove(&kv, &[1]);
        assert_eq!(listed(&kv, 0), [2, 3, 4]);
        let mut batch = Batch::new();
        batch.put(place_key(PREFIX, (1, 1)), vec![0; 79]);
        kv.write(batch).unwrap();
        assert!(steps(&kv, PREFIX.to_vec(), (0, 0)).next().unwrap().is_err());
    }
}
