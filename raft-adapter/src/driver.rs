//! The two threads around the core: one decides, one waits for the disk.
//!
//! ```text
//! handles ─► inbox ─► raft thread ── Send ──────────► transport
//!              ▲         │  │  └──── Deliver ───────► application
//!              │         │  └─ Persist{batch, then_send}
//!              │         ▼
//!              └──── raft-log thread: write all that is queued, sync once, hand `then_send` back
//! ```

use std::{
    collections::BTreeMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    config::Config,
    core::{Core, panic_text},
    error::{Fatal, OpenError},
    handle::RaftHandle,
    ids::{LogIndex, RaftId, Ticket},
    inbox::{ChangeReply, Completion, Inbox, Lanes, ProposeReply, TransferReply},
    io::{Answer, Delivery, Envelope, Input, Output, Persist, Proposal},
    log::{
        disk::{Disk, FolderDisk},
        writer::LogWriter,
    },
    member_table::MemberTable,
    metrics::{LogMetrics, RaftMetrics, message_not_sent},
    status::{Role, Status},
};

/// Writes queued for the log thread. When it is full, the raft thread waits: a leader whose disk is that far behind
/// should lose its leadership, and a follower should not take on more.
const WRITES_MAX: usize = 1024;

/// Carries messages to other members.
pub trait Transport: Send + 'static {
    /// Queues a message for `to`. Must not block. False if it could not be queued: the core then treats the member as
    /// unreachable for the moment. Losing, repeating and reordering messages is harmless.
    fn send(&mut self, to: RaftId, message: Bytes) -> bool;
}

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened {
    /// For everyone who asks.
    pub handle: RaftHandle,
    /// For the application: every entry in log order, beginning behind what it has applied.
    pub deliveries: Receiver<Delivery>,
    /// To be run on a thread of its own.
    pub runner: RaftRunner,
    /// The membership as the log has it now; deliveries tell what becomes of it. It may be ahead of the deliveries that
    /// repeat what the application did not hold yet.
    pub table: Arc<MemberTable>,
}

/// The raft thread, before it runs.
pub struct RaftRunner {
    core: Core,
    tick: Duration,
    election_ticks: u32,
    inbox: Arc<Inbox>,
    disk: Arc<dyn Disk>,
    transport: Box<dyn Transport>,
    deliveries: SyncSender<Delivery>,
    status: watch::Sender<Status>,
}

impl fmt::Debug for RaftRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftRunner")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

/// Opens the log in `dir`, recovers it and builds the core. `applied` is the last index whose effect the application
/// already holds durably enough to skip it.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    config: Config,
    dir: &Path,
    applied: LogIndex,
    transport: Box<dyn Transport>,
) -> Result<Opened, OpenError> {
    let disk = open_folder(dir)?;
    open_on(config, Arc::new(disk), applied, transport)
}

/// Opens and locks the folder of a log.
pub(crate) fn open_folder(dir: &Path) -> Result<FolderDisk, OpenError> {
    FolderDisk::open(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked {
            dir: dir.to_path_buf(),
        },
        _ => OpenError::Io {
            action: format!("open log folder {}", dir.display()),
            source,
        },
    })
}

/// As [`open`], on any disk.
///
/// # Errors
/// See [`OpenError`].
pub fn open_on(
    config: Config,
    disk: Arc<dyn Disk>,
    applied: LogIndex,
    transport: Box<dyn Transport>,
) -> Result<Opened, OpenError> {
    let (tick, election_ticks) = (config.tick, config.election_ticks);
    let (payload_bytes_max, delivery_entries_max) =
        (config.payload_bytes_max, config.delivery_entries_max);
    let core = Core::open(config, Arc::clone(&disk), applied)?;
    let table = Arc::clone(core.table());
    let inbox = Arc::new(Inbox::new());
    let (status, watched) = watch::channel(core.status());
    // As large as the core's window, so that it is never full.
    let (sender, deliveries) = sync_channel(delivery_entries_max as usize);
    let handle = RaftHandle::new(Arc::clone(&inbox), watched, payload_bytes_max);
    let runner = RaftRunner {
        core,
        tick,
        election_ticks,
        inbox,
        disk,
        transport,
        deliveries: sender,
        status,
    };
    Ok(Opened {
        handle,
        deliveries,
        runner,
        table,
    })
}

