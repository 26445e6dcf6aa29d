//! Extending private contracts, over JSON-RPC with Quorum's names and over gRPC.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use quorate_chain::{PRIVACY_PRECOMPILE, PublicForm, decode_transaction, private_reference};
use quorate_enclave::PayloadHash;
use quorate_privacy::{Extension, ExtensionState};
use quorate_proto::v1;
use quorate_proto::v1::contract_extension::State;
use quorate_proto::v1::privacy_client::PrivacyClient;
use quorate_rpc::{Acknowledgements, ExtensionAction, ExtensionSend, PrivacyError};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::chain::{Account, TestNode};
use crate::client::{call, error};
use crate::parties::{
    Asked, FakePrivacy, PRIVATE_STORER, Plan, our_key, record, their_key, their_node,
};

/// Where an extension is that a test puts there.
const KNOWN: Address = Address::repeat_byte(0xe1);
/// An account that this node does not sign for.
const ELSEWHERE: Address = Address::repeat_byte(0x77);

fn raw_bytes(bytes: impl AsRef<[u8]>) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes.as_ref())
}

fn sender() -> Address {
    Account::number(1).address
}

fn extension(id: Address, state: ExtensionState) -> Extension {
    Extension {
        id,
        contract: PRIVATE_STORER,
        newcomer: their_key(),
        newcomer_account: ELSEWHERE,
        initiator: sender(),
        initiator_key: our_key(),
        parties: BTreeSet::from([our_key()]),
        transaction: B256::repeat_byte(0x31),
        payload: PayloadHash::from_bytes([0x32; 64]),
        offered_at: 5,
        state,
        ended_at: (state != ExtensionState::Active).then_some(6),
    }
}

async fn start() -> (TestNode, Arc<FakePrivacy>, PrivacyClient<Channel>) {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let client = PrivacyClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap();
    (node, fake, client)
}

fn steps(fake: &FakePrivacy) -> Vec<ExtensionSend> {
    let steps = fake.asked().into_iter().filter_map(|asked| match asked {
        Asked::Extension(send) => Some(send),
        Asked::Distribute(_) | Asked::Stored(_) | Asked::Signed(..) | Asked::StoreRaw(..) => None,
    });
    steps.collect()
}

fn carrier() -> v1::ExtensionTransaction {
    v1::ExtensionTransaction {
        from: raw_bytes(sender()),
        ..v1::ExtensionTransaction::default()
    }
}

