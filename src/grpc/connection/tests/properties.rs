//! Whatever windows, transports, readers and bursts: each consumer gets every event after its start, in order, once.

use proptest::prelude::*;
use tokio::{task::JoinSet, time::timeout};

use super::*;

#[derive(Debug, Clone)]
struct Consumer {
    /// It comes after so many bursts.
    after: usize,
    format: proto::PayloadFormat,
    /// Milliseconds that it does not read, after each so many events.
    pauses: Vec<(usize, u64)>,
    /// It cancels after so many events.
    cancels: Option<usize>,
}

#[derive(Debug, Clone)]
struct Burst {
    /// The sizes of its events.
    sizes: Vec<usize>,
    /// Milliseconds until the next. None: at once, without even letting anybody run.
    pause: Option<u64>,
}

fn windows() -> impl Strategy<Value = Windows> {
    let window = || prop_oneof![Just(65_535_u32), Just(64 << 10), 65_535..1_000_000_u32, Just(16 << 20)];
    let pipe = prop_oneof![1_000..5_000_usize, 5_000..200_000_usize];
    let read_at_once = prop_oneof![3 => Just(usize::MAX), 1 => 9..100_usize];
    (prop_oneof![1 => 1_000..65_535_u32, 3 => window()], window(), pipe, read_at_once).prop_map(
        |(stream, connection, pipe, read_at_once)| Windows { stream, connection, pipe, read_at_once },
    )
}

fn consumer() -> impl Strategy<Value = Consumer> {
    use proto::PayloadFormat::{Json, None, Struct};
    let pauses = prop::collection::vec((1..20_usize, prop_oneof![Just(0), 1..50_u64, 1000..5000_u64]), 0..5);
    (
        prop_oneof![3 => Just(0), 1 => 0..6_usize],
        prop::sample::select(vec![Json, Json, None, Struct]),
        pauses,
        prop::option::weighted(0.2, 0..100_usize),
    )
        .prop_map(|(after, format, pauses, cancels)| Consumer { after, format, pauses, cancels })
}

fn burst() -> impl Strategy<Value = Burst> {
    let size = prop_oneof![20 => 0..2_000_usize, 1 => 2_000..70_000_usize];
    let sizes = prop_oneof![Just(1..2_usize), Just(32..33_usize), Just(1..70_usize)]
        .prop_flat_map(move |count| prop::collection::vec(size.clone(), count));
    (sizes, prop::option::weighted(0.8, prop_oneof![Just(0), 1..20_u64, 500..3000_u64]))
        .prop_map(|(sizes, pause)| Burst { sizes, pause })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_event_in_order_once(
        connections in prop::collection::vec((windows(), prop::collection::vec(consumer(), 1..6)), 1..3),
        bursts in prop::collection::vec(burst(), 1..8),
        send_buffer_bytes in prop_oneof![Just(16_usize << 10), Just(256 << 10)],
        encrypted in prop::bool::weighted(0.2),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let run = run(connections, bursts, send_buffer_bytes, encrypted);
        runtime.block_on(async { timeout(PATIENCE, run).await }).expect("nobody waits for ever");
    }
}

async fn run(
    connections: Vec<(Windows, Vec<Consumer>)>,
    bursts: Vec<Burst>,
    send_buffer_bytes: usize,
    encrypted: bool,
) {
    // Who does not read comes back in time.
    let settings = config::Grpc {
        send_buffer_bytes,
        stall_timeout: Duration::from_secs(3600),
        keepalive_timeout: Duration::from_secs(3600),
        ..config::Grpc::default()
    };
    let rig = Rig::with(settings, config::Hub::default()).await;
    let mut late = Vec::new();
    let mut running = JoinSet::new();
    let total: usize = bursts.iter().map(|burst| burst.sizes.len()).sum();
    let cancels =
        connections.iter().flat_map(|(_, consumers)| consumers).filter(|c| c.cancels.is_some()).count();
    for (windows, consumers) in connections {
        let client = if encrypted { rig.connect_tls(windows).await } else { rig.connect(windows).await };
        let client = Arc::new(tokio::sync::Mutex::new(client));
        for consumer in consumers {
            if consumer.after == 0 {
                let reader = begin(&mut *client.lock().await, &consumer).await;
                running.spawn(consume(reader, consumer, client.clone()));
            } else {
                late.push((client.clone(), consumer));
            }
        }
    }
    let before = rig.account.status().window.newest.0;
    let mut begin_late = JoinSet::new();
    for (index, burst) in bursts.iter().enumerate() {
        late.retain(|(client, consumer)| {
            let now = consumer.after == index;
            if now {
                let (client, consumer) = (client.clone(), consumer.clone());
                begin_late.spawn(async move {
                    let reader = begin(&mut *client.lock().await, &consumer).await;
                    (reader, consumer, client)
                });
            }
            !now
        });
        for &size in &burst.sizes {
            rig.publish("id", size);
        }
        if let Some(pause) = burst.pause {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    // A last one, so that each knows where the end is.
    while let Some(begun) = begin_late.join_next().await {
        let (reader, consumer, client) = begun.unwrap();
        running.spawn(consume(reader, consumer, client));
    }
    rig.publish(LAST, 0);
    let newest = rig.account.status().window.newest.0;
    let mut cancelled = 0;
    while let Some(consumer) = running.join_next().await {
        let (position, got, whole) = consumer.unwrap();
        assert!(got.is_sorted_by(|one, two| one < two), "in order, once: {got:?}");
        if whole {
            // Nothing but these events is in the log, once all have subscribed.
            let first = position.max(before) + 1;
            let expected: Vec<_> = (first..=newest).collect();
            assert_eq!(got, expected);
        } else {
            cancelled += 1;
            assert_eq!(got, (position.max(before) + 1..).take(got.len()).collect::<Vec<_>>());
        }
    }
    assert!(newest - before > total as u64 - 1, "all were wanted");
    assert!(cancelled <= cancels);
}

/// In simulated time: far more than all pauses together.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
const LAST: &str = "last";

async fn begin(client: &mut Client, consumer: &Consumer) -> Reader {
    let request = proto::SubscribeRequest { payload_format: consumer.format.into(), ..subscribe_request() };
    client.subscribe_with(request).await
}

/// Reads up to the last event, or cancels before. Gives where it began, what it got, and whether it was all.
async fn consume(
    mut reader: Reader,
    consumer: Consumer,
    _connection: Arc<tokio::sync::Mutex<Client>>,
) -> (u64, Vec<u64>, bool) {
    let mut got = Vec::new();
    let mut pauses = consumer.pauses.iter().cycle().copied();
    let (mut left, mut pause) = pauses.next().unwrap_or((usize::MAX, 0));
    loop {
        if consumer.cancels == Some(got.len()) {
            return (reader.position, got, false);
        }
        let event = reader.event().await.unwrap();
        got.push(event.cursor.unwrap().sequence);
        if event.call_id == LAST {
            return (reader.position, got, true);
        }
        left -= 1;
        if left == 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            (left, pause) = pauses.next().unwrap_or((usize::MAX, 0));
        }
    }
}
