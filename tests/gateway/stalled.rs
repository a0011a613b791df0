//! Consumers that are too slow, and such that do not read at all: what they are told, what they cost, and that nobody else
//! notices. Real sockets, and the client that services use.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hawking::{
    config,
    grpc::ended::Cause,
    hub::HELD_PER_STREAM,
    proto::{
        self, OverflowPolicy, ReplayMissPolicy, event_service_client::EventServiceClient,
        subscribe_request::Start, subscribe_response::Kind,
    },
};
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};
use tonic_types::StatusExt;

use super::harness::*;

const WINDOW: u32 = 64 << 10;
const EVENT: usize = 10_000;
const LOG: usize = 2 << 20;
/// Streams of each connection that do not read, and such that do.
const STALLED: usize = 25;
const HEALTHY: usize = 2;

/// As many as a machine that has other things to do can bear; `HAWKING_STALLED=500` is what is promised.
fn stalled() -> usize {
    std::env::var("HAWKING_STALLED").ok().and_then(|count| count.parse().ok()).unwrap_or(50)
}

fn small_log() -> config::Hub {
    config::Hub { log_bytes: LOG, account_log_bytes: LOG, total_log_bytes: LOG, ..config::Hub::default() }
}

/// A connection on which each stream has a window of 64 KiB, and all together enough for each.
async fn client(server: &Direct) -> EventServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", server.addr))
        .unwrap()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * (STALLED + HEALTHY + 1) as u32);
    EventServiceClient::new(soon("connect", endpoint.connect()).await.unwrap())
}

fn publish(server: &Direct, number: usize) {
    let data = format!(r#"{{"call_id":"{number}","filler":"{}"}}"#, "x".repeat(EVENT));
    server.publish(&format!("call.{ACCOUNT}.CHANNEL_CREATE.{number}"), &data);
}

fn with_policy(policy: OverflowPolicy) -> proto::SubscribeRequest {
    proto::SubscribeRequest { overflow_policy: policy.into(), ..request(&["call.*.*"]) }
}

/// Half of them asked to be disconnected, half to skip. Each has a view of its own, so that they share no frames: that is the
/// most that they can cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_reset_alone_and_costs_little() {
    let settings = config::Grpc { stall_timeout: Duration::from_secs(4), ..settings() };
    let server = Direct::with(settings, small_log(), Duration::from_secs(10)).await;
    // Held from the first: nothing but events comes into the log. It has none itself.
    let none = Some(proto::EventFilter { names: vec!["NONE".into()], ..Default::default() });
    let _first = server.subscribe(proto::SubscribeRequest { filter: none, ..request(&["call.*.*"]) }).await;
    let count = stalled();
    let (mut unread, mut readers) = (Vec::new(), JoinSet::new());
    let passed: Arc<Vec<AtomicUsize>> =
        Arc::new((0..count.div_ceil(STALLED) * HEALTHY).map(|_| AtomicUsize::new(0)).collect());
    for connection in 0..count.div_ceil(STALLED) {
        let mut client = client(&server).await;
        for number in connection * STALLED..count.min((connection + 1) * STALLED) {
            let policy = [OverflowPolicy::Disconnect, OverflowPolicy::Skip][number % 2];
            let names = vec!["CHANNEL_CREATE".to_owned(), format!("OF_{number}")];
            let filter = Some(proto::EventFilter { names, ..Default::default() });
            let request = proto::SubscribeRequest { filter, ..with_policy(policy) };
            let mut consumer = Consumer::begin(&mut client, request).await.unwrap();
            consumer.confirmed().await;
            unread.push(consumer);
        }
        for number in 0..HEALTHY {
            let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
            consumer.confirmed().await;
            let (passed, index) = (passed.clone(), connection * HEALTHY + number);
            readers.spawn(async move {
                let mut expected = 0;
                while expected < 1000 {
                    assert_eq!(
                        consumer.event().await.call_id,
                        expected.to_string(),
                        "in order, once, no gap"
                    );
                    expected += 1;
                    passed[index].store(expected, Ordering::Relaxed);
                }
            });
        }
    }
    let streams = server.hub.subscriptions();

    // Five logs full. Whoever reads is waited for: it must not be cut because this machine is busy.
    let (mut most_held, mut most_kept) = (0, 0);
    for number in 0..1000 {
        publish(&server, number);
        if number % 20 == 19 {
            let all_passed = async || passed.iter().all(|passed| passed.load(Ordering::Relaxed) > number);
            eventually("the neighbours go on", all_passed).await;
        }
        let used = server.hub.memory_use();
        most_held = most_held.max(used.held);
        most_kept = most_kept.max(used.logs);
    }
    while let Some(reader) = readers.join_next().await {
        reader.expect("it got everything");
    }
    println!("{count} stalled: at most {most_kept} bytes in the log and {most_held} held by streams");
    // What readers make of the last twenty comes on top, until the next one comes.
    assert!(most_kept <= LOG + 25 * EVENT, "{most_kept}");
    assert!(most_held <= count * HELD_PER_STREAM, "{most_held}");
    assert!(most_held >= count * EVENT, "they held something: {most_held}");

    // All of them, and nobody else.
    eventually("who does not read is reset", async || {
        server.hub.subscriptions() == streams - count - passed.len()
    })
    .await;
    let ended = server.streams.ended().newest(usize::MAX);
    let of = |cause: Cause| ended.iter().filter(|stream| stream.cause == cause).count();
    let (overtaken, not_reading) = (of(Cause::SlowConsumerNotReading), of(Cause::NotReading));
    assert_eq!(overtaken + not_reading, count, "{overtaken} {not_reading}");
    assert!(overtaken <= count.div_ceil(2), "who skips is not overtaken");
    eventually("what they held is given back", async || server.hub.memory_use().held == 0).await;

    // It reads after all: what it was sent before, and then that it was reset.
    for consumer in &mut unread {
        let (messages, status) = consumer.end().await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let events = messages.iter().filter(|kind| matches!(kind, Kind::Event(_))).count();
        assert!((1..=7).contains(&events), "what fits into its window: {events}");
    }
}

