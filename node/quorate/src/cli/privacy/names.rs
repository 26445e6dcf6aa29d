//! How payloads, keys and the like are written on the command line.

use bytes::Bytes;
use std::str::FromStr;

use alloy_primitives::{Address, B256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use quorate_enclave::{GroupId, PublicKey};

/// A payload: 0x and 128 hexadecimal digits, or base64, standard or URL-safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadName([u8; 64]);

impl PayloadName {
    /// Its hash.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_ref())
    }
}

impl FromStr for PayloadName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            "is no payload hash: write it as 0x and 128 hexadecimal digits, or in base64".to_owned()
        };
        let text = text.trim();
        let bytes = match text.strip_prefix("0x") {
            Some(digits) => hex::decode(digits).ok(),
            None if text.len() == 128 => hex::decode(text).ok(),
            None => {
                let standard = text.replace('-', "+").replace('_', "/");
                STANDARD_NO_PAD.decode(standard.trim_end_matches('=')).ok()
            }
        };
        let bytes = bytes.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(refused)
    }
}

/// A transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionHash(B256);

impl TransactionHash {
    /// Its hash.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_ref())
    }
}

impl FromStr for TransactionHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash = text.trim().parse();
        hash.map(Self)
            .map_err(|_| "is no transaction hash: write it as 0x and 64 hexadecimal digits".into())
    }
}

/// A contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountAddress(Address);

impl AccountAddress {
    /// Its address.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_ref())
    }
}

impl FromStr for AccountAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.trim().parse();
        address
            .map(Self)
            .map_err(|_| "is no address: write it as 0x and 40 hexadecimal digits".into())
    }
}

/// A party's key in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyKey(PublicKey);

impl PartyKey {
    /// Its bytes.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl FromStr for PartyKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.trim().parse();
        key.map(Self).map_err(|_| {
            "is no key: write it as 44 characters of base64, as quorate privacy keys prints it"
                .into()
        })
    }
}

/// A group's id in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupName(GroupId);

impl GroupName {
    /// Its bytes.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.trim().parse();
        id.map(Self)
            .map_err(|_| "is no group id: quorate privacy group list prints them".into())
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn a_payload_is_named_in_hex_or_base64() {
        let hash = [0xfb; 64];
        let digits = hex::encode(hash);
        for text in [
            format!("0x{digits}"),
            digits,
            STANDARD.encode(hash),
            URL_SAFE_NO_PAD.encode(hash),
        ] {
            assert_eq!(text.parse::<PayloadName>(), Ok(PayloadName(hash)), "{text}");
        }
        for text in ["", "0x", "0x12", "AAAA", "no hash at all"] {
            let refused = text.parse::<PayloadName>().unwrap_err();
            assert!(refused.contains("128"), "{text}");
        }
    }
}
