//! The simulator's own ways: its record, cutting and injecting, and how it ends.

use std::time::Duration;

use hawking::sim::{Ending, Event, Frame, Happening, Settings, Simulator};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::wire::{Came, Socket, request, upgrade};

const ACCOUNT: &str = "account0000000000000000000000002";

async fn start() -> Simulator {
    Simulator::start(Settings::default()).await.unwrap()
}

fn address(url: &url::Url) -> std::net::SocketAddr {
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

async fn connect(sim: &Simulator) -> Socket {
    upgrade(address(&sim.blackhole_url()), "/", &[]).await.socket.unwrap()
}

async fn ask(socket: &mut Socket, token: &str, action: &str, account: &str, binding: &str) -> Value {
    let data = json!({ "account_id": account, "binding": binding });
    let message = json!({ "action": action, "auth_token": token, "request_id": "r", "data": data });
    socket.send(Message::Text(message.to_string().into())).await;
    match socket.next().await {
        Some(Came::Text(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("no reply but {other:?}"),
    }
}

async fn login(sim: &Simulator, body: Value) -> (u16, Value) {
    let to = address(&sim.crossbar_url());
    let (status, body) = request(to, "PUT", "/v2/user_auth", &[], &body.to_string()).await;
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn logs_in_connects_subscribes_and_gets_what_is_published() {
    let sim = start().await;
    // sha1("demo:hawking")
    let credentials = "8566621fa4ca3823eeb0f15163852ff209b673ea";
    let (status, _) =
        login(&sim, json!({ "data": { "credentials": credentials, "account_name": "x" } })).await;
    assert_eq!(status, 401);
    let md5 = "ba3c4b80d48686f4d7eb728a97d8760e";
    let realm = "wefwefwefwef.2600hz.com";
    let (status, body) = login(&sim, json!({ "data": { "credentials": md5, "account_realm": realm } })).await;
    assert_eq!((status, body["data"]["account_id"].as_str()), (201, Some(ACCOUNT)));
    let token = body["auth_token"].as_str().unwrap();

    let mut socket = connect(&sim).await;
    let reply = ask(&mut socket, token, "subscribe", ACCOUNT, "object.doc_created.user").await;
    assert_eq!(reply["data"]["subscribed"], json!(["object.doc_created.user"]));

    let account = &sim.accounts()[1];
    let event = Event::document(account, "doc_created", "user", "u1");
    assert_eq!(sim.publish(&event), Ok(1));
    assert_eq!(sim.publish(&Event::call(account, "CHANNEL_CREATE", "c")), Ok(0));
    let Some(Came::Text(text)) = socket.next().await else { panic!("no event") };
    let frame: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(frame["name"], "doc_created");
    assert_eq!(frame["data"]["id"], "u1");
    assert_eq!(frame["data"]["msg_id"].as_str().unwrap().len(), 32);
    sim.shutdown().await;
}

#[tokio::test]
async fn the_record_has_every_frame_in_order() {
    let sim = start().await;
    let mut socket = connect(&sim).await;
    ask(&mut socket, "tok-acct2", "subscribe", ACCOUNT, "call.*.*").await;
    let text = r#"{"action":"event","exactly":  "this"}"#;
    assert_eq!(sim.inject_frame(text), 1);
    assert_eq!(socket.next().await, Some(Came::Text(text.to_owned())));

    let requests = sim.subscribe_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].action.as_str(), requests[0].binding.as_str()), ("subscribe", "call.*.*"));
    assert_eq!((sim.connections(), sim.connections_total()), (1, 1));

    socket.close(1000).await;
    assert_eq!(socket.next().await, Some(Came::Close(Some(1000))));
    assert_eq!(socket.next().await, Some(Came::End));
    sim.clone().shutdown().await;
    let record = sim.record();
    let what: Vec<_> = record.iter().map(|exchange| &exchange.what).collect();
    assert!(
        matches!(what[..], [
        Happening::Opened { .. },
        Happening::Received(Frame::Text(_)),
        Happening::Sent(Frame::Text(_)),
        Happening::Sent(Frame::Text(injected)),
        Happening::Received(Frame::Close(Some(1000))),
        Happening::Closed(Ending::Client),
    ] if injected.as_str() == text),
        "{what:?}"
    );
    assert!(record.iter().enumerate().all(|(at, exchange)| exchange.number == at as u64));
}

#[tokio::test]
async fn a_cut_ends_tcp_without_a_close_frame_and_gives_back_what_was_held() {
    let sim = start().await;
    let mut socket = connect(&sim).await;
    ask(&mut socket, "tok-acct2", "subscribe", ACCOUNT, "call.CHANNEL_CREATE.*").await;
    let event = Event::call(&sim.accounts()[1], "CHANNEL_CREATE", "c");
    assert_eq!(sim.publish(&event), Ok(1));
    assert!(matches!(socket.next().await, Some(Came::Text(_))));
    assert_eq!(sim.cut_all(), 1);
    assert_eq!(socket.next().await, Some(Came::End));
    while sim.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sim.publish(&event), Ok(0));
    sim.shutdown().await;
}

#[tokio::test]
async fn shutdown_closes_everything() {
    let sim = start().await;
    let mut socket = connect(&sim).await;
    let idle = TcpStream::connect(address(&sim.blackhole_url())).await.unwrap();
    let keep_alive = TcpStream::connect(address(&sim.crossbar_url())).await.unwrap();
    let to = address(&sim.blackhole_url());
    tokio::time::timeout(Duration::from_secs(2), sim.shutdown()).await.expect("an end in time");
    assert_eq!(socket.next().await, Some(Came::End), "no close frame");
    assert!(TcpStream::connect(to).await.is_err(), "nobody listens");
    drop((idle, keep_alive));
}

#[tokio::test]
async fn another_accounts_unsubscribe_silences_a_session_until_it_subscribes_again() {
    // F37.
    let sim = start().await;
    let mut victim = connect(&sim).await;
    let mut culprit = connect(&sim).await;
    let binding = "object.doc_edited.device";
    ask(&mut victim, "tok-acct2", "subscribe", ACCOUNT, binding).await;
    ask(&mut culprit, "tok-acct3", "unsubscribe", ACCOUNT, binding).await;
    let event = Event::document(&sim.accounts()[1], "doc_edited", "device", "d1");
    assert_eq!(sim.publish(&event), Ok(0));
    ask(&mut victim, "tok-acct2", "subscribe", ACCOUNT, binding).await;
    assert_eq!(sim.publish(&event), Ok(1));
    sim.shutdown().await;
}
