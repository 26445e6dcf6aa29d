use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{LogIndex, RaftId};

fn samples() -> Vec<Body> {
    let conf_state = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        ..ConfState::default()
    };
    let table = Some(Arc::new(MemberTable::from_conf_state(
        LogIndex(5),
        &conf_state,
        &BTreeMap::from([(RaftId(1), "first".into())]),
    )));
    vec![
        Body::Entry(Entry {
            index: 7,
            term: 3,
            entry_type: 2,
            data: b"payload".to_vec(),
            context: b"c".to_vec(),
            sync_log: false,
        }),
        Body::HardState(HardState {
            term: 3,
            vote: 2,
            commit: 6,
        }),
        Body::Membership {
            index: 5,
            conf_state: conf_state.clone(),
            table: None,
        },
        Body::Membership {
            index: 5,
            conf_state: conf_state.clone(),
            table: table.clone(),
        },
        Body::Marker(Marker {
            cut_index: 4,
            cut_term: 2,
            snapshot_index: 5,
            snapshot_term: 3,
            conf_state: conf_state.clone(),
            table: None,
            manifest: b"manifest".to_vec(),
            reset: true,
        }),
        Body::Marker(Marker {
            cut_index: 4,
            cut_term: 2,
            snapshot_index: 5,
            snapshot_term: 3,
            conf_state,
            table,
            manifest: b"manifest".to_vec(),
            reset: false,
        }),
        Body::Floor(17),
    ]
}

#[test]
fn every_kind_reads_back_as_written() {
    for body in samples() {
        let mut bytes = Vec::new();
        let size = encode(&body, 9, 8, 77, &mut bytes);
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(size % 8, 0);
        let record = decode(&bytes, 77).unwrap();
        assert_eq!(
            (record.sequence, record.durable, record.size_bytes),
            (9, 8, size)
        );
        assert_eq!(record.body, body);
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    for body in samples() {
        let mut bytes = Vec::new();
        encode(&body, 9, 8, 77, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 77).is_err(), "bit {bit} of {body:?}");
        }
    }
}

#[test]
fn a_record_of_another_file_is_not_accepted() {
    let mut bytes = Vec::new();
    encode(&samples()[1], 9, 8, 77, &mut bytes);
    assert_eq!(decode(&bytes, 78), Err(Unreadable::Broken));
}

/// The bytes of today's version. A change here is a change of the format and needs a new version.
#[test]
fn the_format_is_the_one_on_existing_disks() {
    let mut bytes = header().encode();
    for (sequence, body) in (5..).zip(samples().iter().filter(|body| !is_bare(body))) {
        encode(body, sequence, 4, 9, &mut bytes);
    }
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        text,
        include_str!("../../../tests/golden/segment_v2.hex").trim()
    );
}

#[test]
fn a_file_of_the_version_before_is_read() {
    let text = include_str!("../../../tests/golden/segment_v1.hex").trim();
    let bytes: Vec<u8> = (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert_eq!(SegmentHeader::decode(2, &bytes), Ok(header()));
    let record = decode(&bytes[HEADER_BYTES as usize..], 9).unwrap();
    let hard_state = HardState {
        term: 3,
        vote: 2,
        commit: 6,
    };
    assert_eq!(record.body, Body::HardState(hard_state));
    assert_eq!(VERSION, 2);
    let mut newer = header().encode();
    newer[8] = 3;
    assert!(SegmentHeader::decode(2, &newer).is_err());
}

fn header() -> SegmentHeader {
    SegmentHeader {
        segment: 2,
        first_sequence: 5,
        owner: 3,
        salt: 9,
    }
}

/// Written by the version before.
fn is_bare(body: &Body) -> bool {
    matches!(body.kind(), KIND_BARE_MEMBERSHIP | KIND_BARE_MARKER)
}

#[test]
fn a_header_with_any_flipped_bit_is_refused() {
    let bytes = SegmentHeader {
        segment: 2,
        first_sequence: 5,
        owner: 3,
        salt: 9,
    }
    .encode();
    assert!(SegmentHeader::decode(2, &bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(2, &flipped).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, 0).is_err() || bytes.len() >= 32);
    }
}
