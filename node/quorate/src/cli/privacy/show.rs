//! What a node says, as JSON for scripts and as text for people. Hashes are in hexadecimal, keys in base64, times in milliseconds
//! since 1970.

mod extension;

use bytes::Bytes;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_proto::v1;
use quorate_proto::v1::erasure_record::Reason;
use quorate_proto::v1::payload_delivery::State;
use serde_json::{Value, json};

pub use extension::{extension_json, extension_line, extension_text, step_json, step_text};

fn digits(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// `null` for what is not there.
fn some_digits(bytes: &[u8]) -> Value {
    match bytes.is_empty() {
        true => Value::Null,
        false => digits(bytes).into(),
    }
}

fn some_text(text: &str) -> Value {
    match text.is_empty() {
        true => Value::Null,
        false => text.into(),
    }
}

fn key(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn keys(list: &[Bytes]) -> Vec<String> {
    list.iter().map(|bytes| key(bytes)).collect()
}

/// The first digits: enough to tell one from the other.
fn short(bytes: &[u8]) -> String {
    let start: String = digits(bytes).chars().take(18).collect();
    match bytes.len() > 8 {
        true => format!("{start}…"),
        false => start,
    }
}

/// "3s ago", "2h ago".
fn ago(at_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let seconds = now_ms.saturating_sub(at_ms) / 1_000;
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7_200 => format!("{}m ago", seconds / 60),
        7_200..172_800 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// One line each, or what is to be said of none.
pub fn lines(each: impl Iterator<Item = String>, none: &str) -> String {
    let all: Vec<String> = each.collect();
    match all.is_empty() {
        true => none.to_owned(),
        false => all.join("\n"),
    }
}

/// Status.
pub fn status_json(status: &v1::PrivacyStatus) -> Value {
    let waiting = status.waiting.as_ref().map(|waiting| {
        json!({
            "blockHeight": waiting.block_height,
            "transaction": digits(&waiting.transaction_hash),
            "payload": digits(&waiting.payload_hash),
            "sinceMs": waiting.since_ms,
            "reason": some_text(&waiting.reason),
        })
    });
    json!({
        "cursor": status.cursor,
        "headHeight": status.head_height,
        "privateStateRoot": digits(&status.private_state_root),
        "privateHeight": status.private_height,
        "startsAt": status.starts_at,
        "waiting": waiting,
        "halted": some_text(&status.halted),
        "records": status.records,
        "recordsErased": status.records_erased,
        "complete": status.complete,
        "payloads": status.payloads,
        "payloadsErased": status.payloads_erased,
        "deliveriesPending": status.deliveries_pending,
        "alarms": status.alarms,
        "resyncing": status.resyncing,
        "enclaveVersion": some_text(&status.enclave_version),
        "enclaveError": some_text(&status.enclave_error),
    })
}

/// Status.
pub fn status_text(status: &v1::PrivacyStatus) -> String {
    let execution = match (&status.waiting, status.halted.as_str()) {
        (_, halted) if !halted.is_empty() => format!("HALTED: {halted}"),
        (Some(waiting), _) => format!(
            "waiting for payload {} of transaction {} in block {} since {}{}",
            digits(&waiting.payload_hash),
            digits(&waiting.transaction_hash),
            waiting.block_height,
            ago(waiting.since_ms),
            match waiting.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            }
        ),
        (None, _) if status.cursor == status.head_height => "up to date".to_owned(),
        (None, _) => "catching up".to_owned(),
    };
    let enclave = match status.enclave_error.as_str() {
        "" => format!("answers, version {}", status.enclave_version),
        error => format!("DOES NOT ANSWER: {error}"),
    };
    let complete = match (status.complete, status.resyncing) {
        (_, true) => "resync under way",
        (true, false) => "complete",
        (false, false) => "INCOMPLETE: run quorate privacy resync",
    };
    [
        format!(
            "execution   at block {} of {}, {execution}",
            status.cursor, status.head_height
        ),
        format!(
            "state       {} after {} changing blocks, from block {} on",
            digits(&status.private_state_root),
            status.private_height,
            status.starts_at
        ),
        format!(
            "records     {}, of which {} without their payload, which was erased or given up",
            status.records, status.records_erased
        ),
        format!(
            "payloads    {} held, {} erased or given up, {complete}",
            status.payloads, status.payloads_erased
        ),
        format!("deliveries  {} pending", status.deliveries_pending),
        format!("alarms      {}", status.alarms),
        format!("enclave     {enclave}"),
    ]
    .join("\n")
}

/// Keys.
pub fn keys_json(answer: &v1::PrivacyKeysResponse) -> Value {
    let members = answer.members.iter().map(|member| {
        json!({
            "raftId": member.raft_id,
            "nodeId": digits(&member.node_id),
            "organisation": member.organisation,
            "thisNode": member.this_node,
            "keys": keys(&member.keys),
        })
    });
    json!({ "own": keys(&answer.own), "members": members.collect::<Vec<_>>() })
}

/// Keys.
pub fn keys_text(answer: &v1::PrivacyKeysResponse) -> String {
    let mut all = vec!["own".to_owned()];
    all.extend(keys(&answer.own).iter().map(|key| format!("  {key}")));
    for member in &answer.members {
        let this = if member.this_node { ", this node" } else { "" };
        all.push(format!(
            "raft id {}, {}{this}",
            member.raft_id, member.organisation
        ));
        match member.keys.is_empty() {
            true => all.push("  announced none".to_owned()),
            false => all.extend(keys(&member.keys).iter().map(|key| format!("  {key}"))),
        }
    }
    all.join("\n")
}

/// A payload.
pub fn payload_json(payload: &v1::PayloadResponse) -> Value {
    let affected = payload.affected.iter().map(|one| {
        json!({
            "address": digits(&one.address),
            "creationPayload": digits(&one.creation_payload),
        })
    });
    json!({
        "data": digits(&payload.data),
        "sender": key(&payload.sender),
        "asRecipient": key(&payload.as_recipient),
        "weSent": payload.we_sent,
        "parties": keys(&payload.parties),
        "privacyFlag": payload.privacy_flag,
        "mandatory": keys(&payload.mandatory),
        "groupId": (!payload.group_id.is_empty()).then(|| key(&payload.group_id)),
        "senderNode": digits(&payload.sender_node),
        "affected": affected.collect::<Vec<_>>(),
        "execRoot": some_digits(&payload.exec_root),
    })
}

/// A payload.
pub fn payload_text(payload: &v1::PayloadResponse) -> String {
    let mut all = vec![
        format!(
            "sender      {}{}",
            key(&payload.sender),
            if payload.we_sent { " (this node)" } else { "" }
        ),
        format!("sent by     {}", digits(&payload.sender_node)),
        format!("read as     {}", key(&payload.as_recipient)),
        format!("parties     {}", keys(&payload.parties).join(", ")),
        format!("flag        {}", flag(payload.privacy_flag)),
    ];
    if !payload.mandatory.is_empty() {
        all.push(format!(
            "mandatory   {}",
            keys(&payload.mandatory).join(", ")
        ));
    }
    if !payload.group_id.is_empty() {
        all.push(format!("group       {}", key(&payload.group_id)));
    }
    for one in &payload.affected {
        all.push(format!(
            "affects     {} (created by payload {})",
            digits(&one.address),
            short(&one.creation_payload)
        ));
    }
    all.push(format!("data        {}", digits(&payload.data)));
    all.join("\n")
}

fn flag(number: u32) -> String {
    let name = match number {
        0 => "standard",
        1 => "party protection",
        2 => "mandatory recipients",
        3 => "private state validation",
        _ => "unknown",
    };
    format!("{number} ({name})")
}

fn state(number: i32) -> &'static str {
    match State::try_from(number) {
        Ok(State::Pending) => "pending",
        Ok(State::Acknowledged) => "acknowledged",
        Ok(State::Refused) => "refused",
        Ok(State::Unspecified) | Err(_) => "unknown",
    }
}

/// A delivery.
pub fn delivery_json(delivery: &v1::PayloadDelivery) -> Value {
    json!({
        "nodeId": digits(&delivery.node_id),
        "state": state(delivery.state),
        "named": delivery.named,
        "attempts": delivery.attempts,
        "changedAtMs": delivery.changed_at_ms,
        "nextAtMs": (delivery.next_at_ms != 0).then_some(delivery.next_at_ms),
        "reason": some_text(&delivery.reason),
    })
}

/// A delivery.
pub fn delivery_text(delivery: &v1::PayloadDelivery) -> String {
    let reason = match delivery.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!(
        "{}  {} {}, {} attempts{reason}",
        digits(&delivery.node_id),
        state(delivery.state),
        ago(delivery.changed_at_ms),
        delivery.attempts
    )
}

/// A private receipt.
pub fn receipt_json(receipt: &v1::PrivateReceiptResponse) -> Value {
    let addresses = |list: &[Bytes]| list.iter().map(|a| digits(a)).collect::<Vec<_>>();
    json!({
        "transaction": digits(&receipt.transaction_hash),
        "blockHeight": receipt.block_height,
        "blockHash": digits(&receipt.block_hash),
        "position": receipt.position,
        "success": receipt.success,
        "gasUsed": receipt.gas_used,
        "logs": receipt.logs.len(),
        "contractAddress": some_digits(&receipt.contract_address),
        "revertData": some_digits(&receipt.revert_data),
        "reason": some_text(&receipt.reason),
        "from": digits(&receipt.from),
        "to": some_digits(&receipt.to),
        "payload": digits(&receipt.payload_hash),
        "privacyFlag": receipt.privacy_flag,
        "marker": receipt.marker,
        "weSent": receipt.we_sent,
        "input": digits(&receipt.input),
        "digest": digits(&receipt.digest),
        "affected": addresses(&receipt.affected),
    })
}

/// A private receipt.
pub fn receipt_text(receipt: &v1::PrivateReceiptResponse) -> String {
    let outcome = match (receipt.success, receipt.reason.as_str()) {
        (true, _) => "succeeded".to_owned(),
        (false, "") => format!("FAILED, reverted with {}", digits(&receipt.revert_data)),
        (false, reason) => format!("FAILED: {reason}"),
    };
    let mut all = vec![
        format!("outcome     {outcome}"),
        format!(
            "block       {} ({}), position {}",
            receipt.block_height,
            short(&receipt.block_hash),
            receipt.position
        ),
        format!("from        {}", digits(&receipt.from)),
    ];
    match receipt.contract_address.is_empty() {
        false => all.push(format!("created     {}", digits(&receipt.contract_address))),
        true => all.push(format!("to          {}", digits(&receipt.to))),
    }
    all.extend([
        format!("payload     {}", digits(&receipt.payload_hash)),
        format!("flag        {}", flag(receipt.privacy_flag)),
        format!("gas, logs   {}, {}", receipt.gas_used, receipt.logs.len()),
        format!("digest      {}", digits(&receipt.digest)),
    ]);
    all.join("\n")
}

/// A contract.
pub fn contract_json(contract: &v1::PrivateContractMetadata) -> Value {
    json!({
        "address": digits(&contract.address),
        "creationTransaction": digits(&contract.creation_transaction),
        "creationPayload": digits(&contract.creation_payload),
        "privacyFlag": contract.privacy_flag,
        "parties": keys(&contract.parties),
        "mandatory": keys(&contract.mandatory),
        "creator": key(&contract.creator),
        "createdAt": contract.created_at,
    })
}

/// A contract.
pub fn contract_text(contract: &v1::PrivateContractMetadata) -> String {
    let mut all = vec![
        format!(
            "created     in block {} by transaction {}",
            contract.created_at,
            digits(&contract.creation_transaction)
        ),
        format!("creator     {}", key(&contract.creator)),
        format!("payload     {}", digits(&contract.creation_payload)),
        format!("flag        {}", flag(contract.privacy_flag)),
    ];
    for (name, list) in [
        ("parties  ", &contract.parties),
        ("mandatory", &contract.mandatory),
    ] {
        if !list.is_empty() {
            all.push(format!("{name}   {}", keys(list).join(", ")));
        }
    }
    all.join("\n")
}

/// An alarm.
pub fn alarm_json(alarm: &v1::DivergenceAlarm) -> Value {
    json!({
        "number": alarm.number,
        "raisedAtMs": alarm.raised_at_ms,
        "transaction": digits(&alarm.transaction_hash),
        "blockHeight": alarm.block_height,
        "payload": digits(&alarm.payload_hash),
        "nodeId": digits(&alarm.node_id),
        "ourDigest": digits(&alarm.our_digest),
        "theirDigest": digits(&alarm.their_digest),
    })
}

/// An alarm.
pub fn alarm_text(alarm: &v1::DivergenceAlarm) -> String {
    format!(
        "{}  {}: block {}, transaction {}: our digest {}, that of {} is {}",
        alarm.number,
        ago(alarm.raised_at_ms),
        alarm.block_height,
        digits(&alarm.transaction_hash),
        digits(&alarm.our_digest),
        digits(&alarm.node_id),
        digits(&alarm.their_digest)
    )
}

/// What a resync came to.
pub fn resync_json(done: &v1::ResyncResponse) -> Value {
    let members = done.members.iter().map(|member| {
        json!({
            "raftId": member.raft_id,
            "nodeId": digits(&member.node_id),
            "fetched": member.fetched,
            "known": member.known,
            "failed": member.failed,
            "erased": member.erased,
            "error": some_text(&member.error),
        })
    });
    json!({ "complete": done.complete, "members": members.collect::<Vec<_>>() })
}

/// What a resync came to.
pub fn resync_text(done: &v1::ResyncResponse) -> String {
    let members = done.members.iter().map(|member| {
        let counts = format!(
            "raft id {}: {} new, {} known, {} failed, {} erased there and not here",
            member.raft_id, member.fetched, member.known, member.failed, member.erased
        );
        match member.error.as_str() {
            "" => counts,
            error => format!("{counts}: {error}"),
        }
    });
    let outcome = match done.complete {
        true => "complete",
        false => "incomplete",
    };
    let all: Vec<String> = members.chain([outcome.to_owned()]).collect();
    all.join("\n")
}

fn reason(number: i32) -> &'static str {
    match Reason::try_from(number) {
        Ok(Reason::Requested) => "requested",
        Ok(Reason::Expired) => "expired",
        Ok(Reason::GroupDeleted) => "group deleted",
        Ok(Reason::GivenUp) => "given up",
        Ok(Reason::Unspecified) | Err(_) => "unknown",
    }
}

