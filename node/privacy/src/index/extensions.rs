//! Extensions of contracts to new parties, and states that are to be handed over. Keys are in the page above.
//!
//! What is kept under a vote's transaction is the same however often the vote is executed, so taking blocks back leaves it.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, B512};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use quorate_enclave::{PayloadHash, PublicKey};
use quorate_kv::{Batch, Direction, KeyRange};

use super::{Index, PART_BYTES, codec, contract_key, damaged, put_parts};
use crate::{
    ContractMetadata, Extension, ExtensionState, HandoverHead, HandoverOutcome, IndexError,
};

const VERSION: u8 = 1;

/// Parts of a state that make up one page.
const PAGE_PARTS: u16 = 256;
/// Bytes of every page of a state but the last.
pub(crate) const PAGE_BYTES: usize = PAGE_PARTS as usize * PART_BYTES;

/// What is to be kept under a vote's transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handover {
    pub(crate) transaction: B256,
    pub(crate) head: HandoverHead,
    /// The encoded state; empty if it was refused.
    pub(crate) state: Vec<u8>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct ExtensionWire {
    version: u8,
    id: Address,
    contract: Address,
    newcomer: B256,
    newcomer_account: Address,
    initiator: Address,
    initiator_key: B256,
    parties: Vec<B256>,
    transaction: B256,
    payload: B512,
    offered_at: u64,
    state: u8,
    ended_at: u64,
}

#[derive(RlpEncodable, RlpDecodable)]
struct HeadWire {
    version: u8,
    offer: Address,
    newcomer: B256,
    refused: bool,
    reason: String,
    digest: B256,
    bytes: u32,
}

const STATES: [ExtensionState; 5] = [
    ExtensionState::Active,
    ExtensionState::Done,
    ExtensionState::Declined,
    ExtensionState::Cancelled,
    ExtensionState::Refused,
];

fn word(key: &PublicKey) -> B256 {
    B256::from(*key.as_bytes())
}

fn key_of(word: B256) -> PublicKey {
    PublicKey::from_bytes(word.0)
}

fn encode(extension: &Extension) -> Vec<u8> {
    let state = STATES.iter().position(|state| *state == extension.state);
    alloy_rlp::encode(ExtensionWire {
        version: VERSION,
        id: extension.id,
        contract: extension.contract,
        newcomer: word(&extension.newcomer),
        newcomer_account: extension.newcomer_account,
        initiator: extension.initiator,
        initiator_key: word(&extension.initiator_key),
        parties: extension.parties.iter().map(word).collect(),
        transaction: extension.transaction,
        payload: B512::from(*extension.payload.as_bytes()),
        offered_at: extension.offered_at,
        state: state.and_then(|n| u8::try_from(n).ok()).unwrap_or(u8::MAX),
        ended_at: extension.ended_at.unwrap_or_default(),
    })
}

fn decode(bytes: &[u8]) -> Result<Extension, String> {
    let wire: ExtensionWire = alloy_rlp::decode_exact(bytes).map_err(|e| e.to_string())?;
    if wire.version != VERSION {
        return Err(format!("version is {}", wire.version));
    }
    let state = STATES.get(usize::from(wire.state));
    Ok(Extension {
        id: wire.id,
        contract: wire.contract,
        newcomer: key_of(wire.newcomer),
        newcomer_account: wire.newcomer_account,
        initiator: wire.initiator,
        initiator_key: key_of(wire.initiator_key),
        parties: wire.parties.into_iter().map(key_of).collect(),
        transaction: wire.transaction,
        payload: PayloadHash::from_bytes(wire.payload.0),
        offered_at: wire.offered_at,
        state: *state.ok_or_else(|| format!("state is {}", wire.state))?,
        // No block of a transaction has height 0.
        ended_at: Some(wire.ended_at).filter(|height| *height > 0),
    })
}

fn extension_key(id: &Address) -> Vec<u8> {
    let mut key = b"x".to_vec();
    key.extend_from_slice(id.as_slice());
    key
}

