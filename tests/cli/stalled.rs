//! What consumers that do not read cost the process that serves them, as the operating system counts it: the logs as large as
//! they are configured, and 256 KiB for each stream, whatever keeps it from reading.
//!
//! `HAWKING_STALLED=500` is what is promised, with logs of 128 MiB; a machine that has other things to do takes fewer.

use std::{fs, net::SocketAddr, time::Duration};

use bytes::Bytes;
use hawking::{
    proto::{
        self, BindingState, admin_service_client::AdminServiceClient,
        event_service_client::EventServiceClient, subscribe_response::Kind,
    },
    sim::{Event, Settings, Simulator},
};
use http::{Request, header};
use prost::Message as _;
use tempfile::TempDir;
use tokio::{net::TcpSocket, sync::watch, task::JoinSet, time::timeout};
use tonic::{Streaming, transport::Channel};

use crate::{hawking, process::Running};

const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "account0000000000000000000000002";
/// What a stream that does not read may cost, in bytes.
const PER_STREAM: usize = 256 << 10;
/// Events that are under way at once: no more, or the one consumer that reads would be overtaken on a busy machine.
const AT_ONCE: usize = 500;
/// Events are as large as this at most: from a quarter of it on.
const EVENT: usize = 4 << 10;

/// Streams, and the bound of the logs in bytes.
fn size() -> (usize, usize) {
    match std::env::var("HAWKING_STALLED").ok().and_then(|count| count.parse().ok()) {
        Some(count) => (count, 128 << 20),
        None => (100, 8 << 20),
    }
}

/// What keeps them from reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stall {
    /// They give no window for more than 64 KiB. Their connection goes on.
    Window,
    /// They give all the window there is, and nobody takes a byte from the socket.
    Socket,
}

/// A gateway as a process of its own, with its upstream.
struct Gateway {
    sim: Simulator,
    running: Running,
    public: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

impl Gateway {
    async fn start(log_bytes: usize) -> Self {
        let sim = Simulator::start(Settings { record_limit: 0, ..Settings::default() }).await.unwrap();
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("hawking.toml");
        // Nothing ends a stream here: they cost the most that they can.
        let text = format!(
            "[upstream]\ncrossbar_url = \"{}\"\nblackhole_url = \"{}\"\n\
             [hub]\nlog_bytes = {log_bytes}\naccount_log_bytes = {log_bytes}\ntotal_log_bytes = {log_bytes}\n\
             log_records = 100000000\n\
             [grpc]\nlisten = \"127.0.0.1:0\"\nstall_timeout = \"1h\"\nkeepalive_interval = \"1h\"\n\
             [admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"off\"\n\
             [telemetry]\nlog_filter = \"info\"\n\
             [[accounts]]\nid = \"{ACCOUNT}\"\nusername = \"demo\"\npassword = \"hawking\"\naccount_name = \"{}\"\n\
             always_on = [\"call.*.*\"]\n",
            sim.crossbar_url(),
            sim.blackhole_url(),
            sim.account(&ACCOUNT.parse().unwrap()).unwrap().name,
        );
        fs::write(&config, text).unwrap();
        let mut running = Running::start(hawking(["serve", "--config"]).arg(&config));
        let admin = address(&running.stderr_line("serving AdminService"));
        let public = address(&running.stderr_line("serving gRPC"));
        Self { sim, running, public, admin, _folder: folder }
    }

    /// Bytes of memory, now and at most so far.
    fn resident(&self) -> (usize, usize) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// How many events each of the streams that are open has taken.
    async fn delivered(&self) -> Vec<u64> {
        let channel =
            Channel::from_shared(format!("http://{}", self.admin)).unwrap().connect().await.unwrap();
        let mut client = AdminServiceClient::new(channel);
        let (mut delivered, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = proto::ListSubscribersRequest { page_token, ..Default::default() };
            let page = client.list_subscribers(request).await.unwrap().into_inner();
            delivered.extend(page.subscribers.iter().map(|subscriber| subscriber.delivered));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return delivered;
            }
        }
    }

    /// Publishes events until the log was filled so many bytes' worth, and waits for the reader to have them all.
    async fn publish(&self, bytes: usize, passed: &mut watch::Receiver<usize>) {
        let account = self.sim.account(&ACCOUNT.parse().unwrap()).unwrap().clone();
        let (mut number, mut published) = (*passed.borrow(), 0);
        while published < bytes {
            for _ in 0..AT_ONCE {
                // All sizes, in no order that an allocator would like.
                let size = EVENT / 4 + number.wrapping_mul(0x9e37_79b1) % (EVENT * 3 / 4);
                let event = Event::call(&account, "CHANNEL_CREATE", &number.to_string());
                self.sim.publish(&event.with("Filler", "x".repeat(size))).unwrap();
                number += 1;
                published += size;
            }
            let all = passed.wait_for(|passed| *passed >= number);
            timeout(PATIENCE, all).await.expect("who reads gets everything").unwrap();
        }
    }
}

