mod anchors;
mod mending;
mod pruning;
mod tears;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use alloy_consensus::{Header, SignableTransaction as _, TxLegacy, TxType};
use alloy_primitives::{Bytes, Signature, TxKind, U256};
use quorate_kv::MemoryKv;
use secp256k1::{Message, SECP256K1, SecretKey};
use tempfile::TempDir;

use super::*;
use crate::{
    BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, Fork, RecoveredTransaction, Sealer,
    TransactionReceipt,
};

fn spec() -> ChainSpec {
    ChainSpec::with_fork(1337, Fork::Prague)
}

fn genesis() -> SealedBlock {
    SealedBlock::genesis(Header {
        gas_limit: 30_000_000,
        ..Header::default()
    })
}

fn transfer(nonce: u64) -> RecoveredTransaction {
    let key = SecretKey::from_byte_array([0x11; 32]).unwrap();
    let tx = TxLegacy {
        chain_id: Some(1337),
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(alloy_primitives::Address::repeat_byte(9)),
        value: U256::from(1),
        ..TxLegacy::default()
    };
    let signed =
        SECP256K1.sign_ecdsa_recoverable(Message::from_digest(tx.signature_hash().0), &key);
    let (id, compact) = signed.serialize_compact();
    let signature = Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
    RecoveredTransaction::recover(tx.into_signed(signature).into()).unwrap()
}

fn child(parent: &ImportedBlock) -> SharedBlock {
    let sealer = Sealer::new(SecretKey::from_byte_array([7; 32]).unwrap());
    let tx = transfer(parent.height());
    let receipt = TransactionReceipt {
        tx_type: TxType::Legacy,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 21_000,
        logs: Vec::new(),
        contract_address: None,
        revert_data: Bytes::new(),
    };
    let template = BlockTemplate {
        parent_hash: parent.hash(),
        height: parent.height() + 1,
        timestamp: 1_000 + parent.height(),
        coinbase: sealer.node_id().address(),
        gas_limit: 30_000_000,
    };
    let executed = ExecutedRoots {
        state_root: B256::repeat_byte(3),
        gas_used: 21_000,
    };
    let senders = vec![tx.sender()];
    let draft = DraftBlock::new(
        &template,
        &spec(),
        vec![tx],
        std::slice::from_ref(&receipt),
        executed,
    );
    Arc::new(ImportedBlock {
        block: draft.seal(&sealer, 3),
        senders,
        receipts: vec![receipt],
        raft_index: parent.raft_index + 1,
    })
}

fn fill(store: &BlockStore, count: u64) {
    for _ in 0..count {
        store.append(child(&store.head())).unwrap();
    }
}

fn only_segment(dir: &TempDir) -> PathBuf {
    let [only] = &segments(dir)[..] else {
        panic!("{:?}", segments(dir));
    };
    only.clone()
}

/// The segment files, oldest first.
fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    paths.sort();
    paths
}

fn open(dir: &TempDir, kv: &Arc<MemoryKv>) -> Result<BlockStore, StoreError> {
    BlockStore::open(dir.path(), Arc::clone(kv) as Arc<dyn Kv>, genesis())
}

#[test]
fn blocks_are_found_by_height_hash_and_transaction_before_and_after_a_barrier_and_a_restart() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let store = open(&dir, &kv).unwrap();
    fill(&store, 600);
    let check = |store: &BlockStore| {
        for height in [0, 1, 299, 600] {
            let block = store.block(height).unwrap().unwrap();
            assert_eq!(block.height(), height);
            assert_eq!(store.height_of(&block.hash()).unwrap(), Some(height));
            for tx in block.block.transactions() {
                let location = TransactionLocation {
                    height,
                    position: 0,
                };
                assert_eq!(store.locate(tx.hash()).unwrap(), Some(location));
            }
        }
        assert!(store.block(601).unwrap().is_none());
    };
    check(&store);
    assert_eq!(store.barrier().unwrap(), 600);
    check(&store);
    drop(store);
    check(&open(&dir, &kv).unwrap());
    check(&open(&dir, &Arc::new(MemoryKv::new())).unwrap());
}

#[test]
fn a_torn_tail_is_cut_at_every_length() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let store = open(&dir, &kv).unwrap();
    fill(&store, 2);
    let before_last = store.size_bytes();
    fill(&store, 1);
    let whole = store.size_bytes();
    drop(store);
    for length in (before_last..whole).step_by(37).chain([whole - 1]) {
        let bytes = fs::read(only_segment(&dir)).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(only_segment(&dir))
            .unwrap()
            .set_len(length)
            .unwrap();
        let store = open(&dir, &kv).unwrap();
        assert_eq!(store.head().height(), 2);
        fill(&store, 1);
        drop(store);
        assert_eq!(fs::read(only_segment(&dir)).unwrap(), bytes);
    }
}

#[test]
fn a_flipped_bit_before_the_last_record_is_refused_as_damage() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let store = open(&dir, &kv).unwrap();
    fill(&store, 3);
    store.barrier().unwrap();
    drop(store);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(only_segment(&dir))
        .unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(&[0xff, 0xee]).unwrap();
    let result = open(&dir, &Arc::new(MemoryKv::new()));
    assert!(matches!(result, Err(StoreError::Damaged { .. })));
}

#[test]
fn a_folder_of_another_chain_is_refused() {
    let dir = TempDir::new().unwrap();
    let kv = Arc::new(MemoryKv::new());
    let store = open(&dir, &kv).unwrap();
    fill(&store, 1);
    drop(store);
    let other = SealedBlock::genesis(Header {
        gas_limit: 31_000_000,
        ..Header::default()
    });
    let result = BlockStore::open(dir.path(), kv, other);
    assert!(matches!(result, Err(StoreError::OtherGenesis { .. })));
}

#[test]
fn a_block_that_does_not_follow_the_head_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &Arc::new(MemoryKv::new())).unwrap();
    let first = child(&store.head());
    let second = child(&first);
    assert!(matches!(
        store.append(second),
        Err(StoreError::OutOfOrder { got: 2, head: 0 })
    ));
}

#[test]
fn a_sealed_block_names_its_signer_and_decodes_to_itself() {
    let block = child(&ImportedBlock {
        block: genesis(),
        senders: vec![],
        receipts: vec![],
        raft_index: 0,
    });
    let signer = block.block.seal().signer(block.hash());
    assert_eq!(signer, Some(block.block.header().beneficiary));
    assert_eq!(
        SealedBlock::decode(&block.block.encode()).unwrap(),
        block.block
    );
    let encoded = block.block.encode();
    for length in 0..encoded.len() {
        assert!(SealedBlock::decode(&encoded[..length]).is_err());
    }
}
