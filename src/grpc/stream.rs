//! The response half of `Subscribe`: a subscription as a sequence of framed messages that ends in trailers.
//!
//! Nothing is queued here. A part is taken from the subscription when the connection asks for it; a consumer that does
//! not read is not asked for, and costs nothing but its position. Frames of events are passed on as they are, shared with
//! every other stream of the view.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use crate::{
    binding::AccountId,
    clock::SharedClock,
    hub::{Item, Subscription},
    proto::{self, subscribe_response::Kind},
};

use super::{message, status};

/// What a stream consists of: messages, then trailers, then nothing.
#[derive(Debug)]
pub(crate) enum Part {
    /// Framed messages, one or many.
    Messages(Bytes),
    /// The status. Nothing follows.
    Trailers(HeaderMap),
}

/// One consumer's stream. Dropping it ends the subscription.
pub(crate) struct EventStream {
    account: AccountId,
    id: String,
    /// Each binding as it was requested, and its canonical form.
    requested: Vec<(String, String)>,
    clock: SharedClock,
    /// After the drain began, the connection is cut at the latest after this.
    grace: Duration,
    subscription: Subscription,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    /// As the client set it with `grpc-timeout`.
    deadline: Option<Pin<Box<Sleep>>>,
    next: Next,
}

/// What the stream does next.
enum Next {
    /// Gives `Subscribed`.
    Subscribed(Bytes),
    /// Gives what the subscription yields.
    Items,
    /// Gives this status as trailers.
    Status(Status),
    /// Nothing: the trailers are out.
    Nothing,
}

/// What [`EventStream::new`] takes, besides the subscription.
pub(crate) struct Setup {
    pub account: AccountId,
    /// Names the stream in logs and in `Subscribed`.
    pub id: String,
    pub requested: Vec<(String, String)>,
    /// `Subscribed`, framed.
    pub first: Bytes,
    pub clock: SharedClock,
    pub drain: CancellationToken,
    pub grace: Duration,
    pub deadline: Option<tokio::time::Instant>,
}

impl EventStream {
    pub fn new(setup: Setup, subscription: Subscription) -> Self {
        Self {
            account: setup.account,
            id: setup.id,
            requested: setup.requested,
            clock: setup.clock,
            grace: setup.grace,
            subscription,
            drain: Box::pin(setup.drain.cancelled_owned()),
            deadline: setup.deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            next: Next::Subscribed(setup.first),
        }
    }

    /// The next part; `None` once the trailers are out.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        match std::mem::replace(&mut self.next, Next::Items) {
            Next::Items => Poll::Ready(Some(std::task::ready!(self.poll_items(cx)))),
            Next::Subscribed(frame) => Poll::Ready(Some(Part::Messages(frame))),
            Next::Status(status) => Poll::Ready(Some(self.trailers(&status))),
            Next::Nothing => {
                self.next = Next::Nothing;
                Poll::Ready(None)
            }
        }
    }

    /// Whether the trailers are out.
    pub fn is_over(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    fn poll_items(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        // Before the items: a subscription that always has one must not outlive the drain.
        if self.drain.as_mut().poll(cx).is_ready() {
            return Poll::Ready(self.draining());
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let status = status::deadline_exceeded(Some(self.subscription.position()));
            return Poll::Ready(self.trailers(&status));
        }
        let Some(item) = std::task::ready!(self.subscription.poll_next(cx)) else {
            return Poll::Ready(self.trailers(&status::internal("the subscription ended without a reason")));
        };
        let epoch = self.subscription.position().epoch;
        let kind = match item {
            Item::Events { frames, .. } => return Poll::Ready(Part::Messages(frames)),
            Item::End(reason) => {
                return Poll::Ready(self.trailers(&status::ended(&reason, self.account.as_str())));
            }
            Item::Gap(gap) => Kind::Gap(message::gap(&gap, epoch)),
            Item::Upstream { change, since, position, bindings } => {
                Kind::UpstreamStatus(message::upstream_status(
                    &change,
                    since,
                    message::cursor(epoch, position),
                    message::binding_statuses(&self.requested, &bindings),
                ))
            }
            Item::Heartbeat { position } => Kind::Heartbeat(proto::Heartbeat {
                position: Some(message::cursor(epoch, position)),
                time: Some(message::timestamp(self.clock.now())),
            }),
        };
        Poll::Ready(Part::Messages(message::response(kind)))
    }

    /// `Draining` now, the status with the next part.
    fn draining(&mut self) -> Part {
        let position = self.subscription.position();
        self.next = Next::Status(status::draining(Some(position)));
        Part::Messages(message::response(Kind::Draining(proto::Draining {
            reason: proto::DrainReason::Shutdown.into(),
            position: Some(message::cursor(position.epoch, position.sequence)),
            deadline: Some(message::timestamp(self.clock.now() + self.grace)),
        })))
    }

    fn trailers(&mut self, status: &Status) -> Part {
        self.next = Next::Nothing;
        tracing::info!(
            account = %self.account,
            subscription = %self.id,
            code = ?status.code(),
            reason = status.message(),
            "stream ended",
        );
        let mut trailers = HeaderMap::with_capacity(3);
        // It fails for texts that are no header value; those of `status` are percent-encoded or base64.
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
        }
        Part::Trailers(trailers)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.is_over() {
            tracing::info!(
                account = %self.account,
                subscription = %self.id,
                "stream ended: the consumer cancelled it, or its connection is gone",
            );
        }
    }
}

// ---- The seam to what writes HTTP/2. hyper stops asking a body for frames while one waits for window; whatever replaces
// it uses `poll_part` the same way.

/// An [`EventStream`] as hyper takes it.
pub(crate) struct Body(pub EventStream);

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_part(cx).map(|part| {
            part.map(|part| {
                Ok(match part {
                    Part::Messages(frames) => Frame::data(frames),
                    Part::Trailers(trailers) => Frame::trailers(trailers),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        // True any earlier, and the trailers would never be asked for.
        self.0.is_over()
    }
}

// ---- Other responses: they end by themselves, but for the watch on health, and reflection that a client keeps open.

pin_project_lite::pin_project! {
    /// A response that is cut short, with UNAVAILABLE, when the server drains and it has nothing to say at that moment.
    pub(crate) struct UntilDrain<B> {
        #[pin]
        body: B,
        #[pin]
        drain: WaitForCancellationFutureOwned,
        over: bool,
    }
}

impl<B> UntilDrain<B> {
    pub fn new(body: B, drain: CancellationToken) -> Self {
        Self { body, drain: drain.cancelled_owned(), over: false }
    }
}

impl<B: http_body::Body<Data = Bytes, Error = Status>> http_body::Body for UntilDrain<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        // The body first: what it has to say at the drain (health: NOT_SERVING) is said.
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(this.drain.poll(cx));
        *this.over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status::draining(None).add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}
