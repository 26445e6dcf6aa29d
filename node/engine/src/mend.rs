//! Mending blocks whose records on this disk are damaged: a member gives the block again, the block above says which one it
//! must be, and executing it gives the receipts again. Nothing that a member says is believed.

use bytes::Bytes;
use quorate_chain::{
    AnchorError, BlockDecodeError, ImportedBlock, RecoveredTransaction, SealedBlock, StoreError,
    TransactionError,
};
use quorate_evm::ExecuteError;
use quorate_state::HistoryError;

use crate::Ledger;

/// Blocks that one attempt tries to mend, if one after the other fails.
const TRIED_MAX: u32 = 16;

/// Why a damaged block was not mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// No member gave it.
    #[error("no member gave block {height}")]
    NotGiven {
        /// Which one.
        height: u64,
    },
    /// What was given is no block.
    #[error("what was given for block {height} does not decode: {reason}")]
    Undecodable {
        /// Which one was asked for.
        height: u64,
        /// Why not.
        reason: BlockDecodeError,
    },
    /// Another height was given.
    #[error("block {got} was given for block {height}")]
    OtherHeight {
        /// Which one was asked for.
        height: u64,
        /// Which one came.
        got: u64,
    },
    /// A transaction has no valid signature.
    #[error("block {height}: {reason}")]
    Signature {
        /// Its height.
        height: u64,
        /// What is wrong.
        reason: TransactionError,
    },
    /// The state before the block is not kept any more: its receipts cannot be made again.
    #[error("the state before block {height}: {reason}")]
    State {
        /// Its height.
        height: u64,
        /// What is wrong.
        reason: HistoryError,
    },
    /// It does not execute.
    #[error("block {height} does not execute: {reason}")]
    Execution {
        /// Its height.
        height: u64,
        /// What is wrong.
        reason: ExecuteError,
    },
    /// It is not the block that lay here, or it could not be written.
    #[error(transparent)]
    Store(quorate_chain::MendError),
}

impl MendError {
    /// True if no honest member gives such a block, if it is this node that is asked for what its own chain says.
    pub fn blames_giver(&self) -> bool {
        match self {
            Self::Undecodable { .. } | Self::OtherHeight { .. } | Self::Signature { .. } => true,
            Self::Store(quorate_chain::MendError::OtherBlock { .. }) => true,
            Self::Store(quorate_chain::MendError::Content(AnchorError::Seal { .. })) => true,
            // This node's own state, files or rules may be at fault.
            Self::NotGiven { .. }
            | Self::State { .. }
            | Self::Execution { .. }
            | Self::Store(
                quorate_chain::MendError::Store(_)
                | quorate_chain::MendError::NotStored { .. }
                | quorate_chain::MendError::Content(_)
                | quorate_chain::MendError::Misfit { .. },
            ) => false,
        }
    }
}

impl From<quorate_chain::MendError> for MendError {
    fn from(error: quorate_chain::MendError) -> Self {
        Self::Store(error)
    }
}

impl Ledger {
    /// Heights of blocks that were found damaged when they were read, rising.
    pub fn damaged(&self) -> Vec<u64> {
        self.blocks().damaged()
    }

