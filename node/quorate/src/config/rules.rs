//! What values must satisfy, alone and together.

use std::path::PathBuf;
use std::time::Duration;

use quorate_enclave::Endpoint;
use quorate_rpc::Namespace;

use super::{EnclavePlace, NodeConfig, log_filter};

/// All violations: path and what is allowed.
pub fn faults(config: &NodeConfig) -> Vec<(String, String)> {
    let mut found = Faults(Vec::new());
    check_listeners(config, &mut found);
    check_rpc(config, &mut found);
    check_engine(config, &mut found);
    check_pool(config, &mut found);
    check_sync(config, &mut found);
    check_privacy(config, &mut found);
    check_third_party(config, &mut found);
    check_rest(config, &mut found);
    found.0
}

/// What is allowed but probably not meant.
pub fn warnings(config: &NodeConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let outside = config.rpc.enabled && !config.rpc.listen.ip().is_loopback();
    if outside && config.accounts.dev_accounts {
        warnings.push(format!(
            "accounts.dev_accounts: keys known to everybody are unlocked and rpc.listen {} is open to the network",
            config.rpc.listen
        ));
    }
    if outside && !config.accounts.unlock.is_empty() {
        warnings.push(format!(
            "accounts.unlock: whoever reaches rpc.listen {} can use the unlocked accounts",
            config.rpc.listen
        ));
    }
    warnings
}

struct Faults(Vec<(String, String)>);

impl Faults {
    fn unless(&mut self, ok: bool, path: &str, reason: impl FnOnce() -> String) {
        if !ok {
            self.0.push((path.to_owned(), reason()));
        }
    }
}

fn check_listeners(config: &NodeConfig, found: &mut Faults) {
    let listeners = [
        ("p2p.listen", true, config.p2p.listen),
        ("rpc.listen", config.rpc.enabled, config.rpc.listen),
        ("grpc.listen", config.grpc.enabled, config.grpc.listen),
        ("metrics.listen", true, config.metrics.listen),
        (
            "third_party.listen",
            config.third_party.enabled,
            config.third_party.listen,
        ),
    ];
    for (i, (path, on, address)) in listeners.iter().enumerate() {
        let mut earlier = listeners.iter().take(i);
        // Port 0 lets the system choose.
        let same = earlier.find(|(_, other_on, other)| {
            *on && *other_on && other.port() == address.port() && address.port() != 0
        });
        if let Some((other_path, _, other)) = same {
            let overlap = other.ip() == address.ip()
                || other.ip().is_unspecified()
                || address.ip().is_unspecified();
            found.unless(!overlap, path, || {
                format!("{address} is taken by {other_path}; each needs a port of its own")
            });
        }
    }
    for (id, address) in &config.p2p.addresses {
        let path = format!("p2p.addresses.{id}");
        found.unless(*id != 0, &path, || "raft ids begin at 1".into());
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty())
                .then(|| port.parse::<u16>().ok())
                .flatten()
        });
        let multiaddress = address.starts_with('/');
        found.unless(multiaddress || port.is_some_and(|p| p != 0), &path, || {
            format!("{address:?} is not host:port or a multiaddress")
        });
    }
}

fn check_rpc(config: &NodeConfig, found: &mut Faults) {
    for name in &config.rpc.namespaces {
        found.unless(name.parse::<Namespace>().is_ok(), "rpc.namespaces", || {
            format!("{name:?} is none of eth, net, web3, txpool, raft, admin, quorumExtension")
        });
    }
    if let Err(faults) = config.rpc_config().validated() {
        for fault in faults {
            found
                .0
                .push((NodeConfig::rpc_path(fault.field), fault.reason));
        }
    }
    for (path, time) in [
        ("rpc.logs_time_max", config.rpc.logs_time_max),
        ("rpc.filter_lifetime", config.rpc.filter_lifetime),
        ("rpc.submit_wait_max", config.rpc.submit_wait_max),
        ("grpc.keep_alive", config.grpc.keep_alive),
    ] {
        found.unless(!time.is_zero(), path, || "must be more than 0".into());
    }
}

fn check_engine(config: &NodeConfig, found: &mut Faults) {
    let raft = &config.raft;
    let tick_allowed = Duration::from_millis(10)..=Duration::from_secs(10);
    found.unless(tick_allowed.contains(&raft.tick), "raft.tick", || {
        "must lie between 10ms and 10s".into()
    });
    found.unless(raft.heartbeat_ticks >= 1, "raft.heartbeat_ticks", || {
        "must be at least 1".into()
    });
    // With less, followers would stand for election between two heartbeats of a healthy leader.
    found.unless(
        raft.election_ticks > raft.heartbeat_ticks,
        "raft.election_ticks",
        || {
            format!(
                "must be more than raft.heartbeat_ticks ({})",
                raft.heartbeat_ticks
            )
        },
    );
    found.unless(raft.election_ticks <= 1_000, "raft.election_ticks", || {
        "must be at most 1000".into()
    });
    let minter = &config.minter;
    found.unless(
        minter.min_interval <= Duration::from_secs(60),
        "minter.min_interval",
        || "must be at most 1m".into(),
    );
    found.unless(
        (1..=64).contains(&minter.pipeline_blocks),
        "minter.pipeline_blocks",
        || "must lie between 1 and 64".into(),
    );
    let state = &config.state;
    found.unless(state.flush_blocks >= 1, "state.flush_blocks", || {
        "must be at least 1".into()
    });
    found.unless(state.flush_bytes >= 64 << 10, "state.flush_bytes", || {
        "must be at least 64KiB".into()
    });
    found.unless(state.cache_bytes >= 1 << 20, "state.cache_bytes", || {
        "must be at least 1MiB".into()
    });
}

