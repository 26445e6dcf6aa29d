//! Putting the configuration together: defaults < file < environment < flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::forms::Given;
use super::rules;
use super::settings::NodeConfig;
use super::table::{Setting, settings_table};

/// A value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The setting, as `section.name`.
    pub path: String,
    /// How the user wrote it, for messages: `--rpc-listen`.
    pub flag: String,
    /// The value as text.
    pub value: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The setting's path in the file.
    pub path: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong and what is allowed.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return write!(f, "{}: {}", self.origin, self.reason);
        }
        write!(f, "{} ({}): {}", self.path, self.origin, self.reason)
    }
}

/// Everything that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Fault>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [fault] => write!(f, "configuration: {fault}"),
            faults => {
                write!(f, "configuration has {} faults:", faults.len())?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// A configuration that satisfies all rules, and where its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values in force.
    pub config: NodeConfig,
    /// Origins by path; a path that is missing has its default.
    pub origins: BTreeMap<String, Origin>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Reads the file if there is one, then environment and flags.
    ///
    /// # Errors
    /// All faults at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigErrors> {
        let Some(path) = file else {
            return Loading::new(None).finish(environment, flags);
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_text(&text, path, environment, flags),
            Err(e) => Err(ConfigErrors(vec![Fault {
                path: String::new(),
                origin: Origin::File(path.to_owned()),
                reason: format!(
                    "cannot be read: {e} (quorate config default prints one to start from)"
                ),
            }])),
        }
    }

    /// The same from the text of a file.
    ///
    /// # Errors
    /// All faults at once.
    pub fn from_text(
        text: &str,
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Self, ConfigErrors> {
        let mut loading = Loading::new(Some(path));
        match text.parse::<Table>() {
            Ok(table) => loading.apply_file(&table, path),
            Err(e) => {
                let place = e.span().map_or(0, |span| span.start);
                let line = text.bytes().take(place).filter(|b| *b == b'\n').count() + 1;
                loading.fault(
                    "",
                    Origin::File(path.to_owned()),
                    format!("line {line}: {}", e.message()),
                );
            }
        }
        loading.finish(environment, flags)
    }
}

struct Loading {
    loaded: Loaded,
    faults: Vec<Fault>,
}

