//! `quorate bench`.

use super::*;

/// Runs a bench against a consortium and gives back its report.
fn bench(c: &Consortium, more: &[&str]) -> Value {
    let mut args: Vec<String> = ["bench", "--json", "--rpc", &c.rpc_url(0)]
        .map(str::to_owned)
        .to_vec();
    args.extend(more.iter().map(|s| (*s).to_owned()));
    parsed(&succeeds(
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
    ))
}

#[test]
fn the_bench_counts_what_a_consortium_commits() {
    let c = Consortium::of(3);
    let urls: Vec<String> = (0..3).map(|i| c.grpc_url(i)).collect();
    let nodes: Vec<&str> = urls
        .iter()
        .flat_map(|url| ["--url", url.as_str()])
        .collect();
    let pids: Vec<String> = (0..3).map(|i| c.pid(i).to_string()).collect();
    let with = |more: &[&str]| bench(&c, &[nodes.as_slice(), more].concat());

    let report = with(&[
        "--rate",
        "200",
        "--count",
        "300",
        "--accounts",
        "20",
        "--pids",
        &pids.join(","),
    ]);
    assert_eq!(
        (
            &report["offered"],
            &report["accepted"],
            &report["committed"]
        ),
        (&json!(300), &json!(300), &json!(300))
    );
    assert_eq!(report["refusals"], json!({}));
    assert_eq!(report["receiptsFailed"], 0);
    assert!(report["latencyMs"]["p50"].as_f64().unwrap() > 0.0);
    let processes = report["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 3);
    assert!(
        processes
            .iter()
            .all(|p| p["rssBytes"].as_u64().unwrap() > 0)
    );

    // A window far smaller than the load, and a contract.
    let report = with(&[
        "--rate",
        "max",
        "--count",
        "200",
        "--kind",
        "erc20",
        "--in-flight",
        "16",
        "--accounts",
        "5",
    ]);
    assert_eq!(
        (&report["committed"], &report["receiptsFailed"]),
        (&json!(200), &json!(0))
    );

    let rpc = c.rpc_url(1);
    let json_rpc = [
        "--protocol",
        "jsonrpc",
        "--url",
        &rpc,
        "--connections",
        "3",
        "--count",
        "100",
    ];
    for batch in ["1", "10"] {
        let report = bench(&c, &[json_rpc.as_slice(), &["--batch", batch]].concat());
        assert_eq!(report["committed"], 100, "{report}");
    }

    let latency = with(&["--latency", "--count", "10"]);
    let ways = latency.as_array().unwrap();
    assert_eq!(ways.len(), 2);
    assert!(
        ways.iter().all(|w| w["latencyMs"]["count"] == 10),
        "{latency}"
    );
}

#[test]
fn the_bench_pauses_when_the_pool_is_full_and_still_commits_everything() {
    let mut c = Consortium::prepared(1);
    let config = c.node_dir(0).join("quorate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let small = text
        .replace("\ntransactions_max = 50000", "\ntransactions_max = 20")
        .replace("\nper_sender_max = 8192", "\nper_sender_max = 20");
    assert_ne!(text, small);
    fs::write(&config, small).unwrap();
    c.start(0);
    c.wait_ready();
    let url = c.grpc_url(0);
    let report = bench(
        &c,
        &[
            "--url",
            &url,
            "--rate",
            "max",
            "--count",
            "2000",
            "--accounts",
            "10",
        ],
    );
    assert_eq!(report["committed"], 2_000, "{report}");
    assert!(
        report["refusals"]["RESOURCE_EXHAUSTED"]["count"]
            .as_u64()
            .unwrap()
            > 0,
        "{report}"
    );
}

#[test]
fn the_benchs_token_moves_units_and_refuses_to_overdraw() {
    let c = Consortium::of(1);
    let url = c.grpc_url(0);
    let report = bench(
        &c,
        &[
            "--url",
            &url,
            "--kind",
            "erc20",
            "--count",
            "40",
            "--accounts",
            "4",
            "--recipients",
            "2",
            "--rate",
            "max",
        ],
    );
    assert_eq!(report["committed"], 40);
    let height = c.height(0);
    let logs = c.rpc(
        0,
        "eth_getLogs",
        json!([{ "fromBlock": "0x1", "toBlock": format!("{height:#x}") }]),
    );
    // Four senders got tokens, then each transfer told of itself.
    let logs = logs.as_array().unwrap();
    assert_eq!(logs.len(), 44);
    let last = logs.last().unwrap();
    let (token, from, to) = (
        &last["address"],
        last["topics"][1].as_str().unwrap(),
        last["topics"][2].as_str().unwrap(),
    );
    let balance = |holder: &str| {
        let call =
            json!([{ "to": token, "data": format!("0x70a08231{}", &holder[2..]) }, "latest"]);
        c.rpc(0, "eth_call", call)
    };
    assert_eq!(balance(to), json!(format!("{:#066x}", 20)));
    assert_eq!(balance(from), json!(format!("{:#066x}", (1u64 << 40) - 10)));
    // Somebody without tokens cannot send one; sending none is fine.
    let transfer = |amount: u64| {
        let data = format!("0xa9059cbb{}{amount:064x}", &to[2..]);
        json!([{ "from": BOB, "to": token, "data": data }, "latest"])
    };
    assert_eq!(c.rpc_error(0, "eth_call", transfer(1))["code"], 3);
    assert_eq!(
        c.rpc(0, "eth_call", transfer(0)),
        json!(format!("{:#066x}", 1))
    );
}
