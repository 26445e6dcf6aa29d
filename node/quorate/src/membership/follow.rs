//! What goes on beside the calls: the whitelist follows the replicated table, other members' questions are answered, and a
//! node that was removed stops.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_chain::{Member, MemberRole};
use quorate_engine::{DetailsError, EnclaveKey, members_of, removed_of};
use quorate_p2p::{NetworkHandle, PeerEvent, QueryKind, Request, Verdict};
use quorate_rpc::{ChangeRequest, ChangeStep, MembershipApi as _};
use raft_adapter::{MemberTable, RaftHandle, RaftId, Role};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{MembershipService, NodeSigner, without_returned};
use crate::exit::Exit;
use crate::network::member_info;
use crate::seat::{Removal, Seat, keep_known_logs, known_logs};
use crate::tasks::Tasks;

/// The view is brought up to date at least so often: connections come and go without a notice of their own.
const REFRESH: Duration = Duration::from_secs(1);
/// Pause between two attempts of this node to change its own seat.
const SELF_CHANGE_PAUSE: Duration = Duration::from_secs(1);
/// A learner that is at most so many entries behind has caught up.
const CAUGHT_UP_LAG: u64 = 64;
/// Questions of members that are answered at the same time; more wait in their lane.
const ANSWERS_MAX: usize = 16;

/// What the tasks need.
#[derive(Debug)]
pub struct Follow {
    /// This node's service.
    pub service: MembershipService,
    /// Its raft id.
    pub raft_id: u64,
    /// Its place, if it was admitted after genesis.
    pub seat: Option<Seat>,
    /// Addresses from its configuration, by raft id.
    pub addresses: BTreeMap<u64, String>,
    /// Under which the others reach it, from its configuration.
    pub announce: Vec<String>,
    /// Ask to become a voter when it has caught up.
    pub promote_when_caught_up: bool,
    /// Keys of its enclave, which the member table is to show; none: the table stays as it is.
    pub enclave_keys: watch::Receiver<Vec<EnclaveKey>>,
    /// Signs what it announces.
    pub key_signer: NodeSigner,
    /// Where it remembers things.
    pub data_dir: PathBuf,
}

/// The lanes of the network that end here.
#[derive(Debug)]
pub struct Lanes {
    pub control: mpsc::Receiver<Request>,
    pub verdicts: mpsc::Receiver<Verdict>,
    pub peers: mpsc::Receiver<PeerEvent>,
}

/// Starts the tasks; they end when `stop` is cancelled.
pub fn start(tasks: &Tasks, follow: Follow, lanes: Lanes, stop: &CancellationToken) {
    let follow = Arc::new(follow);
    let Lanes {
        control,
        verdicts,
        peers,
    } = lanes;
    tasks.worker(
        "member-table",
        Arc::clone(&follow).table(tasks.clone(), stop.clone()),
    );
    tasks.worker(
        "member-questions",
        Arc::clone(&follow).questions(control, stop.clone()),
    );
    tasks.worker(
        "verdicts",
        Arc::clone(&follow).verdicts(verdicts, tasks.clone(), stop.clone()),
    );
    tasks.worker("known-logs", Arc::clone(&follow).logs(peers, stop.clone()));
    tasks.worker("own-seat", Arc::clone(&follow).own_seat(stop.clone()));
    tasks.worker("own-keys", Arc::clone(&follow).own_keys(stop.clone()));
    let service = follow.service.clone();
    let stop = stop.clone();
    tasks.worker("member-view", async move {
        while stop
            .run_until_cancelled(tokio::time::sleep(REFRESH))
            .await
            .is_some()
        {
            if stop
                .run_until_cancelled(service.refresh_lags())
                .await
                .is_none()
            {
                return;
            }
            service.refresh();
        }
    });
}

impl Follow {
    pub(super) fn raft(&self) -> &RaftHandle {
        &self.service.shared.raft
    }

    fn network(&self) -> &NetworkHandle {
        &self.service.shared.network
    }

