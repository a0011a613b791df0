//! The same over real sockets: the simulator at one end, a subscription of the hub at the other.

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::{
    clock::SystemClock,
    config::{AccountName, Credentials, HashMethod},
    hub::{
        self, BindingReport, BindingState, EventFilter, GapReason, Hub, Item, OverflowPolicy, PayloadFormat,
        ReplayMissPolicy, Start, SubscribeSpec, Subscription,
    },
    random::{Random, SystemRandom},
    sim::{Event, Simulator},
};

use super::*;

/// What every wait in here ends with at the latest.
const LONG: Duration = Duration::from_secs(10);

struct Gateway {
    account: Arc<hub::Account>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Gateway {
    fn start(sim: &Simulator, credentials: Credentials, change: impl FnOnce(&mut config::Upstream)) -> Self {
        let mut settings = config::Upstream {
            crossbar_url: sim.crossbar_url(),
            blackhole_url: sim.blackhole_url(),
            ping_interval: Duration::from_millis(400),
            liveness_timeout: Duration::from_secs(2),
            backoff_initial: Duration::from_millis(50),
            ..config::Upstream::default()
        };
        change(&mut settings);
        let random = SystemRandom;
        let hub =
            Arc::new(Hub::new(config::Hub::default(), Arc::new(SystemClock), move || random.next_u64()));
        let id = ACCOUNT.parse().unwrap();
        let account = config::Account {
            id,
            crossbar_url: None,
            blackhole_url: None,
            credentials,
            always_on: Vec::new(),
        };
        let stop = CancellationToken::new();
        let seams = Seams::system(&settings).unwrap();
        let account_of_hub = hub.add(id, id, Vec::new());
        let task = tokio::spawn(crate::upstream::run(Arc::new(settings), account, hub, seams, stop.clone()));
        Self { account: account_of_hub, stop, task }
    }

    async fn subscribe(&self, bindings: &[&str]) -> Consumer {
        let bindings: BTreeSet<Binding> = interest(bindings).bindings.iter().cloned().collect();
        let spec = SubscribeSpec {
            bindings: bindings.into_iter().collect(),
            filter: EventFilter::default(),
            format: PayloadFormat::Json,
            start: Start::Live,
            miss_policy: ReplayMissPolicy::default(),
            overflow_policy: OverflowPolicy::default(),
            heartbeat_interval: Duration::from_secs(60),
            require_all_bindings: false,
        };
        Consumer(self.account.subscribe(spec).await.unwrap())
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LONG, self.task).await.unwrap().unwrap();
    }
}

struct Consumer(Subscription);

impl Consumer {
    async fn next(&mut self) -> Item {
        tokio::time::timeout(LONG, self.0.next()).await.expect("in time").expect("it does not end")
    }

    /// What comes until all bindings are active.
    async fn until_active(&mut self) -> Vec<Item> {
        let active = |bindings: &[BindingReport]| bindings.iter().all(|b| b.state == BindingState::Active);
        let mut items = Vec::new();
        loop {
            items.push(self.next().await);
            if let Some(Item::Upstream { change, bindings, .. }) = items.last()
                && change.state == UpstreamState::Live
                && active(bindings)
            {
                return items;
            }
        }
    }

