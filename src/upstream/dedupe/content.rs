//! What tells one event from another where only its content is known: see the parent.

use std::{cmp::Reverse, collections::VecDeque, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{SessionId, known::Fingerprint};

/// Frames of one session for one event come through one queue, close together.
const SAME_SESSION_SKEW: Duration = Duration::from_secs(5);

/// What answers tell is taken with so much allowance: two sessions are not given an event, and do not have their turn to
/// answer, at the very same moment.
pub(in crate::upstream) const SLACK: Duration = Duration::from_secs(1);

/// How long a frame waits at most. Longer than a command is given by default, after which it is sent again.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What may wait, in frames and in bytes of payload. Events without a msg_id are few.
const WAITING_FRAMES: usize = 10_000;
const WAITING_BYTES: usize = 16 << 20;

/// A frame without a msg_id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub fingerprint: Fingerprint,
    pub session: SessionId,
    /// Its subscription key, hashed.
    pub key: Fingerprint,
    /// Its event was put on the session after this.
    pub after: Instant,
    /// When it was read.
    pub at: Instant,
}

/// A delivery.
#[derive(Debug)]
pub(super) struct Occurrence {
    /// Like [`Frame::after`], of the frame that was delivered.
    after: Instant,
    pub at: Instant,
    /// The session and the key that have brought it, and when.
    brought_by: SmallVec<[(SessionId, Fingerprint, Instant); 2]>,
}

impl Occurrence {
    pub fn first_brought_by(frame: &Frame) -> Self {
        let brought_by = SmallVec::from_iter([(frame.session, frame.key, frame.at)]);
        Self { after: frame.after, at: frame.at, brought_by }
    }

    /// Takes note of a frame that is the same event.
    pub fn also_brought_by(&mut self, frame: &Frame) {
        self.brought_by.push((frame.session, frame.key, frame.at));
    }

    /// Whether a frame is the same event, from the same session by another key.
    fn came_by_another_key(&self, frame: &Frame) -> bool {
        let mine = self.brought_by.iter().filter(|(session, ..)| *session == frame.session);
        let (mut last, mut again) = (None, false);
        for (_, key, at) in mine {
            (last, again) = (last.max(Some(*at)), again || *key == frame.key);
        }
        !again && last.is_some_and(|last| frame.at.saturating_duration_since(last) <= SAME_SESSION_SKEW)
    }

    /// Whether a frame can be the same event, from another session than all that have brought it.
    fn came_by_another_session(&self, frame: &Frame, broken: Option<SessionId>) -> bool {
        let is_of_others = |(session, ..): &(SessionId, Fingerprint, Instant)| {
            *session != frame.session && Some(*session) != broken
        };
        self.brought_by.iter().all(is_of_others) && frame.after < self.at + SLACK
    }
}

/// The account's sessions that have brought or answered something, oldest first.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: SmallVec<[Open; 2]>,
    /// The last one that ended without being read to its end.
    broken: Option<SessionId>,
}

#[derive(Debug)]
struct Open {
    id: SessionId,
    /// When the last request was sent that it has answered; to begin with, when it was opened.
    answered: Instant,
    /// When the last two marks were sent that it has answered: see [`Sessions::common_since`].
    marks: [Option<Instant>; 2],
}

impl Sessions {
    /// When the last request was sent that the session has answered. It is one of them from now on, if it was none.
    pub fn answered(&mut self, session: SessionId, opened: Instant) -> Instant {
        self.entry(session, opened).answered
    }

    /// The session has answered a request that was sent at this time.
    pub fn has_answered(&mut self, session: SessionId, sent: Instant) {
        let open = self.entry(session, sent);
        open.answered = open.answered.max(sent);
    }

    /// The request was a mark.
    pub fn has_marked(&mut self, session: SessionId, sent: Instant) {
        let open = self.entry(session, sent);
        // The answer to one that was repeated may come after that to the next.
        if open.marks[1].is_none_or(|last| last < sent) {
            open.marks = [open.marks[1], Some(sent)];
        }
    }

    fn entry(&mut self, id: SessionId, opened: Instant) -> &mut Open {
        let at = self.open.partition_point(|open| open.id < id);
        if self.open.get(at).is_none_or(|open| open.id != id) {
            self.open.insert(at, Open { id, answered: opened, marks: [None; 2] });
        }
        &mut self.open[at]
    }

    /// When the last mark but one was sent, if it has answered two. What it has brought behind the answer, the next session
    /// has too; and what that one brought after the last mark, this one has brought behind the answer to the one before.
    pub fn common_since(&self, session: SessionId) -> Option<Instant> {
        self.open.iter().find(|open| open.id == session).and_then(|open| open.marks[0])
    }

    /// Whether the session is the oldest one.
    pub fn leads(&self, session: SessionId) -> bool {
        self.open.first().is_some_and(|open| open.id == session)
    }

    /// Takes note of a session's end.
    pub fn end(&mut self, session: SessionId, read: bool) {
        self.open.retain(|open| open.id != session);
        if !read {
            self.broken = Some(session);
        }
    }

    /// The delivery of which the frame is a duplicate. From another session only if it came behind the answer to a request
    /// sent at `since` or later.
    pub fn twin<'a>(
        &self,
        frame: &Frame,
        since: Option<Instant>,
        occurrences: &'a mut [Occurrence],
    ) -> Option<&'a mut Occurrence> {
        let by_another_key = occurrences.iter().position(|other| other.came_by_another_key(frame));
        // The latest as far as answers tell, and of these the one that was read at about the same time.
        let nearness = |other: &Occurrence| (other.after, Reverse(apart(other.at, frame.at)));
        let by_another_session = || {
            let others = occurrences.iter().enumerate();
            let others = others.filter(|(_, other)| {
                other.came_by_another_session(frame, self.broken)
                    && since.is_none_or(|since| since <= other.after)
            });
            others.max_by_key(|(_, other)| nearness(other)).map(|(index, _)| index)
        };
        let index = by_another_key.or_else(by_another_session)?;
        occurrences.get_mut(index)
    }
}

fn apart(one: Instant, other: Instant) -> Duration {
    one.max(other) - one.min(other)
}

/// Frames of a session that does not lead, in the order in which they came.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    line: VecDeque<(Frame, usize, T)>,
    bytes: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { line: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Waiting<T> {
    pub fn add(&mut self, frame: Frame, bytes: usize, event: T) {
        self.bytes += bytes;
        self.line.push_back((frame, bytes, event));
    }

    /// Whether more waits than may.
    pub fn is_too_much(&self) -> bool {
        self.line.len() > WAITING_FRAMES || self.bytes > WAITING_BYTES
    }

    /// When the oldest came.
    pub fn oldest(&self) -> Option<Instant> {
        self.line.front().map(|(frame, ..)| frame.at)
    }

    /// Takes out what came until `until`; without one, everything.
    pub fn take(&mut self, until: Option<Instant>) -> Vec<(Frame, T)> {
        let due = match until {
            Some(until) => self.line.partition_point(|(frame, ..)| frame.at <= until),
            None => self.line.len(),
        };
        let due: Vec<_> = self.line.drain(..due).collect();
        self.bytes -= due.iter().map(|(_, bytes, _)| bytes).sum::<usize>();
        due.into_iter().map(|(frame, _, event)| (frame, event)).collect()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.line.len()
    }
}
