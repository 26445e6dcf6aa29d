//! The program itself.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use quorate_enclave::{Enclave as _, Endpoint, RemoteConfig, RemoteEnclave, Suite};
use tempfile::TempDir;

use crate::parties::{announcement, open, request};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-enclave"));
    command.args(args).env_remove("QUORATE_ENCLAVE_KEYS");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Stopped when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(|_| ()).unwrap_or_default();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn wait_until_healthy(client: &RemoteEnclave) {
    for _ in 0..600 {
        if client.health().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the enclave does not answer");
}

#[tokio::test]
async fn it_makes_keys_serves_them_and_rotates_them_while_it_serves() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    let socket = dir.path().join("s");
    let keygen = [
        "keygen",
        "--keys",
        text(&keys),
        "--name",
        "bank",
        "--unlocked",
    ];
    assert_eq!(lines(&run(&keygen)).len(), 1);
    assert!(!run(&keygen).status.success(), "a name is given once");
    let export = [
        "export-public",
        "--keys",
        text(&keys),
        "--name",
        "bank",
        "--format",
        "tessera",
    ];
    let exported = lines(&run(&export)).remove(0);

    let serve = ["serve", "--keys", text(&keys), "--socket", text(&socket)];
    let child = command(&serve).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let _running = Running(child);
    let client = RemoteEnclave::new(&RemoteConfig::new(Endpoint::Unix(socket.clone()))).unwrap();
    wait_until_healthy(&client).await;
    let first = announcement(&client).await;
    assert_eq!(first.key.to_string(), exported);
    let sealed = client
        .seal(request(Suite::Hybrid, &[], b"payload"))
        .await
        .unwrap();

    let rotate = [
        "rotate",
        "--keys",
        text(&keys),
        "--name",
        "bank",
        "--unlocked",
    ];
    lines(&run(&rotate));
    let listed = lines(&run(&["list", "--keys", text(&keys)]));
    assert!(
        listed[0].starts_with("bank 1 retired unlocked"),
        "{listed:?}"
    );
    assert!(
        listed[1].starts_with("bank 2 active unlocked"),
        "{listed:?}"
    );
    let hung_up = Command::new("kill")
        .args(["-HUP", &pid.to_string()])
        .status();
    assert!(hung_up.unwrap().success());
    for _ in 0..600 {
        if client.health().await.unwrap().keys == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(announcement(&client).await.key, first.key);
    assert_eq!(
        open(&client, &sealed.envelope).await.as_recipient,
        first.key
    );
}

#[test]
fn it_imports_tesseras_keys_under_a_passphrase() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    let (source, passphrase) = (dir.path().join("tm.key"), dir.path().join("pass"));
    std::fs::write(
        &source,
        r#"{"type":"unlocked","data":{"bytes":"dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="}}"#,
    )
    .unwrap();
    std::fs::write(&passphrase, "sesame\n").unwrap();
    let import = [
        "import",
        "--keys",
        text(&keys),
        "--name",
        "old",
        "--file",
        text(&source),
        "--passphrase-file",
        text(&passphrase),
    ];
    // The key pair of NaCl's published example.
    let line = lines(&run(&import)).remove(0);
    let expected = "old 1 active locked hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= with-x-wing";
    assert_eq!(line, expected);
    let socket = dir.path().join("s");
    let locked = run(&["serve", "--keys", text(&keys), "--socket", text(&socket)]);
    assert!(!locked.status.success());
    let complaint = String::from_utf8(locked.stderr).unwrap();
    assert!(complaint.contains("locked"), "{complaint}");
    assert!(!complaint.contains("sesame"));
}

#[test]
fn it_refuses_what_it_cannot_do_with_a_reason() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys");
    for (args, reason) in [
        (
            vec![
                "keygen",
                "--keys",
                text(&keys),
                "--name",
                "Bank",
                "--unlocked",
            ],
            "a-z",
        ),
        (
            vec!["keygen", "--keys", text(&keys), "--name", "bank"],
            "--unlocked",
        ),
        (
            vec![
                "rotate",
                "--keys",
                text(&keys),
                "--name",
                "none",
                "--unlocked",
            ],
            "no key named",
        ),
        (
            vec!["serve", "--keys", text(&keys), "--socket", "/nowhere/s"],
            "holds no keys",
        ),
        (
            vec!["serve", "--keys", text(&keys), "--address", "127.0.0.1:0"],
            "--tls-",
        ),
    ] {
        let output = run(&args);
        assert!(!output.status.success(), "{args:?}");
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(reason), "{args:?}: {complaint}");
    }
}
