//! Each way in which a session ends or cannot begin: it comes back by itself, and the consumer is told what may be missing.

use crate::sim::{CrossbarFault, Door};

use super::*;

/// What goes wrong, and what makes it good again.
struct Trouble {
    name: &'static str,
    begins: fn(&Care),
    ends: fn(&Care),
    /// How long it takes at most from its end until all is well, in seconds.
    within: u64,
}

const TROUBLES: &[Trouble] = &[
    Trouble { name: "cut", begins: |care| _ = care.sim.cut(None), ends: |_| (), within: 2 },
    Trouble { name: "killed", begins: |care| _ = care.sim.kill(None), ends: |_| (), within: 2 },
    Trouble { name: "frozen", begins: |care| _ = care.sim.freeze(None), ends: |_| (), within: 38 },
    Trouble { name: "1000", begins: |care| _ = care.sim.close(1000, None), ends: |_| (), within: 2 },
    Trouble { name: "1011", begins: |care| _ = care.sim.close(1011, None), ends: |_| (), within: 2 },
    Trouble { name: "400", begins: |care| refused(care, 400), ends: |care| care.sim.heal(), within: 67 },
    Trouble { name: "403", begins: |care| refused(care, 403), ends: |care| care.sim.heal(), within: 67 },
    Trouble { name: "429", begins: |care| refused(care, 429), ends: |care| care.sim.heal(), within: 67 },
    Trouble {
        name: "refused",
        begins: |care| shut(care, Door::Closed),
        ends: |care| care.sim.heal(),
        within: 31,
    },
    Trouble {
        name: "reset",
        begins: |care| shut(care, Door::Resets),
        ends: |care| care.sim.heal(),
        within: 31,
    },
    Trouble {
        name: "hangs",
        begins: |care| shut(care, Door::Hangs),
        ends: |care| care.sim.heal(),
        within: 41,
    },
    Trouble {
        name: "no such host",
        begins: |care| {
            care.nameless.store(true, Ordering::Relaxed);
            care.sim.cut(None);
        },
        ends: |care| care.nameless.store(false, Ordering::Relaxed),
        within: 31,
    },
    Trouble {
        name: "stopped",
        begins: |care| care.sim.run_blackhole(false),
        ends: |care| care.sim.run_blackhole(true),
        within: 31,
    },
    Trouble {
        name: "bad token",
        begins: |care| {
            care.sim.refuse_tokens(true);
            care.sim.cut(None);
        },
        ends: |care| care.sim.heal(),
        within: 67,
    },
    Trouble {
        name: "expired token",
        begins: |care| {
            care.sim.token_life(2 * SECOND);
            care.sim.cut(None);
        },
        ends: |care| care.sim.heal(),
        within: 31,
    },
    Trouble {
        name: "Crossbar down",
        begins: |care| {
            care.sim.crossbar_door(Door::Closed);
            care.sim.refuse_tokens(true);
            care.sim.cut(None);
        },
        ends: |care| care.sim.heal(),
        within: 67,
    },
    Trouble {
        name: "Crossbar slow",
        begins: |care| {
            let slow = CrossbarFault { delay: 8 * SECOND, ..CrossbarFault::default() };
            care.sim.crossbar_fault(Some(slow));
            care.sim.cut(None);
        },
        ends: |_| (),
        within: 31,
    },
];

fn refused(care: &Care, status: u16) {
    care.sim.refuse_upgrades(Some(status));
    care.sim.cut(None);
}

fn shut(care: &Care, door: Door) {
    care.sim.blackhole_door(door);
    care.sim.cut(None);
}

#[tokio::test(start_paused = true)]
async fn each_is_one_gap_that_contains_the_loss_and_little_more() {
    for trouble in TROUBLES {
        for flavour in [Flavour::K4, Flavour::K5] {
            let label = format!("{} {flavour}", trouble.name);
            let mut care = Setup::new(flavour).start(&["call.*.*", "object.doc_created.user"]).await;
            care.call();
            care.wait(7 * SECOND).await;
            let began = care.now();
            (trouble.begins)(&care);
            // What is published in the meantime is lost.
            let first_lost = care.published;
            care.call();
            care.wait(100 * SECOND).await;
            (trouble.ends)(&care);
            let ended = care.now();
            care.wait(SECOND / 100).await;
            care.live().await;
            let took = care.now().duration_since(ended).unwrap();
            assert!(took <= Duration::from_secs(trouble.within), "{label}: {took:?}");
            care.wait(SECOND).await;

            let (reason, since, until) = care.one_gap();
            assert_eq!(reason, GapReason::UpstreamDisconnected, "{label}");
            let interval = config::Upstream::default().ping_interval;
            assert!(since <= began && since + interval >= began, "{label}: the gap begins {since:?}");
            let back = care.now() - SECOND;
            assert!(until >= began && until <= back + SECOND / 10, "{label}");
            let states: Vec<UpstreamState> = care
                .seen
                .lock()
                .iter()
                .filter_map(|item| match item {
                    Item::Upstream { change, .. } => Some(change.state),
                    _ => None,
                })
                .collect();
            assert!(states.contains(&UpstreamState::Down), "{label} {states:?}");
            assert_eq!(states.last(), Some(&UpstreamState::Live), "{label}");

            let published = care.published;
            care.call();
            care.wait(SECOND).await;
            let calls = care.calls();
            assert!(!calls.contains_key(&first_lost), "{label}");
            assert_eq!((calls.get(&0), calls.get(&published)), (Some(&1), Some(&1)), "{label}");
            let clean = format!("{:?}", care.seen.lock());
            assert!(!clean.contains("apikey") && !clean.contains("tok-"), "{label}");
            care.stop().await;
        }
    }
}
