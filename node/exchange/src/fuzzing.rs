//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use quorate_enclave::{Cursor, GroupId, KeyAnnouncement, NodeKey, PayloadHash, PublicKey};
use quorate_privacy::{HandoverHead, HandoverOutcome};

use crate::wire::{
    Answer, Delivered, DigestItem, GroupItem, Handed, Place, RefusalCode, Request, Taken,
};

/// Reads what members say to each other about payloads; the first byte chooses between question and answer. True if it was
/// taken. Panics if what was taken does not encode to the same bytes.
#[must_use]
pub fn messages(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    let body = Bytes::copy_from_slice(body);
    if kind & 1 == 0 {
        Request::decode(&body).is_ok_and(|request| {
            assert_eq!(request.encode(), body, "one question, two encodings");
            true
        })
    } else {
        Answer::decode(&body).is_ok_and(|answer| {
            let again = answer.encode();
            // The text of a refusal is shown to people: what could play tricks with them is taken out of it.
            let refused = matches!(answer, Answer::Refused { .. } | Answer::Taken { .. });
            assert!(refused || again == body, "one answer, two encodings");
            assert_eq!(Answer::decode(&again), Ok(answer));
            true
        })
    }
}

/// A question and an answer of each kind.
#[must_use]
pub fn messages_seeds() -> Vec<Vec<u8>> {
    let questions = questions().map(|question| [&[0], question.encode().as_ref()].concat());
    let answers = answers().map(|answer| [&[1], answer.encode().as_ref()].concat());
    questions.into_iter().chain(answers).collect()
}

const HASH: PayloadHash = PayloadHash::from_bytes([7; 64]);
const KEY: PublicKey = PublicKey::from_bytes([3; 32]);

fn questions() -> [Request; 11] {
    let transaction = B256::repeat_byte(1);
    [
        Request::Deliver {
            items: vec![Delivered {
                envelope: Bytes::from_static(b"envelope"),
                terms: Bytes::from_static(b"terms"),
            }],
        },
        Request::Withdraw { hash: HASH },
        Request::Fetch {
            hashes: vec![HASH, PayloadHash::from_bytes([8; 64])],
        },
        Request::List {
            key: KEY,
            place: Place::BehindHash(HASH),
            limit: 10,
        },
        Request::Digests {
            items: vec![DigestItem {
                transaction,
                height: 9,
                payload: HASH,
                digest: B256::repeat_byte(2),
            }],
        },
        Request::Group(group()),
        Request::Keys,
        Request::Statement { transaction },
        Request::State {
            transaction,
            page: 2,
        },
        Request::Erased {
            key: KEY,
            place: Place::Start,
            limit: 1000,
        },
        Request::Groups {
            key: KEY,
            after: Some(GroupId::from_bytes([9; 32])),
        },
    ]
}

fn group() -> GroupItem {
    GroupItem {
        name: "settlement".into(),
        description: "of trades".into(),
        payloads_live_ms: 1_000,
        members: vec![KEY],
    }
}

fn answers() -> [Answer; 11] {
    let digest = B256::repeat_byte(2);
    let statement = |outcome| Answer::Statement {
        signed: Some((
            HandoverHead {
                offer: Address::repeat_byte(4),
                newcomer: KEY,
                outcome,
            },
            [5; 65],
        )),
    };
    [
        Answer::Taken {
            items: vec![
                Taken::Stored,
                Taken::refused(RefusalCode::NotForUs, "for nobody here"),
                Taken::Conflict {
                    contract: Address::repeat_byte(4),
                },
            ],
        },
        Answer::refused(RefusalCode::Busy, "too much is under way"),
        Answer::Payloads {
            items: vec![
                Handed {
                    hash: HASH,
                    payload: Some((
                        Bytes::from_static(b"envelope"),
                        Bytes::from_static(b"terms"),
                    )),
                },
                Handed {
                    hash: HASH,
                    payload: None,
                },
            ],
        },
        Answer::Listed {
            hashes: vec![HASH],
            next: Some(Place::Behind(Cursor {
                time_ms: 5,
                sequence: 6,
            })),
        },
        Answer::Differences {
            items: vec![(B256::repeat_byte(1), digest)],
        },
        Answer::Noted,
        Answer::Keys {
            announced: vec![KeyAnnouncement {
                key: KEY,
                hybrid: None,
            }],
            history: vec![(KEY, NodeKey::from([2; 33]))],
        },
        statement(HandoverOutcome::State { digest, bytes: 99 }),
        statement(HandoverOutcome::Refused {
            reason: "not ours".into(),
        }),
        Answer::Page {
            bytes: Bytes::from_static(b"page"),
        },
        Answer::Groups {
            items: vec![group()],
        },
    ]
}
