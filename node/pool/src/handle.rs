//! The pool as others see it: shared, told the time, with events.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256};
use parking_lot::Mutex;
use quorate_chain::{BlockLimits, ChainSpec, ImportedBlock, RecoveredTransaction};
use quorate_state::{ReadError, StateRead};
use rayon::prelude::*;
use tokio::sync::{broadcast, watch};

use crate::admission::Rules;
use crate::recent::RecentSenders;
use crate::{AdmitError, DropReason, Fate, Pool, PoolConfig, PoolCounts, PooledTransaction};

/// Events kept for a slow subscriber. One that lags further loses the oldest and is told so by its receiver:
/// gossip is repaired by direct delivery to the leader, subscriptions of pending transactions promise nothing.
const EVENTS: usize = 4_096;

/// From so many transactions on, signatures are checked on several cores. Waking these costs as much as some signatures do, and they
/// look about for more for a while after.
const PARALLEL_FROM: usize = 16;

/// Gives the state as of the head.
pub type StateSource = Arc<dyn Fn() -> Arc<dyn StateRead> + Send + Sync>;

/// What happened in the pool.
#[derive(Debug, Clone)]
pub enum PoolEvent {
    /// New transactions were accepted. `local`: they came from a client of this node, so that this node
    /// has to see to it that the others and the leader get them.
    Admitted {
        /// The transactions.
        transactions: Arc<Vec<RecoveredTransaction>>,
        /// True if a client of this node sent them.
        local: bool,
    },
}

/// The pool of this node. Cheap to clone.
#[derive(Clone)]
pub struct PoolHandle {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Mutex<Pool>,
    /// Of blocks that were imported, and of the one that is.
    recent: Mutex<RecentSenders>,
    config: PoolConfig,
    rules: Rules,
    state: StateSource,
    /// (height, timestamp in seconds) of the next block, for the choice of rules.
    next_block: Mutex<(u64, u64)>,
    events: broadcast::Sender<PoolEvent>,
    offers: watch::Sender<u64>,
}

