//! TLS with certificates on both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::ThirdPartyError;

/// Files of the server's side of TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThirdPartyTls {
    /// The certificate chain that clients are shown.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of clients. Whoever shows none of these is turned away in the handshake.
    pub client_ca: PathBuf,
}

/// Reads the files. They are read once: exchanged files count after a restart.
pub(super) fn acceptor(tls: &ThirdPartyTls) -> Result<TlsAcceptor, ThirdPartyError> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca)? {
        roots
            .add(certificate)
            .map_err(|e| fault(&tls.client_ca, e))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|e| fault(&tls.client_ca, e))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| fault(&tls.key, e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fault(&tls.certificate, e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.certificate)?, key)
        .map_err(|e| fault(&tls.certificate, e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ThirdPartyError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> = read.map_err(|e| fault(file, e))?;
    if chain.is_empty() {
        return Err(fault(file, "holds no certificate in PEM"));
    }
    Ok(chain)
}

fn fault(file: &Path, reason: impl ToString) -> ThirdPartyError {
    ThirdPartyError::Certificate {
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}
