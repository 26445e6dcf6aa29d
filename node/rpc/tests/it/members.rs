//! A membership that works without ordering: changes are applied to a table in memory, by the rules that clients rely on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_chain::{Member, MemberRole, NodeId};
use quorate_engine::EnclaveKey;
use quorate_rpc::{
    Applicant, BreakRecord, ChangeReport, ChangeRequest, ChangeStep, MemberState, MembershipApi,
    MembershipError, MembershipView, RemovedMember,
};
use raft_adapter::RaftHandle;
use tokio::sync::watch;

/// What the next change does instead of being applied.
#[derive(Debug, Clone)]
pub enum Script {
    /// It is refused.
    Refuse(MembershipError),
    /// It is applied, and nobody ever answers.
    Vanish,
}

#[derive(Debug)]
pub struct FakeMembership {
    view: watch::Sender<Arc<MembershipView>>,
    /// Who leads is what ordering says, once it says something.
    raft: RaftHandle,
    script: Mutex<Option<Script>>,
    done: Mutex<Vec<ChangeReport>>,
}

impl FakeMembership {
    pub fn new(members: Vec<Member>, raft: RaftHandle) -> Arc<Self> {
        let this = members.first().map(|member| member.raft_id);
        let next_raft_id = members.iter().map(|m| m.raft_id).max().unwrap_or(0) + 1;
        let members = members.into_iter().map(|member| MemberState {
            connected: Some(member.raft_id) == this,
            member,
            leaving: false,
            outgoing_voter: false,
            lag: Some(0),
            enclave_keys: Vec::new(),
            keys_sequence: 0,
        });
        let view = MembershipView {
            this,
            next_raft_id,
            members: members.collect(),
            ..MembershipView::default()
        };
        Arc::new(Self {
            view: watch::Sender::new(Arc::new(view)),
            raft,
            script: Mutex::default(),
            done: Mutex::default(),
        })
    }

    pub fn script(&self, script: Script) {
        *self.script.lock() = Some(script);
    }

    /// Changes the view behind everyone's back.
    pub fn edit(&self, edit: impl FnOnce(&mut MembershipView)) {
        self.view.send_modify(|view| edit(Arc::make_mut(view)));
    }

    /// This node becomes a learner, or a voter again.
    pub fn own_role(&self, role: MemberRole) {
        self.edit(|view| view.members[0].member.role = role);
    }

    /// How many changes were applied.
    pub fn applied(&self) -> usize {
        self.done.lock().len()
    }

    fn with_leader(&self, view: &Arc<MembershipView>) -> Arc<MembershipView> {
        let status = self.raft.status();
        Arc::new(MembershipView {
            leader: view.leader.or(status.leader.map(|leader| leader.0)),
            term: status.term.0,
            ..MembershipView::clone(view)
        })
    }