    /// The whitelist is the table, from the moment it is in force here.
    async fn table(self: Arc<Self>, tasks: Tasks, stop: CancellationToken) {
        let mut status = self.raft().watch();
        let mut shown = None;
        loop {
            let (table, removed) = {
                let status = status.borrow_and_update();
                (Arc::clone(&status.table), status.removed)
            };
            if removed {
                let removal = Removal::by_own_log(self.raft_id);
                if let Err(e) = removal.save(&self.data_dir) {
                    tracing::error!(error = %e, "the removal could not be noted");
                }
                self.removed(&tasks, &removal.learnt);
                return;
            }
            // A node that has just joined knows from its admission what its own log will say later.
            let newest = self.seat.as_ref().map_or(0, |seat| seat.table_index);
            if shown.as_ref() != Some(&table) && table.index.0 >= newest {
                self.show(&table);
                self.service.refresh();
                shown = Some(table);
            }
            match stop.run_until_cancelled(status.changed()).await {
                Some(Ok(())) => {}
                // Ordering has ended, or the node stops.
                Some(Err(_)) | None => return,
            }
        }
    }

    fn show(&self, table: &MemberTable) {
        let (members, removed) = match (members_of(table), removed_of(table)) {
            (Ok(members), Ok(removed)) => (members, removed),
            (Err(e), _) | (_, Err(e)) => {
                tracing::error!(error = %e, "the member table cannot be read: the whitelist stays as it is");
                return;
            }
        };
        let members = without_returned(table, members);
        let members = members
            .iter()
            .map(|m| member_info(m, self.addresses.get(&m.raft_id)));
        let removed = removed.iter().map(|(raft_id, _)| *raft_id).collect();
        if let Err(e) = self.network().set_membership(members.collect(), removed) {
            tracing::error!(error = %e, "the member table is no whitelist: it stays as it is");
        }
    }

    fn removed(&self, tasks: &Tasks, learnt: &str) {
        let reason = format!(
            "member {} was removed from the consortium ({learnt}); its raft id is never used again: a new member begins in a new \
             data folder with `quorate node --join`",
            self.raft_id
        );
        tasks.fail("membership", Exit::Removed, reason);
    }

    async fn verdicts(
        self: Arc<Self>,
        mut verdicts: mpsc::Receiver<Verdict>,
        tasks: Tasks,
        stop: CancellationToken,
    ) {
        // One is enough: the node stops.
        let Some(Some(verdict)) = stop.run_until_cancelled(verdicts.recv()).await else {
            return;
        };
        match verdict {
            // On one member's word it stops; it asks again when it is started again.
            Verdict::Removed { by } => self.removed(&tasks, &format!("member {by} said so")),
            Verdict::OtherLog { by } => {
                let reason = format!(
                    "member {by} knows member {} with another ordering log: this one's was lost or exchanged, and what it had \
                     promised with it. Remove member {} and let this node come back as a new one, in a new data folder, with \
                     `quorate node --join`",
                    self.raft_id, self.raft_id
                );
                tasks.fail("membership", Exit::OtherLog, reason);
            }
        }
    }

