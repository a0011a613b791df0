//! TLS towards the upstream: one configuration for wss and https.
//!
//! It is built only where a URL needs it, so that a machine without any CA store can still speak plain ws and http.

use std::{io, path::PathBuf, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::config;

/// TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The CA file could not be read.
    #[error("the CA file {} cannot be read: {kind}", path.display())]
    CaFile {
        /// Where it should be.
        path: PathBuf,
        /// What went wrong.
        kind: io::ErrorKind,
    },
    /// The CA file holds no certificate that can be used.
    #[error("the CA file {} holds no usable certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Neither the system nor the configuration gives a certificate to trust.
    #[error("no CA certificates: the system's store is empty and no ca_file is set")]
    NoRoots,
    /// The provider does not do what is asked of it.
    #[error("TLS cannot be configured")]
    Provider,
}

/// The client side of TLS, as the settings ask for it. Reads files: call it where blocking is allowed.
///
/// # Errors
///
/// Where a configured file cannot be used, or nothing would be trusted at all.
pub(crate) fn client_config(settings: &config::UpstreamTls) -> Result<ClientConfig, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    if !settings.only_ca_file {
        // Certificates that the system has and rustls does not understand are left out, as every client does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = &settings.ca_file {
        let pem = std::fs::read(path)
            .map_err(|error| TlsSetupError::CaFile { path: path.clone(), kind: error.kind() })?;
        let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        if added == 0 {
            return Err(TlsSetupError::NoCertificate { path: path.clone() });
        }
    }
    if roots.is_empty() {
        return Err(TlsSetupError::NoRoots);
    }
    with_roots(roots)
}

/// A configuration that trusts nothing, for clients that want one although they only speak plain http.
pub(crate) fn trusting_nothing() -> Result<ClientConfig, TlsSetupError> {
    with_roots(RootCertStore::empty())
}

/// rustls' own words: about certificates and alerts, nothing secret. Where they list the names in the peer's certificate,
/// their length is the peer's choice, and they go to every consumer of the account: they are cut.
pub(crate) fn in_words(error: &rustls::Error) -> String {
    const MAX: usize = 200;
    let text = error.to_string();
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The provider is named, never taken from the process: which crate installed a default, and when, must not matter.
fn with_roots(roots: RootCertStore) -> Result<ClientConfig, TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| TlsSetupError::Provider)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pem: &str) -> (tempfile::NamedTempFile, config::UpstreamTls) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        let settings = config::UpstreamTls {
            ca_file: Some(file.path().to_owned()),
            only_ca_file: true,
            server_name: None,
        };
        (file, settings)
    }

    #[test]
    fn a_private_ca_is_enough() {
        let ca = rcgen::generate_simple_self_signed(vec!["blackhole".into()]).unwrap();
        let (_file, settings) = settings(&ca.cert.pem());
        assert!(client_config(&settings).is_ok());
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_it() {
        let (file, settings) = settings("-----BEGIN NONSENSE-----\n");
        let error = client_config(&settings).unwrap_err();
        assert!(matches!(&error, TlsSetupError::NoCertificate { .. }), "{error}");
        assert!(error.to_string().contains(file.path().to_str().unwrap()));
    }

    #[test]
    fn a_missing_ca_file_is_an_error_that_names_it() {
        let settings = config::UpstreamTls {
            ca_file: Some("/nowhere/ca.pem".into()),
            only_ca_file: true,
            server_name: None,
        };
        let error = client_config(&settings).unwrap_err();
        assert_eq!(error.to_string(), "the CA file /nowhere/ca.pem cannot be read: entity not found");
    }

    #[test]
    fn a_peer_does_not_decide_how_long_an_error_is() {
        let presented = (0..1000).map(|n| format!("DnsName(\"{n}.example.com\")")).collect();
        let expected = rustls_pki_types::ServerName::try_from("kazoo.example.com").unwrap();
        let error = rustls::CertificateError::NotValidForNameContext { expected, presented };
        let text = in_words(&error.into());
        assert!(text.contains("not valid for name \"kazoo.example.com\""), "{text}");
        assert!(text.len() < 250, "{}", text.len());
        assert_eq!(in_words(&rustls::Error::DecryptError), rustls::Error::DecryptError.to_string());
    }

    #[test]
    fn trusting_nobody_is_an_error_for_tls_and_fine_for_plain_http() {
        let settings = config::UpstreamTls { ca_file: None, only_ca_file: true, server_name: None };
        assert!(matches!(client_config(&settings), Err(TlsSetupError::NoRoots)));
        assert!(trusting_nothing().is_ok());
    }
}
