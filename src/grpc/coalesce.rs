//! One write for all that a connection says at once.
//!
//! HTTP/2 is written frame by frame: for each DATA frame the `h2` crate calls the transport. With hundreds of streams on a
//! connection that is one system call for each delivery, which costs more than everything else together. So what is
//! written goes into a buffer first, and [`Outlet::poll_drain`] hands it to the transport once the connection has said all
//! that it has to say.
//!
//! The two halves, [`Coalesced`] for `h2` and [`Outlet`] for who drives it, are used by one task; the lock between them is
//! never waited for.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::telemetry::metrics::ConnectionCounts;

/// What is gathered before it is written in any case, in bytes: so much that a write is not for little, and few enough for the
/// processor's cache, and for a thousand connections that are stuck with it. A single write of at least as much is not copied.
pub(super) const CAPACITY: usize = 64 << 10;
/// Buffers that each thread keeps for its connections.
const POOLED: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Splits a transport into what `h2` reads and writes, and what really writes. Counts what passes.
pub(crate) fn coalesce<IO>(io: IO, counts: Arc<ConnectionCounts>) -> (Coalesced<IO>, Outlet<IO>) {
    let (buffer, now) = (Vec::new(), Instant::now());
    let inner = Inner { io, buffer, written: 0, unflushed: false, counts, last_read: now, last_written: now };
    let inner = Arc::new(Mutex::new(inner));
    (Coalesced(inner.clone()), Outlet(inner))
}

/// Gathers what is written to it. A flush does nothing: see [`Outlet::poll_drain`].
pub(crate) struct Coalesced<IO>(Arc<Mutex<Inner<IO>>>);

/// Writes what was gathered, and says how the transport fares.
pub(crate) struct Outlet<IO>(Arc<Mutex<Inner<IO>>>);

struct Inner<IO> {
    io: IO,
    /// What the transport has not taken yet begins at `written`. From the thread's pool: an idle connection has none.
    buffer: Vec<u8>,
    written: usize,
    /// The transport took something, and may hold it still: TLS takes more than the socket below it.
    unflushed: bool,
    counts: Arc<ConnectionCounts>,
    last_read: Instant,
    /// When the transport last took something.
    last_written: Instant,
}

impl<IO: AsyncWrite + Unpin> Outlet<IO> {
    /// Hands everything gathered to the transport, and has it passed on. Pending: it takes no more, and will wake.
    ///
    /// # Errors
    ///
    /// As the transport's, and `WriteZero` if it takes nothing any more.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }

    /// Whether the transport takes no more: something is left since the last drain.
    pub fn is_blocked(&self) -> bool {
        let inner = self.0.lock();
        !inner.buffer.is_empty() || inner.unflushed
    }

    /// Bytes read so far, and when the client last showed that it is there: by what came from it; where the transport takes no
    /// more, by what it took, because one that never reads may say something now and then.
    pub fn read(&self) -> (u64, Instant) {
        let is_blocked = self.is_blocked();
        let inner = self.0.lock();
        (inner.counts.read.get(), if is_blocked { inner.last_written } else { inner.last_read })
    }

    /// What is counted of the connection.
    pub fn counts(&self) -> Arc<ConnectionCounts> {
        self.0.lock().counts.clone()
    }
}

// Not derived: that would ask for `IO: Clone`.
impl<IO> Clone for Outlet<IO> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<IO: AsyncWrite + Unpin> Inner<IO> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.wrote(count);
                    self.written += count;
                    self.unflushed = true;
                }
            }
        }
        // Only then is it on its way; until then the connection counts as blocked.
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.give_buffer_back();
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= CAPACITY {
            ready!(self.poll_drain(cx))?;
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.buffer.is_empty() {
            if total >= CAPACITY {
                return self.write_through(cx, slices);
            }
            if total > 0 && self.buffer.capacity() == 0 {
                self.buffer = take_buffer();
            }
        }
        let before = self.buffer.len();
        for slice in slices {
            let room = CAPACITY - self.buffer.len();
            self.buffer.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Poll::Ready(Ok(self.buffer.len() - before))
    }

    fn write_through(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        let polled = match slices.iter().find(|slice| !slice.is_empty()) {
            _ if io.is_write_vectored() => io.poll_write_vectored(cx, slices),
            Some(slice) => io.poll_write(cx, slice),
            None => Poll::Ready(Ok(0)),
        };
        if let Poll::Ready(Ok(count)) = polled {
            self.wrote(count);
            self.unflushed |= count > 0;
        }
        polled
    }
}

impl<IO> Inner<IO> {
    fn wrote(&mut self, count: usize) {
        self.counts.wrote(count);
        self.last_written = Instant::now();
    }

    fn give_buffer_back(&mut self) {
        self.written = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.capacity() > 0 {
            buffer.clear();
            // The pool is gone where a thread is ending.
            let _ = POOL.try_with(|pool| {
                let mut pool = pool.borrow_mut();
                if pool.len() < POOLED {
                    pool.push(buffer);
                }
            });
        }
    }
}

impl<IO> Drop for Inner<IO> {
    fn drop(&mut self) {
        self.give_buffer_back();
    }
}

fn take_buffer() -> Vec<u8> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(CAPACITY))
}

impl<IO: AsyncRead + Unpin> AsyncRead for Coalesced<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        let before = buf.filled().len();
        let polled = Pin::new(&mut inner.io).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            inner.counts.read.add_alone(count as u64);
            inner.last_read = Instant::now();
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Coalesced<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_drain(cx))?;
        match ready!(Pin::new(&mut inner.io).poll_shutdown(cx)) {
            // All was said but goodbye, for which TLS has a word of its own, and nobody is there any more to hear it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

#[cfg(test)]
mod tests;
