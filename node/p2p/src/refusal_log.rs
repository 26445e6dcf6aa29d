//! Keeps refusals from flooding the log: the counter counts each, the log speaks once a minute per cause.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A cause is logged once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// Most causes remembered. When more come within [`QUIET`], new ones are only counted.
const CAUSES_MAX: usize = 1_024;

/// Remembers what was logged when.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    logged: BTreeMap<String, Instant>,
}

impl RefusalLog {
    /// True if `cause` should be logged now.
    pub(crate) fn due(&mut self, cause: &str, now: Instant) -> bool {
        if let Some(last) = self.logged.get_mut(cause) {
            if now.saturating_duration_since(*last) < QUIET {
                return false;
            }
            *last = now;
            return true;
        }
        if self.logged.len() >= CAUSES_MAX {
            self.logged
                .retain(|_cause, last| now.saturating_duration_since(*last) < QUIET);
            if self.logged.len() >= CAUSES_MAX {
                return false;
            }
        }
        self.logged.insert(cause.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_due_once_a_minute_and_causes_do_not_pile_up() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        assert!(log.due("a", start));
        assert!(!log.due("a", start + Duration::from_secs(59)));
        assert!(log.due("b", start + Duration::from_secs(59)));
        assert!(log.due("a", start + Duration::from_secs(60)));
        for n in 0..5_000 {
            log.due(&n.to_string(), start);
        }
        assert_eq!(log.logged.len(), CAUSES_MAX);
        assert!(!log.due("late", start + Duration::from_secs(1)));
        assert!(log.due("late", start + Duration::from_secs(121)));
    }
}
