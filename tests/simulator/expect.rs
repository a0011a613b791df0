//! Comparing what came with what was recorded, after taking out what varies from run to run.

use serde_json::Value;

/// Takes request ids, ports and dates out of a frame or an answer. Key order is gone with parsing.
pub fn normal(text: &str) -> Value {
    let Ok(mut value) = serde_json::from_str(text) else {
        return Value::String(text.to_owned());
    };
    normalise(&mut value);
    value
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(pairs) => {
            for (key, value) in pairs {
                match (key.as_str(), &*value) {
                    // Ids that the server makes up; those of clients are compared.
                    ("request_id", Value::String(id)) if is_hex32(id) => *value = "RANDOM ID".into(),
                    ("auth_token", Value::String(token)) if token.split('.').count() == 3 => {
                        *value = "A TOKEN".into();
                    }
                    ("websocket_session_id", Value::String(id)) if id.starts_with("127.0.0.1:") => {
                        *value = "127.0.0.1:PORT".into();
                    }
                    // The name of the machine.
                    ("node", Value::String(_)) => *value = "NODE".into(),
                    // Dates of answers and sessions. (Those of events come from the recording, and are compared.)
                    ("timestamp", Value::String(date)) if date.ends_with('Z') => *value = "DATE".into(),
                    ("timestamp", Value::Number(date)) if date.as_u64() > Some(63_900_000_000) => {
                        *value = "DATE".into();
                    }
                    // How long the rig took.
                    ("us", Value::Number(_)) => *value = "MICROSECONDS".into(),
                    _ => normalise(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::String(text) => {
            if let Some(rest) = text.strip_prefix("rate limiting threshold hit for 127.0.0.1:")
                && rest.strip_suffix('!').is_some_and(|port| port.parse::<u16>().is_ok())
            {
                *text = "rate limiting threshold hit for 127.0.0.1:PORT!".into();
            }
        }
        _ => {}
    }
}

fn is_hex32(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The same for an HTTP head as text.
pub fn normal_head(text: &str) -> String {
    let lines = text.split("\r\n").map(|line| if line.starts_with("date: ") { "date: DATE" } else { line });
    lines.collect::<Vec<_>>().join("\r\n")
}

/// The same for headers.
pub fn normal_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let mut normal: Vec<(String, String)> = headers
        .into_iter()
        .map(|(name, value)| {
            let varies = matches!(name, "date" | "sec-websocket-accept");
            (name.to_owned(), if varies { "VARIES".to_owned() } else { value.to_owned() })
        })
        .collect();
    normal.sort();
    normal
}

/// Compares the frames that came on one connection with those recorded: replies in order, call events without it, other
/// events in order but for the frames of one event (see `deviations.rs`).
pub fn frames(recorded: Vec<Value>, came: Vec<Value>) -> Result<(), String> {
    let (recorded, came) = (in_fixed_order(recorded), in_fixed_order(came));
    match recorded.iter().zip(&came).find(|(recorded, came)| recorded != came) {
        Some((recorded, came)) => Err(format!("recorded {recorded}\n    came     {came}")),
        None if recorded.len() != came.len() => {
            Err(format!("recorded {} frames, came {}", recorded.len(), came.len()))
        }
        None => Ok(()),
    }
}

/// Replies first; then events, those that have no order among themselves sorted by their text.
fn in_fixed_order(frames: Vec<Value>) -> Vec<Value> {
    let (events, mut fixed): (Vec<_>, Vec<_>) =
        frames.into_iter().partition(|frame| frame["action"] == "event");
    // One group for all call events, one for each other event, in order of appearance.
    let mut groups: Vec<Value> = Vec::new();
    let mut grouped: Vec<(usize, Value)> = events
        .into_iter()
        .map(|event| {
            let key = &event["routing_key"];
            let call = key.as_str().is_some_and(|key| key.starts_with("call."));
            let key = if call { Value::from("call") } else { key.clone() };
            let group = groups.iter().position(|group| *group == key).unwrap_or_else(|| {
                groups.push(key);
                groups.len() - 1
            });
            (group, event)
        })
        .collect();
    grouped.sort_by_cached_key(|(group, event)| (*group, event.to_string()));
    fixed.extend(grouped.into_iter().map(|(_, event)| event));
    fixed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(routing_key: &str, subscribed_key: &str) -> Value {
        json!({ "action": "event", "routing_key": routing_key, "subscribed_key": subscribed_key })
    }

    #[test]
    fn order_is_compared_where_there_is_one() {
        let reply = |id| json!({ "action": "reply", "request_id": id });
        assert!(frames(vec![reply(1), reply(2)], vec![reply(2), reply(1)]).is_err());

        let (call, other) = (event("call.A.X.1", "a"), event("call.A.X.2", "a"));
        assert!(frames(vec![call.clone(), other.clone()], vec![other, call.clone()]).is_ok());

        let (one, two) = (event("doc.1", "a"), event("doc.1", "b"));
        assert!(frames(vec![one.clone(), two.clone()], vec![two, one.clone()]).is_ok(), "one event's frames");

        let next = event("doc.2", "a");
        assert!(frames(vec![one.clone(), next.clone()], vec![next, one.clone()]).is_err(), "two events");
        assert!(frames(vec![one.clone()], vec![one.clone(), one]).is_err());
        assert!(frames(vec![call], Vec::new()).is_err());
    }
}