fn check_sync(config: &NodeConfig, found: &mut Faults) {
    let files = 64 << 10..=4 << 30;
    let bytes = config.sync.block_file_bytes;
    found.unless(files.contains(&bytes), "sync.block_file_bytes", || {
        "must lie between 64KiB and 4GiB".into()
    });
    for address in &config.p2p.announce {
        let with_port = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0)
        });
        found.unless(
            address.starts_with('/') || with_port,
            "p2p.announce",
            || format!("{address:?} is not host:port or a multiaddress"),
        );
    }
    found.unless(config.p2p.announce.len() <= 8, "p2p.announce", || {
        "at most 8 addresses".into()
    });
}

fn check_pool(config: &NodeConfig, found: &mut Faults) {
    let pool = &config.pool;
    found.unless(pool.transactions_max >= 1, "pool.transactions_max", || {
        "must be at least 1".into()
    });
    found.unless(pool.bytes_max >= 256 << 10, "pool.bytes_max", || {
        "must be at least 256KiB".into()
    });
    found.unless(
        (1..=pool.transactions_max).contains(&pool.per_sender_max),
        "pool.per_sender_max",
        || {
            format!(
                "must lie between 1 and pool.transactions_max ({})",
                pool.transactions_max
            )
        },
    );
    found.unless(pool.nonce_window >= 1, "pool.nonce_window", || {
        "must be at least 1".into()
    });
    found.unless(
        pool.lifetime >= Duration::from_secs(1),
        "pool.lifetime",
        || "must be at least 1s".into(),
    );
}

/// All of these files, or none.
fn check_files(found: &mut Faults, files: [(&str, &Option<PathBuf>); 3]) {
    if files.iter().any(|(_, file)| file.is_some()) {
        for (path, file) in files {
            found.unless(file.is_some(), path, || {
                let all = files.map(|(path, _)| path).join(", ");
                format!("is missing: {all} belong together")
            });
        }
    }
}

fn check_privacy(config: &NodeConfig, found: &mut Faults) {
    let privacy = &config.privacy;
    let files = [
        (
            "privacy.enclave_tls_certificate",
            &privacy.enclave_tls_certificate,
        ),
        ("privacy.enclave_tls_key", &privacy.enclave_tls_key),
        (
            "privacy.enclave_tls_server_ca",
            &privacy.enclave_tls_server_ca,
        ),
    ];
    check_files(found, files);
    let any_file = files.iter().any(|(_, file)| file.is_some());
    let over_tls = matches!(&privacy.enclave, EnclavePlace::Remote(Endpoint::Tls(_)));
    found.unless(!over_tls || any_file, "privacy.enclave", || {
        "an enclave at an https address needs privacy.enclave_tls_certificate, enclave_tls_key and enclave_tls_server_ca".into()
    });
    found.unless(over_tls || !any_file, "privacy.enclave", || {
        "the TLS files are for an enclave at an https address".into()
    });
    if let Some(name) = &privacy.default_key {
        let local = privacy.enclave == EnclavePlace::Local;
        found.unless(local, "privacy.default_key", || {
            "a remote enclave has a setting of its own for it (quorate-enclave serve --default-key)"
                .into()
        });
        found.unless(!name.is_empty(), "privacy.default_key", || {
            "must be the name of a key".into()
        });
    }
    let allowed = Duration::from_millis(100)..=Duration::from_secs(300);
    found.unless(
        allowed.contains(&privacy.acknowledge_timeout),
        "privacy.acknowledge_timeout",
        || "must lie between 100ms and 5m".into(),
    );
}

fn check_third_party(config: &NodeConfig, found: &mut Faults) {
    let settings = &config.third_party;
    let files = [
        ("third_party.tls_certificate", &settings.tls_certificate),
        ("third_party.tls_key", &settings.tls_key),
        ("third_party.tls_client_ca", &settings.tls_client_ca),
    ];
    check_files(found, files);
    if let Err(fault) = config.third_party_limits().check() {
        let path = format!("third_party.{}", fault.field);
        found.unless(false, &path, || fault.reason);
    }
    if !settings.enabled {
        return;
    }
    found.unless(config.privacy.enabled, "third_party.enabled", || {
        "there is nothing to serve while privacy.enabled is false".into()
    });
    let guarded = files.iter().all(|(_, file)| file.is_some());
    found.unless(
        guarded || settings.listen.ip().is_loopback(),
        "third_party.listen",
        || {
            format!(
                "{} is no loopback address: whoever reaches it could read payloads; set third_party.tls_certificate, tls_key and \
                 tls_client_ca, so that only clients with a certificate do",
                settings.listen
            )
        },
    );
    found.unless(
        settings.request_timeout > config.privacy.acknowledge_timeout,
        "third_party.request_timeout",
        || {
            format!(
                "must be more than privacy.acknowledge_timeout ({:?}), or senders are not told who was silent",
                config.privacy.acknowledge_timeout
            )
        },
    );
}

fn check_rest(config: &NodeConfig, found: &mut Faults) {
    found.unless(log_filter(&config.log.level).is_some(), "log.level", || {
        format!(
            "{:?} is no level (error, warn, info, debug, trace) or list of room=level",
            config.log.level
        )
    });
    let format = config.log.format.as_str();
    found.unless(matches!(format, "text" | "json"), "log.format", || {
        format!("{format:?} is neither \"text\" nor \"json\"")
    });
}
