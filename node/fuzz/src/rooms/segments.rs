//! The folder of a block store, and that of blocks which an operator moves from one to another.

use std::{path::Path, sync::Arc};

use quorate_chain::BlockStore;
use quorate_engine::offline;
use quorate_kv::MemoryKv;

use crate::{Memory, Target, cutter::Cutter, figures, folder};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        input_bytes_max: 2 << 10,
        ..Target::new("chain-segments", segments, segments_seeds, Memory::ROOM)
    },
    Target {
        input_bytes_max: 2 << 10,
        ..Target::new("engine-export", export, export_seeds, Memory::ROOM)
    },
];

/// First whether sums are put right, then the files.
fn segments(bytes: &[u8]) -> bool {
    const HEADER_BYTES: usize = 40;
    let mut input = Cutter(bytes);
    let mended = input.byte() & 1 == 1;
    let mend = |mut file: Vec<u8>| {
        if mended {
            folder::mend_records(&mut file, HEADER_BYTES);
        }
        file
    };
    folder::with_files(input, mend, recover).unwrap_or(false)
}

fn recover(files: &Path) -> bool {
    let end = || {
        let index = Arc::new(MemoryKv::new());
        let store = BlockStore::open(files, index, figures::genesis_block()).ok()?;
        let head = store.head();
        for height in 0..=head.height() {
            // Blocks of a pruned store are not there; what is there reads back.
            let block = store.block(height).ok().flatten();
            assert!(block.is_none_or(|block| block.height() == height));
        }
        Some(head.hash())
    };
    let Some(first) = end() else {
        return false;
    };
    assert_eq!(end(), Some(first), "a store that was recovered changed");
    true
}

fn segments_seeds() -> Vec<Vec<u8>> {
    let packed = |count| {
        let files = tempfile::tempdir().ok()?;
        let index = Arc::new(MemoryKv::new());
        let store = BlockStore::open(files.path(), index, figures::genesis_block()).ok()?;
        for block in figures::blocks(count) {
            store.append(block).ok()?;
        }
        store.barrier().ok()?;
        folder::pack(files.path(), |file| file).ok()
    };
    let mut seeds = Vec::new();
    for packed in [1, 3].into_iter().filter_map(packed) {
        seeds.push([&[0], packed.as_slice()].concat());
        seeds.push([&[1], packed.as_slice()].concat());
    }
    seeds
}

/// First whether sums are put right, then the files.
fn export(bytes: &[u8]) -> bool {
    const HEADER_BYTES: usize = 60;
    let mut input = Cutter(bytes);
    let mended = input.byte() & 1 == 1;
    let mend = |mut file: Vec<u8>| {
        if mended
            && file.starts_with(b"QRTEXPT1")
            && let Some((header, _records)) = file.split_first_chunk_mut::<HEADER_BYTES>()
        {
            let (said, sum) = header.split_at_mut(HEADER_BYTES - 4);
            sum.copy_from_slice(&crc32c::crc32c(said).to_le_bytes());
            folder::mend_records(&mut file, HEADER_BYTES);
        }
        file
    };
    folder::with_files(input, mend, offline::fuzzing::export).unwrap_or(false)
}

fn export_seeds() -> Vec<Vec<u8>> {
    let packed = |count| {
        let (files, out) = (tempfile::tempdir().ok()?, tempfile::tempdir().ok()?);
        let index = Arc::new(MemoryKv::new());
        let store = BlockStore::open(files.path(), index, figures::genesis_block()).ok()?;
        for block in figures::blocks(count) {
            store.append(block).ok()?;
        }
        let genesis = figures::genesis()?;
        offline::export(&genesis, &store, 1..=count, out.path(), 2, &mut |_| {}).ok()?;
        folder::pack(out.path(), |file| file).ok()
    };
    let mut seeds = Vec::new();
    for packed in [1, 3].into_iter().filter_map(packed) {
        seeds.push([&[0], packed.as_slice()].concat());
        seeds.push([&[1], packed.as_slice()].concat());
    }
    seeds
}
