//! The remote enclave's connection: gone, back, in someone else's hands, with and without certificates.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_enclave::{
    ClientTls, Enclave, EnclaveError, EnclaveServer, Endpoint, EndpointError, Listen, Opening,
    RecogniseRequest, RemoteConfig, RemoteEnclave, ServerConfig, ServerError, ServerTls, Suite,
};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::parties::{Served, context, local, open, request};

#[tokio::test]
async fn an_enclave_that_is_gone_is_unreachable_and_works_again_when_it_is_back() {
    let mut served = Served::start().await;
    let client = served.client();
    let sealed = client
        .seal(request(Suite::Nacl, &[], b"payload"))
        .await
        .unwrap();
    served.stop().await;
    for _ in 0..2 {
        let error = client
            .open(sealed.envelope.clone(), context())
            .await
            .unwrap_err();
        assert!(matches!(error, EnclaveError::Unreachable { .. }), "{error}");
        assert!(error.is_silence() && error.is_retryable());
    }
    assert!(client.health().await.is_err());
    // Silence is no answer to "is one of these tags for you" either.
    let asked = RecogniseRequest {
        hash: sealed.hash,
        senders: vec![sealed.envelope.sender()],
        tags: vec![[0; 8]],
    };
    let error = client.recognise(asked).await.unwrap_err();
    assert!(error.is_silence(), "{error}");
    served.serve().await;
    assert_eq!(*open(&client, &sealed.envelope).await.payload, b"payload");
    served.stop().await;
}

