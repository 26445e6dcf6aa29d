//! The ordering core: raft-rs with our log, as one synchronous and deterministic state machine.
//!
//! No clock, no threads, no randomness but the seed: equal inputs give equal outputs. A simulator drives it exactly as
//! the threads in `driver.rs` do.

mod deliver;
mod joint;
mod logger;
mod membership;
mod old_disk;
pub(crate) mod propose;
mod ready;
pub(crate) mod receive;
mod transfer;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use raft::{
    ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole, Storage as _,
    eraftpb::HardState,
};

use self::{
    deliver::Window,
    membership::{LoggedAhead, WaitingChange},
    receive::DropReason,
    transfer::PendingTransfer,
};
use crate::{
    config::Config,
    error::{Fatal, OpenError},
    ids::{LogIndex, RaftId, Term, WriteNumber},
    io::{Input, Output},
    log::{Log, disk::Disk},
    random::mix,
    status::{PeerProgress, PeerState, Role, Status},
    watermarks::Watermarks,
};

pub(crate) use self::membership::change_of;

/// Bytes of committed entries raft-rs hands out per turn.
const COMMITTED_BYTES_PER_TURN: u64 = 16 << 20;

/// One member's ordering. See [`Input`] for what it takes and [`Output`] for what it asks for.
pub struct Core {
    config: Config,
    raw: RawNode<Log>,

    /// Reported by the application.
    applied: u64,
    /// Handed to the application.
    delivered: u64,
    /// Committed entries that came out of raft-rs and whose membership changes are in force. raft-rs calls this applied.
    processed: u64,
    window: Window,

    /// Handed out and not yet reported durable, oldest first.
    writes: VecDeque<PendingWrite>,
    /// The last write reported durable.
    persisted: WriteNumber,

    /// Term, role and leader as last seen: a change means that raft-rs may have drawn a new election timeout.
    view: (u64, StateRole, u64),
    /// Counts changes of `view`, so that each draws another timeout.
    view_changes: u64,
    term_start: Option<LogIndex>,
    transfer: Option<PendingTransfer>,

    waiting_change: Option<WaitingChange>,
    logged_ahead: Option<LoggedAhead>,
    /// Members to which a leader that is to lose its vote tried to hand over, in the present joint configuration.
    tried_successors: BTreeSet<RaftId>,
    /// Ticks since the core was opened.
    ticks: u64,
    /// The tick at which each member was last heard from. raft-rs' own notion is reset at every election timeout.
    heard: BTreeMap<RaftId, u64>,

    dropped: BTreeMap<DropReason, u64>,
    refused_proposals: u64,
    change_outcomes: BTreeMap<&'static str, u64>,
    /// After this nothing is promised any more.
    dead: Option<Fatal>,
    /// What followed from opening; goes out with the first input.
    left_from_open: Vec<Output>,
}

