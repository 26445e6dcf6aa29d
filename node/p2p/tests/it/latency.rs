//! Raft beside bulk. Times are printed for whoever looks (`--no-capture`); only progress is asserted.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_p2p::Request;

use crate::consortium::{Node, pair, soon};

/// Round trips of a small Raft message; the other side echoes.
async fn round_trips(one: &mut Node, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        assert!(one.handle.send_raft(2, Bytes::from_static(b"ping")));
        soon("the echo", one.events.raft.recv()).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

fn print(what: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_goes_on_while_blocks_are_fetched_without_a_pause() {
    let (mut one, two) = pair(|_| {}).await;
    let Node { handle, events, .. } = two;
    let quorate_p2p::Events {
        mut raft,
        mut requests,
        transactions: _keep,
        ..
    } = events;
    let echo = handle.clone();
    tokio::spawn(async move {
        while let Some(message) = raft.recv().await {
            echo.send_raft(message.from, message.bytes);
        }
    });
    tokio::spawn(async move {
        let block = Bytes::from(vec![9; 1 << 20]);
        while let Some(Request::Blocks { reply, .. }) = requests.recv().await {
            if reply.send(vec![block.clone(); 7]).is_err() {
                return;
            }
        }
    });
    let quiet = round_trips(&mut one, 500).await;
    print("Raft round trip, quiet", &quiet);
    let fetcher = one.handle.clone();
    let fetching = tokio::spawn(async move {
        let mut fetched = 0_usize;
        loop {
            fetched += fetcher.fetch_blocks(2, 1, 7).await.unwrap().len();
            if fetched >= 70 {
                return fetched;
            }
        }
    });
    let busy = round_trips(&mut one, 200).await;
    print("Raft round trip, beside 7 MiB fetches", &busy);
    assert_eq!(soon("the fetches", fetching).await.unwrap(), 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_goes_on_while_private_payloads_are_delivered_without_a_pause() {
    let (mut one, two) = pair(|_| {}).await;
    let Node { handle, events, .. } = two;
    let quorate_p2p::Events {
        mut raft,
        mut privacy,
        transactions: _keep,
        ..
    } = events;
    tokio::spawn(async move {
        while let Some(message) = raft.recv().await {
            handle.send_raft(message.from, message.bytes);
        }
    });
    tokio::spawn(async move {
        while let Some(request) = privacy.recv().await {
            if request.reply.send(request.body).is_err() {
                return;
            }
        }
    });
    let quiet = round_trips(&mut one, 500).await;
    print("Raft round trip, quiet", &quiet);
    let payload = Bytes::from(vec![9; 4 << 20]);
    let delivering: Vec<_> = (0..4)
        .map(|_| {
            let (handle, payload) = (one.handle.clone(), payload.clone());
            tokio::spawn(async move {
                for _ in 0..5 {
                    let limit = Duration::from_secs(60);
                    let answer = handle.ask_privacy(2, payload.clone(), limit).await.unwrap();
                    assert_eq!(answer.len(), payload.len());
                }
            })
        })
        .collect();
    let busy = round_trips(&mut one, 200).await;
    print(
        "Raft round trip, beside four payloads of 4 MiB each way",
        &busy,
    );
    for delivered in delivering {
        soon("the payloads", delivered).await.unwrap();
    }
}
