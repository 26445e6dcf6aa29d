//! What the servers are given, and what they need from rooms that they must not know.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Signature};
use quorate_chain::NodeId;
use quorate_engine::Ledger;
use quorate_pool::PoolHandle;
use raft_adapter::RaftHandle;

use crate::{MembershipApi, PrivacyApi, RpcConfig};

/// Everything that the servers work with. Cheap to clone.
#[derive(Clone)]
pub struct RpcContext {
    /// Blocks and state.
    pub ledger: Ledger,
    /// The pool of this node.
    pub pool: PoolHandle,
    /// Ordering, for roles and watermarks.
    pub raft: RaftHandle,
    /// Who belongs to the consortium, and changing it.
    pub membership: Arc<dyn MembershipApi>,
    /// The members' network.
    pub network: Arc<dyn NetworkInfo>,
    /// Accounts that this node signs for.
    pub signer: Arc<dyn AccountSigner>,
    /// Private transactions; `None`: switched off.
    pub privacy: Option<Arc<dyn PrivacyApi>>,
    /// Answer of `web3_clientVersion`.
    pub client_version: String,
    /// Who this node is.
    pub node: NodeIdentity,
    /// Settings and limits.
    pub config: RpcConfig,
}

impl fmt::Debug for RpcContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcContext")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Who a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Its public key.
    pub node_id: NodeId,
    /// Its seat.
    pub raft_id: u64,
}

/// The members' network as far as clients may see it.
pub trait NetworkInfo: Send + Sync {
    /// All other members, connected or not.
    fn peers(&self) -> Vec<PeerInfo>;

    /// This node's end.
    fn local(&self) -> LocalInfo;

    /// Where a member is to be looked for: `enode://<public key>@host:port` or `<node id>@host:port`.
    ///
    /// # Errors
    /// What is wrong with the address, for the operator to read.
    fn add_peer(&self, url: &str) -> Result<(), String>;
}

/// Another member, as seen over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its seat.
    pub raft_id: u64,
    /// Its public key: 33 bytes in hexadecimal, with 0x.
    pub node_id: String,
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Where it is connected, or looked for.
    pub address: String,
    /// True if there is a connection.
    pub connected: bool,
    /// True if it connected to us.
    pub inbound: bool,
    /// Last measured round trip.
    pub round_trip: Option<Duration>,
    /// What it says it runs.
    pub agent: String,
}

/// This node's end of the members' network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInfo {
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Where it listens.
    pub listen_addresses: Vec<String>,
}

/// Accounts whose keys this node holds.
pub trait AccountSigner: Send + Sync {
    /// Their addresses.
    fn accounts(&self) -> Vec<Address>;

    /// Signs a hash with the key of `account`.
    ///
    /// # Errors
    /// [`SignError`].
    fn sign_hash(&self, account: Address, hash: B256) -> Result<Signature, SignError>;
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The node has no key for it.
    #[error("unknown account {account}")]
    UnknownAccount {
        /// The account.
        account: Address,
    },
    /// The key is there, but not unlocked.
    #[error("authentication needed: account {account} is locked")]
    Locked {
        /// The account.
        account: Address,
    },
    /// Signing failed.
    #[error("signing failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}
