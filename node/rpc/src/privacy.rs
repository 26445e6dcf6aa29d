//! Private transactions as clients see them: the questions that the servers ask of the node's wiring. The wiring knows the
//! enclave, the exchange of payloads between members and the private ledger; this crate translates.
//!
//! Without an implementation ([`RpcContext::privacy`](crate::RpcContext::privacy) is `None`) privacy is switched off: its methods
//! answer [`PrivacyError::Off`], and all others answer as if there were no private transactions.

mod error;
mod types;

use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use quorate_enclave::{Delivery, Erasure, GroupId, NewGroup, PayloadHash, PrivacyGroup, PublicKey};
use quorate_evm::RootedState;
use quorate_privacy::{ContractMetadata, Extension, PrivateRecord, PrivateStatus};
use tokio::sync::watch;

pub use error::PrivacyError;
pub use types::{
    Acknowledgements, Distributed, DivergenceAlarm, ExtensionAction, ExtensionSend, GiveUp,
    MemberKeys, MemberResyncView, PayloadView, PrivacySettings, PrivacyStatusView,
    PrivateArguments, PrivateSend, ReceivedPayload, ResyncView, StoredSend, Tag, TransactionParts,
};

/// Longest wait for private execution before a read is refused with [`PrivacyError::Behind`], in milliseconds.
pub const EXECUTION_WAIT_MS: u64 = 2_000;
/// Most entries of one page of a listing.
pub const PRIVACY_PAGE_MAX: usize = 1_000;

/// Sends, reads and manages private transactions. Methods that are not futures are quick or read from the disk for a moment;
/// the servers call those that say so on threads that may wait.
pub trait PrivacyApi: fmt::Debug + Send + Sync {
    // ---- sending

    /// How this node puts private transactions on the chain. Does not change while it runs.
    fn settings(&self) -> PrivacySettings;

    /// Checks a private transaction against the heads, encrypts it and returns when the parties' acknowledgements that were
    /// asked for are in. The caller then sends the public transaction.
    ///
    /// # Errors
    /// [`PrivacyError`]. After an error nothing may be put on the chain for this payload.
    fn distribute(&self, send: PrivateSend) -> BoxFuture<'_, Result<Distributed, PrivacyError>>;

