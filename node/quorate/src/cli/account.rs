//! `quorate account`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use secp256k1::SecretKey;
use serde_json::{Value, json};

use super::output;
use crate::accounts::{self, Listed, PASSWORD_VARIABLE};
use crate::keys::{new_key, parse_key};

const EXAMPLES: &str = "\
Examples:
  quorate account new --keystore-dir my-net/node1/keystore
  quorate account import --key-file key.txt --password-file password.txt
  quorate account list

The passphrase comes from --password-file (its first line), from the variable QUORATE_PASSWORD, or is asked for. The files
are version 3 keystore files, as geth writes and reads them. A node uses an account after it stands in
accounts.unlock.";

/// Keystore files.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make an account and store its key encrypted.
    New(NewArgs),
    /// List the accounts of a keystore folder.
    List(ListArgs),
    /// Store an existing secret key encrypted.
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct Keystore {
    /// Folder with keystore files.
    #[arg(long, value_name = "DIR", default_value = "keystore")]
    keystore_dir: PathBuf,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Passphrase {
    /// File whose first line is the passphrase.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Arguments of `quorate account new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NewArgs {
    #[command(flatten)]
    keystore: Keystore,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Arguments of `quorate account list`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    #[command(flatten)]
    keystore: Keystore,
}

/// Arguments of `quorate account import`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    #[command(flatten)]
    keystore: Keystore,
    #[command(flatten)]
    passphrase: Passphrase,
    /// File with the secret key, 64 hexadecimal digits; without it the key is asked for. There is no flag for the key
    /// itself: others could see it in the list of processes.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

impl AccountCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the folder, a file, the key or the passphrase is not usable.
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::New(args) => store(&args.keystore, &args.passphrase, &new_key()),
            Self::Import(args) => {
                let key = match &args.key_file {
                    Some(file) => {
                        let text = std::fs::read_to_string(file);
                        let text = text.with_context(|| {
                            format!("key file {} cannot be read", file.display())
                        })?;
                        parse_key(&text).with_context(|| format!("key file {}", file.display()))?
                    }
                    None => parse_key(&ask("secret key: ", "--key-file")?)?,
                };
                store(&args.keystore, &args.passphrase, &key)
            }
            Self::List(args) => list(&args.keystore),
        }
    }
}

fn store(keystore: &Keystore, passphrase: &Passphrase, key: &SecretKey) -> anyhow::Result<()> {
    let passphrase = passphrase.get()?;
    let stored = accounts::store(&keystore.keystore_dir, key, &passphrase)?;
    match keystore.json {
        true => output::print_json(&view(&stored))?,
        false => output::print(&line(&stored))?,
    }
    Ok(())
}

fn list(keystore: &Keystore) -> anyhow::Result<()> {
    let listed = accounts::list(&keystore.keystore_dir)?;
    if keystore.json {
        output::print_json(&listed.iter().map(view).collect::<Vec<Value>>().into())?;
    } else if listed.is_empty() {
        output::note(&format!(
            "no accounts in {}",
            keystore.keystore_dir.display()
        ));
    } else {
        output::print(&listed.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(())
}

fn view(listed: &Listed) -> Value {
    json!({ "address": listed.address.to_string(), "file": listed.file.display().to_string() })
}

fn line(listed: &Listed) -> String {
    format!("{}  {}", listed.address, listed.file.display())
}

impl Passphrase {
    fn get(&self) -> anyhow::Result<String> {
        if let Some(file) = &self.password_file {
            return first_line(file);
        }
        if let Ok(passphrase) = std::env::var(PASSWORD_VARIABLE) {
            return Ok(passphrase);
        }
        let once = ask("passphrase: ", "--password-file")?;
        if once.is_empty() {
            bail!("an empty passphrase protects nothing");
        }
        if ask("again: ", "--password-file")? != once {
            bail!("the two passphrases differ");
        }
        Ok(once)
    }
}

fn first_line(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("password file {} cannot be read", file.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        bail!("password file {}: its first line is empty", file.display());
    }
    Ok(line.to_owned())
}

/// Asks the person at the terminal, without showing what is typed.
fn ask(prompt: &str, instead: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return Err(anyhow!("there is no terminal to ask at: use {instead}"));
    }
    Ok(rpassword::prompt_password(prompt)?)
}
