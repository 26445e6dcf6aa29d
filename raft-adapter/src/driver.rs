//! The thread around the core: its clock, its inbox, its way out.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use bytes::Bytes;
use raft::eraftpb::ConfState;
use tokio::sync::{oneshot, watch};

use crate::core::Core;
use crate::disk::{Disk, RealDisk};
use crate::handle::Request;
use crate::log::Log;
use crate::{
    Config, Delivery, Fatal, LogIndex, OpenError, RaftHandle, RaftId, Role, Status, TransferError,
};

/// Requests that may wait. Proposals and messages beyond are refused and dropped; both are repeated by who sent them.
const REQUESTS: usize = 8_192;
/// Requests dealt with before the log is synced once for all of them.
const BATCH: usize = 1_024;
/// Committed entries that the application has not fetched. What does not fit is read from the log later.
const DELIVERIES: usize = 64;
/// Bytes read from the log at once for the application.
const DELIVERY_BYTES: u64 = 8 << 20;

/// The network, as far as ordering needs it.
pub trait Transport: Send + 'static {
    /// Queues a message to a member, without waiting. False if it could not be queued: ordering then treats the member
    /// as unreachable and repeats the message later.
    fn send(&mut self, to: RaftId, message: Bytes) -> bool;
}

/// A member's ordering, opened.
pub struct Opened {
    /// Asks it.
    pub handle: RaftHandle,
    /// What is committed, in order. Ends when ordering has ended.
    pub deliveries: Receiver<Delivery>,
    /// To be run on a thread of its own.
    pub runner: RaftRunner,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

/// Opens or begins the log in `dir`. `applied`: the last index whose effect the application already has.
///
/// # Errors
/// [`OpenError`].
pub fn open(
    config: Config,
    dir: &Path,
    applied: LogIndex,
    transport: Box<dyn Transport>,
) -> Result<Opened, OpenError> {
    let disk = RealDisk::open(dir.to_owned()).map_err(|e| OpenError::Io {
        reason: format!("{}: {e}", dir.display()),
    })?;
    open_on(config, Box::new(disk), applied, transport)
}

pub(crate) fn open_core(
    config: Config,
    disk: Box<dyn Disk>,
    applied: LogIndex,
) -> Result<Core, OpenError> {
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(OpenError::Config {
            reason: faults.join("; "),
        });
    }
    let members = ConfState {
        voters: config.voters.iter().map(|id| id.0).collect(),
        learners: config.learners.iter().map(|id| id.0).collect(),
        ..ConfState::default()
    };
    let log = Log::open(disk, members, config.segment_bytes, config.cache_bytes)?;
    Core::open(config, log, applied)
}

fn open_on(
    config: Config,
    disk: Box<dyn Disk>,
    applied: LogIndex,
    transport: Box<dyn Transport>,
) -> Result<Opened, OpenError> {
    let core = open_core(config.clone(), disk, applied)?;
    let (requests, inbox) = sync_channel(REQUESTS);
    let (deliver, deliveries) = sync_channel(DELIVERIES);
    let status = Arc::new(watch::Sender::new(core.status()));
    let handle = RaftHandle {
        requests,
        status: Arc::clone(&status),
    };
    let runner = RaftRunner {
        config,
        core,
        inbox,
        deliver,
        undelivered: None,
        status,
        transport,
        transfer: None,
        stopping: None,
    };
    Ok(Opened {
        handle,
        deliveries,
        runner,
    })
}

/// The body of the raft thread.
pub struct RaftRunner {
    config: Config,
    core: Core,
    inbox: Receiver<Request>,
    deliver: SyncSender<Delivery>,
    undelivered: Option<std::collections::VecDeque<Delivery>>,
    status: Arc<watch::Sender<Status>>,
    transport: Box<dyn Transport>,
    /// A transfer under way: to whom, until when (in ticks), who asked.
    transfer: Option<Transfer>,
    /// Ticks left to hand leadership over before the thread ends.
    stopping: Option<u32>,
}

struct Transfer {
    ticks_left: u32,
    done: oneshot::Sender<Result<(), TransferError>>,
}

impl std::fmt::Debug for RaftRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftRunner")
            .field("id", &self.config.id)
            .finish_non_exhaustive()
    }
}

