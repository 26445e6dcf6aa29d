//! Every place there is.

/// What a place can be made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Wait or panic.
    Pass,
    /// Wait, panic, or fail as if the system had said so: `return(EIO)`, `return(ENOSPC)`.
    Fail,
}

/// A named place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// `room.part.step`.
    pub name: &'static str,
    /// What it can be made to do.
    pub effect: Effect,
    /// Where it is.
    pub place: &'static str,
}

const fn pass(name: &'static str, place: &'static str) -> Point {
    let effect = Effect::Pass;
    Point {
        name,
        effect,
        place,
    }
}

const fn fail(name: &'static str, place: &'static str) -> Point {
    let effect = Effect::Fail;
    Point {
        name,
        effect,
        place,
    }
}

/// All places, by name.
pub const POINTS: &[Point] = &[
    fail("blocks.append", "before a block is written"),
    pass("blocks.append.done", "a block is written, nobody knows"),
    fail("blocks.append.torn", "half of a block is written"),
    fail(
        "blocks.base.rename",
        "before the new lowest block is in force",
    ),
    pass("blocks.index", "blocks are durable, not indexed"),
    pass(
        "blocks.index.done",
        "blocks are indexed, the memory is behind",
    ),
    fail(
        "blocks.mend.sync",
        "a damaged block is mended, not yet synced",
    ),
    fail("blocks.mend.write", "before a damaged block is mended"),
    pass("blocks.prune", "before the new lowest block is noted"),
    pass(
        "blocks.prune.forget",
        "before index entries of old blocks are removed",
    ),
    fail(
        "blocks.prune.remove",
        "before a file of old blocks is removed",
    ),
    pass("blocks.recover", "before the files are read at the start"),
    fail("blocks.recover.cut", "before a torn tail is cut off"),
    fail("blocks.roll.create", "before the next file is made"),
    fail(
        "blocks.roll.folder",
        "the next file has its header, its name is not durable",
    ),
    fail("blocks.roll.sync", "before the last file is finished"),
    fail("blocks.sync", "before blocks are synced"),
    fail(
        "blocks.sync.mark",
        "blocks are synced, the mark does not say so",
    ),
    pass(
        "engine.flush.begin",
        "before blocks are made durable for a flush",
    ),
    pass(
        "engine.flush.blocks",
        "blocks are durable, the state is not",
    ),
    pass("engine.flush.compact", "before ordering may forget"),
    pass("engine.flush.last", "before the flush at the end"),
    pass(
        "engine.flush.state",
        "the state is durable, ordering was not told",
    ),
    pass(
        "engine.import.advanced",
        "state and blocks are level, the pool is behind",
    ),
    pass("engine.import.announce", "before a block is announced"),
    pass(
        "engine.import.applied",
        "ordering was told that an entry is applied",
    ),
    pass("engine.import.entry", "before a committed entry is judged"),
    pass("engine.import.execute", "before a block is executed"),
    pass("engine.import.executed", "a block is executed and compared"),
    pass("engine.import.fetched", "before a fetched block is judged"),
    pass("engine.import.manifest", "before a manifest is followed"),
    pass(
        "engine.import.members",
        "before a membership change is followed",
    ),
    pass("engine.import.store", "before a block is stored"),
    pass(
        "engine.import.stored",
        "a block is stored, the state is behind",
    ),
    pass("engine.import.verified", "a block passed the rules"),
    pass("engine.mint.lead", "before minting begins in a term"),
    pass("engine.mint.lost", "before blocks in flight are given up"),
    pass("engine.mint.propose", "a block is sealed, not proposed"),
    pass("engine.mint.proposed", "a block is proposed"),
    pass("engine.mint.seal", "a block is executed, not sealed"),
    pass("engine.offline.export", "before a block is exported"),
    pass(
        "engine.offline.export.index",
        "blocks are exported, the list of files is not written",
    ),
    pass(
        "engine.offline.import",
        "before an exported block is imported",
    ),
    fail("engine.snapshot.chunk", "before a fetched chunk is written"),
    pass(
        "engine.snapshot.complete",
        "before a download is checked as a whole",
    ),
    pass("engine.snapshot.confirm", "before an exchange is confirmed"),
    pass(
        "engine.snapshot.confirm.remove",
        "before an old store is removed",
    ),
    pass("engine.snapshot.download", "before a download begins"),
    pass(
        "engine.snapshot.exported",
        "the chunks of a snapshot are written",
    ),
    fail(
        "engine.snapshot.file.create",
        "before a file is written as a whole",
    ),
    fail(
        "engine.snapshot.file.rename",
        "a file is synced, not in its place",
    ),
    fail("engine.snapshot.file.sync", "a file is written, not synced"),
    pass(
        "engine.snapshot.forget",
        "before the journal of an exchange is removed",
    ),
    pass(
        "engine.snapshot.install.aside",
        "before an old store is moved aside",
    ),
    pass(
        "engine.snapshot.install.blocks",
        "before a new block store begins",
    ),
    pass(
        "engine.snapshot.install.build",
        "before new stores are built",
    ),
    pass(
        "engine.snapshot.install.clean",
        "before what is left of an exchange is removed",
    ),
    pass(
        "engine.snapshot.install.done",
        "the stores are exchanged, the journal does not say so",
    ),
    pass(
        "engine.snapshot.install.in",
        "before a new store is moved in",
    ),
    pass(
        "engine.snapshot.install.journal",
        "new stores are built, nothing was decided",
    ),
    pass("engine.snapshot.make", "before a snapshot is made"),
    pass(
        "engine.snapshot.put",
        "before a snapshot is put on the shelf",
    ),
    pass("engine.snapshot.revert", "before an exchange is taken back"),
    pass(
        "engine.snapshot.revert.back",
        "before an old store is moved back",
    ),
    pass(
        "engine.snapshot.revert.remove",
        "before a new store is removed",
    ),
    fail(
        "kv.journal",
        "before the journal of a large write is stored",
    ),
    fail(
        "kv.journal.applied",
        "a large write is in place, the journal still counts",
    ),
    fail(
        "kv.journal.apply",
        "the journal counts, nothing of it is in place",
    ),
    fail(
        "kv.journal.stored",
        "the journal is stored, its mark is not set",
    ),
    fail("kv.sync", "before storage is made durable"),
    fail("kv.write", "before a batch is written"),
    pass(
        "node.file.replace",
        "a small file is written beside its place",
    ),
    pass("node.ordering.open", "stores are open, the log is not"),
    pass("node.seat.keep", "genesis is kept, the seat is not"),
    pass(
        "node.snapshot.settle",
        "before an exchange of stores is recovered",
    ),
    pass("node.stop", "asked to stop, before anything has"),
    pass(
        "node.stores.level",
        "before the state catches up with the blocks",
    ),
    pass("node.stores.open", "before the stores are opened"),
    pass(
        "node.stores.rebuild",
        "before a state is moved aside and built anew",
    ),
    pass(
        "raft.change.answer",
        "before whoever asked for a membership change is answered",
    ),
    pass(
        "raft.change.apply",
        "before a membership change is put in force",
    ),
    pass(
        "raft.change.leave",
        "before the end of a joint configuration is proposed",
    ),
    pass(
        "raft.change.propose",
        "before a membership change is proposed",
    ),
    fail("raft.log.create", "before a log file is made"),
    fail(
        "raft.log.create.folder",
        "a log file is whole, its name not durable",
    ),
    fail(
        "raft.log.create.header",
        "a log file is made, its header is not written",
    ),
    pass(
        "raft.log.force",
        "before a survivor's new beginning is written",
    ),
    fail("raft.log.read", "before entries are read"),
    fail(
        "raft.log.recover.list",
        "before the log files are listed at the start",
    ),
    fail(
        "raft.log.recover.read",
        "before a log file is read at the start",
    ),
    fail("raft.log.remove", "before an old log file is removed"),
    fail(
        "raft.log.remove.folder",
        "an old log file is removed, not durably",
    ),
    fail("raft.log.sync", "before written records are synced"),
    pass("raft.log.sync.done", "records are durable, nobody knows"),
    fail("raft.log.truncate", "before a torn tail is cut off"),
    fail("raft.log.write", "before records are written"),
    fail("raft.log.write.torn", "half of the records are written"),
    pass("raft.ready.answer", "before a proposer gets its answer"),
    pass(
        "raft.ready.applied",
        "before ordering notes what was applied",
    ),
    pass("raft.ready.barrier", "records are written, not synced"),
    pass(
        "raft.ready.barrier.done",
        "records are synced, not reported",
    ),
    pass("raft.ready.compact", "before the log is compacted"),
    pass(
        "raft.ready.deliver",
        "before a committed entry is delivered",
    ),
    pass(
        "raft.ready.persist",
        "before a write is handed to the disk thread",
    ),
    pass(
        "raft.ready.persisted",
        "before ordering learns that writes are durable",
    ),
    pass("raft.ready.send", "before a message to a member is sent"),
    pass("raft.ready.tick", "before time passes in ordering"),
    pass("raft.ready.transfer", "before leadership is handed over"),
    pass("raft.snapshot.deliver", "before a manifest is delivered"),
    pass("raft.snapshot.save", "before a manifest replaces the log"),
    pass("state.apply", "before a block's changes are applied"),
    fail("state.export.chunk", "before a chunk is written"),
    pass(
        "state.flush.build",
        "before the writes of a flush are collected",
    ),
    pass(
        "state.flush.done",
        "a flush is done, its memory is not pruned",
    ),
    pass("state.flush.history", "old values are collected"),
    fail("state.flush.write", "before a flush is written"),
    pass(
        "state.flush.written",
        "a flush is durable, the marks are behind",
    ),
    fail("state.genesis", "before the genesis state is written"),
    pass("state.open", "before the durable state is looked for"),
    fail("state.prune", "before old values are removed"),
    fail("state.restore", "before a restored state begins"),
    fail("state.restore.chunk", "before a chunk is restored"),
    fail(
        "state.restore.end",
        "a state is restored, its mark is not written",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_none_is_there_twice() {
        assert!(POINTS.is_sorted_by(|a, b| a.name < b.name));
    }
}
