//! How far a transaction has come: bytes, decoded, sender recovered.

use std::sync::Arc;

use alloy_consensus::{EthereumTxEnvelope, Transaction as _, TxEip4844, Typed2718 as _};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, SECP256K1};

use crate::private::signing_hash;

/// A signed Ethereum transaction of any type that this chain knows (EIP-2718), without blobs.
pub type Transaction = EthereumTxEnvelope<TxEip4844>;

/// Half of the secp256k1 group order: EIP-2 refuses a signature whose `s` is above it.
const SECP256K1_HALF_ORDER: U256 = U256::from_be_slice(&[
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
]);

/// Why bytes are not a transaction with a sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// The bytes are not the EIP-2718 encoding of a known transaction type.
    #[error("transaction does not decode: {reason}")]
    Malformed {
        /// What the decoder found.
        reason: String,
    },
    /// Bytes follow after the transaction.
    #[error("transaction is followed by {count} superfluous bytes")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// EIP-2: `s` must be in the lower half, or the same transaction would have two hashes.
    #[error("signature s is above half of the curve order (EIP-2)")]
    HighS,
    /// No public key fits the signature.
    #[error("signature is invalid: no sender can be recovered")]
    InvalidSignature,
}

/// Decodes the network form of a transaction (EIP-2718: legacy RLP, or type byte and payload).
///
/// # Errors
/// [`TransactionError::Malformed`] or [`TransactionError::TrailingBytes`].
pub fn decode_transaction(bytes: &[u8]) -> Result<Transaction, TransactionError> {
    let mut rest = bytes;
    let transaction =
        Transaction::decode_2718(&mut rest).map_err(|e| TransactionError::Malformed {
            reason: e.to_string(),
        })?;
    if !rest.is_empty() {
        return Err(TransactionError::TrailingBytes { count: rest.len() });
    }
    Ok(transaction)
}

/// A transaction whose signature has been checked. Cheap to clone; made only by recovering the sender.
#[derive(Debug, Clone)]
pub struct RecoveredTransaction {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    transaction: Transaction,
    sender: Address,
    size_bytes: usize,
}

impl RecoveredTransaction {
    /// Checks the signature (low `s`) over the [`signing_hash`] and recovers the sender: about 40 microseconds.
    ///
    /// # Errors
    /// [`TransactionError::HighS`] or [`TransactionError::InvalidSignature`].
    pub fn recover(transaction: Transaction) -> Result<Self, TransactionError> {
        let sender = recover_signer(transaction.signature(), signing_hash(&transaction))?;
        Ok(Self::with_sender(transaction, sender))
    }

    /// Takes a sender that was recovered before (a cache, our own block store). The caller vouches for it:
    /// a wrong sender here makes this member diverge from the others, and the state root will say so.
    pub fn with_sender(transaction: Transaction, sender: Address) -> Self {
        // The hash is computed lazily inside the envelope: do it once here, where work runs in parallel.
        let size_bytes = transaction.encode_2718_len();
        let _: &B256 = transaction.hash();
        Self {
            inner: Arc::new(Inner {
                transaction,
                sender,
                size_bytes,
            }),
        }
    }

    /// The signed transaction.
    pub fn transaction(&self) -> &Transaction {
        &self.inner.transaction
    }

    /// Who signed it.
    pub fn sender(&self) -> Address {
        self.inner.sender
    }

    /// keccak256 of the network form.
    pub fn hash(&self) -> B256 {
        *self.inner.transaction.hash()
    }

    /// The sender's nonce.
    pub fn nonce(&self) -> u64 {
        self.inner.transaction.nonce()
    }

    /// Length of the network form in bytes.
    pub fn size_bytes(&self) -> usize {
        self.inner.size_bytes
    }

    /// The network form (EIP-2718).
    pub fn encoded(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.inner.size_bytes);
        self.inner.transaction.encode_2718(&mut out);
        out.into()
    }

    /// The EIP-2718 type byte; 0 for legacy.
    pub fn type_byte(&self) -> u8 {
        self.inner.transaction.ty()
    }
}

/// Recovers the address that made `signature` over `hash`, refusing a high `s` (EIP-2).
///
/// # Errors
/// [`TransactionError::HighS`] or [`TransactionError::InvalidSignature`].
pub fn recover_signer(signature: &Signature, hash: B256) -> Result<Address, TransactionError> {
    if signature.s() > SECP256K1_HALF_ORDER {
        return Err(TransactionError::HighS);
    }
    let mut compact = [0u8; 64];
    compact[..32].copy_from_slice(&signature.r().to_be_bytes::<32>());
    compact[32..].copy_from_slice(&signature.s().to_be_bytes::<32>());
    let id = RecoveryId::try_from(i32::from(signature.v())).map_err(invalid_signature)?;
    let signature = RecoverableSignature::from_compact(&compact, id).map_err(invalid_signature)?;
    let key = SECP256K1
        .recover_ecdsa(Message::from_digest(hash.0), &signature)
        .map_err(invalid_signature)?;
    Ok(address_of(&key))
}

fn invalid_signature<E>(_: E) -> TransactionError {
    TransactionError::InvalidSignature
}

/// The Ethereum address of a public key: the last 20 bytes of keccak256 of its 64 coordinate bytes.
pub fn address_of(key: &secp256k1::PublicKey) -> Address {
    Address::from_slice(&keccak256(&key.serialize_uncompressed()[1..])[12..])
}
