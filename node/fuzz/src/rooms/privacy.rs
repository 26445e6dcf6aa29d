//! What is inside payloads and beside them, and what members say to each other about them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_enclave::{NodeKey, PayloadHash, PrivacyFlag, PublicKey};
use quorate_exchange::fuzzing;
use quorate_privacy::{
    Acknowledgements, Content, ContractState, ExtensionStep, SignedTerms, Terms,
};
use secp256k1::SECP256K1;

use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("privacy-content", content, content_seeds, Memory::DECODER),
    Target::new("privacy-terms", terms, terms_seeds, Memory::DECODER),
    Target::new(
        "privacy-handover",
        handover,
        handover_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "privacy-messages",
        fuzzing::messages,
        fuzzing::messages_seeds,
        Memory::DECODER,
    ),
];

/// A payload in the clear, as whoever sealed it made it.
fn content(bytes: &[u8]) -> bool {
    Content::decode(bytes).is_ok_and(|content| {
        assert_eq!(content.encode(), bytes, "one content, two encodings");
        true
    })
}

fn content_seeds() -> Vec<Vec<u8>> {
    let transaction = figures::encoded_transactions().into_iter().next();
    let call = |to| Content::Call {
        to,
        data: Bytes::from_static(b"call"),
        gas_limit: 100_000,
    };
    [
        Content::Data(Bytes::from_static(b"data")),
        call(None),
        call(Some(figures::ECHO)),
        Content::Signed(transaction.unwrap_or_default().into()),
        Content::Extension(ExtensionStep::Offer {
            contract: figures::ECHO,
            newcomer: PublicKey::from_bytes([5; 32]),
            newcomer_account: Address::repeat_byte(2),
            parties: [3, 4].map(|n| PublicKey::from_bytes([n; 32])).into(),
        }),
        Content::Extension(ExtensionStep::Vote {
            offer: figures::ECHO,
            accept: true,
        }),
        Content::Extension(ExtensionStep::Cancel {
            offer: figures::ECHO,
        }),
    ]
    .iter()
    .map(Content::encode)
    .collect()
}

/// What goes beside an envelope, with and without its signature.
fn terms(bytes: &[u8]) -> bool {
    let plain = Terms::decode(bytes).is_ok_and(|terms| {
        assert_eq!(terms.encode(), bytes, "one set of terms, two encodings");
        let _consistent = terms.check().is_ok();
        true
    });
    let signed = SignedTerms::decode(bytes).is_ok_and(|signed| {
        assert_eq!(signed.encode(), bytes, "one set of terms, two encodings");
        true
    });
    assert!(!(plain && signed), "two readings of the same bytes");
    plain || signed
}

fn terms_seeds() -> Vec<Vec<u8>> {
    let key = |n: u8| PublicKey::from_bytes([n; 32]);
    let standard = Terms {
        hash: PayloadHash::from_bytes([7; 64]),
        flag: PrivacyFlag::Standard,
        group: None,
        sender: key(3),
        from: Some(Address::repeat_byte(1)),
        parties: BTreeSet::new(),
        mandatory: BTreeSet::new(),
        affected: BTreeMap::from([(figures::ECHO, PayloadHash::from_bytes([8; 64]))]),
        exec_root: None,
        base: BTreeMap::new(),
        sender_node: NodeKey::from(figures::key(1).public_key(SECP256K1).serialize()),
        acknowledgements: Acknowledgements::KOfN(2),
    };
    let validated = Terms {
        flag: PrivacyFlag::StateValidation,
        parties: [key(3), key(4)].into(),
        exec_root: Some(B256::repeat_byte(2)),
        acknowledgements: Acknowledgements::All,
        ..standard.clone()
    };
    let signed = SignedTerms {
        terms: validated.clone(),
        signature: [5; 65],
        path: Vec::new(),
    };
    let together = SignedTerms {
        path: vec![B256::repeat_byte(3), B256::repeat_byte(4)],
        ..signed.clone()
    };
    vec![
        standard.encode(),
        validated.encode(),
        signed.encode(),
        together.encode(),
    ]
}

/// The state of a contract that another party hands over.
fn handover(bytes: &[u8]) -> bool {
    ContractState::decode(bytes).is_ok_and(|state| {
        assert_eq!(state.encode(), bytes, "one state, two encodings");
        // Here there is no storage that could fail.
        assert!(state.digest().is_ok());
        true
    })
}

fn handover_seeds() -> Vec<Vec<u8>> {
    let key = |n: u8| PublicKey::from_bytes([n; 32]);
    let known = ContractState {
        contract: figures::ECHO,
        nonce: 1,
        code: Bytes::from_static(&[0x60, 0]),
        storage: [(1, 7), (2, 300)]
            .map(|(slot, value)| (U256::from(slot), U256::from(value)))
            .into(),
        creation_transaction: B256::repeat_byte(1),
        creation_hash: PayloadHash::from_bytes([7; 64]),
        flag: PrivacyFlag::MandatoryParties,
        parties: Some([key(3), key(4)].into()),
        mandatory: [key(3)].into(),
        creator: key(3),
    };
    let unknown = ContractState {
        flag: PrivacyFlag::Standard,
        parties: None,
        mandatory: BTreeSet::new(),
        storage: BTreeMap::new(),
        ..known.clone()
    };
    vec![known.encode(), unknown.encode()]
}
