use proptest::prelude::*;
use quorate_enclave::{GroupId, KeyAnnouncement, NodeKey};
use quorate_privacy::{HandoverHead, HandoverOutcome};

use super::*;

fn hash() -> impl Strategy<Value = PayloadHash> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&halves[0]);
        bytes[32..].copy_from_slice(&halves[1]);
        PayloadHash::from_bytes(bytes)
    })
}

fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn digest() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::new)
}

fn blob() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 1..200).prop_map(Bytes::from)
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::Start),
        (any::<u64>(), 0..u64::MAX)
            .prop_map(|(time_ms, sequence)| Place::Behind(Cursor { time_ms, sequence })),
        hash().prop_map(Place::BehindHash),
    ]
}

fn group() -> impl Strategy<Value = GroupItem> {
    let group = (
        "[a-z]{0,20}",
        "[a-z ]{0,50}",
        any::<u64>(),
        proptest::collection::btree_set(key(), 1..5),
    );
    group.prop_map(|(name, description, payloads_live_ms, members)| GroupItem {
        name,
        description,
        payloads_live_ms,
        members: members.into_iter().collect(),
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let digests = (digest(), any::<u64>(), hash(), digest()).prop_map(
        |(transaction, height, payload, digest)| DigestItem {
            transaction,
            height,
            payload,
            digest,
        },
    );
    let delivered = (blob(), blob()).prop_map(|(envelope, terms)| Delivered { envelope, terms });
    prop_oneof![
        proptest::collection::vec(delivered, 1..4).prop_map(|items| Request::Deliver { items }),
        hash().prop_map(|hash| Request::Withdraw { hash }),
        proptest::collection::vec(hash(), 1..=FETCH_MAX)
            .prop_map(|hashes| Request::Fetch { hashes }),
        (key(), place(), 1..=1000u16).prop_map(|(key, place, limit)| Request::List {
            key,
            place,
            limit
        }),
        (key(), place(), 1..=1000u16).prop_map(|(key, place, limit)| Request::Erased {
            key,
            place,
            limit
        }),
        proptest::collection::vec(digests, 1..10).prop_map(|items| Request::Digests { items }),
        group().prop_map(Request::Group),
        (key(), proptest::option::of(any::<[u8; 32]>())).prop_map(|(key, after)| {
            let after = after.map(GroupId::from_bytes);
            Request::Groups { key, after }
        }),
        Just(Request::Keys),
        digest().prop_map(|transaction| Request::Statement { transaction }),
        (digest(), any::<u32>())
            .prop_map(|(transaction, page)| Request::State { transaction, page }),
    ]
}

fn statement() -> impl Strategy<Value = (HandoverHead, [u8; 65])> {
    let outcome = prop_oneof![
        "[a-z ]{0,512}".prop_map(|reason| HandoverOutcome::Refused { reason }),
        (digest(), any::<u32>())
            .prop_map(|(digest, bytes)| HandoverOutcome::State { digest, bytes }),
    ];
    (any::<[u8; 20]>(), key(), outcome, any::<u8>()).prop_map(|(offer, newcomer, outcome, n)| {
        let head = HandoverHead {
            offer: offer.into(),
            newcomer,
            outcome,
        };
        (head, [n; 65])
    })
}

fn answers() -> impl Strategy<Value = Answer> {
    let handed = (hash(), proptest::option::of((blob(), blob())))
        .prop_map(|(hash, payload)| Handed { hash, payload });
    let code = proptest::sample::select(RefusalCode::ALL.to_vec());
    let known = (key(), any::<[u8; 32]>()).prop_map(|(key, node)| {
        let mut bytes = [2; 33];
        bytes[1..].copy_from_slice(&node);
        (key, NodeKey::from(bytes))
    });
    let taken = prop_oneof![
        Just(Taken::Stored),
        (code.clone(), "[a-z ]{0,600}").prop_map(|(code, text)| Taken::refused(code, text)),
        any::<[u8; 20]>().prop_map(|a| Taken::Conflict { contract: a.into() }),
    ];
    prop_oneof![
        proptest::collection::vec(taken, 1..4).prop_map(|items| Answer::Taken { items }),
        (code, "[a-z ]{0,600}").prop_map(|(code, text)| Answer::refused(code, text)),
        proptest::collection::vec(handed, 1..4).prop_map(|items| Answer::Payloads { items }),
        (
            proptest::collection::vec(hash(), 0..5),
            proptest::option::of(place())
        )
            .prop_map(|(hashes, next)| Answer::Listed { hashes, next }),
        proptest::collection::vec((digest(), digest()), 0..5)
            .prop_map(|items| Answer::Differences { items }),
        Just(Answer::Noted),
        (
            proptest::collection::vec(key().prop_map(KeyAnnouncement::from), 0..5),
            proptest::collection::vec(known, 0..5)
        )
            .prop_map(|(announced, history)| Answer::Keys { announced, history }),
        proptest::option::of(statement()).prop_map(|signed| Answer::Statement { signed }),
        blob().prop_map(|bytes| Answer::Page { bytes }),
        proptest::collection::vec(group(), 0..4).prop_map(|items| Answer::Groups { items }),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_what_is_heard(request in requests(), answer in answers()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }

    #[test]
    fn a_changed_message_is_refused_or_says_what_its_bytes_say(
        request in requests(),
        answer in answers(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = request.encode().to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        if let Ok(read) = Request::decode(&bytes.clone().into()) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        bytes.truncate(cut.index(bytes.len()));
        if let Ok(read) = Request::decode(&bytes.clone().into()) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
        let mut bytes = answer.encode().to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        // Control characters are taken out of texts that people read; everything else is as it was.
        if let Ok(read) = Answer::decode(&bytes.clone().into())
            && !matches!(read, Answer::Refused { .. } | Answer::Taken { .. })
        {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(read) = Request::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes.clone());
        }
        if let Ok(read) = Answer::decode(&bytes)
            && !matches!(read, Answer::Refused { .. } | Answer::Taken { .. })
        {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}

#[test]
fn the_encodings_are_these() {
    let hex = |bytes: Bytes| alloy_primitives::hex::encode(bytes);
    let deliver = Request::Deliver {
        items: vec![Delivered {
            envelope: Bytes::from_static(&[0xaa, 0xbb]),
            terms: Bytes::from_static(&[0xcc]),
        }],
    };
    assert_eq!(hex(deliver.encode()), "01010100000002aabb00000001cc");
    assert_eq!(hex(Request::Keys.encode()), "0107");
    let taken = Answer::Taken {
        items: vec![
            Taken::Stored,
            Taken::refused(RefusalCode::Erased, "gone"),
            Taken::Conflict {
                contract: Address::repeat_byte(5),
            },
        ],
    };
    let contract = "05".repeat(20);
    assert_eq!(
        hex(taken.encode()),
        format!("0101030001080004676f6e6502{contract}")
    );
    assert_eq!(
        hex(Answer::refused(RefusalCode::Erased, "gone").encode()),
        "010208676f6e65"
    );
    let listed = Answer::Listed {
        hashes: Vec::new(),
        next: Some(Place::Behind(Cursor {
            time_ms: 1,
            sequence: 2,
        })),
    };
    assert_eq!(
        hex(listed.encode()),
        "01050000010100000000000000010000000000000002"
    );
}

#[test]
fn lengths_that_promise_too_much_are_refused_before_anything_is_taken() {
    let long = [1, 1, 1, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(
        Request::decode(&Bytes::copy_from_slice(&long)),
        Err(WireError::OutOfRange {
            field: "envelope",
            ..
        })
    ));
    let many = [1, 3, 65];
    assert!(matches!(
        Request::decode(&Bytes::copy_from_slice(&many)),
        Err(WireError::OutOfRange { found: 65, .. })
    ));
    assert!(matches!(
        Request::decode(&Bytes::copy_from_slice(&[2, 7])),
        Err(WireError::OutOfRange {
            field: "version",
            ..
        })
    ));
    assert!(matches!(
        Request::decode(&Bytes::copy_from_slice(&[1, 7, 0])),
        Err(WireError::Trailing { bytes: 1 })
    ));
}
