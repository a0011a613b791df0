//! The upstream side as a whole, under a paused clock: a scripted blackhole at the other end of a pipe, a scripted Crossbar,
//! a log that is only looked at. (`simulator` does the same over real sockets.)

mod care;
mod counted;
mod ending;
mod failing;
mod holding;
mod recordings;
mod refreshing;
mod simulator;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use crate::{
    binding::{Binding, OptIn},
    clock::{TokioClock, WallClock},
    config,
    hub::{self, Control, Interest, UpstreamState},
    random::SeededRandom,
};

use super::{
    Seams, Steering,
    account::Keeper,
    connector::{BoxedIo, Dial},
    crossbar::tests::FakeTransport,
    gate::Gate,
    intake::tests::{ACCOUNT, FakeLog},
    steering,
};

/// Hands the other end of each connection to the test.
struct PipeDial {
    ends: mpsc::UnboundedSender<DuplexStream>,
    refusing: Arc<AtomicBool>,
}

impl Dial for PipeDial {
    fn dial<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<BoxedIo>> {
        Box::pin(async move {
            // Hardly room for one command: a peer that does not read is noticed at once.
            let (ours, theirs) = tokio::io::duplex(256);
            self.ends.send(theirs).unwrap();
            if self.refusing.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(ours) as BoxedIo)
        })
    }
}

/// An account loop and everything around it.
struct Bench {
    start: SystemTime,
    clock: Arc<TokioClock>,
    dialled: mpsc::UnboundedReceiver<DuplexStream>,
    refusing: Arc<AtomicBool>,
    transport: Arc<FakeTransport>,
    log: Arc<FakeLog>,
    interest: watch::Sender<Arc<Interest>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

const TOKEN: &str = "SECRET-TOKEN";

fn login() -> (u16, String) {
    (201, json!({ "auth_token": TOKEN, "data": { "account_id": ACCOUNT }, "status": "success" }).to_string())
}

fn facts() -> (u16, String) {
    (200, json!({ "data": { "name": "acme", "realm": "acme.example.com" } }).to_string())
}

fn interest(bindings: &[&str]) -> Arc<Interest> {
    let bindings = bindings.iter().map(|text| Binding::parse(text, &OptIn::default()).unwrap()).collect();
    Arc::new(Interest { bindings })
}

/// An event's frame as upstream sends it for one of the session's bindings.
fn event(name: &str, call_id: &str, message_id: &str, subscription_key: &str) -> String {
    json!({
        "action": "event",
        "subscribed_key": "call.*.*",
        "subscription_key": subscription_key,
        "name": name,
        "routing_key": format!("call.{ACCOUNT}.{name}.{call_id}"),
        "data": { "call_id": call_id, "msg_id": message_id },
    })
    .to_string()
}

impl Bench {
    /// Starts; Crossbar lets in whoever asks.
    fn start(bindings: &[&str]) -> Self {
        let answers: Vec<_> =
            [login(), facts()].into_iter().chain((0..500).map(|_| login())).map(Ok).collect();
        Self::start_with(bindings, FakeTransport::answering(answers), config::Upstream::default())
    }

    fn start_with(bindings: &[&str], transport: Arc<FakeTransport>, settings: config::Upstream) -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = Arc::new(TokioClock::starting_at(start));
        let (ends, dialled) = mpsc::unbounded_channel();
        let refusing = Arc::new(AtomicBool::new(false));
        let log = Arc::new(FakeLog::default());
        let (interest, wanted) = watch::channel(interest(bindings));
        let stop = CancellationToken::new();
        let (_, mut steered) = steering();
        let seams = Seams {
            dial: Arc::new(PipeDial { ends, refusing: refusing.clone() }),
            transport: transport.clone(),
            clock: clock.clone(),
            random: Arc::new(SeededRandom::new(7)),
            gate: Arc::new(Gate::new(&settings)),
            threads: 0,
            metrics: Arc::default(),
        };
        let account = config::Account {
            id: ACCOUNT.parse().unwrap(),
            crossbar_url: None,
            blackhole_url: None,
            credentials: config::Credentials::ApiKey { key: "SECRET-KEY".into() },
            always_on: Vec::new(),
        };
        let task = tokio::spawn({
            let (log, stop) = (log.clone(), stop.clone());
            let settings = Arc::new(settings);
            async move { Keeper::new(settings, account, log, seams).run(wanted, &mut steered, &stop).await }
        });
        Self { start, clock, dialled, refusing, transport, log, interest, stop, task }
    }

