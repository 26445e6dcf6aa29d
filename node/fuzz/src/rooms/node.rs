//! What the node itself reads: its configuration and its key, and what members say to each other about membership and
//! snapshots.

use quorate_doors as doors;

use crate::{Memory, Target};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        input_bytes_max: 1 << 10,
        ..Target::new(
            "node-config",
            doors::configuration,
            doors::configuration_seeds,
            Memory::Bounded {
                per_byte: 256,
                base: 4 << 20,
            },
        )
    },
    Target::new(
        "node-membership",
        doors::membership,
        doors::membership_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "node-snapshots",
        doors::snapshots,
        doors::snapshots_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "node-key",
        doors::node_key,
        doors::node_key_seeds,
        Memory::DECODER,
    ),
];
