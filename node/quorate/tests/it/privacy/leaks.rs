//! What a node that is no party can find out: the public transaction, and nothing else, wherever it looks.
//!
//! Goal: no way of asking, no file, no log line and no byte on the wire gives a member what is not for it. Method: private transactions
//! of three nodes carry words that are found nowhere else; the fourth node is asked everything, its disk is searched, and so is all that
//! members said to each other, which passes through proxies.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use alloy_primitives::{U256, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::codes::*;
use super::http::get;
use super::parties::{Contract, Form, Parties, merge};
use crate::consortium::quantity;

/// In call data, init code and storage of the private transactions. No two bytes of it are alike, so that it is found by its bytes.
const SECRET: [u8; 32] = hex!("5ec2e7f00d1a9b3c8d4e6f7081a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4");
/// The node that is no party of anything.
const OUTSIDER: usize = 3;
/// What one direction of one connection may carry in a test, and far more than it does.
const CAPTURED_MAX: usize = 256 << 20;

/// Everything that passed through the proxies.
type Capture = Arc<Mutex<Vec<u8>>>;

/// Passes connections on to another port and keeps what it sees.
fn proxy(from: &str, to: u16, capture: &Capture) {
    let listener = TcpListener::bind(from).unwrap();
    let capture = Arc::clone(capture);
    // Ends with the test's process.
    thread::Builder::new()
        .name("proxy".into())
        .spawn(move || {
            for incoming in listener.incoming() {
                let Ok(client) = incoming else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    // The node is not up yet; its peer tries again.
                    continue;
                };
                let pairs = [
                    (client.try_clone(), server.try_clone()),
                    (Ok(server), Ok(client)),
                ];
                for (from, to) in pairs {
                    let (Ok(from), Ok(to)) = (from, to) else {
                        continue;
                    };
                    let capture = Arc::clone(&capture);
                    let pump = thread::Builder::new().spawn(move || pump(from, to, &capture));
                    pump.unwrap();
                }
            }
        })
        .unwrap();
}

fn pump(mut from: TcpStream, mut to: TcpStream, capture: &Capture) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        let mut capture = capture.lock().unwrap();
        assert!(capture.len() < CAPTURED_MAX);
        capture.extend_from_slice(&buffer[..count]);
    }
    drop(to.shutdown(Shutdown::Both));
}

/// A consortium whose members reach each other through proxies alone.
fn watched(form: Form, settings: &[&str]) -> (Parties, Capture) {
    let mut p = Parties::prepared(form, settings);
    let capture = Capture::default();
    for i in 0..4 {
        let real = p.c.spare_port(i);
        proxy(&p.c.p2p_address(i), real, &capture);
        p.c.add_arguments(i, &["--set", &format!("p2p.listen=127.0.0.1:{real}")]);
    }
    (p.started(), capture)
}

/// The forms in which the secret could stand somewhere.
fn faces() -> Vec<Vec<u8>> {
    let whole = hex::encode(SECRET);
    let mut faces = vec![
        SECRET.to_vec(),
        whole.clone().into_bytes(),
        whole.to_uppercase().into_bytes(),
    ];
    // In base64 it looks different by its place among three bytes.
    for skipped in 0..3 {
        let shifted = STANDARD.encode(&SECRET[skipped..skipped + 27]);
        faces.push(shifted.into_bytes());
    }
    faces
}

fn holds(bytes: &[u8], face: &[u8]) -> bool {
    memchr(bytes, face[0]).any(|at| bytes[at..].starts_with(face))
}

/// Places of a byte: the standard library searches for words in texts only.
fn memchr(bytes: &[u8], wanted: u8) -> impl Iterator<Item = usize> {
    bytes
        .iter()
        .enumerate()
        .filter(move |(_, byte)| **byte == wanted)
        .map(|(at, _)| at)
}

fn assert_silent(what: &str, bytes: &[u8]) {
    for face in faces() {
        assert!(!holds(bytes, &face), "{what} gives the secret away");
    }
}

/// All files below a folder.
fn for_each_file(dir: &Path, visit: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_file(&path, visit);
        } else if path.is_file() {
            // A file may go while the node works with it.
            if let Ok(bytes) = fs::read(&path) {
                visit(&path, &bytes);
            }
        }
    }
}

