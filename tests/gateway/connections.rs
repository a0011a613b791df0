//! What a connection may do before it says anything sensible.

use std::time::{Duration, Instant};

use hawking::config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;

/// Waits until the server has closed the connection; gives what it said before.
async fn closed(mut socket: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end as well.
    let _ = soon("the server closes", socket.read_to_end(&mut said)).await;
    said
}

async fn short_handshake() -> Direct {
    let settings = config::Grpc { handshake_timeout: Duration::from_millis(200), ..settings() };
    Direct::with(settings, config::Hub::default(), Duration::from_secs(10)).await
}

#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let server = short_handshake().await;
    let began = Instant::now();
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let mut halfway = TcpStream::connect(server.addr).await.unwrap();
    halfway.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    closed(silent).await;
    closed(halfway).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn who_said_hello_may_be_idle() {
    let server = short_handshake().await;
    let mut client = server.client().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    server.call("CHANNEL_CREATE", "a");
    assert_eq!(consumer.event().await.call_id, "a");
}

#[tokio::test]
async fn what_is_no_http2_is_closed_at_once() {
    let server = Direct::start().await;
    for hello in [
        &b"GET / HTTP/1.1\r\nhost: hawking\r\n\r\n"[..],
        &[0; 1024],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(hello).await.unwrap();
        let began = Instant::now();
        closed(socket).await;
        assert!(began.elapsed() < Duration::from_secs(5), "handshake_timeout of 10 s was not needed");
    }
}

#[tokio::test]
async fn connections_are_bounded_and_given_back() {
    let settings = config::Grpc { max_connections: 2, ..settings() };
    let server = Direct::with(settings, config::Hub::default(), Duration::from_secs(10)).await;
    let mut client = server.client().await;
    let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    let second = server.client().await;
    assert_eq!(closed(TcpStream::connect(server.addr).await.unwrap()).await, b"", "the third is refused");

    drop(second);
    eventually("a place is free", async || {
        let Ok(endpoint) = tonic::transport::Channel::from_shared(format!("http://{}", server.addr)) else {
            return false;
        };
        let Ok(channel) = endpoint.connect().await else { return false };
        let mut client = hawking::proto::event_service_client::EventServiceClient::new(channel);
        client.list_binding_types(hawking::proto::ListBindingTypesRequest {}).await.is_ok()
    })
    .await;
    server.call("CHANNEL_CREATE", "a");
    assert_eq!(consumer.event().await.call_id, "a", "nobody else noticed");
}
