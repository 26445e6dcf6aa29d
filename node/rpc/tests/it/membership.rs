//! The membership over JSON-RPC and gRPC.

mod grpc;

use quorate_chain::{MemberRole, NodeId};
use quorate_proto::v1;
use quorate_proto::v1::membership_client::MembershipClient;
use quorate_proto::v1::membership_fault::Reason;
use quorate_rpc::Namespace;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::chain::{Account, TestNode};
use crate::client::{call, error, request};
use crate::members::with_a_past;

fn node_id(n: u8) -> NodeId {
    Account::number(n).node_id()
}

fn enode(n: u8, place: &str) -> String {
    let key = secp256k1::PublicKey::from_slice(node_id(n).as_bytes()).unwrap();
    format!(
        "enode://{}@{place}",
        hex::encode(&key.serialize_uncompressed()[1..])
    )
}

async fn connect(node: &TestNode) -> MembershipClient<Channel> {
    MembershipClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap()
}

fn fault(status: &Status) -> v1::MembershipFault {
    quorate_rpc::membership_fault(status).unwrap()
}

/// A node that leads, with two more voters and a learner of raft id 4.
async fn consortium() -> TestNode {
    let node = TestNode::start().await;
    let add = |n: u8, role: &str| json!({"nodeId": node_id(n), "address": format!("node{n}:30303"), "role": role});
    let change =
        json!([{"add": [add(2, "voter"), add(3, "voter"), add(4, "learner")], "force": true}]);
    let report = call(node.rpc, "raft_changeMembership", change).await;
    assert_eq!(report["added"], json!([2, 3, 4]));
    assert_eq!(report["joint"], json!(true));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_promoted_and_removed_with_quorums_names() {
    let node = consortium().await;
    let rpc = node.rpc;
    let url = enode(5, "10.0.0.5:21000?discport=0&raftport=50400");
    assert_eq!(call(rpc, "raft_addPeer", json!([url])).await, 5);
    let url = format!("{}@node6:30303", node_id(6));
    assert_eq!(call(rpc, "raft_addLearner", json!([url])).await, 6);
    let url = "/dns4/node7/tcp/30303";
    let options = json!({"nodeId": node_id(7), "organisation": "Seven"});
    assert_eq!(call(rpc, "raft_addLearner", json!([url, options])).await, 7);

    let members = call(rpc, "raft_cluster", json!([])).await;
    let shown: Vec<(u64, &str, &str, u64)> = members
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["raftId"].as_u64().unwrap(),
                m["role"].as_str().unwrap(),
                m["hostname"].as_str().unwrap(),
                m["p2pPort"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (1, "minter", "node1", 30_303),
            (2, "verifier", "node2", 30_303),
            (3, "verifier", "node3", 30_303),
            (4, "learner", "node4", 30_303),
            (5, "verifier", "10.0.0.5", 21_000),
            (6, "learner", "node6", 30_303),
            (7, "learner", "node7", 30_303),
        ]
    );
    assert_eq!(members[6]["organisation"], "Seven");
    assert_eq!(
        (&members[6]["leaving"], &members[6]["lag"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(
        (&members[0]["nodeActive"], &members[0]["lag"]),
        (&json!(true), &json!(0))
    );

    // Numbers may come as text, as Quorum's own console sends them.
    assert_eq!(call(rpc, "raft_promoteToPeer", json!([6])).await, true);
    assert_eq!(call(rpc, "raft_promoteToPeer", json!(["7"])).await, true);
    assert_eq!(
        call(rpc, "raft_removePeer", json!(["0x5"])).await,
        Value::Null
    );
    let url = enode(6, "anywhere:1");
    assert_eq!(call(rpc, "raft_getRaftId", json!([url])).await, 6);
    assert_eq!(call(rpc, "raft_getRaftId", json!([node_id(7)])).await, 7);
    let gone = enode(5, "10.0.0.5:21000");
    assert_eq!(
        error(rpc, "raft_getRaftId", json!([gone])).await.1,
        format!("node not found in the cluster: {gone}")
    );
    // The removed one comes back, under another id.
    assert_eq!(call(rpc, "raft_addLearner", json!([gone])).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn quorums_refusals_keep_their_words() {
    let node = consortium().await;
    let rpc = node.rpc;
    let cases = [
        (
            "raft_addPeer",
            json!([enode(2, "elsewhere:1")]),
            -32_602,
            "node with this enode has already been added to the cluster",
        ),
        (
            "raft_addLearner",
            json!([enode(5, "node2:30303")]),
            -32_602,
            "with raft ID 2 is already using node2:30303",
        ),
        (
            "raft_promoteToPeer",
            json!([2]),
            -32_000,
            "2 is not a learner. only learner can be promoted to peer",
        ),
        (
            "raft_promoteToPeer",
            json!([99]),
            -32_000,
            "99 is not a learner. only learner can be promoted to peer",
        ),
        (
            "raft_removePeer",
            json!([99]),
            -32_001,
            "no member has raft id 99",
        ),
        (
            "raft_removePeer",
            json!([0]),
            -32_602,
            "invalid argument raftId: a raft id must be a number, at least 1",
        ),
        ("raft_removePeer", json!([]), -32_602, "missing"),
        (
            "raft_addPeer",
            json!(["node5:30303"]),
            -32_602,
            "invalid argument url: must be enode://",
        ),
        (
            "raft_addPeer",
            json!([enode(5, "node5:30303"), {"nodeId": node_id(6)}]),
            -32_602,
            "is another than that of the URL",
        ),
        (
            "raft_addPeer",
            json!([enode(5, "node5:30303"), {"nodeID": node_id(5)}]),
            -32_602,
            "unknown field",
        ),
        (
            "raft_transferLeadership",
            json!([4]),
            -32_602,
            "raft id 4 is a learner and cannot lead",
        ),
        (
            "raft_changeMembership",
            json!([{}]),
            -32_602,
            "invalid argument steps: there is nothing to do",
        ),
        (
            "raft_changeMembership",
            json!([{"remove": [4], "ifTableIndex": 77}]),
            -32_000,
            "the member table has moved from index 77 to 1",
        ),
        (
            "raft_changeMembership",
            json!([{"remove": [4], "promote": [4]}]),
            -32_602,
            "raft id 4 is named twice in this change",
        ),
        (
            "raft_changeMembership",
            json!([{"remove": [4], "changeId": "0x12"}]),
            -32_602,
            "a change id must be 16 bytes in hexadecimal",
        ),
    ];
    for (method, params, code, text) in cases {
        let (got, message, _) = error(rpc, method, params.clone()).await;
        assert_eq!(got, code, "{method} {params}: {message}");
        assert!(message.contains(text), "{method} {params}: {message}");
    }
    assert_eq!(node.membership.applied(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_voter_of_a_consortium_of_one_is_told_to_learn_first() {
    let node = TestNode::start().await;
    let url = enode(2, "node2:30303");
    let (code, message, data) = error(node.rpc, "raft_addPeer", json!([url])).await;
    assert_eq!(code, -32_000);
    assert!(
        message.contains("raft_addLearner") && message.contains("raft_promoteToPeer"),
        "{message}"
    );
    assert_eq!(
        data,
        json!({"reason": "quorumAtRisk", "retryable": false, "needed": 2, "reachable": 1, "unreachable": []})
    );
    assert_eq!(call(node.rpc, "raft_addLearner", json!([url])).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_may_only_remove_itself() {
    let node = consortium().await;
    node.membership.own_role(MemberRole::Learner);
    let rpc = node.rpc;
    assert_eq!(node.membership.applied(), 1);
    for (method, params) in [
        ("raft_addPeer", json!([enode(5, "node5:1")])),
        ("raft_addLearner", json!([enode(5, "node5:1")])),
        ("raft_promoteToPeer", json!([4])),
        ("raft_removePeer", json!([4])),
    ] {
        let (code, message, data) = error(rpc, method, params).await;
        assert_eq!(
            (code, &data["reason"]),
            (-32_000, &json!("learnerNotAllowed")),
            "{method}"
        );
        assert!(message.contains("learner"), "{message}");
    }
    assert_eq!(node.membership.applied(), 1);
    assert_eq!(call(rpc, "raft_removePeer", json!([1])).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_may_do_nothing_and_shows_no_role() {
    let node = consortium().await;
    call(node.rpc, "raft_removePeer", json!([1])).await;
    let text = "node not part of raft cluster. operations not allowed";
    for (method, params) in [
        ("raft_addPeer", json!([enode(5, "node5:1")])),
        ("raft_addLearner", json!([enode(5, "node5:1")])),
        ("raft_promoteToPeer", json!([4])),
        ("raft_removePeer", json!([4])),
        ("raft_leader", json!([])),
        ("raft_getRaftId", json!([node_id(2)])),
        ("raft_changeMembership", json!([{"remove": [4]}])),
        ("raft_transferLeadership", json!([])),
    ] {
        let (code, message, _) = error(node.rpc, method, params).await;
        assert_eq!((code, message.as_str()), (-32_000, text), "{method}");
    }
    assert_eq!(call(node.rpc, "raft_role", json!([])).await, "");
    assert_eq!(call(node.rpc, "raft_cluster", json!([])).await, json!([]));
    // Looking is allowed.
    let view = call(node.rpc, "raft_membership", json!([])).await;
    assert_eq!(view["raftId"], Value::Null);
    assert_eq!(view["removed"][0]["raftId"], 1);
    let mut client = connect(&node).await;
    let status = client.remove(v1::RemoveMembersRequest {
        raft_ids: vec![4],
        ..v1::RemoveMembersRequest::default()
    });
    let status = status.await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, text)
    );
    assert_eq!(fault(&status).reason(), Reason::NotAMember);
    let ledger = v1::ledger_client::LedgerClient::connect(format!("http://{}", node.grpc)).await;
    let status = ledger.unwrap().status(v1::StatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().role, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_are_made_at_once_and_the_same_id_makes_them_once() {
    let node = consortium().await;
    let change = json!([{
        "add": [{"nodeId": node_id(5), "address": "node5:1", "organisation": "Five"}, enode(6, "node2:30303")],
        "promote": [4],
        "demote": [3],
        "setAddress": [{"raftId": 1, "address": "/ip4/10.0.0.1/tcp/1"}],
        "remove": [2],
        "changeId": "ab".repeat(16),
        "ifTableIndex": 1,
    }]);
    let report = call(node.rpc, "raft_changeMembership", change.clone()).await;
    let expected = json!({
        "changeId": format!("0x{}", "ab".repeat(16)),
        "tableIndex": 2,
        "added": [5, 6],
        "joint": true,
    });
    assert_eq!(report, expected);
    assert_eq!(
        call(node.rpc, "raft_changeMembership", change).await,
        expected
    );
    assert_eq!(node.membership.applied(), 2);
    let view = call(node.rpc, "raft_membership", json!([])).await;
    let shown: Vec<Value> = view["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| json!([m["raftId"], m["role"], m["address"], m["organisation"]]))
        .collect();
    assert_eq!(
        Value::from(shown),
        json!([
            [1, "voter", "/ip4/10.0.0.1/tcp/1", "Test"],
            [3, "learner", "node3:30303", ""],
            [4, "voter", "node4:30303", ""],
            [5, "learner", "node5:1", "Five"],
            [6, "learner", "node2:30303", ""],
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_view_is_the_same_over_both_servers() {
    let node = TestNode::start().await;
    node.membership.edit(|view| with_a_past(view, node_id(9)));
    let view = call(node.rpc, "raft_membership", json!([])).await;
    assert_eq!(
        view,
        json!({
            "tableIndex": 0,
            "joint": false,
            "term": node.raft.status().term.0,
            "leader": 1,
            "nextRaftId": 2,
            "raftId": 1,
            "members": [{
                "raftId": 1, "nodeId": node_id(101), "address": "node1:30303", "organisation": "Test", "role": "voter",
                "leaving": false, "outgoingVoter": false, "connected": true, "lag": 0,
                "enclaveKeys": [
                    {"key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=", "hybridDigest": null},
                    {"key": "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=", "hybridDigest": format!("0x{}", "08".repeat(32))},
                ],
                "keysSequence": 3,
            }],
            "removed": [{"raftId": 9, "nodeId": node_id(9), "organisation": "Gone"}],
            "breaks": [{"raftIndex": 70, "term": 4, "survivor": 1, "lost": [7, 8], "note": "the data centre burnt down"}],
            "applicants": [{"nodeId": node_id(9), "addresses": ["/ip4/10.0.0.9/tcp/30303"], "lastSeen": 1_700_000_000}],
        })
    );
    let listed = connect(&node)
        .await
        .list(v1::ListMembersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed,
        v1::MembershipView {
            table_index: 0,
            joint: false,
            term: node.raft.status().term.0,
            leader: 1,
            next_raft_id: 2,
            this_raft_id: 1,
            members: vec![v1::MemberState {
                raft_id: 1,
                node_id: node_id(101).as_bytes().to_vec().into(),
                address: "node1:30303".into(),
                organisation: "Test".into(),
                role: v1::MemberRole::Voter.into(),
                leaving: false,
                outgoing_voter: false,
                connected: true,
                lag: Some(0),
                enclave_keys: vec![
                    v1::EnclaveKey {
                        key: vec![7; 32].into(),
                        hybrid_digest: Vec::new().into(),
                    },
                    v1::EnclaveKey {
                        key: vec![9; 32].into(),
                        hybrid_digest: vec![8; 32].into(),
                    },
                ],
                keys_sequence: 3,
            }],
            removed: vec![v1::RemovedMember {
                raft_id: 9,
                node_id: node_id(9).as_bytes().to_vec().into(),
                organisation: "Gone".into(),
            }],
            breaks: vec![v1::BreakRecord {
                raft_index: 70,
                term: 4,
                survivor: 1,
                lost: vec![7, 8],
                note: "the data centre burnt down".into(),
            }],
            applicants: vec![v1::Applicant {
                node_id: node_id(9).as_bytes().to_vec().into(),
                addresses: vec!["/ip4/10.0.0.9/tcp/30303".into()],
                last_seen: 1_700_000_000,
            }],
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_rpc_cannot_change_members_where_its_namespace_is_off() {
    let node =
        TestNode::start_with(|config| config.namespaces.retain(|n| *n != Namespace::Raft)).await;
    for method in [
        "raft_addPeer",
        "raft_addLearner",
        "raft_promoteToPeer",
        "raft_removePeer",
        "raft_changeMembership",
        "raft_transferLeadership",
        "raft_membership",
        "raft_cluster",
        "raft_getRaftId",
    ] {
        let answer = request(node.rpc, method, json!([1])).await;
        assert_eq!(answer["error"]["code"], -32_601, "{method}: {answer}");
    }
}
