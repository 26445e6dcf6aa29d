//! Records and contract metadata as bytes: RLP, format 1, options as lists of none or one.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, B512, Bytes, FixedBytes, Log, logs_bloom};
use alloy_rlp::{Decodable as _, RlpDecodable, RlpEncodable};
use quorate_chain::PublicForm;
use quorate_enclave::{GroupId, NodeKey, PayloadHash, PrivacyFlag, PublicKey};

use crate::{ContractMetadata, PrivateRecord, RecordOutcome};

const VERSION: u8 = 1;

#[derive(RlpEncodable, RlpDecodable)]
struct RecordWire {
    version: u8,
    transaction: B256,
    height: u64,
    position: u32,
    form: u8,
    hash: B512,
    inner_hash: Vec<B512>,
    inner_transaction: Vec<B256>,
    sender: Address,
    nonce: u64,
    to: Vec<Address>,
    data: Bytes,
    gas_limit: u64,
    gas_price: u128,
    outcome: u8,
    /// Revert data, or a reason as text.
    said: Bytes,
    gas_used: u64,
    logs: Vec<Log>,
    contract_address: Vec<Address>,
    flag: u8,
    group: Vec<B256>,
    as_recipient: Vec<B256>,
    sender_key: Vec<B256>,
    sender_node: Vec<FixedBytes<33>>,
    we_sent: bool,
    affected: Vec<Address>,
    digest: B256,
}

#[derive(RlpEncodable, RlpDecodable)]
struct ContractWire {
    version: u8,
    address: Address,
    creation_transaction: B256,
    creation_hash: B512,
    flag: u8,
    parties_known: bool,
    parties: Vec<B256>,
    mandatory: Vec<B256>,
    creator: B256,
    as_recipient: B256,
    created_at: u64,
}

fn word(key: &PublicKey) -> B256 {
    B256::from(*key.as_bytes())
}

fn key(word: B256) -> PublicKey {
    PublicKey::from_bytes(word.0)
}

fn payload(hash: B512) -> PayloadHash {
    PayloadHash::from_bytes(hash.0)
}

fn optional<T>(field: &str, values: Vec<T>) -> Result<Option<T>, String> {
    let mut values = values.into_iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(format!("{field} occurs more than once")),
    }
}

fn flag(number: u8) -> Result<PrivacyFlag, String> {
    PrivacyFlag::from_number(number).ok_or_else(|| format!("privacy flag is {number}"))
}

fn check_version(version: u8) -> Result<(), String> {
    if version == VERSION {
        Ok(())
    } else {
        Err(format!(
            "version is {version}, this program reads {VERSION}"
        ))
    }
}

fn decode<T: alloy_rlp::Decodable>(bytes: &[u8]) -> Result<T, String> {
    alloy_rlp::decode_exact(bytes).map_err(|error| error.to_string())
}

pub(super) fn encode_record(record: &PrivateRecord) -> Vec<u8> {
    let (outcome, said) = match &record.outcome {
        RecordOutcome::Success => (1, Bytes::new()),
        RecordOutcome::Reverted { data } => (2, data.clone()),
        RecordOutcome::Halted { reason } => (3, Bytes::from(reason.clone().into_bytes())),
        RecordOutcome::Refused { reason } => (4, Bytes::from(reason.clone().into_bytes())),
        RecordOutcome::Erased => (5, Bytes::new()),
    };
    alloy_rlp::encode(RecordWire {
        version: VERSION,
        transaction: record.transaction,
        height: record.height,
        position: record.position,
        form: match record.form {
            PublicForm::Marker => 0,
            PublicForm::Quorum => 1,
        },
        hash: B512::from(*record.hash.as_bytes()),
        inner_hash: record
            .inner_hash
            .iter()
            .map(|h| B512::from(*h.as_bytes()))
            .collect(),
        inner_transaction: record.inner_transaction.into_iter().collect(),
        sender: record.sender,
        nonce: record.nonce,
        to: record.to.into_iter().collect(),
        data: record.data.clone(),
        gas_limit: record.gas_limit,
        gas_price: record.gas_price,
        outcome,
        said,
        gas_used: record.gas_used,
        logs: record.logs.clone(),
        contract_address: record.contract_address.into_iter().collect(),
        flag: record.flag.number(),
        group: record
            .group
            .iter()
            .map(|id| B256::from(*id.as_bytes()))
            .collect(),
        as_recipient: record.as_recipient.iter().map(word).collect(),
        sender_key: record.sender_key.iter().map(word).collect(),
        sender_node: record.sender_node.into_iter().collect(),
        we_sent: record.we_sent,
        affected: record.affected.clone(),
        digest: record.digest,
    })
}

