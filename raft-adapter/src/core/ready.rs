//! One turn of raft-rs after another: what it wants written, sent and applied.

use prost011::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{
    Core, PendingWrite,
    old_disk::{note_acknowledged, tells_acknowledged},
};
use crate::{
    error::Fatal,
    ids::{LogIndex, RaftId, WriteNumber},
    io::{Envelope, Output, Persist},
};

impl Core {
    /// Takes turns until raft-rs wants nothing more.
    pub(super) fn drain(&mut self, out: &mut Vec<Output>) -> Result<(), Fatal> {
        loop {
            self.finish_joint();
            if !self.raw.has_ready() {
                return Ok(());
            }
            let committed = self.take_turn(out)?;
            self.process(&committed, out)?;
            self.deliver_fresh(committed, out);
        }
    }

    /// Between `ready` and `advance_append_async` raft-rs must not be touched; nothing here does.
    fn take_turn(&mut self, out: &mut Vec<Output>) -> Result<Vec<Entry>, Fatal> {
        let mut ready = self.raw.ready();
        let hard_state = ready.hs().cloned();
        let known = self.raw.store().hard_state();
        let holds_vote = hard_state
            .as_ref()
            .is_some_and(|it| (it.term, it.vote) != (known.term, known.vote));
        // A leader's own: may leave before its disk has the entries (Raft thesis, 10.2.1). Empty on everyone else. But a
        // sole voter leads by its own vote alone: until that is durable it could lead again in the same term, with
        // other entries.
        let vote_is_durable = !holds_vote && !self.writes.iter().any(|write| write.holds_vote);
        let vote_is_durable = vote_is_durable || planted!(SoleVoterSpeaksEarly);
        let mut then_send = Vec::new();
        for mut message in ready.take_messages() {
            if tells_acknowledged(&message)
                && let Some(progress) = self.raw.raft.prs().get(message.to)
            {
                let matched = progress.matched;
                let term = self.raw.store().term_once(matched).unwrap_or_default();
                note_acknowledged(&mut message, matched, term);
            }
            if vote_is_durable {
                out.push(Output::Send(envelope(&message)));
            } else {
                then_send.push(envelope(&message));
            }
        }
        then_send.extend(ready.take_persisted_messages().iter().map(envelope));
        if planted!(SendBeforeSync) {
            out.extend(then_send.drain(..).map(Output::Send));
        }
        let snapshot = Some(ready.snapshot())
            .filter(|snapshot| !snapshot.is_empty())
            .cloned();
        let entries = ready.take_entries();
        let committed = ready.take_committed_entries();
        let number = ready.number();
        let (must_write, in_order) = (ready.must_sync(), !self.writes.is_empty());
        if must_write || (in_order && !then_send.is_empty()) {
            if snapshot.is_some() {
                fail_point!("raft.snapshot.save");
            }
            let holds_log = snapshot.is_some() || !entries.is_empty();
            let snapshot_index = snapshot
                .as_ref()
                .and_then(|snapshot| snapshot.metadata.as_ref())
                .map(|it| it.index);
            let (write, batch) = if must_write {
                self.raw.mut_store().save(snapshot, hard_state, entries)?
            } else {
                self.note_commit(hard_state);
                self.raw.mut_store().save_nothing()
            };
            self.writes.push_back(PendingWrite {
                write,
                ready: Some(number),
                holds_log,
                holds_vote,
                snapshot: snapshot_index,
                gate: snapshot_index.map(LogIndex),
            });
            out.push(Output::Persist(Persist {
                write,
                batch,
                then_send,
            }));
            self.raw.advance_append_async(ready);
            if planted!(CountOwnUnsynced) {
                self.raw.on_persist_ready(number);
            }
        } else {
            // Only the commit index may have moved. Nothing is under way that these messages would depend on.
            self.note_commit(hard_state);
            self.raw.advance_append_async(ready);
            out.extend(then_send.into_iter().map(Output::Send));
            match self.writes.back_mut() {
                Some(last) => last.ready = Some(number),
                None => self.raw.on_persist_ready(number),
            }
        }
        Ok(committed)
    }

    fn note_commit(&mut self, hard_state: Option<raft::eraftpb::HardState>) {
        if let Some(hard_state) = hard_state {
            self.raw.mut_store().note_commit(hard_state);
        }
    }

    /// Write `write` and all before it survive power loss.
    pub(super) fn persisted(&mut self, write: WriteNumber) -> Result<(), Fatal> {
        let mut ready = None;
        let mut snapshot = None;
        let newest = self
            .writes
            .back()
            .map_or(self.persisted, |newest| newest.write);
        if write > newest {
            let what = format!("write {write} is reported durable, the newest is {newest}");
            return Err(Fatal::Impossible { what });
        }
        while let Some(oldest) = self.writes.front()
            && oldest.write <= write
        {
            ready = oldest.ready.or(ready);
            snapshot = oldest.snapshot.or(snapshot);
            self.persisted = oldest.write;
            self.writes.pop_front();
        }
        self.raw.mut_store().persisted(write);
        if let Some(number) = ready {
            self.raw.on_persist_ready(number);
        }
        // raft-rs does not count an installed manifest as applied by itself, and would look for the entries before it
        // at its next election.
        if let Some(index) = snapshot
            && index > self.processed
        {
            self.raw.advance_apply_to(index);
            self.processed = index;
        }
        Ok(())
    }

    /// A manifest is being written. Until then raft-rs would panic in an election, for want of the entries it replaces.
    pub(super) fn installs_snapshot(&self) -> bool {
        self.writes.iter().any(|write| write.snapshot.is_some())
    }
}

pub(super) fn envelope(message: &Message) -> Envelope {
    Envelope {
        to: RaftId(message.to),
        message: message.encode_to_vec().into(),
        snapshot: message.msg_type == MessageType::MsgSnapshot as i32,
    }
}
