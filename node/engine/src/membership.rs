//! What the replicated member table says of a member, beyond what ordering needs to know.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};
use bytes::Bytes;
use quorate_chain::{Member, MemberRole, NodeId};
use raft_adapter::{MemberTable, RaftId};

/// Version of the encoding.
const VERSION: u8 = 1;

/// A member's entry in the replicated table; to ordering these are opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDetails {
    /// Its key.
    pub node_id: NodeId,
    /// Where its p2p port is reached: `host:port` or a multiaddress.
    pub address: String,
    /// The organisation that runs it.
    pub organisation: String,
}

/// Why a table entry cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("details of member {raft_id}: {reason}")]
pub struct DetailsError {
    /// Whose.
    pub raft_id: u64,
    /// What is wrong.
    pub reason: String,
}

/// RLP list: version, key (33 bytes), address, organisation.
#[derive(RlpEncodable, RlpDecodable)]
struct Encoded {
    version: u8,
    node_id: Bytes,
    address: String,
    organisation: String,
}

impl MemberDetails {
    /// What genesis says of a member.
    pub fn of(member: &Member) -> Self {
        Self {
            node_id: member.node_id,
            address: member.address.clone(),
            organisation: member.organisation.clone(),
        }
    }

    /// As stored in the table.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.address.len() + self.organisation.len());
        Encoded {
            version: VERSION,
            node_id: Bytes::copy_from_slice(self.node_id.as_bytes()),
            address: self.address.clone(),
            organisation: self.organisation.clone(),
        }
        .encode(&mut out);
        out.into()
    }

    /// Reads a table entry.
    ///
    /// # Errors
    /// [`DetailsError`]: not what [`Self::encode`] writes.
    pub fn decode(raft_id: RaftId, bytes: &[u8]) -> Result<Self, DetailsError> {
        let fault = |reason: String| DetailsError {
            raft_id: raft_id.0,
            reason,
        };
        let mut rest = bytes;
        let read = Encoded::decode(&mut rest).map_err(|e| fault(e.to_string()))?;
        if read.version != VERSION || !rest.is_empty() {
            return Err(fault(format!(
                "version {} with {} bytes left over; version {VERSION} is known here",
                read.version,
                rest.len()
            )));
        }
        let key: [u8; 33] = read
            .node_id
            .as_ref()
            .try_into()
            .map_err(|_| fault(format!("the key has {} bytes, not 33", read.node_id.len())))?;
        Ok(Self {
            node_id: NodeId::from_bytes(key).map_err(|e| fault(e.to_string()))?,
            address: read.address,
            organisation: read.organisation,
        })
    }

    fn into_member(self, raft_id: RaftId, role: MemberRole) -> Member {
        Member {
            raft_id: raft_id.0,
            node_id: self.node_id,
            address: self.address,
            organisation: self.organisation,
            role,
        }
    }
}

/// The members of a table by raft id, those included that leave with a joint configuration (as learners, which
/// they are from then on to everyone but ordering).
///
/// # Errors
/// [`DetailsError`] for the first entry that cannot be read.
pub fn members_of(table: &MemberTable) -> Result<Vec<Member>, DetailsError> {
    let member = |(id, member): (&RaftId, &raft_adapter::TableMember)| {
        let role = match member.role {
            raft_adapter::MemberRole::Voter => MemberRole::Voter,
            raft_adapter::MemberRole::Learner | raft_adapter::MemberRole::Removed => {
                MemberRole::Learner
            }
        };
        Ok(MemberDetails::decode(*id, &member.details)?.into_member(*id, role))
    };
    table.members.iter().map(member).collect()
}

/// Members that were removed, by raft id.
///
/// # Errors
/// [`DetailsError`] for the first entry that cannot be read.
pub fn removed_of(table: &MemberTable) -> Result<Vec<(u64, MemberDetails)>, DetailsError> {
    let removed = table.removed.iter();
    removed
        .map(|(id, details)| Ok((id.0, MemberDetails::decode(*id, details)?)))
        .collect()
}

/// Who may have sealed a block of this chain: everyone who is or ever was a member. Which of them led in a block's
/// term is ordering's knowledge; a member that replays old blocks with a newer table must judge them as the others did.
pub(crate) fn sealers_of(table: &MemberTable) -> Result<BTreeSet<Address>, DetailsError> {
    let present = members_of(table)?.into_iter().map(|m| m.node_id.address());
    let former = removed_of(table)?
        .into_iter()
        .map(|(_, details)| details.node_id.address());
    Ok(present.chain(former).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> MemberDetails {
        let key = secp256k1::SecretKey::from_byte_array([7; 32]).unwrap();
        MemberDetails {
            node_id: NodeId::of(&key.public_key(secp256k1::SECP256K1)),
            address: "bank-a.example:30303".into(),
            organisation: "Bank A".into(),
        }
    }

    #[test]
    fn details_are_read_as_they_were_written() {
        let bytes = details().encode();
        assert_eq!(MemberDetails::decode(RaftId(3), &bytes).unwrap(), details());
    }

    #[test]
    fn anything_else_is_refused_with_the_members_id() {
        let whole = details().encode();
        for cut in 0..whole.len() {
            let error = MemberDetails::decode(RaftId(3), &whole[..cut]).unwrap_err();
            assert_eq!(error.raft_id, 3);
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(MemberDetails::decode(RaftId(3), &longer).is_err());
    }
}
