//! Handing one payload to members until enough of them acknowledged it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::Address;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quorate_enclave::{AckPolicy, Envelope, PrivacyFlag, PublicKey};
use quorate_privacy::Acknowledgements;
use tokio::time::Instant;

use crate::package::Package;
use crate::recipients::{Recipient, Recipients};
use crate::wire::Taken;
use crate::{Distribution, Exchange, ExchangeError, Unacknowledged, metrics};

/// First pause before a member is asked again, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the others are heard out after a conflict.
const HEAR_OUT: Duration = Duration::from_millis(500);

/// A member with what it is to get.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) to: Recipient,
    pub(crate) envelope: Bytes,
    pub(crate) terms: Bytes,
}

/// What came of handing a parcel over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged: it lies on the member's disk.
    Stored,
    /// Another payload is to change this contract first.
    Conflict(Address),
    /// It will not be taken, now or later.
    Refused(String),
    /// Not taken yet.
    Failed(String),
}

/// Whose acknowledgements a sender needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Needed {
    All,
    Named(BTreeSet<u64>),
    Any(usize),
}

/// How far a sender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Enough,
    Waiting,
    Never,
}

impl Needed {
    /// What these terms mean for these recipients.
    pub(crate) fn of(how: &Distribution, recipients: &Recipients) -> Result<Self, ExchangeError> {
        let members = &recipients.members;
        let bad = |allowed| ExchangeError::Malformed {
            field: "acknowledgements",
            allowed,
        };
        Ok(match effective(how) {
            Acknowledgements::All => Self::All,
            Acknowledgements::Mandatory => {
                let with = |to: &&Recipient| to.keys.iter().any(|k| how.mandatory.contains(k));
                Self::Named(members.values().filter(with).map(|to| to.raft_id).collect())
            }
            Acknowledgements::KOfN(k) => {
                let k = usize::from(k);
                if k > members.len() {
                    return Err(bad("at most as many as there are other nodes"));
                }
                Self::Any(k)
            }
            Acknowledgements::Nodes(nodes) => {
                let mut named = BTreeSet::new();
                for node in &nodes {
                    let member = members.values().find(|to| to.node == *node);
                    named.insert(member.ok_or_else(|| bad("nodes of parties"))?.raft_id);
                }
                Self::Named(named)
            }
        })
    }

    fn counts(&self, raft_id: u64) -> bool {
        match self {
            Self::All | Self::Any(_) => true,
            Self::Named(named) => named.contains(&raft_id),
        }
    }

    /// How far it is when these outcomes are known, of this many members.
    pub(crate) fn verdict(&self, outcomes: &BTreeMap<u64, Outcome>, members: usize) -> Verdict {
        let of = |stored: bool| {
            let each = outcomes.iter().filter(|(id, _)| self.counts(**id));
            each.filter(|(_, outcome)| match outcome {
                Outcome::Stored => stored,
                Outcome::Refused(_) | Outcome::Conflict(_) => !stored,
                Outcome::Failed(_) => false,
            })
            .count()
        };
        let (stored, refused) = (of(true), of(false));
        let (needed, there_are) = match self {
            Self::All => (members, members),
            Self::Named(named) => (named.len(), named.len()),
            Self::Any(k) => (*k, members),
        };
        if stored >= needed {
            Verdict::Enough
        } else if there_are.saturating_sub(refused) < needed {
            Verdict::Never
        } else {
            Verdict::Waiting
        }
    }

    /// As the outbox remembers it.
    pub(crate) fn policy(&self, parcels: &BTreeMap<u64, Parcel>) -> AckPolicy {
        match self {
            Self::All => AckPolicy::All,
            Self::Any(k) => AckPolicy::KOfN(u16::try_from(*k).unwrap_or(u16::MAX)),
            Self::Named(named) => {
                let nodes = named.iter().filter_map(|id| parcels.get(id));
                AckPolicy::Named(nodes.map(|parcel| parcel.to.node).collect())
            }
        }
    }
}

/// What is waited for in fact. Without tags a party could not tell that a payload is missing, and state is validated by all parties or
/// by none: everyone must have the payload then.
pub(crate) fn effective(how: &Distribution) -> Acknowledgements {
    if how.tags && how.flag != PrivacyFlag::StateValidation {
        how.acknowledgements.clone()
    } else {
        Acknowledgements::All
    }
}

/// The envelope with the boxes of these keys and no others; `None` if it has none of them.
pub(crate) fn copy_for(envelope: &Envelope, keys: &[PublicKey]) -> Option<Envelope> {
    let mut copies = keys.iter().filter_map(|key| envelope.copy_for(*key));
    let mut first = copies.next()?;
    for copy in copies {
        first.merge(&copy)?;
    }
    Some(first)
}