impl Loading {
    fn new(file: Option<&Path>) -> Self {
        let mut config = NodeConfig::default();
        if let Some(folder) = file.and_then(Path::parent) {
            // Default paths too begin at the file's folder.
            let defaults = NodeConfig::default();
            for setting in settings_table().iter().flat_map(|section| section.settings) {
                if let Some(value) = (setting.show)(&defaults) {
                    let set = (setting.set)(&mut config, Given::Toml(&value, folder));
                    debug_assert_eq!(set, Ok(()), "{}", setting.path());
                }
            }
        }
        Self {
            loaded: Loaded {
                config,
                origins: BTreeMap::new(),
                warnings: Vec::new(),
            },
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, path: &str, origin: Origin, reason: String) {
        self.faults.push(Fault {
            path: path.to_owned(),
            origin,
            reason,
        });
    }

    /// Where the value at `path`, or the setting that it is a part of, came from.
    fn origin(&self, path: &str) -> Origin {
        let within = |whole: &str| {
            path.strip_prefix(whole)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let found = self.loaded.origins.iter().find(|(whole, _)| within(whole));
        found.map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    fn set(&mut self, setting: &Setting, given: Given<'_>, origin: Origin) {
        match (setting.set)(&mut self.loaded.config, given) {
            Ok(()) => {
                self.loaded.origins.insert(setting.path(), origin);
            }
            Err(reason) => self.fault(&setting.path(), origin, reason),
        }
    }

    fn apply_file(&mut self, table: &Table, path: &Path) {
        let folder = path.parent().unwrap_or(Path::new(""));
        let origin = || Origin::File(path.to_owned());
        for (section_name, content) in table {
            let Some(section) = settings_table().iter().find(|s| s.name == section_name) else {
                let names = settings_table().iter().map(|s| s.name);
                self.fault(
                    section_name,
                    origin(),
                    unknown("section", section_name, names),
                );
                continue;
            };
            let Value::Table(content) = content else {
                self.fault(
                    section_name,
                    origin(),
                    format!("must be a section: [{section_name}]"),
                );
                continue;
            };
            for (name, value) in content {
                match section.settings.iter().find(|s| s.name == name) {
                    Some(setting) => self.set(setting, Given::Toml(value, folder), origin()),
                    None => {
                        let names = section.settings.iter().map(|s| s.name);
                        self.fault(
                            &format!("{section_name}.{name}"),
                            origin(),
                            unknown("setting", name, names),
                        );
                    }
                }
            }
        }
    }

    fn apply_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        let given: BTreeMap<String, String> = environment.into_iter().collect();
        for section in settings_table() {
            for setting in section.settings {
                let variable = setting.variable();
                if let Some(text) = given.get(&variable) {
                    self.set(setting, Given::Text(text), Origin::Environment(variable));
                }
            }
            // Not a fault: orchestrators put variables of their own beside ours (QUORATE_RPC_SERVICE_HOST and the like).
            let prefix = format!("QUORATE_{}_", section.name.to_uppercase());
            let known: Vec<String> = section.settings.iter().map(Setting::variable).collect();
            for name in given
                .keys()
                .filter(|name| name.starts_with(&prefix) && !known.contains(name))
            {
                self.loaded.warnings.push(format!(
                    "environment variable {name} names no setting and is ignored"
                ));
            }
        }
    }

    fn apply_flags(&mut self, flags: &[Flag]) {
        for flag in flags {
            let found = settings_table()
                .iter()
                .flat_map(|s| s.settings)
                .find(|s| s.path() == flag.path);
            let origin = Origin::Flag(flag.flag.clone());
            match found {
                Some(setting) => self.set(setting, Given::Text(&flag.value), origin),
                None => {
                    let reason =
                        "there is no such setting; quorate config default lists them".into();
                    self.fault(&flag.path, origin, reason);
                }
            }
        }
    }

    fn finish(
        mut self,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Flag],
    ) -> Result<Loaded, ConfigErrors> {
        self.apply_environment(environment);
        self.apply_flags(flags);
        for (path, reason) in rules::faults(&self.loaded.config) {
            // A value that could not even be read was reported already.
            if self.faults.iter().any(|f| f.path == path) {
                continue;
            }
            let origin = self.origin(&path);
            self.fault(&path, origin, reason);
        }
        if !self.faults.is_empty() {
            return Err(ConfigErrors(self.faults));
        }
        self.loaded
            .warnings
            .extend(rules::warnings(&self.loaded.config));
        Ok(self.loaded)
    }
}

fn unknown(kind: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    format!(
        "there is no {kind} {name:?}; known are {}",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        text: &str,
        environment: &[(&str, &str)],
        flags: &[Flag],
    ) -> Result<Loaded, ConfigErrors> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        Loaded::from_text(
            text,
            Path::new("/net/node1/quorate.toml"),
            environment,
            flags,
        )
    }

