//! Accounts that are not configured themselves: served over the session of the nearest configured one above them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawking::{
    binding::{AccountId, Binding, OptIn},
    cli::serve::Gateway,
    clock::{TokioClock, WallClock},
    config::{Config, Credentials},
    hub::{
        BindingState, EventFilter, GapReason, Item, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start,
        SubscribeSpec, Subscription,
    },
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    random::{Random, SeededRandom},
    sim::{AccountSpec, Event, Frame, Happening, Settings, Simulator, recorded_accounts},
    upstream::{Seams, Transport, TransportError},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use super::{
    harness::{ACCOUNT, Consumer, STRANGER, account_id, channel, eventually, reason, soon},
    whole::config as config_for,
};

/// Below the account of the recordings, among the recorded ones.
const BELOW: &str = "account0000000000000000000000004";
/// Beside it.
const BESIDE: &str = "account0000000000000000000000003";

fn child(number: usize) -> AccountId {
    account_id(&format!("child{number:027}"))
}

/// The recorded accounts, and below the one of the recordings so many more, every third of them one level down.
fn specs(children: usize) -> Vec<AccountSpec> {
    let below = |number: usize| {
        let parent = if number % 3 == 2 { child(number - 1) } else { account_id(ACCOUNT) };
        AccountSpec::new(
            child(number),
            &format!("Child {number}"),
            &format!("C{number}.Example.com"),
            Some(parent),
        )
    };
    recorded_accounts().into_iter().chain((0..children).map(below)).collect()
}

/// Crossbar, with some accounts left out of each listing, and a count of the listings.
struct Hiding {
    inner: Arc<dyn Transport>,
    hidden: Mutex<BTreeSet<AccountId>>,
    listings: Mutex<Vec<Instant>>,
}

impl Hiding {
    fn of(seams: &Seams) -> Arc<Self> {
        let inner = seams.transport.clone();
        Arc::new(Self { inner, hidden: Mutex::default(), listings: Mutex::default() })
    }

    fn listings(&self) -> usize {
        self.listings.lock().len()
    }
}

impl Transport for Hiding {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let is_listing = request.uri().path().ends_with("/descendants");
            let mut answer = self.inner.send(request).await?;
            if is_listing {
                self.listings.lock().push(Instant::now());
                let mut body: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
                let hidden = self.hidden.lock().clone();
                let seen = |entry: &serde_json::Value| {
                    entry["id"].as_str().and_then(|id| id.parse().ok()).is_none_or(|id| !hidden.contains(&id))
                };
                if let Some(entries) = body["data"].as_array_mut() {
                    entries.retain(seen);
                }
                *answer.body_mut() = body.to_string().into();
            }
            Ok(answer)
        })
    }
}

/// Simulator and gateway over real sockets, with a Crossbar that can hide accounts.
struct Family {
    sim: Simulator,
    gateway: Gateway,
    crossbar: Arc<Hiding>,
}

impl Family {
    async fn start(children: usize, hidden: &[AccountId], change: impl FnOnce(&mut Config)) -> Self {
        let sim =
            Simulator::start(Settings { accounts: specs(children), ..Settings::default() }).await.unwrap();
        let mut config = config_for(&sim);
        change(&mut config);
        let seams = Seams::system(&config.upstream).unwrap();
        let crossbar = Hiding::of(&seams);
        crossbar.hidden.lock().extend(hidden);
        let seams = Seams { transport: crossbar.clone(), ..seams };
        let gateway = Gateway::start(config, seams).await.unwrap();
        Self { sim, gateway, crossbar }
    }

    async fn client(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(channel(self.gateway.grpc_addr()).await)
    }

    fn spec(&self, id: AccountId) -> &AccountSpec {
        self.sim.account(&id).expect("it is simulated")
    }

    async fn stop(self) {
        soon("the gateway ends", self.gateway.stop()).await;
        soon("the simulator ends", self.sim.shutdown()).await;
    }
}

const ALL_KINDS: [&str; 7] = [
    "call.*.*",
    "conference.event.*.*",
    "fax.status.*",
    "object.*.*",
    "presence.dialog.*",
    "presence.mwi_updates.*",
    "presence.update.*",
];

