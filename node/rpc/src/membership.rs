//! Who belongs to the consortium, as clients see it, and how they change it: the questions that the servers ask of the
//! node's wiring. The wiring knows ordering, the replicated table and the members' network; this crate does not.

mod changes;
mod check;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use quorate_chain::{Member, MemberRole, NodeId};
use quorate_engine::EnclaveKey;
use tokio::sync::watch;

pub(crate) use changes::{ChangePlaces, WAIT_MAX};

/// Steps in one change. A consortium has tens of members; replacing all of them takes two steps for each.
pub const CHANGE_STEPS_MAX: usize = 256;
/// Bytes of a member's address: a host name has at most 253 (RFC 1035), a multiaddress a little more.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Bytes of an organisation's name.
pub const ORGANISATION_BYTES_MAX: usize = 256;

/// Reads and changes the consortium's membership. Any member takes a call; changes reach the leader.
pub trait MembershipApi: fmt::Debug + Send + Sync {
    /// The membership as this node knows it now. Quick, never waits.
    fn view(&self) -> Arc<MembershipView>;

    /// The same, and each newer one as it comes.
    fn watch(&self) -> watch::Receiver<Arc<MembershipView>>;

    /// Makes a change and waits until it is in force (a joint configuration has been left again). The same change id
    /// repeated attaches to the change under way or answers with its outcome; it is never made twice.
    ///
    /// # Errors
    /// [`MembershipError`].
    fn change(
        &self,
        request: ChangeRequest,
    ) -> BoxFuture<'static, Result<ChangeReport, MembershipError>>;

    /// Hands leadership to a voter, or to the one that is furthest along; answers with the raft id of the new leader.
    ///
    /// # Errors
    /// [`MembershipError`].
    fn transfer(&self, to: Option<u64>) -> BoxFuture<'static, Result<u64, MembershipError>>;
}

/// The membership at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembershipView {
    /// Log index of the entry that made the table what it is; 0 from genesis.
    pub table_index: u64,
    /// True while majorities of the old and of the new voters are both needed.
    pub joint: bool,
    /// Raft term that this node is in.
    pub term: u64,
    /// Raft id of the leader, if one is known.
    pub leader: Option<u64>,
    /// The raft id that the next new member gets at the earliest.
    pub next_raft_id: u64,
    /// This node's raft id, as long as it is a member.
    pub this: Option<u64>,
    /// The members by raft id.
    pub members: Vec<MemberState>,
    /// Everyone that was removed, ever, by raft id.
    pub removed: Vec<RemovedMember>,
    /// Times at which the consortium was begun anew by force, oldest first.
    pub breaks: Vec<BreakRecord>,
    /// Nodes that asked to be admitted.
    pub applicants: Vec<Applicant>,
}

impl MembershipView {
    /// The member with this raft id.
    pub fn member(&self, raft_id: u64) -> Option<&MemberState> {
        self.members
            .iter()
            .find(|state| state.member.raft_id == raft_id)
    }

    /// This node's own seat, as long as it has one.
    pub fn own(&self) -> Option<&MemberState> {
        self.member(self.this?)
    }

    /// The same without what moves all the time: how far each member is, and when applicants asked last. Two views that
    /// differ here are worth telling a watcher about.
    pub(crate) fn news(&self) -> Self {
        let mut news = self.clone();
        for state in &mut news.members {
            state.lag = None;
        }
        for applicant in &mut news.applicants {
            applicant.last_seen = SystemTime::UNIX_EPOCH;
        }
        news
    }
}

/// A member and how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Its seat.
    pub member: Member,
    /// True while it is being removed: listed until the joint configuration is left.
    pub leaving: bool,
    /// True while it still votes in the configuration that is being left.
    pub outgoing_voter: bool,
    /// True if this node is connected to it, and for this node itself.
    pub connected: bool,
    /// Log entries that it is behind the leader. Known on the leader and, by asking it, elsewhere; else `None`.
    pub lag: Option<u64>,
    /// Keys under which its enclave receives private payloads, rising; empty: it announced none.
    pub enclave_keys: Vec<EnclaveKey>,
    /// How many times it announced them.
    pub keys_sequence: u64,
}

/// Someone that was a member. Its raft id is never given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedMember {
    /// The seat that it had.
    pub raft_id: u64,
    /// Its key.
    pub node_id: NodeId,
    /// Who ran it.
    pub organisation: String,
}

/// The quorum was lost for good, and one member began the consortium anew by force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakRecord {
    /// Log index of the entry that says so.
    pub raft_index: u64,
    /// Its term.
    pub term: u64,
    /// Raft id of the member that went on alone.
    pub survivor: u64,
    /// Raft ids of the members that were given up.
    pub lost: Vec<u64>,
    /// What the operator wrote.
    pub note: String,
}

/// A node that is no member and asked to become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Its key, proved by the connection.
    pub node_id: NodeId,
    /// Where it says that it can be reached.
    pub addresses: Vec<String>,
    /// When it asked last, by this node's clock.
    pub last_seen: SystemTime,
}

/// What the membership is to become: all of it, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeRequest {
    /// Chosen by the caller, random: the same id is never applied twice. The servers of this crate choose one where the
    /// client gave none, so that an undecided answer can name it.
    pub change_id: Option<[u8; 16]>,
    /// What to do, in this order.
    pub steps: Vec<ChangeStep>,
    /// Do it even if the new voters that are reachable now are no majority.
    pub force: bool,
    /// Refuse unless the table is still the one of this index.
    pub if_table_index: Option<u64>,
}

