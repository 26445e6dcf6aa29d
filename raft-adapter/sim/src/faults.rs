//! What can go wrong, what operators do, and what is counted.

use std::{collections::BTreeMap, fmt};

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line and in reports.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// The one with this name.
            #[must_use]
            pub fn named(label: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.label() == label)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

kinds! {
    /// One kind of trouble. Each can be switched off for a run, to find out which of them a failure needs.
    Fault {
        /// A message does not arrive.
        Loss = "loss",
        /// A message arrives twice.
        Duplication = "duplication",
        /// A message is overtaken by later ones.
        Reordering = "reordering",
        /// Nothing gets from one member to another, while the way back is open.
        OneWayCut = "one-way-cut",
        /// The members fall into two groups that do not hear each other.
        Partition = "partition",
        /// A process ends; what the system holds of its files stays.
        Kill = "kill",
        /// A machine stops; what was not synced is lost or not.
        PowerLoss = "power-loss",
        /// All machines stop at once; what was not synced is lost or not.
        Blackout = "blackout",
        /// A machine stops in the middle of a file operation.
        InterruptedOperation = "interrupted-operation",
        /// A power loss takes writes that were not synced.
        LostWrites = "lost-writes",
        /// A power loss leaves some sectors of a write and not others.
        TornSectors = "torn-sectors",
        /// A power loss takes back a file's creation or removal that the folder's sync had not covered.
        LostDirectoryEntries = "lost-directory-entries",
        /// A bit of a file turns over at rest.
        BitFlip = "bit-flip",
        /// A read answers EIO.
        ReadError = "read-error",
        /// A write, or the making, cutting or removing of a file, answers EIO.
        WriteError = "write-error",
        /// No space can be set aside for a new file.
        DiskFull = "disk-full",
        /// A sync fails; the system forgets that the pages were not written.
        FailedSync = "failed-sync",
        /// A recovery meets one of the above: no power, an EIO, a failed sync.
        FailingRecovery = "failing-recovery",
        /// Syncs take a long time.
        SlowDisk = "slow-disk",
        /// A disk comes back from an older image.
        OldDisk = "old-disk",
        /// A disk is replaced by an empty one.
        Wipe = "wipe",
        /// Members' clocks run at different rates.
        ClockSkew = "clock-skew",
        /// A process stands still for a while.
        Pause = "pause",
        /// The membership is changed.
        Change = "change",
        /// The membership is changed without regard to who can be reached.
        ForcedChange = "forced-change",
        /// A change is asked for again.
        Retry = "retry",
        /// Leadership is handed to another member.
        Transfer = "transfer",
        /// The leader is removed.
        RemoveLeader = "remove-leader",
        /// A member hands over and stops.
        OrderlyStop = "orderly-stop",
        /// The log is cut and a manifest stands for what is gone.
        Compaction = "compaction",
    }
}

kinds! {
    /// Something rare that a run came upon. A search that never meets one says nothing about it.
    Situation {
        /// A manifest was taken in while the membership was joint.
        SnapshotDuringJoint = "snapshot during a joint change",
        /// A log was cut at an index where the membership was joint.
        CompactionAtJoint = "compaction within a joint change",
        /// A change that removes the leader was asked for while others could not hear it.
        LeaderRemovedWhilePartitioned = "leader removed while partitioned",
        /// A joint membership was left by another leader than the one that entered it.
        JointFinishedByNewLeader = "new leader finishes a joint state",
        /// A leader died while the membership was joint.
        LeaderDiedInJoint = "leader died within a joint change",
        /// A member noticed that its disk is older than its word.
        OldDiskNoticed = "old disk noticed",
        /// And caught up again.
        OldDiskRecovered = "old disk recovered",
        /// It went down while it was behind.
        OldDiskDiedBehind = "old disk died before it caught up",
        /// A log older than its application was refused.
        LogBehindApplication = "log behind its application refused",
        /// A member whose log was lost ended by itself.
        LogLost = "lost log noticed",
        /// A member whose log was lost was not listened to.
        StrangeLogRefused = "message of a replaced log refused",
        /// A change asked for again was answered from the table's history.
        AnsweredFromHistory = "change id answered from history",
        /// A change that was taken without regard to who can be reached took effect.
        ForcedChangeDone = "forced change done",
        /// A change took effect though its requester was told that leadership was lost.
        DoneAfterLeadershipLost = "change done after leadership was lost",
        /// A change was refused for want of reachable voters.
        QuorumAtRisk = "change refused for want of a quorum",
        /// The end of a log that was being written was cut off.
        TornTailCut = "torn tail cut",
        /// A damaged log was refused.
        DamageRefused = "damaged log refused",
        /// A damaged record was met while running.
        DamageMetRunning = "damage met while running",
        /// Damage at the very end of a log passed for a torn tail, and the member for one with an older disk.
        DamageTakenForTornTail = "damage taken for a torn tail",
        /// A log survived a turned bit.
        DamageSurvived = "turned bit survived",
        /// A process ended because its disk failed.
        StoppedByDisk = "stopped by a failing disk",
        /// A process ended because a sync failed.
        StoppedBySync = "stopped by a failed sync",
        /// A power loss came in the middle of making a file.
        InterruptedCreate = "file creation interrupted",
        /// A power loss came in the middle of removing a file.
        InterruptedRemove = "file removal interrupted",
        /// A power loss came in the middle of a recovery.
        InterruptedRecovery = "recovery interrupted",
        /// A recovery ended because the disk failed.
        FailedRecovery = "recovery ended by a failing disk",
        /// Two members led at once, in different terms.
        TwoLeaders = "two leaders in different terms",
        /// Entries in a log were replaced by those of another leader.
        EntriesReplaced = "entries replaced",
        /// A manifest was taken in.
        SnapshotInstalled = "snapshot installed",
        /// A member was added and took part.
        MemberAdded = "member added",
        /// A learner got a vote.
        LearnerPromoted = "learner promoted",
        /// A leader was removed.
        LeaderRemoved = "leader removed",
        /// A hand-over succeeded.
        TransferDone = "hand-over done",
        /// The application fell so far behind that deliveries had to wait.
        DeliveriesHeldBack = "deliveries held back",
        /// At the end, the frozen part could have formed nothing and the rest went on.
        WentOnWithoutFrozen = "went on with some members frozen",
        /// At the end, no majority was left whose disks were whole.
        NoQuorumLeft = "no whole quorum left",
        /// At the end, a joint membership was still to be left.
        JointAtTheEnd = "joint at the end and finished",
    }
}

/// How often each kind came up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Troubles and actions that were injected.
    pub faults: BTreeMap<Fault, u64>,
    /// Situations that were met.
    pub situations: BTreeMap<Situation, u64>,
}

impl Counters {
    pub(crate) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn situation(&mut self, situation: Situation) {
        *self.situations.entry(situation).or_default() += 1;
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (situation, count) in &other.situations {
            *self.situations.entry(*situation).or_default() += count;
        }
    }
}
