//! The trie against public vectors, two independent implementations, and itself across disk and eviction.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use alloy_primitives::{B256, hex, keccak256};
use alloy_trie::Nibbles;
use alloy_trie::proof::verify_proof;
use eth_trie::{EthTrie, MemoryDB, Trie as _};
use proptest::prelude::*;
use quorate_kv::{Batch, Direction, KeyRange, Kv, MemoryKv};

use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A trie with the disk below it.
struct OnDisk {
    kv: MemoryKv,
    persisted: Trie,
    current: Trie,
}

impl OnDisk {
    fn new() -> Self {
        Self {
            kv: MemoryKv::new(),
            persisted: Trie::default(),
            current: Trie::default(),
        }
    }

    fn reader(&self) -> NodeReader<'_> {
        NodeReader::new(&self.kv, Space::Accounts)
    }

    fn update(&mut self, changes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let changes = changes
            .iter()
            .map(|(key, value)| Change {
                key: Nibbles::unpack(key),
                value: value.clone(),
            })
            .collect();
        self.current = self.current.update(changes, &self.reader()).unwrap();
    }

    fn persist(&mut self) {
        let mut batch = Batch::new();
        self.current
            .writes_since(&self.persisted, &self.reader(), &mut |write| {
                let key = crate::layout::trie_node_key(Space::Accounts, &write.path);
                match write.node {
                    Some(node) => batch.put(key, node),
                    None => batch.delete(key),
                }
                Ok::<(), TrieError>(())
            })
            .unwrap();
        self.kv.write(batch).unwrap();
        self.persisted = self.current.clone();
    }

    fn prune(&mut self, levels: usize, what: Pruning, previous: &Trie) {
        let pruned = self.persisted.pruned(previous, levels, what);
        assert_eq!(pruned.root_hash(), self.persisted.root_hash());
        self.persisted = pruned;
        self.current = self.current.grafted(&self.persisted);
    }

    fn reopen(&mut self) {
        self.persisted = Trie::stored(self.persisted.root_hash());
        self.current = self.persisted.clone();
    }

    fn entries(&self) -> usize {
        self.kv.scan(KeyRange::all(), Direction::Ascending).count()
    }
}

fn apply(model: &mut Model, changes: &[(Vec<u8>, Option<Vec<u8>>)]) {
    for (key, value) in changes {
        match value {
            Some(value) if !value.is_empty() => model.insert(key.clone(), value.clone()),
            _ => model.remove(key),
        };
    }
}

/// The root by the other implementation, built from nothing.
fn oracle_root(model: &Model) -> B256 {
    let mut trie = EthTrie::new(Arc::new(MemoryDB::new(true)));
    for (key, value) in model {
        trie.insert(key, value).unwrap();
    }
    trie.root_hash().unwrap()
}

fn check_all_keys(disk: &OnDisk, model: &Model) {
    for (key, value) in model {
        let found = disk
            .current
            .get(&Nibbles::unpack(key), &disk.reader())
            .unwrap();
        assert_eq!(found.as_ref(), Some(value), "key {}", hex::encode(key));
    }
}

/// Folder of the public trie vectors, unpacked; `None` if the archive is not there.
fn vectors(into: &tempfile::TempDir) -> Option<PathBuf> {
    let folder = match std::env::var_os("QUORATE_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
    };
    let archive = folder.join("ethereum-tests.tar.xz");
    if !archive.exists() {
        return None;
    }
    let status = Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(into.path())
        .arg("TrieTests")
        .status()
        .unwrap();
    assert!(
        status.success(),
        "tar could not unpack {}",
        archive.display()
    );
    Some(into.path().join("TrieTests"))
}

fn vector_bytes(text: &str) -> Vec<u8> {
    match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).unwrap(),
        None => text.as_bytes().to_vec(),
    }
}

