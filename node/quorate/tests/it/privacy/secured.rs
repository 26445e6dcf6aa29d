//! An enclave on another machine, and clients from other machines: over TLS, with certificates on both sides.

use std::path::Path;

use serde_json::json;

use super::certificates::{Authority, Usage};
use super::codes::*;
use super::http::request;
use super::parties::{Form, Parties, REMOTE, is_retryable};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_enclave_behind_mutual_tls_keeps_its_nodes_keys() {
    let Some(authority) = Authority::of("an_enclave_behind_mutual_tls_keeps_its_nodes_keys") else {
        return;
    };
    authority.sign("enclave", Usage::Server);
    authority.sign("node", Usage::Client);
    let mut p = Parties::prepared(Form::Marker, &[])
        .with_enclave_over_tls(&authority)
        .started();
    // Who has no certificate, or one of another authority, does not get to say anything. What they are told depends on who closes first.
    let url = format!("https://localhost:{}/", p.enclave_port());
    authority.curl(Some("node"), &[&url]).unwrap();
    authority.curl(None, &[&url]).unwrap_err();
    let another = Authority::of("-").unwrap();
    another.sign("node", Usage::Client);
    authority.curl_as(&another, "node", &[&url]).unwrap_err();

    let contract = p.deploy(0, &[REMOTE], &deploying_with(STORE, 42));
    p.execute(REMOTE, &[0], &contract, &word(43));
    p.wait_number(&[0, REMOTE], &contract.address, 43);
    assert_eq!(p.number(2, &contract.address), None);
    let status = p.cli(REMOTE, &["status"]);
    assert_eq!(status["enclaveError"], json!(null), "{status}");

    p.stop_enclave();
    let refused = p
        .try_send(
            REMOTE,
            &p.request(REMOTE, &[0], Some(&contract.address), &word(44)),
        )
        .unwrap_err();
    assert!(is_retryable(&refused), "{refused}");
    assert_eq!(refused["data"]["reason"], "enclave");
    let mut late = p.request(0, &[REMOTE], Some(&contract.address), &word(45));
    late["acknowledgements"] = json!({ "k": 0 });
    let sent = p.send(0, &late);
    p.wait_number(&[0], &contract.address, 45);
    let waiting =
        p.c.rpc_error(REMOTE, "eth_getPrivateTransactionReceipt", json!([sent]));
    assert!(is_retryable(&waiting), "{waiting}");

    p.start_enclave();
    p.wait_number(&[0, REMOTE], &contract.address, 45);
    p.execute(REMOTE, &[0], &contract, &word(46));
    p.finish();
}

#[test]
fn tesseras_surface_behind_mutual_tls_lets_in_whoever_has_a_certificate() {
    let name = "tesseras_surface_behind_mutual_tls_lets_in_whoever_has_a_certificate";
    let Some(authority) = Authority::of(name) else {
        return;
    };
    const SECURED: usize = 3;
    authority.sign("surface", Usage::Server);
    authority.sign("client", Usage::Client);
    let mut p = Parties::prepared(Form::Marker, &[]);
    for (setting, file) in [
        ("tls_certificate", "surface.pem"),
        ("tls_key", "surface.key"),
        ("tls_client_ca", "ca.pem"),
    ] {
        let setting = format!("third_party.{setting}={}", text(&authority.file(file)));
        p.c.add_arguments(SECURED, &["--set", &setting]);
    }
    let p = p.with_guarded_surface(SECURED).started();
    let at = |path: &str| format!("https://localhost:{}{path}", p.third(SECURED));

    let said = authority.curl(Some("client"), &[&at("/upcheck")]).unwrap();
    assert_eq!(said, "I'm up!");
    let keys = authority.curl(Some("client"), &[&at("/keys")]).unwrap();
    assert!(keys.contains(p.key(SECURED)), "{keys}");
    let body = json!({ "payload": "AAEC", "to": p.keys(&[0]) }).to_string();
    let post = [
        "--header",
        "Content-Type: application/json",
        "--data",
        &body,
        &at("/send"),
    ];
    let sent = authority.curl(Some("client"), &post).unwrap();
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    let key = sent["key"].as_str().unwrap();
    // The recipient's own clients read it on its own port.
    let header = [("c11n-key", key)];
    let read = request(p.third(0), "GET", "/receiveraw", &header, &[]).unwrap();
    assert_eq!(read.body, [0, 1, 2]);

    // Without a certificate, with another authority's, and in the clear there is nothing.
    authority.curl(None, &[&at("/upcheck")]).unwrap_err();
    authority.curl(None, &post).unwrap_err();
    let another = Authority::of(name).unwrap();
    another.sign("client", Usage::Client);
    authority
        .curl_as(&another, "client", &[&at("/upcheck")])
        .unwrap_err();
    let clear = request(p.third(SECURED), "GET", "/upcheck", &[], &[]);
    assert!(clear.is_err(), "{clear:?}");
}
