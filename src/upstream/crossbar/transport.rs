//! How requests get to Crossbar: the seam, and the real one.

use std::{
    collections::HashMap,
    error::Error as _,
    io,
    net::{Ipv6Addr, SocketAddr},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use parking_lot::Mutex;
use reqwest::dns::{Name, Resolve, Resolving};
use url::Url;

use crate::{
    config,
    upstream::tls::{self, TlsSetupError},
};

/// The largest answer taken from Crossbar, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 8 << 20;

/// Sends requests: the seam at which a test answers them itself.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request with an absolute URL and gives back the whole answer, at most [`MAX_RESPONSE_BYTES`] of it.
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The name of the host has no address.
    #[error("its host name cannot be resolved")]
    NotResolved,
    /// The connection is refused.
    #[error("it refuses the connection")]
    Refused,
    /// There is no connection for another reason.
    #[error("there is no connection")]
    Connect,
    /// The certificate is not accepted, or the handshake failed otherwise.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// TLS is not set up right.
    #[error("{0}")]
    TlsSetup(String),
    /// The answer is larger than [`MAX_RESPONSE_BYTES`].
    #[error("its answer is larger than {MAX_RESPONSE_BYTES} bytes")]
    TooLarge,
    /// The connection broke before the answer was complete, or the answer is not HTTP.
    #[error("the connection broke")]
    Broken,
}

impl From<TlsSetupError> for TransportError {
    fn from(error: TlsSetupError) -> Self {
        TransportError::TlsSetup(error.to_string())
    }
}

/// HTTP by reqwest.
///
/// Redirects are not followed and proxies from the environment are not used: credentials go to the configured host alone.
pub struct ReqwestTransport {
    tls: config::UpstreamTls,
    plain: reqwest::Client,
    /// One for each host that is spoken to by https, built when it is first needed, and again after it was of no use: the CA
    /// file may have been renewed in between.
    secure: Mutex<HashMap<String, reqwest::Client>>,
}

impl ReqwestTransport {
    /// A transport. Nothing of TLS is read before an https URL needs it.
    ///
    /// # Errors
    ///
    /// Where reqwest cannot be set up at all.
    pub fn new(tls: config::UpstreamTls) -> Result<Self, TransportError> {
        // reqwest wants a TLS configuration even for plain http, and its own default one fails where the system has no CA
        // store.
        let plain = builder(tls::trusting_nothing()?).build().map_err(|_| TlsSetupError::Provider)?;
        Ok(Self { tls, plain, secure: Mutex::default() })
    }

