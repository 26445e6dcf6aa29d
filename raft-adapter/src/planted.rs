//! Deliberate mistakes, for the simulator's own test: it must find each of them. Compiled only with `planted-bugs`.

use std::cell::Cell;

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One mistake, as somebody might make it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PlantedBug { $($(#[$doc])* $name,)* }

        impl PlantedBug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

bugs! {
    /// Votes and acknowledgements leave before the disk has what they speak of.
    SendBeforeSync,
    /// A leader that elected itself speaks before its vote is durable.
    SoleVoterSpeaksEarly,
    /// A restarted member has forgotten whom it voted for.
    ForgetVote,
    /// A leader counts its own entries before they are durable.
    CountOwnUnsynced,
    /// A barrier returns without having synced.
    SkipBarrier,
    /// A new file is begun before the one before it is durable.
    BeginFileUnsynced,
    /// Old files go before what replaces them is durable.
    RemoveFilesEarly,
    /// What is recovered is believed to be on the medium.
    TrustTheCache,
    /// The commit index is written ahead of entries that the same write replaces.
    CommitOfTornReplacement,
    /// A membership change is written without what is known to be committed before it.
    ForgetCommitBeforeChange,
    /// A refused pre-vote of a member in an older term is not heard.
    DeafToOlderTerms,
    /// Records are read whatever their sum says.
    IgnoreRecordSum,
    /// A joint configuration is never left.
    NeverLeaveJoint,
    /// The empty entry that leaves a joint configuration is taken for nothing.
    SkipEmptyChange,
    /// Learners get a vote.
    CountLearners,
    /// The id of a removed member is given again.
    ReuseId,
    /// A change is applied again although its id is in the history.
    ApplyTwice,
    /// A change is reported as done while its joint configuration is in force.
    DoneWhileJoint,
    /// Two voters change at once without a joint configuration.
    ChangeManyWithoutJoint,
    /// A leader counts entries of earlier terms as committed by their number alone.
    CommitOldTerms,
    /// A leader does not forget what a member with an older disk once had.
    KeepProgressOfOldDisk,
    /// A leader does not know of which term an entry was that it has cut from its log, and a member takes it for its own.
    ForgetCutTerms,
    /// A manifest does not tell its receiver what it acknowledged.
    ManifestSaysNothing,
    /// A member votes although its disk is older than its word.
    VoteWhileBehind,
    /// A member forgets at a restart that its disk is older than its word.
    ForgetFloor,
    /// Cutting the log drops the memberships behind the manifest.
    DropChangeAtCompaction,
    /// A manifest carries the membership that the log began with.
    ManifestWithOldTable,
    /// A manifest's table has no history of changes.
    ManifestWithoutHistory,
    /// A leader goes on although its own change removed it.
    LeadAfterRemoval,
    /// A removed member tells nobody what it alone knows.
    RemovedStaysSilent,
}

thread_local! {
    static ACTIVE: Cell<Option<PlantedBug>> = const { Cell::new(None) };
}

/// From here on, cores and logs of this thread make this mistake, or none.
pub fn plant(bug: Option<PlantedBug>) {
    ACTIVE.set(bug);
}

pub(crate) fn is_active(bug: PlantedBug) -> bool {
    ACTIVE.get() == Some(bug)
}
