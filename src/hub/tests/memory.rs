//! What logs take: that it is counted as the allocator counts it, and bounded for all of them together.

use proptest::prelude::*;

use super::*;
use crate::hub::{EndReason, MemoryUse, Sequence};

/// As many accounts as wanted: the first is configured, with half of the others below it; the rest are configured.
fn accounts(bench: &Bench, count: usize) -> Vec<Arc<Account>> {
    let id = |number: usize| format!("{number:032x}").parse::<AccountId>().expect("an account id");
    (0..count)
        .map(|number| {
            let served_by = if number <= count / 2 { id(0) } else { id(number) };
            let account = bench.hub.add(id(number), served_by, vec![binding("call.*.*")]);
            account.record(Control::Confirmed { binding: upstream("call.*.*") });
            account
        })
        .collect()
}

fn fill(account: &Account, events: usize, size: usize) {
    let filler = "x".repeat(size);
    for number in 0..events {
        let data = format!(r#"{{"call_id":"{number}","filler":"{filler}"}}"#);
        account.append(event(&format!("call.{}.CHANNEL_CREATE.{number}", account_id()), &data));
    }
}

fn sum(accounts: &[Arc<Account>]) -> usize {
    accounts.iter().map(|account| account.log_bytes()).sum()
}

/// Nobody reads any more, and all records are too old: each log has counted off what it counted, byte for byte, while it is
/// still there.
async fn all_goes(bench: &Bench, logs: &[Arc<Account>]) {
    tokio::time::sleep(bench.hub.settings().log_age + Duration::from_secs(1)).await;
    bench.hub.evict_aged().await;
    for log in logs {
        assert_eq!((log.status().records, log.log_bytes()), (0, 0), "all is given back");
    }
    let (frames, kept) = bench.hub.memory().frames_and_kept();
    assert_eq!((frames, kept), (0, 0));
}

/// The counted bytes against those that the allocator gave, for logs of small and of large events, with and without readers
/// of every format; and nothing is left in the end.
#[test]
fn what_is_counted_is_what_is_allocated() {
    for (size, formats) in [
        (10, &[][..]),
        (1200, &[]),
        (1200, &[PayloadFormat::Json][..]),
        (1200, &[PayloadFormat::Json, PayloadFormat::Typed, PayloadFormat::Struct, PayloadFormat::None]),
        (50_000, &[PayloadFormat::Json, PayloadFormat::Struct]),
    ] {
        paused(async {
            let bench = Bench::with_always(settings(), &["call.*.*"]);
            bench.confirm("call.*.*");
            let events = if size > 10_000 { 100 } else { 2000 };
            let mut readers = Vec::new();
            for format in formats {
                // Two, so that they share batches.
                for _ in 0..2 {
                    let spec = SubscribeSpec { format: *format, ..spec(&["call.*.*"]) };
                    readers.push(bench.account.subscribe(spec).await.expect("a subscription"));
                }
            }
            let before = bench.account.log_bytes();
            let info = allocation_counter::measure(|| {
                for _ in 0..events / 10 {
                    fill(&bench.account, 10, size);
                    // Without keeping anything of it.
                    for reader in &mut readers {
                        let mut cx = Context::from_waker(Waker::noop());
                        while let Poll::Ready(Some(_)) = reader.poll_next(&mut cx) {}
                    }
                }
            });
            let counted = (bench.account.log_bytes() - before) as f64;
            let allocated = info.bytes_current as f64;
            println!(
                "{size} {formats:?}: counted {counted}, allocated {allocated}: {:.3}",
                counted / allocated
            );
            // The allocator's own overhead is counted, and not in what it says.
            let overhead = if size == 10 { 1.0..1.4 } else { 1.0..1.15 };
            assert!(overhead.contains(&(counted / allocated)), "{size} {formats:?}: {counted} {allocated}");
            assert_eq!(bench.hub.memory_use().logs, bench.account.log_bytes());
            let (frames, kept) = bench.hub.memory().frames_and_kept();
            assert_eq!(frames, kept, "nobody but the views holds any");

            drop(readers);
            all_goes(&bench, &[Arc::clone(&bench.account)]).await;
            assert!(bench.hub.remove(&account_id()));
        });
    }
}

/// What a consumer has not taken is counted for as long as it is there, whatever became of the log.
#[tokio::test(start_paused = true)]
async fn what_a_stream_holds_is_counted() {
    let bench = Bench::new(config::Hub { log_bytes: 100_000, ..settings() });
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.*.*"]).await;
    drain(&mut reader);
    fill(&bench.account, 1, 10_000);
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(Item::Events { mut frames, .. })) = reader.poll_next(&mut cx) else {
        panic!("an event");
    };
    let piece = frames.split_off(frames.len() - 10);
    drop(frames);
    fill(&bench.account, 100, 10_000);
    let held = bench.hub.memory_use().held;
    assert!((10_000..11_500).contains(&held), "{held}");
    drop(piece);
    assert_eq!(bench.hub.memory_use().held, 0);
}

