//! Terms of entries that are gone from the log.
//!
//! A leader says of each member which entry it acknowledged last, by index and term, so that the member notices if its
//! disk holds another one there (`core/old_disk.rs`). That entry may be cut from the leader's log when the member lags. Terms
//! come in long runs, so a run is all that is kept, in memory: whoever comes to lead hears acknowledgements only of entries
//! that it held when its process began, or later.

use std::collections::VecDeque;

/// Runs kept; beyond, the oldest are forgotten. Each is one leadership whose entries were cut since the process began. A member that
/// lags behind more of them is told that the term is not known, and has the log sent again.
const RUNS_MAX: usize = 1024;

/// Entries of one term, without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    term: u64,
}

/// Terms by index, in ascending order.
#[derive(Clone, Debug, Default)]
pub(super) struct CutTerms {
    runs: VecDeque<Run>,
}

impl CutTerms {
    /// The entry at `index` is being cut. Indexes ascend from call to call, or all before is forgotten.
    pub(super) fn note(&mut self, index: u64, term: u64) {
        if self.runs.back().is_some_and(|run| run.last >= index) {
            self.runs.clear();
        }
        if let Some(run) = self.runs.back_mut()
            && (run.term, run.last + 1) == (term, index)
        {
            run.last = index;
            return;
        }
        if self.runs.len() >= RUNS_MAX {
            self.runs.pop_front();
        }
        self.runs.push_back(Run {
            first: index,
            last: index,
            term,
        });
    }

    /// What lies before the log now is not what was cut from it.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        let at = self.runs.partition_point(|run| run.last < index);
        let run = self.runs.get(at)?;
        (run.first <= index).then_some(run.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_known_by_runs_and_gaps_are_not() {
        let mut terms = CutTerms::default();
        for (index, term) in [(3, 1), (4, 1), (5, 2), (6, 4), (9, 4), (10, 4)] {
            terms.note(index, term);
        }
        let known: Vec<_> = (2..=11).map(|index| terms.term(index)).collect();
        let expected = [
            None,
            Some(1),
            Some(1),
            Some(2),
            Some(4),
            None,
            None,
            Some(4),
            Some(4),
            None,
        ];
        assert_eq!(known, expected);
        assert_eq!(terms.runs.len(), 4);
        terms.clear();
        assert_eq!(terms.term(4), None);
    }

    #[test]
    fn only_so_many_runs_are_kept() {
        let mut terms = CutTerms::default();
        let ends = RUNS_MAX as u64 + 10;
        for index in 1..=ends {
            terms.note(index, index);
        }
        assert_eq!(terms.runs.len(), RUNS_MAX);
        assert_eq!(terms.term(10), None);
        assert_eq!(terms.term(11), Some(11));
        assert_eq!(terms.term(ends), Some(ends));
    }
}
