//! Transactions and blocks.

use alloy_consensus::{Block, BlockBody, Header};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_rlp::Encodable as _;
use quorate_chain::{
    Anchor, ImportedBlock, RecoveredTransaction, SealedBlock, check_content, decode_transaction,
    private_reference,
};

use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "chain-transaction",
        transaction,
        figures::encoded_transactions,
        Memory::DECODER,
    ),
    Target::new("chain-block", block, block_seeds, Memory::DECODER),
    Target::new("chain-record", record, record_seeds, Memory::DECODER),
    Target::new("chain-anchor", anchor, anchor_seeds, Memory::DECODER),
];

/// As gossip, a client or a block brings it.
fn transaction(bytes: &[u8]) -> bool {
    let Ok(transaction) = decode_transaction(bytes) else {
        return false;
    };
    assert_eq!(
        transaction.encoded_2718(),
        bytes,
        "one transaction, two encodings: it would have two hashes"
    );
    if let Some(reference) = private_reference(&transaction) {
        assert!(reference.tags.len() <= quorate_chain::PARTY_TAGS_MAX);
    }
    RecoveredTransaction::recover(transaction).is_ok_and(|recovered| {
        assert_eq!(recovered.size_bytes(), bytes.len());
        assert_eq!(recovered.encoded().as_ref(), bytes);
        true
    })
}

/// As ordering and block fetches bring it.
fn block(bytes: &[u8]) -> bool {
    SealedBlock::decode(bytes).is_ok_and(|block| {
        assert_eq!(block.hash(), block.header().hash_slow());
        assert_eq!(block.encode().as_ref(), bytes, "one block, two encodings");
        true
    })
}

fn block_seeds() -> Vec<Vec<u8>> {
    let blocks = figures::blocks(3);
    let refused = blocks
        .first()
        .map(|block| [unlisted(&block.block), mislabelled(&block.block)]);
    let blocks = blocks.iter().map(|b| b.block.encode().to_vec());
    blocks.chain(refused.into_iter().flatten()).collect()
}

/// A block with a typed transaction whose string says two bytes more than it has. It was once taken.
fn mislabelled(block: &SealedBlock) -> Vec<u8> {
    let mut bytes = block.encode().to_vec();
    let typed = block.transactions().iter().find(|tx| !tx.is_legacy());
    let typed = typed.map(|tx| tx.encoded_2718()).unwrap_or_default();
    let at = bytes
        .windows(typed.len().max(1))
        .position(|window| window == typed);
    if let Some(length) = at
        .and_then(|at| at.checked_sub(1))
        .and_then(|at| bytes.get_mut(at))
    {
        *length = length.wrapping_add(2);
    }
    bytes
}

/// A block whose header announces a list of withdrawals that is not there. It was once taken.
fn unlisted(block: &SealedBlock) -> Vec<u8> {
    let body = BlockBody {
        transactions: block.transactions().iter().collect::<Vec<_>>(),
        ommers: Vec::<Header>::new(),
        withdrawals: None,
    };
    let mut fields = Vec::new();
    block.term().encode(&mut fields);
    block.seal().as_bytes().as_slice().encode(&mut fields);
    Block::rlp_encode_from_parts(block.header(), &body, &mut fields);
    let mut out = vec![1];
    let head = alloy_rlp::Header {
        list: true,
        payload_length: fields.len(),
    };
    head.encode(&mut out);
    out.extend_from_slice(&fields);
    out
}

/// As a segment or an exported file holds it.
fn record(bytes: &[u8]) -> bool {
    ImportedBlock::decode(bytes).is_ok_and(|block| {
        assert_eq!(block.encode(), bytes, "one record, two encodings");
        // Whatever the answer is.
        let _right = check_content(&block).is_ok();
        true
    })
}

fn record_seeds() -> Vec<Vec<u8>> {
    let blocks = figures::blocks(3);
    blocks.iter().map(|block| block.encode()).collect()
}

/// As it comes with a state snapshot.
fn anchor(bytes: &[u8]) -> bool {
    Anchor::decode(bytes).is_ok_and(|anchor| {
        assert_eq!(anchor.encode().as_ref(), bytes, "one anchor, two encodings");
        let _right = anchor.check().is_ok();
        true
    })
}

fn anchor_seeds() -> Vec<Vec<u8>> {
    let blocks = figures::blocks(2);
    let [parent, block] = blocks.as_slice() else {
        return Vec::new();
    };
    let anchor = Anchor {
        block: ImportedBlock::clone(block),
        ancestors: vec![parent.block.header().clone()],
    };
    vec![anchor.encode().to_vec()]
}
