//! Extending a private contract to a new party, with the names and shapes of Quorum. The "management contract" of an extension is the
//! address of its offer: nothing lies there.

use std::sync::Arc;

use alloy_primitives::Address;
use alloy_rpc_types_eth::TransactionRequest;
use jsonrpsee::server::RegisterMethodError;
use quorate_enclave::PublicKey;
use quorate_privacy::{Extension, ExtensionState};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::args::{Args, parse};
use super::super::methods::{Module, method};
use super::super::view::{Json, json};
use super::{PrivateFields, send};
use crate::RpcError;
use crate::node::Node;
use crate::privacy::{ExtensionAction, PRIVACY_PAGE_MAX, PrivateArguments};

/// Extensions that are listed; clients of Quorum know no pages.
const LISTED_MAX: usize = 10_000;

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "quorumExtension_extendContract", extend)?;
    method(module, "quorumExtension_approveExtension", approve)?;
    method(module, "quorumExtension_cancelExtension", cancel)?;
    method(
        module,
        "quorumExtension_generateExtensionApprovalUuid",
        approval_uuid,
    )?;
    method(module, "quorumExtension_getExtensionStatus", status)?;
    method(module, "quorumExtension_activeExtensionContracts", active)
}

/// An extension as Quorum shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtensionView {
    management_contract_address: Address,
    contract_extended: Address,
    /// The payload of the offer in base64.
    creation_data: String,
    initiator: Address,
    recipient: Address,
    recipient_ptm_key: String,
}

impl From<Extension> for ExtensionView {
    fn from(extension: Extension) -> Self {
        Self {
            management_contract_address: extension.id,
            contract_extended: extension.contract,
            creation_data: extension.payload.to_string(),
            initiator: extension.initiator,
            recipient: extension.newcomer_account,
            recipient_ptm_key: extension.newcomer.to_string(),
        }
    }
}

/// Offers a contract to a new party. Hash of the transaction; the contractAddress of its private receipt names the extension.
async fn extend(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let contract = args.required("toExtend")?;
    let newcomer: String = args.required("newRecipientPtmPublicKey")?;
    let newcomer_account = args.required("recipientAddr")?;
    let (request, arguments) = transaction(&mut args)?;
    args.end()?;
    let newcomer: PublicKey = newcomer.parse().map_err(|e| {
        RpcError::argument("newRecipientPtmPublicKey", format!("{newcomer:?}: {e}"))
    })?;
    let action = ExtensionAction::Offer {
        contract,
        newcomer,
        newcomer_account,
    };
    step(&node, request, action, arguments).await
}

/// The newcomer's account accepts or declines.
async fn approve(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let offer = args.required("addressToVoteOn")?;
    let accept = args.required("vote")?;
    let (request, arguments) = transaction(&mut args)?;
    args.end()?;
    let action = ExtensionAction::Vote { offer, accept };
    step(&node, request, action, arguments).await
}

/// The newcomer's account accepts with a signature that is made elsewhere. In Quorum the answer is to be voted with at the management
/// contract; here it is the data of the transaction that the account signs, to the privacy precompile.
async fn approval_uuid(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let offer = args.required("addressToVoteOn")?;
    let signer: Address = args.required("externalSignerAddress")?;
    let (_, arguments) = transaction(&mut args)?;
    args.end()?;
    let action = ExtensionAction::Vote {
        offer,
        accept: true,
    };
    let (_, data) = send::distribute_extension(&node, signer, action, arguments).await?;
    json(&data)
}

/// The account that made an offer takes it back.
async fn cancel(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let offer = args.required("extensionContract")?;
    let (request, arguments) = transaction(&mut args)?;
    args.end()?;
    let action = ExtensionAction::Cancel { offer };
    step(&node, request, action, arguments).await
}

/// Hash of the transaction that carries a step.
async fn step(
    node: &Arc<Node>,
    request: TransactionRequest,
    action: ExtensionAction,
    arguments: PrivateArguments,
) -> Result<Json, RpcError> {
    let (sent, _) = send::send_extension(node, request, action, arguments, None).await?;
    json(&sent.transaction)
}

/// "ACTIVE" until the newcomer has voted or the offer was taken back, then "DONE", as Quorum says whatever the end was.
async fn status(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let offer: Address = args.required("extensionContract")?;
    args.end()?;
    let privacy = Arc::clone(node.privacy()?);
    let extension = node.read(move |_| Ok(privacy.extension(&offer)?)).await?;
    let extension = extension.ok_or(RpcError::UnknownExtension { address: offer })?;
    json(match extension.state {
        ExtensionState::Active => "ACTIVE",
        ExtensionState::Done
        | ExtensionState::Declined
        | ExtensionState::Cancelled
        | ExtensionState::Refused => "DONE",
    })
}

/// The extensions that have not ended.
async fn active(node: Arc<Node>, args: Args) -> Result<Json, RpcError> {
    args.end()?;
    let privacy = Arc::clone(node.privacy()?);
    let found = node.read(move |_| {
        let (mut found, mut after) = (Vec::new(), None);
        while found.len() < LISTED_MAX {
            let page = privacy.extensions(after, PRIVACY_PAGE_MAX)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let active = page
                .into_iter()
                .filter(|extension| extension.state == ExtensionState::Active);
            found.extend(active);
        }
        Ok(found)
    });
    let views: Vec<ExtensionView> = found.await?.into_iter().map(Into::into).collect();
    json(&views)
}

/// The transaction that carries a step, and whom its client names beside those that take part anyway.
fn transaction(args: &mut Args) -> Result<(TransactionRequest, PrivateArguments), RpcError> {
    const NAME: &str = "txArgs";
    let raw: Box<RawValue> = args.required(NAME)?;
    let mut fields = PrivateFields::read(NAME, &raw)?;
    // The rules are those of the contract.
    fields.privacy_flag = None;
    fields.mandatory_for = None;
    fields.private_for.get_or_insert_default();
    Ok((parse(NAME, &raw)?, fields.required()?))
}
