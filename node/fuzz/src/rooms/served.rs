//! What clients send to servers: JSON-RPC and gRPC requests, to those of a node in this process.

mod server;

use prost::Message as _;
use quorate_proto::v1;
use serde_json::{Value, json};

use quorate_enclave::{PayloadHash, PublicKey};

use self::server::Served;
use super::{
    private_node::{PrivateNode, other_key, own_key},
    rpc::change,
};
use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("rpc-json", json_rpc, json_seeds, Memory::Shared),
    Target::new("rpc-grpc", grpc, grpc_seeds, Memory::Shared),
];

/// JSON-RPC's "internal error": a fault of ours.
const INTERNAL: i64 = -32_603;

/// The body of an HTTP request. Taken: a result.
fn json_rpc(body: &[u8]) -> bool {
    let Some((status, answer)) = Served::get().and_then(|served| served.post(body)) else {
        panic!("the server does not answer");
    };
    if status != 200 || answer.is_empty() {
        // A notification is not answered; what is no request for JSON-RPC is refused by HTTP.
        assert!((200..500).contains(&status), "HTTP status {status}");
        return false;
    }
    match serde_json::from_slice(&answer) {
        Ok(Value::Array(answers)) => answers.iter().map(is_result).fold(false, |a, b| a | b),
        // The library's answer to a notification.
        Ok(Value::Null) => false,
        Ok(answer) => is_result(&answer),
        Err(error) => panic!("the answer is no JSON: {error}"),
    }
}

fn is_result(answer: &Value) -> bool {
    let code = answer.pointer("/error/code").and_then(Value::as_i64);
    assert_ne!(code, Some(INTERNAL), "an internal error: {answer}");
    assert!(
        code.is_some() != answer.get("result").is_some(),
        "neither result nor error: {answer}"
    );
    code.is_none()
}

/// A request of each method that takes parameters, and a batch.
fn json_seeds() -> Vec<Vec<u8>> {
    let call = json!({ "to": figures::ECHO, "input": "0x0102", "gas": "0xffff" });
    let raw: Vec<String> = figures::encoded_transactions()
        .iter()
        .map(alloy_primitives::hex::encode_prefixed)
        .collect();
    let hash = alloy_primitives::B256::repeat_byte(7);
    let filter = json!({ "fromBlock": "0x0", "toBlock": "latest", "address": [figures::ECHO], "topics": [null, [hash]] });
    let from = quorate_chain::address_of(&figures::key(1).public_key(secp256k1::SECP256K1));
    let private = json!({ "from": from, "to": figures::ECHO, "data": "0x01", "gas": "0xffff", "privateFrom": own_key(),
        "privateFor": [other_key()], "privacyFlag": 2, "mandatoryFor": [other_key()], "acknowledgements": { "k": 1 } });
    let payload = PayloadHash::of(&PrivateNode::payload()).to_string();
    let change = json!({ "steps": [{ "remove": { "raftId": 3 } }], "force": true });
    let mut requests: Vec<(&str, Value)> = vec![
        ("eth_getBalance", json!([figures::ECHO, "latest"])),
        (
            "eth_getStorageAt",
            json!([figures::ECHO, "0x1", { "blockNumber": "0x0" }]),
        ),
        ("eth_getProof", json!([figures::ECHO, ["0x1"], "latest"])),
        ("eth_getCode", json!([figures::ECHO, { "blockHash": hash }])),
        (
            "eth_call",
            json!([call, "latest", { figures::ECHO.to_string(): { "balance": "0x1" } }]),
        ),
        ("eth_estimateGas", json!([call])),
        ("eth_createAccessList", json!([call])),
        ("eth_fillTransaction", json!([call])),
        ("eth_feeHistory", json!(["0x2", "latest", [10, 50.5]])),
        ("eth_getBlockByNumber", json!(["0x0", true])),
        ("eth_getBlockByHash", json!([hash, false])),
        ("eth_getBlockReceipts", json!(["earliest"])),
        ("eth_getTransactionByHash", json!([hash])),
        ("eth_getLogs", json!([filter])),
        ("eth_newFilter", json!([filter])),
        ("eth_getFilterChanges", json!(["0x1"])),
        ("eth_sign", json!([figures::ECHO, "0x00"])),
        ("eth_sendTransaction", json!([call])),
        ("eth_sendTransaction", json!([private])),
        (
            "eth_distributePrivateTransaction",
            json!(["0x00", { "privateFor": [other_key()] }]),
        ),
        (
            "eth_sendRawPrivateTransaction",
            json!(["0x00", { "privateFor": ["trade"], "privacyFlag": 1 }]),
        ),
        ("eth_getQuorumPayload", json!([payload])),
        ("eth_getQuorumPayloadExtra", json!([payload])),
        ("eth_getPrivateTransactionByHash", json!([hash])),
        ("eth_getPrivateTransactionReceipt", json!([hash])),
        ("eth_getContractPrivacyMetadata", json!([figures::ECHO])),
        ("eth_storageRoot", json!([figures::ECHO, "0x0"])),
        ("eth_getPSI", json!([])),
        (
            "quorumExtension_extendContract",
            json!([figures::ECHO, other_key(), figures::ECHO, private]),
        ),
        (
            "quorumExtension_approveExtension",
            json!([figures::ECHO, true, private]),
        ),
        ("quorumExtension_getExtensionStatus", json!([figures::ECHO])),
        ("quorumExtension_activeExtensionContracts", json!([])),
        ("web3_sha3", json!(["0x00"])),
        ("txpool_content", json!([])),
        ("raft_changeMembership", json!([change])),
        ("raft_addPeer", json!(["enode://00@127.0.0.1:30303"])),
        ("raft_removePeer", json!([2])),
        ("admin_addPeer", json!(["/ip4/127.0.0.1/tcp/1/p2p/16Uiu2"])),
        ("rpc_modules", json!([])),
    ];
    requests.extend(
        raw.iter()
            .map(|raw| ("eth_sendRawTransaction", json!([raw]))),
    );
    let request = |(method, params): &(&str, Value)| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut seeds: Vec<Value> = requests.iter().map(request).collect();
    seeds.push(Value::Array(seeds.iter().take(3).cloned().collect()));
    seeds
        .iter()
        .map(|seed| seed.to_string().into_bytes())
        .collect()
}

