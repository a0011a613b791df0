//! Connections in memory, with `h2` as the client: windows, resets and writes are exact, and time is paused.

mod age;
mod farewell;
mod jammed;
mod properties;
mod slow;
mod tls;

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BytesMut};
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::HeaderMap;
use prost::Message;
use tokio::{
    io::{DuplexStream, ReadBuf, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{
    binding::{Binding, EventKey, Flavour, OptIn, cover},
    clock::SystemClock,
    grpc::{Server, ended::EndedStream, message, subscribe},
    hub::{Account, Control, EventTexts, Hub, IncomingEvent, UpstreamChange, UpstreamState},
    ops::drain::Drain,
    proto::{self, subscribe_response::Kind},
    random::SeededRandom,
};

const ACCOUNT: &str = "account0000000000000000000000002";
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A server without a listener.
struct Rig {
    services: Services,
    hub: Arc<Hub>,
    account: Arc<Account>,
    drain: CancellationToken,
}

/// A client's end of a connection.
struct Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    server: JoinHandle<Result<(), ConnectionError>>,
    writes: Arc<AtomicUsize>,
}

/// A client's end that the test polls itself.
struct Stuck {
    requests: SendRequest<Bytes>,
    connection: Pin<Box<h2::client::Connection<DuplexStream>>>,
    server: JoinHandle<Result<(), ConnectionError>>,
}

/// What a client allows.
#[derive(Debug, Clone, Copy)]
struct Windows {
    stream: u32,
    connection: u32,
    /// What the transport holds, each way.
    pipe: usize,
    /// What the server's end reads at once.
    read_at_once: usize,
}

const WIDE: Windows =
    Windows { stream: 1 << 20, connection: 100 << 20, pipe: 1 << 20, read_at_once: usize::MAX };

/// Both ends of a transport.
fn wire(windows: Windows) -> (DuplexStream, Wire) {
    let (client, server) = duplex(windows.pipe);
    (client, Wire { io: server, writes: Arc::default(), read_at_once: windows.read_at_once })
}

/// Counts the calls of write that the transport took, and gives so much at once.
struct Wire {
    io: DuplexStream,
    writes: Arc<AtomicUsize>,
    read_at_once: usize,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 16 << 10];
        let size = self.read_at_once.min(bytes.len()).min(buf.remaining());
        let mut part = ReadBuf::new(&mut bytes[..size]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.writes.fetch_add(usize::from(polled.is_ready()), Ordering::Relaxed);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.writes.fetch_add(usize::from(polled.is_ready()), Ordering::Relaxed);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Rig {
    async fn new() -> Self {
        Self::with(config::Grpc::default(), config::Hub::default()).await
    }

    async fn with(settings: config::Grpc, hub: config::Hub) -> Self {
        let clock = Arc::new(SystemClock);
        let hub = config::Hub { confirm_wait: Duration::ZERO, ..hub };
        let hub = Arc::new(Hub::new(hub, clock.clone(), || 1));
        let id = ACCOUNT.parse().unwrap();
        // Held and confirmed from the start: the log has nothing but what a test publishes.
        let binding = Binding::parse("call.*.*", &OptIn::default()).unwrap();
        let account = hub.add(id, id, vec![binding.clone()]);
        account.record(Control::Upstream(UpstreamChange {
            state: UpstreamState::Live,
            flavour: Some(Flavour::K4),
            last_life: None,
            detail: "".into(),
        }));
        for binding in cover::cover(&[binding], Flavour::K4) {
            account.record(Control::Confirmed { binding });
        }
        let services = Services::for_consumers(Server {
            settings: settings.into(),
            hub: hub.clone(),
            opt_in: OptIn::default(),
            clock,
            random: Arc::new(SeededRandom::new(1)),
            drain: Drain::new(config::Shutdown::default()),
            streams: Arc::default(),
            metrics: Arc::default(),
        })
        .await
        .unwrap();
        Self { services, hub, account, drain: CancellationToken::new() }
    }

    async fn connect(&self, windows: Windows) -> Client {
        let (client, wire) = wire(windows);
        let writes = wire.writes.clone();
        let server = self.serve(std::future::ready(Ok(wire)));
        Client::over(client, server, writes, windows).await
    }

    fn serve<IO>(
        &self,
        transport: impl Future<Output = Result<IO, TlsError>> + Send + 'static,
    ) -> JoinHandle<Result<(), ConnectionError>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(serve(transport, PEER, self.services.clone(), self.drain.clone()))
    }

    /// A call event, whose payload has about so many bytes.
    fn publish(&self, call_id: &str, size: usize) {
        let routing_key = format!("call.{ACCOUNT}.CHANNEL_CREATE.{call_id}");
        let key = EventKey::from_routing_key(&routing_key).unwrap();
        let data = format!(r#"{{"call_id":"{call_id}","filler":"{}"}}"#, "x".repeat(size));
        let texts =
            EventTexts { name: key.name(), routing_key: &routing_key, message_id: "", call_id, data: &data };
        self.account.append(IncomingEvent::new(&key, None, texts));
    }

    /// 32 events of 500 bytes at once, which all of them get.
    async fn burst(&self, readers: &mut [Reader]) {
        for _ in 0..32 {
            self.publish("burst", 500);
        }
        for _ in 0..32 {
            all_receive(readers, "burst").await;
        }
    }

    /// A client that allows everything, over a transport that is stuck whenever the client's end is not polled.
    async fn stuck(&self) -> Stuck {
        let (client_io, server_io) = duplex(10_000);
        let server = self.serve(std::future::ready(Ok(server_io)));
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake(client_io)
            .await
            .unwrap();
        Stuck { requests, connection: Box::pin(connection), server }
    }

    fn ended(&self) -> Vec<EndedStream> {
        self.services.streams().ended().newest(usize::MAX)
    }

    fn causes(&self) -> Vec<Cause> {
        self.ended().iter().map(|stream| stream.cause).collect()
    }
}

fn call() -> Request<()> {
    Request::post(format!("http://hawking{}", subscribe::PATH))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn subscribe_request() -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        account_id: ACCOUNT.into(),
        bindings: vec!["call.*.*".into()],
        heartbeat_interval: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    }
}

impl Client {
    async fn over<IO>(
        io: IO,
        server: JoinHandle<Result<(), ConnectionError>>,
        writes: Arc<AtomicUsize>,
        windows: Windows,
    ) -> Self
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(windows.stream)
            .initial_connection_window_size(windows.connection)
            .handshake(io)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        Self { requests, connection, server, writes }
    }

    async fn subscribe(&mut self) -> Reader {
        self.subscribe_with(subscribe_request()).await
    }

    async fn subscribe_with(&mut self, request: proto::SubscribeRequest) -> Reader {
        let (response, mut body) = self.requests.send_request(call(), false).unwrap();
        body.send_data(message::frame(&request), true).unwrap();
        Reader::begin(response).await
    }

    async fn subscribe_all(&mut self, streams: usize) -> Vec<Reader> {
        let mut readers = Vec::new();
        for _ in 0..streams {
            readers.push(self.subscribe().await);
        }
        readers
    }

    fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }
}

