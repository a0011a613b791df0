//! What the recorder did and only remarked, or did not even remark.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Player, address};
use crate::simulator::{
    expect::normal,
    recording::Line,
    wire::{Came, request},
};

/// Longer than an outage in a recording.
const OUTAGE: Duration = Duration::from_secs(3600);

impl Player<'_> {
    /// Does what a remark says was done.
    pub(super) async fn note(&mut self, at: usize, line: &Line) {
        match line.text.as_str() {
            "RabbitMQ is stopped" => self.sim.broker_outage(OUTAGE),
            // It was seen to be back before that, and silent at first.
            "25 more seconds later" => self.sim.broker_outage(Duration::ZERO),
            text if text.starts_with("SIG") => self.sim.run_blackhole(false),
            text if text.starts_with("(no reply within") => {
                let label = text.trim_end_matches(')').rsplit(' ').next().unwrap().to_owned();
                let came = self.sockets.get_mut(&label).unwrap().settle().await;
                self.compare(at, Vec::new(), came);
            }
            text if text.contains("pipelined subscribes:") => self.pipeline(at, text).await,
            _ if self.pool.is_published_before(line) => {
                let came = (0..at).rev().take_while(|at| self.lines[*at].is_event()).count();
                if came == 0 {
                    self.publish(&[], true).await;
                }
                let labels: Vec<String> = self.sockets.keys().cloned().collect();
                for label in labels {
                    let unexpected = self.sockets.get_mut(&label).unwrap().settle().await;
                    self.compare(at, Vec::new(), unexpected);
                }
            }
            _ => {}
        }
    }

    /// `N pipelined subscribes: M replies, subscriptions made on the server: [N], ...`: how many replies vanish is a race.
    async fn pipeline(&mut self, at: usize, text: &str) {
        let numbers: Vec<usize> =
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
        let [asked, _, made] = numbers[..] else { panic!("{text}") };
        let label = format!("p{asked}");
        let socket = self.sockets.get_mut(&label).unwrap();
        for id in 0..asked {
            let data = json!({ "binding": format!("call.CHANNEL_CREATE.id{id}") });
            let message = json!({
                "action": "subscribe", "auth_token": "tok-acct2", "request_id": format!("{id:03}"), "data": data,
            });
            socket.send(Message::Text(message.to_string().into())).await;
        }
        let ids: Vec<String> = socket
            .settle()
            .await
            .into_iter()
            .map(|came| match came {
                Came::Text(text) => normal(&text)["request_id"].as_str().unwrap().to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        self.compare(at, true, ids.is_sorted());
        let sessions = self.sim.control("/sessions", json!({})).unwrap();
        let held =
            sessions["sessions"].as_array().unwrap().last().unwrap()["bindings"].as_array().unwrap().len();
        // The bucket of 100 was refilled while the recorder waited.
        self.compare(at, made.min(100), held);
    }

    async fn publish(&mut self, came: &[&Line], whole: bool) {
        for body in self.pool.publications(came, whole) {
            let (status, _) =
                request(address(&self.sim.control_url()), "POST", "/publish", &[], &body.to_string()).await;
            assert_eq!(status, 200, "{body}");
        }
    }

    /// Publishes what made the events around a line come, unless it was published already.
    pub(super) async fn publish_unseen(&mut self, at: usize, end: usize) {
        let lines = self.lines;
        let breaks = |at: &usize| lines[*at].dir == "note" || lines[*at].drives();
        let first = (0..at).rev().find(breaks).map_or(0, |at| at + 1);
        let last = (at..end).find(breaks).unwrap_or(end);
        if !self.unseen.insert(first) {
            return;
        }
        let events: Vec<&Line> = lines[first..last].iter().filter(|line| line.is_event()).collect();
        let whole = lines.get(last).is_some_and(|line| self.pool.is_published_before(line));
        self.publish(&events, whole).await;
    }
}
