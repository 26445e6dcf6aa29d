//! The gRPC service.

use alloy_primitives::{Address, B256, keccak256};
use futures::StreamExt as _;
use quorate_proto::v1;
use quorate_proto::v1::get_block_request::Block as Choice;
use quorate_proto::v1::ledger_client::LedgerClient;
use quorate_proto::v1::transaction_status::State;
use tonic::Code;
use tonic::transport::Channel;

use crate::chain::{Account, CHAIN_ID, LOGGER, REVERTER, TestNode, raw, topic, wait_until};

const NOBODY: Address = Address::repeat_byte(0x77);

async fn connect(node: &TestNode) -> LedgerClient<Channel> {
    LedgerClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap()
}

fn submission(tx: &quorate_chain::Transaction, wait: bool) -> v1::SubmitTransactionRequest {
    v1::SubmitTransactionRequest {
        raw: raw(tx).0,
        wait,
    }
}

fn bytes(hash: &B256) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(hash.as_slice())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_waits_answers_with_the_commitment() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    let sender = Account::number(3);
    let tx = sender.call(0, LOGGER, 0, &[1; 32]);
    let answer = client
        .submit_transaction(submission(&tx, true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.hash, bytes(tx.hash()));
    let commitment = answer.commitment.unwrap();
    assert!(commitment.success && commitment.gas_used > 21_000);
    // The answer is about an announced block: everything else must know it now.
    let receipt = client
        .get_receipt(v1::GetReceiptRequest {
            hash: bytes(tx.hash()),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(receipt.block_height, commitment.block_height);
    assert_eq!(receipt.logs[0].topics[0], bytes(&topic()));
    assert_eq!(
        (receipt.from.as_ref(), receipt.r#type),
        (sender.address.as_slice(), 2)
    );
    let shown = client
        .get_transaction(v1::GetTransactionRequest {
            hash: bytes(tx.hash()),
        })
        .await
        .unwrap();
    assert_eq!(shown.into_inner().raw, raw(&tx).0);

    let reverted = sender.call(1, REVERTER, 0, &[]);
    let answer = client
        .submit_transaction(submission(&reverted, true))
        .await
        .unwrap()
        .into_inner();
    let commitment = answer.commitment.unwrap();
    assert!(!commitment.success);
    assert_eq!(commitment.revert_data[..4], [0x08, 0xc3, 0x79, 0xa0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_wait_at_once() {
    let node = TestNode::start().await;
    let client = connect(&node).await;
    let tasks = (1..=9u8)
        .flat_map(|n| (0..20u64).map(move |nonce| (n, nonce)))
        .map(|(n, nonce)| {
            let mut client = client.clone();
            async move {
                let tx = Account::number(n).transfer(nonce, NOBODY, 1);
                client
                    .submit_transaction(submission(&tx, true))
                    .await
                    .unwrap()
                    .into_inner()
                    .commitment
                    .unwrap()
                    .success
            }
        });
    let done: Vec<bool> = futures::future::join_all(tasks).await;
    assert_eq!(done, vec![true; 180]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_statuses() {
    let node = TestNode::start_with(|config| {
        config.submit_wait_max = std::time::Duration::from_millis(50)
    })
    .await;
    let mut client = connect(&node).await;
    let sender = Account::number(3);
    let tx = sender.transfer(0, NOBODY, 1);
    node.commit(std::slice::from_ref(&tx)).await;
    let garbage = v1::SubmitTransactionRequest {
        raw: vec![1, 2, 3].into(),
        wait: false,
    };
    let cases = [
        (garbage, Code::InvalidArgument),
        (submission(&tx, false), Code::AlreadyExists),
        (submission(&tx, true), Code::AlreadyExists),
        (
            submission(&sender.transfer(0, NOBODY, 2), false),
            Code::FailedPrecondition,
        ),
        (
            submission(&Account::number(50).transfer(0, NOBODY, 1), false),
            Code::FailedPrecondition,
        ),
        (
            submission(&sender.transfer(1 << 40, NOBODY, 1), false),
            Code::FailedPrecondition,
        ),
        // A gap: it waits until the time is over.
        (
            submission(&sender.transfer(9, NOBODY, 1), true),
            Code::DeadlineExceeded,
        ),
    ];
    for (request, expected) in cases {
        let status = client.submit_transaction(request).await.unwrap_err();
        assert_eq!(status.code(), expected, "{status}");
    }
    let unknown = bytes(&B256::repeat_byte(9));
    let status = client
        .get_receipt(v1::GetReceiptRequest {
            hash: unknown.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = client
        .get_transaction(v1::GetTransactionRequest { hash: unknown })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = client
        .get_receipt(v1::GetReceiptRequest {
            hash: vec![1].into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::InvalidArgument,
            "invalid argument hash: must have 32 bytes, not 1"
        )
    );
    let far = v1::GetBlockRequest {
        block: Some(Choice::Height(99)),
        hashes_only: false,
    };
    assert_eq!(
        client.get_block(far).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_client_learns_that_its_transaction_was_replaced() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    let sender = Account::number(3);
    let first = sender.call_paying(5, NOBODY, 1, &[], 10);
    let second = sender.call_paying(5, NOBODY, 1, &[], 20);
    let mut other = client.clone();
    let request = submission(&first, true);
    let waiter = tokio::spawn(async move { other.submit_transaction(request).await });
    let pool = node.pool.clone();
    wait_until("the first is in the pool", || {
        pool.get(first.hash()).is_some()
    })
    .await;
    client
        .submit_transaction(submission(&second, false))
        .await
        .unwrap();
    let status = waiter.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status
            .message()
            .contains(&format!("was replaced by {}", second.hash())),
        "{status}"
    );

    let mut state = async |hash: &B256| {
        let request = v1::GetTransactionStatusRequest { hash: bytes(hash) };
        client
            .get_transaction_status(request)
            .await
            .unwrap()
            .into_inner()
    };
    let replaced = state(first.hash()).await;
    assert_eq!(
        (replaced.state(), replaced.replaced_by),
        (State::Replaced, bytes(second.hash()))
    );
    let pending = state(second.hash()).await;
    assert_eq!(pending.state(), State::Pending);
    assert!(!pending.reason.is_empty());
    assert_eq!(state(&B256::repeat_byte(1)).await.state(), State::Unknown);
    let done = sender.transfer(0, NOBODY, 1);
    node.commit(std::slice::from_ref(&done)).await;
    let committed = state(done.hash()).await;
    assert_eq!(
        (committed.state(), committed.commitment.unwrap().success),
        (State::Committed, true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_submissions_is_answered_in_order() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    let sender = Account::number(3);
    let mut requests: Vec<bytes::Bytes> = (0..600)
        .map(|nonce| raw(&sender.transfer(nonce, NOBODY, 1)).0)
        .collect();
    requests.insert(300, vec![1, 2, 3].into());
    requests.insert(400, requests[10].clone());
    let expected = requests.clone();
    let stream = futures::stream::iter(
        requests
            .into_iter()
            .map(|raw| v1::SubmitTransactionsRequest { raw }),
    );
    let answers: Vec<_> = client
        .submit_transactions(stream)
        .await
        .unwrap()
        .into_inner()
        .collect()
        .await;
    assert_eq!(answers.len(), expected.len());
    for (number, (answer, raw)) in answers.into_iter().zip(expected).enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.sequence, number as u64);
        match number {
            300 => {
                assert_eq!(answer.refusal.unwrap().code, Code::InvalidArgument as u32);
                assert!(answer.hash.is_empty());
            }
            400 => {
                assert_eq!(answer.refusal.unwrap().code, Code::AlreadyExists as u32);
                assert_eq!(answer.hash, bytes(&keccak256(&raw)));
            }
            _ => assert_eq!(
                (answer.refusal, answer.hash),
                (None, bytes(&keccak256(&raw)))
            ),
        }
    }
    node.committed(*sender.transfer(599, NOBODY, 1).hash())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_stream_has_the_old_blocks_and_then_the_new() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    let sender = Account::number(3);
    for nonce in 0..3 {
        node.commit(&[sender.transfer(nonce, NOBODY, 1)]).await;
    }
    let all = v1::SubscribeBlocksRequest {
        from_height: Some(0),
        hashes_only: false,
    };
    let mut all = client.subscribe_blocks(all).await.unwrap().into_inner();
    let new = v1::SubscribeBlocksRequest {
        from_height: None,
        hashes_only: true,
    };
    let mut new = client.subscribe_blocks(new).await.unwrap().into_inner();
    let tx = sender.transfer(3, NOBODY, 1);
    node.commit(std::slice::from_ref(&tx)).await;
    let mut parent = bytes::Bytes::new();
    for height in 0..=4 {
        let block = all.message().await.unwrap().unwrap();
        assert_eq!(block.height, height);
        assert_eq!(block.hash, bytes(&keccak256(&block.header)));
        assert_eq!(block.transactions.len(), block.transaction_hashes.len());
        if height > 0 {
            assert_eq!(block.parent_hash, parent);
        }
        parent = block.hash;
    }
    let block = new.message().await.unwrap().unwrap();
    assert_eq!((block.height, block.transactions.len()), (4, 0));
    assert_eq!(block.transaction_hashes, [bytes(tx.hash())]);

    let choices = [
        Some(Choice::Height(4)),
        Some(Choice::Hash(block.hash.clone())),
        Some(Choice::Latest(true)),
        None,
    ];
    for choice in choices {
        let request = v1::GetBlockRequest {
            block: choice,
            hashes_only: true,
        };
        assert_eq!(client.get_block(request).await.unwrap().into_inner(), block);
    }
    let sealed = node.ledger.block(4).unwrap().unwrap();
    assert_eq!(block.seal.as_ref(), sealed.block.seal().as_bytes());
    assert_eq!(block.term, sealed.block.term());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_who_and_how_far() {
    let node = TestNode::start().await;
    let mut client = connect(&node).await;
    node.commit(&[Account::number(3).transfer(0, NOBODY, 1)])
        .await;
    let status = client
        .status(v1::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            status.chain_id,
            status.raft_id,
            status.leader,
            status.role.as_str()
        ),
        (CHAIN_ID, 1, 1, "leader")
    );
    assert_eq!((status.head_height, status.synced), (1, true));
    assert_eq!(status.head_hash, bytes(&node.ledger.head().hash()));
    assert_eq!(status.node_id.len(), 33);
    assert!(status.committed_index >= status.applied_index);
    assert_eq!(status.peers.len(), 2);
    assert_eq!(
        (status.peers[0].connected, status.peers[0].round_trip_us),
        (true, 1_500)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let node = TestNode::start().await;
    let channel = Channel::from_shared(format!("http://{}", node.grpc))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let request = HealthCheckRequest {
        service: "quorate.v1.Ledger".into(),
    };
    let health = HealthClient::new(channel.clone())
        .check(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures::stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = services
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(names.contains(&"quorate.v1.Ledger".to_owned()), "{names:?}");
}