/// A stream, as a client reads it; window is given back only for what it reads.
struct Reader {
    body: RecvStream,
    bytes: BytesMut,
    /// From `Subscribed`.
    position: u64,
}

impl Reader {
    async fn begin(response: ResponseFuture) -> Self {
        let response = response.await.unwrap();
        assert_eq!(response.headers().get("grpc-status"), None, "refused");
        let mut reader = Self { body: response.into_body(), bytes: BytesMut::new(), position: 0 };
        match reader.next().await.unwrap() {
            Some(Kind::Subscribed(subscribed)) => {
                reader.position = subscribed.position.unwrap().sequence;
                reader
            }
            other => panic!("the first message is Subscribed, not {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Option<Kind>, h2::Error> {
        loop {
            if self.bytes.len() >= 5 {
                let length = (&self.bytes[1..5]).get_u32() as usize;
                if self.bytes.len() >= 5 + length {
                    self.bytes.advance(5);
                    let message = self.bytes.split_to(length);
                    return Ok(proto::SubscribeResponse::decode(message).unwrap().kind);
                }
            }
            let Some(data) = self.body.data().await else {
                assert!(self.bytes.is_empty(), "ended within a message");
                return Ok(None);
            };
            let data = data?;
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.bytes.extend_from_slice(&data);
        }
    }

    async fn event(&mut self) -> Result<proto::Event, h2::Error> {
        loop {
            match self.next().await? {
                Some(Kind::Event(event)) => return Ok(event),
                Some(Kind::Gap(gap)) => panic!("a gap: {gap:?}"),
                None => panic!("the end: {:?}", self.trailers().await),
                _ => {}
            }
        }
    }

    async fn trailers(&mut self) -> HeaderMap {
        self.body.trailers().await.unwrap().expect("trailers")
    }
}

/// The next event of all of them is this one.
async fn all_receive(readers: &mut [Reader], call_id: &str) {
    for reader in readers {
        assert_eq!(reader.event().await.unwrap().call_id, call_id);
    }
}

#[tokio::test(start_paused = true)]
async fn one_write_for_all_streams_of_a_connection() {
    const STREAMS: usize = 20;
    const EVENTS: usize = 50;
    let rig = Rig::new().await;
    let mut clients = [rig.connect(WIDE).await, rig.connect(WIDE).await];
    let mut readers = Vec::new();
    for client in &mut clients {
        readers.extend(client.subscribe_all(STREAMS).await);
    }
    rig.publish("first", 500);
    all_receive(&mut readers, "first").await;
    let before = clients.each_ref().map(Client::writes);
    for index in 0..EVENTS {
        rig.publish(&index.to_string(), 500);
        all_receive(&mut readers, &index.to_string()).await;
    }
    for (client, before) in clients.iter().zip(before) {
        assert_eq!(client.writes() - before, EVENTS, "one for each connection and event");
    }
    assert_eq!(rig.hub.encodes().frames, 1 + EVENTS as u64, "one for each event");

    // A burst: as few as what is gathered at most allows.
    let before = clients.each_ref().map(Client::writes);
    rig.burst(&mut readers).await;
    for (client, before) in clients.iter().zip(before) {
        let writes = client.writes() - before;
        assert!(writes <= 9, "{writes} for some 500 KiB");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_reset_alone() {
    let rig = Rig::new().await;
    let mut client = rig.connect(Windows { stream: 64 << 10, ..WIDE }).await;
    let mut stalled = client.subscribe().await;
    let mut healthy = client.subscribe().await;
    let began = Instant::now();
    for index in 0..100 {
        rig.publish(&index.to_string(), 10_000);
        assert_eq!(healthy.event().await.unwrap().call_id, index.to_string());
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The seventh did not get through. Stalls are looked at every 3.75 s.
        match began.elapsed().as_secs() {
            ..36 => assert_eq!(rig.causes(), [], "after {index}"),
            41.. => assert_eq!(rig.causes(), [Cause::NotReading], "after {index}"),
            _ => {}
        }
    }
    let ended = rig.ended();
    assert_eq!(ended[0].delivered, 7);
    assert!(ended[0].lag > 20);

    // It reads what it was sent, and is told; or only that.
    let error = loop {
        match stalled.event().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert!(error.is_reset());
    assert_eq!(rig.account.status().subscriptions, 1);
    assert!(!client.connection.is_finished());
}

/// Two that do not read have taken the connection's window; who reads starves with them, but is not punished for it.
#[tokio::test(start_paused = true)]
async fn who_starves_because_others_do_not_read_goes_on() {
    let rig = Rig::new().await;
    let mut client = rig.connect(Windows { stream: 64 << 10, connection: 100 << 10, ..WIDE }).await;
    let mut stalled = [Some(client.subscribe().await), Some(client.subscribe().await)];
    let mut healthy = client.subscribe().await;
    for index in 0..30 {
        rig.publish(&index.to_string(), 10_000);
    }
    let streams = rig.services.streams().clone();
    let resets = tokio::spawn(async move {
        // The client's own connection has its window back when whoever did not read goes.
        while stalled.iter().any(Option::is_some) {
            for stream in streams.ended().newest(10) {
                assert_eq!(stream.cause, Cause::NotReading);
                stalled[usize::from(stream.consumer.subscription_id.to_string() == "s2")] = None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    for index in 0..30 {
        match healthy.event().await {
            Ok(event) => assert_eq!(event.call_id, index.to_string()),
            Err(error) => panic!("{index} {error}: {:#?}", rig.ended()),
        }
    }
    for index in 30..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.publish(&index.to_string(), 10_000);
        assert_eq!(healthy.event().await.unwrap().call_id, index.to_string());
    }
    assert!(resets.is_finished());
    let ended = rig.ended();
    let names: Vec<_> = ended.iter().map(|ended| ended.consumer.subscription_id.to_string()).collect();
    assert_eq!(names, ["s2", "s1"], "newest first");
    assert_eq!(rig.causes(), [Cause::NotReading, Cause::NotReading]);
}

#[tokio::test(start_paused = true)]
async fn who_is_overtaken_while_it_does_not_read_is_reset_before_that() {
    let hub = config::Hub { log_bytes: 1 << 20, ..config::Hub::default() };
    let rig = Rig::with(config::Grpc::default(), hub).await;
    let mut client = rig.connect(Windows { stream: 64 << 10, ..WIDE }).await;
    let mut stalled = client.subscribe().await;
    let skip = proto::SubscribeRequest {
        overflow_policy: proto::OverflowPolicy::Skip.into(),
        ..subscribe_request()
    };
    let mut skipping = client.subscribe_with(skip).await;
    for index in 0..200 {
        rig.publish(&index.to_string(), 10_000);
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    while rig.causes().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(rig.causes(), [Cause::SlowConsumerNotReading]);
    let error = loop {
        if let Err(error) = stalled.event().await {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    // Who asked for it gets a gap, once it reads.
    let mut kinds = Vec::new();
    while !matches!(kinds.last(), Some(Kind::Gap(_))) {
        kinds.push(skipping.next().await.unwrap().unwrap());
    }
    assert_eq!(rig.causes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reset_by_the_client_ends_the_subscription_at_once() {
    let rig = Rig::new().await;
    let mut client = rig.connect(WIDE).await;
    let (response, mut body) = client.requests.send_request(call(), false).unwrap();
    body.send_data(message::frame(&subscribe_request()), true).unwrap();
    let quiet = Reader::begin(response).await;
    let mut other = client.subscribe().await;
    assert_eq!(rig.account.status().subscriptions, 2);
    let began = Instant::now();
    body.send_reset(Reason::CANCEL);
    while rig.account.status().subscriptions == 2 {
        tokio::task::yield_now().await;
    }
    // And while the request is not complete yet.
    let (_response, mut body) = client.requests.send_request(call(), false).unwrap();
    body.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
    tokio::task::yield_now().await;
    body.send_reset(Reason::CANCEL);
    rig.publish("a", 10);
    assert_eq!(other.event().await.unwrap().call_id, "a");
    assert_eq!(rig.causes(), [Cause::ClientCancelled]);
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(quiet);
}

#[tokio::test(start_paused = true)]
async fn an_event_larger_than_all_windows_passes() {
    let rig = Rig::new().await;
    let mut client =
        rig.connect(Windows { stream: 64 << 10, connection: 64 << 10, pipe: 1000, ..WIDE }).await;
    let mut reader = client.subscribe().await;
    for size in [1 << 20, 0, 65_535, 65_000] {
        rig.publish("large", size);
        assert!(reader.event().await.unwrap().encoded_len() > size);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_may_end_in_an_empty_frame_and_come_byte_by_byte() {
    let rig = Rig::new().await;
    let mut client = rig.connect(WIDE).await;
    let (response, mut body) = client.requests.send_request(call(), false).unwrap();
    for byte in message::frame(&subscribe_request()) {
        body.send_data(Bytes::copy_from_slice(&[byte]), false).unwrap();
        tokio::task::yield_now().await;
    }
    body.send_data(Bytes::new(), true).unwrap();
    let mut reader = Reader::begin(response).await;
    rig.publish("a", 10);
    assert_eq!(reader.event().await.unwrap().call_id, "a");
}

/// So many reads in one turn that `tokio` wants the task to give way: timers, too, then say "later", and must be heard.
#[tokio::test(start_paused = true)]
async fn a_request_in_a_thousand_pieces_holds_nobody_up() {
    let rig = Rig::new().await;
    let mut client = rig.connect(Windows { read_at_once: 16, ..WIDE }).await;
    let mut other = client.subscribe().await;
    let filter = proto::EventFilter {
        call_ids: (0..30).map(|index| format!("{index:01000}")).collect(),
        ..Default::default()
    };
    let request = proto::SubscribeRequest { filter: Some(filter), ..subscribe_request() };
    let mut filtered = client.subscribe_with(request).await;
    rig.publish(&"0".repeat(1000), 0);
    assert_eq!(filtered.event().await.unwrap().call_id.len(), 1000);
    assert_eq!(other.event().await.unwrap().call_id.len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn who_is_quiet_but_answers_pings_stays() {
    let rig = Rig::new().await;
    let client = rig.connect(WIDE).await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!client.server.is_finished());
    assert!(client.writes() > 30, "{}", client.writes());
}

/// The transport takes nothing any more: what is held for it is bounded, until the ping that is never answered.
#[tokio::test(start_paused = true)]
async fn a_transport_that_is_stuck_is_given_up_and_holds_little() {
    const EVENT: usize = 10_000;
    let rig = Rig::new().await;
    let Stuck { mut requests, mut connection, server } = rig.stuck().await;
    let (response, mut body) = requests.send_request(call(), false).unwrap();
    body.send_data(message::frame(&subscribe_request()), true).unwrap();
    let reader = tokio::select! {
        reader = Reader::begin(response) => reader,
        _ = &mut connection => panic!("it ended"),
    };
    // From here on the client's end is not polled.
    let began = Instant::now();
    for index in 0..1000 {
        rig.publish(&index.to_string(), EVENT);
        tokio::task::yield_now().await;
    }
    let error = server.await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectionError::Ping(_)), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(50) && took < Duration::from_secs(52), "{took:?}");
    assert_eq!(rig.causes(), [Cause::KeepaliveTimeout]);
    // What was encoded for it: one buffer of the connection, one of the stream, and a batch.
    let frames = rig.hub.encodes().frames as usize;
    assert!(frames * EVENT < (128 << 10) + (256 << 10) + 2 * (64 << 10), "{frames}");
    drop((reader, connection));
}
