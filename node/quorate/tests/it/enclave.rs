//! Enclave keys on the command line: made, listed, imported from Tessera, rotated, and never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A key file of Tessera's without a passphrase: the X25519 key of thirty-two sevens.
const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
/// Its public key.
const PUBLIC: &str = "E75P6uryBMf9M1j8nAByGIHRdCeBKCJ+xnTzf3/pe20=";

/// Runs the binary with these variables and nothing of ours from the outside.
fn quorate(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .env_remove("QUORATE_ENCLAVE_PASSPHRASE")
        .env_remove("QUORATE_ENCLAVE_KEYS")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn succeeds(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = quorate(args, variables);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = quorate(args, variables);
    assert!(!output.status.success(), "{args:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_key_is_made_listed_exported_and_rotated() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    let at = ["--keys", text(&keys)];
    let run = |args: &[&str]| succeeds(&[args, at.as_slice()].concat(), &[]);
    let made = parsed(&run(&["enclave", "keygen", "--unlocked", "--json"]));
    assert_eq!(made["name"], "main");
    assert_eq!(
        (&made["generation"], &made["active"], &made["locked"]),
        (&json!(1), &json!(true), &json!(false))
    );
    let first = made["publicKey"].as_str().unwrap();
    let file = keys.join("main.1.key");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The same name again would be another key under it.
    let again = fails(
        &[["enclave", "keygen", "--unlocked"].as_slice(), &at].concat(),
        &[],
    );
    assert!(again.contains("rotate"), "{again}");

    let exported = run(&["enclave", "export-public"]);
    assert_eq!(exported.trim(), first);
    let exported = parsed(&run(&["enclave", "export-public", "--format", "json"]));
    assert_eq!(exported["publicKey"], first);
    assert!(exported["hybridPublicKey"].as_str().unwrap().len() > 1_600);

    let rotated = parsed(&run(&["enclave", "rotate", "--unlocked", "--json"]));
    assert_eq!(rotated["generation"], 2);
    let second = rotated["publicKey"].as_str().unwrap();
    assert_ne!(first, second);
    let listed = parsed(&run(&["enclave", "list", "--json"]));
    let listed: Vec<(&str, bool)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["publicKey"].as_str().unwrap(), one["active"] == true))
        .collect();
    assert_eq!(listed, [(first, false), (second, true)]);
    assert_eq!(run(&["enclave", "export-public"]).trim(), second);
    let lines = run(&["enclave", "list"]);
    assert!(lines.contains("generation 1, retired, unlocked"), "{lines}");
    // What is printed holds nothing of what is in the files.
    let secret = parsed(&fs::read_to_string(&file).unwrap());
    let secret = secret["protection"]["bytes"].as_str().unwrap();
    assert!(secret.len() > 40 && !lines.contains(&secret[..20]));
}

#[test]
fn a_new_file_is_locked_unless_it_is_asked_to_be_open() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    let passphrase = dir.path().join("passphrase");
    fs::write(&passphrase, "correct horse\n").unwrap();
    let keygen = |name: &'static str| {
        vec![
            "enclave",
            "keygen",
            "--json",
            "--keys",
            text(&keys),
            "--name",
            name,
        ]
    };
    let refused = fails(&keygen("a"), &[]);
    assert!(
        refused.contains("--passphrase-file") && refused.contains("--unlocked"),
        "{refused}"
    );
    let mut from_file = keygen("a");
    from_file.extend(["--passphrase-file", text(&passphrase)]);
    assert_eq!(parsed(&succeeds(&from_file, &[]))["locked"], true);
    let variable = [("QUORATE_ENCLAVE_PASSPHRASE", "correct horse")];
    assert_eq!(parsed(&succeeds(&keygen("b"), &variable))["locked"], true);
    let both = fs::read_to_string(keys.join("a.1.key")).unwrap();
    assert!(both.contains("argon2id") && !both.contains("correct"));
    let mut wrong_name = keygen("Not a name");
    wrong_name.push("--unlocked");
    assert!(fails(&wrong_name, &[]).contains("a-z"));
}

