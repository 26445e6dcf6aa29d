//! Members as the node runs them: threads, real files, a transport.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use raft_adapter::{
    ChangeError, ChangeId, Config, Delivery, FakeDisk, Fatal, LogIndex, MemberChange, MemberRole,
    MemberStep, OpenError, Opened, ProposeError, ProposeOutcome, RaftHandle, RaftId, Role, Status,
    TransferError, Transport, open, open_on,
};

/// Long enough for any machine; nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

type Applied = Arc<Mutex<Vec<Bytes>>>;

/// Hands messages straight to the other members' inboxes.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<BTreeMap<RaftId, RaftHandle>>>);

struct WireEnd {
    from: RaftId,
    wire: Wire,
}

impl Transport for WireEnd {
    fn send(&mut self, to: RaftId, message: Bytes) -> bool {
        let receiver = self.wire.0.lock().unwrap().get(&to).cloned();
        receiver
            .map(|receiver| receiver.receive(self.from, message))
            .is_some()
    }
}

struct Running {
    handle: RaftHandle,
    raft: JoinHandle<Result<(), Fatal>>,
    application: JoinHandle<()>,
    applied: Applied,
}

fn config(id: u64, voters: u64) -> Config {
    Config {
        tick: Duration::from_millis(20),
        ..Config::new(RaftId(id), (1..=voters).map(RaftId).collect())
    }
}

impl Running {
    fn start(id: u64, voters: u64, dir: &Path, wire: &Wire) -> Self {
        let transport = WireEnd {
            from: RaftId(id),
            wire: wire.clone(),
        };
        let opened = open(config(id, voters), dir, LogIndex(0), Box::new(transport)).unwrap();
        wire.0
            .lock()
            .unwrap()
            .insert(RaftId(id), opened.handle.clone());
        Self::run(opened)
    }

    fn run(
        Opened {
            handle,
            deliveries,
            runner,
            ..
        }: Opened,
    ) -> Self {
        let raft = std::thread::spawn(move || runner.run());
        let applied = Applied::default();
        let application = {
            let (handle, applied) = (handle.clone(), Arc::clone(&applied));
            std::thread::spawn(move || {
                let mut expected = LogIndex(1);
                for delivery in deliveries {
                    assert_eq!(delivery.index(), expected);
                    expected = expected.next();
                    let index = delivery.index();
                    match delivery {
                        Delivery::Entry(entry) if !entry.payload.is_empty() => {
                            applied.lock().unwrap().push(entry.payload);
                        }
                        Delivery::Entry(_) | Delivery::Members(_) => {}
                        Delivery::Snapshot(_) => panic!("no manifest was made"),
                    }
                    handle.applied(index);
                }
            })
        };
        Self {
            handle,
            raft,
            application,
            applied,
        }
    }

    fn stop(self) -> Result<(), Fatal> {
        self.handle.shutdown();
        let outcome = self.raft.join().unwrap();
        self.application.join().unwrap();
        outcome
    }

    fn count(&self) -> usize {
        self.applied.lock().unwrap().len()
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn may_mint(status: &Status) -> bool {
    status.role == Role::Leader
        && status
            .term_start
            .is_some_and(|start| status.applied >= start)
}

fn wait_for_leader(members: &BTreeMap<u64, Running>) -> u64 {
    let mut leader = 0;
    wait_until("somebody leads", || {
        let leading = members
            .iter()
            .find(|(_, member)| may_mint(&member.handle.status()));
        leader = leading.map_or(0, |(id, _)| *id);
        leader != 0
    });
    leader
}

fn propose(leader: &RaftHandle, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let payload = Bytes::from(format!("payload {number}"));
        loop {
            match leader.propose(payload.clone(), leader.status().term) {
                Ok(()) => break,
                Err(refusal) if refusal.is_retryable() => std::thread::yield_now(),
                Err(refusal) => panic!("{refusal}"),
            }
        }
    }
}

fn dirs(root: &Path) -> Vec<PathBuf> {
    (1..=3).map(|id| root.join(id.to_string())).collect()
}

#[test]
fn three_members_deliver_a_thousand_payloads_in_one_order_and_one_restarts() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let wire = Wire::default();
    let mut members: BTreeMap<u64, Running> = (1..=3)
        .map(|id| (id, Running::start(id, 3, &dirs[id as usize - 1], &wire)))
        .collect();
    let leader = wait_for_leader(&members);
    let follower = if leader == 1 { 2 } else { 1 };
    propose(&members[&leader].handle, 0..500);
    members.remove(&follower).unwrap().stop().unwrap();
    propose(&members[&leader].handle, 500..1000);
    members.insert(
        follower,
        Running::start(follower, 3, &dirs[follower as usize - 1], &wire),
    );
    wait_until("everyone has everything", || {
        members.values().all(|member| member.count() == 1000)
    });
    let expected: Vec<Bytes> = (0..1000)
        .map(|number| Bytes::from(format!("payload {number}")))
        .collect();
    for (id, member) in members {
        assert_eq!(*member.applied.lock().unwrap(), expected, "member {id}");
        member.stop().unwrap();
    }
}

