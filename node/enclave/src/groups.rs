//! Privacy groups: a name for a set of parties. Every node keeps its own list; the id is made from chain, name and members, so that
//! all of them have the same one without asking each other.
//!
//! ```text
//! id = SHA3-256( "quorate/enclave/group/1" | chain id, u64 BE | length of the name, u16 BE | name | count, u16 BE | members, rising )
//! ```
//! Keys begin with `eg/`:
//!
//! ```text
//! g | id (32)             → created at (u64) | payloads live for, ms (u64), 0 for ever | length of the name (1) | name | description
//! m | id | member (32)    → nothing
//! k | member | id         → nothing
//! n | name | 0 | id       → nothing
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use quorate_kv::{Batch, Direction, KeyRange, Kv, KvError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha3::{Digest as _, Sha3_256};

use crate::envelope::PARTIES_MAX;
use crate::{KeyTextError, PublicKey};

const PREFIX: &[u8] = b"eg/";
/// Longest name in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest description in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Most groups of one node.
const GROUPS_MAX: usize = 100_000;

/// Names a privacy group: 32 bytes, as text 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 32]);

impl GroupId {
    /// Takes the 32 bytes of an id.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the group with this name and these members on this chain.
    pub fn of(chain_id: u64, name: &str, members: &BTreeSet<PublicKey>) -> Self {
        let mut hash = Sha3_256::new();
        hash.update(b"quorate/enclave/group/1");
        hash.update(chain_id.to_be_bytes());
        hash.update(u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(name.as_bytes());
        hash.update(
            u16::try_from(members.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        for member in members {
            hash.update(member.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({self})")
    }
}

impl FromStr for GroupId {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        // The same text form as a key's.
        let bytes = text.parse::<PublicKey>().map_err(|_| KeyTextError {
            field: "privacy group id",
            bytes: 32,
        })?;
        Ok(Self(*bytes.as_bytes()))
    }
}

impl Serialize for GroupId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GroupId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A group that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its name: 1 to 64 bytes of text without control characters.
    pub name: String,
    /// What it is for; at most 1024 bytes.
    pub description: String,
    /// Who belongs to it: 1 to 256 keys.
    pub members: BTreeSet<PublicKey>,
    /// After how many milliseconds its payloads are to be erased; `None`: never. At least 1.
    pub payloads_live_ms: Option<u64>,
}

/// A privacy group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivacyGroup {
    /// Made from chain, name and members.
    pub id: GroupId,
    /// Its name. Several groups may have the same.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Who belongs to it.
    pub members: BTreeSet<PublicKey>,
    /// When this node made or learned it, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// After how many milliseconds its payloads are to be erased; `None`: never.
    pub payloads_live_ms: Option<u64>,
}

/// Why a group could not be made or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A value cannot be used.
    #[error("{field} of a privacy group must be {allowed}")]
    Malformed {
        /// Which.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// There is no such group.
    #[error("there is no privacy group {name:?}")]
    Unknown {
        /// Its name or id.
        name: String,
    },
    /// Several groups have this name: use the id.
    #[error("{count} privacy groups are named {name:?}; name one by its id")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// There are too many groups.
    #[error("there are {max} privacy groups, which is the limit")]
    Full {
        /// The limit.
        max: usize,
    },
    /// An entry cannot be read.
    #[error("the list of privacy groups is damaged")]
    Damaged,
    /// The key-value store failed.
    #[error("privacy groups: {0}")]
    Kv(#[from] KvError),
}

/// This node's list of privacy groups.
#[derive(Debug)]
pub struct PrivacyGroups {
    kv: Arc<dyn Kv>,
    chain_id: u64,
    /// Number of groups; held while it changes.
    count: Mutex<usize>,
}

impl PrivacyGroups {
    /// Opens the list that lies in `kv` under keys that begin with `eg/`.
    ///
    /// # Errors
    /// [`GroupError::Kv`].
    pub fn open(kv: Arc<dyn Kv>, chain_id: u64) -> Result<Self, GroupError> {
        let mut count = 0;
        for entry in kv.scan(KeyRange::prefix(key(b'g', &[])), Direction::Ascending) {
            entry?;
            count += 1;
        }
        Ok(Self {
            kv,
            chain_id,
            count: Mutex::new(count),
        })
    }

    /// Makes a group durably. If there is one of this name with these members, that one is returned as it is.
    ///
    /// # Errors
    /// [`GroupError::Malformed`], [`GroupError::Full`], [`GroupError::Kv`].
    pub fn create(&self, new: NewGroup, now_ms: u64) -> Result<PrivacyGroup, GroupError> {
        check(&new)?;
        let mut count = self.count.lock();
        let id = GroupId::of(self.chain_id, &new.name, &new.members);
        if let Some(group) = self.get(&id)? {
            return Ok(group);
        }
        if *count >= GROUPS_MAX {
            return Err(GroupError::Full { max: GROUPS_MAX });
        }
        let group = PrivacyGroup {
            id,
            name: new.name,
            description: new.description,
            members: new.members,
            created_at_ms: now_ms,
            payloads_live_ms: new.payloads_live_ms,
        };
        let mut value = group.created_at_ms.to_be_bytes().to_vec();
        value.extend_from_slice(&group.payloads_live_ms.unwrap_or(0).to_be_bytes());
        value.push(u8::try_from(group.name.len()).unwrap_or(0));
        value.extend_from_slice(group.name.as_bytes());
        value.extend_from_slice(group.description.as_bytes());
        let mut batch = Batch::new();
        batch.put(key(b'g', &[id.as_bytes()]), value);
        for key in reverse_keys(&group) {
            batch.put(key, Vec::new());
        }
        self.kv.write(batch)?;
        *count += 1;
        self.kv.barrier()?;
        Ok(group)
    }

    /// A group by its id.
    ///
    /// # Errors
    /// [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn get(&self, id: &GroupId) -> Result<Option<PrivacyGroup>, GroupError> {
        let Some(value) = self.kv.get(&key(b'g', &[id.as_bytes()]))? else {
            return Ok(None);
        };
        let prefix = key(b'm', &[id.as_bytes()]);
        let mut members = BTreeSet::new();
        let range = KeyRange::prefix(prefix.clone());
        for entry in self.kv.scan(range, Direction::Ascending) {
            let (found, _) = entry?;
            let member = found.get(prefix.len()..).unwrap_or_default().try_into();
            members.insert(PublicKey::from_bytes(
                member.map_err(|_| GroupError::Damaged)?,
            ));
        }
        decode(*id, &value, members)
            .ok_or(GroupError::Damaged)
            .map(Some)
    }

    /// Groups by rising id, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn list(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, GroupError> {
        let prefix = key(b'g', &[]);
        let start = after.map_or(prefix.clone(), |id| key(b'g', &[id.as_bytes(), &[0]]));
        self.collect(KeyRange::prefix_from(&prefix, start), prefix.len(), limit)
    }

    /// Groups with exactly these members, at most `limit`.
    ///
    /// # Errors
    /// [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn find(
        &self,
        members: &BTreeSet<PublicKey>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, GroupError> {
        let Some(first) = members.first() else {
            return Ok(Vec::new());
        };
        let prefix = key(b'k', &[first.as_bytes()]);
        let range = KeyRange::prefix(prefix.clone());
        let mut found = self.collect(range, prefix.len(), GROUPS_MAX)?;
        found.retain(|group| group.members == *members);
        found.truncate(limit);
        Ok(found)
    }

    /// Groups that this key belongs to, by rising id, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn of_member(
        &self,
        member: &PublicKey,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, GroupError> {
        let prefix = key(b'k', &[member.as_bytes()]);
        let start = after.map_or(prefix.clone(), |id| {
            key(b'k', &[member.as_bytes(), id.as_bytes(), &[0]])
        });
        self.collect(KeyRange::prefix_from(&prefix, start), prefix.len(), limit)
    }

    /// The group that a user means by this id or name.
    ///
    /// # Errors
    /// [`GroupError::Unknown`], [`GroupError::Ambiguous`], [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn resolve(&self, name_or_id: &str) -> Result<PrivacyGroup, GroupError> {
        if let Ok(id) = name_or_id.parse::<GroupId>()
            && let Some(group) = self.get(&id)?
        {
            return Ok(group);
        }
        let unknown = || GroupError::Unknown {
            name: name_or_id.chars().take(NAME_BYTES_MAX).collect(),
        };
        if !is_name(name_or_id) {
            return Err(unknown());
        }
        let prefix = key(b'n', &[name_or_id.as_bytes(), &[0]]);
        let range = KeyRange::prefix(prefix.clone());
        let mut found = self.collect(range, prefix.len(), GROUPS_MAX)?;
        let count = found.len();
        match found.pop() {
            Some(group) if count == 1 => Ok(group),
            Some(group) => Err(GroupError::Ambiguous {
                name: group.name,
                count,
            }),
            None => Err(unknown()),
        }
    }

    /// Deletes a group durably; its payloads are the caller's business. Returns what it was.
    ///
    /// # Errors
    /// [`GroupError::Kv`], [`GroupError::Damaged`].
    pub fn delete(&self, id: &GroupId) -> Result<Option<PrivacyGroup>, GroupError> {
        let mut count = self.count.lock();
        let Some(group) = self.get(id)? else {
            return Ok(None);
        };
        let mut batch = Batch::new();
        batch.delete(key(b'g', &[id.as_bytes()]));
        for key in reverse_keys(&group) {
            batch.delete(key);
        }
        self.kv.write(batch)?;
        *count = count.saturating_sub(1);
        self.kv.barrier()?;
        Ok(Some(group))
    }

    /// The groups whose ids stand behind the first `skip` bytes of the keys in a range.
    fn collect(
        &self,
        range: KeyRange,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, GroupError> {
        let mut groups = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending).take(limit) {
            let (found, _) = entry?;
            let id = found.get(skip..).unwrap_or_default().try_into();
            let id = GroupId(id.map_err(|_| GroupError::Damaged)?);
            // Deleted between the two looks: passed over.
            groups.extend(self.get(&id)?);
        }
        Ok(groups)
    }
}

/// The keys by which a group is found, all without values.
fn reverse_keys(group: &PrivacyGroup) -> Vec<Vec<u8>> {
    let id = group.id.as_bytes();
    let mut keys = vec![key(b'n', &[group.name.as_bytes(), &[0], id])];
    for member in &group.members {
        keys.push(key(b'm', &[id, member.as_bytes()]));
        keys.push(key(b'k', &[member.as_bytes(), id]));
    }
    keys
}

fn decode(id: GroupId, value: &[u8], members: BTreeSet<PublicKey>) -> Option<PrivacyGroup> {
    let (created_at, rest) = value.split_first_chunk::<8>()?;
    let (live, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (name, description) = rest.split_at_checked(usize::from(*length))?;
    Some(PrivacyGroup {
        id,
        name: String::from_utf8(name.to_vec()).ok()?,
        description: String::from_utf8(description.to_vec()).ok()?,
        members,
        created_at_ms: u64::from_be_bytes(*created_at),
        payloads_live_ms: Some(u64::from_be_bytes(*live)).filter(|ms| *ms > 0),
    })
}

fn check(new: &NewGroup) -> Result<(), GroupError> {
    let bad = |field, allowed| Err(GroupError::Malformed { field, allowed });
    if !is_name(&new.name) {
        return bad("name", "1 to 64 bytes without control characters");
    }
    if new.description.len() > DESCRIPTION_BYTES_MAX {
        return bad("description", "at most 1024 bytes");
    }
    if new.members.is_empty() || new.members.len() > PARTIES_MAX {
        return bad("members", "1 to 256 keys");
    }
    if new.members.iter().any(PublicKey::is_weak) {
        return bad("members", "keys, none of them a point of small order");
    }
    if new.payloads_live_ms == Some(0) {
        return bad("payloads_live_ms", "1 or more, or absent");
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

#[cfg(test)]
mod tests;
