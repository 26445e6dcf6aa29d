//! Accounts of the clients, and the transfers that they sign.

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use secp256k1::{Message, SECP256K1, SecretKey};

/// The chain that `quorate network new` makes.
pub const CHAIN_ID: u64 = 1_337;
/// Gas of a plain transfer (yellow paper, G_transaction).
pub const TRANSFER_GAS: u64 = 21_000;

/// Gas that a call of [`teller`] may use; it takes 21,381.
const TELLER_GAS: u64 = 30_000;
/// Emits one log without topics or data: PUSH1 0, PUSH1 0, LOG0, STOP.
pub const TELLER_CODE: &str = "0x60006000a000";

/// An account with its key.
#[derive(Debug, Clone)]
pub struct Account {
    key: SecretKey,
    /// Its address.
    pub address: Address,
}

/// A signed transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Who pays.
    pub from: Address,
    /// Its place among the sender's.
    pub nonce: u64,
    /// Who gets it.
    pub to: Address,
    /// In wei.
    pub value: U256,
    /// In wei per gas.
    pub gas_price: u128,
    /// keccak256 of the network form.
    pub hash: B256,
    /// Network form.
    pub raw: Bytes,
}

impl Account {
    /// Account `number` of a run. The same in every run: the key is nobody's secret.
    ///
    /// # Errors
    /// Never in practice: if a hash is no key.
    pub fn of(number: u64) -> Result<Self, secp256k1::Error> {
        let seed = keccak256([b"quorate chaos".as_slice(), &number.to_be_bytes()].concat());
        let key = SecretKey::from_byte_array(seed.0)?;
        let public = key.public_key(SECP256K1).serialize_uncompressed();
        let hash = keccak256(public.get(1..).unwrap_or_default());
        Ok(Self {
            key,
            address: Address::from_word(hash),
        })
    }

    /// Signs a transfer (EIP-155).
    pub fn transfer(&self, nonce: u64, to: Address, value: U256, gas_price: u128) -> Transfer {
        let tx = TxLegacy {
            chain_id: Some(CHAIN_ID),
            nonce,
            gas_price,
            gas_limit: if to == teller() {
                TELLER_GAS
            } else {
                TRANSFER_GAS
            },
            to: TxKind::Call(to),
            value,
            input: Bytes::new(),
        };
        let message = Message::from_digest(tx.signature_hash().0);
        let signed = SECP256K1.sign_ecdsa_recoverable(message, &self.key);
        let (id, bytes) = signed.serialize_compact();
        let signature = Signature::from_bytes_and_parity(&bytes, i32::from(id) & 1 == 1);
        let raw: Bytes = tx.into_signed(signature).encoded_2718().into();
        Transfer {
            from: self.address,
            nonce,
            to,
            value,
            gas_price,
            hash: keccak256(&raw),
            raw,
        }
    }
}

/// A contract that is there from genesis on: whoever sends it something makes it emit a log. It is always sent to at gas price 0,
/// so that nobody needs to know how much gas that takes.
pub fn teller() -> Address {
    Address::from_word(keccak256(b"quorate chaos teller"))
}

/// Address number `number` of those that only ever receive.
pub fn recipient(number: u64) -> Address {
    Address::from_word(keccak256(
        [b"quorate chaos recipient".as_slice(), &number.to_be_bytes()].concat(),
    ))
}
