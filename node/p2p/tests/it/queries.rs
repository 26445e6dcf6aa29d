//! Opaque questions to one member, and that bulk does not hold up membership.

use bytes::Bytes;
use quorate_p2p::{QueryKind, Request, RequestError};
use tokio::sync::{mpsc, oneshot};

use crate::consortium::{dropped, pair, soon};

/// The next query of a lane.
async fn next(
    lane: &mut mpsc::Receiver<Request>,
) -> (u64, QueryKind, Bytes, oneshot::Sender<Bytes>) {
    match soon("a query", lane.recv()).await {
        Some(Request::Query {
            from,
            kind,
            body,
            reply,
        }) => (from, kind, body, reply),
        other => panic!("expected a query, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_query_comes_out_of_its_lane_and_is_answered() {
    let (one, mut two) = pair(|_| {}).await;
    for kind in [QueryKind::Membership, QueryKind::Snapshot] {
        let handle = one.handle.clone();
        let body = Bytes::from(vec![5; kind.body_bytes_max()]);
        let sent = body.clone();
        let asking = tokio::spawn(async move { handle.query(2, kind, sent).await });
        let lane = match kind {
            QueryKind::Membership => &mut two.events.control,
            QueryKind::Snapshot => &mut two.events.requests,
        };
        let (from, got, received, reply) = next(lane).await;
        assert_eq!((from, got), (1, kind));
        assert!(received == body);
        // The largest answer passes.
        let answer = Bytes::from(vec![6; kind.answer_bytes_max()]);
        reply.send(answer.clone()).unwrap();
        assert!(asking.await.unwrap() == Ok(answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_not_answered_is_named() {
    let (one, mut two) = pair(|_| {}).await;
    let kind = QueryKind::Membership;
    let max = kind.body_bytes_max();
    let body = Bytes::from(vec![0; max + 1]);
    assert_eq!(
        one.handle.query(2, kind, body).await,
        Err(RequestError::TooLarge { got: max + 1, max })
    );
    assert_eq!(
        one.handle.query(7, kind, Bytes::new()).await,
        Err(RequestError::UnknownMember { raft_id: 7 })
    );
    for answer in [
        None,
        Some(Bytes::from(vec![0; kind.answer_bytes_max() + 1])),
    ] {
        let handle = one.handle.clone();
        let asking = tokio::spawn(async move { handle.query(2, kind, Bytes::new()).await });
        let (.., reply) = next(&mut two.events.control).await;
        match answer {
            Some(answer) => reply.send(answer).unwrap(),
            None => drop(reply),
        }
        assert_eq!(
            asking.await.unwrap(),
            Err(RequestError::Declined { raft_id: 2 })
        );
    }
    assert_eq!(dropped("membership", "answer_too_large"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_passes_while_bulk_waits() {
    let (one, mut two) = pair(|config| {
        config.limits.request_lane = 1;
        config.limits.snapshots_per_member = 2;
    })
    .await;
    // Nobody takes bulk from its lane: these wait, and so do fetches.
    let bulk: Vec<_> = (0..2)
        .map(|_| {
            let handle = one.handle.clone();
            tokio::spawn(async move { handle.query(2, QueryKind::Snapshot, Bytes::new()).await })
        })
        .collect();
    let handle = one.handle.clone();
    let fetching = tokio::spawn(async move { handle.fetch_blocks(2, 1, 1).await });
    let handle = one.handle.clone();
    let asking = tokio::spawn(async move {
        handle
            .query(2, QueryKind::Membership, Bytes::from_static(b"q"))
            .await
    });
    let (.., body, reply) = next(&mut two.events.control).await;
    assert_eq!(body, "q");
    reply.send(Bytes::from_static(b"a")).unwrap();
    assert_eq!(asking.await.unwrap(), Ok(Bytes::from_static(b"a")));
    assert!(bulk.iter().all(|task| !task.is_finished()) && !fetching.is_finished());
    bulk.iter().for_each(tokio::task::JoinHandle::abort);
    fetching.abort();
}
