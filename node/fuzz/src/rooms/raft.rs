//! What members say about ordering, message by message, and the table of members.

use raft_adapter::{FakeDisk, MemberTable, fuzzing};

use super::core::Member;
use crate::{Memory, Target};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "raft-message",
        fuzzing::message,
        fuzzing::message_seeds,
        Memory::DECODER,
    ),
    Target::new("raft-table", table, table_seeds, Memory::DECODER),
];

/// The table of members, as it lies in the log and travels with manifests.
fn table(bytes: &[u8]) -> bool {
    MemberTable::decode(bytes).is_ok_and(|table| {
        assert_eq!(table.encode(), bytes, "one table, two encodings");
        true
    })
}

/// A table of genesis, and one with a past.
fn table_seeds() -> Vec<Vec<u8>> {
    let golden = include_str!("../../../../raft-adapter/tests/golden/member_table_v1.hex");
    let golden = alloy_primitives::hex::decode(golden.trim());
    let begun = Member::begin(1, &FakeDisk::new());
    let begun = begun.map(|member| member.core.status().table.encode().to_vec());
    golden.into_iter().chain(begun).collect()
}
