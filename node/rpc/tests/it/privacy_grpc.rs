//! `SubmitPrivateTransaction` and the service `quorate.v1.Privacy`.

use alloy_primitives::{Address, B256, Bytes, TxKind};
use quorate_chain::PublicForm;
use quorate_enclave::{GroupId, PayloadHash, PrivacyFlag};
use quorate_privacy::ContractMetadata;
use quorate_proto::v1;
use quorate_proto::v1::acknowledgement_policy::Policy;
use quorate_proto::v1::give_up_request::What;
use quorate_proto::v1::ledger_client::LedgerClient;
use quorate_proto::v1::privacy_client::PrivacyClient;
use quorate_proto::v1::submit_private_transaction_request::Transaction as Choice;
use quorate_rpc::{Acknowledgements, DivergenceAlarm, PayloadView, PrivacyError};
use tonic::Code;
use tonic::transport::Channel;

use crate::chain::{Account, TestNode, raw, wait_until};
use crate::parties::{
    FakePrivacy, PRIVATE_STORER, Plan, our_key, received, record, their_key, their_node, with_logs,
};

type Raw = bytes::Bytes;

fn raw_bytes(bytes: impl AsRef<[u8]>) -> Raw {
    Raw::copy_from_slice(bytes.as_ref())
}

async fn ledger(node: &TestNode) -> LedgerClient<Channel> {
    LedgerClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap()
}

async fn privacy(node: &TestNode) -> PrivacyClient<Channel> {
    PrivacyClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap()
}

fn to_them() -> v1::PrivateArguments {
    v1::PrivateArguments {
        private_for: vec![their_key().to_string()],
        ..v1::PrivateArguments::default()
    }
}

fn call() -> v1::PrivateCall {
    v1::PrivateCall {
        from: raw_bytes(Account::number(1).address),
        to: raw_bytes(PRIVATE_STORER),
        data: raw_bytes([5; 32]),
        ..v1::PrivateCall::default()
    }
}

