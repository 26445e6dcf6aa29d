//! Both forms, byte by byte.

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{EthereumTxEnvelope, TxEip1559, TxEip2930, TxEip7702};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{TxKind, keccak256};
use alloy_rlp::Encodable as _;
use proptest::prelude::*;
use secp256k1::{Message, SECP256K1, SecretKey};

use super::*;
use crate::{RecoveredTransaction, TransactionError, address_of, decode_transaction};

const HASH: [u8; PAYLOAD_HASH_BYTES] = [0xab; PAYLOAD_HASH_BYTES];

fn key() -> SecretKey {
    SecretKey::from_byte_array([9; 32]).unwrap()
}

fn signer() -> Address {
    address_of(&key().public_key(SECP256K1))
}

fn sign(hash: B256) -> Signature {
    let (id, bytes) = SECP256K1
        .sign_ecdsa_recoverable(Message::from_digest(hash.0), &key())
        .serialize_compact();
    Signature::from_bytes_and_parity(&bytes, i32::from(id) == 1)
}

fn legacy(to: TxKind, input: &[u8]) -> TxLegacy {
    TxLegacy {
        chain_id: None,
        nonce: 7,
        gas_price: 0,
        gas_limit: 90_000,
        to,
        value: U256::ZERO,
        input: Bytes::copy_from_slice(input),
    }
}

fn contract() -> TxKind {
    TxKind::Call(Address::repeat_byte(0x11))
}

fn quorum(tx: TxLegacy) -> Transaction {
    let signature = sign(quorum_private_hash(&tx));
    quorum_private_transaction(tx, signature).unwrap()
}

/// The RLP list of Homestead's six fields, then of whatever `more` is.
fn rlp_by_hand(tx: &TxLegacy, more: &[U256]) -> Vec<u8> {
    let mut fields = Vec::new();
    tx.nonce.encode(&mut fields);
    tx.gas_price.encode(&mut fields);
    tx.gas_limit.encode(&mut fields);
    match tx.to {
        TxKind::Create => fields.push(0x80),
        TxKind::Call(to) => to.encode(&mut fields),
    }
    tx.value.encode(&mut fields);
    tx.input.encode(&mut fields);
    more.iter().for_each(|value| value.encode(&mut fields));
    let mut list = Vec::new();
    alloy_rlp::Header {
        list: true,
        payload_length: fields.len(),
    }
    .encode(&mut list);
    list.extend(fields);
    list
}

fn marker(input: &[u8]) -> Transaction {
    let tx = TxLegacy {
        chain_id: Some(1_337),
        ..legacy(TxKind::Call(PRIVACY_PRECOMPILE), input)
    };
    let signature = sign(tx.signature_hash());
    Transaction::Legacy(tx.into_signed(signature))
}

#[test]
fn the_quorum_form_is_signed_as_homestead_and_shows_v_37_or_38() {
    for (nonce, to) in [(7, contract()), (8, TxKind::Create), (9, contract())] {
        let tx = TxLegacy {
            nonce,
            ..legacy(to, &HASH)
        };
        let signed_hash = keccak256(rlp_by_hand(&tx, &[]));
        assert_eq!(quorum_private_hash(&tx), signed_hash);
        let signature = sign(signed_hash);
        let v = U256::from(37 + u8::from(signature.v()));
        let expected = rlp_by_hand(&tx, &[v, signature.r(), signature.s()]);
        let transaction = quorum_private_transaction(tx, signature).unwrap();
        assert_eq!(transaction.encoded_2718(), expected);
        assert_eq!(*transaction.hash(), keccak256(&expected));
        assert_eq!(signing_hash(&transaction), signed_hash);
        let recovered = RecoveredTransaction::recover(transaction).unwrap();
        assert_eq!(recovered.sender(), signer());
    }
}

