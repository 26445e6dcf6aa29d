//! The node's side of an enclave in another process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Response, Status};

use crate::interface::{Context, Enclave, Health, Opening, SealRequest, Sealed};
use crate::tag::{RecogniseRequest, Recognised, TAG_BYTES, TagRequest};
use crate::wire::{self, MESSAGE_BYTES_MAX, proto};
use crate::{EnclaveError, Envelope, KeyAnnouncement, Refusal};
use proto::enclave_client::EnclaveClient;

/// Files of the node's side of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// The node's certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the enclave's certificate.
    pub server_ca: PathBuf,
    /// The name in the enclave's certificate, if it is not the host of the address.
    pub server_name: Option<String>,
}

/// Where an enclave is. As text: `unix:/path/of/socket` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TLS address.
    Tls(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(url) => f.write_str(url),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let refused = |reason| EndpointError::Malformed {
            text: text.chars().take(256).collect(),
            reason,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(refused("the path is empty"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if !text.starts_with("https://") {
            return Err(refused("allowed are unix:/path and https://host:port"));
        }
        match text.parse::<tonic::transport::Uri>() {
            Ok(uri) if uri.port().is_some() => Ok(Self::Tls(text.to_owned())),
            Ok(_) | Err(_) => Err(refused("host and port are needed")),
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text names no place.
    #[error("enclave address {text:?}: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// Why.
        reason: &'static str,
    },
    /// A certificate or key cannot be read.
    #[error("cannot read {}: {reason}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A TLS address needs certificates.
    #[error("enclave address {endpoint} needs certificates for both sides")]
    NoTls {
        /// The address.
        endpoint: String,
    },
    /// The certificates cannot be used.
    #[error("enclave address {endpoint}: {reason}")]
    Transport {
        /// The address.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
}

/// Settings of a [`RemoteEnclave`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Certificates; for a TLS address, and only then.
    pub tls: Option<ClientTls>,
    /// Longest time for a call, connecting included.
    pub call_timeout: Duration,
    /// Most calls at once; further ones fail as [`EnclaveError::Busy`].
    pub in_flight_max: usize,
}

impl RemoteConfig {
    /// The usual settings for an address.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            tls: None,
            call_timeout: Duration::from_secs(10),
            in_flight_max: 64,
        }
    }
}

/// An enclave in another process. It connects with the first call, and again with the next one after the connection broke. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct RemoteEnclave {
    client: EnclaveClient<Channel>,
    endpoint: String,
    call_timeout: Duration,
    in_flight_max: usize,
    permits: Arc<Semaphore>,
}

impl RemoteEnclave {
    /// A client; nothing is connected yet. Call it inside of a tokio runtime.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(config: &RemoteConfig) -> Result<Self, EndpointError> {
        let endpoint = config.endpoint.to_string();
        let channel = match &config.endpoint {
            Endpoint::Unix(path) => {
                // The address of a Unix socket is the connector's business; HTTP wants one all the same.
                let path = path.clone();
                let connector = tower::service_fn(move |_: tonic::transport::Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                windowed(tonic::transport::Endpoint::from_static("http://enclave"))
                    .connect_with_connector_lazy(connector)
            }
            Endpoint::Tls(url) => {
                let tls = config.tls.as_ref().ok_or_else(|| EndpointError::NoTls {
                    endpoint: endpoint.clone(),
                })?;
                let failed = |e: tonic::transport::Error| EndpointError::Transport {
                    endpoint: endpoint.clone(),
                    reason: chain(&e),
                };
                let target = tonic::transport::Endpoint::from_shared(url.clone());
                let target = windowed(target.map_err(failed)?)
                    .connect_timeout(config.call_timeout)
                    .tls_config(load_tls(tls)?)
                    .map_err(failed)?;
                target.connect_lazy()
            }
        };
        Ok(Self {
            client: EnclaveClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            endpoint,
            call_timeout: config.call_timeout,
            in_flight_max: config.in_flight_max,
            permits: Arc::new(Semaphore::new(config.in_flight_max)),
        })
    }

