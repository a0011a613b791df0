//! The whole way: the simulated Kazoo, hawking's session to it, the hub, gRPC.

use std::time::Duration;

use hawking::{
    binding::{Kind, OptIn},
    cli::serve::Gateway,
    config::{self, AccountName, Config, Credentials, HashMethod},
    proto::{self, event_service_client::EventServiceClient},
    sim::{AccountSpec, Event, Frame, Happening, Settings, Simulator},
    upstream::Seams,
};
use serde_json::value::RawValue;
use tonic::transport::Channel;

use super::harness::{ACCOUNT, Consumer, account_id, channel, draining_within, settings, soon};

/// Simulator and gateway, both in this process, over real sockets.
pub struct Whole {
    pub sim: Simulator,
    pub gateway: Gateway,
}

impl Whole {
    pub async fn start() -> Self {
        Self::with(Settings::default(), |_| {}).await
    }

    /// `change` gets the configuration before anything is started.
    pub async fn with(settings: Settings, change: impl FnOnce(&mut Config)) -> Self {
        let sim = Simulator::start(settings).await.expect("free ports");
        let mut config = config(&sim);
        change(&mut config);

        let seams = Seams::system(&config.upstream).expect("an HTTP client");
        let gateway = Gateway::start(config, seams).await.expect("a free port");
        Self { sim, gateway }
    }

    pub async fn client(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(channel(self.gateway.grpc_addr()).await)
    }

    /// Begins a stream, and waits until upstream has confirmed all of its bindings.
    pub async fn subscribe(&self, request: proto::SubscribeRequest) -> Consumer {
        let mut consumer = Consumer::begin(&mut self.client().await, request).await.expect("a good request");
        consumer.confirmed().await;
        consumer
    }

    /// The account of the recordings.
    pub fn account(&self) -> &AccountSpec {
        self.sim.account(&account_id(ACCOUNT)).expect("it has the recorded accounts")
    }

    pub fn publish(&self, event: &Event) {
        self.sim.publish(event).expect("a whole event");
    }

    /// `data` of each frame that blackhole has sent, as it was sent.
    pub fn sent(&self) -> Vec<SentEvent> {
        let events = self.sim.record().into_iter().filter_map(|exchange| match exchange.what {
            Happening::Sent(Frame::Text(text)) => SentEvent::read(&text),
            _ => None,
        });
        events.collect()
    }

    /// Ends all in order.
    pub async fn stop(self) {
        soon("the gateway ends", self.gateway.stop()).await;
        soon("the simulator ends", self.sim.shutdown()).await;
    }
}

/// As one would configure it for this simulator, but with short intervals.
pub fn config(sim: &Simulator) -> Config {
    Config {
        upstream: config::Upstream {
            crossbar_url: sim.crossbar_url(),
            blackhole_url: sim.blackhole_url(),
            ping_interval: Duration::from_millis(200),
            liveness_timeout: Duration::from_secs(5),
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_millis(200),
            opt_in: OptIn([Kind::ConferenceCommand].into()),
            ..config::Upstream::default()
        },
        accounts: vec![config::Account {
            id: account_id(ACCOUNT),
            crossbar_url: None,
            blackhole_url: None,
            credentials: Credentials::User {
                username: "demo".into(),
                password: "hawking".into(),
                method: HashMethod::Md5,
                realm: AccountName::Realm("wefwefwefwef.2600hz.com".into()),
            },
            always_on: Vec::new(),
        }],
        hub: config::Hub::default(),
        grpc: config::Grpc { listen: ([127, 0, 0, 1], 0).into(), ..settings() },
        admin: config::Admin {
            grpc_listen: ([127, 0, 0, 1], 0).into(),
            http_listen: Some(([127, 0, 0, 1], 0).into()),
        },
        telemetry: config::Telemetry::default(),
        reload: config::Reload::default(),
        shutdown: draining_within(Duration::from_secs(10)),
    }
}

/// An event frame, as blackhole sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentEvent {
    /// All of it.
    pub frame: String,
    pub routing_key: String,
    /// The payload, byte for byte.
    pub data: String,
}

impl SentEvent {
    /// `None` if the frame is no event.
    pub fn read(frame: &str) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Envelope<'a> {
            action: String,
            routing_key: String,
            #[serde(borrow)]
            data: &'a RawValue,
        }
        let envelope: Envelope<'_> = serde_json::from_str(frame).ok()?;
        (envelope.action == "event").then(|| Self {
            frame: frame.to_owned(),
            routing_key: envelope.routing_key,
            data: envelope.data.get().to_owned(),
        })
    }

    pub fn field(&self, name: &str) -> String {
        let data: serde_json::Value = serde_json::from_str(&self.data).expect("JSON");
        data[name].as_str().unwrap_or_default().to_owned()
    }
}
