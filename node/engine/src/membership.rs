//! What the replicated member table says of a member, beyond what ordering needs to know.
//!
//! ```text
//! entry of a member, RLP   version 1: ( 1, node key (33), address, organisation )
//!                          version 2: ( 2, node key (33), address, organisation, enclave keys, sequence, signature (65, or none) )
//! enclave keys             list of ( X25519 key (32), SHA3-256 of its X-Wing key (32, or none) ), rising by key
//! ```
//!
//! Version 2 stands only where a member ever announced enclave keys: other entries keep the bytes that they always had. The X-Wing
//! keys themselves (1216 bytes each) are too large for a table that every member carries: their digests are in it, and whoever
//! needs such a key asks the member for it and compares.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, keccak256};
use alloy_rlp::{Decodable, Encodable as _, Header, RlpDecodable, RlpEncodable};
use bytes::Bytes;
use quorate_chain::{Member, MemberRole, NodeId, Seal};
use raft_adapter::{MemberTable, RaftId};

/// Version of an entry without enclave keys.
const VERSION_PLAIN: u8 = 1;
/// Version of an entry with enclave keys.
const VERSION_KEYS: u8 = 2;
/// What a member signs when it announces its enclave keys begins with this.
const KEYS_DOMAIN: &[u8] = b"quorate enclave keys 1";

/// Most enclave keys that one member may announce.
pub const ENCLAVE_KEYS_MAX: usize = 16;

/// A key under which a member's enclave receives private payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnclaveKey {
    /// X25519 public key; names the party.
    pub key: [u8; 32],
    /// SHA3-256 of the X-Wing public key that goes with it, if there is one.
    pub hybrid_digest: Option<[u8; 32]>,
}

/// A member's entry in the replicated table; to ordering these are opaque bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDetails {
    /// Its key.
    pub node_id: NodeId,
    /// Where its p2p port is reached: `host:port` or a multiaddress.
    pub address: String,
    /// The organisation that runs it.
    pub organisation: String,
    /// Keys of its enclave, rising, none twice, at most [`ENCLAVE_KEYS_MAX`].
    pub enclave_keys: Vec<EnclaveKey>,
    /// How many times it announced its enclave keys: no announcement replaces a newer one.
    pub keys_sequence: u64,
    /// Its signature over them: r, s, recovery id. See [`MemberDetails::keys_digest`].
    pub keys_signature: Option<[u8; 65]>,
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

/// Why enclave keys are not a member's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// More than the table takes.
    #[error("{got} enclave keys, at most {max} are allowed")]
    TooMany {
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Not in the one order that is allowed, or one twice.
    #[error("enclave keys must rise, and none may come twice")]
    Order,
    /// Keys that nobody signed.
    #[error("the enclave keys are not signed")]
    Unsigned,
    /// Somebody else signed, or something else.
    #[error("the signature over the enclave keys is not that of node {node_id}")]
    OtherSigner {
        /// The member.
        node_id: NodeId,
    },
}

/// Entry of version 1.
#[derive(RlpEncodable, RlpDecodable)]
struct Plain {
    version: u8,
    node_id: Bytes,
    address: String,
    organisation: String,
}

/// Entry of version 2.
#[derive(RlpEncodable, RlpDecodable)]
struct WithKeys {
    version: u8,
    node_id: Bytes,
    address: String,
    organisation: String,
    enclave_keys: Vec<EncodedKey>,
    sequence: u64,
    signature: Bytes,
}

#[derive(RlpEncodable, RlpDecodable)]
struct EncodedKey {
    key: [u8; 32],
    /// 32 bytes, or none.
    hybrid_digest: Bytes,
}

impl From<&EnclaveKey> for EncodedKey {
    fn from(key: &EnclaveKey) -> Self {
        let digest = key.hybrid_digest.map(|digest| digest.to_vec());
        Self {
            key: key.key,
            hybrid_digest: digest.unwrap_or_default().into(),
        }
    }
}

impl TryFrom<EncodedKey> for EnclaveKey {
    type Error = String;

    fn try_from(encoded: EncodedKey) -> Result<Self, String> {
        let digest = encoded.hybrid_digest;
        Ok(Self {
            key: encoded.key,
            hybrid_digest: optional(&digest).ok_or_else(|| {
                format!(
                    "the digest of an X-Wing key has {} bytes, not 32 or none",
                    digest.len()
                )
            })?,
        })
    }
}

