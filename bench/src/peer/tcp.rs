//! The limit: what this machine does when nothing but the bytes has to get there.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
};

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;

use super::ingest::Frames;

/// Batches that are kept for readers; one that falls further behind is cut off.
const KEPT: usize = 4096;

/// Batches that one write takes together at most, and the slices of which it is made.
const TOGETHER: usize = 64;
const SLICES: usize = 1024;

/// The recent batches, each already as it goes out. Readers are positions.
#[derive(Default)]
struct Feed {
    kept: Mutex<Kept>,
    grown: Notify,
}

#[derive(Default)]
struct Kept {
    batches: VecDeque<Bytes>,
    /// Batches that were there before the first that is kept.
    before: u64,
}

impl Feed {
    fn push(&self, batch: Bytes) {
        let mut kept = self.kept.lock();
        kept.batches.push_back(batch);
        if kept.batches.len() > KEPT {
            kept.batches.pop_front();
            kept.before += 1;
        }
        drop(kept);
        self.grown.notify_waiters();
    }

    fn end(&self) -> u64 {
        let kept = self.kept.lock();
        kept.before + kept.batches.len() as u64
    }

    /// Takes what is behind `position`. An error where that is kept no more.
    fn take(&self, position: &mut u64, out: &mut Vec<Bytes>) -> io::Result<()> {
        let kept = self.kept.lock();
        let skip =
            position.checked_sub(kept.before).ok_or_else(|| io::Error::other("a reader fell behind"))?;
        out.extend(kept.batches.iter().skip(skip as usize).take(TOGETHER).cloned());
        *position += out.len() as u64;
        Ok(())
    }
}

pub async fn serve(listener: TcpListener, mut frames: Frames, tls: Option<TlsAcceptor>) -> Result<()> {
    let feed = Arc::new(Feed::default());
    let source = feed.clone();
    let ingest = tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        loop {
            frames
                .batch(|response| {
                    buffer.put_u8(0);
                    buffer.put_u32(response.encoded_len() as u32);
                    response.encode_raw(&mut buffer);
                })
                .await?;
            source.push(buffer.split().freeze());
        }
    });
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (feed, tls) = (feed.clone(), tls.clone());
            tokio::spawn(async move {
                let ended = match tls {
                    Some(tls) => {
                        match tls.accept_with(stream, |session| session.set_buffer_limit(None)).await {
                            Ok(stream) => fan_out(stream, &feed).await,
                            Err(error) => Err(error),
                        }
                    }
                    None => fan_out(stream, &feed).await,
                };
                // The consumer's end is the end of its task.
                if let Err(error) = ended
                    && error.kind() == io::ErrorKind::Other
                {
                    eprintln!("tcp: {error}");
                }
            });
        }
    };
    tokio::select! {
        ended = ingest => ended?,
        ended = accept => ended,
    }
}

async fn fan_out(mut stream: impl AsyncRead + AsyncWrite + Unpin, feed: &Feed) -> io::Result<()> {
    let copies = stream.read_u32().await?;
    let mut position = feed.end();
    stream.write_u32(copies).await?;
    stream.flush().await?;
    let mut batches = Vec::new();
    loop {
        // Asked for before looking, so that nothing is missed in between.
        let grown = feed.grown.notified();
        batches.clear();
        feed.take(&mut position, &mut batches)?;
        if batches.is_empty() {
            grown.await;
            continue;
        }
        let each = batches.iter().flat_map(|batch| (0..copies).map(|_| IoSlice::new(batch)));
        let mut slices: Vec<IoSlice<'_>> = each.collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let together = rest.len().min(SLICES);
            let written = stream.write_vectored(&rest[..together]).await?;
            IoSlice::advance_slices(&mut rest, written);
        }
        // TLS may hold some of it still.
        stream.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_falls_behind_is_told() {
        let feed = Feed::default();
        let (mut position, mut out) = (feed.end(), Vec::new());
        for _ in 0..KEPT + 1 {
            feed.push(Bytes::from_static(b"x"));
        }
        assert!(feed.take(&mut position, &mut out).is_err());
        let mut position = feed.end() - 2;
        feed.take(&mut position, &mut out).unwrap();
        assert_eq!((out.len(), position), (2, feed.end()));
    }
}
