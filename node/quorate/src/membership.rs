//! The consortium's membership as this node serves it: the view for clients, and changes on their way to the leader.
//!
//! The replicated table in ordering is the truth. A change may be sent as often as needed: its id makes it happen once.

mod announce;
mod applicants;
mod follow;
mod steps;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_chain::{Member, NodeId};
use quorate_engine::{MemberDetails, details_of, members_of, removed_of};
use quorate_p2p::{AdmissionAnswer, NetworkHandle, QueryKind, RequestError};
use quorate_rpc::{
    BreakRecord, ChangeReport, ChangeRequest, MemberState, MembershipApi, MembershipError,
    MembershipView, RemovedMember,
};
use raft_adapter::{
    AppliedChange, ChangeError, ChangeId, MemberChange, MemberTable, RaftHandle, RaftId, Role,
    Status,
};
use tokio::sync::watch;
use tokio::time::Instant;

use self::applicants::Applicants;
use self::steps::Plan;
use self::wire::{Answer, Question, Refusal};
use crate::seat::{Admitted, Seat};

pub use self::announce::NodeSigner;
pub use self::follow::{Follow, Lanes, members_at_start, start as follow};
pub use self::steps::ChainIdentity;

/// A change that is not decided within this time is reported as undecided.
const CHANGE_MAX: Duration = Duration::from_secs(30);
/// The leader's own patience: less, so that its answer arrives.
const LEAD_MAX: Duration = Duration::from_secs(20);
/// A quorum that seems not to be there is looked for so long before it is said to be missing.
const HEAR_MAX: Duration = Duration::from_millis(1_500);
/// Pause before another attempt, when nothing tells that something changed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What the leader said about lags is believed for so long.
const LAGS_AGE_MAX: Duration = Duration::from_secs(5);
/// The node that took a change shows it itself when it answers, if it can within this time.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// Serves the membership of one node. Cheap to clone.
#[derive(Clone)]
pub struct MembershipService {
    shared: Arc<Shared>,
}

struct Shared {
    raft_id: u64,
    chain: ChainIdentity,
    genesis: String,
    raft: RaftHandle,
    network: NetworkHandle,
    applicants: Applicants,
    view: watch::Sender<Arc<MembershipView>>,
    /// How far the members are behind, as the leader last said, and when.
    lags: parking_lot::Mutex<(BTreeMap<u64, u64>, Option<Instant>)>,
}

impl fmt::Debug for MembershipService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MembershipService")
            .field("raft_id", &self.shared.raft_id)
            .finish_non_exhaustive()
    }
}

impl MembershipService {
    /// The service of member `raft_id` on a chain; `genesis` is the text that nodes get when they are admitted.
    pub fn new(
        raft_id: u64,
        chain: ChainIdentity,
        genesis: String,
        raft: RaftHandle,
        network: NetworkHandle,
    ) -> Self {
        let first = MembershipView {
            table_index: 0,
            joint: false,
            term: 0,
            leader: None,
            next_raft_id: 0,
            this: None,
            members: Vec::new(),
            removed: Vec::new(),
            breaks: Vec::new(),
            applicants: Vec::new(),
        };
        let service = Self {
            shared: Arc::new(Shared {
                raft_id,
                chain,
                genesis,
                raft,
                network,
                applicants: Applicants::default(),
                view: watch::Sender::new(Arc::new(first)),
                lags: parking_lot::Mutex::default(),
            }),
        };
        service.refresh();
        service
    }

    /// Shows what is true now to those who watch.
    fn refresh(&self) {
        let now = self.shared.view_now();
        self.shared.view.send_if_modified(|shown| {
            let changed = **shown != now;
            if changed {
                *shown = Arc::new(now);
            }
            changed
        });
    }

