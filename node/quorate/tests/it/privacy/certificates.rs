//! Certificates as an operator makes them, with the `openssl` command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::outside;

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub enum Usage {
    Server,
    Client,
}

/// An authority, and what it signed, in a folder.
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// `None` if this machine has no `openssl` or no `curl`.
    pub fn of(test: &str) -> Option<Self> {
        for tool in ["openssl", "curl"] {
            let there = Command::new(tool)
                .arg(if tool == "curl" {
                    "--version"
                } else {
                    "version"
                })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if !there.is_ok_and(|status| status.success()) {
                outside::not_here("certificates", test, &format!("{tool} is not installed"));
                return None;
            }
        }
        let authority = Self {
            dir: TempDir::new().unwrap(),
        };
        authority.make(
            "ca",
            &[
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-addext",
                "keyUsage=critical,keyCertSign",
            ],
        );
        Some(authority)
    }

    /// Makes `name.pem` and `name.key`.
    pub fn sign(&self, name: &str, usage: Usage) {
        let usage = match usage {
            Usage::Server => "extendedKeyUsage=serverAuth",
            Usage::Client => "extendedKeyUsage=clientAuth",
        };
        let (ca, ca_key) = (self.file("ca.pem"), self.file("ca.key"));
        self.make(
            name,
            &[
                "-CA",
                text(&ca),
                "-CAkey",
                text(&ca_key),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-addext",
                usage,
            ],
        );
    }

    fn make(&self, name: &str, more: &[&str]) {
        // Without a configuration of its own the system's would add extensions.
        let config = self.file("openssl.cnf");
        let plain = format!("[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = {name}\n");
        fs::write(&config, plain).unwrap();
        let (certificate, key) = (
            self.file(&format!("{name}.pem")),
            self.file(&format!("{name}.key")),
        );
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-config", text(&config)])
            .args(["-keyout", text(&key), "-out", text(&certificate)])
            .args(more);
        let made = command.output().unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{command:?}: {said}");
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `curl` to a server that this authority vouches for, with one of the authority's certificates or none. What it printed; the
    /// error is what curl says.
    pub fn curl(&self, with: Option<&str>, arguments: &[&str]) -> Result<String, String> {
        match with {
            Some(name) => self.curl_as(self, name, arguments),
            None => self.run_curl(arguments),
        }
    }

    /// The same with a certificate that another authority signed.
    pub fn curl_as(&self, signer: &Self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let certificate = signer.file(&format!("{name}.pem"));
        let key = signer.file(&format!("{name}.key"));
        let mut all = vec!["--cert", text(&certificate), "--key", text(&key)];
        all.extend(arguments);
        self.run_curl(&all)
    }

    fn run_curl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "60"])
            .args(["--cacert", text(&self.file("ca.pem"))])
            .args(arguments)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
