//! Submitting over JSON-RPC: one request at a time per connection, with one transaction or a batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::hex;
use anyhow::{anyhow, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::load::{Run, Share};
use crate::cli::client::{CallError, HttpClient, quantity, result_of};

const METHOD: &str = "eth_sendRawTransaction";
/// docs/errors.md; from the execution-apis specification.
const ALREADY_KNOWN: i64 = 1_000;
/// A node may be behind the one that committed the preparation for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A node that does not answer a request for so long is taken for gone.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Waits until all nodes are at `height` and gives back where they are.
///
/// # Errors
/// If one does not answer or does not get there.
pub async fn wait_for_height(
    client: &HttpClient,
    urls: &[String],
    height: u64,
) -> anyhow::Result<Vec<u64>> {
    let mut heights = Vec::new();
    for url in urls {
        let started = Instant::now();
        heights.push(loop {
            let reached = client.call(url, "eth_blockNumber", json!([])).await?;
            let reached = quantity(&reached).ok_or_else(|| anyhow!("{url}: no block number"))?;
            if reached >= height {
                break reached;
            }
            if started.elapsed() > PATIENCE {
                bail!("{url} is at height {reached} and does not reach {height}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        });
    }
    Ok(heights)
}

/// Sends the share of one connection.
pub async fn submit(
    run: Arc<Run>,
    worker: usize,
    client: HttpClient,
    url: String,
    batch_max: usize,
) {
    let mut share = Share::new(&run, worker);
    while share.has_next() {
        tokio::select! {
            biased;
            () = run.stop.cancelled() => return,
            () = run.closing.cancelled() => return,
            () = share.ready() => {}
        }
        let mut batch = Vec::new();
        let mut raw = Vec::new();
        while let Some((i, signed)) = share.take() {
            batch.push(i);
            raw.push(hex::encode_prefixed(&signed.raw));
            if batch.len() >= batch_max || !share.ready_now() {
                break;
            }
        }
        let body = body(&raw);
        let answer = tokio::select! {
            () = run.stop.cancelled() => return,
            answer = tokio::time::timeout(ANSWER_MAX, client.post(&url, body)) => answer,
        };
        match answer {
            Ok(Ok(answer)) => judge(&mut share, &url, &batch, &answer),
            Ok(Err(e)) => share.lost(batch.into_iter(), &e.to_string()),
            Err(_) => share.lost(batch.into_iter(), "no answer in time"),
        }
    }
}

fn body(raw: &[String]) -> Bytes {
    let call = |(id, raw): (usize, &String)| json!({ "jsonrpc": "2.0", "id": id, "method": METHOD, "params": [raw] });
    let mut calls: Vec<Value> = raw.iter().enumerate().map(call).collect();
    match calls.len() {
        1 => calls.swap_remove(0).to_string().into(),
        _ => Value::Array(calls).to_string().into(),
    }
}

fn judge(share: &mut Share<'_>, url: &str, batch: &[usize], answer: &[u8]) {
    let answers: BTreeMap<u64, Value> = match serde_json::from_slice(answer) {
        Ok(Value::Array(answers)) => answers
            .into_iter()
            .filter_map(|a| Some((a.get("id")?.as_u64()?, a)))
            .collect(),
        Ok(one) => BTreeMap::from([(0, one)]),
        Err(_) => BTreeMap::new(),
    };
    for (id, i) in batch.iter().enumerate() {
        match answers
            .get(&(id as u64))
            .cloned()
            .map(|a| result_of(url, METHOD, a))
        {
            Some(Ok(_)) => share.accepted(*i),
            Some(Err(CallError::Refused { code, message, .. })) if is_for_now(code) => {
                share.again(*i, &code.to_string(), &message);
            }
            // Sent again after a broken connection.
            Some(Err(CallError::Refused {
                code: ALREADY_KNOWN,
                ..
            })) => share.accepted(*i),
            Some(Err(CallError::Refused { code, message, .. })) => {
                share.refused(*i, &code.to_string(), &message)
            }
            Some(Err(other)) => share.refused(*i, "malformed", &other.to_string()),
            None => share.refused(*i, "malformed", "a call was not answered"),
        }
    }
}

/// Full pool, a limit, no leader: docs/errors.md.
fn is_for_now(code: i64) -> bool {
    matches!(code, -32_002 | -32_003 | -32_005)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Bytes as Raw, keccak256};

    use super::*;
    use crate::bench::load::Plan;
    use crate::bench::workload::Signed;

    fn run(count: u8) -> Run {
        let signed = |i: u8| Signed {
            raw: Raw::from(vec![i]),
            hash: keccak256([i]),
        };
        Run::new(Plan {
            transactions: (0..count).map(signed).collect(),
            workers: 1,
            senders: 8,
            nodes: 1,
            rate: None,
            window: None,
        })
    }

    #[test]
    fn one_transaction_is_a_call_and_several_are_a_batch() {
        let one: Value = serde_json::from_slice(&body(&["0x01".into()])).unwrap();
        assert_eq!(one["params"], json!(["0x01"]));
        let two: Value = serde_json::from_slice(&body(&["0x01".into(), "0x02".into()])).unwrap();
        assert_eq!(two[1]["params"], json!(["0x02"]));
    }

    #[test]
    fn each_answer_of_a_batch_is_judged_by_itself_and_in_any_order() {
        let run = run(4);
        let mut share = Share::new(&run, 0);
        let batch: Vec<usize> = (0..4).map(|_| share.take().unwrap().0).collect();
        let answer = json!([
            { "id": 2, "error": { "code": -32000, "message": "insufficient funds" } },
            { "id": 1, "error": { "code": -32003, "message": "pool is full" } },
            { "id": 0, "result": "0x00" },
        ]);
        judge(
            &mut share,
            "http://x",
            &batch,
            answer.to_string().as_bytes(),
        );
        assert_eq!(run.accepted(), 1);
        let refusals = run.refusals();
        let counts: Vec<(&str, u64)> = refusals
            .iter()
            .map(|(reason, r)| (reason.as_str(), r.count))
            .collect();
        assert_eq!(counts, [("-32000", 1), ("-32003", 1), ("malformed", 1)]);
        // Only what may work later is sent again.
        assert_eq!(share.take().unwrap().0, 1);
        assert!(share.take().is_none());
    }
}
