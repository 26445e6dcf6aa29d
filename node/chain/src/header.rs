//! The header fields that follow from rules alone.

use alloy_consensus::{EMPTY_ROOT_HASH, Header};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::B256;

use crate::{ChainSpec, Fork};

/// Sets the fields that a fork adds to the header. Here they are constants: no fee burning, no withdrawals,
/// no blobs, no beacon chain, no requests.
pub(crate) fn seal_fork_fields(header: &mut Header, spec: &ChainSpec) {
    let fork = spec.fork_at(header.number, header.timestamp);
    header.base_fee_per_gas = (fork >= Fork::London).then_some(0);
    header.withdrawals_root = (fork >= Fork::Shanghai).then_some(EMPTY_ROOT_HASH);
    header.blob_gas_used = (fork >= Fork::Cancun).then_some(0);
    header.excess_blob_gas = (fork >= Fork::Cancun).then_some(0);
    header.parent_beacon_block_root = (fork >= Fork::Cancun).then_some(B256::ZERO);
    header.requests_hash = (fork >= Fork::Prague).then_some(EMPTY_REQUESTS_HASH);
}
