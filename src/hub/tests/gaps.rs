//! Gaps and states of bindings, as a consumer is told of them.

use tokio::time::advance;

use super::*;
use crate::hub::{BindingState, EndReason, Gap, Sequence, SubscribeError};

fn gaps(seen: &[Seen]) -> Vec<Gap> {
    let gaps = seen.iter().filter_map(|seen| match seen {
        Seen::Gap(gap) => Some(gap.clone()),
        _ => None,
    });
    gaps.collect()
}

fn texts(gap: &Gap) -> Vec<&str> {
    gap.bindings.iter().map(|text| &**text).collect()
}

#[tokio::test(start_paused = true)]
async fn an_outage_opens_one_gap_and_closes_it_binding_by_binding() {
    let bench = Bench::new(settings());
    bench.confirm("call.CHANNEL_CREATE.*");
    bench.confirm("object.doc_created.user");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*", "object.doc_created.user"]).await;
    assert_eq!(drain(&mut reader), []);

    let event = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    let alive = bench.now();
    advance(Duration::from_secs(20)).await;
    let lost = bench.lose_all(alive);
    let down = bench.state(UpstreamState::Down);
    let seen = drain(&mut reader);
    let [
        Seen::Event(_),
        Seen::Gap(opened),
        Seen::Upstream(_, at, reports),
        Seen::Upstream(state, down_at, all),
    ] = &seen[..]
    else {
        panic!("{seen:#?}")
    };
    assert_eq!((*at, *down_at, *state), (lost, down, UpstreamState::Down));
    assert!(reports.iter().chain(all).all(|report| report.state == BindingState::Pending));
    assert_eq!((reports.len(), all.len()), (2, 2));
    assert_eq!(
        *opened,
        Gap {
            id: lost,
            reason: GapReason::UpstreamDisconnected,
            after: Sequence(event),
            before: None,
            start_time: Some(alive),
            end_time: None,
            bindings: vec!["call.CHANNEL_CREATE.*".into(), "object.doc_created.user".into()],
            lost_count: None,
        }
    );

    for text in ["object.doc_created.user", "call.CHANNEL_CREATE.*"] {
        advance(Duration::from_secs(1)).await;
        let confirmed = bench.confirm(text);
        let seen = drain(&mut reader);
        let [Seen::Gap(closed), Seen::Upstream(_, at, reports)] = &seen[..] else { panic!("{seen:#?}") };
        assert_eq!(
            (closed.id, closed.after, closed.start_time),
            (opened.id, opened.after, opened.start_time)
        );
        assert_eq!((closed.before, closed.end_time), (Some(Sequence(confirmed)), Some(bench.now())));
        assert_eq!((texts(closed), *at), (vec![text], confirmed));
        assert_eq!(reports.len(), 1, "only what changed");
        assert_eq!((&reports[0].state, reports[0].proven), (&BindingState::Active, Some(bench.now())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cover_that_moves_to_a_wider_binding_makes_no_gap() {
    let bench = Bench::new(settings());
    bench.confirm("call.CHANNEL_CREATE.*");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    bench.confirm("call.*.*");
    bench.account.record(Control::Dropped { binding: upstream("call.CHANNEL_CREATE.*") });
    let seen = drain(&mut reader);
    assert_eq!(gaps(&seen), []);
    let Some(Seen::Upstream(_, _, reports)) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(reports[0].upstream_binding.as_deref(), Some("call.*.*"));
    // A refresh changes nothing that is told.
    bench.confirm("call.*.*");
    assert_eq!(drain(&mut reader), []);
    // The last one that contains it: a gap.
    let dropped = bench.account.record(Control::Dropped { binding: upstream("call.*.*") });
    let told = gaps(&drain(&mut reader));
    assert_eq!((told[0].id, told[0].reason), (dropped.0, GapReason::BindingPending));
}

#[tokio::test(start_paused = true)]
async fn a_loss_concerns_only_what_was_confirmed_and_what_nothing_else_serves() {
    let bench = Bench::new(settings());
    let [create, all, user] = ["call.CHANNEL_CREATE.*", "call.*.*", "object.doc_created.user"];
    bench.confirm(create);
    bench.confirm(all);
    bench.confirm(user);
    let mut reader = bench.subscribe(&[create, user]).await;
    let lose = |text| {
        let bindings = LostBindings::These(vec![upstream(text)]);
        bench.account.record(Control::Lost { bindings, reason: GapReason::UpstreamLoss, since: day() })
    };
    lose(all);
    lose("object.doc_edited.user");
    assert_eq!(gaps(&drain(&mut reader)), []);
    lose(create);
    assert_eq!(gaps(&drain(&mut reader)).iter().map(texts).collect::<Vec<_>>(), [[create]]);
    // Lost again: it is open already.
    lose(create);
    assert_eq!(gaps(&drain(&mut reader)), []);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_is_pending_at_the_start_opens_a_gap_there() {
    let bench = Bench::new(settings());
    bench.confirm("object.doc_created.user");
    advance(Duration::from_secs(5)).await;
    let mut reader = bench.subscribe(&["call.*.*", "object.doc_created.user"]).await;
    let states: Vec<_> = reader.bindings().into_iter().map(|report| report.state).collect();
    assert_eq!(states, [BindingState::Pending, BindingState::Active]);
    let opened = gaps(&drain(&mut reader)).remove(0);
    assert_eq!((opened.reason, opened.after), (GapReason::BindingPending, reader.start_position().sequence));
    assert_eq!((texts(&opened), opened.start_time), (vec!["call.*.*"], Some(bench.now())));
    let confirmed = bench.confirm("call.*.*");
    let closed = gaps(&drain(&mut reader)).remove(0);
    assert_eq!((closed.id, closed.before), (opened.id, Some(Sequence(confirmed))));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_during_an_outage_is_told_of_the_same_gap() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut there = bench.subscribe(&["call.*.*"]).await;
    let lost = bench.lose_all(bench.now());
    bench.state(UpstreamState::Down);
    let opened = gaps(&drain(&mut there));
    assert_eq!(opened[0].id, lost);
    let mut later = bench.subscribe(&["call.*.*"]).await;
    assert_eq!(gaps(&drain(&mut later)), opened);
    bench.confirm("call.*.*");
    assert_eq!(gaps(&drain(&mut later)), gaps(&drain(&mut there)));
}

#[tokio::test(start_paused = true)]
async fn refused_bindings_are_told_of_by_their_state_and_a_gap() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let refuse = || {
        bench.account.record(Control::Refused { binding: upstream("fax.status.*"), reason: "unknown".into() })
    };
    refuse();
    let mut reader = bench.subscribe(&["call.*.*", "fax.status.*"]).await;
    assert_eq!(reader.bindings()[1].state, BindingState::Refused("unknown".into()));
    let opened = gaps(&drain(&mut reader));
    assert_eq!((opened.len(), opened[0].reason, opened[0].before), (1, GapReason::BindingPending, None));
    assert_eq!(texts(&opened[0]), ["fax.status.*"]);
    // Confirmed after all, and refused in the end.
    let confirmed = bench.confirm("fax.status.*");
    let closed = gaps(&drain(&mut reader));
    assert_eq!((closed[0].id, closed[0].before), (opened[0].id, Some(Sequence(confirmed))));
    let refused = refuse();
    let seen = drain(&mut reader);
    assert_eq!(gaps(&seen)[0].id, refused.0);
    assert!(
        matches!(&seen[1], Seen::Upstream(_, _, reports) if reports[0].state == BindingState::Refused("unknown".into()))
    );

    // Who comes back behind that is told of the same gap.
    let mut resumed = bench.replay(&["call.*.*", "fax.status.*"], refused.0).await;
    let opened = gaps(&drain(&mut resumed));
    assert_eq!((opened.len(), opened[0].id, opened[0].before), (1, refused.0, None));
    drop(resumed);

    let spec = SubscribeSpec { require_all_bindings: true, ..spec(&["call.*.*", "fax.status.*"]) };
    let error = bench.account.subscribe(spec).await.err();
    assert!(matches!(error, Some(SubscribeError::BindingsRefused(reports)) if reports.len() == 2));
    assert_eq!(bench.account.status().subscriptions, 1, "the refused one has left");
}

#[tokio::test(start_paused = true)]
async fn a_live_start_waits_for_its_confirmations_and_begins_behind_them() {
    let bench = Bench::new(config::Hub { confirm_wait: Duration::from_secs(2), ..settings() });
    bench.state(UpstreamState::Live);
    let account = Arc::clone(&bench.account);
    let waiting = tokio::spawn(async move { account.subscribe(spec(&["call.*.*"])).await });
    let mut interest = bench.account.interest();
    interest.wait_for(|interest| interest.bindings.contains(&binding("call.*.*"))).await.expect("an account");
    advance(Duration::from_secs(1)).await;
    let confirmed = bench.confirm("call.*.*");
    let mut reader = waiting.await.expect("a task").expect("a subscription");
    assert_eq!(reader.start_position().sequence.0, confirmed);
    assert_eq!(reader.bindings()[0].state, BindingState::Active);
    assert_eq!(drain(&mut reader), []);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded_and_there_is_none_while_the_upstream_is_down() {
    let bench = Bench::new(config::Hub { confirm_wait: Duration::from_secs(2), ..settings() });
    bench.state(UpstreamState::Degraded);
    let begin = tokio::time::Instant::now();
    let waited = bench.subscribe(&["call.*.*"]).await;
    assert_eq!(begin.elapsed().as_secs(), 2);
    assert_eq!(waited.bindings()[0].state, BindingState::Pending);
    bench.state(UpstreamState::Down);
    bench.subscribe(&["call.*.*"]).await;
    assert_eq!(begin.elapsed().as_secs(), 2);
}

/// What was lost comes again with what brought it, whatever narrower binding upstream refuses beside it.
#[tokio::test(start_paused = true)]
async fn a_refusal_beside_an_outage_is_not_the_end() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    bench
        .account
        .record(Control::Refused { binding: upstream("call.CHANNEL_CREATE.*"), reason: "no".into() });
    let mut there = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    assert_eq!(drain(&mut there), []);
    let lost = bench.lose_all(bench.now());
    let told = gaps(&drain(&mut there));
    assert_eq!((told.len(), told[0].id, told[0].reason), (1, lost, GapReason::UpstreamDisconnected));
    let spec = SubscribeSpec {
        start: Start::After(bench.account.cursor(Sequence(lost))),
        require_all_bindings: true,
        ..spec(&["call.CHANNEL_CREATE.*"])
    };
    let mut resumed = bench.account.subscribe(spec).await.expect("nothing it asks for is refused for good");
    assert_eq!(resumed.bindings()[0].state, BindingState::Pending);
    assert_eq!(gaps(&drain(&mut resumed)), told, "the gap that the other was told of");
    bench.confirm("call.*.*");
    assert_eq!(gaps(&drain(&mut resumed)), gaps(&drain(&mut there)));
    // Refused itself while it was lost: that is one gap, since the loss.
    let lost = bench.lose_all(bench.now());
    let refused =
        bench.account.record(Control::Refused { binding: upstream("call.*.*"), reason: "no".into() });
    let told = gaps(&drain(&mut there));
    assert_eq!((told.len(), told[0].id), (1, lost));
    let mut resumed = bench.replay(&["call.CHANNEL_CREATE.*"], refused.0).await;
    assert!(matches!(resumed.bindings()[0].state, BindingState::Refused(_)));
    assert_eq!(gaps(&drain(&mut resumed)), told);
}

/// A confirmed `call.*.*` says nothing about events that nobody wanted at the time: they were not kept.
#[tokio::test(start_paused = true)]
async fn a_replay_is_told_of_the_stretch_in_which_nobody_wanted_its_events() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let _other = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let begin = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    assert_eq!(bench.call("CHANNEL_BRIDGE", "a"), None);
    let mut reader = bench.replay(&["call.CHANNEL_BRIDGE.*"], begin).await;
    let told = gaps(&drain(&mut reader));
    let [opened, closed] = &told[..] else { panic!("{told:#?}") };
    assert_eq!(
        (opened.reason, opened.after, opened.before),
        (GapReason::BindingPending, Sequence(begin), None)
    );
    assert_eq!((closed.id, closed.before), (opened.id, Some(Sequence(begin + 1))));
    assert!(bench.call("CHANNEL_BRIDGE", "b").is_some());
    assert_eq!(drain_events(&mut reader).len(), 1);
    // The same bindings again, from behind that: nothing is missing.
    let mut again = bench.replay(&["call.CHANNEL_BRIDGE.*"], begin + 1).await;
    assert_eq!(gaps(&drain(&mut again)), []);
}

fn small_log() -> config::Hub {
    config::Hub { log_records: 10, ..settings() }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_the_log_overtakes_is_disconnected() {
    let bench = Bench::new(small_log());
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.*.*"]).await;
    let first = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    assert_eq!(drain_events(&mut reader), [first]);
    for _ in 0..11 {
        bench.call("CHANNEL_CREATE", "a");
    }
    let seen = drain(&mut reader);
    let last = bench.account.cursor(Sequence(first));
    assert_eq!(seen, [Seen::End(EndReason::SlowConsumer { last, lag: 11 })]);
    assert!(reader.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn or_skips_with_a_gap_that_counts_what_it_lost() {
    let bench = Bench::new(small_log());
    bench.confirm("call.*.*");
    let spec = SubscribeSpec { overflow_policy: OverflowPolicy::Skip, ..spec(&["call.CHANNEL_CREATE.*"]) };
    let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
    let mut all = bench.subscribe(&["call.*.*"]).await;
    drain(&mut all);
    let first = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    assert_eq!(drain_events(&mut reader), [first]);
    for _ in 0..10 {
        advance(Duration::from_secs(2)).await;
        bench.call("CHANNEL_CREATE", "a");
        bench.call("CHANNEL_DESTROY", "a");
    }
    let seen = drain(&mut reader);
    let told = gaps(&seen);
    assert_eq!((told[0].reason, told[0].lost_count), (GapReason::SlowConsumer, Some(5)));
    assert_eq!((told[0].after, told[0].before), (Sequence(first), Some(Sequence(first + 11))));
    assert_eq!((told[0].start_time, told[0].end_time), (Some(day()), Some(day() + Duration::from_secs(12))));
    assert_eq!(seen.iter().filter_map(Seen::sequence).count(), 5);
}

/// What is evicted and was not the reader's, it does not miss.
#[tokio::test(start_paused = true)]
async fn a_quiet_reader_is_not_overtaken_by_the_events_of_others() {
    let bench = Bench::new(small_log());
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let _other = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    drain(&mut reader);
    for _ in 0..50 {
        bench.call("CHANNEL_DESTROY", "a");
    }
    let last = bench.call("CHANNEL_CREATE", "a").expect("wanted");
    assert_eq!(drain(&mut reader).iter().filter_map(Seen::sequence).collect::<Vec<_>>(), [last]);
}

/// An outage that came and went in what the log let go of: the reader is told, although it missed no event that was kept.
#[tokio::test(start_paused = true)]
async fn a_reader_that_missed_an_outage_is_not_told_that_all_is_well() {
    let bench = Bench::new(small_log());
    bench.confirm("call.*.*");
    let with = |overflow_policy| SubscribeSpec { overflow_policy, ..spec(&["call.CHANNEL_CREATE.*"]) };
    let mut skips = bench.account.subscribe(with(OverflowPolicy::Skip)).await.expect("a subscription");
    let mut ends = bench.account.subscribe(with(OverflowPolicy::Disconnect)).await.expect("a subscription");
    let _other = bench.subscribe(&["call.CHANNEL_DESTROY.*"]).await;
    drain(&mut skips);
    drain(&mut ends);
    let lost = bench.lose_all(bench.now());
    let confirmed = bench.confirm("call.*.*");
    let again = bench.lose_all(bench.now());
    for _ in 0..20 {
        bench.call("CHANNEL_DESTROY", "a");
    }
    assert!(matches!(drain(&mut ends)[..], [Seen::End(EndReason::SlowConsumer { .. })]));
    let seen = drain(&mut skips);
    let [Seen::Gap(slow), Seen::Gap(open), Seen::Upstream(_, _, reports)] = &seen[..] else {
        panic!("{seen:#?}")
    };
    assert_eq!((slow.reason, slow.lost_count), (GapReason::SlowConsumer, None));
    assert!(slow.after.0 < lost && slow.before > Some(Sequence(confirmed)));
    // And of the one that lasts, it hears as everybody does.
    assert_eq!((open.id, open.reason, open.before), (again, GapReason::UpstreamDisconnected, None));
    assert_eq!(reports[0].state, BindingState::Pending);
    bench.confirm("call.*.*");
    let told = gaps(&drain(&mut skips));
    assert_eq!((told.len(), told[0].id), (1, again));
}

#[tokio::test(start_paused = true)]
async fn a_turn_of_the_month_is_a_gap_for_what_is_filed_by_month_alone() {
    let bench = Bench::new(settings());
    bench.confirm("object.*.*");
    let turn = |since| Control::Lost {
        bindings: LostBindings::These(vec![upstream("object.*.*")]),
        reason: GapReason::MonthTurn,
        since,
    };
    let bindings = ["object.doc_created.user", "object.doc_created.fax", "object.doc_edited.*"];
    let mut reader = bench.subscribe(&bindings).await;
    advance(Duration::from_secs(60)).await;
    let before = bench.now();
    let turned = bench.account.record(turn(before)).0;
    let mut late = bench.subscribe(&bindings).await;
    let seen = drain(&mut reader);
    let [Seen::Gap(opened), Seen::Upstream(_, _, reports)] = &seen[..] else { panic!("{seen:#?}") };
    assert_eq!((opened.id, opened.reason, opened.start_time), (turned, GapReason::MonthTurn, Some(before)));
    assert_eq!(texts(opened), bindings[1..]);
    assert_eq!(reports.len(), 2, "the users go on");
    let late_opened = gaps(&drain(&mut late));
    assert_eq!(late_opened, std::slice::from_ref(opened), "the same for one who comes later");

    // Cut while it lasts: that is a gap for the users, and the same old one for the others.
    let cut = bench.lose_all(bench.now());
    let opened = gaps(&drain(&mut reader));
    assert_eq!((texts(&opened[0]), opened[0].id), (vec![bindings[0]], cut));
    assert_eq!(opened.len(), 1);
    let mut latest = bench.subscribe(&bindings).await;
    assert_eq!(gaps(&drain(&mut latest)).iter().map(|gap| gap.id).collect::<Vec<_>>(), [cut, turned]);
    for reader in [&mut reader, &mut late, &mut latest] {
        drain(reader);
    }

    let confirmed = bench.confirm("object.*.*");
    for reader in [&mut reader, &mut late, &mut latest] {
        let closed = gaps(&drain(reader));
        let ends: Vec<_> = closed.iter().map(|gap| (gap.id, gap.before, gap.bindings.len())).collect();
        let end = Some(Sequence(confirmed));
        assert_eq!(ends, [(cut, end, 1), (turned, end, 2)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_proves_and_says_nothing() {
    let bench = Bench::new(settings());
    bench.confirm("call.*.*");
    let mut reader = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    drain(&mut reader);
    advance(Duration::from_secs(300)).await;
    let (refreshed, records) = (bench.now(), bench.account.status().records);
    bench.account.proven(crate::binding::Kind::Call, refreshed);
    bench.account.proven(crate::binding::Kind::Call, refreshed - Duration::from_secs(1));
    assert!(matches!(drain(&mut reader)[..], [Seen::Heartbeat(_)]));
    let status = bench.account.status();
    assert_eq!((status.records, status.interest[0].proven), (records, Some(refreshed)));

    // What comes after the last proof before a loss is not proven.
    advance(Duration::from_secs(300)).await;
    bench.lose_all(bench.now());
    let seen = drain(&mut reader);
    let [Seen::Gap(_), Seen::Upstream(_, _, reports)] = &seen[..] else { panic!("{seen:#?}") };
    assert_eq!(reports[0].proven, Some(refreshed));
}

#[tokio::test(start_paused = true)]
async fn what_was_wanted_before_there_was_any_record_has_a_gap_with_an_id_too() {
    let bench = Bench::new(settings());
    let mut reader = bench.subscribe(&["call.*.*"]).await;
    let opened = gaps(&drain(&mut reader));
    assert_eq!((opened[0].id, opened[0].reason), (1, GapReason::BindingPending));
    bench.confirm("call.*.*");
    let closed = gaps(&drain(&mut reader));
    assert_eq!(closed.iter().map(|gap| gap.id).collect::<Vec<_>>(), [1]);
}
