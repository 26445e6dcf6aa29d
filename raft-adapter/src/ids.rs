//! Small types that keep the many `u64`s of Raft apart.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

number! {
    /// A seat in the consortium as Raft sees it. Never zero and never used again for another member: votes and
    /// acknowledgements of the old one may still be under way.
    RaftId
}
number! {
    /// A position in the log. The first entry ever is at 1; 0 means "before everything". Not a block height: elections
    /// and membership entries take an index too.
    LogIndex
}
number! {
    /// An epoch with at most one leader.
    Term
}
number! {
    /// Numbers the writes a core hands out, from 1, without gaps. Reporting one means that it and all before it are durable.
    WriteNumber
}
number! {
    /// The claim check for the outcome of one request to the core.
    Ticket
}

impl LogIndex {
    /// The index behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
