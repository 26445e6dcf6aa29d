//! Users, and what they sign.

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind};
use quorate_chain::{
    PRIVACY_PRECOMPILE, RecoveredTransaction, Transaction, address_of, marker_data,
    quorum_private_hash, quorum_private_transaction,
};
use quorate_enclave::PayloadHash;
use secp256k1::{Message, SECP256K1, SecretKey};

use super::*;

pub fn user_key(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number; 32]).unwrap()
}

pub fn user(number: u8) -> Address {
    address_of(&user_key(number).public_key(SECP256K1))
}

pub const ALICE: u8 = 1;
pub const BOB: u8 = 2;

pub fn signed(who: u8, hash: B256) -> Signature {
    let message = Message::from_digest(hash.0);
    let signature = SECP256K1.sign_ecdsa_recoverable(message, &user_key(who));
    let (id, bytes) = signature.serialize_compact();
    Signature::from_bytes_and_parity(&bytes, i32::from(id) == 1)
}

pub fn public(who: u8, nonce: u64, to: TxKind, input: &[u8]) -> RecoveredTransaction {
    let tx = TxLegacy {
        chain_id: Some(CHAIN_ID),
        nonce,
        gas_limit: GAS,
        to,
        input: Bytes::copy_from_slice(input),
        ..TxLegacy::default()
    };
    let signature = signed(who, tx.signature_hash());
    RecoveredTransaction::recover(tx.into_signed(signature).into()).unwrap()
}

pub fn marker(who: u8, nonce: u64, hash: PayloadHash) -> RecoveredTransaction {
    let data = marker_data(hash.as_bytes(), &[]).unwrap();
    public(who, nonce, TxKind::Call(PRIVACY_PRECOMPILE), &data)
}

pub fn quorum_form(who: u8, nonce: u64, to: Option<Address>, hash: PayloadHash) -> Transaction {
    let tx = TxLegacy {
        nonce,
        gas_limit: GAS,
        to: to.map_or(TxKind::Create, TxKind::Call),
        input: Bytes::copy_from_slice(hash.as_bytes()),
        ..TxLegacy::default()
    };
    let signature = signed(who, quorum_private_hash(&tx));
    quorum_private_transaction(tx, signature).unwrap()
}

pub fn quorum(who: u8, nonce: u64, to: Option<Address>, hash: PayloadHash) -> RecoveredTransaction {
    RecoveredTransaction::recover(quorum_form(who, nonce, to, hash)).unwrap()
}
