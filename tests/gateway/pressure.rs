//! Under load, and among consumers that never read: an upstream that loses what is not read at once (4.3, F46) loses nothing
//! because of us.
//!
//! The truth is the simulator's own account: what waits for the socket is counted, above its limit events and replies vanish,
//! and each that did is on record.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hawking::{
    binding::Flavour,
    cli::serve::Gateway,
    proto::{
        self, OverflowPolicy, PayloadFormat, event_service_client::EventServiceClient,
        subscribe_response::Kind,
    },
    sim::{Event, Frame, Happening, Loss, Settings, Simulator},
    upstream::Seams,
};
use prost::Message as _;
use serde_json::json;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tonic::{Code, transport::Channel};

use super::{harness::*, whole::config};

/// How much of it there is.
struct Size {
    per_second: u32,
    seconds: u32,
    bursts: u32,
    /// Events at once.
    burst: u32,
    consumers: usize,
    /// Of these, how many never read.
    deaf: usize,
    /// So long a stream of which nothing is taken is kept.
    stall_timeout: Duration,
}

impl Size {
    /// Small, for every run: what waits for a consumer is seen, and a processor that is late is not. `HAWKING_PRESSURE=full`
    /// for what an operator may expect of a release build on a machine with nothing else to do.
    fn of_this_run() -> Self {
        match std::env::var_os("HAWKING_PRESSURE") {
            Some(_) => Self {
                per_second: 2000,
                seconds: 30,
                bursts: 20,
                burst: 200,
                consumers: 100,
                deaf: 10,
                stall_timeout: Duration::from_secs(15),
            },
            None => Self {
                per_second: 400,
                seconds: 2,
                bursts: 3,
                burst: 40,
                consumers: 30,
                deaf: 10,
                stall_timeout: Duration::from_secs(3),
            },
        }
    }

    fn events(&self) -> usize {
        (self.per_second * self.seconds + self.bursts * self.burst) as usize
    }
}

/// Between two bursts.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two events of a burst: the fastest at which a real 4.3 loses nothing by itself, whoever reads (F46: nothing at
/// 7,000/s; half of a burst that comes four times as fast, although the reader never paused).
const APART: Duration = Duration::from_micros(143);
/// How often something is published while it is even.
const TICK: Duration = Duration::from_millis(5);
/// On each connection that those who read share with some who do not.
const SHARING: usize = 5;

/// A 4.3 whose sockets buffer little: what hawking does not read at once waits, and is counted.
fn classic(record_limit: usize) -> Settings {
    Settings {
        flavour: Flavour::V4_3,
        send_buffer: 16 << 10,
        record_limit,
        record_bytes: 1 << 30,
        ..Settings::default()
    }
}

/// So that none of the parts has the others' tasks in its way: the machine shares itself out among threads.
fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

fn numbered(sim: &Simulator, number: usize) -> Event {
    let account = sim.account(&account_id(ACCOUNT)).expect("it has the recorded accounts");
    Event::call(account, "CHANNEL_CREATE", &format!("e{number}"))
}

/// Publishes them all: evenly at first, then in bursts. How many of them found room.
fn publish(sim: &Simulator, size: &Size) -> usize {
    let (mut number, mut queued) = (0, 0);
    let mut publish = |count: u32| {
        for _ in 0..count {
            queued += sim.publish(&numbered(sim, number)).expect("a whole event");
            number += 1;
        }
    };
    let began = Instant::now();
    let even = size.per_second * size.seconds;
    let mut published = 0;
    while published < even {
        std::thread::sleep(TICK);
        let due = (began.elapsed().as_secs_f64() * f64::from(size.per_second)) as u32;
        let due = due.min(even);
        publish(due - published);
        published = due;
    }
    for _ in 0..size.bursts {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        for due in 1..=size.burst {
            publish(1);
            std::thread::sleep((APART * due).saturating_sub(began.elapsed()));
        }
    }
    queued
}

fn calls(overflow_policy: OverflowPolicy) -> proto::SubscribeRequest {
    proto::SubscribeRequest {
        payload_format: PayloadFormat::Json.into(),
        overflow_policy: overflow_policy.into(),
        ..request(&["call.*.*"])
    }
}

fn policy(index: usize) -> OverflowPolicy {
    [OverflowPolicy::Disconnect, OverflowPolicy::Skip][index % 2]
}

