//! What a response consists of, whoever serves it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use tokio::time::Instant;
use tonic::Status;

use super::{ended::Cause, status, stream::EventStream};

/// A piece of a response: messages, then trailers, then nothing.
#[derive(Debug)]
pub(crate) enum Part {
    /// Framed messages, one or many.
    Messages(Bytes),
    /// The status. Nothing follows.
    Trailers(HeaderMap),
}

/// The content of a response.
pub(crate) enum Content {
    /// That of `Subscribe`.
    Events(Box<EventStream>),
    /// That of any other call.
    Other(Other),
}

/// A response that ends by itself, but for the watch on health, and reflection that a client keeps open.
pub(crate) struct Other {
    body: tonic::body::Body,
    draining: bool,
    over: bool,
}

impl Content {
    pub fn other(body: tonic::body::Body) -> Self {
        Self::Other(Other { body, draining: false, over: false })
    }

    /// Whether there is none: the status is in the headers.
    pub fn is_empty(&self) -> bool {
        match self {
            Content::Events(_) => false,
            Content::Other(other) => other.body.is_end_stream(),
        }
    }

    /// The next part; `None` once it is over.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        match self {
            Content::Events(stream) => stream.poll_part(cx),
            Content::Other(other) => other.poll_part(cx),
        }
    }

    /// The server drains: it must end by itself from here on. To be polled after that.
    pub fn drain(&mut self) {
        match self {
            Content::Events(stream) => stream.drain(),
            Content::Other(other) => other.draining = true,
        }
    }

    /// When it reaches its greatest age, if there is one.
    pub fn expires(&self) -> Option<Instant> {
        match self {
            Content::Events(stream) => stream.expires(),
            Content::Other(_) => None,
        }
    }

    /// It has reached that age: it must end by itself from here on. To be polled after that.
    pub fn expire(&mut self) {
        if let Content::Events(stream) = self {
            stream.expire();
        }
    }

    /// Nobody will poll it any more, for this reason.
    pub fn abandon(&mut self, cause: Cause) {
        if let Content::Events(stream) = self {
            stream.abandon(cause);
        }
    }

    /// Whether the log has overtaken it, so that all it could still say is that.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Content::Events(stream) if stream.is_overtaken())
    }
}

impl Other {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        if self.over {
            return Poll::Ready(None);
        }
        // The body first: what it has to say at the drain (health: NOT_SERVING) is said.
        let frame = match std::pin::Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.draining => Some(Err(status::draining(None))),
            polled => ready!(polled),
        };
        let part = match frame {
            None => None,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Poll::Ready(Some(Part::Messages(data))),
                // A body has no frames but these two kinds.
                Err(frame) => frame.into_trailers().ok().map(Part::Trailers),
            },
            Some(Err(status)) => Some(Part::Trailers(trailers(&status))),
        };
        self.over = true;
        Poll::Ready(part)
    }
}

/// A status as trailers.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    // It fails for texts that are no header value; those of `status` are percent-encoded or base64.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    trailers
}
