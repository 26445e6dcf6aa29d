//! What clients send, by itself: protobuf messages, what makes a JSON-RPC request private, requests to the surface for third
//! parties, and members' addresses as operators write them.

use futures::FutureExt as _;
use prost::Message as _;
use quorate_enclave::PayloadHash;
use quorate_proto::v1;
use quorate_rpc::fuzzing;
use serde_json::json;

use super::private_node::{PrivateNode, other_key, own_key};
use crate::{
    Memory, Target,
    cutter::{Cutter, put_piece},
    figures,
};

pub(crate) const TARGETS: &[Target] = &[
    Target::new(
        "rpc-private",
        fuzzing::private_arguments,
        private_seeds,
        Memory::DECODER,
    ),
    Target::new(
        "rpc-third-party",
        third_party,
        third_party_seeds,
        Memory::DECODER,
    ),
    Target::new("rpc-messages", messages, messages_seeds, Memory::DECODER),
    Target::new(
        "rpc-member-url",
        member_url,
        member_url_seeds,
        Memory::DECODER,
    ),
];

/// A change of members.
pub(super) fn change() -> v1::ChangeMembersRequest {
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

const MESSAGES: [fn(&[u8]) -> bool; 19] = [
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
    message::<v1::SubmitPrivateTransactionRequest>,
    message::<v1::EraseRequest>,
    message::<v1::GiveUpRequest>,
    message::<v1::CreateGroupRequest>,
    message::<v1::FindGroupsRequest>,
    message::<v1::PrivateReceiptRequest>,
    message::<v1::PayloadResponse>,
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

/// Requests with all the fields, and with few of them.
fn private_seeds() -> Vec<Vec<u8>> {
    [
        json!({ "privateFor": [other_key()] }),
        json!({ "from": figures::ECHO, "to": figures::ECHO, "data": "0x01", "privateFrom": own_key(),
            "privateFor": [other_key(), "trade"], "privacyFlag": "0x2", "mandatoryFor": [other_key()],
            "restriction": "restricted", "acknowledgements": "mandatory", "publicForm": "marker" }),
        json!({ "privateFor": [], "acknowledgements": { "of": [other_key()] } }),
        json!({ "privateFor": [], "acknowledgements": { "k": 2 }, "publicForm": "quorum" }),
    ]
    .map(|seed| seed.to_string().into_bytes())
    .to_vec()
}

/// Headers that mean something, with what stands before each.
const HEADERS: [&str; 5] = ["content-type", "accept", "c11n-from", "c11n-to", "c11n-key"];

/// GET or POST, then path and query, then the value of each header, then the body. Taken: an answer that is no refusal.
fn third_party(bytes: &[u8]) -> bool {
    let Some(node) = PrivateNode::begin() else {
        panic!("the private side does not begin");
    };
    let mut input = Cutter(bytes);
    let method = if input.byte() & 1 == 0 { "GET" } else { "POST" };
    let mut request = http::Request::builder().method(method).uri(input.piece());
    for name in HEADERS {
        let value = input.piece();
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let body = bytes::Bytes::copy_from_slice(input.0);
    let Ok(request) = request.body(body) else {
        // No HTTP at all.
        return false;
    };
    match fuzzing::third_party(&node, request).now_or_never() {
        Some(status) => {
            assert!(status.as_u16() < 500 || status.as_u16() == 503, "{status}");
            status.is_success()
        }
        None => panic!("nothing here waits"),
    }
}

/// A request for each path.
fn third_party_seeds() -> Vec<Vec<u8>> {
    let hash = PayloadHash::of(&PrivateNode::payload()).to_string();
    let escaped = hash.replace('/', "%2F").replace('+', "%2B");
    let parties = json!({ "payload": "AAE=", "from": own_key(), "to": [other_key()], "privacyFlag": 2,
        "mandatoryRecipients": [other_key()], "hash": hash, "execHash": "", "affectedContractTransactions": [] });
    let wanted = json!({ "key": hash, "to": own_key() }).to_string();
    let (parties, key) = (parties.to_string(), other_key().to_string());
    let octets = [
        "application/octet-stream",
        "",
        "",
        key.as_str(),
        hash.as_str(),
    ];
    let json = [
        "application/vnd.tessera-4.0+json",
        "application/json",
        "",
        "",
        "",
    ];
    let of = |path: &str| format!("/transaction/{escaped}{path}");
    let raw = "\0\u{1}payload";
    [
        (0, "/upcheck".to_owned(), json, ""),
        (0, "/version/api".to_owned(), json, ""),
        (0, "/keys".to_owned(), json, ""),
        (0, "/partyinfo/keys".to_owned(), json, ""),
        (1, "/send".to_owned(), json, parties.as_str()),
        (1, "/sendraw".to_owned(), octets, raw),
        (1, "/storeraw".to_owned(), json, parties.as_str()),
        (1, "/sendsignedtx".to_owned(), json, parties.as_str()),
        (1, "/receive".to_owned(), json, wanted.as_str()),
        (0, "/receiveraw".to_owned(), octets, ""),
        (0, of("?to=A"), json, ""),
        (0, of("/isSender"), json, ""),
        (0, of("/participants"), json, ""),
        (1, "/delete".to_owned(), json, wanted.as_str()),
    ]
    .iter()
    .map(|(method, path, headers, body)| {
        let mut seed = vec![*method];
        put_piece(&mut seed, path.as_bytes());
        headers
            .iter()
            .for_each(|value| put_piece(&mut seed, value.as_bytes()));
        seed.extend_from_slice(body.as_bytes());
        seed
    })
    .collect()
}
