//! De-duplication: one event comes once for each overlapping binding (F41), once for each session during a rotation, and now
//! and then twice without a reason of ours (F42).
//!
//! An event with a `msg_id` is known by {account, routing key, `data.event`, call id, msg_id}: the msg_id alone is shared by
//! different objects (R19, R24). The first frame counts, whoever brings it.
//!
//! # Without a msg_id
//!
//! Then only the content is left, and equal content can be a genuine repeat. What tells them apart is who brought it, and
//! when.
//!
//! *Within a session*, each subscription key brings every repeat once, and the frames of one event come close together. So a
//! frame is a duplicate of a delivery that the session has brought by another key and not yet by this one.
//!
//! *Across sessions*, the older one leads: what it brings is delivered at once, as if it were alone. What the newer one
//! brings waits, until the older one has answered a request that was sent after the frame came. By then the older one has
//! been read up to a later moment than that in which upstream put the frame's event on the newer one (replies come in line
//! with events, F14): so it has brought the event too, if it ever will, however great its backlog is and whenever the newer
//! one was bound. If it has, the frame is dropped, otherwise delivered.
//!
//! *Has it?* Of the deliveries with this content that the newer session has not brought itself, the latest is the twin (as
//! far as answers tell; else the one that was read at about the same time), the newest frames being looked at first. So it is
//! the oldest deliveries that find no twin: those that the older session alone has brought, from before the newer one was
//! bound. Such a one must never swallow a later event. Therefore a delivery is out
//! of the question that was read before the newer session was sent the last request that it has answered before the frame:
//! what came behind that answer was put on the newer session later than the delivery was read ([`SLACK`] aside). `rotation`
//! sees to it that the newer one answers such a request, before the older one goes.
//!
//! When the older one ends, what still waits is looked at in the same way, but the oldest first, because of the newest the
//! older session has brought nothing: upstream throws away what is still in its backlog. So these must not be taken for what
//! came before the newer one was bound. Therefore `rotation` has the older one answer two marks, the first of them when the
//! newer one has been bound for a while: what still waits at the end came after the second, its twin behind the answer to the
//! first, and no other delivery is looked at. Then the newer one leads.
//!
//! So no event is lost. What may happen is that one comes twice: where the very same content comes several times within the
//! time by which the sessions lie apart, and a frame takes the twin of another. (And what 4.3 has thrown away on the older
//! session, F46, can be taken for a delivery of the same content from just before the newer one was bound.)
//!
//! A session that leads and answers nothing does not hold up the other for ever: what has waited for too long, and the oldest
//! where too much waits, is decided upon with what is known.
//!
//! Where it stays uncertain, the frame is delivered: twice is the smaller lie. So it is after an older session that broke
//! instead of being read to its end: that is a gap anyway, and it must not swallow what comes after the gap.

mod content;
mod known;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::binding::AccountId;

use self::{
    content::{Frame, Occurrence, Sessions, Waiting},
    known::{Fingerprint, Fingerprints, Hashed, Known},
};

pub(super) use self::content::SLACK;

/// Which of the account's sessions, in order of their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub u64);

/// What identifies an event.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Identity<'a> {
    /// Whose it is.
    pub account: AccountId,
    /// Where it was published.
    pub routing_key: &'a str,
    /// `data.event`
    pub event: &'a str,
    /// The call it belongs to.
    pub call_id: &'a str,
    /// `data.msg_id`, or empty.
    pub message_id: &'a str,
}

/// Who brought a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The session.
    pub session: SessionId,
    /// When it was opened.
    pub opened: Instant,
    /// The `subscription_key` of the frame.
    pub subscription_key: &'a str,
}

/// What became of that which upstream had put on a session when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It was read.
    Read,
    /// It may be lost, and that is a gap.
    Lost,
    /// Nobody knows, and it is no gap: another session has all of it. What that one brought is delivered, twice if need be.
    Unknown,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate<T> {
    /// It is an event that has not come before.
    New(T),
    /// It is one that has. The session brought it.
    Duplicate(SessionId),
}

/// The memory of one upstream account, bounded by count and by time. `T` is an event that may have to wait.
pub(crate) struct Deduplicator<T> {
    capacity: usize,
    window: Duration,
    fingerprints: Fingerprints,
    /// Events with a msg_id.
    known: Known,
    /// Contents without one, with their occurrences.
    seen: HashMap<Fingerprint, Occurrences, BuildHasherDefault<Hashed>>,
    /// What of these was delivered, oldest first.
    order: VecDeque<(Instant, Fingerprint)>,
    sessions: Sessions,
    waiting: Waiting<T>,
}

/// Deliveries of one content, oldest first.
type Occurrences = SmallVec<[Occurrence; 1]>;

impl<T> Deduplicator<T> {
    /// Remembers at most `capacity` events with a msg_id and as many without one, each for `window`.
    pub fn new(capacity: usize, window: Duration) -> Self {
        Self {
            capacity: capacity.max(1),
            window,
            fingerprints: Fingerprints::new(),
            known: Known::default(),
            seen: HashMap::default(),
            order: VecDeque::new(),
            sessions: Sessions::default(),
            waiting: Waiting::default(),
        }
    }