/// One part of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeStep {
    /// A new member. It gets a raft id that nobody ever had.
    Add {
        /// Its key.
        node_id: NodeId,
        /// `host:port` or a multiaddress.
        address: String,
        /// Who runs it; may be empty.
        organisation: String,
        /// Voter or learner.
        role: MemberRole,
    },
    /// Makes a learner a voter, or a voter a learner.
    SetRole {
        /// The member.
        raft_id: u64,
        /// What it becomes.
        role: MemberRole,
    },
    /// A member moved.
    SetAddress {
        /// The member.
        raft_id: u64,
        /// `host:port` or a multiaddress.
        address: String,
    },
    /// A member announces the keys of its enclave, instead of those before.
    SetKeys {
        /// The member.
        raft_id: u64,
        /// Rising, none twice, at most [`quorate_engine::ENCLAVE_KEYS_MAX`].
        keys: Vec<EnclaveKey>,
        /// Greater than `MemberState::keys_sequence`.
        sequence: u64,
        /// The member's own, see `quorate_engine::MemberDetails::keys_digest`.
        signature: [u8; 65],
    },
    /// A member leaves for ever; its key may come back under a new raft id.
    Remove {
        /// The member.
        raft_id: u64,
    },
}

/// A change that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeReport {
    /// Its id.
    pub change_id: [u8; 16],
    /// Log index of the entry that made it.
    pub table_index: u64,
    /// Raft ids of the members that were added, in the order of the steps.
    pub added: Vec<u64>,
    /// True if it went through a joint configuration.
    pub joint: bool,
}

/// Why the membership was not changed, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nobody to ask.
    #[error("no leader is currently elected")]
    NoLeader,
    /// One change at a time.
    #[error("another membership change{} is not in force yet; repeat this one when it is", named(change_id.as_ref()))]
    Pending {
        /// The id of that other change, if it is known.
        change_id: Option<[u8; 16]>,
    },
    /// The voters that would be left and are reachable now would be no majority.
    #[error(
        "refused to protect the quorum: {needed} voters would be needed and {reachable} are reachable and caught up{}; force it only if you know better",
        listed(unreachable)
    )]
    QuorumAtRisk {
        /// Majority of the voters.
        needed: u64,
        /// Voters that are reachable and caught up now.
        reachable: u64,
        /// Raft ids of the others that have one already.
        unreachable: Vec<u64>,
    },
    /// The request cannot be.
    #[error("invalid argument {field}: {reason}")]
    Invalid {
        /// Which part of it.
        field: String,
        /// What is allowed.
        reason: String,
    },
    /// There is no such member.
    #[error("no member has raft id {raft_id}")]
    UnknownMember {
        /// Who was meant.
        raft_id: u64,
    },
    /// Somebody else changed the table since the caller looked.
    #[error(
        "the member table has moved from index {expected} to {actual}; look at it again before changing it"
    )]
    TableMoved {
        /// Index that the caller named.
        expected: u64,
        /// Index that it has.
        actual: u64,
    },
    /// It surely was not made, and never will be under this proposal.
    #[error("the change was not applied: {reason}; it is safe to repeat it")]
    NotApplied {
        /// Why.
        reason: String,
    },
    /// Time ran out before it was known to be in force. It may still come to be.
    #[error(
        "it is not known yet whether the change with id {} is applied; repeat it with the same change id to find out",
        id_text(change_id)
    )]
    Undecided {
        /// Its id.
        change_id: [u8; 16],
    },
    /// This node was removed, or not admitted yet.
    #[error("node not part of raft cluster. operations not allowed")]
    NotAMember,
    /// This node is a learner.
    #[error(
        "this node is a learner: it may only remove itself; ask a voter to add, promote or change members"
    )]
    LearnerNotAllowed,
    /// A fault of ours. The reason is for the log.
    #[error("the membership could not be changed: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

impl MembershipError {
    /// True if the same request, with the same change id, can succeed later or at another member, without anybody changing
    /// it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoLeader
            | Self::Pending { .. }
            | Self::NotApplied { .. }
            | Self::Undecided { .. }
            // Another member may be a voter, or not be removed.
            | Self::NotAMember
            | Self::LearnerNotAllowed => true,
            // It could when someone comes back, but the caller should decide what to do about it.
            Self::QuorumAtRisk { .. }
            | Self::Invalid { .. }
            | Self::UnknownMember { .. }
            | Self::TableMoved { .. }
            | Self::Failed { .. } => false,
        }
    }
}

/// A change id as clients write it: 32 hexadecimal digits with 0x.
pub(crate) fn id_text(change_id: &[u8; 16]) -> String {
    format!("0x{}", hex::encode(change_id))
}

fn named(change_id: Option<&[u8; 16]>) -> String {
    change_id.map_or_else(String::new, |id| format!(" (change id {})", id_text(id)))
}

fn listed(unreachable: &[u64]) -> String {
    if unreachable.is_empty() {
        return String::new();
    }
    let ids: Vec<String> = unreachable.iter().map(u64::to_string).collect();
    format!(" (not counted: raft id {})", ids.join(", "))
}
