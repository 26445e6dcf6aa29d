//! What strangers, members gone bad and clients do to running nodes. Each attempt must leave the consortium as it was, and
//! show in the metrics of the node that met it.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use quorate_p2p::{Config, Events, MemberInfo, NetworkHandle, RequestError, Verdict};
use quorate_proto::v1;
use quorate_proto::v1::ledger_client::LedgerClient;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::consortium::{ALICE, BOB, Consortium, http};

/// The value of a counter of node `i`, summed over the series that have all of `labels`.
fn counter(c: &Consortium, i: usize, name: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    c.metrics(i)
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| wanted.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

/// The value of a counter without labels.
fn plain(c: &Consortium, name: &str) -> u64 {
    let metrics = c.metrics(0);
    let line = metrics.lines().find(|l| l.starts_with(&format!("{name} ")));
    let value = line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
    value.unwrap_or_default() as u64
}

fn refused(c: &Consortium, i: usize, reason: &str) -> u64 {
    counter(c, i, "quorate_p2p_refused_total", &[("reason", reason)])
}

/// Waits until a counter of node 0 is above `before`.
fn moved(c: &Consortium, name: &str, labels: &[(&str, &str)], before: u64) {
    c.wait(&format!("{name} {labels:?} is above {before}"), || {
        (counter(c, 0, name, labels) > before).then_some(())
    });
}

fn term(c: &Consortium, i: usize) -> u64 {
    c.membership(i)["term"].as_u64().unwrap()
}

/// Memory of node `i` that is in use, in KiB.
fn resident_kib(c: &Consortium, i: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", c.pid(i))).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A transfer still goes through node 0, and the term is the one that it was.
fn assert_unmoved(c: &Consortium, term_before: u64) {
    let hash = c.transfer(0, ALICE, BOB);
    c.receipt(0, &hash);
    assert_eq!(term(c, 0), term_before, "there was an election");
}

/// Somebody on the members' network who follows no rules but those of p2p itself.
struct Peer {
    runtime: Runtime,
    handle: NetworkHandle,
    events: Events,
    stop: CancellationToken,
}

impl Peer {
    /// With the key and the seat of member `seat`, which is not running; `change` makes it differ.
    fn in_seat(c: &Consortium, seat: usize, change: impl FnOnce(&mut Config)) -> Self {
        let key = fs::read_to_string(c.node_dir(seat).join("node.key")).unwrap();
        let mut secret = [0; 32];
        hex::decode_to_slice(key.trim(), &mut secret).unwrap();
        let genesis = fs::read_to_string(c.net_dir().join("genesis.json")).unwrap();
        let genesis: Value = serde_json::from_str(&genesis).unwrap();
        let members = genesis["quorate"]["members"].as_array().unwrap();
        let member = |member: &Value| {
            let mut public_key = [0; 33];
            let digits = member["nodeId"].as_str().unwrap();
            hex::decode_to_slice(digits.trim_start_matches("0x"), &mut public_key).unwrap();
            MemberInfo {
                raft_id: member["raftId"].as_u64().unwrap(),
                public_key,
                addresses: vec![member["address"].as_str().unwrap().to_owned()],
                organisation: String::new(),
            }
        };
        let hash = c.block(0, 0)["hash"].as_str().unwrap().to_owned();
        let mut genesis_hash = [0; 32];
        hex::decode_to_slice(hash.trim_start_matches("0x"), &mut genesis_hash).unwrap();
        let mut config = Config::new(
            secret,
            (Ipv4Addr::LOCALHOST, 0).into(),
            members.iter().map(member).collect(),
            seat as u64 + 1,
            1337,
            genesis_hash,
        );
        config.timing.dial_wait = Duration::from_millis(100);
        config.timing.dial_pause_max = Duration::from_secs(1);
        change(&mut config);
        let runtime = Runtime::new().unwrap();
        let stop = CancellationToken::new();
        let (handle, events) = {
            let _inside = runtime.enter();
            let (handle, events, network) = quorate_p2p::start(config).unwrap();
            let running = Box::pin(network.run(stop.clone()));
            drop(runtime.spawn(async move {
                // How it ends is the other side's affair.
                drop(running.await);
            }));
            (handle, events)
        };
        Self {
            runtime,
            handle,
            events,
            stop,
        }
    }

    fn wait_connected(&self, c: &Consortium, to: u64) {
        c.wait(&format!("the peer is connected to member {to}"), || {
            self.handle.connected().contains(&to).then_some(())
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Three members of which the last never starts: its seat is for the hostile.
fn two_of_three() -> Consortium {
    let mut c = Consortium::prepared(3);
    c.start(0);
    c.start(1);
    c.wait_ready();
    c
}

#[test]
fn whoever_does_not_belong_is_refused_at_the_gate_and_counted() {
    let c = two_of_three();
    let term_before = term(&c, 0);
    let gate = |reason: &'static str, change: fn(&mut Config)| {
        let before = refused(&c, 0, reason);
        let peer = Peer::in_seat(&c, 2, change);
        moved(
            &c,
            "quorate_p2p_refused_total",
            &[("reason", reason)],
            before,
        );
        assert!(!peer.handle.connected().contains(&1), "{reason}");
    };
    gate("unknown_key", |config| {
        config.secret_key = [0x77; 32];
        let own = quorate_p2p::public_key_of(&config.secret_key).unwrap();
        for member in &mut config.members {
            if member.raft_id == 3 {
                member.public_key = own;
            }
        }
    });
    gate("genesis", |config| config.genesis_hash[0] ^= 1);
    gate("chain_id", |config| config.chain_id = 1338);
    gate("protocol", |config| config.protocol_version = 99);
    // Its key is that of member 3; it says that it is a member 4.
    gate("raft_id", |config| {
        config.raft_id = 4;
        for member in &mut config.members {
            if member.raft_id == 3 {
                member.raft_id = 4;
            }
        }
    });
    assert_unmoved(&c, term_before);
}

#[test]
fn connections_that_say_nothing_are_limited_and_given_up() {
    let c = two_of_three();
    let term_before = term(&c, 0);
    let before = (refused(&c, 0, "limit"), refused(&c, 0, "handshake"));
    let address = c.p2p_address(0);
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    let reason = |reason| [("reason", reason)];
    moved(&c, "quorate_p2p_refused_total", &reason("limit"), before.0);
    // The rest is given up when the time for a handshake is over.
    moved(
        &c,
        "quorate_p2p_refused_total",
        &reason("handshake"),
        before.1,
    );
    drop(silent);
    assert_unmoved(&c, term_before);
}

#[test]
fn a_second_node_with_a_members_key_replaces_the_first_or_is_refused_by_its_log() {
    let c = two_of_three();
    let term_before = term(&c, 0);
    let replaced = refused(&c, 0, "replaced");
    // Both call, and nobody calls them: a connection each way at the same time counts as one member's.
    let caller = |config: &mut Config| {
        config.log_id = [1; 16];
        config.announce = vec!["127.0.0.1:1".to_owned()];
    };
    let first = Peer::in_seat(&c, 2, caller);
    first.wait_connected(&c, 1);
    let second = Peer::in_seat(&c, 2, caller);
    moved(
        &c,
        "quorate_p2p_refused_total",
        &[("reason", "replaced")],
        replaced,
    );
    drop((first, second));
    // The same key on another machine, or after the disk was lost.
    let before = refused(&c, 0, "other_log");
    let mut third = Peer::in_seat(&c, 2, |config| config.log_id = [2; 16]);
    moved(
        &c,
        "quorate_p2p_refused_total",
        &[("reason", "other_log")],
        before,
    );
    let verdict = third.runtime.block_on(third.events.verdicts.recv());
    assert!(
        matches!(verdict, Some(Verdict::OtherLog { .. })),
        "{verdict:?}"
    );
    drop(third);
    assert_unmoved(&c, term_before);
}

/// A heartbeat as protobuf: kind, receiver, sender, term.
fn heartbeat(from: u8, term: u8) -> Bytes {
    Bytes::from(vec![0x08, 8, 0x10, 1, 0x18, from, 0x20, term])
}

#[test]
fn raft_messages_that_are_none_or_of_others_are_dropped_and_counted() {
    let c = two_of_three();
    let term_before = term(&c, 0);
    let peer = Peer::in_seat(&c, 2, |_| {});
    peer.wait_connected(&c, 1);
    let name = "quorate_raft_dropped_messages_total";
    let dropped = |reason: &'static str, message: Bytes| {
        let labels = [("reason", reason)];
        let before = counter(&c, 0, name, &labels);
        c.wait("the message is taken", || {
            peer.handle.send_raft(1, message.clone()).then_some(())
        });
        moved(&c, name, &labels, before);
    };
    dropped("malformed", Bytes::from_static(&[0xff; 40]));
    // Over the connection of member 3, in the name of member 2 and with a term that would depose any leader.
    dropped("wrong_sender", heartbeat(2, 0x7f));
    dropped(
        "wrong_receiver",
        Bytes::from_static(&[0x08, 8, 0x10, 2, 0x18, 3, 0x20, 1]),
    );
    dropped("implausible", heartbeat(3, 0));
    assert_unmoved(&c, term_before);
}

#[test]
fn frames_over_the_limit_are_refused_before_memory_is_taken_for_them() {
    const FRAME: usize = 200 << 20;
    let c = two_of_three();
    let term_before = term(&c, 0);
    let peer = Peer::in_seat(&c, 2, |config| {
        config.limits.frame_bytes_max = FRAME;
        config.limits.raft_outbox_bytes = FRAME;
        config.limits.raft_lane_bytes = FRAME;
    });
    peer.wait_connected(&c, 1);
    let memory = resident_kib(&c, 0);
    let labels = [("lane", "raft"), ("reason", "frame_too_large")];
    let before = counter(&c, 0, "quorate_p2p_streams_broken_total", &labels);
    assert!(peer.handle.send_raft(1, vec![8; FRAME].into()));
    moved(&c, "quorate_p2p_streams_broken_total", &labels, before);
    let more = resident_kib(&c, 0).saturating_sub(memory);
    assert!(more < 64 << 10, "{more} KiB for a frame that was refused");
    drop(peer);
    assert_unmoved(&c, term_before);
}

#[test]
fn too_many_streams_are_turned_away_and_a_huge_range_is_cut() {
    let c = two_of_three();
    let hash = c.transfer(0, ALICE, BOB);
    c.receipt(0, &hash);
    let term_before = term(&c, 0);
    let peer = Peer::in_seat(&c, 2, |config| {
        config.limits.fetches_per_member = 64;
    });
    peer.wait_connected(&c, 1);
    let labels = [("lane", "blocks")];
    let before = counter(&c, 0, "quorate_p2p_dropped_total", &labels);
    let busy = peer.runtime.block_on(async {
        let fetches = (0..400).map(|_| peer.handle.fetch_blocks(1, 1, u32::MAX));
        let answers = futures::future::join_all(fetches).await;
        let busy = |answer: &&Result<_, RequestError>| answer.is_err();
        answers.iter().filter(busy).count()
    });
    assert!(busy > 0, "400 fetches at a time were all served");
    moved(&c, "quorate_p2p_dropped_total", &labels, before);
    // Everything that there is, and no more; and nothing from above.
    let cut = "quorate_p2p_ranges_cut_total";
    let before = plain(&c, cut);
    let fetch = |first| {
        peer.runtime
            .block_on(peer.handle.fetch_blocks(1, first, u32::MAX))
    };
    let height = c.height(0);
    c.wait("a turn is free", || {
        (fetch(1).ok()?.len() as u64 == height).then_some(())
    });
    assert_eq!(fetch(u64::MAX), Ok(Vec::new()));
    c.wait("the cut is counted", || {
        (plain(&c, cut) > before).then_some(())
    });
    assert!(!c.log(0).contains("panicked"));
    drop(peer);
    assert_unmoved(&c, term_before);
}

#[test]
fn floods_of_invalid_and_of_known_transactions_are_counted_and_hold_nobody_up() {
    let c = two_of_three();
    let term_before = term(&c, 0);
    let peer = Peer::in_seat(&c, 2, |_| {});
    peer.wait_connected(&c, 1);
    let forward = |batch: Vec<Bytes>| {
        let sent = peer.runtime.block_on(peer.handle.forward(1, batch));
        assert_eq!(sent, Ok(()));
    };
    let pool = "quorate_pool_refused_total";
    let blamed = "quorate_p2p_bad_transactions_total";
    let malformed = [("reason", "malformed")];
    let before = counter(&c, 0, pool, &malformed);
    let before_blamed = counter(&c, 0, blamed, &[("peer", "3")]);
    for round in 0..20_u8 {
        forward((0..250_u8).map(|n| vec![0xf8, round, n].into()).collect());
    }
    moved(&c, pool, &malformed, before + 4_999);
    moved(&c, blamed, &[("peer", "3")], before_blamed + 4_999);

    let nonce = c.rpc(0, "eth_getTransactionCount", json!([ALICE, "latest"]));
    let tx = json!([{ "from": ALICE, "to": BOB, "value": "0x1", "gas": "0x5208", "gasPrice": "0x0", "nonce": nonce }]);
    let signed = c.rpc(0, "eth_signTransaction", tx);
    let raw = signed["raw"].as_str().unwrap_or_else(|| panic!("{signed}"));
    let raw = Bytes::from(hex::decode(raw.trim_start_matches("0x")).unwrap());
    let again = |c: &Consortium| -> u64 {
        let count = |reason| counter(c, 0, pool, &[("reason", reason)]);
        count("known") + count("nonce_low") + count("in_flight")
    };
    let before = again(&c);
    for _ in 0..20 {
        forward(vec![raw.clone(); 250]);
    }
    // All but the first.
    c.wait("the repetitions are counted", || {
        (again(&c) >= before + 4_999).then_some(())
    });
    let balance = |who| c.rpc(0, "eth_getTransactionCount", json!([who, "latest"]));
    c.wait("it is executed once", || {
        (balance(ALICE) != nonce).then_some(())
    });
    drop(peer);
    assert_unmoved(&c, term_before);
}

#[test]
fn a_removed_member_is_cut_off_and_what_it_says_is_not_heard() {
    let c = two_of_three();
    let mut peer = Peer::in_seat(&c, 2, |_| {});
    peer.wait_connected(&c, 1);
    c.member(&["remove", "3"]);
    c.wait_roles(0, &[1, 2], &[]);
    let verdict = peer.runtime.block_on(peer.events.verdicts.recv());
    assert!(
        matches!(verdict, Some(Verdict::Removed { .. })),
        "{verdict:?}"
    );
    c.wait("it is cut off", || {
        peer.handle.connected().is_empty().then_some(())
    });
    let term_before = term(&c, 0);
    assert!(!peer.handle.send_raft(1, heartbeat(3, 0x7f)));
    drop(peer);
    // It knocks again, with the table that it had.
    let before = refused(&c, 0, "removed");
    let mut again = Peer::in_seat(&c, 2, |_| {});
    moved(
        &c,
        "quorate_p2p_refused_total",
        &[("reason", "removed")],
        before,
    );
    let verdict = again.runtime.block_on(again.events.verdicts.recv());
    assert!(
        matches!(verdict, Some(Verdict::Removed { .. })),
        "{verdict:?}"
    );
    drop(again);
    assert_unmoved(&c, term_before);
}

#[test]
fn questions_about_too_much_are_refused_or_cut_and_counted() {
    let c = Consortium::of(1);
    let hash = c.transfer(0, ALICE, BOB);
    c.receipt(0, &hash);
    let name = "quorate_rpc_errors_total";
    let labels = [("method", "eth_getLogs")];
    let before = counter(&c, 0, name, &labels);
    // A range that ends before it begins, and a filter that costs too much on each block.
    let backwards = json!([{ "fromBlock": "0xffffffffffffffff", "toBlock": "0x0" }]);
    let error = c.rpc_error(0, "eth_getLogs", backwards);
    assert!(
        error["message"].as_str().unwrap().contains("above toBlock"),
        "{error}"
    );
    let addresses: Vec<String> = (0..1_001_u64).map(|n| format!("0x{n:040x}")).collect();
    let error = c.rpc_error(0, "eth_getLogs", json!([{ "address": addresses }]));
    assert!(
        error["message"].as_str().unwrap().contains("log filter"),
        "{error}"
    );
    moved(&c, name, &labels, before + 1);
    // Asked for more than there is, a fee history is as long as the chain.
    let history = c.rpc(0, "eth_feeHistory", json!(["0xffffffff", "latest", []]));
    let blocks = history["gasUsedRatio"].as_array().unwrap().len() as u64;
    assert!(blocks <= c.height(0) + 1, "{history}");
    assert!(!c.log(0).contains("panicked"));
}

/// One of the requests of the flood; most of them cost something, some are none.
fn request(number: u64) -> String {
    let (method, params) = match number % 6 {
        // Init code that never ends: `JUMPDEST PUSH1 0 JUMP`. Each costs all the gas that a call may use.
        2 if number % 60 == 2 => (
            "eth_estimateGas",
            json!([{ "from": ALICE, "input": "0x5b600056" }]),
        ),
        0 => (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "latest" }]),
        ),
        1 => (
            "eth_call",
            json!([{ "to": BOB, "input": "0x00" }, "latest"]),
        ),
        2 => ("eth_getBlockByNumber", json!(["latest", true])),
        3 => ("eth_getProof", json!([ALICE, ["0x0"], "latest"])),
        4 => ("txpool_content", json!([])),
        _ => ("eth_nothing", json!([number])),
    };
    json!({ "jsonrpc": "2.0", "id": number, "method": method, "params": params }).to_string()
}

#[test]
fn a_flood_of_requests_causes_no_election_and_memory_stays_bounded() {
    const THREADS: u64 = 48;
    const EACH: u64 = 60;
    let c = Consortium::of(3);
    let hash = c.transfer(0, ALICE, BOB);
    c.receipt(0, &hash);
    let leader = c.leader();
    let term_before = term(&c, leader);
    let memory = resident_kib(&c, leader);
    let url = c.rpc_url(leader);
    let answered = AtomicU64::new(0);
    let runtime = Runtime::new().unwrap();
    let grpc_url = c.grpc_url(leader);
    let grpc = runtime.spawn(async move {
        let channel = tonic::transport::Endpoint::from_shared(grpc_url).unwrap();
        let client = LedgerClient::new(channel.connect().await.unwrap());
        let ask = |number: u64| {
            let mut client = client.clone();
            async move {
                let request = v1::GetBlockRequest {
                    block: Some(v1::get_block_request::Block::Height(number % 3)),
                    ..v1::GetBlockRequest::default()
                };
                // Refused is an answer too.
                drop(client.get_block(request).await);
                let raw = Bytes::from(number.to_be_bytes().to_vec());
                let submit = v1::SubmitTransactionRequest { raw, wait: true };
                assert!(client.submit_transaction(submit).await.is_err());
            }
        };
        futures::future::join_all((0..2_000).map(ask)).await.len()
    });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (url, answered) = (&url, &answered);
            scope.spawn(move || {
                for number in 0..EACH {
                    // A refused connection is an answer too, but then there is no text.
                    if http(url, Some(&request(thread * EACH + number)))
                        .is_ok_and(|a| a.contains("jsonrpc"))
                    {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(runtime.block_on(grpc).unwrap(), 2_000);
    let answered = answered.into_inner();
    assert!(
        answered > THREADS * EACH / 2,
        "only {answered} requests were answered"
    );
    let counted = counter(&c, leader, "quorate_rpc_requests_total", &[("api", "json")]);
    assert!(counted >= answered / 2, "{counted} requests in the metrics");
    let more = resident_kib(&c, leader).saturating_sub(memory);
    assert!(more < 256 << 10, "{more} KiB more after the flood");
    assert_eq!(c.leader(), leader, "another member leads");
    assert_unmoved(&c, term_before);
    for i in 0..3 {
        assert_eq!(term(&c, i), term_before, "node {i}");
    }
}
