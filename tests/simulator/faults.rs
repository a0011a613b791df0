//! Faults, most of them in memory under a paused clock: what they do, and that what is said of them is on record.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hawking::{
    binding::{AccountId, Flavour},
    clock::TokioClock,
    sim::{CrossbarFault, Door, Ending, Event, Frame, Happening, Loss, ReplyLoss, Settings, Simulator},
    upstream::TransportError,
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::Instant};
use tokio_tungstenite::tungstenite::Message;

use super::{
    recording,
    wire::{Came, Socket, upgrade, upgrade_in_memory},
};

const ACCOUNT: &str = "account0000000000000000000000002";
const OBJECT: &str = "object.doc_edited.device";

fn settings() -> Settings {
    Settings::simulated(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_486_800), 1)
}

fn simulator() -> Simulator {
    Simulator::in_memory(settings())
}

async fn connect(sim: &Simulator) -> Socket {
    upgrade_in_memory(sim).await.socket.unwrap()
}

async fn send(socket: &mut Socket, id: &str, binding: &str) {
    let data = json!({ "account_id": ACCOUNT, "binding": binding });
    let message = json!({ "action": "subscribe", "auth_token": "tok-acct2", "request_id": id, "data": data });
    socket.send(Message::Text(message.to_string().into())).await;
}