impl RaftRunner {
    /// Orders until shut down.
    ///
    /// # Errors
    /// [`Fatal`]: the process must end.
    pub fn run(mut self) -> Result<(), Fatal> {
        let mut next_tick = Instant::now() + self.config.tick;
        loop {
            let now = Instant::now();
            if now >= next_tick {
                // After a pause of the process one tick is enough: time that nobody saw cannot be caught up with.
                next_tick = now + self.config.tick;
                self.tick();
            }
            match self
                .inbox
                .recv_timeout(next_tick.saturating_duration_since(Instant::now()))
            {
                Ok(request) => {
                    self.request(request)?;
                    for _ in 1..BATCH {
                        let Ok(request) = self.inbox.try_recv() else {
                            break;
                        };
                        self.request(request)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.progress()?;
            if self.stopped() {
                return Ok(());
            }
        }
    }

    fn tick(&mut self) {
        self.core.tick();
        if let Some(left) = &mut self.stopping {
            *left = left.saturating_sub(1);
        }
        if let Some(transfer) = &mut self.transfer {
            transfer.ticks_left = transfer.ticks_left.saturating_sub(1);
        }
    }

    fn request(&mut self, request: Request) -> Result<(), Fatal> {
        match request {
            Request::Propose {
                payload,
                term,
                outcome,
            } => {
                let result = self.core.propose(payload, term);
                if let Some(outcome) = outcome {
                    // The proposer may have lost interest.
                    outcome.send(result).ok();
                }
            }
            Request::Received { from, message } => self.core.received(from, &message),
            Request::Unreachable { peer } => self.core.unreachable(peer),
            Request::Applied { index } => self.core.applied(index),
            Request::Compact { up_to, manifest } => self.core.compact(up_to, manifest)?,
            Request::Transfer { to, done } => match self.core.transfer(to) {
                Ok(()) => {
                    self.transfer = Some(Transfer {
                        ticks_left: self.config.election_ticks,
                        done,
                    })
                }
                Err(e) => {
                    done.send(Err(e)).ok();
                }
            },
            Request::Shutdown => self.begin_stop(),
        }
        Ok(())
    }

    fn begin_stop(&mut self) {
        let successor = match self.core.status().role {
            Role::Leader => self.core.best_successor(),
            Role::Follower | Role::Candidate | Role::Learner => None,
        };
        self.stopping = Some(match successor {
            Some(to) if self.core.transfer(to).is_ok() => self.config.election_ticks,
            _ => 0,
        });
    }

    fn stopped(&self) -> bool {
        self.stopping
            .is_some_and(|left| left == 0 || self.status.borrow().role != Role::Leader)
    }

    /// Syncs what has to be, sends, delivers, tells.
    fn progress(&mut self) -> Result<(), Fatal> {
        let started = Instant::now();
        let transport = &mut self.transport;
        let mut failed: Vec<RaftId> = Vec::new();
        let mut snapshots: Vec<(RaftId, bool)> = Vec::new();
        self.core.ready(&mut |to, message, snapshot| {
            let queued = transport.send(to, message);
            if snapshot {
                snapshots.push((to, queued));
            } else if !queued && !failed.contains(&to) {
                failed.push(to);
            }
        })?;
        metrics::histogram!("quorate_raft_ready_seconds").record(started.elapsed().as_secs_f64());
        for to in failed {
            self.core.unreachable(to);
        }
        for (to, queued) in snapshots {
            self.core.snapshot_sent(to, queued);
        }
        self.deliver()?;
        self.tell();
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), Fatal> {
        loop {
            let mut waiting = match self.undelivered.take() {
                Some(waiting) => waiting,
                None => self.core.deliveries(DELIVERIES, DELIVERY_BYTES)?.into(),
            };
            if waiting.is_empty() {
                return Ok(());
            }
            while let Some(delivery) = waiting.pop_front() {
                match self.deliver.try_send(delivery) {
                    Ok(()) => {}
                    Err(TrySendError::Full(delivery)) => {
                        waiting.push_front(delivery);
                        self.undelivered = Some(waiting);
                        return Ok(());
                    }
                    // The application ends first only when the node ends.
                    Err(TrySendError::Disconnected(_)) => {
                        self.stopping.get_or_insert(0);
                        return Ok(());
                    }
                }
            }
        }
    }

    fn tell(&mut self) {
        let status = self.core.status();
        if let Some(transfer) = self.transfer.take() {
            if status.role != Role::Leader {
                transfer.done.send(Ok(())).ok();
            } else if transfer.ticks_left == 0 {
                transfer.done.send(Err(TransferError::TimedOut)).ok();
            } else {
                self.transfer = Some(transfer);
            }
        }
        let before = self.status.borrow().clone();
        if before.role != status.role
            || before.term != status.term
            || before.leader != status.leader
        {
            tracing::info!(role = ?status.role, term = status.term.0, leader = ?status.leader.map(|l| l.0), "ordering");
            metrics::gauge!("quorate_raft_term").set(status.term.0 as f64);
            metrics::counter!("quorate_raft_role_changes_total").increment(1);
        }
        metrics::gauge!("quorate_raft_committed_index").set(status.committed.0 as f64);
        metrics::gauge!("quorate_raft_applied_index").set(status.applied.0 as f64);
        metrics::gauge!("quorate_raft_log_bytes").set(self.core.log_bytes() as f64);
        if before != status {
            self.status.send_replace(status);
        }
    }
}
