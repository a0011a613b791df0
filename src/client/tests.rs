//! What a subscription remembers, and what it asks for after each end. No server is needed for that.

use std::time::UNIX_EPOCH;

use tonic::Code;
use tonic_types::ErrorDetails;

use super::*;
use crate::proto::{Draining, Event, Gap, Heartbeat, Subscribed, UpstreamStatus};

fn cursor(sequence: u64) -> Cursor {
    Cursor { epoch: "00000000000000ff".into(), sequence }
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_764_000_000 + seconds)
}

fn at(sequence: u64, seconds: u64) -> Position {
    Position { cursor: cursor(sequence), time: Some(time(seconds)) }
}

fn without_time(sequence: u64) -> Position {
    Position { cursor: cursor(sequence), time: None }
}

/// A subscription that starts live.
fn live(on_miss: OnMiss) -> Subscriber {
    Subscriber::new(Endpoint::from_static("http://127.0.0.1:1"), SubscribeRequest::default()).on_miss(on_miss)
}

/// One that goes on after a stored position.
fn stored(position: Position, on_miss: OnMiss) -> Subscriber {
    live(on_miss).resume_after(position)
}

impl Subscriber {
    fn message(&mut self, kind: Kind) {
        self.remember(&SubscribeResponse { kind: Some(kind) });
    }

    /// The end of a stream with a reason of the contract. It lived long enough to count as a success.
    fn end(&mut self, code: Code, reason: &str) -> Result<Happening, Refused> {
        let details = ErrorDetails::with_error_info(reason, "hawking.v1", []);
        self.ended(&Status::with_error_details(code, "in words", details), true)
    }

    fn epoch_changed(&mut self) -> Result<Happening, Refused> {
        self.end(Code::OutOfRange, "EPOCH_CHANGED")
    }

    /// What the next stream asks for.
    fn next_start(&self) -> (Option<Start>, ReplayMissPolicy) {
        (self.request.start.clone(), self.request.replay_miss_policy())
    }
}

fn subscribed(sequence: u64) -> Kind {
    Kind::Subscribed(Subscribed { position: Some(cursor(sequence)), ..Subscribed::default() })
}

fn event(sequence: u64, seconds: u64) -> Kind {
    Kind::Event(Event {
        cursor: Some(cursor(sequence)),
        receive_time: Some(time(seconds).into()),
        ..Event::default()
    })
}

fn heartbeat(sequence: u64, seconds: u64) -> Kind {
    Kind::Heartbeat(Heartbeat { position: Some(cursor(sequence)), time: Some(time(seconds).into()) })
}

fn draining(sequence: u64) -> Kind {
    Kind::Draining(Draining { position: Some(cursor(sequence)), ..Draining::default() })
}

fn after(sequence: u64) -> Option<Start> {
    Some(Start::ResumeAfter(cursor(sequence)))
}

fn from(seconds: u64) -> Option<Start> {
    Some(Start::StartTime(time(seconds).into()))
}

#[track_caller]
fn is_started_over(happening: Result<Happening, Refused>) {
    assert!(matches!(happening, Ok(Happening::StartedOver { .. })), "{happening:?}");
}

#[track_caller]
fn is_interrupted(happening: Result<Happening, Refused>) {
    assert!(matches!(happening, Ok(Happening::Interrupted { .. })), "{happening:?}");
}

const ON_MISS: [OnMiss; 4] = [OnMiss::Fail, OnMiss::Live, OnMiss::Oldest, OnMiss::ByTime];

#[test]
fn events_and_heartbeats_advance_the_position_and_nothing_else_does() {
    let mut subscriber = stored(at(1, 1), OnMiss::Live);
    subscriber.message(event(5, 10));
    assert_eq!(subscriber.position(), Some(&at(5, 10)));
    subscriber.message(heartbeat(9, 20));
    assert_eq!(subscriber.position(), Some(&at(9, 20)));
    // Behind a gap lies what was not delivered, and `Draining` says nothing of when that was.
    let gap = Gap { before: Some(cursor(30)), ..Gap::default() };
    for kind in [Kind::Gap(gap), Kind::UpstreamStatus(UpstreamStatus::default()), draining(40)] {
        subscriber.message(kind);
        assert_eq!(subscriber.position(), Some(&at(9, 20)));
    }
}