#[test]
fn a_leader_that_shuts_down_hands_over_first() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let wire = Wire::default();
    let mut members: BTreeMap<u64, Running> = (1..=3)
        .map(|id| (id, Running::start(id, 3, &dirs[id as usize - 1], &wire)))
        .collect();
    let leader = wait_for_leader(&members);
    let term = members[&leader].handle.status().term;
    let stopped = members.remove(&leader).unwrap();
    let handle = stopped.handle.clone();
    stopped.stop().unwrap();
    let last = handle.status();
    assert_ne!(last.role, Role::Leader);
    assert!(last.term > term);
    assert_eq!(
        handle.propose(Bytes::from_static(b"x"), last.term),
        Err(ProposeError::Stopped)
    );
    wait_for_leader(&members);
    for member in members.into_values() {
        member.stop().unwrap();
    }
}

#[test]
fn a_tracked_proposal_learns_its_position_and_a_follower_refuses_at_once() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let wire = Wire::default();
    let members: BTreeMap<u64, Running> = (1..=3)
        .map(|id| (id, Running::start(id, 3, &dirs[id as usize - 1], &wire)))
        .collect();
    let leader = wait_for_leader(&members);
    let handle = &members[&leader].handle;
    let status = handle.status();
    let outcome = handle
        .propose_tracked(Bytes::from_static(b"x"), status.term)
        .unwrap();
    let expected = ProposeOutcome::Appended {
        index: status.last_index.next(),
        term: status.term,
    };
    assert_eq!(outcome.blocking_recv().unwrap(), expected);
    let follower = members.keys().find(|id| **id != leader).unwrap();
    let follower = &members[follower].handle;
    wait_until("the follower knows its leader", || {
        follower.status().leader.is_some()
    });
    let refused = follower.propose(Bytes::from_static(b"x"), follower.status().term);
    assert_eq!(
        refused,
        Err(ProposeError::NotLeader {
            leader: Some(RaftId(leader))
        })
    );
    assert_eq!(
        handle.propose(Bytes::new(), status.term),
        Err(ProposeError::EmptyPayload)
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let to = RaftId(*members.keys().find(|id| **id != leader).unwrap());
    assert_eq!(runtime.block_on(handle.transfer_leadership(to)), Ok(()));
    wait_until("the successor leads", || {
        members[&to.0].handle.status().role == Role::Leader
    });
    let again = runtime.block_on(handle.transfer_leadership(to));
    assert!(
        matches!(again, Err(TransferError::NotLeader { .. })),
        "{again:?}"
    );
    for member in members.into_values() {
        member.stop().unwrap();
    }
}

struct Nowhere;

impl Transport for Nowhere {
    fn send(&mut self, _to: RaftId, _message: Bytes) -> bool {
        false
    }
}

#[test]
fn a_failed_sync_ends_the_member() {
    let disk = FakeDisk::new();
    let opened = open_on(
        config(1, 1),
        Arc::new(disk.clone()),
        LogIndex(0),
        Box::new(Nowhere),
    )
    .unwrap();
    let member = Running::run(opened);
    wait_until("it leads", || may_mint(&member.handle.status()));
    disk.fail_syncs(1);
    let term = member.handle.status().term;
    member
        .handle
        .propose(Bytes::from_static(b"x"), term)
        .unwrap();
    let Running {
        handle,
        raft,
        application,
        applied,
    } = member;
    let fatal = raft.join().unwrap().unwrap_err();
    assert!(
        matches!(
            fatal,
            Fatal::Disk {
                operation: "syncing",
                ..
            }
        ),
        "{fatal}"
    );
    application.join().unwrap();
    assert!(
        applied.lock().unwrap().is_empty(),
        "delivered though it was never durable"
    );
    assert_eq!(
        handle.propose(Bytes::from_static(b"y"), term),
        Err(ProposeError::Stopped)
    );
}

#[test]
fn an_application_that_goes_away_ends_the_member() {
    let disk = Arc::new(FakeDisk::new());
    let Opened {
        handle: _handle,
        deliveries,
        runner,
        ..
    } = open_on(config(1, 1), disk, LogIndex(0), Box::new(Nowhere)).unwrap();
    drop(deliveries);
    assert_eq!(runner.run(), Err(Fatal::ApplicationGone));
}