    /// Mends one damaged block: of several in a row the highest, since from it the one below gets its hash. `fetch` gives what
    /// members say is the encoded block at a height. `Ok(None)` if there was nothing to mend, else the height that is whole.
    ///
    /// # Errors
    /// [`MendError`] of the last one tried, if none could be mended.
    pub fn mend_one(
        &self,
        mut fetch: impl FnMut(u64) -> Vec<Bytes>,
    ) -> Result<Option<u64>, MendError> {
        let damaged = self.damaged();
        let mut above = None;
        let mut failed = None;
        let mut tried = 0;
        for height in damaged.iter().rev() {
            // Of several in a row only the highest can be compared with anything.
            let in_a_row = above.replace(*height) == height.checked_add(1);
            if in_a_row || tried == TRIED_MAX {
                continue;
            }
            tried += 1;
            match self.mend_at(*height, &mut fetch) {
                Ok(()) => return Ok(Some(*height)),
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    fn mend_at(
        &self,
        height: u64,
        fetch: &mut impl FnMut(u64) -> Vec<Bytes>,
    ) -> Result<(), MendError> {
        let stored = |e: StoreError| MendError::Store(e.into());
        if self.blocks().is_whole(height).map_err(stored)? {
            return Ok(());
        }
        // Before anybody is asked: the block above may have been damaged since.
        self.blocks().hash_from_above(height)?;
        let mut failed = MendError::NotGiven { height };
        for encoded in fetch(height) {
            match self.mend_with(height, &encoded) {
                Ok(()) => {
                    metrics::counter!("quorate_blocks_mended_total").increment(1);
                    tracing::info!(height, "a damaged block is mended");
                    return Ok(());
                }
                Err(e) if e.blames_giver() => {
                    metrics::counter!("quorate_blocks_mend_refused_total").increment(1);
                    tracing::warn!(height, error = %e, "a member gave something else for a damaged block");
                    failed = e;
                }
                Err(e) => return Err(e),
            }
        }
        Err(failed)
    }

    fn mend_with(&self, height: u64, encoded: &[u8]) -> Result<(), MendError> {
        let block = SealedBlock::decode(encoded)
            .map_err(|reason| MendError::Undecodable { height, reason })?;
        if block.height() != height {
            let got = block.height();
            return Err(MendError::OtherHeight { height, got });
        }
        // Before it costs anything to execute it.
        let (got, expected) = (block.hash(), self.blocks().hash_from_above(height)?);
        if got != expected {
            return Err(MendError::Store(quorate_chain::MendError::OtherBlock {
                height,
                got,
                expected,
            }));
        }
        let recovered: Vec<RecoveredTransaction> = block
            .transactions()
            .iter()
            .map(|transaction| RecoveredTransaction::recover(transaction.clone()))
            .collect::<Result<_, _>>()
            .map_err(|reason| MendError::Signature { height, reason })?;
        let before = self
            .state_at(height - 1)
            .map_err(|reason| MendError::State { height, reason })?;
        let outcome = quorate_evm::execute_block(
            self.spec(),
            Self::context_of(block.header()),
            &before,
            &self.hashes(),
            &recovered,
        )
        .map_err(|reason| MendError::Execution { height, reason })?;
        Ok(self.blocks().mend(ImportedBlock {
            block,
            senders: recovered.iter().map(RecoveredTransaction::sender).collect(),
            receipts: outcome.receipts,
            // The store knows its bounds.
            raft_index: 0,
        })?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::test_chain::Stores;

    fn oldest_segment(folder: &Path) -> PathBuf {
        let files = fs::read_dir(folder.join("blocks")).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .min()
            .unwrap()
    }

    /// A node with 300 blocks in files of 16 KiB, none but the head in memory.
    fn reopened(folder: &Path) -> Stores {
        let stores = Stores::open(folder);
        stores.mint(300);
        stores.flush();
        drop(stores);
        Stores::open(folder)
    }

    #[test]
    fn damaged_blocks_are_mended_with_what_members_give_and_with_nothing_else() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [stores, member] = folders.each_ref().map(|folder| reopened(folder.path()));
        let (ledger, member) = (stores.ledger(), member.ledger());
        assert_eq!(ledger.head().hash(), member.head().hash(), "the same chain");
        let asked = ledger.mend_one(|_| panic!("nothing is damaged"));
        assert!(matches!(asked, Ok(None)));

        // The end of a file is lost: several blocks with it.
        let path = oldest_segment(folders[0].path());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        file.set_len(whole.len() as u64 - 1_200).unwrap();
        // And a bit has flipped near its beginning.
        file.write_all_at(&[whole[90] ^ 4], 90).unwrap();
        let unreadable: Vec<u64> = (1..=300).filter(|h| ledger.block(*h).is_err()).collect();
        assert!(unreadable.len() > 2 && unreadable[0] == 1, "{unreadable:?}");
        assert_eq!(ledger.damaged(), unreadable);

        let encoded = |height: u64| member.block(height).unwrap().unwrap().block.encode().0;
        let nobody = ledger.mend_one(|_| Vec::new()).unwrap_err();
        assert!(matches!(nobody, MendError::NotGiven { .. }), "{nobody}");
        let liar = ledger
            .mend_one(|height| vec![encoded(height + 1)])
            .unwrap_err();
        assert!(liar.blames_giver(), "{liar}");
        let rubbish = ledger
            .mend_one(|_| vec![Bytes::from_static(b"no block")])
            .unwrap_err();
        assert!(rubbish.blames_giver(), "{rubbish}");
        assert_eq!(ledger.damaged(), unreadable);

        // What one block lacks does not hold up the others.
        let of_the_first = |height| {
            if height == 1 {
                vec![encoded(1)]
            } else {
                Vec::new()
            }
        };
        assert_eq!(ledger.mend_one(of_the_first).unwrap(), Some(1));
        for height in unreadable.iter().skip(1).rev() {
            // A liar among them does not hinder it.
            let mended = ledger
                .mend_one(|h| vec![encoded(h - 1), encoded(h)])
                .unwrap();
            assert_eq!(mended, Some(*height));
        }
        assert_eq!(ledger.damaged(), Vec::<u64>::new());
        for height in 1..=300 {
            let (ours, theirs) = (ledger.block(height).unwrap(), member.block(height).unwrap());
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(
                (&ours.block, &ours.receipts),
                (&theirs.block, &theirs.receipts)
            );
            assert_eq!(ours.senders, theirs.senders);
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), whole.len() as u64);
    }
}
