//! How the rest of the node speaks to the network. Cheap to clone; reads come from a shared picture, never from the task.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use libp2p::{Multiaddr, PeerId, Stream, swarm::ConnectionId};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    address::Resolver,
    announcement::Announcer,
    config::{Limits, MemberInfo, Timing},
    direct::Question,
    error::{AddressError, ConfigError, RequestError},
    events::{PeerStatus, QueryKind},
    gate::Gate,
    gossip::GossipQueue,
    members::MemberTable,
    raft_stream::Outbox,
    refusal_log::RefusalLog,
    streams::Channel,
    wire,
};

/// What tasks ask of the swarm. Queue of 1,024; when full, they wait.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) raft_id: u64,
    /// The connection to use, or the newest.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) channel: Channel,
    pub(crate) reply: oneshot::Sender<Opening>,
}

/// A stream that is being opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) stream: oneshot::Receiver<Result<Stream, String>>,
    /// Cancelled when its connection closes.
    pub(crate) closed: CancellationToken,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    /// Cancelled when its connection closes: nothing that waits for the stream may outlive that.
    pub(crate) closed: CancellationToken,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the network has stopped")]
    Stopped,
    #[error("the connection closed")]
    Closed,
    #[error("not opened within {0:?}")]
    Slow(Duration),
    #[error("{0}")]
    Failed(String),
}

impl OpenError {
    pub(crate) fn of(self, raft_id: u64) -> RequestError {
        match self {
            Self::Stopped => RequestError::Stopped,
            Self::Closed => RequestError::NotConnected { raft_id },
            Self::Slow(limit) => RequestError::Timeout { raft_id, limit },
            Self::Failed(reason) => RequestError::Broken { raft_id, reason },
        }
    }
}

/// Opens streams, always within a time.
#[derive(Debug, Clone)]
pub(crate) struct StreamOpener {
    pub(crate) commands: mpsc::Sender<OpenStream>,
    pub(crate) limit: Duration,
}

impl StreamOpener {
    pub(crate) async fn open(
        &self,
        raft_id: u64,
        connection: Option<ConnectionId>,
        channel: Channel,
    ) -> Result<Opened, OpenError> {
        let opening = async {
            let (reply, opening) = oneshot::channel();
            let command = OpenStream {
                raft_id,
                connection,
                channel,
                reply,
            };
            self.commands
                .send(command)
                .await
                .map_err(|_closed| OpenError::Stopped)?;
            let Opening { stream, closed } = opening.await.map_err(|_dropped| OpenError::Closed)?;
            match closed.run_until_cancelled(stream).await {
                Some(Ok(Ok(stream))) => Ok(Opened { stream, closed }),
                Some(Ok(Err(reason))) => Err(OpenError::Failed(reason)),
                Some(Err(_)) | None => Err(OpenError::Closed),
            }
        };
        timeout(self.limit, opening)
            .await
            .unwrap_or(Err(OpenError::Slow(self.limit)))
    }
}

/// The sending side of one member.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) outbox: Outbox,
    forwards: Semaphore,
    fetches: Semaphore,
    memberships: Semaphore,
    snapshots: Semaphore,
    privacies: Semaphore,
}

impl Link {
    pub(crate) fn new(outbox: Outbox, limits: &Limits) -> Self {
        Self {
            outbox,
            forwards: Semaphore::new(limits.forwards_per_member),
            fetches: Semaphore::new(limits.fetches_per_member),
            memberships: Semaphore::new(limits.memberships_per_member),
            snapshots: Semaphore::new(limits.snapshots_per_member),
            privacies: Semaphore::new(limits.privacies_per_member),
        }
    }
}

/// What the task and all handles share.
pub(crate) struct Shared {
    // configuration
    pub(crate) raft_id: u64,
    pub(crate) peer: PeerId,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    // ways in
    pub(crate) opener: StreamOpener,
    pub(crate) gossip: GossipQueue,
    /// What this node says about where it is.
    pub(crate) announcer: Announcer,
    /// Asked at every dial.
    pub(crate) resolver: Resolver,
    // state
    /// The whitelist of handshakes; always made from `members` and `removed`.
    pub(crate) gate: Arc<Gate>,
    /// Raft ids that were members once; changed only while `members` is.
    pub(crate) removed: RwLock<BTreeSet<u64>>,
    /// The table of the moment; the task follows it.
    pub(crate) members: watch::Sender<Arc<MemberTable>>,
    /// Written by the task as members come and go.
    pub(crate) links: RwLock<BTreeMap<u64, Arc<Link>>>,
    pub(crate) status: RwLock<BTreeMap<u64, PeerStatus>>,
    pub(crate) listening: RwLock<Vec<Multiaddr>>,
    pub(crate) refusals: Mutex<RefusalLog>,
}

