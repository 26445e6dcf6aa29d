//! Serves an enclave to a node in another process, over a Unix socket that only the owner may open, or over TLS with certificates
//! on both sides.

mod incoming;

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::wire::{self, MESSAGE_BYTES_MAX, proto};
use crate::{Enclave, EnclaveError, RandomFailed, Refusal};
use incoming::{admitted_tcp, admitted_unix};
use proto::enclave_server::EnclaveServer as GrpcServer;

/// Most connections at once: one node keeps one. The next one waits until another closes.
const CONNECTIONS_MAX: usize = 64;

/// Files of the server's side of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The server's certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of nodes. Whoever shows none of these is turned away in the handshake.
    pub client_ca: PathBuf,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket, which is made with mode 0600.
    Unix(PathBuf),
    /// TLS on both sides.
    Tls {
        /// Address; port 0 lets the system choose.
        address: SocketAddr,
        /// Certificates.
        tls: ServerTls,
    },
}

/// Settings of an [`EnclaveServer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Most calls at once, over all connections, 1 or more; further ones are refused as busy. Each may hold a message of up to 18 MiB.
    pub in_flight_max: usize,
    /// Longest time for a call, and for the handshake before it.
    pub call_timeout: Duration,
}

impl ServerConfig {
    /// The usual settings for a place to listen.
    pub fn new(listen: Listen) -> Self {
        Self {
            listen,
            in_flight_max: 64,
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a server does not start, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// The operating system refused.
    #[error("cannot {action} {place}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or address.
        place: String,
        /// What it said.
        reason: String,
    },
    /// Another process serves there.
    #[error("another process listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("{} is there and is no socket", path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The certificates cannot be used, or serving failed.
    #[error("{reason}")]
    Transport {
        /// What is wrong.
        reason: String,
    },
    /// A setting is out of its range.
    #[error("{field} must be {allowed}")]
    Config {
        /// Which.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] RandomFailed),
}

/// An enclave that listens and is not served yet.
#[derive(Debug)]
pub struct EnclaveServer {
    enclave: Arc<dyn Enclave>,
    config: ServerConfig,
    bound: Bound,
}

#[derive(Debug)]
enum Bound {
    Unix {
        listener: UnixListener,
        path: PathBuf,
    },
    Tls {
        listener: TcpListener,
        tls: ServerTlsConfig,
    },
}

impl EnclaveServer {
    /// Listens. Connections wait until [`run`](Self::run) is called.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(
        enclave: Arc<dyn Enclave>,
        config: ServerConfig,
    ) -> Result<Self, ServerError> {
        if config.in_flight_max == 0 {
            return Err(ServerError::Config {
                field: "in_flight_max",
                allowed: "1 or more",
            });
        }
        let bound = match &config.listen {
            Listen::Unix(path) => Bound::Unix {
                listener: bind_unix(path).await?,
                path: path.clone(),
            },
            Listen::Tls { address, tls } => {
                let tls = load_tls(tls)?.timeout(config.call_timeout);
                let listener = TcpListener::bind(address).await;
                let listener = listener.map_err(|e| io("listen on", address, &e))?;
                Bound::Tls { listener, tls }
            }
        };
        Ok(Self {
            enclave,
            config,
            bound,
        })
    }

    /// The address that was bound; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.bound {
            Bound::Unix { .. } => None,
            Bound::Tls { listener, .. } => listener.local_addr().ok(),
        }
    }

    /// Serves until it is cancelled, and calls under way have ended.
    ///
    /// # Errors
    /// [`ServerError::Transport`], [`ServerError::Io`] if the socket cannot be removed.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ServerError> {
        let service = GrpcServer::new(Service {
            enclave: self.enclave,
            permits: Arc::new(Semaphore::new(self.config.in_flight_max)),
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let server = Server::builder()
            .timeout(self.config.call_timeout)
            // A few more than calls, so that what is too much is told so, and health is answered.
            .max_concurrent_streams(u32::try_from(self.config.in_flight_max + 8).ok())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .http2_keepalive_interval(Some(Duration::from_secs(30)));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let stop = cancel.cancelled_owned();
        match self.bound {
            Bound::Unix { listener, path } => {
                let mut server = server;
                let served = server
                    .add_service(service)
                    .serve_with_incoming_shutdown(admitted_unix(listener, connections), stop)
                    .await;
                let removed = std::fs::remove_file(&path);
                served.map_err(|e| transport(&e))?;
                removed.map_err(|e| io("remove", path.display(), &e))
            }
            Bound::Tls { listener, tls } => {
                let mut server = server.tls_config(tls).map_err(|e| transport(&e))?;
                let served = server
                    .add_service(service)
                    .serve_with_incoming_shutdown(admitted_tcp(listener, connections), stop)
                    .await;
                served.map_err(|e| transport(&e))
            }
        }
    }
}