/// Bytes of a fixed number, or none; `None` for any other number.
fn optional<const N: usize>(bytes: &[u8]) -> Option<Option<[u8; N]>> {
    match bytes {
        [] => Some(None),
        bytes => bytes.try_into().ok().map(Some),
    }
}

/// The version alone, of whatever follows it.
fn version_of(bytes: &[u8]) -> Result<u8, alloy_rlp::Error> {
    let mut rest = bytes;
    let mut list = Header::decode_bytes(&mut rest, true)?;
    u8::decode(&mut list)
}

/// Reads the one item that fills `bytes`.
fn whole<T: Decodable>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let read = T::decode(&mut rest).map_err(|e| e.to_string())?;
    match rest.len() {
        0 => Ok(read),
        extra => Err(format!("{extra} bytes after the end")),
    }
}

impl MemberDetails {
    /// Details of a member that has announced no enclave keys.
    pub fn new(node_id: NodeId, address: String, organisation: String) -> Self {
        Self {
            node_id,
            address,
            organisation,
            enclave_keys: Vec::new(),
            keys_sequence: 0,
            keys_signature: None,
        }
    }

    /// What genesis says of a member.
    pub fn of(member: &Member) -> Self {
        Self::new(
            member.node_id,
            member.address.clone(),
            member.organisation.clone(),
        )
    }

    /// True if it never announced enclave keys.
    fn is_plain(&self) -> bool {
        self.enclave_keys.is_empty() && self.keys_sequence == 0 && self.keys_signature.is_none()
    }

    /// As stored in the table.
    pub fn encode(&self) -> Bytes {
        let keys = self.enclave_keys.len() * 70;
        let mut out = Vec::with_capacity(160 + self.address.len() + self.organisation.len() + keys);
        let node_id = Bytes::copy_from_slice(self.node_id.as_bytes());
        let (address, organisation) = (self.address.clone(), self.organisation.clone());
        if self.is_plain() {
            Plain {
                version: VERSION_PLAIN,
                node_id,
                address,
                organisation,
            }
            .encode(&mut out);
        } else {
            let signature = self.keys_signature.map(|signature| signature.to_vec());
            WithKeys {
                version: VERSION_KEYS,
                node_id,
                address,
                organisation,
                enclave_keys: self.enclave_keys.iter().map(Into::into).collect(),
                sequence: self.keys_sequence,
                signature: signature.unwrap_or_default().into(),
            }
            .encode(&mut out);
        }
        out.into()
    }

    /// Reads a table entry. Whether the enclave keys are signed by the member is another question: [`Self::verify_keys`].
    ///
    /// # Errors
    /// [`DetailsError`]: not what [`Self::encode`] writes.
    pub fn decode(raft_id: RaftId, bytes: &[u8]) -> Result<Self, DetailsError> {
        Self::read(bytes).map_err(|reason| DetailsError {
            raft_id: raft_id.0,
            reason,
        })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        match version_of(bytes).map_err(|e| e.to_string())? {
            VERSION_PLAIN => {
                let read: Plain = whole(bytes)?;
                Ok(Self::new(
                    node_id_of(&read.node_id)?,
                    read.address,
                    read.organisation,
                ))
            }
            VERSION_KEYS => {
                let read: WithKeys = whole(bytes)?;
                let keys = read.enclave_keys.into_iter().map(EnclaveKey::try_from);
                let signature = optional(&read.signature).ok_or_else(|| {
                    format!("the signature has {} bytes, not 65", read.signature.len())
                })?;
                let details = Self {
                    node_id: node_id_of(&read.node_id)?,
                    address: read.address,
                    organisation: read.organisation,
                    enclave_keys: keys.collect::<Result<_, _>>()?,
                    keys_sequence: read.sequence,
                    keys_signature: signature,
                };
                details.check_keys().map_err(|e| e.to_string())?;
                if details.is_plain() {
                    return Err(format!("version {VERSION_KEYS} without enclave keys"));
                }
                Ok(details)
            }
            other => Err(format!(
                "version {other}; versions {VERSION_PLAIN} and {VERSION_KEYS} are known here"
            )),
        }
    }

