//! The pieces in which another member sends a whole state.

use quorate_state::fuzzing;

use crate::{Memory, Target};

pub(crate) const TARGETS: &[Target] = &[Target::new(
    "state-chunk",
    fuzzing::chunk,
    fuzzing::chunk_seeds,
    Memory::DECODER,
)];
