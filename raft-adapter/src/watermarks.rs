//! The named positions of a log and their one order.

use crate::ids::LogIndex;

/// Every position that means something, on one member at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The oldest entry in the log.
    pub log_first: LogIndex,
    /// The manifest that stands for everything up to it; 0 if none.
    pub snapshot: LogIndex,
    /// Reported by the application.
    pub applied: LogIndex,
    /// Handed to the application.
    pub delivered: LogIndex,
    /// Membership changes up to here are in force.
    pub processed: LogIndex,
    /// Held by a majority.
    pub committed: LogIndex,
    /// Survives power loss on this member.
    pub persisted: LogIndex,
    /// The newest entry.
    pub log_last: LogIndex,
}

/// Two watermarks are in the wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{lower_name} {lower} must not exceed {upper_name} {upper}")]
pub struct OutOfOrder {
    /// Name of the one that should be the smaller.
    pub lower_name: &'static str,
    /// Its value.
    pub lower: LogIndex,
    /// Name of the one that should be the larger.
    pub upper_name: &'static str,
    /// Its value.
    pub upper: LogIndex,
}

impl Watermarks {
    /// Checks the order.
    ///
    /// ```text
    /// applied ≤ delivered ≤ processed ≤ committed ≤ log_last
    ///           delivered ≤ persisted ≤ log_last
    /// log_first - 1 ≤ snapshot ≤ committed
    /// log_first - 1 ≤ delivered, or a manifest is still to be delivered (snapshot > delivered)
    /// ```
    ///
    /// `applied` may lie before the log only while the application works on a manifest.
    ///
    /// # Errors
    /// Names the first pair that is out of order.
    pub fn check(&self) -> Result<(), OutOfOrder> {
        let below_log = LogIndex(self.log_first.0.saturating_sub(1));
        let pairs = [
            ("applied", self.applied, "delivered", self.delivered),
            ("delivered", self.delivered, "processed", self.processed),
            ("delivered", self.delivered, "persisted", self.persisted),
            ("processed", self.processed, "committed", self.committed),
            ("committed", self.committed, "log_last", self.log_last),
            ("persisted", self.persisted, "log_last", self.log_last),
            ("log_first - 1", below_log, "snapshot", self.snapshot),
            ("snapshot", self.snapshot, "committed", self.committed),
            (
                "log_first - 1",
                below_log,
                "delivered or the manifest to be delivered",
                self.delivered.max(self.snapshot),
            ),
        ];
        for (lower_name, lower, upper_name, upper) in pairs {
            if lower > upper {
                return Err(OutOfOrder {
                    lower_name,
                    lower,
                    upper_name,
                    upper,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_applied_before_it_was_delivered_is_found() {
        let mut marks = Watermarks {
            log_first: LogIndex(1),
            applied: LogIndex(3),
            delivered: LogIndex(3),
            processed: LogIndex(4),
            committed: LogIndex(5),
            persisted: LogIndex(6),
            log_last: LogIndex(7),
            ..Watermarks::default()
        };
        assert_eq!(marks.check(), Ok(()));
        marks.applied = LogIndex(4);
        assert_eq!(
            marks.check().unwrap_err().to_string(),
            "applied 4 must not exceed delivered 3"
        );
    }
}
