//! Transactions that a client signs itself.

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use quorate_chain::{
    PRIVACY_PRECOMPILE, Transaction, address_of, marker_data, quorum_private_hash,
    quorum_private_transaction,
};
use secp256k1::{Message, SECP256K1, SecretKey};

/// Chain id of every consortium of the tests.
const CHAIN_ID: u64 = 1_337;
/// Enough for everything that tests do.
pub const GAS: u64 = 1_000_000;

/// A key that no node has.
pub struct Wallet {
    key: SecretKey,
}

impl Wallet {
    /// The same name gives the same key.
    pub fn named(name: &str) -> Self {
        let key = SecretKey::from_byte_array(keccak256(name).0).unwrap();
        Self { key }
    }

    pub fn address(&self) -> Address {
        address_of(&self.key.public_key(SECP256K1))
    }

    fn sign(&self, hash: B256) -> Signature {
        let message = Message::from_digest(hash.0);
        let signature = SECP256K1.sign_ecdsa_recoverable(message, &self.key);
        let (id, bytes) = signature.serialize_compact();
        Signature::from_bytes_and_parity(&bytes, i32::from(id) == 1)
    }

    /// A transaction in Quorum's form (v 37 or 38) that names a payload.
    pub fn quorum(&self, nonce: u64, to: Option<&str>, payload: &str) -> String {
        let tx = TxLegacy {
            chain_id: None,
            nonce,
            gas_price: 0,
            gas_limit: GAS,
            to: to.map_or(TxKind::Create, |to| TxKind::Call(to.parse().unwrap())),
            value: U256::ZERO,
            input: bytes(payload),
        };
        let signature = self.sign(quorum_private_hash(&tx));
        encoded(&quorum_private_transaction(tx, signature).unwrap())
    }

    /// The same with a value, which the chain's own types refuse to make: `v` of the encoding is changed by hand.
    pub fn quorum_with_value(&self, nonce: u64, to: &str, payload: &str) -> String {
        let tx = TxLegacy {
            chain_id: None,
            nonce,
            gas_price: 0,
            gas_limit: GAS,
            to: TxKind::Call(to.parse().unwrap()),
            value: U256::from(1),
            input: bytes(payload),
        };
        let signature = self.sign(tx.signature_hash());
        let marked = TxLegacy {
            chain_id: Some(1),
            ..tx
        };
        encoded(&marked.into_signed(signature).into())
    }

    /// A privacy marker transaction of type 2 without tags.
    pub fn marker(&self, nonce: u64, payload: &str) -> String {
        let hash: [u8; 64] = bytes(payload).as_ref().try_into().unwrap();
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: GAS,
            to: TxKind::Call(PRIVACY_PRECOMPILE),
            input: marker_data(&hash, &[]).unwrap(),
            ..TxEip1559::default()
        };
        let signature = self.sign(tx.signature_hash());
        encoded(&tx.into_signed(signature).into())
    }

    /// A public transaction of type 0.
    pub fn public(&self, nonce: u64, to: &str, data: &[u8]) -> String {
        let tx = TxLegacy {
            chain_id: Some(CHAIN_ID),
            nonce,
            gas_price: 0,
            gas_limit: GAS,
            to: TxKind::Call(to.parse().unwrap()),
            value: U256::ZERO,
            input: Bytes::copy_from_slice(data),
        };
        let signature = self.sign(tx.signature_hash());
        encoded(&tx.into_signed(signature).into())
    }

    /// Signs what `eth_fillTransaction` gave back: a transaction in Quorum's form without a signature.
    pub fn sign_filled(&self, filled: &serde_json::Value) -> String {
        let number = |name: &str| {
            let text = filled["tx"][name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {filled}"));
            u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
        };
        let tx = TxLegacy {
            chain_id: None,
            nonce: number("nonce"),
            gas_price: u128::from(number("gasPrice")),
            gas_limit: number("gas"),
            to: filled["tx"]["to"]
                .as_str()
                .map_or(TxKind::Create, |to| TxKind::Call(to.parse().unwrap())),
            value: U256::ZERO,
            input: bytes(filled["tx"]["input"].as_str().unwrap()),
        };
        let signature = self.sign(quorum_private_hash(&tx));
        encoded(&quorum_private_transaction(tx, signature).unwrap())
    }
}

fn encoded(tx: &Transaction) -> String {
    hex::encode_prefixed(tx.encoded_2718())
}

fn bytes(text: &str) -> Bytes {
    text.parse().unwrap()
}