fn by_contract(contract: &Address) -> Vec<u8> {
    let mut key = b"y".to_vec();
    key.extend_from_slice(contract.as_slice());
    key
}

fn by_contract_key(contract: &Address, id: &Address) -> Vec<u8> {
    let mut key = by_contract(contract);
    key.extend_from_slice(id.as_slice());
    key
}

fn handover_key(transaction: &B256) -> Vec<u8> {
    let mut key = b"z".to_vec();
    key.extend_from_slice(transaction.as_slice());
    key
}

pub(super) fn put_extension(batch: &mut Batch, extension: &Extension) -> Result<(), IndexError> {
    let id = &extension.id;
    put_parts(batch, &extension_key(id), &encode(extension))?;
    batch.put(by_contract_key(&extension.contract, id), Vec::new());
    Ok(())
}

pub(super) fn put_handover(batch: &mut Batch, handover: &Handover) -> Result<(), IndexError> {
    let Handover {
        transaction,
        head,
        state,
    } = handover;
    let (refused, reason, digest, bytes) = match &head.outcome {
        HandoverOutcome::Refused { reason } => (true, reason.clone(), B256::ZERO, 0),
        HandoverOutcome::State { digest, bytes } => (false, String::new(), *digest, *bytes),
    };
    let key = handover_key(transaction);
    put_parts(batch, &key, state)?;
    let head = HeadWire {
        version: VERSION,
        offer: head.offer,
        newcomer: word(&head.newcomer),
        refused,
        reason,
        digest,
        bytes,
    };
    batch.put(key, alloy_rlp::encode(head));
    Ok(())
}

impl Index {
    pub(crate) fn extension(&self, id: &Address) -> Result<Option<Extension>, IndexError> {
        let key = extension_key(id);
        match self.parts(&key)? {
            None => Ok(None),
            Some(bytes) => decode(&bytes)
                .map(Some)
                .map_err(|reason| damaged(&key, &reason)),
        }
    }

    /// Ids by rising address, after the given one.
    pub(crate) fn extension_ids(
        &self,
        after: Option<Address>,
        limit: usize,
    ) -> Result<Vec<Address>, IndexError> {
        let start = after.map_or_else(
            || b"x".to_vec(),
            |id| {
                let mut key = extension_key(&id);
                key.extend_from_slice(&[0xff; 3]);
                key
            },
        );
        let range = KeyRange::prefix_from(b"x", start);
        let mut ids = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending) {
            if ids.len() >= limit {
                break;
            }
            let (key, _) = entry?;
            let id = key.get(1..21).and_then(|id| Address::try_from(id).ok());
            let id = id.ok_or_else(|| damaged(&key, "is no extension"))?;
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Extensions of one contract.
    pub(crate) fn extensions_of(&self, contract: &Address) -> Result<Vec<Extension>, IndexError> {
        let range = KeyRange::prefix(by_contract(contract));
        let mut found = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending) {
            let (key, _) = entry?;
            let id = key.get(21..).and_then(|id| Address::try_from(id).ok());
            let id = id.ok_or_else(|| damaged(&key, "is no extension"))?;
            found.extend(self.extension(&id)?);
        }
        Ok(found)
    }

    /// What is kept under a vote's transaction.
    pub(crate) fn handover(&self, transaction: &B256) -> Result<Option<HandoverHead>, IndexError> {
        let key = handover_key(transaction);
        let Some(value) = self.kv.get(&key)? else {
            return Ok(None);
        };
        let wire: HeadWire =
            alloy_rlp::decode_exact(&value).map_err(|e| damaged(&key, &e.to_string()))?;
        if wire.version != VERSION {
            return Err(damaged(&key, "has another version"));
        }
        Ok(Some(HandoverHead {
            offer: wire.offer,
            newcomer: key_of(wire.newcomer),
            outcome: match wire.refused {
                true => HandoverOutcome::Refused {
                    reason: wire.reason,
                },
                false => HandoverOutcome::State {
                    digest: wire.digest,
                    bytes: wire.bytes,
                },
            },
        }))
    }

