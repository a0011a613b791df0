//! A consumer as it should be: it subscribes, remembers the last cursor, and when the stream ends it comes back and resumes.
//!
//! `tail` and `demo` use it, and `examples/consumer.rs` shows what is left to do for a service: to handle what comes, and
//! to store the cursor *afterwards*. `docs/consuming.md` has the rules behind it.
//!
//! - [`Subscriber`] is the subscription that outlives its streams.
//! - [`Advice`] is what the contract says of each status.
//! - [`CursorFile`] keeps the [`Position`] over restarts.

use std::{
    error::Error as _,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_types::StatusExt;

use crate::proto::{
    Cursor, ReplayMissPolicy, SubscribeRequest, SubscribeResponse, event_service_client::EventServiceClient,
    subscribe_request::Start, subscribe_response::Kind,
};

mod advice;
mod backoff;
mod cursor_file;
#[cfg(test)]
mod tests;

pub use advice::{Advice, reason};
use backoff::Backoff;
pub use cursor_file::{CursorFile, CursorFileError, parse_cursor, text_of};

/// The heartbeat that is asked for where the request has none.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A stream without any message for so many heartbeats is dead, whatever TCP thinks of it.
const DEAD_AFTER_HEARTBEATS: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server may take a while to answer: it waits a little for upstream's confirmations.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream that lived for so long is taken as a success: the backoff starts over.
const GOOD_LIFE: Duration = Duration::from_secs(5);
/// Upstream events of 1 MB were seen (F40); the default limit of 4 MB would do for one, not for its typed form.
const MAX_MESSAGE: usize = 64 << 20;

/// What is allowed for between the clocks of two gateways where a stream goes on by time.
const CLOCK_MARGIN: Duration = Duration::from_secs(2);

/// A place in an account's stream: everything up to it was delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// Where to resume.
    pub cursor: Cursor,
    /// The server's time there, where it is known. It serves where the cursor does not: in the log of another gateway.
    pub time: Option<SystemTime>,
}

/// What to do when the server cannot resume from the last cursor: its log is another one, as after a restart, or no longer
/// goes back so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// End with [`Refused::Missed`].
    Fail,
    /// Go on live.
    Live,
    /// Go on with the oldest event that the server has; a gap tells of what is missing before it.
    Oldest,
    /// Go on by the time of the last cursor, for what the server has; a gap tells of the rest. Some events may come twice.
    /// Without a known time, as [`OnMiss::Oldest`].
    ByTime,
}

/// What happens on a subscription that outlives its streams.
#[derive(Debug)]
pub enum Happening {
    /// A message of the server.
    Message(Box<SubscribeResponse>),
    /// The stream ended or could not be had. It is tried again by itself.
    Interrupted {
        /// Why, for people.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The server cannot resume from the last cursor. The next stream starts live, and what came before it is lost; or by
    /// time or at the oldest event, and says in a gap what is. Whoever keeps a state loads it anew once that stream has
    /// begun, not before, so that nothing falls between the two.
    StartedOver {
        /// Why, for people.
        reason: String,
    },
}

/// It would be in vain, or wrong, to go on.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request itself is wrong: it must be mended.
    #[error("{0}")]
    Request(String),
    /// The server does not do it.
    #[error("{0}")]
    Server(String),
    /// The server cannot resume from the last cursor, and the caller chose [to be told](OnMiss::Fail).
    #[error("{0}")]
    Missed(String),
}