fn request(id: AccountId, bindings: &[&str]) -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: id.to_string(),
        bindings: bindings.iter().map(|&binding| binding.to_owned()).collect(),
        ..Default::default()
    }
}

/// One event of each kind, with message ids of its own.
fn one_of_each(account: &AccountSpec, tag: &str) -> Vec<Event> {
    let events = [
        Event::call(account, "CHANNEL_CREATE", "a.b@c"),
        Event::conference(account, "add-member", "conf1", "a.b@c"),
        Event::fax_status(account, "f1", "sent"),
        Event::document(account, "doc_created", "user", "u1"),
        Event::presence_dialog(account, "1001", "a.b@c", "confirmed"),
        Event::mwi_update(account, "1001", 1, 2),
        Event::presence_update(account, "1001", "a.b@c", "confirmed"),
    ];
    let numbered = |(number, event): (usize, Event)| event.with("Msg-ID", format!("{tag}-{number}"));
    events.into_iter().enumerate().map(numbered).collect()
}

#[tokio::test]
async fn each_account_gets_its_own_events_of_every_kind() {
    let family = Family::start(9, &[], |_| {}).await;
    let mut client = family.client().await;
    let asked = [account_id(ACCOUNT), account_id(BELOW), child(0), child(2), child(8)];
    let mut consumers = Vec::new();
    for id in asked {
        let mut consumer = Consumer::begin(&mut client, request(id, &ALL_KINDS)).await.unwrap();
        consumer.confirmed().await;
        consumers.push(consumer);
    }
    assert_eq!(family.sim.connections_total(), 1, "over one session");

    // Also of those that nobody asked for, and of one beside.
    for id in
        [child(1), child(2), account_id(BESIDE), child(8), account_id(ACCOUNT), child(0), account_id(BELOW)]
    {
        for event in one_of_each(family.spec(id), id.as_str()) {
            family.sim.publish(&event).unwrap();
        }
    }
    for (id, consumer) in asked.iter().zip(&mut consumers) {
        let events = consumer.events(ALL_KINDS.len()).await;
        let expected: Vec<String> = (0..ALL_KINDS.len()).map(|number| format!("{id}-{number}")).collect();
        assert_eq!(
            events.iter().map(|event| &event.message_id).collect::<Vec<_>>(),
            expected.iter().collect::<Vec<_>>()
        );
        assert!(events.iter().all(|event| event.account_id == id.as_str()));
    }
    // Nothing else has come: what comes next is what is published next.
    for (id, consumer) in asked.iter().zip(&mut consumers) {
        family.sim.publish(&Event::call(family.spec(*id), "CHANNEL_DESTROY", "last")).unwrap();
        assert_eq!(consumer.event().await.name, "CHANNEL_DESTROY");
    }
    family.stop().await;
}

