//! The response half of `Subscribe`: a subscription as a sequence of framed messages that ends in trailers.
//!
//! Nothing is queued here. A part is taken from the subscription when the connection asks for it; a consumer that does
//! not read is not asked for, and costs nothing but its position. Frames of events are passed on as they are, shared with
//! every other stream of the view.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::{
    clock::SharedClock,
    hub::{EndReason, Gap, GapReason, Item, Subscription},
    ops::drain::{Drain, Reason},
    proto::{self, subscribe_response::Kind},
    telemetry::metrics::ServingCounts,
};

use super::{
    content::{Part, trailers},
    ended::{self, Cause, EndedStream},
    message, status,
    streams::{Consumer, OpenStream, Streams},
};

/// One consumer's stream. Dropping it ends the subscription.
pub(crate) struct EventStream {
    /// What others see of it.
    open: Arc<OpenStream>,
    streams: Arc<Streams>,
    counts: Arc<ServingCounts>,
    clock: SharedClock,
    /// Says when and why, at the end.
    drain: Drain,
    subscription: Subscription,
    /// As the client set it with `grpc-timeout`.
    deadline: Option<Pin<Box<Sleep>>>,
    /// When it reaches its greatest age. The connection looks at it: there is no timer for each stream.
    expires: Option<Instant>,
    next: Next,
    /// Why it has to say goodbye, as soon as it can.
    farewell: Option<Farewell>,
    /// Who is woken where an operator ends it.
    waker: Option<Waker>,
    /// Why it ended. `None` as long as nobody has said.
    cause: Option<Cause>,
}

/// Why a stream says `Draining`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// The server drains.
    Drain,
    /// It has reached its greatest age.
    MaxAge,
    /// An operator ends this one.
    Operator,
}

/// What the stream does next.
enum Next {
    /// Gives `Subscribed`.
    Subscribed(Bytes),
    /// Gives what the subscription yields.
    Items,
    /// Gives this status as trailers.
    Status(Status, Cause),
    /// Nothing: the trailers are out.
    Nothing,
}

/// What [`EventStream::new`] takes, besides the subscription.
pub(crate) struct Setup {
    pub consumer: Consumer,
    pub requested: Vec<(String, String)>,
    /// `Subscribed`, framed.
    pub first: Bytes,
    pub clock: SharedClock,
    pub drain: Drain,
    pub deadline: Option<Instant>,
    pub expires: Option<Instant>,
    /// Where it is listed.
    pub streams: Arc<Streams>,
    /// Where it is counted.
    pub counts: Arc<ServingCounts>,
}

impl EventStream {
    pub fn new(setup: Setup, subscription: Subscription) -> Self {
        let open = OpenStream::new(setup.consumer, setup.requested, subscription.progress().clone());
        setup.streams.enter(open.clone());
        Self {
            open,
            streams: setup.streams,
            counts: setup.counts,
            clock: setup.clock,
            drain: setup.drain,
            subscription,
            deadline: setup.deadline.map(|at| Box::pin(tokio::time::sleep_until(at))),
            next: Next::Subscribed(setup.first),
            expires: setup.expires,
            farewell: None,
            waker: None,
            cause: None,
        }
    }

