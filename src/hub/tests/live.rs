//! Live streams: matching, frames, sharing, heartbeats, the end.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Wake,
};

use tokio::time::{Instant, advance};

use super::*;
use crate::hub::{EndReason, FieldFilter, SubscribeError};

#[tokio::test(start_paused = true)]
async fn an_event_reaches_whoever_asked_for_it_with_all_its_fields() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut both = bench
        .subscribe(&["call.CHANNEL_CREATE.*", "call.CHANNEL_CREATE.a.b@c", "call.CHANNEL_BRIDGE.*"])
        .await;
    let mut other = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    let received = bench.now();
    let sequence = bench.call("CHANNEL_CREATE", "a%2Eb%40c").expect("wanted");
    advance(Duration::from_secs(1)).await;

    assert_eq!(drain(&mut other), []);
    let seen = drain(&mut both);
    let [Seen::Event(event)] = &seen[..] else { panic!("{seen:?}") };
    let expected = proto::Event {
        cursor: Some(proto::Cursor { epoch: bench.account.epoch().to_string(), sequence }),
        account_id: account_id().to_string(),
        name: "CHANNEL_CREATE".into(),
        category: proto::EventCategory::Call.into(),
        routing_key: format!("call.{}.CHANNEL_CREATE.a%2Eb%40c", account_id()),
        message_id: "m".into(),
        call_id: "a.b@c".into(),
        receive_time: Some(received.into()),
        event_time: Some(day().into()),
        matched_bindings: vec!["call.CHANNEL_CREATE.*".into(), "call.CHANNEL_CREATE.a.b@c".into()],
        payload: Some(proto::event::Payload::JsonPayload(r#"{"call_id":"a%2Eb%40c","n":7}"#.into())),
    };
    assert_eq!(**event, expected);
    assert_eq!(both.position().sequence.0, sequence);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_not_kept() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    assert_eq!(bench.call("CHANNEL_CREATE", "a"), None);
    let _subscription = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    assert_eq!(bench.call("CHANNEL_DESTROY", "a"), None);
    assert!(bench.call("CHANNEL_CREATE", "a").is_some());
}

#[tokio::test(start_paused = true)]
async fn every_format_is_encoded_once_for_each_event_whatever_the_number_of_readers() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut readers = Vec::new();
    for format in [PayloadFormat::Json, PayloadFormat::Typed, PayloadFormat::Struct, PayloadFormat::None] {
        for names in [vec![], vec!["CHANNEL_CREATE".to_owned()]] {
            let filter = EventFilter { names, ..EventFilter::default() };
            for _ in 0..10 {
                let spec = SubscribeSpec { format, filter: filter.clone(), ..spec(&["call.*.*"]) };
                readers.push((format, bench.account.subscribe(spec).await.expect("a subscription")));
            }
        }
    }
    assert_eq!(bench.account.status().views, 8);
    let wanted: Vec<u64> =
        (0..200).filter_map(|call| bench.call("CHANNEL_CREATE", &call.to_string())).collect();
    for (format, reader) in &mut readers {
        let seen = drain(reader);
        assert_eq!(seen.iter().filter_map(Seen::sequence).collect::<Vec<_>>(), wanted);
        let Seen::Event(event) = &seen[0] else { panic!("{seen:?}") };
        match (*format, &event.payload) {
            (PayloadFormat::Json, Some(proto::event::Payload::JsonPayload(text))) => {
                assert_eq!(text, r#"{"call_id":"0","n":7}"#);
            }
            (PayloadFormat::Typed, Some(proto::event::Payload::Call(_)))
            | (PayloadFormat::Struct, Some(proto::event::Payload::StructPayload(_)))
            | (PayloadFormat::None, None) => {}
            other => panic!("{other:?}"),
        }
    }
    let encodes = bench.hub.encodes();
    assert_eq!((encodes.cores, encodes.typed, encodes.structures), (200, 200, 200));
    // One for each view: readers at the same position share their batches.
    assert_eq!(encodes.frames, 8 * 200);
}

#[tokio::test(start_paused = true)]
async fn readers_that_came_at_different_times_meet_in_the_same_batches() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut early = bench.subscribe(&["call.*.*"]).await;
    for call in 0..10 {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
    let mut late = bench.subscribe(&["call.*.*"]).await;
    for call in 10..20 {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
    assert_eq!(drain_events(&mut early).len(), 20);
    assert_eq!(drain_events(&mut late).len(), 10);
    assert_eq!(bench.hub.encodes().frames, 30, "the late one begins within the early one's batch");
    for call in 20..30 {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
    assert_eq!(drain_events(&mut late).len(), 10);
    assert_eq!(drain_events(&mut early).len(), 10);
    assert_eq!(bench.hub.encodes().frames, 40);
}

#[tokio::test(start_paused = true)]
async fn filters_narrow_down_names_call_ids_and_fields() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let field = |path: &str, value: &str| FieldFilter {
        path: path.split('.').map(str::to_owned).collect(),
        values: vec![value.into()],
    };
    let with = |filter| SubscribeSpec { filter, ..spec(&["call.*.*"]) };
    let names = EventFilter { names: vec!["CHANNEL_BRIDGE".into()], ..EventFilter::default() };
    let ids = EventFilter { call_ids: vec!["b".into()], ..EventFilter::default() };
    let fields =
        EventFilter { fields: vec![field("n", "7"), field("call_id", "b")], ..EventFilter::default() };
    let mut names = bench.account.subscribe(with(names)).await.expect("a subscription");
    let mut ids = bench.account.subscribe(with(ids)).await.expect("a subscription");
    let mut fields = bench.account.subscribe(with(fields)).await.expect("a subscription");

    let first = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    bench.call("CHANNEL_CREATE", "b");
    bench.call("CHANNEL_BRIDGE", "a");
    bench
        .account
        .append(event(&format!("call.{}.CHANNEL_DESTROY.b", account_id()), r#"{"n":8,"call_id":"b"}"#));

    assert_eq!(drain_events(&mut names), [first + 2]);
    assert_eq!(drain_events(&mut ids), [first + 1, first + 3]);
    assert_eq!(drain_events(&mut fields), [first + 1]);
}

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_reader_is_woken_once_and_only_for_its_own_view() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let mut other = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    let (woken, left) = (Arc::new(CountingWaker::default()), Arc::new(CountingWaker::default()));
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..3 {
        // Registering again does not add an entry.
        assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
    }
    assert!(other.poll_next(&mut Context::from_waker(&Waker::from(Arc::clone(&left)))).is_pending());
    for call in 0..5 {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(left.0.load(Ordering::Relaxed), 0);
    bench.state(UpstreamState::Degraded);
    assert_eq!(left.0.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_speaks_in_every_interval_and_says_how_far_the_log_is() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let mut busy = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    let start = Instant::now();
    let last = bench.call("CHANNEL_DESTROY", "x").expect("wanted");
    let item = reader.next().await.map(seen).expect("an item");
    assert_eq!(item, [Seen::Heartbeat(last)]);
    assert_eq!(start.elapsed().as_secs(), 15);
    // An item puts the next heartbeat off.
    advance(Duration::from_secs(10)).await;
    bench.call("CHANNEL_CREATE", "y").expect("wanted");
    assert_eq!(drain(&mut reader).len(), 1);
    reader.next().await.expect("an item");
    assert_eq!(start.elapsed().as_secs(), 15 + 10 + 15);
    assert_eq!(drain_events(&mut busy), [last]);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_places_are_given_back() {
    let bench =
        Bench::new(config::Hub { max_subscriptions_per_account: 2, max_subscriptions: 3, ..settings() });
    let other = bench.hub.add("f".repeat(32).parse().expect("an id"), account_id(), Vec::new());
    let a = bench.subscribe(&["call.*.*"]).await;
    let _b = bench.subscribe(&["call.*.*"]).await;
    let refused = bench.account.subscribe(spec(&["call.*.*"])).await.err();
    assert_eq!(refused, Some(SubscribeError::TooMany { limit: 2 }));
    let _c = other.subscribe(spec(&["call.*.*"])).await.expect("a subscription");
    let refused = other.subscribe(spec(&["call.*.*"])).await.err();
    assert_eq!(refused, Some(SubscribeError::TooMany { limit: 3 }));
    drop(a);
    assert_eq!((bench.hub.subscriptions(), bench.account.status().subscriptions), (2, 1));
    bench.subscribe(&["call.*.*"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_account_ends_its_streams_and_a_new_one_has_another_epoch() {
    let bench = Bench::new(settings());
    let mut reader = bench.subscribe(&["call.*.*"]).await;
    drain(&mut reader);
    assert!(bench.hub.remove(&account_id()));
    assert!(!bench.hub.remove(&account_id()));
    assert_eq!(reader.next().await.map(seen), Some(vec![Seen::End(EndReason::AccountGone)]));
    assert!(reader.next().await.is_none());
    assert_eq!(bench.account.subscribe(spec(&["call.*.*"])).await.err(), Some(SubscribeError::AccountGone));
    let again = bench.hub.add(account_id(), account_id(), Vec::new());
    assert_ne!(again.epoch(), bench.account.epoch());
}

/// No wake-up is lost: nothing else than the writer would wake these readers.
#[test]
fn readers_on_other_threads_miss_no_wake_up() {
    const EVENTS: u64 = 5000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let bench = Bench::new(settings());
        bench.confirm("call.*.*");
        let mut readers = tokio::task::JoinSet::new();
        for number in 0..8 {
            let bindings: &[&str] = if number % 2 == 0 { &["call.*.*"] } else { &["call.CHANNEL_CREATE.*"] };
            let spec = SubscribeSpec { heartbeat_interval: Duration::from_secs(3600), ..spec(bindings) };
            let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
            readers.spawn(async move {
                let mut got = Vec::new();
                while (got.len() as u64) < EVENTS {
                    got.extend(seen(reader.next().await.expect("an item")).iter().filter_map(Seen::sequence));
                }
                got
            });
        }
        let account = Arc::clone(&bench.account);
        let writer = tokio::spawn(async move {
            for number in 0..EVENTS {
                account.append(call("CHANNEL_CREATE", "a"));
                if number % 7 == 0 {
                    // So that the readers fall asleep now and then.
                    tokio::task::yield_now().await;
                }
            }
        });
        writer.await.expect("a writer");
        while let Some(got) = readers.join_next().await {
            let got = got.expect("a reader");
            assert_eq!(got.len() as u64, EVENTS);
            assert!(got.is_sorted());
        }
    });
}

/// More than a view remembers the positions of: the rest is read from the log, through the same projection.
#[tokio::test(start_paused = true)]
async fn a_reader_far_behind_gets_everything_in_order() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut behind = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let _other = bench.subscribe(&["call.CHANNEL_BRIDGE.*"]).await;
    let mut wanted = Vec::new();
    for number in 0..10_000 {
        let name = if number % 10 == 9 { "CHANNEL_BRIDGE" } else { "CHANNEL_CREATE" };
        let sequence = bench.call(name, "a").expect("wanted");
        if name == "CHANNEL_CREATE" {
            wanted.push(sequence);
        }
        if number == 5000 {
            bench.state(UpstreamState::Degraded);
        }
    }
    let seen = drain(&mut behind);
    assert_eq!(seen.iter().filter_map(Seen::sequence).collect::<Vec<_>>(), wanted);
    let state = seen.iter().position(|seen| matches!(seen, Seen::Upstream(..))).expect("the state");
    let before = seen[..state].iter().filter_map(Seen::sequence).max();
    let after = seen[state..].iter().find_map(Seen::sequence);
    let Seen::Upstream(_, at, _) = seen[state] else { unreachable!() };
    assert!(before < Some(at) && Some(at) < after, "in order: {before:?} {at} {after:?}");
}