/// A connection for some who read and one who does not: with as much window for each stream as HTTP/2 gives by itself, and
/// enough of it for all together. (Where a client gives the connection's window back only with a stream's, and has no more of
/// it, it starves itself.)
async fn shared(gateway: &Gateway) -> EventServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", gateway.grpc_addr())).expect("a URL");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(64 << 20);
    EventServiceClient::new(soon("a connection", endpoint.connect()).await.expect("somebody listens"))
}

/// Reads to the last event: each in its turn, once, and no gap.
async fn read_all(mut consumer: Consumer, events: usize) {
    let mut next = 0;
    while next < events {
        match consumer.next().await {
            Kind::Event(event) => {
                assert_eq!(event.call_id, format!("e{next}"));
                next += 1;
            }
            Kind::Heartbeat(_) => {}
            other => panic!("before event {next}: {other:?}"),
        }
    }
}

/// One who never reads, on a connection of its own: the answer came, and from then on nobody reads the socket.
struct Deaf {
    connection: h2::client::Connection<TcpStream, Bytes>,
    body: h2::RecvStream,
}

impl Deaf {
    /// `window`: what it says that it would take.
    async fn begin(gateway: &Gateway, request: &proto::SubscribeRequest, window: u32) -> Self {
        let address = gateway.grpc_addr();
        let socket = TcpStream::connect(address).await.expect("somebody listens");
        let mut http = h2::client::Builder::new();
        http.initial_window_size(window).initial_connection_window_size(window);
        let (mut sender, mut connection) = http.handshake(socket).await.expect("HTTP/2");
        let head = http::Request::post(format!("http://{address}/hawking.v1.EventService/Subscribe"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let (answer, mut body) = sender.send_request(head.body(()).expect("a request"), false).expect("sent");
        let mut message = vec![0];
        message.extend(u32::try_from(request.encoded_len()).expect("it is small").to_be_bytes());
        message.extend(request.encode_to_vec());
        body.send_data(message.into(), true).expect("sent");
        let answer = soon("the answer", async {
            tokio::select! {
                ended = &mut connection => panic!("the connection ended: {ended:?}"),
                answer = answer => answer,
            }
        });
        let body = answer.await.expect("an answer").into_body();
        Self { connection, body }
    }

    /// What it finds when it reads at last: everything up to an end that is none in good order.
    async fn ends(mut self) {
        let mut bytes = 0;
        let end = async {
            loop {
                tokio::select! {
                    biased;
                    data = self.body.data() => match data {
                        Some(Ok(data)) => {
                            bytes += data.len();
                            let _ = self.body.flow_control().release_capacity(data.len());
                        }
                        Some(Err(error)) => return Some(error),
                        None => return None,
                    },
                    _ = &mut self.connection => {}
                }
            }
        };
        let end = soon("its end", end).await;
        assert!(end.is_some(), "a stream that nobody read ended with OK after {bytes} bytes");
    }
}

#[test]
fn a_4_3_that_is_read_at_once_loses_nothing_whoever_does_not_read() {
    let size = Size::of_this_run();
    let events = size.events();
    let (upstream, middle, clients) = (runtime(1), runtime(2), runtime(1));
    let sim = upstream.block_on(Simulator::start(classic(2 * events))).expect("free ports");
    let mut config = config(&sim);
    config.grpc.stall_timeout = size.stall_timeout;
    (config.grpc.keepalive_interval, config.grpc.keepalive_timeout) =
        (size.stall_timeout, size.stall_timeout);
    let seams = Seams::system(&config.upstream).expect("an HTTP client");
    let gateway = middle.block_on(Gateway::start(config, seams)).expect("a free port");
    let account = gateway.hub().get(&account_id(ACCOUNT)).expect("it is configured");

    let (mut readers, deaf, deaf_alone) = clients.block_on(async {
        let mut readers = JoinSet::new();
        let (mut deaf, mut deaf_alone) = (Vec::new(), Vec::new());
        // Half of those who do not read have a connection of their own; of these half would take anything, as they say.
        for index in 0..size.deaf / 2 {
            let window = [65_535, 1 << 28][index % 2];
            deaf_alone.push(Deaf::begin(&gateway, &calls(policy(index / 2)), window).await);
        }
        let sharing = size.consumers - deaf_alone.len();
        let mut client = shared(&gateway).await;
        for index in 0..sharing {
            if index % SHARING == 0 {
                client = shared(&gateway).await;
            }
            let mut consumer =
                Consumer::begin(&mut client, calls(policy(index))).await.expect("a good request");
            consumer.confirmed().await;
            // One on each connection, until there are enough.
            if index % SHARING == 0 && deaf.len() + deaf_alone.len() < size.deaf {
                deaf.push(consumer);
            } else {
                readers.spawn(read_all(consumer, events));
            }
        }
        (readers, deaf, deaf_alone)
    });
    assert_eq!(account.status().subscriptions, size.consumers);
    assert_eq!(readers.len(), size.consumers - deaf.len() - deaf_alone.len());
    assert_eq!(deaf.len() + deaf_alone.len(), size.deaf);

    let began = Instant::now();
    let queued = publish(&sim, &size);
    let took = began.elapsed();
    println!("{events} events in {took:?}; at most {} waited for the socket", sim.queue_peak());
    assert_eq!(queued, events, "the others vanished at once");
    clients.block_on(async {
        while let Some(read) = readers.join_next().await {
            read.expect("a reader");
        }
    });
    println!("{} readers have them all {:?} later", size.consumers - size.deaf, began.elapsed() - took);

    // The simulator's word.
    let (mut sent, mut lost) = (0, 0);
    for exchange in sim.record() {
        match exchange.what {
            Happening::Sent(Frame::Text(text)) => sent += usize::from(text.contains(r#""action":"event""#)),
            Happening::Lost(..) => lost += 1,
            Happening::Closed(ending) => panic!("{ending:?}"),
            _ => {}
        }
    }
    assert_eq!((sent, lost), (events, 0));
    assert!(sim.queue_peak() < 50, "{}", sim.queue_peak());

    // Who did not read is gone, and only that: reset on the connection that others read from, or with its own.
    clients.block_on(async {
        eventually("they have ended", async || account.status().subscriptions == 0).await;
        for mut consumer in deaf {
            let (messages, status) = consumer.end().await;
            assert!(!messages.is_empty() && messages.len() < events, "{}", messages.len());
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        }
        for deaf in deaf_alone {
            deaf.ends().await;
        }
    });
    assert_eq!((sim.connections(), sim.connections_total()), (1, 1));
    middle.block_on(async { soon("the gateway ends", gateway.stop()).await });
    upstream.block_on(async { soon("the simulator ends", sim.shutdown()).await });
}

/// That the test above can fail: with the same simulator, a client that pauses loses events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_4_3_takes_it_out_of_who_pauses() {
    let sim = Simulator::start(classic(20_000)).await.expect("free ports");
    let url = sim.blackhole_url();
    let to = (url.host_str().expect("a host").to_owned(), url.port().expect("a port"));
    let socket = TcpStream::connect(to).await.expect("somebody listens");
    let (mut socket, _) = client_async(url.as_str(), socket).await.expect("an upgrade");
    let subscribe = |binding: &str| {
        let data = json!({ "account_id": ACCOUNT, "binding": binding });
        let message =
            json!({ "action": "subscribe", "auth_token": "tok-acct2", "request_id": binding, "data": data });
        Message::text(message.to_string())
    };
    socket.send(subscribe("call.*.*")).await.expect("it is read");
    socket.next().await.expect("a reply").expect("a reply");

    // The pause.
    let mut published = 0;
    let lost = || {
        let lost = |exchange: &_| matches!(exchange, Happening::Lost(Frame::Text(_), Loss::Queue));
        sim.record().into_iter().map(|exchange| exchange.what).filter(lost).collect::<Vec<_>>()
    };
    while lost().len() < 100 {
        for _ in 0..200 {
            sim.publish(&numbered(&sim, published)).expect("a whole event");
            published += 1;
        }
        tokio::task::yield_now().await;
        assert!(published < 20_000, "it lost nothing");
    }
    assert_eq!(sim.queue_peak(), 50);

    // It reads on: what came and what was lost is all that there was.
    sim.publish(&numbered(&sim, published)).expect("a whole event");
    published += 1;
    let mut came = 0;
    while came + lost().len() < published {
        let frame = soon("a frame", socket.next()).await.expect("a frame").expect("a frame");
        came += usize::from(frame.into_text().expect("text").contains(r#""action":"event""#));
    }
    sim.shutdown().await;
}