pub(super) fn decode_record(bytes: &[u8]) -> Result<PrivateRecord, String> {
    record_of(decode(bytes)?)
}

/// Records that lie one behind the other.
pub(super) fn decode_records(mut bytes: &[u8]) -> Result<Vec<PrivateRecord>, String> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let wire = RecordWire::decode(&mut bytes).map_err(|error| error.to_string())?;
        records.push(record_of(wire)?);
    }
    Ok(records)
}

fn record_of(wire: RecordWire) -> Result<PrivateRecord, String> {
    check_version(wire.version)?;
    let text = |said: Bytes| {
        String::from_utf8(said.to_vec()).map_err(|_| "the reason is no text".to_owned())
    };
    Ok(PrivateRecord {
        transaction: wire.transaction,
        height: wire.height,
        position: wire.position,
        form: match wire.form {
            0 => PublicForm::Marker,
            1 => PublicForm::Quorum,
            other => return Err(format!("public form is {other}")),
        },
        hash: payload(wire.hash),
        inner_hash: optional("inner hash", wire.inner_hash)?.map(payload),
        inner_transaction: optional("inner transaction", wire.inner_transaction)?,
        sender: wire.sender,
        nonce: wire.nonce,
        to: optional("recipient", wire.to)?,
        data: wire.data,
        gas_limit: wire.gas_limit,
        gas_price: wire.gas_price,
        outcome: match wire.outcome {
            1 => RecordOutcome::Success,
            2 => RecordOutcome::Reverted { data: wire.said },
            3 => RecordOutcome::Halted {
                reason: text(wire.said)?,
            },
            4 => RecordOutcome::Refused {
                reason: text(wire.said)?,
            },
            5 => RecordOutcome::Erased,
            other => return Err(format!("outcome is {other}")),
        },
        gas_used: wire.gas_used,
        bloom: logs_bloom(&wire.logs),
        logs: wire.logs,
        contract_address: optional("contract address", wire.contract_address)?,
        flag: flag(wire.flag)?,
        group: optional("group", wire.group)?.map(|id| GroupId::from_bytes(id.0)),
        as_recipient: optional("recipient key", wire.as_recipient)?.map(key),
        sender_key: optional("sender key", wire.sender_key)?.map(key),
        sender_node: optional::<NodeKey>("sender node", wire.sender_node)?,
        we_sent: wire.we_sent,
        affected: wire.affected,
        digest: wire.digest,
    })
}

pub(super) fn encode_contract(contract: &ContractMetadata) -> Vec<u8> {
    let words = |keys: &BTreeSet<PublicKey>| keys.iter().map(word).collect::<Vec<_>>();
    alloy_rlp::encode(ContractWire {
        version: VERSION,
        address: contract.address,
        creation_transaction: contract.creation_transaction,
        creation_hash: B512::from(*contract.creation_hash.as_bytes()),
        flag: contract.flag.number(),
        parties_known: contract.parties.is_some(),
        parties: contract.parties.as_ref().map(words).unwrap_or_default(),
        mandatory: words(&contract.mandatory),
        creator: word(&contract.creator),
        as_recipient: word(&contract.as_recipient),
        created_at: contract.created_at,
    })
}

pub(super) fn decode_contract(bytes: &[u8]) -> Result<ContractMetadata, String> {
    let wire: ContractWire = decode(bytes)?;
    check_version(wire.version)?;
    let keys = |words: Vec<B256>| words.into_iter().map(key).collect::<BTreeSet<_>>();
    Ok(ContractMetadata {
        address: wire.address,
        creation_transaction: wire.creation_transaction,
        creation_hash: payload(wire.creation_hash),
        flag: flag(wire.flag)?,
        parties: wire.parties_known.then(|| keys(wire.parties)),
        mandatory: keys(wire.mandatory),
        creator: key(wire.creator),
        as_recipient: key(wire.as_recipient),
        created_at: wire.created_at,
    })
}