/// The private life of nodes 0, 1 and 2: a contract, calls, events, a revert. Hashes of the transactions.
fn private_life(p: &mut Parties) -> (Contract, Vec<String>) {
    let mut init = deploying_with(STORE, 0);
    // What a constructor's arguments are: behind the code.
    init.extend(SECRET);
    let contract = p.deploy(0, &[1, 2], &init);
    let mut hashes = vec![contract.transaction.clone()];
    for from in [0, 1, 2] {
        let others: Vec<usize> = (0..3).filter(|i| *i != from).collect();
        hashes.push(p.execute(from, &others, &contract, &SECRET));
    }
    let reverting = p.deploy(1, &[2], &deploying(&reverting("nobody else")));
    let request = p.request(1, &[2], Some(&reverting.address), &SECRET);
    let hash = p.send(1, &request);
    assert_eq!(p.private_receipt(2, &hash)["status"], "0x0");
    hashes.extend([reverting.transaction, hash]);
    for i in 0..3 {
        assert_eq!(p.slot(i, &contract.address, 0), U256::from_be_bytes(SECRET));
    }
    (contract, hashes)
}

/// Everything that can be asked about a transaction and an address, as one text; refusals too.
fn answers(p: &Parties, i: usize, contract: &str, transaction: &str) -> String {
    let payload = p.payload_hash(transaction);
    let block = p.c.rpc(i, "eth_getTransactionByHash", json!([transaction]))["blockNumber"].clone();
    let call = json!({ "to": contract, "data": "0x" });
    let with_data =
        json!({ "from": p.account(i), "to": contract, "data": hex::encode_prefixed(SECRET) });
    let questions = [
        ("eth_getTransactionByHash", json!([transaction])),
        ("eth_getTransactionReceipt", json!([transaction])),
        ("eth_getPrivateTransactionByHash", json!([transaction])),
        ("eth_getPrivateTransactionReceipt", json!([transaction])),
        ("eth_getRawTransactionByHash", json!([transaction])),
        ("eth_getBlockByNumber", json!([block, true])),
        ("eth_getBlockReceipts", json!([block])),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "latest" }]),
        ),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "latest", "address": contract }]),
        ),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": [TOPIC] }]),
        ),
        ("eth_getCode", json!([contract, "latest"])),
        ("eth_getStorageAt", json!([contract, "0x0", "latest"])),
        ("eth_getBalance", json!([contract, "latest"])),
        ("eth_getTransactionCount", json!([contract, "latest"])),
        ("eth_getProof", json!([contract, ["0x0"], "latest"])),
        ("eth_storageRoot", json!([contract, "latest"])),
        ("eth_call", json!([call, "latest"])),
        ("eth_createAccessList", json!([call, "latest"])),
        ("eth_estimateGas", json!([call])),
        ("eth_getQuorumPayload", json!([payload])),
        ("eth_getQuorumPayloadExtra", json!([payload])),
        ("eth_getContractPrivacyMetadata", json!([contract])),
        ("txpool_content", json!([])),
        ("txpool_inspect", json!([])),
        ("txpool_status", json!([])),
        ("debug_traceTransaction", json!([transaction, {}])),
        ("debug_traceCall", json!([with_data, "latest", {}])),
        ("debug_traceBlockByNumber", json!([block])),
        ("debug_dumpBlock", json!([block])),
        ("debug_dumpAddress", json!([contract, "latest"])),
        (
            "debug_storageRangeAt",
            json!([transaction, 0, contract, "0x0", 10]),
        ),
        ("trace_transaction", json!([transaction])),
        ("debug_privateStateRoot", json!(["latest"])),
    ];
    let mut all = String::new();
    for (method, params) in questions {
        let answer = p.c.try_rpc(i, method, params).unwrap();
        all.push_str(&format!("{method}: {answer}\n"));
    }
    let path = format!(
        "/transaction/{}",
        STANDARD
            .encode(hex::decode(&payload).unwrap())
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    );
    for suffix in ["", "/isSender", "/participants", "/mandatory"] {
        all.push_str(&get(p.third(i), &format!("{path}{suffix}")).text());
    }
    for arguments in [
        ["payload", payload.as_str()],
        ["deliveries", payload.as_str()],
        ["receipt", transaction],
        ["contract", contract],
    ] {
        let output = p.try_cli(i, &arguments);
        all.push_str(&String::from_utf8_lossy(&output.stdout));
        all.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    all
}