fn offering(transaction: v1::ExtensionTransaction) -> v1::OfferExtensionRequest {
    v1::OfferExtensionRequest {
        contract: raw_bytes(PRIVATE_STORER),
        newcomer: raw_bytes(their_key().as_bytes()),
        newcomer_account: raw_bytes(ELSEWHERE),
        transaction: Some(transaction),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_over_grpc_names_its_extension_and_waits_for_its_receipt() {
    let (node, fake, mut client) = start().await;
    let transaction = v1::ExtensionTransaction {
        nonce: Some(0),
        arguments: Some(v1::PrivateArguments {
            private_from: raw_bytes(our_key().as_bytes()),
            private_for: vec![their_key().to_string()],
            acknowledgements: Some(v1::AcknowledgementPolicy {
                policy: Some(v1::acknowledgement_policy::Policy::AtLeast(1)),
            }),
            ..v1::PrivateArguments::default()
        }),
        wait: true,
        ..carrier()
    };
    let answer = client
        .offer_extension(offering(transaction))
        .await
        .unwrap()
        .into_inner();
    let hash = B256::from_slice(&answer.transaction_hash);
    let at = node.ledger.locate(&hash).unwrap().unwrap();
    // The address of a contract that the transaction would have created.
    assert_eq!(answer.extension, raw_bytes(sender().create(0)));
    assert_eq!(answer.pending, [raw_bytes(their_node())]);
    assert_eq!(
        (answer.payload_hash.len(), answer.marker_data.len()),
        (64, 0)
    );
    // The fake executed nothing: no private side yet.
    assert_eq!(answer.receipt, None);
    let bytes = call(node.rpc, "eth_getRawTransactionByHash", json!([hash])).await;
    let bytes: Bytes = bytes.as_str().unwrap().parse().unwrap();
    let tx = decode_transaction(&bytes).unwrap();
    assert_eq!(tx.to(), Some(PRIVACY_PRECOMPILE));
    assert_eq!(private_reference(&tx).unwrap().tags.len(), 4);

    let [sent] = steps(&fake).try_into().unwrap();
    assert_eq!(sent.from, sender());
    assert_eq!(
        sent.action,
        ExtensionAction::Offer {
            contract: PRIVATE_STORER,
            newcomer: their_key(),
            newcomer_account: ELSEWHERE,
        }
    );
    assert_eq!(sent.arguments.private_from, Some(our_key()));
    assert_eq!(sent.arguments.private_for, [their_key().to_string()]);
    assert_eq!(
        sent.arguments.acknowledgements,
        Acknowledgements::AtLeast(1)
    );

    // The next one waits for nothing and takes the account's next nonce.
    fake.execute(
        at.height,
        vec![record(hash, at.height, at.position, PublicForm::Marker)],
    );
    let answer = client
        .offer_extension(offering(carrier()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.extension, raw_bytes(sender().create(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_and_cancellations_over_grpc_name_the_extension() {
    let (_node, fake, mut client) = start().await;
    for accept in [true, false] {
        let vote = v1::VoteOnExtensionRequest {
            extension: raw_bytes(KNOWN),
            accept,
            transaction: Some(carrier()),
        };
        let answer = client.vote_on_extension(vote).await.unwrap().into_inner();
        assert_eq!(answer.extension, raw_bytes(KNOWN));
        assert_eq!(answer.transaction_hash.len(), 32);
    }
    let cancel = v1::CancelExtensionRequest {
        extension: raw_bytes(KNOWN),
        transaction: Some(carrier()),
    };
    let answer = client.cancel_extension(cancel).await.unwrap().into_inner();
    assert_eq!(answer.extension, raw_bytes(KNOWN));
    let actions: Vec<ExtensionAction> = steps(&fake).iter().map(|send| send.action).collect();
    let offer = KNOWN;
    assert_eq!(
        actions,
        [
            ExtensionAction::Vote {
                offer,
                accept: true
            },
            ExtensionAction::Vote {
                offer,
                accept: false
            },
            ExtensionAction::Cancel { offer },
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_signed_elsewhere_is_distributed_and_not_sent() {
    let (node, fake, mut client) = start().await;
    let elsewhere = v1::ExtensionTransaction {
        from: raw_bytes(ELSEWHERE),
        signed_elsewhere: true,
        ..v1::ExtensionTransaction::default()
    };
    let vote = v1::VoteOnExtensionRequest {
        extension: raw_bytes(KNOWN),
        accept: false,
        transaction: Some(elsewhere.clone()),
    };
    let answer = client.vote_on_extension(vote).await.unwrap().into_inner();
    assert!(answer.transaction_hash.is_empty());
    assert_eq!(answer.extension, raw_bytes(KNOWN));
    // Payload hash and four tags.
    assert_eq!(answer.marker_data.len(), 64 + 4 * 8);
    assert_eq!(answer.marker_data[..64], answer.payload_hash);
    let answer = client
        .offer_extension(offering(elsewhere))
        .await
        .unwrap()
        .into_inner();
    // It depends on the nonce that the client will choose.
    assert!(answer.extension.is_empty());

    // Quorum's name for it.
    let uuid = call(
        node.rpc,
        "quorumExtension_generateExtensionApprovalUuid",
        json!([KNOWN, ELSEWHERE, { "privateFor": [our_key()] }]),
    )
    .await;
    let data: Bytes = uuid.as_str().unwrap().parse().unwrap();
    assert_eq!(data.len(), 64 + 4 * 8);
    let steps = steps(&fake);
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| step.from == ELSEWHERE));
    assert_eq!(
        steps[2].action,
        ExtensionAction::Vote {
            offer: KNOWN,
            accept: true
        }
    );
    assert_eq!(node.pool.counts().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_are_listed_and_found_with_where_they_stand() {
    let (node, fake, mut client) = start().await;
    let states = [
        (ExtensionState::Active, State::Active),
        (ExtensionState::Done, State::Done),
        (ExtensionState::Declined, State::Declined),
        (ExtensionState::Cancelled, State::Cancelled),
        (ExtensionState::Refused, State::Refused),
    ];
    for (i, (state, _)) in (1..).zip(states) {
        fake.put_extension(extension(Address::repeat_byte(i), state));
    }
    let (mut listed, mut after) = (Vec::new(), bytes::Bytes::new());
    loop {
        let request = v1::ListExtensionsRequest { after, limit: 2 };
        let page = client.list_extensions(request).await.unwrap().into_inner();
        let Some(last) = page.extensions.last() else {
            break;
        };
        after = last.extension.clone();
        listed.extend(page.extensions);
    }
    let found: Vec<State> = listed.iter().map(|extension| extension.state()).collect();
    assert_eq!(found, states.map(|(_, state)| state));
    let first = v1::ContractExtension {
        extension: raw_bytes(Address::repeat_byte(1)),
        contract: raw_bytes(PRIVATE_STORER),
        newcomer: raw_bytes(their_key().as_bytes()),
        newcomer_account: raw_bytes(ELSEWHERE),
        initiator: raw_bytes(our_key().as_bytes()),
        initiator_account: raw_bytes(sender()),
        parties: vec![raw_bytes(our_key().as_bytes())],
        transaction_hash: raw_bytes([0x31; 32]),
        payload_hash: raw_bytes([0x32; 64]),
        offered_at: 5,
        state: State::Active.into(),
        ended_at: 0,
    };
    assert_eq!(listed[0], first);
    assert_eq!(listed[1].ended_at, 6);
    let get = |address: Address| v1::GetExtensionRequest {
        extension: raw_bytes(address),
    };
    let got = client.get_extension(get(Address::repeat_byte(1))).await;
    assert_eq!(got.unwrap().into_inner(), first);
    let unknown = client.get_extension(get(KNOWN)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    // Over JSON-RPC, in Quorum's words.
    let status = "quorumExtension_getExtensionStatus";
    for (i, (state, _)) in (1..).zip(states) {
        let said = call(node.rpc, status, json!([Address::repeat_byte(i)])).await;
        let expected = match state {
            ExtensionState::Active => "ACTIVE",
            _ => "DONE",
        };
        assert_eq!(said, expected);
    }
    let (code, said, _) = error(node.rpc, status, json!([KNOWN])).await;
    assert_eq!(code, -32_001, "{said}");
    let active = call(
        node.rpc,
        "quorumExtension_activeExtensionContracts",
        json!([]),
    )
    .await;
    let expected = json!([{
        "managementContractAddress": Address::repeat_byte(1),
        "contractExtended": PRIVATE_STORER,
        "creationData": PayloadHash::from_bytes([0x32; 64]).to_string(),
        "initiator": sender(),
        "recipient": ELSEWHERE,
        "recipientPtmKey": their_key().to_string(),
    }]);
    let lower = |value: &Value| value.to_string().to_lowercase();
    assert_eq!(lower(&active), lower(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_step_is_refused_with_the_name_of_the_field() {
    let (node, fake, mut client) = start().await;
    let cases = [
        (
            "transaction",
            v1::OfferExtensionRequest {
                transaction: None,
                ..offering(carrier())
            },
        ),
        (
            "contract",
            v1::OfferExtensionRequest {
                contract: raw_bytes([1; 19]),
                ..offering(carrier())
            },
        ),
        (
            "newcomer",
            v1::OfferExtensionRequest {
                newcomer: raw_bytes([1; 31]),
                ..offering(carrier())
            },
        ),
        (
            "newcomer_account",
            v1::OfferExtensionRequest {
                newcomer_account: bytes::Bytes::new(),
                ..offering(carrier())
            },
        ),
        (
            "from",
            offering(v1::ExtensionTransaction {
                from: bytes::Bytes::new(),
                ..carrier()
            }),
        ),
        (
            "gas_price",
            offering(v1::ExtensionTransaction {
                gas_price: raw_bytes([1; 17]),
                ..carrier()
            }),
        ),
        (
            "signed_elsewhere",
            offering(v1::ExtensionTransaction {
                signed_elsewhere: true,
                wait: true,
                ..carrier()
            }),
        ),
        (
            "arguments",
            offering(v1::ExtensionTransaction {
                arguments: Some(v1::PrivateArguments {
                    privacy_flag: 1,
                    ..v1::PrivateArguments::default()
                }),
                ..carrier()
            }),
        ),
    ];
    for (named, request) in cases {
        let refused = client.offer_extension(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{named}: {refused}");
        assert!(refused.message().contains(named), "{named}: {refused}");
    }
    // Nothing of all that was told to anyone.
    assert_eq!(steps(&fake), []);

    let foreign = v1::ExtensionTransaction {
        from: raw_bytes(ELSEWHERE),
        ..v1::ExtensionTransaction::default()
    };
    let refused = client.offer_extension(offering(foreign)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("unknown account"), "{refused}");

    fake.plan(Plan::Fail(PrivacyError::NotAcknowledged {
        nodes: vec!["member 2".into()],
        waited_ms: 5,
    }));
    let refused = client.offer_extension(offering(carrier())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let pending = call(
        node.rpc,
        "eth_getTransactionCount",
        json!([sender(), "pending"]),
    )
    .await;
    assert_eq!(pending, "0x0");
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_there_are_no_extensions() {
    let node = TestNode::start().await;
    let mut client = PrivacyClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap();
    let codes = [
        client.offer_extension(offering(carrier())).await.err(),
        client
            .list_extensions(v1::ListExtensionsRequest::default())
            .await
            .err(),
        client
            .get_extension(v1::GetExtensionRequest {
                extension: raw_bytes(KNOWN),
            })
            .await
            .err(),
    ];
    for status in codes {
        assert_eq!(status.unwrap().code(), Code::FailedPrecondition);
    }
}
