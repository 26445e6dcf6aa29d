//! Our types into revm's, and revm's refusals into ours.

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, U256};
use quorate_chain::{ChainSpec, Fork, RecoveredTransaction};
use quorate_state::{ReadError, StateRead};
use revm::MainContext as _;
use revm::context::either::Either;
use revm::context::result::{EVMError, InvalidTransaction as Refusal};
use revm::context::{BlockEnv, CfgEnv, Context, FrameStack, Journal, TxEnv};
use revm::context_interface::block::BlobExcessGasAndPrice;
use revm::handler::instructions::EthInstructions;
use revm::handler::{EthPrecompiles, MainnetContext, MainnetEvm};
use revm::primitives::hardfork::SpecId;

use crate::block_state::{BlockState, ReadFailed};
use crate::{BlockContext, InvalidTransaction};

/// The EVM over the state of a block.
pub(crate) type Evm<'a, S> = MainnetEvm<MainnetContext<BlockState<'a, S>>>;

/// What revm says when a transaction has no result.
pub(crate) type EvmFailure = EVMError<ReadFailed, Refusal>;

/// The rule set of revm.
pub(crate) fn spec_id(fork: Fork) -> SpecId {
    match fork {
        Fork::Frontier => SpecId::FRONTIER,
        Fork::Homestead => SpecId::HOMESTEAD,
        Fork::Tangerine => SpecId::TANGERINE,
        Fork::SpuriousDragon => SpecId::SPURIOUS_DRAGON,
        Fork::Byzantium => SpecId::BYZANTIUM,
        // revm does not know EIP-1283.
        Fork::Constantinople | Fork::Petersburg => SpecId::PETERSBURG,
        Fork::Istanbul => SpecId::ISTANBUL,
        Fork::Berlin => SpecId::BERLIN,
        Fork::London => SpecId::LONDON,
        Fork::Paris => SpecId::MERGE,
        Fork::Shanghai => SpecId::SHANGHAI,
        Fork::Cancun => SpecId::CANCUN,
        Fork::Prague => SpecId::PRAGUE,
        Fork::Osaka => SpecId::OSAKA,
    }
}

/// Most blobs of one transaction: 6 by EIP-4844, 9 by EIP-7691, 6 by EIP-7594.
fn blobs_max(fork: Fork) -> u64 {
    if fork == Fork::Prague { 9 } else { 6 }
}

/// An EVM under the plain rules of the fork.
pub(crate) fn evm<'a, S: StateRead + ?Sized>(
    spec: &ChainSpec,
    fork: Fork,
    context: &BlockContext,
    state: BlockState<'a, S>,
) -> Evm<'a, S> {
    let mut cfg = CfgEnv::new_with_spec(spec_id(fork)).with_chain_id(spec.chain_id());
    cfg.set_max_blobs_per_tx(blobs_max(fork));
    let base: Context<BlockEnv, TxEnv, CfgEnv, _, Journal<_>, ()> = Context::mainnet();
    let spec = spec_id(fork);
    // As `build_mainnet` does it, but for frames made in advance: private transactions have an EVM each, and seldom a second frame.
    Evm {
        ctx: base
            .with_db(state)
            .with_cfg(cfg)
            .with_block(block_env(fork, context)),
        inspector: (),
        instruction: EthInstructions::new_mainnet_with_spec(spec),
        precompiles: EthPrecompiles::new(spec),
        frame_stack: FrameStack::new(),
    }
}

fn block_env(fork: Fork, context: &BlockContext) -> BlockEnv {
    let merged = fork >= Fork::Paris;
    BlockEnv {
        number: U256::from(context.height),
        beneficiary: context.coinbase,
        timestamp: U256::from(context.timestamp),
        gas_limit: context.gas_limit,
        basefee: context.base_fee,
        difficulty: if merged {
            U256::ZERO
        } else {
            context.prevrandao.into()
        },
        prevrandao: merged.then_some(context.prevrandao),
        blob_excess_gas_and_price: (fork >= Fork::Cancun)
            .then(|| BlobExcessGasAndPrice::new_with_spec(context.excess_blob_gas, spec_id(fork))),
        slot_num: 0,
    }
}

/// A signed transaction as revm takes it.
pub(crate) fn tx_env(tx: &RecoveredTransaction) -> TxEnv {
    let sender = tx.sender();
    let tx = tx.transaction();
    TxEnv {
        tx_type: tx.ty(),
        caller: sender,
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx
            .access_list()
            .map_or_else(AccessList::default, AccessList::clone),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        blob_hashes: tx.blob_versioned_hashes().unwrap_or_default().to_vec(),
        max_fee_per_blob_gas: tx.max_fee_per_blob_gas().unwrap_or_default(),
        authorization_list: tx
            .authorization_list()
            .unwrap_or_default()
            .iter()
            .map(|authorization| Either::Left(authorization.clone()))
            .collect(),
    }
}

/// What a refusal of revm is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) fork: Fork,
    pub(crate) chain_id: u64,
    pub(crate) base_fee: u64,
    pub(crate) block_gas_limit: u64,
    pub(crate) sender: Address,
    pub(crate) tx_type: u8,
    pub(crate) nonce: u64,
    pub(crate) gas_limit: u64,
    pub(crate) fee_cap: u128,
    pub(crate) tip: u128,
    pub(crate) init_code_bytes: usize,
    pub(crate) tx_chain_id: Option<u64>,
}