    /// A session brings an event; `data` is its payload's text. What becomes of it, and of what waited before, is told as
    /// soon as it is known: an event with a msg_id never waits.
    pub fn offer(
        &mut self,
        identity: Identity<'_>,
        source: Source<'_>,
        data: &str,
        now: Instant,
        event: impl FnOnce() -> T,
        mut tell: impl FnMut(Fate<T>),
    ) {
        self.expire(now);
        if !identity.message_id.is_empty() {
            let fingerprint = self.fingerprints.of(&identity);
            return tell(match self.known.is_new(fingerprint, now, self.capacity) {
                true => Fate::New(event()),
                false => Fate::Duplicate(source.session),
            });
        }
        let frame = Frame {
            fingerprint: self.fingerprints.of(&(identity, canonical(data))),
            session: source.session,
            key: self.fingerprints.of(&source.subscription_key),
            after: self.sessions.answered(source.session, source.opened),
            at: now,
        };
        if self.sessions.leads(source.session) {
            tell(match self.is_new(&frame, None) {
                true => Fate::New(event()),
                false => Fate::Duplicate(source.session),
            });
        } else {
            self.waiting.add(frame, data.len(), event());
            // Where too much waits, the oldest of it is decided upon with what is known.
            while self.waiting.is_too_much()
                && let Some(oldest) = self.waiting.oldest()
            {
                self.decide(oldest, &mut tell);
            }
        }
    }

    /// A session has answered a request that was sent at `sent`.
    pub fn answered(&mut self, session: SessionId, sent: Instant, tell: impl FnMut(Fate<T>)) {
        self.sessions.has_answered(session, sent);
        if self.sessions.leads(session) {
            self.decide(sent, tell);
        }
    }

    /// A session has answered a mark that was sent at `sent`: when the next one had been bound for a while.
    pub fn marked(&mut self, session: SessionId, sent: Instant) {
        self.sessions.has_marked(session, sent);
    }

    /// A session has ended.
    pub fn ended(&mut self, session: SessionId, rest: Rest, mut tell: impl FnMut(Fate<T>)) {
        let led = self.sessions.leads(session);
        if rest == Rest::Unknown {
            self.sessions.end(session, false);
        }
        if led {
            // The oldest first: the older session has brought nothing of the newest.
            let since = self.sessions.common_since(session);
            for (frame, event) in self.waiting.take(None) {
                tell(self.fate(&frame, since, event));
            }
        }
        self.sessions.end(session, rest == Rest::Read);
    }

    /// Decides upon what has waited for too long, with what is known. Whether anything still waits for an answer of the session
    /// that leads: then it is worth asking for one.
    pub fn decide_overdue(&mut self, now: Instant, tell: impl FnMut(Fate<T>)) -> bool {
        if let Some(until) = now.checked_sub(content::PATIENCE)
            && self.waiting.oldest().is_some_and(|oldest| oldest <= until)
        {
            self.decide(until, tell);
        }
        self.waiting.oldest().is_some()
    }

    /// Decides upon what has waited and came until `until`.
    fn decide(&mut self, until: Instant, tell: impl FnMut(Fate<T>)) {
        let due = self.waiting.take(Some(until));
        // The newest first: the older session has brought later ones too, and those are to be left for later frames. They are
        // told in the order in which they came.
        let decided = due.into_iter().rev().map(|(frame, event)| self.fate(&frame, None, event));
        let decided: Vec<_> = decided.collect();
        decided.into_iter().rev().for_each(tell);
    }

    fn fate(&mut self, frame: &Frame, since: Option<Instant>, event: T) -> Fate<T> {
        match self.is_new(frame, since) {
            true => Fate::New(event),
            false => Fate::Duplicate(frame.session),
        }
    }

    /// Whether a frame without a msg_id is no duplicate of anything that was delivered.
    fn is_new(&mut self, frame: &Frame, since: Option<Instant>) -> bool {
        let occurrences = self.seen.entry(frame.fingerprint).or_default();
        match self.sessions.twin(frame, since, occurrences) {
            Some(twin) => {
                twin.also_brought_by(frame);
                false
            }
            None => {
                self.remember(frame.fingerprint, Occurrence::first_brought_by(frame));
                true
            }
        }
    }

    fn remember(&mut self, fingerprint: Fingerprint, occurrence: Occurrence) {
        // What waited is remembered for as long as if it had just come: the line stays in order.
        let at = self.order.back().map_or(occurrence.at, |(last, _)| occurrence.at.max(*last));
        self.seen.entry(fingerprint).or_default().push(occurrence);
        self.order.push_back((at, fingerprint));
        while self.order.len() > self.capacity {
            self.forget_oldest();
        }
    }

    fn expire(&mut self, now: Instant) {
        self.known.expire(now, self.window);
        while let Some((at, _)) = self.order.front()
            && now.saturating_duration_since(*at) > self.window
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, fingerprint)) = self.order.pop_front()
            && let Some(occurrences) = self.seen.get_mut(&fingerprint)
        {
            // The oldest delivery of all is also the oldest of its content.
            if !occurrences.is_empty() {
                occurrences.remove(0);
            }
            if occurrences.is_empty() {
                self.seen.remove(&fingerprint);
            }
        }
    }

    /// How much is remembered, and waits.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.known.len() + self.order.len() + self.seen.len() + self.waiting.len()
    }
}

/// The payload with its keys in order: upstream's own order varies from frame to frame (F40). Text that is no JSON is taken
/// as it is.
struct Canonical<'a>(Result<serde_json::Value, &'a str>);

fn canonical(data: &str) -> Canonical<'_> {
    Canonical(serde_json::from_str(data).map_err(|_| data))
}

impl Hash for Canonical<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Ok(value) => value.hash(state),
            Err(text) => text.hash(state),
        }
    }
}
