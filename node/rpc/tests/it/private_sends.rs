//! Sending private transactions over JSON-RPC.

use std::sync::Arc;

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex};
use quorate_chain::{
    PRIVACY_PRECOMPILE, PublicForm, Transaction, decode_transaction, private_reference,
    quorum_private_hash, quorum_private_transaction,
};
use quorate_enclave::{PayloadHash, PrivacyFlag};
use quorate_rpc::{Acknowledgements, PayloadView, PrivacyError, PrivateArguments, ReceivedPayload};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::chain::{Account, TestNode, raw, wait_until};
use crate::client::{call, error, number, request};
use crate::parties::{Asked, FakePrivacy, PRIVATE_STORER, Plan, our_key, received, their_key};

const INPUT: &str = "0x0000000000000000000000000000000000000000000000000000000000000005";

fn sender() -> Account {
    Account::number(1)
}

/// A private call, with further fields of the request.
fn private(more: Value) -> Value {
    let mut request = json!({
        "from": sender().address,
        "to": PRIVATE_STORER,
        "data": INPUT,
        "privateFor": [their_key()],
    });
    let fields = request.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    request
}

async fn sent(node: &TestNode, request: Value) -> Transaction {
    let hash: B256 = call(node.rpc, "eth_sendTransaction", json!([request]))
        .await
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    node.committed(hash).await;
    let bytes = call(node.rpc, "eth_getRawTransactionByHash", json!([hash])).await;
    let bytes: Bytes = bytes.as_str().unwrap().parse().unwrap();
    decode_transaction(&bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_transaction_goes_on_the_chain_as_a_marker() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let arguments = json!({
        "privateFrom": our_key(),
        "privateFor": [their_key(), "loans"],
        "privacyFlag": 2,
        "mandatoryFor": [their_key()],
        "acknowledgements": "mandatory",
        "gas": "0x30000",
    });
    let tx = sent(&node, private(arguments)).await;

    let reference = private_reference(&tx).unwrap();
    assert_eq!(reference.form, PublicForm::Marker);
    assert_eq!(reference.tags, [[7; 8]; 4]);
    assert_eq!(tx.to(), Some(PRIVACY_PRECOMPILE));
    assert_eq!(tx.value(), U256::ZERO);
    // The public side costs what it carries, not what the private call may use.
    assert!(tx.gas_limit() < 0x30000 && tx.gas_limit() > 21_000);

    let sends = privacy.sends();
    let [send] = sends.as_slice() else {
        panic!("one payload: {sends:?}");
    };
    assert_eq!((send.from, send.nonce), (sender().address, 0));
    assert_eq!((send.to, send.gas_limit), (Some(PRIVATE_STORER), 0x30000));
    assert_eq!(send.data.to_string(), INPUT);
    assert_eq!(send.form, PublicForm::Marker);
    let expected = PrivateArguments {
        private_from: Some(our_key()),
        private_for: vec![their_key().to_string(), "loans".into()],
        privacy_flag: PrivacyFlag::MandatoryParties,
        mandatory_for: vec![their_key()],
        acknowledgements: Acknowledgements::Mandatory,
    };
    assert_eq!(send.arguments, expected);

    let receipt = call(node.rpc, "eth_getTransactionReceipt", json!([tx.hash()])).await;
    assert_eq!(receipt["isPrivacyMarkerTransaction"], true);
    assert_eq!(
        (&receipt["status"], &receipt["logs"]),
        (&json!("0x1"), &json!([]))
    );
    assert_eq!(number(&receipt["gasUsed"]), tx.gas_limit());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_for_quorums_form_and_the_node_may_be_set_to_it() {
    let privacy = FakePrivacy::party(PublicForm::Quorum);
    let node = TestNode::start_private(privacy.clone()).await;
    for (nonce, more) in [
        (0, json!({})),
        (1, json!({"publicForm": "quorum", "gasPrice": "0x0"})),
    ] {
        let tx = sent(&node, private(more)).await;
        let reference = private_reference(&tx).unwrap();
        assert_eq!((reference.form, tx.nonce()), (PublicForm::Quorum, nonce));
        assert_eq!((tx.to(), tx.input().len()), (Some(PRIVATE_STORER), 64));
        let shown = call(node.rpc, "eth_getTransactionByHash", json!([tx.hash()])).await;
        assert!(
            matches!(shown["v"].as_str(), Some("0x25" | "0x26")),
            "{shown}"
        );
        assert_eq!(shown["from"], json!(sender().address));
        let receipt = call(node.rpc, "eth_getTransactionReceipt", json!([tx.hash()])).await;
        assert_eq!(receipt.get("isPrivacyMarkerTransaction"), None);
    }
    // The gas limit that was left out is that of the private execution, which is that of the transaction here.
    assert!(privacy.sends()[0].gas_limit > 26_000);
    let marker = sent(&node, private(json!({"publicForm": "marker"}))).await;
    assert_eq!(marker.to(), Some(PRIVACY_PRECOMPILE));
    // A marker is of any type that fits.
    for (index, tx_type) in ["0x0", "0x1", "0x2"].into_iter().enumerate() {
        let request = json!({"publicForm": "marker", "type": tx_type, "gasPrice": (index < 2).then_some("0x0")});
        let marker = sent(&node, private(request)).await;
        assert_eq!(usize::from(marker.ty()), index);
        assert!(private_reference(&marker).is_some());
    }
    // Parties may be the sender alone.
    let alone = sent(&node, private(json!({"privateFor": []}))).await;
    assert_eq!(alone.nonce(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_distributed_leaves_no_trace_and_no_hole() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    privacy.plan(Plan::Fail(PrivacyError::NotAcknowledged {
        nodes: vec!["Other (0x02)".into()],
        waited_ms: 9,
    }));
    let (code, message, data) =
        error(node.rpc, "eth_sendTransaction", json!([private(json!({}))])).await;
    assert_eq!(code, -32_016);
    assert!(message.contains("Other (0x02)"), "{message}");
    assert_eq!(
        data,
        json!({"nodes": ["Other (0x02)"], "waitedMs": 9, "reason": "notAcknowledged", "retryable": true})
    );
    assert_eq!(node.pool.counts().ready, 0);
    assert_eq!(sent(&node, private(json!({}))).await.nonce(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_recipient_does_not_hold_up_the_accounts_other_transactions() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = Arc::new(TestNode::start_private(privacy.clone()).await);
    let told = Arc::new(Notify::new());
    privacy.plan(Plan::Hold(told.clone()));
    let shared = node.clone();
    let slow = tokio::spawn(async move { sent(&shared, private(json!({}))).await });
    wait_until("the first is being distributed", || {
        privacy.asked().len() == 1
    })
    .await;

    let second = sent(&node, private(json!({}))).await;
    let public = json!({"from": sender().address, "to": Address::repeat_byte(1), "value": "0x1"});
    let third = sent(&node, public).await;
    told.notify_one();
    let first = slow.await.unwrap();
    assert_eq!((second.nonce(), third.nonce(), first.nonce()), (0, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nonce_is_certain_where_the_created_address_matters() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = Arc::new(TestNode::start_private(privacy.clone()).await);
    let told = Arc::new(Notify::new());
    privacy.plan(Plan::Hold(told.clone()));
    let creation = json!({
        "from": sender().address, "data": "0x6000", "gas": "0x40000", "privateFor": [their_key()], "privacyFlag": 3,
    });
    let shared = node.clone();
    let first = tokio::spawn(async move { sent(&shared, creation).await });
    wait_until("the creation is being distributed", || {
        privacy.asked().len() == 1
    })
    .await;
    let shared = node.clone();
    let second = tokio::spawn(async move { sent(&shared, private(json!({}))).await });
    wait_until("the call has been distributed", || {
        privacy.asked().len() == 2
    })
    .await;
    assert_eq!(node.pool.counts().ready, 0);
    told.notify_one();
    assert_eq!(first.await.unwrap().nonce(), privacy.sends()[0].nonce);
    assert_eq!(second.await.unwrap().nonce(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_private_is_refused_before_anyone_hears_of_it() {
    let privacy = FakePrivacy::party(PublicForm::Quorum);
    let node = TestNode::start_private(privacy.clone()).await;
    let cases = [
        (
            json!({"value": "0x1"}),
            -32_000,
            "ether value is not supported for private transactions",
        ),
        (
            json!({"value": "0x1", "data": "0x"}),
            -32_000,
            "ether value is not supported",
        ),
        (json!({"data": "0x"}), -32_602, "must have data"),
        (json!({"privacyFlag": 4}), -32_602, "invalid privacyFlag"),
        (
            json!({"privacyFlag": 2}),
            -32_000,
            "missing mandatory recipients data",
        ),
        (
            json!({"mandatoryFor": [their_key()]}),
            -32_000,
            "PrivacyFlag=2(MandatoryRecipients)",
        ),
        (
            json!({"privateFor": null, "privateFrom": our_key()}),
            -32_602,
            "privateFor",
        ),
        (json!({"chainId": "0x1"}), -32_602, "is not this chain's"),
        (json!({"type": "0x2"}), -32_602, "type 0"),
        (
            json!({"publicForm": "marker", "type": "0x4"}),
            -32_602,
            "type 0, 1 or 2",
        ),
        (
            json!({"publicForm": "marker", "maxFeePerBlobGas": "0x1"}),
            -32_602,
            "no blobs",
        ),
        (json!({"publicForm": "plain"}), -32_602, "publicForm"),
        (
            json!({"to": null, "gas": "0x620c"}),
            800,
            "intrinsic gas too low",
        ),
        (
            json!({"from": Account::number(3).address}),
            -32_000,
            "unknown account",
        ),
        (
            json!({"to": crate::parties::PRIVATE_REVERTER}),
            3,
            "execution reverted: no",
        ),
    ];
    for (more, code, text) in cases {
        let request = private(more.clone());
        let refused = error(node.rpc, "eth_sendTransaction", json!([request])).await;
        assert_eq!(refused.0, code, "{more}: {refused:?}");
        assert!(refused.1.contains(text), "{more}: {refused:?}");
    }
    assert_eq!(privacy.asked(), []);
    assert_eq!(node.pool.counts().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_the_client_signs_is_distributed_and_sent() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let client = Account::number(3);
    // Stored first, as the third-party interface or eth_fillTransaction does.
    let fill = json!([{
        "from": client.address, "to": PRIVATE_STORER, "data": INPUT, "privateFor": [their_key()], "privateFrom": our_key(),
    }]);
    let filled = call(node.rpc, "eth_fillTransaction", fill).await;
    assert_eq!(
        privacy.asked(),
        [Asked::StoreRaw(INPUT.parse().unwrap(), Some(our_key()))]
    );
    let (tx, unsigned) = (&filled["tx"], filled["raw"].as_str().unwrap());
    assert_eq!(
        (&tx["v"], &tx["r"], &tx["s"]),
        (&json!("0x0"), &json!("0x0"), &json!("0x0"))
    );
    assert!(unsigned.ends_with("808080"), "{unsigned}");
    let hash = hex::decode(tx["input"].as_str().unwrap()).unwrap();
    assert_eq!((hash.len(), number(&tx["nonce"])), (64, 0));

    let signed = client.quorum_private(0, TxKind::Call(PRIVATE_STORER), &hash);
    let to = json!({"privateFor": [their_key()], "privacyFlag": 1});
    let answer = call(
        node.rpc,
        "eth_sendRawPrivateTransaction",
        json!([raw(&signed), to]),
    )
    .await;
    assert_eq!(answer, json!(signed.hash()));
    node.committed(*signed.hash()).await;
    let Some(Asked::Stored(stored)) = privacy.asked().pop() else {
        panic!("the stored payload was distributed");
    };
    assert_eq!(stored.hash.as_bytes().as_slice(), hash);
    assert_eq!(stored.arguments.privacy_flag, PrivacyFlag::PartyProtection);
    let parts = stored.transaction.unwrap();
    assert_eq!((parts.from, parts.nonce), (client.address, 0));
    assert_eq!((parts.to, parts.gas_limit), (Some(PRIVATE_STORER), 200_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_transaction_that_cannot_be_is_refused_before_its_payload_moves() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let client = Account::number(3);
    node.commit(&[client.transfer(0, client.address, 0)]).await;
    let to = TxKind::Call(PRIVATE_STORER);
    let good = raw(&client.quorum_private(1, to, &[1; 64]));
    let args = json!({"privateFor": [their_key()]});
    let cases = [
        (
            raw(&client.legacy(1, to, &[1; 64])),
            args.clone(),
            "transaction is not private",
        ),
        (
            raw(&client.quorum_private(0, to, &[1; 64])),
            args.clone(),
            "nonce",
        ),
        (good.clone(), json!({}), "privateFor"),
        (
            good.clone(),
            json!({"privateFor": [], "privacyFlag": 9}),
            "invalid privacyFlag",
        ),
        (Bytes::from_static(&[1, 2]), args.clone(), "transaction"),
    ];
    for (raw, args, text) in cases {
        let method = "eth_sendRawPrivateTransaction";
        let refused = error(node.rpc, method, json!([raw, args])).await;
        assert!(refused.1.contains(text), "{refused:?}, not {text}");
    }
    assert_eq!(privacy.asked(), []);
    // A payload that this node does not hold.
    let refused = error(
        node.rpc,
        "eth_sendRawPrivateTransaction",
        json!([good, args]),
    )
    .await;
    assert_eq!(refused.0, -32_001);
    assert_eq!(node.pool.counts().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn quorums_form_is_not_taken_where_public_transactions_are() {
    for node in [
        TestNode::start().await,
        TestNode::start_private(FakePrivacy::stranger()).await,
    ] {
        let tx = Account::number(3).quorum_private(0, TxKind::Create, &[1; 64]);
        for method in ["eth_sendRawTransaction", "eth_sendRawTransactionSync"] {
            let (code, message, _) = error(node.rpc, method, json!([raw(&tx)])).await;
            assert_eq!(code, -32_000);
            assert!(
                message.contains("eth_sendRawPrivateTransaction"),
                "{message}"
            );
        }
        assert_eq!(node.pool.counts().ready, 0);
    }
}

/// As Tessera's users do: `/send` first, then the transaction as if it were public.
#[tokio::test(flavor = "multi_thread")]
async fn quorums_form_is_taken_if_this_node_sent_its_payload() {
    let privacy = FakePrivacy::party(PublicForm::Quorum);
    let node = TestNode::start_private(privacy.clone()).await;
    let tx = Account::number(3).quorum_private(0, TxKind::Create, &[1; 64]);
    let hash = PayloadHash::from_bytes([1; 64]);
    for we_sent in [false, true] {
        let payload = ReceivedPayload {
            we_sent,
            ..received(Bytes::new())
        };
        privacy.put(hash, PayloadView::Party(Box::new(payload)));
        let answer = request(node.rpc, "eth_sendRawTransaction", json!([raw(&tx)])).await;
        assert_eq!(answer["error"].is_null(), we_sent, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_signs_what_the_client_will_send() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    // Data in the clear is stored first.
    let answer = call(node.rpc, "eth_signTransaction", json!([private(json!({}))])).await;
    let signed: Bytes = answer["raw"].as_str().unwrap().parse().unwrap();
    let tx = decode_transaction(&signed).unwrap();
    let reference = private_reference(&tx).unwrap();
    assert_eq!(reference.form, PublicForm::Quorum);
    assert_eq!(answer["tx"]["hash"], json!(tx.hash()));
    // The hash of a stored payload is taken as it is, and signed for the same gas.
    let hash = hex::encode_prefixed(reference.hash);
    let again = private(json!({"data": hash}));
    let again = call(node.rpc, "eth_signTransaction", json!([again])).await;
    assert_eq!(again["raw"], answer["raw"]);
    assert_eq!(privacy.asked().len(), 1);

    let send = json!([signed, {"privateFor": [their_key()]}]);
    call(node.rpc, "eth_sendRawPrivateTransaction", send).await;
    node.committed(*tx.hash()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_transaction_is_filled_without_a_signature() {
    let node = TestNode::start().await;
    let request =
        json!([{"from": Account::number(5).address, "to": PRIVATE_STORER, "value": "0x1"}]);
    let filled = call(node.rpc, "eth_fillTransaction", request).await;
    assert_eq!(
        (&filled["tx"]["type"], &filled["tx"]["r"]),
        (&json!("0x2"), &json!("0x0"))
    );
    assert_eq!(number(&filled["tx"]["gas"]), 21_000);
    let legacy =
        json!([{"from": Account::number(5).address, "to": PRIVATE_STORER, "gasPrice": "0x0"}]);
    let filled = call(node.rpc, "eth_fillTransaction", legacy).await;
    assert_eq!(
        (&filled["tx"]["type"], &filled["tx"]["v"]),
        (&json!("0x0"), &json!("0x0"))
    );
    assert!(filled["raw"].as_str().unwrap().ends_with("808080"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_signed_transaction_is_distributed_as_a_payload() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(privacy.clone()).await;
    let client = Account::number(3);
    let inner = client.quorum_private(0, TxKind::Create, &[1; 64]);
    let method = "eth_distributePrivateTransaction";
    let args = json!({"privateFor": [their_key()]});
    let hash = call(node.rpc, method, json!([raw(&inner), args])).await;
    let hash: Bytes = hash.as_str().unwrap().parse().unwrap();
    assert_eq!(hash.len(), 64);
    assert!(matches!(privacy.asked().as_slice(), [Asked::Signed(sent, _)] if *sent == raw(&inner)));
    // The client sends the marker itself, as any public transaction.
    let marker = client.call(0, PRIVACY_PRECOMPILE, 0, &hash);
    call(node.rpc, "eth_sendRawTransaction", json!([raw(&marker)])).await;
    node.committed(*marker.hash()).await;
    let public = raw(&client.legacy(1, TxKind::Create, &[1; 64]));
    let refused = error(node.rpc, method, json!([public, args])).await;
    assert!(refused.1.contains("transaction is not private"));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_distributions_at_once_are_refused() {
    let privacy = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_as(Some(privacy.clone()), |config| config.private_sends_max = 1);
    let node = Arc::new(node.await);
    let told = Arc::new(Notify::new());
    privacy.plan(Plan::Hold(told.clone()));
    let shared = node.clone();
    let first = tokio::spawn(async move { sent(&shared, private(json!({}))).await });
    wait_until("the first is being distributed", || {
        privacy.asked().len() == 1
    })
    .await;
    let refused = error(node.rpc, "eth_sendTransaction", json!([private(json!({}))])).await;
    assert_eq!(refused.0, -32_005);
    told.notify_one();
    first.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_nothing_private_is_sent_and_nothing_becomes_public() {
    let node = TestNode::start().await;
    let client = Account::number(3);
    let to = json!({"privateFor": []});
    let tx = raw(&client.quorum_private(0, TxKind::Create, &[1; 64]));
    let zeros = hex::encode_prefixed([0; 64]);
    let cases = [
        ("eth_sendTransaction", json!([private(json!({}))])),
        ("eth_signTransaction", json!([private(json!({}))])),
        ("eth_fillTransaction", json!([private(json!({}))])),
        ("eth_estimateGas", json!([private(json!({}))])),
        ("eth_sendRawPrivateTransaction", json!([tx, to])),
        ("eth_distributePrivateTransaction", json!([tx, to])),
        ("eth_getQuorumPayload", json!([zeros])),
        ("eth_getQuorumPayloadExtra", json!([zeros])),
        ("eth_getContractPrivacyMetadata", json!([PRIVATE_STORER])),
        ("eth_getPrivateTransactionByHash", json!([B256::ZERO])),
        ("eth_getPrivateTransactionReceipt", json!([B256::ZERO])),
        ("eth_getPrivacyPrecompileAddress", json!([])),
        ("eth_getPSI", json!([])),
        ("debug_privateStateRoot", json!(["latest"])),
    ];
    for (method, params) in cases {
        let (code, message, data) = error(node.rpc, method, params).await;
        assert_eq!(code, -32_000, "{method}: {message}");
        assert_eq!(
            message, "private transactions are switched off on this node",
            "{method}"
        );
        assert_eq!(data["reason"], "off");
    }
    assert_eq!(node.pool.counts().ready, 0);
}

#[test]
fn a_test_signature_is_of_quorums_form() {
    let account = Account::number(3);
    let tx = account.quorum_private(0, TxKind::Create, PayloadHash::of(b"x").as_bytes());
    let legacy = tx.as_legacy().unwrap().tx().clone();
    let again =
        quorum_private_transaction(legacy.clone(), account.sign(quorum_private_hash(&legacy)));
    assert_eq!(again.unwrap().hash(), tx.hash());
}