    /// A page of a kept state; empty behind its end.
    pub(crate) fn handover_page(
        &self,
        transaction: &B256,
        page: u32,
    ) -> Result<Vec<u8>, IndexError> {
        let parts = u32::from(PAGE_PARTS);
        let first = page.checked_mul(parts).and_then(|n| u16::try_from(n).ok());
        let Some(first) = first else {
            return Ok(Vec::new());
        };
        let mut start = handover_key(transaction);
        start.extend_from_slice(&first.to_be_bytes());
        let range = KeyRange::prefix_from(&handover_key(transaction), start);
        let mut bytes = Vec::new();
        let entries = self.kv.scan(range, Direction::Ascending);
        for entry in entries.take(usize::from(PAGE_PARTS)) {
            bytes.extend_from_slice(&entry?.1);
        }
        Ok(bytes)
    }

    /// All of a kept state.
    pub(crate) fn handover_state(&self, transaction: &B256) -> Result<Vec<u8>, IndexError> {
        let mut start = handover_key(transaction);
        start.extend_from_slice(&[0, 0]);
        let range = KeyRange::prefix_from(&handover_key(transaction), start);
        let mut bytes = Vec::new();
        for entry in self.kv.scan(range, Direction::Ascending) {
            bytes.extend_from_slice(&entry?.1);
        }
        Ok(bytes)
    }

    /// Keeps states that are to be handed over, or were, outside a block.
    pub(crate) fn keep_handovers(&self, handovers: &[Handover]) -> Result<(), IndexError> {
        for handover in handovers {
            let mut batch = Batch::new();
            put_handover(&mut batch, handover)?;
            self.kv.write_staged(vec![batch])?;
        }
        Ok(())
    }

    /// Takes back what happened to extensions after `cursor`.
    pub(super) fn rewind_extensions(
        &self,
        batch: &mut Batch,
        cursor: u64,
    ) -> Result<(), IndexError> {
        let mut shrunk: BTreeMap<Address, ContractMetadata> = BTreeMap::new();
        for id in self.extension_ids(None, usize::MAX)? {
            let Some(mut extension) = self.extension(&id)? else {
                continue;
            };
            let ended_later = extension.ended_at.is_some_and(|height| height > cursor);
            if ended_later && extension.state == ExtensionState::Done {
                self.take_out_newcomer(&mut shrunk, &extension, cursor)?;
            }
            if extension.offered_at > cursor {
                self.delete_all(batch, extension_key(&id))?;
                batch.delete(by_contract_key(&extension.contract, &id));
            } else if ended_later {
                extension.state = ExtensionState::Active;
                extension.ended_at = None;
                put_extension(batch, &extension)?;
            }
        }
        for metadata in shrunk.values() {
            let key = contract_key(&metadata.address);
            // Fewer keys: the last part may be gone.
            self.delete_all(batch, key.clone())?;
            put_parts(batch, &key, &codec::encode_contract(metadata))?;
        }
        Ok(())
    }

    /// A party under flag 3 had entered the newcomer, who was none before.
    fn take_out_newcomer(
        &self,
        shrunk: &mut BTreeMap<Address, ContractMetadata>,
        extension: &Extension,
        cursor: u64,
    ) -> Result<(), IndexError> {
        let known = match shrunk.remove(&extension.contract) {
            Some(known) => Some(known),
            None => self.contract(&extension.contract)?,
        };
        let Some(mut metadata) = known.filter(|known| known.created_at <= cursor) else {
            return Ok(());
        };
        if let Some(parties) = &mut metadata.parties {
            parties.remove(&extension.newcomer);
            shrunk.insert(metadata.address, metadata);
        }
        Ok(())
    }

    fn delete_all(&self, batch: &mut Batch, prefix: Vec<u8>) -> Result<(), IndexError> {
        for entry in self.kv.scan(KeyRange::prefix(prefix), Direction::Ascending) {
            batch.delete(entry?.0);
        }
        Ok(())
    }
}