#[test]
fn bytes_of_the_quorum_form_come_back_unchanged() {
    let transactions: Vec<Transaction> = (0..20)
        .map(|nonce| TxLegacy {
            nonce,
            ..legacy(contract(), &HASH)
        })
        .map(quorum)
        .collect();
    // Both values of v occur.
    let odd = transactions.iter().filter(|tx| tx.signature().v()).count();
    assert!((1..20).contains(&odd), "{odd}");
    let root = calculate_transaction_root(&transactions);
    let decoded: Vec<Transaction> = transactions
        .iter()
        .map(|tx| decode_transaction(&tx.encoded_2718()).unwrap())
        .collect();
    assert_eq!(decoded, transactions);
    assert_eq!(calculate_transaction_root(&decoded), root);
    for (decoded, original) in decoded.into_iter().zip(transactions) {
        assert!(is_quorum_private(&decoded));
        assert_eq!(decoded.hash(), original.hash());
        let recovered = RecoveredTransaction::recover(decoded).unwrap();
        assert_eq!(recovered.sender(), signer());
        assert_eq!(recovered.encoded(), original.encoded_2718());
    }
}

#[test]
fn the_same_signature_without_the_mark_is_another_transaction() {
    let private = quorum(legacy(contract(), &HASH));
    let Some(tx) = private.as_legacy().map(Signed::tx) else {
        unreachable!("it is a legacy transaction");
    };
    let unmarked = TxLegacy {
        chain_id: None,
        ..tx.clone()
    };
    let public = Transaction::Legacy(unmarked.into_signed(*private.signature()));
    assert!(!is_quorum_private(&public));
    assert_eq!(private_reference(&public), None);
    assert_ne!(public.hash(), private.hash());
    // The mark is outside the signature: that is why nothing without a chain id is admitted from outside.
    assert_eq!(signing_hash(&public), signing_hash(&private));
}

#[test]
fn other_chain_ids_are_signed_by_eip_155() {
    let tx = TxLegacy {
        chain_id: Some(1_337),
        ..legacy(contract(), &HASH)
    };
    let expected = keccak256(rlp_by_hand(
        &tx,
        &[U256::from(1_337), U256::ZERO, U256::ZERO],
    ));
    let signature = sign(expected);
    let transaction = Transaction::Legacy(tx.into_signed(signature));
    assert_eq!(signing_hash(&transaction), expected);
    assert!(!is_quorum_private(&transaction));
    assert_eq!(private_reference(&transaction), None);
    let recovered = RecoveredTransaction::recover(transaction).unwrap();
    assert_eq!(recovered.sender(), signer());
}

#[test]
fn the_quorum_form_takes_no_value_no_other_data_and_no_chain_id() {
    let refused = |change: &dyn Fn(&mut TxLegacy)| {
        let mut tx = legacy(contract(), &HASH);
        change(&mut tx);
        let signature = sign(quorum_private_hash(&tx));
        quorum_private_transaction(tx, signature).unwrap_err()
    };
    let value = refused(&|tx| tx.value = U256::from(3));
    assert_eq!(value, QuorumFormError::Value { got: U256::from(3) });
    assert_eq!(
        value.to_string(),
        "ether value is not supported for private transactions"
    );
    for length in [0, 1, 32, 63, 65, 72] {
        assert_eq!(
            refused(&|tx| tx.input = vec![1; length].into()),
            QuorumFormError::DataLength { got: length }
        );
    }
    assert_eq!(
        refused(&|tx| tx.chain_id = Some(1_337)),
        QuorumFormError::ChainId { got: 1_337 }
    );
    // What a decoder made of the form is taken as it is.
    let decoded = TxLegacy {
        chain_id: Some(1),
        ..legacy(contract(), &HASH)
    };
    assert_eq!(quorum(decoded), quorum(legacy(contract(), &HASH)));
}

#[test]
fn a_high_s_is_refused_in_the_quorum_form_too() {
    let tx = legacy(contract(), &HASH);
    let low = sign(quorum_private_hash(&tx));
    let order = U256::from_be_slice(&secp256k1::constants::CURVE_ORDER);
    let high = Signature::new(low.r(), order - low.s(), !low.v());
    let twin = quorum_private_transaction(tx, high).unwrap();
    assert_eq!(
        RecoveredTransaction::recover(twin).unwrap_err(),
        TransactionError::HighS
    );
}

