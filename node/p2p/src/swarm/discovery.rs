//! Where members are: what they announce, what the others know of it, and what is found on the local network.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::{
    Multiaddr, PeerId,
    kad::{self, GetRecordOk, InboundRequest, QueryId, QueryResult, RecordKey},
    mdns,
};

use super::{Done, Lookup, Network};
use crate::{
    address::DialAddress,
    announcement::{Announcement, AnnouncementError},
    direct::{Heard, Question},
    directory::record_key,
    events::{PeerEvent, Verdict},
    members::{Learned, Member},
    metrics,
    streams::Channel,
    wire::Control,
};

impl Network {
    /// A member has just connected: it can be asked, and it hears where we are.
    pub(super) fn introduce(&mut self, raft_id: u64, peer: PeerId, address: Multiaddr) {
        self.swarm.behaviour_mut().directory.add(&peer, address);
        if let Some(own) = self.shared.announcer.now() {
            self.send_control(raft_id, Control::Announcement(own.bytes.clone()));
            let us = self.shared.peer;
            let directory = &mut self.swarm.behaviour_mut().directory;
            directory.publish(&own, &us, vec![peer]);
        }
    }

    /// Our announcement changed: everybody connected hears it.
    pub(super) fn spread_own(&mut self) {
        let Some(own) = self.own.borrow_and_update().announcement.clone() else {
            return;
        };
        let us = self.shared.peer;
        let connected: Vec<(u64, PeerId)> = self
            .peers
            .iter()
            .filter(|(_raft_id, peer)| !peer.connections.is_empty())
            .map(|(raft_id, peer)| (*raft_id, peer.id))
            .collect();
        let directory = &mut self.swarm.behaviour_mut().directory;
        directory.store(&own, &us, true);
        let peers = connected.iter().map(|(_raft_id, peer)| *peer).collect();
        directory.publish(&own, &us, peers);
        for (raft_id, _peer) in connected {
            self.send_control(raft_id, Control::Announcement(own.bytes.clone()));
        }
    }

    fn send_control(&mut self, to: u64, message: Control) {
        let question = Question {
            to,
            channel: Channel::Control,
            body: message.encode(),
            answer_bytes_max: 1,
        };
        let opener = self.shared.opener.clone();
        let timing = self.shared.timing.clone();
        self.tasks.spawn(async move {
            let asking = question.ask(&opener, timing.frame_timeout);
            match tokio::time::timeout(timing.request_timeout, asking).await {
                Ok(Ok(_done)) => {}
                // It is said again at the next connection, and Kademlia has it too.
                Ok(Err(error)) => tracing::debug!(peer = to, %error, "a control message was lost"),
                Err(_elapsed) => tracing::debug!(peer = to, "a control message took too long"),
            }
            Done::Ended
        });
    }

    pub(super) fn on_heard(&mut self, heard: Heard) {
        let Heard { from, message } = heard;
        if !self.peers.contains_key(&from) {
            return;
        }
        match message {
            Control::Announcement(record) => {
                self.try_learn(&record, None, Some(from));
            }
            Control::Farewell => {
                tracing::warn!(
                    peer = from,
                    "a member says that this node is a member no more"
                );
                self.pronounce(Verdict::Removed { by: from });
            }
        }
    }