#[test]
fn the_public_trie_vectors_give_their_roots() {
    let dir = tempfile::tempdir().unwrap();
    let Some(folder) = vectors(&dir) else {
        println!("skipped: the_public_trie_vectors_give_their_roots (no ethereum-tests.tar.xz)");
        return;
    };
    let mut cases = 0;
    for (file, secure) in [
        ("trieanyorder.json", false),
        ("trietest.json", false),
        ("trieanyorder_secureTrie.json", true),
        ("trietest_secureTrie.json", true),
        ("hex_encoded_securetrie_test.json", true),
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let tests: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, test) in tests.as_object().unwrap() {
            let pairs: Vec<(String, Option<String>)> = match &test["in"] {
                serde_json::Value::Array(list) => list
                    .iter()
                    .map(|pair| {
                        (
                            pair[0].as_str().unwrap().to_owned(),
                            pair[1].as_str().map(str::to_owned),
                        )
                    })
                    .collect(),
                other => other
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(key, value)| (key.clone(), value.as_str().map(str::to_owned)))
                    .collect(),
            };
            let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = pairs
                .iter()
                .map(|(key, value)| {
                    let key = vector_bytes(key);
                    let key = if secure {
                        keccak256(&key).to_vec()
                    } else {
                        key
                    };
                    (key, value.as_deref().map(vector_bytes))
                })
                .collect();
            let expected: B256 = test["root"].as_str().unwrap().parse().unwrap();

            let mut at_once = OnDisk::new();
            at_once.update(&changes);
            assert_eq!(
                at_once.current.root_hash(),
                expected,
                "{file} {name}, in one batch"
            );

            let mut step_by_step = OnDisk::new();
            let mut model = Model::new();
            for change in changes {
                step_by_step.update(std::slice::from_ref(&change));
                apply(&mut model, &[change]);
                step_by_step.persist();
                step_by_step.reopen();
            }
            let found = step_by_step.current.root_hash();
            assert_eq!(found, expected, "{file} {name}, one by one over disk");
            check_all_keys(&step_by_step, &model);
            cases += 1;
        }
    }
    assert_eq!(cases, 25, "every case in the files ran");
}

#[test]
fn an_empty_trie_has_the_well_known_root_and_no_entries() {
    let mut disk = OnDisk::new();
    assert_eq!(disk.current.root_hash(), EMPTY_ROOT_HASH);
    disk.update(&[(b"key".to_vec(), Some(b"value".to_vec()))]);
    disk.persist();
    assert_eq!(disk.entries(), 1);
    disk.update(&[(b"key".to_vec(), None)]);
    disk.persist();
    assert_eq!(disk.current.root_hash(), EMPTY_ROOT_HASH);
    assert_eq!(disk.entries(), 0);
}

#[test]
fn of_several_changes_to_one_key_the_last_one_counts() {
    let mut disk = OnDisk::new();
    let key = b"same".to_vec();
    disk.update(&[
        (key.clone(), Some(vec![1])),
        (key.clone(), None),
        (key.clone(), Some(vec![3])),
        (b"other".to_vec(), Some(vec![9])),
    ]);
    let model = Model::from([(key, vec![3]), (b"other".to_vec(), vec![9])]);
    check_all_keys(&disk, &model);
    assert_eq!(disk.current.root_hash(), oracle_root(&model));
}

#[test]
fn a_version_keeps_its_content_while_later_ones_change() {
    let mut disk = OnDisk::new();
    let mut versions = Vec::new();
    let mut model = Model::new();
    for round in 0..40u8 {
        let changes: Vec<_> = (0..30u8)
            .map(|n| {
                let key = keccak256([n.wrapping_mul(round) % 64]).to_vec();
                (key, (n % 4 != 0).then(|| vec![round; 40]))
            })
            .collect();
        disk.update(&changes);
        apply(&mut model, &changes);
        versions.push((disk.current.clone(), model.clone()));
    }
    for (version, model) in versions {
        assert_eq!(version.root_hash(), oracle_root(&model));
        for (key, value) in &model {
            let found = version.get(&Nibbles::unpack(key), &disk.reader()).unwrap();
            assert_eq!(found.as_ref(), Some(value));
        }
    }
}

