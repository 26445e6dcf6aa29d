//! From the keys that a sender names to members, their nodes and what encryption to them needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alloy_primitives::B256;
use quorate_enclave::{
    GroupError, GroupId, KeyAnnouncement, NodeKey, PrivacyFlag, PublicKey, Suite,
};
use quorate_privacy::{Acknowledgements, TERMS_PARTIES_MAX};
use sha3::{Digest as _, Sha3_256};

use crate::wire::{Answer, Request};
use crate::{Distribution, Exchange, ExchangeError, MemberKeys};

/// Fetched X-Wing keys that are kept; when there are that many, all are fetched anew.
const HYBRID_KEYS_MAX: usize = 4096;

/// A member that gets a payload, with the keys of it that are parties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub(crate) raft_id: u64,
    pub(crate) node: NodeKey,
    pub(crate) organisation: String,
    pub(crate) keys: Vec<PublicKey>,
}

/// The recipients of one payload.
#[derive(Debug, Clone)]
pub(crate) struct Recipients {
    /// What the enclave encrypts to, this node's own keys among them.
    pub(crate) announcements: Vec<KeyAnnouncement>,
    /// Members to deliver to, by raft id.
    pub(crate) members: BTreeMap<u64, Recipient>,
    /// Our own raft id, if the table has us.
    pub(crate) own_raft_id: Option<u64>,
}

impl Exchange {
    /// Finds everyone that a payload goes to.
    pub(crate) async fn recipients(&self, how: &Distribution) -> Result<Recipients, ExchangeError> {
        let mut keys = how.parties.keys.clone();
        if let Some(id) = &how.parties.group {
            keys.extend(self.group_members(id)?);
        }
        if keys.len() > TERMS_PARTIES_MAX {
            return Err(ExchangeError::Malformed {
                field: "parties",
                allowed: "at most 256 keys",
            });
        }
        check_mandatory(how)?;
        let members = self.members();
        // A key that the table does not have may be one of ours that is not announced yet.
        let unknown =
            |key: &PublicKey| Self::owner(&members, key).is_none() && !self.is_own(&members, key);
        if keys.iter().any(unknown) || self.inner.own_keys_unknown() {
            self.keys().await?;
        }
        let mut found = Recipients {
            announcements: Vec::with_capacity(keys.len()),
            members: BTreeMap::new(),
            own_raft_id: members.iter().find(|m| m.this).map(|m| m.raft_id),
        };
        for key in keys {
            match Self::owner(&members, &key).filter(|member| !member.this) {
                Some(member) => {
                    found
                        .announcements
                        .push(self.announced(member, &key).await?);
                    let entry = found.members.entry(member.raft_id);
                    let entry = entry.or_insert_with(|| Recipient {
                        raft_id: member.raft_id,
                        node: member.node,
                        organisation: member.organisation.clone(),
                        keys: Vec::new(),
                    });
                    entry.keys.push(key);
                }
                None => {
                    let own = self.inner.own_key(&key);
                    let own = own.ok_or(ExchangeError::UnknownRecipient { key })?;
                    found.announcements.push(own);
                }
            }
        }
        Ok(found)
    }

    fn group_members(&self, id: &GroupId) -> Result<BTreeSet<PublicKey>, ExchangeError> {
        let group = self.inner.groups.get(id)?;
        let unknown = || GroupError::Unknown {
            name: id.to_string(),
        };
        Ok(group.ok_or_else(unknown)?.members)
    }

    /// A member's key with what the network's suite needs beside it.
    pub(crate) async fn announced(
        &self,
        member: &MemberKeys,
        key: &PublicKey,
    ) -> Result<KeyAnnouncement, ExchangeError> {
        if self.inner.identity.suite == Suite::Nacl {
            return Ok(KeyAnnouncement::from(*key));
        }
        let listed = member.keys.iter().find(|k| k.key == *key);
        let listed = listed.ok_or(ExchangeError::UnknownRecipient { key: *key })?;
        if listed.hybrid.is_some() {
            return Ok(listed.clone());
        }
        let failed = |reason: String| ExchangeError::NoHybridKey { key: *key, reason };
        let commitment = member.hybrid_commitment(key);
        let commitment =
            commitment.ok_or_else(|| failed("its member announced none".to_owned()))?;
        let kept = self.inner.hybrid_keys.lock().get(key).cloned();
        if let Some(kept) = kept.filter(|kept| fits(kept, commitment)) {
            return Ok(kept);
        }
        let answer = self.ask_for(member.raft_id, &Request::Keys).await;
        let announced = match answer.map_err(|e| failed(e.to_string()))? {
            Answer::Keys { announced, .. } => announced,
            other => return Err(failed(format!("its member answers {}", other.name()))),
        };
        let found = announced.into_iter().find(|k| k.key == *key);
        let found = found.filter(|found| fits(found, commitment));
        let found = found
            .ok_or_else(|| failed("its member gives another one than it announced".to_owned()))?;
        let mut kept = self.inner.hybrid_keys.lock();
        if kept.len() >= HYBRID_KEYS_MAX {
            kept.clear();
        }
        kept.insert(*key, found.clone());
        Ok(found)
    }
}

/// True if the X-Wing key is the one that the table commits to.
fn fits(announcement: &KeyAnnouncement, commitment: B256) -> bool {
    announcement.hybrid.as_ref().is_some_and(|hybrid| {
        let digest: [u8; 32] = Sha3_256::digest(hybrid.as_bytes()).into();
        digest == commitment.0
    })
}

fn check_mandatory(how: &Distribution) -> Result<(), ExchangeError> {
    let bad = |field, allowed| Err(ExchangeError::Malformed { field, allowed });
    if how.mandatory.is_empty() == (how.flag == PrivacyFlag::MandatoryParties) {
        return bad("mandatory", "given with flag 2, always and only");
    }
    if how.acknowledgements == Acknowledgements::Mandatory
        && how.flag != PrivacyFlag::MandatoryParties
    {
        return bad(
            "acknowledgements",
            "those of mandatory parties with flag 2 only",
        );
    }
    Ok(())
}

impl crate::exchange::Inner {
    /// One of our enclave's keys, as far as was heard.
    fn own_key(&self, key: &PublicKey) -> Option<KeyAnnouncement> {
        let keys = Arc::clone(&self.own_keys.read());
        keys.iter().find(|k| k.key == *key).cloned()
    }

    fn own_keys_unknown(&self) -> bool {
        self.own_keys.read().is_empty()
    }
}
