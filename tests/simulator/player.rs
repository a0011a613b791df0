//! Plays a recording to a simulator, and compares.

mod remarks;
mod upgrades;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawking::{
    binding::Flavour,
    clock::TokioClock,
    random::SeededRandom,
    sim::{ManualStopwatch, Settings, Simulator},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    expect::{frames, normal, normal_head},
    recording::{Line, python_bytes},
    unseen::Pool,
    wire::{Came, Socket, raw, request, upgrade},
};

/// The day of the recordings, 2026-11-24 02:20 UTC: months are resolved by it.
const RECORDED_AT: Duration = Duration::from_secs(1_795_486_800);

/// How long a raw connection is watched for its end.
const QUIET: Duration = Duration::from_millis(100);

/// What a silent connection is given in R26 (see `deviations.rs`).
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);

/// Plays the lines. What differs comes back, with the numbers of the lines.
pub async fn play(flavour: Flavour, number: &str, lines: &[Line]) -> Result<(), Vec<String>> {
    let lines = &without_api(before_modules(lines));
    let stopwatch = Arc::new(ManualStopwatch::default());
    let settings = Settings {
        clock: Arc::new(TokioClock::starting_at(SystemTime::UNIX_EPOCH + RECORDED_AT)),
        stopwatch: stopwatch.clone(),
        random: Arc::new(SeededRandom::new(1)),
        request_timeout: REQUEST_TIMEOUT,
        flavour,
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
        pool: Pool::of(number, lines),
        published: true,
        unseen: BTreeSet::new(),
        lossy: (flavour, number) == (Flavour::V4_3, "14"),
        closing: BTreeSet::new(),
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

/// What comes before modules that are not simulated (see `deviations.rs`).
fn before_modules(lines: &[Line]) -> &[Line] {
    let starts = |line: &Line| line.dir == "control" && line.text.contains("bh_notifications");
    &lines[..lines.iter().position(starts).unwrap_or(lines.len())]
}

/// Leaves out calls of K5's action `api` that were answered (see `deviations.rs`).
fn without_api(lines: &[Line]) -> Vec<Line> {
    let id = |line: &Line| {
        serde_json::from_str::<Value>(&line.text).ok()?["request_id"].as_str().map(str::to_owned)
    };
    let answered = |line: &Line| {
        let reply =
            |other: &&Line| other.dir == "recv" && other.text.contains("success") && id(other) == id(line);
        line.dir == "send"
            && line.text.contains(r#""action": "api""#)
            && lines.iter().any(|other| reply(&other))
    };
    let calls: Vec<Option<String>> = lines.iter().filter(|line| answered(line)).map(id).collect();
    let of_api = |line: &Line| {
        let call = matches!(line.dir.as_str(), "send" | "recv") && calls.contains(&id(line));
        call || line.text.starts_with("request that reached another host")
    };
    lines.iter().filter(|line| !of_api(line)).cloned().collect()
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
    pool: Pool,
    /// Whether the recorder said that it published something, and did nothing else since.
    published: bool,
    /// Where the stretches begin whose unseen events were published.
    unseen: BTreeSet<usize>,
    /// Whether replies vanished that the simulator gives (see `deviations.rs`).
    lossy: bool,
    /// Connections that the client closes.
    closing: BTreeSet<String>,
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
            self.published = matches!(line.dir.as_str(), "control" | "amqp-payload")
                && ["{", "/publish", "/inject", "/hook"].iter().any(|verb| line.text.starts_with(verb));
            // The answers to what was driven before are in: time can move.
            self.stopwatch.set(Duration::from_secs_f64(line.t));
        }
        match line.dir.as_str() {
            "note" => self.note(at, &line).await,
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
                let mut unexpected = self.socket(&line).settle().await;
                // Nor were these always.
                unexpected.retain(|came| !matches!(came, Came::Pong(_)));
                self.compare(at, Vec::new(), unexpected);
                let code = line.text.parse().unwrap();
                self.socket(&line).close(code).await;
                self.closing.extend(line.conn.clone());
            }
            "close" => self.closed(at, &line).await,
            "control" => {
                let (path, body) = line.text.split_once(' ').unwrap_or((&line.text, ""));
                let mut body = body.to_owned();
                if let Some((before, _)) = body.split_once(r#""session_id": "#) {
                    // The one opened last.
                    let sessions = self.sim.control("/sessions", json!({})).unwrap();
                    let latest = sessions["sessions"].as_array().unwrap().last().unwrap();
                    body = format!(r#"{before}"session_id": {}}}"#, latest["session_id"]);
                }
                self.control(path, &body).await;
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

    /// Compares all frames that the connection gets until somebody does something again.
    async fn receive(&mut self, at: usize, line: &Line) {
        let end = (at..self.lines.len()).find(|at| self.lines[*at].drives()).unwrap_or(self.lines.len());
        let run: Vec<usize> = (at..end)
            .filter(|at| self.lines[*at].dir == "recv" && self.lines[*at].conn == line.conn)
            .collect();
        self.done.extend(run.iter().copied());
        if line.conn.as_ref().is_some_and(|label| self.closing.contains(label)) {
            return; // Under way when the client closed: a race.
        }
        let recorded: Vec<Value> = run.iter().map(|at| normal(&self.lines[*at].text)).collect();
        let mut came = Vec::new();
        if self.lossy {
            let all: Vec<Value> = self
                .socket(line)
                .settle()
                .await
                .into_iter()
                .map(|came| match came {
                    Came::Text(text) => normal(&text),
                    other => panic!("{other:?}"),
                })
                .collect();
            let mut rest = all.iter();
            let missing = recorded.iter().find(|recorded| !rest.any(|came| came == *recorded));
            self.compare(at, None, missing);
            return;
        }
        // Between two remarks.
        for window in run.chunk_by(|one, next| !self.lines[*one..*next].iter().any(|line| line.dir == "note"))
        {
            let replies = window.iter().filter(|at| !self.lines[**at].is_event()).count();
            for (place, at) in window.iter().enumerate() {
                if place == replies && !self.published {
                    self.publish_unseen(*at, end).await;
                }
                match self.socket(line).next().await {
                    Some(Came::Text(text)) => came.push(normal(&text)),
                    other => {
                        self.fail(*at, format!("recorded a text frame, came {other:?}"));
                        return;
                    }
                }
            }
        }
        if let Err(difference) = frames(recorded, came) {
            self.fail(at, difference);
        }
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
        if note == Some("an abrupt close (no close frame) frees the slot too") || label.contains("abort") {
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
        if let Some((_, recorded)) = line.text.split_once("reference counts ") {
            self.counted(at, recorded);
            return;
        }
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

    /// The reference counts of what is listened to. (What it is called is Erlang's.)
    fn counted(&mut self, at: usize, recorded: &str) {
        let recorded: Value = serde_json::from_str(&recorded[recorded.find('[').unwrap()..]).unwrap();
        let counts = self.sim.control("/counts", json!({})).unwrap();
        let numbers = |list: &Value| {
            let mut numbers: Vec<i64> =
                list.as_array().unwrap().iter().map(|entry| entry[1].as_i64().unwrap()).collect();
            numbers.sort_unstable();
            numbers
        };
        self.compare(at, numbers(&recorded), numbers(&counts["counts"]));
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