/// Makes a socket that at no moment anyone else may open: in a folder of our own first, then moved to its place.
async fn bind_unix(path: &Path) -> Result<UnixListener, ServerError> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(io("inspect", shown, &e)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NoSocket {
                path: path.to_owned(),
            });
        }
        // Left behind by a process that was killed, unless someone answers.
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(ServerError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(io("inspect", shown, &e)),
        },
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Short: the path of a socket has at most 107 bytes.
    let name = hex::encode(crate::random::random::<3>()?);
    let private = folder.join(format!(".{name}"));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .map_err(|e| io("create", private.display(), &e))?;
    let staged = private.join("s");
    let bound = (|| {
        let listener = UnixListener::bind(&staged)?;
        std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&staged, path)?;
        Ok(listener)
    })();
    if bound.is_err() && staged.exists() {
        std::fs::remove_file(&staged).map_err(|e| io("remove", staged.display(), &e))?;
    }
    std::fs::remove_dir(&private).map_err(|e| io("remove", private.display(), &e))?;
    bound.map_err(|e| io("listen on", shown, &e))
}

fn load_tls(tls: &ServerTls) -> Result<ServerTlsConfig, ServerError> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| io("read", path.display(), &e));
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    Ok(ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(read(&tls.client_ca)?)))
}

fn io(action: &'static str, place: impl ToString, e: &std::io::Error) -> ServerError {
    ServerError::Io {
        action,
        place: place.to_string(),
        reason: e.to_string(),
    }
}

fn transport(e: &tonic::transport::Error) -> ServerError {
    let mut reason = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        reason = format!("{reason}: {inner}");
        source = inner.source();
    }
    ServerError::Transport { reason }
}

#[derive(Debug)]
struct Service {
    enclave: Arc<dyn Enclave>,
    permits: Arc<Semaphore>,
}

impl Service {
    fn permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| Status::resource_exhausted("too many calls are under way"))
    }
}

/// A refusal is an answer; everything else becomes a status.
fn refusal_or_status(error: EnclaveError) -> Result<Refusal, Status> {
    match error {
        EnclaveError::Refused(refusal) => Ok(refusal),
        e @ EnclaveError::Busy { .. } => Err(Status::resource_exhausted(e.to_string())),
        e @ (EnclaveError::Unreachable { .. } | EnclaveError::NotAdmitted { .. }) => {
            Err(Status::unavailable(e.to_string()))
        }
        e @ EnclaveError::TimedOut { .. } => Err(Status::deadline_exceeded(e.to_string())),
        e @ (EnclaveError::Protocol { .. } | EnclaveError::Failed { .. }) => {
            Err(Status::internal(e.to_string()))
        }
    }
}

#[tonic::async_trait]
impl proto::enclave_server::Enclave for Service {
    async fn public_keys(
        &self,
        _: Request<proto::PublicKeysRequest>,
    ) -> Result<Response<proto::PublicKeysResponse>, Status> {
        let _permit = self.permit()?;
        match self.enclave.public_keys().await {
            Ok(keys) => Ok(Response::new(proto::PublicKeysResponse {
                keys: wire::to_announcements(&keys),
            })),
            Err(e) => Err(match refusal_or_status(e) {
                Ok(refusal) => Status::internal(refusal.to_string()),
                Err(status) => status,
            }),
        }
    }

    async fn seal(
        &self,
        request: Request<proto::SealRequest>,
    ) -> Result<Response<proto::SealResponse>, Status> {
        use proto::seal_response::Outcome;
        let _permit = self.permit()?;
        let result = match wire::from_seal_request(request.into_inner()) {
            Ok(request) => self.enclave.seal(request).await,
            Err(refusal) => Err(refusal.into()),
        };
        let outcome = match result {
            Ok(sealed) => Outcome::Envelope(sealed.envelope.encode().into()),
            Err(e) => Outcome::Refusal(wire::to_refusal(refusal_or_status(e)?)),
        };
        Ok(Response::new(proto::SealResponse {
            outcome: Some(outcome),
        }))
    }