    async fn questions(
        self: Arc<Self>,
        mut control: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) {
        let turns = Arc::new(Semaphore::new(ANSWERS_MAX));
        while let Some(Some(request)) = stop.run_until_cancelled(control.recv()).await {
            match request {
                Request::Admission {
                    public_key,
                    addresses,
                    reply,
                } => {
                    let answer = self.service.admission(public_key, addresses);
                    // The applicant may have gone; it asks again.
                    drop(reply.send(answer));
                }
                Request::Query {
                    kind: QueryKind::Membership,
                    body,
                    reply,
                    ..
                } => {
                    let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                        return;
                    };
                    let (service, stop) = (self.service.clone(), stop.clone());
                    // A change takes as long as it takes; the next question need not wait for it.
                    tokio::spawn(async move {
                        let _turn = turn;
                        if let Some(answer) = stop.run_until_cancelled(service.answer(&body)).await
                        {
                            drop(reply.send(answer));
                        }
                    });
                }
                Request::Query { .. } | Request::Blocks { .. } => {
                    tracing::warn!("a bulk question came in the lane for control");
                }
            }
        }
    }

    async fn logs(self: Arc<Self>, mut peers: mpsc::Receiver<PeerEvent>, stop: CancellationToken) {
        let mut known = known_logs(&self.data_dir);
        while let Some(Some(event)) = stop.run_until_cancelled(peers.recv()).await {
            match event {
                PeerEvent::LogSeen { raft_id, log_id } => {
                    if known.insert(raft_id, log_id) == Some(log_id) {
                        continue;
                    }
                    if let Err(e) = keep_known_logs(&self.data_dir, &known) {
                        tracing::warn!(error = %e, "another member's log could not be noted");
                    }
                }
                PeerEvent::AddressLearned { raft_id, address } => {
                    tracing::info!(
                        peer = raft_id,
                        address,
                        "a member can be reached under a new address"
                    );
                }
                // A change must not count on whoever has just gone.
                PeerEvent::Disconnected { raft_id } => self.raft().unreachable(RaftId(raft_id)),
                PeerEvent::Connected { .. } => {}
            }
        }
    }

    /// What this node asks for itself: to vote once it has caught up, and to be listed where it can be reached.
    async fn own_seat(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(SELF_CHANGE_PAUSE))
            .await
            .is_some()
        {
            let Some(steps) = self.wishes() else { return };
            if steps.is_empty() {
                continue;
            }
            let request = ChangeRequest {
                steps,
                ..ChangeRequest::default()
            };
            match stop.run_until_cancelled(self.service.change(request)).await {
                Some(Ok(report)) => {
                    tracing::info!(index = report.table_index, "own seat changed as configured");
                }
                Some(Err(e)) => tracing::info!(reason = %e, "own seat not changed yet"),
                None => return,
            }
        }
    }

    /// Once only: whoever makes this node a learner again later means it.
    fn promoted_before(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.promoted)
    }

    fn note_promoted(&self) {
        if let Some(seat) = &self.seat {
            let promoted = Seat {
                promoted: true,
                ..seat.clone()
            };
            if let Err(e) = promoted.save(&self.data_dir) {
                tracing::warn!(error = %e, "the promotion could not be noted");
            }
        }
    }

    /// `None`: nothing more to wish for. Empty: not yet.
    fn wishes(&self) -> Option<Vec<ChangeStep>> {
        let status = self.raft().status();
        let Ok(members) = members_of(&status.table) else {
            return None;
        };
        let promote = self.promote_when_caught_up && !self.promoted_before();
        let own = members.iter().find(|m| m.raft_id == self.raft_id);
        let Some(own) = own else {
            // Admitted, and not yet told by the log.
            return (promote || !self.announce.is_empty()).then(Vec::new);
        };
        let moved = self
            .announce
            .first()
            .filter(|_| !self.announce.contains(&own.address));
        if promote && own.role == MemberRole::Voter {
            self.note_promoted();
        }
        let promote = promote && own.role == MemberRole::Learner && status.role == Role::Learner;
        if moved.is_none() && !promote {
            return None;
        }
        if let Some(address) = moved {
            let raft_id = self.raft_id;
            let address = address.clone();
            return Some(vec![ChangeStep::SetAddress { raft_id, address }]);
        }
        // Both: what the leader still has to send, and what is still to be applied here.
        let to_send = self.service.shared.told_lags().get(&self.raft_id).copied();
        let to_apply = status.committed.0.saturating_sub(status.applied.0);
        if to_send.is_none_or(|lag| lag > CAUGHT_UP_LAG) || to_apply > CAUGHT_UP_LAG {
            return Some(Vec::new());
        }
        Some(vec![ChangeStep::SetRole {
            raft_id: self.raft_id,
            role: MemberRole::Voter,
        }])
    }
}

/// The members that a node starts with, and the raft ids of former ones: what its log says, or while that is older, what its
/// admission said.
///
/// # Errors
/// If the log's table is not one of ours.
pub fn members_at_start(
    table: &MemberTable,
    seat: Option<&Seat>,
) -> Result<(Vec<Member>, Vec<u64>), DetailsError> {
    match seat.filter(|seat| seat.table_index > table.index.0) {
        Some(seat) => Ok((seat.members.clone(), seat.removed.clone())),
        None => {
            let members = without_returned(table, members_of(table)?);
            Ok((members, table.removed.keys().map(|id| id.0).collect()))
        }
    }
}