#[test]
fn a_large_set_worked_on_in_parallel_has_the_root_of_the_other_implementation() {
    let mut disk = OnDisk::new();
    let mut model = Model::new();
    for round in 0..3u32 {
        let changes: Vec<_> = (0..4_000u32)
            .map(|n| {
                let key = keccak256((n * (round + 1)).to_be_bytes()).to_vec();
                (
                    key,
                    (n % 7 != round).then(|| vec![n as u8 | 1; 1 + n as usize % 90]),
                )
            })
            .collect();
        disk.update(&changes);
        apply(&mut model, &changes);
        assert_eq!(disk.current.root_hash(), oracle_root(&model));
        disk.persist();
        disk.prune(2, Pruning::All, &Trie::default());
    }
}

#[test]
fn storage_and_state_roots_equal_those_of_the_hash_builder() {
    let storage: BTreeMap<B256, alloy_primitives::U256> = (1..500u64)
        .map(|n| {
            (
                B256::with_last_byte(n as u8),
                alloy_primitives::U256::from(n),
            )
        })
        .collect();
    let mut disk = OnDisk::new();
    let changes: Vec<_> = storage
        .iter()
        .map(|(slot, value)| (keccak256(slot).to_vec(), Some(alloy_rlp::encode(value))))
        .collect();
    disk.update(&changes);
    assert_eq!(
        disk.current.root_hash(),
        alloy_trie::root::storage_root_unhashed(storage)
    );
}

#[test]
fn pruning_keeps_what_was_touched_and_forgets_the_rest() {
    let mut disk = OnDisk::new();
    let key = |n: u32| keccak256(n.to_be_bytes()).to_vec();
    let fill: Vec<_> = (0..2_000).map(|n| (key(n), Some(vec![1; 60]))).collect();
    disk.update(&fill);
    disk.persist();
    let first = disk.persisted.clone();
    let everything = first.resident_nodes();
    assert!(everything > 2_000);
    disk.update(&[(key(7), Some(vec![2; 60]))]);
    disk.persist();
    let root = disk.current.root_hash();
    disk.prune(1, Pruning::Untouched, &first);
    let kept = disk.persisted.resident_nodes();
    assert!(
        (2..20).contains(&kept),
        "{kept} nodes: the root and the way to one key"
    );
    assert_eq!(
        disk.current.resident_nodes(),
        kept,
        "the head forgot as much"
    );
    disk.prune(0, Pruning::All, &Trie::default());
    assert_eq!(disk.persisted.resident_nodes(), 0);
    assert_eq!(disk.current.root_hash(), root);
    assert_eq!(
        disk.current
            .get(&Nibbles::unpack(key(7)), &disk.reader())
            .unwrap(),
        Some(vec![2; 60])
    );
    assert!(disk.current.resident_nodes() > 1, "what was fetched stays");
}

#[test]
fn the_number_of_levels_kept_follows_the_budget() {
    for (nodes_max, levels) in [
        (0, 0),
        (1, 0),
        (2, 1),
        (33, 1),
        (34, 2),
        (545, 2),
        (546, 3),
        (262_144, 5),
    ] {
        assert_eq!(keep_levels(nodes_max), levels, "{nodes_max} nodes");
    }
}

#[test]
fn a_node_that_is_missing_or_another_one_is_named() {
    let mut disk = OnDisk::new();
    let changes: Vec<_> = (0..50u8)
        .map(|n| (keccak256([n]).to_vec(), Some(vec![n + 1; 50])))
        .collect();
    disk.update(&changes);
    disk.persist();
    disk.reopen();
    let stale = disk.current.clone();
    let mut batch = Batch::new();
    batch.put(b"T".to_vec(), b"rubbish".to_vec());
    disk.kv.write(batch).unwrap();
    let error = stale
        .get(&Nibbles::unpack(&changes[0].0), &disk.reader())
        .unwrap_err();
    assert!(
        matches!(&error, TrieError::OtherVersion { key, .. } if key == b"T"),
        "{error}"
    );
}

