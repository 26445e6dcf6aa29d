//! Where a member says it can be reached: a record signed by its key. The newest of a member counts.
//!
//! ```text
//! announcement   format u8 = 1 | raft id u64 | sequence u64 | count u8 (1 to 8)
//!                | count × ( length u16 | multiaddr without /p2p, UTF-8, at most 512 bytes )
//!                | length u8 | signature (ECDSA over secp256k1, DER)
//! signed         "quorate/announcement/1" | genesis hash | everything before the signature's length,
//!                first through keccak-256, then through the SHA-256 of libp2p's signatures
//! ```
//!
//! The genesis hash keeps a record of one consortium from being taken for one of another with the same keys.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use libp2p::{Multiaddr, PeerId, identity::secp256k1};
use tokio::sync::watch;

use crate::{
    address::{DialAddress, TEXT_BYTES_MAX},
    error::AddressError,
};

const FORMAT: u8 = 1;
const DOMAIN: &[u8] = b"quorate/announcement/1";

/// Most addresses in one announcement.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// Longest DER form of an ECDSA signature over a 256 bit group.
const SIGNATURE_BYTES_MAX: usize = 72;

/// Longest announcement.
pub(crate) const ANNOUNCEMENT_BYTES_MAX: usize =
    18 + ADDRESSES_MAX * (2 + TEXT_BYTES_MAX) + 1 + SIGNATURE_BYTES_MAX;

/// Why an announcement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnouncementError {
    #[error("announcement is malformed: {0}")]
    Malformed(&'static str),
    #[error("announcement of raft id {raft_id}, which is not another member")]
    UnknownMember { raft_id: u64 },
    #[error("announcement of member {raft_id} is not signed by its key")]
    Signature { raft_id: u64 },
    #[error("announcement of member {raft_id} lies under the key of another")]
    Misplaced { raft_id: u64 },
    #[error("announcement of member {raft_id}: {source}")]
    Address { raft_id: u64, source: AddressError },
    #[error("announcement of member {raft_id} has sequence {got}, known is {known}")]
    Older { raft_id: u64, got: u64, known: u64 },
}

impl AnnouncementError {
    /// For the label `outcome`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnknownMember { .. } => "unknown_member",
            Self::Signature { .. } => "signature",
            Self::Misplaced { .. } => "key",
            Self::Address { .. } => "address",
            Self::Older { .. } => "older",
        }
    }
}

/// An announcement whose signature was made or checked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) raft_id: u64,
    pub(crate) sequence: u64,
    pub(crate) addresses: Vec<DialAddress>,
    /// The signed record, to be passed on as it is.
    pub(crate) bytes: Bytes,
}

