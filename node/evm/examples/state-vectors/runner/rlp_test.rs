//! RLPTests: values and their encoding, through the codec that blocks and transactions use.

use alloy_primitives::{Bytes, U256};
use alloy_rlp::{Decodable as _, Encodable as _, Header};
use serde_json::Value;

use super::json;

/// Checks one value in both directions, or that bytes are refused.
pub fn check(test: &Value) -> Result<(), String> {
    let bytes = json::bytes(json::text(test, "out")?)?;
    let decoded = decode_all(&bytes);
    match test.get("in").and_then(Value::as_str) {
        Some("INVALID") => {
            decoded.map_or(Ok(()), |_| Err("decoded, expected to be refused".into()))
        }
        Some("VALID") => decoded.map(drop).map_err(|e| e.to_string()),
        _ => {
            let mut encoded = Vec::new();
            encode(test.get("in").ok_or("in: missing")?, &mut encoded)?;
            if encoded != bytes {
                return Err(format!(
                    "encoded as {}, expected {bytes}",
                    Bytes::from(encoded)
                ));
            }
            let mut again = Vec::new();
            decoded.map_err(|e| e.to_string())?.encode(&mut again);
            if again == bytes {
                Ok(())
            } else {
                Err("does not survive decoding".into())
            }
        }
    }
}

enum Item {
    Text(Bytes),
    List(Vec<Item>),
}

impl Item {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => text.encode(out),
            Self::List(items) => {
                let mut payload = Vec::new();
                for item in items {
                    item.encode(&mut payload);
                }
                Header {
                    list: true,
                    payload_length: payload.len(),
                }
                .encode(out);
                out.extend(payload);
            }
        }
    }
}

fn decode_all(bytes: &[u8]) -> alloy_rlp::Result<Item> {
    let mut rest = bytes;
    let item = decode(&mut rest)?;
    if rest.is_empty() {
        Ok(item)
    } else {
        Err(alloy_rlp::Error::UnexpectedLength)
    }
}

fn decode(rest: &mut &[u8]) -> alloy_rlp::Result<Item> {
    let mut ahead = *rest;
    if !Header::decode(&mut ahead)?.list {
        return Ok(Item::Text(Bytes::decode(rest)?));
    }
    let mut payload = Header::decode_bytes(rest, true)?;
    let mut items = Vec::new();
    while !payload.is_empty() {
        items.push(decode(&mut payload)?);
    }
    Ok(Item::List(items))
}

fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Number(number) => number.as_u64().ok_or("in: no natural number")?.encode(out),
        Value::String(text) => match text.strip_prefix('#') {
            Some(digits) => big_endian(digits)?.as_slice().encode(out),
            None => text.as_bytes().encode(out),
        },
        Value::Array(values) => {
            let mut payload = Vec::new();
            for value in values {
                encode(value, &mut payload)?;
            }
            Header {
                list: true,
                payload_length: payload.len(),
            }
            .encode(out);
            out.extend(payload);
        }
        other => return Err(format!("in: {other}")),
    }
    Ok(())
}

/// A decimal number of any length as bytes without leading zeros. One vector has 257 bits.
fn big_endian(digits: &str) -> Result<Vec<u8>, String> {
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.chars() {
        let mut carry = digit.to_digit(10).ok_or_else(|| format!("in: {digits}"))?;
        for byte in &mut bytes {
            let sum = u32::from(*byte) * 10 + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        while carry > 0 {
            bytes.push(carry.to_le_bytes()[0]);
            carry >>= 8;
        }
    }
    bytes.reverse();
    // The codec's own numbers must agree where they reach.
    if bytes.len() <= 32 && U256::from_be_slice(&bytes).to_be_bytes_trimmed_vec() != bytes {
        return Err(format!("in: {digits} has two encodings"));
    }
    Ok(bytes)
}
