//! What the recorder published without saying so: told from what came, and from its remarks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::recording::Line;

/// Recordings in which the recorder published the same events each time, and remarked which came: those that came and those
/// that did not are played.
pub struct Pool {
    /// What in a remark says that they were published before it.
    remark: Option<&'static str>,
    /// Bodies of `/publish`, by routing key.
    events: BTreeMap<String, Value>,
}

fn publication(line: &Line) -> (String, Value) {
    let frame: Value = serde_json::from_str(&line.text).unwrap();
    let key = frame["routing_key"].as_str().unwrap().to_owned();
    let body = json!({ "api": "raw", "routing_key": key, "event": frame["data"] });
    (key, body)
}

impl Pool {
    /// The pool of a recording of K5, by its number.
    pub fn of(number: &str, lines: &[Line]) -> Self {
        let remark = match number {
            "75" => Some("delivered:"),
            "80" => Some("{'202611'"),
            "81" | "82" | "83" | "84" => Some("events received per publish"),
            "85" => Some(": A "),
            _ => None,
        };
        let events = lines.iter().filter(|line| line.is_event()).map(publication).collect();
        Self { remark, events }
    }

    /// Whether a remark follows the publishing of the whole pool.
    pub fn is_published_before(&self, line: &Line) -> bool {
        line.dir == "note" && self.remark.is_some_and(|remark| line.text.contains(remark))
    }

    /// What was published for these events to come, as bodies of `/publish`; `whole`: the rest of the pool too.
    pub fn publications(&self, came: &[&Line], whole: bool) -> Vec<Value> {
        let mut times: Vec<(String, Value, usize)> = Vec::new();
        for line in came {
            let (key, body) = publication(line);
            // One event comes once for each connection and binding; what comes more often was published more often.
            let frame: Value = serde_json::from_str(&line.text).unwrap();
            let same = |other: &&&Line| {
                let other_frame: Value = serde_json::from_str(&other.text).unwrap();
                other.conn == line.conn && other_frame == frame
            };
            let count = came.iter().filter(same).count();
            match times.iter_mut().find(|(_, held, _)| *held == body) {
                Some((_, _, held)) => *held = (*held).max(count),
                None => times.push((key, body, count)),
            }
        }
        let silent: Vec<_> = self
            .events
            .iter()
            .filter(|(key, _)| whole && times.iter().all(|(held, _, _)| held != *key))
            .map(|(key, body)| (key.clone(), body.clone(), 1))
            .collect();
        times.extend(silent);
        times.into_iter().flat_map(|(_, body, count)| std::iter::repeat_n(body, count)).collect()
    }
}