impl Refused {
    pub(crate) fn new(spec: &ChainSpec, fork: Fork, context: &BlockContext, tx: &TxEnv) -> Self {
        Self {
            fork,
            chain_id: spec.chain_id(),
            base_fee: context.base_fee,
            block_gas_limit: context.gas_limit,
            sender: tx.caller,
            tx_type: tx.tx_type,
            nonce: tx.nonce,
            gas_limit: tx.gas_limit,
            fee_cap: tx.gas_price,
            tip: tx.gas_priority_fee.unwrap_or_default(),
            init_code_bytes: tx.data.len(),
            tx_chain_id: tx.chain_id,
        }
    }

    /// Our name for a refusal of revm.
    pub(crate) fn explain(self, refusal: Refusal) -> Result<InvalidTransaction, String> {
        let unsupported = InvalidTransaction::TypeNotSupported {
            tx_type: self.tx_type,
            fork: self.fork,
        };
        Ok(match refusal {
            Refusal::NonceTooLow { tx, state } => InvalidTransaction::NonceTooLow {
                got: tx,
                expected: state,
            },
            Refusal::NonceTooHigh { tx, state } => InvalidTransaction::NonceTooHigh {
                got: tx,
                expected: state,
            },
            Refusal::NonceOverflowInTransaction => {
                InvalidTransaction::NonceOverflow { got: self.nonce }
            }
            Refusal::LackOfFundForMaxFee { fee, balance } => {
                InvalidTransaction::InsufficientFunds {
                    balance: *balance,
                    cost: *fee,
                }
            }
            Refusal::OverflowPaymentInTransaction => InvalidTransaction::CostOverflow,
            Refusal::CallerGasLimitMoreThanBlock => InvalidTransaction::GasLimitAboveBlock {
                got: self.gas_limit,
                max: self.block_gas_limit,
            },
            Refusal::TxGasLimitGreaterThanCap { gas_limit, cap } => {
                InvalidTransaction::GasLimitAboveCap {
                    got: gas_limit,
                    max: cap,
                }
            }
            Refusal::CallGasCostMoreThanGasLimit {
                initial_gas: required,
                gas_limit: got,
            }
            | Refusal::GasFloorMoreThanGasLimit {
                gas_floor: required,
                gas_limit: got,
            } => InvalidTransaction::IntrinsicGas { got, required },
            Refusal::GasPriceLessThanBasefee => InvalidTransaction::FeeCapBelowBaseFee {
                got: self.fee_cap,
                base_fee: self.base_fee,
            },
            Refusal::PriorityFeeGreaterThanMaxFee => InvalidTransaction::TipAboveFeeCap {
                tip: self.tip,
                fee_cap: self.fee_cap,
            },
            Refusal::RejectCallerWithCode => InvalidTransaction::SenderHasCode {
                sender: self.sender,
            },
            Refusal::CreateInitCodeSizeLimit => InvalidTransaction::InitCodeTooLarge {
                got: self.init_code_bytes,
                max: crate::INIT_CODE_BYTES_MAX,
            },
            Refusal::InvalidChainId | Refusal::MissingChainId => InvalidTransaction::WrongChainId {
                got: self.tx_chain_id,
                expected: self.chain_id,
            },
            Refusal::BlobGasPriceGreaterThanMax {
                block_blob_gas_price,
                tx_max_fee_per_blob_gas,
            } => InvalidTransaction::BlobFeeCapTooLow {
                got: tx_max_fee_per_blob_gas,
                price: block_blob_gas_price,
            },
            Refusal::EmptyBlobs => InvalidTransaction::NoBlobs,
            Refusal::TooManyBlobs { max, have } => {
                InvalidTransaction::TooManyBlobs { got: have, max }
            }
            Refusal::BlobVersionNotSupported => InvalidTransaction::BlobVersion,
            Refusal::BlobCreateTransaction => InvalidTransaction::RecipientMissing {
                tx_type: self.tx_type,
            },
            Refusal::EmptyAuthorizationList => InvalidTransaction::EmptyAuthorizationList,
            Refusal::Eip2930NotSupported
            | Refusal::Eip1559NotSupported
            | Refusal::Eip4844NotSupported
            | Refusal::Eip7702NotSupported
            | Refusal::Eip7873NotSupported
            | Refusal::Eip7873MissingTarget
            | Refusal::AccessListNotSupported
            | Refusal::MaxFeePerBlobGasNotSupported
            | Refusal::BlobVersionedHashesNotSupported
            | Refusal::AuthorizationListNotSupported
            | Refusal::AuthorizationListInvalidFields => unsupported,
            Refusal::Str(reason) => return Err(reason.into_owned()),
        })
    }
}

/// A failure of the EVM, sorted by whose doing it is.
#[derive(Debug)]
pub(crate) enum Failure {
    Invalid(InvalidTransaction),
    State(ReadError),
    Internal(String),
}

impl Failure {
    pub(crate) fn of(failure: EvmFailure, refused: Refused) -> Self {
        match failure {
            EVMError::Transaction(refusal) => match refused.explain(refusal) {
                Ok(invalid) => Self::Invalid(invalid),
                Err(reason) => Self::Internal(reason),
            },
            EVMError::Database(ReadFailed(error)) => Self::State(error),
            EVMError::Header(error) => Self::Internal(error.to_string()),
            EVMError::Custom(reason) => Self::Internal(reason),
            EVMError::CustomAny(error) => Self::Internal(error.to_string()),
        }
    }
}
