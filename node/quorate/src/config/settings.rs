//! The one table of settings: name, meaning, type, written form, default. The comments are the documentation and also
//! stand in every generated `quorate.toml`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::Address;

use super::forms::{
    AddressList, Listen, Location, Maybe, MemberAddresses, Number, Size, Span, Switch, Wei,
    WordList, Words,
};
use super::privacy::{EnclavePlace, PrivateForm, PublicForm};
use super::table::settings;

const fn on_loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn on_all(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

settings! {
    /// This node: its data, its identity, its consortium.
    node: NodeSettings {
        /// Folder for everything the node keeps: ordering log, blocks, state. One process at a time may use it.
        data_dir: PathBuf as Location = "data".into();
        /// The consortium's genesis file, the same on every member. Not set: genesis.json in the data folder.
        genesis: Option<PathBuf> as Maybe<Location> = None;
        /// File with the node's secret key (64 hexadecimal digits). It is this member's identity on the network, in
        /// ordering and in block seals; a key that genesis does not list ends the node with code 3.
        key_file: PathBuf as Location = "node.key".into();
        /// A name for people, shown in logs.
        name: String as Words = "quorate".into();
    }

    /// The network between members.
    p2p: P2pSettings {
        /// Address and port for other members. Unknown keys are refused right after the handshake.
        listen: SocketAddr as Listen = on_all(30_303);
        /// Addresses of members that differ from those in genesis: raft id = "host:port".
        addresses: BTreeMap<u64, String> as MemberAddresses = BTreeMap::new();
        /// Addresses (host:port or multiaddresses) under which the others reach this member. Set, they are announced to the
        /// members, signed by the node key, and brought into the member table when that has another one.
        announce: Vec<String> as WordList = Vec::new();
        /// Look for members on the local network (multicast DNS).
        mdns: bool as Switch = false;
    }

    /// JSON-RPC over HTTP and WebSocket, both on one port. There is no authentication: whoever reaches the port may use it.
    rpc: RpcSettings {
        /// Whether JSON-RPC is served.
        enabled: bool as Switch = true;
        /// Address and port for clients. Behind 0.0.0.0 put a proxy that authenticates.
        listen: SocketAddr as Listen = on_loopback(8_545);
        /// Groups of methods that are served: eth, net, web3, txpool, raft, admin, quorumExtension.
        namespaces: Vec<String> as WordList =
            quorate_rpc::Namespace::ALL.iter().map(|n| n.name().to_owned()).collect();
        /// Host names by which clients may address this node; "*" allows all, addresses in numbers always work. Keeps web
        /// pages from reaching the node through a changed DNS answer. Missing names are answered with 403.
        allowed_hosts: Vec<String> as WordList = vec!["localhost".into()];
        /// Origins of web pages that may call, such as "https://wallet.example"; "*" allows all. Empty: no web page may.
        cors_origins: Vec<String> as WordList = Vec::new();
        /// Largest request (HTTP body, batch, WebSocket message), at least 4KiB. Too small refuses large contracts.
        body_bytes_max: u32 as Size<u32> = 8 << 20;
        /// Largest answer, at least 4KiB; a larger one becomes an error.
        response_bytes_max: u32 as Size<u32> = 32 << 20;
        /// Most requests in one batch; 0 refuses batches.
        batch_max: u32 as Number<u32> = 1_000;
        /// Open connections, for JSON-RPC and for gRPC each, at least 1; more are closed at once. Each costs a file descriptor.
        connections_max: usize as Number<usize> = 2_048;
        /// Subscriptions on one WebSocket connection.
        subscriptions_per_connection_max: u32 as Number<u32> = 128;
        /// Calls, estimates and log queries that run at the same time; 0 means one per core. Too many take the cores away from
        /// the chain.
        concurrent_calls: usize as Number<usize> = 0;
        /// Most gas that eth_call and eth_estimateGas may use, at least 21000. It bounds the time of one call.
        call_gas_max: u64 as Number<u64> = 50_000_000;
        /// Blocks that one log query may span.
        logs_blocks_max: u64 as Number<u64> = 10_000;
        /// Logs that one query may return.
        logs_results_max: usize as Number<usize> = 20_000;
        /// Time that one log query may take.
        logs_time_max: Duration as Span = Duration::from_secs(10);
        /// Filters (eth_newFilter and the like) that exist at the same time.
        filters_max: usize as Number<usize> = 1_024;
        /// A filter that nobody asks for so long is forgotten.
        filter_lifetime: Duration as Span = Duration::from_secs(300);
        /// How long a client may wait for a transaction to be in a block (eth_sendRawTransactionSync, gRPC `wait`).
        submit_wait_max: Duration as Span = Duration::from_secs(60);
    }

    /// The gRPC services quorate.v1.Ledger and quorate.v1.Membership. No authentication here either: whoever reaches the port may
    /// change the members.
    grpc: GrpcSettings {
        /// Whether gRPC is served.
        enabled: bool as Switch = true;
        /// Address and port for clients.
        listen: SocketAddr as Listen = on_loopback(50_051);
        /// Largest request message, at least 4KiB.
        request_bytes_max: usize as Size<usize> = 4 << 20;
        /// Largest response message, at least 4KiB. A full block has to fit.
        response_bytes_max: usize as Size<usize> = 32 << 20;
        /// Concurrent requests on one connection, at least 1.
        streams_max: u32 as Number<u32> = 1_024;
        /// Quiet connections are pinged in this interval; one that stays silent for as long again is closed.
        keep_alive: Duration as Span = Duration::from_secs(20);
    }

    /// /metrics (Prometheus), /health and /ready.
    metrics: MetricsSettings {
        /// Address and port for operators.
        listen: SocketAddr as Listen = on_loopback(9_545);
    }

    /// Ordering. The first three should be the same on all members.
    raft: RaftSettings {
        /// Length of a tick, the only clock of ordering: 10ms to 10s. A short tick finds a dead leader sooner and takes
        /// slow disks and networks for dead ones.
        tick: Duration as Span = Duration::from_millis(100);
        /// A member that hears no leader for one to two times so many ticks stands for election. More than heartbeat_ticks.
        election_ticks: u32 as Number<u32> = 10;
        /// A leader speaks up at least every so many ticks, at least 1.
        heartbeat_ticks: u32 as Number<u32> = 1;
        /// Entries that stay in the log after they could be cut off, for members that lag a little. Those that lag more
        /// fetch blocks instead.
        trailing_entries: u64 as Number<u64> = 8_192;
    }

    /// Making blocks while this member leads.
    minter: MinterSettings {
        /// Least time between two blocks. 0ms mints as soon as there is a transaction; there are no empty blocks. A larger value
        /// makes fewer, larger blocks and adds to the latency of every transaction. At most 1m.
        min_interval: Duration as Span = Duration::ZERO;
        /// Blocks that may be sealed before they are committed, 1 to 64. 1 waits for every commit.
        pipeline_blocks: usize as Number<usize> = 8;
    }

    /// Transactions that wait for a block. What does not fit is refused with a clear error.
    pool: PoolSettings {
        /// Most transactions, at least 1. One takes about a kilobyte of memory.
        transactions_max: usize as Number<usize> = 50_000;
        /// Most bytes of transactions, at least 256KiB.
        bytes_max: usize as Size<usize> = 256 << 20;
        /// Most transactions of one sender, 1 to transactions_max.
        per_sender_max: usize as Number<usize> = 8_192;
        /// How far a nonce may lie ahead of the account's next one, at least 1.
        nonce_window: u64 as Number<u64> = 16_384;
        /// Lowest gas price in wei that is accepted. 0 lets everybody in for free, which suits a consortium whose clients
        /// are known.
        min_gas_price: u128 as Wei = 0;
        /// How long a transaction may wait before it is dropped, at least 1s.
        lifetime: Duration as Span = Duration::from_secs(3 * 60 * 60);
    }

    /// Writing accounts and storage to disk. The state is behind the blocks on disk and caught up at start.
    state: StateSettings {
        /// Write after so many blocks, at least 1. More blocks mean less writing and a longer start after a crash.
        flush_blocks: u64 as Number<u64> = 256;
        /// Write after about so many bytes of changes, at least 64KiB. They are held in memory until then.
        flush_bytes: u64 as Size<u64> = 64 << 20;
        /// Page cache of each of the two stores, at least 1MiB. Resident memory may reach several times this value; too small a cache
        /// makes reads ten times slower once there are a million accounts.
        cache_bytes: u64 as Size<u64> = 256 << 20;
    }

    /// Catching up, and what is kept of the past.
    sync: SyncSettings {
        /// A member that is so many blocks behind the log installs a state snapshot of another member, if one has it; below
        /// that it executes the blocks itself. 0 never uses a snapshot unless nobody has the blocks any more.
        snapshot_distance: u64 as Number<u64> = 20_000;
        /// Make a state snapshot for others every so many blocks; 0 makes one only when a member asks for it.
        snapshot_every: u64 as Number<u64> = 100_000;
        /// Size of a file of blocks, at least 64KiB. Old blocks are dropped in whole files.
        block_file_bytes: u64 as Size<u64> = 64 << 20;
        /// Blocks that are kept below the head, at least 256 beyond what is on disk as state; older ones are dropped with their
        /// receipts and old state. 0 keeps everything.
        retain_blocks: u64 as Number<u64> = 0;
    }

    /// Accounts that the node signs for (eth_sendTransaction, eth_sign). Usually none: clients sign themselves.
    accounts: AccountSettings {
        /// Folder with keystore files (version 3, as geth writes them); made by `quorate account new`.
        keystore_dir: PathBuf as Location = "keystore".into();
        /// Accounts whose keys are unlocked at start: whoever reaches the JSON-RPC port may use them.
        unlock: Vec<Address> as AddressList = Vec::new();
        /// File with the passphrase for all unlocked accounts, or one line for each in their order. Not set: the variable
        /// QUORATE_PASSWORD.
        password_file: Option<PathBuf> as Maybe<Location> = None;
        /// Unlock the ten well-known development accounts. Their keys are public: only for chains without value.
        dev_accounts: bool as Switch = false;
    }

    /// Private transactions: payloads that only their parties can read. Members with and without it make up one network; those
    /// without it can be no party.
    privacy: PrivacySettings {
        /// Whether this node takes part in private transactions.
        enabled: bool as Switch = false;
        /// Who keeps this member's private keys: "local" (this process), or quorate-enclave at "unix:/path/of/socket" or
        /// "https://host:port".
        enclave: EnclavePlace as EnclavePlace = EnclavePlace::Local;
        /// Folder with the keys of a local enclave; made by `quorate enclave keygen`. Not set: enclave in the data folder. Keys
        /// that are lost take every payload with them: keep a copy elsewhere.
        key_dir: Option<PathBuf> as Maybe<Location> = None;
        /// Name of the key that sends when a client names none, for a local enclave. Not set: the first by name.
        default_key: Option<String> as Maybe<Words> = None;
        /// File with the passphrase of locked keys. Not set: the variable QUORATE_ENCLAVE_PASSPHRASE, if there is one.
        passphrase_file: Option<PathBuf> as Maybe<Location> = None;
        /// Certificate chain (PEM) that this node shows to an enclave at an https address.
        enclave_tls_certificate: Option<PathBuf> as Maybe<Location> = None;
        /// Its private key (PEM).
        enclave_tls_key: Option<PathBuf> as Maybe<Location> = None;
        /// Certificate (PEM) of whoever signs the enclave's certificate.
        enclave_tls_server_ca: Option<PathBuf> as Maybe<Location> = None;
        /// The name in the enclave's certificate, if it is not the host of its address.
        enclave_tls_server_name: Option<String> as Maybe<Words> = None;
        /// How private transactions that the node signs look to everyone: "marker" (a call of the privacy precompile, protected
        /// against replay by the chain id) or "quorum" (v 37 or 38, for tools that expect it). Clients may choose otherwise.
        public_form: PublicForm as PrivateForm = PublicForm::Marker;
        /// How long a sender waits for its recipients to store a payload, 100ms to 5m. Then the transaction is refused, and the
        /// answer names who was silent.
        acknowledge_timeout: Duration as Span = Duration::from_secs(10);
    }

    /// The HTTP surface that Tessera's users know (/send, /storeraw, /receive, /keys and the like). Whoever reaches it can read this
    /// member's payloads and erase them.
    third_party: ThirdPartySettings {
        /// Whether it is served. Needs privacy.enabled.
        enabled: bool as Switch = false;
        /// Address and port for clients. Another than a loopback address needs the three TLS files.
        listen: SocketAddr as Listen = on_loopback(9_080);
        /// A Unix socket to serve on as well, made with mode 0600.
        socket: Option<PathBuf> as Maybe<Location> = None;
        /// Certificate chain (PEM) that is shown to clients. With it, the address is served over TLS only.
        tls_certificate: Option<PathBuf> as Maybe<Location> = None;
        /// Its private key (PEM).
        tls_key: Option<PathBuf> as Maybe<Location> = None;
        /// Certificate (PEM) of whoever signs the certificates of clients. A client that shows none of these is turned away in the
        /// handshake.
        tls_client_ca: Option<PathBuf> as Maybe<Location> = None;
        /// Largest request, at least 4KiB. Payloads are in base64: a third longer than what they say.
        body_bytes_max: usize as Size<usize> = 24 << 20;
        /// Open connections, at least 1; more are closed at once.
        connections_max: usize as Number<usize> = 256;
        /// Requests that are worked on at the same time, at least 1; more are answered with 503. Each may hold body_bytes_max.
        requests_max: usize as Number<usize> = 32;
        /// How long one request may take, from its first byte to the answer. More than privacy.acknowledge_timeout.
        request_timeout: Duration as Span = Duration::from_secs(30);
    }

    /// What the node says about itself, on standard error.
    log: LogSettings {
        /// error, warn, info, debug, trace, or finer: "info,quorate_p2p=debug".
        level: String as Words = "info".into();
        /// "text" for people or "json" for collectors.
        format: String as Words = "text".into();
    }
}
