//! `quorate enclave`: the private keys with which this member is a party.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use quorate_enclave::{KeyFile, KeyFolder, KeyListing, Passphrase, PassphraseCost, Protection};
use serde_json::{Value, json};

use super::output;
use crate::config::{Loaded, NodeConfig, PASSPHRASE_VARIABLE};

/// The variable with the passphrase of a file that is imported.
const IMPORT_VARIABLE: &str = "QUORATE_IMPORT_PASSPHRASE";

const EXAMPLES: &str = "\
A key lies in its folder as NAME.GENERATION.key, readable by its owner only, and is never overwritten. New files are locked with
the passphrase in --passphrase-file, in the file that the configuration names, or in the variable QUORATE_ENCLAVE_PASSPHRASE;
--unlocked leaves them open, for folders that an orchestrator keeps secret. Private keys are never printed. A running node takes
up new keys when it is started again; its members learn of them by themselves.

Examples:
  quorate enclave keygen --config my-net/node1/quorate.toml --passphrase-file secret.txt
  quorate enclave import tm.key --keys my-net/node1/enclave --name bank-a --unlocked
  quorate enclave list --config my-net/node1/quorate.toml --json
  quorate enclave export-public --keys my-net/node1/enclave --format tessera > bank-a.pub
  quorate enclave rotate --keys my-net/node1/enclave --name bank-a --passphrase-file secret.txt";

/// Private keys of a party.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum EnclaveCommand {
    /// Make a key.
    Keygen(ChangeArgs),
    /// Show all keys without unlocking them.
    List(ListArgs),
    /// Print the public part of a key, for whoever is to send to it.
    ExportPublic(ExportArgs),
    /// Take over a key from a file of Tessera's, locked or unlocked, or of ours.
    Import(ImportArgs),
    /// Make a new key of a name. The earlier ones go on opening what was sent to them, and send nothing any more.
    Rotate(ChangeArgs),
}

/// Where the keys are.
#[derive(Debug, Args)]
struct Place {
    /// Folder of keys. Without it: the one that the configuration names.
    #[arg(long, value_name = "DIR", env = "QUORATE_ENCLAVE_KEYS")]
    keys: Option<PathBuf>,
    /// Configuration file of the node.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,
    /// As JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// How new files are protected.
#[derive(Debug, Args)]
struct ProtectionArgs {
    /// File with the passphrase that the new file is locked with.
    #[arg(long, value_name = "FILE", conflicts_with = "unlocked")]
    passphrase_file: Option<PathBuf>,
    /// Leave the new file unlocked: whoever reads it has the key.
    #[arg(long)]
    unlocked: bool,
}

/// Arguments of `quorate enclave keygen` and `rotate`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Name of the key: 1 to 32 of a-z, 0-9 and '-'.
    #[arg(long, default_value = "main")]
    name: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    protection: ProtectionArgs,
}

/// Arguments of `quorate enclave list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
}

/// Form of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Name and both public keys, as JSON.
    Json,
    /// The X25519 key alone in base64, as in Tessera's .pub files and in privateFor.
    Tessera,
}