/// Methods that answer once, by their place in the first byte of an input.
const METHODS: [&str; 33] = [
    "/quorate.v1.Ledger/SubmitTransaction",
    "/quorate.v1.Ledger/GetTransaction",
    "/quorate.v1.Ledger/GetReceipt",
    "/quorate.v1.Ledger/GetBlock",
    "/quorate.v1.Ledger/GetTransactionStatus",
    "/quorate.v1.Ledger/Status",
    "/quorate.v1.Membership/List",
    "/quorate.v1.Membership/Change",
    "/quorate.v1.Membership/AddLearner",
    "/quorate.v1.Membership/Promote",
    "/quorate.v1.Membership/Remove",
    "/quorate.v1.Membership/TransferLeadership",
    "/quorate.v1.Ledger/SubmitPrivateTransaction",
    "/quorate.v1.Privacy/Status",
    "/quorate.v1.Privacy/Payload",
    "/quorate.v1.Privacy/Erase",
    "/quorate.v1.Privacy/Erasures",
    "/quorate.v1.Privacy/Deliveries",
    "/quorate.v1.Privacy/Keys",
    "/quorate.v1.Privacy/CreateGroup",
    "/quorate.v1.Privacy/ListGroups",
    "/quorate.v1.Privacy/FindGroups",
    "/quorate.v1.Privacy/DeleteGroup",
    "/quorate.v1.Privacy/Alarms",
    "/quorate.v1.Privacy/Resync",
    "/quorate.v1.Privacy/PrivateReceipt",
    "/quorate.v1.Privacy/ContractMetadata",
    "/quorate.v1.Privacy/OfferExtension",
    "/quorate.v1.Privacy/VoteOnExtension",
    "/quorate.v1.Privacy/CancelExtension",
    "/quorate.v1.Privacy/ListExtensions",
    "/quorate.v1.Privacy/GetExtension",
    "/quorate.v1.Privacy/GiveUp",
];

/// A request to the server. Taken: an answer.
fn grpc(bytes: &[u8]) -> bool {
    let Some((method, message)) = bytes.split_first() else {
        return false;
    };
    let Some(method) = METHODS.get(usize::from(*method) % METHODS.len()) else {
        return false;
    };
    let Some(answered) = Served::get().and_then(|served| served.grpc(method, message)) else {
        panic!("the server does not answer");
    };
    match answered {
        Ok(()) => true,
        Err(status) => {
            use tonic::Code;
            // What is no message at all is refused with this code by the library, in these words.
            let undecodable = status.message().contains("failed to decode");
            assert!(
                undecodable
                    || !matches!(
                        status.code(),
                        Code::Internal | Code::Unknown | Code::DataLoss
                    ),
                "{method}: {status}"
            );
            false
        }
    }
}

