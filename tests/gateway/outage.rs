//! The connection to the upstream is lost: consumers stay, and are told what they may have missed.

use std::time::{Duration, SystemTime};

use hawking::{
    proto::{self, GapReason, UpstreamState, subscribe_response::Kind},
    sim::{Event, Frame, Happening},
};

use super::{harness::*, whole::Whole};

/// As the configuration of [`Whole`] has it.
const PING_INTERVAL: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_cut_is_one_gap_that_holds_the_loss_and_little_more() {
    let whole = Whole::start().await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    let mut second = whole.subscribe(request(&["call.CHANNEL_CREATE.*"])).await;
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "before"));
    let before = consumer.event().await;
    assert_eq!(before.call_id, "before");

    assert_eq!(whole.sim.cut_all(), 1);
    // Nobody is there to take it.
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "lost"));

    let is = |kind: &Kind, state| matches!(kind, Kind::UpstreamStatus(status) if status.state() == state);
    // Live from before may still be on its way.
    let mut messages = consumer.until(|kind| is(kind, UpstreamState::Down)).await;
    messages.extend(consumer.until(|kind| is(kind, UpstreamState::Live)).await);
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "after"));
    messages.extend(consumer.until(|kind| matches!(kind, Kind::Event(_))).await);
    let Some(Kind::Event(after)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(after.call_id, "after");

    // A live upstream holds what it is asked for: nobody is told of one that lost it.
    for kind in &messages {
        if let Kind::UpstreamStatus(status) = kind
            && status.state() == UpstreamState::Live
        {
            let pending = |binding: &&proto::BindingStatus| binding.state() == proto::BindingState::Pending;
            assert_eq!(status.bindings.iter().find(pending), None, "{status:?}");
        }
    }

    // One gap: opened, then closed.
    let gaps: Vec<_> = messages
        .iter()
        .filter_map(|kind| match kind {
            Kind::Gap(gap) => Some(gap),
            _ => None,
        })
        .collect();
    // (Both in one message, where it is over before this reader notices.)
    let (opened, closed) = match gaps[..] {
        [both] => (both, both),
        [opened, closed] => {
            assert!(opened.before.is_none() && opened.end_time.is_none(), "it lasts: {opened:?}");
            (opened, closed)
        }
        _ => panic!("one gap: {gaps:?}"),
    };
    assert_eq!(opened.gap_id, closed.gap_id);
    for gap in [opened, closed] {
        assert_eq!(gap.reason(), GapReason::UpstreamDisconnected);
        assert_eq!(gap.bindings, ["call.*.*"]);
        assert_eq!(gap.after.as_ref().unwrap().epoch, before.cursor.as_ref().unwrap().epoch);
    }
    let sequence = |cursor: &Option<proto::Cursor>| cursor.as_ref().unwrap().sequence;
    assert!(sequence(&opened.after) >= sequence(&before.cursor));
    assert!(sequence(&closed.before) <= sequence(&after.cursor));

    // Its start: the last sign of life, which is never older than a ping interval (and what a loaded machine adds).
    let slack = Duration::from_millis(300);
    let time = |time: &Option<prost_types::Timestamp>| SystemTime::try_from(time.unwrap()).unwrap();
    let start = time(&closed.start_time);
    let cut = cut(&whole);
    assert!(start <= cut, "the loss is inside");
    assert!(cut.duration_since(start).unwrap() <= PING_INTERVAL + slack, "{:?}", cut.duration_since(start));
    // Its end: the confirmation on the new session, from when on blackhole delivers.
    let asked = asked_again(&whole);
    let end = time(&closed.end_time);
    assert!(end >= asked, "the loss is inside");
    assert!(end.duration_since(asked).unwrap() <= PING_INTERVAL + slack);

    // The other consumer was told the same of its own binding.
    let messages = second.until(|kind| matches!(kind, Kind::Event(event) if event.call_id == "after")).await;
    let gaps = messages.iter().filter_map(|kind| match kind {
        Kind::Gap(gap) => Some((gap.gap_id, &*gap.bindings[0])),
        _ => None,
    });
    let gaps: std::collections::BTreeSet<_> = gaps.collect();
    assert_eq!(gaps, [(closed.gap_id, "call.CHANNEL_CREATE.*")].into());

    assert_eq!(whole.sim.connections_total(), 2);
    assert!(whole.sim.subscribe_requests().iter().all(|request| request.action == "subscribe"));
    drop((consumer, second));
    whole.stop().await;
}

/// When the first session ended: until then all was sent that it ever got.
fn cut(whole: &Whole) -> SystemTime {
    let record = whole.sim.record();
    let closed = record.iter().find(|exchange| matches!(exchange.what, Happening::Closed(_)));
    closed.expect("an end").at
}

/// When blackhole was asked for the last subscription that it confirmed: it delivers at some time after that, and before its
/// answer can be here.
fn asked_again(whole: &Whole) -> SystemTime {
    let record = whole.sim.record();
    let request = record.iter().rev().find(|exchange| {
        matches!(&exchange.what, Happening::Received(Frame::Text(text)) if text.contains("\"subscribe\""))
    });
    request.expect("a request").at
}