#[tokio::test]
async fn accounts_are_listed_with_names_and_with_who_serves_them() {
    // The one below is configured itself, and has one below itself.
    let grandchild = "grandchild0000000000000000000001";
    let mut accounts = specs(120);
    accounts.push(AccountSpec::new(account_id(grandchild), "G", "g.example.com", Some(account_id(BELOW))));
    let sim = Simulator::start(Settings { accounts, ..Settings::default() }).await.unwrap();
    let mut config = config_for(&sim);
    let mut below = config.accounts[0].clone();
    below.id = account_id(BELOW);
    below.credentials = Credentials::ApiKey { key: "apikey-acct4".into() };
    config.accounts.push(below);
    let seams = Seams::system(&config.upstream).unwrap();
    let gateway = Gateway::start(config, seams).await.unwrap();
    let mut client = EventServiceClient::new(channel(gateway.grpc_addr()).await);

    let list = async |client: &mut EventServiceClient<Channel>| {
        let (mut accounts, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListAccountsRequest { page_size: 50, page_token: page_token.clone() };
            let page = client.list_accounts(request).await.unwrap().into_inner();
            assert!(page.accounts.len() <= 50);
            accounts.extend(page.accounts);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return accounts;
            }
        }
    };
    eventually("both have told", async || {
        let accounts = list(&mut client.clone()).await;
        accounts.len() == 2 + 120 + 1 && accounts.iter().all(|account| !account.name.is_empty())
    })
    .await;
    let accounts = list(&mut client).await;
    assert!(accounts.is_sorted_by_key(|account| account.account_id.clone()));
    let of = |id: &str| {
        let account = accounts.iter().find(|account| account.account_id == id).expect("it is listed");
        (account.name.as_str(), account.served_by_account_id.as_str())
    };
    assert_eq!(of(ACCOUNT), ("wefwefwefwef", ACCOUNT));
    assert_eq!(of(BELOW), ("acct4", BELOW));
    assert_eq!(of(grandchild), ("G", BELOW));
    assert_eq!(of(child(5).as_str()), ("Child 5", ACCOUNT));

    let status = |id: &str| proto::GetAccountStatusRequest { account_id: id.to_owned() };
    let of_child = client.get_account_status(status(child(5).as_str())).await.unwrap().into_inner();
    assert_eq!(of_child.served_by_account_id, ACCOUNT);
    let of_grandchild = client.get_account_status(status(grandchild)).await.unwrap().into_inner();
    assert_eq!(of_grandchild.served_by_account_id, BELOW);
    let mut consumer =
        Consumer::begin(&mut client, request(account_id(grandchild), &["call.*.*"])).await.unwrap();
    consumer.confirmed().await;
    sim.publish(&Event::call(sim.account(&account_id(grandchild)).unwrap(), "CHANNEL_CREATE", "x")).unwrap();
    assert_eq!(consumer.event().await.account_id, grandchild);
    soon("the gateway ends", gateway.stop()).await;
    soon("the simulator ends", sim.shutdown()).await;
}

#[tokio::test]
async fn who_is_new_is_found_when_somebody_asks_and_strangers_cost_little() {
    let family = Family::start(3, &[child(2)], |config| {
        config.hub.lookup_interval = Duration::from_millis(500);
    })
    .await;
    let mut client = family.client().await;
    let mut consumer = Consumer::begin(&mut client, request(child(1), &["call.*.*"])).await.unwrap();
    consumer.confirmed().await;
    let listings = family.crossbar.listings();

    // A hundred strangers at once: none is served, and Crossbar is asked once.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let strangers =
        (0..100).map(|number| {
            let mut client = client.clone();
            let id = match number % 3 {
                0 => account_id(BESIDE),
                1 => account_id(STRANGER),
                _ => child(2),
            };
            async move {
                Consumer::begin(&mut client, request(id, &["call.*.*"])).await.err().expect("not served")
            }
        });
    for status in futures_util::future::join_all(strangers).await {
        assert_eq!(
            (status.code(), &*reason(&status)),
            (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"),
            "{status:?}"
        );
    }
    assert_eq!(family.crossbar.listings(), listings + 1);

    // One is made in Kazoo; who asks for it finds it, without waiting for the next regular listing.
    family.crossbar.hidden.lock().clear();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut new = Consumer::begin(&mut client, request(child(2), &["call.*.*"])).await.unwrap();
    new.confirmed().await;
    family.sim.publish(&Event::call(family.spec(child(2)), "CHANNEL_CREATE", "new")).unwrap();
    assert_eq!(new.event().await.call_id, "new");
    assert_eq!(family.crossbar.listings(), listings + 2);
    family.stop().await;
}

#[tokio::test]
async fn who_is_removed_in_kazoo_is_told_so_and_nobody_else_is() {
    let family = Family::start(3, &[], |config| {
        config.upstream.descendants_interval = Duration::from_millis(100);
        config.hub.lookup_interval = Duration::from_millis(10);
    })
    .await;
    let mut client = family.client().await;
    let mut gone = Consumer::begin(&mut client, request(child(0), &["call.*.*"])).await.unwrap();
    let mut stays = Consumer::begin(&mut client, request(child(1), &["call.*.*"])).await.unwrap();
    gone.confirmed().await;
    stays.confirmed().await;
    family.crossbar.hidden.lock().insert(child(0));
    let (_, status) = gone.end().await;
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"), "{status:?}");
    let again = Consumer::begin(&mut client, request(child(0), &["call.*.*"])).await.err().unwrap();
    assert_eq!(again.code(), Code::NotFound);

    // What still comes for it is nobody's: the session cannot let go of the binding.
    family.sim.publish(&Event::call(family.spec(child(0)), "CHANNEL_CREATE", "gone")).unwrap();
    family.sim.publish(&Event::call(family.spec(child(1)), "CHANNEL_CREATE", "stays")).unwrap();
    assert_eq!(stays.event().await.call_id, "stays");

    // Back again, it has a new log.
    let epoch = gone.subscribed.position.unwrap().epoch;
    family.crossbar.hidden.lock().clear();
    eventually("it is known again", async || {
        Consumer::begin(&mut family.client().await, request(child(0), &["call.*.*"])).await.is_ok()
    })
    .await;
    let mut back = Consumer::begin(&mut client, request(child(0), &["call.*.*"])).await.unwrap();
    back.confirmed().await;
    assert_ne!(back.subscribed.position.as_ref().unwrap().epoch, epoch);
    family.sim.publish(&Event::call(family.spec(child(0)), "CHANNEL_CREATE", "back")).unwrap();
    assert_eq!(back.event().await.call_id, "back");
    family.stop().await;
}

#[tokio::test]
async fn while_crossbar_does_not_answer_nobody_is_told_that_an_account_does_not_exist() {
    let family = Family::start(3, &[], |config| {
        config.hub.lookup_wait = Duration::from_millis(300);
        // Nobody there.
        config.upstream.crossbar_url = "http://127.0.0.1:1/".parse().unwrap();
    })
    .await;
    let mut client = family.client().await;
    let status = Consumer::begin(&mut client, request(child(0), &["call.*.*"])).await.err().unwrap();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::Unavailable, "ACCOUNT_NOT_KNOWN_YET"),
        "{status:?}"
    );
    family.stop().await;
}

