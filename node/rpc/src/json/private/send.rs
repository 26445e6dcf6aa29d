//! Sending private transactions: those that this node signs, those that a client signs, and what a client needs to sign them.
//!
//! # Nonces
//! A payload is distributed before its public transaction has a nonce, and only then is one chosen and the transaction given to
//! the pool, in the account's turn. So distributions of one account run side by side, one that fails leaves no hole, and what
//! was sent one after the other keeps its order. The nonce that goes into the simulation is a guess until then; it matters for
//! the address of a created contract alone. Where the parties' terms depend on that (a creation under a privacy flag) the turn is
//! held all along.

use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::{Transaction as _, TxLegacy, TypedTransaction};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_rpc_types_eth::{TransactionInput, TransactionRequest};
use jsonrpsee::server::RegisterMethodError;
use quorate_chain::{
    Fork, PAYLOAD_HASH_BYTES, PRIVACY_PRECOMPILE, PublicForm, RecoveredTransaction, Transaction,
    check_quorum_form, decode_transaction, is_quorum_private, marker_data, quorum_private_hash,
    quorum_private_transaction,
};
use quorate_enclave::{NodeKey, PayloadHash, PrivacyFlag};
use quorate_evm::{CallSettings, InvalidTransaction, intrinsic_gas, validate_static};
use quorate_pool::AdmitError;
use quorate_state::StateRead as _;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::super::args::Args;
use super::super::call::estimate_private;
use super::super::methods::{Module, method};
use super::super::send::{fill_fees, next_fork, sender, sign_typed, turn};
use super::super::state::pending_nonce;
use super::super::view::{Json, json};
use super::PrivateFields;
use crate::error::VALUE_REFUSED;
use crate::node::Node;
use crate::privacy::{
    Distributed, ExtensionAction, ExtensionSend, PayloadView, PrivateArguments, PrivateSend,
    StoredSend, TransactionParts,
};
use crate::waiters::Included;
use crate::{PrivacyError, RpcError};

pub(super) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    method(module, "eth_sendRawPrivateTransaction", send_raw)?;
    method(module, "eth_distributePrivateTransaction", distribute)
}

/// A private transaction that the pool has taken.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Hash of the public transaction.
    pub(crate) transaction: B256,
    pub(crate) payload: PayloadHash,
    /// Nodes that were not waited for and have not acknowledged it yet.
    pub(crate) pending: Vec<NodeKey>,
    /// Where it stands, if that was waited for.
    pub(crate) included: Option<Included>,
}

/// What a client wants executed, checked.
struct Draft {
    from: Address,
    nonce: Option<u64>,
    to: Option<Address>,
    data: Bytes,
    gas: Option<u64>,
    form: PublicForm,
    fork: Fork,
    /// The fields that concern the public transaction alone.
    request: TransactionRequest,
}

impl Draft {
    async fn of(
        node: &Node,
        from: Address,
        mut request: TransactionRequest,
        form: PublicForm,
    ) -> Result<Self, RpcError> {
        let refuse = |reason: &str| RpcError::argument("transaction", reason);
        if request.value.is_some_and(|value| !value.is_zero()) {
            return Err(refused(VALUE_REFUSED));
        }
        let chain_id = node.ledger().spec().chain_id();
        if let Some(got) = request.chain_id
            && got != chain_id
        {
            return Err(refuse(&format!(
                "chainId {got} is not this chain's {chain_id}"
            )));
        }
        let blobs = request.blob_versioned_hashes.is_some()
            || request.max_fee_per_blob_gas.is_some()
            || request.sidecar.is_some();
        if blobs || request.authorization_list.is_some() {
            return Err(refuse(
                "a private transaction has no blobs and no authorizations",
            ));
        }
        let types = match form {
            PublicForm::Quorum => 0..=0,
            PublicForm::Marker => 0..=2,
        };
        if let Some(got) = request.transaction_type
            && !types.contains(&got)
        {
            let allowed = match form {
                PublicForm::Quorum => "a private transaction in Quorum's form has type 0",
                PublicForm::Marker => "a privacy marker has type 0, 1 or 2",
            };
            return Err(refuse(allowed));
        }
        let input = std::mem::take(&mut request.input);
        let data = input
            .try_into_unique_input()
            .map_err(|e| refuse(&e.to_string()))?
            .unwrap_or_default();
        if data.is_empty() {
            return Err(refuse("a private transaction must have data"));
        }
        // What it touches is decided by the private execution; of an access list there remains the type.
        request.access_list = (request.transaction_type == Some(1)).then(Default::default);
        request.chain_id = Some(chain_id);
        let fork = next_fork(node).await?;
        fill_fees(&mut request, fork, node.ctx.config.gas_price);
        let draft = Self {
            from,
            nonce: request.nonce,
            to: request.to.take().and_then(TxKind::into_to),
            data,
            gas: request.gas.take(),
            form,
            fork,
            request,
        };
        if form == PublicForm::Marker {
            // What cannot become a transaction must not be distributed.
            draft.marker(0, Bytes::new())?;
        }
        Ok(draft)
    }