impl RaftRunner {
    /// The body of the raft thread: runs until [`RaftHandle::shutdown`]. Starts the log thread and joins it.
    ///
    /// # Errors
    /// [`Fatal`]: the process should end. Nothing is promised to anyone after it.
    pub fn run(self) -> Result<(), Fatal> {
        let _closing = CloseOnEnd(Arc::clone(&self.inbox));
        let (writes, queue) = sync_channel(WRITES_MAX);
        let writer = LogWriter::new(Arc::clone(&self.disk));
        let inbox = Arc::clone(&self.inbox);
        let log_thread = Builder::new()
            .name("raft-log".into())
            .spawn(move || log_thread(writer, &queue, &inbox))
            .map_err(|error| gone(error.to_string()))?;
        let mut running = Running {
            next_tick: Instant::now() + self.tick,
            runner: self,
            writes,
            metrics: RaftMetrics::new(),
            next_ticket: 0,
            replies: BTreeMap::new(),
            feedback: Vec::new(),
            stopping: None,
        };
        let outcome = running.run();
        // Ends the log thread's queue; what is in it is still written and synced.
        drop(running);
        let log_outcome = join(log_thread);
        outcome.and(log_outcome)
    }
}

fn gone(reason: String) -> Fatal {
    Fatal::ThreadGone {
        thread: "raft-log",
        reason,
    }
}

fn join(log_thread: JoinHandle<Result<(), Fatal>>) -> Result<(), Fatal> {
    log_thread
        .join()
        .unwrap_or_else(|panic| Err(gone(panic_text(panic.as_ref()))))
}

/// However the raft thread ends, callers learn that it did.
struct CloseOnEnd(Arc<Inbox>);

impl Drop for CloseOnEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The raft thread, running.
struct Running {
    runner: RaftRunner,
    next_tick: Instant,
    writes: SyncSender<Persist>,
    metrics: RaftMetrics,
    next_ticket: u64,
    replies: BTreeMap<Ticket, Reply>,
    /// What sending taught, for the core's next turn.
    feedback: Vec<Input>,
    /// Ticks left for handing leadership over.
    stopping: Option<u32>,
}

enum Reply {
    Propose(ProposeReply),
    Transfer(TransferReply),
    Change(ChangeReply),
}

impl Running {
    fn run(&mut self) -> Result<(), Fatal> {
        let mut out = Vec::new();
        self.publish();
        loop {
            let wait_until = if self.feedback.is_empty() {
                self.next_tick
            } else {
                Instant::now()
            };
            let lanes = self.runner.inbox.take(wait_until);
            self.accept(lanes, &mut out)?;
            self.tick_if_due(&mut out)?;
            self.runner.core.flush(&mut out)?;
            for output in out.drain(..) {
                self.carry_out(output)?;
            }
            let status = self.publish();
            if self.may_stop(&status) {
                return Ok(());
            }
        }
    }

    /// Everything that waited goes in before one flush, so that it shares one write.
    fn accept(&mut self, lanes: Lanes, out: &mut Vec<Output>) -> Result<(), Fatal> {
        if let Some(fatal) = lanes.fatal {
            return Err(fatal);
        }
        let mut inputs = std::mem::take(&mut self.feedback);
        let mut released = Vec::new();
        if !lanes.completions.is_empty() {
            fail_point!("raft.ready.persisted");
        }
        for completion in lanes.completions {
            inputs.push(Input::Persisted {
                write: completion.write,
            });
            released.extend(completion.then_send);
        }
        inputs.extend(lanes.applied.map(|index| Input::Applied { index }));
        inputs.extend(
            lanes
                .compaction
                .map(|(up_to, manifest)| Input::Compact { up_to, manifest }),
        );
        inputs.extend(
            lanes
                .unreachable
                .into_iter()
                .map(|peer| Input::Unreachable { peer }),
        );
        inputs.extend(
            lanes
                .messages
                .into_iter()
                .map(|(from, message)| Input::Received { from, message }),
        );
        for (to, reply) in lanes.transfers {
            let ticket = self.ticket(Reply::Transfer(reply));
            inputs.push(Input::TransferLeadership { to, ticket });
        }
        for (change, reply) in lanes.changes {
            let ticket = self.ticket(Reply::Change(reply));
            inputs.push(Input::ChangeMembers { change, ticket });
        }
        for waiting in lanes.proposals {
            let ticket = waiting
                .reply
                .map(|reply| self.ticket(Reply::Propose(reply)));
            let (payload, in_term) = (waiting.payload, waiting.in_term);
            inputs.push(Input::Propose(Proposal {
                payload,
                in_term,
                ticket,
            }));
        }
        if lanes.shutdown && self.stopping.is_none() {
            self.stopping = Some(self.runner.election_ticks);
            inputs.push(Input::HandOver);
        }
        for envelope in released {
            self.send(envelope);
        }
        inputs
            .into_iter()
            .try_for_each(|input| self.runner.core.accept(input, out))
    }

