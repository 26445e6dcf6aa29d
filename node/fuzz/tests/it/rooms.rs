//! One test per room, so that a failure names it.

use std::collections::BTreeSet;

use quorate_fuzz::{Mutator, Target, targets};

use crate::memory::measured;

/// Mutations of targets that only decode.
const QUICK: u64 = 3_000;
/// Of targets that open a store, run a core or ask a server for each input.
const SLOW: u64 = 250;

fn is_slow(target: &Target) -> bool {
    !matches!(target.memory.limit(0), Some(base) if base < 1 << 20)
}

fn run(target: &Target, input: &[u8]) -> bool {
    let (taken, bytes) = measured(|| (target.run)(input));
    if let Some(limit) = target.memory.limit(input.len()) {
        assert!(
            bytes <= limit,
            "{}: {} bytes of input took {bytes} bytes of memory, at most {limit} are allowed: {input:02x?}",
            target.name,
            input.len()
        );
    }
    taken
}

fn try_room(room: &str) {
    let mut count = 0;
    let of_room = |name: &str| name.split('-').next() == Some(room);
    for (_room, target) in targets().filter(|(_room, target)| of_room(target.name)) {
        count += 1;
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        // The first input pays for what is made once, and is not measured.
        (target.run)(&[]);
        let taken = seeds.iter().filter(|seed| run(target, seed)).count();
        assert!(taken > 0, "{} takes none of its seeds", target.name);
        let rounds = if is_slow(target) { SLOW } else { QUICK };
        let mut refused = 0;
        for seed in 0..rounds {
            let input = Mutator::new(seed).mutate(&seeds);
            refused += u64::from(!run(target, &input));
        }
        assert!(refused > 0, "{} takes everything", target.name);
    }
    assert!(count > 0, "{room} has no targets");
}

#[test]
fn bytes_from_the_network_are_taken_or_refused() {
    try_room("p2p");
}

#[test]
fn raft_messages_tables_and_logs_are_taken_or_refused() {
    try_room("raft");
}

#[test]
fn transactions_blocks_and_segments_are_taken_or_refused() {
    try_room("chain");
}

#[test]
fn chunks_of_a_state_are_taken_or_refused() {
    try_room("state");
}

#[test]
fn descriptions_and_details_are_taken_or_refused() {
    try_room("engine");
}

#[test]
fn envelopes_key_files_and_payload_stores_are_taken_or_refused() {
    try_room("enclave");
}

#[test]
fn contents_terms_and_messages_about_payloads_are_taken_or_refused() {
    try_room("privacy");
}

#[test]
fn requests_of_clients_are_answered() {
    try_room("rpc");
}

#[test]
fn what_the_node_reads_is_taken_or_refused() {
    try_room("node");
}

#[test]
fn targets_have_names_of_their_own() {
    let names: Vec<&str> = targets().map(|(_room, target)| target.name).collect();
    let different: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(names.len(), different.len());
}

#[test]
fn every_room_has_a_binary() {
    let manifest = include_str!("../../Cargo.toml");
    let rooms: BTreeSet<&str> = targets().map(|(room, _target)| room.name).collect();
    for room in rooms {
        assert!(
            manifest.contains(&format!("name = \"fuzz-{room}\"")),
            "{room}"
        );
    }
}

#[test]
fn the_same_seed_makes_the_same_mutations() {
    let seeds = vec![b"one seed".to_vec(), b"another".to_vec()];
    let made = |seed| Mutator::new(seed).mutate(&seeds);
    assert_eq!(made(7), made(7));
    let different: BTreeSet<Vec<u8>> = (0..100).map(made).collect();
    assert!(different.len() > 50, "{}", different.len());
}