    async fn open(
        &self,
        request: Request<proto::OpenRequest>,
    ) -> Result<Response<proto::OpenResponse>, Status> {
        use proto::open_response::Outcome;
        let _permit = self.permit()?;
        let message = request.into_inner();
        let read = wire::from_envelope(&message.envelope)
            .and_then(|envelope| Ok((envelope, wire::from_context(message.context)?)));
        let result = match read {
            Ok((envelope, context)) => self.enclave.open(envelope, context).await,
            Err(refusal) => Err(refusal.into()),
        };
        let outcome = match result {
            Ok(opening) => wire::to_opening(opening),
            Err(e) => Outcome::Refusal(wire::to_refusal(refusal_or_status(e)?)),
        };
        Ok(Response::new(proto::OpenResponse {
            outcome: Some(outcome),
        }))
    }

    async fn reseal(
        &self,
        request: Request<proto::ResealRequest>,
    ) -> Result<Response<proto::ResealResponse>, Status> {
        use proto::reseal_response::Outcome;
        let _permit = self.permit()?;
        let message = request.into_inner();
        let read = wire::from_envelope(&message.envelope).and_then(|envelope| {
            let recipients = wire::from_announcements(&message.recipients)?;
            Ok((envelope, wire::from_context(message.context)?, recipients))
        });
        let result = match read {
            Ok((envelope, context, recipients)) => {
                self.enclave.reseal(envelope, context, recipients).await
            }
            Err(refusal) => Err(refusal.into()),
        };
        let outcome = match result {
            Ok(envelope) => Outcome::Envelope(envelope.encode().into()),
            Err(e) => Outcome::Refusal(wire::to_refusal(refusal_or_status(e)?)),
        };
        Ok(Response::new(proto::ResealResponse {
            outcome: Some(outcome),
        }))
    }

    async fn tags(
        &self,
        request: Request<proto::TagsRequest>,
    ) -> Result<Response<proto::TagsResponse>, Status> {
        use proto::tags_response::Outcome;
        let _permit = self.permit()?;
        let result = match wire::from_tag_request(&request.into_inner()) {
            Ok(request) => self.enclave.tags(request).await,
            Err(refusal) => Err(refusal.into()),
        };
        let outcome = match result {
            Ok(tags) => Outcome::Tags(proto::Tags {
                tags: tags.concat().into(),
            }),
            Err(e) => Outcome::Refusal(wire::to_refusal(refusal_or_status(e)?)),
        };
        Ok(Response::new(proto::TagsResponse {
            outcome: Some(outcome),
        }))
    }

    async fn recognise(
        &self,
        request: Request<proto::RecogniseRequest>,
    ) -> Result<Response<proto::RecogniseResponse>, Status> {
        use proto::recognise_response::Outcome;
        let _permit = self.permit()?;
        let result = match wire::from_recognise_request(&request.into_inner()) {
            Ok(request) => self.enclave.recognise(request).await,
            Err(refusal) => Err(refusal.into()),
        };
        let outcome = match result {
            Ok(Some(found)) => Outcome::Recognised(proto::Recognised {
                party: found.party.as_bytes().to_vec().into(),
                sender: found.sender.as_bytes().to_vec().into(),
            }),
            Ok(None) => Outcome::NotForUs(proto::NotForUs {}),
            Err(e) => Outcome::Refusal(wire::to_refusal(refusal_or_status(e)?)),
        };
        Ok(Response::new(proto::RecogniseResponse {
            outcome: Some(outcome),
        }))
    }

    async fn health(
        &self,
        _: Request<proto::HealthRequest>,
    ) -> Result<Response<proto::HealthResponse>, Status> {
        // Without a permit: a busy enclave is alive.
        match self.enclave.health().await {
            Ok(health) => Ok(Response::new(wire::to_health(health))),
            Err(e) => Err(match refusal_or_status(e) {
                Ok(refusal) => Status::internal(refusal.to_string()),
                Err(status) => status,
            }),
        }
    }
}