/// A record of an erasure.
pub fn erasure_json(record: &v1::ErasureRecord) -> Value {
    json!({
        "payload": digits(&record.hash),
        "sequence": record.sequence,
        "erasedAtMs": record.erased_at_ms,
        "reason": reason(record.reason),
        "note": some_text(&record.note),
    })
}

/// A record of an erasure.
pub fn erasure_text(record: &v1::ErasureRecord) -> String {
    let note = match record.note.as_str() {
        "" => String::new(),
        note => format!(": {note}"),
    };
    format!(
        "{}  erased {}, {}{note}",
        digits(&record.hash),
        ago(record.erased_at_ms),
        reason(record.reason)
    )
}

/// A group.
pub fn group_json(group: &v1::PrivacyGroup) -> Value {
    json!({
        "id": key(&group.id),
        "name": group.name,
        "description": group.description,
        "members": keys(&group.members),
        "createdAtMs": group.created_at_ms,
        "payloadsLiveMs": (group.payloads_live_ms != 0).then_some(group.payloads_live_ms),
    })
}

/// A group.
pub fn group_text(group: &v1::PrivacyGroup) -> String {
    format!(
        "{}  {}: {}",
        key(&group.id),
        group.name,
        keys(&group.members).join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_first_what_needs_a_look() {
        let mut status = v1::PrivacyStatus {
            cursor: 7,
            head_height: 7,
            complete: true,
            enclave_version: "0.1.0".into(),
            ..v1::PrivacyStatus::default()
        };
        let text = status_text(&status);
        assert!(text.contains("at block 7 of 7, up to date"), "{text}");
        assert!(text.contains("complete") && text.contains("version 0.1.0"));
        status.waiting = Some(v1::WaitingForPayload {
            block_height: 8,
            transaction_hash: vec![1; 32].into(),
            payload_hash: vec![2; 64].into(),
            since_ms: 0,
            reason: "nobody has it".into(),
        });
        status.head_height = 9;
        let text = status_text(&status);
        assert!(text.contains("waiting for payload 0x0202"), "{text}");
        assert!(text.contains("in block 8") && text.contains("nobody has it"));
        assert_eq!(status_json(&status)["waiting"]["blockHeight"], 8);
        status.halted = "blocks were pruned".into();
        status.enclave_error = "connection refused".into();
        status.complete = false;
        let text = status_text(&status);
        for expected in [
            "HALTED: blocks were pruned",
            "DOES NOT ANSWER: connection refused",
            "INCOMPLETE",
        ] {
            assert!(text.contains(expected), "{expected} is missing in {text}");
        }
    }

    #[test]
    fn lists_say_when_there_is_nothing() {
        assert_eq!(lines(std::iter::empty(), "nothing"), "nothing");
        let delivery = v1::PayloadDelivery {
            node_id: vec![3; 33].into(),
            state: State::Refused.into(),
            attempts: 2,
            reason: "not for us".into(),
            ..v1::PayloadDelivery::default()
        };
        let text = delivery_text(&delivery);
        assert!(text.contains("refused") && text.ends_with("2 attempts: not for us"));
        assert_eq!(delivery_json(&delivery)["nextAtMs"], Value::Null);
    }
}
