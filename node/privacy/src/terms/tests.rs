use super::*;
use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;
use secp256k1::SecretKey;

/// Digest of the envelope that the terms go beside.
const ENVELOPE: B256 = B256::repeat_byte(0xe7);

fn node() -> SecretKey {
    SecretKey::from_byte_array([0x42; 32]).unwrap()
}

fn node_key() -> NodeKey {
    NodeKey::from(node().public_key(SECP256K1).serialize())
}

fn signature(digest: B256) -> Result<[u8; 65], ()> {
    let message = Message::from_digest(digest.0);
    let (id, compact) = SECP256K1
        .sign_ecdsa_recoverable(message, &node())
        .serialize_compact();
    let mut bytes = [0; 65];
    bytes[..64].copy_from_slice(&compact);
    bytes[64] = u8::try_from(i32::from(id)).unwrap();
    Ok(bytes)
}

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn standard() -> Terms {
    Terms {
        hash: PayloadHash::from_bytes([7; 64]),
        flag: PrivacyFlag::Standard,
        group: None,
        sender: key(1),
        from: None,
        parties: BTreeSet::new(),
        mandatory: BTreeSet::new(),
        affected: BTreeMap::new(),
        exec_root: None,
        base: BTreeMap::new(),
        sender_node: node_key(),
        acknowledgements: Acknowledgements::All,
    }
}

fn validated() -> Terms {
    let contract = Address::repeat_byte(9);
    Terms {
        flag: PrivacyFlag::StateValidation,
        parties: [key(1), key(2)].into(),
        affected: [(contract, PayloadHash::from_bytes([8; 64]))].into(),
        exec_root: Some(B256::repeat_byte(3)),
        base: [(contract, B256::repeat_byte(4))].into(),
        ..standard()
    }
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let keys = || btree_set(any::<[u8; 32]>().prop_map(PublicKey::from_bytes), 1..5);
    let address = || any::<[u8; 20]>().prop_map(Address::from);
    let hash = || {
        any::<[u8; 32]>()
            .prop_map(|half| PayloadHash::from_bytes([half, half].concat().try_into().unwrap()))
    };
    let acknowledgements = prop_oneof![
        Just(Acknowledgements::All),
        Just(Acknowledgements::Mandatory),
        any::<u16>().prop_map(Acknowledgements::KOfN),
        btree_set(any::<u8>().prop_map(NodeKey::repeat_byte), 0..3)
            .prop_map(Acknowledgements::Nodes),
    ];
    let contracts = btree_map(address(), (hash(), any::<[u8; 32]>()), 0..4);
    let options = (
        proptest::option::of(any::<[u8; 32]>().prop_map(GroupId::from_bytes)),
        proptest::option::of(address()),
    );
    (
        0u8..4,
        hash(),
        keys(),
        keys(),
        contracts,
        options,
        acknowledgements,
    )
        .prop_map(
            |(flag, hash, parties, mandatory, contracts, (group, from), acknowledgements)| {
                let flag = PrivacyFlag::from_number(flag).unwrap();
                let validated = flag == PrivacyFlag::StateValidation;
                let with =
                    |yes, keys: BTreeSet<PublicKey>| if yes { keys } else { BTreeSet::new() };
                Terms {
                    hash,
                    flag,
                    group,
                    sender: *parties.first().unwrap(),
                    from,
                    parties: with(validated, parties),
                    mandatory: with(flag == PrivacyFlag::MandatoryParties, mandatory),
                    affected: contracts.iter().map(|(a, (hash, _))| (*a, *hash)).collect(),
                    exec_root: validated.then_some(B256::repeat_byte(5)),
                    base: contracts
                        .iter()
                        .filter(|_| validated)
                        .map(|(a, (_, digest))| (*a, B256::from(*digest)))
                        .collect(),
                    sender_node: node_key(),
                    acknowledgements,
                }
            },
        )
}

