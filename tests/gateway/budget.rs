//! Many descendants over one session: what they cost upstream, and that no event goes to the wrong one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawking::{
    binding::{AccountId, Binding, Flavour, OptIn},
    cli::serve::Gateway,
    clock::{TokioClock, WallClock},
    hub::{
        BindingState, EventFilter, GapReason, Item, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start,
        SubscribeSpec, Subscription,
    },
    proto::{self, subscribe_response::Kind},
    random::{Random, SeededRandom},
    sim::{Frame, Happening, Settings, Simulator},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    descendants::{ALL_KINDS, child, one_of_each, specs},
    whole::config as config_for,
};

/// How many descendants there are.
const MANY: usize = 300;
/// Every how many-th of them wants all kinds of events.
const ALL_EVERY: usize = 20;

fn subscribe_spec(bindings: &[&str]) -> SubscribeSpec {
    let parse = |text: &&str| Binding::parse(text, &OptIn::default()).expect("a binding");
    let mut bindings: Vec<Binding> = bindings.iter().map(parse).collect();
    bindings.sort();
    SubscribeSpec {
        bindings,
        filter: EventFilter::default(),
        format: PayloadFormat::None,
        start: Start::Live,
        miss_policy: ReplayMissPolicy::default(),
        overflow_policy: OverflowPolicy::default(),
        heartbeat_interval: Duration::from_secs(3600),
        require_all_bindings: false,
    }
}

/// The message ids of the events that have come, which are all of `account`; and why there were gaps.
async fn message_ids(
    subscription: &mut Subscription,
    account: AccountId,
) -> (Vec<String>, HashSet<GapReason>) {
    let (mut ids, mut gaps) = (Vec::new(), HashSet::new());
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_millis(1), subscription.next()).await {
        match item {
            Item::Events { frames, .. } => {
                let mut rest = &frames[..];
                while let [0, a, b, c, d, after @ ..] = rest {
                    let (message, next) = after.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
                    let response = proto::SubscribeResponse::decode(message).expect("a message");
                    let Some(Kind::Event(event)) = response.kind else { panic!("{response:?}") };
                    assert_eq!(event.account_id, account.as_str());
                    ids.push(event.message_id);
                    rest = next;
                }
            }
            Item::Gap(gap) => _ = gaps.insert(gap.reason),
            Item::End(end) => panic!("{end:?}"),
            Item::Upstream { .. } | Item::Heartbeat { .. } => {}
        }
    }
    (ids, gaps)
}

/// Many descendants over one session, in simulated time, with the simulator in memory. Upstream's bucket and the settings are
/// those of a fresh install, but for the age at which the session is replaced.
struct Many {
    flavour: Flavour,
    clock: Arc<TokioClock>,
    sim: Simulator,
    gateway: Gateway,
    limits: hawking::config::Upstream,
    subscriptions: Vec<Subscription>,
    random: SeededRandom,
    published: usize,
}

/// What was asked on a connection, and when.
type Commands = Vec<(SystemTime, u64, serde_json::Value)>;

