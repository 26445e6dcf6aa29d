//! Values of vectors. Numbers are hexadecimal text of any length, with or without leading zeros.

use alloy_primitives::{Address, B256, Bytes, U256};
use quorate_chain::Fork;
use serde_json::Value;

/// The text of a field.
pub fn text<'a>(parent: &'a Value, field: &str) -> Result<&'a str, String> {
    parent
        .get(field)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("{field}: no text"))
}

/// Bytes in hexadecimal.
pub fn bytes(digits: &str) -> Result<Bytes, String> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    hex::decode(digits)
        .map(Bytes::from)
        .map_err(|e| format!("{digits}: {e}"))
}

/// A number of up to 256 bits.
pub fn number(digits: &str) -> Result<U256, String> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    if digits.is_empty() {
        return Ok(U256::ZERO);
    }
    U256::from_str_radix(digits, 16).map_err(|e| format!("{digits}: {e}"))
}

/// A number in a field, or `None` if there is no such field.
pub fn optional(parent: &Value, field: &str) -> Result<Option<U256>, String> {
    match parent.get(field).and_then(Value::as_str) {
        Some(digits) => number(digits)
            .map(Some)
            .map_err(|e| format!("{field}: {e}")),
        None => Ok(None),
    }
}

/// A number in a field.
pub fn required(parent: &Value, field: &str) -> Result<U256, String> {
    optional(parent, field)?.ok_or_else(|| format!("{field}: missing"))
}

/// An address.
pub fn address(digits: &str) -> Result<Address, String> {
    digits.parse().map_err(|e| format!("{digits}: {e}"))
}

/// A hash.
pub fn hash(digits: &str) -> Result<B256, String> {
    digits.parse().map_err(|e| format!("{digits}: {e}"))
}

/// The fork that the vectors call so; `None` for one that we do not have.
pub fn fork(name: &str) -> Option<Fork> {
    Some(match name {
        "Frontier" => Fork::Frontier,
        "Homestead" => Fork::Homestead,
        "EIP150" => Fork::Tangerine,
        "EIP158" => Fork::SpuriousDragon,
        "Byzantium" => Fork::Byzantium,
        "Constantinople" => Fork::Constantinople,
        "ConstantinopleFix" => Fork::Petersburg,
        "Istanbul" => Fork::Istanbul,
        "Berlin" => Fork::Berlin,
        "London" => Fork::London,
        "Merge" | "Paris" => Fork::Paris,
        "Shanghai" => Fork::Shanghai,
        "Cancun" => Fork::Cancun,
        "Prague" => Fork::Prague,
        "Osaka" => Fork::Osaka,
        _ => return None,
    })
}
