//! Doors to the private decoders for the crate of fuzz targets; behind the feature `fuzzing`, and no part of the API.
//!
//! Each function answers whether the bytes were taken, and panics if a promise of the decoder is broken. Each has a
//! companion that makes bytes to begin with.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost011::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType};

use crate::{
    RaftId,
    core::change_of,
    ids::LogIndex,
    log::{
        record::{self, Body, HEADER_BYTES, Marker, Record, SegmentHeader},
        snapshot_data,
    },
    member_change::{Edit, Logged, LoggedChange},
    member_table::{ChangeId, MemberRole, MemberTable},
};

const SEGMENT: u64 = 2;
const SALT: u32 = 9;

/// A file's header and the records behind it, as replay walks through them.
#[must_use]
pub fn records(file: &[u8]) -> bool {
    let Ok(header) = SegmentHeader::decode(SEGMENT, file) else {
        return false;
    };
    let again = SegmentHeader::decode(SEGMENT, &header.encode());
    assert_eq!(again, Ok(header), "a header does not read back");
    let mut rest = file.get(HEADER_BYTES as usize..).unwrap_or_default();
    let mut taken = 0;
    while let Ok(read) = record::decode(rest, header.salt) {
        check(&read, rest, header.salt);
        let size = usize::try_from(read.size_bytes).unwrap_or(usize::MAX);
        rest = rest.get(size..).unwrap_or_default();
        taken += 1;
    }
    taken > 0
}

fn check(read: &Record, bytes: &[u8], salt: u32) {
    let size = read.size_bytes;
    assert!(
        size.is_multiple_of(8) && size <= bytes.len() as u64,
        "{size}"
    );
    let mut again = Vec::new();
    // Fields of a protobuf message may stand in any order, so that the bytes may differ; what they say may not.
    let written = record::encode(&read.body, read.sequence, read.durable, salt, &mut again);
    assert_eq!(written, record::record_bytes(&read.body));
    if let Body::Entry(entry) = &read.body {
        assert_eq!(size, record::entry_record_bytes(entry));
        // Whatever kind of change it is, if it is one.
        let _change = change_of(entry);
    }
    let reread = record::decode(&again, salt).map(|record| (record.sequence, record.body));
    assert_eq!(reread, Ok((read.sequence, read.body.clone())));
}

/// A file with a record of each kind, and one whose sums are all to be made right.
#[must_use]
pub fn records_seeds() -> Vec<Vec<u8>> {
    let conf_state = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        ..ConfState::default()
    };
    let table = Arc::new(table());
    let marker = Marker {
        cut_index: 4,
        cut_term: 2,
        snapshot_index: 5,
        snapshot_term: 3,
        conf_state: conf_state.clone(),
        table: Some(Arc::clone(&table)),
        manifest: b"manifest".to_vec(),
        reset: true,
    };
    let bare = Marker {
        table: None,
        ..marker.clone()
    };
    let membership = |table| Body::Membership {
        index: 5,
        conf_state: conf_state.clone(),
        table,
    };
    let bodies = [
        Body::Entry(entry(b"payload".to_vec(), EntryType::EntryNormal)),
        Body::Entry(entry(
            change().encode_to_vec(),
            EntryType::EntryConfChangeV2,
        )),
        Body::HardState(HardState {
            term: 3,
            vote: 2,
            commit: 6,
        }),
        membership(None),
        membership(Some(table)),
        Body::Marker(marker),
        Body::Marker(bare),
        Body::Floor(17),
    ];
    let header = SegmentHeader {
        segment: SEGMENT,
        first_sequence: 5,
        owner: 3,
        salt: SALT,
    };
    let mut all = header.encode();
    let mut files = Vec::new();
    for (sequence, body) in (5..).zip(&bodies) {
        record::encode(body, sequence, 4, SALT, &mut all);
        let mut one = header.encode();
        record::encode(body, 5, 4, SALT, &mut one);
        files.push(one);
    }
    files.push(all);
    files
}

fn table() -> MemberTable {
    let conf_state = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        ..ConfState::default()
    };
    let details = BTreeMap::from([(RaftId(1), Bytes::from_static(b"first"))]);
    MemberTable::from_conf_state(LogIndex(5), &conf_state, &details)
}

fn entry(data: Vec<u8>, kind: EntryType) -> Entry {
    Entry {
        index: 7,
        term: 3,
        entry_type: kind as i32,
        data,
        context: b"c".to_vec(),
        sync_log: false,
    }
}

fn change() -> ConfChangeV2 {
    let edit = |id, role, details: &'static [u8]| Edit {
        id: RaftId(id),
        role,
        details: Some(Bytes::from_static(details)),
    };
    LoggedChange {
        id: ChangeId([9; 16]),
        joint: true,
        edits: vec![
            edit(4, MemberRole::Voter, b"fourth"),
            edit(5, MemberRole::Learner, b"fifth"),
        ],
    }
    .to_raft()
}

/// One message of another member by itself, and what it carries; the first byte chooses the kind of bytes.
#[must_use]
pub fn message(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    match kind % 3 {
        0 => {
            let Ok(message) = Message::decode(body) else {
                return false;
            };
            let written = message.encode_to_vec();
            assert_eq!(written.len(), message.encoded_len());
            assert_eq!(Message::decode(written.as_slice()).as_ref(), Ok(&message));
            message.entries.iter().for_each(|entry| {
                let _change = change_of(entry);
            });
            true
        }
        1 => {
            let read = change_of(&entry(body.to_vec(), EntryType::EntryConfChangeV2));
            read.flatten().is_some_and(|(change, logged)| {
                match &logged {
                    Logged::Change(logged) => assert_eq!(logged.to_raft(), change),
                    Logged::Break { survivor, note } => {
                        assert_eq!(Logged::break_to_raft(*survivor, note), change);
                    }
                    Logged::Leave | Logged::Plain => {}
                }
                true
            })
        }
        _ => snapshot_data::split(body).is_some_and(|(table, manifest)| {
            assert_eq!(snapshot_data::join(&table, manifest), body);
            true
        }),
    }
}

/// Messages of several kinds, changes, and the data of a snapshot.
#[must_use]
pub fn message_seeds() -> Vec<Vec<u8>> {
    let append = Message {
        msg_type: MessageType::MsgAppend as i32,
        to: 1,
        from: 2,
        term: 3,
        log_term: 3,
        index: 6,
        commit: 5,
        entries: vec![
            entry(b"payload".to_vec(), EntryType::EntryNormal),
            entry(change().encode_to_vec(), EntryType::EntryConfChangeV2),
        ],
        ..Message::default()
    };
    let vote = Message {
        msg_type: MessageType::MsgRequestVote as i32,
        to: 1,
        from: 3,
        term: 4,
        ..Message::default()
    };
    let forced = Logged::break_to_raft(RaftId(1), &Bytes::from_static(b"note"));
    let bodies = [
        (0, append.encode_to_vec()),
        (0, vote.encode_to_vec()),
        (1, change().encode_to_vec()),
        (1, forced.encode_to_vec()),
        (1, Vec::new()),
        (2, snapshot_data::join(&table(), b"manifest")),
    ];
    bodies
        .iter()
        .map(|(kind, body)| [&[*kind], body.as_slice()].concat())
        .collect()
}
