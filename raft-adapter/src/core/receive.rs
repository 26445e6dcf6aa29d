//! Messages from other members: checked before raft-rs sees them, because it trusts them and panics over many.

use bytes::Bytes;
use prost011::Message as _;
use raft::{
    ProgressState, StateRole,
    eraftpb::{Entry, Message, MessageType},
};

use super::{
    Core,
    membership::change_of,
    old_disk::{acknowledged_in, number_in},
};
use crate::{error::Fatal, ids::RaftId, io::Output, log::snapshot_data};

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Not an encoded message.
    Malformed,
    /// The sender inside is not the member it came from.
    WrongSender,
    /// Meant for another member.
    WrongReceiver,
    /// A kind that members do not send each other.
    UnexpectedKind,
    /// Contradicts itself or what this member knows.
    Implausible,
    /// An answer from someone who is no member.
    NotMember,
    /// Leadership offered while this member installs a manifest, or a vote asked of it while its disk is older than what
    /// it acknowledged.
    NotReady,
    /// A vote asked for a member that was removed, or leadership offered to one.
    Removed,
}

impl DropReason {
    /// All of them, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::WrongSender,
        Self::WrongReceiver,
        Self::UnexpectedKind,
        Self::Implausible,
        Self::NotMember,
        Self::NotReady,
        Self::Removed,
    ];

    /// The reason as a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongSender => "wrong_sender",
            Self::WrongReceiver => "wrong_receiver",
            Self::UnexpectedKind => "unexpected_kind",
            Self::Implausible => "implausible",
            Self::NotMember => "not_member",
            Self::NotReady => "not_ready",
            Self::Removed => "removed",
        }
    }
}

/// Above this, adding to a number from outside could overflow.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 4;

impl Core {
    /// Asking for a pre-vote raises nobody's term, so a member of an older term may refuse it, and tell with its refusal what is
    /// committed: maybe that a joint configuration is left in which its own vote was still needed. raft-rs would take the answer for
    /// an old one. Refusing costs no more than one round; what is committed stays so.
    fn hear_refusal_of_older_term(&self, message: &mut Message) {
        let refuses =
            message.msg_type == MessageType::MsgRequestPreVoteResponse as i32 && message.reject;
        let term = self.raw.raft.term;
        if refuses && message.term != 0 && message.term < term && !planted!(DeafToOlderTerms) {
            message.term = term;
        }
    }

    pub(super) fn received(
        &mut self,
        from: RaftId,
        bytes: &Bytes,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        let Ok(message) = Message::decode(bytes.as_ref()) else {
            self.count(DropReason::Malformed);
            return Ok(());
        };
        if let Err(reason) = self.admit(from, &message) {
            tracing::debug!(%from, reason = reason.label(), "raft message dropped");
            self.count(reason);
            return Ok(());
        }
        if self.raw.raft.prs().get(from.0).is_some() {
            self.heard.insert(from, self.ticks);
        }
        let mut message = message;
        self.hear_refusal_of_older_term(&mut message);
        self.check_promises(&mut message, out)?;
        let offered = message.msg_type == MessageType::MsgTimeoutNow as i32;
        if offered && self.behind_own_promises().is_some() {
            self.count(DropReason::NotReady);
            return Ok(());
        }
        if self.start_over(&mut message) {
            return Ok(());
        }
        let Some(message) = self.without_stale_rejection(message) else {
            return Ok(());
        };
        let (sender, term) = (message.from, message.term);
        // The one error left is an answer from someone who is no member (any more).
        if self.raw.step(message).is_err() {
            self.count(DropReason::NotMember);
        }
        if self.behind_own_promises().is_some() {
            self.pin_vote(sender, term);
        }
        #[cfg(feature = "planted-bugs")]
        if planted!(CommitOldTerms) && self.raw.raft.state == StateRole::Leader {
            let (index, _) = self.raw.raft.mut_prs().maximal_committed_index();
            let log = &mut self.raw.raft.raft_log;
            if index > log.committed && index <= log.last_index() {
                log.commit_to(index);
            }
        }
        Ok(())
    }

