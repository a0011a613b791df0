//! Accounts that are not configured themselves: served over the session of the nearest configured one above them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hawking::{
    binding::AccountId,
    cli::serve::Gateway,
    config::{Config, Credentials},
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    sim::{AccountSpec, Event, Settings, Simulator, recorded_accounts},
    upstream::{Seams, Transport, TransportError},
};
use parking_lot::Mutex;
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

pub fn child(number: usize) -> AccountId {
    account_id(&format!("child{number:027}"))
}

/// The recorded accounts, and below the one of the recordings so many more, every third of them one level down.
pub fn specs(children: usize) -> Vec<AccountSpec> {
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

pub const ALL_KINDS: [&str; 7] = [
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
pub fn one_of_each(account: &AccountSpec, tag: &str) -> Vec<Event> {
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

/// Crossbar is not asked again before that. Long enough for a hundred look-ups on a machine that has other things to do, too.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(1);

#[tokio::test]
async fn who_is_new_is_found_when_somebody_asks_and_strangers_cost_little() {
    let family = Family::start(3, &[child(2)], |config| {
        config.hub.lookup_interval = LOOKUP_INTERVAL;
    })
    .await;
    let mut client = family.client().await;
    let mut consumer = Consumer::begin(&mut client, request(child(1), &["call.*.*"])).await.unwrap();
    consumer.confirmed().await;
    let listings = family.crossbar.listings();

    // A hundred strangers, in two crowds: none is served, and Crossbar is asked once for all of them. It was asked at the
    // start, and that interval is not the one in question.
    tokio::time::sleep(LOOKUP_INTERVAL).await;
    let begun = Instant::now();
    for _ in 0..2 {
        let strangers = (0..50).map(|number| {
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
    }
    // Once more for each interval that the hundred have taken: none, unless the machine is very busy.
    let intervals = begun.elapsed().as_millis() / LOOKUP_INTERVAL.as_millis();
    let asked = family.crossbar.listings() - listings;
    assert!(asked >= 1 && asked as u128 <= 1 + intervals, "asked {asked} times in {:?}", begun.elapsed());
    let listings = family.crossbar.listings();

    // One is made in Kazoo; who asks for it finds it as soon as Crossbar may be asked again, without waiting for the next
    // regular listing.
    family.crossbar.hidden.lock().clear();
    let mut new = soon("it is found", async {
        loop {
            match Consumer::begin(&mut client, request(child(2), &["call.*.*"])).await {
                Ok(consumer) => return consumer,
                Err(status) => assert_eq!(&*reason(&status), "ACCOUNT_NOT_CONFIGURED", "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(family.crossbar.listings(), listings + 1, "asked once for all attempts");
    new.confirmed().await;
    family.sim.publish(&Event::call(family.spec(child(2)), "CHANNEL_CREATE", "new")).unwrap();
    assert_eq!(new.event().await.call_id, "new");
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