proptest! {
    #[test]
    fn terms_decode_to_what_was_encoded_and_verify(terms in any_terms(), chain_id in any::<u64>()) {
        let bytes = terms.encode();
        prop_assert!(bytes.len() <= TERMS_BYTES_MAX);
        prop_assert_eq!(Terms::decode(&bytes), Ok(terms.clone()));
        let signed = terms.sign(chain_id, &ENVELOPE, signature).unwrap();
        let signed = SignedTerms::decode(&signed.encode()).unwrap();
        prop_assert_eq!(signed.verify(chain_id, &ENVELOPE), Ok(()));
        prop_assert!(signed.verify(chain_id ^ 1, &ENVELOPE).is_err());
        prop_assert!(signed.verify(chain_id, &B256::ZERO).is_err());
    }

    #[test]
    fn changed_terms_are_refused_or_not_the_signed_ones(
        terms in any_terms(),
        at in any::<proptest::sample::Index>(),
        bit in 0u8..8,
    ) {
        let signed = terms.sign(10, &ENVELOPE, signature).unwrap();
        let mut bytes = signed.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = SignedTerms::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
            prop_assert!(read.verify(10, &ENVELOPE).is_err());
        }
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SignedTerms::decode(&bytes).is_err());
        if let Ok(read) = Terms::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}

