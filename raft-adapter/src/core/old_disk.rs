//! A member whose disk is older than its word.
//!
//! Restored from a backup, a disk may lack entries that its member acknowledged and votes that it gave. Others count on
//! them: a vote from here could elect a leader without entries that are committed. So each heartbeat, each manifest, and
//! each word to take over, carries, in its context, how far the leader knows this member's log to reach, and the term of the
//! entry there: an older log may be the longer one, with entries that were replaced since. The leader knows that term also when
//! it has cut that entry from its own log. A member whose log lacks that entry remembers the position durably as
//! its floor, neither votes nor stands for election until it knows everything up to there to be committed, and asks the
//! leader to start over with it: a rejection with the floor in its context. The leader does, once the floor covers all it
//! ever counted on. raft-rs alone would take the rejection for an old one and ignore it for ever, and take the leader's
//! word for what is committed, whatever stands there in this log.
//!
//! ```text
//! context of a heartbeat, a manifest or TimeoutNow    acknowledged u64, its term u64 (0: not known)
//! context of a request to start over                  floor u64
//! ```
//!
//! What stays undetected here is a member that votes before any leader of the time it forgot has spoken to it, and one whose lost
//! entries come back before it is told of them: entries that a leader made before it heard the acknowledgement, and held back
//! until its own disk had them. The votes such a member gave are lost; the identity of its log, which the network checks at
//! each connection, is what stands against it.

use raft::{
    StateRole,
    eraftpb::{Message, MessageType},
};

use super::{Core, ready::envelope, receive::NUMBER_MAX};
use crate::{
    error::Fatal,
    ids::{LogIndex, RaftId},
    io::Output,
};

/// The number in a message's context. `None` if there is none, `Some(None)` if it is not a number.
pub(super) fn number_in(context: &[u8]) -> Option<Option<u64>> {
    if context.is_empty() {
        return None;
    }
    let number = context.try_into().ok().map(u64::from_le_bytes);
    Some(number.filter(|number| *number <= NUMBER_MAX))
}

/// What a leader says that its receiver acknowledged: index and term. `None` if it says nothing, `Some(None)` if it
/// makes no sense.
pub(super) fn acknowledged_in(context: &[u8]) -> Option<Option<(u64, u64)>> {
    if context.is_empty() {
        return None;
    }
    let (index, term) = context.split_at_checked(8).unwrap_or_default();
    let numbers = number_in(index).flatten().zip(number_in(term).flatten());
    Some(numbers)
}

/// Leaders say in these how far they know their receiver's log to reach. A member may hear any of them first. Entries tell by
/// themselves, if they were made after the acknowledgement: they fit only behind it.
pub(super) fn tells_acknowledged(message: &Message) -> bool {
    let told_by_manifests = !planted!(ManifestSaysNothing);
    message.msg_type == MessageType::MsgHeartbeat as i32
        || message.msg_type == MessageType::MsgTimeoutNow as i32
        || (message.msg_type == MessageType::MsgSnapshot as i32 && told_by_manifests)
}

/// Puts into a message how far its receiver is known to have acknowledged the log.
pub(super) fn note_acknowledged(message: &mut Message, matched: u64, term: u64) {
    message.context = [matched, term].map(u64::to_le_bytes).concat();
}

impl Core {
    /// The floor, while this member's log does not reach it again.
    pub(super) fn behind_own_promises(&self) -> Option<LogIndex> {
        let floor = self.raw.store().floor();
        (floor != 0).then_some(LogIndex(floor))
    }

    /// Compares what a leader says of this member with what it holds. What goes on to raft-rs commits nothing that is not
    /// here.
    pub(super) fn check_promises(
        &mut self,
        message: &mut Message,
        out: &mut Vec<Output>,
    ) -> Result<(), Fatal> {
        if !tells_acknowledged(message) || message.term < self.raw.raft.term {
            return Ok(());
        }
        let said = acknowledged_in(&message.context).flatten();
        let (acknowledged, term) = said.unwrap_or_default();
        message.context.clear();
        let promised = acknowledged.max(message.commit);
        // raft-rs takes it for granted that everything up to there is the leader's.
        message.commit = message.commit.min(acknowledged);
        let raft_log = &self.raw.raft.raft_log;
        let (last, committed) = (raft_log.last_index(), raft_log.committed);
        // What is committed here cannot differ. What the leader does not know may, and is taken to.
        let differs = acknowledged > committed
            && (term != 0 || !planted!(ForgetCutTerms))
            && raft_log.term(acknowledged).is_ok_and(|own| own != term);
        if promised <= last && !differs {
            return Ok(());
        }
        if last == 0 {
            return Err(Fatal::LogLost {
                leader: RaftId(message.from),
                acknowledged: LogIndex(promised),
                last: LogIndex(last),
            });
        }
        // The log may differ from the leader's even where it has entries.
        message.commit = 0;
        let agreed = if differs { committed } else { last };
        self.fall_behind(promised, agreed, message, out);
        Ok(())
    }