    fn flag(path: &str, value: &str) -> Flag {
        Flag {
            path: path.into(),
            flag: format!("--{path}"),
            value: value.into(),
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let text = "[rpc]\nlisten = \"127.0.0.1:1\"\n[grpc]\nlisten = \"127.0.0.1:2\"\n[metrics]\nlisten = \"127.0.0.1:3\"";
        let environment = [
            ("QUORATE_GRPC_LISTEN", "127.0.0.1:20"),
            ("QUORATE_METRICS_LISTEN", "127.0.0.1:30"),
        ];
        let loaded = load(
            text,
            &environment,
            &[flag("metrics.listen", "127.0.0.1:300")],
        )
        .unwrap();
        assert_eq!(loaded.config.rpc.listen.port(), 1);
        assert_eq!(loaded.config.grpc.listen.port(), 20);
        assert_eq!(loaded.config.metrics.listen.port(), 300);
        assert_eq!(
            loaded.origins["rpc.listen"],
            Origin::File("/net/node1/quorate.toml".into())
        );
        assert_eq!(
            loaded.origins["grpc.listen"],
            Origin::Environment("QUORATE_GRPC_LISTEN".into())
        );
        assert_eq!(
            loaded.origins["metrics.listen"],
            Origin::Flag("--metrics.listen".into())
        );
        assert_eq!(loaded.origins.get("p2p.listen"), None);
    }

    #[test]
    fn all_faults_are_listed_at_once_with_path_and_origin() {
        let text =
            "[rpc]\nlisten = 8545\nlisten_on = 1\n[raft]\nelection_ticks = 1\n[nonsense]\nx = 1";
        let errors = load(
            text,
            &[("QUORATE_POOL_LIFETIME", "soon")],
            &[flag("state.x", "1")],
        )
        .unwrap_err();
        let text = errors.to_string();
        for expected in [
            "configuration has 6 faults",
            "rpc.listen (file /net/node1/quorate.toml): 8545 is not an address",
            "rpc.listen_on",
            "raft.election_ticks (file /net/node1/quorate.toml): must be more than raft.heartbeat_ticks (1)",
            "nonsense",
            "pool.lifetime (environment QUORATE_POOL_LIFETIME)",
            "state.x (flag --state.x)",
        ] {
            assert!(text.contains(expected), "{expected} is missing in {text}");
        }
    }

    #[test]
    fn relations_between_settings_are_checked() {
        let cases = [
            ("[pool]\nper_sender_max = 100000", "pool.per_sender_max"),
            ("[rpc]\nlisten = \"0.0.0.0:9545\"", "metrics.listen"),
            ("[rpc]\nnamespaces = [\"eth\", \"debug\"]", "rpc.namespaces"),
            (
                "[grpc]\nrequest_bytes_max = \"1KiB\"",
                "grpc.request_bytes_max",
            ),
            ("[rpc]\nbody_bytes_max = 100", "rpc.body_bytes_max"),
            ("[p2p]\naddresses = { 2 = \"nowhere\" }", "p2p.addresses.2"),
            ("[log]\nlevel = \"info,quorate=loud\"", "log.level"),
            ("[log]\nformat = \"xml\"", "log.format"),
            ("[minter]\npipeline_blocks = 0", "minter.pipeline_blocks"),
            ("[raft]\ntick = \"1ms\"", "raft.tick"),
            ("[privacy]\nenclave = \"tcp:1\"", "privacy.enclave"),
            ("[privacy]\nenclave = \"https://e:1\"", "privacy.enclave"),
            ("[privacy]\npublic_form = \"secret\"", "privacy.public_form"),
            (
                "[privacy]\nacknowledge_timeout = \"1h\"",
                "privacy.acknowledge_timeout",
            ),
            (
                "[privacy]\nenclave = \"unix:/e\"\ndefault_key = \"a\"",
                "privacy.default_key",
            ),
            ("[third_party]\nenabled = true", "third_party.enabled"),
            (
                "[third_party]\nbody_bytes_max = \"1KiB\"",
                "third_party.body_bytes_max",
            ),
            (
                "[third_party]\nconnections_max = 0",
                "third_party.connections_max",
            ),
            (
                "[privacy]\nenabled = true\n[third_party]\nenabled = true\nlisten = \"0.0.0.0:9080\"",
                "third_party.listen",
            ),
            (
                "[privacy]\nenabled = true\n[third_party]\nenabled = true\nlisten = \"127.0.0.1:9545\"",
                "third_party.listen",
            ),
            (
                "[privacy]\nenabled = true\n[third_party]\nenabled = true\nrequest_timeout = \"5s\"",
                "third_party.request_timeout",
            ),
        ];
        for (text, path) in cases {
            let errors = load(text, &[], &[]).unwrap_err();
            let paths: Vec<&str> = errors.0.iter().map(|f| f.path.as_str()).collect();
            assert_eq!(paths, [path], "{errors}");
        }
    }

    #[test]
    fn a_third_party_surface_for_other_machines_needs_every_tls_file() {
        let text = |files: &[&str]| {
            let mut text = String::from(
                "[privacy]\nenabled = true\n[third_party]\nenabled = true\nlisten = \"0.0.0.0:9080\"\n",
            );
            for file in files {
                text.push_str(&format!("{file} = \"tls/{file}.pem\"\n"));
            }
            text
        };
        let loaded = load(
            &text(&["tls_certificate", "tls_key", "tls_client_ca"]),
            &[],
            &[],
        );
        let tls = loaded.unwrap().config.third_party_tls().unwrap();
        assert_eq!(
            tls.client_ca,
            PathBuf::from("/net/node1/tls/tls_client_ca.pem")
        );
        let errors = load(&text(&["tls_certificate", "tls_key"]), &[], &[]).unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["third_party.tls_client_ca", "third_party.listen"]);
    }

