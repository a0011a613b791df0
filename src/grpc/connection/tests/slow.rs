//! Consumers that do read, but not fast enough.

use super::*;

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
