//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.

use bytes::Bytes;
use quorate_enclave::{PayloadHash, PublicKey};

use crate::wire::{Answer, GroupItem, Place, RefusalCode, Request};

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
            let refused = matches!(answer, Answer::Refused { .. });
            assert!(refused || again == body, "one answer, two encodings");
            assert_eq!(Answer::decode(&again), Ok(answer));
            true
        })
    }
}

/// Questions and answers.
#[must_use]
pub fn messages_seeds() -> Vec<Vec<u8>> {
    let hash = PayloadHash::from_bytes([7; 64]);
    let key = PublicKey::from_bytes([3; 32]);
    let questions = [
        Request::Deliver {
            envelope: Bytes::from_static(b"envelope"),
            terms: Bytes::from_static(b"terms"),
        },
        Request::Withdraw { hash },
        Request::Fetch {
            hashes: vec![hash, PayloadHash::from_bytes([8; 64])],
        },
        Request::List {
            key,
            place: Place::BehindHash(hash),
            limit: 10,
        },
        Request::Group(GroupItem {
            name: "settlement".into(),
            description: "of trades".into(),
            payloads_live_ms: 1_000,
            members: vec![key],
        }),
        Request::Keys,
    ];
    let answers = [
        Answer::Stored,
        Answer::refused(RefusalCode::Busy, "too much is under way"),
    ];
    let questions = questions.map(|question| [&[0], question.encode().as_ref()].concat());
    let answers = answers.map(|answer| [&[1], answer.encode().as_ref()].concat());
    questions.into_iter().chain(answers).collect()
}
