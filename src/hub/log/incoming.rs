//! An event on its way into the log.

use std::time::SystemTime;

use crate::binding::{EventKey, Kind};

/// The texts of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventTexts<'a> {
    /// The real name: `data.event` or the routing key's where upstream's `name` is generic.
    pub name: &'a str,
    /// The routing key as it came.
    pub routing_key: &'a str,
    /// `data.msg_id`, or empty.
    pub message_id: &'a str,
    /// The call id, plain, or empty: `data.call_id`, else the routing key's.
    pub call_id: &'a str,
    /// `data`, byte for byte as it came: a JSON object.
    pub data: &'a str,
}

/// One upstream event after de-duplication, as the upstream side hands it over.
///
/// Its texts lie one behind the other in one piece of memory. An event comes when another goes, which was last looked at long
/// ago: each piece of it is a way to memory that no cache knows any more, and six of them cost more than to read the frame.
#[derive(Debug, Clone)]
pub struct IncomingEvent {
    kind: Kind,
    event_time: Option<SystemTime>,
    text: Box<str>,
    /// Where key, name, routing key, message id and call id end; `data` is the rest.
    ends: [u32; 5],
}

impl IncomingEvent {
    /// An event with a place in key space. `event_time`: when upstream says that it happened.
    pub fn new(key: &EventKey, event_time: Option<SystemTime>, texts: EventTexts<'_>) -> Self {
        let EventTexts { name, routing_key, message_id, call_id, data } = texts;
        let parts = [key.key.as_str(), name, routing_key, message_id, call_id];
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + data.len();
        let mut text = String::with_capacity(length);
        let ends = parts.map(|part| {
            text.push_str(part);
            // What comes in one frame is far below 4 GiB.
            u32::try_from(text.len()).unwrap_or(u32::MAX)
        });
        text.push_str(data);
        Self { kind: key.kind, event_time, text: text.into_boxed_str(), ends }
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When upstream says that it happened (from Gregorian seconds).
    pub fn event_time(&self) -> Option<SystemTime> {
        self.event_time
    }

    /// The key that patterns are matched against.
    pub fn key(&self) -> &str {
        self.part(0)
    }

    /// See [`EventTexts::name`].
    pub fn name(&self) -> &str {
        self.part(1)
    }

    /// See [`EventTexts::routing_key`].
    pub fn routing_key(&self) -> &str {
        self.part(2)
    }

    /// See [`EventTexts::message_id`].
    pub fn message_id(&self) -> &str {
        self.part(3)
    }

    /// See [`EventTexts::call_id`].
    pub fn call_id(&self) -> &str {
        self.part(4)
    }

    /// See [`EventTexts::data`].
    pub fn data(&self) -> &str {
        self.part(5)
    }

    /// The bytes of all its texts: it owns nothing else.
    pub(in crate::hub) fn text_len(&self) -> usize {
        self.text.len()
    }

    fn part(&self, number: usize) -> &str {
        let end = |number: usize| self.ends.get(number).map(|end| *end as usize);
        let from = number.checked_sub(1).and_then(end).unwrap_or(0);
        let to = end(number).unwrap_or(self.text.len());
        self.text.get(from..to).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_comes_back_as_it_was() {
        let key =
            EventKey::from_routing_key("call.account0000000000000000000000002.CHANNEL_CREATE.a%2Eb").unwrap();
        let all =
            EventTexts { name: "é", routing_key: "r", message_id: "m", call_id: "a.b", data: "{\"ü\":1}" };
        for texts in [all, EventTexts { message_id: "", call_id: "", ..all }, EventTexts::default()] {
            let event = IncomingEvent::new(&key, None, texts);
            assert_eq!(event.key(), "call.CHANNEL_CREATE.a%2Eb");
            let back = EventTexts {
                name: event.name(),
                routing_key: event.routing_key(),
                message_id: event.message_id(),
                call_id: event.call_id(),
                data: event.data(),
            };
            assert_eq!(back, texts);
        }
    }
}
