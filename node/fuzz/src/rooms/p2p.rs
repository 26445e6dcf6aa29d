//! What strangers and members send over the members' network.

use quorate_p2p::fuzzing;

use crate::{Memory, Target, cutter::Cutter};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("p2p-frames", frames, frames_seeds, Memory::DECODER),
    Target::new(
        "p2p-handshake",
        fuzzing::handshake,
        fuzzing::handshake_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "p2p-messages",
        fuzzing::messages,
        fuzzing::messages_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "p2p-announcement",
        fuzzing::announcement,
        fuzzing::announcement_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "p2p-address",
        fuzzing::address,
        fuzzing::address_seeds,
        Memory::DECODER,
    ),
];

/// First the length of pieces and the limit on frames, then the stream.
fn frames(bytes: &[u8]) -> bool {
    let mut cutter = Cutter(bytes);
    let piece = usize::from(cutter.byte());
    let max = usize::from(cutter.byte()) * 4;
    fuzzing::frames(cutter.0, piece, max)
}

fn frames_seeds() -> Vec<Vec<u8>> {
    let streams = fuzzing::frames_seeds();
    let argued = |stream: &Vec<u8>| [&[3, 16], stream.as_slice()].concat();
    streams.iter().map(argued).collect()
}
