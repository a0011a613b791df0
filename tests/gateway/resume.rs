//! Starts in the past over the wire: what is refused is refused by the contract, with what there is in the details; and who
//! asked for a gap instead gets one.

use std::time::{Duration, SystemTime};

use hawking::{
    config,
    hub::Hub,
    proto::{self, ReplayMissPolicy, subscribe_request::Start, subscribe_response::Kind},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::*;

const OTHER: &str = "account0000000000000000000000003";

/// What a request got.
enum Got {
    Refused(Status),
    Begun(Box<Consumer>),
}

struct Bench {
    server: Direct,
    /// Of the account's log.
    epoch: String,
    oldest: u64,
    newest: u64,
    began: SystemTime,
}

impl Bench {
    /// A log of ten records, of which the oldest have gone.
    async fn new() -> Self {
        let began = SystemTime::now() - Duration::from_secs(1);
        let hub = config::Hub { log_records: 10, ..config::Hub::default() };
        let server = Direct::with(settings(), hub, Duration::from_secs(10)).await;
        let mut first = server.subscribe(request(&["call.*.*"])).await;
        first.confirmed().await;
        for call in 0..30 {
            server.call("CHANNEL_CREATE", &format!("call-{call}"));
            first.event().await;
        }
        let window = server.account.status().window;
        assert_eq!(window.newest.0 - window.oldest.0, 10);
        Self {
            epoch: window.epoch.to_string(),
            oldest: window.oldest.0,
            newest: window.newest.0,
            began,
            server,
        }
    }

    async fn start(&self, start: Start, policy: ReplayMissPolicy) -> Got {
        let request = proto::SubscribeRequest {
            start: Some(start),
            replay_miss_policy: policy.into(),
            ..request(&["call.*.*"])
        };
        match Consumer::begin(&mut self.server.client().await, request).await {
            Ok(consumer) => Got::Begun(Box::new(consumer)),
            Err(status) => Got::Refused(status),
        }
    }

    fn cursor(&self, sequence: u64) -> proto::Cursor {
        proto::Cursor { epoch: self.epoch.clone(), sequence }
    }

    /// The epoch of another account's log, and a position that this log has too.
    fn cursor_of_other(&self) -> proto::Cursor {
        let hub: &Hub = &self.server.hub;
        let other = hub.add(account_id(OTHER), account_id(OTHER), Vec::new());
        proto::Cursor { epoch: other.epoch().to_string(), sequence: self.newest }
    }
}

fn at(time: SystemTime) -> Start {
    Start::StartTime(time.into())
}

const POLICIES: [ReplayMissPolicy; 3] =
    [ReplayMissPolicy::Unspecified, ReplayMissPolicy::Fail, ReplayMissPolicy::Gap];

/// What no policy mends, because the request is wrong.
#[tokio::test]
async fn wrong_starts_are_refused_under_every_policy() {
    let bench = Bench::new().await;
    let cursor = |epoch: &str, sequence| Start::ResumeAfter(proto::Cursor { epoch: epoch.into(), sequence });
    let time = |seconds, nanos| Start::StartTime(prost_types::Timestamp { seconds, nanos });
    let future = at(SystemTime::now() + Duration::from_secs(60));
    for (what, start, reason_is, field, has_window) in [
        (
            "above the newest",
            Start::ResumeAfter(bench.cursor(bench.newest + 1)),
            "INVALID_CURSOR",
            "resume_after.sequence",
            true,
        ),
        (
            "far above",
            Start::ResumeAfter(bench.cursor(u64::MAX)),
            "INVALID_CURSOR",
            "resume_after.sequence",
            true,
        ),
        ("garbage", cursor("yesterday", 3), "INVALID_CURSOR", "resume_after.epoch", false),
        ("nothing", cursor("", 3), "INVALID_CURSOR", "resume_after.epoch", false),
        ("too long", cursor(&"0".repeat(100), 3), "INVALID_CURSOR", "resume_after.epoch", false),
        ("the future", future, "INVALID_TIME", "start_time", true),
        ("no time", time(0, -1), "INVALID_TIME", "start_time", false),
        ("no year", time(i64::MAX, 0), "INVALID_TIME", "start_time", false),
    ] {
        for policy in POLICIES {
            let Got::Refused(status) = bench.start(start.clone(), policy).await else {
                panic!("{what} {policy:?}: begun");
            };
            assert_eq!(status.code(), Code::InvalidArgument, "{what} {status:?}");
            assert_eq!(reason(&status), reason_is, "{what}");
            let details = status.get_error_details();
            let fields: Vec<_> =
                details.bad_request().unwrap().field_violations.iter().map(|v| &*v.field).collect();
            assert_eq!(fields, [field], "{what}");
            assert_eq!(window(&status).is_some(), has_window, "{what}");
            if has_window {
                assert_eq!(window(&status), Some(bench.window()), "{what}");
            }
        }
    }
    eventually("nobody was let in", async || bench.server.hub.subscriptions() == 0).await;
}

impl Bench {
    fn window(&self) -> (String, String) {
        (format!("{}:{}", self.epoch, self.oldest), format!("{}:{}", self.epoch, self.newest))
    }
}

fn window(status: &Status) -> Option<(String, String)> {
    let details = status.get_error_details();
    let metadata = &details.error_info()?.metadata;
    Some((metadata.get("oldest")?.clone(), metadata.get("newest")?.clone()))
}

/// What is no longer there: refused, or begun with the oldest and a gap before it.
#[tokio::test]
async fn what_is_no_longer_there_is_refused_or_a_gap() {
    use proto::GapReason::{EpochChanged, ReplayWindowExceeded};

    let bench = Bench::new().await;
    let too_old = bench.cursor(bench.oldest - 1);
    let other_log = proto::Cursor { epoch: "00000000000000ff".into(), sequence: bench.newest };
    for (what, start, reason_is, gap_reason, after) in [
        (
            "too old",
            Start::ResumeAfter(too_old.clone()),
            "REPLAY_WINDOW_EXCEEDED",
            ReplayWindowExceeded,
            too_old.sequence,
        ),
        (
            "the very first",
            Start::ResumeAfter(bench.cursor(0)),
            "REPLAY_WINDOW_EXCEEDED",
            ReplayWindowExceeded,
            0,
        ),
        ("another log", Start::ResumeAfter(other_log), "EPOCH_CHANGED", EpochChanged, 0),
        ("another account's", Start::ResumeAfter(bench.cursor_of_other()), "EPOCH_CHANGED", EpochChanged, 0),
        ("before it all", at(bench.began), "REPLAY_WINDOW_EXCEEDED", ReplayWindowExceeded, 0),
        ("1970", at(SystemTime::UNIX_EPOCH), "REPLAY_WINDOW_EXCEEDED", ReplayWindowExceeded, 0),
    ] {
        for policy in [ReplayMissPolicy::Unspecified, ReplayMissPolicy::Fail] {
            let Got::Refused(status) = bench.start(start.clone(), policy).await else {
                panic!("{what} {policy:?}: begun");
            };
            assert_eq!((status.code(), &*reason(&status)), (Code::OutOfRange, reason_is), "{what}");
            assert_eq!(window(&status), Some(bench.window()), "{what}");
        }
        let Got::Begun(mut consumer) = bench.start(start, ReplayMissPolicy::Gap).await else {
            panic!("{what}: refused");
        };
        assert_eq!(consumer.subscribed.position, Some(bench.cursor(bench.oldest)), "{what}");
        let told = consumer.subscribed.replay_window.clone().unwrap();
        assert_eq!(
            (told.oldest, told.newest),
            (Some(bench.cursor(bench.oldest)), Some(bench.cursor(bench.newest)))
        );
        let Kind::Gap(gap) = consumer.next().await else { panic!("{what}: the gap comes first") };
        assert_eq!(gap.reason(), gap_reason, "{what}");
        assert_eq!(gap.after.unwrap(), bench.cursor(after), "{what}");
        assert_eq!(gap.before.unwrap(), bench.cursor(bench.oldest + 1), "{what}");
        assert_eq!((gap.bindings, gap.lost_count), (vec!["call.*.*".to_owned()], None));
        let events = consumer.events(10).await;
        let sequences: Vec<_> = events.iter().map(|event| event.cursor.as_ref().unwrap().sequence).collect();
        assert_eq!(sequences, (bench.oldest + 1..=bench.newest).collect::<Vec<_>>(), "{what}");
    }
}

/// The ends of the window, and times within it.
#[tokio::test]
async fn what_is_there_is_given_under_every_policy() {
    let bench = Bench::new().await;
    let mut all = Vec::new();
    for (start, first) in [
        (Start::ResumeAfter(bench.cursor(bench.oldest)), bench.oldest + 1),
        (Start::ResumeAfter(bench.cursor(bench.newest - 1)), bench.newest),
    ] {
        for policy in POLICIES {
            let Got::Begun(mut consumer) = bench.start(start.clone(), policy).await else {
                panic!("refused")
            };
            let count = usize::try_from(bench.newest + 1 - first).unwrap();
            // A gap would fail it.
            let events = consumer.events(count).await;
            assert_eq!(events[0].cursor, Some(bench.cursor(first)));
            if events.len() > all.len() {
                all = events;
            }
        }
    }
    // Nothing yet, and then the next.
    let end = Start::ResumeAfter(bench.cursor(bench.newest));
    let Got::Begun(mut consumer) = bench.start(end, ReplayMissPolicy::Fail).await else { panic!("refused") };

    // The first of those received at that time or later.
    for event in &all[1..] {
        let time = event.receive_time.unwrap();
        let first = all.iter().find(|other| other.receive_time.unwrap() == time).unwrap();
        let Got::Begun(mut consumer) = bench.start(Start::StartTime(time), ReplayMissPolicy::Fail).await
        else {
            panic!("refused")
        };
        assert_eq!(consumer.event().await, *first);
    }
    bench.server.call("CHANNEL_DESTROY", "next");
    assert_eq!(consumer.event().await.cursor, Some(bench.cursor(bench.newest + 1)));
}
