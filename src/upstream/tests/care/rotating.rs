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

/// How many sessions there were at the same time, at most.
fn most_at_once(care: &Care) -> i32 {
    let counted = |(open, most): (i32, i32), exchange: &sim::Exchange| {
        let open = match exchange.what {
            Happening::Opened { .. } => open + 1,
            Happening::Closed(_) => open - 1,
            _ => open,
        };
        (open, most.max(open))
    };
    care.sim.record().iter().fold((0, 0), counted).1
}

/// What another consumer asks for.
fn wanting(binding: &str) -> SubscribeSpec {
    SubscribeSpec {
        bindings: interest(&[binding]).bindings.iter().cloned().collect(),
        filter: EventFilter::default(),
        format: PayloadFormat::Json,
        start: Start::Live,
        miss_policy: ReplayMissPolicy::default(),
        overflow_policy: OverflowPolicy::default(),
        heartbeat_interval: 3600 * SECOND,
        require_all_bindings: true,
    }
}

/// How often each flavour rotates under load: each time takes ten thousand events. `HAWKING_ROTATIONS=100` for a long run.
fn rounds(few: u32) -> u32 {
    std::env::var("HAWKING_ROTATIONS").map_or(few, |rounds| rounds.parse().unwrap())
}

/// What is published under load, by its call id, and when: a thousand events a second. Seven of ten have a msg_id; one of ten
/// has none and the same content as others that come before and after it.
#[derive(Default)]
struct Load(BTreeMap<String, Vec<SystemTime>>);

impl Load {
    /// The load of ten milliseconds.
    async fn pass(&mut self, care: &mut Care) {
        for _ in 0..7 {
            let number = care.published;
            care.call();
            self.note(format!("n{number}"), care);
        }
        for _ in 0..2 {
            care.published += 1;
            self.bare(format!("n{}", care.published), care);
        }
        // Each comes again after 50 ms.
        self.bare(format!("again{}", (self.0.len() / 9) % 5), care);
        care.wait(SECOND / 100).await;
    }

    fn bare(&mut self, call_id: String, care: &Care) {
        // K5 passes on no call without a name (G34).
        let event = json!({ "Call-ID": call_id, "Event-Name": "CHANNEL_ANSWER" });
        let hook = json!({ "account_id": ACCOUNT, "type": "CHANNEL_ANSWER", "event": event });
        care.sim.control("/hook", hook).unwrap();
        self.note(call_id, care);
    }

    fn note(&mut self, call_id: String, care: &Care) {
        self.0.entry(call_id).or_default().push(care.now());
    }

    /// Goes on until the account has another session than before, and only that.
    async fn until_replaced(&mut self, care: &mut Care, before: u64) {
        while care.sim.connections_total() == before || care.sim.connections() != 1 {
            self.pass(care).await;
        }
        // Past what is still on the way, and what a successor needs to be live.
        for _ in 0..200 {
            self.pass(care).await;
        }
    }

    /// Fails unless everything came once, but for what lies in a gap. Says how many did not come.
    fn assert_once(&self, care: &Care) -> usize {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, key) in care.events() {
            *counts.entry(key.rsplit('.').next().unwrap().to_owned()).or_default() += 1;
        }
        let spans: Vec<_> =
            care.gaps().iter().filter_map(|gap| Some((gap.start_time?, gap.end_time?))).collect();
        let in_gap = |at: &SystemTime| spans.iter().any(|(from, until)| from <= at && at <= until);
        let mut missing = 0;
        for (call_id, published) in &self.0 {
            let count = counts.get(call_id).copied().unwrap_or_default();
            let certain = published.iter().filter(|at| !in_gap(at)).count();
            // Without a msg_id, what was on its way when the old session ended comes twice rather than not at all.
            let most = published.len() + if spans.is_empty() { 0 } else { 1 };
            assert!((certain..=most).contains(&count), "{call_id}: {count}, not {certain} to {most}");
            missing += published.len().saturating_sub(count);
        }
        missing
    }
}

