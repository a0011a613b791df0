//! A certificate for the servers that are measured over TLS, and a client that trusts it.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Result;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tempfile::TempDir;

/// The name that it is for.
pub const NAME: &str = "localhost";

/// As files, which go with it.
#[derive(Debug)]
pub struct Certificate {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub client: Arc<ClientConfig>,
    _folder: TempDir,
}

impl Certificate {
    /// A new one, signed by itself: ECDSA on P-256.
    pub fn issue() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()])?;
        let folder = tempfile::tempdir()?;
        let (certificate_file, key_file) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        fs::write(&certificate_file, cert.pem())?;
        fs::write(&key_file, signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { certificate_file, key_file, client: Arc::new(client), _folder: folder })
    }
}