#[tokio::test]
async fn the_session_ends_for_its_descendants_too() {
    let family = Family::start(3, &[], |_| {}).await;
    let mut client = family.client().await;
    let mut consumer = Consumer::begin(&mut client, request(child(0), &["call.*.*"])).await.unwrap();
    consumer.confirmed().await;
    family.sim.cut_all();
    let is_closed = |kind: &Kind| matches!(kind, Kind::Gap(gap) if gap.end_time.is_some());
    let messages = consumer.until(is_closed).await;
    let Some(Kind::Gap(gap)) = messages.last() else { panic!("{messages:?}") };
    assert_eq!(
        (gap.reason(), &gap.bindings[..]),
        (proto::GapReason::UpstreamDisconnected, &["call.*.*".to_owned()][..])
    );
    family.sim.publish(&Event::call(family.spec(child(0)), "CHANNEL_CREATE", "after")).unwrap();
    assert_eq!(consumer.event().await.call_id, "after");
    family.stop().await;
}

/// How many descendants the budget is counted with.
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

/// The message ids of the events that have come, which are all of `account`.
async fn message_ids(subscription: &mut Subscription, account: AccountId) -> Vec<String> {
    let mut ids = Vec::new();
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
            // Before upstream has confirmed the binding.
            Item::Gap(gap) => assert_eq!(gap.reason, GapReason::BindingPending, "{gap:?}"),
            Item::End(end) => panic!("{end:?}"),
            Item::Upstream { .. } | Item::Heartbeat { .. } => {}
        }
    }
    ids
}

