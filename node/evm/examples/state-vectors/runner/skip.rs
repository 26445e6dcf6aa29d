//! Cases that are not run, each with a reason.

use std::path::Path;

/// Patterns of names of cases.
#[derive(Debug, Default)]
pub struct SkipList {
    patterns: Vec<String>,
}

impl SkipList {
    /// Reads a skip list.
    ///
    /// # Errors
    /// The file cannot be read, or a line has no reason.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut patterns = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(" | ") {
                Some((pattern, reason)) if !reason.trim().is_empty() => {
                    patterns.push(pattern.trim().to_string())
                }
                _ => {
                    return Err(format!(
                        "{}:{}: needs `pattern | reason`",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
        Ok(Self { patterns })
    }

    /// True if a pattern fits somewhere in the name.
    pub fn contains(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| {
            let mut rest = name;
            pattern.split('*').all(|part| match rest.find(part) {
                Some(at) => {
                    rest = rest.get(at + part.len()..).unwrap_or_default();
                    true
                }
                None => false,
            })
        })
    }
}
