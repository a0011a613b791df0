//! From a URL to an open WebSocket: TCP, TLS for wss, the upgrade.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::StatusCode;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, protocol::WebSocketConfig},
};
use url::{Host, Url};

use crate::config;

use super::tls::{self, TlsSetupError};

/// The largest message taken from upstream, in bytes. Events reach 1 MB (F40); the reply to a subscribe lists all that the
/// session holds and reached 128 MB with 3,000 call ids (F25), which the cover never asks for.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// What is read at once, in bytes: some ten events. tungstenite fills with zeros what it reads into, before each read: of its
/// own 128 KiB that would be most of what a single event costs, and push all else out of the first cache.
const READ_BYTES: usize = 16 << 10;

/// The longest that one of several addresses of a host may take, so that a dead one does not use up all of
/// `connect_timeout`.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// A two-way stream of bytes.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any [`Io`].
pub type BoxedIo = Box<dyn Io>;

/// Opens connections: the seam at which a test puts a stream of its own.
pub trait Dial: Send + Sync + 'static {
    /// Connects to a host, given by name or address (IPv6 without brackets).
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxedIo>>;
}

/// Opens TCP connections.
#[derive(Debug, Clone, Copy)]
pub struct TcpDial {
    /// How much the system is asked to take in before it is read, in bytes. It may give less: Linux
    /// `net.core.rmem_max`.
    pub receive_buffer: usize,
}

/// The host's name has no address. Carried inside an [`io::Error`], because `std` has no kind for it.
#[derive(Debug, thiserror::Error)]
#[error("the host name cannot be resolved")]
pub struct NotResolved;

