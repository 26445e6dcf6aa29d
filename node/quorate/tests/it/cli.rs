//! The command line as people and scripts use it.

mod bench;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::consortium::{ALICE, BOB, Consortium, quorate};

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complained(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn succeeds(args: &[&str]) -> String {
    let output = quorate(args);
    assert!(
        output.status.success(),
        "quorate {args:?}: {}",
        complained(&output)
    );
    said(&output)
}

/// One line on standard error, nothing on standard output, and this exit code.
fn fails(args: &[&str], code: i32) -> String {
    let output = quorate(args);
    let text = complained(&output);
    assert_eq!(output.status.code(), Some(code), "quorate {args:?}: {text}");
    assert_eq!(said(&output), "", "quorate {args:?}");
    if code != 2 {
        assert!(text.starts_with("error: "), "{text}");
    }
    text
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn new_network(dir: &TempDir, more: &[&str]) -> Value {
    let out = dir.path().join("net");
    let mut args = vec!["network", "new", "--json", "--out", text(&out)];
    args.extend_from_slice(more);
    parsed(&succeeds(&args))
}

#[test]
fn help_names_every_command_and_gives_examples() {
    let help = succeeds(&["help"]);
    for command in [
        "node", "dev", "network", "init", "account", "key", "status", "rpc", "health", "config",
        "bench", "member", "ledger", "recover",
    ] {
        assert!(
            help.lines().any(|l| l.trim_start().starts_with(command)),
            "{command} is not in\n{help}"
        );
        assert!(succeeds(&["help", command]).contains("Usage:"), "{command}");
    }
    for command in [["network", "new"], ["account", "new"], ["config", "show"]] {
        assert!(
            succeeds(&[command[0], command[1], "--help"]).contains("Examples:"),
            "{command:?}"
        );
    }
    assert!(succeeds(&["--version"]).starts_with("quorate "));
    fails(&["nonsense"], 2);
    fails(&["network", "new", "--nodes", "0", "--out", "x"], 2);
}

#[test]
fn a_new_network_has_genesis_keys_and_configuration_of_every_member() {
    let dir = TempDir::new().unwrap();
    let network = new_network(
        &dir,
        &[
            "--nodes",
            "3",
            "--chain-id",
            "4242",
            "--org",
            "A",
            "--org",
            "B",
            "--org",
            "C",
            "--fund",
            &format!("{BOB}=2.5"),
        ],
    );
    assert_eq!(network["chainId"], 4242);
    let members = network["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert_eq!(members[1]["organisation"], "B");
    let net = dir.path().join("net");
    let genesis = parsed(&fs::read_to_string(net.join("genesis.json")).unwrap());
    assert_eq!(genesis["config"]["chainId"], 4242);
    assert_eq!(genesis["config"]["pragueTime"], 0);
    assert_eq!(genesis["alloc"][BOB]["balance"], "0x22b1c8c1227a0000");
    assert!(genesis["alloc"].get(ALICE).is_none());
    let mut keys = Vec::new();
    for (i, member) in members.iter().enumerate() {
        let folder = net.join(format!("node{}", i + 1));
        let key = folder.join("node.key");
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let shown = parsed(&succeeds(&["key", "show", "--json", "--file", text(&key)]));
        assert_eq!(shown["nodeId"], member["nodeId"]);
        assert_eq!(shown["peerId"], member["peerId"]);
        assert_eq!(genesis["quorate"]["members"][i]["nodeId"], member["nodeId"]);
        keys.push(fs::read_to_string(key).unwrap());
        succeeds(&[
            "config",
            "show",
            "--config",
            text(&folder.join("quorate.toml")),
        ]);
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[test]
fn a_network_is_never_overwritten_but_may_be_there_already() {
    let dir = TempDir::new().unwrap();
    let first = new_network(&dir, &["--nodes", "1"]);
    let net = dir.path().join("net");
    let before = fs::read_to_string(net.join("genesis.json")).unwrap();
    assert!(fails(&["network", "new", "--out", text(&net)], 1).contains("not empty"));
    succeeds(&["network", "new", "--if-absent", "--out", text(&net)]);
    assert_eq!(
        fs::read_to_string(net.join("genesis.json")).unwrap(),
        before
    );
    // An empty folder will do.
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let second = parsed(&succeeds(&[
        "network",
        "new",
        "--if-absent",
        "--json",
        "--out",
        text(&empty),
    ]));
    assert_ne!(first["genesisHash"], second["genesisHash"]);
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("net");
    let new = |more: &[&str]| {
        let mut args = vec!["network", "new", "--out", text(&out)];
        args.extend_from_slice(more);
        let output = quorate(&args);
        assert!(!output.status.success());
        complained(&output)
    };
    assert!(new(&["--nodes", "3", "--org", "A"]).contains("once per member"));
    assert!(new(&["--host", "a", "--compose"]).contains("--compose"));
    assert!(new(&["--chain-id", "1"]).contains("config.chainId"));
    assert!(new(&["--fund", "nobody=1"]).contains("no address"));
    assert!(new(&["--base-port", "65500"]).contains("65535"));
    assert!(!out.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn init_stores_a_genesis_and_refuses_another_one() {
    let dir = TempDir::new().unwrap();
    let network = new_network(&dir, &["--nodes", "1"]);
    let genesis = dir.path().join("net/genesis.json");
    let data = dir.path().join("data");
    let init = |file: &Path| -> Vec<String> {
        ["init", "--genesis", text(file), "--data-dir", text(&data)]
            .map(str::to_owned)
            .to_vec()
    };
    let run = |file: &Path| {
        let args = init(file);
        quorate(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(said(&run(&genesis)).contains(network["genesisHash"].as_str().unwrap()));
    assert_eq!(
        fs::read(data.join("genesis.json")).unwrap(),
        fs::read(&genesis).unwrap()
    );
    // The same again, also with a member's address corrected.
    let moved = dir.path().join("moved.json");
    fs::write(
        &moved,
        fs::read_to_string(&genesis)
            .unwrap()
            .replace("127.0.0.1:30303", "10.0.0.1:30303"),
    )
    .unwrap();
    assert!(run(&moved).status.success());
    assert!(
        fs::read_to_string(data.join("genesis.json"))
            .unwrap()
            .contains("10.0.0.1")
    );

    let other = dir.path().join("other.json");
    fs::write(
        &other,
        fs::read_to_string(&genesis)
            .unwrap()
            .replace("1337", "1338"),
    )
    .unwrap();
    let refused = run(&other);
    assert_eq!(refused.status.code(), Some(4));
    assert!(complained(&refused).contains("another chain"));
    fs::write(&other, "{").unwrap();
    assert_eq!(run(&other).status.code(), Some(3));
}

#[test]
fn accounts_are_made_listed_and_imported() {
    let dir = TempDir::new().unwrap();
    let keystore = dir.path().join("keystore");
    let password = dir.path().join("password.txt");
    fs::write(&password, "correct horse\n").unwrap();
    let folder = ["--keystore-dir", text(&keystore)];
    let with = |args: &[&'static str]| -> Vec<String> {
        args.iter()
            .copied()
            .chain(folder)
            .chain(["--password-file", text(&password)])
            .map(str::to_owned)
            .collect()
    };
    let run = |args: Vec<String>| {
        let output = quorate(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", complained(&output));
        said(&output)
    };
    let made = parsed(&run(with(&["account", "new", "--json"])));
    let key = dir.path().join("key.txt");
    fs::write(
        &key,
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\n",
    )
    .unwrap();
    let mut import = with(&["account", "import", "--json"]);
    import.extend(["--key-file".to_owned(), text(&key).to_owned()]);
    let imported = parsed(&run(import.clone()));
    assert_eq!(imported["address"], ALICE);
    let listed = parsed(&succeeds(&[
        "account", "list", "--json", folder[0], folder[1],
    ]));
    let addresses: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["address"])
        .collect();
    assert_eq!(addresses, [&made["address"], &imported["address"]]);
    // Twice is refused, and no key or passphrase is repeated in an error.
    let again = quorate(&import.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(complained(&again).contains("already"));
    fs::write(
        &key,
        "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff",
    )
    .unwrap();
    let refused = complained(&quorate(
        &import.iter().map(String::as_str).collect::<Vec<_>>(),
    ));
    assert!(
        refused.contains("64 hexadecimal digits") && !refused.contains("ac0974"),
        "{refused}"
    );
    // Without a terminal nobody can be asked.
    let unasked = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["account", "new", folder[0], folder[1]])
        .env_remove("QUORATE_PASSWORD")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(complained(&unasked).contains("--password-file"));
}

#[test]
fn the_effective_configuration_says_where_each_value_came_from() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("quorate.toml");
    fs::write(
        &file,
        "[rpc]\nlisten = \"127.0.0.1:1111\"\n[raft]\ntick = \"50ms\"\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args([
            "config",
            "show",
            "--json",
            "--config",
            text(&file),
            "--log-level",
            "debug",
            "--set",
            "pool.bytes_max=1MiB",
        ])
        .env("QUORATE_RAFT_TICK", "70ms")
        .env("QUORATE_RAFT_TOCK", "1")
        .output()
        .unwrap();
    assert!(complained(&output).contains("QUORATE_RAFT_TOCK"));
    let shown = parsed(&said(&output));
    let expect = |path: &str, value: Value, origin: &str| {
        assert_eq!(shown[path]["value"], value, "{path}");
        assert!(
            shown[path]["origin"].as_str().unwrap().starts_with(origin),
            "{path}: {}",
            shown[path]
        );
    };
    expect("rpc.listen", json!("127.0.0.1:1111"), "file ");
    expect("raft.tick", json!("70ms"), "environment QUORATE_RAFT_TICK");
    expect("log.level", json!("debug"), "flag --log-level");
    expect("pool.bytes_max", json!("1MiB"), "flag --set");
    expect("minter.pipeline_blocks", json!(8), "default");
    expect("node.genesis", Value::Null, "default");
}

#[test]
fn wrong_configuration_is_refused_with_every_fault_and_code_3() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("quorate.toml");
    fs::write(
        &file,
        "[rpc]\nlisten = 1\n[raft]\ntick = \"1ms\"\nleader = true\n",
    )
    .unwrap();
    for command in [vec!["node"], vec!["config", "show"]] {
        let args: Vec<&str> = command
            .into_iter()
            .chain(["--config", text(&file)])
            .collect();
        let error = fails(&args, 3);
        for path in ["rpc.listen", "raft.tick", "raft.leader"] {
            assert!(error.contains(path), "{error}");
        }
    }
    assert!(
        fails(&["node", "--config", "/nonexistent/quorate.toml"], 3).contains("cannot be read")
    );
    assert!(fails(&["node", "--set", "rpc"], 3).contains("SECTION.NAME=VALUE"));
    // What is printed as the default is accepted.
    fs::write(&file, succeeds(&["config", "default"])).unwrap();
    succeeds(&["config", "show", "--config", text(&file)]);
}

#[test]
fn commands_against_nobody_fail_and_say_whom_they_asked() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in [
        ["status", "--rpc", &url].as_slice(),
        &["rpc", "eth_blockNumber", "--url", &url],
        &["health", "--url", &url],
        &["bench", "--url", &url, "--count", "1"],
    ] {
        let error = fails(args, 1);
        assert!(error.contains(&url), "{args:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
    assert!(fails(&["rpc", "m", "--url", "https://127.0.0.1:1"], 1).contains("TLS"));
}

#[test]
fn status_rpc_and_health_tell_how_a_consortium_is_doing() {
    let c = Consortium::of(3);
    let hash = c.transfer(1, ALICE, BOB);
    c.receipt(1, &hash);
    let leader = c.leader() as u64 + 1;
    let status = parsed(&succeeds(&["status", "--json", "--rpc", &c.rpc_url(1)]));
    assert_eq!(status["raftId"], 2);
    assert_eq!(status["leader"], leader);
    assert_eq!(
        (&status["members"], &status["chainId"], &status["height"]),
        (&json!(3), &json!(1337), &json!(1))
    );
    assert_eq!(status["synced"], true);
    let both = succeeds(&["status", "--rpc", &c.rpc_url(0), "--rpc", &c.rpc_url(2)]);
    assert_eq!(both.matches("height 1").count(), 2, "{both}");
    assert!(both.contains("leader"));

    assert_eq!(
        parsed(&succeeds(&[
            "rpc",
            "eth_blockNumber",
            "--url",
            &c.rpc_url(0)
        ])),
        "0x1"
    );
    let balance = parsed(&succeeds(&[
        "rpc",
        "eth_getBalance",
        BOB,
        "latest",
        "--url",
        &c.rpc_url(0),
    ]));
    assert_eq!(balance, c.rpc(0, "eth_getBalance", json!([BOB, "latest"])));
    let refused = fails(&["rpc", "eth_noSuchMethod", "--url", &c.rpc_url(0)], 1);
    assert!(refused.contains("-32601"), "{refused}");

    let base = c.metrics_url(0).replace("/metrics", "");
    assert!(succeeds(&["health", "--url", &format!("{base}/health")]).contains("ok"));
    c.wait("node 0 is ready", || {
        quorate(&["health", "--url", &format!("{base}/ready")])
            .status
            .success()
            .then_some(())
    });
    fails(&["health", "--url", &format!("{base}/nothing")], 1);
}

#[test]
fn a_node_signs_for_accounts_of_its_keystore_once_they_are_unlocked() {
    let mut c = Consortium::prepared(1);
    let folder = c.node_dir(0);
    let password = folder.join("password.txt");
    fs::write(&password, "correct horse\n").unwrap();
    let made = parsed(&succeeds(&[
        "account",
        "new",
        "--json",
        "--keystore-dir",
        text(&folder.join("keystore")),
        "--password-file",
        text(&password),
    ]));
    let account = made["address"].as_str().unwrap();
    let config = folder.join("quorate.toml");
    let original = fs::read_to_string(&config).unwrap();
    let locked = original.replace("dev_accounts = true", "dev_accounts = false");
    fs::write(&config, &locked).unwrap();
    c.start(0);
    c.wait_ready();
    assert_eq!(
        c.rpc(0, "eth_accounts", json!([])),
        json!([account.to_lowercase()])
    );
    let error = c.rpc_error(0, "eth_sign", json!([account, "0x00"]));
    assert!(
        error["message"].as_str().unwrap().contains("locked"),
        "{error}"
    );
    c.stop(0);
    let unlocked = locked
        .replace("unlock = []", &format!("unlock = [\"{account}\"]"))
        .replace("# password_file =", "password_file =");
    fs::write(&config, unlocked).unwrap();
    c.start(0);
    c.wait_ready();
    let signature = c.rpc(0, "eth_sign", json!([account, "0x00"]));
    assert_eq!(signature.as_str().unwrap().len(), 2 + 130);
    c.stop(0);
    fs::write(&password, "wrong\n").unwrap();
    c.start(0);
    assert_eq!(c.exit_code(0), Some(3));
    assert!(c.log(0).contains("accounts.unlock"));
}