    /// Makes one call within its limits.
    async fn call<T, F>(
        &self,
        call: impl FnOnce(EnclaveClient<Channel>) -> F,
    ) -> Result<T, EnclaveError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let _permit = self.permits.try_acquire().map_err(|_| EnclaveError::Busy {
            in_flight_max: self.in_flight_max,
        })?;
        let call = call(self.client.clone());
        match tokio::time::timeout(self.call_timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error_of(&status)),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> EnclaveError {
        EnclaveError::TimedOut {
            endpoint: self.endpoint.clone(),
            after_ms: u64::try_from(self.call_timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// A status is never the enclave's opinion of a payload.
    fn error_of(&self, status: &Status) -> EnclaveError {
        let endpoint = self.endpoint.clone();
        let reason = chain(status);
        match status.code() {
            Code::DeadlineExceeded => self.timed_out(),
            Code::ResourceExhausted => EnclaveError::Busy {
                in_flight_max: self.in_flight_max,
            },
            Code::PermissionDenied | Code::Unauthenticated => {
                EnclaveError::NotAdmitted { endpoint, reason }
            }
            Code::Unavailable | Code::Unknown | Code::Cancelled => {
                if is_denied(status) {
                    EnclaveError::NotAdmitted { endpoint, reason }
                } else {
                    EnclaveError::Unreachable { endpoint, reason }
                }
            }
            Code::Internal | Code::Aborted | Code::DataLoss => EnclaveError::Failed { reason },
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => EnclaveError::Protocol { endpoint, reason },
        }
    }

    fn protocol(&self, reason: impl Into<String>) -> EnclaveError {
        EnclaveError::Protocol {
            endpoint: self.endpoint.clone(),
            reason: reason.into(),
        }
    }

    fn refused(&self, message: proto::Refusal) -> EnclaveError {
        match wire::from_refusal(message) {
            Ok(refusal) => EnclaveError::Refused(refusal),
            Err(code) => self.protocol(format!("refusal with code {code}")),
        }
    }

    /// An answer that its own fields contradict.
    fn bad_answer(&self, refusal: &Refusal) -> EnclaveError {
        self.protocol(refusal.to_string())
    }
}

impl Enclave for RemoteEnclave {
    fn public_keys(&self) -> BoxFuture<'_, Result<Vec<KeyAnnouncement>, EnclaveError>> {
        Box::pin(async {
            let request = proto::PublicKeysRequest {};
            let answer = self
                .call(async |mut client| client.public_keys(request).await)
                .await?;
            wire::from_announcements(&answer.keys).map_err(|e| self.bad_answer(&e))
        })
    }

    fn seal(&self, request: SealRequest) -> BoxFuture<'_, Result<Sealed, EnclaveError>> {
        Box::pin(async move {
            use proto::seal_response::Outcome;
            let message = wire::to_seal_request(&request);
            let answer = self
                .call(async |mut client| client.seal(message).await)
                .await?;
            let bytes = match answer.outcome {
                Some(Outcome::Envelope(bytes)) => bytes,
                Some(Outcome::Refusal(refusal)) => return Err(self.refused(refusal)),
                None => return Err(self.protocol("an empty answer")),
            };
            let envelope = wire::from_envelope(&bytes).map_err(|e| self.bad_answer(&e))?;
            let asked = |key| envelope.box_of(&key).is_some();
            let fits = *envelope.context() == request.context
                && envelope.suite() == request.suite
                && request.sender.is_none_or(|key| key == envelope.sender())
                && request.recipients.iter().all(|r| asked(r.key));
            if !fits {
                return Err(self.protocol("an envelope that was not asked for"));
            }
            Ok(Sealed::new(envelope))
        })
    }

    fn open(
        &self,
        envelope: Envelope,
        context: Context,
    ) -> BoxFuture<'_, Result<Opening, EnclaveError>> {
        Box::pin(async move {
            use proto::open_response::Outcome;
            let message = proto::OpenRequest {
                envelope: envelope.encode().into(),
                context: Some(wire::to_context(&context)),
            };
            let answer = self
                .call(async |mut client| client.open(message).await)
                .await?;
            match answer.outcome {
                Some(Outcome::NotForUs(proto::NotForUs {})) => Ok(Opening::NotForUs),
                Some(Outcome::Refusal(refusal)) => Err(self.refused(refusal)),
                Some(Outcome::Opened(opened)) => {
                    let opened = wire::from_opened(opened).map_err(|e| self.bad_answer(&e))?;
                    if envelope.box_of(&opened.as_recipient).is_none() {
                        return Err(self.protocol("opened as someone who is no recipient"));
                    }
                    Ok(Opening::Opened(opened))
                }
                None => Err(self.protocol("an empty answer")),
            }
        })
    }

