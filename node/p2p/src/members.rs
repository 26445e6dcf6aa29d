//! The member table: who may connect, and where to find them. Immutable; a change is a new table.

use std::{collections::BTreeMap, sync::Arc};

use libp2p::{
    PeerId,
    identity::{self, secp256k1},
};

use crate::{
    address::DialAddress,
    announcement::{Announcement, AnnouncementError},
    config::{MEMBERS_MAX, MemberInfo},
    error::{AddressError, ConfigError, KeyError},
};

/// Addresses added by an operator and kept per member; the oldest gives way.
const ADDED_ADDRESSES_MAX: usize = 8;

/// Addresses found on the local network and kept per member; the oldest gives way.
const FOUND_ADDRESSES_MAX: usize = 4;

/// One other member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) raft_id: u64,
    pub(crate) peer: PeerId,
    pub(crate) public_key: [u8; 33],
    pub(crate) organisation: String,
    /// From the member table.
    addresses: Vec<DialAddress>,
    /// Added by hand, newest first; survive a new table as long as id and key stay.
    added: Vec<DialAddress>,
    /// What it announced last, signed by its key; survives likewise.
    announced: Option<Arc<Announcement>>,
    /// Found by multicast DNS, newest first; survive likewise.
    found: Vec<DialAddress>,
}

impl Member {
    /// Where to dial, most promising first, without doubles.
    pub(crate) fn dial_addresses(&self) -> Vec<DialAddress> {
        let announced = self.announced.iter().flat_map(|a| &a.addresses);
        let known = self.added.iter().chain(announced);
        let mut all: Vec<DialAddress> = Vec::new();
        for address in known.chain(&self.addresses).chain(&self.found) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// What it announced last.
    pub(crate) fn announced(&self) -> Option<&Arc<Announcement>> {
        self.announced.as_ref()
    }
}

/// What a new announcement changes.
#[derive(Debug)]
pub(crate) enum Learned {
    /// We have it already.
    Nothing,
    /// A newer one: the table with it, and the addresses that are new.
    Newer {
        table: Box<MemberTable>,
        addresses: Vec<DialAddress>,
    },
}

/// All members except this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberTable {
    by_raft_id: BTreeMap<u64, Member>,
    by_peer: BTreeMap<PeerId, u64>,
}