/// What is handed to the holder of these keys.
pub(crate) fn parcel(package: &Package, to: Recipient) -> Option<Parcel> {
    let copy = copy_for(&package.envelope, &to.keys)?;
    Some(Parcel {
        to,
        envelope: copy.encode().into(),
        terms: package.terms.encode().into(),
    })
}

impl Exchange {
    /// Asks a member once to take a payload.
    pub(crate) async fn hand_over(&self, parcel: &Parcel, timeout: Duration) -> (Outcome, bool) {
        let payload = (parcel.envelope.clone(), parcel.terms.clone());
        match self.courier(parcel.to.raft_id, payload, timeout).await {
            Ok(Taken::Stored) => {
                metrics::delivered();
                (Outcome::Stored, false)
            }
            Ok(Taken::Conflict { contract }) => {
                metrics::conflict(metrics::Side::There);
                (Outcome::Conflict(contract), false)
            }
            Ok(Taken::Refused { code, text }) if code.is_retryable() => {
                (Outcome::Failed(text), true)
            }
            Ok(Taken::Refused { text, .. }) => {
                metrics::refused(metrics::Side::There);
                (Outcome::Refused(text), false)
            }
            Err(e) if e.is_retryable() => (Outcome::Failed(e.to_string()), true),
            Err(e) => (Outcome::Refused(e.to_string()), false),
        }
    }

    /// Asks a member again and again, until it decides or the time is over.
    pub(crate) async fn deliver(&self, parcel: &Parcel, deadline: Instant) -> Outcome {
        let mut pause = PAUSE_FIRST;
        let mut last = Outcome::Failed("it did not answer".to_owned());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return last;
            }
            let asked = tokio::time::timeout(left, self.hand_over(parcel, left)).await;
            let Ok((outcome, again)) = asked else {
                return last;
            };
            if !again {
                return outcome;
            }
            last = outcome;
            tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Hands parcels to their members side by side until enough acknowledged, enough never will, one is in conflict, or the time is
    /// over. `outcomes` has what is known by then; the members that it lacks may get their parcel yet.
    pub(crate) async fn deliver_to(
        &self,
        parcels: impl Iterator<Item = &Parcel>,
        all: usize,
        needed: &Needed,
        deadline: Instant,
        outcomes: &mut BTreeMap<u64, Outcome>,
    ) {
        let mut under_way: FuturesUnordered<_> = parcels
            .map(|parcel| async move { (parcel.to.raft_id, self.deliver(parcel, deadline).await) })
            .collect();
        while needed.verdict(outcomes, all) == Verdict::Waiting {
            let Some((raft_id, outcome)) = under_way.next().await else {
                return;
            };
            let conflict = matches!(outcome, Outcome::Conflict(_));
            outcomes.insert(raft_id, outcome);
            if conflict {
                break;
            }
        }
        // Who took a payload that is given up because of a conflict is told so, after it took it.
        let given_up = outcomes.values().any(|o| matches!(o, Outcome::Conflict(_)));
        let until = deadline.min(Instant::now() + HEAR_OUT);
        while given_up
            && let Ok(Some((raft_id, outcome))) =
                tokio::time::timeout_at(until, under_way.next()).await
        {
            outcomes.insert(raft_id, outcome);
        }
    }
}

/// Members without an acknowledgement that counts, and what is known of each.
pub(crate) fn unacknowledged(
    parcels: &BTreeMap<u64, Parcel>,
    outcomes: &BTreeMap<u64, Outcome>,
    counts: impl Fn(u64, Option<&Outcome>) -> bool,
) -> Vec<Unacknowledged> {
    let without = parcels.values().filter_map(|parcel| {
        let raft_id = parcel.to.raft_id;
        let outcome = outcomes.get(&raft_id);
        let reason = match outcome {
            Some(Outcome::Stored) => return None,
            Some(Outcome::Refused(text) | Outcome::Failed(text)) => text.clone(),
            Some(Outcome::Conflict(contract)) => format!("conflict over {contract}"),
            None => "it has not answered yet".to_owned(),
        };
        counts(raft_id, outcome).then(|| Unacknowledged {
            raft_id,
            node: parcel.to.node,
            organisation: parcel.to.organisation.clone(),
            reason,
        })
    });
    without.collect()
}

impl Needed {
    /// Those whose refusal makes that it never will be enough.
    pub(crate) fn refusing(
        &self,
        parcels: &BTreeMap<u64, Parcel>,
        outcomes: &BTreeMap<u64, Outcome>,
    ) -> Vec<Unacknowledged> {
        unacknowledged(parcels, outcomes, |id, outcome| {
            self.counts(id) && matches!(outcome, Some(Outcome::Refused(_)))
        })
    }

    /// Those whose acknowledgement is lacking.
    pub(crate) fn lacking(
        &self,
        parcels: &BTreeMap<u64, Parcel>,
        outcomes: &BTreeMap<u64, Outcome>,
    ) -> Vec<Unacknowledged> {
        unacknowledged(parcels, outcomes, |id, _| self.counts(id))
    }
}
