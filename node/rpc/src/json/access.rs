//! Who may speak to the JSON-RPC port from a browser.
//!
//! A page that a browser shows can send requests to any address that the browser reaches. Two headers tell such requests
//! apart: `Host` names another host if a changed DNS answer led here (DNS rebinding), and `Origin` names the page for a
//! WebSocket, which no CORS rule protects.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::header::{HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::RpcConfig;

/// CORS as the settings say: without origins there is none.
pub(crate) fn cors(config: &RpcConfig) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([http::Method::POST])
        .allow_headers([http::header::CONTENT_TYPE]);
    if config.cors_origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(AllowOrigin::any());
    }
    let origins = config
        .cors_origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok());
    layer.allow_origin(AllowOrigin::list(origins))
}

/// Marks the requests of a WebSocket connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverWebSocket;

/// Refuses requests by `Host`, and WebSocket upgrades by `Origin`.
#[derive(Debug, Clone)]
pub(crate) struct AccessLayer {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl AccessLayer {
    pub(crate) fn new(config: &RpcConfig) -> Self {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self {
            rules: Arc::new(Rules {
                hosts: lower(&config.allowed_hosts),
                origins: lower(&config.cors_origins),
            }),
        }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access {
            inner,
            rules: Arc::clone(&self.rules),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Access<S> {
    inner: S,
    rules: Arc<Rules>,
}

impl<S, B> Service<HttpRequest<B>> for Access<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse, Error = BoxError>,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Either<Ready<Result<HttpResponse, BoxError>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(OverWebSocket);
        }
        match self.rules.refuse(request.headers(), request.uri()) {
            None => Either::Right(self.inner.call(request)),
            Some(reason) => {
                metrics::counter!("quorate_rpc_refused_total", "limit" => "access").increment(1);
                let mut response = HttpResponse::new(HttpBody::from(reason));
                *response.status_mut() = StatusCode::FORBIDDEN;
                Either::Left(ready(Ok(response)))
            }
        }
    }
}

impl Rules {
    fn refuse(&self, headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
        // HTTP/2 carries the host in the URI. Without any host it is no browser.
        let host = match headers.get(HOST) {
            Some(host) => Some(host.to_str().unwrap_or("?")),
            None => uri.authority().map(|authority| authority.as_str()),
        };
        let host = host.map(str::to_ascii_lowercase);
        if let Some(host) = &host
            && !self.allows_host(without_port(host))
        {
            return Some("this host name is not among the node's allowed hosts\n");
        }
        if headers.contains_key(UPGRADE)
            && let Some(origin) = headers.get(ORIGIN)
            && !self.allows_origin(
                &origin.to_str().unwrap_or("?").to_ascii_lowercase(),
                host.as_deref(),
            )
        {
            return Some("this origin is not among the node's CORS origins\n");
        }
        None
    }

    fn allows_host(&self, host: &str) -> bool {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
            || self
                .hosts
                .iter()
                .any(|allowed| allowed == "*" || allowed == host)
    }

    /// Some clients that are no browsers name the node itself as the origin.
    fn allows_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let of_this_host = origin.split_once("://").map(|(_, authority)| authority) == host;
        of_this_host
            || self
                .origins
                .iter()
                .any(|allowed| allowed == "*" || allowed == origin)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address in brackets without a port ends in a bracket.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str], origins: &[&str]) -> Arc<Rules> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let config = RpcConfig {
            allowed_hosts: owned(hosts),
            cors_origins: owned(origins),
            ..RpcConfig::default()
        };
        AccessLayer::new(&config).rules
    }

    fn allowed(rules: &Rules, host: &str, upgrade_origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = upgrade_origin {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        rules.refuse(&headers, &Uri::from_static("/")).is_none()
    }

    #[test]
    fn addresses_and_listed_names_are_allowed_hosts() {
        let rules = rules(&["localhost", "Node1"], &[]);
        for host in [
            "localhost:8545",
            "LOCALHOST",
            "127.0.0.1:8545",
            "10.1.2.3",
            "[::1]:8545",
            "[::1]",
            "node1:1",
        ] {
            assert!(allowed(&rules, host, None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8545",
            "localhost.evil.example",
        ] {
            assert!(!allowed(&rules, host, None), "{host}");
        }
        assert!(allowed(
            &super::tests::rules(&["*"], &[]),
            "anything.example",
            None
        ));
    }

    #[test]
    fn a_page_may_open_a_websocket_only_from_a_listed_origin() {
        let rules = rules(&["localhost"], &["https://wallet.example"]);
        assert!(allowed(&rules, "127.0.0.1:8546", None));
        assert!(allowed(
            &rules,
            "127.0.0.1:8546",
            Some("http://127.0.0.1:8546")
        ));
        assert!(allowed(
            &rules,
            "127.0.0.1:8546",
            Some("https://wallet.example")
        ));
        assert!(!allowed(
            &rules,
            "127.0.0.1:8546",
            Some("https://evil.example")
        ));
        assert!(!allowed(&rules, "127.0.0.1:8546", Some("null")));
    }
}