impl MemberTable {
    /// Checks and indexes `members`; the one with `own_raft_id` is left out.
    pub(crate) fn new(members: &[MemberInfo], own_raft_id: u64) -> Result<Self, ConfigError> {
        if members.len() > MEMBERS_MAX {
            return Err(ConfigError::TooManyMembers {
                got: members.len(),
                max: MEMBERS_MAX,
            });
        }
        let mut all: BTreeMap<u64, Member> = BTreeMap::new();
        let mut by_peer = BTreeMap::new();
        for info in members {
            let raft_id = info.raft_id;
            if raft_id == 0 {
                return Err(ConfigError::RaftIdZero);
            }
            let peer = peer_id(&info.public_key)
                .map_err(|source| ConfigError::MemberKey { raft_id, source })?;
            if let Some(first) = by_peer.insert(peer, raft_id) {
                return Err(if first == raft_id {
                    ConfigError::RaftIdTwice { raft_id }
                } else {
                    ConfigError::KeyTwice {
                        first,
                        second: raft_id,
                    }
                });
            }
            let addresses = info
                .addresses
                .iter()
                .map(|text| DialAddress::parse(text, &peer))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|source| ConfigError::MemberAddress { raft_id, source })?;
            let member = Member {
                raft_id,
                peer,
                public_key: info.public_key,
                organisation: info.organisation.clone(),
                addresses,
                added: Vec::new(),
                announced: None,
                found: Vec::new(),
            };
            if all.insert(raft_id, member).is_some() {
                return Err(ConfigError::RaftIdTwice { raft_id });
            }
        }
        all.remove(&own_raft_id);
        by_peer.retain(|_peer, raft_id| *raft_id != own_raft_id);
        Ok(Self {
            by_raft_id: all,
            by_peer,
        })
    }

    /// A table with what was learned about the members of `old`, as far as they are still the same.
    pub(crate) fn inheriting(mut self, old: &Self) -> Self {
        for (raft_id, member) in &mut self.by_raft_id {
            if let Some(before) = old.by_raft_id.get(raft_id)
                && before.peer == member.peer
            {
                member.added.clone_from(&before.added);
                member.announced.clone_from(&before.announced);
                member.found.clone_from(&before.found);
            }
        }
        self
    }

    /// A table in which `raft_id` can also be dialled at `text`, before its other addresses.
    pub(crate) fn with_address(&self, raft_id: u64, text: &str) -> Result<Self, AddressError> {
        let mut table = self.clone();
        let member = table
            .by_raft_id
            .get_mut(&raft_id)
            .ok_or(AddressError::UnknownMember { raft_id })?;
        let address = DialAddress::parse(text, &member.peer)?;
        member.added.retain(|known| *known != address);
        member.added.insert(0, address);
        member.added.truncate(ADDED_ADDRESSES_MAX);
        Ok(table)
    }

    /// A table in which the member `peer` was also found at `address` on the local network, unless that is known.
    pub(crate) fn with_found(&self, peer: &PeerId, address: DialAddress) -> Option<Self> {
        let mut table = self.clone();
        let raft_id = self.raft_id_of(peer)?;
        let member = table.by_raft_id.get_mut(&raft_id)?;
        if member.dial_addresses().contains(&address) {
            return None;
        }
        member.found.insert(0, address);
        member.found.truncate(FOUND_ADDRESSES_MAX);
        Some(table)
    }

    /// What `announcement`, whose signature was checked against the key of `peer`, changes.
    pub(crate) fn with_announcement(
        &self,
        announcement: Announcement,
        peer: &PeerId,
    ) -> Result<Learned, AnnouncementError> {
        let raft_id = announcement.raft_id;
        let mut table = self.clone();
        let member = table.by_raft_id.get_mut(&raft_id);
        let Some(member) = member.filter(|member| member.peer == *peer) else {
            return Err(AnnouncementError::UnknownMember { raft_id });
        };
        if let Some(known) = &member.announced {
            if announcement.bytes == known.bytes {
                return Ok(Learned::Nothing);
            }
            if announcement.sequence <= known.sequence {
                return Err(AnnouncementError::Older {
                    raft_id,
                    got: announcement.sequence,
                    known: known.sequence,
                });
            }
        }
        let before = member.dial_addresses();
        let mut addresses = announcement.addresses.clone();
        addresses.retain(|address| !before.contains(address));
        member.announced = Some(Arc::new(announcement));
        Ok(Learned::Newer {
            table: Box::new(table),
            addresses,
        })
    }

    /// Peer and raft id of each.
    pub(crate) fn whitelist(&self) -> BTreeMap<PeerId, u64> {
        self.by_peer.clone()
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.by_raft_id.len()
    }

    pub(crate) fn get(&self, raft_id: u64) -> Option<&Member> {
        self.by_raft_id.get(&raft_id)
    }

    pub(crate) fn raft_id_of(&self, peer: &PeerId) -> Option<u64> {
        self.by_peer.get(peer).copied()
    }

    pub(crate) fn contains_peer(&self, peer: &PeerId) -> bool {
        self.by_peer.contains_key(peer)
    }

    /// In the order of raft ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_raft_id.values()
    }
}

pub(crate) fn peer_id(public_key: &[u8; 33]) -> Result<PeerId, KeyError> {
    let key =
        secp256k1::PublicKey::try_from_bytes(public_key).map_err(|_error| KeyError::Public {
            public_key: hex::encode(public_key),
        })?;
    Ok(identity::PublicKey::from(key).to_peer_id())
}

/// The libp2p peer id of a compressed secp256k1 key (libp2p specification "peer ids": identity multihash of the key's
/// protobuf form).
///
/// # Errors
/// [`KeyError::Public`] if the bytes are no point of the curve in compressed form.
pub fn peer_id_of(public_key: &[u8; 33]) -> Result<String, KeyError> {
    peer_id(public_key).map(|peer| peer.to_string())
}

