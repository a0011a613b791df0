//! The client's side of the wire: a WebSocket that tells text frames from the rest, raw HTTP, and a plain request.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use hawking::{sim::Simulator, upstream::BoxedIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, Utf8Bytes, client::IntoClientRequest as _, http, protocol::CloseFrame},
};

/// Longer than anything takes; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An open WebSocket.
pub struct Socket {
    inner: WebSocketStream<BoxedIo>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// A text frame.
    Text(String),
    /// A ping: K5 alone, where `keep_client_alive` is on.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame with its code.
    Close(Option<u16>),
    /// The end of TCP.
    End,
}

/// The answer to an upgrade.
pub struct Upgraded {
    /// Its status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Where it was accepted.
    pub socket: Option<Socket>,
}

/// Asks for an upgrade.
pub async fn upgrade(to: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Upgraded {
    let stream = TcpStream::connect(to).await.unwrap();
    upgrade_on(Box::new(stream), &format!("ws://{to}{path}"), headers).await
}

/// The same over a pipe to an in-memory simulator.
pub async fn upgrade_in_memory(sim: &Simulator) -> Upgraded {
    let url = sim.blackhole_url();
    let pipe = sim.dial().dial(url.host_str().unwrap(), 5555).await.unwrap();
    upgrade_on(pipe, url.as_str(), &[]).await
}

async fn upgrade_on(stream: BoxedIo, url: &str, headers: &[(&'static str, &str)]) -> Upgraded {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let texts = |headers: &http::HeaderMap| {
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    };
    match timeout(PATIENCE, client_async(request, stream)).await.expect("an answer to the upgrade") {
        Ok((inner, response)) => Upgraded {
            status: response.status().as_u16(),
            headers: texts(response.headers()),
            socket: Some(Socket { inner }),
        },
        Err(Error::Http(response)) => {
            Upgraded { status: response.status().as_u16(), headers: texts(response.headers()), socket: None }
        }
        Err(error) => panic!("the upgrade failed: {error}"),
    }
}

impl Socket {
    /// Sends a frame.
    pub async fn send(&mut self, message: Message) {
        self.inner.send(message).await.unwrap();
    }

    /// Sends a close frame.
    pub async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
        self.inner.close(Some(frame)).await.unwrap();
    }

    /// What comes next; `None` where nothing does. Binary frames never come from blackhole, so they panic.
    pub async fn next(&mut self) -> Option<Came> {
        let next = timeout(PATIENCE, self.inner.next()).await.ok()?;
        Some(match next {
            Some(Ok(Message::Text(text))) => Came::Text(text.as_str().to_owned()),
            Some(Ok(Message::Ping(bytes))) => Came::Ping(bytes.to_vec()),
            Some(Ok(Message::Pong(bytes))) => Came::Pong(bytes.to_vec()),
            Some(Ok(Message::Close(frame))) => Came::Close(frame.map(|frame| frame.code.into())),
            Some(Ok(other)) => panic!("the server sent {other:?}"),
            None | Some(Err(_)) => Came::End,
        })
    }

    /// Everything that the server sends before it answers a ping that is sent now. The simulator sends what it has queued
    /// before it looks at the next frame, so this is all that the past has caused.
    pub async fn settle(&mut self) -> Vec<Came> {
        let mark = b"settle".to_vec();
        let mut before = Vec::new();
        if self.inner.send(Message::Ping(mark.clone().into())).await.is_err() {
            before.push(Came::End);
            return before;
        }
        loop {
            match self.next().await {
                Some(Came::Pong(bytes)) if bytes == mark => return before,
                Some(Came::End) | None => {
                    before.push(Came::End);
                    return before;
                }
                Some(came) => before.push(came),
            }
        }
    }
}

/// Sends bytes on a connection of their own. Returns what is answered, and whether the connection is then still open: after
/// an answer that announces the end, the end is waited for; after another one, `quiet`.
pub async fn raw(to: SocketAddr, bytes: &[u8], quiet: Duration) -> (String, bool) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    loop {
        let whole = answer.ends_with(b"\r\n\r\n");
        let closing = String::from_utf8_lossy(&answer).contains("connection: close");
        let patience = if whole && !closing { quiet } else { PATIENCE };
        match timeout(patience, stream.read_buf(&mut answer)).await {
            Ok(Ok(0)) => return (String::from_utf8(answer).unwrap(), false),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => panic!("the connection broke: {error}"),
            Err(_) => return (String::from_utf8(answer).unwrap(), true),
        }
    }
}

/// One HTTP request; the status and body of its answer.
pub async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