    /// What GASPRICE will say. The base fee is zero.
    fn gas_price(&self) -> u128 {
        let request = &self.request;
        let cap = request.max_fee_per_gas.unwrap_or_default();
        let tip = request.max_priority_fee_per_gas.unwrap_or(cap);
        request.gas_price.unwrap_or_else(|| cap.min(tip))
    }

    /// The most that the public transaction may pay per gas.
    fn price_cap(&self) -> u128 {
        let request = &self.request;
        let cap = request.gas_price.or(request.max_fee_per_gas);
        cap.unwrap_or_default()
    }

    /// The gas limit of the private execution: the client's, or what it needs as things are.
    async fn gas_limit(&self, node: &Node) -> Result<u64, RpcError> {
        let Some(gas) = self.gas else {
            let request = TransactionRequest {
                from: Some(self.from),
                to: Some(self.to.map_or(TxKind::Create, TxKind::Call)),
                input: TransactionInput::new(self.data.clone()),
                gas_price: self.request.gas_price,
                ..TransactionRequest::default()
            };
            let settings = CallSettings::capped(node.ctx.config.call_gas_max);
            let latest = BlockId::Number(BlockNumberOrTag::Latest);
            return estimate_private(node, latest, request, settings).await;
        };
        // Zeros cost the least: what does not suffice for them suffices for no payload.
        let required = self.carrier_gas(&[0; PAYLOAD_HASH_BYTES]);
        if gas < required {
            return Err(InvalidTransaction::IntrinsicGas { got: gas, required }.into());
        }
        Ok(gas)
    }

    /// What a transaction to the same recipient with this data needs before its first instruction.
    fn carrier_gas(&self, data: &[u8]) -> u64 {
        gas_before_execution(
            self.fork,
            self.to.map_or(TxKind::Create, TxKind::Call),
            data,
        )
    }

    /// The public transaction, signed.
    fn sign(
        &self,
        node: &Node,
        nonce: u64,
        gas_limit: u64,
        payload: &Distributed,
    ) -> Result<Transaction, RpcError> {
        match self.form {
            PublicForm::Quorum => self.sign_quorum(node, nonce, gas_limit, &payload.hash),
            PublicForm::Marker => {
                sign_typed(node, self.from, self.marker(nonce, carried(payload)?)?)
            }
        }
    }

    /// The marker without a signature.
    fn marker(&self, nonce: u64, data: Bytes) -> Result<TypedTransaction, RpcError> {
        let to = TxKind::Call(PRIVACY_PRECOMPILE);
        let request = TransactionRequest {
            to: Some(to),
            gas: Some(gas_before_execution(self.fork, to, &data)),
            nonce: Some(nonce),
            input: TransactionInput::new(data),
            ..self.request.clone()
        };
        request.build_typed_tx().map_err(|_| {
            let reason = "its fields do not make up one type of transaction";
            RpcError::argument("transaction", reason)
        })
    }

    fn sign_quorum(
        &self,
        node: &Node,
        nonce: u64,
        gas_limit: u64,
        hash: &PayloadHash,
    ) -> Result<Transaction, RpcError> {
        let tx = self.quorum(nonce, gas_limit, hash);
        let signature = node
            .ctx
            .signer
            .sign_hash(self.from, quorum_private_hash(&tx))?;
        quorum_private_transaction(tx, signature).map_err(RpcError::internal)
    }