    fn ticket(&mut self, reply: Reply) -> Ticket {
        self.next_ticket += 1;
        self.replies.insert(Ticket(self.next_ticket), reply);
        Ticket(self.next_ticket)
    }

    /// Ticks missed because the thread was held up are not made up for: members were not silent meanwhile, we were deaf.
    fn tick_if_due(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        let now = Instant::now();
        if now < self.next_tick {
            return Ok(());
        }
        fail_point!("raft.ready.tick");
        let tick = self.runner.tick;
        self.next_tick = (self.next_tick + tick).max(now + tick / 2);
        if let Some(ticks_left) = &mut self.stopping {
            *ticks_left = ticks_left.saturating_sub(1);
        }
        self.runner.core.accept(Input::Tick, out)
    }

    fn carry_out(&mut self, output: Output) -> Result<(), Fatal> {
        match output {
            Output::Send(envelope) => self.send(envelope),
            Output::Persist(persist) => {
                fail_point!("raft.ready.persist");
                if self.writes.send(persist).is_err() {
                    // It said why before it ended.
                    let reported = self.runner.inbox.take(Instant::now()).fatal;
                    return Err(reported.unwrap_or_else(|| gone("its queue is closed".into())));
                }
            }
            Output::Deliver(delivery) => {
                fail_point!("raft.ready.deliver");
                match self.runner.deliveries.try_send(delivery) {
                    Ok(()) => {}
                    Err(TrySendError::Disconnected(_)) if self.stopping.is_some() => {}
                    Err(TrySendError::Disconnected(_)) => return Err(Fatal::ApplicationGone),
                    Err(TrySendError::Full(delivery)) => {
                        let what = format!("no room for delivery {}", delivery.index());
                        return Err(Fatal::Impossible { what });
                    }
                }
            }
            Output::Answer { ticket, answer } => self.answer(ticket, answer),
        }
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) {
        let Envelope {
            to: peer,
            message,
            snapshot,
        } = envelope;
        fail_point!("raft.ready.send");
        let delivered = self.runner.transport.send(peer, message);
        if snapshot {
            self.feedback
                .push(Input::SnapshotOutcome { peer, delivered });
        }
        if !delivered {
            message_not_sent();
            self.feedback.push(Input::Unreachable { peer });
        }
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        fail_point!("raft.ready.answer");
        let heard = match (self.replies.remove(&ticket), answer) {
            (Some(Reply::Propose(reply)), Answer::Propose(outcome)) => reply.send(outcome).is_ok(),
            (Some(Reply::Transfer(reply)), Answer::Transfer(outcome)) => {
                reply.send(outcome).is_ok()
            }
            (Some(Reply::Change(reply)), Answer::Change(outcome)) => reply.send(outcome).is_ok(),
            _ => false,
        };
        if !heard {
            tracing::debug!(%ticket, "nobody waits for this answer any more");
        }
    }

    fn publish(&mut self) -> Status {
        let status = self.runner.core.status();
        self.runner.inbox.show(&status);
        self.metrics.show(&self.runner.core, &status);
        self.runner.status.send_if_modified(|shown| {
            let changed = *shown != status;
            if changed {
                shown.clone_from(&status);
            }
            changed
        });
        status
    }

    /// A leader stays until another one is known, or nobody takes over in time.
    fn may_stop(&self, status: &Status) -> bool {
        let Some(ticks_left) = self.stopping else {
            return false;
        };
        let waits_for_successor = match status.role {
            Role::Leader => status.transferring,
            Role::Candidate | Role::Follower | Role::Learner => status.leader.is_none(),
        };
        ticks_left == 0 || !waits_for_successor
    }
}

/// Writes whatever is queued, syncs once for all of it, and reports.
fn log_thread(
    mut writer: LogWriter,
    queue: &Receiver<Persist>,
    inbox: &Inbox,
) -> Result<(), Fatal> {
    let metrics = LogMetrics::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while let Ok(first) = queue.recv() {
            let mut completions = Vec::new();
            let mut bytes = 0;
            for persist in std::iter::once(first).chain(queue.try_iter().take(WRITES_MAX)) {
                writer.write(&persist.batch)?;
                bytes += persist.batch.size_bytes();
                let Persist {
                    write, then_send, ..
                } = persist;
                completions.push(Completion { write, then_send });
            }
            if bytes > 0 {
                let started = Instant::now();
                fail_point!("raft.ready.barrier");
                writer.barrier()?;
                fail_point!("raft.ready.barrier.done");
                metrics.barrier(started.elapsed(), bytes);
            }
            inbox.complete(completions);
        }
        writer.barrier()
    }))
    .unwrap_or_else(|panic| Err(gone(panic_text(panic.as_ref()))));
    outcome.inspect_err(|fatal| inbox.fail(fatal.clone()))
}