    async fn client(&self, url: &Url) -> Result<reqwest::Client, TransportError> {
        if url.scheme() != "https" {
            return Ok(self.plain.clone());
        }
        let host = host(url);
        if let Some(client) = self.secure.lock().get(&host) {
            return Ok(client.clone());
        }
        let settings = self.tls.clone();
        let config = tokio::task::spawn_blocking(move || tls::client_config(&settings))
            .await
            .map_err(|_| TlsSetupError::Provider)??;
        let mut builder = builder(config);
        if self.tls.server_name.is_some() {
            builder = builder.dns_resolver(Instead(host.clone()));
        }
        let client = builder.build().map_err(|_| TlsSetupError::Provider)?;
        Ok(self.secure.lock().entry(host).or_insert(client).clone())
    }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

fn builder(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // Logins are rare: a connection kept for the next one would be stale.
        .pool_max_idle_per_host(0)
}

/// Resolves every name to the addresses of one host: how a certificate's name other than the URL's host is asked for, for
/// reqwest takes it from the URL alone.
struct Instead(String);

impl Resolve for Instead {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.trim_matches(['[', ']']).to_owned();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// Puts the certificate's name in the URL's place; the `Host` header stays.
fn rename(request: &mut reqwest::Request, name: &str) -> Result<(), TransportError> {
    let invalid = || TransportError::TlsSetup("no valid server name".into());
    let url = request.url_mut();
    let authority = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    match name.parse::<Ipv6Addr>() {
        Ok(address) => url.set_ip_host(address.into()).map_err(|()| invalid())?,
        Err(_) => url.set_host(Some(name)).map_err(|_| invalid())?,
    }
    let authority = HeaderValue::from_str(&authority).map_err(|_| invalid())?;
    request.headers_mut().insert(header::HOST, authority);
    Ok(())
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let mut request = reqwest::Request::try_from(request).map_err(|_| TransportError::Connect)?;
            let host = host(request.url());
            let client = self.client(request.url()).await?;
            if let Some(name) = &self.tls.server_name
                && request.url().scheme() == "https"
            {
                rename(&mut request, name)?;
            }
            let mut response = client.execute(request).await.map_err(|failed| {
                let error = error(failed);
                if matches!(error, TransportError::Tls(_)) {
                    self.secure.lock().remove(&host);
                }
                error
            })?;
            let mut body = BytesMut::new();
            while let Some(chunk) = response.chunk().await.map_err(error)? {
                if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                    return Err(TransportError::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            let mut answer = Response::new(body.freeze());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            Ok(answer)
        })
    }
}

/// What went wrong, from the chain of causes. Their texts are not taken over, but rustls' words about certificates.
fn error(error: reqwest::Error) -> TransportError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<rustls::Error>() {
            return TransportError::Tls(tls::in_words(error));
        }
        let io = inner.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return TransportError::Refused;
        }
        // hyper's resolver error has no public type; its text is fixed.
        if inner.to_string().starts_with("dns error") {
            return TransportError::NotResolved;
        }
        // An io::Error's source is that of the error inside it: the one inside would be passed over.
        cause = match io.and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => inner.source(),
        };
    }
    if error.is_connect() { TransportError::Connect } else { TransportError::Broken }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(io.read_u8().await.unwrap());
        }
        io.write_all(answer).await.unwrap();
        io.shutdown().await.unwrap();
        String::from_utf8(request).unwrap()
    }

    fn get(url: &str) -> Request<Bytes> {
        Request::get(url).body(Bytes::new()).unwrap()
    }

    #[tokio::test]
    async fn plain_http_needs_no_ca_at_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v2/websockets", listener.local_addr().unwrap());
        let tls = config::UpstreamTls { only_ca_file: true, ..config::UpstreamTls::default() };
        let transport = ReqwestTransport::new(tls).unwrap();
        let server = async {
            let io = listener.accept().await.unwrap().0;
            answer(io, b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}").await
        };
        let (response, request) = tokio::join!(transport.send(get(&url)), server);
        let response = response.unwrap();
        assert_eq!((response.status().as_u16(), &response.body()[..]), (404, &b"{}"[..]));
        assert!(request.starts_with("GET /v2/websockets HTTP/1.1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let transport = ReqwestTransport::new(config::UpstreamTls::default()).unwrap();
        let server = async {
            let mut io = listener.accept().await.unwrap().0;
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while io.write_all(&[b' '; 65536]).await.is_ok() {}
        };
        let (response, ()) = tokio::join!(transport.send(get(&url)), server);
        assert_eq!(response.unwrap_err(), TransportError::TooLarge);
    }

    #[tokio::test]
    async fn nothing_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let transport = ReqwestTransport::new(config::UpstreamTls::default()).unwrap();
        assert_eq!(transport.send(get(&url)).await.unwrap_err(), TransportError::Refused);
    }

    #[tokio::test]
    async fn https_by_a_private_ca_and_another_name() {
        let ca = rcgen::generate_simple_self_signed(vec!["crossbar.internal".into()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ca.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(ca.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![ca.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("https://{address}/");

        let mut tls = config::UpstreamTls {
            ca_file: Some(file.path().to_owned()),
            only_ca_file: true,
            server_name: Some("crossbar.internal".into()),
        };
        let transport = ReqwestTransport::new(tls.clone()).unwrap();
        let server = async {
            let io = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            assert_eq!(io.get_ref().1.server_name(), Some("crossbar.internal"));
            answer(io, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
        };
        let (response, request) = tokio::join!(transport.send(get(&url)), server);
        assert_eq!(response.unwrap().status().as_u16(), 200);
        assert!(request.to_lowercase().contains(&format!("host: {address}\r\n")), "{request}");

        // Without the name the certificate is not accepted, and the error says so.
        tls.server_name = None;
        let transport = ReqwestTransport::new(tls).unwrap();
        let server = async {
            let _ = acceptor.accept(listener.accept().await.unwrap().0).await;
        };
        let (response, ()) = tokio::join!(transport.send(get(&url)), server);
        let error = response.unwrap_err();
        assert!(matches!(error, TransportError::Tls(_)), "{error:?}");
    }
}