fn an_outsider_learns_nothing(form: Form) {
    let (mut p, capture) = watched(form, &[]);
    let moved = |p: &Parties| {
        let metrics = p.c.metrics(OUTSIDER);
        let lane = |line: &&str| {
            line.contains("lane=\"privacy\"") && line.starts_with("quorate_p2p_bytes_total")
        };
        let lanes: f64 = metrics
            .lines()
            .filter(lane)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        [
            lanes,
            p.metric(OUTSIDER, "quorate_exchange_bytes_received_total"),
            p.metric(OUTSIDER, "quorate_exchange_bytes_sent_total"),
        ]
    };
    let before = moved(&p);
    let (contract, hashes) = private_life(&mut p);
    let unknown = "0x00000000000000000000000000000000000b0d1e";
    for hash in &hashes {
        p.assert_no_party(OUTSIDER, hash);
        let said = answers(&p, OUTSIDER, &contract.address, hash);
        assert_silent("an answer of the outsider", said.as_bytes());
        assert!(
            !said.contains("nobody else"),
            "the reason of a revert: {said}"
        );
        if form == Form::Marker {
            // Not even the contract's address, but where it was asked for.
            let own_questions = answers(&p, OUTSIDER, unknown, hash);
            let address = contract.address.to_lowercase();
            assert!(
                !own_questions
                    .to_lowercase()
                    .contains(address.trim_start_matches("0x"))
            );
        }
        for key in (0..3).map(|i| p.key(i)) {
            assert!(!said.contains(key), "who takes part: {said}");
        }
    }
    // An address with a private contract answers exactly as one with nothing.
    // The creation: the others name the address in public where the form is Quorum's.
    let hash = &hashes[0];
    let nothing = answers(&p, OUTSIDER, unknown, hash);
    let something = answers(&p, OUTSIDER, &contract.address, hash);
    let blank = |text: String, address: &str| {
        text.to_lowercase()
            .replace(&address.to_lowercase(), "ADDRESS")
    };
    let differing: Vec<String> = blank(nothing, unknown)
        .lines()
        .zip(blank(something, &contract.address).lines())
        // A proof of absence goes along the path of the address.
        .filter(|(one, other)| one != other && !one.starts_with("eth_getproof"))
        .map(|(one, other)| format!("{one}\n{other}"))
        .collect();
    assert_eq!(differing, Vec::<String>::new());
    // Proofs are of the public state, to parties as well.
    let head = format!("{:#x}", p.c.height(OUTSIDER));
    let proof = |i: usize| p.patiently(i, "eth_getProof", json!([contract.address, ["0x0"], head]));
    for i in 0..3 {
        assert_eq!(proof(i), proof(OUTSIDER), "node {i}");
    }
    // No log, no bloom, no address in the blocks.
    for height in 1..=p.c.height(OUTSIDER) {
        let receipts = p.c.rpc(
            OUTSIDER,
            "eth_getBlockReceipts",
            json!([format!("{height:#x}")]),
        );
        for receipt in receipts.as_array().unwrap() {
            assert_eq!(receipt["logs"], json!([]));
            assert!(
                receipt["revertReason"].is_null() && receipt["contractAddress"].is_null(),
                "{receipt}"
            );
        }
        let bloom = p.c.block(OUTSIDER, height)["logsBloom"].clone();
        let bloom = hex::decode(bloom.as_str().unwrap()).unwrap();
        assert!(bloom.iter().all(|byte| *byte == 0));
    }
    assert_eq!(p.cli(OUTSIDER, &["status"])["payloads"], 0);
    assert_eq!(
        moved(&p),
        before,
        "nothing private went to or from the outsider"
    );
    // Its disk and its log; then the logs of all, and what they said to each other.
    for_each_file(&p.c.node_dir(OUTSIDER), &mut |path, bytes| {
        assert_silent(&path.display().to_string(), bytes);
    });
    for i in 0..4 {
        assert_silent("a log", p.c.log(i).as_bytes());
    }
    let captured = capture.lock().unwrap();
    assert!(
        captured.len() > 50_000,
        "the members did not speak through the proxies: {}",
        captured.len()
    );
    assert_silent("the wire", &captured);
    let payload = hex::decode(p.payload_hash(hash)).unwrap();
    assert!(!holds(&captured, &payload), "the wire is encrypted");
    drop(captured);
    p.finish();
}

