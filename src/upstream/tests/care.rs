//! The whole of the upstream side against the simulator in memory, under a paused clock, with a hub and a consumer: what a
//! consumer is given and told when upstream does what it can do.

mod ended;
mod hour;
mod month;
mod rotating;
mod silent;

use std::{collections::BTreeMap, ops::Range, sync::atomic::AtomicU64};

use bytes::Buf;
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message as _;

use crate::{
    binding::{AccountId, Flavour},
    clock::SharedClock,
    config::Credentials,
    hub::{
        EventFilter, Gap, GapReason, Hub, Item, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start,
        SubscribeSpec,
    },
    proto,
    random::Random,
    sim::{self, AccountSpec, Event, Frame, Happening, Simulator},
    upstream::{Order, connector::NotResolved, intake::Intake},
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().try_into().unwrap()
}

/// Names that can be gone; counts who asks for one.
struct Names {
    dial: Arc<dyn Dial>,
    gone: Arc<AtomicBool>,
    dialled: Arc<AtomicU64>,
}

impl Dial for Names {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        match self.gone.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(io::Error::new(io::ErrorKind::NotFound, NotResolved)) }),
            false => self.dial.dial(host, port),
        }
    }
}

/// A simulator, an account loop, a hub, and one consumer that reads everything at once.
struct Care {
    sim: Simulator,
    /// Hawking's own clock.
    clock: SharedClock,
    account: Arc<hub::Account>,
    intake: Arc<Intake>,
    /// The hub itself, for as long as the test runs.
    _hub: Arc<Hub>,
    steering: Steering,
    seen: Arc<Mutex<Vec<Item>>>,
    /// While it is set, blackhole's name has no address.
    nameless: Arc<AtomicBool>,
    /// How often a connection to blackhole was asked for.
    dialled: Arc<AtomicU64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    reader: JoinHandle<()>,
    published: u64,
}

/// How it is set up.
struct Setup {
    sim: sim::Settings,
    upstream: config::Upstream,
    hub: config::Hub,
    /// How far the servers' clock is ahead of ours, in seconds.
    ahead: i64,
}

impl Setup {
    fn new(flavour: Flavour) -> Self {
        Self::starting(flavour, at("2026-11-24T05:00:00Z"), 0)
    }

    /// With hawking's clock at `start`, and the servers' ahead of it by so many seconds.
    fn starting(flavour: Flavour, start: SystemTime, ahead: i64) -> Self {
        let servers = match u64::try_from(ahead) {
            Ok(ahead) => start + Duration::from_secs(ahead),
            Err(_) => start - Duration::from_secs(ahead.unsigned_abs()),
        };
        let sim = sim::Settings {
            flavour,
            clock: Arc::new(TokioClock::starting_at(servers)),
            random: Arc::new(SeededRandom::new(5)),
            ..sim::Settings::default()
        };
        Self { sim, upstream: config::Upstream::default(), hub: config::Hub::default(), ahead }
    }

    async fn start(self, bindings: &[&str]) -> Care {
        let ours = self.sim.clock.now() - Duration::from_secs(self.ahead.max(0).unsigned_abs())
            + Duration::from_secs(self.ahead.min(0).unsigned_abs());
        let sim = Simulator::in_memory(self.sim);
        let clock: SharedClock = Arc::new(TokioClock::starting_at(ours));
        let nameless = Arc::<AtomicBool>::default();
        let dialled = Arc::<AtomicU64>::default();
        let dial = Arc::new(Names { dial: sim.dial(), gone: nameless.clone(), dialled: dialled.clone() });
        let random = Arc::new(SeededRandom::new(9));
        let seams = Seams { clock: clock.clone(), random, dial, ..sim.seams() };
        let settings = config::Upstream {
            crossbar_url: sim.crossbar_url(),
            blackhole_url: sim.blackhole_url(),
            ..self.upstream
        };
        let random = SeededRandom::new(1);
        let hub = Arc::new(Hub::new(self.hub, clock.clone(), move || random.next_u64()));
        let id: AccountId = ACCOUNT.parse().unwrap();
        let account = config::Account {
            id,
            crossbar_url: None,
            blackhole_url: None,
            credentials: Credentials::ApiKey { key: "apikey-acct2".into() },
            always_on: Vec::new(),
        };
        let log = hub.add(id, id, Vec::new());
        let stop = CancellationToken::new();
        let (steering, mut steered) = steering();
        let keeper = Keeper::new(Arc::new(settings), account, log.clone(), seams);
        let intake = keeper.intake();
        let task = tokio::spawn({
            let (stop, interest) = (stop.clone(), log.interest());
            async move { keeper.run(interest, &mut steered, &stop).await }
        });
        while log.upstream().0.state != UpstreamState::Live {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let spec = SubscribeSpec {
            bindings: interest(bindings).bindings.iter().cloned().collect(),
            filter: EventFilter::default(),
            format: PayloadFormat::Json,
            start: Start::Live,
            miss_policy: ReplayMissPolicy::default(),
            overflow_policy: OverflowPolicy::default(),
            heartbeat_interval: Duration::from_secs(3600),
            require_all_bindings: true,
        };
        let mut subscription = log.subscribe(spec).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Some(item) = subscription.next().await {
                    seen.lock().push(item);
                }
            }
        });
        Care {
            sim,
            clock,
            account: log,
            intake,
            _hub: hub,
            steering,
            seen,
            nameless,
            dialled,
            stop,
            task,
            reader,
            published: 0,
        }
    }
}

