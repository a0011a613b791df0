//! A private CA, as an operator has one; and what may stand before Kazoo: a TLS terminator with a certificate of it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// A certificate authority that no machine knows.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let ca = Self { issuer, folder: TempDir::new().expect("a folder") };
        ca.write(&ca.file());
        ca
    }

    /// Its own certificate, as `ca_file` wants it.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Puts its certificate in the place of another file, at once: half of one would be a fault of the configuration, after
    /// which an account waits for long.
    pub fn write(&self, path: &Path) {
        let new = self.folder.path().join("new.pem");
        std::fs::write(&new, self.issuer.pem()).expect("a place to write to");
        std::fs::rename(&new, path).expect("the same file system");
    }

    /// A server's certificate for these names and addresses, and its key.
    fn issue(&self, names: &[&str]) -> (Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        (params.signed_by(&key, &*self.issuer).expect("a certificate"), key)
    }

    /// The same as files, which are there as long as the authority.
    pub fn server_files(&self, names: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue(names);
        let file = |name: &str, text: String| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).expect("a place to write to");
            path
        };
        (file("tls.crt", certificate.pem()), file("tls.key", key.serialize_pem()))
    }

    /// A client that trusts this authority alone.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions that there are")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(names);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        Arc::new(config)
    }
}

/// Speaks TLS to clients, and passes what they say on to a plain address.
pub struct Terminator {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Option<String>>>>,
    task: JoinHandle<()>,
}

impl Terminator {
    /// `names` are those of its certificate. To be called within a runtime.
    pub fn start(ca: &Ca, names: &[&str], before: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let addr = listener.local_addr().expect("its address");
        let listener = TcpListener::from_std(listener).expect("a runtime");
        let acceptor = TlsAcceptor::from(ca.server(names));
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let task = tokio::spawn(accept(listener, acceptor, before, seen.clone()));
        Self { addr, seen, task }
    }

    /// The server name (SNI) of each handshake that was completed.
    pub fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().clone()
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    before: SocketAddr,
    seen: Arc<Mutex<Vec<Option<String>>>>,
) {
    // Dropped with this task, and with them all connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        connections.spawn(async move {
            // A client that does not trust the certificate leaves here.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            seen.lock().push(client.get_ref().1.server_name().map(str::to_owned));
            let Ok(mut server) = TcpStream::connect(before).await else { return };
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
