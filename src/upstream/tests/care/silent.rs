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

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_is_half_open_and_dies_late_is_healed_by_the_next_refresh() {
    let mut care = Setup::new(Flavour::K4).start(&BINDINGS).await;
    care.wait(700 * SECOND).await;
    care.sim.restart_listener(None);
    // It neither reads nor answers, and notices nothing of our going.
    let first = care.newest_session();
    assert_eq!(care.sim.freeze(Some(first)), 1);
    care.wait(60 * SECOND).await;
    care.live().await;
    assert!(flows(&mut care).await);
    care.wait(200 * SECOND).await;
    care.sim.kill(Some(first));
    care.sim.thaw(Some(first));
    care.wait(300 * SECOND).await;
    assert!(flows(&mut care).await);
    care.stop().await;
}