/// The network as the rest of the node sees it.
#[derive(Clone)]
pub struct NetworkHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for NetworkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkHandle")
            .field("raft_id", &self.shared.raft_id)
            .field("peer", &self.shared.peer)
            .field("connected", &self.connected())
            .finish_non_exhaustive()
    }
}

impl NetworkHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Queues a Raft message for one member. Never waits.
    ///
    /// False if it was dropped (and counted): unknown member, no connection, message over `Limits::frame_bytes_max`, or
    /// a full outbox. True is no promise of arrival.
    pub fn send_raft(&self, to: u64, message: Bytes) -> bool {
        match self.shared.links.read().get(&to) {
            Some(link) => link.outbox.push(message),
            None => {
                crate::metrics::dropped(crate::metrics::lane::RAFT, "unknown_member", 1);
                false
            }
        }
    }

    /// Queues transactions for all members. Never waits; what does not fit is dropped and counted.
    pub fn gossip(&self, transactions: Vec<Bytes>) {
        self.shared.gossip.push(transactions);
    }

    /// Delivers transactions to one member and waits until its application has taken them.
    ///
    /// # Errors
    /// [`RequestError`]; after `Timeout` or `Broken` the member may have taken them all the same.
    pub async fn forward(&self, to: u64, transactions: Vec<Bytes>) -> Result<(), RequestError> {
        let (size, max) = (
            wire::list_size(&transactions),
            self.shared.limits.forward_bytes_max,
        );
        if size > max {
            return Err(RequestError::TooLarge { got: size, max });
        }
        let link = self.link(to)?;
        let mut body = BytesMut::with_capacity(size);
        wire::put_list(&mut body, &transactions);
        let question = Question {
            to,
            channel: Channel::Forward,
            body: body.freeze(),
            answer_bytes_max: 1,
        };
        self.ask(question, &link.forwards).await?;
        Ok(())
    }

    /// Asks one member for up to `count_max` blocks from `first_height` on. It may send fewer, also none: it has no more,
    /// or the answer would pass its `Limits::fetch_bytes_max`. The blocks are whatever the member says: verify them.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn fetch_blocks(
        &self,
        from_peer: u64,
        first_height: u64,
        count_max: u32,
    ) -> Result<Vec<Bytes>, RequestError> {
        let link = self.link(from_peer)?;
        let question = Question {
            to: from_peer,
            channel: Channel::Blocks,
            body: wire::blocks_request(first_height, count_max),
            answer_bytes_max: self.shared.limits.frame_bytes_max,
        };
        let body = self.ask(question, &link.fetches).await?;
        let malformed = |reason: String| RequestError::Malformed {
            raft_id: from_peer,
            reason,
        };
        let blocks = wire::read_list(body).map_err(|error| malformed(error.to_string()))?;
        if blocks.len() > count_max as usize {
            return Err(malformed(format!(
                "{} blocks, asked for {count_max}",
                blocks.len()
            )));
        }
        Ok(blocks)
    }

    /// All other members, connected or not, in the order of their raft ids.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.status.read().values().cloned().collect()
    }

    /// Raft ids of the connected members, ascending.
    pub fn connected(&self) -> Vec<u64> {
        let status = self.shared.status.read();
        status
            .values()
            .filter(|peer| peer.connected)
            .map(|peer| peer.raft_id)
            .collect()
    }

    /// This node's libp2p peer id.
    pub fn local_peer_id(&self) -> String {
        self.shared.peer.to_string()
    }

    /// Where we listen, as multiaddrs; with port 0 configured, the real port is here.
    pub fn listen_addresses(&self) -> Vec<String> {
        self.shared
            .listening
            .read()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Adds an address at which a known member can be dialled, and tries it soon unless the member is connected.
    /// Kept until the process ends or the member's key changes.
    ///
    /// # Errors
    /// [`AddressError`]: no such member, or the text is no usable address.
    pub fn add_address(&self, raft_id: u64, address: String) -> Result<(), AddressError> {
        let mut result = Ok(());
        self.shared
            .members
            .send_if_modified(|table| match table.with_address(raft_id, &address) {
                Ok(changed) => {
                    *table = Arc::new(changed);
                    true
                }
                Err(error) => {
                    result = Err(error);
                    false
                }
            });
        result
    }

    /// Asks one member something that is opaque to the network. Each kind has its own turns and its own lane at the other
    /// side, so that bulk delays neither Raft nor membership.
    ///
    /// # Errors
    /// [`RequestError`]; after `Timeout` or `Broken` the member may have done what was asked all the same.
    pub async fn query(
        &self,
        to: u64,
        kind: QueryKind,
        body: Bytes,
    ) -> Result<Bytes, RequestError> {
        let (got, max) = (body.len(), kind.body_bytes_max());
        if got > max {
            return Err(RequestError::TooLarge { got, max });
        }
        let link = self.link(to)?;
        let turns = match kind {
            QueryKind::Membership => &link.memberships,
            QueryKind::Snapshot => &link.snapshots,
        };
        let question = Question {
            to,
            channel: Channel::of(kind),
            body,
            // One byte of status before it.
            answer_bytes_max: 1 + kind.answer_bytes_max(),
        };
        self.ask_within(question, turns, self.shared.timing.query_timeout)
            .await
    }

    /// Asks one member about private payloads, or delivers one: opaque to the network, both ways at most
    /// `Limits::privacy_bytes_max`. The time covers all of it: waiting for a turn (`Limits::privacies_per_member`), the way there, the
    /// member's application, and the way back.
    ///
    /// # Errors
    /// [`RequestError`]; after `Timeout` or `Broken` the member may have done what was asked all the same.
    pub async fn ask_privacy(
        &self,
        to: u64,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, RequestError> {
        let (got, max) = (body.len(), self.shared.limits.privacy_bytes_max);
        if got > max {
            return Err(RequestError::TooLarge { got, max });
        }
        let link = self.link(to)?;
        let question = Question {
            to,
            channel: Channel::Privacy,
            body,
            // One byte of status before it.
            answer_bytes_max: 1 + max,
        };
        self.ask_within(question, &link.privacies, limit).await
    }

    /// Says to all members, now and whenever one connects, that this node is reached at these addresses (1 to 8, instead
    /// of those announced so far). The others need no new configuration.
    ///
    /// # Errors
    /// [`AddressError`]: none or too many, or one is not usable; then nothing changes.
    pub fn announce(&self, addresses: Vec<String>) -> Result<(), AddressError> {
        self.shared.announcer.announce(&addresses)
    }

    /// As [`NetworkHandle::set_membership`], with the removed ids unchanged.
    ///
    /// # Errors
    /// [`ConfigError`]: the table contradicts itself; then the old one stays.
    pub fn set_members(&self, members: Vec<MemberInfo>) -> Result<(), ConfigError> {
        let removed = self.shared.removed.read().clone();
        self.replace_members(&members, removed)
    }

    /// Replaces the member table and so the whitelist, and the raft ids that were members once. Members that are gone, or
    /// have another key, are cut off at once: nothing more of them is delivered, they are told that they are members no
    /// more, and within half a second they are disconnected. New members are dialled at once. This node itself may be
    /// missing from the table.
    ///
    /// # Errors
    /// [`ConfigError`]: the table contradicts itself; then the old one stays.
    pub fn set_membership(
        &self,
        members: Vec<MemberInfo>,
        removed: Vec<u64>,
    ) -> Result<(), ConfigError> {
        self.replace_members(&members, removed.into_iter().collect())
    }

    fn replace_members(
        &self,
        members: &[MemberInfo],
        removed: BTreeSet<u64>,
    ) -> Result<(), ConfigError> {
        let new = MemberTable::new(members, self.shared.raft_id)?;
        none_removed(members, &removed)?;
        self.shared.members.send_modify(|table| {
            let new = new.inheriting(table);
            self.shared
                .gate
                .allow_only(new.whitelist(), removed.clone());
            *self.shared.removed.write() = removed;
            *table = Arc::new(new);
        });
        Ok(())
    }

    fn link(&self, raft_id: u64) -> Result<Arc<Link>, RequestError> {
        let link = self.shared.links.read().get(&raft_id).map(Arc::clone);
        let link = link.ok_or(RequestError::UnknownMember { raft_id })?;
        if !link.outbox.is_connected() {
            return Err(RequestError::NotConnected { raft_id });
        }
        Ok(link)
    }

    async fn ask(&self, question: Question, turns: &Semaphore) -> Result<Bytes, RequestError> {
        self.ask_within(question, turns, self.shared.timing.request_timeout)
            .await
    }

    async fn ask_within(
        &self,
        question: Question,
        turns: &Semaphore,
        limit: Duration,
    ) -> Result<Bytes, RequestError> {
        let (raft_id, timing) = (question.to, &self.shared.timing);
        let asking = async {
            let _turn = turns
                .acquire()
                .await
                .map_err(|_closed| RequestError::Stopped)?;
            question
                .ask(&self.shared.opener, timing.frame_timeout)
                .await
        };
        timeout(limit, asking)
            .await
            .unwrap_or(Err(RequestError::Timeout { raft_id, limit }))
    }
}

/// Raft ids are never reused: one that was removed is no member's.
pub(crate) fn none_removed(
    members: &[MemberInfo],
    removed: &BTreeSet<u64>,
) -> Result<(), ConfigError> {
    match members
        .iter()
        .find(|member| removed.contains(&member.raft_id))
    {
        Some(member) => Err(ConfigError::RemovedMember {
            raft_id: member.raft_id,
        }),
        None => Ok(()),
    }
}
