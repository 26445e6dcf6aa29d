//! What happens when.

use crate::network::Packet;

/// What may happen at some time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Tick { id: u64, epoch: u64 },
    Disk { id: u64, epoch: u64 },
    Apply { id: u64, epoch: u64 },
    Arrive(Packet),
    Client,
    Trouble,
    Operator,
    Start { id: u64 },
}

impl Event {
    /// Who has to be awake for it.
    pub(crate) fn member(&self) -> Option<u64> {
        match self {
            Self::Tick { id, .. } | Self::Disk { id, .. } | Self::Apply { id, .. } => Some(*id),
            Self::Arrive(packet) => Some(packet.to),
            Self::Client | Self::Trouble | Self::Operator | Self::Start { .. } => None,
        }
    }
}

pub(crate) struct Scheduled {
    pub(crate) at: u64,
    /// Events of one moment happen in the order in which they were planned.
    pub(crate) number: u64,
    pub(crate) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
