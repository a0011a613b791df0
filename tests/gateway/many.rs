//! Two hundred accounts in one process: bad ones harm none, and they do not all come over Crossbar at once.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, pending};
use hawking::{
    binding::{AccountId, Binding, OptIn},
    cli::serve::Gateway,
    clock::{TokioClock, WallClock},
    config::{self, Config, Credentials},
    hub::UpstreamState,
    proto,
    random::SeededRandom,
    sim::{AccountSpec, CrossbarFault, Event, Happening, Settings, Simulator},
    upstream::{BoxedIo, Dial, Gate, Seams, Transport, TransportError},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::Instant};
use url::Url;

use super::{
    harness::{Consumer, account_id, channel, eventually, settings, soon},
    whole::config as config_for,
};

const ALL: usize = 200;
/// 0 to 4 have bad credentials, 5 to 7 a Crossbar that hangs, 8 and 9 a blackhole that hangs.
const BAD: usize = 10;

fn id(number: usize) -> AccountId {
    account_id(&format!("many{number:028}"))
}

fn specs() -> Vec<AccountSpec> {
    let account = |number| {
        let name = format!("many{number}");
        AccountSpec::new(id(number), &name, &format!("{name}.example.com"), None)
            .with_api_key(&format!("key{number}"))
    };
    (0..ALL).map(account).collect()
}

fn accounts(hanging_crossbar: &Url, hanging_blackhole: &Url) -> Vec<config::Account> {
    let account = |number| config::Account {
        id: id(number),
        crossbar_url: (5..8).contains(&number).then(|| hanging_crossbar.clone()),
        blackhole_url: (8..BAD).contains(&number).then(|| hanging_blackhole.clone()),
        credentials: Credentials::ApiKey {
            key: if number < 5 { "wrong".into() } else { format!("key{number}").into() },
        },
        always_on: vec![Binding::parse("call.*.*", &OptIn::default()).expect("a binding")],
    };
    (0..ALL).map(account).collect()
}

fn live(gateway: &Gateway) -> Vec<bool> {
    let is_live = |number| {
        let account = gateway.hub().get(&id(number)).expect("it is configured");
        account.upstream().0.state == UpstreamState::Live
    };
    (0..ALL).map(is_live).collect()
}

/// All but the bad ones.
fn as_expected() -> Vec<bool> {
    (0..ALL).map(|number| number >= BAD).collect()
}

/// The simulator's Crossbar, and beside it a host that takes requests and answers none. Counts what is under way.
struct Counting {
    inner: Arc<dyn Transport>,
    now: AtomicUsize,
    most: AtomicUsize,
    begun: Mutex<Vec<(Instant, String)>>,
}

impl Counting {
    /// The most requests for paths that contain `part` which began within any second.
    fn most_in_a_second(&self, part: &str) -> usize {
        let begun = self.begun.lock();
        let at: Vec<Instant> =
            begun.iter().filter(|(_, path)| path.contains(part)).map(|(at, _)| *at).collect();
        let within = |from: &Instant| {
            at.iter().filter(|at| (*from..*from + Duration::from_secs(1)).contains(*at)).count()
        };
        at.iter().map(within).max().unwrap_or_default()
    }
}

/// A request that ends, be it because nobody waits for the answer any more.
struct Over<'a>(&'a AtomicUsize);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Transport for Counting {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            if request.uri().host() == Some("hangs.sim") {
                return pending().await;
            }
            self.begun.lock().push((Instant::now(), request.uri().path().to_owned()));
            let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            let _over = Over(&self.now);
            self.inner.send(request).await
        })
    }
}

struct Hanging(Arc<dyn Dial>);

impl Dial for Hanging {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        match host {
            "hangs.sim" => Box::pin(pending()),
            _ => self.0.dial(host, port),
        }
    }
}

/// The same chances in every run; `HAWKING_SEED` for others.
fn seed() -> u64 {
    std::env::var("HAWKING_SEED").map_or(17, |seed| seed.parse().expect("a number"))
}

