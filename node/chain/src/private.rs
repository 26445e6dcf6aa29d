//! The public side of a private transaction: what the chain shows of it, and how everyone tells it from others.
//!
//! Two forms name a payload by its hash and nothing else of it:
//!
//! - A *marker* is an ordinary signed transaction of any type to [`PRIVACY_PRECOMPILE`]. Its data:
//!
//!   ```text
//!   payload hash (64 bytes) | tags (n times 8 bytes, n at most 256)
//!   ```
//!
//! - *Quorum's form* is a legacy transaction whose `v` is 37 or 38. Its data is the payload hash, its value is zero, and its
//!   signature covers the hash of Homestead, without a chain id. EIP-155 gives the same `v` for chain id 1, which is why no
//!   genesis may have that chain id and why a decoded transaction of this form shows it.
//!
//! Nothing here says whether there is such a payload, or who its parties are.

use std::fmt;

use alloy_consensus::{SignableTransaction as _, Signed, Transaction as _, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, address, hex};

use crate::Transaction;

/// Where markers are sent to. There is never code at this address: genesis refuses it, and no transaction can put it there.
pub const PRIVACY_PRECOMPILE: Address = address!("000000000000000000000000000000000000007a");

/// Length of a payload's hash (SHA3-512 of its ciphertext), in bytes.
pub const PAYLOAD_HASH_BYTES: usize = 64;

/// Length of one tag of a marker, in bytes.
pub const PARTY_TAG_BYTES: usize = 8;

/// Most tags of one marker.
pub const PARTY_TAGS_MAX: usize = 256;

/// The chain id that EIP-155 reads out of a `v` of 37 or 38.
const QUORUM_CHAIN_ID: u64 = 1;

/// How a transaction names its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublicForm {
    /// An ordinary transaction to [`PRIVACY_PRECOMPILE`]. Recipient, data and gas of the private call are in the payload.
    Marker,
    /// A legacy transaction with `v` 37 or 38. Its recipient and gas limit are those of the private call.
    Quorum,
}

/// What a transaction in the chain says of its payload.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateReference {
    /// How it says it.
    pub form: PublicForm,
    /// Hash of the payload's ciphertext.
    pub hash: [u8; PAYLOAD_HASH_BYTES],
    /// By these a party recognises that it is one; in no order, and some may be there for show. Always empty in
    /// [`PublicForm::Quorum`].
    pub tags: Vec<[u8; PARTY_TAG_BYTES]>,
}

impl fmt::Debug for PrivateReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateReference")
            .field("form", &self.form)
            .field("hash", &hex::encode_prefixed(self.hash))
            .field("tags", &self.tags.len())
            .finish()
    }
}

/// Why a transaction is not allowed in Quorum's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuorumFormError {
    /// Private transactions move no value. The text is the one that clients of Quorum know.
    #[error("ether value is not supported for private transactions")]
    Value {
        /// Value of the transaction, in wei.
        got: U256,
    },
    /// The data is the payload's hash and nothing else.
    #[error("data of a private transaction must be a payload hash of 64 bytes, got {got} bytes")]
    DataLength {
        /// Bytes of the data.
        got: usize,
    },
    /// The form has no chain id: its signature does not cover one.
    #[error("chain id of a private transaction with v 37 or 38 must be absent, got {got}")]
    ChainId {
        /// Chain id that was asked for.
        got: u64,
    },
}

/// What `transaction` says of a payload; `None` if it is public and nothing else.
///
/// Data that does not fit the form of a marker makes an ordinary public call of a transaction to [`PRIVACY_PRECOMPILE`]. The value
/// of a marker does not matter here: it is moved publicly, like that of any call.
pub fn private_reference(transaction: &Transaction) -> Option<PrivateReference> {
    if let Some(tx) = quorum_form(transaction) {
        let hash = check_quorum_form(tx).ok()?;
        return Some(PrivateReference {
            form: PublicForm::Quorum,
            hash,
            tags: Vec::new(),
        });
    }
    if transaction.to() != Some(PRIVACY_PRECOMPILE) {
        return None;
    }
    let (hash, rest) = transaction.input().split_first_chunk()?;
    let (tags, superfluous) = rest.as_chunks();
    (superfluous.is_empty() && tags.len() <= PARTY_TAGS_MAX).then(|| PrivateReference {
        form: PublicForm::Marker,
        hash: *hash,
        tags: tags.to_vec(),
    })
}

/// The data of a marker; `None` above [`PARTY_TAGS_MAX`].
pub fn marker_data(
    hash: &[u8; PAYLOAD_HASH_BYTES],
    tags: &[[u8; PARTY_TAG_BYTES]],
) -> Option<Bytes> {
    (tags.len() <= PARTY_TAGS_MAX).then(|| {
        let mut data = Vec::with_capacity(PAYLOAD_HASH_BYTES + tags.len() * PARTY_TAG_BYTES);
        data.extend_from_slice(hash);
        data.extend_from_slice(tags.as_flattened());
        data.into()
    })
}

/// True if the transaction claims Quorum's form by its `v`. Whether value and data are as they must be is another question:
/// [`check_quorum_form`].
pub fn is_quorum_private(transaction: &Transaction) -> bool {
    quorum_form(transaction).is_some()
}

/// Checks value and data of a transaction in Quorum's form, and gives the payload's hash.
///
/// # Errors
/// [`QuorumFormError::Value`] or [`QuorumFormError::DataLength`].
pub fn check_quorum_form(tx: &TxLegacy) -> Result<[u8; PAYLOAD_HASH_BYTES], QuorumFormError> {
    if !tx.value.is_zero() {
        return Err(QuorumFormError::Value { got: tx.value });
    }
    match tx.input.as_ref().try_into() {
        Ok(hash) => Ok(hash),
        Err(std::array::TryFromSliceError { .. }) => Err(QuorumFormError::DataLength {
            got: tx.input.len(),
        }),
    }
}

/// What the sender of a transaction in Quorum's form signs: the hash of Homestead, which covers no chain id. The chain id of `tx`
/// does not matter.
pub fn quorum_private_hash(tx: &TxLegacy) -> B256 {
    if tx.chain_id.is_none() {
        return tx.signature_hash();
    }
    // Cheap: the data is shared.
    let unprotected = TxLegacy {
        chain_id: None,
        ..tx.clone()
    };
    unprotected.signature_hash()
}

/// Puts together a transaction in Quorum's form: `signature` is over [`quorum_private_hash`], and `v` becomes 37 or 38.
///
/// # Errors
/// [`QuorumFormError`]. The signature is not looked at.
pub fn quorum_private_transaction(
    tx: TxLegacy,
    signature: Signature,
) -> Result<Transaction, QuorumFormError> {
    if let Some(got) = tx.chain_id
        && got != QUORUM_CHAIN_ID
    {
        return Err(QuorumFormError::ChainId { got });
    }
    check_quorum_form(&tx)?;
    let marked = TxLegacy {
        chain_id: Some(QUORUM_CHAIN_ID),
        ..tx
    };
    Ok(Transaction::Legacy(marked.into_signed(signature)))
}

/// What the sender of `transaction` signed: the hash that its type, EIP-155 or, in Quorum's form, Homestead prescribes.
pub fn signing_hash(transaction: &Transaction) -> B256 {
    quorum_form(transaction).map_or_else(|| transaction.signature_hash(), quorum_private_hash)
}

fn quorum_form(transaction: &Transaction) -> Option<&TxLegacy> {
    transaction
        .as_legacy()
        .map(Signed::tx)
        .filter(|tx| tx.chain_id == Some(QUORUM_CHAIN_ID))
}

#[cfg(test)]
mod tests;
