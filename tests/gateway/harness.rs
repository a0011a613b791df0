//! What the tests stand on: a gRPC server over a hub that is fed by hand, and consumers that never wait for ever.
//!
//! Sockets are real and on port 0, intervals are short and configured; so the clock is never paused here.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use hawking::{
    binding::{AccountId, EventKey, Flavour, OptIn, cover},
    clock::SystemClock,
    config, grpc,
    hub::{self, Control, EventTexts, IncomingEvent, UpstreamChange, UpstreamState},
    ops::drain::{Drain, Reason},
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    random::SeededRandom,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, Status, Streaming, transport::Channel};

/// The account of the recordings.
pub const ACCOUNT: &str = "account0000000000000000000000002";
/// One that is not served.
pub const STRANGER: &str = "account0000000000000000000000009";
/// Nothing here takes anywhere near so long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until something holds that nothing announces.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn account_id(text: &str) -> AccountId {
    text.parse().expect("an account id")
}

/// Settings for tests: heartbeats as short as wanted.
pub fn settings() -> config::Grpc {
    config::Grpc { heartbeat_min: Duration::from_millis(10), ..config::Grpc::default() }
}

/// Nobody has to notice first; streams are given so long to end.
pub fn draining_within(drain_timeout: Duration) -> config::Shutdown {
    config::Shutdown { endpoint_wait: Duration::ZERO, drain_timeout, ..config::Shutdown::default() }
}

/// A gRPC server over a hub, and in place of an upstream somebody who confirms whatever is wanted.
pub struct Direct {
    pub hub: Arc<hub::Hub>,
    pub account: Arc<hub::Account>,
    pub addr: SocketAddr,
    pub drain: Drain,
    pub streams: Arc<grpc::streams::Streams>,
    server: Option<JoinHandle<()>>,
    upstream: JoinHandle<()>,
}

impl Direct {
    pub async fn start() -> Self {
        Self::with(settings(), config::Hub::default(), Duration::from_secs(10)).await
    }

    /// Drains at once; streams are given `drain_timeout` to end.
    pub async fn with(settings: config::Grpc, hub_settings: config::Hub, drain_timeout: Duration) -> Self {
        Self::draining(settings, hub_settings, draining_within(drain_timeout)).await
    }

    pub async fn draining(
        settings: config::Grpc,
        hub_settings: config::Hub,
        shutdown: config::Shutdown,
    ) -> Self {
        let clock = Arc::new(SystemClock);
        let epochs = AtomicU64::new(0xe70c4);
        let hub = hub::Hub::new(hub_settings, clock.clone(), move || epochs.fetch_add(1, Ordering::Relaxed));
        let hub = Arc::new(hub);
        let account = hub.add(account_id(ACCOUNT), account_id(ACCOUNT), Vec::new());
        let upstream = tokio::spawn(confirm_all(account.clone()));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let drain = Drain::new(shutdown);
        let streams = Arc::<grpc::streams::Streams>::default();
        let server = grpc::Server {
            settings: settings.into(),
            hub: hub.clone(),
            opt_in: OptIn::default(),
            clock,
            random: Arc::new(SeededRandom::new(1)),
            drain: drain.clone(),
            streams: streams.clone(),
            metrics: Arc::default(),
        };
        let serving = server.serve(listener);
        let server = tokio::spawn(async move { serving.await.expect("the services are set up") });
        Self { hub, account, addr, drain, streams, server: Some(server), upstream }
    }

    pub async fn client(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(channel(self.addr).await)
    }

    /// Begins a stream and takes its first message.
    pub async fn subscribe(&self, request: proto::SubscribeRequest) -> Consumer {
        Consumer::begin(&mut self.client().await, request).await.expect("a good request")
    }

    /// What upstream would bring: an event of this account.
    pub fn publish(&self, routing_key: &str, data: &str) {
        self.account.append(incoming(routing_key, data));
    }

