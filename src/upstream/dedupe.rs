//! De-duplication: one event comes once for each overlapping binding (F41), once for each session during a rotation, and now
//! and then twice without a reason of ours (F42).
//!
//! An event with a `msg_id` is known by {account, routing key, `data.event`, call id, msg_id}: the msg_id alone is shared by
//! different objects (R19, R24).
//!
//! Without one, only its content is left, and equal content can be a genuine repeat. What tells them apart is who brought
//! it: each *source* (a session and a subscription key) brings every repeat once. So each delivered occurrence remembers the
//! sources that have brought it; a frame is a duplicate if there is an occurrence that its source has not brought yet and
//! could have brought. It could not, if the occurrence was delivered before the source's session began, or longer ago than
//! two sources can lie apart.
//!
//! What that cannot tell apart: while a session takes another's place and the other has a backlog, an event without a
//! msg_id that the new one brings, and an older one with the very same content that still waited in the other.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::binding::AccountId;

/// Frames of one session for one event come through one queue, close together.
const SAME_SESSION_SKEW: Duration = Duration::from_secs(5);

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

/// 128 bits of two keyed hashes: two different events have the same one as good as never, and nobody can aim for it.
type Fingerprint = (u64, u64);

/// The memory of one upstream account, bounded by count and by time.
pub(crate) struct Deduplicator {
    capacity: usize,
    window: Duration,
    hashers: (RandomState, RandomState),
    /// Events with a msg_id that were delivered, and contents with their occurrences.
    seen: HashMap<Fingerprint, Occurrences>,
    /// What was delivered, oldest first.
    order: VecDeque<(Instant, Fingerprint)>,
}

/// Deliveries of one content, oldest first. An event with a msg_id has exactly one, and its sources do not matter.
type Occurrences = SmallVec<[Occurrence; 1]>;

struct Occurrence {
    at: Instant,
    brought_by: SmallVec<[(SessionId, u64); 2]>,
}