impl Many {
    async fn start(flavour: Flavour) -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let clock = Arc::new(TokioClock::starting_at(start));
        let sim = Simulator::in_memory(Settings {
            flavour,
            accounts: specs(MANY),
            clock: clock.clone(),
            random: Arc::new(SeededRandom::new(7)),
            record_limit: 1_000_000,
            record_bytes: 1 << 30,
            ..Settings::default()
        });
        let mut config = config_for(&sim);
        config.upstream = hawking::config::Upstream {
            crossbar_url: sim.crossbar_url(),
            blackhole_url: sim.blackhole_url(),
            rotation_age: ROTATION_AGE,
            rotation_age_k5: ROTATION_AGE,
            ..Default::default()
        };
        let limits = config.upstream.clone();
        let gateway = Gateway::start(config, sim.seams()).await.unwrap();
        let subscribe = |number: usize| {
            let hub = gateway.hub();
            async move {
                let account = hub.lookup(child(number)).await.expect("it is known");
                let wants_all = number.is_multiple_of(ALL_EVERY);
                let bindings: &[&str] = if wants_all { &ALL_KINDS } else { &["call.*.*"] };
                account.subscribe(subscribe_spec(bindings)).await.expect("a subscription")
            }
        };
        let subscriptions = futures_util::future::join_all((0..MANY).map(subscribe)).await;
        let random = SeededRandom::new(11);
        Self { flavour, clock, sim, gateway, limits, subscriptions, random, published: 0 }
    }

    /// What is held: 4.3 does not serve presence as it comes.
    fn kinds(&self) -> usize {
        if self.flavour == Flavour::V4_3 { 4 } else { ALL_KINDS.len() }
    }

    /// What the session holds for all of them.
    fn bindings(&self) -> usize {
        MANY + MANY / ALL_EVERY * (self.kinds() - 1)
    }

    /// Until everything is bound, or refused.
    async fn bound(&self) {
        let is_settled = |number| {
            let interest = self.gateway.hub().get(&child(number)).expect("it has a log").status().interest;
            interest.iter().all(|binding| binding.state != BindingState::Pending)
        };
        let begun = Instant::now();
        while !(0..MANY).all(is_settled) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(begun.elapsed() < Duration::from_secs(90), "bound in time");
        }
    }

    /// Events of all kinds for all, also for those that want none of them: each gets its own, once, and nobody else's.
    async fn events_go_where_they_belong(&mut self, gap: Option<GapReason>) {
        let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for _ in 0..400 {
            let number = self.random.next_u64() as usize % MANY;
            let kind = self.random.next_u64() as usize % ALL_KINDS.len();
            let tag = self.published.to_string();
            self.published += 1;
            let event = one_of_each(self.sim.account(&child(number)).unwrap(), &tag).swap_remove(kind);
            self.sim.publish(&event).unwrap();
            if kind == 0 || (number.is_multiple_of(ALL_EVERY) && kind < self.kinds()) {
                expected.entry(number).or_default().push(format!("{tag}-{kind}"));
            }
        }
        // Time is paused, and goes on only when nobody has anything left to do: then all that was published has come. This is
        // longer than any pause on the way from the simulator to a log.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (number, subscription) in self.subscriptions.iter_mut().enumerate() {
            let (ids, gaps) = message_ids(subscription, child(number)).await;
            assert_eq!(ids, expected.remove(&number).unwrap_or_default(), "child {number}");
            // Before upstream has confirmed the binding for the first time.
            let others: Vec<_> = gaps.into_iter().filter(|gap| *gap != GapReason::BindingPending).collect();
            assert_eq!(others, Vec::from_iter(gap), "child {number}");
        }
    }

    /// The subscribes since a time, and the replies: bytes, and when. Not once over the limit.
    fn asked_since(&self, since: SystemTime) -> (Commands, Vec<(SystemTime, usize)>) {
        let (mut commands, mut replies) = (Vec::new(), Vec::new());
        for exchange in self.sim.record() {
            match exchange.what {
                Happening::Received(Frame::Text(text)) if exchange.at > since => {
                    let mut command: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(command["action"], "subscribe");
                    commands.push((exchange.at, exchange.connection, command["data"].take()));
                }
                Happening::Sent(Frame::Text(text)) => {
                    assert!(!text.contains("rate limiting"), "{text}");
                    if exchange.at > since && text.contains(r#""action":"reply""#) {
                        replies.push((exchange.at, text.len()));
                    }
                }
                _ => {}
            }
        }
        (commands, replies)
    }
}

/// Bindings of accounts that were asked for, alone or in a list.
fn pairs(commands: &Commands) -> BTreeSet<(String, String)> {
    let pairs = |(_, _, data): &(SystemTime, u64, serde_json::Value)| {
        let account = data["account_id"].as_str().unwrap().to_owned();
        let listed = data["bindings"].as_array().cloned().unwrap_or_else(|| vec![data["binding"].clone()]);
        listed.into_iter().map(move |binding| (account.clone(), binding.as_str().unwrap().to_owned()))
    };
    commands.iter().flat_map(pairs).collect()
}

/// When the session is replaced, which is before everything was refreshed four times.
const ROTATION_AGE: Duration = Duration::from_secs(1200);