#[test]
fn the_first_position_counts_only_for_who_starts_live() {
    let mut subscriber = live(OnMiss::ByTime);
    subscriber.asked = time(7);
    subscriber.message(subscribed(3));
    assert_eq!(
        subscriber.position(),
        Some(&at(3, 7)),
        "the time at which it was asked for, so nothing lies before it"
    );

    // Here a gap may follow, of which a start from behind it would not be told.
    let mut subscriber = stored(at(1, 1), OnMiss::ByTime);
    subscriber.message(subscribed(3));
    assert_eq!(subscriber.position(), Some(&at(1, 1)));
    is_started_over(subscriber.epoch_changed());
    subscriber.message(subscribed(3));
    assert_eq!(subscriber.position(), None);
}

#[tokio::test]
async fn an_interrupted_stream_is_resumed_after_the_last_position() {
    for on_miss in ON_MISS {
        let policy = if on_miss == OnMiss::Oldest { ReplayMissPolicy::Gap } else { ReplayMissPolicy::Fail };
        let mut subscriber = live(on_miss);
        // As `tail --since` begins: with what there is of that time. Later starts are no business of this choice.
        subscriber.request.start = from(0);
        subscriber.request.replay_miss_policy = ReplayMissPolicy::Gap.into();
        is_interrupted(subscriber.end(Code::Unavailable, ""));
        assert_eq!(
            subscriber.next_start(),
            (from(0), ReplayMissPolicy::Gap),
            "{on_miss:?}: nothing came yet"
        );

        for (code, reason) in
            [(Code::Unavailable, "DRAINING"), (Code::Aborted, "SLOW_CONSUMER"), (Code::Unknown, "")]
        {
            subscriber.message(event(5, 10));
            is_interrupted(subscriber.end(code, reason));
            assert_eq!(subscriber.next_start(), (after(5), policy), "{on_miss:?} {reason}");
            assert_eq!(subscriber.position(), Some(&at(5, 10)), "it still holds");
        }
    }
}

#[tokio::test]
async fn a_miss_is_for_the_caller_to_choose() {
    for reason in ["EPOCH_CHANGED", "REPLAY_WINDOW_EXCEEDED"] {
        let mut subscriber = stored(at(5, 10), OnMiss::Fail);
        let happening = subscriber.end(Code::OutOfRange, reason);
        assert!(matches!(happening, Err(Refused::Missed(_))), "{happening:?}");
        assert_eq!(subscriber.position(), Some(&at(5, 10)), "what was lost is known by it");

        for on_miss in [OnMiss::Live, OnMiss::Oldest] {
            let mut subscriber = stored(at(5, 10), on_miss);
            is_started_over(subscriber.end(Code::OutOfRange, reason));
            assert_eq!((subscriber.next_start().0, subscriber.position()), (None, None), "{on_miss:?}");
        }

        let mut subscriber = stored(at(5, 10), OnMiss::ByTime);
        is_started_over(subscriber.end(Code::OutOfRange, reason));
        let earlier = from(10 - CLOCK_MARGIN.as_secs());
        assert_eq!(
            subscriber.next_start(),
            (earlier, ReplayMissPolicy::Gap),
            "clocks differ, and a gap tells"
        );
        assert_eq!(subscriber.position(), None, "the cursor is of no use any more");
    }
}

#[tokio::test]
async fn a_start_by_time_is_repeated_until_something_came() {
    let mut subscriber = stored(at(5, 10), OnMiss::ByTime);
    is_started_over(subscriber.epoch_changed());
    let by_time = (from(8), ReplayMissPolicy::Gap);
    // The clock of the other gateway is behind: its time will come.
    is_interrupted(subscriber.end(Code::InvalidArgument, "INVALID_TIME"));
    assert_eq!(subscriber.next_start(), by_time);

    // That one is restarted before anything came of it. Its last word must not take the place of the time: from there on
    // there would be no way back but live, without a gap.
    subscriber.message(subscribed(1));
    subscriber.message(draining(1));
    is_interrupted(subscriber.end(Code::Unavailable, "DRAINING"));
    assert_eq!(subscriber.next_start(), by_time);

    subscriber.message(event(6, 30));
    is_interrupted(subscriber.end(Code::Unavailable, "DRAINING"));
    assert_eq!(subscriber.next_start(), (after(6), ReplayMissPolicy::Fail));
}

