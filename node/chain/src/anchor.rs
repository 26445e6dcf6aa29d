//! The block at which a store begins that did not see the earlier ones.

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{Header, Transaction as _, Typed2718 as _};
use alloy_primitives::{Address, B256, Bytes};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};

use crate::{ImportedBlock, RecoveredTransaction, receipts_root_and_bloom};

/// So many ancestors' hashes can be asked for by contracts (the `BLOCKHASH` instruction).
pub const ANCESTORS: usize = 256;

/// Version of the bytes of an anchor.
const FORMAT_VERSION: u8 = 1;

/// Longest encoding of an anchor in bytes: the largest record of a block and 256 headers.
pub const ANCHOR_BYTES_MAX: usize = (256 << 20) + (1 << 20);

/// A block with all that a store needs to begin at it.
///
/// Everything in it can be checked against its hash except the bytes that reverted calls returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The block, with seal, senders, receipts and Raft index.
    pub block: ImportedBlock,
    /// Headers of its ancestors, oldest first, ending at the parent: the last 256, or all down to genesis.
    pub ancestors: Vec<Header>,
}

/// Why an anchor is not what its block's hash stands for. An honest peer never sends such a thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// The bytes are no anchor.
    #[error("anchor does not decode: {reason}")]
    Malformed {
        /// What the decoder found.
        reason: String,
    },
    /// Genesis needs no anchor.
    #[error("anchor is block 0, allowed is 1 or more")]
    Genesis,
    /// Ancestors are missing or too many.
    #[error("anchor has {got} ancestors, its height asks for {expected}")]
    Ancestors {
        /// How many there are.
        got: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A header is not the parent of the one after it.
    #[error("anchor's ancestor at height {height} is not the parent of the next block")]
    Chain {
        /// Height at which the chain is broken.
        height: u64,
    },
    /// The seal is not that of the coinbase.
    #[error("anchor is sealed by {signer:?}, its coinbase is {coinbase}")]
    Seal {
        /// Who signed, if it is a signature at all.
        signer: Option<Address>,
        /// The coinbase.
        coinbase: Address,
    },
    /// A root, bloom or sum over the content is not what the header says.
    #[error("anchor's {what} is {computed} by its content, {claimed} by its header")]
    Content {
        /// Which value.
        what: &'static str,
        /// What the content gives.
        computed: String,
        /// What the header says.
        claimed: String,
    },
    /// What is stored beside a transaction does not belong to it.
    #[error("anchor's transaction {position}: {what} is wrong")]
    Transaction {
        /// Position in the block, from 0.
        position: usize,
        /// Which value.
        what: &'static str,
    },
}

#[derive(RlpEncodable, RlpDecodable)]
struct Encoded {
    block: Bytes,
    ancestors: Vec<Header>,
}

impl Anchor {
    /// Height of the block.
    pub fn height(&self) -> u64 {
        self.block.height()
    }

    /// Hash of the block.
    pub fn hash(&self) -> B256 {
        self.block.hash()
    }

    /// How many ancestors the anchor at `height` has.
    pub fn ancestors_at(height: u64) -> usize {
        usize::try_from(height).map_or(ANCESTORS, |height| height.min(ANCESTORS))
    }

    /// For disk and wire: `version 1 | RLP list [ block (bytes of ImportedBlock::encode), [header, …] ]`.
    pub fn encode(&self) -> Bytes {
        let body = Encoded {
            block: self.block.encode().into(),
            ancestors: self.ancestors.clone(),
        };
        let mut out = Vec::with_capacity(1 + body.length());
        out.push(FORMAT_VERSION);
        body.encode(&mut out);
        out.into()
    }

