//! Connections and requests: how many, how large, how long, and from whom.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, ORIGIN};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Refusal};
use super::handlers::{self, Ask};
use super::route::{Found, Route};
use super::{ThirdPartyError, ThirdPartyLimits, ThirdPartySocket};
use crate::privacy::PrivacyApi;

/// Accepting fails when the process has no file descriptors left; trying again at once would only use up a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes for the head of a request, which may carry the keys of 256 recipients in one header.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Where connections come from.
pub(super) enum Listener {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix(ThirdPartySocket),
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Socket> {
        match self {
            Self::Tcp(listener, _) => Ok(Socket::Tcp(listener.accept().await?.0)),
            Self::Unix(socket) => Ok(Socket::Unix(socket.listener.accept().await?.0)),
        }
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        match self {
            Self::Tcp(_, acceptor) => acceptor.clone(),
            Self::Unix(_) => None,
        }
    }

    /// In the clear over TCP, a page in a browser may have been led here by a changed DNS answer.
    fn is_open_to_browsers(&self) -> bool {
        matches!(self, Self::Tcp(_, None))
    }
}

/// The surface with its limits, without a listener. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Surface {
    api: Arc<dyn PrivacyApi>,
    limits: Arc<ThirdPartyLimits>,
    /// Room for requests that are worked on. Policy when there is none: refuse.
    requests: Arc<Semaphore>,
    /// Requests under way: they go on when their client hangs up.
    tasks: TaskTracker,
    /// Refuse requests that name this node by a host name other than localhost.
    check_host: bool,
}

impl Surface {
    /// A surface over `api`.
    ///
    /// # Errors
    /// [`ThirdPartyError::Limits`].
    pub fn new(
        api: Arc<dyn PrivacyApi>,
        limits: ThirdPartyLimits,
    ) -> Result<Self, ThirdPartyError> {
        limits.check()?;
        Ok(Self {
            api,
            requests: Arc::new(Semaphore::new(limits.requests_max)),
            limits: Arc::new(limits),
            tasks: TaskTracker::new(),
            check_host: false,
        })
    }

    /// Accepts connections until cancelled, then waits for what is under way.
    pub(super) async fn run(mut self, listener: Listener, stop: CancellationToken) {
        self.check_host = listener.is_open_to_browsers();
        let acceptor = listener.acceptor();
        let places = Arc::new(Semaphore::new(self.limits.connections_max));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::warn!(%error, "third party: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                metrics::counter!("quorate_rpc_refused_total", "limit" => "third_party_connections_max").increment(1);
                continue;
            };
            let served = self
                .clone()
                .serve_socket(socket, acceptor.clone(), stop.clone());
            self.tasks.spawn(async move {
                metrics::gauge!("quorate_rpc_connections", "api" => "third_party").increment(1.0);
                served.await;
                metrics::gauge!("quorate_rpc_connections", "api" => "third_party").decrement(1.0);
                drop(place);
            });
        }
        drop(listener);
        self.tasks.close();
        let waited = timeout(self.limits.shutdown_grace, self.tasks.wait()).await;
        if waited.is_err() {
            tracing::info!(
                under_way = self.tasks.len(),
                "third party: connections were cut off at shutdown"
            );
        }
    }

    async fn serve_socket(
        self,
        socket: Socket,
        acceptor: Option<TlsAcceptor>,
        stop: CancellationToken,
    ) {
        match (socket, acceptor) {
            (Socket::Unix(stream), _) => self.serve_stream(stream, stop).await,
            (Socket::Tcp(stream), acceptor) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "third party: connection lost at once");
                    return;
                }
                let Some(acceptor) = acceptor else {
                    return self.serve_stream(stream, stop).await;
                };
                match timeout(self.limits.idle_max, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => self.serve_stream(stream, stop).await,
                    Ok(Err(error)) => {
                        metrics::counter!("quorate_rpc_refused_total", "limit" => "third_party_handshake").increment(1);
                        tracing::debug!(%error, "third party: handshake failed");
                    }
                    Err(_) => tracing::debug!("third party: handshake took too long"),
                }
            }
        }
    }

    async fn serve_stream(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        stop: CancellationToken,
    ) {
        let idle_max = self.limits.idle_max;
        let service = service_fn(move |request| {
            let surface = self.clone();
            async move { Ok::<_, Infallible>(surface.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_max)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "third party: connection ended early");
        }
    }

    async fn respond(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let found = Route::find(request.method(), request.uri());
        let name = match &found {
            Ok(found) => found.route.name(),
            Err(_) => "none",
        };
        let answer = match self.admit(request.headers()).and(found) {
            Ok(found) => self.answer(found, request).await,
            Err(refusal) => Err(refusal),
        };
        let answer = answer.unwrap_or_else(|refusal| refusal.into_answer());
        metrics::counter!(
            "quorate_third_party_requests_total",
            "route" => name,
            "status" => answer.status().as_str().to_owned()
        )
        .increment(1);
        answer.into_response()
    }

    /// Web pages have no business here: their requests carry an origin, or name a host that is not ours.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(ORIGIN) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "web pages may not call this surface",
            ));
        }
        let host = headers.get(HOST).filter(|_| self.check_host);
        let host = host.map(|host| host.to_str().unwrap_or("?"));
        if host.is_some_and(|host| !names_this_machine(host)) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "name this node by an address or as localhost",
            ));
        }
        Ok(())
    }

    async fn answer(&self, found: Found, request: Request<Incoming>) -> Result<Answer, Refusal> {
        if let Some(answer) = handlers::answer_at_once(found.route) {
            return Ok(answer);
        }
        let Ok(permit) = Arc::clone(&self.requests).try_acquire_owned() else {
            metrics::counter!("quorate_rpc_refused_total", "limit" => "third_party_requests_max")
                .increment(1);
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests are under way; try again later",
            ));
        };
        let until = Instant::now() + self.limits.request_timeout;
        let (head, body) = request.into_parts();
        let body = self.read(&head.headers, body, until).await?;
        let ask = Ask {
            found,
            headers: head.headers,
            body,
        };
        let api = Arc::clone(&self.api);
        // On a task of its own: what was begun goes on to its end when the client hangs up.
        let working = self.tasks.spawn(async move {
            let answer = handlers::answer(api.as_ref(), &ask).await;
            drop(permit);
            answer
        });
        match timeout_at(until, working).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "third party: a request ended in a panic");
                Err(Refusal::internal())
            }
            Err(_) => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the request takes too long; it may still be carried out",
            )),
        }
    }

    async fn read(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        until: Instant,
    ) -> Result<Bytes, Refusal> {
        let max = self.limits.body_bytes_max;
        let too_large = || {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {max} bytes"),
            )
        };
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let announced = announced.and_then(|text| text.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > max as u64) {
            return Err(too_large());
        }
        match timeout_at(until, Limited::new(body, max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(Refusal::bad_request("the body ended early")),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body took too long",
            )),
        }
    }
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // An IPv6 address in brackets without a port ends in a bracket.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::names_this_machine;

    #[test]
    fn only_addresses_and_localhost_name_this_machine() {
        for host in [
            "localhost",
            "LocalHost:9080",
            "127.0.0.1:9080",
            "[::1]:9080",
            "[::1]",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9080",
            "localhost.evil.example",
            "?",
            "",
        ] {
            assert!(!names_this_machine(host), "{host}");
        }
    }
}
