//! Judging an address before it enters the member table.

use crate::{address::DialAddress, error::AddressError, members::peer_id};

/// Checks that `text` is an address under which the member with this key (compressed secp256k1) can be dialled: a multiaddr
/// or `host:port`. Names are not resolved.
///
/// # Errors
/// [`AddressError`] with what is allowed.
pub fn check_address(text: &str, public_key: &[u8; 33]) -> Result<(), AddressError> {
    let peer = peer_id(public_key).map_err(|_error| AddressError::Malformed {
        address: text.chars().take(64).collect(),
    })?;
    DialAddress::parse(text, &peer).map(drop)
}