    fn count(&mut self, reason: DropReason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    fn admit(&self, from: RaftId, message: &Message) -> Result<(), DropReason> {
        if message.from != from.0 || from == self.config.id || from.0 == 0 {
            return Err(DropReason::WrongSender);
        }
        if message.to != self.config.id.0 {
            return Err(DropReason::WrongReceiver);
        }
        let kind = MessageType::from_i32(message.msg_type).ok_or(DropReason::UnexpectedKind)?;
        let numbers = [
            message.term,
            message.log_term,
            message.index,
            message.commit,
            message.commit_term,
            message.reject_hint,
        ];
        // Requesting a manifest is a feature of raft-rs that nobody here uses.
        let plausible = message.term != 0
            && numbers.iter().all(|number| *number <= NUMBER_MAX)
            && message.request_snapshot == 0;
        if !plausible {
            return Err(DropReason::Implausible);
        }
        let asks_for_vote = matches!(
            kind,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        let offers = asks_for_vote || kind == MessageType::MsgTimeoutNow;
        // A member that was removed answers those who ask for its vote: it may alone know what they lack, that the
        // joint configuration is left in which they still need it. Its answer tells them what is committed.
        let in_vain = kind == MessageType::MsgTimeoutNow && self.is_removed(self.config.id);
        let silent = planted!(RemovedStaysSilent) && self.is_removed(self.config.id);
        if in_vain || (offers && (silent || self.is_removed(from))) {
            return Err(DropReason::Removed);
        }
        if offers && self.behind_own_promises().is_some() && !planted!(VoteWhileBehind) {
            return Err(DropReason::NotReady);
        }
        let fits = match kind {
            MessageType::MsgAppend => entries_fit(message),
            MessageType::MsgSnapshot => {
                snapshot_fits(message) && acknowledged_in(&message.context) != Some(None)
            }
            MessageType::MsgAppendResponse => self.acknowledgement_fits(message),
            MessageType::MsgTimeoutNow if self.installs_snapshot() => {
                return Err(DropReason::NotReady);
            }
            MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgHeartbeatResponse => message.entries.is_empty(),
            MessageType::MsgHeartbeat | MessageType::MsgTimeoutNow => {
                message.entries.is_empty() && acknowledged_in(&message.context) != Some(None)
            }
            // Local ones, and those by which a follower would pass work on to its leader: we never forward.
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => return Err(DropReason::UnexpectedKind),
        };
        if fits {
            Ok(())
        } else {
            Err(DropReason::Implausible)
        }
    }

    /// Nobody can have acknowledged what this leader never had.
    fn acknowledgement_fits(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let to_this_leadership = raft.state == StateRole::Leader && message.term == raft.term;
        message.entries.is_empty()
            && number_in(&message.context) != Some(None)
            && (message.context.is_empty() || message.reject)
            && (!to_this_leadership || message.index <= raft.raft_log.last_index())
    }

    /// Guards against raft-rs #555: a rejection that was long under way can make a probing leader go back behind what
    /// the follower has acknowledged meanwhile. Such a rejection is dropped, or its hint raised.
    fn without_stale_rejection(&self, mut message: Message) -> Option<Message> {
        if message.msg_type != MessageType::MsgAppendResponse as i32 || !message.reject {
            return Some(message);
        }
        let Some(progress) = self.raw.raft.prs().get(message.from) else {
            return Some(message);
        };
        if progress.state == ProgressState::Probe {
            if message.index <= progress.matched && progress.matched != 0 {
                return None;
            }
            if message.reject_hint < progress.matched {
                message.reject_hint = progress.matched;
                // With a term, raft-rs would search further back from the hint.
                message.log_term = 0;
            }
        }
        Some(message)
    }
}

/// Only before the first entry there is none, and no term of it: raft-rs would take a missing entry for one of term 0.
fn entries_fit(message: &Message) -> bool {
    if (message.index == 0) != (message.log_term == 0) {
        return false;
    }
    let mut index = message.index;
    let mut term = message.log_term;
    message.entries.iter().all(|entry: &Entry| {
        let fits = entry.index == index + 1
            && entry.term >= term
            && entry.term >= 1
            && entry.term <= message.term
            && change_of(entry).is_none_or(|change| change.is_some());
        index = entry.index;
        term = entry.term;
        fits
    })
}

fn snapshot_fits(message: &Message) -> bool {
    let snapshot = message.snapshot.as_ref();
    let metadata = snapshot.and_then(|snapshot| snapshot.metadata.as_ref());
    let table = snapshot.and_then(|snapshot| snapshot_data::split(&snapshot.data));
    message.entries.is_empty()
        && metadata.is_some_and(|metadata| {
            (1..=NUMBER_MAX).contains(&metadata.index)
                && (1..=message.term).contains(&metadata.term)
                && metadata.conf_state.as_ref().is_some_and(|conf_state| {
                    table
                        .as_ref()
                        .is_some_and(|(table, _)| table.check(conf_state).is_ok())
                })
        })
}
