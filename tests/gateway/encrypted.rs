//! Consumers over TLS.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use hawking::{
    config::{self, Config},
    ops::drain::Reason,
    proto::{
        self, admin_service_client::AdminServiceClient, event_service_client::EventServiceClient,
        subscribe_response::Kind,
    },
    sim::{Event, Settings},
};
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig, SupportedProtocolVersion, version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{
    harness::*,
    metrics::{Scrape, until},
    tls::Ca,
    whole::Whole,
};

const NAME: &str = "hawking.example.com";

/// A gateway with a certificate of this authority.
async fn gateway(ca: &Ca, change: impl FnOnce(&mut Config)) -> Whole {
    let (certificate, key) = ca.server_files(&[NAME]);
    Whole::with(Settings::default(), |config| {
        config.grpc.tls = config::GrpcTls { certificate_file: Some(certificate), key_file: Some(key) };
        change(config);
    })
    .await
}

fn client_config(ca: &Ca, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
    let mut config = ca.client(versions);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn ordinary(ca: &Ca) -> ClientConfig {
    client_config(ca, rustls::ALL_VERSIONS, &["h2"])
}

async fn shake(whole: &Whole, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(whole.gateway.grpc_addr()).await?;
    let connector = TlsConnector::from(Arc::new(config));
    soon("a handshake", connector.connect(NAME.try_into().expect("a name"), socket)).await
}

/// tonic's client over TLS.
async fn channel_over_tls(whole: &Whole, config: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    let connector = TlsConnector::from(Arc::new(config));
    let address = whole.gateway.grpc_addr();
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let socket = TcpStream::connect(address).await?;
            let stream = connector.connect(NAME.try_into().expect("a name"), socket).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{NAME}")).expect("a URL");
    soon("connect", endpoint.connect_with_connector(connect)).await
}

async fn client(whole: &Whole, ca: &Ca) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel_over_tls(whole, ordinary(ca)).await.expect("a channel"))
}

async fn assert_serves(whole: &Whole, ca: &Ca) {
    let mut client = client(whole, ca).await;
    let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.expect("a good request");
    consumer.confirmed().await;
    whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "a"));
    assert_eq!(consumer.event().await.name, "CHANNEL_CREATE");
}

fn ended(reason: &str) -> String {
    format!("hawking_connections_ended_total{{reason=\"{reason}\"}}")
}

/// Which alert a handshake was ended with.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref() {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn an_ordinary_client_is_served_and_operators_need_no_tls() {
    let ca = Ca::new("a private CA");
    let whole = gateway(&ca, |_| {}).await;
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        let config = client_config(&ca, versions, &["h2"]);
        let mut client = EventServiceClient::new(channel_over_tls(&whole, config).await.unwrap());
        let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
        consumer.confirmed().await;
        for _ in 0..100 {
            whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", "a"));
        }
        consumer.events(100).await;
    }
    let mut admin = AdminServiceClient::new(channel(whole.gateway.admin_addr()).await);
    let info = admin.get_server_info(proto::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.accounts, 1);
    whole.stop().await;
}

