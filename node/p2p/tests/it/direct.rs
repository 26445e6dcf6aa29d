//! Questions to one member: forwarded transactions and block fetches.

use std::time::Duration;

use bytes::Bytes;
use quorate_p2p::{Request, RequestError};

use crate::consortium::{Node, config, dropped, pair, soon, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_batch_is_acknowledged_when_the_application_took_it() {
    let (one, mut two) = pair(|_| {}).await;
    let batch: Vec<Bytes> = (0..100_u8).map(|n| vec![n; 100].into()).collect();
    let sent = batch.clone();
    let handle = one.handle.clone();
    let forwarding = tokio::spawn(async move { handle.forward(2, sent).await });
    let received = soon("the batch", two.events.transactions.recv())
        .await
        .unwrap();
    assert_eq!((received.from, &received.transactions), (1, &batch));
    assert!(!forwarding.is_finished());
    assert!(received.direct.unwrap().accept());
    assert_eq!(soon("the answer", forwarding).await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_dropped_is_declined_and_one_that_is_kept_times_out() {
    let (one, mut two) =
        pair(|config| config.timing.request_timeout = Duration::from_millis(500)).await;
    let handle = one.handle.clone();
    let declined = tokio::spawn(async move { handle.forward(2, vec![Bytes::new()]).await });
    drop(soon("the batch", two.events.transactions.recv()).await);
    assert_eq!(
        soon("the answer", declined).await.unwrap(),
        Err(RequestError::Declined { raft_id: 2 })
    );
    let handle = one.handle.clone();
    let late = tokio::spawn(async move { handle.forward(2, vec![Bytes::new()]).await });
    let kept = soon("the batch", two.events.transactions.recv()).await;
    let error = soon("the end", late).await.unwrap().unwrap_err();
    // Whose clock ends first is chance.
    assert!(
        matches!(
            error,
            RequestError::Timeout { .. } | RequestError::Busy { .. }
        ),
        "{error}"
    );
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_sent_say_why() {
    let (one, _two) = pair(|_| {}).await;
    let unknown = Err(RequestError::UnknownMember { raft_id: 9 });
    assert_eq!(one.handle.forward(9, Vec::new()).await, unknown);
    assert!(one.handle.fetch_blocks(1, 1, 1).await.is_err(), "itself");
    let large = vec![Bytes::from(vec![0; 9 << 20])];
    let error = one.handle.forward(2, large).await.unwrap_err();
    assert_eq!(
        error,
        RequestError::TooLarge {
            got: (9 << 20) + 8,
            max: 8 << 20
        }
    );
    let alone = Node::start(config(1, 2));
    assert_eq!(
        alone.handle.fetch_blocks(2, 1, 1).await,
        Err(RequestError::NotConnected { raft_id: 2 })
    );
}

/// Answers the next question about blocks with blocks of these sizes.
async fn answer(node: &mut Node, sizes: &[usize]) -> (u64, u64, u32) {
    let Request::Blocks {
        from,
        first_height,
        count_max,
        reply,
    } = soon("a request", node.events.requests.recv())
        .await
        .unwrap()
    else {
        panic!("only blocks are asked for here");
    };
    reply
        .send(sizes.iter().map(|size| vec![3; *size].into()).collect())
        .unwrap();
    (from, first_height, count_max)
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_fetched_and_the_answer_is_bounded() {
    let (one, mut two) = pair(|_| {}).await;
    let fetch = |first_height, count_max| {
        let handle = one.handle.clone();
        tokio::spawn(async move { handle.fetch_blocks(2, first_height, count_max).await })
    };
    let sizes = |blocks: Vec<Bytes>| blocks.iter().map(Bytes::len).collect::<Vec<_>>();

    let fetched = fetch(17, 3);
    assert_eq!(answer(&mut two, &[5, 0, 7]).await, (1, 17, 3));
    assert_eq!(
        sizes(soon("blocks", fetched).await.unwrap().unwrap()),
        [5, 0, 7]
    );

    let fetched = fetch(1, 2);
    answer(&mut two, &[1, 2, 3]).await;
    assert_eq!(
        sizes(soon("blocks", fetched).await.unwrap().unwrap()),
        [1, 2],
        "count"
    );

    let fetched = fetch(1, 9);
    answer(&mut two, &[4 << 20, 3 << 20, 2 << 20]).await;
    assert_eq!(
        sizes(soon("blocks", fetched).await.unwrap().unwrap()),
        [4 << 20, 3 << 20],
        "bytes"
    );

    let fetched = fetch(1, 9);
    answer(&mut two, &[20 << 20, 1]).await;
    assert_eq!(
        sizes(soon("blocks", fetched).await.unwrap().unwrap()),
        [20 << 20],
        "one large"
    );

    let fetched = fetch(1, 9);
    answer(&mut two, &[]).await;
    assert_eq!(soon("blocks", fetched).await.unwrap(), Ok(Vec::new()));

    let fetched = fetch(1, 9);
    drop(soon("a request", two.events.requests.recv()).await);
    let declined = Err(RequestError::Declined { raft_id: 2 });
    assert_eq!(soon("the answer", fetched).await.unwrap(), declined);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_a_member_allows_are_told_busy() {
    let one = Node::start(config(1, 2));
    let mut strict = config(2, 2);
    strict.limits.fetches_per_member = 1;
    let mut two = Node::start(strict);
    one.knows(&two);
    two.knows(&one);
    wait_until("connected", || {
        one.is_connected_to(2) && two.is_connected_to(1)
    })
    .await;
    let handle = one.handle.clone();
    let first = tokio::spawn(async move { handle.fetch_blocks(2, 1, 1).await });
    let held = soon("a request", two.events.requests.recv()).await.unwrap();
    let before = dropped("blocks", "busy");
    let second = soon("the answer", one.handle.fetch_blocks(2, 1, 1)).await;
    assert_eq!(second, Err(RequestError::Busy { raft_id: 2 }));
    assert_eq!(dropped("blocks", "busy"), before + 1);
    let Request::Blocks { reply, .. } = held else {
        panic!("only blocks are asked for here");
    };
    reply.send(vec![Bytes::from_static(b"b")]).unwrap();
    assert_eq!(
        soon("the answer", first).await.unwrap(),
        Ok(vec![Bytes::from_static(b"b")])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_end_when_the_network_stops() {
    let (one, two) = pair(|_| {}).await;
    let handle = one.handle.clone();
    let waiting = tokio::spawn(async move { handle.forward(2, vec![Bytes::new()]).await });
    let (handle, mut events) = one.stop().await;
    let error = soon("the request ends", waiting)
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        !matches!(error, RequestError::Timeout { .. }),
        "it ends with its connection: {error}"
    );
    assert!(handle.forward(2, vec![Bytes::new()]).await.is_err());
    assert!(!handle.send_raft(2, Bytes::from_static(b"x")));
    assert!(handle.connected().is_empty());
    assert!(soon("the lane ends", events.raft.recv()).await.is_none());
    wait_until("the other side notices", || !two.is_connected_to(1)).await;
}
