//! A store in memory that can lose what a power failure would lose.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;

use crate::{Batch, Direction, Entry, KeyRange, Kv, KvError, Scan, Write};

/// A store in memory, for tests, tools and simulation.
///
/// It keeps, for every batch since the last [`barrier`](Kv::barrier), what is needed to undo it, so that
/// [`crash`](MemoryKv::crash) can take batches back. This grows until the next barrier: call it now and then.
#[derive(Debug, Default)]
pub struct MemoryKv {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// One element per batch since the last barrier, oldest first: what to write to undo it, last write first.
    undo: Vec<Vec<Write>>,
    /// What the next write fails with.
    write_failure: Option<String>,
    /// What the next barrier fails with.
    barrier_failure: Option<String>,
    /// The first failure; as on disk, nothing works after it until the store is opened again, here by a crash.
    poison: Option<String>,
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Power fails: every batch since the last barrier is lost. The store can be used again at once, as if it had been
    /// opened anew; a poisoned one is healthy again.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// Power fails, and some batches reached the disk without a barrier: keeps the first batches since the barrier,
    /// how many is drawn from `seed`, and loses the rest. Returns how many were kept. Writes never survive out of order.
    pub fn crash_by_seed(&self, seed: u64) -> usize {
        let pending = self.inner.lock().undo.len();
        let draw = splitmix64(seed) % (pending as u64 + 1);
        self.crash_keeping(usize::try_from(draw).unwrap_or(pending))
    }

    /// Number of batches since the last barrier.
    pub fn pending_batches(&self) -> usize {
        self.inner.lock().undo.len()
    }

    /// The next write fails with this reason, changes nothing and poisons the store.
    pub fn fail_next_write(&self, reason: impl Into<String>) {
        self.inner.lock().write_failure = Some(reason.into());
    }

    /// The next barrier fails with this reason and poisons the store. What it should have covered may or may not survive a
    /// crash.
    pub fn fail_next_barrier(&self, reason: impl Into<String>) {
        self.inner.lock().barrier_failure = Some(reason.into());
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry, in key order; to compare two stores.
    pub fn entries(&self) -> Vec<Entry> {
        let inner = self.inner.lock();
        inner
            .entries
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn crash_keeping(&self, kept: usize) -> usize {
        let mut inner = self.inner.lock();
        let kept = kept.min(inner.undo.len());
        let lost = inner.undo.split_off(kept);
        for batch in lost.into_iter().rev() {
            for write in batch {
                inner.set(write);
            }
        }
        inner.undo.clear();
        inner.write_failure = None;
        inner.barrier_failure = None;
        inner.poison = None;
        kept
    }
}

impl Inner {
    /// Applies a write and returns the write that undoes it.
    fn set(&mut self, write: Write) -> Write {
        let Write { key, value } = write;
        let old = match value {
            Some(value) => self.entries.insert(key.clone(), value),
            None => self.entries.remove(&key),
        };
        Write { key, value: old }
    }

    fn check_poison(&self) -> Result<(), KvError> {
        match &self.poison {
            Some(first) => Err(KvError::Poisoned {
                first: first.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Fails and poisons the store if a failure was ordered.
    fn fail_if(&mut self, ordered: Option<String>, operation: &'static str) -> Result<(), KvError> {
        let Some(reason) = ordered else { return Ok(()) };
        let error = KvError::Failed { operation, reason };
        self.poison = Some(error.to_string());
        Err(error)
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let inner = self.inner.lock();
        inner.check_poison()?;
        Ok(inner.entries.get(key).cloned())
    }

    fn scan(&self, range: KeyRange, direction: Direction) -> Scan<'_> {
        Box::new(MemoryScan {
            store: self,
            range,
            direction,
            last: None,
            done: false,
        })
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut inner = self.inner.lock();
        inner.check_poison()?;
        batch.check_sizes()?;
        let ordered = inner.write_failure.take();
        inner.fail_if(ordered, "write")?;
        let mut undo: Vec<Write> = batch
            .into_writes()
            .into_iter()
            .map(|write| inner.set(write))
            .collect();
        undo.reverse();
        inner.undo.push(undo);
        Ok(())
    }

    fn write_staged(&self, stages: Vec<Batch>) -> Result<(), KvError> {
        {
            let mut inner = self.inner.lock();
            inner.check_poison()?;
            stages.iter().try_for_each(Batch::check_sizes)?;
            let ordered = inner.write_failure.take();
            inner.fail_if(ordered, "write")?;
        }
        // Piece by piece, without the lock in between, so that readers see what they could see on disk.
        let mut undo = Vec::new();
        for mut writes in stages.into_iter().map(Batch::into_writes) {
            writes.sort_by(|a, b| a.key.cmp(&b.key));
            for write in writes {
                let old = self.inner.lock().set(write);
                undo.push(old);
            }
        }
        undo.reverse();
        self.inner.lock().undo.push(undo);
        self.barrier()
    }

    fn barrier(&self) -> Result<(), KvError> {
        let mut inner = self.inner.lock();
        inner.check_poison()?;
        let ordered = inner.barrier_failure.take();
        inner.fail_if(ordered, "sync")?;
        inner.undo.clear();
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, KvError> {
        let inner = self.inner.lock();
        Ok(inner
            .entries
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum())
    }
}

/// Walks by looking up the neighbour of the last key, so that no lock is held between steps.
struct MemoryScan<'a> {
    store: &'a MemoryKv,
    range: KeyRange,
    direction: Direction,
    last: Option<Vec<u8>>,
    done: bool,
}

impl Iterator for MemoryScan<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let inner = self.store.inner.lock();
        if let Err(error) = inner.check_poison() {
            self.done = true;
            return Some(Err(error));
        }
        let mut lower = Bound::Included(self.range.start());
        let mut upper = match self.range.end() {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        match (&self.last, self.direction) {
            (Some(last), Direction::Ascending) => lower = Bound::Excluded(last.as_slice()),
            (Some(last), Direction::Descending) => upper = Bound::Excluded(last.as_slice()),
            (None, _) => {}
        }
        // `BTreeMap::range` refuses an empty range between two excluded ends.
        if is_empty_range(lower, upper) {
            self.done = true;
            return None;
        }
        let mut entries = inner.entries.range::<[u8], _>((lower, upper));
        let found = match self.direction {
            Direction::Ascending => entries.next(),
            Direction::Descending => entries.next_back(),
        };
        let Some((key, value)) = found.map(|(key, value)| (key.clone(), value.clone())) else {
            self.done = true;
            return None;
        };
        self.last = Some(key.clone());
        Some(Ok((key, value)))
    }
}

fn is_empty_range(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> bool {
    match (lower, upper) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
    }
}

/// The output function of the SplitMix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
/// 2014): enough to spread consecutive seeds.
fn splitmix64(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
