//! One session: a WebSocket after its upgrade, until it ends.

use std::{net::SocketAddr, sync::Arc};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    net::TcpStream,
    sync::mpsc::{self, UnboundedReceiver},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    bucket::Bucket,
    node::Node,
    record::{Ending, Frame, Happening},
    request::{Context, Crash},
};

/// How long the other side's part of a close is waited for.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Frames written in one go, so that a burst does not keep the socket from being read.
const BATCH: usize = 64;

/// Runs a session. `early` is what the client sent behind its upgrade.
pub(super) async fn run(
    node: Arc<Node>,
    connection: u64,
    stream: TcpStream,
    peer: SocketAddr,
    early: Vec<u8>,
) {
    // Messages of any size are taken (F9).
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    let (outbox, texts) = mpsc::unbounded_channel();
    let cut = node.open(connection, peer, outbox);
    let bucket = Bucket::full(node.settings.rate_limit, node.settings.stopwatch.elapsed());
    let context = Context::new(connection, peer.to_string(), bucket);
    let mut session = Session { node: Arc::clone(&node), connection, socket, texts, cut, context };

    let ending = session.live().await;
    if let Ending::Server(code) = ending {
        session.close(code).await;
    }
    node.close(connection, &session.context);
    node.note(connection, Happening::Closed(ending));
}

struct Session {
    node: Arc<Node>,
    connection: u64,
    socket: WebSocketStream<TcpStream>,
    /// Texts to send, in order: events and replies go the same way.
    texts: UnboundedReceiver<Utf8Bytes>,
    cut: CancellationToken,
    context: Context,
}

impl Session {
    async fn live(&mut self) -> Ending {
        let idle_timeout = self.node.settings.idle_timeout;
        let mut idle = Box::pin(tokio::time::sleep(idle_timeout));
        loop {
            // What is queued goes out before the next request is looked at, as in the real one, where both are messages to
            // one process. (So a client that asks after an event was published gets the event first.)
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Ending::Cut,
                Some(text) = self.texts.recv() => {
                    if let Err(ending) = self.send(text).await {
                        return ending;
                    }
                }
                message = self.socket.next() => {
                    // Only bytes from the client count; what it is sent does not (F8).
                    idle.as_mut().reset(Instant::now() + idle_timeout);
                    if let Some(ending) = self.take(message) {
                        return ending;
                    }
                }
                () = &mut idle => return Ending::Server(1000),
            }
        }
    }

    /// Sends a text and what else is queued.
    async fn send(&mut self, first: Utf8Bytes) -> Result<(), Ending> {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match self.texts.try_recv() {
                Ok(text) => batch.push(text),
                Err(_) => break,
            }
        }
        let socket = &mut self.socket;
        let write = async {
            for text in &batch {
                socket.feed(Message::Text(text.clone())).await?;
            }
            socket.flush().await
        };
        let written = tokio::select! {
            () = self.cut.cancelled() => return Err(Ending::Cut),
            written = timeout(self.node.settings.send_timeout, write) => written,
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Ending::Lost),
            Err(_) => return Err(Ending::Slow),
        }
        for text in batch {
            self.node.note(self.connection, Happening::Sent(Frame::Text(text)));
        }
        Ok(())
    }

    /// Takes what came from the socket. Answers to pings and to a close are the protocol layer's business.
    fn take(&mut self, message: Option<Result<Message, Error>>) -> Option<Ending> {
        let received = |frame| self.node.note(self.connection, Happening::Received(frame));
        match message {
            Some(Ok(Message::Text(text))) => {
                received(Frame::Text(text.clone()));
                return self.request(&text).err().map(|Crash| Ending::Server(1011));
            }
            // Ignored without a word (F10).
            Some(Ok(Message::Binary(bytes))) => received(Frame::Binary(bytes)),
            Some(Ok(Message::Ping(bytes))) => received(Frame::Ping(bytes)),
            Some(Ok(Message::Pong(bytes))) => received(Frame::Pong(bytes)),
            Some(Ok(Message::Close(close))) => {
                received(Frame::Close(close.map(|close| close.code.into())));
            }
            Some(Ok(Message::Frame(_))) => {}
            // The client's close was answered.
            None | Some(Err(Error::ConnectionClosed)) => return Some(Ending::Client),
            Some(Err(Error::Utf8(_))) => return Some(Ending::Server(1007)),
            Some(Err(Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ))) => return Some(Ending::Lost),
            Some(Err(Error::Protocol(_) | Error::Capacity(_))) => return Some(Ending::Server(1002)),
            Some(Err(_)) => return Some(Ending::Lost),
        }
        None
    }

    fn request(&mut self, text: &str) -> Result<(), Crash> {
        let outcome = self.context.handle(&self.node, text)?;
        // Queued before the broker changes: no event that a subscription brings can overtake its reply. The other end of
        // the queue is held by the node for as long as the session is open.
        self.node.inject(&outcome.reply, Some(self.connection));
        self.node.apply(outcome.changes);
        self.node.update(self.connection, &self.context);
        Ok(())
    }

    /// Closes with a code, and waits for the client's part.
    async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
        let socket = &mut self.socket;
        let farewell = async {
            if socket.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        tokio::select! {
            () = self.cut.cancelled() => {}
            _ = timeout(CLOSE_TIMEOUT, farewell) => {}
        }
        self.node.note(self.connection, Happening::Sent(Frame::Close(Some(code))));
    }
}