#[test]
fn a_log_folder_is_used_by_one_member_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let first = open(config(1, 1), root.path(), LogIndex(0), Box::new(Nowhere)).unwrap();
    let second = open(config(1, 1), root.path(), LogIndex(0), Box::new(Nowhere));
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(first);
    assert!(open(config(1, 1), root.path(), LogIndex(0), Box::new(Nowhere)).is_ok());
}

#[test]
fn a_faulty_configuration_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let faulty = Config {
        election_ticks: 1,
        ..config(1, 1)
    };
    let refused = open(faulty, root.path(), LogIndex(0), Box::new(Nowhere));
    assert!(matches!(refused, Err(OpenError::Config(_))));
}

#[test]
fn compacting_shortens_the_log_of_a_running_member() {
    let root = tempfile::tempdir().unwrap();
    let small = Config {
        trailing_entries: 10,
        segment_bytes: 4096,
        ..config(1, 1)
    };
    let opened = open(small.clone(), root.path(), LogIndex(0), Box::new(Nowhere)).unwrap();
    let member = Running::run(opened);
    wait_until("it leads", || may_mint(&member.handle.status()));
    propose(&member.handle, 0..200);
    wait_until("all is applied", || member.count() == 200);
    let applied = member.handle.status().applied;
    member
        .handle
        .compact(applied, Bytes::from_static(b"manifest"));
    wait_until("it is compacted", || {
        member.handle.status().snapshot == applied
    });
    assert_eq!(member.handle.status().first_index.0, applied.0 - 10 + 1);
    member.stop().unwrap();
    let reopened = open(small, root.path(), applied, Box::new(Nowhere)).unwrap();
    let status = reopened.handle.status();
    assert_eq!(
        (status.snapshot, status.first_index.0),
        (applied, applied.0 - 10 + 1)
    );
}

#[test]
fn a_change_of_the_membership_is_answered_when_it_is_in_full_effect() {
    let root = tempfile::tempdir().unwrap();
    let dirs = dirs(root.path());
    let wire = Wire::default();
    let members: BTreeMap<u64, Running> = (1..=3)
        .map(|id| (id, Running::start(id, 3, &dirs[id as usize - 1], &wire)))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let ask = |at: u64, number: u8, steps: Vec<MemberStep>| {
        let change = MemberChange {
            id: ChangeId([number; 16]),
            steps,
            ..MemberChange::default()
        };
        runtime.block_on(members[&at].handle.change_members(change))
    };
    let leader = wait_for_leader(&members);
    let add = MemberStep::Add {
        role: MemberRole::Learner,
        details: "four".into(),
    };
    let done = ask(leader, 1, vec![add.clone()]).unwrap();
    assert_eq!(done.change.added, [RaftId(4)]);
    let again = ask(leader, 1, vec![add]).unwrap();
    assert_eq!(again.change, done.change);
    let newcomer = Running::start(4, 3, &root.path().join("4"), &wire);
    wait_until("the newcomer knows itself", || {
        let table = newcomer.handle.status().table;
        table.members.contains_key(&RaftId(4))
    });
    let follower = if leader == 1 { 2 } else { 1 };
    let swap = vec![
        MemberStep::SetRole {
            id: RaftId(4),
            role: MemberRole::Voter,
        },
        MemberStep::Remove { id: RaftId(leader) },
    ];
    let refusal = ask(follower, 2, swap.clone()).unwrap_err();
    assert!(
        matches!(refusal, ChangeError::NotLeader { .. }),
        "{refusal}"
    );
    // The newcomer counts as soon as it was heard and caught up.
    let mut done = ask(leader, 2, swap.clone());
    wait_until("the leader is replaced", || match &done {
        Ok(_) => true,
        Err(error) => {
            let patient = error.is_retryable() || matches!(error, ChangeError::QuorumAtRisk { .. });
            assert!(patient, "{error}");
            let at = [1, 2, 3]
                .into_iter()
                .find(|id| members[id].handle.status().role == Role::Leader);
            done = ask(at.unwrap_or(leader), 2, swap.clone());
            false
        }
    });
    let done = done.unwrap();
    assert!(!done.table.is_joint());
    assert!(done.table.removed.contains_key(&RaftId(leader)));
    wait_until("the old leader knows that it was removed", || {
        members[&leader].handle.status().removed
    });
    newcomer.stop().unwrap();
    for member in members.into_values() {
        member.stop().unwrap();
    }
}
