//! Starts in the past, and the bounds of the log.

use tokio::time::advance;

use super::*;
use crate::hub::{Cursor, Epoch, Gap, Sequence, SubscribeError};

async fn start(
    bench: &Bench,
    start: Start,
    miss_policy: ReplayMissPolicy,
) -> Result<Subscription, SubscribeError> {
    bench.account.subscribe(SubscribeSpec { start, miss_policy, ..spec(&["call.*.*"]) }).await
}

/// A log in which `call.*.*` has been wanted from the first, with one event in each second from `day()` on.
async fn log_of(settings: config::Hub, events: u64) -> Bench {
    let bench = Bench::with_always(settings, &["call.*.*"]);
    bench.confirm("call.*.*");
    for call in 0..events {
        bench.call("CHANNEL_CREATE", &call.to_string());
        advance(Duration::from_secs(1)).await;
    }
    bench
}

#[tokio::test(start_paused = true)]
async fn goes_on_exactly_after_a_cursor_through_the_past_into_the_present() {
    let bench = log_of(settings(), 1000).await;
    let mut reader = bench.replay(&["call.*.*"], 500).await;
    assert_eq!(reader.start_position().sequence.0, 500);
    let mut got = drain_events(&mut reader);
    bench.call("CHANNEL_CREATE", "new");
    got.extend(drain_events(&mut reader));
    assert_eq!(got, (501..=1002).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn starts_with_the_first_record_at_or_after_a_time() {
    let bench = log_of(settings(), 10).await;
    for (seconds, first) in [(0.0, 1), (0.5, 3), (1.0, 3), (9.0, 11), (9.5, 12), (10.0, 12)] {
        let at = Start::At(day() + Duration::from_secs_f64(seconds));
        let reader = start(&bench, at, ReplayMissPolicy::Fail).await.expect("a subscription");
        assert_eq!(reader.start_position().sequence.0, first - 1, "{seconds}");
    }
    let future = Start::At(bench.now() + Duration::from_millis(1));
    let refused = start(&bench, future, ReplayMissPolicy::Gap).await.err();
    assert_eq!(refused, Some(SubscribeError::TimeInFuture { window: bench.account.status().window }));
    // Before the log began nobody listened.
    let before = Start::At(day() - Duration::from_millis(1));
    let error = start(&bench, before, ReplayMissPolicy::Fail).await.err();
    assert!(matches!(error, Some(SubscribeError::WindowExceeded { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_start_outside_of_the_log_fails_or_is_a_gap() {
    let bench = log_of(config::Hub { log_records: 5, ..settings() }, 10).await;
    let window = bench.account.status().window;
    assert_eq!((window.oldest, window.newest), (Sequence(6), Sequence(11)));
    assert_eq!(window.oldest_time, Some(day() + Duration::from_secs(5)));
    let after = |sequence| Start::After(bench.account.cursor(Sequence(sequence)));
    let other = Start::After(Cursor { epoch: Epoch(1), sequence: Sequence(8) });
    let old = Start::At(day() + Duration::from_secs(4));

    use ReplayMissPolicy::{Fail, Gap as AsGap};
    for policy in [Fail, AsGap] {
        let above = start(&bench, after(12), policy).await.err();
        assert_eq!(above, Some(SubscribeError::CursorAboveNewest { window }));
        assert!(start(&bench, after(6), policy).await.is_ok());
        assert!(start(&bench, after(11), policy).await.is_ok());
    }
    assert_eq!(start(&bench, after(5), Fail).await.err(), Some(SubscribeError::WindowExceeded { window }));
    assert_eq!(start(&bench, old, Fail).await.err(), Some(SubscribeError::WindowExceeded { window }));
    assert_eq!(start(&bench, other, Fail).await.err(), Some(SubscribeError::EpochChanged { window }));
    assert_eq!(bench.account.status().subscriptions, 0);

    for (begin, reason, after, start_time) in [
        (after(2), GapReason::ReplayWindowExceeded, 2, None),
        (old, GapReason::ReplayWindowExceeded, 0, Some(day() + Duration::from_secs(4))),
        (other, GapReason::EpochChanged, 0, None),
    ] {
        let mut reader = start(&bench, begin, AsGap).await.expect("a subscription");
        assert_eq!(reader.start_position().sequence, Sequence(6));
        let mut seen = drain(&mut reader);
        let expected = Gap {
            id: after + 1,
            reason,
            after: Sequence(after),
            before: Some(Sequence(7)),
            start_time,
            end_time: Some(day() + Duration::from_secs(4)),
            bindings: vec!["call.*.*".into()],
            lost_count: None,
        };
        assert_eq!(seen.remove(0), Seen::Gap(expected));
        assert_eq!(seen.iter().filter_map(Seen::sequence).collect::<Vec<_>>(), [7, 8, 9, 10, 11]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_is_bounded_by_bytes_count_and_age() {
    let bench = log_of(config::Hub { log_age: Duration::from_secs(10), ..settings() }, 100).await;
    let status = bench.account.status();
    assert_eq!((status.records, status.window.oldest), (10, Sequence(91)));
    advance(Duration::from_secs(3600)).await;
    let status = bench.account.status();
    assert_eq!(
        (status.records, status.window.oldest, status.window.newest),
        (0, Sequence(101), Sequence(101))
    );
    assert_eq!((status.bytes, status.window.oldest_time), (0, None));

    let bench = log_of(config::Hub { log_bytes: 20_000, ..settings() }, 100).await;
    let status = bench.account.status();
    assert!(status.bytes <= 20_000 && status.records > 10 && status.records < 100, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_larger_than_the_log_is_still_delivered() {
    let bench = Bench::new(config::Hub { log_bytes: 1000, ..settings() });
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.*.*"]).await;
    drain(&mut reader);
    let data = format!(r#"{{"x":"{}"}}"#, "x".repeat(200_000));
    let sequence = bench.account.append(event(&format!("call.{}.CHANNEL_CREATE.a", account_id()), &data));
    assert_eq!(drain_events(&mut reader), [sequence.expect("wanted").0]);
}

/// The wall clock goes back; receive times do not.
#[tokio::test(start_paused = true)]
async fn receive_times_never_fall() {
    struct Backwards(parking_lot::Mutex<SystemTime>);
    impl WallClock for Backwards {
        fn now(&self) -> SystemTime {
            let mut now = self.0.lock();
            *now -= Duration::from_secs(1);
            *now
        }
    }
    let hub = Hub::new(settings(), Arc::new(Backwards(parking_lot::Mutex::new(day()))), || 1);
    let account = hub.add(account_id(), account_id(), Vec::new());
    account.record(Control::Confirmed { binding: upstream("call.*.*") });
    let mut reader = account.subscribe(spec(&["call.*.*"])).await.expect("a subscription");
    for _ in 0..3 {
        account.append(call("CHANNEL_CREATE", "a"));
    }
    let times: Vec<_> = drain(&mut reader)
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Event(event) => event.receive_time.map(|time| time.seconds),
            _ => None,
        })
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.is_sorted());
}
