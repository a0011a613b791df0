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

/// Compares the frames that came on one connection with those recorded: replies in order, events without it (see
/// `deviations.rs`).
pub fn frames(recorded: Vec<Value>, came: Vec<Value>) -> Result<(), String> {
    let is_event = |frame: &Value| frame["action"] == "event";
    let (mut recorded_events, recorded_replies): (Vec<_>, Vec<_>) = recorded.into_iter().partition(is_event);
    let (mut came_events, came_replies): (Vec<_>, Vec<_>) = came.into_iter().partition(is_event);
    for events in [&mut recorded_events, &mut came_events] {
        events.sort_by_cached_key(ToString::to_string);
    }
    let recorded: Vec<_> = recorded_replies.into_iter().chain(recorded_events).collect();
    let came: Vec<_> = came_replies.into_iter().chain(came_events).collect();
    match recorded.iter().zip(&came).find(|(recorded, came)| recorded != came) {
        Some((recorded, came)) => Err(format!("recorded {recorded}\n    came     {came}")),
        None if recorded.len() != came.len() => {
            Err(format!("recorded {} frames, came {}", recorded.len(), came.len()))
        }
        None => Ok(()),
    }
}
