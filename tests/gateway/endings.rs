//! Every way in which a stream can end shows as a reason of its own, to the operator and, where it can be told, to the client.

use std::{collections::BTreeSet, time::Duration};

use hawking::{
    config,
    grpc::ended::{Cause, EndedStream},
    proto::{self, event_service_client::EventServiceClient},
};
use tonic::{Code, Status};

use super::harness::*;

const BINDINGS: &[&str] = &["call.*.*"];
const SHORT: Duration = Duration::from_millis(200);

/// A log that holds little.
fn small_log() -> config::Hub {
    config::Hub { log_records: 200, ..config::Hub::default() }
}

/// Larger than the windows of a client, and not too large for one message.
fn large(server: &Direct) {
    let data = format!(r#"{{"call_id":"a","filler":"{}"}}"#, "x".repeat(3 << 20));
    server.publish(&format!("call.{ACCOUNT}.CHANNEL_CREATE.a"), &data);
}

/// More than the log holds.
fn many(server: &Direct) {
    for call in 0..300 {
        server.call("CHANNEL_CREATE", &call.to_string());
    }
}

/// The stream that has ended, the only one.
async fn ended(server: &Direct) -> EndedStream {
    eventually("it has ended", async || !server.streams.ended().newest(1).is_empty()).await;
    assert_eq!(server.streams.count(), 0, "it is not among the open ones any more");
    let mut ended = server.streams.ended().newest(2);
    assert_eq!(ended.len(), 1);
    ended.remove(0)
}

/// Ended for this cause, and the client was told so.
async fn told(server: &Direct, mut consumer: Consumer, cause: Cause) -> Cause {
    let (_, status) = consumer.end().await;
    assert_eq!(Some((status.code(), &*reason(&status))), cause.status(), "{status:?}");
    let ended = ended(server).await;
    assert_eq!(ended.cause, cause);
    assert_eq!(ended.consumer.subscription_id.to_string(), consumer.subscribed.subscription_id);
    cause
}

async fn drained() -> Cause {
    let mut server = Direct::start().await;
    let consumer = server.subscribe(request(BINDINGS)).await;
    server.stop().await;
    told(&server, consumer, Cause::Drained).await
}

async fn drain_timeout() -> Cause {
    let mut server = Direct::with(settings(), config::Hub::default(), SHORT).await;
    let _consumer = server.subscribe(request(BINDINGS)).await;
    large(&server);
    eventually("it is being sent", async || server.hub.encodes().frames == 1).await;
    server.stop().await;
    ended(&server).await.cause
}

async fn max_stream_age() -> Cause {
    let settings = config::Grpc { max_stream_age: Some(SHORT), ..settings() };
    let server = Direct::with(settings, config::Hub::default(), SHORT).await;
    let consumer = server.subscribe(request(BINDINGS)).await;
    told(&server, consumer, Cause::MaxStreamAge).await
}

async fn disconnected() -> Cause {
    let server = Direct::start().await;
    let consumer = server.subscribe(request(BINDINGS)).await;
    let id = consumer.subscribed.subscription_id.parse().unwrap();
    assert!(server.streams.disconnect(id).is_some());
    told(&server, consumer, Cause::Disconnected).await
}

async fn deadline_exceeded() -> Cause {
    let server = Direct::start().await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(request(BINDINGS));
    // By hand: tonic's own would end it on the client's side.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let consumer = Consumer::begin(&mut client, request).await.unwrap();
    told(&server, consumer, Cause::DeadlineExceeded).await
}

/// A consumer that was overtaken by a small log while it did not read, on a server that looks after so long whether it does.
async fn overtaken(stall_timeout: Duration) -> (Direct, Consumer) {
    let settings = config::Grpc { stall_timeout, ..settings() };
    let server = Direct::with(settings, small_log(), SHORT).await;
    let mut consumer = server.subscribe(request(BINDINGS)).await;
    consumer.confirmed().await;
    large(&server);
    eventually("it is being sent", async || server.hub.encodes().frames == 1).await;
    many(&server);
    (server, consumer)
}

async fn slow_consumer() -> Cause {
    // It is not looked at before it reads again.
    let (server, consumer) = overtaken(Duration::from_secs(600)).await;
    told(&server, consumer, Cause::SlowConsumer).await
}

async fn slow_consumer_not_reading() -> Cause {
    // Looked at often, but long before it counts as not reading for that alone.
    let (server, _consumer) = overtaken(Duration::from_secs(4)).await;
    let ended = ended(&server).await;
    assert!(ended.lag >= 300, "{}", ended.lag);
    ended.cause
}

async fn not_reading() -> Cause {
    let settings = config::Grpc { stall_timeout: SHORT, ..settings() };
    let server = Direct::with(settings, config::Hub::default(), SHORT).await;
    let mut consumer = server.subscribe(request(BINDINGS)).await;
    consumer.confirmed().await;
    large(&server);
    ended(&server).await.cause
}

async fn account_removed() -> Cause {
    let server = Direct::start().await;
    let consumer = server.subscribe(request(BINDINGS)).await;
    server.hub.remove(&account_id(ACCOUNT));
    told(&server, consumer, Cause::AccountRemoved).await
}

async fn client_cancelled() -> Cause {
    let server = Direct::start().await;
    let mut client = server.client().await;
    let consumer = Consumer::begin(&mut client, request(BINDINGS)).await.unwrap();
    drop(consumer);
    let cause = ended(&server).await.cause;
    drop(client);
    cause
}

/// A client in a runtime of its own, which has read `Subscribed` and does nothing any more: it neither reads nor answers.
fn frozen(server: &Direct) -> (tokio::runtime::Runtime, Consumer) {
    let addr = server.addr;
    let begin = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let consumer = runtime.block_on(async {
            let mut client = EventServiceClient::new(channel(addr).await);
            Consumer::begin(&mut client, request(BINDINGS)).await.unwrap()
        });
        (runtime, consumer)
    };
    std::thread::spawn(begin).join().unwrap()
}