    /// `agreed`: from behind this entry on, the leader is to look for where the logs agree.
    fn fall_behind(
        &mut self,
        promised: u64,
        agreed: u64,
        message: &Message,
        out: &mut Vec<Output>,
    ) {
        let store = self.raw.store();
        let floor = store.floor().max(promised);
        let raised = floor != store.floor();
        let log_term = self.raw.raft.raft_log.term(agreed).unwrap_or_default();
        let request = Message {
            msg_type: MessageType::MsgAppendResponse as i32,
            from: self.config.id.0,
            to: message.from,
            term: message.term,
            index: agreed,
            reject: true,
            reject_hint: agreed,
            log_term,
            context: floor.to_le_bytes().to_vec(),
            ..Message::default()
        };
        let (write, batch) = if raised {
            tracing::warn!(
                floor,
                agreed,
                "this member's disk is older than what it acknowledged; it does not vote until it caught up"
            );
            self.raw.mut_store().save_floor(floor)
        } else {
            self.raw.mut_store().save_nothing()
        };
        // The leader forgets what it counted on once it hears this; by then it must be remembered here.
        self.push_write(write, batch, None, vec![envelope(&request)], out);
    }

    /// A vote given in this leader's term may be among what was lost. It went to this leader, or to nobody.
    pub(super) fn pin_vote(&mut self, leader: u64, term: u64) {
        let raft = &mut self.raw.raft;
        if raft.term == term && raft.vote == 0 && raft.leader_id == leader {
            raft.vote = leader;
        }
    }

    /// Ends the abstinence once everything up to the floor is committed and on disk. That the log is as long again would
    /// not do: it may hold entries there that were replaced.
    pub(super) fn reach_floor(&mut self, out: &mut Vec<Output>) {
        let store = self.raw.store();
        let floor = store.floor();
        if floor == 0 || self.raw.raft.raft_log.committed < floor || store.durable() < floor {
            return;
        }
        tracing::info!(floor, "this member caught up with what it acknowledged");
        let (write, batch) = self.raw.mut_store().save_floor(0);
        self.push_write(write, batch, None, Vec::new(), out);
    }

    /// A member asks to start over. True if `message` was such a request and needs no more handling.
    pub(super) fn start_over(&mut self, message: &mut Message) -> bool {
        let is_answer = message.msg_type == MessageType::MsgAppendResponse as i32;
        if !is_answer || message.context.is_empty() {
            return false;
        }
        let floor = number_in(&message.context).flatten();
        message.context.clear();
        let raft = &mut self.raw.raft;
        if message.term > raft.term {
            // It follows a newer leader; all raft-rs makes of it is to step down.
            return false;
        }
        let (Some(floor), StateRole::Leader) = (floor, raft.state) else {
            return true;
        };
        if message.term < raft.term {
            return true;
        }
        let last = raft.raft_log.last_index();
        let Some(progress) = raft.mut_prs().get_mut(message.from) else {
            return true;
        };
        progress.recent_active = true;
        // With a lower floor it does not know all that was counted on; the next heartbeat tells it.
        if message.reject_hint < progress.matched && floor >= progress.matched {
            tracing::warn!(
                member = message.from,
                acknowledged = progress.matched,
                holds = message.reject_hint,
                "a member came back with an older disk; its log is sent again"
            );
            if planted!(KeepProgressOfOldDisk) {
                return true;
            }
            progress.matched = 0;
            progress.become_probe();
            progress.next_idx = message.reject_hint.min(last) + 1;
            raft.send_append(message.from);
        }
        true
    }
}