    /// Answers a node that asks for admission.
    pub fn admission(&self, public_key: [u8; 33], addresses: Vec<String>) -> AdmissionAnswer {
        let Ok(node_id) = NodeId::from_bytes(public_key) else {
            return AdmissionAnswer::NotYet;
        };
        let table = self.shared.raft.status().table;
        let Ok(members) = members_of(&table) else {
            return AdmissionAnswer::NotYet;
        };
        let members = without_returned(&table, members);
        let seat = members.iter().find(|m| {
            m.node_id == node_id
                && table
                    .members
                    .get(&RaftId(m.raft_id))
                    .is_some_and(|entry| entry.role != raft_adapter::MemberRole::Removed)
        });
        let Some(raft_id) = seat.map(|m| m.raft_id) else {
            self.shared.applicants.asked(node_id, addresses);
            self.refresh();
            return AdmissionAnswer::NotYet;
        };
        self.shared.applicants.admitted(&node_id);
        let admitted = Admitted {
            seat: Seat {
                raft_id,
                node_id,
                table_index: table.index.0,
                removed: table.removed.keys().map(|id| id.0).collect(),
                promoted: false,
                members,
            },
            genesis: self.shared.genesis.clone(),
        };
        match serde_json::to_vec(&admitted) {
            Ok(body) => AdmissionAnswer::Admitted { body: body.into() },
            Err(e) => {
                tracing::error!(error = %e, "an admission cannot be written");
                AdmissionAnswer::NotYet
            }
        }
    }

    /// Answers a question of another member, as far as this node leads.
    pub async fn answer(&self, body: &[u8]) -> Bytes {
        let answer = match serde_json::from_slice(body) {
            Ok(Question::Change(change)) => match ChangeRequest::try_from(change) {
                Ok(request) => self.shared.lead_change(&request).await.into(),
                Err(reason) => Answer::Refused(Refusal::Invalid {
                    field: "change".into(),
                    reason,
                }),
            },
            Ok(Question::Transfer { to }) => self.shared.lead_transfer(to).await.into(),
            Ok(Question::Lags) => Answer::Lags(self.shared.own_lags()),
            Err(e) => Answer::Refused(Refusal::Invalid {
                field: "question".into(),
                reason: e.to_string(),
            }),
        };
        serde_json::to_vec(&answer).unwrap_or_default().into()
    }

    /// Asks the leader how far the members are behind, unless this node is the leader.
    async fn refresh_lags(&self) {
        let status = self.shared.raft.status();
        if let Some(leader) = status.leader
            && leader.0 != self.shared.raft_id
            && let Ok(Answer::Lags(lags)) = self.shared.ask(leader, &Question::Lags).await
            && !lags.is_empty()
        {
            *self.shared.lags.lock() = (lags, Some(Instant::now()));
        }
    }
}

impl MembershipApi for MembershipService {
    fn view(&self) -> Arc<MembershipView> {
        self.refresh();
        Arc::clone(&self.shared.view.borrow())
    }

    fn watch(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.shared.view.subscribe()
    }

    fn change(
        &self,
        request: ChangeRequest,
    ) -> BoxFuture<'static, Result<ChangeReport, MembershipError>> {
        let service = self.clone();
        async move {
            let outcome = service.shared.change(request).await;
            service.refresh();
            outcome
        }
        .boxed()
    }

    fn transfer(&self, to: Option<u64>) -> BoxFuture<'static, Result<u64, MembershipError>> {
        let shared = Arc::clone(&self.shared);
        async move { shared.transfer(to).await }.boxed()
    }
}

/// What one attempt came to.
enum Attempt<T> {
    Done(T),
    Refused(MembershipError),
    /// Not decided by this attempt; `sent` says that it may be decided all the same.
    Again {
        sent: bool,
    },
}

