//! Payloads, private contracts and private state as Quorum's JSON-RPC names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes};
use jsonrpsee::server::RegisterMethodError;
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_evm::RootedState as _;
use serde::Serialize;
use serde_json::json as object;

use super::super::args::Args;
use super::super::methods::{Module, method};
use super::super::state::block_argument;
use super::super::view::{Json, json};
use crate::node::Node;
use crate::privacy::{PayloadView, ReceivedPayload};
use crate::{PrivacyError, RpcError};

pub(super) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_getQuorumPayload", payload)?;
    method(module, "eth_getQuorumPayloadExtra", payload_extra)?;
    method(module, "eth_getContractPrivacyMetadata", contract_metadata)?;
    method(module, "eth_getPrivacyPrecompileAddress", precompile)?;
    method(module, "eth_getPSI", private_state_identifier)?;
    method(module, "eth_storageRoot", storage_root)?;
    method(module, "debug_privateStateRoot", private_state_root)
}

/// What this node has under a hash, if it is a party.
///
/// # Errors
/// Also where that is not known: nobody is told "not a party" because an enclave was silent or a payload is on its way.
pub(crate) async fn received(
    node: &Node,
    hash: PayloadHash,
) -> Result<Option<Box<ReceivedPayload>>, RpcError> {
    match node.privacy()?.payload(hash).await? {
        PayloadView::Party(payload) => Ok(Some(payload)),
        PayloadView::NotAParty | PayloadView::Erased(_) => Ok(None),
        PayloadView::Missing => Err(PrivacyError::PayloadMissing { hash }.into()),
    }
}

fn hash_argument(args: &mut Args) -> Result<PayloadHash, RpcError> {
    let bytes: Bytes = args.required("hash")?;
    let hash = bytes.as_ref().try_into().map_err(|_| {
        let reason = format!(
            "expected a Quorum digest of length 64, but got {}",
            bytes.len()
        );
        RpcError::argument("hash", reason)
    })?;
    Ok(PayloadHash::from_bytes(hash))
}

/// `0x` on a node that is no party, as in Quorum.
async fn payload(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash = hash_argument(&mut args)?;
    args.end()?;
    let received = received(&node, hash).await?;
    json(&received.map(|payload| payload.data).unwrap_or_default())
}

/// The names are Quorum's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtraView {
    payload: Bytes,
    extra_meta_data: Option<MetaDataView>,
    is_sender: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MetaDataView {
    /// Creation hashes of affected contracts. A map to nothing, as Quorum prints its sets.
    #[serde(rename = "ACHashes")]
    creation_hashes: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "ACMerkleRoot")]
    exec_root: B256,
    privacy_flag: u8,
    managed_parties: Vec<PublicKey>,
    sender: PublicKey,
    mandatory_recipients: Vec<PublicKey>,
}

async fn payload_extra(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let hash = hash_argument(&mut args)?;
    args.end()?;
    let Some(payload) = received(&node, hash).await? else {
        return json(&ExtraView {
            payload: Bytes::new(),
            extra_meta_data: None,
            is_sender: false,
        });
    };
    let creations = payload.affected.iter();
    json(&ExtraView {
        extra_meta_data: Some(MetaDataView {
            creation_hashes: creations
                .map(|(_, hash)| (hash.to_string(), object!({})))
                .collect(),
            exec_root: payload.exec_root.unwrap_or_default(),
            privacy_flag: payload.flag.number(),
            managed_parties: payload.managed_parties,
            sender: payload.sender,
            mandatory_recipients: payload.mandatory,
        }),
        is_sender: payload.we_sent,
        payload: payload.data,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContractView {
    /// Hash of the payload that created it.
    creation_tx_hash: String,
    privacy_flag: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mandatory_for: Vec<PublicKey>,
}

/// Null for an address without a private contract that this node is a party of.
async fn contract_metadata(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    args.end()?;
    let privacy = Arc::clone(node.privacy()?);
    privacy.executed(node.head()).await?;
    let found = node.read(move |_| Ok(privacy.contract(&address)?)).await?;
    json(&found.map(|contract| ContractView {
        creation_tx_hash: contract.creation_hash.to_string(),
        privacy_flag: contract.flag.number(),
        mandatory_for: contract.mandatory.into_iter().collect(),
    }))
}

async fn precompile(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    json(&node.privacy()?.settings().precompile)
}

/// There is one private state on a node, and this is what Quorum calls it.
async fn private_state_identifier(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    node.privacy()?;
    json("private")
}

/// Root of a contract's storage trie: of the private contract at the address if there is one, else of the public account. Of older
/// blocks where the tries are kept.
async fn storage_root(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let address: Address = args.required("address")?;
    let id = block_argument(&mut args)?;
    args.end()?;
    let state = node.state_of(id).await?;
    let private = node.private_beside(&state, &address).await?;
    let root = node.call(move || match private {
        Some(private) => Ok(private.storage_root(&address)?),
        None => Ok(state.storage_root(&address)?),
    });
    json(&root.await?)
}

async fn private_state_root(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let number: BlockNumberOrTag = args.optional("block")?.unwrap_or_default();
    args.end()?;
    let privacy = Arc::clone(node.privacy()?);
    let block = node.block_of(BlockId::Number(number)).await?;
    let height = block.ok_or(RpcError::UnknownBlock)?.height();
    privacy.executed(height).await?;
    json(
        &node
            .read(move |_| Ok(privacy.private_root(height)?))
            .await?,
    )
}