/// As configured by default, in simulated time: the simulator in memory, a clock that jumps. (The gateway listens, but
/// nobody comes: no socket is used.)
#[tokio::test(start_paused = true)]
async fn bad_accounts_harm_none_and_crossbar_is_not_overrun() {
    let clock = Arc::new(TokioClock::starting_at(
        std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
    ));
    let sim = Simulator::in_memory(Settings {
        accounts: specs(),
        clock: clock.clone(),
        random: Arc::new(SeededRandom::new(seed())),
        ..Settings::default()
    });
    // So slow that requests would pile up.
    sim.crossbar_fault(Some(CrossbarFault { delay: Duration::from_millis(100), ..CrossbarFault::default() }));
    let hanging = |scheme: &str| Url::parse(&format!("{scheme}://hangs.sim/")).unwrap();
    let config = Config {
        upstream: config::Upstream {
            crossbar_url: sim.crossbar_url(),
            blackhole_url: sim.blackhole_url(),
            ..config::Upstream::default()
        },
        accounts: accounts(&hanging("http"), &hanging("ws")),
        ..config_for(&sim)
    };
    let limits = config.upstream.clone();
    let counting = Arc::new(Counting {
        inner: sim.transport(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        begun: Mutex::default(),
    });
    let seams = Seams {
        transport: counting.clone(),
        dial: Arc::new(Hanging(sim.dial())),
        gate: Arc::new(Gate::new(&config.upstream)),
        ..sim.seams()
    };
    let start = Instant::now();
    let gateway = Gateway::start(config, seams).await.unwrap();

    while live(&gateway) != as_expected() {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", live(&gateway));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // Ten minutes on they have been live all the time.
    let opened = sim.connections_total();
    while start.elapsed() < Duration::from_secs(600) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(live(&gateway), as_expected(), "after {:?}", start.elapsed());
    }
    assert_eq!((sim.connections_total(), sim.connections()), (opened, ALL - BAD));

    // Each brings its own.
    for number in BAD..ALL {
        sim.publish(&Event::call(sim.account(&id(number)).unwrap(), "CHANNEL_CREATE", "a@b")).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last_event = |number| {
        let status = gateway.hub().get(&id(number)).unwrap().status();
        status.interest[0].proven.is_some_and(|at| at + Duration::from_secs(2) > clock.now())
    };
    assert!((BAD..ALL).all(last_event), "each log has its event");

    // When all sessions go at once, all come back, with the tokens that they have.
    let logins = counting.begun.lock().iter().filter(|(_, path)| path.ends_with("_auth")).count();
    sim.cut_all();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(live(&gateway), as_expected());
    let again = counting.begun.lock().iter().filter(|(_, path)| path.ends_with("_auth")).count();
    assert!(again - logins <= 5, "only the refused ones try again: {again} after {logins}");

    // One stranger makes all of them ask, but not at once.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = counting.begun.lock().len();
    for _ in 0..2 {
        assert!(gateway.hub().lookup(account_id("stranger000000000000000000000000")).await.is_err());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = counting.begun.lock().len() - before;
    // The regular ones go on meanwhile.
    assert!((ALL - BAD..2 * (ALL - BAD)).contains(&asked), "{asked} listings");

    // What Crossbar had to bear.
    let most = counting.most.load(Ordering::Relaxed);
    let (a_login, anything) = (counting.most_in_a_second("_auth"), counting.most_in_a_second(""));
    assert!(most <= limits.crossbar_in_flight, "{most} at the same time");
    assert!(a_login <= limits.logins_per_second as usize + 1, "{a_login} logins in a second");
    let most = limits.crossbar_requests_per_second as usize + limits.crossbar_in_flight;
    assert!(anything <= most, "{anything} requests in a second");
    // The refused ones are not hammered: no more than once a minute each.
    let refused = sim
        .record()
        .into_iter()
        .filter(|exchange| matches!(&exchange.what, Happening::Crossbar { status: 401, .. }));
    let refused = refused.count();
    let minutes = start.elapsed().as_secs() as usize / 60;
    assert!((5..=5 * (minutes + 1)).contains(&refused), "{refused} in {minutes} minutes");

    gateway.stop().await;
    sim.shutdown().await;
}

/// The same over real sockets, in short: what hangs is a listener that nobody serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_sockets() {
    let sim = Simulator::start(Settings { accounts: specs(), ..Settings::default() }).await.unwrap();
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = |scheme: &str| Url::parse(&format!("{scheme}://{}/", deaf.local_addr().unwrap())).unwrap();
    let mut config = config_for(&sim);
    config.accounts = accounts(&hanging("http"), &hanging("ws"));
    config.grpc = config::Grpc { listen: ([127, 0, 0, 1], 0).into(), ..settings() };
    config.upstream.logins_per_second = 200;
    config.upstream.liveness_timeout = Duration::from_secs(20);
    config.upstream.crossbar_timeout = Duration::from_secs(2);
    let seams = Seams::system(&config.upstream).unwrap();
    let gateway = Gateway::start(config, seams).await.unwrap();
    eventually("the good ones are live", async || live(&gateway) == as_expected()).await;

    let mut client = proto::event_service_client::EventServiceClient::new(channel(gateway.grpc_addr()).await);
    let request = proto::ListAccountsRequest { page_size: 1000, ..Default::default() };
    let listed = client.list_accounts(request).await.unwrap().into_inner().accounts;
    let names: BTreeMap<&str, &str> =
        listed.iter().map(|account| (account.account_id.as_str(), account.name.as_str())).collect();
    assert_eq!(names.len(), ALL);
    assert_eq!(names[id(150).as_str()], "many150", "as Crossbar names it");
    assert_eq!(names[id(3).as_str()], "", "nobody knows");
    let request = proto::SubscribeRequest {
        account_id: id(150).to_string(),
        bindings: vec!["call.*.*".into()],
        ..Default::default()
    };
    let mut consumer = Consumer::begin(&mut client, request).await.unwrap();
    consumer.confirmed().await;
    sim.publish(&Event::call(sim.account(&id(151)).unwrap(), "CHANNEL_CREATE", "other")).unwrap();
    sim.publish(&Event::call(sim.account(&id(150)).unwrap(), "CHANNEL_CREATE", "own")).unwrap();
    assert_eq!(consumer.event().await.call_id, "own");

    soon("the gateway ends", gateway.stop()).await;
    soon("the simulator ends", sim.shutdown()).await;
}
