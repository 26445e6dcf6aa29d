//! How far a block has come: draft, sealed, imported.

use std::sync::Arc;

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{Block, BlockBody, EMPTY_OMMER_ROOT_HASH, Header};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::{Decodable, Encodable};

use crate::header::seal_fork_fields;
use crate::receipt::receipts_root_and_bloom;
use crate::{ChainSpec, RecoveredTransaction, Seal, Sealer, Transaction, TransactionReceipt};

/// Version of the bytes that go through ordering and over the wire.
const FORMAT_VERSION: u8 = 1;

/// What a header says that execution does not decide.
#[derive(Debug, Clone)]
pub struct BlockTemplate {
    /// Hash of the parent.
    pub parent_hash: B256,
    /// Height of the new block.
    pub height: u64,
    /// Seconds; at least the parent's.
    pub timestamp: u64,
    /// The leader's node address.
    pub coinbase: Address,
    /// Gas limit of every block, from genesis.
    pub gas_limit: u64,
}

/// What execution found out.
#[derive(Debug, Clone, Copy)]
pub struct ExecutedRoots {
    /// State root after the block.
    pub state_root: B256,
    /// Gas used by all transactions.
    pub gas_used: u64,
}

/// A block with all fields, not yet signed.
#[derive(Debug, Clone)]
pub struct DraftBlock {
    header: Header,
    transactions: Vec<RecoveredTransaction>,
}

impl DraftBlock {
    /// Puts together the header of a block whose transactions have been executed.
    pub fn new(
        template: &BlockTemplate,
        spec: &ChainSpec,
        transactions: Vec<RecoveredTransaction>,
        receipts: &[TransactionReceipt],
        executed: ExecutedRoots,
    ) -> Self {
        let (receipts_root, logs_bloom) = receipts_root_and_bloom(receipts);
        let bodies: Vec<&Transaction> = transactions.iter().map(|t| t.transaction()).collect();
        let mut header = Header {
            parent_hash: template.parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: template.coinbase,
            state_root: executed.state_root,
            transactions_root: calculate_transaction_root(&bodies),
            receipts_root,
            logs_bloom,
            difficulty: U256::ZERO,
            number: template.height,
            gas_limit: template.gas_limit,
            gas_used: executed.gas_used,
            timestamp: template.timestamp,
            ..Header::default()
        };
        seal_fork_fields(&mut header, spec);
        Self {
            header,
            transactions,
        }
    }

    /// The header, complete but for the seal that travels beside it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Signs the block as leader of `term`.
    pub fn seal(self, sealer: &Sealer, term: u64) -> SealedBlock {
        let hash = self.header.hash_slow();
        let transactions = self
            .transactions
            .iter()
            .map(|t| t.transaction().clone())
            .collect();
        SealedBlock {
            seal: sealer.seal(hash),
            header: self.header,
            hash,
            transactions,
            term,
        }
    }
}

/// A block with its leader's seal and Raft term, as it goes through ordering. Decoding proves nothing
/// about its content: the importer checks everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    header: Header,
    hash: B256,
    transactions: Vec<Transaction>,
    seal: Seal,
    term: u64,
}

/// Why bytes are no sealed block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockDecodeError {
    /// Nothing there.
    #[error("block record is empty")]
    Empty,
    /// Written by another version.
    #[error("block record has version {got}, this node reads version {expected}")]
    Version {
        /// Version found.
        got: u8,
        /// Version read.
        expected: u8,
    },
    /// Not the RLP of a block.
    #[error("block record does not decode: {reason}")]
    Malformed {
        /// What the decoder found.
        reason: String,
    },
}

impl SealedBlock {
    /// Block 0: no transactions, no seal.
    pub fn genesis(header: Header) -> Self {
        let hash = header.hash_slow();
        Self {
            header,
            hash,
            transactions: Vec::new(),
            seal: Seal::from_bytes([0; 65]),
            term: 0,
        }
    }

