//! Plays a recording to a simulator, and compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawking::{
    clock::TokioClock,
    random::SeededRandom,
    sim::{ManualStopwatch, Settings, Simulator},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    expect::{frames, normal, normal_head, normal_headers},
    recording::{Line, python_bytes},
    wire::{Came, Socket, raw, request, upgrade},
};

/// The day of the recordings, 2026-11-24 02:20 UTC: months are resolved by it.
const RECORDED_AT: Duration = Duration::from_secs(1_795_486_800);

/// How long a raw connection is watched for its end.
const QUIET: Duration = Duration::from_millis(100);

/// What a silent connection is given in R26 (see `deviations.rs`).
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);

/// Plays the lines. What differs comes back, with the numbers of the lines.
pub async fn play(lines: &[Line]) -> Result<(), Vec<String>> {
    let stopwatch = Arc::new(ManualStopwatch::default());
    let settings = Settings {
        clock: Arc::new(TokioClock::starting_at(SystemTime::UNIX_EPOCH + RECORDED_AT)),
        stopwatch: stopwatch.clone(),
        random: Arc::new(SeededRandom::new(1)),
        request_timeout: REQUEST_TIMEOUT,
        ..Settings::default()
    };
    let sim = Simulator::start(settings).await.unwrap();
    let mut player = Player {
        lines,
        sim: sim.clone(),
        stopwatch,
        sockets: BTreeMap::new(),
        latest: None,
        done: BTreeSet::new(),
        control_reply: None,
        http_answer: None,
        raw_sent: None,
        replaced: Vec::new(),
        failures: Vec::new(),
    };
    for at in 0..lines.len() {
        if !player.done.contains(&at) {
            player.line(at).await;
        }
    }
    player.leftovers().await;
    let failures = std::mem::take(&mut player.failures);
    drop(player);
    sim.shutdown().await;
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

struct Player<'a> {
    lines: &'a [Line],
    sim: Simulator,
    stopwatch: Arc<ManualStopwatch>,
    sockets: BTreeMap<String, Socket>,
    /// The connection opened last: raw frames are its own where the recording does not say.
    latest: Option<String>,
    /// Lines compared ahead of their turn.
    done: BTreeSet<usize>,
    control_reply: Option<String>,
    http_answer: Option<String>,
    raw_sent: Option<Vec<u8>>,
    /// Texts of the recording that stand for others now: tokens, session ids.
    replaced: Vec<(String, String)>,
    failures: Vec<String>,
}

fn address(url: &url::Url) -> SocketAddr {
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap()
}

