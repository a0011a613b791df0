//! One connection, from its first byte to its last. One task drives the `h2` connection and all of its calls.
//!
//! - `attention`: which of the calls have something to do.
//! - `call`: what one of them does.
//!
//! What all calls have to say in one turn is written at once: see [`coalesce`](super::coalesce).

mod attention;
mod call;

use std::{
    future::Future,
    io, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{Ping, PingPong, RecvStream, server::SendResponse};
use http::Request;
use slab::Slab;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    config, hub,
    telemetry::metrics::{ConnectionCounts, ConnectionEnd},
};

use self::{
    attention::{Held, Ready},
    call::{Call, RequestBody, Turn, earlier},
};
use super::{
    coalesce::{self, Coalesced, Outlet, coalesce},
    ended::Cause,
    services::{Caller, Services},
    tls::TlsError,
};

/// Headers of one request, in bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;
/// What a client has sent once it said hello: the preface of HTTP/2 and the head of its SETTINGS frame.
const HELLO: u64 = 24 + 9;
/// How often in a turn the transport is asked again, because calls went on and others became ready.
const ROUNDS_PER_TURN: usize = 4;
/// Bytes that calls give to `h2` before the transport is asked to take them, all together: as much as goes into one write, with
/// room for what the connection itself has to say. So what is held for a transport that takes nothing is little more than
/// that, however many calls it has.
const BYTES_PER_ROUND: usize = coalesce::CAPACITY - 1024;
/// Stalled calls are looked at so often within `stall_timeout`.
const SWEEPS_PER_TIMEOUT: u32 = 8;

/// Why a connection ended, if not because both sides were done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("no HTTP/2 hello within {0:?}")]
    Hello(Duration),
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("no answer to a ping within {0:?}")]
    Ping(Duration),
    #[error("no HTTP/2: {0}")]
    Handshake(h2::Error),
    #[error(transparent)]
    Http(#[from] h2::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves one connection to its end; `drain` asks for that end. `transport` is what has to happen before HTTP/2: it gives
/// what that is spoken over.
pub(crate) async fn serve<IO>(
    transport: impl Future<Output = Result<IO, TlsError>>,
    peer: SocketAddr,
    services: Services,
    drain: CancellationToken,
) -> Result<(), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let counts = Arc::<ConnectionCounts>::default();
    let counted = services.counts().connection_accepted(counts.clone());
    let ended = drive(transport, counts, peer, services, drain).await;
    counted.ended(match &ended {
        Ok(()) => ConnectionEnd::Done,
        Err(ConnectionError::Hello(_)) => ConnectionEnd::HelloTimeout,
        Err(ConnectionError::Tls(_)) => ConnectionEnd::Tls,
        Err(ConnectionError::Ping(_)) => ConnectionEnd::PingTimeout,
        Err(ConnectionError::Handshake(_)) => ConnectionEnd::Handshake,
        Err(ConnectionError::Http(_)) => ConnectionEnd::Http,
        Err(ConnectionError::Io(_)) => ConnectionEnd::Io,
    });
    ended
}

async fn drive<IO>(
    transport: impl Future<Output = Result<IO, TlsError>>,
    counts: Arc<ConnectionCounts>,
    peer: SocketAddr,
    services: Services,
    drain: CancellationToken,
) -> Result<(), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = services.settings();
    let hello_until = Instant::now() + settings.handshake_timeout;
    let begin = async {
        let (io, outlet) = coalesce(transport.await?, counts);
        Ok::<_, ConnectionError>((handshake(io, &outlet, &settings).await?, outlet))
    };
    let (http, outlet) = tokio::select! {
        // Nobody to tell yet.
        () = drain.cancelled() => return Ok(()),
        () = sleep_until(hello_until) => return Err(ConnectionError::Hello(settings.handshake_timeout)),
        begun = begin => begun?,
    };
    Pump::new(http, outlet, hello_until, services, Caller { peer, drain }, settings).await
}

async fn handshake<IO>(
    io: Coalesced<IO>,
    outlet: &Outlet<IO>,
    settings: &config::Grpc,
) -> Result<h2::server::Connection<Coalesced<IO>, Bytes>, ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(settings.send_buffer_bytes)
        .handshake(io);
    let mut handshake = pin!(handshake);
    std::future::poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        match outlet.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => polled.map_err(ConnectionError::Handshake),
        }
    })
    .await
}

