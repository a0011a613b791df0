//! Upstream is silent, and the session stays open.

use super::*;

/// Something of each kind, and which binding brings it.
const BINDINGS: [&str; 3] = ["call.*.*", "object.doc_created.user", "fax.status.*"];

/// Whether events come, now.
async fn flows(care: &mut Care) -> bool {
    let before = care.events().len();
    let user = care.document("user");
    care.wait(SECOND / 2).await;
    let events = care.events();
    events[before..].iter().any(|(_, key)| key.ends_with(&user))
}

#[tokio::test(start_paused = true)]
async fn a_refresh_heals_what_went_silent_within_one_interval() {
    for flavour in [Flavour::K4, Flavour::V4_3] {
        for fault in ["listener", "broker", "foreign"] {
            let mut care = Setup::new(flavour).start(&BINDINGS).await;
            assert!(flows(&mut care).await);
            match fault {
                "listener" => care.sim.restart_listener(None),
                "broker" => care.sim.broker_outage(36 * SECOND),
                _ => care.sim.foreign_unsubscribe(&ACCOUNT.parse().unwrap(), "object.doc_created.user"),
            }
            assert!(!flows(&mut care).await, "{flavour} {fault}");
            care.wait(300 * SECOND).await;
            assert!(flows(&mut care).await, "{flavour} {fault}");
            assert_eq!(care.gaps(), [], "there is no evidence");
            let status = care.account.status();
            for report in status.interest {
                let ago = care.now().duration_since(report.proven.unwrap()).unwrap();
                assert!(ago <= 305 * SECOND, "{}: {ago:?}", report.binding);
            }
            care.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn kazoo_5_is_healed_by_its_rotation() {
    for fault in ["listener", "foreign"] {
        let mut setup = Setup::new(Flavour::K5);
        setup.upstream.rotation_age_k5 = 1000 * SECOND;
        let mut care = setup.start(&BINDINGS).await;
        assert!(flows(&mut care).await);
        let proven = care.now();
        match fault {
            "listener" => care.sim.restart_listener(None),
            _ => care.sim.foreign_unsubscribe(&ACCOUNT.parse().unwrap(), "object.doc_created.user"),
        }
        care.wait(600 * SECOND).await;
        assert!(!flows(&mut care).await, "{fault}");
        let status = care.account.status();
        let users = status.interest.iter().find(|report| *report.binding == *BINDINGS[1]).unwrap();
        assert!(users.proven.unwrap() <= proven, "a refresh would prove nothing");
        care.wait(500 * SECOND).await;
        assert!(flows(&mut care).await, "{fault}");
        assert_eq!(care.one_gap().0, GapReason::Rotation);
        assert_eq!(care.sim.connections_total(), 2);
        care.stop().await;
    }
}

/// The broker comes back by itself, and everything with it (G27): no rotation is needed, nor would one help before that.
#[tokio::test(start_paused = true)]
async fn a_broker_outage_is_over_by_itself_on_kazoo_5_and_nothing_is_taken_for_proven_meanwhile() {
    let mut care = Setup::new(Flavour::K5).start(&BINDINGS).await;
    assert!(flows(&mut care).await);
    care.call();
    care.wait(SECOND).await;
    let began = care.now();
    care.sim.broker_outage(36 * SECOND);
    let (lost, user) = (care.published, care.document("user"));
    care.call();
    for _ in 0..7 {
        assert!(!flows(&mut care).await, "calls too");
        care.wait(SECOND * 9 / 2).await;
    }
    for (binding, at) in proven(&care) {
        assert!(at <= began, "{binding}: nothing came since");
    }
    care.wait(2 * SECOND).await;
    assert!(flows(&mut care).await);
    let back = care.published;
    care.call();
    care.wait(SECOND).await;
    let came = |what: &str| care.events().iter().any(|(_, key)| key.ends_with(&format!(".{what}")));
    assert!(came(&format!("n{back}")) && !came(&format!("n{}", lost + 1)) && !came(&user));
    let proven = proven(&care);
    assert!(proven[BINDINGS[0]] > began && proven[BINDINGS[1]] > began && proven[BINDINGS[2]] < began);
    // There is no evidence of it; the session was good all the time.
    assert_eq!((care.gaps(), care.sim.connections_total()), (vec![], 1));
    care.stop().await;
}

/// Until when each binding is proven, as the account's status has it.
fn proven(care: &Care) -> BTreeMap<String, SystemTime> {
    let interest = care.account.status().interest.into_iter();
    interest.map(|report| (report.binding.to_string(), report.proven.unwrap())).collect()
}

/// The same, as the consumer was told last.
fn told(care: &Care) -> BTreeMap<String, SystemTime> {
    let seen = care.seen.lock();
    let last = seen.iter().rev().find_map(|item| match item {
        Item::Upstream { bindings, .. } => Some(bindings.clone()),
        _ => None,
    });
    let bindings = last.expect("a state").into_iter();
    bindings.map(|report| (report.binding.to_string(), report.proven.unwrap())).collect()
}

/// What a consumer can know of a silence: a binding that is listed as active, and when its kind was last proven. An event
/// proves its kind alone; a refresh everything, but on K5, where it proves nothing (G21).
#[tokio::test(start_paused = true)]
async fn until_when_each_kind_is_proven_is_told_on_all_flavours() {
    let [calls, users, faxes] = BINDINGS;
    for flavour in [Flavour::K4, Flavour::V4_3, Flavour::K5] {
        let mut care = Setup::new(flavour).start(&BINDINGS).await;
        let bound = care.now();
        care.wait(100 * SECOND).await;
        let event = care.now();
        care.call();
        care.wait(SECOND).await;
        let after_event = proven(&care);
        assert!(after_event[calls] >= event, "{flavour}");
        let close = |at: SystemTime, to: SystemTime| at <= to && at + SECOND >= to;
        assert!(close(after_event[users], bound) && close(after_event[faxes], bound), "{flavour}");

        // All but calls on K5 are silent from here on.
        care.sim.restart_listener(None);
        let silent = care.now();
        care.call();
        assert!(!flows(&mut care).await, "{flavour}");
        care.wait(100 * SECOND).await;
        let during = proven(&care);
        match flavour {
            Flavour::K5 => {
                assert!(during[calls] >= silent, "they go on");
                care.wait(1000 * SECOND).await;
                let later = proven(&care);
                assert_eq!((later[users], later[faxes]), (after_event[users], after_event[faxes]));
                care.steering.order(Order::Rotate);
            }
            _ => {
                // Its turn in the round of refreshes may have come by now: then it is proven, and flows.
                let is_proven = during[users] > silent;
                assert_eq!(flows(&mut care).await, is_proven, "{flavour}");
                care.wait(210 * SECOND).await;
            }
        }
        care.wait(5 * SECOND).await;
        assert!(flows(&mut care).await, "{flavour}");
        let healed = proven(&care);
        for binding in BINDINGS {
            assert!(healed[binding] > silent, "{flavour} {binding}");
        }

        // The stream is told with its next state: here because the session ends.
        let cut = care.now();
        care.sim.cut(None);
        care.wait(SECOND / 100).await;
        care.live().await;
        care.wait(SECOND).await;
        for (binding, at) in told(&care) {
            assert!(at > cut, "{flavour} {binding}: proven anew");
        }
        care.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_fault_the_session_that_goes_does_not_silence_the_one_that_stays() {
    for flavour in [Flavour::K4, Flavour::V4_3, Flavour::K5] {
        for fault in ["none", "listener", "foreign"] {
            let mut care = Setup::new(flavour).start(&BINDINGS).await;
            // Refreshed a few times: closing it lets go of more than it raised (F51).
            care.wait(700 * SECOND).await;
            match fault {
                "listener" => care.sim.restart_listener(None),
                "foreign" => {
                    care.sim.foreign_unsubscribe(&ACCOUNT.parse().unwrap(), "object.doc_created.user");
                }
                _ => {}
            }
            care.steering.order(Order::Rotate);
            let give_up = Instant::now() + 60 * SECOND;
            while care.sim.connections_total() == 1 || care.sim.connections() != 1 {
                assert!(Instant::now() < give_up);
                care.wait(SECOND / 100).await;
            }
            care.live().await;
            care.wait(SECOND).await;
            assert!(flows(&mut care).await, "{flavour} {fault}: a second after the other was closed");
            care.stop().await;
        }
    }
}

/// A session is frozen, which hawking notices; there is a fault; and so much later the old one dies.
async fn haunted(setup: Setup, fault: &str, dies_after: u32) -> Care {
    let mut care = setup.start(&BINDINGS).await;
    care.wait(700 * SECOND).await;
    // It neither reads nor answers, and notices nothing of our going.
    let first = care.newest_session();
    assert_eq!(care.sim.freeze(Some(first)), 1);
    care.wait(45 * SECOND).await;
    care.live().await;
    match fault {
        "listener" => care.sim.restart_listener(None),
        _ => care.sim.foreign_unsubscribe(&ACCOUNT.parse().unwrap(), "object.doc_created.user"),
    }
    care.wait(dies_after * SECOND).await;
    assert!(flows(&mut care).await, "{fault} {dies_after}");
    assert_eq!(care.sim.cut(Some(first)), 1);
    care
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_is_half_open_and_dies_at_any_time_silences_for_a_second_at_most() {
    for flavour in [Flavour::K4, Flavour::V4_3] {
        for (fault, dies_after) in [
            ("listener", 2),
            ("listener", 100),
            ("foreign", 2),
            ("foreign", 100),
            ("listener", 3500),
            ("foreign", 3500),
        ] {
            let mut care = haunted(Setup::new(flavour), fault, dies_after).await;
            care.wait(SECOND).await;
            assert!(flows(&mut care).await, "{flavour} {fault} {dies_after}");
            // And that is that, once upstream has given up all that it could have kept.
            care.wait(3700 * SECOND).await;
            let before = care.subscribes().len();
            care.wait(300 * SECOND).await;
            assert!(care.subscribes().len() <= before + 4);
            care.stop().await;
        }
    }
    // It does its harm where it is not expected any more.
    let mut setup = Setup::new(Flavour::K4);
    setup.upstream.session_idle_timeout = SECOND;
    let mut care = haunted(setup, "listener", 100).await;
    care.wait(SECOND).await;
    assert!(!flows(&mut care).await);
    care.wait(300 * SECOND).await;
    assert!(flows(&mut care).await, "after a refresh");
    care.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_may_have_died_late_makes_kazoo_5_rotate_once() {
    let mut setup = Setup::new(Flavour::K5);
    setup.upstream.session_idle_timeout = 1000 * SECOND;
    let mut care = setup.start(&BINDINGS).await;
    care.sim.restart_listener(None);
    let first = care.newest_session();
    care.sim.freeze(Some(first));
    care.wait(60 * SECOND).await;
    care.live().await;
    care.sim.cut(Some(first));
    care.wait(SECOND).await;
    assert!(!flows(&mut care).await, "it has done its harm");
    care.wait(1700 * SECOND).await;
    assert!(flows(&mut care).await);
    assert_eq!(care.sim.connections_total(), 3);
    care.wait(3000 * SECOND).await;
    assert_eq!(care.sim.connections_total(), 3);
    care.stop().await;
}
