//! What parties compare of private contracts.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Keccak256};
use alloy_rlp::Encodable as _;
use alloy_trie::{HashBuilder, Nibbles, TrieAccount};
use quorate_state::{ApplyError, Snapshot, StateRead};

/// Begins what [`contract_digest`] hashes. Another format gets another name.
const DIGEST_DOMAIN: &[u8] = b"quorate private contract 1";
/// RLP of the empty string: stands for an account that does not exist.
const RLP_NOTHING: &[u8] = &[0x80];

/// A state that knows the roots of its accounts' storage.
pub trait RootedState: StateRead {
    /// Root of the account's storage trie; the root of the empty trie if the account does not exist.
    ///
    /// # Errors
    /// [`ApplyError`] if the storage below failed or this state has no trie any more.
    fn storage_root(&self, address: &Address) -> Result<B256, ApplyError>;
}

impl RootedState for Snapshot {
    fn storage_root(&self, address: &Address) -> Result<B256, ApplyError> {
        Ok(self.prove(address, &[])?.storage_root)
    }
}

/// Root of a Merkle Patricia trie from address to RLP of the account (nonce, balance, storage root, code hash): what the parties
/// of a transaction under private state validation must agree on. The trie is Quorum's: its keys are the addresses themselves, not
/// their hashes. Quorum has no root for an account that does not exist; here the empty string is its value.
///
/// # Errors
/// [`ApplyError`] if the state could not be read or has no trie any more.
pub fn affected_root(
    private_after: &dyn RootedState,
    addresses: &BTreeSet<Address>,
) -> Result<B256, ApplyError> {
    let mut trie = HashBuilder::default();
    let mut leaf = Vec::new();
    // The builder wants its keys in order, and the set has them so.
    for address in addresses {
        leaf.clear();
        match private_after.account(address)? {
            Some(account) => TrieAccount {
                nonce: account.nonce,
                balance: account.balance,
                storage_root: private_after.storage_root(address)?,
                code_hash: account.code_hash,
            }
            .encode(&mut leaf),
            None => leaf.extend_from_slice(RLP_NOTHING),
        }
        trie.add_leaf(Nibbles::unpack(address), &leaf);
    }
    Ok(trie.root())
}

/// Digest of one private contract, for parties to exchange after a transaction.
///
/// keccak256 of: a name for the format, the address, 1 (or 0 and nothing more if the account does not exist), the nonce (8 bytes,
/// big endian), the code hash, the storage root. Who knows everything but one small value can find that value by trying: send
/// digests to parties only.
///
/// # Errors
/// [`ApplyError`] if the state could not be read or has no trie any more.
pub fn contract_digest(private: &dyn RootedState, address: &Address) -> Result<B256, ApplyError> {
    let mut hasher = Keccak256::new();
    hasher.update(DIGEST_DOMAIN);
    hasher.update(address);
    match private.account(address)? {
        Some(account) => {
            hasher.update([1]);
            hasher.update(account.nonce.to_be_bytes());
            hasher.update(account.code_hash);
            hasher.update(private.storage_root(address)?);
        }
        None => hasher.update([0]),
    }
    Ok(hasher.finalize())
}
