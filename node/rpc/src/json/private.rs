//! Private transactions as Quorum's JSON-RPC has them, and the fields that make a transaction private.
//!
//! The methods are always there. With privacy switched off they say so; reading never does more than that.

mod arguments;
mod extension;
mod payloads;
pub(crate) mod receipts;
pub(crate) mod send;

use jsonrpsee::server::RegisterMethodError;

use super::methods::Module;

pub(crate) use extension::register as register_extension;

pub(crate) use arguments::{
    PARTIES_MAX, PrivateFields, check_acknowledgements, check_flag, check_parties,
};

pub(crate) fn register(module: &mut Module) -> Result<(), RegisterMethodError> {
    send::register(module)?;
    payloads::register(module)?;
    receipts::register(module)
}