    /// The next connection, as a raw stream.
    async fn dialled(&mut self) -> DuplexStream {
        self.dialled.recv().await.unwrap()
    }

    /// The next session.
    async fn accept(&mut self) -> Peer {
        Peer(accept_async(self.dialled().await).await.unwrap())
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn seconds(&self) -> f64 {
        self.now().duration_since(self.start).unwrap().as_secs_f64()
    }

    /// The control records so far, in short.
    fn story(&self) -> Vec<String> {
        let short = |control: Control| match control {
            Control::Upstream(change) => format!("{:?}", change.state),
            Control::Confirmed { binding } => format!("+{binding}"),
            Control::Dropped { binding } => format!("-{binding}"),
            Control::Refused { binding, .. } => format!("!{binding}"),
            Control::Lost { .. } => "Lost".to_owned(),
        };
        self.log.controls().into_iter().map(short).collect()
    }

    fn state(&self) -> (UpstreamState, String) {
        let change = |control: &Control| match control {
            Control::Upstream(change) => Some((change.state, change.detail.to_string())),
            _ => None,
        };
        self.log.controls().iter().rev().find_map(change).unwrap()
    }

    /// When the latest loss began.
    fn lost_since(&self) -> SystemTime {
        let since = |control: &Control| match control {
            Control::Lost { since, .. } => Some(*since),
            _ => None,
        };
        self.log.controls().iter().rev().find_map(since).unwrap()
    }

    /// Lets everything happen that is due now.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A command's request id and its binding.
fn command(text: &str) -> (String, String) {
    let command: Value = serde_json::from_str(text).unwrap();
    assert_eq!(command["action"], "subscribe", "nothing else is ever sent");
    assert_eq!(command["auth_token"], TOKEN, "with every request");
    assert_eq!(command["data"]["account_id"], ACCOUNT);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&command["request_id"]), text(&command["data"]["binding"]))
}

/// Blackhole's end of a session.
struct Peer(WebSocketStream<DuplexStream>);

impl Peer {
    /// The next frame; pings are answered underneath and passed on.
    async fn message(&mut self) -> Message {
        self.0.next().await.unwrap().unwrap()
    }

    /// The next command: its request id and its binding. What else a command must have is checked on the way.
    async fn command(&mut self) -> (String, String) {
        loop {
            if let Message::Text(text) = self.message().await {
                return command(&text);
            }
        }
    }

    async fn send(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    async fn success(&mut self, request_id: &str) {
        let reply = json!({
            "action": "reply", "request_id": request_id, "status": "success",
            "data": { "subscribed": ["display text"] },
        });
        self.send(reply.to_string()).await;
    }

    async fn error(&mut self, request_id: &str, text: &str) {
        let reply = json!({
            "action": "reply", "request_id": request_id, "status": "error", "data": { "errors": [text] },
        });
        self.send(reply.to_string()).await;
    }

    /// Answers so many commands and tells their bindings.
    async fn confirm(&mut self, count: usize) -> Vec<String> {
        let mut bindings = Vec::new();
        for _ in 0..count {
            let (id, binding) = self.command().await;
            self.success(&id).await;
            bindings.push(binding);
        }
        bindings
    }

    /// Serves for so long: answers pings, and confirms whatever is asked for.
    async fn serve(&mut self, time: Duration) -> Served {
        let end = Instant::now() + time;
        let mut served = Served::default();
        while let Ok(message) = tokio::time::timeout_at(end, self.0.next()).await {
            match message.unwrap().unwrap() {
                Message::Text(text) => {
                    let (id, binding) = command(&text);
                    self.success(&id).await;
                    served.commands.push(binding);
                }
                Message::Ping(_) => served.pings += 1,
                other => panic!("{other:?}"),
            }
        }
        served
    }
}

/// What came while a peer served.
#[derive(Debug, Default)]
struct Served {
    pings: usize,
    /// The bindings, in order.
    commands: Vec<String>,
}