#[test]
fn proofs_verify_with_the_other_implementation() {
    let mut disk = OnDisk::new();
    let key = |n: u32| keccak256(n.to_be_bytes());
    let changes: Vec<_> = (0..300)
        .map(|n| (key(n).to_vec(), Some(alloy_rlp::encode(n + 1))))
        .collect();
    disk.update(&changes);
    disk.persist();
    disk.reopen();
    let root = disk.current.root_hash();
    for n in [0u32, 17, 299, 300, 5_000] {
        let path = Nibbles::unpack(key(n));
        let proof: Vec<alloy_primitives::Bytes> = disk
            .current
            .prove(&path, &disk.reader())
            .unwrap()
            .into_iter()
            .map(Into::into)
            .collect();
        let expected = (n < 300).then(|| alloy_rlp::encode(n + 1));
        verify_proof(root, path, expected, &proof).unwrap();
    }
}

#[test]
fn bytes_that_are_no_node_are_refused() {
    for rubbish in [
        &hex!("")[..],
        &hex!("80"),
        &hex!("c0"),
        &hex!("c180"),
        &hex!("c3208080"),
        &hex!("c2008080"),
        &hex!("c28080"),
        &hex!("c24080"),
        &hex!("c22180"),
        &hex!("c58200abc0"),
        &hex!("d2808080808080808080808080808080808080"),
        &hex!("d1808080808080808080808080808080808201"),
        &hex!("d181018080808080808080808080808080808080"),
    ] {
        assert!(codec::decode(rubbish).is_err(), "{}", hex::encode(rubbish));
    }
}

/// Generated sequences per run.
const CASES: u32 = 200;

#[derive(Debug, Clone)]
enum Step {
    Update(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Persist,
    Prune(usize, bool),
    Reopen,
}

/// Few distinct nibbles and lengths, so that keys share prefixes, end inside each other, and branches collapse.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(
            prop::sample::select(vec![0x00u8, 0x01, 0x10, 0x11, 0xff]),
            0..5
        ),
        any::<u8>().prop_map(|n| keccak256([n % 48]).to_vec()),
        (any::<u8>(), prop::sample::select(vec![0x00u8, 0x01, 0x10])).prop_map(|(n, last)| [
            &keccak256([n % 3])[..31],
            &[last]
        ]
        .concat()),
    ]
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        2 => Just(None),
        2 => prop::collection::vec(1u8.., 1..4).prop_map(Some),
        2 => prop::collection::vec(any::<u8>(), 30..80).prop_map(Some),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((key(), value()), 1..25).prop_map(Step::Update),
        2 => Just(Step::Persist),
        1 => (0usize..4, any::<bool>()).prop_map(|(levels, all)| Step::Prune(levels, all)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn any_sequence_over_disk_and_eviction_equals_the_other_implementation(
        steps in prop::collection::vec(step(), 1..25)
    ) {
        let mut disk = OnDisk::new();
        let mut model = Model::new();
        let mut durable = Model::new();
        let mut previous = Trie::default();
        for step in steps {
            match step {
                Step::Update(changes) => {
                    disk.update(&changes);
                    apply(&mut model, &changes);
                }
                Step::Persist => {
                    previous = disk.persisted.clone();
                    disk.persist();
                    durable = model.clone();
                }
                Step::Prune(levels, all) => {
                    let what = if all { Pruning::All } else { Pruning::Untouched };
                    disk.prune(levels, what, &previous.clone());
                }
                Step::Reopen => {
                    disk.reopen();
                    model = durable.clone();
                }
            }
            prop_assert_eq!(disk.current.root_hash(), oracle_root(&model));
            check_all_keys(&disk, &model);
        }
        // What is on disk is the persisted version and nothing else: removing every key leaves no entry.
        disk.persist();
        disk.reopen();
        let all: Vec<_> = model.keys().map(|key| (key.clone(), None)).collect();
        disk.update(&all);
        disk.persist();
        prop_assert_eq!(disk.entries(), 0);
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(node) = codec::decode(&bytes) {
            let mut again = Vec::new();
            codec::encode(&node.body, &mut again);
            prop_assert!(!again.is_empty());
        }
    }
}
