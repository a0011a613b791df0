//! One session: a WebSocket after its upgrade, until it ends.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, future::poll_fn, poll};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    bucket::Bucket,
    cluster::Cluster,
    inbound::Inbound,
    outbox::{Errand, Outbox},
    record::{Ending, Frame, Happening, Loss},
    request::{Change, Context, Crash},
};
use crate::binding::AccountId;

/// How long the other side's part of a close is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Frames written in one go, so that a burst does not keep a whole thread.
const BATCH: usize = 64;

/// A stream of bytes that a session runs on.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A connection that was upgraded.
pub(super) struct Upgraded<S> {
    pub stream: S,
    /// What the client sent behind its upgrade.
    pub early: Vec<u8>,
    /// What the upgrade authenticated it as.
    pub account: Option<AccountId>,
}

/// Runs a session.
pub(super) async fn run<S: Io>(
    cluster: Arc<Cluster>,
    connection: u64,
    peer: SocketAddr,
    Upgraded { stream, early, account }: Upgraded<S>,
) {
    // Messages of any size are taken (F9); what is written goes to the socket at once, so that what waits for it is known.
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None).write_buffer_size(0);
    let stream = Inbound::new(stream);
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    let opened = cluster.open(connection, peer);
    let bucket = Bucket::full(cluster.settings.rate_limit, cluster.settings.stopwatch.elapsed());
    let mut session = Session {
        context: Context::new(connection, peer.to_string(), bucket, cluster.settings.flavour, account),
        cluster: Arc::clone(&cluster),
        connection,
        socket,
        node: opened.node,
        outbox: opened.outbox,
        cut: opened.cut,
        late: VecDeque::new(),
    };

    let ending = session.live().await;
    if let Ending::Server(code) = ending {
        session.close(code).await;
    }
    for text in session.outbox.end() {
        session.note(Happening::Lost(Frame::Text(text), Loss::Unsent));
    }
    // What is still to come about comes about, so that closing takes back what there is.
    while let Some((_, changes)) = session.late.pop_front() {
        session.apply(changes);
    }
    cluster.close(connection, session.node, &session.context);
    session.note(Happening::Closed(ending));
    session.part().await;
}

struct Session<S> {
    cluster: Arc<Cluster>,
    connection: u64,
    socket: WebSocketStream<Inbound<S>>,
    /// The node of the cluster that it is on.
    node: usize,
    /// Texts to send, in order: events and replies go the same way.
    outbox: Arc<Outbox>,
    cut: CancellationToken,
    context: Context,
    /// Changes to the broker that take their time.
    late: VecDeque<(Instant, Vec<Change>)>,
}

impl<S: Io> Session<S> {
    fn note(&self, what: Happening) {
        self.cluster.note(self.connection, what);
    }

    async fn live(&mut self) -> Ending {
        let mut silent_since = Instant::now();
        let mut idle_timeout = self.cluster.idle_timeout();
        let mut keep_alive = self.cluster.keep_alive();
        let mut pinged = Instant::now();
        let mut written = 0;
        loop {
            let idle_at = silent_since + *idle_timeout.borrow_and_update();
            let late = self.late.front().map(|(at, _)| *at);
            let frozen = self.outbox.is_frozen();
            let ping_at = keep_alive.borrow_and_update().map(|interval| pinged + interval);
            // What is queued goes out before the next request is looked at, as in the real one, where both are messages to
            // one process. (So a client that asks after an event was published gets the event first.) What came while the
            // socket took nothing has its own turn.
            let in_turn = match self.outbox.next_number().filter(|_| !frozen) {
                Some(next) => self.socket.get_mut().has_turn(next),
                None => {
                    self.socket.get_mut().all_have_turn();
                    false
                }
            };
            while in_turn && let Poll::Ready(message) = poll!(self.socket.next()) {
                silent_since = Instant::now();
                if let Some(ending) = self.take(message) {
                    return ending;
                }
            }
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Ending::Cut,
                errand = self.outbox.next() => match errand {
                    Errand::Write(text) => {
                        if let Err(ending) = self.write(Message::Text(text)).await {
                            return ending;
                        }
                        written += 1;
                        if written % BATCH == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                    Errand::Close(code) => return Ending::Server(code),
                    Errand::Froze => {}
                },
                () = sleep_until(late.unwrap_or(idle_at)), if late.is_some() => {
                    if let Some((_, changes)) = self.late.pop_front() {
                        self.apply(changes);
                    }
                }
                message = self.socket.next(), if !frozen => {
                    // Only bytes from the client count; what it is sent does not (F8).
                    silent_since = Instant::now();
                    if let Some(ending) = self.take(message) {
                        return ending;
                    }
                }
                _ = idle_timeout.changed() => {}
                _ = keep_alive.changed() => {}
                () = sleep_until(ping_at.unwrap_or(idle_at)), if ping_at.is_some() && !frozen => {
                    pinged = Instant::now();
                    if let Err(ending) = self.write(Message::Ping(Bytes::new())).await {
                        return ending;
                    }
                }
                () = sleep_until(idle_at), if !frozen => return Ending::Server(1000),
            }
        }
    }

