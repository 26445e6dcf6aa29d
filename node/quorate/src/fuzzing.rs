//! Doors to this crate's own decoders for the crate of fuzz targets; behind the feature `fuzzing`, without which this library
//! is empty, and no part of any API.
//!
//! Each function answers whether the bytes were taken, and panics if a promise of the decoder is broken. Each has a
//! companion that makes bytes to begin with.

#![cfg(feature = "fuzzing")]
#![allow(
    dead_code,
    unused_imports,
    missing_debug_implementations,
    reason = "the files belong to the binary; here only their decoders are used"
)]

mod config;
mod keys;
#[path = "membership/wire.rs"]
mod membership_wire;
#[path = "snapshots/questions.rs"]
mod snapshot_questions;

use std::collections::BTreeSet;
use std::path::Path;

use alloy_primitives::{B256, keccak256};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_chain::NodeId;
use quorate_rpc::{ChangeReport, ChangeRequest, ChangeStep, MembershipError};

/// `quorate.toml`.
#[must_use]
pub fn configuration(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let path = Path::new("/node/quorate.toml");
    let load = |text: &str| config::Loaded::from_text(text, path, [], &[]);
    let loaded = match load(text) {
        Ok(loaded) => loaded,
        Err(faults) => {
            assert!(!faults.to_string().is_empty());
            return false;
        }
    };
    let written = config::render(&loaded.config);
    if !is_known(&written) {
        match load(&written) {
            Ok(again) => assert_eq!(
                config::render(&again.config),
                written,
                "a configuration does not read back"
            ),
            Err(faults) => panic!("a configuration that was taken is refused: {faults}\n{written}"),
        }
    }
    true
}

/// Whether a written configuration was looked at before. Most inputs differ in what does not count; reading the whole of it
/// again takes most of the time.
fn is_known(written: &str) -> bool {
    static KNOWN: Mutex<BTreeSet<B256>> = Mutex::new(BTreeSet::new());
    const KNOWN_MAX: usize = 100_000;
    let mut known = KNOWN.lock();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    !known.insert(keccak256(written))
}

/// The defaults, each section of them, and a file that differs from them.
#[must_use]
pub fn configuration_seeds() -> Vec<Vec<u8>> {
    let defaults = config::render(&config::NodeConfig::default());
    let sections = defaults.split("\n[").skip(1);
    let sections: Vec<_> = sections.map(|section| format!("[{section}")).collect();
    let own = "[node]\nname = \"bank-a\"\n[p2p]\nlisten = \"0.0.0.0:30303\"\n[rpc]\nlisten = \"127.0.0.1:8545\"\n[metrics]\nlisten = \
               \"127.0.0.1:9545\"\n";
    let all = [defaults, own.to_owned()].into_iter().chain(sections);
    all.map(String::into_bytes).collect()
}

/// What members say to each other about membership. The first byte chooses between question and answer.
#[must_use]
pub fn membership(bytes: &[u8]) -> bool {
    use membership_wire::{Answer, Question};
    let Some((kind, json)) = bytes.split_first() else {
        return false;
    };
    if kind & 1 == 0 {
        let Ok(question) = serde_json::from_slice::<Question>(json) else {
            return false;
        };
        let written = again::<Question>(&question);
        let Question::Change(change) = question else {
            return true;
        };
        ChangeRequest::try_from(change).is_ok_and(|request| {
            // The spelling of the id may change; nothing else.
            let rewritten = Question::Change((&request).into());
            let rewritten = serde_json::to_string(&rewritten).unwrap_or_default();
            assert!(rewritten.eq_ignore_ascii_case(&written));
            let _outcome = request.check().is_ok();
            true
        })
    } else {
        let Ok(answer) = serde_json::from_slice::<Answer>(json) else {
            return false;
        };
        again::<Answer>(&answer);
        match answer {
            Answer::Changed(report) => ChangeReport::try_from(report).is_ok(),
            Answer::Refused(refusal) => {
                assert!(!MembershipError::from(refusal).to_string().is_empty());
                true
            }
            _ => true,
        }
    }
}

/// Writes a message, reads and writes it again: both times the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> String {
    let Ok(written) = serde_json::to_string(message) else {
        panic!("a message that was read cannot be written");
    };
    let read = serde_json::from_str::<T>(&written);
    let rewritten = read.and_then(|read| serde_json::to_string(&read));
    assert_eq!(
        rewritten.ok().as_deref(),
        Some(written.as_str()),
        "a message does not read back"
    );
    written
}

