//! What is to be distributed, to whom, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use quorate_enclave::{GroupId, PayloadHash, PrivacyFlag, PublicKey};
use quorate_privacy::Acknowledgements;

use crate::Unacknowledged;

/// Who may read a payload, beside its sender.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parties {
    /// Keys that were named one by one.
    pub keys: BTreeSet<PublicKey>,
    /// A privacy group of this node, whose members are added. The terms name it.
    pub group: Option<GroupId>,
}

/// How a payload is to be distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Which of the enclave's keys sends; `None`: its default key. Of a stored payload: the one it was sealed with.
    pub sender: Option<PublicKey>,
    /// Who may read it, beside the sender.
    pub parties: Parties,
    /// The only account whose public transaction may carry the payload; `None`: any.
    pub from: Option<Address>,
    /// The privacy flag.
    pub flag: PrivacyFlag,
    /// Keys that take part in every transaction of the contract; with flag 2, always and only.
    pub mandatory: BTreeSet<PublicKey>,
    /// Private contracts that the transaction touches, with the payload that created each.
    pub affected: BTreeMap<Address, PayloadHash>,
    /// Root of the affected contracts after a simulation; flag 3 only.
    pub exec_root: Option<B256>,
    /// Digest of each affected contract before that simulation; flag 3 only.
    pub base: BTreeMap<Address, B256>,
    /// Which acknowledgements to wait for; the other deliveries go on in any case. Without tags, and with flag 3, it is always
    /// [`Acknowledgements::All`]: without tags a party could not tell that a payload is missing, and state is validated by all
    /// parties or by none.
    pub acknowledgements: Acknowledgements,
    /// Whether the public transaction will carry tags: true for a marker, false for Quorum's form.
    pub tags: bool,
}

impl Distribution {
    /// Flag 0, to these keys, for a marker, acknowledged by all.
    pub fn to(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self {
            sender: None,
            parties: Parties {
                keys: keys.into_iter().collect(),
                group: None,
            },
            from: None,
            flag: PrivacyFlag::Standard,
            mandatory: BTreeSet::new(),
            affected: BTreeMap::new(),
            exec_root: None,
            base: BTreeMap::new(),
            acknowledgements: Acknowledgements::All,
            tags: true,
        }
    }
}

/// A payload that is stored here and acknowledged as was asked: its transaction may be submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distributed {
    /// What the public transaction names.
    pub hash: PayloadHash,
    /// What a marker carries behind the hash: padded with random ones and shuffled. Empty if none were asked for.
    pub tags: Vec<[u8; 8]>,
    /// The key that sent it.
    pub sender: PublicKey,
    /// Everyone who may read it, the sender among them.
    pub parties: BTreeSet<PublicKey>,
    /// Members that have not acknowledged it yet. The outbox goes on.
    pub pending: Vec<Unacknowledged>,
}