    /// A CHANNEL_CREATE or the like.
    pub fn call(&self, name: &str, call_id: &str) {
        let encoded = hawking::binding::encoding::encode(call_id);
        let data = format!(r#"{{"event_name":"{name}","call_id":"{call_id}","duration_seconds":"32"}}"#);
        self.publish(&format!("call.{ACCOUNT}.{name}.{encoded}"), &data);
    }

    /// Drains, and waits until the server has ended.
    pub async fn stop(&mut self) {
        self.drain.begin(Reason::Shutdown, None);
        self.ended().await;
    }

    /// Waits until the server has ended.
    pub async fn ended(&mut self) {
        if let Some(server) = self.server.take() {
            soon("the server ends", server).await.expect("it does not panic");
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.upstream.abort();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

pub async fn channel(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).expect("a URL");
    soon("connect", endpoint.connect()).await.expect("somebody listens")
}

/// The upstream is live. All streams are told, also where it was before.
pub fn live() -> Control {
    Control::Upstream(UpstreamChange {
        state: UpstreamState::Live,
        flavour: Some(Flavour::K4),
        last_life: Some(SystemTime::now()),
        detail: "fed by hand".into(),
    })
}

/// An upstream that is live and confirms at once.
async fn confirm_all(account: Arc<hub::Account>) {
    account.record(live());
    let mut held = Default::default();
    let mut interest = account.interest();
    loop {
        let wanted = interest.borrow_and_update().clone();
        let cover = cover::cover(&wanted.bindings, Flavour::K4);
        for binding in cover.difference(&held) {
            account.record(Control::Confirmed { binding: binding.clone() });
        }
        held = cover;
        if interest.changed().await.is_err() {
            return;
        }
    }
}

/// An event as the upstream hands it over.
pub fn incoming(routing_key: &str, data: &str) -> IncomingEvent {
    let key = EventKey::from_routing_key(routing_key).expect("a routing key of a known kind");
    let fields: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let text = |name: &str| fields[name].as_str().unwrap_or_default();
    let texts = EventTexts {
        name: key.name(),
        routing_key,
        message_id: text("msg_id"),
        call_id: text("call_id"),
        data,
    };
    IncomingEvent::new(&key, None, texts)
}

/// A request for bindings of [`ACCOUNT`].
pub fn request(bindings: &[&str]) -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: ACCOUNT.into(),
        bindings: bindings.iter().map(|&binding| binding.to_owned()).collect(),
        ..Default::default()
    }
}

/// One stream, read in order.
pub struct Consumer {
    pub subscribed: proto::Subscribed,
    stream: Streaming<proto::SubscribeResponse>,
}

impl Consumer {
    pub async fn begin(
        client: &mut EventServiceClient<Channel>,
        request: impl tonic::IntoRequest<proto::SubscribeRequest>,
    ) -> Result<Self, Status> {
        let mut stream = soon("Subscribe answers", client.subscribe(request)).await?.into_inner();
        let first = soon("the first message", stream.message()).await?;
        match first.and_then(|message| message.kind) {
            Some(Kind::Subscribed(subscribed)) => Ok(Self { subscribed, stream }),
            other => panic!("the first message is Subscribed, not {other:?}"),
        }
    }

    /// The next message; a status or the end fail the test.
    pub async fn next(&mut self) -> Kind {
        match soon("a message", self.stream.message()).await {
            Ok(Some(message)) => message.kind.expect("every message has a kind"),
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => panic!("the stream ended: {status:?}"),
        }
    }

    /// Waits until upstream has confirmed all bindings. Nothing must be published before that.
    pub async fn confirmed(&mut self) {
        let active = |bindings: &[proto::BindingStatus]| {
            bindings.iter().all(|binding| binding.state() == proto::BindingState::Active)
        };
        if !active(&self.subscribed.bindings) {
            self.until(|kind| matches!(kind, Kind::UpstreamStatus(status) if active(&status.bindings))).await;
        }
    }

    /// The next event. What else comes before it is dropped, but for gaps, which fail the test.
    pub async fn event(&mut self) -> proto::Event {
        let messages = self.until(|kind| matches!(kind, Kind::Event(_) | Kind::Gap(_))).await;
        match messages.into_iter().next_back() {
            Some(Kind::Event(event)) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    pub async fn events(&mut self, count: usize) -> Vec<proto::Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await);
        }
        events
    }

    /// Messages up to the first for which `is_last` holds; that one included.
    pub async fn until(&mut self, mut is_last: impl FnMut(&Kind) -> bool) -> Vec<Kind> {
        let mut messages = Vec::new();
        let read = async {
            loop {
                let message = self.next().await;
                let done = is_last(&message);
                messages.push(message);
                if done {
                    return;
                }
            }
        };
        // Heartbeats would let each message be in time.
        if tokio::time::timeout(PATIENCE, read).await.is_err() {
            panic!("not within {PATIENCE:?}, but: {messages:?}");
        }
        messages
    }

    /// Everything up to the status with which the stream ends.
    pub async fn end(&mut self) -> (Vec<Kind>, Status) {
        let mut messages = Vec::new();
        let read = async {
            loop {
                match self.stream.message().await {
                    Ok(Some(message)) => messages.push(message.kind.expect("every message has a kind")),
                    Ok(None) => return Status::new(Code::Ok, ""),
                    Err(status) => return status,
                }
            }
        };
        let status = soon("the end", read).await;
        (messages, status)
    }
}

/// `ErrorInfo.reason`, or nothing.
pub fn reason(status: &Status) -> String {
    use tonic_types::StatusExt;

    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
