//! How far a reader is, as others see it.

use super::*;
use crate::hub::Sequence;

/// A log that holds more than a view remembers positions of.
const RECORDS: usize = 6000;
/// What the view brings, of two kinds of event in the log.
const OWN: &str = "call.CHANNEL_CREATE.*";
const BOTH: &str = "call.*.*";

async fn bench() -> (Bench, Subscription) {
    let bench = Bench::new(config::Hub { log_records: RECORDS, ..settings() });
    bench.confirm(BOTH);
    let other = bench.subscribe(&[BOTH]).await;
    (bench, other)
}

fn own(bench: &Bench, count: usize) {
    for call in 0..count {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
}

fn others(bench: &Bench, count: usize) {
    for call in 0..count {
        bench.call("CHANNEL_DESTROY", &call.to_string());
    }
}

/// The next item's events.
fn step(subscription: &mut Subscription) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    match subscription.poll_next(&mut cx) {
        Poll::Ready(Some(Item::Events { count, .. })) => count as usize,
        other => panic!("{other:?}"),
    }
}

/// What a record says may be several items: a gap, and how the bindings stand. Whoever resumes between them hears all of them
/// again; behind the last one, none.
#[tokio::test(start_paused = true)]
async fn a_record_is_passed_with_the_last_item_of_it() {
    let bench = Bench::with_always(settings(), &[BOTH]);
    let before = Sequence(bench.confirm(BOTH));
    let mut reader = bench.subscribe(&[BOTH]).await;
    assert!(drain(&mut reader).is_empty());
    assert_eq!(reader.position().sequence, before);

    let lost = Sequence(bench.lose_all(day()));
    let mut cx = Context::from_waker(Waker::noop());
    let gap = reader.poll_next(&mut cx);
    assert!(matches!(gap, Poll::Ready(Some(Item::Gap(_)))), "{gap:?}");
    assert_eq!((reader.position().sequence, reader.has_more_to_say()), (before, true));
    let status = reader.poll_next(&mut cx);
    assert!(matches!(status, Poll::Ready(Some(Item::Upstream { .. }))), "{status:?}");
    assert_eq!((reader.position().sequence, reader.has_more_to_say()), (lost, false));
    assert!(reader.poll_next(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_lag_counts_the_readers_own_events_however_far_it_is_behind() {
    let (bench, _other) = bench().await;
    let mut reader = bench.subscribe(&[OWN]).await;
    let progress = Arc::clone(reader.progress());
    drain(&mut reader);
    assert_eq!((progress.lag(), progress.delivered()), (0, 0));
    own(&bench, 10);
    others(&bench, 7);
    assert_eq!((progress.lag(), progress.delivered()), (10, 0));
    assert_eq!(drain_events(&mut reader).len(), 10);
    assert_eq!((progress.lag(), progress.delivered()), (0, 10));
    assert_eq!(progress.position().sequence, bench.account.status().window.newest);

    // More than the view remembers.
    own(&bench, 5000);
    assert_eq!(progress.lag(), 5000);
    let mut read = step(&mut reader);
    assert_eq!(progress.lag(), 5000 - read as u64);
    while read < 4000 {
        read += step(&mut reader);
        assert_eq!((progress.lag(), progress.delivered()), (5000 - read as u64, 10 + read as u64));
    }
    drop(reader);
    assert_eq!(progress.lag(), 0, "who has gone lags behind nothing");
    // Neither when its view goes on, or others have come in its place.
    own(&bench, 3);
    let _next = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    let (one, two) = (bench.subscribe(&[OWN]).await, bench.subscribe(&[OWN]).await);
    let (gone, stays) = (Arc::clone(one.progress()), Arc::clone(two.progress()));
    drop(one);
    own(&bench, 5);
    others(&bench, 5);
    assert_eq!((progress.lag(), gone.lag(), stays.lag()), (0, 0, 5));
}

#[tokio::test(start_paused = true)]
async fn of_one_that_replays_it_is_an_upper_bound_until_it_has_come_up() {
    let (bench, _other) = bench().await;
    let begin = bench.account.status().window.newest.0;
    own(&bench, 300);
    others(&bench, 300);
    let mut reader = bench.replay(&[OWN], begin).await;
    let progress = Arc::clone(reader.progress());
    own(&bench, 5);
    let bound = progress.lag();
    assert!((305..=610).contains(&bound), "{bound}");
    let read = step(&mut reader);
    assert_eq!(progress.lag(), bound - read as u64);
    drain(&mut reader);
    assert_eq!((progress.lag(), progress.delivered()), (0, 305));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_out_of_the_log_itself_is_not_counted_as_lost() {
    let (bench, _other) = bench().await;
    let spec = SubscribeSpec { overflow_policy: OverflowPolicy::Skip, ..spec(&[OWN]) };
    let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
    let progress = Arc::clone(reader.progress());
    own(&bench, 1);
    drain(&mut reader);
    own(&bench, 5000);
    let read = step(&mut reader);
    // So many that all that the view does not remember has gone, and more.
    others(&bench, 5500);
    let lag = progress.lag();
    assert_eq!(lag, 5000 - read as u64);
    let seen = drain(&mut reader);
    let lost = seen.iter().find_map(|seen| match seen {
        Seen::Gap(gap) => gap.lost_count,
        _ => None,
    });
    let rest = seen.iter().filter_map(Seen::sequence).count() as u64;
    assert_eq!(lost.map(|lost| lost + rest), Some(lag), "lost and read are what lay before it");
    assert_eq!(progress.lag(), 0);
}
