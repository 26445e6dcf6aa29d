//! News over WebSocket, as a client without a library hears it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Nothing here takes nearly this long; it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Any 16 bytes in base64: the server's proof that it read them is not looked at.
const KEY: &str = "cXVvcmF0ZSdzIHRlc3RzIQ==";

/// Kinds of frames of RFC 6455.
const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A connection to a node.
pub struct Socket {
    stream: TcpStream,
    next_id: u64,
    /// News that came before the answer that was waited for: subscription and what it tells.
    news: VecDeque<(String, Value)>,
}

impl Socket {
    pub fn open(url: &str) -> Self {
        let host = url.strip_prefix("ws://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        // Byte by byte: what follows the head belongs to the first frame.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        Self {
            stream,
            next_id: 0,
            news: VecDeque::new(),
        }
    }

    /// Frames of clients are masked; the mask is all zeros here.
    fn write(&mut self, kind: u8, body: &[u8]) {
        let mut frame = vec![0x80 | kind];
        match u8::try_from(body.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(body);
        self.stream.write_all(&frame).unwrap();
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next message.
    fn read(&mut self) -> Value {
        loop {
            let [first, second] = self.take();
            let length = match second {
                126 => u64::from(u16::from_be_bytes(self.take())),
                127 => u64::from_be_bytes(self.take()),
                length => u64::from(length),
            };
            let mut body = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut body).unwrap();
            match first {
                0x81 => return serde_json::from_slice(&body).unwrap(),
                first if first == 0x80 | PING => self.write(PONG, &body),
                other => panic!("frame {other:#x}: {}", String::from_utf8_lossy(&body)),
            }
        }
    }

    fn note(&mut self, message: &Value) {
        assert_eq!(message["method"], "eth_subscription", "{message}");
        let told = &message["params"];
        let subscription = told["subscription"].as_str().unwrap().to_owned();
        self.news.push_back((subscription, told["result"].clone()));
    }

    /// The result of a request.
    pub fn request(&mut self, method: &str, params: &Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.write(TEXT, body.to_string().as_bytes());
        loop {
            let mut message = self.read();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    /// The id of a new subscription to logs.
    pub fn subscribe_logs(&mut self, filter: &Value) -> String {
        let id = self.request("eth_subscribe", &json!(["logs", filter]));
        id.as_str().unwrap().to_owned()
    }

    /// The next thing that is told, and in which subscription.
    pub fn next(&mut self) -> (String, Value) {
        while self.news.is_empty() {
            let message = self.read();
            self.note(&message);
        }
        self.news.pop_front().unwrap()
    }

    /// Everything that was told up to now and not looked at.
    pub fn rest(&mut self) -> Vec<(String, Value)> {
        // Answers and news share the connection, so that what was told before this answer is here.
        self.request("eth_chainId", &json!([]));
        self.news.drain(..).collect()
    }
}
