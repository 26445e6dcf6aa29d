//! The enclave as a process of its own: holds a node's private keys and no chain data.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate_enclave::{
    EnclaveServer, KeyFile, KeyFolder, KeyListing, KeyRing, Listen, LocalEnclave, Passphrase,
    PassphraseCost, Protection, ServerConfig, ServerTls,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Holds the private keys of a Quorate node and works with them for it.
#[derive(Debug, Parser)]
#[command(name = "quorate-enclave", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the node until SIGINT or SIGTERM. SIGHUP reads the keys again, after a rotation.
    Serve(Serve),
    /// Make a key.
    Keygen(Change),
    /// Make a new key of a name; the old one goes on opening what was sent to it.
    Rotate(Change),
    /// Take over a key from a file of Tessera's or of ours.
    Import(Import),
    /// Show all keys, without unlocking them.
    List {
        /// Folder of keys.
        #[arg(long, env = "QUORATE_ENCLAVE_KEYS")]
        keys: PathBuf,
    },
    /// Print the public part of a key.
    ExportPublic {
        /// Folder of keys.
        #[arg(long, env = "QUORATE_ENCLAVE_KEYS")]
        keys: PathBuf,
        /// Name of the key.
        #[arg(long)]
        name: String,
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Both public keys, as JSON.
    Json,
    /// The X25519 key alone in base64, as in Tessera's .pub files.
    Tessera,
}

#[derive(Debug, Args)]
struct Serve {
    /// Folder of keys.
    #[arg(
        long,
        env = "QUORATE_ENCLAVE_KEYS",
        required_unless_present = "key_file"
    )]
    keys: Option<PathBuf>,
    /// Key file of its own, such as a mounted secret; the first one is the default sender. Instead of a folder.
    #[arg(long, conflicts_with = "keys")]
    key_file: Vec<PathBuf>,
    /// File with the passphrase of the keys.
    #[arg(long, env = "QUORATE_ENCLAVE_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    /// Name of the key that sends by default; otherwise the first by name.
    #[arg(long, conflicts_with = "key_file")]
    default_key: Option<String>,
    /// Unix socket to serve on.
    #[arg(long, required_unless_present = "address")]
    socket: Option<PathBuf>,
    /// Address to serve on over TLS; needs certificates.
    #[arg(long, conflicts_with = "socket", requires_all = ["tls_certificate", "tls_key", "tls_client_ca"])]
    address: Option<SocketAddr>,
    /// Certificate chain (PEM).
    #[arg(long)]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long)]
    tls_key: Option<PathBuf>,
    /// Certificate of whoever signs the nodes' certificates (PEM).
    #[arg(long)]
    tls_client_ca: Option<PathBuf>,
    /// Most calls at once.
    #[arg(long, default_value_t = 64)]
    in_flight_max: usize,
    /// Longest time for a call, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    call_timeout_ms: u64,
}

#[derive(Debug, Args)]
struct Change {
    /// Folder of keys.
    #[arg(long, env = "QUORATE_ENCLAVE_KEYS")]
    keys: PathBuf,
    /// Name of the key: 1 to 32 of a-z, 0-9 and '-'.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    protection: ProtectionArgs,
}