impl Player<'_> {
    fn fail(&mut self, at: usize, message: String) {
        self.failures.push(format!("line {}: {message}", at + 1));
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, at: usize, recorded: T, came: T) {
        if recorded != came {
            self.fail(at, format!("recorded {recorded:?}\n    came     {came:?}"));
        }
    }

    fn socket(&mut self, line: &Line) -> &mut Socket {
        let label = line.conn.clone().or_else(|| self.latest.clone()).expect("a connection");
        self.sockets.get_mut(&label).unwrap_or_else(|| panic!("connection {label} is open"))
    }

    async fn line(&mut self, at: usize) {
        let line = self.lines[at].clone();
        if line.drives() {
            // The answers to what was driven before are in: time can move.
            self.stopwatch.set(Duration::from_secs_f64(line.t));
        }
        match line.dir.as_str() {
            "note" => {}
            "open" => self.open(at, &line).await,
            "send" => {
                let message = match python_bytes(&line.text) {
                    Some(bytes) => Message::Binary(bytes.into()),
                    None => Message::Text(self.replace(&line.text).into()),
                };
                self.socket(&line).send(message).await;
            }
            "recv" => self.receive(at, &line).await,
            "send-ping" => {
                let payload = python_bytes(&line.text).unwrap();
                self.socket(&line).send(Message::Ping(payload.into())).await;
            }
            "send-pong" => {
                let payload = line.text.clone().into_bytes();
                self.socket(&line).send(Message::Pong(payload.into())).await;
            }
            "recv-pong" => {
                let (payload, _) = line.text.rsplit_once(" after ").unwrap();
                let recorded = Some(Came::Pong(python_bytes(payload).unwrap()));
                let came = self.socket(&line).next().await;
                self.compare(at, recorded, came);
            }
            "send-close" => {
                // What the server sent until now and nobody has asked for was not recorded.
                let unexpected = self.socket(&line).settle().await;
                self.compare(at, Vec::new(), unexpected);
                let code = line.text.parse().unwrap();
                self.socket(&line).close(code).await;
            }
            "close" => self.closed(at, &line).await,
            "control" => {
                let (path, body) = line.text.split_once(' ').unwrap_or((&line.text, ""));
                self.control(path, body).await;
            }
            "amqp-payload" => {
                let body = format!(r#"{{"api":"call_event","event":{}}}"#, line.text);
                self.control("/publish", &body).await;
                // The recording has no reply to it.
                self.control_reply = None;
            }
            "control-reply" => self.control_replied(at, &line),
            "http" => self.http(at, &line).await,
            "http-send" => {
                let mut parts = line.text.splitn(3, ' ');
                let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
                let body = self.replace(parts.next().unwrap_or_default());
                let to = address(&self.sim.crossbar_url());
                let (status, body) = request(to, method, path, &[], &body).await;
                self.http_answer = Some(format!("{status} {body}"));
            }
            "http-recv" => {
                let came = self.http_answer.take().unwrap_or_default();
                self.answered(at, &line.text, &came);
            }
            "send-raw" => {
                let bytes = line.text.split_once(": ").map_or("", |(_, bytes)| bytes);
                self.raw_sent = Some(bytes.as_bytes().to_vec());
            }
            "recv-raw" => self.raw_received(at, &line).await,
            other => panic!("line {}: {other} is not played", at + 1),
        }
    }

    async fn open(&mut self, at: usize, line: &Line) {
        // What was special about the request stands in the note before it.
        let note = self.lines[..at].last().filter(|line| line.dir == "note").map(|line| line.text.as_str());
        let (path, headers): (&str, &[(&str, &str)]) = match note {
            Some("any path and query is accepted") => ("/some/path?with=query", &[]),
            Some("permessage-deflate offered by the client") => {
                ("/", &[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")])
            }
            Some("token in the http upgrade header instead") => ("/", &[("x-auth-token", "tok-acct2")]),
            _ => ("/", &[]),
        };
        let upgraded = upgrade(address(&self.sim.blackhole_url()), path, headers).await;
        let (status, recorded) = line.text.split_once(' ').unwrap();
        let recorded: BTreeMap<String, String> = serde_json::from_str(recorded).unwrap();
        self.compare(at, status.parse().unwrap(), upgraded.status);
        let pairs = |(name, value)| (String::as_str(name), String::as_str(value));
        let recorded = normal_headers(recorded.iter().map(pairs));
        let came =
            normal_headers(upgraded.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.compare(at, recorded, came);
        if let Some(socket) = upgraded.socket {
            let label = line.conn.clone().unwrap();
            self.latest = Some(label.clone());
            self.sockets.insert(label, socket);
        }
    }

    /// Compares all frames that the connection gets until somebody does something again.
    async fn receive(&mut self, at: usize, line: &Line) {
        let end = (at..self.lines.len()).find(|at| self.lines[*at].drives()).unwrap_or(self.lines.len());
        let run: Vec<usize> = (at..end)
            .filter(|at| self.lines[*at].dir == "recv" && self.lines[*at].conn == line.conn)
            .collect();
        let recorded: Vec<Value> = run.iter().map(|at| normal(&self.lines[*at].text)).collect();
        let mut came = Vec::new();
        for _ in &run {
            match self.socket(line).next().await {
                Some(Came::Text(text)) => came.push(normal(&text)),
                other => {
                    self.fail(at, format!("recorded a text frame, came {other:?}"));
                    break;
                }
            }
        }
        if let Err(difference) = frames(recorded, came) {
            self.fail(at, difference);
        }
        self.done.extend(run);
    }

    async fn closed(&mut self, at: usize, line: &Line) {
        let code = line.text.strip_prefix("peer close frame: ").unwrap().split(';').next().unwrap();
        let recorded = match code.strip_prefix("code ") {
            Some(code) => Came::Close(Some(code.split(' ').next().unwrap().parse().unwrap())),
            None => Came::End,
        };
        let label = line.conn.clone().unwrap();
        let mut socket = self.sockets.remove(&label).unwrap();
        let note = self.lines[..at].last().filter(|line| line.dir == "note").map(|line| line.text.as_str());
        if note == Some("an abrupt close (no close frame) frees the slot too") {
            // The client's own doing.
            let before = self.sim.connections();
            drop(socket);
            while self.sim.connections() == before {
                tokio::task::yield_now().await;
            }
            return;
        }
        let came = socket.next().await;
        self.compare(at, Some(recorded.clone()), came);
        if recorded != Came::End {
            let end = socket.next().await;
            self.compare(at, Some(Came::End), end);
        }
    }

    async fn control(&mut self, path: &str, body: &str) {
        let (_, answer) = request(address(&self.sim.control_url()), "POST", path, &[], body).await;
        self.control_reply = Some(answer);
    }

    fn control_replied(&mut self, at: usize, line: &Line) {
        if !line.text.starts_with(['{', '[']) || line.text.contains("kz_hook") {
            return; // What the rig saw inside the Erlang machine.
        }
        // A list without a verb before it: what the rig's own look at the server showed.
        let came = match self.control_reply.take() {
            Some(reply) => normal(&reply),
            None => {
                let sessions = self.sim.control("/sessions", json!({})).unwrap();
                let sessions = sessions["sessions"].as_array().unwrap().iter();
                sessions.map(|session| session["bindings"].clone()).collect()
            }
        };
        self.compare(at, normal(&line.text), came);
    }

    /// An upgrade refused, `429 {HEADERS} BODY`, or a request with its answer: `GET PATH -> (200, 'BODY')`.
    async fn http(&mut self, at: usize, line: &Line) {
        let Some((request_line, answer)) = line.text.split_once(" -> ") else {
            let (status, recorded) = line.text.split_once(' ').unwrap();
            let recorded: BTreeMap<String, String> =
                serde_json::from_str(&recorded.trim().replace('\'', "\"")).unwrap();
            let upgraded = upgrade(address(&self.sim.blackhole_url()), "/", &[]).await;
            self.compare(at, status.parse().unwrap(), upgraded.status);
            let recorded =
                normal_headers(recorded.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let came =
                normal_headers(upgraded.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            self.compare(at, recorded, came);
            return;
        };
        let (method, path) = request_line.split_once(' ').unwrap();
        let (status, body) = answer.strip_prefix('(').unwrap().split_once(", '").unwrap();
        let body = body.strip_suffix("')").unwrap();
        let path = self.replace(path);
        let to = address(&self.sim.crossbar_url());
        let (came_status, came_body) = request(to, method, &path, &[("x-auth-token", "tok-acct2")], "").await;
        self.answered(at, &format!("{status} {body}"), &format!("{came_status} {came_body}"));
    }

    fn answered(&mut self, at: usize, recorded: &str, came: &str) {
        let (recorded_status, recorded_body) = recorded.split_once(' ').unwrap();
        let (came_status, came_body) = came.split_once(' ').unwrap_or_default();
        self.compare(at, (recorded_status, normal(recorded_body)), (came_status, normal(came_body)));
        // Later lines speak of the token or the session of this answer.
        let value = |body: &str| serde_json::from_str::<Value>(body).unwrap_or_default();
        let (recorded, came) = (value(recorded_body), value(came_body));
        for pointer in ["/auth_token", "/data/0/websocket_session_id"] {
            if let (Some(Value::String(old)), Some(Value::String(new))) =
                (recorded.pointer(pointer), came.pointer(pointer))
            {
                self.replaced.push((old.clone(), new.clone()));
            }
        }
    }

    fn replace(&self, text: &str) -> String {
        // The hash of a password that was not recorded.
        let known = ("a98ec90ac2c0091835fee943b71a9138", "ba3c4b80d48686f4d7eb728a97d8760e");
        let replaced = self.replaced.iter().map(|(old, new)| (old.as_str(), new.as_str()));
        replaced.chain([known]).fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    }

    async fn raw_received(&mut self, at: usize, line: &Line) {
        let to = address(&self.sim.blackhole_url());
        match self.raw_sent.take() {
            Some(bytes) => {
                let began = tokio::time::Instant::now();
                let (came, open) = raw(to, &bytes, QUIET).await;
                if let Some((recorded, _)) = line.text.split_once(" after 5.0 s") {
                    assert_eq!(recorded, "b''");
                    self.compare(at, ("", false), (came.as_str(), open));
                    if began.elapsed() < REQUEST_TIMEOUT {
                        self.fail(at, "the silent connection was closed early".into());
                    }
                    return;
                }
                let end = if open { "<open>" } else { "<EOF>" };
                self.compare(at, normal_head(&line.text), normal_head(&format!("{came} {end}")));
            }
            // R21: a connection of its own subscribes once, and is listened to for long.
            None => {
                let mut socket = upgrade(to, "/", &[]).await.socket.unwrap();
                let account = "account0000000000000000000000002";
                let data = json!({ "account_id": account, "binding": "call.CHANNEL_CREATE.*" });
                let subscribe = json!({
                    "action": "subscribe", "auth_token": "tok-acct2", "request_id": "raw", "data": data,
                });
                socket.send(Message::Text(subscribe.to_string().into())).await;
                let seen: Vec<String> = socket
                    .settle()
                    .await
                    .into_iter()
                    .map(|came| match came {
                        Came::Text(text) => format!("op=1 b'{text}'"),
                        other => format!("{other:?}"),
                    })
                    .chain(["connection still open".to_owned()])
                    .collect();
                let recorded: Vec<String> = serde_json::from_str(&line.text).unwrap();
                self.compare(at, recorded, seen);
            }
        }
    }

    /// What came on connections that the recording does not close, and was not recorded.
    async fn leftovers(&mut self) {
        for (label, mut socket) in std::mem::take(&mut self.sockets) {
            let unexpected = socket.settle().await;
            if !unexpected.is_empty() {
                self.failures.push(format!("the end: {label} got {unexpected:?}"));
            }
        }
    }
}