impl Shared {
    fn view_now(&self) -> MembershipView {
        let status = self.raft.status();
        let table = &status.table;
        let connected = self.network.connected();
        let lags = match status.role {
            Role::Leader => self.own_lags(),
            _ => self.told_lags(),
        };
        let members = members_of(table).unwrap_or_else(|e| {
            tracing::error!(error = %e, "the member table cannot be read");
            Vec::new()
        });
        let mut details = details_of(table).unwrap_or_default();
        let members = members.into_iter().map(|member| {
            let id = RaftId(member.raft_id);
            let entry = table.members.get(&id);
            let details = details.remove(&id.0);
            let (enclave_keys, keys_sequence) =
                details.map_or_else(Default::default, |d| (d.enclave_keys, d.keys_sequence));
            MemberState {
                leaving: entry.is_some_and(|e| e.role == raft_adapter::MemberRole::Removed),
                outgoing_voter: table.outgoing.contains(&id),
                connected: id.0 == self.raft_id || connected.contains(&id.0),
                lag: lags.get(&id.0).copied(),
                enclave_keys,
                keys_sequence,
                member,
            }
        });
        let removed = removed_of(table).unwrap_or_default().into_iter();
        let is_member = table.members.contains_key(&RaftId(self.raft_id));
        MembershipView {
            table_index: table.index.0,
            joint: table.is_joint(),
            term: status.term.0,
            leader: status.leader.map(|id| id.0),
            next_raft_id: table.next_id.0,
            this: is_member.then_some(self.raft_id),
            members: members.collect(),
            removed: removed
                .map(|(raft_id, details)| RemovedMember {
                    raft_id,
                    node_id: details.node_id,
                    organisation: details.organisation,
                })
                .collect(),
            breaks: table
                .breaks
                .iter()
                .map(|b| BreakRecord {
                    raft_index: b.index.0,
                    term: b.term.0,
                    survivor: b.survivor.0,
                    lost: b.lost.iter().map(|id| id.0).collect(),
                    note: String::from_utf8_lossy(&b.note).into_owned(),
                })
                .collect(),
            applicants: self.applicants.list(),
        }
    }

    /// What the leader said, while that is not long ago.
    fn told_lags(&self) -> BTreeMap<u64, u64> {
        let told = self.lags.lock();
        let fresh = told.1.is_some_and(|at| at.elapsed() <= LAGS_AGE_MAX);
        if fresh {
            told.0.clone()
        } else {
            BTreeMap::new()
        }
    }

    /// Entries that each member is behind; known to a leader only.
    fn own_lags(&self) -> BTreeMap<u64, u64> {
        let status = self.raft.status();
        if status.role != Role::Leader {
            return BTreeMap::new();
        }
        let behind = |matched: u64| status.last_index.0.saturating_sub(matched);
        let peers = status
            .peers
            .iter()
            .map(|peer| (peer.id.0, behind(peer.matched.0)));
        peers.chain([(self.raft_id, 0)]).collect()
    }

    /// Takes a change to the leader, again and again until it is decided or time runs out.
    async fn change(&self, mut request: ChangeRequest) -> Result<ChangeReport, MembershipError> {
        let change_id = *request.change_id.get_or_insert_with(rand::random);
        let deadline = Instant::now() + CHANGE_MAX;
        let mut sent_before = false;
        loop {
            let status = self.raft.status();
            if let Some(applied) = status.table.applied(&ChangeId(change_id))
                && !status.table.is_joint()
            {
                return Ok(report(applied, &status.table));
            }
            if status.removed || !status.table.members.contains_key(&RaftId(self.raft_id)) {
                return Err(match sent_before {
                    true => MembershipError::Undecided { change_id },
                    false => MembershipError::NotAMember,
                });
            }
            let attempt = match status.leader {
                None => Attempt::Again { sent: false },
                Some(leader) if leader.0 == self.raft_id => {
                    attempt_of(self.lead_change(&request).await)
                }
                Some(leader) => self.ask_change(leader, &request).await,
            };
            match attempt {
                Attempt::Done(report) => {
                    self.wait_for_table(report.table_index).await;
                    return Ok(report);
                }
                // Another change, or this one as an earlier leader left it: which one shows when it is applied.
                Attempt::Refused(MembershipError::Pending { change_id: other })
                    if sent_before && other.is_none_or(|other| other == change_id) => {}
                Attempt::Refused(refusal) => return Err(refusal),
                Attempt::Again { sent } => sent_before |= sent,
            }
            if Instant::now() >= deadline {
                return Err(match sent_before {
                    true => MembershipError::Undecided { change_id },
                    false => MembershipError::NoLeader,
                });
            }
            self.wait_for_news().await;
        }
    }

    async fn ask_change(&self, leader: RaftId, request: &ChangeRequest) -> Attempt<ChangeReport> {
        match self.ask(leader, &Question::Change(request.into())).await {
            Ok(Answer::Changed(report)) => match ChangeReport::try_from(report) {
                Ok(report) => Attempt::Done(report),
                Err(_) => Attempt::Again { sent: true },
            },
            Ok(Answer::Refused(refusal)) => attempt_of(Err(refusal)),
            Ok(_) => Attempt::Again { sent: true },
            Err(e) => {
                tracing::debug!(leader = leader.0, error = %e, "the leader did not take the change");
                Attempt::Again {
                    sent: !matches!(
                        e,
                        RequestError::UnknownMember { .. } | RequestError::NotConnected { .. }
                    ),
                }
            }
        }
    }