/// A subscription that outlives its streams.
pub struct Subscriber {
    endpoint: Endpoint,
    request: SubscribeRequest,
    position: Option<Position>,
    on_miss: OnMiss,
    /// When the stream that is open, or the last one, was asked for.
    asked: SystemTime,
    dead_after: Duration,
    state: State,
    backoff: Backoff,
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
    pub fn new(endpoint: Endpoint, mut request: SubscribeRequest) -> Self {
        let asked = request.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
        let heartbeat = asked.filter(|heartbeat| !heartbeat.is_zero()).unwrap_or(HEARTBEAT);
        request.heartbeat_interval = prost_types::Duration::try_from(heartbeat).ok();
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let position = match &request.start {
            Some(Start::ResumeAfter(cursor)) => Some(Position { cursor: cursor.clone(), time: None }),
            _ => None,
        };
        Self {
            endpoint,
            request,
            position,
            on_miss: OnMiss::Live,
            asked: SystemTime::now(),
            dead_after: heartbeat * DEAD_AFTER_HEARTBEATS,
            state: State::Waiting(Instant::now()),
            backoff: Backoff::new(),
        }
    }

    /// Starts after this position, whatever the request says.
    pub fn resume_after(mut self, position: Position) -> Self {
        self.request.start = Some(Start::ResumeAfter(position.cursor.clone()));
        self.position = Some(position);
        self
    }

    /// What to do when the server cannot resume; without it, [`OnMiss::Live`].
    pub fn on_miss(mut self, on_miss: OnMiss) -> Self {
        self.on_miss = on_miss;
        self
    }

    /// Where to resume: everything up to there has been returned by [`Subscriber::next`]. To be stored once all of that is
    /// handled.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The next happening; it never ends by itself. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Happening, Refused> {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.asked = SystemTime::now();
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
                    let status = match timeout_at(*heard + self.dead_after, stream.message()).await {
                        Ok(Ok(Some(message))) => {
                            *heard = Instant::now();
                            self.remember(&message);
                            return Ok(Happening::Message(Box::new(message)));
                        }
                        Ok(Ok(None)) => Status::unavailable("the server ended the stream without a status"),
                        Ok(Err(status)) => status,
                        Err(_) => Status::unavailable(format!(
                            "nothing came for {:?}, not even a heartbeat",
                            self.dead_after
                        )),
                    };
                    return self.ended(&status, lived);
                }
            }
        }
    }

    /// Advances the position. Only by messages that say "all up to here was delivered" and when that was: a gap says that it
    /// was not, and an event or a heartbeat behind it soon follows; `Draining` has no time, without which a position is worth
    /// nothing in another log, and resuming from the event or the heartbeat before it loses nothing.
    fn remember(&mut self, message: &SubscribeResponse) {
        let at = |time: Option<prost_types::Timestamp>| time.and_then(|time| SystemTime::try_from(time).ok());
        let (cursor, time) = match &message.kind {
            // Who starts live has nothing else to come back to. Elsewhere a gap may follow that a later start from this
            // position would not be told of.
            Some(Kind::Subscribed(subscribed)) if self.request.start.is_none() => {
                (&subscribed.position, Some(self.asked))
            }
            Some(Kind::Event(event)) => (&event.cursor, at(event.receive_time)),
            Some(Kind::Heartbeat(heartbeat)) => (&heartbeat.position, at(heartbeat.time)),
            Some(Kind::Subscribed(_) | Kind::Gap(_) | Kind::UpstreamStatus(_) | Kind::Draining(_)) | None => {
                return;
            }
        };
        if let Some(cursor) = cursor {
            self.position = Some(Position { cursor: cursor.clone(), time });
        }
    }

    fn ended(&mut self, status: &Status, lived: bool) -> Result<Happening, Refused> {
        let reason = describe(status);
        let error_reason = advice::reason(status);
        let mut advice = Advice::of(status);
        if advice == Advice::StartOver && self.request.start.is_none() {
            // It was not asked for: the server is confused.
            advice = Advice::Mend;
        }
        if self.on_miss == OnMiss::ByTime && error_reason == "INVALID_TIME" {
            // Our time, of another gateway's clock, lies in the future of this one's: that passes.
            advice = Advice::Backoff;
        }
        let retry_in = self.backoff.delay(advice, lived, rand::rng().random_range(0.0..1.0));
        self.state = State::Waiting(Instant::now() + retry_in);
        match advice {
            Advice::StartOver if self.on_miss == OnMiss::Fail => Err(Refused::Missed(reason)),
            Advice::StartOver => {
                self.start_over(&error_reason);
                self.state = State::Waiting(Instant::now());
                Ok(Happening::StartedOver { reason })
            }
            Advice::Mend => Err(Refused::Request(reason)),
            Advice::Refused => Err(Refused::Server(reason)),
            Advice::AtOnce | Advice::Backoff | Advice::WaitLong => {
                // From here on it is the last cursor that counts, whatever was asked for at first.
                if let Some(position) = &self.position {
                    self.request.start = Some(Start::ResumeAfter(position.cursor.clone()));
                    let policy = match self.on_miss {
                        OnMiss::Oldest => ReplayMissPolicy::Gap,
                        // The server is to say so: then it is for us to choose.
                        OnMiss::Fail | OnMiss::Live | OnMiss::ByTime => ReplayMissPolicy::Fail,
                    };
                    self.request.replay_miss_policy = policy.into();
                }
                Ok(Happening::Interrupted { reason, retry_in })
            }
        }
    }

    /// Chooses the next start, after the server said that it cannot go on from this one: by time, else from the oldest event,
    /// else live. Only the last is silent about what is missing.
    fn start_over(&mut self, error_reason: &str) {
        let position = self.position.take();
        if self.on_miss == OnMiss::ByTime {
            // A server that misses although a gap would do is confused, and one that does not know the cursor wants another.
            let asked_for_gap = self.request.replay_miss_policy() == ReplayMissPolicy::Gap;
            self.request.replay_miss_policy = ReplayMissPolicy::Gap.into();
            if let Some(time) = position.and_then(|position| position.time) {
                self.request.start = Some(Start::StartTime((time - CLOCK_MARGIN).into()));
                return;
            }
            if !asked_for_gap && error_reason != "INVALID_CURSOR" {
                return;
            }
        }
        self.request.start = None;
    }
}

