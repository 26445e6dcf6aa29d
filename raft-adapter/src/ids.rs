//! Numbers that must not be confused.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A member's id in ordering: never zero, never used twice.
    RaftId
);
number!(
    /// A position in the log. The first entry has index 1.
    LogIndex
);
number!(
    /// An epoch of leadership.
    Term
);