    /// The next part; `None` once the trailers are out.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        match std::mem::replace(&mut self.next, Next::Items) {
            Next::Items => Poll::Ready(Some(ready!(self.poll_items(cx)))),
            Next::Subscribed(frame) => Poll::Ready(Some(Part::Messages(frame))),
            Next::Status(status, cause) => Poll::Ready(Some(self.finish(&status, cause))),
            Next::Nothing => {
                self.next = Next::Nothing;
                Poll::Ready(None)
            }
        }
    }

    /// From here on it says `Draining` and its status, instead of what the subscription may still have. To be polled after
    /// that.
    pub fn drain(&mut self) {
        self.farewell = Some(Farewell::Drain);
    }

    /// When it reaches its greatest age, if there is one.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// It has reached that age. To be polled after that.
    pub fn expire(&mut self) {
        self.farewell.get_or_insert(Farewell::MaxAge);
    }

    /// Nobody will poll it any more, for this reason.
    pub fn abandon(&mut self, cause: Cause) {
        if !matches!(self.next, Next::Nothing) {
            self.cause = Some(cause);
        }
    }

    /// Whether the log has overtaken it, so that all it could still say is that.
    pub fn is_overtaken(&self) -> bool {
        self.subscription.is_overtaken()
    }

    fn poll_items(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        // Before the items: a subscription that always has one must not outlive the drain. But behind what is begun: the
        // position that is told stands behind all of it, so that nobody who resumes there would hear of a gap in it.
        if !self.subscription.has_more_to_say()
            && let Some(last) = self.poll_last(cx)
        {
            return Poll::Ready(last);
        }
        let Some(item) = ready!(self.subscription.poll_next(cx)) else {
            let status = status::internal("the subscription ended without a reason");
            return Poll::Ready(self.finish(&status, Cause::Internal));
        };
        let epoch = self.subscription.position().epoch;
        let kind = match item {
            Item::Events { frames, .. } => return Poll::Ready(Part::Messages(frames)),
            Item::End(reason) => {
                let cause = match reason {
                    EndReason::SlowConsumer { .. } => Cause::SlowConsumer,
                    EndReason::AccountGone => Cause::AccountRemoved,
                };
                let status = status::ended(&reason, self.open.consumer().account.as_str());
                return Poll::Ready(self.finish(&status, cause));
            }
            Item::Gap(gap) => {
                self.count(&gap);
                Kind::Gap(message::gap(&gap, epoch))
            }
            Item::Upstream { change, since, position, bindings } => {
                Kind::UpstreamStatus(message::upstream_status(
                    &change,
                    since,
                    message::cursor(epoch, position),
                    message::binding_statuses(self.open.requested(), &bindings),
                ))
            }
            Item::Heartbeat { position } => Kind::Heartbeat(proto::Heartbeat {
                position: Some(message::cursor(epoch, position)),
                time: Some(message::timestamp(self.clock.now())),
            }),
        };
        Poll::Ready(Part::Messages(message::response(kind)))
    }

    /// What it says if it has to end here.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Option<Part> {
        if self.farewell.is_none() && self.open.poll_dismissed(cx, &mut self.waker) {
            self.farewell = Some(Farewell::Operator);
        }
        if let Some(farewell) = self.farewell {
            return Some(self.say_draining(farewell));
        }
        let is_late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        is_late.then(|| {
            let status = status::deadline_exceeded(Some(self.subscription.position()));
            self.finish(&status, Cause::DeadlineExceeded)
        })
    }

    /// A gap is told of when it opens and again when it is closed, if it is not over already when it is found.
    fn count(&self, gap: &Gap) {
        use GapReason::{EpochChanged, ReplayWindowExceeded, SlowConsumer};
        let is_over_when_found = matches!(gap.reason, SlowConsumer | ReplayWindowExceeded | EpochChanged);
        if gap.before.is_none() || is_over_when_found {
            self.counts.gap_opened(gap.reason);
        }
        if let (Some(start), Some(end)) = (gap.start_time, gap.end_time) {
            self.counts.gap_closed(gap.reason, end.duration_since(start).unwrap_or_default());
        }
        if gap.reason == SlowConsumer {
            self.counts.skipped(gap.lost_count.unwrap_or_default());
        }
    }

    /// `Draining` now, the status with the next part.
    fn say_draining(&mut self, farewell: Farewell) -> Part {
        let position = self.subscription.position();
        let (status, cause, reason, left) = match farewell {
            Farewell::Drain => {
                let reason = match self.drain.reason() {
                    Some(Reason::Operator) => proto::DrainReason::Operator,
                    Some(Reason::Shutdown) | None => proto::DrainReason::Shutdown,
                };
                let left = self.drain.cut_at().map(|at| at.saturating_duration_since(Instant::now()));
                (status::draining(Some(position)), Cause::Drained, reason, left.unwrap_or_default())
            }
            Farewell::MaxAge => {
                let reason = proto::DrainReason::MaxStreamAge;
                (status::max_stream_age(position), Cause::MaxStreamAge, reason, Duration::ZERO)
            }
            Farewell::Operator => {
                let reason = proto::DrainReason::Operator;
                (status::disconnected(position), Cause::Disconnected, reason, Duration::ZERO)
            }
        };
        self.next = Next::Status(status, cause);
        Part::Messages(message::response(Kind::Draining(proto::Draining {
            reason: reason.into(),
            position: Some(message::cursor(position.epoch, position.sequence)),
            deadline: Some(message::timestamp(self.clock.now() + left)),
        })))
    }

    fn finish(&mut self, status: &Status, cause: Cause) -> Part {
        self.next = Next::Nothing;
        self.cause = Some(cause);
        Part::Trailers(trailers(status))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // Nobody said: what held the stream was dropped, by the server where it was time for that.
        let is_cut = self.drain.cut_at().is_some_and(|at| at <= Instant::now());
        let cause = self.cause.unwrap_or(match self.farewell {
            Some(Farewell::Drain) if is_cut => Cause::DrainTimeout,
            _ => Cause::ConnectionLost,
        });
        let consumer: Consumer = self.open.consumer().clone();
        let stream = EndedStream {
            consumer,
            bindings: self.open.bindings().take(ended::KEPT_BINDINGS).map(str::to_owned).collect(),
            position: self.open.position(),
            lag: self.open.lag(),
            delivered: self.open.delivered(),
            ended: self.clock.now(),
            cause,
        };
        tracing::info!(
            account = %stream.consumer.account,
            subscription = %stream.consumer.subscription_id,
            client = stream.consumer.client_name,
            peer = %stream.consumer.peer,
            cause = stream.cause.as_str(),
            position = %stream.position,
            lag = stream.lag,
            delivered = stream.delivered,
            "stream ended",
        );
        self.counts.stream_ended(stream.cause);
        self.streams.leave(stream);
    }
}
