//! What is refused, and what is said about it.

use std::fs;
use std::net::TcpListener;

use serde_json::json;

use crate::consortium::{ALICE, BOB, Consortium, quorate};

#[test]
fn transactions_that_cannot_be_are_refused_with_a_reason() {
    let c = Consortium::of(1);
    let refused = |params| {
        c.rpc_error(0, "eth_sendRawTransaction", params)["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(refused(json!(["0x"])).contains("transaction"));
    assert!(refused(json!(["0x01"])).contains("decode"));
    // EIP-155's own example: signed for chain id 1, which has the v of a private transaction.
    let eip155 = "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";
    assert!(refused(json!([eip155])).contains("chain id 1, this chain is 1337"));
    let too_rich = json!([{ "from": ALICE, "to": BOB, "value": format!("0x{}", "f".repeat(60)), "gas": "0x5208" }]);
    let error = c.rpc_error(0, "eth_sendTransaction", too_rich);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("insufficient funds"),
        "{error}"
    );
    let too_much_gas = json!([{ "from": ALICE, "to": BOB, "gas": "0xffffffffff" }]);
    let error = c.rpc_error(0, "eth_sendTransaction", too_much_gas);
    assert!(
        error["message"].as_str().unwrap().contains("gas"),
        "{error}"
    );
    assert_eq!(c.height(0), 0);
}

#[test]
fn a_node_that_cannot_start_says_why_and_ends_with_its_code() {
    let mut c = Consortium::prepared(1);
    let config = c.node_dir(0).join("quorate.toml");
    let text = fs::read_to_string(&config).unwrap();

    fs::write(&config, format!("{text}\n[nonsense]\nx = 1\n")).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(3));
    assert!(c.log(0).contains("nonsense"));
    fs::write(&config, &text).unwrap();

    let port: u16 = c.rpc_url(0).rsplit(':').next().unwrap().parse().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(5));
    assert!(c.log(0).contains(&format!("127.0.0.1:{port}")));
    drop(taken);

    // A folder with a chain in it, and then another genesis.
    c.start(0);
    c.wait_ready();
    let hash = c.transfer(0, ALICE, BOB);
    c.receipt(0, &hash);
    c.stop(0);
    let genesis = c.net_dir().join("genesis.json");
    let original = fs::read_to_string(&genesis).unwrap();
    fs::write(&genesis, original.replace("1337", "1338")).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(4));
    assert!(c.log(0).contains("genesis"));
    fs::write(&genesis, "{").unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(3));
    fs::remove_file(&genesis).unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(3));
    assert!(c.log(0).contains("cannot be read"));
}

#[test]
fn two_processes_cannot_share_a_data_folder() {
    let c = Consortium::of(1);
    let config = c.node_dir(0).join("quorate.toml");
    let second = quorate(&["node", "--config", config.to_str().unwrap()]);
    assert_eq!(
        second.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&second.stderr)
    );
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));
}

#[test]
fn a_member_with_another_genesis_is_refused_and_the_reason_is_logged_and_counted() {
    let mut c = Consortium::prepared(3);
    // Node 2 has a genesis of its own: another gas limit, same members.
    let net = c.net_dir();
    let text = fs::read_to_string(net.join("genesis.json")).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&text).unwrap();
    other["gasLimit"] = json!("0x1c9c381");
    fs::write(net.join("other.json"), other.to_string()).unwrap();
    let config = c.node_dir(2).join("quorate.toml");
    let toml = fs::read_to_string(&config).unwrap();
    let changed = toml.replace("genesis.json", "other.json");
    assert_ne!(toml, changed);
    fs::write(&config, changed).unwrap();
    for i in 0..3 {
        c.start(i);
    }
    c.wait("nodes 0 and 1 have a leader without node 2", || {
        let leader = c.try_transfer(0, ALICE, BOB)?;
        Some(leader)
    });
    c.wait("the refusal is counted", || {
        // Node 1 may still be about to listen.
        let (first, second) = (c.try_metrics(0)?, c.try_metrics(1)?);
        first
            .lines()
            .chain(second.lines())
            .any(|l| {
                l.starts_with("quorate_p2p_refused_total")
                    && l.contains("genesis")
                    && !l.ends_with(" 0")
            })
            .then_some(())
    });
    assert!(c.log(0).contains("genesis") || c.log(1).contains("genesis"));
}
