//! Kademlia among members, as a directory of announcements: where a member is, asked by its id.
//!
//! Restricted on every side: only connected members are in the routing table, only announcements whose signature was
//! checked are stored (the network does that, see `swarm/discovery.rs`), and Kademlia never dials: who is dialled, and
//! where, is decided in one place, the dial plan.

use std::task::{Context, Poll};

use alloy_primitives::keccak256;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    kad::{
        self, BucketInserts, Caching, Quorum, Record, RecordKey, StoreInserts,
        store::{MemoryStore, MemoryStoreConfig, RecordStore},
    },
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use crate::{
    announcement::{ANNOUNCEMENT_BYTES_MAX, Announcement},
    config::{MEMBERS_MAX, Timing},
};

/// Room in a Kademlia message beside one announcement: the addresses of the peers that are closer.
const MESSAGE_BYTES: usize = 64 << 10;

/// The key under which a member's announcement is stored.
pub(crate) fn record_key(genesis: &[u8; 32], peer: &PeerId) -> RecordKey {
    let mut bytes = b"quorate/member/1".to_vec();
    bytes.extend_from_slice(genesis);
    bytes.extend_from_slice(&peer.to_bytes());
    RecordKey::new(&keccak256(&bytes).0)
}

/// See the module.
pub(crate) struct Directory {
    inner: kad::Behaviour<MemoryStore>,
    genesis: [u8; 32],
}

impl Directory {
    pub(crate) fn new(own: PeerId, genesis: [u8; 32], timing: &Timing) -> Self {
        let name = format!("/quorate/kad/1/{}", hex::encode(genesis));
        // It begins with a slash, which is all that is asked of a name.
        let protocol =
            StreamProtocol::try_from_owned(name).unwrap_or(StreamProtocol::new("/quorate/kad/1"));
        let mut config = kad::Config::new(protocol);
        config
            .set_kbucket_inserts(BucketInserts::Manual)
            .set_record_filtering(StoreInserts::FilterBoth)
            .set_caching(Caching::Disabled)
            // A member may be away for long; what is newer replaces what is older, and the removed are removed.
            .set_record_ttl(None)
            .set_query_timeout(timing.request_timeout)
            .set_substreams_timeout(timing.open_timeout)
            .set_periodic_bootstrap_interval(None)
            .set_max_packet_size(ANNOUNCEMENT_BYTES_MAX + MESSAGE_BYTES);
        let store = MemoryStore::with_config(
            own,
            MemoryStoreConfig {
                max_records: MEMBERS_MAX,
                max_value_bytes: ANNOUNCEMENT_BYTES_MAX,
                max_provided_keys: 0,
                max_providers_per_key: 0,
            },
        );
        let mut inner = kad::Behaviour::with_config(own, store, config);
        inner.set_mode(Some(kad::Mode::Server));
        Self { inner, genesis }
    }

    /// A member is connected: it can be asked.
    pub(crate) fn add(&mut self, peer: &PeerId, address: Multiaddr) {
        self.inner.add_address(peer, address);
    }

    /// A member is not connected any more.
    pub(crate) fn drop_peer(&mut self, peer: &PeerId) {
        self.inner.remove_peer(peer);
    }

    /// A member was removed: nobody hears of it from us any more.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.inner.remove_peer(peer);
        let key = record_key(&self.genesis, peer);
        self.inner.store_mut().remove(&key);
    }

    /// Stores an announcement whose signature was checked.
    pub(crate) fn store(&mut self, announcement: &Announcement, peer: &PeerId, own: bool) {
        let record = self.record(announcement, peer, own.then_some(*peer));
        if let Err(error) = self.inner.store_mut().put(record) {
            tracing::debug!(%error, %peer, "cannot store an announcement for others");
        }
    }

    /// Brings our own announcement to these members.
    pub(crate) fn publish(&mut self, announcement: &Announcement, own: &PeerId, to: Vec<PeerId>) {
        if to.is_empty() {
            return;
        }
        let record = self.record(announcement, own, Some(*own));
        self.inner
            .put_record_to(record, to.into_iter(), Quorum::One);
    }

    /// Asks the others for a member's announcement.
    pub(crate) fn look_up(&mut self, peer: &PeerId) -> kad::QueryId {
        self.inner.get_record(record_key(&self.genesis, peer))
    }

    /// What others get when they ask for this key.
    #[cfg(test)]
    pub(crate) fn stored(&mut self, key: &RecordKey) -> Option<Vec<u8>> {
        let stored = self.inner.store_mut().get(key);
        stored.map(|record| record.value.clone())
    }

    fn record(
        &self,
        announcement: &Announcement,
        peer: &PeerId,
        publisher: Option<PeerId>,
    ) -> Record {
        Record {
            key: record_key(&self.genesis, peer),
            value: announcement.bytes.to_vec(),
            publisher,
            expires: None,
        }
    }
}

type Inner = kad::Behaviour<MemoryStore>;

impl NetworkBehaviour for Directory {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(cx) {
                // It wants to ask somebody who is not connected: as if that one could not be reached.
                Poll::Ready(ToSwarm::Dial { opts }) => {
                    self.inner
                        .on_swarm_event(FromSwarm::DialFailure(DialFailure {
                            peer_id: opts.get_peer_id(),
                            error: &DialError::Aborted,
                            connection_id: opts.connection_id(),
                        }));
                }
                other => return other,
            }
        }
    }
}
