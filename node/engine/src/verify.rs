//! Judging a committed entry. Everything here depends on the entry and the chain alone, so that every member
//! comes to the same answer.

use std::collections::BTreeSet;

use alloy_consensus::proofs::calculate_transaction_root;
use alloy_primitives::{Address, B256, U256};
use quorate_chain::{
    BlockLimits, BlockTemplate, ChainSpec, DraftBlock, ExecutedRoots, ImportedBlock, SealedBlock,
};

/// Longest `extraData`; web3.py refuses more.
const EXTRA_DATA_BYTES_MAX: usize = 32;

/// Why a committed entry is not a block of the chain. Every member skips it alike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The bytes are no block.
    #[error("entry does not decode: {0}")]
    Undecodable(String),
    /// The block was minted in another term than the one in which it was appended.
    #[error("block was minted in term {minted}, appended in term {appended}")]
    Term {
        /// Term in the block.
        minted: u64,
        /// Term of the log entry.
        appended: u64,
    },
    /// It does not extend the head: it was overtaken, or its own parent was skipped.
    #[error("block {height} on {parent} does not extend the head {head}")]
    Parent {
        /// Height of the block.
        height: u64,
        /// Its hash.
        block: B256,
        /// Its parent.
        parent: B256,
        /// Hash of the head.
        head: B256,
    },
    /// The seal is not a member's, or not that of the coinbase.
    #[error("block is sealed by {signer:?}, coinbase {coinbase}")]
    Seal {
        /// Who signed, if it is a signature at all.
        signer: Option<Address>,
        /// The coinbase.
        coinbase: Address,
    },
    /// A header value breaks a rule that needs no execution.
    #[error("header field {field}: {reason}")]
    Header {
        /// Which field.
        field: &'static str,
        /// Which rule.
        reason: String,
    },
    /// The transactions do not belong to the header, or are too many or too large.
    #[error("transactions: {0}")]
    Transactions(String),
}

impl SkipReason {
    /// Label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Term { .. } => "term",
            Self::Parent { .. } => "parent",
            Self::Seal { .. } => "seal",
            Self::Header { .. } => "header",
            Self::Transactions(_) => "transactions",
        }
    }
}

/// What a block is judged against.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) spec: &'a ChainSpec,
    pub(crate) limits: BlockLimits,
    pub(crate) gas_limit: u64,
    pub(crate) sealers: &'a BTreeSet<Address>,
}

impl Rules<'_> {
    /// All checks that need no execution.
    pub(crate) fn check(
        &self,
        block: &SealedBlock,
        parent: &ImportedBlock,
    ) -> Result<(), SkipReason> {
        let header = block.header();
        if header.parent_hash != parent.hash() || header.number != parent.height() + 1 {
            return Err(SkipReason::Parent {
                height: header.number,
                block: block.hash(),
                parent: header.parent_hash,
                head: parent.hash(),
            });
        }
        let signer = block.seal().signer(block.hash());
        let is_member = signer.is_some_and(|signer| self.sealers.contains(&signer));
        if signer != Some(header.beneficiary) || !is_member {
            return Err(SkipReason::Seal {
                signer,
                coinbase: header.beneficiary,
            });
        }
        let parent_time = parent.block.header().timestamp;
        let field = |field, reason: String| Err(SkipReason::Header { field, reason });
        if header.timestamp < parent_time {
            return field(
                "timestamp",
                format!("{} is before the parent's {parent_time}", header.timestamp),
            );
        }
        if header.gas_limit != self.gas_limit {
            return field(
                "gasLimit",
                format!("{} is not genesis' {}", header.gas_limit, self.gas_limit),
            );
        }
        if header.difficulty != U256::ZERO {
            return field("difficulty", "must be 0".into());
        }
        if header.extra_data.len() > EXTRA_DATA_BYTES_MAX {
            return field(
                "extraData",
                format!("has more than {EXTRA_DATA_BYTES_MAX} bytes"),
            );
        }
        self.check_transactions(block)
    }

    fn check_transactions(&self, block: &SealedBlock) -> Result<(), SkipReason> {
        use alloy_eips::eip2718::Encodable2718 as _;

        let transactions = block.transactions();
        let refuse = |reason: String| Err(SkipReason::Transactions(reason));
        if transactions.is_empty() {
            return refuse("there are none".into());
        }
        if transactions.len() as u64 > self.limits.max_transactions {
            return refuse(format!(
                "{} are more than {}",
                transactions.len(),
                self.limits.max_transactions
            ));
        }
        let bytes: usize = transactions.iter().map(|tx| tx.encode_2718_len()).sum();
        if bytes as u64 > self.limits.max_bytes {
            return refuse(format!(
                "{bytes} bytes are more than {}",
                self.limits.max_bytes
            ));
        }
        let root = calculate_transaction_root(transactions);
        if root != block.header().transactions_root {
            return refuse(format!(
                "their root is {root}, not {}",
                block.header().transactions_root
            ));
        }
        Ok(())
    }

    /// The header that our own execution would have given this block: equal headers mean equal results.
    pub(crate) fn expected_header(
        &self,
        block: &SealedBlock,
        recovered: Vec<quorate_chain::RecoveredTransaction>,
        receipts: &[quorate_chain::TransactionReceipt],
        executed: ExecutedRoots,
    ) -> alloy_consensus::Header {
        let header = block.header();
        let template = BlockTemplate {
            parent_hash: header.parent_hash,
            height: header.number,
            timestamp: header.timestamp,
            coinbase: header.beneficiary,
            gas_limit: header.gas_limit,
        };
        let mut expected = DraftBlock::new(&template, self.spec, recovered, receipts, executed)
            .header()
            .clone();
        // Free for the leader to choose, within the bounds checked above.
        expected.extra_data = header.extra_data.clone();
        expected
    }
}

/// The first value in which two headers differ, for the alarm.
pub(crate) fn first_difference(
    ours: &alloy_consensus::Header,
    theirs: &alloy_consensus::Header,
) -> Option<(&'static str, String, String)> {
    let pairs: [(&'static str, String, String); 5] = [
        (
            "gasUsed",
            ours.gas_used.to_string(),
            theirs.gas_used.to_string(),
        ),
        (
            "receiptsRoot",
            ours.receipts_root.to_string(),
            theirs.receipts_root.to_string(),
        ),
        (
            "logsBloom",
            ours.logs_bloom.to_string(),
            theirs.logs_bloom.to_string(),
        ),
        (
            "stateRoot",
            ours.state_root.to_string(),
            theirs.state_root.to_string(),
        ),
        ("header", format!("{ours:?}"), format!("{theirs:?}")),
    ];
    pairs.into_iter().find(|(_, ours, theirs)| ours != theirs)
}