/// The rule: who has little keeps it; the largest are cut to one size. A branch is bounded as a whole, beside the process.
#[tokio::test(start_paused = true)]
async fn the_largest_logs_are_cut_to_one_size() {
    let settings = config::Hub {
        log_bytes: 1 << 20,
        account_log_bytes: 1200 << 10,
        total_log_bytes: 3 << 20,
        ..settings()
    };
    let bench = Bench::new(settings.clone());
    let logs = accounts(&bench, 8);
    // A branch of five: more than it may have, but the process has room.
    fill(&logs[0], 50, 1000);
    fill(&logs[2], 200, 1000);
    fill(&logs[1], 2000, 1000);
    let small = logs[0].log_bytes();
    assert!(bench.hub.trim().await);
    let [zero, one, two] = [0, 1, 2].map(|log| logs[log].log_bytes());
    assert_eq!(zero, small, "who has little keeps all");
    assert!(zero + one + two <= settings.account_log_bytes / 8 * 7);
    assert!(one > two && two > 200 * 1000, "{one} {two}: only the largest had to give");
    assert!(!bench.hub.trim().await, "once is enough");

    // The others, each for itself: too much for the process.
    let before = bench.hub.evictions();
    for log in logs[5..].iter().cycle().take(30) {
        fill(log, 100, 1000);
        bench.hub.trim().await;
    }
    let total = bench.hub.memory_use();
    assert_eq!(total, MemoryUse { logs: sum(&logs), limit: 3 << 20, held: 0 });
    assert!(total.logs <= total.limit / 16 * 15 && total.logs > total.limit / 5 * 4, "{total:?}");
    assert!(bench.hub.evictions().shared_bytes > before.shared_bytes);
    for log in &logs[5..] {
        // One was filled after the last trim but one.
        assert!(log.log_bytes().abs_diff(logs[7].log_bytes()) < 200_000, "the largest are of one size");
    }
    assert_eq!([logs[0].log_bytes(), logs[2].log_bytes()], [zero, two]);

    // The window says so, and a reader from before it is told.
    let status = logs[7].status();
    assert_eq!(status.window.newest.0 - status.window.oldest.0, status.records as u64);
    let old = Start::After(logs[7].cursor(Sequence(status.window.oldest.0 - 1)));
    let refused = logs[7].subscribe(SubscribeSpec { start: old, ..spec(&["call.*.*"]) }).await.err();
    assert_eq!(refused, Some(super::super::SubscribeError::WindowExceeded { window: status.window }));
    let oldest = Start::After(logs[7].cursor(status.window.oldest));
    let mut reader =
        logs[7].subscribe(SubscribeSpec { start: oldest, ..spec(&["call.*.*"]) }).await.expect("all there");
    assert_eq!(drain_events(&mut reader).len(), status.records);
}

