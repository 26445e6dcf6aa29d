//! Clients: HTTP and WebSocket.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use soketto::handshake::{Client as Handshake, ServerResponse};
use soketto::{Receiver, Sender};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

/// Answers that take longer are a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// One HTTP exchange: status and body.
pub async fn post(rpc: SocketAddr, host: &str, body: String) -> (u16, String) {
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::post(format!("http://{rpc}/"))
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap();
    let response = tokio::time::timeout(PATIENCE, client.request(request))
        .await
        .unwrap()
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The whole answer to one request.
pub async fn request(rpc: SocketAddr, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let (status, body) = post(rpc, &rpc.to_string(), body.to_string()).await;
    assert_eq!(status, 200, "{method}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The result, which must be one.
pub async fn call(rpc: SocketAddr, method: &str, params: Value) -> Value {
    let answer = request(rpc, method, params.clone()).await;
    match answer.get("result") {
        Some(result) => result.clone(),
        None => panic!("{method} {params}: {answer}"),
    }
}

/// Code, message and data of the error, which must be one.
pub async fn error(rpc: SocketAddr, method: &str, params: Value) -> (i64, String, Value) {
    let answer = request(rpc, method, params.clone()).await;
    let error = answer
        .get("error")
        .unwrap_or_else(|| panic!("{method} {params}: {answer}"));
    let message = error["message"].as_str().unwrap().to_owned();
    (
        error["code"].as_i64().unwrap(),
        message,
        error["data"].clone(),
    )
}

/// A quantity as a number.
pub fn number(value: &Value) -> u64 {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no quantity"));
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

/// A WebSocket connection.
pub struct Socket {
    sender: Sender<Compat<TcpStream>>,
    receiver: Receiver<Compat<TcpStream>>,
    next_id: u64,
    /// Notifications that came before the answer that was waited for.
    early: Vec<Value>,
}

impl Socket {
    pub async fn open(rpc: SocketAddr) -> Self {
        let stream = TcpStream::connect(rpc).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let host = rpc.to_string();
        let mut client = Handshake::new(stream.compat(), &host, "/");
        match client.handshake().await.unwrap() {
            ServerResponse::Accepted { .. } => {}
            other => panic!("handshake: {other:?}"),
        }
        let (sender, receiver) = client.into_builder().finish();
        Self {
            sender,
            receiver,
            next_id: 0,
            early: Vec::new(),
        }
    }

    async fn read(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        match tokio::time::timeout(PATIENCE, self.receiver.receive_data(&mut message))
            .await
            .unwrap()
        {
            Ok(_) => Some(serde_json::from_slice(&message).unwrap()),
            Err(_) => None,
        }
    }

    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        let body =
            json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.sender.send_text(body.to_string()).await.unwrap();
        self.sender.flush().await.unwrap();
        loop {
            let message = self.read().await.expect("the connection stays open");
            if message["id"] == self.next_id {
                return message;
            }
            self.early.push(message);
        }
    }

    /// Subscribes and returns the id.
    pub async fn subscribe(&mut self, params: Value) -> String {
        let answer = self.request("eth_subscribe", params).await;
        answer["result"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    /// The next notification: subscription id and result. `None` if the connection was closed.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        let message = if self.early.is_empty() {
            self.read().await?
        } else {
            self.early.remove(0)
        };
        assert_eq!(message["method"], "eth_subscription");
        let params = &message["params"];
        Some((
            params["subscription"].as_str().unwrap().to_owned(),
            params["result"].clone(),
        ))
    }
}
