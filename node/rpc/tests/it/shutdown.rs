//! Both servers end when they are told to, whatever is open.

use std::time::Duration;

use quorate_proto::v1;
use quorate_proto::v1::ledger_client::LedgerClient;
use serde_json::json;

use crate::chain::{Account, TestNode, raw};
use crate::client::Socket;

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_and_waiting_clients_do_not_keep_the_servers_alive() {
    let mut node = TestNode::start().await;
    let mut socket = Socket::open(node.rpc).await;
    socket.subscribe(json!(["newHeads"])).await;
    let mut client = LedgerClient::connect(format!("http://{}", node.grpc))
        .await
        .unwrap();
    let request = v1::SubscribeBlocksRequest {
        from_height: Some(0),
        hashes_only: true,
    };
    let mut blocks = client.subscribe_blocks(request).await.unwrap().into_inner();
    assert_eq!(blocks.message().await.unwrap().unwrap().height, 0);
    let waiting = raw(&Account::number(3).transfer(5, Account::number(4).address, 1));
    let mut other = client.clone();
    let waiter = tokio::spawn(async move {
        other
            .submit_transaction(v1::SubmitTransactionRequest {
                raw: waiting.0,
                wait: true,
            })
            .await
    });
    let pool = node.pool.clone();
    crate::chain::wait_until("the client waits", || pool.counts().waiting == 1).await;

    node.stop.cancel();
    let serving = std::mem::take(&mut node.serving);
    // Well within the grace of the settings, which would cut them off.
    let ended = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(serving))
        .await
        .unwrap();
    for server in ended {
        server.unwrap().unwrap();
    }
    let status = waiter.await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(matches!(blocks.message().await, Ok(None) | Err(_)));
    assert!(socket.next().await.is_none());
}
