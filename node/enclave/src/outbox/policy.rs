//! Which acknowledgements suffice.

use std::collections::BTreeSet;

use super::{Delivery, DeliveryState, OutboxError};
use crate::NodeKey;
use crate::envelope::PARTIES_MAX;

/// Which acknowledgements a sender waits for. The other deliveries go on in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckPolicy {
    /// Those of all recipients.
    All,
    /// Those of these recipients.
    Named(BTreeSet<NodeKey>),
    /// Those of any so many recipients.
    KOfN(u16),
}

impl AckPolicy {
    /// True if the acknowledgements that are in suffice.
    pub fn satisfied(&self, deliveries: &[Delivery]) -> bool {
        self.progress(deliveries) == AckProgress::Satisfied
    }

    /// How far it is.
    pub fn progress(&self, deliveries: &[Delivery]) -> AckProgress {
        let nodes_in = |state: DeliveryState| -> Vec<NodeKey> {
            let counts = |d: &&Delivery| match self {
                Self::All | Self::KOfN(_) => true,
                Self::Named(nodes) => nodes.contains(&d.node),
            };
            let those = deliveries.iter().filter(counts);
            let those = those.filter(|d| d.state == state);
            those.map(|d| d.node).collect()
        };
        let acknowledged = nodes_in(DeliveryState::Acknowledged).len();
        let waiting = nodes_in(DeliveryState::Pending);
        let refused = nodes_in(DeliveryState::Refused);
        let needed = match self {
            Self::All => deliveries.len(),
            Self::Named(nodes) => nodes.len(),
            Self::KOfN(k) => usize::from(*k),
        };
        let lacking = needed.saturating_sub(acknowledged);
        if lacking == 0 {
            AckProgress::Satisfied
        } else if lacking <= waiting.len() {
            AckProgress::Waiting {
                nodes: waiting,
                lacking,
            }
        } else {
            AckProgress::Impossible { refused }
        }
    }
}

/// How far a policy is from being satisfied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckProgress {
    /// It is.
    Satisfied,
    /// So many acknowledgements of these nodes are lacking.
    Waiting {
        /// Who did not answer yet.
        nodes: Vec<NodeKey>,
        /// How many of them must.
        lacking: usize,
    },
    /// It never will be: too many refused.
    Impossible {
        /// Who.
        refused: Vec<NodeKey>,
    },
}

pub(super) fn policy_value(policy: &AckPolicy, now_ms: u64) -> Vec<u8> {
    let (kind, k) = match policy {
        AckPolicy::All => (0u8, 0),
        AckPolicy::Named(_) => (1, 0),
        AckPolicy::KOfN(k) => (2, *k),
    };
    let mut value = vec![kind];
    value.extend_from_slice(&k.to_be_bytes());
    value.extend_from_slice(&now_ms.to_be_bytes());
    value
}

pub(super) fn check_policy(
    nodes: &BTreeSet<NodeKey>,
    policy: &AckPolicy,
) -> Result<(), OutboxError> {
    if nodes.len() > PARTIES_MAX {
        return Err(OutboxError::OutOfRange {
            field: "number of recipients",
            value: nodes.len() as u64,
            allowed: "at most 256",
        });
    }
    match policy {
        AckPolicy::All => Ok(()),
        AckPolicy::Named(named) => match named.iter().find(|node| !nodes.contains(*node)) {
            Some(node) => Err(OutboxError::NoRecipient { node: *node }),
            None => Ok(()),
        },
        AckPolicy::KOfN(k) if usize::from(*k) <= nodes.len() => Ok(()),
        AckPolicy::KOfN(k) => Err(OutboxError::OutOfRange {
            field: "k",
            value: u64::from(*k),
            allowed: "at most the number of recipients",
        }),
    }
}
