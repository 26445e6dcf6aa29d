//! What happened, as one number and, if wanted, line by line.

use crate::random::mixed;

/// Every event goes into the sum; the lines are kept only on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    sum: u64,
    lines: Option<Vec<String>>,
}

impl History {
    pub(crate) fn new(keep_lines: bool) -> Self {
        Self {
            sum: 0,
            lines: keep_lines.then(Vec::new),
        }
    }

    pub(crate) fn note(&mut self, numbers: &[u64]) {
        self.sum = numbers
            .iter()
            .fold(self.sum, |sum, number| mixed(sum ^ number));
    }

    pub(crate) fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{now:>7} {}", line()));
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