    async fn ask(&self, leader: RaftId, question: &Question) -> Result<Answer, RequestError> {
        let raft_id = leader.0;
        let malformed = |e: serde_json::Error| RequestError::Malformed {
            raft_id,
            reason: e.to_string(),
        };
        let body = serde_json::to_vec(question).map_err(malformed)?;
        let answer = self
            .network
            .query(raft_id, QueryKind::Membership, body.into())
            .await?;
        serde_json::from_slice(&answer).map_err(malformed)
    }

    /// Makes a change if this node leads.
    async fn lead_change(&self, request: &ChangeRequest) -> Result<ChangeReport, Refusal> {
        let change_id = request.change_id.unwrap_or_else(rand::random);
        let deadline = Instant::now() + LEAD_MAX;
        let hear_until = Instant::now() + HEAR_MAX;
        loop {
            let status = self.raft.status();
            let table = status.table;
            if let Some(applied) = table.applied(&ChangeId(change_id))
                && !table.is_joint()
            {
                return Ok(report(applied, &table));
            }
            if status.role != Role::Leader {
                return Err(Refusal::NotLeader);
            }
            // Steps that do not fit the table may be those of this very change, seen again: ordering knows by the id. It
            // attaches to one that is under way, and says that no steps change nothing if there is none.
            let planned = Plan::new(&table, self.chain).and_then(|plan| plan.steps(&request.steps));
            let (steps, misfit) = match planned {
                Ok(steps) => (steps, None),
                Err(refusal) => (Vec::new(), Some(refusal)),
            };
            let change = MemberChange {
                id: ChangeId(change_id),
                steps,
                force: request.force,
                // The plan is checked against this table: no other may be changed.
                if_table: Some(
                    request
                        .if_table_index
                        .map_or(table.index, raft_adapter::LogIndex),
                ),
                in_term: None,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.raft.change_members(change)).await {
                Ok(Ok(done)) => return Ok(report(&done.change, &done.table)),
                Ok(Err(ChangeError::TableMoved { .. })) if request.if_table_index.is_none() => {}
                Ok(Err(ChangeError::NothingToDo)) if misfit.is_some() => {
                    return Err(misfit.unwrap_or(Refusal::Undecided));
                }
                // A new leader has not heard from everyone yet.
                Ok(Err(ChangeError::QuorumAtRisk { .. })) if Instant::now() < hear_until => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => return Err(Refusal::Undecided),
            }
            if Instant::now() >= deadline {
                return Err(Refusal::Undecided);
            }
        }
    }

    async fn transfer(&self, to: Option<u64>) -> Result<u64, MembershipError> {
        let deadline = Instant::now() + CHANGE_MAX;
        let mut asked: Option<RaftId> = None;
        loop {
            let status = self.raft.status();
            if let Some(leader) = status.leader {
                let moved = to.is_none() && asked.is_some_and(|asked| asked != leader);
                if to == Some(leader.0) || moved {
                    return Ok(leader.0);
                }
                asked = asked.or(Some(leader));
            }
            let attempt = match status.leader {
                None => Attempt::Again { sent: false },
                Some(leader) if leader.0 == self.raft_id => {
                    attempt_of(self.lead_transfer(to).await)
                }
                Some(leader) => match self.ask(leader, &Question::Transfer { to }).await {
                    Ok(Answer::Leads(raft_id)) => Attempt::Done(raft_id),
                    Ok(Answer::Refused(refusal)) => attempt_of(Err(refusal)),
                    Ok(_) | Err(_) => Attempt::Again { sent: true },
                },
            };
            match attempt {
                Attempt::Done(leader) => return Ok(leader),
                Attempt::Refused(refusal) => return Err(refusal),
                Attempt::Again { .. } if Instant::now() >= deadline => {
                    return Err(MembershipError::NoLeader);
                }
                Attempt::Again { .. } => self.wait_for_news().await,
            }
        }
    }