    fn quorum(&self, nonce: u64, gas_limit: u64, hash: &PayloadHash) -> TxLegacy {
        TxLegacy {
            chain_id: None,
            nonce,
            gas_price: self.price_cap(),
            gas_limit,
            to: self.to.map_or(TxKind::Create, TxKind::Call),
            value: U256::ZERO,
            input: Bytes::copy_from_slice(hash.as_bytes()),
        }
    }
}

fn refused(reason: &str) -> RpcError {
    PrivacyError::Refused {
        reason: reason.into(),
    }
    .into()
}

fn gas_before_execution(fork: Fork, to: TxKind, data: &[u8]) -> u64 {
    let tx = TxLegacy {
        to,
        input: Bytes::copy_from_slice(data),
        ..TxLegacy::default()
    };
    intrinsic_gas(fork, &tx)
}

/// Distributes a payload and sends the public transaction that this node signs for it. With `wait`, until that is in a block.
pub(crate) async fn send(
    node: &Arc<Node>,
    request: TransactionRequest,
    arguments: PrivateArguments,
    form: Option<PublicForm>,
    wait: Option<Duration>,
) -> Result<Sent, RpcError> {
    let started = Instant::now();
    let privacy = Arc::clone(node.privacy()?);
    let form = form.unwrap_or_else(|| privacy.settings().form);
    let from = sender(node, &request)?;
    let _place = place(node)?;
    let draft = Draft::of(node, from, request, form).await?;
    let gas_limit = draft.gas_limit(node).await?;

    let address_matters = draft.to.is_none() && arguments.privacy_flag != PrivacyFlag::Standard;
    let mut held = match draft.nonce {
        None if address_matters => Some(turn(node, from).await),
        _ => None,
    };
    let guess = match draft.nonce {
        Some(nonce) => nonce,
        None => pending_nonce(node, &from)?,
    };
    let distributed = privacy
        .distribute(PrivateSend {
            from,
            nonce: guess,
            to: draft.to,
            data: draft.data.clone(),
            gas_limit,
            gas_price: draft.gas_price(),
            arguments,
            form,
        })
        .await?;
    let nonce = if draft.nonce.is_some() || held.is_some() {
        guess
    } else {
        held = Some(turn(node, from).await);
        pending_nonce(node, &from)?
    };
    let tx = draft.sign(node, nonce, gas_limit, &distributed)?;
    let submission = Submission {
        node,
        raw: tx.encoded_2718().into(),
        distributed,
        started,
        wait,
    };
    submission.finish(held).await
}

/// What is left to do once the payload is where it has to be.
struct Submission<'a> {
    node: &'a Node,
    raw: Bytes,
    distributed: Distributed,
    started: Instant,
    wait: Option<Duration>,
}

impl Submission<'_> {
    /// Gives the transaction to the pool, then lets the next one of the account choose its nonce.
    async fn finish(
        self,
        turn: Option<tokio::sync::OwnedMutexGuard<()>>,
    ) -> Result<Sent, RpcError> {
        let Self {
            node,
            raw,
            distributed,
            started,
            wait,
        } = self;
        // The waiter is there before the block can be.
        let waiter = match wait {
            Some(_) => Some(node.waiters.register(keccak256(&raw))?),
            None => None,
        };
        let transaction = node.submit(raw).await?;
        drop(turn);
        let included = match (waiter, wait) {
            (Some(waiter), Some(wait)) => Some(
                node.included_within(transaction, waiter, started, wait)
                    .await?,
            ),
            _ => None,
        };
        Ok(Sent {
            transaction,
            payload: distributed.hash,
            pending: distributed.pending,
            included,
        })
    }
}

fn place(node: &Node) -> Result<tokio::sync::SemaphorePermit<'_>, RpcError> {
    node.private_sends.try_acquire().map_err(|_| {
        metrics::counter!("quorate_rpc_refused_total", "limit" => "private_sends_max").increment(1);
        RpcError::Busy {
            what: "too many private transactions are being distributed",
        }
    })
}

