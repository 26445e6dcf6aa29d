//! The folder of a payload store.

use std::{ops::Range, path::Path, sync::Arc};

use quorate_enclave::{PayloadStore, StoreConfig};
use quorate_kv::MemoryKv;

use super::enclave::envelopes;
use crate::{Memory, Target, cutter::Cutter, folder};

pub(crate) const TARGETS: &[Target] = &[Target {
    input_bytes_max: 3 << 10,
    ..Target::new("enclave-payloads", payloads, payloads_seeds, Memory::ROOM)
}];

/// Where a file's header has something: magic and number, and the two slots that say what was synced. The rest of it is zeros
/// and no part of an input.
const HEADER_PARTS: [Range<usize>; 3] = [0..16, 512..532, 1024..1044];
const HEADER_BYTES: usize = 1536;

/// First whether sums are put right, then the files.
fn payloads(bytes: &[u8]) -> bool {
    let mut input = Cutter(bytes);
    let mended = input.byte() & 1 == 1;
    let mend = |file: Vec<u8>| {
        let mut file = spread(&file);
        if mended {
            folder::mend_records(&mut file, HEADER_BYTES);
        }
        file
    };
    folder::with_files(input, mend, recover).unwrap_or(false)
}

/// A file with the zeros in its header.
fn spread(mut parts: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES];
    for place in HEADER_PARTS {
        let Some((part, rest)) = parts.split_at_checked(place.len()) else {
            // Less than a header: as it is.
            return parts.to_vec();
        };
        if let Some(place) = file.get_mut(place) {
            place.copy_from_slice(part);
        }
        parts = rest;
    }
    file.extend_from_slice(parts);
    file
}

/// The reverse.
fn gather(file: &[u8]) -> Vec<u8> {
    let parts = HEADER_PARTS.map(|place| file.get(place).unwrap_or_default());
    [
        &parts.concat(),
        file.get(HEADER_BYTES..).unwrap_or_default(),
    ]
    .concat()
}

fn recover(files: &Path) -> bool {
    let open = || {
        let index = Arc::new(MemoryKv::new());
        PayloadStore::open(files, index, &StoreConfig::default()).ok()
    };
    let Some(store) = open() else {
        return false;
    };
    let size = store.size_bytes().ok();
    let damaged = store.damaged_at_open().len();
    drop(store);
    let again = open();
    let again = again.map(|store| (store.size_bytes().ok(), store.damaged_at_open().len()));
    assert_eq!(
        again,
        Some((size, damaged)),
        "a store that was recovered changed"
    );
    true
}

fn payloads_seeds() -> Vec<Vec<u8>> {
    let packed = || {
        let files = tempfile::tempdir().ok()?;
        let index = Arc::new(MemoryKv::new());
        let store = PayloadStore::open(files.path(), index, &StoreConfig::default()).ok()?;
        for envelope in envelopes() {
            store.put(&envelope, 1_700_000_000_000, None).ok()?;
        }
        folder::pack(files.path(), |file| gather(&file)).ok()
    };
    let mut seeds = Vec::new();
    if let Some(packed) = packed() {
        seeds.push([&[0], packed.as_slice()].concat());
        seeds.push([&[1], packed.as_slice()].concat());
    }
    seeds
}