#[test]
fn a_key_of_tesseras_keeps_its_public_key() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    let file = dir.path().join("tm.key");
    let tessera = json!({ "type": "unlocked", "data": { "bytes": SECRET } });
    fs::write(&file, tessera.to_string()).unwrap();
    let import = |name: &'static str| {
        vec![
            "enclave",
            "import",
            text(&file),
            "--name",
            name,
            "--keys",
            text(&keys),
            "--unlocked",
            "--json",
        ]
    };
    let imported = succeeds(&import("bank-a"), &[]);
    assert!(!imported.contains(SECRET));
    assert_eq!(parsed(&imported)["publicKey"], PUBLIC);
    assert!(fails(&import("bank-b"), &[]).contains("already"));

    // A locked file that Constellation wrote, whose form Tessera took over; its passphrase is "foo".
    let locked = r#"{"data":{"aopts":{"variant":"i","memory":8192,"iterations":2,"parallelism":2},
        "snonce":"LJ7QUiZ0kD/mPf/aHvCEQKDhlUucZM0s","asalt":"I5bvdFhNpr8hlknzOHIO7Q3S5Ubs9ucUdVneghrebZQ=",
        "sbox":"iHJAfcpWWE5PsvwZRwr5gCtwMKu7xXZAAPCVRGfx06l/I5QgXs0V/czOqYsMxoEG"},"type":"argon2sbox"}"#;
    fs::write(&file, locked).unwrap();
    let refused = fails(&import("old"), &[]);
    assert!(refused.contains("--from-passphrase-file"), "{refused}");
    let wrong = [("QUORATE_IMPORT_PASSPHRASE", "fooo")];
    assert!(fails(&import("old"), &wrong).contains("passphrase"));
    let right = [("QUORATE_IMPORT_PASSPHRASE", "foo")];
    let imported = parsed(&succeeds(&import("old"), &right));
    assert_eq!(imported["publicKey"].as_str().unwrap().len(), 44);

    let locked = r#"{"type":"argon2sbox","data":{"aopts":{"variant":"id","memory":64,"iterations":1,"parallelism":1},
        "snonce":"","asalt":"","sbox":""}}"#;
    fs::write(&file, locked).unwrap();
    assert!(fails(&import("bank-c"), &[]).contains("snonce"));
    fs::write(&file, "not a key").unwrap();
    assert!(fails(&import("bank-d"), &[]).contains("tm.key"));
}

#[test]
fn the_configuration_names_the_folder_of_keys() {
    let dir = TempDir::new().unwrap();
    let net = dir.path().join("net");
    let made = parsed(&succeeds(
        &[
            "network",
            "new",
            "--nodes",
            "2",
            "--json",
            "--out",
            text(&net),
        ],
        &[],
    ));
    for (i, member) in made["members"].as_array().unwrap().iter().enumerate() {
        let config = net.join(format!("node{}/quorate.toml", i + 1));
        let list = ["enclave", "list", "--json", "--config", text(&config)];
        let listed = parsed(&succeeds(&list, &[]));
        assert_eq!(listed[0]["publicKey"], member["enclaveKey"]);
        let show = ["config", "show", "--json", "--config", text(&config)];
        assert!(succeeds(&show, &[]).contains("node"));
    }
    let without = dir.path().join("without");
    let made = parsed(&succeeds(
        &[
            "network",
            "new",
            "--nodes",
            "1",
            "--no-privacy",
            "--json",
            "--out",
            text(&without),
        ],
        &[],
    ));
    assert_eq!(made["members"][0]["enclaveKey"], Value::Null);
    assert!(!without.join("node1/enclave").exists());
}

#[test]
fn a_node_that_does_not_answer_is_named() {
    let asked = [
        "privacy",
        "status",
        "--grpc",
        "http://127.0.0.1:1",
        "--timeout",
        "1s",
    ];
    assert!(fails(&asked, &[]).contains("http://127.0.0.1:1"));
    let hash = ["privacy", "payload", "0x12"];
    assert!(fails(&hash, &[]).contains("128 hexadecimal digits"));
}