/// Drives a connection that has been established. As it holds everything, dropping it ends everything.
struct Pump<IO> {
    /// Before `http`: what `h2` hears last is that the streams are gone.
    calls: Slab<Call>,
    http: h2::server::Connection<Coalesced<IO>, Bytes>,
    outlet: Outlet<IO>,
    services: Services,
    caller: Caller,
    stall_timeout: Duration,
    ready: Arc<Ready>,
    /// Wakes `ready`.
    waker: Waker,
    /// Calls that are to be polled in this turn.
    due: Vec<usize>,
    /// Calls that wait until the transport takes more. They come first then.
    held: Held,
    turn: Turn,
    /// Runs while any call is stalled.
    sweep: Option<Pin<Box<Sleep>>>,
    /// Rings when the next stream reaches its greatest age, if there is one.
    expiry: Option<Pin<Box<Sleep>>>,
    /// `None` once it has begun.
    drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    watch: BoxFuture<'static, ConnectionError>,
    /// Woken, but not polled before all others that are awake now have had their turn.
    gave_way: bool,
}

impl<IO> Pump<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn new(
        mut http: h2::server::Connection<Coalesced<IO>, Bytes>,
        outlet: Outlet<IO>,
        hello_until: Instant,
        services: Services,
        caller: Caller,
        settings: Arc<config::Grpc>,
    ) -> Self {
        let ready = Ready::new();
        let stall_timeout = settings.stall_timeout;
        Self {
            calls: Slab::new(),
            watch: Box::pin(watch(http.ping_pong(), outlet.clone(), hello_until, settings)),
            http,
            outlet,
            services,
            drain: Some(Box::pin(caller.drain.clone().cancelled_owned())),
            caller,
            stall_timeout,
            waker: ready.clone().into(),
            ready,
            due: Vec::new(),
            held: Held::default(),
            turn: Turn {
                now: Instant::now(),
                grants: 0,
                room: 0,
                expires: None,
                stalled: false,
                draining: false,
            },
            sweep: None,
            expiry: None,
            gave_way: false,
        }
    }

    /// Lets the calls that are ready do what they can.
    fn poll_calls(&mut self) {
        let blocked = self.outlet.is_blocked();
        if !blocked {
            self.held.release(&mut self.due);
        }
        self.ready.take(&mut self.due);
        self.turn.room = BYTES_PER_ROUND;
        for key in self.due.drain(..) {
            let Some(call) = self.calls.get_mut(key) else { continue };
            if self.turn.room == 0 {
                self.held.hold(key);
                continue;
            }
            let polled = if blocked {
                // It would only fill buffers. Later it has more to say at once.
                let polled = call.poll_reset();
                if polled.is_pending() {
                    self.held.hold(key);
                }
                polled
            } else {
                call.poll(&mut self.turn)
            };
            if polled.is_ready() {
                self.calls.remove(key);
            }
        }
    }

    /// Reads and writes frames, and takes in new calls. Ready when the connection has ended.
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        loop {
            let accepted = pin!(self.http.accept()).poll(cx);
            match ready!(accepted) {
                Some(Ok((request, respond))) => self.begin(request, respond),
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let answer = self.services.clone().call(self.caller.clone(), request.map(RequestBody));
        let entry = self.calls.vacant_entry();
        let key = entry.key();
        entry.insert(Call::new(key, &self.ready, Box::pin(answer), respond));
        self.ready.push(key);
    }

    /// Tells the client to go, and every call to end.
    fn begin_drain(&mut self) {
        self.turn.draining = true;
        self.http.graceful_shutdown();
        for (key, call) in &mut self.calls {
            call.drain();
            self.ready.push(key);
        }
    }

    /// Resets the streams of consumers that do not read, and says whether any call is stalled still.
    ///
    /// A stream may have no window of its own, or none may be left for the connection, because others took it all and do
    /// not read. Only the first is its own fault. Which it is `h2` does not say; but if there was window for all at any
    /// time since it stalled ([`Turn::grants`]), it is the first. Otherwise only the one that stalled first is reset: that
    /// gives its part of the window back.
    ///
    /// Earlier goes one that took nothing since the last look, and has nothing to wait for, because the log has overtaken it;
    /// or which is stalled within an event that is larger than a stream may hold, where all streams together hold more than
    /// they may. Whoever took something reads: it is told, with a status, once it comes to that.
    fn end_stalled(&mut self) -> bool {
        let now = self.turn.now;
        let overheld = self.services.is_overheld();
        let mut ended = Vec::new();
        let mut first: Option<(Instant, usize)> = None;
        let mut stalled = 0;
        for (key, call) in &self.calls {
            let Some(stall) = call.stall() else { continue };
            stalled += 1;
            let stalled_for = now.duration_since(stall.since);
            let took_nothing = stalled_for >= self.sweep_interval();
            if took_nothing && call.is_overtaken() {
                ended.push((key, Cause::SlowConsumerNotReading));
            } else if took_nothing && overheld && call.holds() > hub::HELD_PER_STREAM {
                ended.push((key, Cause::NotReading));
            } else if stalled_for >= self.stall_timeout {
                if stall.grants < self.turn.grants {
                    ended.push((key, Cause::NotReading));
                } else if first.is_none_or(|(since, _)| stall.since < since) {
                    first = Some((stall.since, key));
                }
            }
        }
        if ended.is_empty() {
            ended.extend(first.map(|(_, key)| (key, Cause::NotReading)));
        }
        for &(key, cause) in &ended {
            self.calls[key].reset(cause);
            self.calls.remove(key);
        }
        stalled > ended.len()
    }

    /// Ends the streams that have reached their greatest age.
    fn poll_expiry(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(at) = self.turn.expires.take()
                && self.expiry.as_ref().is_none_or(|timer| at < timer.deadline())
            {
                self.expiry = Some(Box::pin(sleep_until(at)));
            }
            let Some(timer) = &mut self.expiry else { return };
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.expiry = None;
            let (now, mut next) = (Instant::now(), None);
            for (key, call) in &mut self.calls {
                if call.expire(now, &mut next) {
                    self.ready.push(key);
                }
            }
            self.turn.expires = earlier(self.turn.expires, next);
        }
    }

    fn sweep_interval(&self) -> Duration {
        (self.stall_timeout / SWEEPS_PER_TIMEOUT).max(Duration::from_millis(1))
    }

    fn poll_sweep(&mut self, cx: &mut Context<'_>) {
        let interval = self.sweep_interval();
        if mem::take(&mut self.turn.stalled) && self.sweep.is_none() {
            self.sweep = Some(Box::pin(sleep(interval)));
        }
        while let Some(sweep) = &mut self.sweep
            && sweep.as_mut().poll(cx).is_ready()
        {
            self.sweep = self.end_stalled().then(|| Box::pin(sleep(interval)));
            // Those that were stalled at the sweep before, too: a window that is full for a moment is nothing to tell of.
            let for_long = |call: &Call| {
                call.stall().is_some_and(|stall| self.turn.now.duration_since(stall.since) >= interval)
            };
            let stalled = self.calls.iter().filter(|(_, call)| for_long(call)).count();
            self.outlet.counts().stalled(stalled);
        }
    }
}