#[test]
fn references_of_the_quorum_form_are_the_data() {
    for to in [
        contract(),
        TxKind::Create,
        // v decides, not the recipient.
        TxKind::Call(PRIVACY_PRECOMPILE),
    ] {
        assert_eq!(
            private_reference(&quorum(legacy(to, &HASH))),
            Some(PrivateReference {
                form: PublicForm::Quorum,
                hash: HASH,
                tags: Vec::new(),
            })
        );
    }
    // A block holds no such transaction; whoever asks about one all the same learns that it refers to nothing.
    let valued = TxLegacy {
        chain_id: Some(1),
        value: U256::ONE,
        ..legacy(contract(), &HASH)
    };
    let short = TxLegacy {
        chain_id: Some(1),
        ..legacy(contract(), &[1; 63])
    };
    for tx in [valued, short] {
        let signature = sign(quorum_private_hash(&tx));
        let transaction = Transaction::Legacy(tx.into_signed(signature));
        assert!(is_quorum_private(&transaction));
        assert_eq!(private_reference(&transaction), None);
    }
}

#[test]
fn markers_carry_up_to_256_tags() {
    for count in [0, 1, 3, 4, 255, 256] {
        let tags: Vec<[u8; PARTY_TAG_BYTES]> = (0..count)
            .map(|n: u16| u64::from(n).to_be_bytes())
            .collect();
        let data = marker_data(&HASH, &tags).unwrap();
        assert_eq!(data.len(), 64 + 8 * usize::from(count));
        assert_eq!(
            private_reference(&marker(&data)),
            Some(PrivateReference {
                form: PublicForm::Marker,
                hash: HASH,
                tags,
            })
        );
    }
    assert_eq!(marker_data(&HASH, &[[0; PARTY_TAG_BYTES]; 257]), None);
}

#[test]
fn data_that_is_no_marker_and_other_recipients_are_public() {
    for length in [0, 1, 63, 65, 71, 73, 64 + 8 * 257] {
        assert_eq!(private_reference(&marker(&vec![1; length])), None);
    }
    let elsewhere = TxLegacy {
        chain_id: Some(1_337),
        ..legacy(contract(), &HASH)
    };
    let creation = TxLegacy {
        to: TxKind::Create,
        ..elsewhere.clone()
    };
    for tx in [elsewhere, creation] {
        let signature = sign(tx.signature_hash());
        let transaction = Transaction::Legacy(tx.into_signed(signature));
        assert_eq!(private_reference(&transaction), None);
    }
}

#[test]
fn markers_are_transactions_of_any_type_and_may_move_value() {
    let to = TxKind::Call(PRIVACY_PRECOMPILE);
    let input = Bytes::copy_from_slice(&HASH);
    let signature = sign(B256::repeat_byte(1));
    let eip2930 = TxEip2930 {
        to,
        input: input.clone(),
        ..TxEip2930::default()
    };
    let eip1559 = TxEip1559 {
        to,
        input: input.clone(),
        value: U256::from(5),
        ..TxEip1559::default()
    };
    let eip7702 = TxEip7702 {
        to: PRIVACY_PRECOMPILE,
        input,
        // Only legacy transactions show a v of 37: chain id 1 means itself here.
        chain_id: 1,
        ..TxEip7702::default()
    };
    let transactions: [Transaction; 3] = [
        EthereumTxEnvelope::Eip2930(eip2930.into_signed(signature)),
        EthereumTxEnvelope::Eip1559(eip1559.into_signed(signature)),
        EthereumTxEnvelope::Eip7702(eip7702.into_signed(signature)),
    ];
    for transaction in &transactions {
        assert!(!is_quorum_private(transaction));
        assert_eq!(signing_hash(transaction), transaction.signature_hash());
        let reference = private_reference(transaction).unwrap();
        assert_eq!((reference.form, reference.hash), (PublicForm::Marker, HASH));
    }
}

proptest! {
    #[test]
    fn whatever_the_data_a_marker_says_exactly_it_or_nothing(
        data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let reference = private_reference(&marker(&data));
        let fits = data.len() >= 64 && data.len() % 8 == 0;
        prop_assert_eq!(reference.is_some(), fits);
        if let Some(reference) = reference {
            prop_assert_eq!(marker_data(&reference.hash, &reference.tags).unwrap().to_vec(), data);
        }
    }
}