    fn reseal(
        &self,
        envelope: Envelope,
        context: Context,
        recipients: Vec<KeyAnnouncement>,
    ) -> BoxFuture<'_, Result<Envelope, EnclaveError>> {
        Box::pin(async move {
            use proto::reseal_response::Outcome;
            let message = proto::ResealRequest {
                envelope: envelope.encode().into(),
                recipients: wire::to_announcements(&recipients),
                context: Some(wire::to_context(&context)),
            };
            let answer = self
                .call(async |mut client| client.reseal(message).await)
                .await?;
            let bytes = match answer.outcome {
                Some(Outcome::Envelope(bytes)) => bytes,
                Some(Outcome::Refusal(refusal)) => return Err(self.refused(refusal)),
                None => return Err(self.protocol("an empty answer")),
            };
            let resealed = wire::from_envelope(&bytes).map_err(|e| self.bad_answer(&e))?;
            if !resealed.is_same_payload(&envelope)
                || recipients.iter().any(|r| resealed.box_of(&r.key).is_none())
            {
                return Err(self.protocol("an envelope that was not asked for"));
            }
            Ok(resealed)
        })
    }

    fn tags(
        &self,
        request: TagRequest,
    ) -> BoxFuture<'_, Result<Vec<[u8; TAG_BYTES]>, EnclaveError>> {
        Box::pin(async move {
            use proto::tags_response::Outcome;
            let message = wire::to_tag_request(&request);
            let answer = self
                .call(async |mut client| client.tags(message).await)
                .await?;
            let tags = match answer.outcome {
                Some(Outcome::Tags(tags)) => tags.tags,
                Some(Outcome::Refusal(refusal)) => return Err(self.refused(refusal)),
                None => return Err(self.protocol("an empty answer")),
            };
            let (tags, rest) = tags.as_chunks::<TAG_BYTES>();
            if tags.len() != request.parties.len() || !rest.is_empty() {
                return Err(self.protocol("tags that were not asked for"));
            }
            Ok(tags.to_vec())
        })
    }

    fn recognise(
        &self,
        request: RecogniseRequest,
    ) -> BoxFuture<'_, Result<Option<Recognised>, EnclaveError>> {
        Box::pin(async move {
            use proto::recognise_response::Outcome;
            let message = wire::to_recognise_request(&request);
            let answer = self
                .call(async |mut client| client.recognise(message).await)
                .await?;
            let found = match answer.outcome {
                Some(Outcome::NotForUs(proto::NotForUs {})) => return Ok(None),
                Some(Outcome::Recognised(found)) => found,
                Some(Outcome::Refusal(refusal)) => return Err(self.refused(refusal)),
                None => return Err(self.protocol("an empty answer")),
            };
            let found = wire::from_recognised(&found).map_err(|e| self.bad_answer(&e))?;
            if !request.senders.contains(&found.sender) {
                return Err(self.protocol("a sender that was not asked for"));
            }
            Ok(Some(found))
        })
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, EnclaveError>> {
        Box::pin(async {
            let request = proto::HealthRequest {};
            let answer = self
                .call(async |mut client| client.health(request).await)
                .await?;
            Ok(wire::from_health(answer))
        })
    }
}

fn windowed(endpoint: tonic::transport::Endpoint) -> tonic::transport::Endpoint {
    endpoint
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .http2_keep_alive_interval(Duration::from_secs(30))
}

fn load_tls(tls: &ClientTls) -> Result<ClientTlsConfig, EndpointError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| EndpointError::File {
            file: path.to_owned(),
            reason: e.to_string(),
        })
    };
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    let config = ClientTlsConfig::new()
        .identity(identity)
        .ca_certificate(Certificate::from_pem(read(&tls.server_ca)?));
    Ok(match &tls.server_name {
        Some(name) => config.domain_name(name),
        None => config,
    })
}

/// An error with what lies beneath it, at most a few hundred characters.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source
        && text.len() < 512
    {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text.chars().take(512).collect()
}

/// True if the operating system said that this process may not open the socket.
fn is_denied(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        let io = inner.downcast_ref::<std::io::Error>();
        if io.is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied) {
            return true;
        }
        source = inner.source();
    }
    false
}
