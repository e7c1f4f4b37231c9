//! What all connections have in common: how long they may take, and whom they trust.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Settings of every connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network {
    connect: Duration,
    tls: Arc<ClientConfig>,
}

/// A file of certificates that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct NetworkError {
    path: PathBuf,
    reason: String,
}

impl Network {
    /// With the usual trust: the public roots, and those of the machine, which in companies has its own.
    /// `connect` bounds name look-up, TCP and TLS.
    pub fn new(connect: Duration) -> Self {
        static USUAL: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        Self { connect, tls: Arc::clone(USUAL.get_or_init(|| Arc::new(tls(usual_roots())))) }
    }

    /// The same, trusting the certificates of a PEM file besides.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds none.
    pub fn trusting(connect: Duration, file: Option<&Path>) -> Result<Self, NetworkError> {
        let Some(file) = file else { return Ok(Self::new(connect)) };
        let fail = |reason: String| NetworkError { path: file.to_owned(), reason };
        let certificates = CertificateDer::pem_file_iter(file).map_err(|e| fail(e.to_string()))?;
        let (mut roots, mut found) = (usual_roots(), 0);
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fail(error.to_string()))?;
            roots.add(certificate).map_err(|error| fail(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(fail("there is no certificate in it (PEM is expected)".to_owned()));
        }
        Ok(Self { connect, tls: Arc::new(tls(roots)) })
    }

    pub(super) fn connect(&self) -> Duration {
        self.connect
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }
}

fn usual_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Offers HTTP/1.1 only: awc's HTTP/2 has no liveness check and costs four times the CPU per event.
fn tls(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x12_only_http_1_1_is_offered() {
        assert_eq!(Network::new(Duration::ZERO).tls().alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Network::trusting(Duration::ZERO, Some(file.path())).unwrap_err().to_string();
        assert!(
            refused.contains("no certificate") && refused.contains(file.path().to_str().unwrap())
        );
        assert!(Network::trusting(Duration::ZERO, Some(Path::new("/nonexistent"))).is_err());
    }
}
