//! Consumers that do read, but not fast enough.

use super::*;
use crate::hub::HELD_PER_STREAM;

/// Stalled streams are looked at because of another, which does not read; one that reads a little happens to have no window
/// just then. It is told, as who reads must be, and not reset as if it did not.
#[tokio::test(start_paused = true)]
async fn who_reads_a_little_is_told_that_the_log_has_overtaken_it() {
    let hub = config::Hub { log_bytes: 1 << 20, ..config::Hub::default() };
    let rig = Rig::with(config::Grpc::default(), hub).await;
    let mut client = rig.connect(Windows { stream: 64 << 10, ..WIDE }).await;
    let skip = proto::SubscribeRequest {
        overflow_policy: proto::OverflowPolicy::Skip.into(),
        ..subscribe_request()
    };
    let _unread = client.subscribe_with(skip).await;
    let mut slow = client.subscribe().await;
    let publish = async |count: usize| {
        for index in 0..count {
            rig.publish(&index.to_string(), 10_000);
            tokio::task::yield_now().await;
        }
    };
    // From here on there is a look every 3.75 s.
    publish(7).await;
    for _ in 0..7 {
        slow.event().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    publish(200).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut last = 0;
    while let Some(kind) = slow.next().await.unwrap_or_else(|error| panic!("{error}: {:?}", rig.causes())) {
        if let Kind::Event(event) = kind {
            last = event.cursor.unwrap().sequence;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let trailers = slow.trailers().await;
    assert_eq!(trailers["grpc-status"], "10");
    let status = tonic::Status::from_header_map(&trailers).unwrap();
    let details = tonic_types::StatusExt::get_error_details(&status);
    let position = format!("{}:{last}", rig.account.epoch());
    assert_eq!(details.error_info().unwrap().metadata["last_cursor"], position);
    assert_eq!(rig.causes(), [Cause::SlowConsumer]);
}

/// However much a client allows, and however many streams it has: what is taken for a transport that takes nothing is what one
/// may hold.
#[tokio::test(start_paused = true)]
async fn a_transport_that_is_stuck_holds_what_one_stream_may_hold() {
    for streams in [1, 2, 3, 4, 50] {
        let rig = Rig::new().await;
        let Stuck { mut requests, mut connection, server } = rig.stuck().await;
        let mut readers = Vec::new();
        for number in 0..streams {
            // A view for each: they share no frames.
            let names = vec!["CHANNEL_CREATE".to_owned(), format!("OF_{number}")];
            let filter = Some(proto::EventFilter { names, ..Default::default() });
            let (response, mut body) = requests.send_request(call(), false).unwrap();
            let request = proto::SubscribeRequest { filter, ..subscribe_request() };
            body.send_data(message::frame(&request), true).unwrap();
            tokio::select! {
                reader = Reader::begin(response) => readers.push(reader),
                _ = &mut connection => panic!("it ended"),
            }
        }
        // From here on the client's end is not polled. In bursts, so that all streams have much to say at once.
        for _ in 0..20 {
            for index in 0..100 {
                rig.publish(&index.to_string(), 10_000);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let held = rig.hub.memory_use().held;
        assert!(held > 50_000 && held <= HELD_PER_STREAM, "{streams}: {held}");
        assert!(!rig.hub.is_overheld());
        server.abort();
    }
}

/// An event larger than a stream may hold, for a consumer that has stopped to read in the middle of it: it goes before its
/// time, so that the memory comes back. Who goes on reading, however slowly, gets all of it.
#[tokio::test(start_paused = true)]
async fn where_too_much_is_held_who_holds_most_goes_first() {
    let rig = Rig::new().await;
    let mut client = rig.connect(Windows { stream: 64 << 10, ..WIDE }).await;
    // A view for each: they share no frames.
    let named = |name: &str| proto::SubscribeRequest {
        filter: Some(proto::EventFilter {
            names: vec!["CHANNEL_CREATE".into(), name.into()],
            ..Default::default()
        }),
        ..subscribe_request()
    };
    let mut unread = client.subscribe_with(named("UNREAD")).await;
    let mut slow = client.subscribe_with(named("SLOW")).await;
    rig.publish("large", 1 << 20);
    let began = Instant::now();
    let mut size = 0;
    while size < 1 << 20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let data =
            slow.body.data().await.unwrap().unwrap_or_else(|error| panic!("{error}: {:?}", rig.causes()));
        slow.body.flow_control().release_capacity(data.len()).unwrap();
        size += data.len();
        match began.elapsed().as_secs() {
            ..3 => assert_eq!(rig.causes(), []),
            5.. => assert_eq!(rig.causes(), [Cause::NotReading], "only who did not read"),
            _ => {}
        }
    }
    assert!(began.elapsed() > config::Grpc::default().stall_timeout, "{:?}", began.elapsed());
    assert!(unread.event().await.is_err());
    assert_eq!(rig.account.status().subscriptions, 1);
}
