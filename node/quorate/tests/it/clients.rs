//! Clients of other makers, unmodified, against whole nodes: web3.py, ethers, and gRPC by grpcio-tools. The programs are
//! in `deploy/tests/clients`; `deploy/tests/install-clients.sh` installs what they need.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::consortium::{Consortium, workspace};
use crate::outside;

/// The programs that a client test needs, or `None` if they are not installed here.
struct Clients {
    installed: PathBuf,
    programs: PathBuf,
}

impl Clients {
    fn of(test: &str) -> Option<Self> {
        let installed = workspace().join("target/clients");
        if !installed.join("stamp").is_file() {
            outside::not_here("clients", test, "run deploy/tests/install-clients.sh first");
            return None;
        }
        Some(Self {
            installed,
            programs: workspace().join("deploy/tests/clients"),
        })
    }

    fn python(&self, program: &str) -> Command {
        let mut command = Command::new(self.installed.join("venv/bin/python"));
        // No compiled files beside the sources.
        command.arg("-B").arg(self.programs.join(program));
        command
    }

    fn token(&self) -> PathBuf {
        self.installed.join("Token.json")
    }
}

/// Runs a client program to its end; every check that it makes must hold.
fn must_succeed(mut command: Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{said}\n{complained}",
        output.status
    );
    eprintln!("{said}");
}

#[test]
fn web3_py_deploys_and_uses_an_erc20_on_different_nodes() {
    let Some(clients) = Clients::of("web3_py_deploys_and_uses_an_erc20_on_different_nodes") else {
        return;
    };
    let c = Consortium::of(4);
    let mut command = clients.python("web3_erc20.py");
    command.arg("--token").arg(clients.token());
    for i in 0..3 {
        command.arg("--url").arg(c.rpc_url(i));
    }
    must_succeed(command);
    c.assert_same_chain(c.height(0));
}

#[test]
fn ethers_deploys_and_uses_an_erc20_on_different_nodes_with_events_over_websocket() {
    let test = "ethers_deploys_and_uses_an_erc20_on_different_nodes_with_events_over_websocket";
    let Some(clients) = Clients::of(test) else {
        return;
    };
    let c = Consortium::of(4);
    let mut command = Command::new("node");
    command.arg(clients.programs.join("ethers_erc20.mjs"));
    command
        .arg("--modules")
        .arg(clients.installed.join("node_modules"));
    command.arg("--token").arg(clients.token());
    for i in 0..3 {
        command.arg("--url").arg(c.rpc_url(i));
    }
    for i in [1, 3] {
        command.arg("--ws").arg(c.ws_url(i));
    }
    must_succeed(command);
    c.assert_same_chain(c.height(0));
}

#[test]
fn a_grpc_client_made_by_other_tooling_follows_transactions_to_their_receipts() {
    let test = "a_grpc_client_made_by_other_tooling_follows_transactions_to_their_receipts";
    let Some(clients) = Clients::of(test) else {
        return;
    };
    let c = Consortium::of(4);
    let mut command = clients.python("grpc_client.py");
    command.arg("--proto").arg(workspace().join("proto"));
    for i in 0..4 {
        command.arg("--grpc").arg(c.grpc_url(i));
    }
    must_succeed(command);
    c.assert_same_chain(c.height(0));
}