#[tokio::test]
async fn an_invalid_time_is_a_mistake_where_it_is_the_callers() {
    let mut subscriber = live(OnMiss::Live);
    let happening = subscriber.end(Code::InvalidArgument, "INVALID_TIME");
    assert!(matches!(happening, Err(Refused::Request(_))), "{happening:?}");
}

#[tokio::test]
async fn without_a_time_the_server_is_asked_for_a_gap() {
    let mut subscriber = stored(without_time(5), OnMiss::ByTime);
    is_started_over(subscriber.epoch_changed());
    assert_eq!(subscriber.next_start(), (after(5), ReplayMissPolicy::Gap));
    // It may be repeated as a start by time is.
    is_interrupted(subscriber.end(Code::Unavailable, "DRAINING"));
    assert_eq!(subscriber.next_start(), (after(5), ReplayMissPolicy::Gap));

    // A cursor that is none of this log is refused whatever the policy.
    let mut subscriber = stored(without_time(5), OnMiss::ByTime);
    is_started_over(subscriber.end(Code::InvalidArgument, "INVALID_CURSOR"));
    assert_eq!(subscriber.next_start().0, None);
    // With a time there is something better.
    let mut subscriber = stored(at(5, 10), OnMiss::ByTime);
    is_started_over(subscriber.end(Code::InvalidArgument, "INVALID_CURSOR"));
    assert_eq!(subscriber.next_start(), (from(8), ReplayMissPolicy::Gap));
}

#[tokio::test]
async fn a_server_that_misses_what_was_not_asked_for_is_left() {
    for on_miss in ON_MISS {
        let mut subscriber = live(on_miss);
        let happening = subscriber.epoch_changed();
        assert!(matches!(happening, Err(Refused::Request(_))), "{on_miss:?}: {happening:?}");
    }
    // Nor does it go round for ever where a gap was asked for, and the server misses nevertheless.
    for position in [at(5, 10), without_time(5)] {
        let mut subscriber = stored(position, OnMiss::ByTime);
        is_started_over(subscriber.epoch_changed());
        is_started_over(subscriber.epoch_changed());
        assert_eq!(subscriber.next_start().0, None);
        let happening = subscriber.epoch_changed();
        assert!(matches!(happening, Err(Refused::Request(_))), "{happening:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_start_is_tried_at_once_and_an_interrupted_one_later() {
    let waits = |subscriber: &Subscriber| match &subscriber.state {
        State::Waiting(until) => until.duration_since(Instant::now()),
        _ => panic!("it ended"),
    };
    let mut subscriber = stored(at(5, 10), OnMiss::Live);
    let Ok(Happening::Interrupted { retry_in, .. }) =
        subscriber.end(Code::ResourceExhausted, "SUBSCRIPTION_LIMIT")
    else {
        panic!("it is tried again")
    };
    assert!(retry_in >= Duration::from_secs(30));
    assert_eq!(waits(&subscriber), retry_in);
    is_started_over(subscriber.epoch_changed());
    assert_eq!(waits(&subscriber), Duration::ZERO);
}

#[test]
fn the_words_of_a_status_cannot_break_a_line() {
    let mut details = ErrorDetails::with_error_info("E\u{1b}[31m", "hawking.v1", []);
    details.add_bad_request_violation("bin\ndings", "no\u{9b}31m such");
    let status = Status::with_error_details(Code::InvalidArgument, "in\u{1b}]0;words\n", details);
    let text = describe(&status);
    assert_eq!(text.matches(char::is_control).collect::<Vec<_>>(), ["\n"], "{text:?}");
    assert!(text.contains("words") && text.contains("\n  bin"), "{text:?}");
}
