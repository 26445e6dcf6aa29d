//! A client that speaks HTTP by hand, over any stream.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_rpc::third_party::ThirdPartyTls;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Answers that take longer are a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    head: String,
    pub body: Vec<u8>,
}

impl Answered {
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self {
            status,
            head,
            body: bytes[end + 4..].to_vec(),
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        let found = pairs.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }
}

fn request(method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// One exchange on a connection of its own.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answered {
    let stream = TcpStream::connect(address).await.unwrap();
    ask_over(stream, method, path, &address.to_string(), headers, body).await
}

/// One exchange over this stream.
pub async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answered {
    let request = request(method, path, host, headers, body);
    exchange(stream, &request).await.unwrap()
}

/// The same; `None` if the connection ends without an answer.
pub async fn try_ask_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
) -> Option<Answered> {
    exchange(stream, &request(method, path, "127.0.0.1", &[], b"")).await
}

/// Sends these bytes and reads what comes.
pub async fn speak(address: SocketAddr, bytes: &[u8]) -> Answered {
    try_speak(address, bytes).await.unwrap()
}

/// The same; `None` if the connection ends without an answer.
pub async fn try_speak(address: SocketAddr, bytes: &[u8]) -> Option<Answered> {
    let stream = TcpStream::connect(address).await.unwrap();
    exchange(stream, bytes).await
}

/// Sends these bytes and does not wait for an answer.
pub async fn write(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    bytes: &[u8],
) -> Option<Answered> {
    // A server that refuses may close before everything is written.
    if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
        println!("the server closed early");
    }
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
            }
            if is_whole(&answer) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    Answered::read(&answer)
}

/// Some connections stay open after the answer.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(answered) = Answered::read(bytes) else {
        return false;
    };
    let length = answered.header("content-length");
    length.is_some_and(|length| answered.body.len() >= length.parse::<usize>().unwrap())
}

/// An authority, the server's certificate and a client's.
pub struct Certificates {
    folder: TempDir,
    authority: Certificate,
    client: Certificate,
    client_key: KeyPair,
}

impl Certificates {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        let signed = |name: &str, usage: ExtendedKeyUsagePurpose| {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority, &authority_key).unwrap();
            (certificate, key)
        };
        let (server, server_key) = signed("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = signed("client", ExtendedKeyUsagePurpose::ClientAuth);
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write("ca.pem", authority.pem());
        write("server.pem", server.pem());
        write("server.key", server_key.serialize_pem());
        Self {
            folder,
            authority,
            client,
            client_key,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn server(&self) -> ThirdPartyTls {
        ThirdPartyTls {
            certificate: self.file("server.pem"),
            key: self.file("server.key"),
            client_ca: self.file("ca.pem"),
        }
    }

    /// Connects, with the client's certificate or without one.
    pub async fn connect(
        &self,
        address: SocketAddr,
        with_certificate: bool,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if with_certificate {
            let key = PrivateKeyDer::try_from(self.client_key.serialize_der()).unwrap();
            let chain = vec![self.client.der().clone()];
            config.with_client_auth_cert(chain, key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}
