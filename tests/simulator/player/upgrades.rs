//! Upgrades that were accepted and refused, and requests with their answers.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::net::TcpStream;

use super::{Player, address};
use crate::simulator::{
    expect::normal_headers,
    recording::Line,
    wire::{PATIENCE, Upgraded, request, upgrade},
};

/// `NAME: {'Header': 'value'}`.
fn noted_header(note: &str) -> Option<(&'static str, &str)> {
    let (_, header) = note.split_once(": {'")?;
    let (name, value) = header.strip_suffix("'}")?.split_once("': '")?;
    match name {
        "Authorization" => Some(("authorization", value)),
        "X-Auth-Token" => Some(("x-auth-token", value)),
        _ => None,
    }
}

impl Player<'_> {
    pub(super) async fn open(&mut self, at: usize, line: &Line) {
        // What was special about the request stands in the note before it.
        let note = self.lines[..at].last().filter(|line| line.dir == "note").map(|line| line.text.as_str());
        let (path, headers): (&str, &[(&str, &str)]) = match note {
            Some("any path and query is accepted") => ("/some/path?with=query", &[]),
            Some("permessage-deflate offered by the client") => {
                ("/", &[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")])
            }
            Some("token in the query") => ("/?auth_token=tok-acct2", &[]),
            Some("token in the http upgrade header instead") => ("/", &[("x-auth-token", "tok-acct2")]),
            _ => ("/", &[]),
        };
        let (path, headers) = match note.and_then(noted_header) {
            Some(header) => (path, vec![header]),
            None => (path, headers.to_vec()),
        };
        let upgraded = self.upgrade(path, &headers).await;
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
            self.closing.remove(&label);
            self.sockets.insert(label, socket);
        }
    }

    /// Asks for an upgrade, once blackhole listens again.
    async fn upgrade(&mut self, path: &str, headers: &[(&'static str, &str)]) -> Upgraded {
        let to = address(&self.sim.blackhole_url());
        self.sim.run_blackhole(true);
        self.listening(to, true).await;
        upgrade(to, path, headers).await
    }

    async fn listening(&self, to: SocketAddr, wanted: bool) {
        let began = tokio::time::Instant::now();
        while TcpStream::connect(to).await.is_ok() != wanted {
            assert!(began.elapsed() < PATIENCE, "blackhole listens: {wanted}");
            tokio::task::yield_now().await;
        }
    }

    /// An upgrade refused, `429 {HEADERS} BODY`, or a request with its answer: `GET PATH -> (200, 'BODY')`.
    pub(super) async fn http(&mut self, at: usize, line: &Line) {
        if line.text.starts_with("ConnectionRefusedError") {
            self.listening(address(&self.sim.blackhole_url()), false).await;
            return;
        }
        let Some((request_line, answer)) = line.text.split_once(" -> ") else {
            let (status, recorded) = line.text.split_once(' ').unwrap();
            let recorded: BTreeMap<String, String> =
                serde_json::from_str(&recorded.trim().replace('\'', "\"")).unwrap();
            let note =
                self.lines[..at].last().filter(|line| line.dir == "note").map(|line| line.text.as_str());
            let header = match (note.and_then(noted_header), line.conn.as_deref()) {
                (Some(header), _) => Some(header),
                (None, Some("badhdr" | "expired")) => Some(("authorization", "Bearer nope")),
                (None, Some("variant")) => Some(("authorization", "Bearer tok-acct2")),
                (None, _) => None,
            };
            let upgraded = self.upgrade("/", header.as_slice()).await;
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
}
