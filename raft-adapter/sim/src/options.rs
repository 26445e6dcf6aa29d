//! What a run is made of, and the command line that repeats it.

use std::{collections::BTreeSet, fmt};

use crate::faults::Fault;

/// One run. Equal options give equal runs, to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Decides everything that is left open here.
    pub seed: u64,
    /// Events before the end begins; drawn from the seed if not given.
    pub steps: Option<u64>,
    /// Voters at the beginning; drawn from the seed if not given.
    pub members: Option<u64>,
    /// Kinds of trouble that do not happen.
    pub without: BTreeSet<Fault>,
    /// Keep every line of the history, not only its sum.
    pub trace: bool,
    /// The mistake to run with.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<raft_adapter::PlantedBug>,
}

impl Options {
    /// A run in which all is drawn from `seed`.
    #[must_use]
    pub fn seed(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }
}

impl fmt::Display for Options {
    /// The command line that repeats the run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sim --seed {}", self.seed)?;
        if let Some(steps) = self.steps {
            write!(f, " --steps {steps}")?;
        }
        if let Some(members) = self.members {
            write!(f, " --members {members}")?;
        }
        if !self.without.is_empty() {
            let labels: Vec<_> = self.without.iter().map(|fault| fault.label()).collect();
            write!(f, " --without {}", labels.join(","))?;
        }
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.planted {
            write!(f, " --bug {bug:?}")?;
        }
        Ok(())
    }
}
