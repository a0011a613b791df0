//! One JSON object a line: `SubscribeResponse` in protobuf's canonical JSON form.
//!
//! With one liberty: `jsonPayload`, a string full of escaped quotes, is printed as the object that it holds, under the key
//! `payload`. Its text is not parsed and written again, so that no digit of a large number changes.

use std::io;

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use serde_json::value::RawValue;

use crate::proto::{DESCRIPTORS, SubscribeResponse};

pub(super) struct Lines {
    message: MessageDescriptor,
}

impl Lines {
    // Both descriptors are compiled in, and the test below looks for them.
    #[allow(clippy::expect_used)]
    pub(super) fn new() -> Self {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("compiled in by build.rs");
        let message =
            pool.get_message_by_name("hawking.v1.SubscribeResponse").expect("in event_service.proto");
        Self { message }
    }

    /// The line, without its end.
    pub(super) fn line(&self, message: &SubscribeResponse) -> io::Result<String> {
        let mut dynamic = DynamicMessage::new(self.message.clone());
        dynamic.transcode_from(message).map_err(io::Error::other)?;

        // Asked first, because a mutable look at a field of a oneof sets it.
        let event = if dynamic.has_field_by_name("event") {
            dynamic.get_field_by_name_mut("event").and_then(Value::as_message_mut)
        } else {
            None
        };
        let Some((event, payload)) = event.and_then(take_payload) else {
            return serde_json::to_string(&dynamic).map_err(io::Error::other);
        };
        let mut line = serde_json::to_string(event).map_err(io::Error::other)?;
        // An event always has a cursor, so there is a field before this one.
        line.pop();
        Ok(format!("{{\"event\":{line},\"payload\":{payload}}}}}"))
    }
}

/// Takes the raw payload out of an event, where there is one and it is JSON.
fn take_payload(event: &mut DynamicMessage) -> Option<(&DynamicMessage, String)> {
    const FIELD: &str = "json_payload";
    if !event.has_field_by_name(FIELD) {
        return None;
    }
    let payload = event.get_field_by_name(FIELD)?.as_str()?.to_owned();
    serde_json::from_str::<&RawValue>(&payload).ok()?;
    event.clear_field_by_name(FIELD);
    // Between the tokens of valid JSON a line break is white space, and inside of strings it is escaped.
    Some((event, payload.replace(['\n', '\r'], " ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Cursor, Event, Heartbeat, event::Payload, subscribe_response::Kind};

    fn cursor() -> Option<Cursor> {
        Some(Cursor { epoch: "00000000000000ff".into(), sequence: 18_446_744_073_709_551_615 })
    }

    #[test]
    fn a_raw_payload_is_printed_as_it_came() {
        let raw = "{\"big\": 123456789012345678901234567890,\n \"text\": \"a\\nb\"}";
        let event = Event {
            cursor: cursor(),
            name: "X".into(),
            payload: Some(Payload::JsonPayload(raw.into())),
            ..Event::default()
        };
        let line = Lines::new().line(&SubscribeResponse { kind: Some(Kind::Event(event)) }).unwrap();
        assert_eq!(
            line,
            "{\"event\":{\"cursor\":{\"epoch\":\"00000000000000ff\",\"sequence\":\"18446744073709551615\"},\
             \"name\":\"X\",\
             \"payload\":{\"big\": 123456789012345678901234567890,  \"text\": \"a\\nb\"}}}"
        );
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }

    #[test]
    fn what_is_no_json_stays_a_string() {
        let event = Event {
            cursor: cursor(),
            payload: Some(Payload::JsonPayload("{oops".into())),
            ..Event::default()
        };
        let line = Lines::new().line(&SubscribeResponse { kind: Some(Kind::Event(event)) }).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["event"]["jsonPayload"], "{oops");
    }

    #[test]
    fn other_messages_are_in_the_canonical_form() {
        let heartbeat = Heartbeat { position: cursor(), time: None };
        let line = Lines::new().line(&SubscribeResponse { kind: Some(Kind::Heartbeat(heartbeat)) }).unwrap();
        assert_eq!(
            line,
            "{\"heartbeat\":{\"position\":{\"epoch\":\"00000000000000ff\",\"sequence\":\"18446744073709551615\"}}}"
        );
    }
}