#[test]
fn an_outsider_learns_nothing_of_markers() {
    an_outsider_learns_nothing(Form::Marker);
}

#[test]
fn an_outsider_learns_nothing_in_quorums_form() {
    an_outsider_learns_nothing(Form::Quorum);
}

#[test]
fn transactions_that_wait_for_a_block_show_their_public_side_alone() {
    for form in [Form::Marker, Form::Quorum] {
        let mut p = Parties::with(form, &["minter.min_interval=3s"]);
        // The first goes at once, the next waits for its block.
        p.deploy(0, &[1], &deploying(STORE));
        let request = p.request(0, &[1], None, &SECRET);
        let hash = p.send(0, &request);
        for i in 0..4 {
            let content = p.wait(&format!("node {i} has it in its pool"), || {
                let found = p.c.rpc(i, "eth_getTransactionByHash", json!([hash]));
                (!found.is_null()).then(|| p.c.rpc(i, "txpool_content", json!([])))
            });
            assert_silent("the pool", content.to_string().as_bytes());
            assert!(!content.to_string().contains(p.key(1)), "{content}");
        }
        p.private_receipt(0, &hash);
        p.finish();
    }
}

/// By its tags nobody but a party recognises who a marker is for: neither two for the same parties, nor how many there are.
#[test]
fn markers_for_the_same_parties_have_nothing_in_common() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying(STORE));
    let mut seen = std::collections::BTreeSet::new();
    let mut lengths = std::collections::BTreeSet::new();
    for to in [vec![], vec![1], vec![1], vec![2], vec![1, 2, 3]] {
        for _ in 0..3 {
            let request = p.request(0, &to, Some(&contract.address), &word(7));
            let hash = p.send(0, &request);
            let marker = p.c.rpc(0, "eth_getTransactionByHash", json!([hash]));
            let input = hex::decode(marker["input"].as_str().unwrap()).unwrap();
            let (payload, tags) = input.split_at(64);
            assert!(seen.insert(payload.to_vec()), "two payloads with one hash");
            for tag in tags.chunks(8) {
                assert!(seen.insert(tag.to_vec()), "a tag twice: {marker}");
            }
            lengths.insert(tags.len());
            assert_eq!(quantity(&marker["value"]), 0);
        }
    }
    assert_eq!(
        lengths.len(),
        1,
        "the number of tags tells the number of parties: {lengths:?}"
    );
}

/// What an operator of another member could try: asking a party's node for what is not for his own.
#[test]
fn a_request_for_someone_elses_payload_is_not_answered() {
    let mut p = Parties::of(Form::Marker);
    let contract = p.deploy(0, &[1], &deploying(STORE));
    let refused = p.metric(0, "quorate_exchange_fetched_total");
    // The outsider asks all others for everything: it gets nothing.
    let done: Value = p.cli(OUTSIDER, &["resync"]);
    for member in done["members"].as_array().unwrap() {
        assert_eq!(
            (&member["fetched"], &member["failed"]),
            (&json!(0), &json!(0)),
            "{done}"
        );
    }
    assert_eq!(p.cli(OUTSIDER, &["status"])["payloads"], 0);
    assert_eq!(p.metric(0, "quorate_exchange_fetched_total"), refused);
    p.assert_no_party(OUTSIDER, &contract.transaction);
    // Naming it in a transaction of one's own makes nobody a party.
    let wallet = super::signing::Wallet::named("a member who copies a marker");
    let hash = p.c.rpc(
        OUTSIDER,
        "eth_sendRawTransaction",
        json!([wallet.marker(0, &contract.payload)]),
    );
    let hash = hash.as_str().unwrap();
    p.assert_no_party(OUTSIDER, hash);
    let mut request = p.request(OUTSIDER, &[0], Some(&contract.address), &word(6));
    merge(&mut request, json!({ "privacyFlag": 1 }));
    let said = p.refused(OUTSIDER, &request);
    assert!(said.contains("contract not found"), "{said}");
    assert_eq!(p.number(0, &contract.address), Some(0));
    p.finish();
}
