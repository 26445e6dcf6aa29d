//! What seeds are made of: keys, signed transactions, a genesis, blocks.

use std::sync::Arc;

use alloy_consensus::{
    Header, SignableTransaction, TxEip1559, TxEip2930, TxEip7702, TxLegacy, TxType,
};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
    eip7702::Authorization,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address};
use quorate_chain::{
    BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, Fork, Genesis, ImportedBlock,
    RecoveredTransaction, SealedBlock, Sealer, Transaction, TransactionReceipt,
};
use secp256k1::{Message, SECP256K1, SecretKey};

pub(crate) const CHAIN_ID: u64 = 1337;
/// Has code: returns what it is given.
pub(crate) const ECHO: Address = address!("0x00000000000000000000000000000000000000e0");
const ECHO_CODE: &str = "0x3660006000373660006000a03660006000f3";

/// A key that everybody knows.
#[allow(
    clippy::expect_used,
    reason = "no input reaches this, and such bytes are a key for every number that can be"
)]
pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::from_byte_array([number.clamp(1, 200); 32]).expect("below the group order")
}

pub(crate) fn sign(key: &SecretKey, hash: B256) -> Signature {
    let signed = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), key);
    let (id, compact) = signed.serialize_compact();
    Signature::from_bytes_and_parity(&compact, i32::from(id) == 1)
}

fn signed<T: SignableTransaction<Signature>>(transaction: T) -> Transaction
where
    Transaction: From<alloy_consensus::Signed<T>>,
{
    let signature = sign(&key(1), transaction.signature_hash());
    transaction.into_signed(signature).into()
}

/// One transaction of each type that is taken, and a Quorum private one.
pub(crate) fn transactions() -> Vec<Transaction> {
    let legacy = TxLegacy {
        chain_id: Some(CHAIN_ID),
        gas_limit: 100_000,
        to: TxKind::Call(ECHO),
        value: U256::from(7),
        input: Bytes::from_static(b"input"),
        ..TxLegacy::default()
    };
    let access_list = AccessList(vec![AccessListItem {
        address: ECHO,
        storage_keys: vec![B256::ZERO],
    }]);
    let authorization = Authorization {
        chain_id: U256::from(CHAIN_ID),
        address: ECHO,
        nonce: 0,
    };
    let authorized = sign(&key(2), authorization.signature_hash());
    vec![
        signed(legacy.clone()),
        signed(TxLegacy {
            chain_id: None,
            to: TxKind::Create,
            ..legacy.clone()
        }),
        // v 37 or 38: Quorum's mark of a private transaction, whose input is a payload hash.
        signed(TxLegacy {
            chain_id: Some(1),
            input: Bytes::from_static(&[0xab; 64]),
            ..legacy
        }),
        signed(TxEip2930 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            to: TxKind::Call(ECHO),
            access_list: access_list.clone(),
            ..TxEip2930::default()
        }),
        signed(TxEip1559 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            to: TxKind::Call(ECHO),
            access_list,
            ..TxEip1559::default()
        }),
        signed(TxEip7702 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            to: ECHO,
            authorization_list: vec![authorization.into_signed(authorized)],
            ..TxEip7702::default()
        }),
    ]
}

/// The network forms of these.
pub(crate) fn encoded_transactions() -> Vec<Vec<u8>> {
    transactions().iter().map(|tx| tx.encoded_2718()).collect()
}

pub(crate) fn sealer() -> Sealer {
    Sealer::new(key(101))
}

/// A genesis file of one member, with two rich accounts and a contract.
pub(crate) fn genesis_json() -> String {
    let rich: Vec<String> = (1..=2)
        .map(|number| {
            let address = quorate_chain::address_of(&key(number).public_key(SECP256K1));
            format!(r#""{address}": {{"balance": "0xde0b6b3a7640000"}}"#)
        })
        .collect();
    let node_id = sealer().node_id();
    format!(
        r#"{{"config": {{"chainId": {CHAIN_ID}, "pragueTime": 0}}, "gasLimit": "0x1c9c380", "timestamp": "0x1",
          "alloc": {{{}, "{ECHO}": {{"balance": "0x0", "code": "{ECHO_CODE}", "storage": {{"0x01": "0x02"}}}}}},
          "quorate": {{"members": [{{"raftId": 1, "nodeId": "{node_id}", "address": "node1:30303", "organisation": "Test"}}]}}}}"#,
        rich.join(", ")
    )
}

pub(crate) fn genesis() -> Option<Genesis> {
    Genesis::parse(&genesis_json()).ok()
}

/// Block 0 of the chains of [`blocks`].
pub(crate) fn genesis_block() -> SealedBlock {
    SealedBlock::genesis(Header {
        gas_limit: 30_000_000,
        ..Header::default()
    })
}

/// A chain of so many blocks, each with all transactions; shaped as a block store wants them, though nobody executed them.
pub(crate) fn blocks(count: u64) -> Vec<Arc<ImportedBlock>> {
    let spec = ChainSpec::with_fork(CHAIN_ID, Fork::Prague);
    let mut parent = genesis_block().hash();
    (1..=count)
        .map(|height| {
            let block = child(parent, height, &spec);
            parent = block.hash();
            Arc::new(block)
        })
        .collect()
}

fn child(parent_hash: B256, height: u64, spec: &ChainSpec) -> ImportedBlock {
    let transactions: Vec<RecoveredTransaction> = transactions()
        .into_iter()
        .filter_map(|tx| RecoveredTransaction::recover(tx).ok())
        // A store keeps each transaction once.
        .skip(height as usize % 3)
        .step_by(3)
        .collect();
    let receipts: Vec<TransactionReceipt> = transactions
        .iter()
        .zip(1..)
        .map(|(tx, position)| TransactionReceipt {
            tx_type: TxType::try_from(tx.type_byte()).unwrap_or(TxType::Legacy),
            success: true,
            gas_used: 21_000,
            cumulative_gas_used: 21_000 * position,
            logs: Vec::new(),
            contract_address: None,
            revert_data: Bytes::new(),
        })
        .collect();
    let template = BlockTemplate {
        parent_hash,
        height,
        timestamp: 1_000 + height,
        coinbase: sealer().node_id().address(),
        gas_limit: 30_000_000,
    };
    let executed = ExecutedRoots {
        state_root: B256::repeat_byte(3),
        gas_used: 21_000 * receipts.len() as u64,
    };
    let senders = transactions.iter().map(|tx| tx.sender()).collect();
    let draft = DraftBlock::new(&template, spec, transactions, &receipts, executed);
    ImportedBlock {
        block: draft.seal(&sealer(), 3),
        senders,
        receipts,
        raft_index: height,
    }
}
