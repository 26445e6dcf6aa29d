//! Deliveries as entries of the key-value store.

use quorate_kv::Batch;

use super::{Delivery, DeliveryState};
use crate::{NodeKey, PayloadHash};

pub(super) const PREFIX: &[u8] = b"eo/";
/// Longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 256;

/// Writes a delivery, and exchanges its entries among the pending ones.
pub(super) fn put(batch: &mut Batch, old: Option<&Delivery>, delivery: &Delivery) {
    if let Some(old) = old {
        remove_pending(batch, old);
    }
    let (hash, node) = (delivery.hash.as_bytes(), delivery.node.as_slice());
    if delivery.state == DeliveryState::Pending {
        let time = delivery.next_at_ms.to_be_bytes();
        batch.put(key(b'q', &[&time, hash, node]), Vec::new());
        batch.put(key(b'n', &[node, hash]), Vec::new());
    }
    let state = match delivery.state {
        DeliveryState::Pending => 0,
        DeliveryState::Acknowledged => 1,
        DeliveryState::Refused => 2,
    };
    let mut value = vec![state, u8::from(delivery.named)];
    value.extend_from_slice(&delivery.attempts.to_be_bytes());
    value.extend_from_slice(&delivery.next_at_ms.to_be_bytes());
    value.extend_from_slice(&delivery.changed_at_ms.to_be_bytes());
    value.extend_from_slice(delivery.reason.as_bytes());
    batch.put(key(b'd', &[hash, node]), value);
}

pub(super) fn remove_pending(batch: &mut Batch, old: &Delivery) {
    if old.state == DeliveryState::Pending {
        let (hash, node) = (old.hash.as_bytes(), old.node.as_slice());
        let time = old.next_at_ms.to_be_bytes();
        batch.delete(key(b'q', &[&time, hash, node]));
        batch.delete(key(b'n', &[node, hash]));
    }
}

pub(super) fn decode(hash: PayloadHash, node: NodeKey, value: &[u8]) -> Option<Delivery> {
    let ([state, named], rest) = value.split_first_chunk::<2>()?;
    let (attempts, rest) = rest.split_first_chunk::<4>()?;
    let (next_at, rest) = rest.split_first_chunk::<8>()?;
    let (changed_at, reason) = rest.split_first_chunk::<8>()?;
    Some(Delivery {
        hash,
        node,
        state: match state {
            0 => DeliveryState::Pending,
            1 => DeliveryState::Acknowledged,
            2 => DeliveryState::Refused,
            _ => return None,
        },
        named: *named == 1,
        attempts: u32::from_be_bytes(*attempts),
        next_at_ms: u64::from_be_bytes(*next_at),
        changed_at_ms: u64::from_be_bytes(*changed_at),
        reason: String::from_utf8(reason.to_vec()).ok()?,
    })
}

pub(super) fn split_name(name: &[u8]) -> Option<(PayloadHash, NodeKey)> {
    let (hash, node) = name.split_first_chunk::<64>()?;
    let node: [u8; 33] = node.try_into().ok()?;
    Some((PayloadHash::from_bytes(*hash), NodeKey::from(node)))
}

/// The reason, cut at the limit between two characters.
pub(super) fn shortened(reason: &str) -> String {
    let mut text = String::new();
    for c in reason.chars() {
        if text.len() + c.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        text.push(c);
    }
    text
}

pub(super) fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = PREFIX.to_vec();
    key.push(tag);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}