    async fn lead_transfer(&self, to: Option<u64>) -> Result<u64, Refusal> {
        let status = self.raft.status();
        if status.role != Role::Leader {
            return Err(Refusal::NotLeader);
        }
        let to = match to {
            Some(to) => check_voter(&status, RaftId(to))?,
            None => furthest(&status, self.raft_id).ok_or_else(|| Refusal::NotApplied {
                reason: "no other voter is reachable".into(),
            })?,
        };
        if to.0 == self.raft_id {
            return Ok(to.0);
        }
        self.raft
            .transfer_leadership(to)
            .await
            .map_err(|e| Refusal::NotApplied {
                reason: e.to_string(),
            })?;
        Ok(to.0)
    }

    /// Until the table here is at least as new, so that whoever asked can read what it wrote.
    async fn wait_for_table(&self, index: u64) {
        let mut status = self.raft.watch();
        let reached = status.wait_for(|s| s.table.index.0 >= index && !s.table.is_joint());
        // A node that was removed by the change never sees it: the answer is right all the same.
        drop(tokio::time::timeout(CATCH_UP_MAX, reached).await);
    }

    /// Until leader, term or table changed, or a moment has passed.
    async fn wait_for_news(&self) {
        let mut status = self.raft.watch();
        let before = key_of(&status.borrow_and_update());
        let news = status.wait_for(|now| key_of(now) != before);
        drop(tokio::time::timeout(RETRY_PAUSE, news).await);
    }
}

/// Without members that are leaving and whose key is there again under a new raft id: a key stands for one member.
fn without_returned(table: &MemberTable, members: Vec<Member>) -> Vec<Member> {
    let leaves = |member: &Member| {
        let entry = table.members.get(&RaftId(member.raft_id));
        entry.is_some_and(|e| e.role == raft_adapter::MemberRole::Removed)
    };
    let staying: BTreeSet<NodeId> = members
        .iter()
        .filter(|m| !leaves(m))
        .map(|m| m.node_id)
        .collect();
    let once = members.into_iter();
    once.filter(|m| !leaves(m) || !staying.contains(&m.node_id))
        .collect()
}

fn key_of(status: &Status) -> (Option<RaftId>, raft_adapter::Term, raft_adapter::LogIndex) {
    (status.leader, status.term, status.table.index)
}

fn attempt_of<T>(outcome: Result<T, Refusal>) -> Attempt<T> {
    match outcome {
        Ok(done) => Attempt::Done(done),
        Err(Refusal::NotLeader) => Attempt::Again { sent: false },
        Err(Refusal::Undecided) => Attempt::Again { sent: true },
        Err(refusal) => Attempt::Refused(refusal.into()),
    }
}

fn check_voter(status: &Status, to: RaftId) -> Result<RaftId, Refusal> {
    match status.table.members.get(&to) {
        None => Err(Refusal::UnknownMember { raft_id: to.0 }),
        Some(member) if member.role == raft_adapter::MemberRole::Voter => Ok(to),
        Some(_) => Err(Refusal::Invalid {
            field: "to".into(),
            reason: format!("{to} is not a voter; only a voter can lead"),
        }),
    }
}

/// The reachable voter whose log reaches furthest; of equals the one with the lowest id.
fn furthest(status: &Status, this: u64) -> Option<RaftId> {
    let candidates = status.peers.iter().filter(|peer| {
        let role = status.table.members.get(&peer.id).map(|m| m.role);
        peer.recent_active && peer.id.0 != this && role == Some(raft_adapter::MemberRole::Voter)
    });
    let best = candidates.max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.id)));
    best.map(|peer| peer.id)
}

fn report(applied: &AppliedChange, table: &MemberTable) -> ChangeReport {
    ChangeReport {
        change_id: applied.id.0,
        table_index: applied.index.0,
        added: applied.added.iter().map(|id| id.0).collect(),
        // Leaving the joint configuration is an entry of its own. After other changes it cannot be told any more.
        joint: table.index > applied.index && table.recent.last() == Some(applied),
    }
}

/// What genesis says of its members, as ordering keeps it.
pub fn genesis_details(members: &[Member]) -> BTreeMap<RaftId, Bytes> {
    let details = members.iter();
    details
        .map(|m| (RaftId(m.raft_id), MemberDetails::of(m).encode()))
        .collect()
}