async fn open(endpoint: Endpoint, request: SubscribeRequest) -> Result<Streaming<SubscribeResponse>, Status> {
    let channel = endpoint.connect().await.map_err(|error| {
        Status::unavailable(format!("cannot connect to {}: {}", endpoint.uri(), innermost(&error)))
    })?;
    let mut client = EventServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let opened = timeout(OPEN_TIMEOUT, client.subscribe(request)).await;
    let opened = opened.map_err(|_| Status::unavailable("the server does not answer"))?;
    Ok(opened.map_err(|status| not_served(&endpoint, status))?.into_inner())
}

/// Where what answers may be no gateway, or another of its listeners, the status says so: `transport error` tells nobody.
fn not_served(endpoint: &Endpoint, status: Status) -> Status {
    let uri = endpoint.uri();
    if let Some(cause) = status.source() {
        // No server's words. A connection that broke meanwhile ends up here too.
        let cause = innermost(cause);
        let what =
            format!("no answer from {uri}: {cause} (is it a gateway's listener for consumers, without TLS?)");
        Status::new(status.code(), what)
    } else if status.code() == Code::Unimplemented && status.message().is_empty() {
        let what = format!(
            "{uri} is no gateway's listener for consumers: operators have another, and so have probes"
        );
        Status::new(status.code(), what)
    } else {
        status
    }
}

/// A status in words for people: its message, the machine's reason, and the fields that it complains about, each on a line
/// of its own. Whoever answered chose the words, so none of them can break a line or steer a terminal.
pub fn describe(status: &Status) -> String {
    let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
    let mut text = match status.message() {
        "" => format!("{:?}", status.code()),
        message => plain(message),
    };
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        text.push_str(&format!(" [{}]", plain(&info.reason)));
    }
    if let Some(request) = details.bad_request() {
        // The message has the first of them already.
        let further = |description: &str| !status.message().contains(description);
        for violation in request.field_violations.iter().filter(|violation| further(&violation.description)) {
            text.push_str(&format!("\n  {}: {}", plain(&violation.field), plain(&violation.description)));
        }
    }
    text
}

/// The innermost cause, which tells most: "Connection refused", not "transport error".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