impl Deduplicator {
    /// Remembers at most `capacity` events, each for `window`.
    pub fn new(capacity: usize, window: Duration) -> Self {
        Self {
            capacity: capacity.max(1),
            window,
            hashers: (RandomState::new(), RandomState::new()),
            seen: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether the event is new. `data` is its payload's text.
    pub fn is_new(&mut self, identity: Identity<'_>, source: Source<'_>, data: &str, now: Instant) -> bool {
        self.expire(now);
        if identity.message_id.is_empty() {
            self.is_new_content(identity, source, data, now)
        } else {
            let fingerprint = self.fingerprint(&identity);
            let new = !self.seen.contains_key(&fingerprint);
            if new {
                self.remember(fingerprint, now, SmallVec::new());
            }
            new
        }
    }

    fn is_new_content(
        &mut self,
        identity: Identity<'_>,
        source: Source<'_>,
        data: &str,
        now: Instant,
    ) -> bool {
        let fingerprint = self.fingerprint(&(identity, canonical(data)));
        let key = self.hashers.0.hash_one(source.subscription_key);
        let bringer = (source.session, key);
        let window = self.window;
        let occurrences = self.seen.entry(fingerprint).or_default();
        let known = occurrences.iter_mut().find(|occurrence| {
            let same_session = occurrence.brought_by.iter().any(|(session, _)| *session == source.session);
            let skew = if same_session { SAME_SESSION_SKEW } else { window };
            !occurrence.brought_by.contains(&bringer)
                && occurrence.at >= source.opened
                && now.saturating_duration_since(occurrence.at) <= skew
        });
        match known {
            Some(occurrence) => {
                occurrence.brought_by.push(bringer);
                false
            }
            None => {
                self.remember(fingerprint, now, SmallVec::from_iter([bringer]));
                true
            }
        }
    }

    fn remember(
        &mut self,
        fingerprint: Fingerprint,
        at: Instant,
        brought_by: SmallVec<[(SessionId, u64); 2]>,
    ) {
        self.seen.entry(fingerprint).or_default().push(Occurrence { at, brought_by });
        self.order.push_back((at, fingerprint));
        while self.order.len() > self.capacity {
            self.forget_oldest();
        }
    }

    fn expire(&mut self, now: Instant) {
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

    /// How much is remembered.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.order.len() + self.seen.len()
    }

    fn fingerprint(&self, what: &impl Hash) -> Fingerprint {
        (self.hashers.0.hash_one(what), self.hashers.1.hash_one(what))
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const ACCOUNT: &str = "account0000000000000000000000002";

    struct Bench {
        deduplicator: Deduplicator,
        start: Instant,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Self { deduplicator: Deduplicator::new(1000, Duration::from_secs(120)), start, now: start }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn with_id(&mut self, routing_key: &str, event: &str, call_id: &str, message_id: &str) -> bool {
            let identity =
                Identity { account: ACCOUNT.parse().unwrap(), routing_key, event, call_id, message_id };
            let source = Source { session: SessionId(1), opened: self.start, subscription_key: "any" };
            self.deduplicator.is_new(identity, source, "{}", self.now)
        }

        /// A frame without a msg_id from a session that was opened at the start.
        fn bare(&mut self, session: u64, key: &str, data: &str) -> bool {
            self.bare_from(session, self.start, key, data)
        }

        fn bare_from(&mut self, session: u64, opened: Instant, key: &str, data: &str) -> bool {
            let identity = Identity {
                account: ACCOUNT.parse().unwrap(),
                routing_key: "r",
                event: "",
                call_id: "",
                message_id: "",
            };
            let source = Source { session: SessionId(session), opened, subscription_key: key };
            self.deduplicator.is_new(identity, source, data, self.now)
        }
    }

    #[test]
    fn one_event_over_overlapping_bindings_is_one() {
        let mut bench = Bench::new();
        assert!(bench.with_id("call.A.CHANNEL_CREATE.x", "", "x", "m"));
        assert!(!bench.with_id("call.A.CHANNEL_CREATE.x", "", "x", "m"));
    }

    #[test]
    fn three_objects_that_share_a_msg_id_are_three() {
        let mut bench = Bench::new();
        for key in [
            "doc_created.DB.user.u1",
            "doc_created.DB-202611.mailbox_message.m1",
            "doc_created.DB-202611.cdr.c1",
        ] {
            assert!(bench.with_id(key, "", "", "1"), "{key}");
            assert!(!bench.with_id(key, "", "", "1"), "{key}");
        }
    }

    #[test]
    fn each_part_of_the_identity_counts() {
        let mut bench = Bench::new();
        assert!(bench.with_id("r", "e", "c", "m"));
        assert!(bench.with_id("r2", "e", "c", "m"));
        assert!(bench.with_id("r", "e2", "c", "m"));
        assert!(bench.with_id("r", "e", "c2", "m"));
        assert!(bench.with_id("r", "e", "c", "m2"));
        // Where one part ends and the next begins is not forgotten.
        assert!(bench.with_id("re", "", "c", "m"));
    }

    #[test]
    fn memory_is_bounded_by_time_and_by_count() {
        let mut bench = Bench::new();
        assert!(bench.with_id("r", "", "", "m"));
        bench.wait(120);
        assert!(!bench.with_id("r", "", "", "m"));
        bench.wait(1);
        assert!(bench.with_id("r", "", "", "m"));

        for n in 0..5000 {
            assert!(bench.with_id("r", "", "", &n.to_string()));
        }
        assert_eq!(bench.deduplicator.order.len(), 1000);
        assert_eq!(bench.deduplicator.seen.len(), 1000);
        bench.wait(121);
        assert!(bench.bare(1, "a", "{}"));
        assert_eq!(bench.deduplicator.seen.len(), 1);
    }

    #[test]
    fn without_a_msg_id_a_repeat_from_the_same_source_survives() {
        let mut bench = Bench::new();
        assert!(bench.bare(1, "a", r#"{"x":1}"#));
        assert!(bench.bare(1, "a", r#"{"x":1}"#));
        assert!(!bench.bare(1, "b", r#"{"x":1}"#));
        assert!(!bench.bare(1, "b", r#"{"x":1}"#));
        assert!(bench.bare(1, "b", r#"{"x":1}"#));
    }

    #[test]
    fn key_order_does_not_matter() {
        let mut bench = Bench::new();
        assert!(bench.bare(1, "a", r#"{"x":1,"y":{"b":[1,2],"a":null}}"#));
        assert!(!bench.bare(2, "a", r#"{ "y":{"a":null,"b":[1,2]}, "x":1}"#));
        assert!(bench.bare(3, "a", r#"{"x":1,"y":{"b":[2,1],"a":null}}"#));
    }

    #[test]
    fn a_session_has_not_brought_what_came_before_it() {
        let mut bench = Bench::new();
        for _ in 0..10 {
            assert!(bench.bare(1, "a", "{}"));
            bench.wait(1);
        }
        // Ten repeats lie behind; the second session sees only the eleventh.
        let opened = bench.now;
        bench.wait(1);
        assert!(bench.bare(1, "a", "{}"));
        assert!(!bench.bare_from(2, opened, "a", "{}"));
        assert!(bench.bare_from(2, opened, "a", "{}"), "the twelfth, which the first session lost");
    }

    #[test]
    fn a_key_that_was_bound_late_does_not_swallow_repeats() {
        let mut bench = Bench::new();
        assert!(bench.bare(1, "a", "{}"));
        bench.wait(6);
        assert!(bench.bare(1, "b", "{}"), "frames of one session for one event do not lie six seconds apart");
        assert!(!bench.bare(1, "a", "{}"));
    }

    proptest! {
        /// Several sources bring the same events, each in order and each everything, interleaved anyhow: every event is
        /// delivered once, every genuine repeat survives.
        #[test]
        fn any_interleaving_delivers_each_event_once(
            events in prop::collection::vec((0u8..4, prop::option::of(0u8..6)), 1..40),
            schedule in prop::collection::vec(0usize..4, 0..200),
        ) {
            let mut bench = Bench::new();
            let mut positions = [0usize; 4];
            let mut delivered: HashMap<(u8, Option<u8>), usize> = HashMap::new();
            // What the schedule leaves over is brought at the end, source by source.
            let rest = (0..4).flat_map(|source| std::iter::repeat_n(source, events.len()));
            for source in schedule.into_iter().chain(rest) {
                let Some((content, id)) = events.get(positions[source]).copied() else { continue };
                positions[source] += 1;
                let message_id = id.map(|id| id.to_string()).unwrap_or_default();
                let data = format!(r#"{{"content":{content}}}"#);
                let routing_key = content.to_string();
                let identity = Identity {
                    account: ACCOUNT.parse().unwrap(),
                    routing_key: &routing_key,
                    event: "",
                    call_id: "",
                    message_id: &message_id,
                };
                let source = Source {
                    session: SessionId(source as u64 / 2),
                    opened: bench.start,
                    subscription_key: ["a", "b"][source % 2],
                };
                bench.now += Duration::from_millis(1);
                if bench.deduplicator.is_new(identity, source, &data, bench.now) {
                    *delivered.entry((content, id)).or_default() += 1;
                }
            }
            let mut expected: HashMap<(u8, Option<u8>), usize> = HashMap::new();
            for (content, id) in events {
                let count = expected.entry((content, id)).or_default();
                // With a msg_id equal frames are one event.
                *count = if id.is_some() { 1 } else { *count + 1 };
            }
            prop_assert_eq!(delivered, expected);
        }

        /// A session takes another's place: the old one brings everything up to its end, the new one everything from its
        /// beginning on. Every event is delivered once; every genuine repeat survives, unless the old one has a backlog.
        #[test]
        fn a_rotation_delivers_each_event_once(
            events in prop::collection::vec((0u8..3, prop::option::of(0u8..6)), 1..40),
            begin in 0usize..40,
            overlap in 0usize..40,
            schedule in prop::collection::vec(any::<bool>(), 0..100),
            backlog in any::<bool>(),
        ) {
            let numbered = |(index, (content, id)): (usize, (u8, Option<u8>))| match backlog {
                true => (content, id.or(Some(100 + index as u8))),
                false => (content, id),
            };
            let events: Vec<_> = events.into_iter().enumerate().map(numbered).collect();
            let mut bench = Bench::new();
            let begin = begin.min(events.len());
            let end = (begin + overlap).min(events.len());
            let (mut old, mut new) = (0..end, begin..events.len());
            let mut opened = None;
            let mut delivered: HashMap<(u8, Option<u8>), usize> = HashMap::new();
            let rest = std::iter::repeat_n(false, events.len()).chain(std::iter::repeat_n(true, events.len()));
            for from_new in schedule.into_iter().chain(rest) {
                bench.now += Duration::from_millis(1);
                // What is published after the new session was opened is brought by neither before that.
                if opened.is_none() && (old.start >= begin || (from_new && backlog)) {
                    opened = Some(bench.now);
                }
                // Without a backlog the old one has brought by then what was published before.
                let from_new = from_new && (backlog || old.start >= begin);
                let next = if from_new { new.next() } else { old.next() };
                let Some((content, id)) = next.map(|index| events[index]) else { continue };
                let message_id = id.map(|id| id.to_string()).unwrap_or_default();
                let routing_key = content.to_string();
                let identity = Identity {
                    account: ACCOUNT.parse().unwrap(),
                    routing_key: &routing_key,
                    event: "",
                    call_id: "",
                    message_id: &message_id,
                };
                let (session, opened) = match from_new {
                    true => (SessionId(2), opened.unwrap()),
                    false => (SessionId(1), bench.start),
                };
                let source = Source { session, opened, subscription_key: "a" };
                let data = format!(r#"{{"content":{content}}}"#);
                if bench.deduplicator.is_new(identity, source, &data, bench.now) {
                    *delivered.entry((content, id)).or_default() += 1;
                }
            }
            let mut expected: HashMap<(u8, Option<u8>), usize> = HashMap::new();
            for (content, id) in events {
                let count = expected.entry((content, id)).or_default();
                *count = if id.is_some() { 1 } else { *count + 1 };
            }
            prop_assert_eq!(delivered, expected);
        }
    }
}