// Nothing in it is pinned to its place.
impl<IO> Unpin for Pump<IO> {}

impl<IO> Future for Pump<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Result<(), ConnectionError>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.ready.register(task.waker());
        // Who woke it, a view with new events above all, may be about to wake more of its calls, or append more events.
        this.gave_way = !this.gave_way;
        if this.gave_way {
            task.waker().wake_by_ref();
            return Poll::Pending;
        }

        let waker = this.waker.clone();
        let mut cx = Context::from_waker(&waker);
        this.turn.now = Instant::now();
        for _ in 0..ROUNDS_PER_TURN {
            this.poll_calls();
            // What the calls have given to `h2` woke the connection: that is seen to here.
            this.ready.begin();
            if this.drain.as_mut().is_some_and(|drain| drain.as_mut().poll(&mut cx).is_ready()) {
                this.drain = None;
                this.begin_drain();
            }
            this.poll_sweep(&mut cx);
            this.poll_expiry(&mut cx);
            let ended = this.poll_http(&mut cx);
            if let Poll::Ready(error) = this.watch.as_mut().poll(&mut cx) {
                for (_, call) in &mut this.calls {
                    call.abandon(Cause::KeepaliveTimeout);
                }
                return Poll::Ready(Err(error));
            }
            let drained = this.outlet.poll_drain(&mut cx)?;
            if ended.is_ready() {
                return ended;
            }
            if (drained.is_pending() || this.held.is_empty()) && this.ready.rest() {
                return Poll::Pending;
            }
        }
        // There is always more to do: others have their turn.
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Ends when the client cannot be there any more: it has not said hello, or does not answer a ping.
async fn watch<IO>(
    pings: Option<PingPong>,
    outlet: Outlet<IO>,
    hello_until: Instant,
    settings: Arc<config::Grpc>,
) -> ConnectionError
where
    IO: AsyncWrite + Unpin,
{
    // It is there: nobody else takes it.
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        let (read, last_sign) = outlet.read();
        let quiet_until = if read < HELLO { hello_until } else { last_sign + settings.keepalive_interval };
        if quiet_until > Instant::now() {
            sleep_until(quiet_until).await;
            continue;
        }
        if read < HELLO {
            return ConnectionError::Hello(settings.handshake_timeout);
        }
        match timeout(settings.keepalive_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is ending by itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return ConnectionError::Ping(settings.keepalive_timeout),
        }
    }
}

#[cfg(test)]
mod tests;
