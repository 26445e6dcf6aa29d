//! What a target is, and the list of them.

use crate::rooms;

/// One decoder, or a few that belong together, behind a function of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// `room-subject`.
    pub name: &'static str,
    /// True: the bytes were taken. False: they were refused, as most should be. Panics: a promise is broken.
    pub run: fn(&[u8]) -> bool,
    /// Bytes to begin with. At least one of them is taken.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What one input may take.
    pub memory: Memory,
    /// The room catches panics of a library below it and ends itself; the target judges what it says.
    pub catches_panics: bool,
}

impl Target {
    /// A target whose code never panics.
    pub(crate) const fn new(
        name: &'static str,
        run: fn(&[u8]) -> bool,
        seeds: fn() -> Vec<Vec<u8>>,
        memory: Memory,
    ) -> Self {
        Self {
            name,
            run,
            seeds,
            memory,
            catches_panics: false,
        }
    }
}

/// How much memory may be in use while one input is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes for each byte of input, and so many on top.
    Bounded {
        /// For each byte.
        per_byte: usize,
        /// On top.
        base: usize,
    },
    /// Other threads work for it, or it keeps state: only the whole process is watched.
    Shared,
}

impl Memory {
    /// For decoders that copy what they read: decoded forms are larger than encoded ones, never by more than this.
    pub(crate) const DECODER: Self = Self::Bounded {
        per_byte: 256,
        base: 64 << 10,
    };

    /// For rooms that are set up for each input: logs and stores.
    pub(crate) const ROOM: Self = Self::Bounded {
        per_byte: 2 << 10,
        base: 8 << 20,
    };

    /// Bytes that an input of this length may take.
    #[must_use]
    pub fn limit(self, length: usize) -> Option<usize> {
        match self {
            Self::Bounded { per_byte, base } => {
                Some(per_byte.saturating_mul(length).saturating_add(base))
            }
            Self::Shared => None,
        }
    }
}

/// All targets, room by room.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    rooms::ALL.iter().flat_map(|room| room.iter())
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    targets().find(|target| target.name == name)
}