    /// Checks an announcement, from whomever it came, and follows it if it is news. `place` is where in Kademlia it lay.
    fn learn(
        &mut self,
        record: &Bytes,
        place: Option<&RecordKey>,
    ) -> Result<(), AnnouncementError> {
        let announcer = &self.shared.announcer;
        let members = Arc::clone(&self.shared.members.borrow());
        let mut owner = None;
        let announcement = Announcement::read(record, &announcer.genesis, |raft_id| {
            let key = match members.get(raft_id) {
                Some(member) => Some((member.public_key, member.peer)),
                None => announcer.key_of(raft_id),
            };
            owner = key.map(|(_key, peer)| peer);
            key
        })?;
        let raft_id = announcement.raft_id;
        let Some(owner) = owner else {
            return Err(AnnouncementError::UnknownMember { raft_id });
        };
        if place.is_some_and(|place| *place != record_key(&announcer.genesis, &owner)) {
            return Err(AnnouncementError::Misplaced { raft_id });
        }
        if owner == self.shared.peer {
            metrics::announcement("own");
            announcer.outdo(&announcement);
            return Ok(());
        }
        let stored = announcement.clone();
        let mut outcome = Ok(Vec::new());
        let mut known = false;
        self.shared.members.send_if_modified(|table| {
            match table.with_announcement(announcement, &owner) {
                Ok(Learned::Newer {
                    table: new,
                    addresses,
                }) => {
                    *table = Arc::new(*new);
                    outcome = Ok(addresses);
                    true
                }
                Ok(Learned::Nothing) => {
                    known = true;
                    false
                }
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        });
        let addresses = outcome?;
        if known {
            metrics::announcement("known");
            return Ok(());
        }
        metrics::announcement("accepted");
        tracing::info!(
            peer = raft_id,
            sequence = stored.sequence,
            addresses = ?stored.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "a member announced where it is"
        );
        let directory = &mut self.swarm.behaviour_mut().directory;
        directory.store(&stored, &owner, false);
        for address in addresses {
            self.tell(PeerEvent::AddressLearned {
                raft_id,
                address: address.to_string(),
            });
        }
        Ok(())
    }

    /// As [`Network::learn`]; what is refused is counted and, once a minute, logged. True if it is believed.
    fn try_learn(&mut self, record: &Bytes, place: Option<&RecordKey>, from: Option<u64>) -> bool {
        let Err(error) = self.learn(record, place) else {
            return true;
        };
        metrics::announcement(error.label());
        match &error {
            // Happens when news overtakes other news.
            AnnouncementError::Older { .. } | AnnouncementError::UnknownMember { .. } => {
                tracing::debug!(?from, %error, "refused an announcement");
            }
            AnnouncementError::Malformed(_)
            | AnnouncementError::Signature { .. }
            | AnnouncementError::Address { .. }
            | AnnouncementError::Misplaced { .. } => {
                if self.log_due(&format!("announcement {} {from:?}", error.label())) {
                    tracing::warn!(?from, %error, "refused an announcement");
                }
            }
        }
        // Its author is behind, by a clock that went back perhaps: it hears what we know of it.
        if let AnnouncementError::Older { raft_id, .. } = error
            && from == Some(raft_id)
        {
            let members = Arc::clone(&self.shared.members.borrow());
            if let Some(known) = members.get(raft_id).and_then(Member::announced) {
                self.send_control(raft_id, Control::Announcement(known.bytes.clone()));
            }
        }
        false
    }

    /// Asks the other members where this one is, unless that is being asked or nobody is there.
    pub(super) fn look_up(&mut self, raft_id: u64) {
        if self.peers.values().all(|peer| peer.connections.is_empty()) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&raft_id) else {
            return;
        };
        if peer.lookup.is_some() || !peer.connections.is_empty() {
            return;
        }
        let id = self.swarm.behaviour_mut().directory.look_up(&peer.id);
        peer.lookup = Some(Lookup { id, found: false });
        metrics::lookup("asked");
    }