/// A write that is under way.
#[derive(Debug)]
struct PendingWrite {
    write: WriteNumber,
    /// The last turn of raft-rs that is complete with it.
    ready: Option<u64>,
    /// It holds entries or a manifest, not only term and vote.
    holds_log: bool,
    /// It holds a term or a vote that no write before it holds.
    holds_vote: bool,
    /// Index of the manifest it installs.
    snapshot: Option<u64>,
    /// Nothing from this index on may be delivered before.
    gate: Option<LogIndex>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.config.id)
            .field("role", &self.role())
            .field("term", &self.raw.raft.term)
            .field("watermarks", &self.watermarks())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Recovers the log on `disk` and builds the core on it. `applied` is the last index whose effect the application
    /// already holds; deliveries begin behind it.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed on the disk except that a torn tail was cut off.
    pub fn open(config: Config, disk: Arc<dyn Disk>, applied: LogIndex) -> Result<Self, OpenError> {
        let config = config.validated()?;
        let mut log = Log::open(&config, disk)?;
        let last = log.last();
        if applied.0 > last {
            return Err(OpenError::LogBehindApplication {
                applied,
                last: LogIndex(last),
            });
        }
        let (membership_since, _) = log.membership();
        let marker = log.marker();
        // Whatever was applied or compacted, and every membership change in force, had been committed. The commit index
        // itself is not written each time it moves.
        let processed = applied
            .0
            .max(membership_since)
            .max(marker.snapshot_index)
            .max(marker.cut_index);
        let last_term = log.term_at(last).unwrap_or_default();
        let recovered = log.hard_state().clone();
        let mut hard_state = HardState {
            commit: recovered.commit.max(processed),
            ..recovered.clone()
        };
        if last_term > recovered.term {
            // The log outlived the term it came with, so nothing was promised in that term.
            hard_state = HardState {
                term: last_term,
                vote: 0,
                ..hard_state
            };
        }
        if planted!(ForgetVote) {
            hard_state.vote = 0;
        }
        log.note_commit(hard_state);
        // The application relies on the log to know the membership of what it applied. If that record was lost to damage, the
        // entry tells it again.
        let lost_change = log.next_change().filter(|change| *change <= processed);
        let processed = lost_change.map_or(processed, |change| change - 1);
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks as usize,
            heartbeat_tick: config.heartbeat_ticks as usize,
            applied: processed,
            max_size_per_msg: config.max_message_bytes,
            max_inflight_msgs: config.max_inflight_messages as usize,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: config.uncommitted_bytes_max,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_TURN,
            ..raft::Config::default()
        };
        let raw = catch_unwind(AssertUnwindSafe(|| {
            RawNode::new(&raft_config, log, &logger::logger())
        }))
        .map_err(|panic| OpenError::Core {
            reason: panic_text(panic.as_ref()),
        })?
        .map_err(|error| OpenError::Core {
            reason: error.to_string(),
        })?;
        let mut core = Self {
            view: (raw.raft.term, raw.raft.state, raw.raft.leader_id),
            config,
            raw,
            applied: applied.0,
            delivered: applied.0,
            processed,
            window: Window::default(),
            writes: VecDeque::new(),
            persisted: WriteNumber(0),
            view_changes: 0,
            term_start: None,
            transfer: None,
            waiting_change: None,
            logged_ahead: None,
            tried_successors: BTreeSet::new(),
            ticks: 0,
            heard: BTreeMap::new(),
            change_outcomes: BTreeMap::new(),
            dropped: BTreeMap::new(),
            refused_proposals: 0,
            dead: None,
            left_from_open: Vec::new(),
        };
        core.draw_election_timeout();
        if lost_change.is_some() {
            let mut out = Vec::new();
            let drained = core.guarded(|core| core.drain(&mut out));
            drained.map_err(|error| OpenError::Core {
                reason: error.to_string(),
            })?;
            core.left_from_open = out;
        }
        Ok(core)
    }

    /// Takes one input and answers with everything that follows from it.
    ///
    /// # Errors
    /// [`Fatal`], from then on always. `out` must be thrown away then.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) -> Result<(), Fatal> {
        self.accept(input, out)?;
        self.flush(out)
    }

    /// Takes one input without asking for its consequences yet: several may share one [`Core::flush`], and so one write.
    ///
    /// # Errors
    /// As [`Core::step`].
    pub fn accept(&mut self, input: Input, out: &mut Vec<Output>) -> Result<(), Fatal> {
        out.append(&mut self.left_from_open);
        self.guarded(|core| {
            core.dispatch(input, out)?;
            core.observe(out);
            Ok(())
        })
    }

    /// Answers with everything that follows from the inputs accepted since the last flush.
    ///
    /// # Errors
    /// As [`Core::step`].
    pub fn flush(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        self.guarded(|core| {
            core.drain(out)?;
            core.reach_floor(out);
            core.deliver_held_back(out)?;
            core.observe(out);
            if cfg!(debug_assertions) {
                core.check()?;
            }
            Ok(())
        })
    }

    fn check(&self) -> Result<(), Fatal> {
        let impossible = |what: String| Fatal::Impossible { what };
        self.watermarks()
            .check()
            .map_err(|error| impossible(error.to_string()))?;
        self.table()
            .check(&self.raw.raft.prs().conf().to_conf_state())
            .map_err(|error| impossible(error.to_string()))
    }

    fn dispatch(&mut self, input: Input, out: &mut Vec<Output>) -> Result<(), Fatal> {
        match input {
            Input::Tick => self.tick(),
            Input::Received { from, message } => self.received(from, &message, out)?,
            Input::Propose(proposal) => self.propose(proposal, out),
            Input::ChangeMembers { change, ticket } => self.change_members(&change, ticket, out),
            Input::TransferLeadership { to, ticket } => self.transfer(to, ticket, out),
            Input::HandOver => self.hand_over(),
            Input::Persisted { write } => self.persisted(write)?,
            Input::Applied { index } => self.applied(index)?,
            Input::Compact { up_to, manifest } => self.compact(up_to, manifest, out)?,
            Input::Unreachable { peer } => {
                self.heard.remove(&peer);
                self.raw.report_unreachable(peer.0);
            }
            Input::SnapshotOutcome { peer, delivered } => {
                let status = if delivered {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.raw.report_snapshot(peer.0, status);
            }
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.age_transfer();
        self.age_change();
        // A member whose disk lags would stand for election with a log it does not have yet.
        let disk_lags = self.writes.iter().any(|write| write.holds_log);
        let abstains = disk_lags || self.behind_own_promises().is_some();
        if self.raw.raft.state == StateRole::Leader || !abstains {
            self.raw.tick();
        }
        self.repeat_timeout_now();
    }

    /// Heard from within an election timeout.
    fn is_heard(&self, id: RaftId) -> bool {
        self.heard
            .get(&id)
            .is_some_and(|tick| self.ticks - tick <= u64::from(self.config.election_ticks))
    }

    /// Runs an action; a panic inside raft-rs or a failed read there ends this core.
    fn guarded(
        &mut self,
        action: impl FnOnce(&mut Self) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        if let Some(fatal) = &self.dead {
            return Err(fatal.clone());
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| action(self))).unwrap_or_else(|panic| {
            Err(Fatal::Panicked {
                message: panic_text(panic.as_ref()),
            })
        });
        // A failed read explains a panic that follows from it.
        let outcome = self.raw.store().fault().map_or(outcome, Err);
        outcome.inspect_err(|fatal| self.dead = Some(fatal.clone()))
    }

    /// Notes what changed in term, role and leader.
    fn observe(&mut self, out: &mut Vec<Output>) {
        let raft = &self.raw.raft;
        let view = (raft.term, raft.state, raft.leader_id);
        if view != self.view {
            let was_leading = self.view.1 == StateRole::Leader && self.view.0 == view.0;
            if view.1 != StateRole::Leader {
                self.term_start = None;
            } else if !was_leading {
                // Looked at right after the step that won the election: only the leader's first entry was appended.
                self.term_start = Some(LogIndex(raft.raft_log.last_index()));
            }
            self.view = view;
            self.view_changes += 1;
            let (role, leader) = (self.role(), non_zero(view.2));
            tracing::info!(id = %self.config.id, term = view.0, %role, ?leader, "raft role");
        }
        self.draw_election_timeout();
        self.settle_transfer(out);
        self.settle_change(out);
    }

    /// raft-rs draws from the operating system whenever it resets its timer. Ours depends on the seed and on what
    /// happened; setting it every time makes it unnecessary to know whether it was reset.
    fn draw_election_timeout(&mut self) {
        let ticks = u64::from(self.config.election_ticks);
        let drawn = mix(&[
            self.config.seed,
            self.config.id.0,
            self.raw.raft.term,
            self.view_changes,
        ]);
        self.raw
            .raft
            .set_randomized_election_timeout((ticks + drawn % ticks) as usize);
    }

    fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.raw.raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        }
    }

    fn voters(&self) -> Vec<RaftId> {
        sorted(&self.raw.raft.prs().conf().to_conf_state().voters)
    }

    /// A picture of this member.
    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let conf_state = raft.prs().conf().to_conf_state();
        let marks = self.watermarks();
        let mut peers = Vec::new();
        if raft.state == StateRole::Leader {
            peers.extend(raft.prs().iter().map(|(id, progress)| PeerProgress {
                id: RaftId(*id),
                matched: LogIndex(progress.matched),
                recent_active: progress.recent_active || *id == self.config.id.0,
                state: match progress.state {
                    ProgressState::Probe => PeerState::Probe,
                    ProgressState::Replicate => PeerState::Replicate,
                    ProgressState::Snapshot => PeerState::Snapshot,
                },
            }));
            peers.sort_unstable_by_key(|peer| peer.id);
        }
        let mut learners = sorted(&conf_state.learners);
        learners.extend(sorted(&conf_state.learners_next));
        learners.sort_unstable();
        Status {
            id: self.config.id,
            role: self.role(),
            term: self.term(),
            leader: non_zero(raft.leader_id),
            term_start: self.term_start,
            first_index: marks.log_first,
            last_index: marks.log_last,
            persisted: marks.persisted,
            committed: marks.committed,
            applied: marks.applied,
            snapshot: marks.snapshot,
            voters: sorted(&conf_state.voters),
            voters_outgoing: sorted(&conf_state.voters_outgoing),
            learners,
            peers,
            transferring: raft.lead_transferee.is_some(),
            table: Arc::clone(self.table()),
            removed: self.is_removed(self.config.id),
            behind_own_promises: self.behind_own_promises(),
        }
    }

    /// The named positions of the log.
    #[must_use]
    pub fn watermarks(&self) -> Watermarks {
        let raft = &self.raw.raft;
        Watermarks {
            log_first: LogIndex(raft.raft_log.first_index()),
            snapshot: LogIndex(
                raft.snap()
                    .map_or(self.raw.store().marker().snapshot_index, |it| {
                        it.get_metadata().index
                    }),
            ),
            applied: LogIndex(self.applied),
            delivered: LogIndex(self.delivered),
            processed: LogIndex(self.processed),
            committed: LogIndex(raft.raft_log.committed),
            persisted: LogIndex(self.raw.store().durable()),
            log_last: LogIndex(raft.raft_log.last_index()),
        }
    }

    /// The term of an entry in the log, if it is still known.
    #[must_use]
    pub fn entry_term(&self, index: LogIndex) -> Option<Term> {
        self.raw.store().term(index.0).ok().map(Term)
    }

    /// Messages dropped so far, by reason.
    #[must_use]
    pub fn dropped(&self) -> &BTreeMap<DropReason, u64> {
        &self.dropped
    }

    /// Proposals refused by the core so far.
    #[must_use]
    pub fn refused_proposals(&self) -> u64 {
        self.refused_proposals
    }

    /// Changes of the membership asked for here, by how they ended: `done` or the label of a [`crate::ChangeError`].
    #[must_use]
    pub fn change_outcomes(&self) -> &BTreeMap<&'static str, u64> {
        &self.change_outcomes
    }

    fn is_removed(&self, id: RaftId) -> bool {
        self.table().removed.contains_key(&id)
    }

    /// Bytes of the log's files.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.raw.store().size_bytes()
    }

    /// True if entries wait in the log for the application to make room.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.delivered < self.processed
    }
}

fn sorted(members: &[u64]) -> Vec<RaftId> {
    let mut members: Vec<RaftId> = members.iter().copied().map(RaftId).collect();
    members.sort_unstable();
    members
}

fn non_zero(id: u64) -> Option<RaftId> {
    (id != 0).then_some(RaftId(id))
}

/// The message of a caught panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".to_string())
}
