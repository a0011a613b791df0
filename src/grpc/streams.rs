//! The streams of `Subscribe` that are open: who reads them, how far each is, and a way to end one from outside.
//!
//! A stream enters when it begins and leaves when it ends, under a lock that nothing else is done under. What it does
//! meanwhile it notes for itself (see [`Progress`]); whoever lists streams works out the rest.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::Bound,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::SystemTime,
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::{
    binding::AccountId,
    hub::{Cursor, Progress},
    telemetry::metrics::{Delivered, Reading},
};

use super::ended::{EndedStream, EndedStreams};

/// Names a stream: unique within one run of the server. As text: `s42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u64);

/// The text is no id of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subscription's id is an s and a number, such as s42")]
pub struct SubscriptionIdError;

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl FromStr for SubscriptionId {
    type Err = SubscriptionIdError;

    fn from_str(text: &str) -> Result<Self, SubscriptionIdError> {
        let digits = text.strip_prefix('s').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse().ok()).map(Self).ok_or(SubscriptionIdError)
    }
}

/// Who reads a stream.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// Names the stream in logs, in `Subscribed` and to operators.
    pub subscription_id: SubscriptionId,
    /// Whose events.
    pub account: AccountId,
    /// As the client called itself, or empty.
    pub client_name: String,
    /// The other end of its connection.
    pub peer: SocketAddr,
    /// When the stream began.
    pub began: SystemTime,
}

/// A stream, as others see it.
pub struct OpenStream {
    consumer: Consumer,
    /// Each binding as it was requested, and its canonical form.
    requested: Box<[(String, String)]>,
    progress: Arc<Progress>,
    /// What it was given that is counted already.
    counted: Counted,
    /// An operator wants it to end.
    dismissed: AtomicBool,
    waker: AtomicWaker,
}

impl OpenStream {
    pub(super) fn new(
        consumer: Consumer,
        requested: Vec<(String, String)>,
        progress: Arc<Progress>,
    ) -> Arc<Self> {
        Arc::new(Self {
            consumer,
            requested: requested.into(),
            progress,
            counted: Counted::default(),
            dismissed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// Who reads it.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// The bindings as they were requested.
    pub fn bindings(&self) -> impl Iterator<Item = &str> {
        self.requested.iter().map(|(asked, _)| asked.as_str())
    }

    pub(super) fn requested(&self) -> &[(String, String)] {
        &self.requested
    }

    /// Everything up to here was handed to its connection.
    pub fn position(&self) -> Cursor {
        self.progress.position()
    }

    /// Events up to there.
    pub fn delivered(&self) -> u64 {
        self.progress.delivered()
    }

    /// Events for it that lie behind its position: see [`Progress::lag`].
    pub fn lag(&self) -> u64 {
        self.progress.lag()
    }

    /// Whether it is to end. If not, it is woken when it is: `known` is the waker that was given the last time, so that one
    /// which stays the same costs a comparison.
    pub(super) fn poll_dismissed(&self, cx: &Context<'_>, known: &mut Option<Waker>) -> bool {
        if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
            self.waker.register(cx.waker());
        }
        // Behind the waker: who sets it wakes afterwards.
        self.dismissed.load(Ordering::Acquire)
    }

    /// What it was given since this was last asked for. Whoever asks, and however many at once: each event is told once.
    fn newly_delivered(&self) -> Delivered {
        let since =
            |counted: &AtomicU64, now: u64| now.saturating_sub(counted.fetch_max(now, Ordering::Relaxed));
        Delivered {
            events: since(&self.counted.events, self.progress.delivered()),
            bytes: since(&self.counted.bytes, self.progress.delivered_bytes()),
        }
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// All streams: those that are open, and those that ended lately.
#[derive(Default)]
pub struct Streams {
    last: AtomicU64,
    listed: Mutex<Listed>,
    ended: EndedStreams,
}

#[derive(Default)]
struct Listed {
    open: BTreeMap<SubscriptionId, Arc<OpenStream>>,
    /// What those that are over were given and nobody has read yet, by the account whose session served them.
    past: BTreeMap<AccountId, Delivered>,
}

/// So much of what a stream was given is counted.
#[derive(Default)]
struct Counted {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl Streams {
    /// The open ones, in the order in which they began.
    pub fn open(&self) -> Vec<Arc<OpenStream>> {
        self.listed.lock().open.values().map(Arc::clone).collect()
    }

    /// The open ones of an account, or of all, that began after another, in the order in which they began, and so many at
    /// most.
    pub fn open_after(
        &self,
        after: Option<SubscriptionId>,
        only: Option<AccountId>,
        at_most: usize,
    ) -> Vec<Arc<OpenStream>> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let listed = self.listed.lock();
        let streams = listed.open.range((begin, Bound::Unbounded)).map(|(_, stream)| stream);
        let wanted = streams.filter(|stream| only.is_none_or(|only| stream.consumer.account == only));
        wanted.take(at_most).map(Arc::clone).collect()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.listed.lock().open.len()
    }

    /// Those that ended lately.
    pub fn ended(&self) -> &EndedStreams {
        &self.ended
    }

    /// Adds what streams were given since somebody last read, and how far those that are open lag behind. Takes an account's
    /// lock for each stream.
    pub fn read(&self, reading: &mut Reading) {
        let (open, past) = {
            let mut listed = self.listed.lock();
            (listed.open.values().map(Arc::clone).collect::<Vec<_>>(), std::mem::take(&mut listed.past))
        };
        reading.delivered = past;
        for stream in open {
            let account = stream.progress.served_by();
            *reading.delivered.entry(account).or_default() += stream.newly_delivered();
            reading.lags(&account, stream.lag());
        }
    }

    /// Has one end as a drain would end it: the client is told where to resume. Gives the stream, if it was there. One whose
    /// client does not read ends when it reads again, or is reset.
    pub fn disconnect(&self, id: SubscriptionId) -> Option<Arc<OpenStream>> {
        let stream = self.listed.lock().open.get(&id).map(Arc::clone)?;
        stream.dismiss();
        Some(stream)
    }

    /// An id for a stream that is about to begin.
    pub(super) fn next_id(&self) -> SubscriptionId {
        SubscriptionId(self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn enter(&self, stream: Arc<OpenStream>) {
        self.listed.lock().open.insert(stream.consumer.subscription_id, stream);
    }

    pub(super) fn leave(&self, ended: EndedStream) {
        let stream = {
            let mut listed = self.listed.lock();
            let stream = listed.open.remove(&ended.consumer.subscription_id);
            if let Some(stream) = &stream {
                *listed.past.entry(stream.progress.served_by()).or_default() += stream.newly_delivered();
            }
            stream
        };
        // Without the lock: it may be the last to let go of an account.
        drop(stream);
        self.ended.push(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_shown() {
        let streams = Streams::default();
        let id = streams.next_id();
        assert_eq!(id.to_string(), "s1");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "s", "1", "s-1", "s+1", "S1", "s1x", "s99999999999999999999"] {
            assert_eq!(text.parse::<SubscriptionId>(), Err(SubscriptionIdError), "{text}");
        }
    }
}
