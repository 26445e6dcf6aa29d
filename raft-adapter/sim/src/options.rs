//! What a run is made of, and the command line that repeats it.

use std::{collections::BTreeSet, fmt, str::FromStr};

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

/// Why a line repeats no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Another program's.
    #[error("the line begins with {found:?}, not with sim")]
    Program {
        /// Its first word.
        found: String,
    },
    /// An option that a line of this kind does not have.
    #[error("{found:?} is none of --seed, --steps, --members, --without")]
    Unknown {
        /// The option.
        found: String,
    },
    /// A value that cannot be read.
    #[error("{option} does not take {found:?}")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        found: String,
    },
    /// Nothing says which seed.
    #[error("the line names no --seed")]
    NoSeed,
}

impl FromStr for Options {
    type Err = LineError;

    /// The run that a line of [`fmt::Display`] repeats.
    fn from_str(line: &str) -> Result<Self, LineError> {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        if program != "sim" {
            let found = program.to_string();
            return Err(LineError::Program { found });
        }
        let (mut options, mut seed) = (Self::default(), None);
        while let Some(option) = words.next() {
            let value = words.next().unwrap_or_default();
            let refused = || LineError::Value {
                option: option.to_string(),
                found: value.to_string(),
            };
            let number = || value.parse::<u64>().map_err(|_| refused());
            match option {
                "--seed" => seed = Some(number()?),
                "--steps" => options.steps = Some(number()?),
                "--members" => options.members = Some(number()?),
                "--without" => {
                    for label in value.split(',') {
                        let fault = Fault::named(label).ok_or_else(refused)?;
                        options.without.insert(fault);
                    }
                }
                #[cfg(feature = "planted-bugs")]
                "--bug" => {
                    let mut all = raft_adapter::PlantedBug::ALL.iter().copied();
                    let bug = all.find(|bug| format!("{bug:?}") == value);
                    options.planted = Some(bug.ok_or_else(refused)?);
                }
                _ => {
                    let found = option.to_string();
                    return Err(LineError::Unknown { found });
                }
            }
        }
        options.seed = seed.ok_or(LineError::NoSeed)?;
        Ok(options)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_line_gives_the_options_back() {
        let options = Options {
            steps: Some(77),
            members: Some(3),
            without: [Fault::Loss, Fault::OldDisk].into(),
            ..Options::seed(12)
        };
        for options in [options, Options::seed(u64::MAX)] {
            assert_eq!(options.to_string().parse(), Ok(options));
        }
    }

    #[test]
    fn a_line_that_repeats_nothing_is_refused_and_says_why() {
        for (line, said) in [
            ("", "the line begins with \"\", not with sim"),
            ("sim", "the line names no --seed"),
            ("sim --seed -1", "--seed does not take \"-1\""),
            ("sim --seed", "--seed does not take \"\""),
            (
                "sim --seed 1 --without kill,x",
                "--without does not take \"kill,x\"",
            ),
            (
                "sim --speed 1",
                "\"--speed\" is none of --seed, --steps, --members, --without",
            ),
        ] {
            let error = line.parse::<Options>().unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }
}