    fn apply(&self, request: ChangeRequest) -> Result<ChangeReport, MembershipError> {
        let change_id = request
            .change_id
            .expect("the servers choose an id where the client gave none");
        let mut done = self.done.lock();
        if let Some(report) = done.iter().find(|report| report.change_id == change_id) {
            return Ok(report.clone());
        }
        let mut view = MembershipView::clone(&self.view.borrow());
        if let Some(expected) = request.if_table_index.filter(|at| *at != view.table_index) {
            return Err(MembershipError::TableMoved {
                expected,
                actual: view.table_index,
            });
        }
        request.check_against(&view)?;
        let mut added = Vec::new();
        let (mut voters_changed, mut newcomers) = (0, Vec::new());
        for step in request.steps {
            let find = |view: &MembershipView, raft_id: u64| {
                view.members
                    .iter()
                    .position(|state| state.member.raft_id == raft_id)
                    .ok_or(MembershipError::UnknownMember { raft_id })
            };
            match step {
                ChangeStep::Add {
                    node_id,
                    address,
                    organisation,
                    role,
                } => {
                    let raft_id = view.next_raft_id;
                    view.next_raft_id += 1;
                    added.push(raft_id);
                    if role == MemberRole::Voter {
                        voters_changed += 1;
                        newcomers.push(raft_id);
                    }
                    view.members.push(MemberState {
                        member: Member {
                            raft_id,
                            node_id,
                            address,
                            organisation,
                            role,
                        },
                        leaving: false,
                        outgoing_voter: false,
                        connected: false,
                        lag: None,
                        enclave_keys: Vec::new(),
                        keys_sequence: 0,
                    });
                }
                ChangeStep::SetRole { raft_id, role } => {
                    voters_changed += 1;
                    let at = find(&view, raft_id)?;
                    view.members[at].member.role = role;
                }
                ChangeStep::SetAddress { raft_id, address } => {
                    let at = find(&view, raft_id)?;
                    view.members[at].member.address = address;
                }
                ChangeStep::SetKeys {
                    raft_id,
                    keys,
                    sequence,
                    ..
                } => {
                    let at = find(&view, raft_id)?;
                    view.members[at].enclave_keys = keys;
                    view.members[at].keys_sequence = sequence;
                }
                ChangeStep::Remove { raft_id } => {
                    let at = find(&view, raft_id)?;
                    let gone = view.members.remove(at).member;
                    voters_changed += usize::from(gone.role == MemberRole::Voter);
                    if view.this == Some(raft_id) {
                        view.this = None;
                    }
                    view.removed.push(RemovedMember {
                        raft_id,
                        node_id: gone.node_id,
                        organisation: gone.organisation,
                    });
                }
            }
        }
        let voters = view
            .members
            .iter()
            .filter(|state| state.member.role == MemberRole::Voter)
            .count() as u64;
        let (needed, reachable) = (voters / 2 + 1, voters - newcomers.len() as u64);
        if !request.force && reachable < needed {
            return Err(MembershipError::QuorumAtRisk {
                needed,
                reachable,
                unreachable: Vec::new(),
            });
        }
        view.table_index += 1;
        let report = ChangeReport {
            change_id,
            table_index: view.table_index,
            added,
            joint: voters_changed > 1,
        };
        done.push(report.clone());
        self.view.send_replace(Arc::new(view));
        Ok(report)
    }
}

impl MembershipApi for FakeMembership {
    fn view(&self) -> Arc<MembershipView> {
        let view = Arc::clone(&self.view.borrow());
        self.with_leader(&view)
    }

    fn watch(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.view.subscribe()
    }

    fn change(
        &self,
        request: ChangeRequest,
    ) -> BoxFuture<'static, Result<ChangeReport, MembershipError>> {
        match self.script.lock().take() {
            None => futures::future::ready(self.apply(request)).boxed(),
            Some(Script::Refuse(error)) => futures::future::ready(Err(error)).boxed(),
            Some(Script::Vanish) => {
                drop(self.apply(request));
                futures::future::pending().boxed()
            }
        }
    }

    fn transfer(&self, to: Option<u64>) -> BoxFuture<'static, Result<u64, MembershipError>> {
        let view = self.view();
        let to = to.unwrap_or(1);
        let known = view.member(to).map(|state| state.member.role);
        let result = match known {
            Some(MemberRole::Voter) => {
                self.edit(|view| view.leader = Some(to));
                Ok(to)
            }
            Some(MemberRole::Learner) => Err(MembershipError::Invalid {
                field: "raftId".into(),
                reason: format!("raft id {to} is a learner and cannot lead"),
            }),
            None => Err(MembershipError::UnknownMember { raft_id: to }),
        };
        futures::future::ready(result).boxed()
    }
}

/// What only time brings: someone who was removed, a forced new beginning, and a node that wants to be admitted.
pub fn with_a_past(view: &mut MembershipView, node_id: NodeId) {
    view.members[0].keys_sequence = 3;
    view.members[0].enclave_keys = vec![
        EnclaveKey {
            key: [7; 32],
            hybrid_digest: None,
        },
        EnclaveKey {
            key: [9; 32],
            hybrid_digest: Some([8; 32]),
        },
    ];
    view.removed.push(RemovedMember {
        raft_id: 9,
        node_id,
        organisation: "Gone".into(),
    });
    view.breaks.push(BreakRecord {
        raft_index: 70,
        term: 4,
        survivor: 1,
        lost: vec![7, 8],
        note: "the data centre burnt down".into(),
    });
    view.applicants.push(Applicant {
        node_id,
        addresses: vec!["/ip4/10.0.0.9/tcp/30303".into()],
        last_seen: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    });
}