    #[test]
    fn a_remote_enclave_is_reached_with_the_certificates_that_are_named() {
        let text = "[privacy]\nenclave = \"https://e.example:9101\"\nenclave_tls_certificate = \"c.pem\"\n\
            enclave_tls_key = \"k.pem\"\nenclave_tls_server_ca = \"ca.pem\"\nenclave_tls_server_name = \"other\"";
        let remote = load(text, &[], &[]).unwrap().config.remote_enclave();
        let tls = remote.unwrap().tls.unwrap();
        assert_eq!(tls.key, PathBuf::from("/net/node1/k.pem"));
        assert_eq!(tls.server_name.as_deref(), Some("other"));
        let unix = load("", &[("QUORATE_PRIVACY_ENCLAVE", "unix:/run/e.sock")], &[]).unwrap();
        let endpoint = unix.config.remote_enclave().unwrap().endpoint;
        assert_eq!(endpoint.to_string(), "unix:/run/e.sock");
        let local = load("", &[], &[]).unwrap().config;
        assert_eq!(local.remote_enclave(), None);
        assert_eq!(
            local.enclave_key_dir(),
            PathBuf::from("/net/node1/data/enclave")
        );
    }

    #[test]
    fn two_listeners_may_share_a_port_on_different_addresses() {
        let text = "[rpc]\nlisten = \"127.0.0.1:9000\"\n[grpc]\nlisten = \"127.0.0.2:9000\"";
        assert!(load(text, &[], &[]).is_ok());
    }

    #[test]
    fn paths_begin_at_the_folder_of_the_file() {
        let text = "[node]\ngenesis = \"../genesis.json\"";
        let loaded = load(text, &[("QUORATE_NODE_DATA_DIR", "here")], &[]).unwrap();
        assert_eq!(
            loaded.config.node.genesis,
            Some("/net/node1/../genesis.json".into())
        );
        assert_eq!(
            loaded.config.node.key_file,
            PathBuf::from("/net/node1/node.key")
        );
        assert_eq!(loaded.config.node.data_dir, PathBuf::from("here"));
    }

    #[test]
    fn a_variable_that_names_no_setting_is_a_warning() {
        let loaded = load(
            "",
            &[("QUORATE_RPC_LISTNE", "x"), ("QUORATE_SUPERVISED", "1")],
            &[],
        )
        .unwrap();
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].contains("QUORATE_RPC_LISTNE"));
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line() {
        let errors = load("[rpc]\nlisten = \n", &[], &[]).unwrap_err();
        assert!(errors.to_string().contains("line 2"), "{errors}");
    }
}