    /// What the member signs when it announces its enclave keys:
    ///
    /// ```text
    /// keccak256( "quorate enclave keys 1" | chain id, u64 BE | genesis hash (32) | raft id, u64 BE | node key (33)
    ///            | sequence, u64 BE | RLP list of the keys, as in the entry )
    /// ```
    ///
    /// Chain, seat and sequence are in it so that no announcement counts elsewhere, or again after a newer one.
    pub fn keys_digest(&self, raft_id: u64, chain_id: u64, genesis_hash: B256) -> B256 {
        let mut bytes = KEYS_DOMAIN.to_vec();
        bytes.extend_from_slice(&chain_id.to_be_bytes());
        bytes.extend_from_slice(genesis_hash.as_slice());
        bytes.extend_from_slice(&raft_id.to_be_bytes());
        bytes.extend_from_slice(self.node_id.as_bytes());
        bytes.extend_from_slice(&self.keys_sequence.to_be_bytes());
        let keys: Vec<EncodedKey> = self.enclave_keys.iter().map(Into::into).collect();
        keys.encode(&mut bytes);
        keccak256(bytes)
    }

    /// Number and order of the keys.
    fn check_keys(&self) -> Result<(), KeysError> {
        let (got, max) = (self.enclave_keys.len(), ENCLAVE_KEYS_MAX);
        if got > max {
            return Err(KeysError::TooMany { got, max });
        }
        let rising = self.enclave_keys.is_sorted_by(|a, b| a.key < b.key);
        if rising {
            Ok(())
        } else {
            Err(KeysError::Order)
        }
    }