fn address(line: &str) -> SocketAddr {
    let port = line.rsplit_once("127.0.0.1:").unwrap().1;
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// A stream of everything, once the binding is held.
async fn begin(address: SocketAddr) -> Streaming<proto::SubscribeResponse> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client = EventServiceClient::new(channel);
    loop {
        let mut stream = client.subscribe(request(None)).await.unwrap().into_inner();
        match stream.message().await.unwrap().and_then(|message| message.kind) {
            Some(Kind::Subscribed(of)) if of.bindings[0].state() == BindingState::Active => return stream,
            Some(Kind::Subscribed(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

/// Reads everything, and says how many events there were.
async fn read(mut stream: Streaming<proto::SubscribeResponse>, passed: watch::Sender<usize>) {
    while let Some(message) = stream.message().await.unwrap() {
        match message.kind {
            Some(Kind::Event(event)) => {
                assert_eq!(event.call_id, passed.borrow().to_string(), "in order, once, no gap");
                passed.send_modify(|passed| *passed += 1);
            }
            Some(Kind::Gap(gap)) => panic!("{gap:?}"),
            _ => {}
        }
    }
}

/// Of a consumer with a view of its own, if it has a number: then it shares no frames.
fn request(number: Option<usize>) -> proto::SubscribeRequest {
    let names = number.map(|number| vec!["CHANNEL_CREATE".to_owned(), format!("OF_{number}")]);
    proto::SubscribeRequest {
        account_id: ACCOUNT.into(),
        bindings: vec!["call.*.*".into()],
        filter: names.map(|names| proto::EventFilter { names, ..Default::default() }),
        overflow_policy: proto::OverflowPolicy::Skip.into(),
        ..Default::default()
    }
}

/// Begins streams on one connection that never give back any window, and holds them for ever.
async fn stall(address: SocketAddr, numbers: Vec<usize>, stall: Stall, begun: watch::Sender<usize>) {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds is not the process's; little of it, so that the socket is stuck soon.
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    let window = match stall {
        Stall::Window => (64 << 10) - 1,
        Stall::Socket => 1 << 30,
    };
    let (mut requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, Bytes>(tcp)
        .await
        .unwrap();
    let begin = async {
        let mut streams = Vec::new();
        for number in &numbers {
            let message = request(Some(*number)).encode_to_vec();
            let mut frame = vec![0];
            frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            frame.extend(message);
            let call = Request::post(format!("http://{address}/hawking.v1.EventService/Subscribe"))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
                .body(())
                .unwrap();
            let (response, mut body) = requests.send_request(call, false).unwrap();
            body.send_data(frame.into(), true).unwrap();
            streams.push(response);
        }
        let mut bodies = Vec::new();
        for response in streams {
            bodies.push(response.await.unwrap().into_body());
        }
        bodies
    };
    let _held = tokio::select! {
        bodies = begin => bodies,
        ended = &mut connection => panic!("the connection ended: {ended:?}"),
    };
    begun.send_modify(|begun| *begun += numbers.len());
    match stall {
        // It answers pings, and what else concerns the connection.
        Stall::Window => panic!("the connection ended: {:?}", connection.await),
        Stall::Socket => std::future::pending().await,
    }
}

/// `together`: streams of one connection.
async fn streams_that_do_not_read_are_within_the_bound(why: Stall, together: usize) {
    let (count, log_bytes) = size();
    let gateway = Gateway::start(log_bytes).await;
    let mut tasks = JoinSet::new();
    let (passing, mut passed) = watch::channel(0);
    let reader = timeout(PATIENCE, begin(gateway.public)).await.expect("it begins");
    tasks.spawn(read(reader, passing));
    let (before, _) = gateway.resident();

    let (begun, mut all_begun) = watch::channel(0);
    let numbers: Vec<_> = (0..count).collect();
    for numbers in numbers.chunks(together) {
        tasks.spawn(stall(gateway.public, numbers.to_vec(), why, begun.clone()));
    }
    timeout(PATIENCE, all_begun.wait_for(|begun| *begun == count)).await.expect("all have begun").unwrap();
    let (unfed, _) = gateway.resident();
    // What is held is old by the time that the log is full, and full again.
    gateway.publish(log_bytes * 2, &mut passed).await;

    let (now, peak) = gateway.resident();
    let delivered = gateway.delivered().await;
    assert_eq!(delivered.len(), count + 1, "all are there still");
    assert!(delivered.iter().all(|events| *events > 0), "each was fed: {delivered:?}");
    assert!(tasks.try_join_next().is_none(), "and their connections");
    let bound = before + log_bytes + count * PER_STREAM;
    let mb = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "{count} streams, {together} on a connection, stalled by {why:?}: {:.1} MB at the start, {:.1} MB \
         before events came, logs of {:.1} MB, {:.1} MB are allowed; at most {:.1} MB, {:.1} MB at the end, after {} events",
        mb(before),
        mb(unfed),
        mb(log_bytes),
        mb(bound),
        mb(peak),
        mb(now),
        passed.borrow().to_owned(),
    );
    assert!(peak <= bound, "{peak} bytes, where {bound} are allowed");
    // Were the log not full, or did they hold nothing, the bound would be kept for nothing.
    let least = unfed + log_bytes + count * PER_STREAM / 8;
    assert!(peak > least, "{peak} bytes, where {least} are the least to be expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_window_on_shared_connections() {
    streams_that_do_not_read_are_within_the_bound(Stall::Window, 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_window_on_connections_of_their_own() {
    streams_that_do_not_read_are_within_the_bound(Stall::Window, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_stuck_sockets_that_are_shared() {
    streams_that_do_not_read_are_within_the_bound(Stall::Socket, 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_stuck_sockets_of_their_own() {
    streams_that_do_not_read_are_within_the_bound(Stall::Socket, 1).await;
}