/// Nobody trims, as if the task had no time: the bound holds, and small logs are served all the same.
#[tokio::test(start_paused = true)]
async fn the_bound_holds_before_anybody_trims() {
    let settings = config::Hub {
        log_bytes: 1 << 20,
        account_log_bytes: 1 << 20,
        total_log_bytes: 1 << 20,
        ..settings()
    };
    let bench = Bench::new(settings);
    let logs = accounts(&bench, 4);
    for log in &logs {
        fill(log, 1000, 1000);
        let total = bench.hub.memory_use();
        assert_eq!(total.logs, sum(&logs));
        // The last record may be over: it goes in before another goes out.
        assert!(total.logs <= total.limit + 10_000, "{total:?}");
        assert!(log.status().records > 0);
    }
}

/// As `serve` runs it: trims when it must, and looks after the age of logs to which nothing is appended.
#[tokio::test(start_paused = true)]
async fn the_task_trims_and_lets_go_of_what_is_old() {
    let settings = config::Hub {
        log_bytes: 1 << 20,
        account_log_bytes: 1 << 20,
        total_log_bytes: 1 << 20,
        log_age: Duration::from_secs(600),
        ..settings()
    };
    let bench = Bench::new(settings);
    let logs = accounts(&bench, 4);
    let keeps = bench.hub.keep_bounds();
    let test = async {
        for log in logs.iter().cycle().take(100) {
            fill(log, 50, 1000);
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let total = bench.hub.memory_use();
            assert!(total.logs <= total.limit / 16 * 15, "{total:?}");
        }
        let sizes: Vec<usize> = logs.iter().map(|log| log.log_bytes()).collect();
        let spread = sizes.iter().max().zip(sizes.iter().min()).map(|(max, min)| max - min);
        assert!(spread < Some(200_000), "a fair share for each: {sizes:?}");
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert_eq!(bench.hub.memory_use().logs, 0, "nobody asked, and nothing was appended");
    };
    tokio::select! {
        () = keeps => panic!("it never ends"),
        () = test => {}
    }
}

#[tokio::test(start_paused = true)]
async fn new_bounds_hold_at_once() {
    let bench = Bench::new(settings());
    let logs = accounts(&bench, 4);
    for log in &logs {
        fill(log, 300, 1000);
    }
    let slow = SubscribeSpec { overflow_policy: OverflowPolicy::Disconnect, ..spec(&["call.*.*"]) };
    let mut reader = logs[0].subscribe(slow).await.expect("a subscription");
    fill(&logs[0], 100, 1000);
    bench.hub.reconfigure(config::Hub { log_bytes: 64 << 10, max_subscriptions: 1, ..settings() }).await;
    for log in &logs {
        assert!(log.log_bytes() <= 64 << 10);
    }
    assert!(matches!(drain(&mut reader)[..], [Seen::End(EndReason::SlowConsumer { .. })]));
    assert!(logs[1].subscribe(spec(&["call.*.*"])).await.is_err(), "one is open");
    // New logs have the new bounds too; and wider ones hold as well.
    let wide = config::Hub {
        total_log_bytes: 128 << 10,
        account_log_bytes: 128 << 10,
        log_bytes: 128 << 10,
        ..settings()
    };
    bench.hub.reconfigure(wide).await;
    let new = bench.hub.add("f".repeat(32).parse().expect("an id"), logs[0].id(), vec![binding("call.*.*")]);
    fill(&new, 300, 1000);
    assert_eq!(bench.hub.memory_use().limit, 128 << 10);
    assert!(bench.hub.trim().await);
    assert!(sum(&logs) + new.log_bytes() <= 128 << 10);
}

