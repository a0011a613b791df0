//! A session while it is well.

use super::*;

#[tokio::test(start_paused = true)]
async fn binds_the_cover_and_says_so_before_the_first_event() {
    let mut bench = Bench::start(&["call.CHANNEL_CREATE.*", "call.CHANNEL_ANSWER.a.b@c", "fax.status.*"]);
    let mut peer = bench.accept().await;
    assert_eq!(peer.confirm(2).await, ["call.*.*", "fax.status.*"]);
    peer.send(event("CHANNEL_CREATE", "x", "m1", "k")).await;
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Connecting", "+call.*.*", "+fax.status.*", "Live"]);
    let events = bench.log.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].name(), events[0].call_id()), ("CHANNEL_CREATE", "x"));
}

#[tokio::test(start_paused = true)]
async fn is_held_although_nobody_wants_anything() {
    let mut bench = Bench::start(&[]);
    let mut peer = bench.accept().await;
    let served = peer.serve(Duration::from_secs(3600)).await;
    assert!((240..300).contains(&served.pings) && served.commands.is_empty(), "only pings: {served:?}");
    assert_eq!(bench.story(), ["Connecting", "Live"]);
    bench.interest.send_replace(interest(&["call.*.*"]));
    assert_eq!(peer.confirm(1).await, ["call.*.*"]);
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Live", "+call.*.*", "Live"], "the flavour is known now");
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_grows_and_shrinks_without_an_unsubscribe() {
    let mut bench = Bench::start(&["call.CHANNEL_CREATE.*"]);
    let mut peer = bench.accept().await;
    assert_eq!(peer.confirm(1).await, ["call.CHANNEL_CREATE.*"]);
    bench.settle().await;

    bench.interest.send_replace(interest(&["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"]));
    let (id, binding) = peer.command().await;
    assert_eq!(binding, "call.*.*");
    bench.settle().await;
    assert_eq!(bench.story().last().unwrap(), "Live", "nothing is overdue, nothing is given up yet");
    peer.success(&id).await;
    bench.settle().await;
    assert_eq!(bench.story()[4..], ["+call.*.*", "-call.CHANNEL_CREATE.*"]);

    // Narrower again: the wider one, which cannot be given back, goes on serving it.
    bench.interest.send_replace(interest(&["call.CHANNEL_DESTROY.*"]));
    bench.interest.send_replace(interest(&[]));
    bench.settle().await;
    assert_eq!(bench.story()[6..], ["-call.*.*"]);

    // It is proven anew when it is wanted again. (`command` checks that nothing but subscribes came.)
    bench.interest.send_replace(interest(&["call.*.*"]));
    assert_eq!(peer.confirm(1).await, ["call.*.*"]);
    bench.settle().await;
    assert_eq!(bench.story()[7..], ["+call.*.*"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_once_for_each_binding_is_one_event() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    for key in ["call.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_CREATE.x"] {
        peer.send(event("CHANNEL_CREATE", "x", "m1", key)).await;
    }
    peer.send(event("CHANNEL_CREATE", "x", "m2", "call.*")).await;
    bench.settle().await;
    assert_eq!(bench.log.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_few_commands_are_in_flight_and_replies_may_come_in_any_order() {
    let mut bench = Bench::start(&[
        "call.*.*",
        "conference.event.*.*",
        "fax.status.*",
        "object.*.user",
        "object.*.device",
        "presence.dialog.*",
    ]);
    let mut peer = bench.accept().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(peer.command().await.0);
    }
    assert!(peer.serve(Duration::from_secs(1)).await.commands.is_empty(), "the fifth waits for a reply");
    for id in ids.iter().rev() {
        peer.success(id).await;
    }
    peer.confirm(2).await;
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
}

#[tokio::test(start_paused = true)]
async fn without_a_reply_it_is_degraded_and_asks_again() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    let (first, _) = peer.command().await;
    let (second, _) = peer.command().await;
    assert_eq!(first, second, "a late reply to the first counts");
    assert!((15.0..15.1).contains(&bench.seconds()), "{}", bench.seconds());
    bench.settle().await;
    let (state, detail) = bench.state();
    assert_eq!((state, &*detail), (UpstreamState::Degraded, "upstream has not confirmed 1 binding in time"));
    peer.success(&first).await;
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
    peer.success(&second).await;
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Connecting", "Degraded", "+call.*.*", "Live"]);
}

#[tokio::test(start_paused = true)]
async fn success_without_the_expected_key_proves_nothing() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    let (id, _) = peer.command().await;
    peer.send(json!({"action":"reply","request_id":id,"status":"success","data":{}}).to_string()).await;
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Connecting"]);
    assert_eq!(peer.confirm(1).await, ["call.*.*"]);
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_is_waited_out() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    for pause in [1, 2, 4] {
        let (id, _) = peer.command().await;
        let refused = Instant::now();
        peer.error(&id, "rate limiting threshold hit for 127.0.0.1:33568!").await;
        let (id, _) = peer.command().await;
        assert!(refused.elapsed() >= Duration::from_secs(pause), "{:?}", refused.elapsed());
        peer.error(&id, "rate limiting threshold hit for 127.0.0.1:33568!").await;
    }
    peer.confirm(1).await;
    bench.settle().await;
    assert_eq!(bench.story(), ["Connecting", "Connecting", "+call.*.*", "Live"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_degrades_and_is_asked_for_again_only_when_it_is_wanted_anew() {
    let mut bench = Bench::start(&["call.*.*", "presence.dialog.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    let (id, binding) = peer.command().await;
    assert_eq!(binding, "presence.dialog.*");
    peer.error(&id, "no available subscriptions to requested binding").await;
    bench.settle().await;
    assert_eq!(bench.story()[2..], ["+call.*.*", "!presence.dialog.*", "Degraded"]);
    assert_eq!(bench.state().1, "upstream refuses 1 binding");
    let reason = bench.log.controls().into_iter().find_map(|control| match control {
        Control::Refused { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("upstream has no module loaded that serves the binding"));

    bench.interest.send_replace(interest(&["call.*.*"]));
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
    bench.interest.send_replace(interest(&["call.*.*", "presence.dialog.*"]));
    assert_eq!(peer.confirm(1).await, ["presence.dialog.*"]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_is_not_idle_to_upstream() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    // Upstream counts only what the client sends (F8): events every second are no reason to stay silent for an hour.
    let mut pings = 0;
    for n in 0..3600 {
        peer.send(event("CHANNEL_CREATE", "x", &n.to_string(), "k")).await;
        let served = peer.serve(Duration::from_secs(1)).await;
        pings += served.pings + served.commands.len();
    }
    assert!((5..20).contains(&pings), "{pings} pings and refreshes");
    bench.settle().await;
    assert_eq!(bench.log.events().len(), 3600);
}

#[tokio::test(start_paused = true)]
async fn events_are_read_although_upstream_reads_nothing() {
    let many: Vec<String> = (0..2000).map(|n| event("CHANNEL_CREATE", "x", &n.to_string(), "k")).collect();
    let mut bench = Bench::start(&["call.*.*", "fax.status.*"]);
    let mut peer = bench.accept().await;
    for text in many {
        peer.send(text).await;
    }
    bench.settle().await;
    assert_eq!(bench.log.events().len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn what_a_flavour_does_not_have_is_refused_by_upstream_itself() {
    let mut bench = Bench::start(&["stream.start.x"]);
    let mut peer = bench.accept().await;
    let (id, binding) = peer.command().await;
    assert_eq!(binding, "stream.start.*");
    peer.error(&id, "no available subscriptions to requested binding").await;
    bench.settle().await;
    assert_eq!(bench.story()[2..], ["!stream.start.*", "Degraded"]);
}

#[tokio::test(start_paused = true)]
async fn kazoo_5_is_recognised_and_its_cover_bound() {
    let mut bench = Bench::start(&["conference.event.*.*", "call.*.*"]);
    let mut peer = bench.accept().await;
    let (id, _) = peer.command().await;
    let (refused, binding) = peer.command().await;
    assert_eq!(binding, "conference.event.#.*");
    peer.error(&refused, "invalid format for conference subscription : event, #, *").await;
    let reply = json!({
        "action": "reply", "request_id": id, "status": "success",
        "data": { "subscribed": ["call.*.*"], "subscriptions": ["call.*.*"] },
    });
    peer.send(reply.to_string()).await;
    assert_eq!(peer.confirm(1).await, ["conference.event.*.#.*"]);
    bench.settle().await;
    assert_eq!(bench.state().0, UpstreamState::Live);
}
