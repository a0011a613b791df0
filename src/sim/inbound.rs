//! What comes from a client while its socket takes nothing.
//!
//! In the real one it waits in the same line as what is to be sent: the mailbox of the session's process. So a request has
//! its turn when all that was queued before it is written, and its reply is queued behind all that came after it, or finds
//! no room any more (F46, G30); and a ping is answered behind the events that came before it. Here the bytes are kept, each
//! with its place in that line, until they have their turn.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is kept; the rest stays in the network.
const KEPT: usize = 64 << 10;

/// A stream whose reader is told when it is its turn.
pub(super) struct Inbound<S> {
    stream: S,
    /// What was read before its turn, each with the number of texts that were queued before it came.
    kept: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// What came before this many texts were queued may be read.
    turn: u64,
}

impl<S> Inbound<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, kept: VecDeque::new(), bytes: 0, turn: u64::MAX }
    }

    /// The next text to be written has this number: whether something came before it was queued.
    pub fn has_turn(&mut self, next: u64) -> bool {
        self.turn = next;
        self.kept.front().is_some_and(|(before, _)| *before <= next)
    }

    /// Nothing is to be written: everything has its turn.
    pub fn all_have_turn(&mut self) {
        self.turn = u64::MAX;
    }
}

impl<S: AsyncRead + Unpin> Inbound<S> {
    /// Keeps what has come, while so many texts have been queued. Wakes when there is more.
    pub fn poll_keep(&mut self, cx: &mut Context<'_>, queued: u64) {
        let mut bytes = [0; 4096];
        while self.bytes < KEPT {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.bytes += buffer.filled().len();
                    self.kept.push_back((queued, buffer.filled().to_vec()));
                }
                // The end of a stream is found again.
                _ => return,
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Inbound<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, bytes) = match this.kept.front_mut() {
            Some((before, bytes)) => (*before, bytes),
            None if this.turn == u64::MAX => return Pin::new(&mut this.stream).poll_read(cx, buf),
            None => return Poll::Pending,
        };
        // Whoever writes what is before it asks again.
        if before > this.turn {
            return Poll::Pending;
        }
        let count = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..count]);
        bytes.drain(..count);
        if bytes.is_empty() {
            this.kept.pop_front();
        }
        this.bytes -= count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Inbound<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::poll_fn};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_came_while_nothing_could_be_written_is_read_in_its_turn_and_in_order() {
        let (mut client, server) = duplex(64);
        let mut inbound = Inbound::new(server);
        let keep = async |inbound: &mut Inbound<_>, queued| {
            poll_fn(|cx| {
                inbound.poll_keep(cx, queued);
                Poll::Ready(())
            })
            .await;
        };
        client.write_all(b"ab").await.unwrap();
        keep(&mut inbound, 3).await;
        client.write_all(b"c").await.unwrap();
        keep(&mut inbound, 5).await;
        client.write_all(b"d").await.unwrap();

        assert!(!inbound.has_turn(2));
        assert!(inbound.read_u8().now_or_never().is_none());
        assert!(inbound.has_turn(3));
        assert_eq!(inbound.read_u8().await.unwrap(), b'a');
        assert!(inbound.has_turn(4));
        assert_eq!(inbound.read_u8().await.unwrap(), b'b');
        assert!(!inbound.has_turn(4));
        assert!(inbound.read_u8().now_or_never().is_none());
        inbound.all_have_turn();
        assert_eq!((inbound.read_u8().await.unwrap(), inbound.read_u8().await.unwrap()), (b'c', b'd'));
        drop(client);
        assert!(inbound.read_u8().await.is_err(), "the end");
    }
}