impl Dial for TcpDial {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        Box::pin(async move {
            let unresolved = || io::Error::new(io::ErrorKind::NotFound, NotResolved);
            let mut addresses =
                tokio::net::lookup_host((host, port)).await.map_err(|_| unresolved())?.peekable();
            let mut last = unresolved();
            while let Some(address) = addresses.next() {
                let connecting = self.connect(address);
                let connected = match addresses.peek() {
                    Some(_) => tokio::time::timeout(ADDRESS_TIMEOUT, connecting)
                        .await
                        .unwrap_or(Err(io::ErrorKind::TimedOut.into())),
                    None => connecting.await,
                };
                match connected {
                    Ok(stream) => {
                        // Commands are small and waited for.
                        stream.set_nodelay(true)?;
                        return Ok(Box::new(stream) as BoxedIo);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

impl TcpDial {
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Before it connects: how far the window can grow is agreed on then. A wish: a system that grants less serves too.
        let _ = socket.set_recv_buffer_size(u32::try_from(self.receive_buffer).unwrap_or(u32::MAX));
        socket.connect(address).await
    }
}

/// Why there is no WebSocket. Texts are our own: what upstream wrote is not in them.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not ws or wss, or has no host.
    #[error("the blackhole URL must be ws://host or wss://host")]
    Url,
    /// The name of the host has no address.
    #[error("the host name of blackhole cannot be resolved")]
    NotResolved,
    /// Nothing listens there.
    #[error("blackhole refuses the connection")]
    Refused,
    /// It took longer than `connect_timeout`.
    #[error("no connection to blackhole within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The connection broke.
    #[error("the connection to blackhole failed: {0}")]
    Io(io::ErrorKind),
    /// TLS is not set up right.
    #[error(transparent)]
    TlsSetup(#[from] TlsSetupError),
    /// The peer's certificate is not accepted, or the handshake failed otherwise.
    #[error("the TLS handshake with blackhole failed: {0}")]
    Tls(String),
    /// The server answered the upgrade with another status than 101. 400: it does not like the request (a sub-protocol,
    /// F2); 403: a token in the upgrade (G12); 429: too many connections from this address (F5).
    #[error("blackhole refuses the WebSocket with HTTP status {}", .0.as_u16())]
    Upgrade(StatusCode),
    /// The answer to the upgrade is no WebSocket handshake.
    #[error("the server does not speak WebSocket")]
    Handshake,
}

impl ConnectError {
    /// Whether trying again soon makes it worse: the server understood and said no.
    pub fn is_refusal(&self) -> bool {
        match self {
            ConnectError::Upgrade(status) => status.is_client_error(),
            ConnectError::Url => true,
            // A file on this machine may be right by the next attempt: half written, or swapped just now.
            _ => false,
        }
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if error.get_ref().is_some_and(|inner| inner.is::<NotResolved>()) => ConnectError::NotResolved,
            io::ErrorKind::ConnectionRefused => ConnectError::Refused,
            kind => ConnectError::Io(kind),
        }
    }
}

/// Opens WebSockets to blackhole.
pub struct Connector {
    dial: Arc<dyn Dial>,
    tls: config::UpstreamTls,
    timeout: Duration,
}

impl Connector {
    /// A connector over `dial`. `timeout` bounds TCP, TLS and the upgrade together.
    pub fn new(dial: Arc<dyn Dial>, tls: config::UpstreamTls, timeout: Duration) -> Self {
        Self { dial, tls, timeout }
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]. Dropping the future closes what was opened.
    pub async fn connect(&self, url: &Url) -> Result<WebSocketStream<BoxedIo>, ConnectError> {
        tokio::time::timeout(self.timeout, self.open(url))
            .await
            .unwrap_or(Err(ConnectError::Timeout(self.timeout)))
    }

    async fn open(&self, url: &Url) -> Result<WebSocketStream<BoxedIo>, ConnectError> {
        let (secure, default_port) = match url.scheme() {
            "ws" => (false, 80),
            "wss" => (true, 443),
            _ => return Err(ConnectError::Url),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(ConnectError::Url),
        };
        let mut io = self.dial.dial(&host, url.port().unwrap_or(default_port)).await?;
        if secure {
            io = self.secure(io, &host).await?;
        }
        upgrade(io, url).await
    }

    async fn secure(&self, io: BoxedIo, host: &str) -> Result<BoxedIo, ConnectError> {
        let name = self.tls.server_name.clone().unwrap_or_else(|| host.to_owned());
        let name =
            ServerName::try_from(name).map_err(|_| ConnectError::Tls("no valid server name".into()))?;
        // Read anew for each connection: connections are rare, and a renewed CA file is then used without a restart.
        let settings = self.tls.clone();
        let config = tokio::task::spawn_blocking(move || tls::client_config(&settings))
            .await
            .map_err(|_| TlsSetupError::Provider)??;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, io).await.map_err(tls_error)?;
        Ok(Box::new(stream))
    }
}

fn tls_error(error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => ConnectError::Tls(tls::in_words(error)),
        None => ConnectError::Io(error.kind()),
    }
}

/// Upgrades. tungstenite's own request has the five headers that a WebSocket needs and no more: no
/// `Sec-WebSocket-Protocol` (F2), no `Authorization` (G12).
async fn upgrade(io: BoxedIo, url: &Url) -> Result<WebSocketStream<BoxedIo>, ConnectError> {
    let mut url = url.clone();
    url.set_fragment(None);
    // They fail only where a URL has no host.
    let _ = url.set_username("");
    let _ = url.set_password(None);

    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    match client_async_with_config(url.as_str(), io, Some(config)).await {
        Ok((stream, _)) => Ok(stream),
        Err(tungstenite::Error::Http(response)) => Err(ConnectError::Upgrade(response.status())),
        Err(tungstenite::Error::Io(error)) => Err(error.into()),
        Err(_) => Err(ConnectError::Handshake),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// Gives out one end of a pipe, once.
    pub(crate) struct PipeDial(pub parking_lot::Mutex<Option<DuplexStream>>);

    impl Dial for PipeDial {
        fn dial<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
            let io = self.0.lock().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into());
            Box::pin(async move { io.map(|io| Box::new(io) as BoxedIo) })
        }
    }

    fn connector(io: Option<DuplexStream>) -> Connector {
        Connector::new(Arc::new(PipeDial(io.into())), config::UpstreamTls::default(), Duration::from_secs(10))
    }

    async fn request(server: &mut DuplexStream) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(server.read_u8().await.unwrap());
        }
        String::from_utf8(request).unwrap().to_ascii_lowercase()
    }

    async fn answered(answer: &str) -> (String, ConnectError) {
        let (client, mut server) = tokio::io::duplex(4096);
        let url = Url::parse("ws://user:secret@blackhole:5555/path?x=1").unwrap();
        let connector = connector(Some(client));
        let (result, request) = tokio::join!(connector.connect(&url), async {
            let request = request(&mut server).await;
            server.write_all(answer.as_bytes()).await.unwrap();
            server.shutdown().await.unwrap();
            request
        });
        (request, result.err().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_upgrade_carries_neither_a_sub_protocol_nor_credentials() {
        let (request, _) = answered("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await;
        assert!(request.starts_with("get /path?x=1 http/1.1\r\n"), "{request}");
        assert!(request.contains("host: blackhole:5555\r\n"), "{request}");
        for absent in ["sec-websocket-protocol", "authorization", "secret", "sec-websocket-extensions"] {
            assert!(!request.contains(absent), "{absent} in {request}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_apart() {
        for status in [400, 403, 429, 426] {
            let (_, error) = answered(&format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await;
            assert!(matches!(&error, ConnectError::Upgrade(s) if s.as_u16() == status), "{error}");
            assert!(error.is_refusal());
        }
        let (_, error) = answered("HTTP/1.1 502 X\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(&error, ConnectError::Upgrade(_)) && !error.is_refusal(), "{error}");
        let (_, error) = answered("SSH-2.0-OpenSSH_9\r\n\r\n").await;
        assert!(matches!(error, ConnectError::Handshake), "{error}");
    }

    /// Nobody has said no: it may be half written, and is read again.
    #[tokio::test]
    async fn a_ca_file_that_is_of_no_use_is_tried_again_soon() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "-----BEGIN CERTIFICATE-----\nMIIB"] {
            std::fs::write(file.path(), text).unwrap();
            let tls = config::UpstreamTls {
                ca_file: Some(file.path().to_owned()),
                only_ca_file: true,
                ..config::UpstreamTls::default()
            };
            let dial = Arc::new(PipeDial(Some(tokio::io::duplex(4096).0).into()));
            let connector = Connector::new(dial, tls, Duration::from_secs(10));
            let error = connector.connect(&Url::parse("wss://b/").unwrap()).await.err().unwrap();
            let of_file = matches!(&error, ConnectError::TlsSetup(TlsSetupError::NoCertificate { .. }));
            assert!(of_file && !error.is_refusal(), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let (client, _server) = tokio::io::duplex(4096);
        let error = connector(Some(client)).connect(&Url::parse("ws://b/").unwrap()).await.err().unwrap();
        assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
        assert_eq!(error.to_string(), "no connection to blackhole within 10s");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_listens() {
        let error = connector(None).connect(&Url::parse("ws://b/").unwrap()).await.err().unwrap();
        assert!(matches!(error, ConnectError::Refused), "{error}");
        let error = connector(None).connect(&Url::parse("http://b/").unwrap()).await.err().unwrap();
        assert!(matches!(error, ConnectError::Url), "{error}");
    }
}