#[tokio::test]
async fn an_enclave_that_never_was_there_is_unreachable() {
    let folder = TempDir::new().unwrap();
    let endpoint = Endpoint::Unix(folder.path().join("nothing.sock"));
    let client = RemoteEnclave::new(&RemoteConfig::new(endpoint)).unwrap();
    let error = client.public_keys().await.unwrap_err();
    assert!(matches!(error, EnclaveError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_enclave_that_does_not_answer_times_out() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mute.sock");
    // Accepts by way of the system's queue, and says nothing.
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut config = RemoteConfig::new(Endpoint::Unix(path));
    config.call_timeout = Duration::from_millis(100);
    let client = RemoteEnclave::new(&config).unwrap();
    let error = client.health().await.unwrap_err();
    assert!(
        matches!(error, EnclaveError::TimedOut { after_ms: 100, .. }),
        "{error}"
    );
    assert!(error.is_silence());
}

#[tokio::test]
async fn more_calls_than_allowed_are_refused_as_busy_and_not_queued() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mute.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut config = RemoteConfig::new(Endpoint::Unix(path));
    config.call_timeout = Duration::from_millis(500);
    config.in_flight_max = 1;
    let client = RemoteEnclave::new(&config).unwrap();
    let (first, second) = tokio::join!(client.health(), client.health());
    assert!(matches!(first, Err(EnclaveError::TimedOut { .. })));
    assert_eq!(second, Err(EnclaveError::Busy { in_flight_max: 1 }));
}

#[tokio::test]
async fn something_else_behind_the_socket_is_no_answer_about_the_payload() {
    use tokio::io::AsyncWriteExt as _;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("other.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let other = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            connection
                .write_all(b"HTTP/1.1 404 Not Found\r\n\r\n")
                .await
                .unwrap();
        }
    });
    let client = RemoteEnclave::new(&RemoteConfig::new(Endpoint::Unix(path))).unwrap();
    let sealed = local().seal_now(&request(Suite::Nacl, &[], b"")).unwrap();
    let error = client.open(sealed.envelope, context()).await.unwrap_err();
    assert!(error.is_silence(), "{error}");
    other.abort();
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_removed_at_the_end() {
    let mut served = Served::start().await;
    let metadata = std::fs::symlink_metadata(served.socket()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    // Nothing of the making is left.
    assert_eq!(std::fs::read_dir(served.folder.path()).unwrap().count(), 1);
    served.stop().await;
    assert!(!served.socket().exists());
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_a_stale_one_replaced_and_a_file_kept() {
    let mut served = Served::start().await;
    let bind = async |path: &Path| {
        let config = ServerConfig::new(Listen::Unix(path.to_owned()));
        EnclaveServer::bind(Arc::new(local()), config).await
    };
    let taken = bind(&served.socket()).await;
    assert!(matches!(taken, Err(ServerError::InUse { .. })));
    assert!(served.client().health().await.is_ok());
    served.stop().await;

    // As a killed process leaves it.
    drop(std::os::unix::net::UnixListener::bind(served.socket()).unwrap());
    assert!(served.socket().exists());
    served.serve().await;
    assert!(served.client().health().await.is_ok());
    served.stop().await;

    let file = served.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(
        bind(&file).await,
        Err(ServerError::NoSocket { .. })
    ));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[tokio::test]
async fn large_payloads_cross_the_socket() {
    let mut served = Served::start().await;
    let client = served.client();
    let payload = vec![3; 2 << 20];
    let sealed = client
        .seal(request(Suite::Hybrid, &[], &payload))
        .await
        .unwrap();
    assert_eq!(*open(&client, &sealed.envelope).await.payload, payload);
    served.stop().await;
}

#[test]
fn addresses_are_read_and_others_refused_with_what_is_allowed() {
    let check = |text: &str| text.parse::<Endpoint>();
    assert_eq!(
        check("unix:/run/e.sock"),
        Ok(Endpoint::Unix(PathBuf::from("/run/e.sock")))
    );
    let tls = check("https://enclave:9000").unwrap();
    assert_eq!(tls.to_string(), "https://enclave:9000");
    for text in [
        "",
        "unix:",
        "http://enclave:9000",
        "https://enclave",
        "enclave:9000",
    ] {
        assert!(
            matches!(check(text), Err(EndpointError::Malformed { .. })),
            "{text}"
        );
    }
}

/// A certificate authority and what it signs, in files.
struct Authority {
    folder: TempDir,
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            certificate,
            key,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["enclave.test".to_owned()]).unwrap();
        let certificate = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn over_tls_only_nodes_with_a_certificate_of_the_right_authority_are_served() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.issue("server");
    ours.issue("node");
    theirs.issue("node");
    let tls = ServerTls {
        certificate: ours.path("server.pem"),
        key: ours.path("server.key"),
        client_ca: ours.path("ca.pem"),
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let config = ServerConfig::new(Listen::Tls { address, tls });
    let enclave = local();
    let server = EnclaveServer::bind(Arc::new(enclave.clone()), config)
        .await
        .unwrap();
    let url = format!("https://{}", server.address().unwrap());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(server.run(cancel.clone()));

    let client = |node: &Authority, name: &str, ca: &Authority| {
        let mut config = RemoteConfig::new(url.parse().unwrap());
        config.tls = Some(ClientTls {
            certificate: node.path("node.pem"),
            key: node.path("node.key"),
            server_ca: ca.path("ca.pem"),
            server_name: Some(name.to_owned()),
        });
        RemoteEnclave::new(&config).unwrap()
    };
    let good = client(&ours, "enclave.test", &ours);
    let sealed = good
        .seal(request(Suite::Nacl, &[], b"payload"))
        .await
        .unwrap();
    assert_eq!(*open(&good, &sealed.envelope).await.payload, b"payload");

    // A stranger's certificate, a server that is not the one we meant, and one that someone else vouches for.
    for bad in [
        client(&theirs, "enclave.test", &ours),
        client(&ours, "another.test", &ours),
        client(&ours, "enclave.test", &theirs),
    ] {
        let error = bad
            .open(sealed.envelope.clone(), context())
            .await
            .unwrap_err();
        assert!(error.is_silence(), "{error}");
    }
    let mut without = RemoteConfig::new(url.parse().unwrap());
    assert!(matches!(
        RemoteEnclave::new(&without),
        Err(EndpointError::NoTls { .. })
    ));
    without.tls = Some(ClientTls {
        certificate: ours.path("missing.pem"),
        key: ours.path("node.key"),
        server_ca: ours.path("ca.pem"),
        server_name: None,
    });
    assert!(matches!(
        RemoteEnclave::new(&without),
        Err(EndpointError::File { .. })
    ));

    cancel.cancel();
    task.await.unwrap().unwrap();
    let error = good
        .open(sealed.envelope.clone(), context())
        .await
        .unwrap_err();
    assert!(matches!(error, EnclaveError::Unreachable { .. }), "{error}");
    let opening = enclave.open_now(&sealed.envelope, &context());
    assert!(matches!(opening, Ok(Opening::Opened(_))));
}
