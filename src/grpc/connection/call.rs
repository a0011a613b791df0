//! One call on a connection: a request that is being answered, then a response that is being sent.
//!
//! Of a response only so much is given to `h2` as may be sent: what a consumer has no window for stays here, at most one
//! part of it, shared with other streams, and nothing more is taken from the log.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::Response;
use http_body::Frame;
use tokio::time::Instant;

use crate::grpc::{
    content::{Content, Part},
    ended::Cause,
};

use super::attention::{CallWaker, Ready};

/// How often a call that is woken while it is polled is polled again before its neighbours have their turn.
const ROUNDS_PER_TURN: usize = 3;
/// What `h2` makes of what it is given: frames of so many bytes at most, unless the client takes larger ones, each with a head.
const FRAME: usize = 16 << 10;
const FRAME_HEAD: usize = 9;
/// Parts that a call sends before that.
const PARTS_PER_TURN: usize = 16;

/// What tells a client that its stream is reset because it does not read: gRPC maps it to RESOURCE_EXHAUSTED ("bandwidth"),
/// where CANCEL would look as if the client itself had cancelled.
const NOT_READING: Reason = Reason::ENHANCE_YOUR_CALM;

/// One call, with its own waker.
pub(super) struct Call {
    attention: Arc<CallWaker>,
    waker: Waker,
    stage: Stage,
}

enum Stage {
    Answering { answer: BoxFuture<'static, Response<Content>>, respond: SendResponse<Bytes> },
    Sending(Sending),
    Over,
}

struct Sending {
    stream: SendStream<Bytes>,
    content: Content,
    /// What waits for window.
    pending: Bytes,
    /// The size of the part that `pending` is the rest of: so much is held by it.
    part: usize,
    stall: Option<Stall>,
}

/// A call has something to send, and no window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    pub since: Instant,
    /// See [`Turn::grants`].
    pub grants: u64,
}

/// What all calls of a connection need, and change, when they are polled.
pub(super) struct Turn {
    /// When this turn of the connection began.
    pub now: Instant,
    /// How often a call of the connection asked for window and was given all of it at once. Then there was window for all:
    /// while anybody waits for the connection's, `h2` gives none to others.
    pub grants: u64,
    /// Bytes that calls may give to `h2` before the transport is asked to take them.
    pub room: usize,
    /// The earliest time at which a stream that began since this was last looked at reaches its greatest age.
    pub expires: Option<Instant>,
    /// Whether any call was stalled, since it was last looked at.
    pub stalled: bool,
    /// Whether the server drains.
    pub draining: bool,
}

impl Call {
    pub fn new(
        key: usize,
        ready: &Arc<Ready>,
        answer: BoxFuture<'static, Response<Content>>,
        respond: SendResponse<Bytes>,
    ) -> Self {
        let attention = CallWaker::new(key, ready.clone());
        let waker = attention.clone().into();
        Self { attention, waker, stage: Stage::Answering { answer, respond } }
    }

    /// Does what can be done now. Ready when the call is over.
    pub fn poll(&mut self, turn: &mut Turn) -> Poll<()> {
        let Self { attention, waker, stage } = self;
        let mut cx = Context::from_waker(waker);
        poll_rounds(attention, || stage.poll(&mut cx, turn, attention))
    }

    /// Only looks whether the client has reset it. Ready when the call is over.
    pub fn poll_reset(&mut self) -> Poll<()> {
        let Self { attention, waker, stage } = self;
        let mut cx = Context::from_waker(waker);
        poll_rounds(attention, || stage.poll_reset(&mut cx).map(|()| Progress::Over))
    }

    /// The server drains. To be polled after that.
    pub fn drain(&mut self) {
        if let Stage::Sending(sending) = &mut self.stage {
            sending.content.drain();
        }
    }

    /// If its stream has reached its greatest age, it is to end, and to be polled: then gives true. Otherwise `next` becomes
    /// the time at which it will, if that is earlier.
    pub fn expire(&mut self, now: Instant, next: &mut Option<Instant>) -> bool {
        let Stage::Sending(sending) = &mut self.stage else { return false };
        let Some(at) = sending.content.expires() else { return false };
        if at <= now {
            sending.content.expire();
            return true;
        }
        *next = earlier(*next, Some(at));
        false
    }

    /// Since when it has had something to send and no window.
    pub fn stall(&self) -> Option<Stall> {
        self.stalled().map(|(stall, _)| stall)
    }

    /// How many bytes of memory a stalled call holds.
    pub fn holds(&self) -> usize {
        self.stalled().map_or(0, |(_, sending)| sending.part)
    }

    /// Whether it is stalled, and the log has overtaken it meanwhile.
    pub fn is_overtaken(&self) -> bool {
        self.stalled().is_some_and(|(_, sending)| sending.content.is_overtaken())
    }

    /// It is not where the client has given window since: then it only waits for its turn, or for the transport.
    fn stalled(&self) -> Option<(Stall, &Sending)> {
        let Stage::Sending(sending) = &self.stage else { return None };
        let stall = sending.stall.filter(|_| sending.stream.capacity() == 0)?;
        Some((stall, sending))
    }

    /// Its connection is given up, for this reason.
    pub fn abandon(&mut self, cause: Cause) {
        if let Stage::Sending(sending) = &mut self.stage {
            sending.content.abandon(cause);
        }
    }

