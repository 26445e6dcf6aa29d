//! Extensions of contracts.

use quorate_proto::v1;
use quorate_proto::v1::contract_extension::State;
use serde_json::{Value, json};

use super::{digits, key, keys, some_digits};

fn state(extension: &v1::ContractExtension) -> &'static str {
    match extension.state() {
        State::Active => "active",
        State::Done => "done",
        State::Declined => "declined",
        State::Cancelled => "cancelled",
        State::Refused => "refused",
        State::Unspecified => "unknown",
    }
}

/// What came of a step.
pub fn step_json(step: &v1::ExtensionStepResponse) -> Value {
    json!({
        "transaction": some_digits(&step.transaction_hash),
        "payload": digits(&step.payload_hash),
        "pending": step.pending.iter().map(|node| digits(node)).collect::<Vec<_>>(),
        "extension": some_digits(&step.extension),
        "receipt": step.receipt.as_ref().map(super::receipt_json),
        "markerData": some_digits(&step.marker_data),
    })
}

/// What came of a step.
pub fn step_text(step: &v1::ExtensionStepResponse) -> String {
    let mut all = Vec::new();
    if !step.extension.is_empty() {
        all.push(format!("extension   {}", digits(&step.extension)));
    }
    if !step.transaction_hash.is_empty() {
        all.push(format!("transaction {}", digits(&step.transaction_hash)));
    }
    all.push(format!("payload     {}", digits(&step.payload_hash)));
    for node in &step.pending {
        all.push(format!("delivered later to {}", digits(node)));
    }
    if !step.marker_data.is_empty() {
        all.push(format!(
            "to be signed: a transaction to the privacy precompile with this data\n{}",
            digits(&step.marker_data)
        ));
    } else if let Some(receipt) = &step.receipt {
        all.push(match receipt.success {
            true => format!("in block    {}", receipt.block_height),
            false => format!(
                "FAILED in block {}: {}",
                receipt.block_height, receipt.reason
            ),
        });
    } else {
        all.push(
            "in a block; private execution is not there yet: see quorate privacy status".to_owned(),
        );
    }
    all.join("\n")
}

/// An extension.
pub fn extension_json(extension: &v1::ContractExtension) -> Value {
    json!({
        "extension": digits(&extension.extension),
        "contract": digits(&extension.contract),
        "newcomer": key(&extension.newcomer),
        "newcomerAccount": digits(&extension.newcomer_account),
        "initiator": key(&extension.initiator),
        "initiatorAccount": digits(&extension.initiator_account),
        "parties": keys(&extension.parties),
        "transaction": digits(&extension.transaction_hash),
        "payload": digits(&extension.payload_hash),
        "offeredAt": extension.offered_at,
        "state": state(extension),
        "endedAt": (extension.ended_at != 0).then_some(extension.ended_at),
    })
}

/// An extension in a list.
pub fn extension_line(extension: &v1::ContractExtension) -> String {
    format!(
        "{}  {}: contract {} to {}",
        digits(&extension.extension),
        state(extension),
        digits(&extension.contract),
        key(&extension.newcomer)
    )
}

/// An extension.
pub fn extension_text(extension: &v1::ContractExtension) -> String {
    let ended = match extension.ended_at {
        0 => String::new(),
        height => format!(" in block {height}"),
    };
    [
        format!("state       {}{ended}", state(extension)),
        format!("contract    {}", digits(&extension.contract)),
        format!(
            "newcomer    {}, account {}",
            key(&extension.newcomer),
            digits(&extension.newcomer_account)
        ),
        format!(
            "offered by  {}, account {}, in block {}",
            key(&extension.initiator),
            digits(&extension.initiator_account),
            extension.offered_at
        ),
        format!("parties     {}", keys(&extension.parties).join(", ")),
        format!("payload     {}", digits(&extension.payload_hash)),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_what_is_left_to_do() {
        let mut step = v1::ExtensionStepResponse {
            payload_hash: vec![1; 64].into(),
            extension: vec![2; 20].into(),
            transaction_hash: vec![3; 32].into(),
            receipt: Some(v1::PrivateReceiptResponse {
                success: false,
                reason: "the extension has ended".into(),
                block_height: 7,
                ..v1::PrivateReceiptResponse::default()
            }),
            ..v1::ExtensionStepResponse::default()
        };
        let text = step_text(&step);
        assert!(
            text.contains("FAILED in block 7: the extension has ended"),
            "{text}"
        );
        step.receipt = None;
        assert!(step_text(&step).contains("not there yet"));
        step.transaction_hash.clear();
        step.marker_data = vec![4; 8].into();
        let text = step_text(&step);
        assert!(
            text.ends_with("0x0404040404040404") && text.contains("to be signed"),
            "{text}"
        );
        assert_eq!(step_json(&step)["transaction"], Value::Null);
    }

    #[test]
    fn an_extension_says_where_it_stands() {
        let mut extension = v1::ContractExtension {
            state: State::Active.into(),
            ..v1::ContractExtension::default()
        };
        assert!(extension_text(&extension).starts_with("state       active\n"));
        extension.state = State::Refused.into();
        extension.ended_at = 9;
        assert!(extension_text(&extension).starts_with("state       refused in block 9\n"));
        let json = extension_json(&extension);
        assert_eq!(
            (&json["state"], &json["endedAt"]),
            (&json!("refused"), &json!(9))
        );
    }
}