    /// Writes a text or a ping to the socket; waits where it takes no more.
    async fn write(&mut self, message: Message) -> Result<(), Ending> {
        let frame = || match &message {
            Message::Text(text) => Frame::Text(text.clone()),
            other => Frame::Ping(other.clone().into_data()),
        };
        let lost = |loss| Happening::Lost(frame(), loss);
        let (socket, outbox) = (&mut self.socket, &self.outbox);
        let mut unsent = Some(message.clone());
        let mut write = poll_fn(|cx| {
            if unsent.is_some() {
                ready!(socket.poll_ready_unpin(cx))?;
            }
            if let Some(message) = unsent.take() {
                socket.start_send_unpin(message)?;
            }
            let written = socket.poll_flush_unpin(cx);
            if written.is_pending() && !outbox.is_frozen() {
                socket.get_mut().poll_keep(cx, outbox.queued());
            }
            written
        });
        // The scheduler's patience must not be taken for the socket's.
        let written = match poll!(tokio::task::unconstrained(&mut write)) {
            Poll::Ready(written) => Ok(written),
            Poll::Pending => {
                for vanished in outbox.block() {
                    let lost = Happening::Lost(Frame::Text(vanished), Loss::Queue);
                    self.cluster.note(self.connection, lost);
                }
                let written = tokio::select! {
                    () = self.cut.cancelled() => Err(Ending::Cut),
                    written = timeout(self.cluster.settings.send_timeout(), tokio::task::unconstrained(write)) => {
                        written.map_err(|_| Ending::Slow)
                    }
                };
                outbox.unblock();
                written
            }
        };
        match written {
            Ok(Ok(())) => {
                self.note(Happening::Sent(frame()));
                Ok(())
            }
            Ok(Err(_)) => {
                self.note(lost(Loss::Torn));
                Err(Ending::Lost)
            }
            Err(ending) => {
                self.note(lost(Loss::Torn));
                Err(ending)
            }
        }
    }

    /// Takes what came from the socket. Answers to pings and to a close are the protocol layer's business.
    fn take(&mut self, message: Option<Result<Message, Error>>) -> Option<Ending> {
        let received = |frame| self.note(Happening::Received(frame));
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
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                return Some(Ending::Lost);
            }
            Some(Err(Error::Protocol(_) | Error::Capacity(_))) => return Some(Ending::Server(1002)),
            Some(Err(_)) => return Some(Ending::Lost),
        }
        None
    }

    fn request(&mut self, text: &str) -> Result<(), Crash> {
        let before = self.context.account();
        let outcome = self.context.handle(&self.cluster, text)?;
        // Queued before the broker changes: no event that a subscription brings can overtake its reply.
        if let Some(reply) = outcome.reply {
            self.cluster.reply(self.connection, reply);
        }
        let listed = |change: &Change| matches!(change, Change::Bind { .. } | Change::Unbind { .. });
        if outcome.changes.iter().any(listed) || self.context.account() != before {
            self.cluster.update(self.connection, &self.context);
        }
        let delay = self.cluster.faults.bind_delay();
        if outcome.changes.is_empty() || (delay.is_zero() && self.late.is_empty()) {
            self.apply(outcome.changes);
        } else {
            // In the order of the requests.
            let after = self.late.back().map_or_else(Instant::now, |(at, _)| *at);
            self.late.push_back(((Instant::now() + delay).max(after), outcome.changes));
        }
        Ok(())
    }

    fn apply(&self, changes: Vec<Change>) {
        self.cluster.apply(self.node, changes);
    }

    /// Closes with a code, and waits for the client's part.
    async fn close(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::default() };
        let socket = &mut self.socket;
        let mut sent = false;
        let farewell = async {
            if socket.close(Some(frame)).await.is_ok() {
                sent = true;
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        tokio::select! {
            () = self.cut.cancelled() => {}
            _ = timeout(CLOSE_TIMEOUT, farewell) => {}
        }
        let frame = Frame::Close(Some(code));
        self.note(if sent { Happening::Sent(frame) } else { Happening::Lost(frame, Loss::Unsent) });
    }

    /// Ends TCP behind all that was sent, and reads to its end what comes: closing a socket that holds something unread would
    /// throw away what is still under way to the client.
    async fn part(mut self) {
        let stream = self.socket.get_mut();
        let stop = self.cluster.stop.clone();
        let drain = async {
            let mut scratch = [0; 4096];
            if stream.shutdown().await.is_ok() {
                while let Ok(1..) = stream.read(&mut scratch).await {}
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = timeout(CLOSE_TIMEOUT, drain) => {}
        }
    }
}