    /// Resets the stream of a consumer that does not read; no other stream is concerned.
    pub fn reset(&mut self, cause: Cause) {
        if let Stage::Sending(sending) = &mut self.stage {
            sending.stream.send_reset(NOT_READING);
            sending.content.abandon(cause);
        }
        self.stage = Stage::Over;
    }
}

/// The earlier of two times, of which there may be none.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

enum Progress {
    /// It could go on at once.
    More,
    Over,
}

/// Polls again what was woken while it was polled; but its neighbours have their turn before it is polled for ever.
fn poll_rounds(attention: &CallWaker, mut poll: impl FnMut() -> Poll<Progress>) -> Poll<()> {
    for _ in 0..ROUNDS_PER_TURN {
        attention.begin();
        match poll() {
            Poll::Ready(Progress::Over) => return Poll::Ready(()),
            Poll::Ready(Progress::More) => break,
            Poll::Pending if attention.rest() => return Poll::Pending,
            Poll::Pending => {}
        }
    }
    attention.later();
    Poll::Pending
}

impl Stage {
    fn poll(&mut self, cx: &mut Context<'_>, turn: &mut Turn, attention: &CallWaker) -> Poll<Progress> {
        if let Stage::Answering { answer, respond } = self {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(Progress::Over);
            }
            let (head, mut content) = ready!(answer.as_mut().poll(cx)).into_parts();
            let empty = content.is_empty();
            let Ok(stream) = respond.send_response(Response::from_parts(head, ()), empty) else {
                content.abandon(Cause::ClientCancelled);
                return Poll::Ready(Progress::Over);
            };
            if empty {
                return Poll::Ready(Progress::Over);
            }
            if turn.draining {
                content.drain();
            }
            turn.expires = earlier(turn.expires, content.expires());
            *self = Stage::Sending(Sending { stream, content, pending: Bytes::new(), part: 0, stall: None });
        }
        match self {
            Stage::Sending(sending) => sending.poll(cx, turn, attention),
            _ => Poll::Ready(Progress::Over),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Stage::Answering { respond, .. } => respond.poll_reset(cx).map(drop),
            Stage::Sending(sending) => sending.poll_reset(cx),
            Stage::Over => Poll::Ready(()),
        }
    }
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>, turn: &mut Turn, attention: &CallWaker) -> Poll<Progress> {
        for _ in 0..PARTS_PER_TURN {
            if !self.pending.is_empty() && self.send_pending(cx, turn).is_pending() {
                ready!(self.poll_reset(cx));
                return Poll::Ready(Progress::Over);
            }
            if turn.room == 0 {
                // Nothing is taken from the log that cannot be sent yet.
                return Poll::Ready(Progress::More);
            }
            // Whoever sends is woken by that. All that can wake it is asked from here on.
            attention.begin();
            match self.content.poll_part(cx) {
                Poll::Ready(Some(Part::Messages(messages))) => {
                    self.part = messages.len();
                    self.pending = messages;
                }
                Poll::Ready(Some(Part::Trailers(trailers))) => {
                    // It fails if the client has reset it just now.
                    let _ = self.stream.send_trailers(trailers);
                    return Poll::Ready(Progress::Over);
                }
                Poll::Ready(None) => {
                    // The same.
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Progress::Over);
                }
                Poll::Pending => {
                    ready!(self.poll_reset(cx));
                    return Poll::Ready(Progress::Over);
                }
            }
        }
        Poll::Ready(Progress::More)
    }

    /// Gives `h2` as much as it has window for, and as there is room for in this turn. Pending while there is no window.
    fn send_pending(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        while !self.pending.is_empty() && turn.room > 0 {
            self.stream.reserve_capacity(self.pending.len());
            let room = self.stream.capacity();
            if room >= self.pending.len() && self.stall.is_none() {
                turn.grants += 1;
            }
            if room == 0 {
                // `Some`: there is room now.
                if let Poll::Ready(Some(Ok(_))) = self.stream.poll_capacity(cx) {
                    continue;
                }
                turn.stalled = true;
                self.stall.get_or_insert(Stall { since: turn.now, grants: turn.grants });
                return Poll::Pending;
            }
            self.stall = None;
            let piece = self.pending.split_to(room.min(self.pending.len()).min(turn.room));
            turn.room = turn.room.saturating_sub(piece.len() + FRAME_HEAD * piece.len().div_ceil(FRAME));
            // It fails only if the client has reset the stream, which is what is asked next.
            if self.stream.send_data(piece, false).is_err() {
                self.pending = Bytes::new();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cause = match ready!(self.stream.poll_reset(cx)) {
            Ok(_) => Cause::ClientCancelled,
            Err(_) => Cause::ConnectionLost,
        };
        self.content.abandon(cause);
        Poll::Ready(())
    }
}

/// The body of a request, as `http` has it.
pub(super) struct RequestBody(pub RecvStream);

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let data = ready!(self.0.poll_data(cx));
        Poll::Ready(data.map(|data| {
            let data = data?;
            // At once: what may be held of a request is bounded by whoever reads it.
            let _ = self.0.flow_control().release_capacity(data.len());
            Ok(Frame::data(data))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
