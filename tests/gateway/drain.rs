//! Drain: every stream is told, and all ends in time.

use std::time::{Duration, Instant};

use hawking::{
    config,
    grpc::ended::Cause,
    ops::drain::Reason,
    proto::{self, subscribe_response::Kind},
};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::harness::*;

#[tokio::test]
async fn streams_are_told_where_to_resume() {
    let mut server = Direct::start().await;
    let mut consumers = Vec::new();
    let mut client = server.client().await;
    for _ in 0..5 {
        consumers.push(server.subscribe(request(&["call.*.*"])).await);
        consumers.push(Consumer::begin(&mut client, request(&["call.CHANNEL_CREATE.*"])).await.unwrap());
    }
    server.call("CHANNEL_CREATE", "a");
    let began = Instant::now();
    for consumer in &mut consumers {
        consumer.event().await;
    }
    server.drain.begin(Reason::Shutdown, None);
    for consumer in &mut consumers {
        let (messages, status) = consumer.end().await;
        let Some(Kind::Draining(draining)) = messages.last() else { panic!("{messages:?}") };
        assert_eq!(draining.reason(), proto::DrainReason::Shutdown);
        assert!(draining.position.is_some() && draining.deadline.is_some());
        assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DRAINING"));
    }
    server.ended().await;
    assert!(began.elapsed() < Duration::from_secs(5), "the grace of 10 s was not needed");
    assert_eq!(server.account.status().subscriptions, 0);
    assert!(TcpStream::connect(server.addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let mut server = Direct::start().await;
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    let _idle = server.client().await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "the grace of 10 s was not needed");
}

#[tokio::test]
async fn who_does_not_read_is_cut_after_the_grace() {
    let grace = Duration::from_millis(300);
    let mut server = Direct::with(settings(), config::Hub::default(), grace).await;
    let mut consumer = server.subscribe(request(&["call.*.*"])).await;
    // One event that is larger than all windows and buffers between the two, and is on its way.
    let data = format!(r#"{{"call_id":"a","filler":"{}"}}"#, "x".repeat(30 << 20));
    server.publish(&format!("call.{ACCOUNT}.CHANNEL_CREATE.a"), &data);
    eventually("it is being sent", async || server.hub.encodes().frames == 1).await;
    let began = Instant::now();
    server.stop().await;
    let took = began.elapsed();
    assert!(took >= grace, "{took:?}: it would have been told, had it read");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (_, status) = consumer.end().await;
    assert_ne!(status.code(), Code::Ok);
    assert_eq!(
        server.streams.ended().newest(2).iter().map(|stream| stream.cause).collect::<Vec<_>>(),
        [Cause::DrainTimeout]
    );
}

/// Load balancers and clients hear of it first, and until then nobody who comes is turned away.
#[tokio::test]
async fn it_goes_on_serving_until_others_have_noticed() {
    let shutdown = config::Shutdown {
        endpoint_wait: Duration::from_secs(3600),
        drain_timeout: Duration::from_secs(3600),
        ..config::Shutdown::default()
    };
    let mut server = Direct::draining(settings(), config::Hub::default(), shutdown).await;
    let mut health = HealthClient::new(channel(server.addr).await);
    let mut before = server.subscribe(request(&["call.*.*"])).await;

    server.drain.begin(Reason::Operator, None);
    assert!(!server.drain.is_serving(), "readiness is read here");
    eventually("health says so", async || {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        answer.status() == ServingStatus::NotServing
    })
    .await;
    let mut after = server.subscribe(request(&["call.*.*"])).await;
    server.call("CHANNEL_CREATE", "a");
    for consumer in [&mut before, &mut after] {
        assert_eq!(consumer.event().await.call_id, "a");
    }

    assert!(server.drain.skip_wait());
    for consumer in [&mut before, &mut after] {
        let (messages, status) = consumer.end().await;
        let Some(Kind::Draining(draining)) = messages.last() else { panic!("{messages:?}") };
        assert_eq!(draining.reason(), proto::DrainReason::Operator);
        assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DRAINING"));
    }
    drop(health);
    server.ended().await;
    assert!(server.drain.is_done());
}

/// Also where there is no time for others to notice: whoever watches is told before the connection ends.
#[tokio::test]
async fn health_says_so_even_where_streams_end_at_once() {
    let mut server = Direct::start().await;
    let mut health = HealthClient::new(channel(server.addr).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut said = Vec::new();
    let first = soon("a first answer", watch.message()).await.unwrap().unwrap();
    said.push(first.status());
    server.drain.begin(Reason::Shutdown, None);
    let status = loop {
        match soon("the end", watch.message()).await {
            Ok(Some(answer)) => said.push(answer.status()),
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(said, [ServingStatus::Serving, ServingStatus::NotServing]);
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DRAINING"));
    server.ended().await;
}