#[tokio::test(start_paused = true)]
async fn again_and_again_under_load_with_a_backlog_and_a_late_bind_and_nothing_is_lost() {
    for (flavour, odd) in [(Flavour::K4, 0), (Flavour::V4_3, 1)] {
        let setup = Setup { upstream: quick(), ..Setup::new(flavour) };
        let mut care = setup.start(&["call.*.*"]).await;
        for round in 0..rounds(1) {
            let (before, mut load) = (care.sim.connections_total(), Load::default());
            // All that comes from here on until its end waits five seconds on the old session; or what comes now does, and
            // holds up the rest. The new one is bound a second late.
            if round % 2 == odd {
                care.sim.lag(Some(care.newest_session()), 5 * SECOND);
            } else {
                care.sim.delay(5 * SECOND, Duration::ZERO);
                load.bare("first".into(), &care);
                care.sim.delay(Duration::ZERO, Duration::ZERO);
            }
            care.sim.bind_late(SECOND);
            for _ in 0..100 {
                load.pass(&mut care).await;
            }
            assert!(care.steering.order(Order::Rotate));
            load.until_replaced(&mut care, before).await;
            care.wait(10 * SECOND).await;
            assert_eq!(care.gaps(), [], "{flavour} round {round}");
            assert_eq!(load.assert_once(&care), 0, "{flavour} round {round}");
            care.forget();
        }
        care.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_gap_cannot_be_helped_there_is_one_and_it_contains_all_that_is_lost() {
    for case in ["no answer", "Kazoo 5", "429"] {
        let flavour = if case == "Kazoo 5" { Flavour::K5 } else { Flavour::K4 };
        let mut setup = Setup { upstream: quick(), ..Setup::new(flavour) };
        if case == "429" {
            setup.sim.max_connections_per_ip = Some(1);
        }
        let mut care = setup.start(&["call.*.*"]).await;
        for round in 0..rounds(1) {
            let (before, mut load) = (care.sim.connections_total(), Load::default());
            for _ in 0..100 {
                load.pass(&mut care).await;
            }
            // The way back takes a while there.
            care.nameless.store(case == "Kazoo 5", Ordering::Relaxed);
            assert!(care.steering.order(Order::Rotate));
            for _ in 0..100 {
                load.pass(&mut care).await;
            }
            care.nameless.store(false, Ordering::Relaxed);
            if case == "no answer" {
                assert_eq!(care.sim.connections(), 2);
                care.sim.drop_replies(sim::ReplyLoss::Every(1));
            }
            load.until_replaced(&mut care, before).await;
            care.sim.heal();
            care.wait(20 * SECOND).await;
            assert_eq!(care.one_gap().0, GapReason::Rotation, "{case} round {round}");
            let missing = load.assert_once(&care);
            // Without an answer nobody knows, but the new session had everything; 429 comes and goes in no time here.
            assert_eq!(missing > 0, case == "Kazoo 5", "{case} round {round}: {missing}");
            care.forget();
        }
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
    assert_eq!(most_at_once(&care), 1, "never two at once");
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
        drop(care.account.subscribe(wanting("call.*.*")).await.unwrap());
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

/// A cover that shrinks, bindings that overlap, refreshes, a month that turns, age, and an operator now and then.
#[tokio::test(start_paused = true)]
async fn with_every_reason_at_once_there_is_one_at_a_time_and_no_storm() {
    for flavour in [Flavour::K4, Flavour::V4_3, Flavour::K5] {
        let mut setup = Setup::starting(flavour, at("2026-11-30T23:30:00Z"), 0);
        setup.upstream.rotation_linger = SECOND;
        setup.upstream.rotation_refreshes = 2;
        setup.upstream.rotation_age = 60 * SECOND;
        setup.upstream.rotation_age_k5 = 60 * SECOND;
        let mut care = setup.start(&["call.CHANNEL_CREATE.*"]).await;
        for minute in 0..120 {
            let other = ["call.*.*", "object.doc_created.fax"][minute % 2];
            drop(care.account.subscribe(wanting(other)).await.unwrap());
            if minute % 30 == 7 {
                assert!(care.steering.order(Order::Rotate));
            }
            care.call();
            care.wait(60 * SECOND).await;
        }
        // Ten to fifteen minutes lie between one and the next, but for an operator's.
        let replaced = care.sim.connections_total() - 1;
        assert!((8..=13 + 4).contains(&replaced), "{flavour}: {replaced}");
        if flavour == Flavour::K5 {
            assert_eq!(most_at_once(&care), 1);
        } else {
            assert_eq!((most_at_once(&care), care.gaps()), (2, vec![]), "{flavour}");
            care.assert_once(0..120);
        }
        care.stop().await;
    }
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
