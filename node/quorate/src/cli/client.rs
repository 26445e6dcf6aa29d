//! A small HTTP client for commands: JSON-RPC calls and simple GETs, without TLS.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// Largest answer that is read; a node's own limit is below.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Building a connection on a network that works takes far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The address cannot be called.
    #[error("{url:?} is not http://host:port{hint}")]
    Url {
        /// The address.
        url: String,
        /// More about it.
        hint: &'static str,
    },
    /// The node did not answer.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// The node.
        url: String,
        /// Why.
        reason: String,
    },
    /// The answer is no answer to the call.
    #[error("{url} answered {status}: {body}")]
    Unexpected {
        /// The node.
        url: String,
        /// HTTP status.
        status: StatusCode,
        /// The first part of the answer.
        body: String,
    },
    /// The node refused the call.
    #[error("{method} was refused: {message} (code {code}{})", data.as_ref().map(|d| format!(", data {d}")).unwrap_or_default())]
    Refused {
        /// The method.
        method: String,
        /// JSON-RPC code.
        code: i64,
        /// The node's text.
        message: String,
        /// More of it.
        data: Option<Value>,
    },
}

/// An HTTP client that keeps its connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpClient {
    /// A client without connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// Fetches a page.
    ///
    /// # Errors
    /// If nothing answers.
    pub async fn get(&self, url: &str) -> Result<(StatusCode, Bytes), CallError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(parse(url)?)
            .body(Full::default());
        self.exchange(url, request).await
    }

    /// Posts JSON and gives back the answer's body.
    ///
    /// # Errors
    /// If nothing answers, or not with 200.
    pub async fn post(&self, url: &str, body: Bytes) -> Result<Bytes, CallError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(parse(url)?)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let (status, body) = self.exchange(url, request).await?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(unexpected(url, status, &body))
        }
    }

    async fn exchange(
        &self,
        url: &str,
        request: http::Result<Request<Full<Bytes>>>,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let unreachable = |reason: String| CallError::Unreachable {
            url: url.to_owned(),
            reason,
        };
        let request = request.map_err(|e| unreachable(e.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| unreachable(causes(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|e| unreachable(e.to_string()))?.to_bytes();
        Ok((status, body))
    }

    /// Calls a JSON-RPC method.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, url: &str, method: &str, params: Value) -> Result<Value, CallError> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.post(url, body.to_string().into()).await?;
        let value: Value = serde_json::from_slice(&answer)
            .map_err(|_| unexpected(url, StatusCode::OK, &answer))?;
        result_of(url, method, value)
    }
}

/// The result in one answer.
///
/// # Errors
/// If it is a refusal or no answer.
pub fn result_of(url: &str, method: &str, mut answer: Value) -> Result<Value, CallError> {
    if let Some(error) = answer.get("error").filter(|e| !e.is_null()) {
        return Err(CallError::Refused {
            method: method.to_owned(),
            code: error
                .get("code")
                .and_then(Value::as_i64)
                .unwrap_or_default(),
            message: error
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            data: error.get("data").cloned(),
        });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(unexpected(
            url,
            StatusCode::OK,
            answer.to_string().as_bytes(),
        )),
    }
}

/// Calls one JSON-RPC method.
///
/// # Errors
/// [`CallError`].
pub async fn json_rpc(url: &str, method: &str, params: Value) -> Result<Value, CallError> {
    HttpClient::new().call(url, method, params).await
}

/// A quantity such as "0x1f".
pub fn quantity(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn parse(url: &str) -> Result<Uri, CallError> {
    let refuse = |hint| CallError::Url {
        url: url.to_owned(),
        hint,
    };
    let uri: Uri = url.parse().map_err(|_| refuse(""))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(uri),
        (Some("https"), _) => Err(refuse("; this client does not speak TLS")),
        _ => Err(refuse("")),
    }
}

fn unexpected(url: &str, status: StatusCode, body: &[u8]) -> CallError {
    let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
    CallError::Unexpected {
        url: url.to_owned(),
        status,
        body: body.trim().to_owned(),
    }
}

/// An error with its causes on one line; hyper's own says only "client error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_called() {
        assert!(parse("http://127.0.0.1:8545").is_ok());
        for url in [
            "127.0.0.1:8545",
            "https://node:8545",
            "ftp://x",
            "",
            "http://",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        assert!(
            parse("https://node")
                .unwrap_err()
                .to_string()
                .contains("TLS")
        );
    }

    #[test]
    fn a_refusal_keeps_code_and_data() {
        let answer = json!({ "error": { "code": 3, "message": "reverted", "data": "0x08" } });
        let error = result_of("http://x", "eth_call", answer)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "eth_call was refused: reverted (code 3, data \"0x08\")"
        );
        assert_eq!(
            result_of("http://x", "m", json!({ "result": null })).unwrap(),
            Value::Null
        );
        assert!(result_of("http://x", "m", json!({})).is_err());
    }
}
