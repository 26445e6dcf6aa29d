//! web3js-quorum from npm, unmodified, with the tests and examples that it brings along.
//!
//! They name their node as `http://localhost:22000`, its transaction manager as `http://localhost:9081`, and the two keys that
//! Quorum's examples have had for years. The keys are imported from Tessera key files, and the two ports are led to the node's by
//! `deploy/tests/clients/ports.cjs`, which is loaded before the package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::parties::{Form, Parties};
use crate::consortium::{quorate, workspace};
use crate::outside;

/// The first two keys of Quorum's 7nodes example, public and private.
const EXAMPLE_KEYS: [(&str, &str); 2] = [
    (
        "BULeR8JyUWhiuuCMU/HLA0Q5pzkYT+cHII3ZKBey3Bo=",
        "Wl+xSyXVuuqzpvznOS7dOobhcn4C5auxkFRi7yLtgtA=",
    ),
    (
        "QfeDAys9MPDs2XHExtc84jKGHxZg/aj52DTh0vtA3Xc=",
        "nDFwJNHSiT1gNzKBy9WJvMhmYRkW3TzFUmPsNzR6oFk=",
    ),
];

/// A consortium for the package, and a copy of it that stands beside its dependencies.
struct Package {
    parties: Parties,
    dir: TempDir,
    installed: PathBuf,
}

impl Package {
    /// `None` if the package is not installed here.
    fn of(test: &str) -> Option<Self> {
        let installed = workspace().join("target/clients");
        let package = installed.join("node_modules/web3js-quorum");
        if !installed.join("stamp").is_file() || !package.is_dir() {
            outside::not_here("clients", test, "run deploy/tests/install-clients.sh first");
            return None;
        }
        let dir = TempDir::new().unwrap();
        // jest looks for no tests below a folder called node_modules.
        let copied = Command::new("cp")
            .arg("-R")
            .args([&package, &dir.path().join("web3js-quorum")])
            .status();
        assert!(copied.unwrap().success());
        std::os::unix::fs::symlink(
            installed.join("node_modules"),
            dir.path().join("node_modules"),
        )
        .unwrap();
        let mut parties = Parties::prepared(Form::Quorum, &[]);
        for (i, (public, private)) in EXAMPLE_KEYS.iter().enumerate() {
            let keys = parties.c.node_dir(i).join("enclave");
            fs::remove_dir_all(&keys).unwrap();
            let file = dir.path().join(format!("tm{i}.key"));
            let form = json!({ "type": "unlocked", "data": { "bytes": private } });
            fs::write(&file, form.to_string()).unwrap();
            let imported = quorate(&[
                "enclave",
                "import",
                text(&file),
                "--keys",
                text(&keys),
                "--unlocked",
                "--json",
            ]);
            let said = String::from_utf8_lossy(&imported.stdout).into_owned();
            assert!(said.contains(public), "{imported:?}");
        }
        let socket = format!("third_party.socket={}", socket(&dir).display());
        parties.c.add_arguments(0, &["--set", &socket]);
        Some(Self {
            parties: parties.started(),
            dir,
            installed,
        })
    }

    /// A program of Node, in the folder of the package.
    fn node(&self, arguments: &[&str]) -> Command {
        let preload = workspace().join("deploy/tests/clients/ports.cjs");
        let c = &self.parties.c;
        let rpc = c.rpc_url(0);
        let rpc = rpc.rsplit(':').next().unwrap();
        let ports = format!("22000={rpc},9081={}", self.parties.third(0));
        let mut command = Command::new("node");
        command
            .args(arguments)
            .current_dir(self.dir.path().join("web3js-quorum"))
            .env("NODE_OPTIONS", format!("--require={}", preload.display()))
            .env("PORTS_OF_TESTS", ports)
            .env("IPC_PATH", socket(&self.dir))
            .stdin(Stdio::null());
        command
    }

    /// What a program printed on both streams. These swallow their errors and print them, so the exit code says little.
    fn output(&self, mut command: Command) -> String {
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            output.status.success(),
            "{command:?} ended with {}\n{said}",
            output.status
        );
        said
    }

    /// One of the examples.
    fn example(&self, name: &str) -> String {
        let said = self.output(self.node(&[&format!("7nodes-test/{name}")]));
        assert!(!said.contains("error :>>"), "{name}: {said}");
        said
    }

    /// The contract is there on the two parties, and on no other node.
    fn assert_shared(&self, address: &str) {
        let p = &self.parties;
        assert_eq!(p.storage_root(0, address), p.storage_root(1, address));
        assert_ne!(p.code(0, address), "0x");
        for i in [2, 3] {
            assert_eq!(p.code(i, address), "0x", "node {i}");
        }
    }
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("tm.ipc")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What stands behind a label in printed output, up to a blank, a comma or the line's end.
fn behind(label: &str, said: &str) -> String {
    let (_, rest) = said
        .split_once(label)
        .unwrap_or_else(|| panic!("no {label:?} in {said}"));
    let rest = rest.trim_start_matches([' ', ':', '\'', '"']);
    let end = rest.find([' ', ',', '\n', '\'', '"']).unwrap_or(rest.len());
    rest[..end].to_owned()
}

#[test]
fn web3js_quorum_passes_its_own_tests_of_quorums_private_transactions() {
    let name = "web3js_quorum_passes_its_own_tests_of_quorums_private_transactions";
    let Some(package) = Package::of(name) else {
        return;
    };
    let jest = package.installed.join("node_modules/jest/bin/jest.js");
    let mut arguments = vec![
        text(&jest),
        "--runInBand",
        "--ci",
        "--no-cache",
        "--forceExit",
    ];
    arguments.extend([
        "integration-tests/quorum-privacy/allowance.test.js",
        "integration-tests/quorum-privacy/connection.test.js",
        "integration-tests/quorum-privacy/greeter.test.js",
        "integration-tests/quorum-privacy/transfer.test.js",
    ]);
    let said = package.output(package.node(&arguments));
    eprintln!("{said}");
    // Each of the four over HTTP and over the Unix socket.
    assert!(said.contains("Test Suites: 4 passed, 4 total"), "{said}");
    assert!(said.contains("Tests:       8 passed, 8 total"), "{said}");
}

#[test]
fn web3js_quorums_examples_deploy_privately_with_flags_and_with_a_signature_made_outside() {
    let name =
        "web3js_quorums_examples_deploy_privately_with_flags_and_with_a_signature_made_outside";
    let Some(package) = Package::of(name) else {
        return;
    };
    let said = package.example("deployContractViaHttp.js");
    assert!(said.contains("result :>>  42"), "{said}");
    package.assert_shared(&behind("Contract address:", &said));

    let said = package.example("deployContractViaHttp-pe.js");
    assert!(said.contains("Value: 42"), "{said}");
    let meta = said.split_once("meta :>>").unwrap().1;
    assert!(meta.contains("privacyFlag: 2"), "{said}");
    assert!(meta.contains(EXAMPLE_KEYS[1].0), "{said}");
    package.assert_shared(&behind("Contract address:", &said));

    let said = package.example("deployContractViaHttp-externalSigningTemplate.js");
    let receipt = said.split_once("receipt :>>").unwrap().1;
    assert!(
        receipt.contains("status: true") || receipt.contains("status: '0x1'"),
        "{said}"
    );
    package.assert_shared(&behind("contractAddress", receipt));

    // It asks who leads.
    let said = package.example("extension.js");
    let leader = package.parties.c.rpc(0, "raft_leader", json!([]));
    assert!(said.contains(leader.as_str().unwrap()), "{said}");
}
