//! Enclaves, and requests to them.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_enclave::{
    Context, Enclave, EnclaveServer, Endpoint, Envelope, KeyAnnouncement, KeyRing, Listen,
    LocalEnclave, NodeKey, Opened, Opening, PrivacyFlag, RemoteConfig, RemoteEnclave, SealRequest,
    ServerConfig, Suite,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub fn local() -> LocalEnclave {
    LocalEnclave::new(KeyRing::generate(1).unwrap())
}

pub async fn announcement(enclave: &dyn Enclave) -> KeyAnnouncement {
    enclave.public_keys().await.unwrap().remove(0)
}

pub fn context() -> Context {
    Context {
        chain_id: 10,
        sender_node: NodeKey::from([2; 33]),
        privacy_group: None,
        flag: PrivacyFlag::Standard,
    }
}

pub fn request(suite: Suite, recipients: &[KeyAnnouncement], payload: &[u8]) -> SealRequest {
    SealRequest {
        payload: payload.to_vec().into(),
        sender: None,
        recipients: recipients.to_vec(),
        mandatory: Vec::new(),
        context: context(),
        suite,
    }
}

pub async fn open(enclave: &dyn Enclave, envelope: &Envelope) -> Opened {
    match enclave.open(envelope.clone(), context()).await.unwrap() {
        Opening::Opened(opened) => opened,
        Opening::NotForUs => panic!("not for us"),
    }
}

/// An enclave behind a Unix socket, in this process.
pub struct Served {
    pub folder: TempDir,
    pub enclave: LocalEnclave,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Served {
    pub async fn start() -> Self {
        let mut served = Self {
            folder: TempDir::new().unwrap(),
            enclave: local(),
            running: None,
        };
        served.serve().await;
        served
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("enclave.sock")
    }

    pub async fn serve(&mut self) {
        let mut config = ServerConfig::new(Listen::Unix(self.socket()));
        config.call_timeout = std::time::Duration::from_secs(60);
        let enclave = Arc::new(self.enclave.clone());
        let server = EnclaveServer::bind(enclave, config).await.unwrap();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move { server.run(stop).await.unwrap() });
        self.running = Some((cancel, task));
    }

    pub async fn stop(&mut self) {
        if let Some((cancel, task)) = self.running.take() {
            cancel.cancel();
            task.await.unwrap();
        }
    }

    pub fn client(&self) -> RemoteEnclave {
        let mut config = RemoteConfig::new(Endpoint::Unix(self.socket()));
        // Ciphers of a build without optimisation take their time, the more so beside other tests.
        config.call_timeout = std::time::Duration::from_secs(60);
        RemoteEnclave::new(&config).unwrap()
    }
}