impl Announcement {
    /// Signs the addresses of this node.
    pub(crate) fn sign(
        pair: &secp256k1::Keypair,
        genesis: &[u8; 32],
        raft_id: u64,
        sequence: u64,
        addresses: Vec<DialAddress>,
    ) -> Self {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT);
        out.put_u64(raft_id);
        out.put_u64(sequence);
        // The count fits: see `addresses_of`.
        out.put_u8(addresses.len() as u8);
        for address in &addresses {
            let text = address.to_string();
            out.put_u16(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
        let signature = pair.secret().sign(&digest(genesis, &out));
        out.put_u8(signature.len() as u8);
        out.put_slice(&signature);
        Self {
            raft_id,
            sequence,
            addresses,
            bytes: out.freeze(),
        }
    }

    /// Reads a record and checks it against the key that `key_of` names for its raft id.
    pub(crate) fn read(
        bytes: &Bytes,
        genesis: &[u8; 32],
        key_of: impl FnOnce(u64) -> Option<([u8; 33], PeerId)>,
    ) -> Result<Self, AnnouncementError> {
        if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
            return Err(AnnouncementError::Malformed("too long"));
        }
        let mut rest = bytes.clone();
        if take_u8(&mut rest)? != FORMAT {
            return Err(AnnouncementError::Malformed("unknown format"));
        }
        let raft_id = take_u64(&mut rest)?;
        let sequence = take_u64(&mut rest)?;
        let count = usize::from(take_u8(&mut rest)?);
        if count == 0 || count > ADDRESSES_MAX {
            return Err(AnnouncementError::Malformed("wrong number of addresses"));
        }
        let mut texts = Vec::with_capacity(count);
        for _ in 0..count {
            let length = take(&mut rest, 2)?.get_u16();
            texts.push(take(&mut rest, usize::from(length))?);
        }
        let signed = bytes.slice(..bytes.len() - rest.len());
        let length = take_u8(&mut rest)?;
        let signature = take(&mut rest, usize::from(length))?;
        if !rest.is_empty() {
            return Err(AnnouncementError::Malformed("bytes after its end"));
        }
        let (key, peer) = key_of(raft_id).ok_or(AnnouncementError::UnknownMember { raft_id })?;
        // The signature before the texts: nothing that a stranger wrote is looked at more closely.
        let key = secp256k1::PublicKey::try_from_bytes(&key)
            .map_err(|_error| AnnouncementError::UnknownMember { raft_id })?;
        if !key.verify(&digest(genesis, &signed), &signature) {
            return Err(AnnouncementError::Signature { raft_id });
        }
        let addresses = texts
            .iter()
            .map(|text| {
                let text = std::str::from_utf8(text)
                    .map_err(|_error| AnnouncementError::Malformed("address is not UTF-8"))?;
                DialAddress::parse(text, &peer)
                    .map_err(|source| AnnouncementError::Address { raft_id, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            raft_id,
            sequence,
            addresses,
            bytes: bytes.clone(),
        })
    }
}

/// The announcement of this node, as it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    pub(crate) announcement: Option<Arc<Announcement>>,
    /// The addresses were given; those on which we listen do not count any more.
    given: bool,
    /// How often somebody knew a later one than ours.
    outdone: u32,
}

/// Others may know a later announcement of ours so many times before we leave it at that: two nodes with one key would
/// outdo each other for ever.
const OUTDONE_MAX: u32 = 8;

/// Makes the announcements of this node and holds the newest.
pub(crate) struct Announcer {
    pair: secp256k1::Keypair,
    pub(crate) genesis: [u8; 32],
    raft_id: u64,
    peer: PeerId,
    first_sequence: u64,
    own: watch::Sender<Own>,
}

impl Announcer {
    pub(crate) fn new(
        pair: secp256k1::Keypair,
        genesis: [u8; 32],
        raft_id: u64,
        peer: PeerId,
        first_sequence: u64,
    ) -> Self {
        Self {
            pair,
            genesis,
            raft_id,
            peer,
            first_sequence,
            own: watch::Sender::new(Own::default()),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Own> {
        self.own.subscribe()
    }

    pub(crate) fn now(&self) -> Option<Arc<Announcement>> {
        self.own.borrow().announcement.clone()
    }

    /// Announces these addresses from now on.
    pub(crate) fn announce(&self, texts: &[String]) -> Result<(), AddressError> {
        let addresses = addresses_of(texts, &self.peer)?;
        self.own.send_modify(|own| {
            own.given = true;
            self.renew(own, addresses, 0);
        });
        Ok(())
    }

    /// We listen on these addresses now: announces those of use to others, unless addresses were given.
    pub(crate) fn listening(&self, on: &[Multiaddr]) {
        let all = on
            .iter()
            .filter_map(|address| DialAddress::parse(&address.to_string(), &self.peer).ok())
            .filter(DialAddress::is_announceable);
        let (loopback, mut addresses): (Vec<_>, Vec<_>) = all.partition(DialAddress::is_loopback);
        if addresses.is_empty() {
            addresses = loopback;
        }
        addresses.truncate(ADDRESSES_MAX);
        self.own.send_if_modified(|own| {
            let same = own
                .announcement
                .as_ref()
                .is_some_and(|now| now.addresses == addresses);
            if own.given || same || addresses.is_empty() {
                return false;
            }
            self.renew(own, addresses, 0);
            true
        });
    }

    /// Somebody knows an announcement signed by our key that is not the present one: ours must be later.
    pub(crate) fn outdo(&self, other: &Announcement) {
        self.own.send_if_modified(|own| {
            let Some(now) = own.announcement.clone() else {
                return false;
            };
            if other.sequence < now.sequence
                || other.bytes == now.bytes
                || own.outdone >= OUTDONE_MAX
            {
                return false;
            }
            tracing::warn!(
                sequence = now.sequence,
                known = other.sequence,
                "a later announcement of this node is known to others: did the clock go back, or does another node use \
                 this key?"
            );
            own.outdone += 1;
            self.renew(own, now.addresses.clone(), other.sequence);
            true
        });
    }

    /// This node's key and peer id, if it has this raft id.
    pub(crate) fn key_of(&self, raft_id: u64) -> Option<([u8; 33], PeerId)> {
        (raft_id == self.raft_id).then(|| (self.pair.public().to_bytes(), self.peer))
    }

    fn renew(&self, own: &mut Own, addresses: Vec<DialAddress>, after: u64) {
        let sequence = match &own.announcement {
            Some(now) => now.sequence.max(after).saturating_add(1),
            None => self.first_sequence,
        };
        let signed =
            Announcement::sign(&self.pair, &self.genesis, self.raft_id, sequence, addresses);
        own.announcement = Some(Arc::new(signed));
    }
}

/// Checks the texts of an announcement of `owner`.
pub(crate) fn addresses_of(
    texts: &[String],
    owner: &PeerId,
) -> Result<Vec<DialAddress>, AddressError> {
    if texts.is_empty() || texts.len() > ADDRESSES_MAX {
        return Err(AddressError::Count {
            got: texts.len(),
            min: 1,
            max: ADDRESSES_MAX,
        });
    }
    texts
        .iter()
        .map(|text| DialAddress::parse(text, owner))
        .collect()
}

fn digest(genesis: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut hasher = alloy_primitives::Keccak256::new();
    hasher.update(DOMAIN);
    hasher.update(genesis);
    hasher.update(body);
    hasher.finalize().0
}

fn take(rest: &mut Bytes, count: usize) -> Result<Bytes, AnnouncementError> {
    if rest.len() < count {
        return Err(AnnouncementError::Malformed("ends too early"));
    }
    Ok(rest.split_to(count))
}

fn take_u8(rest: &mut Bytes) -> Result<u8, AnnouncementError> {
    take(rest, 1).map(|mut bytes| bytes.get_u8())
}

fn take_u64(rest: &mut Bytes) -> Result<u64, AnnouncementError> {
    take(rest, 8).map(|mut bytes| bytes.get_u64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::members::{keypair, peer_id};

    const GENESIS: [u8; 32] = [3; 32];

    fn member(secret: u8) -> (secp256k1::Keypair, [u8; 33], PeerId) {
        let pair = keypair(&[secret; 32]).unwrap();
        let key = pair.public().to_bytes();
        (pair, key, peer_id(&key).unwrap())
    }

    fn signed(secret: u8, sequence: u64) -> Announcement {
        let (pair, _key, peer) = member(secret);
        let texts = ["10.0.0.7:30303".to_owned(), "node-2:9".to_owned()];
        let addresses = addresses_of(&texts, &peer).unwrap();
        Announcement::sign(&pair, &GENESIS, 2, sequence, addresses)
    }

    fn read(
        bytes: &Bytes,
        genesis: &[u8; 32],
        secret: u8,
    ) -> Result<Announcement, AnnouncementError> {
        let (_pair, key, peer) = member(secret);
        Announcement::read(bytes, genesis, |id| (id == 2).then_some((key, peer)))
    }

    #[test]
    fn what_is_signed_is_read_back_and_the_encoding_is_fixed() {
        let announcement = signed(1, 7);
        assert_eq!(
            read(&announcement.bytes, &GENESIS, 1),
            Ok(announcement.clone())
        );
        let head = "0100000000000000020000000000000007 02 \
                    0017 2f6970342f31302e302e302e372f7463702f3330333033 0011 2f646e732f6e6f64652d322f7463702f39";
        let head = hex::decode(head.replace([' ', '\n'], "")).unwrap();
        assert_eq!(announcement.bytes[..head.len()], head);
    }

    #[test]
    fn another_key_another_genesis_and_unknown_ids_are_refused() {
        let bytes = signed(1, 7).bytes;
        assert_eq!(
            read(&bytes, &GENESIS, 9),
            Err(AnnouncementError::Signature { raft_id: 2 })
        );
        assert_eq!(
            read(&bytes, &[4; 32], 1),
            Err(AnnouncementError::Signature { raft_id: 2 })
        );
        assert_eq!(
            Announcement::read(&bytes, &GENESIS, |_id| None),
            Err(AnnouncementError::UnknownMember { raft_id: 2 })
        );
    }

    #[test]
    fn one_to_eight_addresses_are_announced() {
        let (_pair, _key, peer) = member(1);
        let text = "10.0.0.7:30303".to_owned();
        for count in [0, 9] {
            assert!(matches!(
                addresses_of(&vec![text.clone(); count], &peer),
                Err(AddressError::Count { min: 1, max: 8, .. })
            ));
        }
        assert!(addresses_of(&vec![text; 8], &peer).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_or_cut_record_is_never_believed(at in 0_usize..200, flip in 1_u8..) {
            let bytes = signed(1, 7).bytes;
            let at = at % bytes.len();
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            prop_assert!(read(&changed.into(), &GENESIS, 1).is_err());
            prop_assert!(read(&bytes.slice(..at), &GENESIS, 1).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(read(&bytes.into(), &GENESIS, 1).is_err());
        }
    }
}