impl Care {
    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn spec(&self) -> AccountSpec {
        self.sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone()
    }

    /// Something happens on a call; calls are numbered.
    fn call(&mut self) {
        let event = Event::call(&self.spec(), "CHANNEL_CREATE", &format!("n{}", self.published));
        self.published += 1;
        self.sim.publish(&event).unwrap();
    }

    /// A document of a type is made.
    fn document(&mut self, doc_type: &str) -> String {
        let id = format!("{doc_type}-{}", self.published);
        self.published += 1;
        self.sim.publish(&Event::document(&self.spec(), "doc_created", doc_type, &id)).unwrap();
        id
    }

    async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn live(&self) {
        let give_up = Instant::now() + 3600 * SECOND;
        while self.account.upstream().0.state != UpstreamState::Live {
            assert!(Instant::now() < give_up, "{:?}", self.account.upstream().0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The events that the consumer was given, as JSON texts with their places.
    fn events(&self) -> Vec<(u64, String)> {
        let mut events = Vec::new();
        for item in self.seen.lock().iter() {
            let Item::Events { frames, .. } = item else { continue };
            let mut frames = frames.clone();
            while frames.has_remaining() {
                frames.advance(1);
                let length = frames.get_u32() as usize;
                let message = proto::SubscribeResponse::decode(frames.split_to(length)).unwrap();
                let Some(proto::subscribe_response::Kind::Event(event)) = message.kind else { panic!() };
                events.push((event.cursor.unwrap().sequence, event.routing_key));
            }
        }
        events
    }

    /// How often each of the numbered calls came.
    fn calls(&self) -> BTreeMap<u64, usize> {
        let mut calls = BTreeMap::new();
        for (_, key) in self.events() {
            let id = key.rsplit('.').next().unwrap().trim_start_matches('n');
            *calls.entry(id.parse().unwrap()).or_default() += 1;
        }
        calls
    }

    /// Fails unless each of these calls came, once.
    fn assert_once(&self, numbers: Range<u64>) {
        let calls = self.calls();
        for number in numbers {
            assert_eq!(calls.get(&number), Some(&1), "call {number}");
        }
    }

    /// What the consumer was told of gaps.
    fn gaps(&self) -> Vec<Gap> {
        let gap = |item: &Item| match item {
            Item::Gap(gap) => Some(gap.clone()),
            _ => None,
        };
        self.seen.lock().iter().filter_map(gap).collect()
    }

    /// The one gap that there was, opened for all its bindings and closed for each: its reason, its start and its last end.
    fn one_gap(&self) -> (GapReason, SystemTime, SystemTime) {
        let gaps = self.gaps();
        let (opened, closed) = gaps.split_first().expect("a gap");
        assert!(opened.before.is_none() && closed.iter().all(|gap| gap.before.is_some()), "{gaps:#?}");
        assert!(closed.iter().all(|gap| gap.id == opened.id), "{gaps:#?}");
        let mut over: Vec<_> = closed.iter().flat_map(|gap| gap.bindings.clone()).collect();
        over.sort();
        assert_eq!(over, opened.bindings, "{gaps:#?}");
        let until = closed.iter().filter_map(|gap| gap.end_time).max();
        (opened.reason, opened.start_time.unwrap(), until.unwrap())
    }

    /// Forgets what the consumer was given.
    fn forget(&self) {
        self.seen.lock().clear();
    }

    /// The connection of the session that is the newest.
    fn newest_session(&self) -> u64 {
        let opened = |exchange: &sim::Exchange| matches!(exchange.what, Happening::Opened { .. });
        self.sim
            .record()
            .iter()
            .filter(|exchange| opened(exchange))
            .map(|exchange| exchange.connection)
            .max()
            .unwrap()
    }

    /// What was subscribed, session by session, in order.
    fn subscribes(&self) -> Vec<(u64, String)> {
        let subscribe = |exchange: sim::Exchange| match exchange.what {
            Happening::Received(Frame::Text(text)) => {
                let frame: Value = serde_json::from_str(&text).unwrap();
                let data = &frame["data"];
                let binding = data["binding"].as_str().map(str::to_owned);
                Some((exchange.connection, binding.unwrap_or_else(|| data["bindings"].to_string())))
            }
            _ => None,
        };
        self.sim.record().into_iter().filter_map(subscribe).collect()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.reader.abort();
        // A frozen session knows nothing of its end.
        self.sim.thaw(None);
        tokio::time::sleep(SECOND).await;
        assert_eq!(self.sim.connections(), 0);
        self.sim.shutdown().await;
    }
}
