//! Blackhole's HTTP side: the upgrade to WebSocket, and what everything else is answered (R26, R27).
//!
//! Written on the raw connection, because its answers differ from what a web framework would say: a sub-protocol is refused,
//! an old version is taken, and most refusals leave the connection open for the next request.

use std::{io, net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    cluster::Cluster,
    record::Happening,
    session::{self, Io, Upgraded},
};
use crate::binding::{AccountId, Flavour};

/// The longest head of a request.
const MAX_HEAD: usize = 64 << 10;

/// Serves a connection: upgrades it, and runs its session.
pub(super) async fn serve<S: Io>(cluster: Arc<Cluster>, connection: u64, stream: S, peer: SocketAddr) {
    let stop = cluster.stop.clone();
    let upgraded = tokio::select! {
        () = stop.cancelled() => return,
        upgraded = upgrade(&cluster, connection, stream, peer) => upgraded,
    };
    if let Ok(Some(upgraded)) = upgraded {
        session::run(cluster, connection, peer, upgraded).await;
    }
}

/// Answers requests until one is an upgrade.
async fn upgrade<S: Io>(
    cluster: &Cluster,
    connection: u64,
    mut stream: S,
    peer: SocketAddr,
) -> io::Result<Option<Upgraded<S>>> {
    let mut buffer = Vec::new();
    loop {
        // A connection that sends no request is closed without a word (F4).
        let Ok(read) = timeout(cluster.settings.request_timeout, read_head(&mut stream, &mut buffer)).await
        else {
            return Ok(None);
        };
        let Some(head) = read? else { return Ok(None) };
        let date = date(cluster);
        match answer(&head, cluster, peer) {
            Answer::Upgrade { accept, account } => {
                let response = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\ndate: {date}\r\n\
                     sec-websocket-accept: {accept}\r\nserver: Cowboy\r\nupgrade: websocket\r\n\r\n"
                );
                stream.write_all(response.as_bytes()).await?;
                return Ok(Some(Upgraded { stream, early: buffer, account }));
            }
            Answer::Refuse(refusal) => {
                cluster.note(connection, Happening::Refused { status: refusal.status() });
                stream.write_all(refusal.text(&date, cluster.settings.flavour).as_bytes()).await?;
                if refusal.closes() {
                    stream.shutdown().await?;
                    return Ok(None);
                }
                skip_body(&mut stream, &mut buffer, head.content_length).await?;
            }
        }
    }
}

/// The head of a request, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    malformed: bool,
    get: bool,
    http_1_0: bool,
    host: bool,
    upgrade: bool,
    key: Option<String>,
    version: Option<String>,
    protocol: Option<String>,
    authorization: Option<String>,
    content_length: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// `account`: whose token the request carried (G12).
    Upgrade {
        accept: String,
        account: Option<AccountId>,
    },
    Refuse(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// No HTTP at all, or no `Host`: refused by the parser.
    Malformed,
    /// HTTP/1.0.
    TooOld,
    /// A sub-protocol was asked for, or a key or version is missing.
    Bad,
    /// `Sec-WebSocket-Protocol` with nothing in it, or an `Authorization` that cannot be read: crashes the handler.
    Crash,
    /// `max_connections_per_ip` is reached.
    TooMany,
    /// No upgrade was asked for.
    UpgradeRequired,
    /// A bad token in the upgrade (K5).
    Forbidden,
    /// By a fault, with this status.
    Fault(u16),
}

impl Refusal {
    fn status(self) -> u16 {
        match self {
            Refusal::Malformed | Refusal::TooOld | Refusal::Bad | Refusal::Crash => 400,
            Refusal::TooMany => 429,
            Refusal::UpgradeRequired => 426,
            Refusal::Forbidden => 403,
            Refusal::Fault(status) => status,
        }
    }

    fn closes(self) -> bool {
        matches!(self, Refusal::Malformed | Refusal::TooOld)
    }

    fn text(self, date: &str, flavour: Flavour) -> String {
        let vary = if flavour == Flavour::K5 { "vary: accept-encoding\r\n" } else { "" };
        let stamp = format!("date: {date}\r\nserver: Cowboy\r\n");
        let own = format!("{stamp}{vary}");
        match self {
            Refusal::Malformed => {
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into()
            }
            Refusal::TooOld => {
                format!("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n{own}\r\n")
            }
            Refusal::Bad => format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n{own}\r\n"),
            Refusal::Crash => "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".into(),
            Refusal::TooMany => format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n{own}\r\n"),
            Refusal::Forbidden => format!("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n{own}\r\n"),
            Refusal::Fault(status) => format!("HTTP/1.1 {status} Fault\r\ncontent-length: 0\r\n\r\n"),
            Refusal::UpgradeRequired => format!(
                "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\ncontent-length: 0\r\n{stamp}\
                 upgrade: websocket\r\n{vary}\r\n"
            ),
        }
    }
}