async fn many_descendants_stay_inside_the_budget_and_apart(flavour: Flavour) {
    let (start, begun) = (SystemTime::UNIX_EPOCH, Instant::now());
    let mut many = Many::start(flavour).await;
    // Bound as fast as the share of the bucket allows, and no faster.
    many.bound().await;
    let limits = many.limits.clone();
    let per_second = f64::from(limits.rate_per_second) * limits.rate_share;
    let burst = f64::from(limits.rate_burst) * limits.rate_share;
    let (commands, _) = many.asked_since(start);
    let accounts: BTreeSet<_> = commands.iter().map(|(_, _, data)| data["account_id"].to_string()).collect();
    assert_eq!(accounts.len(), MANY);
    let least = (commands.len() as f64 - burst) / per_second;
    assert!(begun.elapsed() >= Duration::from_secs_f64(least.max(0.0)), "{:?}", begun.elapsed());
    // What is refused, and the other form on the way to a flavour that is not known, beside.
    let held = many.bindings();
    assert!(pairs(&commands).len() >= held && commands.len() <= held + 5 * MANY / ALL_EVERY, "each once");
    many.events_go_where_they_belong(None).await;

    // Everything is asked for again within the interval, and a little for those that are asked for last; on K5, where that
    // heals nothing else, what is filed by month.
    let bound = many.clock.now();
    tokio::time::sleep(limits.refresh_interval.mul_f64(1.1)).await;
    let (refreshes, replies) = many.asked_since(bound);
    let expected = if flavour == Flavour::K5 { MANY / ALL_EVERY } else { held };
    assert_eq!(pairs(&refreshes).len(), expected);
    // A window holds one more than its share at most, and what it began with.
    let tokens = most_in_a_window(&refreshes.iter().map(|(at, ..)| (*at, 1)).collect::<Vec<_>>());
    assert!(
        tokens as f64 <= per_second * limits.refresh_share * WINDOW.as_secs_f64() + 1.0,
        "{tokens} tokens"
    );
    let largest = replies.iter().map(|(_, bytes)| *bytes).max().unwrap();
    let bytes = most_in_a_window(&replies);
    assert!(bytes <= limits.refresh_bytes_per_second * WINDOW.as_secs() as usize + largest, "{bytes} bytes");

    // The session is replaced: that asks for everything once, at the pace of the bucket.
    while many.sim.connections_total() == 1 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < ROTATION_AGE.mul_f64(1.2), "it is due");
    }
    let opened = many.clock.now() - Duration::from_secs(2);
    let rotation = Instant::now();
    while many.sim.connections() != 1 || many.sim.sessions()[0].bindings.len() < held {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(rotation.elapsed() < Duration::from_secs(180), "replaced in time");
    }
    many.bound().await;
    let successor = many.sim.sessions()[0].connection;
    let (commands, replies) = many.asked_since(opened);
    let of_successor: Commands = commands.into_iter().filter(|(_, on, _)| *on == successor).collect();
    assert!(pairs(&of_successor).len() >= held);
    let in_a_window = most_in_a_window(&of_successor.iter().map(|(at, ..)| (*at, 1)).collect::<Vec<_>>());
    assert!(in_a_window as f64 <= burst + per_second * WINDOW.as_secs_f64(), "{in_a_window} tokens");
    println!(
        "{flavour}: {held} bindings; refresh: at most {tokens} tokens and {bytes} bytes in {WINDOW:?}, the largest reply \
         {largest}; rotation: {} tokens in {:?}, at most {in_a_window} in {WINDOW:?}, {} bytes of replies",
        of_successor.len(),
        rotation.elapsed(),
        replies.iter().map(|(_, bytes)| bytes).sum::<usize>(),
    );
    let gap = (flavour == Flavour::K5).then_some(GapReason::Rotation);
    many.events_go_where_they_belong(gap).await;
    many.gateway.stop().await;
    many.sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_descendants_stay_inside_the_budget_and_apart_on_k4() {
    many_descendants_stay_inside_the_budget_and_apart(Flavour::K4).await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_descendants_stay_inside_the_budget_and_apart_on_4_3() {
    many_descendants_stay_inside_the_budget_and_apart(Flavour::V4_3).await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_descendants_stay_inside_the_budget_and_apart_on_k5() {
    many_descendants_stay_inside_the_budget_and_apart(Flavour::K5).await;
}

/// In which the budget is counted.
const WINDOW: Duration = Duration::from_secs(10);

/// What came to the most in any window.
fn most_in_a_window(of: &[(SystemTime, usize)]) -> usize {
    let from = |start: usize| {
        let within = of[start..].iter().take_while(|(at, _)| *at < of[start].0 + WINDOW);
        within.map(|(_, what)| what).sum()
    };
    (0..of.len()).map(from).max().unwrap_or_default()
}