fn submission(choice: Choice, wait: bool) -> v1::SubmitPrivateTransactionRequest {
    v1::SubmitPrivateTransactionRequest {
        transaction: Some(choice),
        arguments: Some(to_them()),
        wait,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_submission_answers_with_both_sides() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = ledger(&node).await;
    let request = submission(Choice::Call(call()), true);
    let answer = client
        .submit_private_transaction(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.payload_hash.len(), 64);
    assert_eq!(answer.pending, [raw_bytes(their_node())]);
    let commitment = answer.commitment.unwrap();
    assert!(commitment.success);
    // The fake executed nothing: no private side yet.
    assert_eq!(answer.receipt, None);

    let hash = B256::from_slice(&answer.hash);
    let at = node.ledger.locate(&hash).unwrap().unwrap();
    let done = with_logs(
        record(hash, at.height, at.position, PublicForm::Marker),
        &[1, 2],
    );
    fake.execute(at.height, vec![done]);
    let request = v1::PrivateReceiptRequest { hash: answer.hash };
    let receipt = privacy(&node)
        .await
        .private_receipt(request)
        .await
        .unwrap()
        .into_inner();
    assert!(receipt.success && receipt.marker && receipt.we_sent);
    assert_eq!(
        (receipt.gas_used, receipt.block_height),
        (43_210, at.height)
    );
    assert_eq!(receipt.input, raw_bytes(b"clear"));
    let numbers: Vec<u32> = receipt.logs.iter().map(|log| log.index).collect();
    assert_eq!(numbers, [0, 1]);
    assert_eq!(receipt.affected, [raw_bytes(PRIVATE_STORER)]);
    let unknown = v1::PrivateReceiptRequest {
        hash: raw_bytes([9; 32]),
    };
    let refused = privacy(&node)
        .await
        .private_receipt(unknown)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_says_all_that_json_rpc_can() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = ledger(&node).await;
    let request = v1::SubmitPrivateTransactionRequest {
        transaction: Some(Choice::Call(v1::PrivateCall {
            nonce: Some(0),
            gas_limit: Some(100_000),
            gas_price: raw_bytes([1, 0]),
            form: v1::PublicForm::Quorum.into(),
            ..call()
        })),
        arguments: Some(v1::PrivateArguments {
            private_from: raw_bytes(our_key().as_bytes()),
            private_for: vec!["loans".into()],
            privacy_flag: 2,
            mandatory_for: vec![raw_bytes(their_key().as_bytes())],
            acknowledgements: Some(v1::AcknowledgementPolicy {
                policy: Some(Policy::Named(v1::PartyKeys {
                    keys: vec![raw_bytes(their_key().as_bytes())],
                })),
            }),
        }),
        wait: false,
    };
    let answer = client
        .submit_private_transaction(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.commitment, answer.receipt), (None, None));
    let send = fake.sends().remove(0);
    assert_eq!(
        (send.nonce, send.gas_limit, send.gas_price),
        (0, 100_000, 256)
    );
    assert_eq!(send.form, PublicForm::Quorum);
    assert_eq!(send.arguments.private_from, Some(our_key()));
    assert_eq!(send.arguments.privacy_flag, PrivacyFlag::MandatoryParties);
    assert_eq!(
        send.arguments.acknowledgements,
        Acknowledgements::Named(vec![their_key()])
    );
    node.committed(B256::from_slice(&answer.hash)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_signed_is_taken_with_its_parties_and_nowhere_else() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = ledger(&node).await;
    let hash = PayloadHash::from_bytes([5; 64]);
    fake.put(hash, PayloadView::Party(Box::new(received(Bytes::new()))));
    let account = Account::number(3);
    let tx = account.quorum_private(0, TxKind::Call(PRIVATE_STORER), hash.as_bytes());

    let public = v1::SubmitTransactionRequest {
        raw: raw(&tx).0,
        wait: false,
    };
    let refused = client.submit_transaction(public).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let other = account.transfer(0, account.address, 0);
    let streamed = [raw(&tx).0, raw(&other).0].map(|raw| v1::SubmitTransactionsRequest { raw });
    let stream = futures::stream::iter(streamed);
    let mut answers = client
        .submit_transactions(stream)
        .await
        .unwrap()
        .into_inner();
    let first = answers.message().await.unwrap().unwrap();
    assert!(
        first
            .refusal
            .unwrap()
            .reason
            .contains("eth_sendRawPrivateTransaction")
    );
    assert_eq!((first.sequence, first.hash), (0, raw_bytes(tx.hash())));
    let second = answers.message().await.unwrap().unwrap();
    assert_eq!((second.sequence, second.refusal), (1, None));
    node.committed(*other.hash()).await;

    let next = account.quorum_private(1, TxKind::Call(PRIVATE_STORER), hash.as_bytes());
    let request = submission(Choice::Raw(raw(&next).0), true);
    let answer = client
        .submit_private_transaction(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.hash, raw_bytes(next.hash()));
    assert_eq!(answer.payload_hash, raw_bytes(hash.as_bytes()));
    assert!(answer.commitment.unwrap().success);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_codes_that_say_what_to_do() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = ledger(&node).await;
    let refusals = [
        (
            PrivacyError::Conflict {
                contract: PRIVATE_STORER,
            },
            Code::Aborted,
        ),
        (
            PrivacyError::NotAcknowledged {
                nodes: vec!["Other".into()],
                waited_ms: 1,
            },
            Code::Unavailable,
        ),
        (
            PrivacyError::Enclave {
                reason: "gone".into(),
            },
            Code::Unavailable,
        ),
        (
            PrivacyError::UnknownKey { key: "k".into() },
            Code::FailedPrecondition,
        ),
        (
            PrivacyError::UnknownGroup { name: "g".into() },
            Code::NotFound,
        ),
        (
            PrivacyError::Internal {
                reason: "secret".into(),
            },
            Code::Internal,
        ),
    ];
    for (error, code) in refusals {
        fake.plan(Plan::Fail(error.clone()));
        let request = submission(Choice::Call(call()), false);
        let status = client
            .submit_private_transaction(request)
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{error:?}");
        assert!(!status.message().contains("secret"));
    }
    let bad = [
        v1::SubmitPrivateTransactionRequest::default(),
        v1::SubmitPrivateTransactionRequest {
            arguments: Some(v1::PrivateArguments {
                privacy_flag: 9,
                ..to_them()
            }),
            ..submission(Choice::Call(call()), false)
        },
        submission(
            Choice::Call(v1::PrivateCall {
                from: raw_bytes([1; 19]),
                ..call()
            }),
            false,
        ),
        submission(
            Choice::Call(v1::PrivateCall {
                gas_price: raw_bytes([1; 17]),
                ..call()
            }),
            false,
        ),
    ];
    for request in bad {
        let status = client
            .submit_private_transaction(request.clone())
            .await
            .unwrap_err();
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{request:?}: {status}"
        );
    }
    assert_eq!(node.pool.counts().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_told_and_followed() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = privacy(&node).await;
    let status = client
        .status(v1::PrivacyStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.private_state_root, raw_bytes(fake.state_root()));
    assert_eq!(
        (status.payloads, status.payloads_erased, status.alarms),
        (2, 1, 5)
    );
    assert_eq!((status.deliveries_pending, status.complete), (4, true));
    assert_eq!(
        (
            status.enclave_version.as_str(),
            status.enclave_error.as_str()
        ),
        ("", "no answer")
    );
    assert_eq!(status.waiting, None);

    let watch = v1::WatchPrivacyStatusRequest {};
    let mut statuses = client.watch_status(watch).await.unwrap().into_inner();
    assert_eq!(statuses.message().await.unwrap(), Some(status));
    let hash = fake.stall(4);
    let stalled = statuses.message().await.unwrap().unwrap();
    let waiting = stalled.waiting.unwrap();
    assert_eq!((stalled.cursor, waiting.block_height), (4, 5));
    assert_eq!(waiting.payload_hash, raw_bytes(hash.as_bytes()));
    assert_eq!(
        (waiting.since_ms, waiting.reason.as_str()),
        (5, "no member has it")
    );
    fake.execute(6, Vec::new());
    assert_eq!(statuses.message().await.unwrap().unwrap().cursor, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_read_and_erased() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = privacy(&node).await;
    let hash = |byte: u8| raw_bytes([byte; 64]);
    let payload = |byte| v1::PayloadRequest { hash: hash(byte) };
    let put = |byte: u8, view| fake.put(PayloadHash::from_bytes([byte; 64]), view);
    put(1, PayloadView::Party(Box::new(received(b"clear".into()))));
    put(2, PayloadView::Missing);
    let found = client.payload(payload(1)).await.unwrap().into_inner();
    assert_eq!((found.data, found.we_sent), (raw_bytes(b"clear"), true));
    assert_eq!(found.sender, raw_bytes(our_key().as_bytes()));
    assert_eq!(found.parties.len(), 2);
    assert_eq!(found.affected[0].address, raw_bytes(PRIVATE_STORER));
    assert_eq!(
        client.payload(payload(2)).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(
        client.payload(payload(3)).await.unwrap_err().code(),
        Code::NotFound
    );
    let short = v1::PayloadRequest {
        hash: raw_bytes([1; 63]),
    };
    assert_eq!(
        client.payload(short).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let erase = |byte, note: &str| v1::EraseRequest {
        hash: hash(byte),
        note: note.into(),
    };
    let erased = client
        .erase(erase(1, "case 17"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (erased.note.as_str(), erased.sequence, erased.erased_at_ms),
        ("case 17", 1, 77)
    );
    assert_eq!(erased.reason(), v1::erasure_record::Reason::Requested);
    assert_eq!(
        client.payload(payload(1)).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client.erase(erase(3, "")).await.unwrap_err().code(),
        Code::NotFound
    );
    let long = "x".repeat(513);
    assert_eq!(
        client.erase(erase(1, &long)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let list = |after| v1::ErasuresRequest { after, limit: 0 };
    let all = client.erasures(list(None)).await.unwrap().into_inner();
    assert_eq!(all.erasures, [erased]);
    let behind = client.erasures(list(Some(1))).await.unwrap().into_inner();
    assert_eq!(behind.erasures, []);

    let give_up = |what, note: &str| v1::GiveUpRequest {
        what,
        note: note.into(),
    };
    let waiting = |byte| Some(What::Hash(hash(byte)));
    for (what, given_up) in [(waiting(3), 1), (Some(What::Erased(true)), 3)] {
        let done = client.give_up(give_up(what, "case 18")).await.unwrap();
        assert_eq!(done.into_inner().given_up, given_up);
    }
    let records = client.erasures(list(Some(1))).await.unwrap().into_inner();
    assert_eq!(
        records.erasures[0].reason(),
        v1::erasure_record::Reason::GivenUp
    );
    let refused = client.give_up(give_up(waiting(2), "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let short = Some(What::Hash(raw_bytes([1; 63])));
    for (what, note) in [
        (None, ""),
        (Some(What::Erased(false)), ""),
        (short, ""),
        (waiting(3), long.as_str()),
    ] {
        let refused = client.give_up(give_up(what, note)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }

    let deliveries = client
        .deliveries(v1::DeliveriesRequest { hash: hash(1) })
        .await;
    let delivery = deliveries.unwrap().into_inner().deliveries.remove(0);
    assert_eq!(delivery.node_id, raw_bytes(their_node()));
    assert_eq!(delivery.state(), v1::payload_delivery::State::Refused);
    assert_eq!((delivery.attempts, delivery.named), (3, true));
    assert_eq!(delivery.reason, "not for us");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_made_found_listed_and_deleted() {
    let node = TestNode::start_private(FakePrivacy::stranger()).await;
    let mut client = privacy(&node).await;
    let keys = || {
        vec![
            raw_bytes(our_key().as_bytes()),
            raw_bytes(their_key().as_bytes()),
        ]
    };
    let create = |name: &str| v1::CreateGroupRequest {
        name: name.into(),
        description: "d".into(),
        members: keys(),
        payloads_live_ms: 5,
    };
    let loans = client
        .create_group(create("loans"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((loans.name.as_str(), loans.payloads_live_ms), ("loans", 5));
    assert_eq!(loans.members, keys());
    assert_eq!(
        client
            .create_group(create("loans"))
            .await
            .unwrap()
            .into_inner(),
        loans
    );
    let other = client
        .create_group(create("other"))
        .await
        .unwrap()
        .into_inner();
    let refused = client.create_group(create("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let list = |after: &Raw, limit| v1::ListGroupsRequest {
        after: after.clone(),
        limit,
    };
    let all = client
        .list_groups(list(&Raw::new(), 0))
        .await
        .unwrap()
        .into_inner()
        .groups;
    assert_eq!(all.len(), 2);
    let first = client
        .list_groups(list(&Raw::new(), 1))
        .await
        .unwrap()
        .into_inner()
        .groups;
    assert_eq!(first, all[..1]);
    let rest = client
        .list_groups(list(&all[0].id, 9))
        .await
        .unwrap()
        .into_inner()
        .groups;
    assert_eq!(rest, all[1..]);

    let find = |members, name: String| v1::FindGroupsRequest { members, name };
    let by_members = client
        .find_groups(find(keys(), String::new()))
        .await
        .unwrap();
    assert_eq!(by_members.into_inner().groups.len(), 2);
    let id = GroupId::from_bytes(loans.id.as_ref().try_into().unwrap());
    for name in ["loans".to_owned(), id.to_string()] {
        let found = client.find_groups(find(Vec::new(), name)).await.unwrap();
        assert_eq!(found.into_inner().groups, std::slice::from_ref(&loans));
    }
    let nobody = client
        .find_groups(find(Vec::new(), "none".into()))
        .await
        .unwrap();
    assert_eq!(nobody.into_inner().groups, []);
    let both = client
        .find_groups(find(keys(), "loans".into()))
        .await
        .unwrap_err();
    assert_eq!(both.code(), Code::InvalidArgument);

    let delete = || v1::DeleteGroupRequest {
        id: other.id.clone(),
    };
    assert_eq!(
        client.delete_group(delete()).await.unwrap().into_inner(),
        other
    );
    assert_eq!(
        client.delete_group(delete()).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_alarms_contracts_and_a_resync_are_told() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let mut client = privacy(&node).await;
    let keys = client
        .keys(v1::PrivacyKeysRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(keys.own, [raw_bytes(our_key().as_bytes())]);
    let member = &keys.members[0];
    assert_eq!((member.raft_id, member.this_node), (2, false));
    assert_eq!(member.keys, [raw_bytes(their_key().as_bytes())]);

    fake.put_alarm(DivergenceAlarm {
        number: 1,
        raised_at_ms: 8,
        transaction: B256::repeat_byte(1),
        block: 3,
        hash: PayloadHash::from_bytes([1; 64]),
        other: their_node(),
        our_digest: B256::repeat_byte(2),
        their_digest: B256::repeat_byte(3),
    });
    let alarms = |after| v1::AlarmsRequest { after, limit: 0 };
    let found = client.alarms(alarms(0)).await.unwrap().into_inner().alarms;
    assert_eq!((found.len(), found[0].block_height), (1, 3));
    assert_eq!(found[0].our_digest, raw_bytes([2; 32]));
    assert_eq!(found[0].their_digest, raw_bytes([3; 32]));
    assert_eq!(
        client.alarms(alarms(1)).await.unwrap().into_inner().alarms,
        []
    );

    let report = client
        .resync(v1::ResyncRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(!report.complete);
    let member = &report.members[0];
    assert_eq!((member.fetched, member.known, member.failed), (3, 4, 1));
    assert_eq!(member.erased, 2);
    assert_eq!(member.error, "gone");

    fake.put_contract(ContractMetadata {
        address: PRIVATE_STORER,
        creation_transaction: B256::repeat_byte(1),
        creation_hash: PayloadHash::from_bytes([6; 64]),
        flag: PrivacyFlag::StateValidation,
        parties: Some([our_key(), their_key()].into()),
        mandatory: [].into(),
        creator: our_key(),
        as_recipient: our_key(),
        created_at: 4,
    });
    let ask = |address: Address| v1::ContractMetadataRequest {
        address: raw_bytes(address),
    };
    let contract = client
        .contract_metadata(ask(PRIVATE_STORER))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((contract.privacy_flag, contract.created_at), (3, 4));
    assert_eq!((contract.parties.len(), contract.mandatory.len()), (2, 0));
    let unknown = client
        .contract_metadata(ask(Address::ZERO))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_private_side_does_not_hold_up_the_answer() {
    let fake = FakePrivacy::party(PublicForm::Marker);
    let node = TestNode::start_private(fake.clone()).await;
    let request = submission(
        Choice::Call(v1::PrivateCall {
            gas_limit: Some(90_000),
            ..call()
        }),
        true,
    );
    fake.stall(0);
    let answer = ledger(&node)
        .await
        .submit_private_transaction(request)
        .await
        .unwrap();
    let answer = answer.into_inner();
    assert!(answer.commitment.is_some() && answer.receipt.is_none());
    let ask = v1::PrivateReceiptRequest { hash: answer.hash };
    let refused = privacy(&node).await.private_receipt(ask).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    wait_until("the pool has let it go", || node.pool.counts().ready == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_every_call_says_so() {
    let node = TestNode::start().await;
    let mut client = privacy(&node).await;
    let hash = || raw_bytes([1; 64]);
    let codes = [
        client.status(v1::PrivacyStatusRequest {}).await.err(),
        client
            .watch_status(v1::WatchPrivacyStatusRequest {})
            .await
            .err(),
        client
            .payload(v1::PayloadRequest { hash: hash() })
            .await
            .err(),
        client
            .deliveries(v1::DeliveriesRequest { hash: hash() })
            .await
            .err(),
        client.keys(v1::PrivacyKeysRequest {}).await.err(),
        client
            .list_groups(v1::ListGroupsRequest::default())
            .await
            .err(),
        client.alarms(v1::AlarmsRequest::default()).await.err(),
        client.resync(v1::ResyncRequest {}).await.err(),
        client
            .contract_metadata(v1::ContractMetadataRequest {
                address: raw_bytes(PRIVATE_STORER),
            })
            .await
            .err(),
        ledger(&node)
            .await
            .submit_private_transaction(submission(Choice::Call(call()), false))
            .await
            .err(),
    ];
    for status in codes {
        let status = status.unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(
            status.message(),
            "private transactions are switched off on this node"
        );
    }
}
