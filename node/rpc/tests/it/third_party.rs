//! Tessera's HTTP surface over a fake of the node's privacy, over TCP, TLS and a Unix socket.

mod fake;
mod raw;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use quorate_enclave::PublicKey;
use quorate_rpc::third_party::{
    ThirdPartyError, ThirdPartyLimits, ThirdPartySocket, ThirdPartyTls, serve_third_party,
    serve_third_party_on_socket,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use fake::{FakePrivacy, MISSING, OUR_KEY, THEIR_KEY};
use raw::{Answered, ask, ask_over};

/// A surface that is served, and how it is stopped.
struct Served {
    api: Arc<FakePrivacy>,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ThirdPartyError>>,
}

impl Served {
    async fn with(limits: ThirdPartyLimits, tls: Option<ThirdPartyTls>) -> Self {
        let api = Arc::new(FakePrivacy::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = serve_third_party(api.clone(), listener, tls, limits, stop.clone());
        Self {
            api,
            address,
            stop,
            task: tokio::spawn(served),
        }
    }

    async fn new() -> Self {
        Self::with(ThirdPartyLimits::default(), None).await
    }

    async fn get(&self, path: &str) -> Answered {
        ask(self.address, "GET", path, &[], b"").await
    }

    async fn post_json(&self, path: &str, body: Value) -> Answered {
        let headers = [("content-type", "application/json")];
        let body = body.to_string();
        ask(self.address, "POST", path, &headers, body.as_bytes()).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn escaped(hash: &str) -> String {
    hash.replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

#[tokio::test]
async fn it_says_that_it_is_up_and_what_it_speaks() {
    let served = Served::new().await;
    let up = served.get("/upcheck").await;
    assert_eq!((up.status, up.text().as_str()), (200, "I'm up!"));
    assert_eq!(up.header("content-type"), Some("text/plain"));
    assert_eq!(
        served.get("/version").await.text(),
        env!("CARGO_PKG_VERSION")
    );
    let versions = served.get("/version/api").await.json();
    assert_eq!(versions, json!(["1.0", "2.0", "2.1", "3.0", "4.0"]));
    served.end().await;
}

#[tokio::test]
async fn keys_are_listed_as_tessera_lists_them() {
    let served = Served::new().await;
    assert_eq!(
        served.get("/keys").await.json(),
        json!({ "keys": [{ "key": OUR_KEY }] })
    );
    assert_eq!(
        served.get("/partyinfo/keys").await.json(),
        json!({ "keys": [{ "key": OUR_KEY }, { "key": THEIR_KEY }] })
    );
    served.end().await;
}

#[tokio::test]
async fn a_payload_is_sent_and_received_in_every_way() {
    let served = Served::new().await;
    let body = json!({ "payload": STANDARD.encode("deploy"), "from": OUR_KEY, "to": [THEIR_KEY] });
    let sent = served.post_json("/send", body).await;
    assert_eq!(sent.status, 201);
    let answer = sent.json();
    let key = answer["key"].as_str().unwrap().to_owned();
    assert_eq!(STANDARD.decode(&key).unwrap().len(), 64);
    assert_eq!(answer["senderKey"], OUR_KEY);
    assert_eq!(answer["managedParties"], json!([OUR_KEY]));
    assert_eq!(
        sent.header("location").unwrap(),
        format!("/transaction/{}", escaped(&key))
    );
    let safe = URL_SAFE_NO_PAD.encode(STANDARD.decode(&key).unwrap());
    let recipient = escaped(OUR_KEY);
    for path in [
        format!("/transaction/{}", escaped(&key)),
        format!("/transaction/{key}"),
        format!("/transaction/{safe}?isRaw=false"),
        format!("/transaction/{safe}?to={recipient}"),
    ] {
        let received = served.get(&path).await;
        assert_eq!(received.status, 200, "{path}");
        let received = received.json();
        assert_eq!(received["payload"], STANDARD.encode("deploy"));
        assert_eq!(received["privacyFlag"], 0);
        assert_eq!(received["senderKey"], OUR_KEY);
        assert_eq!(received["affectedContractTransactions"], json!([]));
        assert_eq!(received.get("execHash"), None);
    }
    let headers = [("content-type", "application/json")];
    let wanted = json!({ "key": key }).to_string();
    for method in ["GET", "POST"] {
        let received = ask(
            served.address,
            method,
            "/receive",
            &headers,
            wanted.as_bytes(),
        )
        .await;
        assert_eq!(received.json()["payload"], STANDARD.encode("deploy"));
    }
    let headers = [("c11n-key", key.as_str()), ("c11n-to", OUR_KEY)];
    let raw = ask(served.address, "GET", "/receiveraw", &headers, b"").await;
    assert_eq!(
        (raw.status, raw.body.as_slice()),
        (200, b"deploy".as_slice())
    );
    assert_eq!(raw.header("content-type"), Some("application/octet-stream"));
    let about = |what: &str| format!("/transaction/{safe}/{what}");
    assert_eq!(served.get(&about("isSender")).await.text(), "true");
    assert_eq!(
        served.get(&about("participants")).await.text(),
        format!("{OUR_KEY},{THEIR_KEY}")
    );
    assert_eq!(served.get(&about("mandatory")).await.text(), "");
    served.end().await;
}

#[tokio::test]
async fn a_payload_in_bytes_needs_no_json() {
    let served = Served::new().await;
    let headers = [
        ("content-type", "application/octet-stream"),
        ("c11n-from", OUR_KEY),
        ("c11n-to", THEIR_KEY),
    ];
    let sent = ask(served.address, "POST", "/sendraw", &headers, b"bytes").await;
    assert_eq!(sent.status, 200);
    let hash = sent.text();
    let received = served
        .get(&format!("/transaction/{}", escaped(&hash)))
        .await
        .json();
    assert_eq!(received["payload"], STANDARD.encode("bytes"));
    let empty = ask(served.address, "POST", "/sendraw", &headers, b"").await;
    assert_eq!(empty.status, 400);
    served.end().await;
}

#[tokio::test]
async fn a_stored_payload_is_sent_later_under_its_hash() {
    let served = Served::new().await;
    let body = json!({ "payload": STANDARD.encode("later"), "from": OUR_KEY });
    let stored = served.post_json("/storeraw", body).await;
    assert_eq!(stored.status, 200);
    let key = stored.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(stored.json(), json!({ "key": key }));
    let body = json!({ "hash": key, "to": [THEIR_KEY], "privacyFlag": 2, "mandatoryRecipients": [THEIR_KEY] });
    let sent = served.post_json("/sendsignedtx", body).await;
    assert_eq!(sent.status, 201);
    assert_eq!(sent.json()["key"], key);
    let path = format!("/transaction/{}", escaped(&key));
    assert_eq!(
        served.get(&path).await.json()["mandatoryRecipients"],
        json!([THEIR_KEY])
    );
    assert_eq!(
        served.get(&format!("{path}/mandatory")).await.text(),
        THEIR_KEY
    );
    let hash = STANDARD.decode(&key).unwrap();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("c11n-to", THEIR_KEY),
    ];
    let raw = ask(served.address, "POST", "/sendsignedtx", &headers, &hash).await;
    assert_eq!((raw.status, raw.text()), (200, key));
    let short = ask(served.address, "POST", "/sendsignedtx", &headers, b"x").await;
    assert_eq!(short.status, 400);
    let unknown = json!({ "hash": STANDARD.encode([9; 64]), "to": [] });
    let unknown = served.post_json("/sendsignedtx", unknown).await;
    assert_eq!(unknown.status, 404);
    served.end().await;
}

#[tokio::test]
async fn unknown_missing_and_erased_are_different_answers() {
    let served = Served::new().await;
    let unknown = STANDARD.encode([5; 64]);
    let answer = served
        .get(&format!("/transaction/{}", escaped(&unknown)))
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.text(),
        format!("Message with hash {unknown} was not found")
    );
    let missing = URL_SAFE_NO_PAD.encode(MISSING);
    let answer = served.get(&format!("/transaction/{missing}")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());

    let send = json!({ "payload": STANDARD.encode("gone"), "to": [] });
    for by_path in [true, false] {
        let sent = served.post_json("/send", send.clone()).await.json();
        let key = sent["key"].as_str().unwrap();
        let path = format!("/transaction/{}", escaped(key));
        let other = format!("{path}?to={}", escaped(THEIR_KEY));
        assert_eq!(served.get(&other).await.status, 404);
        if by_path {
            let deleted = ask(served.address, "DELETE", &path, &[], b"").await;
            assert_eq!((deleted.status, deleted.body.len()), (204, 0));
        } else {
            let deleted = served.post_json("/delete", json!({ "key": key })).await;
            assert_eq!(
                (deleted.status, deleted.text().as_str()),
                (200, "Delete successful")
            );
        }
        assert_eq!(served.get(&path).await.status, 404);
    }
    assert_eq!(
        served.api.erasure_notes(),
        ["asked for over the third-party surface"; 2]
    );
    let unknown = served.post_json("/delete", json!({ "key": unknown })).await;
    assert_eq!(unknown.status, 404);
    served.end().await;
}

#[tokio::test]
async fn errors_have_tesseras_statuses_and_plain_text() {
    let served = Served::new().await;
    let stranger = PublicKey::from_bytes([3; 32]).to_string();
    let check = async |body: Value, status: u16, text: &str| {
        let answer = served.post_json("/send", body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    };
    check(
        json!({ "payload": "AA==", "to": [stranger] }),
        404,
        &format!("Recipient not found for key: {stranger}"),
    )
    .await;
    check(json!({ "payload": "AA==", "from": stranger }), 404, "key").await;
    check(json!({ "payload": "" }), 400, "payload").await;
    check(json!({ "payload": "AA==", "to": ["x"] }), 400, "to").await;
    check(
        json!({ "payload": "AA==", "privacyFlag": 7 }),
        400,
        "privacyFlag",
    )
    .await;
    let text = [("content-type", "text/plain")];
    let refused = ask(served.address, "POST", "/send", &text, b"{}").await;
    assert_eq!(refused.status, 415);
    assert_eq!(served.get("/nothing").await.status, 404);
    let wrong = served.get("/send").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    served.end().await;
}

#[tokio::test]
async fn the_answer_is_of_the_version_that_was_asked_for() {
    let served = Served::new().await;
    let body = json!({ "payload": STANDARD.encode("v") }).to_string();
    for version in ["2.0", "2.1", "3.0", "4.0"] {
        let kind = format!("application/vnd.tessera-{version}+json");
        let headers = [("content-type", kind.as_str()), ("accept", kind.as_str())];
        let sent = ask(served.address, "POST", "/send", &headers, body.as_bytes()).await;
        assert_eq!(sent.status, 201);
        assert_eq!(sent.header("content-type"), Some(kind.as_str()));
    }
    served.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let limits = ThirdPartyLimits {
        body_bytes_max: 4096,
        ..ThirdPartyLimits::default()
    };
    let served = Served::with(limits, None).await;
    let head = "POST /send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99999999999\r\n\r\n";
    let refused = raw::speak(served.address, head.as_bytes()).await;
    assert_eq!(refused.status, 413);
    let chunk = format!("2000\r\n{}\r\n", "a".repeat(0x2000));
    let chunked = format!(
        "POST /send HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
    );
    let refused = raw::speak(served.address, chunked.as_bytes()).await;
    assert_eq!(refused.status, 413);
    assert_eq!(served.api.stored(), 0);
    served.end().await;
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_and_not_queued() {
    let limits = ThirdPartyLimits {
        requests_max: 1,
        ..ThirdPartyLimits::default()
    };
    let served = Served::with(limits, None).await;
    let gate = served.api.close_gate();
    let address = served.address;
    let body = json!({ "payload": STANDARD.encode("slow") }).to_string();
    let headers = [("content-type", "application/json")];
    let slow = tokio::spawn({
        let body = body.clone();
        async move { ask(address, "POST", "/send", &headers, body.as_bytes()).await }
    });
    served.api.wait_for_waiting().await;
    let refused = ask(address, "POST", "/send", &headers, body.as_bytes()).await;
    assert_eq!(refused.status, 503);
    // Whether it is up is always answered.
    assert_eq!(served.get("/upcheck").await.status, 200);
    gate.open();
    assert_eq!(slow.await.unwrap().status, 201);
    served.end().await;
}

#[tokio::test]
async fn what_was_begun_goes_on_when_the_client_hangs_up() {
    let served = Served::new().await;
    let gate = served.api.close_gate();
    let body = json!({ "payload": STANDARD.encode("kept") }).to_string();
    let request = format!(
        "POST /send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = raw::write(served.address, request.as_bytes()).await;
    served.api.wait_for_waiting().await;
    drop(stream);
    gate.open();
    served.api.wait_for_stored(1).await;
    served.end().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered() {
    let limits = ThirdPartyLimits {
        request_timeout: Duration::from_secs(1),
        ..ThirdPartyLimits::default()
    };
    let served = Served::with(limits, None).await;
    let gate = served.api.close_gate();
    let late = served
        .post_json("/send", json!({ "payload": STANDARD.encode("late") }))
        .await;
    assert_eq!(late.status, 503);
    assert!(late.text().contains("may still be carried out"));
    gate.open();
    // A body that does not come.
    let head = "POST /send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n{";
    let refused = raw::speak(served.address, head.as_bytes()).await;
    assert_eq!(refused.status, 408);
    served.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let limits = ThirdPartyLimits {
        connections_max: 1,
        ..ThirdPartyLimits::default()
    };
    let served = Served::with(limits, None).await;
    let gate = served.api.close_gate();
    let body = json!({ "payload": STANDARD.encode("first") }).to_string();
    let request = format!(
        "POST /send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let first = raw::write(served.address, request.as_bytes()).await;
    served.api.wait_for_waiting().await;
    let head = "GET /upcheck HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let second = raw::try_speak(served.address, head.as_bytes()).await;
    assert!(second.is_none());
    gate.open();
    drop(first);
    served.end().await;
}

#[tokio::test]
async fn web_pages_are_turned_away() {
    let served = Served::new().await;
    let origin = [("origin", "http://127.0.0.1")];
    let refused = ask(served.address, "GET", "/keys", &origin, b"").await;
    assert_eq!(refused.status, 403);
    let head = "GET /keys HTTP/1.1\r\nhost: evil.example\r\n\r\n";
    assert_eq!(
        raw::speak(served.address, head.as_bytes()).await.status,
        403
    );
    let head = "GET /keys HTTP/1.1\r\nhost: localhost:9080\r\n\r\n";
    assert_eq!(
        raw::speak(served.address, head.as_bytes()).await.status,
        200
    );
    served.end().await;
}

#[tokio::test]
async fn another_than_a_loopback_address_needs_certificates() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let served = serve_third_party(
        Arc::new(FakePrivacy::default()),
        listener,
        None,
        ThirdPartyLimits::default(),
        CancellationToken::new(),
    );
    assert!(matches!(served.await, Err(ThirdPartyError::Exposed { .. })));
}

#[tokio::test]
async fn limits_that_cannot_be_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = ThirdPartyLimits {
        requests_max: 0,
        ..ThirdPartyLimits::default()
    };
    let served = serve_third_party(
        Arc::new(FakePrivacy::default()),
        listener,
        None,
        limits,
        CancellationToken::new(),
    );
    assert!(
        served
            .await
            .unwrap_err()
            .to_string()
            .contains("requests_max")
    );
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_alone_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tp.sock");
    // What a killed process leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = ThirdPartySocket::bind(&path).await.unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let taken = ThirdPartySocket::bind(&path).await.unwrap_err();
    assert!(taken.to_string().contains("another process"), "{taken}");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve_third_party_on_socket(
        Arc::new(FakePrivacy::default()),
        socket,
        ThirdPartyLimits::default(),
        stop.clone(),
    ));
    let stream = UnixStream::connect(&path).await.unwrap();
    // The client of web3js-quorum names the host as it likes.
    let up = ask_over(stream, "GET", "/upcheck", "unix", &[], b"").await;
    assert_eq!((up.status, up.text().as_str()), (200, "I'm up!"));
    stop.cancel();
    task.await.unwrap().unwrap();
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn over_tls_only_clients_with_a_certificate_get_in() {
    let certificates = raw::Certificates::new();
    let served = Served::with(ThirdPartyLimits::default(), Some(certificates.server())).await;
    let known = certificates.connect(served.address, true).await.unwrap();
    let keys = ask_over(known, "GET", "/keys", "any.example", &[], b"").await;
    assert_eq!(keys.status, 200);
    // TLS 1.3 tells a client that it was turned away when it reads.
    let answered = match certificates.connect(served.address, false).await {
        Ok(stranger) => raw::try_ask_over(stranger, "GET", "/keys").await,
        Err(_) => None,
    };
    assert!(answered.is_none());
    let plain = TcpStream::connect(served.address).await.unwrap();
    assert!(raw::try_ask_over(plain, "GET", "/keys").await.is_none());
    served.end().await;
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = ThirdPartyTls {
        certificate: "/nowhere/cert.pem".into(),
        key: "/nowhere/key.pem".into(),
        client_ca: "/nowhere/ca.pem".into(),
    };
    let served = serve_third_party(
        Arc::new(FakePrivacy::default()),
        listener,
        Some(tls),
        ThirdPartyLimits::default(),
        CancellationToken::new(),
    );
    let error = served.await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}
