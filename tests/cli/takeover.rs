//! A crowd of consumers at a server that is about to go, and what becomes of them.
//!
//! Most are healthy: they read, and when they are sent away they go on at another server, from the time of the last event
//! that they have. Beside them, on connections of their own, are peers that have vanished without a word: they hold their
//! end of the connection and never read again. And on the connections of healthy ones, streams that nobody reads.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use hawking::{
    proto::{self, event_service_client::EventServiceClient, subscribe_response::Kind},
    sim::{AccountSpec, Event, Simulator},
};
use prost::Message;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

/// Longer than anything takes, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Streams of one connection.
const PER_CONNECTION: usize = 10;
/// How far clocks, and the ways to two servers, may differ: so much is read twice. The server that takes over must have been
/// live for as long.
pub const OVERLAP: Duration = Duration::from_secs(1);

/// A number from the environment, for runs by hand.
pub fn scale(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

fn request(account: &str, format: proto::PayloadFormat) -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: account.into(),
        bindings: vec!["call.*.*".into()],
        payload_format: format.into(),
        heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

/// What a server has given to one consumer, and how that ended.
#[derive(Debug)]
struct Leg {
    /// Where it began.
    begin: u64,
    /// Sequence and number of each event.
    events: Vec<(u64, u64)>,
    /// When the last one was received.
    last_time: Option<prost_types::Timestamp>,
    draining: Option<proto::Draining>,
    status: Option<Status>,
}

impl Leg {
    /// Reads until the stream ends, or an event has this number.
    async fn read(
        mut stream: Streaming<proto::SubscribeResponse>,
        until: Option<u64>,
        progress: &AtomicU64,
    ) -> Self {
        let mut leg = Self { begin: 0, events: Vec::new(), last_time: None, draining: None, status: None };
        loop {
            let kind = match stream.message().await {
                Ok(Some(message)) => message.kind.expect("every message has a kind"),
                Ok(None) => panic!("a stream ended without a status"),
                Err(status) => {
                    leg.status = Some(status);
                    return leg;
                }
            };
            assert!(leg.draining.is_none(), "nothing comes after Draining: {kind:?}");
            match kind {
                Kind::Subscribed(subscribed) => {
                    leg.begin = subscribed.position.as_ref().expect("a position").sequence;
                    let active =
                        |binding: &proto::BindingStatus| binding.state() == proto::BindingState::Active;
                    assert!(subscribed.bindings.iter().all(active), "{subscribed:?}");
                    leg.last_time = Some(std::time::SystemTime::now().into());
                }
                Kind::Event(event) => {
                    // What only makes events large has no number.
                    let number = event.call_id.parse().unwrap_or_default();
                    leg.events.push((event.cursor.expect("a cursor").sequence, number));
                    leg.last_time = event.receive_time;
                    if number > 0 {
                        progress.store(number, Ordering::Relaxed);
                    }
                    if number > 0 && until.is_some_and(|until| number >= until) {
                        return leg;
                    }
                }
                Kind::Draining(draining) => leg.draining = Some(draining),
                Kind::Gap(gap) => panic!("a gap: {gap:?}"),
                Kind::Heartbeat(_) | Kind::UpstreamStatus(_) => {}
            }
        }
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.events.iter().map(|(_, number)| *number).filter(|number| *number > 0)
    }

    fn position(&self) -> u64 {
        self.draining.as_ref().and_then(|draining| draining.position.as_ref()).expect("a position").sequence
    }
}

/// All who read from one server.
pub struct Crowd {
    account: String,
    healthy: JoinSet<Leg>,
    progress: Vec<Arc<AtomicU64>>,
    /// Held open, and never polled.
    _unread: Vec<Streaming<proto::SubscribeResponse>>,
    _vanished: Vec<(h2::client::Connection<TcpStream>, h2::RecvStream)>,
}

impl Crowd {
    /// So many streams: nine of ten healthy, one of ten vanished; and one for each connection that is not read.
    pub async fn gather(server: SocketAddr, account: &AccountSpec, streams: usize) -> Self {
        let id = account.id.to_string();
        let vanished = (streams / 10).max(2);
        let mut crowd = Self {
            account: id.clone(),
            healthy: JoinSet::new(),
            progress: Vec::new(),
            _unread: Vec::new(),
            _vanished: Vec::new(),
        };
        let mut left = streams - vanished;
        while left > 0 {
            let channel = connect(server).await;
            let mut client = EventServiceClient::new(channel);
            let asked = client.subscribe(request(&id, proto::PayloadFormat::Json));
            crowd._unread.push(soon("a stream", asked).await.expect("a good request").into_inner());
            for _ in 0..left.min(PER_CONNECTION) {
                let asked = client.subscribe(request(&id, proto::PayloadFormat::None));
                let stream = soon("a stream", asked).await.expect("a good request").into_inner();
                let progress = Arc::<AtomicU64>::default();
                crowd.progress.push(progress.clone());
                crowd.healthy.spawn(async move { Leg::read(stream, None, &progress).await });
            }
            left = left.saturating_sub(PER_CONNECTION);
        }
        for number in 0..vanished {
            crowd._vanished.push(vanish(server, &id, number % 2 == 0).await);
        }
        crowd
    }

    /// Waits until every healthy consumer has an event with at least this number.
    pub async fn has(&self, number: u64) {
        soon("all have the event", async {
            while self.progress.iter().any(|at| at.load(Ordering::Relaxed) < number) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Waits until the server has sent all healthy ones away, and lets them go on at another one, to the event with the last
    /// number that `last` gives then. Each must have everything. Gives how many they were. The others stay as they are.
    pub async fn moves_to(&mut self, server: SocketAddr, last: impl AsyncFnOnce() -> u64) -> usize {
        let mut legs = Vec::new();
        while let Some(leg) = soon("the server sends all away", self.healthy.join_next()).await {
            legs.push(leg.expect("it does not panic"));
        }
        let known: BTreeSet<(u64, u64)> = legs.iter().flat_map(|leg| leg.events.iter().copied()).collect();
        for leg in &legs {
            let status = leg.status.as_ref().expect("it ended");
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| info.reason.as_str());
            assert_eq!((status.code(), reason), (Code::Unavailable, Some("DRAINING")), "{status:?}");
            let (begin, position) = (leg.begin, leg.position());
            let last = leg.events.last().map_or(begin, |(sequence, _)| *sequence);
            assert!(position >= last, "Draining says {position}, and {last} was delivered");
            // What any of them was given up to there, this one was given too.
            let expected: Vec<_> = known.iter().filter(|(at, _)| *at > begin && *at <= position).collect();
            assert_eq!(leg.events.iter().collect::<Vec<_>>(), expected, "after {begin}, up to {position}");
            let numbers: Vec<u64> = leg.numbers().collect();
            let torn = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
            assert_eq!(torn, None, "a hole before Draining");
        }

        let last = last().await;
        let mut seconds = JoinSet::new();
        let mut clients = Vec::new();
        for (index, leg) in legs.into_iter().enumerate() {
            if index % PER_CONNECTION == 0 {
                clients.push(EventServiceClient::new(connect(server).await));
            }
            let mut client = clients.last().expect("there is one").clone();
            let since = std::time::SystemTime::try_from(leg.last_time.expect("it is set")).expect("a time");
            let mut request = request(&self.account, proto::PayloadFormat::None);
            request.start = Some(proto::subscribe_request::Start::StartTime((since - OVERLAP).into()));
            seconds.spawn(async move {
                let stream = soon("a stream", client.subscribe(request)).await.expect("it is in the window");
                let progress = AtomicU64::default();
                let second = Leg::read(stream.into_inner(), Some(last), &progress);
                (leg, soon("everything comes from the second server", second).await)
            });
        }
        let mut count = 0;
        while let Some(legs) = seconds.join_next().await {
            let (first, second) = legs.expect("it does not panic");
            assert!(second.status.is_none(), "{:?}", second.status);
            let all: BTreeSet<u64> = first.numbers().chain(second.numbers()).collect();
            let from = first.numbers().next().expect("it had some");
            let missing: Vec<u64> = (from..=last).filter(|number| !all.contains(number)).collect();
            assert_eq!(
                missing,
                Vec::<u64>::new(),
                "from {from} to {last}; the second server began with {:?}",
                second.events.first()
            );
            count += 1;
        }
        count
    }
}

async fn connect(server: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{server}")).expect("a URL");
    soon("a connection", endpoint.connect()).await.expect("somebody listens")
}

/// Subscribes, reads the head of the response, and never does anything again. With `room`, HTTP/2 would let the server send
/// for ever, so that what stops it is TCP; without, it is the stream's window.
async fn vanish(
    server: SocketAddr,
    account: &str,
    room: bool,
) -> (h2::client::Connection<TcpStream>, h2::RecvStream) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
    let socket = soon("a connection", socket.connect(server)).await.expect("somebody listens");
    let window = if room { 1 << 30 } else { 64 << 10 };
    let handshake = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(window)
        .handshake(socket);
    let (mut requests, mut connection) = soon("a handshake", handshake).await.expect("HTTP/2");
    let message = request(account, proto::PayloadFormat::Json);
    let head = http::Request::post(format!("http://{server}/hawking.v1.EventService/Subscribe"))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (response, mut body) = requests.send_request(head, false).expect("a stream");
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).expect("a short message"));
    message.encode(&mut framed).expect("room for it");
    body.send_data(Bytes::from(framed), true).expect("it is open");
    let response = async {
        tokio::select! {
            response = response => response.expect("a response"),
            _ = &mut connection => panic!("the connection ended"),
        }
    };
    let response = soon("a response", response).await;
    (connection, response.into_body())
}

/// Publishes numbered events of an account, evenly, until it is stopped.
pub struct Traffic {
    last: Arc<AtomicU64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Traffic {
    pub fn start(sim: &Simulator, account: &AccountSpec) -> Self {
        let (last, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
        let (counter, stopped, sim, account) = (last.clone(), stop.clone(), sim.clone(), account.clone());
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let number = counter.load(Ordering::Relaxed) + 1;
                let event = Event::call(&account, "CHANNEL_CREATE", &number.to_string());
                sim.publish(&event).expect("a whole event");
                counter.store(number, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { last, stop, task }
    }

    /// The number of the newest event.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it does not panic");
    }
}

/// Large events, more than fits between a server and a peer that has vanished.
pub fn fill(sim: &Simulator, account: &AccountSpec) {
    for _ in 0..100 {
        let event = Event::call(account, "CHANNEL_CREATE", "large").with("Filler", "x".repeat(64 << 10));
        sim.publish(&event).expect("a whole event");
    }
}
