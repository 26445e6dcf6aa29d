//! A chain of real blocks on real stores, without ordering, for tests.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;
use std::sync::Arc;

use alloy_consensus::{SignableTransaction as _, TxLegacy};
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use quorate_chain::{
    BlockStore, BlockTemplate, DraftBlock, ExecutedRoots, Genesis, ImportedBlock, NodeId,
    RecoveredTransaction, SealedBlock, Sealer, StoreConfig, address_of,
};
use quorate_kv::{Kv, SledConfig, SledKv};
use quorate_state::StateStore;
use secp256k1::{Message, SECP256K1, SecretKey};

use crate::Ledger;

pub(crate) fn node_key() -> SecretKey {
    SecretKey::from_byte_array([7; 32]).unwrap()
}

fn user_key() -> SecretKey {
    SecretKey::from_byte_array([100; 32]).unwrap()
}

pub(crate) fn genesis(chain_id: u64) -> Genesis {
    let node_id = NodeId::of(&node_key().public_key(SECP256K1));
    let user = address_of(&user_key().public_key(SECP256K1));
    Genesis::parse(&format!(
        r#"{{"config": {{"chainId": {chain_id}}}, "gasLimit": "0x1c9c380", "alloc": {{"{user}": {{"balance": "0xffffffffffffffff"}}}},
          "quorate": {{"members": [{{"raftId": 1, "nodeId": "{node_id}", "address": "127.0.0.1:1"}}]}}}}"#
    ))
    .unwrap()
}

pub(crate) fn genesis_block(genesis: &Genesis) -> SealedBlock {
    SealedBlock::genesis(genesis.header(quorate_state::genesis_state_root(genesis.alloc())))
}

pub(crate) fn sled(dir: &Path) -> Arc<SledKv> {
    let config = SledConfig {
        cache_capacity_bytes: 8 << 20,
        ..SledConfig::default()
    };
    Arc::new(SledKv::open(dir, &config).unwrap())
}

pub(crate) fn open_state(genesis: &Genesis, kv: Arc<dyn Kv>) -> StateStore {
    let alloc: Vec<_> = genesis.alloc().map(|(a, g)| (*a, g.clone())).collect();
    StateStore::open(kv, &alloc, genesis_block(genesis).hash()).unwrap()
}

/// The stores of one data folder.
pub(crate) struct Stores {
    pub(crate) genesis: Genesis,
    pub(crate) blocks: Arc<BlockStore>,
    pub(crate) state: Arc<StateStore>,
    pub(crate) state_kv: Arc<SledKv>,
}

impl Stores {
    pub(crate) fn open(dir: &Path) -> Self {
        Self::open_chain(dir, 7)
    }

    pub(crate) fn open_chain(dir: &Path, chain_id: u64) -> Self {
        let genesis = genesis(chain_id);
        let small = StoreConfig {
            segment_bytes: 16 << 10,
        };
        let block = genesis_block(&genesis);
        let index = sled(&dir.join("index"));
        let blocks = BlockStore::open_with(small, &dir.join("blocks"), index, block).unwrap();
        let state_kv = sled(&dir.join("state"));
        let state = open_state(&genesis, state_kv.clone());
        let stores = Self {
            genesis,
            blocks: Arc::new(blocks),
            state: Arc::new(state),
            state_kv,
        };
        crate::catch_up_state(&stores.genesis, &stores.blocks, &stores.state).unwrap();
        stores
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let (blocks, state) = (Arc::clone(&self.blocks), Arc::clone(&self.state));
        Ledger::new(&self.genesis, blocks, state)
    }

    pub(crate) fn mint(&self, count: u64) {
        for _ in 0..count {
            let block = self.next(|_, _| {});
            self.take(block);
        }
    }

    /// Imports a block that another node has made.
    pub(crate) fn take(&self, block: ImportedBlock) {
        let judge = crate::offline::judge::Judge::new(&self.genesis, None);
        let fault = judge.execute(&block, &self.blocks, &self.state).unwrap();
        assert_eq!(fault, None);
        self.blocks.append(Arc::new(block)).unwrap();
    }

    pub(crate) fn flush(&self) {
        self.blocks.barrier().unwrap();
        self.state.flush_job().unwrap().run().unwrap();
    }

    /// The next block, with `change` applied to what an honest minter would say.
    pub(crate) fn next(
        &self,
        change: impl FnOnce(&mut BlockTemplate, &mut ExecutedRoots),
    ) -> ImportedBlock {
        let head = self.blocks.head();
        let sealer = Sealer::new(node_key());
        let mut template = BlockTemplate {
            parent_hash: head.hash(),
            height: head.height() + 1,
            timestamp: 2_000 + head.height(),
            coinbase: sealer.node_id().address(),
            gas_limit: self.genesis.gas_limit(),
        };
        let transactions = vec![transfer(head.height(), self.genesis.spec().chain_id())];
        let parent = self.state.latest();
        let context = quorate_evm::BlockContext {
            height: template.height,
            timestamp: template.timestamp,
            coinbase: template.coinbase,
            gas_limit: template.gas_limit,
            parent_hash: template.parent_hash,
            ..Default::default()
        };
        let hashes = self.ledger().hashes();
        let spec = self.genesis.spec();
        let outcome =
            quorate_evm::execute_block(spec, context, &parent, &hashes, &transactions).unwrap();
        let mut roots = ExecutedRoots {
            state_root: parent.apply(&outcome.diff).unwrap().state_root(),
            gas_used: outcome.gas_used,
        };
        change(&mut template, &mut roots);
        let senders = transactions
            .iter()
            .map(RecoveredTransaction::sender)
            .collect();
        let draft = DraftBlock::new(&template, spec, transactions, &outcome.receipts, roots);
        ImportedBlock {
            block: draft.seal(&sealer, 1),
            senders,
            receipts: outcome.receipts,
            raft_index: head.raft_index + 2,
        }
    }
}

fn transfer(nonce: u64, chain_id: u64) -> RecoveredTransaction {
    let to: B256 = keccak256(nonce.to_be_bytes());
    let tx = TxLegacy {
        chain_id: Some(chain_id),
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(Address::from_slice(&to[12..])),
        value: U256::from(nonce + 1),
        ..TxLegacy::default()
    };
    let digest = Message::from_digest(tx.signature_hash().0);
    let (id, compact) = SECP256K1
        .sign_ecdsa_recoverable(digest, &user_key())
        .serialize_compact();
    let signature = Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
    RecoveredTransaction::recover(tx.into_signed(signature).into()).unwrap()
}