/// The compressed public key of a secret.
///
/// # Errors
/// [`KeyError::Secret`] if the secret is zero or not below the group order.
pub fn public_key_of(secret_key: &[u8; 32]) -> Result<[u8; 33], KeyError> {
    keypair(secret_key).map(|pair| pair.public().to_bytes())
}

pub(crate) fn keypair(secret_key: &[u8; 32]) -> Result<secp256k1::Keypair, KeyError> {
    // The constructor wipes the bytes it is given, hence the copy.
    let mut copy = *secret_key;
    let secret =
        secp256k1::SecretKey::try_from_bytes(&mut copy).map_err(|_error| KeyError::Secret)?;
    Ok(secp256k1::Keypair::from(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(raft_id: u64, secret: u8) -> MemberInfo {
        MemberInfo {
            raft_id,
            public_key: public_key_of(&[secret; 32]).unwrap(),
            addresses: vec!["127.0.0.1:1".to_owned()],
            organisation: format!("org{raft_id}"),
        }
    }

    #[test]
    fn the_table_leaves_this_node_out() {
        let table = MemberTable::new(&[member(1, 1), member(2, 2)], 1).unwrap();
        assert_eq!(table.iter().map(|m| m.raft_id).collect::<Vec<_>>(), [2]);
        let other = table.get(2).unwrap().peer;
        assert_eq!(table.raft_id_of(&other), Some(2));
        assert!(table.contains_peer(&other));
    }

    #[test]
    fn doubles_and_zero_are_refused_by_name() {
        let refused = |members: &[MemberInfo]| MemberTable::new(members, 1).unwrap_err();
        assert_eq!(
            refused(&[member(1, 1), member(1, 2)]),
            ConfigError::RaftIdTwice { raft_id: 1 }
        );
        assert_eq!(
            refused(&[member(1, 1), member(1, 1)]),
            ConfigError::RaftIdTwice { raft_id: 1 }
        );
        assert_eq!(
            refused(&[member(1, 1), member(2, 1)]),
            ConfigError::KeyTwice {
                first: 1,
                second: 2
            }
        );
        assert_eq!(refused(&[member(0, 1)]), ConfigError::RaftIdZero);
        let mut bad = member(2, 2);
        bad.public_key = [9; 33];
        assert!(matches!(
            refused(&[bad]),
            ConfigError::MemberKey { raft_id: 2, .. }
        ));
    }

    #[test]
    fn an_added_address_comes_first_and_survives_a_new_table() {
        let infos = [member(1, 1), member(2, 2)];
        let table = MemberTable::new(&infos, 1).unwrap();
        let table = table.with_address(2, "127.0.0.1:7").unwrap();
        let table = MemberTable::new(&infos, 1).unwrap().inheriting(&table);
        let addresses: Vec<_> = table
            .get(2)
            .unwrap()
            .dial_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["/ip4/127.0.0.1/tcp/7", "/ip4/127.0.0.1/tcp/1"]);
        // Another key under the same id is another member: its addresses are not the old one's.
        let table = MemberTable::new(&[member(1, 1), member(2, 3)], 1)
            .unwrap()
            .inheriting(&table);
        assert_eq!(table.get(2).unwrap().dial_addresses().len(), 1);
        assert_eq!(
            table.with_address(1, "127.0.0.1:7").unwrap_err(),
            AddressError::UnknownMember { raft_id: 1 }
        );
    }

    #[test]
    fn the_peer_id_of_a_key_is_fixed() {
        // secp256k1 generator point: the public key of secret 1.
        let mut secret = [0; 32];
        secret[31] = 1;
        let key = public_key_of(&secret).unwrap();
        assert_eq!(
            hex::encode(key),
            "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        );
        assert!(peer_id_of(&key).unwrap().starts_with("16Uiu2HA"));
        assert_eq!(public_key_of(&[0; 32]), Err(KeyError::Secret));
    }
}