/// A removed account ends its subscriptions, and takes nothing from others any more, also while they still hold on to it.
#[tokio::test(start_paused = true)]
async fn a_removed_account_gives_back_what_it_took() {
    let bench = Bench::with_always(settings(), &["call.*.*"]);
    bench.confirm("call.*.*");
    let mut readers = [bench.subscribe(&["call.*.*"]).await, bench.subscribe(&["call.*.*"]).await];
    fill(&bench.account, 100, 1000);
    let mut frames = Vec::new();
    for reader in &mut readers {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Item::Events { frames: some, .. })) = reader.poll_next(&mut cx) else {
            panic!("events")
        };
        frames.push(some);
    }
    fill(&bench.account, 100, 1000);
    assert!(bench.hub.remove(&account_id()));
    assert_eq!((bench.account.log_bytes(), bench.hub.memory_use().logs), (0, 0));
    assert!(bench.hub.memory_use().held > 50_000, "what a consumer has not taken is its own");
    // Its upstream may not have heard yet.
    assert_eq!(bench.call("CHANNEL_CREATE", "late"), None);
    bench.state(UpstreamState::Down);
    assert_eq!(bench.account.log_bytes(), 0);
    for reader in &mut readers {
        assert!(matches!(drain(reader)[..], [Seen::End(EndReason::AccountGone)]));
    }
    drop(frames);
    assert_eq!(bench.hub.memory().frames_and_kept(), (0, 0));
}

/// What views take beside a log counts towards its bound, but does not shrink as fast as records can be let go of: an append
/// must not let go of all of them for that.
#[tokio::test(start_paused = true)]
async fn one_append_takes_the_place_of_few() {
    const LOG: usize = 600_000;
    let bench = Bench::with_always(config::Hub { log_bytes: LOG, ..settings() }, &["call.*.*"]);
    bench.confirm("call.*.*");
    let mut readers = Vec::new();
    for number in 0..300 {
        let names = vec!["CHANNEL_CREATE".to_owned(), format!("OF_{number}")];
        let filter = EventFilter { names, ..EventFilter::default() };
        readers.push(
            bench.account.subscribe(SubscribeSpec { filter, ..spec(&["call.*.*"]) }).await.expect("a view"),
        );
    }
    let records = || bench.account.with_state(|state| state.log.size().0);
    for number in 0..1000 {
        let before = records();
        fill(&bench.account, 1, 1000);
        assert!(records() + 10 >= before, "{number}: {before} records, and then {}", records());
    }
    assert!(bench.account.log_bytes() <= LOG + 20_000, "{}", bench.account.log_bytes());
    // What views remember of records is given back once three quarters of those have gone.
    assert!(records() > 50, "{}", records());
}

