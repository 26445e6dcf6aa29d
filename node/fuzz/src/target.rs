//! What a target is, and the list of them.

use crate::rooms;

/// Targets that one fuzzing binary holds. A binary watches all the code in it at every input, so that one with little code is
/// many times as fast.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The binary is `fuzz-` and this name.
    pub name: &'static str,
    /// At least one.
    pub targets: &'static [Target],
}

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
    /// Longest input that is made, in bytes. Seeds are cut to it.
    pub input_bytes_max: usize,
    /// The room catches panics of a library below it and ends itself; the target judges what it says.
    pub catches_panics: bool,
}

impl Target {
    /// A target whose code never panics, for inputs of up to 8 KiB.
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
            input_bytes_max: 8 << 10,
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

/// All targets, each with its room, room by room.
pub fn targets() -> impl Iterator<Item = (&'static Room, &'static Target)> {
    rooms::ALL
        .iter()
        .flat_map(|room| room.targets.iter().map(move |target| (*room, target)))
}