/// In the order of the real one: the parser, blackhole's own checks, then the WebSocket layer's.
fn answer(head: &Head, cluster: &Cluster, peer: SocketAddr) -> Answer {
    let refusal = if head.malformed || (!head.http_1_0 && !head.host) {
        Refusal::Malformed
    } else if let Some(status) = cluster.faults.refuses_upgrades() {
        Refusal::Fault(status)
    } else if let Some(protocol) = &head.protocol {
        if protocol.trim().is_empty() { Refusal::Crash } else { Refusal::Bad }
    } else if let Err(refusal) = authorize(head, cluster) {
        refusal
    } else if cluster.is_full_for(peer.ip()) {
        Refusal::TooMany
    } else if head.http_1_0 {
        Refusal::TooOld
    } else if !head.get || !head.upgrade {
        Refusal::UpgradeRequired
    } else {
        // Versions 7, 8 and 13 are one and the same to the server.
        let version =
            head.version.as_deref().is_some_and(|version| ["7", "8", "13"].contains(&version.trim()));
        match &head.key {
            Some(key) if version => {
                let account = authorize(head, cluster).unwrap_or_default();
                return Answer::Upgrade { accept: derive_accept_key(key.trim().as_bytes()), account };
            }
            _ => Refusal::Bad,
        }
    };
    Answer::Refuse(refusal)
}

/// What an `Authorization` in the upgrade does: nothing but on K5, where it logs in or refuses (G12).
fn authorize(head: &Head, cluster: &Cluster) -> Result<Option<AccountId>, Refusal> {
    let Some(authorization) =
        head.authorization.as_deref().filter(|_| cluster.settings.flavour == Flavour::K5)
    else {
        return Ok(None);
    };
    if cluster.faults.authorization_crashes() {
        return Err(Refusal::Fault(500));
    }
    let (scheme, value) = authorization.trim().split_once(' ').ok_or(Refusal::Crash)?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => cluster.authenticate(value.trim()).map(Some).ok_or(Refusal::Forbidden),
        "basic" => Err(Refusal::Forbidden),
        _ => Err(Refusal::Crash),
    }
}

/// Reads one head; what came behind it stays in `buffer`. `None` where the client closed.
async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    loop {
        if !buffer.is_empty() {
            if let Some((head, length)) = parse(buffer) {
                buffer.drain(..length);
                return Ok(Some(head));
            }
            if buffer.len() > MAX_HEAD {
                return Ok(Some(Head { malformed: true, ..Head::default() }));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// The head at the start of `bytes` and its length, once it is there whole.
fn parse(bytes: &[u8]) -> Option<(Head, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some((Head { malformed: true, ..Head::default() }, bytes.len())),
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).into_owned())
    };
    let has_token = |name: &str, token: &str| {
        header(name).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let head = Head {
        malformed: false,
        get: request.method == Some("GET"),
        http_1_0: request.version == Some(0),
        host: header("host").is_some(),
        upgrade: has_token("upgrade", "websocket") && has_token("connection", "upgrade"),
        key: header("sec-websocket-key"),
        version: header("sec-websocket-version"),
        protocol: header("sec-websocket-protocol"),
        authorization: header("authorization"),
        content_length: header("content-length").and_then(|value| value.trim().parse().ok()).unwrap_or(0),
    };
    Some((head, length))
}

/// Passes over the body of a request that was refused.
async fn skip_body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    mut length: usize,
) -> io::Result<()> {
    loop {
        let skipped = length.min(buffer.len());
        buffer.drain(..skipped);
        length -= skipped;
        if length == 0 || stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn date(cluster: &Cluster) -> String {
    let now = Timestamp::try_from(cluster.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::Settings;

    const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 4711);

    fn answer_to(request: &str) -> Answer {
        let (head, length) = parse(request.as_bytes()).unwrap();
        assert_eq!(length, request.len());
        answer(&head, &Cluster::new(Settings::default()), SocketAddr::from(PEER))
    }

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(answer_to(request), Answer::Upgrade { accept, account: None });
    }

    #[test]
    fn refusals_are_told_apart() {
        for (request, refusal) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Refusal::UpgradeRequired),
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("garbage\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.0\r\n\r\n", Refusal::TooOld),
            ("GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n", Refusal::Bad),
            ("GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: \r\n\r\n", Refusal::Crash),
        ] {
            assert_eq!(answer_to(request), Answer::Refuse(refusal), "{request}");
        }
    }

    #[test]
    fn a_head_is_waited_for() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
    }
}
