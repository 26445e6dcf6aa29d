//! Settings of private transactions: the forms that they are written in, and what the rooms get made of them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use quorate_enclave::{
    ClientTls, Enclave, Endpoint, KeyFolder, KeyRing, LocalEnclave, Passphrase, RemoteConfig,
    RemoteEnclave,
};
use quorate_rpc::third_party::{ThirdPartyLimits, ThirdPartyTls};
use toml::Value;

use super::NodeConfig;
use super::forms::{Form, Given};

pub use quorate_chain::PublicForm;

/// The variable with the passphrase of locked keys, if no file is named.
pub const PASSPHRASE_VARIABLE: &str = "QUORATE_ENCLAVE_PASSPHRASE";
/// Longer names than those of key files cannot be meant.
const SHOWN_CHARS_MAX: usize = 256;

/// Who keeps the private keys. Written as `local`, `unix:/path/of/socket` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EnclavePlace {
    /// This process.
    #[default]
    Local,
    /// A process of its own.
    Remote(Endpoint),
}

impl Form for EnclavePlace {
    type Value = Self;
    const WHAT: &'static str = "\"local\", \"unix:/path/of/socket\" or \"https://host:port\"";

    fn read(given: Given<'_>) -> Result<Self, String> {
        let text = given.text().map(str::trim);
        match text {
            Some("local") => Ok(Self::Local),
            Some(text) => text
                .parse()
                .map(Self::Remote)
                .map_err(|_| format!("{:?} is not {}", shortened(text), Self::WHAT)),
            None => Err(format!("must be {}", Self::WHAT)),
        }
    }

    fn show(value: &Self) -> Option<Value> {
        Some(match value {
            Self::Local => "local".into(),
            Self::Remote(endpoint) => endpoint.to_string().into(),
        })
    }
}

/// How private transactions look to everyone. Written as `marker` or `quorum`.
#[derive(Debug)]
pub struct PrivateForm;

impl Form for PrivateForm {
    type Value = PublicForm;
    const WHAT: &'static str = "\"marker\" or \"quorum\"";

    fn read(given: Given<'_>) -> Result<PublicForm, String> {
        match given.text().map(str::trim) {
            Some("marker") => Ok(PublicForm::Marker),
            Some("quorum") => Ok(PublicForm::Quorum),
            Some(text) => Err(format!("{:?} is not {}", shortened(text), Self::WHAT)),
            None => Err(format!("must be {}", Self::WHAT)),
        }
    }

    fn show(value: &PublicForm) -> Option<Value> {
        Some(match value {
            PublicForm::Marker => "marker".into(),
            PublicForm::Quorum => "quorum".into(),
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

impl NodeConfig {
    /// The folder with the keys of a local enclave.
    pub fn enclave_key_dir(&self) -> PathBuf {
        let named = self.privacy.key_dir.clone();
        named.unwrap_or_else(|| self.node.data_dir.join("enclave"))
    }

    /// How a remote enclave is reached; `None` if the enclave is local.
    pub fn remote_enclave(&self) -> Option<RemoteConfig> {
        let EnclavePlace::Remote(endpoint) = &self.privacy.enclave else {
            return None;
        };
        let mut remote = RemoteConfig::new(endpoint.clone());
        let privacy = &self.privacy;
        let files = (
            &privacy.enclave_tls_certificate,
            &privacy.enclave_tls_key,
            &privacy.enclave_tls_server_ca,
        );
        if let (Some(certificate), Some(key), Some(server_ca)) = files {
            remote.tls = Some(ClientTls {
                certificate: certificate.clone(),
                key: key.clone(),
                server_ca: server_ca.clone(),
                server_name: privacy.enclave_tls_server_name.clone(),
            });
        }
        Some(remote)
    }

    /// The passphrase of locked keys: from the file, else from the environment; `None` if neither is there.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn enclave_passphrase(&self) -> anyhow::Result<Option<Passphrase>> {
        if let Some(file) = &self.privacy.passphrase_file {
            let read = Passphrase::read(file);
            return Ok(Some(read.with_context(|| {
                format!("privacy.passphrase_file {}", file.display())
            })?));
        }
        let given = std::env::var(PASSPHRASE_VARIABLE).ok();
        Ok(given.filter(|text| !text.is_empty()).map(Passphrase::new))
    }

    /// Unlocks the keys of a local enclave. Takes about a second for every locked key.
    ///
    /// # Errors
    /// If there are none, or one cannot be read or unlocked.
    pub fn enclave_keys(&self) -> anyhow::Result<KeyRing> {
        let dir = self.enclave_key_dir();
        let context = || format!("enclave keys in {}", dir.display());
        let folder = KeyFolder::open(&dir).with_context(context)?;
        let passphrase = self.enclave_passphrase()?;
        let mut ring = folder.load(passphrase.as_ref()).with_context(context)?;
        if ring.is_empty() {
            bail!(
                "there are no enclave keys in {}: make one with quorate enclave keygen",
                dir.display()
            );
        }
        if let Some(name) = &self.privacy.default_key {
            let listings = folder.list().with_context(context)?;
            let named = listings.iter().find(|l| l.active && l.name == *name);
            let named = named.with_context(|| {
                format!(
                    "privacy.default_key: there is no key named {name} in {}",
                    dir.display()
                )
            })?;
            if !ring.set_default(&named.announcement.key) {
                bail!("enclave key {name} was replaced while it was loaded");
            }
        }
        Ok(ring)
    }

    /// The enclave: its keys unlocked if it is local, else a client that connects with the first call. Call it inside of a
    /// runtime, on a thread that may be blocked for seconds.
    ///
    /// # Errors
    /// If keys or certificates cannot be used.
    pub fn enclave(&self) -> anyhow::Result<Arc<dyn Enclave>> {
        match self.remote_enclave() {
            Some(remote) => {
                let client = RemoteEnclave::new(&remote).context("privacy.enclave")?;
                Ok(Arc::new(client))
            }
            None => Ok(Arc::new(LocalEnclave::new(self.enclave_keys()?))),
        }
    }

    /// Certificates of the third-party surface, if it is served over TLS.
    pub fn third_party_tls(&self) -> Option<ThirdPartyTls> {
        let settings = &self.third_party;
        match (
            &settings.tls_certificate,
            &settings.tls_key,
            &settings.tls_client_ca,
        ) {
            (Some(certificate), Some(key), Some(client_ca)) => Some(ThirdPartyTls {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.clone(),
            }),
            _ => None,
        }
    }

    /// Limits of the third-party surface.
    pub fn third_party_limits(&self) -> ThirdPartyLimits {
        let settings = &self.third_party;
        ThirdPartyLimits {
            body_bytes_max: settings.body_bytes_max,
            connections_max: settings.connections_max,
            requests_max: settings.requests_max,
            request_timeout: settings.request_timeout,
            ..ThirdPartyLimits::default()
        }
    }
}
