//! The HTTP surface that Tessera's users know: `/send`, `/storeraw`, `/receive`, `/keys` and the like, over this node's
//! [`PrivacyApi`]. Names, fields and statuses are Tessera's; limits, and who may come in, are ours.
//!
//! Whoever reaches this surface can read and erase this member's payloads. So it is served on a loopback address, on a Unix socket
//! that only its owner may open, or over TLS to clients with a certificate; and never to a web page, wherever it comes from.

mod answer;
mod connection;
mod fields;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handlers;
mod media;
mod route;
mod socket;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ConfigError;
use crate::privacy::PrivacyApi;

use connection::Surface;
pub use socket::ThirdPartySocket;
pub use tls::ThirdPartyTls;

/// Limits of the surface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThirdPartyLimits {
    /// Largest request body in bytes, at least 4 KiB. Payloads travel in base64, a third longer than they are.
    pub body_bytes_max: usize,
    /// Open connections, at least 1; more are closed at once.
    pub connections_max: usize,
    /// Requests that are worked on at the same time, at least 1; more are answered with 503. Each may hold
    /// [`body_bytes_max`](Self::body_bytes_max), and the answer to it.
    pub requests_max: usize,
    /// Longest time for a request, from the end of its head to the answer.
    pub request_timeout: Duration,
    /// A connection without a request for so long is closed; a handshake or the head of a request may not take longer.
    pub idle_max: Duration,
    /// When stopping, open requests get so long to finish.
    pub shutdown_grace: Duration,
}

impl Default for ThirdPartyLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 24 << 20,
            connections_max: 256,
            requests_max: 32,
            request_timeout: Duration::from_secs(30),
            idle_max: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl ThirdPartyLimits {
    /// Whether every limit is in its range.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refused = |field, reason: &str| {
            Err(ConfigError {
                field,
                reason: reason.to_owned(),
            })
        };
        if !(4 << 10..=256 << 20).contains(&self.body_bytes_max) {
            return refused("body_bytes_max", "must lie between 4KiB and 256MiB");
        }
        if self.connections_max == 0 {
            return refused("connections_max", "must be at least 1");
        }
        if self.requests_max == 0 {
            return refused("requests_max", "must be at least 1");
        }
        let times = Duration::from_secs(1)..=Duration::from_secs(600);
        if !times.contains(&self.request_timeout) {
            return refused("request_timeout", "must lie between 1s and 10m");
        }
        if self.idle_max.is_zero() {
            return refused("idle_max", "must be more than 0");
        }
        Ok(())
    }
}

/// Why the surface is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThirdPartyError {
    /// A limit is out of its range.
    #[error("third-party surface: {0}")]
    Limits(#[from] ConfigError),
    /// Others than this machine's users could read payloads.
    #[error(
        "third-party surface: {address} is no loopback address, and TLS with certificates of clients is not set"
    )]
    Exposed {
        /// Where it listens.
        address: SocketAddr,
    },
    /// A certificate or key cannot be used.
    #[error("third-party surface: {}: {reason}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("third-party surface: cannot {action} {place}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or address.
        place: String,
        /// What it said.
        reason: String,
    },
}

impl ThirdPartyError {
    fn io(action: &'static str, place: impl ToString, error: &std::io::Error) -> Self {
        Self::Io {
            action,
            place: place.to_string(),
            reason: error.to_string(),
        }
    }
}

/// Serves on a TCP listener until cancelled: over TLS to clients with a certificate if `tls` is given, else in the clear, which is
/// allowed on loopback addresses alone.
///
/// # Errors
/// [`ThirdPartyError`] at once; nothing ends it later but `stop`.
pub async fn serve_third_party(
    api: Arc<dyn PrivacyApi>,
    listener: TcpListener,
    tls: Option<ThirdPartyTls>,
    limits: ThirdPartyLimits,
    stop: CancellationToken,
) -> Result<(), ThirdPartyError> {
    let address = listener.local_addr();
    let address = address.map_err(|e| ThirdPartyError::io("ask for", "the address", &e))?;
    let acceptor = tls.as_ref().map(tls::acceptor).transpose()?;
    if acceptor.is_none() && !address.ip().is_loopback() {
        return Err(ThirdPartyError::Exposed { address });
    }
    let surface = Surface::new(api, limits)?;
    surface
        .run(connection::Listener::Tcp(listener, acceptor), stop)
        .await;
    Ok(())
}

/// Serves on a Unix socket until cancelled, and removes it.
///
/// # Errors
/// [`ThirdPartyError::Limits`] at once.
pub async fn serve_third_party_on_socket(
    api: Arc<dyn PrivacyApi>,
    socket: ThirdPartySocket,
    limits: ThirdPartyLimits,
    stop: CancellationToken,
) -> Result<(), ThirdPartyError> {
    let surface = Surface::new(api, limits)?;
    surface.run(connection::Listener::Unix(socket), stop).await;
    Ok(())
}
