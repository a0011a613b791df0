//! A session is replaced by another.

use super::*;

/// Waits until the account has another session than before, and only that.
async fn replaced(care: &Care, before: u64) {
    let give_up = Instant::now() + 3600 * SECOND;
    while care.sim.connections_total() == before || care.sim.connections() != 1 {
        assert!(Instant::now() < give_up);
        care.wait(SECOND / 100).await;
    }
    care.live().await;
}

fn quick() -> config::Upstream {
    config::Upstream { rotation_grace: 2 * SECOND, ..config::Upstream::default() }
}

/// How often each flavour rotates under load: each time takes ten thousand events. `HAWKING_ROTATIONS=100` for a long run.
fn rounds() -> u32 {
    std::env::var("HAWKING_ROTATIONS").map_or(3, |rounds| rounds.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn again_and_again_under_load_with_a_backlog_and_a_late_bind_and_nothing_is_lost() {
    for flavour in [Flavour::K4, Flavour::V4_3] {
        let setup = Setup { upstream: quick(), ..Setup::new(flavour) };
        let mut care = setup.start(&["call.*.*"]).await;
        for round in 0..rounds() {
            let before = care.sim.connections_total();
            // What comes from here on waits five seconds on the old session; the new one is bound a second late.
            care.sim.delay(5 * SECOND, Duration::ZERO);
            care.call();
            care.sim.delay(Duration::ZERO, Duration::ZERO);
            care.sim.bind_late(SECOND);
            assert!(care.steering.order(Order::Rotate));
            let mut rotated = false;
            while !rotated {
                // A thousand a second.
                for _ in 0..10 {
                    care.call();
                }
                care.wait(SECOND / 100).await;
                rotated = care.sim.connections_total() > before && care.sim.connections() == 1;
            }
            care.wait(2 * SECOND).await;
            assert_eq!(care.gaps(), [], "round {round}");
        }
        care.wait(10 * SECOND).await;
        care.assert_once(0..care.published);
        assert_eq!(care.gaps(), []);
        care.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_to_the_mark_there_is_one_gap() {
    let setup = Setup { upstream: quick(), ..Setup::new(Flavour::K4) };
    let mut care = setup.start(&["call.*.*"]).await;
    let start = care.now();
    care.steering.order(Order::Rotate);
    care.wait(SECOND).await;
    assert_eq!(care.sim.connections(), 2);
    care.sim.drop_replies(sim::ReplyLoss::Every(1));
    replaced(&care, 1).await;
    let (reason, since, until) = care.one_gap();
    assert_eq!(reason, GapReason::Rotation);
    // Pongs still come: what was sent before the last of them was read.
    assert!(since <= until && since + 20 * SECOND >= until, "{:?}", until.duration_since(since));
    assert!(until >= start + 62 * SECOND && until <= start + 66 * SECOND);
    care.sim.heal();
    care.wait(5 * SECOND).await;
    care.call();
    care.wait(SECOND).await;
    assert_eq!(care.calls().len(), 1);
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn kazoo_5_breaks_before_it_makes() {
    let mut care = Setup::new(Flavour::K5).start(&["call.*.*", "object.doc_created.user"]).await;
    care.call();
    care.wait(SECOND).await;
    let before = care.now();
    care.steering.order(Order::Rotate);
    replaced(&care, 1).await;
    let (reason, since, until) = care.one_gap();
    assert_eq!(reason, GapReason::Rotation);
    assert!(since <= before && since + 15 * SECOND >= before && until <= before + 2 * SECOND);
    let most = care.sim.record().iter().fold((0, 0), |(open, most): (i32, i32), exchange| {
        let open = match exchange.what {
            Happening::Opened { .. } => open + 1,
            Happening::Closed(_) => open - 1,
            _ => open,
        };
        (open, most.max(open))
    });
    assert_eq!(most.1, 1, "never two at once");
    care.call();
    care.wait(SECOND).await;
    care.assert_once(0..2);
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_a_second_connection_is_refused_the_first_one_goes_first() {
    let mut setup = Setup::new(Flavour::K4);
    setup.sim.max_connections_per_ip = Some(1);
    let mut care = setup.start(&["call.*.*"]).await;
    care.steering.order(Order::Rotate);
    care.wait(5 * SECOND).await;
    care.live().await;
    assert_eq!((care.sim.connections(), care.one_gap().0), (1, GapReason::Rotation));
    let refused = |exchange: &sim::Exchange| matches!(exchange.what, Happening::Refused { status: 429 });
    assert_eq!(care.sim.record().iter().filter(|exchange| refused(exchange)).count(), 1);
    care.call();
    care.wait(SECOND).await;
    care.assert_once(0..1);
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_is_given_back_by_it_without_a_gap_and_not_in_a_storm() {
    let mut setup = Setup::new(Flavour::K4);
    setup.upstream.rotation_linger = 10 * SECOND;
    let mut care = setup.start(&["call.CHANNEL_CREATE.*"]).await;
    let mut totals = Vec::new();
    for _ in 0..4 {
        // Another consumer comes and goes: its wider binding stays behind.
        let spec = SubscribeSpec {
            bindings: interest(&["call.*.*"]).bindings.iter().cloned().collect(),
            filter: EventFilter::default(),
            format: PayloadFormat::Json,
            start: Start::Live,
            miss_policy: ReplayMissPolicy::default(),
            overflow_policy: OverflowPolicy::default(),
            heartbeat_interval: 3600 * SECOND,
            require_all_bindings: true,
        };
        drop(care.account.subscribe(spec).await.unwrap());
        care.wait(config::Hub::default().linger + 15 * SECOND).await;
        totals.push(care.sim.connections_total());
    }
    // The first time two bindings overlap while both are wanted or linger; after that they lie apart.
    assert_eq!(totals[0], 2, "{totals:?}");
    assert!(totals[3] <= 3, "{totals:?}");
    care.wait(1000 * SECOND).await;
    assert!(care.sim.connections_total() <= 4);
    let newest = care.newest_session();
    let subscribes = care.subscribes();
    let (_, binding) = subscribes.iter().find(|(by, _)| *by == newest).unwrap();
    assert_eq!(binding, "call.CHANNEL_CREATE.*", "only what is wanted");
    care.wait(1000 * SECOND).await;
    assert_eq!(care.newest_session(), newest, "and that is that");
    care.call();
    care.wait(SECOND).await;
    care.assert_once(0..1);
    assert_eq!(care.gaps(), []);
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_refreshed_often_or_is_old_is_replaced() {
    for refreshes in [true, false] {
        let mut setup = Setup::new(Flavour::K4);
        match refreshes {
            true => setup.upstream.rotation_refreshes = 10,
            false => setup.upstream.rotation_age = 3000 * SECOND,
        }
        let mut care = setup.start(&["call.*.*", "fax.status.*"]).await;
        care.wait(3000 * SECOND).await;
        assert_eq!(care.sim.connections_total(), 2, "refreshes: {refreshes}");
        care.wait(3100 * SECOND).await;
        assert!((3..=4).contains(&care.sim.connections_total()));
        care.call();
        care.wait(SECOND).await;
        care.assert_once(0..1);
        assert_eq!(care.gaps(), []);
        care.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_dies_costs_nothing_and_one_whose_predecessor_dies_takes_over() {
    let mut care = Setup::new(Flavour::K4).start(&["call.*.*"]).await;
    let first = care.newest_session();
    care.steering.order(Order::Rotate);
    care.wait(SECOND).await;
    assert_eq!(care.sim.cut(Some(care.newest_session())), 1);
    care.call();
    care.wait(SECOND).await;
    assert_eq!(care.gaps(), []);

    care.steering.order(Order::Rotate);
    care.wait(SECOND).await;
    let died = care.now();
    assert_eq!(care.sim.cut(Some(first)), 1);
    care.wait(SECOND).await;
    let (reason, since, until) = care.one_gap();
    assert_eq!(reason, GapReason::UpstreamDisconnected);
    assert!(since <= died && until <= died + SECOND, "the other holds it");
    assert_eq!(care.sim.connections(), 1);
    care.call();
    care.wait(SECOND).await;
    care.assert_once(0..2);
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_asks_twice_gets_one_and_one_who_wants_a_reconnect_gets_a_gap() {
    let care = Setup::new(Flavour::K4).start(&["call.*.*"]).await;
    for _ in 0..3 {
        care.steering.order(Order::Rotate);
    }
    care.wait(60 * SECOND).await;
    assert_eq!(care.sim.connections_total(), 2);
    assert_eq!(care.gaps(), []);
    care.steering.order(Order::Reconnect);
    care.wait(5 * SECOND).await;
    care.live().await;
    assert_eq!(care.one_gap().0, GapReason::UpstreamDisconnected);
    care.stop().await;
}
