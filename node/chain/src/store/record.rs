//! The body of one record: a block with what import found out about it. Format 1:
//!
//! ```text
//! RLP list [ raft index, [sender, …], sealed block (bytes of SealedBlock::encode), [receipt, …] ]
//! ```

use alloy_primitives::{Address, Bytes};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};

use crate::receipt::StoredReceipt;
use crate::{ImportedBlock, SealedBlock, TransactionReceipt};

#[derive(RlpEncodable, RlpDecodable)]
struct Record {
    raft_index: u64,
    senders: Vec<Address>,
    block: Bytes,
    receipts: Vec<StoredReceipt>,
}

pub(crate) fn encode(block: &ImportedBlock) -> Vec<u8> {
    let record = Record {
        raft_index: block.raft_index,
        senders: block.senders.clone(),
        block: block.block.encode(),
        receipts: block.receipts.iter().map(StoredReceipt::from).collect(),
    };
    let mut out = Vec::with_capacity(record.length());
    record.encode(&mut out);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<ImportedBlock, String> {
    let mut rest = bytes;
    let record = Record::decode(&mut rest).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} superfluous bytes", rest.len()));
    }
    let block = SealedBlock::decode(&record.block).map_err(|e| e.to_string())?;
    let receipts = record
        .receipts
        .into_iter()
        .map(TransactionReceipt::try_from);
    let receipts: Vec<_> = receipts
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    let count = block.transactions().len();
    if record.senders.len() != count || receipts.len() != count {
        return Err(format!(
            "{count} transactions, {} senders, {} receipts",
            record.senders.len(),
            receipts.len()
        ));
    }
    Ok(ImportedBlock {
        block,
        senders: record.senders,
        receipts,
        raft_index: record.raft_index,
    })
}
