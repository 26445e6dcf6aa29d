//! `quorate key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::output;
use crate::keys::{PublicIdentity, new_key, read_node_key, write_node_key};

/// Node keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a node key and print what others know it by; the node id belongs into genesis.
    New(NewArgs),
    /// Print node id, address and peer id of a node key.
    Show(ShowArgs),
}

/// Arguments of `quorate key new`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate key new --out node.key\n\nThe file is readable by its owner only and is never overwritten."
)]
pub struct NewArgs {
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "node.key")]
    out: PathBuf,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Arguments of `quorate key show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  quorate key show --file my-net/node1/node.key")]
pub struct ShowArgs {
    /// The file with the secret key.
    #[arg(long, value_name = "FILE", default_value = "node.key")]
    file: PathBuf,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl KeyCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the file cannot be read or written, or holds no key.
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::New(args) => {
                let key = new_key();
                write_node_key(&args.out, &key)?;
                show(&PublicIdentity::of(&key)?, &args.out, args.json)
            }
            Self::Show(args) => show(
                &PublicIdentity::of(&read_node_key(&args.file)?)?,
                &args.file,
                args.json,
            ),
        }
    }
}

fn show(identity: &PublicIdentity, file: &std::path::Path, json: bool) -> anyhow::Result<()> {
    if json {
        let mut value = identity.to_json();
        if let Value::Object(fields) = &mut value {
            fields.insert("file".into(), file.display().to_string().into());
        }
        output::print_json(&value)?;
    } else {
        output::print(&format!("file     {}\n{identity}", file.display()))?;
    }
    Ok(())
}