async fn text(socket: &mut Socket) -> Value {
    match socket.next().await {
        Some(Came::Text(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("no text but {other:?}"),
    }
}

async fn subscribe(socket: &mut Socket, binding: &str) -> Value {
    send(socket, "r", binding).await;
    let reply = text(socket).await;
    assert_eq!(reply["status"], "success", "{reply}");
    reply
}

async fn ready(sim: &Simulator, binding: &str) -> Socket {
    let mut socket = connect(sim).await;
    subscribe(&mut socket, binding).await;
    socket
}

fn device(sim: &Simulator, id: &str) -> Event {
    Event::document(&sim.accounts()[1], "doc_edited", "device", id)
}

fn call(sim: &Simulator, id: &str) -> Event {
    Event::call(&sim.accounts()[1], "CHANNEL_CREATE", id)
}

fn account() -> AccountId {
    ACCOUNT.parse().unwrap()
}

fn lost(sim: &Simulator, why: Loss) -> usize {
    let lost = |what: &Happening| matches!(what, Happening::Lost(_, by) if *by == why);
    sim.record().iter().filter(|exchange| lost(&exchange.what)).count()
}

fn endings(sim: &Simulator) -> Vec<Ending> {
    let ending = |what| match what {
        Happening::Closed(ending) => Some(ending),
        _ => None,
    };
    sim.record().into_iter().filter_map(|exchange| ending(exchange.what)).collect()
}

#[tokio::test(start_paused = true)]
async fn silence_by_a_listener_restart_or_a_foreign_unsubscribe_until_somebody_subscribes() {
    let sim = simulator();
    let mut socket = ready(&sim, OBJECT).await;
    for silence in ["/restart_listener", "/unsubscribe"] {
        assert_eq!(sim.publish(&device(&sim, "d")), Ok(1), "before {silence}");
        let body = json!({ "account_id": ACCOUNT, "binding": OBJECT });
        assert_eq!(sim.control(silence, body).unwrap()["ok"], true);
        assert_eq!(sim.publish(&device(&sim, "d")), Ok(0), "after {silence}");
        assert_eq!(text(&mut socket).await["action"], "event");
        subscribe(&mut socket, OBJECT).await;
    }
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_unsubscribe_does_not_touch_other_bindings() {
    let sim = simulator();
    let _socket = ready(&sim, OBJECT).await;
    sim.foreign_unsubscribe(&account(), "call.*.*");
    sim.foreign_unsubscribe(&sim.accounts()[2].id, OBJECT);
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_outage_loses_events_and_ends_by_itself() {
    let sim = simulator();
    let mut socket = ready(&sim, OBJECT).await;
    sim.broker_outage(Duration::from_secs(36));
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(0));
    subscribe(&mut socket, "call.*.*").await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(sim.publish(&call(&sim, "c")), Ok(0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((sim.publish(&device(&sim, "d")), sim.publish(&call(&sim, "c"))), (Ok(1), Ok(1)));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_was_executed() {
    let sim = simulator();
    sim.drop_replies(ReplyLoss::Every(5));
    let mut socket = connect(&sim).await;
    for id in 0..10 {
        send(&mut socket, &id.to_string(), &format!("call.CHANNEL_CREATE.{id}")).await;
    }
    let replies = socket.settle().await.len();
    assert_eq!((replies, lost(&sim, Loss::Fault)), (8, 2));
    for id in 0..10 {
        assert_eq!(sim.publish(&call(&sim, &id.to_string())), Ok(1));
    }

    sim.drop_replies(ReplyLoss::Share(1.0));
    send(&mut socket, "r", OBJECT).await;
    assert!(socket.settle().await.iter().all(|came| !format!("{came:?}").contains("reply")));
    sim.heal();
    subscribe(&mut socket, OBJECT).await;
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_bind_is_answered_at_once_and_delivers_later() {
    let sim = simulator();
    sim.bind_late(Duration::from_millis(700));
    let start = Instant::now();
    let socket = ready(&sim, OBJECT).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(0));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));

    // One that closes before it came about leaves nothing behind.
    let early = ready(&sim, "object.doc_created.user").await;
    drop((early, socket));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _other = ready(&sim, "object.doc_created.user").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let event = Event::document(&sim.accounts()[1], "doc_created", "user", "u");
    assert_eq!(sim.publish(&event), Ok(1));
    sim.foreign_unsubscribe(&account(), "object.doc_created.user");
    assert_eq!(sim.publish(&event), Ok(0), "the count was one");
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_session_is_open_and_silent() {
    let sim = simulator();
    let mut frozen = ready(&sim, OBJECT).await;
    let mut other = ready(&sim, "call.*.*").await;
    let first = sim.sessions()[0].connection;
    assert_eq!(sim.freeze(Some(first)), 1);
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));
    frozen.send(Message::Ping("x".into())).await;
    assert_eq!(frozen.next().await, None, "no event, no pong");
    assert_eq!(sim.publish(&call(&sim, "c")), Ok(1));
    assert_eq!(text(&mut other).await["name"], "CHANNEL_CREATE");
    let mut new = ready(&sim, "call.*.*").await;
    subscribe(&mut new, OBJECT).await;
    tokio::time::sleep(Duration::from_secs(7200)).await;

    // It can be cut, and thaws.
    assert_eq!(sim.control("/thaw", json!({})).unwrap()["sessions"], 1, "the others were idle for too long");
    assert_eq!(text(&mut frozen).await["name"], "doc_edited");
    assert_eq!(frozen.next().await, Some(Came::Pong(b"x".to_vec())));
    sim.freeze(None);
    assert_eq!(sim.cut(None), 1);
    assert_eq!(frozen.next().await, Some(Came::End));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn delay_and_jitter_keep_the_order() {
    let sim = simulator();
    let mut socket = ready(&sim, OBJECT).await;
    sim.delay(Duration::from_millis(100), Duration::from_millis(50));
    let start = Instant::now();
    for id in 0..50 {
        sim.publish(&device(&sim, &id.to_string())).unwrap();
    }
    for id in 0..50 {
        assert_eq!(text(&mut socket).await["data"]["id"], id.to_string());
        assert!((100..=152).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    }
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn call_events_are_overtaken_and_doubled_and_no_others() {
    let sim = simulator();
    let mut socket = ready(&sim, "call.*.*").await;
    subscribe(&mut socket, OBJECT).await;
    sim.reorder(0.3, Duration::from_millis(20));
    sim.duplicate(0.5);
    let mut expected = 0;
    for id in 0..100 {
        expected += sim.publish(&call(&sim, &format!("{id:03}"))).unwrap();
        expected += sim.publish(&device(&sim, &format!("{id:03}"))).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut calls, mut devices) = (Vec::new(), Vec::new());
    for _ in 0..expected {
        let frame = text(&mut socket).await;
        let name = |key: &str| frame["data"][key].as_str().map(str::to_owned);
        match name("call_id") {
            Some(id) => calls.push(id),
            None => devices.extend(name("id")),
        }
    }
    assert_eq!(devices, (0..100).map(|id| format!("{id:03}")).collect::<Vec<_>>());
    assert!((120..180).contains(&calls.len()), "{}", calls.len());
    assert!(!calls.is_sorted());
    calls.sort();
    calls.dedup();
    assert_eq!(calls.len(), 100);
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn closes_with_any_code_and_after_an_hour_of_silence_with_1000() {
    let sim = simulator();
    for code in [1000, 1011, 4001] {
        let mut socket = ready(&sim, OBJECT).await;
        assert_eq!(sim.close(code, None), 1);
        assert_eq!(socket.next().await, Some(Came::Close(Some(code))));
        assert_eq!(socket.next().await, Some(Came::End));
    }
    let mut silent = ready(&sim, OBJECT).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3590) {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));
        text(&mut silent).await;
    }
    assert_eq!(silent.next().await, Some(Came::Close(Some(1000))), "what it is sent does not count");
    assert_eq!(start.elapsed().as_secs(), 3600);

    let mut short = ready(&sim, OBJECT).await;
    sim.idle_timeout(Duration::from_secs(3));
    assert_eq!(short.next().await, Some(Came::Close(Some(1000))));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn upgrades_are_refused_with_a_status() {
    let sim = simulator();
    for status in [400, 403, 429, 500] {
        sim.refuse_upgrades(Some(status));
        assert_eq!(upgrade_in_memory(&sim).await.status, status);
    }
    sim.refuse_upgrades(None);
    ready(&sim, OBJECT).await;
    let refused: Vec<u16> = sim
        .record()
        .iter()
        .filter_map(|exchange| match exchange.what {
            Happening::Refused { status } => Some(status),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [400, 403, 429, 500]);
    sim.shutdown().await;
}

fn address(sim: &Simulator) -> SocketAddr {
    let url = sim.blackhole_url();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

#[tokio::test]
async fn a_port_closes_resets_hangs_and_opens_again() {
    let sim = Simulator::start(Settings::default()).await.unwrap();
    let to = address(&sim);
    let mut before = upgrade(to, "/", &[]).await.socket.unwrap();
    sim.blackhole_door(Door::Closed);
    // Those that were about to be accepted are reset.
    while TcpStream::connect(to).await.err().map(|error| error.kind()) != Some(ErrorKind::ConnectionRefused) {
        tokio::task::yield_now().await;
    }
    subscribe(&mut before, OBJECT).await;

    sim.control("/blackhole_door", json!({ "door": "resets" })).unwrap();
    let mut reset = loop {
        if let Ok(stream) = TcpStream::connect(to).await {
            break stream;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(reset.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    sim.blackhole_door(Door::Hangs);
    let mut hanging = TcpStream::connect(to).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), hanging.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    sim.heal();
    assert!(hanging.read_u8().await.is_err());
    assert!(upgrade(to, "/", &[]).await.socket.is_some());
    sim.shutdown().await;
}

async fn log_in(sim: &Simulator) -> Result<(u16, Value), TransportError> {
    let body = json!({ "data": { "api_key": "apikey-acct2" } });
    let request = http::Request::put(sim.crossbar_url().join("v2/api_auth").unwrap().as_str())
        .body(Bytes::from(body.to_string()))
        .unwrap();
    let answer = sim.transport().send(request).await?;
    Ok((answer.status().as_u16(), serde_json::from_slice(answer.body()).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn in_memory_doors_and_names() {
    let sim = simulator();
    let dial = sim.dial();
    let error = async |host| dial.dial(host, 5555).await.err().map(|error| error.kind());
    assert_eq!(error("nowhere.sim").await, Some(ErrorKind::NotFound));
    assert_eq!(error("blackhole.sim").await, None);
    for (door, kind, failure) in [
        (Door::Closed, ErrorKind::ConnectionRefused, TransportError::Refused),
        (Door::Resets, ErrorKind::ConnectionReset, TransportError::Broken),
    ] {
        sim.blackhole_door(door);
        sim.crossbar_door(door);
        assert_eq!(error("blackhole.sim").await, Some(kind));
        assert_eq!(log_in(&sim).await.unwrap_err(), failure);
    }
    sim.crossbar_door(Door::Hangs);
    assert!(tokio::time::timeout(Duration::from_secs(600), log_in(&sim)).await.is_err());
    sim.heal();
    assert_eq!(log_in(&sim).await.unwrap().0, 201);
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn crossbar_is_down_slow_or_hangs_where_it_is_told() {
    let sim = simulator();
    let body = json!({ "path": "/v2/api_auth", "delay_ms": 1500, "status": 503 });
    sim.control("/crossbar", body).unwrap();
    let start = Instant::now();
    assert_eq!(log_in(&sim).await.unwrap().0, 503);
    assert_eq!(start.elapsed().as_millis() / 10, 150);
    let elsewhere = CrossbarFault { path: "/v2/user_auth".into(), hangs: true, ..CrossbarFault::default() };
    sim.crossbar_fault(Some(elsewhere.clone()));
    assert_eq!(log_in(&sim).await.unwrap().0, 201);
    sim.crossbar_fault(Some(CrossbarFault { path: String::new(), ..elsewhere }));
    assert!(tokio::time::timeout(Duration::from_secs(600), log_in(&sim)).await.is_err());
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_expire_and_are_refused() {
    let sim = simulator();
    sim.token_life(Duration::from_secs(2));
    let (_, login) = log_in(&sim).await.unwrap();
    let token = login["auth_token"].as_str().unwrap().to_owned();
    let ask = async |token: &str| {
        let mut socket = connect(&sim).await;
        let data = json!({ "account_id": ACCOUNT, "binding": OBJECT });
        let message = json!({ "action": "subscribe", "auth_token": token, "data": data });
        socket.send(Message::Text(message.to_string().into())).await;
        text(&mut socket).await["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask(&token).await, "success");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ask(&token).await, "error");
    assert_eq!(ask("tok-acct2").await, "success");
    sim.refuse_tokens(true);
    assert_eq!(ask("tok-acct2").await, "error");
    sim.shutdown().await;
}

/// R34: nothing is read, until the server has had enough. After how long that is, and how the stream ends, is held against the
/// recording.
async fn a_reader_stops(flavour: Flavour, patience: u64) {
    let recorded = recording::read(flavour, "34");
    let notes = |what: &'static str| {
        let notes = recorded.iter().filter(|line| line.dir == "note");
        notes.filter(move |line| line.text.contains(what)).map(|line| line.t)
    };
    let injected = recorded.iter().find(|line| line.dir == "control-reply").expect("all was published").t;
    let stopped = notes("client stops reading").next().expect("the beginning");
    // The socket took no more from some time on between the two; the session was seen, and then not any more.
    let least = notes("sessions 1").next_back().map_or(0.0, |seen| seen - injected);
    let most = notes("sessions 0").next().expect("the end") - stopped;
    assert_eq!(
        notes("complete frames + 538 bytes of a cut-off frame, last complete frame opcode 1, then EOF")
            .count(),
        1
    );

    let sim = Simulator::in_memory(Settings { flavour, ..settings() });
    let mut socket = ready(&sim, OBJECT).await;
    let start = Instant::now();
    let bulky = "x".repeat(4000);
    for id in 0..2000 {
        sim.publish(&device(&sim, &id.to_string()).with("Bulk", bulky.clone())).unwrap();
    }
    while endings(&sim).is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(endings(&sim), [Ending::Slow]);
    assert!((patience..patience + 2).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert!((least..most).contains(&start.elapsed().as_secs_f64()), "{least} to {most} in the recording");
    assert_eq!(sim.connections(), 0);

    // No close frame: a part of a frame, then the end.
    let mut came = 0;
    let mut last = None;
    while let Some(next) = socket.next().await {
        came += usize::from(matches!(next, Came::Text(_)));
        last = Some(next);
        if last == Some(Came::End) {
            break;
        }
    }
    assert_eq!(last, Some(Came::End));
    let is_sent_event = |what: &Happening| matches!(what, Happening::Sent(Frame::Text(text)) if text.contains(r#""action":"event""#));
    let sent = sim.record().iter().filter(|exchange| is_sent_event(&exchange.what)).count();
    assert_eq!(came, sent, "the record knows what came");
    let by = |why| lost(&sim, why);
    assert_eq!(by(Loss::Torn), 1);
    assert_eq!(by(Loss::Unsent) + by(Loss::Queue), 2000 - sent - 1);
    let limited = flavour != Flavour::K4;
    assert_eq!(
        (by(Loss::Unsent), sim.queue_peak()),
        if limited { (50, 50) } else { (1999 - sent, 1999 - sent) }
    );
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_is_dropped_with_its_last_frame_torn() {
    a_reader_stops(Flavour::K4, 30).await;
    a_reader_stops(Flavour::V4_3, 5).await;
    a_reader_stops(Flavour::K5, 5).await;
}

/// R54: K4 keeps everything for a reader that pauses.
#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_on_k4_gets_everything_at_last() {
    let sim = simulator();
    let mut socket = ready(&sim, "call.*.*").await;
    let bulky = "x".repeat(4000);
    for id in 0..300 {
        sim.publish(&call(&sim, &id.to_string()).with("Bulk", bulky.clone())).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(sim.sessions()[0].waiting > 50, "{}", sim.sessions()[0].waiting);
    for id in 0..300 {
        assert_eq!(text(&mut socket).await["data"]["call_id"], id.to_string());
    }
    assert_eq!(
        (socket.next().await, sim.connections()),
        (None, 1),
        "frames read: all, connection still open"
    );
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn k5_pings_where_it_is_told_to() {
    // R5-87: it does not act on a missing pong, only on silence.
    let sim = Simulator::in_memory(Settings { flavour: Flavour::K5, ..settings() });
    let mut socket = ready(&sim, OBJECT).await;
    sim.control("/config", json!({ "key": "keep_client_alive", "value": true })).unwrap();
    sim.idle_timeout(Duration::from_secs(150));
    let start = Instant::now();
    let next = async |socket: &mut Socket| loop {
        if let Some(came) = socket.next().await {
            break came;
        }
    };
    for minute in 1..5 {
        // Answered by the client, so it stays.
        assert_eq!(next(&mut socket).await, Came::Ping(Vec::new()));
        assert_eq!(start.elapsed().as_secs(), 60 * minute);
    }
    sim.control("/config", json!({ "key": "keep_client_alive" })).unwrap();
    assert_eq!(next(&mut socket).await, Came::Close(Some(1000)));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_events_and_replies_vanish_and_both_are_on_record() {
    let sim = Simulator::in_memory(Settings { max_queued_messages: Some(Some(50)), ..settings() });
    let mut socket = ready(&sim, OBJECT).await;
    // A reader that keeps up loses nothing, whatever comes at once.
    for _ in 0..20 {
        for id in 0..200 {
            assert_eq!(sim.publish(&device(&sim, &id.to_string())), Ok(1));
        }
        for _ in 0..200 {
            text(&mut socket).await;
        }
    }
    assert_eq!((lost(&sim, Loss::Queue), sim.queue_peak()), (0, 0));

    let bulky = "x".repeat(4000);
    for id in 0..1000 {
        sim.publish(&device(&sim, &id.to_string()).with("Bulk", bulky.clone())).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(sim.publish(&device(&sim, "late")), Ok(0));
    assert_eq!(sim.queue_peak(), 50);
    let vanished = lost(&sim, Loss::Queue);
    let mut came = 0;
    while socket.next().await.is_some() {
        came += 1;
    }
    assert_eq!(came + vanished, 1001);
    assert_eq!(sim.publish(&device(&sim, "again")), Ok(1));
    sim.shutdown().await;
}

/// What is asked for while the socket takes nothing waits in the same line as what is to be sent.
#[tokio::test(start_paused = true)]
async fn a_request_has_its_turn_among_the_events_and_its_reply_vanishes_behind_too_many() {
    let settings = Settings { flavour: Flavour::V4_3, send_buffer: 1, ..settings() };
    let sim = Simulator::in_memory(settings);
    let mut socket = ready(&sim, OBJECT).await;
    let mut published = 0;
    let mut publish = |count: usize, bulk: usize| {
        for _ in 0..count {
            sim.publish(&device(&sim, &published.to_string()).with("Bulk", "x".repeat(bulk))).unwrap();
            published += 1;
        }
    };
    // More than pipe and reader take at once: one is being written, the other waits.
    let large = 400_000;
    let settle = || tokio::time::sleep(Duration::from_millis(10));
    let waiting = || sim.sessions()[0].waiting;
    for behind in [48, 60] {
        publish(1, large);
        settle().await;
        publish(1, large);
        assert_eq!(waiting(), 1);
        send(&mut socket, "asked", "call.CHANNEL_CREATE.*").await;
        settle().await;
        publish(behind, 1);
        assert_eq!(waiting(), 1 + behind.min(49));
        // The second one is being written: there is room for one more.
        assert_eq!(text(&mut socket).await["action"], "event");
        settle().await;
        publish(behind - 48, 1);
        let before = lost(&sim, Loss::Queue);
        // It is written, and the request has its turn.
        assert_eq!(text(&mut socket).await["action"], "event");
        settle().await;
        assert_eq!(sim.sessions()[0].bindings.len(), 2, "executed");
        let vanished = lost(&sim, Loss::Queue) - before;
        let came: Vec<bool> =
            socket.settle().await.iter().map(|came| format!("{came:?}").contains("asked")).collect();
        let replies: Vec<usize> = (0..came.len()).filter(|at| came[*at]).collect();
        match behind {
            48 => assert_eq!((vanished, came.len(), replies), (0, 49, vec![48]), "behind all that waited"),
            _ => assert_eq!((vanished, came.len(), replies), (1, 50, vec![])),
        }
    }
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nodes_count_for_themselves_and_events_come_to_all() {
    let sim = Simulator::in_memory(Settings { nodes: 2, ..settings() });
    let (mut one, _two) = (ready(&sim, OBJECT).await, ready(&sim, OBJECT).await);
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(2));
    sim.restart_listener(Some(0));
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(1));
    let _two_more = (ready(&sim, "call.*.*").await, ready(&sim, OBJECT).await);
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(2), "the fourth session is on the second node");
    text(&mut one).await;
    subscribe(&mut one, OBJECT).await;
    assert_eq!(sim.publish(&device(&sim, "d")), Ok(3));
    sim.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_month_turns_with_the_clock_in_the_servers_zone() {
    // 2026-11-30 23:59:00 in Honolulu is 2026-12-01 09:59:00 UTC.
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_119_140);
    let sim = Simulator::in_memory(Settings {
        clock: Arc::new(TokioClock::starting_at(start)),
        time_zone: jiff::tz::TimeZone::get("Pacific/Honolulu").unwrap(),
        ..settings()
    });
    let mut socket = ready(&sim, "object.doc_created.fax").await;
    let fax = Event::document(&sim.accounts()[1], "doc_created", "fax", "f");
    assert_eq!(sim.publish(&fax), Ok(1));
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(sim.publish(&fax), Ok(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sim.publish(&fax), Ok(0));
    let event = text(&mut socket).await;
    assert!(event["routing_key"].as_str().unwrap().contains("-202611."), "{event}");
    text(&mut socket).await;
    subscribe(&mut socket, "object.doc_created.fax").await;
    assert_eq!(sim.publish(&fax), Ok(1));
    sim.shutdown().await;
}

#[tokio::test]
async fn over_tcp_a_reader_that_keeps_up_loses_nothing_and_one_that_stops_gets_what_the_record_says() {
    let settings = Settings {
        flavour: Flavour::V4_3,
        send_timeout: Some(Duration::from_millis(500)),
        ..Settings::default()
    };
    let sim = Simulator::start(settings).await.unwrap();
    let mut socket = upgrade(address(&sim), "/", &[]).await.socket.unwrap();
    subscribe(&mut socket, "call.*.*").await;
    for _ in 0..20 {
        for id in 0..200 {
            assert_eq!(sim.publish(&call(&sim, &id.to_string())), Ok(1));
        }
        for _ in 0..200 {
            text(&mut socket).await;
        }
    }
    assert_eq!((sim.queue_peak(), lost(&sim, Loss::Queue)), (0, 0));

    let bulky = "x".repeat(4000);
    for id in 0..4000 {
        sim.publish(&call(&sim, &id.to_string()).with("Bulk", bulky.clone())).unwrap();
        if id % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while endings(&sim).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(endings(&sim), [Ending::Slow]);
    assert_eq!(sim.queue_peak(), 50);
    let mut came = 4001; // With the reply to the subscription.
    while let Some(Came::Text(_)) = socket.next().await {
        came += 1;
    }
    let sent = |what: &Happening| matches!(what, Happening::Sent(Frame::Text(_)));
    assert_eq!(came, sim.record().iter().filter(|exchange| sent(&exchange.what)).count());
    assert_eq!((lost(&sim, Loss::Torn), lost(&sim, Loss::Unsent)), (1, 50));
    sim.shutdown().await;
}