/// Delivers the stored payload of a transaction that the client signed, and sends the transaction.
pub(crate) async fn send_signed(
    node: &Arc<Node>,
    raw: Bytes,
    arguments: PrivateArguments,
    wait: Option<Duration>,
) -> Result<Sent, RpcError> {
    let started = Instant::now();
    let privacy = Arc::clone(node.privacy()?);
    let _place = place(node)?;
    let (tx, hash) = quorum_form(&raw)?;
    validate_static(next_fork(node).await?, &tx)?;
    let recovered = RecoveredTransaction::recover(tx).map_err(AdmitError::NotATransaction)?;
    let from = recovered.sender();
    // Known refusals come before anyone is bothered with the payload.
    let next = node.ledger().latest_state().account(&from)?;
    let (got, next) = (recovered.nonce(), next.unwrap_or_default().nonce);
    if got < next {
        return Err(node.judge(AdmitError::NonceTooLow { got, next }, &raw));
    }
    let tx = recovered.transaction();
    let distributed = privacy
        .distribute_stored(StoredSend {
            hash,
            transaction: Some(TransactionParts {
                from,
                nonce: got,
                to: tx.to(),
                gas_limit: tx.gas_limit(),
                gas_price: tx.max_fee_per_gas(),
            }),
            arguments,
        })
        .await?;
    let submission = Submission {
        node,
        raw,
        distributed,
        started,
        wait,
    };
    submission.finish(None).await
}

/// A signed transaction in Quorum's form, and the payload that it names.
fn quorum_form(raw: &[u8]) -> Result<(Transaction, PayloadHash), RpcError> {
    let tx = decode_transaction(raw).map_err(AdmitError::NotATransaction)?;
    let Some(legacy) = tx.as_legacy().filter(|_| is_quorum_private(&tx)) else {
        return Err(refused("transaction is not private"));
    };
    let hash = check_quorum_form(legacy.tx()).map_err(InvalidTransaction::from)?;
    let hash = PayloadHash::from_bytes(hash);
    Ok((tx, hash))
}

/// Whether a transaction in Quorum's form may be sent as if it were public, as Tessera's users do after `/send`: only if this node has
/// sent its payload. That of anybody else would be nothing to anyone, for ever.
pub(crate) async fn check_sent(node: &Node, raw: &[u8]) -> Result<(), RpcError> {
    // What cannot be private was signed for Ethereum's main network: chain id 1 gives the same v.
    let Ok((_, hash)) = quorum_form(raw) else {
        let expected = node.ledger().spec().chain_id();
        let got = Some(1);
        return Err(AdmitError::Rules(InvalidTransaction::WrongChainId { got, expected }).into());
    };
    let Some(privacy) = &node.ctx.privacy else {
        return Err(RpcError::PrivateForm);
    };
    match privacy.payload(hash).await? {
        // One that was only stored is known to nobody else: its recipients are still to be named.
        PayloadView::Party(payload)
            if payload.we_sent && payload.parties.len() > payload.managed_parties.len() =>
        {
            Ok(())
        }
        PayloadView::Party(_)
        | PayloadView::NotAParty
        | PayloadView::Erased(_)
        | PayloadView::Missing => Err(RpcError::PrivateForm),
    }
}

async fn send_raw(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let (raw, arguments) = raw_and_arguments(&mut args)?;
    args.end()?;
    json(&send_signed(&node, raw, arguments, None).await?.transaction)
}

/// Quorum's way to hide everything of a private transaction: the whole signed one is a payload, and the client sends the marker.
async fn distribute(node: Arc<Node>, mut args: Args) -> Result<Json, RpcError> {
    let (raw, arguments) = raw_and_arguments(&mut args)?;
    args.end()?;
    let privacy = Arc::clone(node.privacy()?);
    let _place = place(&node)?;
    quorum_form(&raw)?;
    let distributed = privacy.distribute_signed(raw, arguments).await?;
    json(&distributed.hash.to_string())
}

fn raw_and_arguments(args: &mut Args) -> Result<(Bytes, PrivateArguments), RpcError> {
    let raw: Bytes = args.required("transaction")?;
    let fields: Box<RawValue> = args.required("privateData")?;
    let arguments = PrivateFields::read("privateData", &fields)?.required()?;
    Ok((raw, arguments))
}

/// A transaction in Quorum's form, without a signature. Its payload is stored here, for this node alone.
pub(crate) async fn filled(
    node: &Node,
    request: TransactionRequest,
    arguments: PrivateArguments,
) -> Result<TxLegacy, RpcError> {
    let (draft, nonce, gas_limit, hash) = stored(node, request, arguments).await?;
    Ok(draft.quorum(nonce, gas_limit, &hash))
}

