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

/// How often it is dialled at most in the hundred seconds of a trouble. What is refused is not hammered (F5); for all else
/// the delays double up to half a minute, with full jitter.
fn attempts(trouble: &Trouble) -> u64 {
    match trouble.name {
        "400" | "403" | "429" | "bad token" => 3,
        _ => 20,
    }
}

#[tokio::test(start_paused = true)]
async fn each_is_one_gap_that_contains_the_loss_and_little_more() {
    for trouble in TROUBLES {
        for flavour in [Flavour::K4, Flavour::V4_3, Flavour::K5] {
            let label = format!("{} {flavour}", trouble.name);
            let mut care = Setup::new(flavour).start(&["call.*.*", "object.doc_created.user"]).await;
            care.call();
            care.wait(7 * SECOND).await;
            let (began, dialled) = (care.now(), care.dialled.load(Ordering::Relaxed));
            (trouble.begins)(&care);
            // Something happens all the time; what and when is known here.
            let mut published = Vec::new();
            for _ in 0..100 {
                published.push((care.now(), care.published));
                care.call();
                care.wait(SECOND).await;
            }
            let dialled = care.dialled.load(Ordering::Relaxed) - dialled;
            assert!(dialled <= attempts(trouble), "{label}: {dialled} attempts");
            (trouble.ends)(&care);
            let ended = care.now();
            care.wait(SECOND / 100).await;
            while care.account.upstream().0.state != UpstreamState::Live {
                published.push((care.now(), care.published));
                care.call();
                care.wait(SECOND / 10).await;
                let took = care.now().duration_since(ended).unwrap();
                assert!(took <= Duration::from_secs(trouble.within) + SECOND / 10, "{label}: {took:?}");
            }
            care.wait(SECOND).await;

            let (reason, since, until) = care.one_gap();
            assert_eq!(reason, GapReason::UpstreamDisconnected, "{label}");
            let calls = care.calls();
            let lost = published.iter().filter(|(_, number)| !calls.contains_key(number));
            let lost: Vec<SystemTime> = lost.map(|(at, _)| *at).collect();
            let (first, last) = (lost[0], lost[lost.len() - 1]);
            assert_eq!(first, began, "{label}");
            assert!(since <= first && last <= until, "{label}: the gap contains the loss");
            // And little more: before it up to a ping's interval, after it what it takes to publish the next.
            let interval = config::Upstream::default().ping_interval;
            assert!(since + interval >= first, "{label}: {:?} too early", first.duration_since(since));
            assert!(
                last + SECOND + SECOND / 10 >= until,
                "{label}: {:?} too late",
                until.duration_since(last)
            );
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

            let next = care.published;
            care.call();
            care.wait(SECOND).await;
            let calls = care.calls();
            assert_eq!((calls.get(&0), calls.get(&next)), (Some(&1), Some(&1)), "{label}");
            assert!(calls.values().all(|times| *times == 1), "{label}");
            let clean = format!("{:?}", care.seen.lock());
            assert!(!clean.contains("apikey") && !clean.contains("tok-"), "{label}");
            care.stop().await;
        }
    }
}