/// Arguments of `quorate enclave export-public`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Name of the key.
    #[arg(long, default_value = "main")]
    name: String,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Tessera)]
    format: Format,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `quorate enclave import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The key file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name that the key gets here.
    #[arg(long, default_value = "main")]
    name: String,
    /// File with the passphrase of FILE, if it is locked; without it the variable QUORATE_IMPORT_PASSPHRASE.
    #[arg(long, value_name = "FILE")]
    from_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    protection: ProtectionArgs,
}

impl EnclaveCommand {
    /// Does it.
    ///
    /// # Errors
    /// If a file cannot be read or written, or a passphrase is missing or wrong.
    pub fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Keygen(args) => {
                let (folder, config) = args.place.open()?;
                let listing = folder.generate(&args.name, &args.protection.read(&config)?)?;
                args.place.show(&listing)
            }
            Self::Rotate(args) => {
                let (folder, config) = args.place.open()?;
                let listing = folder.rotate(&args.name, &args.protection.read(&config)?)?;
                args.place.show(&listing)
            }
            Self::Import(args) => args.run(),
            Self::List(args) => args.run(),
            Self::ExportPublic(args) => args.run(),
        }
    }
}

impl Place {
    fn open(&self) -> anyhow::Result<(KeyFolder, NodeConfig)> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let loaded = Loaded::load(self.config.as_deref(), environment, &[])?;
        let dir = self.keys.clone();
        let dir = dir.unwrap_or_else(|| loaded.config.enclave_key_dir());
        Ok((KeyFolder::open(dir)?, loaded.config))
    }

    fn show(&self, listing: &KeyListing) -> anyhow::Result<()> {
        match self.json {
            true => output::print_json(&to_json(listing))?,
            false => output::print(&line(listing))?,
        }
        Ok(())
    }
}

impl ProtectionArgs {
    fn read(&self, config: &NodeConfig) -> anyhow::Result<Protection> {
        if self.unlocked {
            return Ok(Protection::None);
        }
        let passphrase = match &self.passphrase_file {
            Some(file) => Some(read_passphrase(file)?),
            None => config.enclave_passphrase()?,
        };
        let Some(passphrase) = passphrase else {
            bail!(
                "no passphrase for the new file: give --passphrase-file or the variable {PASSPHRASE_VARIABLE}, or leave the file \
                 open with --unlocked"
            );
        };
        Ok(Protection::Passphrase(
            passphrase,
            PassphraseCost::default(),
        ))
    }
}

impl ImportArgs {
    fn run(&self) -> anyhow::Result<()> {
        let (folder, config) = self.place.open()?;
        let context = || format!("key file {}", self.file.display());
        let file = KeyFile::read_mounted(&self.file).with_context(context)?;
        let from = match &self.from_passphrase_file {
            Some(path) => Some(read_passphrase(path)?),
            None => from_variable(IMPORT_VARIABLE),
        };
        if file.is_locked() && from.is_none() {
            bail!(
                "{} is locked: give --from-passphrase-file or the variable {IMPORT_VARIABLE}",
                self.file.display()
            );
        }
        let protection = self.protection.read(&config)?;
        let imported = folder.import(&self.name, &file, from.as_ref(), &protection);
        self.place.show(&imported.with_context(context)?)
    }
}

impl ListArgs {
    fn run(&self) -> anyhow::Result<()> {
        let (folder, _) = self.place.open()?;
        let listings = folder.list()?;
        if self.place.json {
            let all: Vec<Value> = listings.iter().map(to_json).collect();
            output::print_json(&all.into())?;
        } else if listings.is_empty() {
            output::note("there are no keys: quorate enclave keygen makes one");
        } else {
            let lines: Vec<String> = listings.iter().map(line).collect();
            output::print(&lines.join("\n"))?;
        }
        Ok(())
    }
}

impl ExportArgs {
    fn run(&self) -> anyhow::Result<()> {
        let (folder, _) = self.place.open()?;
        let mut listings = folder.list()?.into_iter();
        let active = listings.find(|listing| listing.active && listing.name == self.name);
        let listing = active.with_context(|| format!("there is no key named {}", self.name))?;
        match (self.format, self.place.json) {
            (Format::Tessera, false) => output::print(&listing.announcement.key.to_string())?,
            (Format::Json, _) | (_, true) => output::print_json(&public_part(&listing))?,
        }
        Ok(())
    }
}

fn read_passphrase(file: &std::path::Path) -> anyhow::Result<Passphrase> {
    Passphrase::read(file).with_context(|| format!("passphrase file {}", file.display()))
}

fn from_variable(name: &str) -> Option<Passphrase> {
    let given = std::env::var(name).ok();
    given.filter(|text| !text.is_empty()).map(Passphrase::new)
}

fn public_part(listing: &KeyListing) -> Value {
    let hybrid = listing.announcement.hybrid.as_ref();
    json!({
        "name": listing.name,
        "publicKey": listing.announcement.key.to_string(),
        "hybridPublicKey": hybrid.map(|key| STANDARD.encode(key.as_bytes())),
    })
}

fn to_json(listing: &KeyListing) -> Value {
    let mut value = public_part(listing);
    if let Value::Object(fields) = &mut value {
        fields.insert("generation".into(), listing.generation.into());
        fields.insert("active".into(), listing.active.into());
        fields.insert("locked".into(), listing.locked.into());
    }
    value
}

fn line(listing: &KeyListing) -> String {
    format!(
        "{}  {}  generation {}, {}, {}",
        listing.announcement.key,
        listing.name,
        listing.generation,
        if listing.active { "active" } else { "retired" },
        if listing.locked { "locked" } else { "unlocked" },
    )
}
