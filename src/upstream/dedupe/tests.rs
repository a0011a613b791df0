//! What is told apart, and what is not.

mod rotation;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const ACCOUNT: &str = "account0000000000000000000000002";

struct Bench {
    deduplicator: Deduplicator<()>,
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
        self.offer(identity, source, "{}")
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
        self.offer(identity, source, data)
    }

    fn is_waiting(&mut self) -> bool {
        self.deduplicator.decide_overdue(self.now, |_| ())
    }

    /// A session has answered what was sent at `sent`. How many that waited are delivered.
    fn answered(&mut self, session: u64, sent: Instant) -> usize {
        let mut delivered = 0;
        self.deduplicator.answered(SessionId(session), sent, |fate| delivered += new(fate));
        delivered
    }

    /// Whether it is delivered at once.
    fn offer(&mut self, identity: Identity<'_>, source: Source<'_>, data: &str) -> bool {
        let mut new = false;
        self.deduplicator.offer(identity, source, data, self.now, || (), |fate| new = fate == Fate::New(()));
        new
    }
}

fn new(fate: Fate<()>) -> usize {
    usize::from(fate == Fate::New(()))
}

/// Counts how often each event is delivered.
fn count<T: std::hash::Hash + Eq>(delivered: &mut HashMap<T, usize>) -> impl FnMut(Fate<T>) {
    |fate| {
        if let Fate::New(event) = fate {
            *delivered.entry(event).or_default() += 1;
        }
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
    for key in
        ["doc_created.DB.user.u1", "doc_created.DB-202611.mailbox_message.m1", "doc_created.DB-202611.cdr.c1"]
    {
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
    assert_eq!(bench.deduplicator.size(), 1000);
    for n in 0..5000 {
        assert!(bench.bare(1, "a", &n.to_string()));
    }
    assert_eq!(
        bench.deduplicator.size(),
        3000,
        "of each kind; a content stands in the line and in the table"
    );
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
    assert!(!bench.bare(1, "b", r#"{ "y":{"a":null,"b":[1,2]}, "x":1}"#));
    assert!(bench.bare(1, "c", r#"{"x":1,"y":{"b":[2,1],"a":null}}"#));
}

#[test]
fn what_the_newer_session_brings_waits_until_the_older_one_is_known_to_have_brought_it_or_not() {
    let mut bench = Bench::new();
    assert!(bench.bare(1, "a", "{}"));
    bench.wait(60);
    let opened = bench.now;
    // Bound; and the older one lags behind.
    assert!(!bench.bare_from(2, opened, "a", "{}"));
    assert!(bench.answered(1, opened - Duration::from_millis(1)) == 0 && bench.is_waiting());
    bench.wait(3);
    assert!(bench.bare(1, "a", "{}"));
    assert_eq!(bench.answered(1, bench.now), 0, "it was the same one");
    // The next one is lost on the older session.
    assert!(!bench.bare_from(2, opened, "a", "{}"));
    bench.wait(3);
    assert_eq!(bench.answered(1, bench.now), 1);
    assert!(!bench.is_waiting());
}

#[test]
fn what_only_the_older_session_has_brought_swallows_nothing_that_comes_later() {
    for rest in [Rest::Read, Rest::Lost, Rest::Unknown] {
        let mut bench = Bench::new();
        assert!(bench.bare(1, "a", "{}"), "before the newer one is bound");
        let opened = bench.now;
        assert!(!bench.bare_from(2, opened, "a", r#"{"another":1}"#));
        bench.wait(2);
        bench.answered(2, bench.now);
        bench.deduplicator.ended(SessionId(1), rest, |_| ());
        assert!(bench.bare_from(2, opened, "a", "{}"), "a genuine repeat, after the older one's end");
    }
}

#[test]
fn what_waits_when_the_older_session_ends_is_not_lost() {
    let mut bench = Bench::new();
    let start = bench.now;
    assert!(bench.bare(1, "a", "{}"));
    assert!(!bench.bare_from(2, start, "a", "{}"));
    assert!(!bench.bare_from(2, start, "a", "{}"));
    let mut delivered = 0;
    bench.deduplicator.ended(SessionId(1), Rest::Read, |fate| delivered += new(fate));
    assert_eq!(delivered, 1);
    assert!(bench.bare_from(2, start, "a", "{}"));
}

#[test]
fn what_was_thrown_away_with_a_backlog_is_not_taken_for_what_came_out_of_it() {
    let mut bench = Bench::new();
    assert!(bench.bare(1, "a", r#"{"another":1}"#));
    let start = bench.now;
    let opened = start + Duration::from_secs(1);
    bench.wait(3);
    bench.answered(1, start + Duration::from_secs(2));
    bench.wait(5);
    bench.answered(2, start + Duration::from_secs(7));
    assert!(!bench.bare_from(2, opened, "a", "{}"), "put on both sessions now");
    bench.wait(2);
    assert!(bench.bare(1, "a", "{}"), "read now, but it was there before the next request");
    bench.answered(1, start + Duration::from_secs(5));
    for mark in [5, 6] {
        bench.deduplicator.marked(SessionId(1), start + Duration::from_secs(mark));
    }
    let mut delivered = 0;
    bench.deduplicator.ended(SessionId(1), Rest::Read, |fate| delivered += new(fate));
    assert_eq!(delivered, 1);
}

#[test]
fn what_waits_is_delivered_where_nobody_knows_what_the_older_session_still_had() {
    for (rest, expected) in [(Rest::Read, 0), (Rest::Unknown, 1)] {
        let mut bench = Bench::new();
        let start = bench.now;
        assert!(bench.bare(1, "a", "{}"));
        assert!(!bench.bare_from(2, start, "a", "{}"));
        let mut delivered = 0;
        bench.deduplicator.ended(SessionId(1), rest, |fate| delivered += new(fate));
        assert_eq!(delivered, expected, "{rest:?}");
    }
}

#[test]
fn what_waits_is_bounded() {
    let mut bench = Bench::new();
    let start = bench.now;
    assert!(bench.bare(1, "a", "{}"));
    let mut at_once = 0;
    for n in 0..20_000 {
        bench.now += Duration::from_millis(1);
        at_once += usize::from(bench.bare_from(2, start, "a", &n.to_string()));
    }
    assert_eq!(at_once, 10_000, "never lost");
    assert!(bench.deduplicator.size() < 13_000);

    // And in bytes: what is large makes room for itself.
    let large = "0".repeat(1 << 20);
    for n in 0..40 {
        bench.now += Duration::from_millis(1);
        bench.bare_from(2, start, "a", &format!("\"{n}{large}\""));
    }
    assert_eq!(bench.deduplicator.waiting.len(), 15, "never more than 16 MiB");
}

#[test]
fn the_answer_to_a_mark_that_comes_late_does_not_count() {
    let at = |seconds| Instant::now() + Duration::from_secs(seconds);
    let mut sessions = super::Sessions::default();
    for sent in [at(2), at(1), at(3)] {
        sessions.has_marked(SessionId(1), sent);
    }
    let since = sessions.common_since(SessionId(1)).unwrap();
    assert!(since > at(0) + Duration::from_millis(1500), "the one before the last");
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
        let mut deduplicator = Deduplicator::new(1000, Duration::from_secs(120));
        let start = Instant::now();
        let mut now = start;
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
                opened: start,
                subscription_key: ["a", "b"][source % 2],
            };
            now += Duration::from_millis(1);
            deduplicator.offer(identity, source, &data, now, || (content, id), count(&mut delivered));
        }
        deduplicator.answered(SessionId(0), now, count(&mut delivered));
        prop_assert!(!deduplicator.decide_overdue(now, |_| ()));
        let mut expected: HashMap<(u8, Option<u8>), usize> = HashMap::new();
        for (content, id) in events {
            let count = expected.entry((content, id)).or_default();
            // With a msg_id equal frames are one event.
            *count = if id.is_some() { 1 } else { *count + 1 };
        }
        prop_assert_eq!(delivered, expected);
    }
}