impl std::fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolHandle")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl PoolHandle {
    /// An empty pool that checks against `state`. `head` is height and timestamp (seconds) of the last block.
    pub fn new(
        config: PoolConfig,
        spec: ChainSpec,
        limits: BlockLimits,
        gas_limit: u64,
        head: (u64, u64),
        state: StateSource,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool: Mutex::new(Pool::new(config.clone())),
                recent: Mutex::default(),
                config,
                rules: Rules {
                    spec,
                    limits,
                    gas_limit,
                },
                state,
                next_block: Mutex::new((head.0 + 1, head.1)),
                events: broadcast::Sender::new(EVENTS),
                offers: watch::Sender::new(0),
            }),
        }
    }

    /// Takes one transaction in network form from a client of this node and returns its hash.
    ///
    /// # Errors
    /// [`AdmitError`].
    pub fn submit(&self, raw: &[u8]) -> Result<B256, AdmitError> {
        let mut results = self.admit_all(std::slice::from_ref(&raw), true);
        results.pop().unwrap_or(Err(AdmitError::NotATransaction(
            quorate_chain::TransactionError::Malformed {
                reason: "empty".into(),
            },
        )))
    }

    /// Takes transactions in network form from a client of this node (`local`) or from a peer. One result for
    /// each, in order.
    pub fn admit_all<T: AsRef<[u8]> + Sync>(
        &self,
        raw: &[T],
        local: bool,
    ) -> Vec<Result<B256, AdmitError>> {
        let next_block = *self.shared.next_block.lock();
        let check = |raw: &T| {
            let transaction = self.shared.rules.decode(raw.as_ref())?;
            let hash = *transaction.hash();
            // Gossip brings most transactions more than once: do not pay for the signature again.
            if self.shared.pool.lock().get(&hash).is_some() {
                return Err(AdmitError::Known { hash });
            }
            let sender = self.shared.recent.lock().of(&hash);
            self.shared
                .rules
                .check(transaction, sender, &self.shared.config, next_block)
        };
        let checked: Vec<Result<RecoveredTransaction, AdmitError>> = if raw.len() < PARALLEL_FROM {
            raw.iter().map(check).collect()
        } else {
            raw.par_iter().map(check).collect()
        };
        self.insert(checked, local)
    }

    fn insert(
        &self,
        checked: Vec<Result<RecoveredTransaction, AdmitError>>,
        local: bool,
    ) -> Vec<Result<B256, AdmitError>> {
        let now = now_ms();
        let mut admitted = Vec::new();
        let mut new_offers = false;
        let mut pool = self.shared.pool.lock();
        // Read under the lock: a block that is imported now prunes the pool after this, never before.
        let state = (self.shared.state)();
        let results = checked.into_iter().map(|checked| {
            let transaction = checked?;
            let hash = transaction.hash();
            let account = state.account(&transaction.sender())?;
            new_offers |= pool.admit(transaction.clone(), account, now)?;
            admitted.push(transaction);
            Ok(hash)
        });
        let results: Vec<Result<B256, AdmitError>> = results.collect();
        drop(pool);
        for refusal in results.iter().filter_map(|r| r.as_ref().err()) {
            metrics::counter!("quorate_pool_refused_total", "reason" => refusal.label())
                .increment(1);
        }
        if !admitted.is_empty() {
            metrics::counter!("quorate_pool_admitted_total").increment(admitted.len() as u64);
            let event = PoolEvent::Admitted {
                transactions: Arc::new(admitted),
                local,
            };
            // No subscriber is a normal state, not an error.
            drop(self.shared.events.send(event));
        }
        if new_offers {
            self.notify();
        }
        results
    }

    fn notify(&self) {
        self.shared.offers.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes whenever there may be something new to mint.
    pub fn offers(&self) -> watch::Receiver<u64> {
        self.shared.offers.subscribe()
    }

    /// True if the minter could take a transaction now.
    pub fn has_offers(&self) -> bool {
        self.shared.pool.lock().has_offers()
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<PoolEvent> {
        self.shared.events.subscribe()
    }

    /// Hands out up to `count` transactions in turn; see [`Pool::take_next`].
    pub fn take(&self, count: usize) -> Vec<RecoveredTransaction> {
        let mut pool = self.shared.pool.lock();
        std::iter::from_fn(|| pool.take_next())
            .take(count)
            .collect()
    }

    /// Takes back what was handed out and not used, in the order in which it was handed out.
    pub fn put_back(&self, transactions: &[RecoveredTransaction]) {
        let mut pool = self.shared.pool.lock();
        for transaction in transactions.iter().rev() {
            pool.put_back(transaction);
        }
    }

    /// Gives up a transaction that cannot be executed.
    pub fn drop_transaction(&self, transaction: &RecoveredTransaction, reason: DropReason) {
        metrics::counter!("quorate_pool_dropped_total").increment(1);
        let mut pool = self.shared.pool.lock();
        pool.drop_transaction(transaction, reason);
        // Its nonce may have been used without a transaction of this sender (EIP-7702): what follows must not wait for it.
        let sender = transaction.sender();
        if let Ok(Some(account)) = (self.shared.state)().account(&sender) {
            pool.catch_up(&sender, account.nonce);
        }
    }

    /// Blocks that this node minted will not commit: everything in flight is offered again.
    pub fn offer_again(&self) {
        self.shared.pool.lock().offer_again();
        self.notify();
    }

    /// Forgets what an imported block used. To be called after the state has advanced.
    ///
    /// # Errors
    /// [`ReadError`] if the state cannot be read.
    pub fn on_block(&self, block: &ImportedBlock) -> Result<(), ReadError> {
        let mut senders = block.senders.clone();
        // EIP-7702: delegations move the nonce of an authority that sent nothing itself; its transactions
        // are found out when they are executed.
        senders.sort_unstable();
        senders.dedup();
        let mut pool = self.shared.pool.lock();
        let state = (self.shared.state)();
        let mut next = Vec::with_capacity(senders.len());
        for sender in senders {
            let nonce = state.account(&sender)?.map_or(0, |account| account.nonce);
            next.push((sender, nonce));
        }
        pool.on_block(block.height(), &next);
        let counts = (pool.len(), pool.has_offers());
        drop(pool);
        let transactions = block.block.transactions().iter();
        let signed = transactions
            .map(|transaction| *transaction.hash())
            .zip(block.senders.iter().copied());
        self.shared.recent.lock().record(signed);
        *self.shared.next_block.lock() = (block.height() + 1, block.block.header().timestamp);
        metrics::gauge!("quorate_pool_transactions").set(counts.0 as f64);
        if counts.1 {
            self.notify();
        }
        Ok(())
    }

    /// Removes what has waited too long; returns how many.
    pub fn expire(&self) -> usize {
        self.shared.pool.lock().expire(now_ms())
    }

    /// A transaction in the pool.
    pub fn get(&self, hash: &B256) -> Option<PooledTransaction> {
        self.shared.pool.lock().get(hash).cloned()
    }

    /// Remembers who signed transactions of a block that is being imported: their gossip may come before the import ends.
    pub fn remember_senders<'a>(&self, signed: impl Iterator<Item = &'a RecoveredTransaction>) {
        let signed = signed.map(|transaction| (transaction.hash(), transaction.sender()));
        self.shared.recent.lock().record(signed);
    }

    /// The sender of a pooled transaction, so that import need not recover it again.
    pub fn senders_of(&self, hashes: &[B256]) -> Vec<Option<Address>> {
        let pool = self.shared.pool.lock();
        hashes
            .iter()
            .map(|hash| pool.get(hash).map(|p| p.transaction.sender()))
            .collect()
    }

    /// What a pooled transaction waits for, in words.
    pub fn pending_reason(&self, hash: &B256) -> Option<String> {
        self.shared.pool.lock().pending_reason(hash)
    }

    /// How a transaction left the pool, if that is still remembered. Look for it in the chain first.
    pub fn fate(&self, hash: &B256) -> Option<Fate> {
        self.shared.pool.lock().fate(hash).cloned()
    }

    /// The nonce that the sender should use next, counting what is in the pool.
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        self.shared.pool.lock().pending_nonce(sender)
    }

    /// How full the pool is.
    pub fn counts(&self) -> PoolCounts {
        self.shared.pool.lock().counts()
    }

    /// Up to `max` transactions by sender and nonce; the flag tells whether one could be minted now.
    pub fn content(&self, max: usize) -> Vec<(PooledTransaction, bool)> {
        let pool = self.shared.pool.lock();
        pool.content()
            .take(max)
            .map(|(_, _, pooled, ready)| (pooled.clone(), ready))
            .collect()
    }

    /// Up to `max` transactions that the leader could mint if it had them.
    pub fn mintable(&self, max: usize) -> Vec<RecoveredTransaction> {
        let pool = self.shared.pool.lock();
        let ready = pool.content().filter(|(_, _, _, ready)| *ready);
        ready
            .take(max)
            .map(|(_, _, pooled, _)| pooled.transaction.clone())
            .collect()
    }

    /// The transactions that clients of this node or peers sent and that are not committed, up to `max`:
    /// what a new leader should get once more.
    pub fn uncommitted(&self, max: usize) -> Vec<RecoveredTransaction> {
        let pool = self.shared.pool.lock();
        pool.content()
            .take(max)
            .map(|(_, _, pooled, _)| pooled.transaction.clone())
            .collect()
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use alloy_consensus::{SignableTransaction as _, TxLegacy};
    use alloy_eips::eip2718::Encodable2718 as _;
    use alloy_primitives::{Bytes, TxKind, U256};
    use quorate_chain::{Fork, Transaction};
    use quorate_state::Account;
    use secp256k1::{Message, SECP256K1, SecretKey};

    use super::*;

    const CHAIN: u64 = 1337;

    /// Everybody has used `nonce` transactions.
    struct Everybody {
        nonce: u64,
    }

    impl StateRead for Everybody {
        fn account(&self, _: &Address) -> Result<Option<Account>, ReadError> {
            Ok(Some(Account {
                nonce: self.nonce,
                balance: U256::MAX,
                ..Account::default()
            }))
        }
        fn storage(&self, _: &Address, _: &U256) -> Result<U256, ReadError> {
            Ok(U256::ZERO)
        }
        fn code(&self, _: &B256) -> Result<Bytes, ReadError> {
            Ok(Bytes::new())
        }
    }

    fn pool(nonce: u64) -> PoolHandle {
        PoolHandle::new(
            PoolConfig::default(),
            ChainSpec::with_fork(CHAIN, Fork::Prague),
            BlockLimits::default(),
            30_000_000,
            (0, 0),
            Arc::new(move || Arc::new(Everybody { nonce })),
        )
    }

    fn transfer() -> Transaction {
        let tx = TxLegacy {
            chain_id: Some(CHAIN),
            gas_limit: 21_000,
            to: TxKind::Call(Address::repeat_byte(1)),
            ..TxLegacy::default()
        };
        let key = SecretKey::from_byte_array([3; 32]).unwrap();
        let digest = Message::from_digest(tx.signature_hash().0);
        let (id, compact) = SECP256K1
            .sign_ecdsa_recoverable(digest, &key)
            .serialize_compact();
        let signature =
            alloy_primitives::Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
        tx.into_signed(signature).into()
    }

    #[test]
    fn gossip_that_comes_after_its_block_is_refused_for_its_nonce_without_looking_at_its_signature()
    {
        let transaction = transfer();
        let raw = transaction.encoded_2718();
        let hash = *transaction.hash();
        let (late, early) = (pool(1), pool(0));
        let told = RecoveredTransaction::with_sender(transaction, Address::repeat_byte(9));
        for pool in [&late, &early] {
            pool.remember_senders([&told].into_iter());
        }
        let refused = AdmitError::NonceTooLow { got: 0, next: 1 };
        assert_eq!(late.submit(&raw), Err(refused));
        // Nobody else could know who "signed" it.
        assert_eq!(early.submit(&raw), Ok(hash));
        assert_eq!(early.senders_of(&[hash]), [Some(Address::repeat_byte(9))]);
    }
}