/// Questions and answers.
#[must_use]
pub fn membership_seeds() -> Vec<Vec<u8>> {
    use membership_wire::{Answer, Question, Refusal};
    let secret = secp256k1::SecretKey::from_byte_array([7; 32]);
    let steps = secret.map_or(Vec::new(), |secret| {
        vec![ChangeStep::Add {
            node_id: NodeId::of(&secret.public_key(secp256k1::SECP256K1)),
            address: "node-4:30303".into(),
            organisation: "Bank D".into(),
            role: quorate_chain::MemberRole::Learner,
        }]
    });
    let request = ChangeRequest {
        change_id: Some([9; 16]),
        steps,
        force: false,
        if_table_index: Some(12),
    };
    let report = ChangeReport {
        change_id: [9; 16],
        table_index: 13,
        added: vec![4],
        joint: false,
    };
    let questions = [
        Question::Change((&request).into()),
        Question::Transfer { to: Some(2) },
        Question::Lags,
    ];
    let answers = [
        Answer::from(Ok::<_, Refusal>(report)),
        Answer::Leads(2),
        Answer::Refused(Refusal::Undecided),
    ];
    let questions = questions.iter().map(|q| (0, serde_json::to_vec(q)));
    let answers = answers.iter().map(|a| (1, serde_json::to_vec(a)));
    questions
        .chain(answers)
        .filter_map(|(kind, json)| Some([&[kind], json.ok()?.as_slice()].concat()))
        .collect()
}

/// What members ask and answer about snapshots. The first byte chooses.
#[must_use]
pub fn snapshots(bytes: &[u8]) -> bool {
    use snapshot_questions::{Description, Question, part_of, read_part};
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind % 3 {
        0 => {
            Question::decode(body).is_some_and(|question| {
                assert_eq!(question.encode(), body);
                if let Question::Anchor { offset, .. } = question {
                    // An anchor of our own: whatever is asked for, the answer says its length and a part of it.
                    let anchor = [1; 100];
                    let part = part_of(&anchor, offset);
                    assert!(read_part(&part).is_some_and(|(whole, part)| {
                        whole == 100 && part.len() <= anchor.len()
                    }));
                }
                true
            })
        }
        1 => {
            let answer = Bytes::copy_from_slice(body);
            Description::decode(&answer).is_some_and(|description| {
                assert_eq!(description.encode(), answer);
                true
            })
        }
        _ => read_part(body).is_some_and(|(_whole, part)| {
            assert_eq!(part.len() + 8, body.len());
            true
        }),
    }
}

/// One message of each kind.
#[must_use]
pub fn snapshots_seeds() -> Vec<Vec<u8>> {
    use snapshot_questions::{Description, Question, part_of};
    let id = alloy_primitives::B256::repeat_byte(5);
    let questions = [
        Question::Describe { above: 7 },
        Question::Chunk {
            id,
            number: 3,
            hash: id,
        },
        Question::Anchor { id, offset: 9 },
    ];
    let answers = [
        Description::None,
        Description::Here(Bytes::from_static(b"description")),
    ];
    let questions = questions.map(|question| [&[0], question.encode().as_ref()].concat());
    let answers = answers.map(|answer| [&[1], answer.encode().as_ref()].concat());
    let part = [&[2], part_of(&[1; 20], 4).as_ref()].concat();
    questions.into_iter().chain(answers).chain([part]).collect()
}

/// A node's key file.
#[must_use]
pub fn node_key(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    match keys::parse_key(text) {
        Ok(key) => {
            let written = hex::encode(key.secret_bytes());
            assert!(text.to_ascii_lowercase().contains(&written));
            true
        }
        Err(error) => {
            // It may be almost a key. Our own words have no such run of digits.
            let said = format!("{error:#}");
            let mut runs = text.split(|c: char| !c.is_ascii_hexdigit());
            assert!(!runs.any(|run| run.len() >= 8 && said.contains(run)));
            false
        }
    }
}

/// A key with and without what is allowed around it.
#[must_use]
pub fn node_key_seeds() -> Vec<Vec<u8>> {
    let digits = "4f3edf983ac636a65a842ce7c78d9aa706d3b113bce9c46f30d7d21715b23b1d";
    vec![
        format!("{digits}\n").into_bytes(),
        format!(" 0x{digits}").into_bytes(),
    ]
}
