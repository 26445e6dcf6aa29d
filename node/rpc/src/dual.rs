//! Reads that may concern private state.
//!
//! An address with public code is public, and what concerns it never waits for private execution. Anything else may be a private
//! contract: private state answers, at the same block, and the read waits a moment for private execution or is refused. A node
//! without privacy, and one that is no party, gives the answers that it would give if there were no private transactions.

use std::sync::Arc;

use alloy_eips::BlockId;
use alloy_primitives::Address;
use quorate_chain::SharedBlock;
use quorate_evm::{DualState, RootedState};
use quorate_privacy::PrivateRecord;
use quorate_state::{Snapshot, StateRead};

use crate::RpcError;
use crate::feed::is_recent;
use crate::node::Node;

impl Node {
    /// Reads something of an account from public state, or from private state if there is a private contract at its address.
    pub(crate) async fn read_account<T, F>(
        &self,
        id: BlockId,
        address: Address,
        read: F,
    ) -> Result<T, RpcError>
    where
        T: Send + 'static,
        F: Fn(&dyn StateRead) -> Result<T, RpcError> + Send + Sync + 'static,
    {
        if self.ctx.privacy.is_none() {
            return self.read_state(id, move |state| read(state)).await;
        }
        let state = self.state_of(id).await?;
        let Some(private) = self.private_beside(&state, &address).await? else {
            return self.read_snapshot(state, move |state| read(state)).await;
        };
        self.read(move |_| read(&DualState::new(&state, &*private)))
            .await
    }

    /// Private state after the same block, if there is a private contract at this address; waits for private execution. `None`
    /// where public state alone answers.
    pub(crate) async fn private_beside(
        &self,
        state: &Snapshot,
        address: &Address,
    ) -> Result<Option<Arc<dyn RootedState>>, RpcError> {
        let Some(privacy) = &self.ctx.privacy else {
            return Ok(None);
        };
        let address = *address;
        if self
            .read_snapshot(state.clone(), move |state| has_code(state, &address))
            .await?
        {
            return Ok(None);
        }
        let private = privacy.private_state(state.height()).await?;
        let there = {
            let private = Arc::clone(&private);
            self.read(move |_| Ok(private.account(&address)?.is_some()))
        };
        Ok(there.await?.then_some(private))
    }

    /// What this node, as a party, has of a block, after waiting for private execution. Empty without privacy.
    pub(crate) async fn private_records(
        &self,
        block: &SharedBlock,
    ) -> Result<Vec<PrivateRecord>, RpcError> {
        let Some(privacy) = &self.ctx.privacy else {
            return Ok(Vec::new());
        };
        let height = block.height();
        privacy.executed(height).await?;
        let privacy = Arc::clone(privacy);
        self.read(move |_| Ok(privacy.records(height, height, usize::MAX)?))
            .await
    }

    /// Reads a public state: at once if it is the head's or nearly, else when it is its turn.
    async fn read_snapshot<T: Send + 'static>(
        &self,
        state: Snapshot,
        read: impl FnOnce(&Snapshot) -> Result<T, RpcError> + Send + 'static,
    ) -> Result<T, RpcError> {
        if is_recent(state.height(), self.head()) {
            return read(&state);
        }
        self.read(move |_| read(&state)).await
    }
}

/// True if the account has code in this state.
pub(crate) fn has_code(state: &dyn StateRead, address: &Address) -> Result<bool, RpcError> {
    let account = state.account(address)?;
    Ok(account.is_some_and(|account| account.has_code()))
}