#[tokio::test]
async fn who_trusts_another_authority_or_knows_no_http2_is_refused_and_counted() {
    let (ca, other) = (Ca::new("a private CA"), Ca::new("another private CA"));
    let whole = gateway(&ca, |_| {}).await;

    let error = shake(&whole, ordinary(&other)).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        for alpn in [&[][..], &["http/1.1"], &["http/1.1", "h3"]] {
            let error = shake(&whole, client_config(&ca, versions, alpn)).await.unwrap_err();
            assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol), "{alpn:?}: {error}");
        }
    }
    until(&whole, &ended("tls"), 7.0).await;
    // One that knows both is served.
    let stream = shake(&whole, client_config(&ca, rustls::ALL_VERSIONS, &["http/1.1", "h2"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // The log has the first, and how many there were.
    let suppressed = Scrape::of(&whole).await.get("hawking_suppressed_log_lines_total");
    assert!(suppressed >= 6.0, "{suppressed}");
    assert_serves(&whole, &ca).await;
    whole.stop().await;
}

#[tokio::test]
async fn who_comes_without_tls_fails_at_once() {
    let ca = Ca::new("a private CA");
    let whole = gateway(&ca, |_| {}).await;
    let began = Instant::now();
    let endpoint = Channel::from_shared(format!("http://{}", whole.gateway.grpc_addr())).unwrap();
    // Whether it fails in the connection or in the first call is tonic's to say.
    if let Ok(channel) = soon("an end", endpoint.connect()).await {
        let list =
            EventServiceClient::new(channel).list_accounts(proto::ListAccountsRequest::default()).await;
        // By the connection: no server has answered.
        let status = list.unwrap_err();
        let cause = std::error::Error::source(&status);
        assert!(cause.is_some_and(|cause| cause.is::<tonic::transport::Error>()), "{status:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "handshake_timeout of 10 s was not needed");
    until(&whole, &ended("tls"), 1.0).await;
    // Somebody who looks whether anybody listens.
    drop(TcpStream::connect(whole.gateway.grpc_addr()).await.unwrap());
    until(&whole, &ended("tls"), 2.0).await;
    assert_eq!(Scrape::of(&whole).await.get("hawking_suppressed_log_lines_total"), 0.0, "that is no warning");
    whole.stop().await;
}

/// Before the first byte, within the client's hello, after it: each is ended in time, and until then no one waits for them.
#[tokio::test]
async fn who_stalls_in_the_handshake_is_let_go_and_keeps_nobody_out() {
    const EACH: usize = 20;
    let ca = Ca::new("a private CA");
    let timeout = Duration::from_secs(3);
    let whole = gateway(&ca, |config| config.grpc.handshake_timeout = timeout).await;

    let mut hello = Vec::new();
    let name = NAME.try_into().unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(ordinary(&ca)), name).unwrap();
    session.write_tls(&mut hello).unwrap();
    let began = Instant::now();
    let mut stalled = Vec::new();
    for said in [0, hello.len() / 2, hello.len()] {
        for _ in 0..EACH {
            let mut socket = TcpStream::connect(whole.gateway.grpc_addr()).await.unwrap();
            socket.write_all(&hello[..said]).await.unwrap();
            stalled.push(socket);
        }
    }
    assert_serves(&whole, &ca).await;
    assert!(began.elapsed() < timeout, "it was served while they stalled");
    assert_eq!(Scrape::of(&whole).await.get(&ended("hello_timeout")), 0.0);
    for mut socket in stalled {
        // What the server said to a whole hello, and the end.
        let _ = soon("the server closes", socket.read_to_end(&mut Vec::new())).await;
    }
    assert!(began.elapsed() >= timeout);
    until(&whole, &ended("hello_timeout"), 3.0 * EACH as f64).await;

    // With TLS and without a word of HTTP/2: within the same time.
    let began = Instant::now();
    let mut silent = shake(&whole, ordinary(&ca)).await.unwrap();
    let _ = soon("the server closes", silent.read_to_end(&mut Vec::new())).await;
    let took = began.elapsed();
    assert!(took >= timeout - Duration::from_millis(100) && took < 2 * timeout, "{took:?}");
    whole.stop().await;
}

#[tokio::test]
async fn a_drain_tells_streams_where_to_resume() {
    let ca = Ca::new("a private CA");
    let whole = gateway(&ca, |_| {}).await;
    let mut client = client(&whole, &ca).await;
    let mut consumers = Vec::new();
    for _ in 0..5 {
        consumers.push(Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap());
    }
    // In the middle of a handshake: it holds nothing up.
    let _half = TcpStream::connect(whole.gateway.grpc_addr()).await.unwrap();
    let began = Instant::now();
    whole.gateway.drain().begin(Reason::Shutdown, None);
    for consumer in &mut consumers {
        let (messages, status) = consumer.end().await;
        let Some(Kind::Draining(draining)) = messages.last() else { panic!("{messages:?}") };
        assert!(draining.position.is_some());
        assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "DRAINING"));
    }
    until(&whole, &ended("done"), 2.0).await;
    whole.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "the grace of 10 s was not needed");
}