#[derive(Debug, Args)]
struct Import {
    #[command(flatten)]
    change: Change,
    /// The file to take the key from.
    #[arg(long)]
    file: PathBuf,
    /// File with the passphrase of that file, if it is locked.
    #[arg(long)]
    from_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ProtectionArgs {
    /// File with the passphrase that the new file is locked with.
    #[arg(long, env = "QUORATE_ENCLAVE_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    /// Leave the new file unlocked: whoever reads it has the key.
    #[arg(long)]
    unlocked: bool,
}

impl ProtectionArgs {
    fn read(&self) -> Result<Protection> {
        Ok(match passphrase(self.passphrase_file.as_ref())? {
            Some(passphrase) => Protection::Passphrase(passphrase, PassphraseCost::default()),
            None => Protection::None,
        })
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve(serve) => run(&serve),
        Command::Keygen(args) => {
            let folder = KeyFolder::open(&args.keys)?;
            let listing = folder.generate(&args.name, &args.protection.read()?)?;
            print(&line(&listing))
        }
        Command::Rotate(args) => {
            let folder = KeyFolder::open(&args.keys)?;
            let listing = folder.rotate(&args.name, &args.protection.read()?)?;
            print(&line(&listing))
        }
        Command::Import(args) => {
            let folder = KeyFolder::open(&args.change.keys)?;
            let file = KeyFile::read_mounted(&args.file)
                .with_context(|| args.file.display().to_string())?;
            let from = passphrase(args.from_passphrase_file.as_ref())?;
            let protection = args.change.protection.read()?;
            let listing = folder.import(&args.change.name, &file, from.as_ref(), &protection)?;
            print(&line(&listing))
        }
        Command::List { keys } => {
            for listing in KeyFolder::open(keys)?.list()? {
                print(&line(&listing))?;
            }
            Ok(())
        }
        Command::ExportPublic { keys, name, format } => {
            let listing = active(&KeyFolder::open(keys)?, &name)?;
            match format {
                Format::Tessera => print(&listing.announcement.key.to_string()),
                Format::Json => {
                    let hybrid = listing.announcement.hybrid.as_ref();
                    let hybrid = hybrid.map(|key| STANDARD.encode(key.as_bytes()));
                    let json = serde_json::json!({
                        "name": listing.name,
                        "publicKey": listing.announcement.key,
                        "hybridPublicKey": hybrid,
                    });
                    print(&json.to_string())
                }
            }
        }
    }
}

fn run(args: &Serve) -> Result<()> {
    // A core file would hold every key.
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .context("cannot turn core files off")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let enclave = LocalEnclave::new(load(args)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(args, enclave))
}

async fn serve(args: &Serve, enclave: LocalEnclave) -> Result<()> {
    let listen = match (&args.socket, args.address) {
        (Some(path), None) => Listen::Unix(path.clone()),
        (None, Some(address)) => Listen::Tls {
            address,
            tls: ServerTls {
                certificate: needed(&args.tls_certificate, "--tls-certificate")?,
                key: needed(&args.tls_key, "--tls-key")?,
                client_ca: needed(&args.tls_client_ca, "--tls-client-ca")?,
            },
        },
        (Some(_), Some(_)) | (None, None) => bail!("one of --socket and --address is needed"),
    };
    let mut config = ServerConfig::new(listen);
    config.in_flight_max = args.in_flight_max;
    config.call_timeout = Duration::from_millis(args.call_timeout_ms);
    let keys = enclave.health_now().keys;
    let server = EnclaveServer::bind(Arc::new(enclave.clone()), config).await?;
    let address = server.address().map(|address| address.to_string());
    let place = address.or_else(|| args.socket.as_ref().map(|path| path.display().to_string()));
    tracing::info!(place, keys, "serving");
    let cancel = CancellationToken::new();
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let serving = server.run(cancel.clone());
    tokio::pin!(serving);
    loop {
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            _ = interrupted.recv() => cancel.cancel(),
            _ = terminated.recv() => cancel.cancel(),
            _ = hung_up.recv() => reload(args, &enclave).await,
        }
    }
}

/// Exchanges the keys; goes on with the ones that it has if that fails.
async fn reload(args: &Serve, enclave: &LocalEnclave) {
    // Unlocking takes a second for every key.
    let loaded = tokio::task::block_in_place(|| load(args));
    match loaded {
        Ok(ring) => {
            let keys = ring.len();
            enclave.replace_keys(ring);
            tracing::info!(keys, "keys were read again");
        }
        Err(e) => tracing::error!("keys were not read again, the old ones stay: {e:#}"),
    }
}

fn load(args: &Serve) -> Result<KeyRing> {
    let passphrase = passphrase(args.passphrase_file.as_ref())?;
    let Some(keys) = &args.keys else {
        return Ok(KeyRing::from_files(&args.key_file, passphrase.as_ref())?);
    };
    let folder = KeyFolder::open(keys)?;
    let mut ring = folder.load(passphrase.as_ref())?;
    if ring.is_empty() {
        bail!("{} holds no keys: make one with keygen", keys.display());
    }
    if let Some(name) = &args.default_key {
        let listing = active(&folder, name)?;
        if !ring.set_default(&listing.announcement.key) {
            bail!("key {name} was replaced while it was loaded");
        }
    }
    Ok(ring)
}

fn active(folder: &KeyFolder, name: &str) -> Result<KeyListing> {
    let mut listings = folder.list()?.into_iter();
    let found = listings.find(|listing| listing.active && listing.name == name);
    found.with_context(|| format!("there is no key named {name}"))
}

fn passphrase(file: Option<&PathBuf>) -> Result<Option<Passphrase>> {
    file.map(|path| Passphrase::read(path).with_context(|| path.display().to_string()))
        .transpose()
}

fn needed(path: &Option<PathBuf>, flag: &str) -> Result<PathBuf> {
    path.clone().with_context(|| format!("{flag} is needed"))
}

fn line(listing: &KeyListing) -> String {
    format!(
        "{} {} {} {} {}{}",
        listing.name,
        listing.generation,
        if listing.active { "active" } else { "retired" },
        if listing.locked { "locked" } else { "unlocked" },
        listing.announcement.key,
        if listing.announcement.hybrid.is_some() {
            " with-x-wing"
        } else {
            ""
        },
    )
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