    /// The same for bytes that no transaction of this node carries: what a third party hands over, to be referred to by a
    /// transaction of its own.
    ///
    /// # Errors
    /// [`PrivacyError`].
    fn distribute_data(
        &self,
        data: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>>;

    /// Encrypts and stores a payload for this node alone; its hash is what a transaction that is signed elsewhere carries.
    ///
    /// # Errors
    /// [`PrivacyError`].
    fn store_raw(
        &self,
        data: Bytes,
        private_from: Option<PublicKey>,
    ) -> BoxFuture<'_, Result<PayloadHash, PrivacyError>>;

    /// Delivers a payload that [`store_raw`](Self::store_raw) stored. Its hash stays. Without
    /// [`transaction`](StoredSend::transaction) nothing is simulated, and only a flag that needs no simulation is possible.
    ///
    /// # Errors
    /// [`PrivacyError`]; [`PrivacyError::UnknownPayload`] if this node does not hold it.
    fn distribute_stored(
        &self,
        send: StoredSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>>;

    /// Delivers a whole signed private transaction (v 37 or 38, its data the hash of a stored payload) and that payload. The hash
    /// that comes back is what a privacy marker transaction carries.
    ///
    /// # Errors
    /// [`PrivacyError`].
    fn distribute_signed(
        &self,
        raw: Bytes,
        arguments: PrivateArguments,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>>;

    // ---- payloads

    /// What this node has under a hash.
    ///
    /// # Errors
    /// [`PrivacyError`] if the enclave or the store could not be asked: that is not the same as [`PayloadView::NotAParty`].
    fn payload(&self, hash: PayloadHash) -> BoxFuture<'_, Result<PayloadView, PrivacyError>>;

    /// Erases a payload on this node for ever; the record that it was erased stays. Erasing it again changes nothing. `note` says
    /// who asked for it; at most [`NOTE_BYTES_MAX`](quorate_enclave::NOTE_BYTES_MAX) bytes.
    ///
    /// # Errors
    /// [`PrivacyError::UnknownPayload`], or that of the store.
    fn erase(
        &self,
        hash: PayloadHash,
        note: String,
    ) -> BoxFuture<'_, Result<Erasure, PrivacyError>>;

    /// Goes on without payloads that are not here, or without an extended contract that is not handed over, and returns how many
    /// these were. `note` as of [`erase`](Self::erase); the records of payloads are among those of erased ones.
    ///
    /// # Errors
    /// [`PrivacyError::Refused`] if private execution does not wait for that payload, or if other members may still have what was
    /// erased; or that of the store.
    fn give_up(&self, what: GiveUp, note: String) -> BoxFuture<'_, Result<u64, PrivacyError>>;

    /// Records of erased payloads with a sequence number above `after`, rising. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn erasures(&self, after: Option<u64>, limit: usize) -> Result<Vec<Erasure>, PrivacyError>;

    /// What became of the deliveries of a payload that this node sent. Reads from the disk.
    ///
    /// # Errors
    /// That of the outbox.
    fn deliveries(&self, hash: &PayloadHash) -> Result<Vec<Delivery>, PrivacyError>;

    // ---- keys and groups

    /// This node's own keys, the default sender first.
    ///
    /// # Errors
    /// [`PrivacyError::Enclave`] if the enclave could not be asked.
    fn own_keys(&self) -> BoxFuture<'_, Result<Vec<PublicKey>, PrivacyError>>;

    /// The keys that members have announced in the member table.
    fn member_keys(&self) -> Vec<MemberKeys>;

    /// Makes a privacy group and makes it known to the members that belong to it. One of the same name and members is returned
    /// as it is.
    ///
    /// # Errors
    /// [`PrivacyError`].
    fn create_group(&self, group: NewGroup) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>>;

    /// Groups by rising id, behind `after`. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn groups(
        &self,
        after: Option<&GroupId>,
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError>;

    /// Groups with exactly these members. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn find_groups(
        &self,
        members: &[PublicKey],
        limit: usize,
    ) -> Result<Vec<PrivacyGroup>, PrivacyError>;

    /// The group with this id or name. Reads from the disk.
    ///
    /// # Errors
    /// [`PrivacyError::UnknownGroup`], [`PrivacyError::AmbiguousGroup`], or that of the store.
    fn group(&self, name_or_id: &str) -> Result<PrivacyGroup, PrivacyError>;

    /// Deletes a group here; what was sent to it stays readable.
    ///
    /// # Errors
    /// [`PrivacyError::UnknownGroup`], or that of the store.
    fn delete_group(&self, id: GroupId) -> BoxFuture<'_, Result<PrivacyGroup, PrivacyError>>;

    // ---- status and repair

    /// How private execution, the exchange and the enclave are doing.
    ///
    /// # Errors
    /// [`PrivacyError`] if a store could not be read. An enclave that does not answer is part of the status.
    fn status(&self) -> BoxFuture<'_, Result<PrivacyStatusView, PrivacyError>>;

    /// How far private execution is, and each change of it.
    fn watch_status(&self) -> watch::Receiver<PrivateStatus>;

    /// Alarms with a number above `after`, oldest first. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn alarms(&self, after: u64, limit: usize) -> Result<Vec<DivergenceAlarm>, PrivacyError>;

    /// Asks all other members for every payload that this node may read, and returns when they have answered or could not be
    /// reached.
    ///
    /// # Errors
    /// [`PrivacyError`]; [`PrivacyError::Busy`] if one is under way.
    fn resync(&self) -> BoxFuture<'_, Result<ResyncView, PrivacyError>>;

    // ---- private state

    /// Returns when private execution has dealt with the block at `height`; waits at most [`EXECUTION_WAIT_MS`]. Ready at once
    /// where it has.
    ///
    /// # Errors
    /// [`PrivacyError::Behind`], [`PrivacyError::Halted`]. A height below the first one that was executed privately here is fine.
    fn executed(&self, height: u64) -> BoxFuture<'_, Result<(), PrivacyError>>;

    /// Private state after the block at `height`; waits as [`executed`](Self::executed).
    ///
    /// # Errors
    /// [`PrivacyError::Behind`], [`PrivacyError::BeforeStart`], [`PrivacyError::Halted`], or that of the store.
    fn private_state(
        &self,
        height: u64,
    ) -> BoxFuture<'_, Result<Arc<dyn RootedState>, PrivacyError>>;

    /// Root of private state after the block at `height`. Waits for nothing; reads from the disk.
    ///
    /// # Errors
    /// As [`private_state`](Self::private_state).
    fn private_root(&self, height: u64) -> Result<B256, PrivacyError>;

    /// Records of the blocks from `first` to `last`, in the order of the chain. All of a block or nothing: ends after the block
    /// with which `limit` is reached. Waits for nothing; reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn records(
        &self,
        first: u64,
        last: u64,
        limit: usize,
    ) -> Result<Vec<PrivateRecord>, PrivacyError>;

    /// How a private contract came to be; `None` if there is none at this address for this node. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn contract(&self, address: &Address) -> Result<Option<ContractMetadata>, PrivacyError>;

    // ---- extension of contracts

    /// Checks a step of an extension against what this node knows, and distributes it as [`distribute`](Self::distribute) does. The
    /// caller then sends a marker transaction.
    ///
    /// # Errors
    /// [`PrivacyError`]; [`PrivacyError::Off`] where contracts cannot be extended.
    fn distribute_extension(
        &self,
        send: ExtensionSend,
    ) -> BoxFuture<'_, Result<Distributed, PrivacyError>> {
        drop(send);
        async { Err(PrivacyError::Off) }.boxed()
    }

    /// An extension by the address of its offer; `None` if this node takes no part in it. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn extension(&self, _offer: &Address) -> Result<Option<Extension>, PrivacyError> {
        Ok(None)
    }

    /// Extensions by rising address of the offer, behind the given one; about so many. Reads from the disk.
    ///
    /// # Errors
    /// That of the store.
    fn extensions(
        &self,
        _after: Option<Address>,
        _limit: usize,
    ) -> Result<Vec<Extension>, PrivacyError> {
        Ok(Vec::new())
    }
}