/// The same, signed by this node. It is to be sent with `eth_sendRawPrivateTransaction`.
pub(crate) async fn signed(
    node: &Node,
    request: TransactionRequest,
    arguments: PrivateArguments,
) -> Result<Transaction, RpcError> {
    let (draft, nonce, gas_limit, hash) = stored(node, request, arguments).await?;
    draft.sign_quorum(node, nonce, gas_limit, &hash)
}

/// Stores the payload of a request. Data of 64 bytes under whose hash this node holds a payload is that hash: clients of Quorum
/// store the payload first and then ask for a signature.
async fn stored(
    node: &Node,
    request: TransactionRequest,
    arguments: PrivateArguments,
) -> Result<(Draft, u64, u64, PayloadHash), RpcError> {
    let privacy = Arc::clone(node.privacy()?);
    let from = request
        .from
        .ok_or_else(|| RpcError::argument("transaction", "from is missing"))?;
    let mut draft = Draft::of(node, from, request, PublicForm::Quorum).await?;
    let mut known = None;
    if let Ok(hash) = draft.data.as_ref().try_into() {
        let hash = PayloadHash::from_bytes(hash);
        if let PayloadView::Party(payload) = privacy.payload(hash).await? {
            draft.data = payload.data;
            known = Some(hash);
        }
    }
    let gas_limit = draft.gas_limit(node).await?;
    let nonce = match draft.nonce {
        Some(nonce) => nonce,
        None => pending_nonce(node, &from)?,
    };
    let hash = match known {
        Some(hash) => hash,
        None => {
            let data = draft.data.clone();
            privacy.store_raw(data, arguments.private_from).await?
        }
    };
    Ok((draft, nonce, gas_limit, hash))
}

/// Distributes a step of an extension and sends the marker transaction that this node signs for it, and the address that an offer
/// has thereby. With `wait`, until that is in a block.
pub(crate) async fn send_extension(
    node: &Arc<Node>,
    mut request: TransactionRequest,
    action: ExtensionAction,
    arguments: PrivateArguments,
    wait: Option<Duration>,
) -> Result<(Sent, Address), RpcError> {
    let started = Instant::now();
    let privacy = Arc::clone(node.privacy()?);
    let from = sender(node, &request)?;
    let _place = place(node)?;
    // What the marker carries comes later; a draft must have data.
    request.to = None;
    request.input = TransactionInput::new(Bytes::from_static(&[0]));
    let draft = Draft::of(node, from, request, PublicForm::Marker).await?;
    // The address of an offer comes from the nonce, which is chosen after the parties have it.
    let distributed = privacy
        .distribute_extension(ExtensionSend {
            from,
            action,
            arguments,
        })
        .await?;
    let turn = turn(node, from).await;
    let nonce = match draft.nonce {
        Some(nonce) => nonce,
        None => pending_nonce(node, &from)?,
    };
    let tx = draft.sign(node, nonce, 0, &distributed)?;
    let submission = Submission {
        node,
        raw: tx.encoded_2718().into(),
        distributed,
        started,
        wait,
    };
    let sent = submission.finish(Some(turn)).await?;
    Ok((sent, from.create(nonce)))
}

/// Distributes a step of an extension whose transaction is signed elsewhere, by `from`; and what that transaction carries to the
/// privacy precompile.
pub(crate) async fn distribute_extension(
    node: &Arc<Node>,
    from: Address,
    action: ExtensionAction,
    arguments: PrivateArguments,
) -> Result<(Distributed, Bytes), RpcError> {
    let privacy = Arc::clone(node.privacy()?);
    let _place = place(node)?;
    let distributed = privacy
        .distribute_extension(ExtensionSend {
            from,
            action,
            arguments,
        })
        .await?;
    let data = carried(&distributed)?;
    Ok((distributed, data))
}

/// What a marker carries.
fn carried(payload: &Distributed) -> Result<Bytes, RpcError> {
    marker_data(payload.hash.as_bytes(), &payload.tags)
        .ok_or_else(|| RpcError::internal("a payload has too many tags"))
}