/// It reads, but not fast enough: it is told where it stands, and that what follows is no longer there.
#[tokio::test]
async fn who_reads_too_slowly_is_told_and_resumes() {
    let server = Direct::with(settings(), small_log(), Duration::from_secs(10)).await;
    let mut client = client(&server).await;
    let mut slow = Consumer::begin(&mut client, with_policy(OverflowPolicy::Disconnect)).await.unwrap();
    slow.confirmed().await;
    publish(&server, 0);
    eventually("it is being sent", async || server.hub.encodes().frames == 1).await;
    for number in 1..500 {
        publish(&server, number);
    }
    let newest = server.account.status().window.newest.0;
    // Stalls are looked at much later: it reads again before.
    let (messages, status) = slow.end().await;
    let events: Vec<&proto::Event> = messages.iter().filter_map(event).collect();
    let last = events.last().and_then(|event| event.cursor.clone()).expect("some");
    assert!(events.iter().enumerate().all(|(number, event)| event.call_id == number.to_string()));
    assert!(events.len() < 50, "it did not read them while they were there");
    assert_eq!((status.code(), &*reason(&status)), (Code::Aborted, "SLOW_CONSUMER"), "{status:?}");
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["last_cursor"], format!("{}:{}", last.epoch, last.sequence));
    assert_eq!(metadata["lag"], (newest - last.sequence).to_string());

    // As its resume tells: the rest of the gap, or a refusal.
    let resume = |policy: ReplayMissPolicy| proto::SubscribeRequest {
        start: Some(Start::ResumeAfter(last.clone())),
        replay_miss_policy: policy.into(),
        ..request(&["call.*.*"])
    };
    let refused = Consumer::begin(&mut client, resume(ReplayMissPolicy::Fail)).await.err().unwrap();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::OutOfRange, "REPLAY_WINDOW_EXCEEDED"));
    let mut resumed = Consumer::begin(&mut client, resume(ReplayMissPolicy::Gap)).await.unwrap();
    let Kind::Gap(gap) = resumed.next().await else { panic!("a gap first") };
    assert_eq!(gap.after, Some(last));
    let next = resumed.event().await;
    assert_eq!(next.cursor, gap.before);
    assert_eq!(next.cursor.unwrap().sequence, server.account.status().window.oldest.0 + 1);
}

/// It reads on, and is told each time exactly how many it lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_skips_is_told_how_many_it_lost() {
    const EVENTS: u64 = 3000;
    let server = Direct::with(settings(), small_log(), Duration::from_secs(10)).await;
    let mut client = client(&server).await;
    let mut slow = Consumer::begin(&mut client, with_policy(OverflowPolicy::Skip)).await.unwrap();
    slow.confirmed().await;
    let before = server.account.status().window.newest.0;
    let reading = tokio::spawn(async move {
        let (mut had, mut gaps, mut passed) = (0, 0, before);
        while passed < before + EVENTS {
            match slow.next().await {
                Kind::Event(event) => {
                    had += 1;
                    let sequence = event.cursor.unwrap().sequence;
                    assert_eq!(sequence, passed + 1, "nothing is missing but what a gap tells of");
                    passed = sequence;
                    if had % 10 == 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                Kind::Gap(gap) => {
                    assert_eq!(gap.reason(), proto::GapReason::SlowConsumer);
                    assert_eq!(gap.after.unwrap().sequence, passed);
                    let next = gap.before.unwrap().sequence;
                    // Nothing but its events is in the log.
                    assert_eq!(gap.lost_count, Some(next - passed - 1));
                    passed = next - 1;
                    gaps += 1;
                }
                _ => {}
            }
        }
        (had, gaps)
    });
    for number in 0..EVENTS as usize {
        publish(&server, number);
        if number % 300 == 299 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let (had, gaps) = soon("it comes to the end", reading).await.unwrap();
    println!("{had} of {EVENTS}, {gaps} gaps");
    assert!(gaps >= 1 && had < EVENTS, "it was too slow");
}

fn event(kind: &Kind) -> Option<&proto::Event> {
    match kind {
        Kind::Event(event) => Some(event),
        _ => None,
    }
}