#[test]
fn parts_that_do_not_go_together_are_named() {
    let check = |terms: Terms, name: &str| match terms.check() {
        Err(TermsError::Inconsistent { field, .. } | TermsError::OutOfRange { field, .. }) => {
            assert_eq!(field, name);
            assert!(Terms::decode(&terms.encode()).is_err());
        }
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(standard().check(), Ok(()));
    assert_eq!(validated().check(), Ok(()));
    check(
        Terms {
            parties: [key(1)].into(),
            ..standard()
        },
        "parties",
    );
    check(
        Terms {
            parties: BTreeSet::new(),
            ..validated()
        },
        "parties",
    );
    check(
        Terms {
            parties: [key(2)].into(),
            ..validated()
        },
        "parties",
    );
    check(
        Terms {
            exec_root: None,
            ..validated()
        },
        "execution root",
    );
    check(
        Terms {
            exec_root: Some(B256::ZERO),
            ..standard()
        },
        "execution root",
    );
    check(
        Terms {
            mandatory: [key(1)].into(),
            ..standard()
        },
        "mandatory parties",
    );
    check(
        Terms {
            flag: PrivacyFlag::MandatoryParties,
            ..standard()
        },
        "mandatory parties",
    );
    check(
        Terms {
            affected: BTreeMap::new(),
            ..validated()
        },
        "base digests",
    );
    let contracts = (0..=TERMS_CONTRACTS_MAX).map(|i| {
        let address = Address::left_padding_from(&i.to_be_bytes());
        (address, PayloadHash::from_bytes([1; 64]))
    });
    check(
        Terms {
            affected: contracts.collect(),
            ..standard()
        },
        "number of affected contracts",
    );
}

#[test]
fn keys_that_do_not_rise_are_refused() {
    let mut wire = TermsWire::from(&validated());
    wire.parties.reverse();
    assert_eq!(
        Terms::decode(&alloy_rlp::encode(&wire)),
        Err(TermsError::NotCanonical)
    );
    let mut wire = TermsWire::from(&validated());
    wire.parties.push(wire.parties[1]);
    assert_eq!(
        Terms::decode(&alloy_rlp::encode(&wire)),
        Err(TermsError::NotCanonical)
    );
    let mut bytes = validated().encode();
    bytes.push(0);
    assert_eq!(Terms::decode(&bytes), Err(TermsError::NotCanonical));
}

#[test]
fn another_nodes_signature_is_named() {
    let terms = Terms {
        sender_node: NodeKey::repeat_byte(2),
        ..standard()
    };
    let signed = terms.sign(10, &ENVELOPE, signature).unwrap();
    assert!(matches!(
        signed.verify(10, &ENVELOPE),
        Err(TermsError::OtherSigner { found, .. }) if found == node_key()
    ));
    let nothing = SignedTerms {
        signature: [0; 65],
        ..signed
    };
    assert_eq!(nothing.verify(10, &ENVELOPE), Err(TermsError::Signature));
}

#[test]
fn the_largest_terms_fit_the_limit() {
    let many: BTreeSet<PublicKey> = (0..TERMS_PARTIES_MAX)
        .map(|i| {
            let mut bytes = [0xff; 32];
            bytes[..8].copy_from_slice(&i.to_be_bytes());
            PublicKey::from_bytes(bytes)
        })
        .collect();
    let contracts = (0..TERMS_CONTRACTS_MAX).map(|i| Address::left_padding_from(&i.to_be_bytes()));
    let nodes = many.iter().map(|k| {
        let mut bytes = [2; 33];
        bytes[1..].copy_from_slice(k.as_bytes());
        NodeKey::from(bytes)
    });
    let terms = Terms {
        sender: *many.first().unwrap(),
        parties: many.clone(),
        affected: contracts
            .clone()
            .map(|a| (a, PayloadHash::from_bytes([9; 64])))
            .collect(),
        base: contracts.map(|a| (a, B256::repeat_byte(9))).collect(),
        acknowledgements: Acknowledgements::Nodes(nodes.collect()),
        ..validated()
    };
    let signed = terms.sign(10, &ENVELOPE, signature).unwrap();
    assert_eq!(SignedTerms::decode(&signed.encode()), Ok(signed));
}

#[test]
fn terms_that_were_signed_together_verify_one_by_one() {
    let many: Vec<_> = (0..5u8)
        .map(|n| Terms {
            hash: PayloadHash::from_bytes([n; 64]),
            ..standard()
        })
        .collect();
    let digests: Vec<_> = many
        .iter()
        .map(|t| t.signing_digest(10, &ENVELOPE))
        .collect();
    let (root, paths) = together(&digests).unwrap();
    let signature = signature(root).unwrap();
    for (terms, path) in many.iter().zip(&paths) {
        let signed = SignedTerms {
            terms: terms.clone(),
            signature,
            path: path.clone(),
        };
        let signed = SignedTerms::decode(&signed.encode()).unwrap();
        assert_eq!(signed.verify(10, &ENVELOPE), Ok(()));
        assert!(signed.verify(11, &ENVELOPE).is_err());
        // Terms that were not among them, and a way that is not theirs.
        let others = SignedTerms {
            terms: Terms {
                hash: PayloadHash::from_bytes([9; 64]),
                ..standard()
            },
            ..signed.clone()
        };
        assert!(others.verify(10, &ENVELOPE).is_err());
        let alone = SignedTerms {
            path: Vec::new(),
            ..signed
        };
        assert!(alone.verify(10, &ENVELOPE).is_err());
    }
}

#[test]
fn a_path_is_written_in_one_way_and_has_a_limit() {
    let signed = standard().sign(10, &ENVELOPE, signature).unwrap();
    let with = |path| {
        SignedTerms {
            path,
            ..signed.clone()
        }
        .encode()
    };
    let none = signed.encode();
    assert_eq!(SignedTerms::decode(&none), Ok(signed.clone()));
    let longest = SignedTerms::decode(&with(vec![B256::ZERO; 4])).unwrap();
    assert_eq!(longest.path.len(), 4);
    assert!(matches!(
        SignedTerms::decode(&with(vec![B256::ZERO; 5])),
        Err(TermsError::OutOfRange {
            field: "length of the path",
            got: 5,
            ..
        })
    ));
    // An empty path is left out: the same list with one more byte, an empty list.
    let header = alloy_rlp::Header::decode(&mut none.as_slice()).unwrap();
    let mut longer = Vec::new();
    alloy_rlp::Header {
        list: true,
        payload_length: header.payload_length + 1,
    }
    .encode(&mut longer);
    longer.extend_from_slice(&none[none.len() - header.payload_length..]);
    longer.push(0xc0);
    assert_eq!(SignedTerms::decode(&longer), Err(TermsError::NotCanonical));
}
