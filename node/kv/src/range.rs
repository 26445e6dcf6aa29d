//! Which keys a scan visits.

/// Order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// A half-open range of keys: from `start` (included) to `end` (excluded; `None` means no upper end).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
        }
    }

    /// Keys at or after `start`.
    pub fn from(start: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            end: None,
        }
    }

    /// Keys at or after `start` and before `end`. Empty if `end` is not after `start`.
    pub fn between(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        let (start, end) = (start.into(), end.into());
        let end = if end < start { start.clone() } else { end };
        Self {
            start,
            end: Some(end),
        }
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let end = after_prefix(&start);
        Self { start, end }
    }

    /// Keys that begin with `prefix` and are at or after `start`.
    pub fn prefix_from(prefix: &[u8], start: impl Into<Vec<u8>>) -> Self {
        let start = start.into().max(prefix.to_vec());
        match after_prefix(prefix) {
            Some(end) => Self::between(start, end),
            None => Self { start, end: None },
        }
    }

    /// First key that may be in the range.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// First key after the range; `None` if there is no upper end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// True if `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start() && self.end().is_none_or(|end| key < end)
    }
}

/// The smallest key greater than every key with this prefix; `None` if the prefix is empty or all `0xff`.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_ends_where_the_prefix_ends() {
        let check = |prefix: &[u8], inside: &[&[u8]], outside: &[&[u8]]| {
            let range = KeyRange::prefix(prefix);
            for key in inside {
                assert!(range.contains(key), "{key:?} in {range:?}");
            }
            for key in outside {
                assert!(!range.contains(key), "{key:?} not in {range:?}");
            }
        };
        check(b"a", &[b"a", b"a\x00", b"a\xff\xff"], &[b"", b"b", b"A"]);
        check(b"a\xff", &[b"a\xff", b"a\xff\x00"], &[b"a\xfe", b"b"]);
        check(
            b"\xff\xff",
            &[b"\xff\xff", b"\xff\xff\x01"],
            &[b"\xff\xfe\xff"],
        );
        check(b"", &[b"", b"\xff"], &[]);
    }

    #[test]
    fn a_prefix_range_may_start_inside_the_prefix() {
        let range = KeyRange::prefix_from(b"p", b"p5".to_vec());
        assert!(range.contains(b"p5") && range.contains(b"p6") && !range.contains(b"p4"));
        assert!(!range.contains(b"q"));
        assert!(!KeyRange::prefix_from(b"p", b"q".to_vec()).contains(b"q"));
    }
}
