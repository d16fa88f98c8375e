//! TLS towards receivers: ring, and the certificate authorities of the system.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Reads the system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). Without any, the service
/// starts all the same, since `http` targets work; every `https` attempt then fails and says why.
pub(crate) fn config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificate authorities of the system could not be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("the system has no certificate authorities, so https targets fail; install ca-certificates");
    }
    trusting(roots)
}

/// Trusts these authorities and no others.
pub(super) fn trusting(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
