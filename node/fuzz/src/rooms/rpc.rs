//! What clients send: JSON-RPC and gRPC requests to real servers in this process, protobuf messages by themselves, and
//! members' addresses as operators write them.

mod client;
mod served;

use prost::Message as _;
use quorate_proto::v1;
use serde_json::{Value, json};

use self::served::Served;
use crate::{Memory, Target, figures};

pub(crate) const TARGETS: &[Target] = &[
    Target::new("rpc-json", json_rpc, json_seeds, Memory::Shared),
    Target::new("rpc-grpc", grpc, grpc_seeds, Memory::Shared),
    Target::new("rpc-messages", messages, messages_seeds, Memory::DECODER),
    Target::new(
        "rpc-member-url",
        member_url,
        member_url_seeds,
        Memory::DECODER,
    ),
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
        (
            "eth_distributePrivateTransaction",
            json!(["0x00", { "privateFor": [] }]),
        ),
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
const METHODS: [&str; 12] = [
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
        v1::GetTransactionStatusRequest { hash }.encode_to_vec(),
        Vec::new(),
        Vec::new(),
        change().encode_to_vec(),
    ];
    (0..)
        .zip(&messages)
        .map(|(method, message)| [&[method], message.as_slice()].concat())
        .collect()
}

fn change() -> v1::ChangeMembersRequest {
    v1::ChangeMembersRequest {
        change_id: bytes::Bytes::from_static(&[9; 16]),
        force: true,
        if_table_index: Some(3),
        ..v1::ChangeMembersRequest::default()
    }
}

/// A protobuf message by itself: what is read, written and read again is the same.
fn message<M: prost::Message + Default + PartialEq>(bytes: &[u8]) -> bool {
    M::decode(bytes).is_ok_and(|read| {
        let written = read.encode_to_vec();
        assert_eq!(written.len(), read.encoded_len());
        // Not a number is not equal to itself; no message of ours has one.
        assert!(M::decode(written.as_slice()).is_ok_and(|again| again == read));
        true
    })
}

const MESSAGES: [fn(&[u8]) -> bool; 12] = [
    message::<v1::SubmitTransactionRequest>,
    message::<v1::SubmitTransactionsRequest>,
    message::<v1::GetTransactionRequest>,
    message::<v1::GetBlockRequest>,
    message::<v1::SubscribeBlocksRequest>,
    message::<v1::GetTransactionStatusRequest>,
    message::<v1::ChangeMembersRequest>,
    message::<v1::AddLearnerRequest>,
    message::<v1::PromoteMembersRequest>,
    message::<v1::RemoveMembersRequest>,
    message::<v1::TransferLeadershipRequest>,
    // The largest message that clients read.
    message::<v1::Block>,
];

fn messages(bytes: &[u8]) -> bool {
    let Some((kind, body)) = bytes.split_first() else {
        return false;
    };
    let read = MESSAGES.get(usize::from(*kind) % MESSAGES.len());
    read.is_some_and(|read| read(body))
}

fn messages_seeds() -> Vec<Vec<u8>> {
    vec![
        [&[6], change().encode_to_vec().as_slice()].concat(),
        vec![0, 0x0a, 2, 1, 2, 0x10, 1],
        vec![11, 8, 1],
    ]
}

/// A member's address.
fn member_url(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    quorate_rpc::parse_member_url(text).is_ok_and(|(node_id, address)| {
        let again = quorate_rpc::parse_member_url(&format!("{node_id}@{address}"));
        assert!(
            address.starts_with('/') || again == Ok((node_id, address.clone())),
            "{address} does not read back"
        );
        true
    })
}

fn member_url_seeds() -> Vec<Vec<u8>> {
    let public = figures::key(3).public_key(secp256k1::SECP256K1);
    let node_id = quorate_chain::NodeId::of(&public);
    let point =
        alloy_primitives::hex::encode(public.serialize_uncompressed().get(1..).unwrap_or_default());
    vec![
        format!("{node_id}@10.0.0.1:30303").into_bytes(),
        format!("enode://{point}@[::1]:30303?discport=0").into_bytes(),
        b"/dns4/node/tcp/1/p2p/16Uiu2HAkykwoBxwyvoEbaEkuKMeKrmJDPZ2uKFPUKtqd2JbGHUNH".to_vec(),
    ]
}
