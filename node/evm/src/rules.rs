//! What can be said about a transaction without looking at the state.

use alloy_consensus::{Signed, Transaction as _, TxLegacy, Typed2718 as _};
use quorate_chain::{ChainSpec, Fork, Transaction, check_quorum_form, is_quorum_private};
use revm::context_interface::cfg::GasParams;

use crate::InvalidTransaction;
use crate::environment::spec_id;

/// Most bytes of code that creates a contract, from Shanghai on (EIP-3860).
pub const INIT_CODE_BYTES_MAX: usize = 2 * 24_576;

/// Most gas of one transaction, from Osaka on (EIP-7825).
pub const TRANSACTION_GAS_MAX: u64 = 1 << 24;

/// The gas that is due before the first instruction: base cost, data, access list, authorizations, and at least the floor of
/// EIP-7623. A transaction whose gas limit is below it is invalid.
pub fn intrinsic_gas(fork: Fork, tx: &impl alloy_consensus::Transaction) -> u64 {
    let (addresses, slots) = tx.access_list().map_or((0, 0), |list| {
        list.iter().fold((0u64, 0u64), |(addresses, slots), item| {
            (addresses + 1, slots + item.storage_keys.len() as u64)
        })
    });
    let authorizations = tx.authorization_list().map_or(0, |list| list.len() as u64);
    let gas = GasParams::new_spec(spec_id(fork)).initial_tx_gas(
        tx.input(),
        tx.is_create(),
        addresses,
        slots,
        authorizations,
        None,
    );
    gas.initial_total_gas().max(gas.floor_gas())
}

/// The transaction if it is a private one in Quorum's form. Ethereum's own chain id has the same mark, and its transactions are
/// public: no consortium has it, but Ethereum's vectors do.
pub(crate) fn quorum_form<'a>(spec: &ChainSpec, tx: &'a Transaction) -> Option<&'a TxLegacy> {
    (spec.chain_id() != 1 && is_quorum_private(tx))
        .then(|| tx.as_legacy())
        .flatten()
        .map(Signed::tx)
}

/// Checks everything that depends on the transaction and the fork alone: what a pool can refuse at the door. Chain id, signature
/// and state are not looked at. A legacy transaction with `v` 37 or 38 is a private one in Quorum's form, with the value and the
/// data that belong to it.
///
/// # Errors
/// [`InvalidTransaction`] with what is allowed.
pub fn validate_static(fork: Fork, tx: &Transaction) -> Result<(), InvalidTransaction> {
    if is_quorum_private(tx)
        && let Some(signed) = tx.as_legacy()
    {
        check_quorum_form(signed.tx())?;
    }
    validate_public(fork, tx)
}

/// As [`validate_static`], for a chain that knows no private transactions: Ethereum's own, to which a `v` of 37 or 38 belongs, and
/// whose vectors run through here.
///
/// # Errors
/// [`InvalidTransaction`] with what is allowed.
pub fn validate_public(fork: Fork, tx: &Transaction) -> Result<(), InvalidTransaction> {
    let tx_type = tx.ty();
    let since = match tx {
        Transaction::Legacy(_) => Fork::Frontier,
        Transaction::Eip2930(_) => Fork::Berlin,
        Transaction::Eip1559(_) => Fork::London,
        Transaction::Eip4844(_) => return Err(InvalidTransaction::BlobsRefused),
        Transaction::Eip7702(_) => Fork::Prague,
    };
    if fork < since {
        return Err(InvalidTransaction::TypeNotSupported { tx_type, fork });
    }
    if tx.nonce() == u64::MAX {
        return Err(InvalidTransaction::NonceOverflow { got: tx.nonce() });
    }
    let fee_cap = tx.max_fee_per_gas();
    if let Some(tip) = tx.max_priority_fee_per_gas()
        && tip > fee_cap
    {
        return Err(InvalidTransaction::TipAboveFeeCap { tip, fee_cap });
    }
    if tx.authorization_list().is_some_and(<[_]>::is_empty) {
        return Err(InvalidTransaction::EmptyAuthorizationList);
    }
    let bytes = tx.input().len();
    if fork >= Fork::Shanghai && tx.is_create() && bytes > INIT_CODE_BYTES_MAX {
        return Err(InvalidTransaction::InitCodeTooLarge {
            got: bytes,
            max: INIT_CODE_BYTES_MAX,
        });
    }
    let got = tx.gas_limit();
    if fork >= Fork::Osaka && got > TRANSACTION_GAS_MAX {
        return Err(InvalidTransaction::GasLimitAboveCap {
            got,
            max: TRANSACTION_GAS_MAX,
        });
    }
    let required = intrinsic_gas(fork, tx);
    if got < required {
        return Err(InvalidTransaction::IntrinsicGas { got, required });
    }
    Ok(())
}