/// Three hundred descendants over one session, in simulated time, with the simulator in memory. Upstream's bucket and the
/// settings are those of a fresh install.
#[tokio::test(start_paused = true)]
async fn three_hundred_descendants_stay_inside_the_budget_and_apart() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    let clock = Arc::new(TokioClock::starting_at(start));
    let sim = Simulator::in_memory(Settings {
        accounts: specs(MANY),
        clock: clock.clone(),
        record_limit: 1_000_000,
        record_bytes: 1 << 30,
        ..Settings::default()
    });
    let mut config = config_for(&sim);
    config.upstream = hawking::config::Upstream {
        crossbar_url: sim.crossbar_url(),
        blackhole_url: sim.blackhole_url(),
        ..Default::default()
    };
    let limits = config.upstream.clone();
    let gateway = Gateway::start(config, sim.seams()).await.unwrap();
    let begun = Instant::now();

    let subscribe = |number: usize| {
        let hub = gateway.hub();
        async move {
            let account = hub.lookup(child(number)).await.expect("it is known");
            let bindings: &[&str] = if number.is_multiple_of(ALL_EVERY) { &ALL_KINDS } else { &["call.*.*"] };
            account.subscribe(subscribe_spec(bindings)).await.expect("a subscription")
        }
    };
    let mut subscriptions = futures_util::future::join_all((0..MANY).map(subscribe)).await;
    let bindings = MANY + MANY / ALL_EVERY * (ALL_KINDS.len() - 1);

    // Bound as fast as the share of the bucket allows, and no faster.
    let is_active = |number| {
        let interest = gateway.hub().get(&child(number)).expect("it has a log").status().interest;
        interest.iter().all(|binding| binding.state == BindingState::Active)
    };
    while !(0..MANY).all(is_active) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "bound in time");
    }
    let per_second = f64::from(limits.rate_per_second) * limits.rate_share;
    let least = (bindings as f64 - f64::from(limits.rate_burst) * limits.rate_share) / per_second;
    assert!(begun.elapsed() >= Duration::from_secs_f64(least.max(0.0)), "{:?}", begun.elapsed());
    let asked: BTreeSet<(String, String)> = sim
        .subscribe_requests()
        .into_iter()
        .take(bindings)
        .map(|asked| (asked.account_id, asked.binding))
        .collect();
    assert_eq!(asked.len(), bindings, "each once, before any is refreshed");

    // Events of all kinds for all, also for those that want none of them.
    let random = SeededRandom::new(11);
    let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for round in 0..400 {
        let number = random.next_u64() as usize % MANY;
        let kind = random.next_u64() as usize % ALL_KINDS.len();
        let tag = format!("{round}");
        let event = one_of_each(sim.account(&child(number)).unwrap(), &tag).swap_remove(kind);
        sim.publish(&event).unwrap();
        if kind == 0 || number.is_multiple_of(ALL_EVERY) {
            expected.entry(number).or_default().push(format!("{tag}-{kind}"));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (number, subscription) in subscriptions.iter_mut().enumerate() {
        let ids = message_ids(subscription, child(number)).await;
        assert_eq!(ids, expected.remove(&number).unwrap_or_default(), "child {number}");
    }

    // Everything is asked for again within the interval, and a little for those that are asked for last.
    let bound = clock.now();
    tokio::time::sleep(limits.refresh_interval.mul_f64(1.1)).await;
    let (mut refreshes, mut replies) = (Vec::new(), Vec::new());
    let mut again: BTreeSet<String> = BTreeSet::new();
    for exchange in sim.record() {
        match exchange.what {
            Happening::Received(Frame::Text(text)) if exchange.at > bound => {
                let mut command: serde_json::Value = serde_json::from_str(&text).unwrap();
                again.insert(command["data"].take().to_string());
                refreshes.push((exchange.at, 1));
            }
            Happening::Sent(Frame::Text(text)) => {
                assert!(!text.contains("rate limiting"), "not once over the limit: {text}");
                if exchange.at > bound {
                    replies.push((exchange.at, text.len()));
                }
            }
            _ => {}
        }
    }
    assert_eq!(again.len(), bindings);
    // A window holds one more than its share at most, and what it began with.
    let tokens = most_in_a_window(&refreshes) as f64;
    assert!(tokens <= per_second * limits.refresh_share * WINDOW.as_secs_f64() + 1.0, "{tokens} tokens");
    let largest = replies.iter().map(|(_, bytes)| *bytes).max().unwrap();
    let bytes = most_in_a_window(&replies);
    assert!(bytes <= limits.refresh_bytes_per_second * WINDOW.as_secs() as usize + largest, "{bytes} bytes");
    gateway.stop().await;
    sim.shutdown().await;
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