    /// Checks that the member itself announced these enclave keys, for this seat on this chain. Details of a member that never
    /// announced any pass.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn verify_keys(
        &self,
        raft_id: u64,
        chain_id: u64,
        genesis_hash: B256,
    ) -> Result<(), KeysError> {
        self.check_keys()?;
        if self.is_plain() {
            return Ok(());
        }
        let signature = self.keys_signature.ok_or(KeysError::Unsigned)?;
        let digest = self.keys_digest(raft_id, chain_id, genesis_hash);
        if Seal::from_bytes(signature).signer(digest) == Some(self.node_id.address()) {
            return Ok(());
        }
        Err(KeysError::OtherSigner {
            node_id: self.node_id,
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

fn node_id_of(bytes: &[u8]) -> Result<NodeId, String> {
    let key: [u8; 33] = bytes
        .try_into()
        .map_err(|_| format!("the key has {} bytes, not 33", bytes.len()))?;
    NodeId::from_bytes(key).map_err(|e| e.to_string())
}

/// What the table says of each member by raft id, those included that leave with a joint configuration.
///
/// # Errors
/// [`DetailsError`] for the first entry that cannot be read.
pub fn details_of(table: &MemberTable) -> Result<BTreeMap<u64, MemberDetails>, DetailsError> {
    let members = table.members.iter();
    members
        .map(|(id, member)| Ok((id.0, MemberDetails::decode(*id, &member.details)?)))
        .collect()
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

    const CHAIN: u64 = 1337;
    const GENESIS: B256 = B256::repeat_byte(9);

    fn secret(n: u8) -> secp256k1::SecretKey {
        secp256k1::SecretKey::from_byte_array([n; 32]).unwrap()
    }

    fn details() -> MemberDetails {
        MemberDetails::new(
            NodeId::of(&secret(7).public_key(secp256k1::SECP256K1)),
            "bank-a.example:30303".into(),
            "Bank A".into(),
        )
    }

    fn key(n: u8, hybrid: bool) -> EnclaveKey {
        EnclaveKey {
            key: [n; 32],
            hybrid_digest: hybrid.then_some([n; 32]),
        }
    }

    fn signed(mut details: MemberDetails, secret: &secp256k1::SecretKey) -> MemberDetails {
        let digest = details.keys_digest(3, CHAIN, GENESIS);
        let message = secp256k1::Message::from_digest(digest.0);
        let signature = secp256k1::SECP256K1.sign_ecdsa_recoverable(message, secret);
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = i32::from(id) as u8;
        details.keys_signature = Some(bytes);
        details
    }

    fn with_keys() -> MemberDetails {
        let details = MemberDetails {
            enclave_keys: vec![key(1, false), key(2, true)],
            keys_sequence: 5,
            ..details()
        };
        signed(details, &secret(7))
    }

    #[test]
    fn details_are_read_as_they_were_written() {
        for details in [details(), with_keys()] {
            let bytes = details.encode();
            assert_eq!(MemberDetails::decode(RaftId(3), &bytes).unwrap(), details);
        }
    }

    #[test]
    fn an_entry_without_enclave_keys_keeps_the_bytes_that_it_had_before_there_were_any() {
        let expected = "f83f01a102989c0b76cb563971fdc9bef31ec06c3560f3249d6ee9e5d83c57625596e05f6f\
                        9462616e6b2d612e6578616d706c653a33303330338642616e6b2041";
        let bytes = details().encode();
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn anything_else_is_refused_with_the_members_id() {
        for whole in [details().encode(), with_keys().encode()] {
            for cut in 0..whole.len() {
                let error = MemberDetails::decode(RaftId(3), &whole[..cut]).unwrap_err();
                assert_eq!(error.raft_id, 3);
            }
            let mut longer = whole.to_vec();
            longer.push(0);
            assert!(MemberDetails::decode(RaftId(3), &longer).is_err());
        }
    }

    #[test]
    fn keys_that_are_too_many_or_do_not_rise_are_not_read() {
        let read = |keys: Vec<EnclaveKey>| {
            let details = MemberDetails {
                enclave_keys: keys,
                keys_sequence: 1,
                ..details()
            };
            MemberDetails::decode(RaftId(3), &details.encode()).map_err(|e| e.reason)
        };
        let most = (0..ENCLAVE_KEYS_MAX as u8).map(|n| key(n, true));
        assert!(read(most.clone().collect()).is_ok());
        assert_eq!(
            read(most.chain([key(200, false)]).collect()),
            Err("17 enclave keys, at most 16 are allowed".into())
        );
        for keys in [
            vec![key(2, true), key(1, true)],
            vec![key(1, false), key(1, true)],
        ] {
            assert_eq!(
                read(keys),
                Err("enclave keys must rise, and none may come twice".into())
            );
        }
    }

    #[test]
    fn the_largest_entry_fits_the_table() {
        let details = MemberDetails {
            address: "a".repeat(512),
            organisation: "o".repeat(256),
            enclave_keys: (0..ENCLAVE_KEYS_MAX as u8).map(|n| key(n, true)).collect(),
            keys_sequence: u64::MAX,
            keys_signature: Some([1; 65]),
            ..details()
        };
        assert!(details.encode().len() <= raft_adapter::DETAILS_BYTES_MAX);
    }

    #[test]
    fn only_the_members_own_signature_over_these_keys_on_this_chain_and_seat_counts() {
        let whole = with_keys();
        let verify = |details: &MemberDetails| details.verify_keys(3, CHAIN, GENESIS);
        assert_eq!(verify(&whole), Ok(()));
        assert_eq!(verify(&details()), Ok(()));
        let refused = Err(KeysError::OtherSigner {
            node_id: whole.node_id,
        });
        assert_eq!(whole.verify_keys(4, CHAIN, GENESIS), refused);
        assert_eq!(whole.verify_keys(3, CHAIN + 1, GENESIS), refused);
        assert_eq!(whole.verify_keys(3, CHAIN, B256::ZERO), refused);
        assert_eq!(verify(&signed(whole.clone(), &secret(8))), refused);
        let changed: [fn(&mut MemberDetails); 4] = [
            |details| details.keys_sequence += 1,
            |details| details.enclave_keys.truncate(1),
            |details| details.enclave_keys[0].hybrid_digest = Some([0; 32]),
            |details| details.keys_signature = Some([0xff; 65]),
        ];
        for change in changed {
            let mut other = whole.clone();
            change(&mut other);
            assert_eq!(verify(&other), refused);
        }
        let mut moved = whole.clone();
        moved.address = "elsewhere:1".into();
        assert_eq!(verify(&moved), Ok(()), "an address is no part of it");
        let mut unsigned = whole;
        unsigned.keys_signature = None;
        assert_eq!(verify(&unsigned), Err(KeysError::Unsigned));
    }
}