async fn connection_lost() -> Cause {
    let server = Direct::start().await;
    let (runtime, consumer) = frozen(&server);
    // Its socket goes with it, and it cannot say goodbye.
    runtime.shutdown_background();
    let cause = ended(&server).await.cause;
    drop(consumer);
    cause
}

async fn keepalive_timeout() -> Cause {
    let settings = config::Grpc { keepalive_interval: SHORT, keepalive_timeout: SHORT, ..settings() };
    let server = Direct::with(settings, config::Hub::default(), SHORT).await;
    let (runtime, consumer) = frozen(&server);
    let cause = ended(&server).await.cause;
    runtime.shutdown_background();
    drop(consumer);
    cause
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_a_cause_of_its_own() {
    let mut seen = BTreeSet::new();
    macro_rules! ends {
        ($($way:ident => $cause:ident,)*) => {$(
            assert_eq!($way().await, Cause::$cause, stringify!($way));
            seen.insert(Cause::$cause.as_str());
        )*};
    }
    ends! {
        drained => Drained,
        drain_timeout => DrainTimeout,
        max_stream_age => MaxStreamAge,
        disconnected => Disconnected,
        deadline_exceeded => DeadlineExceeded,
        slow_consumer => SlowConsumer,
        slow_consumer_not_reading => SlowConsumerNotReading,
        not_reading => NotReading,
        account_removed => AccountRemoved,
        client_cancelled => ClientCancelled,
        connection_lost => ConnectionLost,
        keepalive_timeout => KeepaliveTimeout,
    }
    let unseen: Vec<Cause> = Cause::ALL.into_iter().filter(|cause| !seen.contains(cause.as_str())).collect();
    assert_eq!(unseen, [Cause::Internal], "a defect cannot be had on purpose");
}

/// What does not even begin is told why, and leaves no stream behind.
#[tokio::test]
async fn a_refusal_is_no_stream() {
    let hub = config::Hub { max_subscriptions: 1, ..config::Hub::default() };
    let server = Direct::with(settings(), hub, SHORT).await;
    let mut client = server.client().await;
    let mut refused = async |request: proto::SubscribeRequest| -> Status {
        match Consumer::begin(&mut client, request).await {
            Ok(_) => panic!("it is let in"),
            Err(status) => status,
        }
    };
    let stranger = proto::SubscribeRequest { account_id: STRANGER.into(), ..request(BINDINGS) };
    let status = refused(stranger).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "ACCOUNT_NOT_CONFIGURED"));
    let status = refused(request(&["nonsense"])).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "INVALID_BINDING"));
    let _only = server.subscribe(request(BINDINGS)).await;
    let status = refused(request(BINDINGS)).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "SUBSCRIPTION_LIMIT"));
    assert_eq!((server.streams.count(), server.streams.ended().newest(9).len()), (1, 0));
}
