//! TLS for consumers, below HTTP/2 and below [`coalesce`](super::coalesce): what a connection says in one turn becomes a few
//! large records and one write.
//!
//! The certificate is read once, at the start. Signing with its key is the dearest thing that a new connection asks for, and
//! ten thousand consumers may come back at once; so only a few connections have their turn at it at a time. Waiting for a
//! client holds no place in that queue: who stalls in the middle of a handshake keeps nobody out.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    InconsistentKeys, InvalidMessage, ServerConfig, crypto::aws_lc_rs, server::Acceptor, sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error as PemError, PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    task::yield_now,
    time::Instant,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{config, telemetry::throttle::Throttle};

/// HTTP/2 over TLS is agreed on by ALPN, and by nothing else (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";
/// The alert `no_application_protocol`, fatal, as a record before anything is encrypted (RFC 8446, section 5.1; RFC 7301,
/// section 3.2).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];
/// So many connections have their keys agreed on and signed at a time (where a client's first words do for that), so that the
/// tasks that read from upstream wait for no more than that: a signature takes up to a millisecond (RSA, 2048 bits).
const SIGNING_AT_ONCE: usize = 2;
/// Unencrypted bytes that are taken at once: all that is gathered for one write, and the overhead of its records.
const SESSION_BUFFER: usize = 192 << 10;

/// TLS for consumers could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {}: {kind}", path.display())]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        kind: io::ErrorKind,
    },
    /// A file does not hold what it should. Nothing of its content is shown.
    #[error("{setting}: {} {fault}", path.display())]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Both files are good, and do not belong together.
    #[error(
        "grpc.tls: the key in {} does not belong to the first certificate in {}",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The provider does not do what is asked of it.
    #[error("grpc.tls: TLS cannot be configured")]
    Provider,
}

/// Why there is no TLS with a client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("it does not speak TLS")]
    NotTls,
    #[error("it does not offer HTTP/2 (ALPN h2)")]
    NoHttp2,
    /// In the words of rustls. They are about alerts and protocols, and bounded.
    #[error(transparent)]
    Protocol(rustls::Error),
    /// The connection ended before there was TLS on it.
    #[error(transparent)]
    Io(io::Error),
}

/// The server's side of TLS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ServerConfig>,
    signing: Arc<Semaphore>,
    /// Failures may come by the thousand.
    failures: Arc<Mutex<Throttle>>,
}

impl Tls {
    /// As the settings ask for it; `None` where they do not. Reads files: to be called where blocking is allowed.
    pub fn load(settings: &config::GrpcTls, failures: Throttle) -> Result<Option<Self>, TlsSetupError> {
        let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.key_file) else {
            return Ok(None);
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = read_chain(certificate)?;
        let certified =
            CertifiedKey::from_der(chain, read_key(key)?, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsSetupError::Mismatch { certificate: certificate.clone(), key: key.clone() }
                }
                rustls::Error::InvalidCertificate(_) => {
                    unusable(CERTIFICATE, certificate, "holds a certificate that cannot be understood")
                }
                _ => unusable(KEY, key, "holds a private key of a kind that is not supported"),
            })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsSetupError::Provider)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(Some(Self {
            config: Arc::new(config),
            signing: Arc::new(Semaphore::new(SIGNING_AT_ONCE)),
            failures: Arc::new(Mutex::new(failures)),
        }))
    }

    /// The handshake with one client. How long it may take is the caller's to say.
    pub async fn accept<IO>(&self, io: IO, peer: SocketAddr) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shaken = self.shake(io).await;
        // A balancer that looks whether somebody listens connects and goes: that is no fault.
        if let Err(error) = &shaken
            && !matches!(error, TlsError::Io(_))
            && let Some(count) = self.failures.lock().hit(Instant::now())
        {
            tracing::warn!(%peer, %error, count, "no TLS with a client");
        }
        shaken
    }

    async fn shake<IO>(&self, io: IO) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // What says hello costs nothing yet.
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), io).await.map_err(classify)?;
        let offers_h2 = hello.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == H2));
        if !offers_h2 {
            // Without the alert the client could only guess. Whether it still listens is its own affair.
            let _ = hello.io.write_all(&NO_APPLICATION_PROTOCOL).await;
            let _ = hello.io.shutdown().await;
            return Err(TlsError::NoHttp2);
        }
        let accepted = {
            // Nobody closes it.
            let _turn = self.signing.acquire().await;
            let config = self.config.clone();
            let accepted =
                hello.into_stream_with(config, |session| session.set_buffer_limit(Some(SESSION_BUFFER)));
            // Whoever waits signs in a later turn, after all tasks that are awake now.
            yield_now().await;
            accepted
        };
        accepted.await.map_err(classify)
    }
}

const CERTIFICATE: &str = "grpc.tls.certificate_file";
const KEY: &str = "grpc.tls.key_file";

/// That these files would do: for who wants to know before anything is started.
///
/// # Errors
///
/// Where one cannot be used, or they do not belong together.
pub fn check(settings: &config::GrpcTls) -> Result<(), TlsSetupError> {
    Tls::load(settings, Throttle::every(Duration::ZERO)).map(drop)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let pem = read(CERTIFICATE, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(unusable(CERTIFICATE, path, "holds no certificate in PEM form")),
        Err(_) => Err(unusable(CERTIFICATE, path, "is not valid PEM")),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let pem = read(KEY, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let fault = match error {
            PemError::NoItemsFound if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) => {
                "holds an encrypted private key; expected one without a passphrase"
            }
            PemError::NoItemsFound => "holds no private key in PEM form",
            _ => "is not valid PEM",
        };
        unusable(KEY, path, fault)
    })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsSetupError> {
    fs::read(path).map_err(|error| TlsSetupError::Unreadable {
        setting,
        path: path.to_owned(),
        kind: error.kind(),
    })
}

fn unusable(setting: &'static str, path: &Path, fault: &'static str) -> TlsSetupError {
    TlsSetupError::Content { setting, path: path.to_owned(), fault }
}

fn classify(error: io::Error) -> TlsError {
    match error.downcast() {
        Ok(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => TlsError::NotTls,
        Ok(error) => TlsError::Protocol(error),
        Err(error) => TlsError::Io(error),
    }
}

#[cfg(test)]
mod tests;