    pub(super) fn on_directory(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request:
                    InboundRequest::PutRecord {
                        source,
                        record: Some(record),
                        ..
                    },
            } => {
                let Some(from) = self.table.raft_id_of(&source) else {
                    return;
                };
                self.on_record(&record, Some(from));
            }
            kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::GetRecord(result),
                step,
                ..
            } => self.on_lookup(id, result, step.last),
            _ => {}
        }
    }

    /// A record is believed if its announcement is, and if it lies where its author's belongs.
    fn on_record(&mut self, record: &kad::Record, from: Option<u64>) -> bool {
        let bytes = Bytes::copy_from_slice(&record.value);
        self.try_learn(&bytes, Some(&record.key), from)
    }

    fn on_lookup(
        &mut self,
        id: QueryId,
        result: Result<GetRecordOk, kad::GetRecordError>,
        last: bool,
    ) {
        let asked = |peer: &super::Peer| peer.lookup.as_ref().is_some_and(|l| l.id == id);
        let Some(raft_id) = self
            .peers
            .iter()
            .find(|(_raft_id, peer)| asked(peer))
            .map(|(raft_id, _peer)| *raft_id)
        else {
            return;
        };
        // What we know already comes back too; only what others say is an answer.
        if let Ok(GetRecordOk::FoundRecord(found)) = &result
            && found.peer.is_some()
            && self.on_record(&found.record, None)
            && let Some(lookup) = self.peers.get_mut(&raft_id).and_then(|p| p.lookup.as_mut())
        {
            lookup.found = true;
        }
        if last
            && let Some(lookup) = self
                .peers
                .get_mut(&raft_id)
                .and_then(|peer| peer.lookup.take())
        {
            metrics::lookup(if lookup.found { "found" } else { "nothing" });
        }
    }

    /// Members on the local network; strangers are nobody.
    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            // What expires may still be right; it is dialled last.
            return;
        };
        for (peer, address) in found {
            self.on_found(&peer, &address);
        }
    }

    fn on_found(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(raft_id) = self.table.raft_id_of(peer) else {
            tracing::trace!(%peer, %address, "a stranger on the local network");
            return;
        };
        let Ok(address) = DialAddress::parse(&address.to_string(), peer) else {
            tracing::debug!(peer = raft_id, %address, "cannot use an address on the local network");
            return;
        };
        let text = address.to_string();
        let added =
            self.shared
                .members
                .send_if_modified(|table| match table.with_found(peer, address) {
                    Some(new) => {
                        *table = Arc::new(new);
                        true
                    }
                    None => false,
                });
        if added {
            tracing::info!(peer = raft_id, address = %text, "found a member on the local network");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config, MemberInfo,
        announcement::addresses_of,
        members::{keypair, peer_id, public_key_of},
    };

    const GENESIS: [u8; 32] = [0xaa; 32];

    fn member(raft_id: u64) -> MemberInfo {
        MemberInfo {
            raft_id,
            public_key: public_key_of(&[raft_id as u8; 32]).unwrap(),
            addresses: Vec::new(),
            organisation: String::new(),
        }
    }

    fn peer(raft_id: u64) -> PeerId {
        peer_id(&member(raft_id).public_key).unwrap()
    }

    /// Member 1 of 3, not running.
    fn network() -> (Network, crate::Events) {
        let members = (1..=3).map(member).collect();
        let listen = ([127, 0, 0, 1], 0).into();
        let config = Config::new([1; 32], listen, members, 1, 1337, GENESIS);
        let (_handle, events, network) = crate::start(config).unwrap();
        (network, events)
    }

    /// What the holder of `secret` says about where `raft_id` is.
    fn announced(secret: u8, raft_id: u64, sequence: u64, address: &str) -> Bytes {
        let pair = keypair(&[secret; 32]).unwrap();
        let own = peer_id(&pair.public().to_bytes()).unwrap();
        let addresses = addresses_of(&[address.to_owned()], &own).unwrap();
        Announcement::sign(&pair, &GENESIS, raft_id, sequence, addresses).bytes
    }

    fn addresses(network: &Network, raft_id: u64) -> Vec<String> {
        let table = Arc::clone(&network.shared.members.borrow());
        let member = table.get(raft_id).unwrap();
        let addresses = member.dial_addresses();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn only_a_members_own_and_newer_word_is_believed() {
        let (mut network, mut events) = network();
        assert!(network.try_learn(&announced(2, 2, 7, "10.0.0.2:1"), None, Some(3)));
        let learned = PeerEvent::AddressLearned {
            raft_id: 2,
            address: "/ip4/10.0.0.2/tcp/1".to_owned(),
        };
        assert_eq!(events.peers.try_recv(), Ok(learned));
        for (refused, why) in [
            (
                announced(3, 2, 8, "10.0.0.9:1"),
                "another member's signature",
            ),
            (announced(9, 2, 8, "10.0.0.9:1"), "a stranger's signature"),
            (announced(9, 9, 8, "10.0.0.9:1"), "a stranger"),
            (announced(2, 2, 6, "10.0.0.9:1"), "an older one"),
            (announced(2, 2, 7, "10.0.0.9:1"), "an equally old one"),
            (Bytes::from_static(b"nonsense"), "nonsense"),
        ] {
            assert!(!network.try_learn(&refused, None, Some(3)), "{why}");
            assert_eq!(addresses(&network, 2), ["/ip4/10.0.0.2/tcp/1"], "{why}");
        }
        assert!(network.try_learn(&announced(2, 2, 7, "10.0.0.2:1"), None, Some(3)));
        assert!(network.try_learn(&announced(2, 2, 8, "10.0.0.3:1"), None, None));
        assert_eq!(addresses(&network, 2), ["/ip4/10.0.0.3/tcp/1"]);
    }

    /// A record that member 3 wants to have stored.
    fn put(network: &mut Network, key: RecordKey, value: &Bytes) -> bool {
        network.on_directory(kad::Event::InboundRequest {
            request: InboundRequest::PutRecord {
                source: peer(3),
                connection: libp2p::swarm::ConnectionId::new_unchecked(1),
                record: Some(kad::Record {
                    key: key.clone(),
                    value: value.to_vec(),
                    publisher: None,
                    expires: None,
                }),
            },
        });
        let directory = &mut network.swarm.behaviour_mut().directory;
        directory
            .stored(&key)
            .is_some_and(|stored| stored == *value)
    }

    #[tokio::test]
    async fn the_directory_stores_only_what_lies_where_it_belongs_and_is_believed() {
        let (mut network, _events) = network();
        let (two, three) = (
            record_key(&GENESIS, &peer(2)),
            record_key(&GENESIS, &peer(3)),
        );
        let record = announced(2, 2, 7, "10.0.0.2:1");
        assert!(!put(&mut network, three, &record));
        let elsewhere = record_key(&[0; 32], &peer(2));
        assert!(!put(&mut network, elsewhere, &record));
        assert!(!put(
            &mut network,
            two.clone(),
            &announced(3, 2, 7, "10.0.0.2:1")
        ));
        assert!(put(&mut network, two.clone(), &record));
        assert!(!put(
            &mut network,
            two.clone(),
            &announced(2, 2, 6, "10.0.0.9:1")
        ));
        assert!(put(
            &mut network,
            two.clone(),
            &announced(2, 2, 9, "10.0.0.3:1")
        ));
        // With its member, the record goes.
        let rest = vec![member(1), member(3)];
        let handle = crate::NetworkHandle::new(Arc::clone(&network.shared));
        handle.set_membership(rest, vec![2]).unwrap();
        network.follow_members();
        let directory = &mut network.swarm.behaviour_mut().directory;
        assert_eq!(directory.stored(&two), None);
    }

    #[tokio::test]
    async fn members_on_the_local_network_are_dialled_there_and_strangers_are_not() {
        let (mut network, _events) = network();
        let found = |id: &PeerId| format!("/ip4/10.0.0.2/tcp/5/p2p/{id}").parse().unwrap();
        let (two, stranger) = (peer(2), PeerId::random());
        network.on_mdns(mdns::Event::Discovered(vec![
            (stranger, found(&stranger)),
            (two, found(&stranger)),
            (two, found(&two)),
            (two, "/ip4/10.0.0.2/udp/5".parse().unwrap()),
        ]));
        assert_eq!(addresses(&network, 2), ["/ip4/10.0.0.2/tcp/5"]);
        assert!(addresses(&network, 3).is_empty());
        assert!(network.table.raft_id_of(&stranger).is_none());
    }
}