    /// The Ethereum header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// keccak256 of the header's RLP.
    pub fn hash(&self) -> B256 {
        self.hash
    }

    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.header.number
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// The leader's signature.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The Raft term in which the block was minted.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The bytes for ordering, disk and wire:
    ///
    /// ```text
    /// version (1 byte) | RLP list [ term, seal (65 bytes), block (Ethereum: [header, transactions, ommers, withdrawals?]) ]
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut fields = Vec::with_capacity(700 + self.transactions.len() * 128);
        self.term.encode(&mut fields);
        self.seal.as_bytes().as_slice().encode(&mut fields);
        let body = BlockBody {
            transactions: self.transactions.iter().collect::<Vec<_>>(),
            ommers: Vec::<Header>::new(),
            withdrawals: self.header.withdrawals_root.map(|_| Default::default()),
        };
        Block::rlp_encode_from_parts(&self.header, &body, &mut fields);
        let mut out = Vec::with_capacity(fields.len() + 8);
        out.push(FORMAT_VERSION);
        alloy_rlp::Header {
            list: true,
            payload_length: fields.len(),
        }
        .encode(&mut out);
        out.extend_from_slice(&fields);
        out.into()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BlockDecodeError`]; nothing is allocated beyond a small multiple of the input.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockDecodeError> {
        let (version, mut rest) = bytes.split_first().ok_or(BlockDecodeError::Empty)?;
        if *version != FORMAT_VERSION {
            return Err(BlockDecodeError::Version {
                got: *version,
                expected: FORMAT_VERSION,
            });
        }
        let block = decode_fields(&mut rest).map_err(|e| BlockDecodeError::Malformed {
            reason: e.to_string(),
        })?;
        // The decoder below overlooks wrong lengths around typed transactions, and a list of withdrawals that does not go
        // with the header. One comparison instead of a check for each.
        if *block.encode() != *bytes {
            return Err(BlockDecodeError::Malformed {
                reason: "it is not in its one form".to_owned(),
            });
        }
        Ok(block)
    }
}

fn decode_fields(input: &mut &[u8]) -> alloy_rlp::Result<SealedBlock> {
    let mut fields = alloy_rlp::Header::decode_bytes(input, true)?;
    if !input.is_empty() {
        return Err(alloy_rlp::Error::UnexpectedLength);
    }
    let term = u64::decode(&mut fields)?;
    let seal: [u8; 65] = alloy_rlp::Header::decode_bytes(&mut fields, false)?
        .try_into()
        .map_err(|_| alloy_rlp::Error::UnexpectedLength)?;
    let block = Block::<Transaction>::decode(&mut fields)?;
    if !fields.is_empty() {
        return Err(alloy_rlp::Error::UnexpectedLength);
    }
    if !block.body.ommers.is_empty() || block.body.withdrawals.is_some_and(|w| !w.is_empty()) {
        return Err(alloy_rlp::Error::Custom(
            "ommers and withdrawals are not allowed",
        ));
    }
    let hash = block.header.hash_slow();
    Ok(SealedBlock {
        header: block.header,
        hash,
        transactions: block.body.transactions,
        seal: Seal::from_bytes(seal),
        term,
    })
}

/// A block that is part of the chain: ordered, verified, executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedBlock {
    /// The block.
    pub block: SealedBlock,
    /// The sender of each transaction.
    pub senders: Vec<Address>,
    /// The receipt of each transaction.
    pub receipts: Vec<TransactionReceipt>,
    /// Raft log index at which the block was committed; 0 for genesis.
    pub raft_index: u64,
}

impl ImportedBlock {
    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.block.height()
    }

    /// Hash of the block.
    pub fn hash(&self) -> B256 {
        self.block.hash()
    }

    /// The bytes of one record, as the block store and exported files hold it: RLP list of Raft index, senders, the sealed
    /// block and the receipts.
    pub fn encode(&self) -> Vec<u8> {
        crate::store::encode_record(self)
    }

    /// Reads what [`Self::encode`] wrote. This proves the shape only.
    ///
    /// # Errors
    /// [`BlockDecodeError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockDecodeError> {
        crate::store::decode_record(bytes).map_err(|reason| BlockDecodeError::Malformed { reason })
    }

    /// The transactions with their senders.
    pub fn recovered(&self) -> impl Iterator<Item = RecoveredTransaction> + '_ {
        let transactions = self.block.transactions().iter();
        transactions
            .zip(&self.senders)
            .map(|(tx, sender)| RecoveredTransaction::with_sender(tx.clone(), *sender))
    }
}

/// A shared imported block.
pub type SharedBlock = Arc<ImportedBlock>;