    /// Reads what [`Self::encode`] wrote. This proves the shape only; see [`Self::check`].
    ///
    /// # Errors
    /// [`AnchorError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AnchorError> {
        let malformed = |reason: String| AnchorError::Malformed { reason };
        if bytes.len() > ANCHOR_BYTES_MAX {
            return Err(malformed(format!(
                "{} bytes, allowed are {ANCHOR_BYTES_MAX}",
                bytes.len()
            )));
        }
        let (version, mut rest) = bytes
            .split_first()
            .ok_or_else(|| malformed("it is empty".to_owned()))?;
        if *version != FORMAT_VERSION {
            return Err(malformed(format!(
                "version {version}, this node reads {FORMAT_VERSION}"
            )));
        }
        let body = Encoded::decode(&mut rest).map_err(|e| malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} superfluous bytes", rest.len())));
        }
        let block = ImportedBlock::decode(&body.block).map_err(|e| malformed(e.to_string()))?;
        Ok(Self {
            block,
            ancestors: body.ancestors,
        })
    }

    /// Checks the chain of ancestors, the seal, and all content against the block's header. It costs one signature
    /// recovery per transaction. Whether this *is* a block of the consortium's chain the caller must know by its hash.
    ///
    /// # Errors
    /// [`AnchorError`] with the first thing that does not fit.
    pub fn check(&self) -> Result<(), AnchorError> {
        self.check_ancestors()?;
        check_content(&self.block)
    }

    fn check_ancestors(&self) -> Result<(), AnchorError> {
        let height = self.height();
        if height == 0 {
            return Err(AnchorError::Genesis);
        }
        let expected = Self::ancestors_at(height);
        if self.ancestors.len() != expected {
            return Err(AnchorError::Ancestors {
                got: self.ancestors.len(),
                expected,
            });
        }
        let mut above = self.block.block.header();
        for header in self.ancestors.iter().rev() {
            let follows = header.number.checked_add(1) == Some(above.number);
            if !follows || above.parent_hash != header.hash_slow() {
                return Err(AnchorError::Chain {
                    height: header.number,
                });
            }
            above = header;
        }
        Ok(())
    }
}

/// Checks seal, transactions, senders and receipts of a stored block against its own header.
///
/// # Errors
/// [`AnchorError`] with the first thing that does not fit.
pub fn check_content(block: &ImportedBlock) -> Result<(), AnchorError> {
    let header = block.block.header();
    let signer = block.block.seal().signer(block.hash());
    if signer != Some(header.beneficiary) {
        return Err(AnchorError::Seal {
            signer,
            coinbase: header.beneficiary,
        });
    }
    let transactions = block.block.transactions();
    let root = calculate_transaction_root(transactions);
    same("transactionsRoot", root, header.transactions_root)?;
    let (receipts_root, bloom) = receipts_root_and_bloom(&block.receipts);
    same("receiptsRoot", receipts_root, header.receipts_root)?;
    same("logsBloom", bloom, header.logs_bloom)?;
    let gas_used = block.receipts.last().map_or(0, |r| r.cumulative_gas_used);
    same("gasUsed", gas_used, header.gas_used)?;

    let mut gas_before = 0u64;
    if block.senders.len() != transactions.len() || block.receipts.len() != transactions.len() {
        return Err(AnchorError::Transaction {
            position: block.senders.len().min(block.receipts.len()),
            what: "sender or receipt",
        });
    }
    let beside = block.senders.iter().zip(&block.receipts);
    for (position, (transaction, (sender, receipt))) in transactions.iter().zip(beside).enumerate()
    {
        let wrong = |what| AnchorError::Transaction { position, what };
        let recovered =
            RecoveredTransaction::recover(transaction.clone()).map_err(|_| wrong("signature"))?;
        if recovered.sender() != *sender {
            return Err(wrong("sender"));
        }
        if u8::from(receipt.tx_type) != transaction.ty() {
            return Err(wrong("type in the receipt"));
        }
        if gas_before.checked_add(receipt.gas_used) != Some(receipt.cumulative_gas_used) {
            return Err(wrong("gas used in the receipt"));
        }
        gas_before = receipt.cumulative_gas_used;
        let creates = receipt.success && transaction.kind().is_create();
        let contract = creates.then(|| sender.create(transaction.nonce()));
        if receipt.contract_address != contract {
            return Err(wrong("contract address in the receipt"));
        }
    }
    Ok(())
}

fn same<T: PartialEq + ToString>(
    what: &'static str,
    computed: T,
    claimed: T,
) -> Result<(), AnchorError> {
    if computed == claimed {
        return Ok(());
    }
    Err(AnchorError::Content {
        what,
        computed: computed.to_string(),
        claimed: claimed.to_string(),
    })
}
