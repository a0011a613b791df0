//! hawking's way in, driven from memory: the account loop with a WebSocket whose other end is a buffer. What is measured is
//! all that happens from the bytes of a frame to the record in the log.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawking::{
    binding::{AccountId, Binding, OptIn},
    clock::SystemClock,
    config,
    hub::Hub,
    upstream::{self, BoxedIo, Dial, Seams, Transport, TransportError},
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::{
    machine::thread_cpu_ns,
    source::{
        frames::{ACCOUNT, BINDING, Frames},
        upstream::{Role, answer_http, answer_websocket, append_frame_header},
    },
};

/// Events before those that count: the log is full then, as it is on all but the first minutes of a gateway's life, and an
/// event takes the place of another.
const WARM_UP: u64 = 8192;

/// All must be taken in until then.
const WITHIN: Duration = Duration::from_secs(60);

/// Thread CPU time for each of `events`, in nanoseconds. What it costs to make the frames is taken off.
pub fn measure(events: u64) -> Result<f64> {
    let made = make_frames(events, thread_cpu_ns);
    let taken = take_in(events, thread_cpu_ns)?;
    Ok(taken.saturating_sub(made) as f64 / events as f64)
}

/// How long that takes, by a clock, with the making of the frames.
pub fn take_in(events: u64, clock: impl Fn() -> u64) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(take_in_here(events, clock))
}

async fn take_in_here(events: u64, clock: impl Fn() -> u64) -> Result<u64> {
    let id: AccountId = ACCOUNT.parse()?;
    let always = Binding::parse(BINDING, &OptIn::default())?;
    let account = config::Account {
        id,
        crossbar_url: None,
        blackhole_url: None,
        credentials: config::Credentials::ApiKey { key: "bench".to_owned().into() },
        always_on: vec![always],
    };
    let settings = config::Hub { log_records: WARM_UP as usize / 2, ..config::Hub::default() };
    let hub = Arc::new(Hub::new(settings, Arc::new(SystemClock), || 1));
    let tap = Arc::new(Tap { remaining: AtomicU64::new(0), blocked: Mutex::new(None) });
    let settings = Arc::new(config::Upstream::default());
    let (dial, transport) = (Arc::new(Memory(tap.clone())), Arc::new(Login));
    let seams = Seams { dial, transport, ..Seams::system(&settings)? };
    let stop = CancellationToken::new();
    let upstream = tokio::spawn(upstream::run(settings, account, hub.clone(), seams, stop.clone()));

    let end = Instant::now() + WITHIN;
    let log = loop {
        if let Some(account) = hub.get(&id)
            && account
                .status()
                .interest
                .iter()
                .any(|report| report.state == hawking::hub::BindingState::Active)
        {
            break account;
        }
        if Instant::now() > end {
            bail!("the binding was not confirmed");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };

    let take = async |count: u64| {
        let until = log.status().window.newest.0 + count;
        tap.open(count);
        while log.status().window.newest.0 < until {
            if Instant::now() > end {
                bail!("{} of {count} events were not taken in", until - log.status().window.newest.0);
            }
            // A status looks at little, and seldom.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    take(WARM_UP).await?;
    let began = clock();
    take(events).await?;
    let taken = clock() - began;
    stop.cancel();
    upstream.await.context("the account loop")?;
    Ok(taken)
}

/// What the frames cost that [`MemoryIo`] makes.
pub fn make_frames(events: u64, clock: impl Fn() -> u64) -> u64 {
    let frames = Frames::new();
    let mut pending = Vec::new();
    let mut out = vec![0; 1 << 20];
    let began = clock();
    for sequence in 1..=events {
        make(&frames, sequence, &mut pending);
        out[..pending.len()].copy_from_slice(&pending);
        std::hint::black_box(&out);
        pending.clear();
    }
    clock() - began
}

fn make(frames: &Frames, sequence: u64, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = append_frame_header(frames.length(sequence), out);
    frames.append(sequence, 0, out);
}

/// Holds events back until they are wanted.
struct Tap {
    remaining: AtomicU64,
    blocked: Mutex<Option<Waker>>,
}

impl Tap {
    fn open(&self, events: u64) {
        self.remaining.store(events, Ordering::Relaxed);
        if let Some(waker) = self.blocked.lock().take() {
            waker.wake();
        }
    }
}

/// A blackhole in memory.
struct Memory(Arc<Tap>);

impl Dial for Memory {
    fn dial<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        let io = MemoryIo {
            tap: self.0.clone(),
            frames: Frames::new(),
            role: Role::Upgrade,
            inbox: Vec::new(),
            outbox: Vec::new(),
            read: 0,
            sequence: 0,
        };
        Box::pin(async move { Ok(Box::new(io) as BoxedIo) })
    }
}

struct MemoryIo {
    tap: Arc<Tap>,
    frames: Frames,
    role: Role,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    read: usize,
    sequence: u64,
}

impl AsyncRead for MemoryIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let rest = &this.outbox[this.read..];
            let length = rest.len().min(into.remaining());
            into.put_slice(&rest[..length]);
            this.read += length;
            if into.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.outbox.clear();
            this.read = 0;
            let remaining = this.tap.remaining.load(Ordering::Relaxed);
            if remaining == 0 {
                if into.filled().is_empty() {
                    *this.tap.blocked.lock() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
            this.tap.remaining.store(remaining - 1, Ordering::Relaxed);
            this.sequence += 1;
            make(&this.frames, this.sequence, &mut this.outbox);
        }
    }
}

impl AsyncWrite for MemoryIo {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.inbox.extend_from_slice(bytes);
        answer_websocket(&mut this.role, &mut this.inbox, &mut this.outbox).map_err(io::Error::other)?;
        // Answers are to be read.
        if let Some(waker) = this.tap.blocked.lock().take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A Crossbar that lets everybody in.
struct Login;

impl Transport for Login {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        inbox.extend_from_slice(
            format!("{} {} HTTP/1.1\r\n\r\n", request.method(), request.uri().path()).as_bytes(),
        );
        answer_http(&mut inbox, &mut outbox);
        let text = String::from_utf8_lossy(&outbox).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap_or(500);
        let mut response = http::Response::new(Bytes::copy_from_slice(body.as_bytes()));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        Box::pin(async move { Ok(response) })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_events_are_taken_in() {
        assert!(super::measure(500).unwrap() > 0.0);
    }
}