/// What a view keeps for its readers is bounded as it is, not as it was estimated: a `Struct` is larger than its JSON.
#[tokio::test(start_paused = true)]
async fn kept_frames_are_a_quarter_of_the_log() {
    const LOG: usize = 4 << 20;
    let bench = Bench::with_always(config::Hub { log_bytes: LOG, ..settings() }, &["call.*.*"]);
    bench.confirm("call.*.*");
    let mut readers = Vec::new();
    for _ in 0..2 {
        let spec = SubscribeSpec { format: PayloadFormat::Struct, ..spec(&["call.*.*"]) };
        readers.push(bench.account.subscribe(spec).await.expect("a subscription"));
    }
    let fields: Vec<String> = (0..200).map(|field| format!(r#""k{field}":{}"#, field % 10)).collect();
    let data = format!("{{{}}}", fields.join(","));
    let mut most = 0;
    for call in 0..1000 {
        bench.account.append(event(&format!("call.{}.CHANNEL_CREATE.{call}", account_id()), &data));
        if call % 10 == 9 {
            readers.iter_mut().for_each(|reader| drop(drain(reader)));
            most = most.max(bench.hub.memory().frames_and_kept().1);
        }
    }
    assert!(most > LOG / 8, "{most}");
    // The last batch comes before one goes.
    assert!(most <= LOG / 4 + (128 << 10), "{most}");
}

/// Whoever comes to a log that nobody has looked at for long does not wait until all that is too old has gone; the task does
/// that, a few at once.
#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_a_few_at_once() {
    let age = Duration::from_secs(600);
    let bench = Bench::with_always(config::Hub { log_age: age, ..settings() }, &["call.*.*"]);
    bench.confirm("call.*.*");
    fill(&bench.account, 2000, 10);
    tokio::time::sleep(2 * age).await;
    let mut before = 2001;
    let mut went = |what: &str| {
        let records = bench.account.with_state(|state| state.log.size().0);
        assert!(records < before && before - records <= 512, "{what}: from {before} to {records}");
        before = records;
    };
    bench.account.status();
    went("status");
    let reader = bench.subscribe(&["call.*.*"]).await;
    went("a reader");
    bench.call("CHANNEL_CREATE", "new");
    went("an append");
    drop(reader);
    bench.hub.evict_aged().await;
    assert_eq!(bench.account.status().records, 1, "all but the new one");
    assert_eq!(bench.hub.evictions().age, 2001);
}

/// Appends only look at the views that they belong to. What the others remember of records that have gone goes with the next
/// look at all logs.
#[tokio::test(start_paused = true)]
async fn views_forget_what_has_gone_also_where_nothing_comes_for_them() {
    let bench = Bench::with_always(config::Hub { log_records: 1000, ..settings() }, &["call.*.*"]);
    bench.confirm("call.*.*");
    let _create = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let _destroy = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    for call in 0..1000 {
        bench.call("CHANNEL_DESTROY", &call.to_string());
    }
    for call in 0..1000 {
        bench.call("CHANNEL_CREATE", &call.to_string());
    }
    let before = bench.account.log_bytes();
    bench.hub.evict_aged().await;
    assert!(bench.account.log_bytes() + 7900 < before, "{before} {}", bench.account.log_bytes());
}

/// New bounds cut a log in steps: between two of them others have their turn, and what views keep for what has gone goes
/// before more records do.
#[tokio::test(start_paused = true)]
async fn new_bounds_do_not_cut_more_than_they_must() {
    let bench = Bench::with_always(settings(), &["call.*.*"]);
    bench.confirm("call.*.*");
    let mut readers = Vec::new();
    for format in [PayloadFormat::Json, PayloadFormat::Struct, PayloadFormat::Typed, PayloadFormat::None] {
        for _ in 0..2 {
            let spec = SubscribeSpec { format, ..spec(&["call.*.*"]) };
            readers.push(bench.account.subscribe(spec).await.expect("a subscription"));
        }
    }
    for _ in 0..200 {
        fill(&bench.account, 10, 1000);
        readers.iter_mut().for_each(|reader| drop(drain(reader)));
    }
    let before = bench.account.status();
    let bound = before.bytes / 2;
    bench.hub.reconfigure(config::Hub { log_bytes: bound, ..settings() }).await;
    let after = bench.account.status();
    assert!(after.bytes <= bound && after.bytes > bound / 4 * 3, "{} of {bound}", after.bytes);
    assert!(after.records > before.records / 3, "{} of {}", after.records, before.records);
}

/// Frames are made for what is in them: without a payload many events go into a batch, however large they are.
#[tokio::test(start_paused = true)]
async fn batches_are_as_large_as_what_is_in_them() {
    for (format, size, count) in [
        (PayloadFormat::None, 10_000, 64),
        (PayloadFormat::None, 10, 64),
        (PayloadFormat::Json, 100, 64),
        (PayloadFormat::Json, 10_000, 6),
    ] {
        let bench = Bench::with_always(settings(), &["call.*.*"]);
        bench.confirm("call.*.*");
        let spec = SubscribeSpec { format, ..spec(&["call.*.*"]) };
        let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
        drain(&mut reader);
        fill(&bench.account, 64, size);
        let mut items = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let info = allocation_counter::measure(|| {
            if let Poll::Ready(Some(item)) = reader.poll_next(&mut cx) {
                items.push(item);
            }
        });
        let [Item::Events { frames, count: had, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!(*had, count, "{format:?} {size}");
        let (taken, _) = bench.hub.memory().frames_and_kept();
        println!("{format:?} {size}: {} bytes in {taken}, {} allocations", frames.len(), info.count_total);
        assert!(
            taken <= frames.len() + frames.len() / 8 + 200,
            "{format:?} {size}: {taken} {}",
            frames.len()
        );
        // The records' list and cores, the batch, the frames, who counts them, and the item's place: nothing is made twice.
        assert!(info.count_total <= u64::from(count) + 20, "{format:?} {size}: {}", info.count_total);
    }
}

/// To read the past of a log that is full must not make it shorter.
#[tokio::test(start_paused = true)]
async fn replay_does_not_push_out_what_it_reads() {
    let bench = Bench::with_always(config::Hub { log_bytes: 1 << 20, ..settings() }, &["call.*.*"]);
    bench.confirm("call.*.*");
    fill(&bench.account, 2000, 1000);
    let before = bench.account.status();
    assert!(before.records < 2000);
    for format in [PayloadFormat::Struct, PayloadFormat::Typed, PayloadFormat::Json] {
        let start = Start::After(bench.account.cursor(before.window.oldest));
        let spec = SubscribeSpec { start, format, ..spec(&["call.*.*"]) };
        let mut reader = bench.account.subscribe(spec).await.expect("all there");
        assert_eq!(drain_events(&mut reader).len(), before.records);
    }
    assert_eq!(bench.account.status().window, before.window);
}

#[derive(Debug, Clone)]
enum Move {
    Append { log: usize, count: usize, size: usize },
    Read { log: usize },
    Trim,
    Tight(bool),
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0..6_usize, 1..60_usize, 10..3000_usize).prop_map(|(log, count, size)| Move::Append { log, count, size }),
        3 => (0..6_usize).prop_map(|log| Move::Read { log }),
        2 => Just(Move::Trim),
        1 => any::<bool>().prop_map(Move::Tight),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is appended, read, trimmed and reconfigured in whatever order: the counters agree with each other, the bounds
    /// hold, and nothing is left when all is gone.
    #[test]
    fn counters_agree_and_bounds_hold(moves in prop::collection::vec(a_move(), 1..60)) {
        paused(async {
            let roomy = config::Hub { log_bytes: 256 << 10, account_log_bytes: 400 << 10, total_log_bytes: 600 << 10, ..settings() };
            let tight = config::Hub { log_bytes: 64 << 10, account_log_bytes: 100 << 10, total_log_bytes: 150 << 10, ..settings() };
            let bench = Bench::new(roomy.clone());
            let logs = accounts(&bench, 6);
            let mut readers = Vec::new();
            for (index, log) in logs.iter().enumerate() {
                let skip = OverflowPolicy::Skip;
                let format = [PayloadFormat::Json, PayloadFormat::Struct][index % 2];
                for _ in 0..=index % 2 {
                    let spec = SubscribeSpec { overflow_policy: skip, format, ..spec(&["call.*.*"]) };
                    readers.push((index, log.subscribe(spec).await.expect("a subscription")));
                }
            }
            // What the newest record of each log may take, which stays: with its encodings and its batch.
            let newest = 6 * 30_000;
            for a_move in moves {
                match a_move {
                    Move::Append { log, count, size } => fill(&logs[log], count, size),
                    Move::Read { log } => readers.iter_mut().filter(|(of, _)| *of == log).for_each(|(_, reader)| {
                        drain(reader);
                    }),
                    Move::Trim => {
                        bench.hub.trim().await;
                        let total = bench.hub.memory_use();
                        prop_assert!(total.logs <= total.limit / 16 * 15 + newest, "{:?}", total);
                    }
                    Move::Tight(is_tight) => {
                        let limit = if is_tight { &tight } else { &roomy };
                        bench.hub.reconfigure(limit.clone()).await;
                        bench.hub.trim().await;
                        let total = bench.hub.memory_use();
                        prop_assert!(total.logs <= limit.total_log_bytes / 16 * 15 + newest, "{:?}", total);
                    }
                }
                let total = bench.hub.memory_use();
                prop_assert_eq!(total.logs, sum(&logs));
                let (frames, kept) = bench.hub.memory().frames_and_kept();
                prop_assert_eq!(frames, kept);
            }
            drop(readers);
            all_goes(&bench, &logs).await;
            Ok(())
        })?;
    }
}
