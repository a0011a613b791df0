//! A consumer as it should be: it subscribes, remembers the last cursor, and when the stream ends it comes back and resumes.
//!
//! `tail` and `demo` use it; services can take it as an example of the contract's client side.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_types::StatusExt;

use crate::proto::{
    Cursor, SubscribeRequest, SubscribeResponse, event_service_client::EventServiceClient,
    subscribe_request::Start, subscribe_response::Kind,
};

/// What is asked of the server: a message at least so often. Without any for three times as long the stream is dead,
/// whatever TCP thinks of it.
const HEARTBEAT: Duration = Duration::from_secs(10);
const DEAD_AFTER: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// A stream that lived for so long is taken as a success: the backoff starts over.
const GOOD_LIFE: Duration = Duration::from_secs(5);
/// Upstream events of 1 MB were seen (F40); the default limit of 4 MB would do for one, not for its typed form.
const MAX_MESSAGE: usize = 64 << 20;

/// What happens on a subscription that outlives its streams.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message of the server.
    Message(Box<SubscribeResponse>),
    /// The stream ended or could not be had. It is tried again by itself.
    Interrupted {
        /// Why, for people.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The server cannot resume from the last cursor: what came after it is lost. The next stream starts live.
    StartedOver {
        /// Why, for people.
        reason: String,
    },
}

/// The server refuses the request, and would again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The request itself is wrong: it must be mended.
    #[error("{0}")]
    Request(String),
    /// The server does not do it.
    #[error("{0}")]
    Server(String),
}

/// A subscription that outlives its streams.
pub(crate) struct Subscriber {
    endpoint: Endpoint,
    request: SubscribeRequest,
    last_cursor: Option<Cursor>,
    state: State,
    backoff: Duration,
}

enum State {
    /// Not before this instant a stream is opened.
    Waiting(Instant),
    /// Kept here, so that it goes on although the caller of `next` looks elsewhere meanwhile: the server may take its time.
    Opening(BoxFuture<'static, Result<Streaming<SubscribeResponse>, Status>>),
    Open {
        stream: Box<Streaming<SubscribeResponse>>,
        since: Instant,
        /// When the last message came.
        heard: Instant,
    },
}

impl Subscriber {
    /// A subscription of `request` on the server at `endpoint`, opened by the first [`Subscriber::next`].
    pub(crate) fn new(endpoint: Endpoint, mut request: SubscribeRequest) -> Self {
        request.heartbeat_interval =
            Some(prost_types::Duration { seconds: HEARTBEAT.as_secs() as i64, nanos: 0 });
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let last_cursor = match &request.start {
            Some(Start::ResumeAfter(cursor)) => Some(cursor.clone()),
            _ => None,
        };
        Self { endpoint, request, last_cursor, state: State::Waiting(Instant::now()), backoff: BACKOFF_FIRST }
    }

    /// The cursor to resume from: everything before it has been returned by [`Subscriber::next`].
    pub(crate) fn last_cursor(&self) -> Option<&Cursor> {
        self.last_cursor.as_ref()
    }

    /// The next happening; it never ends by itself. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Happening, Refused> {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = State::Opening(open(self.endpoint.clone(), self.request.clone()).boxed());
                }
                State::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        let now = Instant::now();
                        self.state = State::Open { stream: Box::new(stream), since: now, heard: now };
                    }
                    Err(status) => return self.ended(&status, false),
                },
                State::Open { stream, since, heard } => {
                    let lived = since.elapsed() >= GOOD_LIFE;
                    let status = match timeout_at(*heard + DEAD_AFTER, stream.message()).await {
                        Ok(Ok(Some(message))) => {
                            *heard = Instant::now();
                            self.remember(&message);
                            return Ok(Happening::Message(Box::new(message)));
                        }
                        Ok(Ok(None)) => Status::unavailable("the server ended the stream without a status"),
                        Ok(Err(status)) => status,
                        Err(_) => Status::unavailable(format!(
                            "nothing came for {DEAD_AFTER:?}, not even a heartbeat"
                        )),
                    };
                    return self.ended(&status, lived);
                }
            }
        }
    }

    /// Advances the cursor. Only by messages that say "all up to here was delivered": a gap says that it was not, and an
    /// event, a heartbeat or a status behind it soon follows.
    fn remember(&mut self, message: &SubscribeResponse) {
        let position = match &message.kind {
            Some(Kind::Subscribed(subscribed)) => &subscribed.position,
            Some(Kind::Event(event)) => &event.cursor,
            Some(Kind::Heartbeat(heartbeat)) => &heartbeat.position,
            Some(Kind::Draining(draining)) => &draining.position,
            Some(Kind::Gap(_) | Kind::UpstreamStatus(_)) | None => &None,
        };
        if let Some(cursor) = position {
            self.last_cursor = Some(cursor.clone());
        }
    }

    fn ended(&mut self, status: &Status, lived: bool) -> Result<Happening, Refused> {
        let reason = describe(status);
        let error_reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        let mut retry_in = self.delay(lived);
        if status.code() == Code::ResourceExhausted {
            // "Wait long" is what the contract says of this one.
            retry_in = retry_in.max(BACKOFF_LAST);
        }
        self.state = State::Waiting(Instant::now() + retry_in);
        match status.code() {
            Code::OutOfRange if self.request.start.is_some() => return Ok(self.start_over(reason)),
            Code::InvalidArgument if error_reason == "INVALID_CURSOR" && self.request.start.is_some() => {
                return Ok(self.start_over(reason));
            }
            Code::InvalidArgument | Code::NotFound => return Err(Refused::Request(reason)),
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
                return Err(Refused::Server(reason));
            }
            _ => {}
        }
        // From here on it is the last cursor that counts, whatever was asked for at first.
        if let Some(cursor) = &self.last_cursor {
            self.request.start = Some(Start::ResumeAfter(cursor.clone()));
        }
        Ok(Happening::Interrupted { reason, retry_in })
    }

    fn start_over(&mut self, reason: String) -> Happening {
        self.request.start = None;
        self.last_cursor = None;
        self.state = State::Waiting(Instant::now());
        Happening::StartedOver { reason }
    }

    /// Half of the delay is chance, so that the consumers of a restarted server do not come back as one.
    fn delay(&mut self, lived: bool) -> Duration {
        if lived {
            self.backoff = BACKOFF_FIRST;
        }
        let delay = self.backoff.mul_f64(rand::rng().random_range(0.5..1.0));
        self.backoff = (self.backoff * 2).min(BACKOFF_LAST);
        delay
    }
}

async fn open(endpoint: Endpoint, request: SubscribeRequest) -> Result<Streaming<SubscribeResponse>, Status> {
    let channel = endpoint.connect().await.map_err(|error| {
        Status::unavailable(format!("cannot connect to {}: {}", endpoint.uri(), innermost(&error)))
    })?;
    let mut client = EventServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    // The headers come once the server has fixed the position: it waits a little for upstream's confirmations.
    let opened = timeout(DEAD_AFTER, client.subscribe(request)).await;
    let response = opened.map_err(|_| Status::unavailable("the server does not answer"))??;
    Ok(response.into_inner())
}

/// A status in words for people: its message, the machine's reason, and the fields that it complains about.
pub(crate) fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    };
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        text.push_str(&format!(" [{}]", info.reason));
    }
    if let Some(request) = details.bad_request() {
        // The message has the first of them already.
        let further = |description: &str| !status.message().contains(description);
        for violation in request.field_violations.iter().filter(|violation| further(&violation.description)) {
            text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
        }
    }
    text
}

/// The innermost cause, which tells most: "Connection refused", not "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