fn grpc_seeds() -> Vec<Vec<u8>> {
    let hash = bytes::Bytes::from_static(&[7; 32]);
    let raw = figures::encoded_transactions().into_iter().next();
    let submit = v1::SubmitTransactionRequest {
        raw: raw.unwrap_or_default().into(),
        wait: false,
    };
    let block = v1::GetBlockRequest {
        block: Some(v1::get_block_request::Block::Height(0)),
        ..v1::GetBlockRequest::default()
    };
    let messages = [
        submit.encode_to_vec(),
        v1::GetTransactionRequest { hash: hash.clone() }.encode_to_vec(),
        v1::GetReceiptRequest { hash: hash.clone() }.encode_to_vec(),
        block.encode_to_vec(),
        v1::GetTransactionStatusRequest { hash: hash.clone() }.encode_to_vec(),
        Vec::new(),
        Vec::new(),
        change().encode_to_vec(),
    ];
    let of_members = (0..).zip(messages);
    of_members
        .chain(private_messages(&hash))
        .map(|(method, message)| [&[method], message.as_slice()].concat())
        .collect()
}

/// Requests about private transactions, each with the place of its method.
fn private_messages(transaction: &bytes::Bytes) -> Vec<(u8, Vec<u8>)> {
    let key = |key: PublicKey| bytes::Bytes::copy_from_slice(key.as_bytes());
    let hash = PayloadHash::of(&PrivateNode::payload());
    let hash = bytes::Bytes::copy_from_slice(hash.as_bytes());
    let submit = v1::SubmitPrivateTransactionRequest {
        transaction: Some(private_call()),
        arguments: Some(private_arguments()),
        wait: false,
    };
    let named = v1::CreateGroupRequest {
        name: "settlement".into(),
        members: vec![key(own_key())],
        ..v1::CreateGroupRequest::default()
    };
    let found = v1::FindGroupsRequest {
        members: vec![key(own_key()), key(other_key())],
        name: String::new(),
    };
    let payload = v1::PayloadRequest { hash: hash.clone() };
    let given_up = v1::GiveUpRequest {
        what: Some(v1::give_up_request::What::Hash(hash.clone())),
        note: "its sender is gone".into(),
    };
    let deliveries = v1::DeliveriesRequest { hash };
    let receipt = v1::PrivateReceiptRequest {
        hash: transaction.clone(),
    };
    let contract = v1::ContractMetadataRequest {
        address: bytes::Bytes::copy_from_slice(figures::ECHO.as_slice()),
    };
    vec![
        (12, submit.encode_to_vec()),
        (14, payload.encode_to_vec()),
        (17, deliveries.encode_to_vec()),
        (18, Vec::new()),
        (19, named.encode_to_vec()),
        (21, found.encode_to_vec()),
        (25, receipt.encode_to_vec()),
        (26, contract.encode_to_vec()),
        (32, given_up.encode_to_vec()),
    ]
}

fn private_call() -> v1::submit_private_transaction_request::Transaction {
    let from = quorate_chain::address_of(&figures::key(1).public_key(secp256k1::SECP256K1));
    v1::submit_private_transaction_request::Transaction::Call(v1::PrivateCall {
        from: bytes::Bytes::copy_from_slice(from.as_slice()),
        to: bytes::Bytes::copy_from_slice(figures::ECHO.as_slice()),
        data: bytes::Bytes::from_static(b"call"),
        gas_limit: Some(100_000),
        ..v1::PrivateCall::default()
    })
}

fn private_arguments() -> v1::PrivateArguments {
    v1::PrivateArguments {
        private_for: vec![other_key().to_string()],
        ..v1::PrivateArguments::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::METHODS;

    #[test]
    fn every_method_that_answers_once_is_tried() {
        let services = [
            (
                "Ledger",
                include_str!("../../../../proto/quorate/v1/ledger.proto"),
            ),
            (
                "Membership",
                include_str!("../../../../proto/quorate/v1/membership.proto"),
            ),
            (
                "Privacy",
                include_str!("../../../../proto/quorate/v1/privacy.proto"),
            ),
        ];
        let mut there = BTreeSet::new();
        for (service, text) in services {
            let methods = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("rpc "));
            for method in methods.filter(|method| !method.contains("stream ")) {
                let name = method.split('(').next().unwrap_or_default();
                there.insert(format!("/quorate.v1.{service}/{name}"));
            }
        }
        let tried: BTreeSet<String> = METHODS.iter().map(ToString::to_string).collect();
        assert_eq!(tried, there);
    }
}