    /// The frames of so many events, as text. Nothing but events and states may come.
    async fn events(&mut self, expected: u32) -> String {
        let (mut seen, mut text) = (0, String::new());
        while seen < expected {
            match self.next().await {
                Item::Events { count, frames, .. } => {
                    seen += count;
                    text.push_str(&String::from_utf8_lossy(&frames));
                }
                Item::Upstream { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, expected);
        text
    }
}

fn user(method: HashMethod) -> Credentials {
    Credentials::User {
        username: "Demo".into(),
        password: "hawking".into(),
        method,
        realm: AccountName::Realm("wefwefwefwef.2600hz.com".into()),
    }
}

async fn simulator() -> Simulator {
    Simulator::start(crate::sim::Settings::default()).await.unwrap()
}

#[tokio::test]
async fn logs_in_binds_and_delivers_each_event_once() {
    let sim = simulator().await;
    let spec = sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone();
    let credentials =
        [user(HashMethod::Md5), user(HashMethod::Sha), Credentials::ApiKey { key: "apikey-acct2".into() }];
    for credentials in credentials {
        let gateway = Gateway::start(&sim, credentials, |_| ());
        let mut consumer =
            gateway.subscribe(&["call.*.*", "object.*.*", "conference.event.*.*", "presence.dialog.*"]).await;
        if consumer.0.upstream().0.state != UpstreamState::Live {
            consumer.until_active().await;
        }
        sim.publish(&Event::call(&spec, "CHANNEL_CREATE", "3a9b.7c@192.0.2.1")).unwrap();
        sim.publish(&Event::document(&spec, "doc_created", "user", "u1").with("Msg-ID", "1")).unwrap();
        sim.publish(&Event::document(&spec, "doc_created", "vmbox", "v1").with("Msg-ID", "1")).unwrap();
        sim.publish(&Event::conference(&spec, "add-member", "conf123", "a.b@c")).unwrap();
        sim.publish(&Event::presence_dialog(&spec, "1001", "abc1", "confirmed")).unwrap();
        let text = consumer.events(5).await;
        for part in ["CHANNEL_CREATE", "3a9b.7c@192.0.2.1", "doc_created", "add-member", "presence"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        gateway.stop().await;
    }
    let requests = sim.subscribe_requests();
    assert_eq!(requests.len(), 3 * 4, "{requests:?}");
    assert!(requests.iter().all(|request| request.action == "subscribe"));
    assert_eq!(sim.connections_total(), 3);
    assert_eq!(sim.connections(), 0);
    sim.shutdown().await;
}

#[tokio::test]
async fn a_cut_is_one_gap_and_the_session_comes_back() {
    let sim = simulator().await;
    let spec = sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone();
    let gateway = Gateway::start(&sim, user(HashMethod::Md5), |_| ());
    let mut consumer = gateway.subscribe(&["call.*.*"]).await;
    if consumer.0.upstream().0.state != UpstreamState::Live {
        consumer.until_active().await;
    }
    for _ in 0..3 {
        sim.publish(&Event::call(&spec, "CHANNEL_CREATE", "x")).unwrap();
        consumer.events(1).await;
        let cut = SystemTime::now();
        assert_eq!(sim.cut_all(), 1);
        let items = consumer.until_active().await;
        let gaps: Vec<&hub::Gap> = items
            .iter()
            .filter_map(|item| match item {
                Item::Gap(gap) => Some(gap),
                _ => None,
            })
            .collect();
        let [opened, closed] = gaps[..] else { panic!("{gaps:?}") };
        assert_eq!((opened.id, opened.reason), (closed.id, GapReason::UpstreamDisconnected));
        let start = opened.start_time.unwrap();
        assert!(start <= cut, "the gap contains the loss");
        assert!(cut.duration_since(start).unwrap() <= Duration::from_millis(400));
        assert!(closed.end_time.unwrap() >= cut);
    }
    assert_eq!(sim.connections_total(), 4);
    gateway.stop().await;
    sim.shutdown().await;
}

#[tokio::test]
async fn wss_by_a_private_ca_and_another_name() {
    let sim = simulator().await;
    let target = sim.blackhole_url();
    let target = (target.host_str().unwrap().to_owned(), target.port().unwrap());

    // A TLS terminator before blackhole.
    let ca = rcgen::generate_simple_self_signed(vec!["blackhole.internal".into()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ca.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(ca.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![ca.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("wss://{}/", listener.local_addr().unwrap())).unwrap();
    let terminator = tokio::spawn(async move {
        loop {
            let Ok(mut client) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            let mut server = TcpStream::connect((target.0.as_str(), target.1)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });

    let tls = |name: Option<&str>| config::UpstreamTls {
        ca_file: Some(file.path().to_owned()),
        only_ca_file: true,
        server_name: name.map(str::to_owned),
    };
    // By its address the certificate is not accepted.
    let gateway = Gateway::start(&sim, user(HashMethod::Md5), |settings| {
        settings.blackhole_url = url.clone();
        settings.tls = tls(None);
    });
    let mut consumer = gateway.subscribe(&["call.*.*"]).await;
    while !consumer.0.upstream().0.detail.starts_with("the TLS handshake with blackhole failed") {
        consumer.next().await;
    }
    gateway.stop().await;
    assert_eq!(sim.connections_total(), 0);

    let gateway = Gateway::start(&sim, user(HashMethod::Md5), |settings| {
        settings.blackhole_url = url.clone();
        settings.tls = tls(Some("blackhole.internal"));
    });
    let mut consumer = gateway.subscribe(&["object.doc_created.user"]).await;
    if consumer.0.upstream().0.state != UpstreamState::Live {
        consumer.until_active().await;
    }
    let spec = sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone();
    sim.publish(&Event::document(&spec, "doc_created", "user", "u1")).unwrap();
    assert!(consumer.events(1).await.contains("doc_created"));
    gateway.stop().await;
    terminator.abort();
    sim.shutdown().await;
}

#[tokio::test]
async fn wrong_credentials_are_said_to_be_refused() {
    let sim = simulator().await;
    let gateway = Gateway::start(&sim, Credentials::ApiKey { key: "wrong".into() }, |_| ());
    let mut consumer = gateway.subscribe(&["call.*.*"]).await;
    while !consumer.0.upstream().0.detail.starts_with("Crossbar refuses the credentials (401)") {
        consumer.next().await;
    }
    gateway.stop().await;
    sim.shutdown().await;
}
