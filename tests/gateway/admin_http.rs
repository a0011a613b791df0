//! The admin HTTP listener: what probes and scrapers meet.

use std::time::{Duration, Instant};

use hawking::sim::Settings;
use reqwest::{Client, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{harness::*, whole::Whole};

/// A client for plain HTTP: it must come to life where the machine has no certificates of any authority.
fn client() -> Client {
    Client::builder().tls_certs_only([]).no_proxy().build().unwrap()
}

/// A page of the gateway: status, type, text.
pub async fn page(whole: &Whole, path: &str, accept: &str) -> (StatusCode, String, String) {
    let address = whole.gateway.http_addr().expect("it is on");
    let request = client().get(format!("http://{address}{path}")).header("accept", accept);
    let response = soon("the page", request.send()).await.expect("an answer");
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (response.status(), kind, response.text().await.unwrap())
}

async fn status(whole: &Whole, path: &str) -> StatusCode {
    page(whole, path, "*/*").await.0
}

#[tokio::test]
async fn probes_do_not_follow_the_upstream() {
    let whole = Whole::start().await;
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    assert_eq!(status(&whole, "/livez").await, StatusCode::OK);
    assert_eq!(status(&whole, "/readyz").await, StatusCode::OK);

    whole.sim.clone().shutdown().await;
    consumer.until(|kind| matches!(kind, hawking::proto::subscribe_response::Kind::Gap(_))).await;
    assert_eq!(status(&whole, "/livez").await, StatusCode::OK);
    assert_eq!(status(&whole, "/readyz").await, StatusCode::OK);
    soon("the gateway ends", whole.gateway.stop()).await;
}

/// Kubernetes takes an unready server out of its endpoints, and kills one that is not alive: while it drains it is the
/// former only.
#[tokio::test]
async fn a_drain_makes_it_unready_and_leaves_it_alive() {
    let wait = Duration::from_secs(1);
    let whole = Whole::with(Settings::default(), |config| config.shutdown.endpoint_wait = wait).await;
    let address = whole.gateway.http_addr().unwrap();
    let mut consumer = whole.subscribe(request(&["call.*.*"])).await;
    let Whole { gateway, sim } = whole;
    let client = client();
    let ask = |path: &str| {
        let request = client.get(format!("http://{address}{path}"));
        async move { request.send().await.map(|response| response.status()) }
    };
    let stopping = tokio::spawn(gateway.stop());
    let unready = async {
        loop {
            match ask("/readyz").await.expect("it answers while it drains") {
                StatusCode::OK => {}
                status => break status,
            }
        }
    };
    assert_eq!(soon("it is unready", unready).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("/livez").await.expect("it answers"), StatusCode::OK);
    consumer.end().await;
    soon("it ends", stopping).await.unwrap();
    assert!(ask("/livez").await.is_err(), "nobody listens any more");
    sim.shutdown().await;
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let whole = Whole::start().await;
    let (status, kind, text) = page(&whole, "/config", "*/*").await;
    assert_eq!((status, &*kind), (StatusCode::OK, "application/toml; charset=utf-8"));
    assert!(text.contains("[[accounts]]") && text.contains(ACCOUNT), "{text}");
    assert!(text.contains("username = \"demo\"") && !text.contains("\"hawking\""), "{text}");
    whole.stop().await;
}

#[tokio::test]
async fn other_paths_and_methods_are_told_what_there_is() {
    let whole = Whole::start().await;
    let (found, _, index) = page(&whole, "/", "*/*").await;
    assert_eq!(found, StatusCode::OK);
    let (missing, _, text) = page(&whole, "/metricz", "*/*").await;
    assert_eq!(missing, StatusCode::NOT_FOUND);
    for path in ["/livez", "/readyz", "/metrics", "/config"] {
        assert!(index.contains(path) && text.contains(path));
        assert_eq!(status(&whole, path).await, StatusCode::OK, "{path}");
    }

    let url = |path: &str| format!("http://{}{path}", whole.gateway.http_addr().unwrap());
    for path in ["/livez", "/metrics", "/nowhere"] {
        let head = client().head(url(path)).send().await.unwrap();
        let length: usize = head.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 0);
        assert_eq!(head.text().await.unwrap(), "", "a HEAD has no body: {path}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let response = client().request(method.clone(), url("/readyz")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
    whole.stop().await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let whole = Whole::with(Settings::default(), |config| config.admin.http_listen = None).await;
    assert_eq!(whole.gateway.http_addr(), None);
    whole.stop().await;
}

/// Clients who are slow, say too much, or say what is no HTTP, neither get far nor keep others out.
#[tokio::test]
async fn bad_clients_are_held_off() {
    let whole = Whole::start().await;
    let address = whole.gateway.http_addr().unwrap();
    let mut idle = Vec::new();
    // As many as are served at once: who comes then waits until they are held to their time.
    for _ in 0..64 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        idle.push(socket);
    }
    let mut answers = Vec::new();
    for head in [
        format!("GET / HTTP/1.1\r\nhost: a\r\nfiller: {}\r\n\r\n", "x".repeat(20 << 10)),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(100)),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(20 << 10)),
        "no HTTP at all\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // It may be closed before all is written.
        let _ = socket.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = soon("an end", socket.read_to_end(&mut answer)).await;
        answers.push(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned());
    }
    let refused = |answer: &String, status: &str| answer.is_empty() || answer.starts_with(status);
    for (answer, status) in answers.iter().zip(["431", "431", "431", "400", "400"]) {
        assert!(refused(answer, &format!("HTTP/1.1 {status}")), "{answers:?}");
    }
    assert_eq!(status(&whole, "/livez").await, StatusCode::OK);

    // Nor do they hold up the end.
    let began = Instant::now();
    whole.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}
