//! The members, as the exchange of private payloads sees them: keys from the replicated table, questions over the network.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quorate_enclave::{KeyAnnouncement, NodeKey, PublicKey};
use quorate_engine::{EnclaveKey, details_of};
use quorate_exchange::{MemberKeys, PeerError, Peers};
use quorate_p2p::{NetworkHandle, RequestError};
use raft_adapter::{MemberTable, RaftHandle};

use crate::membership::{ChainIdentity, NodeSigner};

/// A table, and the keys in it.
type Read = (Arc<MemberTable>, Arc<Vec<MemberKeys>>);

/// Members and the network between them.
#[derive(Debug)]
pub struct Members {
    raft_id: u64,
    chain: ChainIdentity,
    raft: RaftHandle,
    network: NetworkHandle,
    signer: NodeSigner,
    /// The keys of the last table that was read, so that a table is read once.
    read: Mutex<Option<Read>>,
}

impl Members {
    /// What member `raft_id` sees.
    pub fn new(
        raft_id: u64,
        chain: ChainIdentity,
        raft: RaftHandle,
        network: NetworkHandle,
        signer: NodeSigner,
    ) -> Self {
        Self {
            raft_id,
            chain,
            raft,
            network,
            signer,
            read: Mutex::new(None),
        }
    }

    fn read(&self, table: &MemberTable) -> Vec<MemberKeys> {
        let details = details_of(table).unwrap_or_else(|e| {
            tracing::error!(error = %e, "the member table cannot be read");
            Default::default()
        });
        let keys = |key: &EnclaveKey| KeyAnnouncement {
            key: PublicKey::from_bytes(key.key),
            hybrid: None,
        };
        let commitment = |key: &EnclaveKey| {
            let digest = key.hybrid_digest?;
            Some((PublicKey::from_bytes(key.key), B256::from(digest)))
        };
        details
            .into_iter()
            .map(|(raft_id, details)| {
                // The leader has checked it; but what is encrypted to a key cannot be taken back.
                let (chain_id, genesis_hash) = (self.chain.chain_id, self.chain.genesis_hash);
                let announced = match details.verify_keys(raft_id, chain_id, genesis_hash) {
                    Ok(()) => details.enclave_keys.as_slice(),
                    Err(_) => &[],
                };
                MemberKeys {
                    raft_id,
                    node: NodeKey::from(*details.node_id.as_bytes()),
                    keys: announced.iter().map(keys).collect(),
                    hybrid_commitments: announced.iter().filter_map(commitment).collect(),
                    organisation: details.organisation,
                    this: raft_id == self.raft_id,
                }
            })
            .collect()
    }
}

impl Peers for Members {
    fn members(&self) -> Arc<Vec<MemberKeys>> {
        let table = Arc::clone(&self.raft.status().table);
        let mut read = self.read.lock();
        if let Some((known, keys)) = read.as_ref()
            && Arc::ptr_eq(known, &table)
        {
            return Arc::clone(keys);
        }
        let keys = Arc::new(self.read(&table));
        *read = Some((table, Arc::clone(&keys)));
        keys
    }

    fn ask(
        &self,
        raft_id: u64,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        async move {
            let answer = self.network.ask_privacy(raft_id, body, timeout).await;
            answer.map_err(|error| peer_error(error, timeout))
        }
        .boxed()
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], String> {
        Ok(self.signer.sign(digest))
    }
}

fn peer_error(error: RequestError, timeout: Duration) -> PeerError {
    match error {
        RequestError::Timeout { .. } => PeerError::TimedOut {
            after_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        },
        RequestError::Busy { .. } => PeerError::Busy,
        RequestError::Unsupported { .. } => PeerError::Unsupported,
        RequestError::TooLarge { .. } => PeerError::TooLarge {
            reason: error.to_string(),
        },
        other => PeerError::Unreachable {
            reason: other.to_string(),
        },
    }
}
