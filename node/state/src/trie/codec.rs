//! Node encoding: RLP with hex-prefix keys (yellow paper, appendices B, C and D).
//!
//! alloy-trie has encoders for the tries that blocks use. This one also takes branches with a value and children
//! embedded in their parent, which occur where keys differ in length or values are short.

use alloy_primitives::B256;
use alloy_rlp::{BufMut, EMPTY_STRING_CODE, Encodable, Header};
use alloy_trie::Nibbles;
use alloy_trie::nodes::{RlpNode, encode_path_leaf};

use super::node::{Body, Children, Link, Node};

/// Size in bytes of a branch with sixteen hashed children.
pub(super) const BRANCH_SIZE_TYPICAL: usize = 3 + 16 * 33 + 1;

/// Embedded nodes are under 32 bytes and every level takes at least one, so real nodes nest less deep than this.
const DEPTH_MAX: usize = 32;

/// Appends the RLP of a node.
pub(super) fn encode(body: &Body, out: &mut Vec<u8>) {
    match body {
        Body::Leaf { key, value } => {
            let key = encode_path_leaf(key, true);
            let payload_length = key.as_slice().length() + value.as_slice().length();
            Header {
                list: true,
                payload_length,
            }
            .encode(out);
            key.as_slice().encode(out);
            value.as_slice().encode(out);
        }
        Body::Extension { key, child } => {
            let key = encode_path_leaf(key, false);
            let child = child.reference();
            let payload_length = key.as_slice().length() + child.len();
            Header {
                list: true,
                payload_length,
            }
            .encode(out);
            key.as_slice().encode(out);
            out.put_slice(&child);
        }
        Body::Branch { children, value } => {
            let value = value.as_deref().unwrap_or_default();
            let references: [Option<RlpNode>; 16] =
                std::array::from_fn(|n| children[n].as_ref().map(Link::reference));
            let payload_length = references
                .iter()
                .map(|child| child.as_ref().map_or(1, |child| child.len()))
                .sum::<usize>()
                + value.length();
            Header {
                list: true,
                payload_length,
            }
            .encode(out);
            for child in &references {
                match child {
                    Some(child) => out.put_slice(child),
                    None => out.put_u8(EMPTY_STRING_CODE),
                }
            }
            value.encode(out);
        }
    }
}

/// Decodes one node that fills `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<Node, &'static str> {
    decode_at(bytes, 0)
}

fn decode_at(bytes: &[u8], depth: usize) -> Result<Node, &'static str> {
    if depth > DEPTH_MAX {
        return Err("nodes are embedded too deeply");
    }
    let mut buffer = bytes;
    let header = Header::decode(&mut buffer).map_err(|_| "not RLP")?;
    if !header.list || header.payload_length != buffer.len() {
        return Err("not one list");
    }
    let mut items: [&[u8]; 17] = [&[]; 17];
    let mut count = 0;
    while !buffer.is_empty() {
        let slot = items.get_mut(count).ok_or("more than seventeen items")?;
        *slot = take_item(&mut buffer)?;
        count += 1;
    }
    let body = match count {
        2 => {
            let (key, is_leaf) = decode_key(string_payload(items[0])?)?;
            if is_leaf {
                Body::Leaf {
                    key,
                    value: string_payload(items[1])?.to_vec(),
                }
            } else if key.is_empty() {
                return Err("extension without a key");
            } else {
                let child = decode_child(items[1], depth)?.ok_or("extension without a child")?;
                Body::Extension { key, child }
            }
        }
        17 => {
            let mut children: Children = Box::new(std::array::from_fn(|_| None));
            for (child, item) in children.iter_mut().zip(items) {
                *child = decode_child(item, depth)?;
            }
            let value = string_payload(items[16])?;
            Body::Branch {
                children,
                value: (!value.is_empty()).then(|| value.to_vec()),
            }
        }
        _ => return Err("neither two nor seventeen items"),
    };
    Ok(Node::with_reference(body, RlpNode::from_rlp(bytes)))
}

/// Splits the first item, with its header, off `buffer`.
fn take_item<'a>(buffer: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let start = *buffer;
    let header = Header::decode(buffer).map_err(|_| "an item is not RLP")?;
    let rest = buffer
        .get(header.payload_length..)
        .ok_or("an item is cut off")?;
    *buffer = rest;
    start
        .get(..start.len() - rest.len())
        .ok_or("an item is cut off")
}

fn string_payload(mut item: &[u8]) -> Result<&[u8], &'static str> {
    Header::decode_bytes(&mut item, false).map_err(|_| "a string is expected")
}

fn decode_child(item: &[u8], depth: usize) -> Result<Option<Link>, &'static str> {
    match item.first() {
        None => Err("an item is missing"),
        Some(&EMPTY_STRING_CODE) => Ok(None),
        Some(first) if *first >= 0xc0 => Ok(Some(Link::Node(std::sync::Arc::new(decode_at(
            item,
            depth + 1,
        )?)))),
        Some(_) => {
            let hash = string_payload(item)?;
            let hash = B256::try_from(hash).map_err(|_| "a child hash is not 32 bytes")?;
            Ok(Some(Link::stored(hash)))
        }
    }
}

/// Hex-prefix decoding: the nibbles, and true for a leaf.
fn decode_key(bytes: &[u8]) -> Result<(Nibbles, bool), &'static str> {
    let (first, rest) = bytes.split_first().ok_or("a key is empty")?;
    let (flag, odd) = (first >> 4, first & 0x0f);
    if flag > 3 || (flag & 1 == 0 && odd != 0) {
        return Err("a key has an unknown prefix");
    }
    if rest.len() + usize::from(flag & 1) > 32 {
        return Err("a key is over 64 nibbles");
    }
    let mut key = Nibbles::new();
    if flag & 1 == 1 {
        key.push_unchecked(odd);
    }
    key.extend(&Nibbles::unpack(rest));
    Ok((key, flag & 2 != 0))
}
