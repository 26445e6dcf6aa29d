//! What parties compare after a transaction.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Keccak256};
use quorate_evm::{RootedState, contract_digest};
use quorate_state::ApplyError;

/// Begins what is hashed. Another format gets another name.
const DOMAIN: &[u8] = b"quorate private outcome 1";

/// Digest of what a transaction left behind: keccak256 of a name for the format, 1 if it succeeded and else 0, and of each affected
/// contract, by rising address, the address and its [`contract_digest`].
///
/// # Errors
/// [`ApplyError`] if the state could not be read.
pub fn outcome_digest(
    private_after: &dyn RootedState,
    affected: &BTreeSet<Address>,
    success: bool,
) -> Result<B256, ApplyError> {
    let mut hasher = Keccak256::new();
    hasher.update(DOMAIN);
    hasher.update([u8::from(success)]);
    for address in affected {
        hasher.update(address);
        hasher.update(contract_digest(private_after, address)?);
    }
    Ok(hasher.finalize())
}
