//! What a delivery costs, in counts that are the same on every machine.

use std::{sync::mpsc, time::Duration};

use hawking::{config, hub::IncomingEvent, proto};
use tokio::sync::oneshot;

use super::harness::*;

const CONNECTIONS: usize = 5;
const STREAMS: usize = 100;
const BURST: usize = 32;
const ROUNDS: usize = 20;

/// Allocations on the thread that appends, encodes and sends; those of the clients are on another.
///
/// A burst of 32 events to 100 streams: what is spent on an event (its record, its frame) is shared by all of them.
#[test]
fn a_delivery_allocates_nothing() {
    let (ready, server) = mpsc::channel();
    let (begin, begun) = oneshot::channel::<()>();
    let (done, until_done) = oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Tasks of this runtime run only within `block_on`, hence on this thread, and counted where that is asked for.
        let server = runtime.block_on(async {
            Direct::with(settings(), config::Hub::default(), Duration::from_secs(10)).await
        });
        ready.send(server.addr).unwrap();
        let warm = events(ROUNDS * BURST);
        let counted = events(ROUNDS * BURST);
        // Until the clients have begun.
        runtime.block_on(async {
            begun.await.expect("the clients begin");
            publish(&server, warm).await;
        });
        let info = allocation_counter::measure(|| {
            runtime.block_on(async {
                publish(&server, counted).await;
                until_done.await.expect("the clients get everything");
            });
        });
        info.count_total
    });
    let addr = server.recv().unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut client = proto::event_service_client::EventServiceClient::new(channel(addr).await);
            for _ in 0..STREAMS / CONNECTIONS {
                let mut request = request(&["call.*.*"]);
                request.heartbeat_interval = Some(prost_types::Duration { seconds: 600, nanos: 0 });
                let mut consumer = Consumer::begin(&mut client, request).await.unwrap();
                consumer.confirmed().await;
                readers.spawn(async move { consumer.events(2 * ROUNDS * BURST).await.len() });
            }
        }
        begin.send(()).unwrap();
        while let Some(count) = readers.join_next().await {
            assert_eq!(count.unwrap(), 2 * ROUNDS * BURST);
        }
        done.send(()).unwrap();
    });
    let allocations = serving.join().unwrap();
    let deliveries = ROUNDS * BURST * STREAMS;
    let each = allocations as f64 / deliveries as f64;
    println!("{allocations} allocations for {deliveries} deliveries: {each:.4}");
    assert!(each <= 0.1, "{allocations} allocations for {deliveries} deliveries: {each}");
}

/// All that the server holds for a stream that is open, was told of its upstream and of an event, and has nothing to read: its
/// place in the hub, its list entry, its call, what HTTP/2 keeps of it.
#[test]
fn a_stream_holds_little() {
    const MANY: usize = 2000;
    let (ready, server) = mpsc::channel();
    let (warm, warmed) = oneshot::channel::<()>();
    let (counting, counted) = oneshot::channel::<()>();
    let (begin, begun) = oneshot::channel::<()>();
    let (done, until_done) = oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(Direct::start());
        ready.send(server.addr).unwrap();
        // The connections, and a first stream on each.
        runtime.block_on(warmed).expect("the clients begin");
        counting.send(()).unwrap();
        let info = allocation_counter::measure(|| {
            runtime.block_on(async {
                begun.await.expect("all streams begin");
                server.account.record(live());
                publish(&server, events(1)).await;
                until_done.await.expect("all streams have it");
            });
        });
        assert_eq!(server.streams.count(), CONNECTIONS + MANY);
        info.bytes_current
    });
    let addr = server.recv().unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut request = request(&["call.*.*"]);
        request.client_name = "a consumer with a name of its own".into();
        let (mut clients, mut consumers) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let mut client = proto::event_service_client::EventServiceClient::new(channel(addr).await);
            consumers.push(Consumer::begin(&mut client, request.clone()).await.unwrap());
            clients.push(client);
        }
        warm.send(()).unwrap();
        counted.await.unwrap();
        for number in 0..MANY {
            let client = &mut clients[number % CONNECTIONS];
            consumers.push(Consumer::begin(client, request.clone()).await.unwrap());
        }
        begin.send(()).unwrap();
        for consumer in &mut consumers {
            consumer.event().await;
        }
        done.send(()).unwrap();
        // They stay until the server has counted.
        let held = serving.join().unwrap();
        let each = held / MANY as i64;
        println!("{held} bytes for {MANY} streams: {each} each");
        assert!(each <= 2560, "{each} bytes for each stream");
    });
}

fn events(count: usize) -> Vec<IncomingEvent> {
    let filler = "x".repeat(1000);
    (0..count)
        .map(|index| {
            let data = format!(r#"{{"call_id":"{index}","filler":"{filler}"}}"#);
            incoming(&format!("call.{ACCOUNT}.CHANNEL_CREATE.{index}"), &data)
        })
        .collect()
}

/// In bursts, each when the one before is encoded: one frame for each event, whoever takes it.
async fn publish(server: &Direct, events: Vec<IncomingEvent>) {
    let mut events = events.into_iter().peekable();
    while events.peek().is_some() {
        let mut all = server.hub.encodes().frames;
        for event in events.by_ref().take(BURST) {
            server.account.append(event);
            all += 1;
        }
        soon("the burst is encoded", async {
            while server.hub.encodes().frames < all {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
