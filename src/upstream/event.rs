//! From a frame to what the hub keeps.

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};

use crate::{
    binding::{EventKey, Kind},
    hub::IncomingEvent,
};

use super::frame::EventFrame;

/// Seconds from the year 0, where Kazoo's times begin, to 1970.
pub const GREGORIAN_OFFSET: u64 = 62_167_219_200;

/// What hawking reads in a payload. The first of equal keys counts, and a value of another type than expected is as good as
/// absent: a payload is never refused for what it holds.
#[derive(Debug, Default)]
pub(crate) struct PayloadFacts<'a> {
    /// `msg_id`
    pub message_id: Option<Cow<'a, str>>,
    /// `call_id`
    pub call_id: Option<Cow<'a, str>>,
    /// `event`: the real name of a conference event.
    pub event: Option<Cow<'a, str>>,
    /// `timestamp`, Gregorian seconds.
    timestamp: Option<Cow<'a, str>>,
    /// `date_modified`, Gregorian seconds, of objects.
    date_modified: Option<Cow<'a, str>>,
    /// `date_created`, Gregorian seconds, of objects.
    date_created: Option<Cow<'a, str>>,
}

impl<'a> PayloadFacts<'a> {
    /// Reads them from the text of a payload.
    pub fn read(data: &'a str) -> Self {
        serde_json::from_str(data).unwrap_or_default()
    }

    fn event_time(&self, kind: Kind) -> Option<SystemTime> {
        let candidates = match kind {
            Kind::Object => [&self.date_modified, &self.date_created, &self.timestamp],
            _ => [&self.timestamp, &self.date_modified, &self.date_created],
        };
        candidates.into_iter().flatten().find_map(|text| from_gregorian(text))
    }
}

impl<'de> Deserialize<'de> for PayloadFacts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PayloadFacts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut facts = PayloadFacts::default();
                while let Some(Scalar(key)) = map.next_key()? {
                    let slot = match key.as_deref() {
                        Some("msg_id") => &mut facts.message_id,
                        Some("call_id") => &mut facts.call_id,
                        Some("event") => &mut facts.event,
                        Some("timestamp") => &mut facts.timestamp,
                        Some("date_modified") => &mut facts.date_modified,
                        Some("date_created") => &mut facts.date_created,
                        _ => {
                            map.next_value::<de::IgnoredAny>()?;
                            continue;
                        }
                    };
                    let Scalar(value) = map.next_value()?;
                    if slot.is_none() {
                        *slot = value;
                    }
                }
                Ok(facts)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A string or a number as text; nothing for other values. (Kazoo sends numbers as numbers or as strings, F40.)
struct Scalar<'a>(Option<Cow<'a, str>>);

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Scalar(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Scalar(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Scalar(Some(Cow::Owned(number.to_string()))))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Scalar(None))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar(None))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<de::IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Gregorian seconds to time. `None` for what lies before 1970 or after the year 9999: no time of a call.
fn from_gregorian(text: &str) -> Option<SystemTime> {
    const END_OF_9999: u64 = 315_569_519_999;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: u64 = whole.parse().ok()?;
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let since_epoch = seconds.checked_sub(GREGORIAN_OFFSET).filter(|_| seconds <= END_OF_9999)?;
    let nanos = (fraction * 1e9) as u32;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(since_epoch, nanos.min(999_999_999)))
}

/// Makes of a frame what the hub keeps.
pub(crate) fn convert(frame: &EventFrame<'_>, key: EventKey, facts: &PayloadFacts<'_>) -> IncomingEvent {
    let upstream_name = || frame.name.as_deref().filter(|name| !name.is_empty());
    let name = match key.kind {
        // `name` is `event` for all of them; what happened is in the payload.
        Kind::ConferenceEvent => facts.event.as_deref().unwrap_or(&key.name),
        // `name` is `dialog_update` and the like; bindings say `dialog`.
        Kind::Presence => &key.name,
        _ => upstream_name().unwrap_or(&key.name),
    };
    let call_id = facts.call_id.as_deref().or(key.call_id.as_deref()).unwrap_or_default();
    IncomingEvent {
        name: name.to_owned(),
        routing_key: frame.routing_key.clone().into_owned(),
        message_id: facts.message_id.as_deref().unwrap_or_default().to_owned(),
        call_id: call_id.to_owned(),
        event_time: facts.event_time(key.kind),
        // A copy: a slice would keep the whole read buffer alive for as long as the log keeps the event.
        data: Bytes::copy_from_slice(frame.data.get().as_bytes()),
        key,
    }
}

#[cfg(test)]
mod tests {
    use crate::{binding::Owner, upstream::frame::Incoming};

    use super::*;

    fn key(kind: Kind, name: &str, call_id: Option<&str>) -> EventKey {
        EventKey {
            kind,
            owner: Owner::Unnamed,
            key: "k".into(),
            name: name.into(),
            call_id: call_id.map(str::to_owned),
        }
    }

    fn event(name: &str, data: &str, key: EventKey) -> IncomingEvent {
        let text = format!(
            r#"{{"action":"event","subscribed_key":"s","subscription_key":"t","name":"{name}","routing_key":"r","data":{data}}}"#
        );
        let Incoming::Event(frame) = Incoming::parse(&text) else { panic!("{text}") };
        convert(&frame, key, &PayloadFacts::read(frame.data.get()))
    }

    fn unix(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_call_event_is_taken_over() {
        let data = r#"{"timestamp":63610891956,"call_id":"a.b@c","msg_id":"m1","event":"ignored"}"#;
        let event = event("CHANNEL_CREATE", data, key(Kind::Call, "CHANNEL_CREATE", Some("from the key")));
        assert_eq!(event.name, "CHANNEL_CREATE");
        assert_eq!(event.call_id, "a.b@c");
        assert_eq!(event.message_id, "m1");
        assert_eq!(event.event_time, unix(63_610_891_956 - GREGORIAN_OFFSET));
        assert_eq!(event.data, data);
        assert_eq!(event.routing_key, "r");
    }

    #[test]
    fn the_call_id_is_the_payloads_or_else_the_keys() {
        assert_eq!(event("X", "{}", key(Kind::Call, "X", Some("k@1"))).call_id, "k@1");
        assert_eq!(event("X", r#"{"call_id":{}}"#, key(Kind::Call, "X", Some("k@1"))).call_id, "k@1");
        assert_eq!(event("X", "{}", key(Kind::Object, "X", None)).call_id, "");
    }

    #[test]
    fn generic_names_are_replaced() {
        let conference = key(Kind::ConferenceEvent, "add-member", None);
        assert_eq!(event("event", r#"{"event":"del-member"}"#, conference.clone()).name, "del-member");
        assert_eq!(event("event", "{}", conference).name, "add-member");
        assert_eq!(event("dialog_update", "{}", key(Kind::Presence, "dialog", None)).name, "dialog");
        assert_eq!(event("", "{}", key(Kind::Object, "doc_created", None)).name, "doc_created");
        assert_eq!(event("status", "{}", key(Kind::FaxStatus, "status", None)).name, "status");
    }

    #[test]
    fn times_are_numbers_or_strings_and_objects_have_their_own() {
        let time = |data: &str, kind| event("X", data, key(kind, "X", None)).event_time;
        let (a, b) = (63_962_705_528, 63_962_705_529);
        let unix_of = |gregorian: u64| unix(gregorian - GREGORIAN_OFFSET);
        assert_eq!(time(&format!(r#"{{"timestamp":"{a}"}}"#), Kind::Call), unix_of(a));
        assert_eq!(
            time(&format!(r#"{{"timestamp":{a}.5}}"#), Kind::Call),
            unix_of(a).map(|t| t + Duration::from_millis(500))
        );
        let both = format!(r#"{{"date_created":{a},"date_modified":{b}}}"#);
        assert_eq!(time(&both, Kind::Object), unix_of(b));
        assert_eq!(time(&format!(r#"{{"date_created":{a}}}"#), Kind::Object), unix_of(a));
        for nonsense in ["-1", "0", "1e300", "\"now\"", "\"\"", "18446744073709551615", "[1]", "null", "true"]
        {
            assert_eq!(time(&format!(r#"{{"timestamp":{nonsense}}}"#), Kind::Call), None, "{nonsense}");
        }
    }

    #[test]
    fn odd_payloads_are_taken_as_they_are() {
        let deep = format!(r#"{{"x":{}{},"msg_id":7}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let twice = r#"{"msg_id":"first","msg_id":"second","é":"\ud83d\ude00","call_id":"\u0041"}"#;
        let event_of = |data: &str| event("X", data, key(Kind::Call, "X", None));
        assert_eq!(event_of(&deep).message_id, "7");
        assert_eq!(event_of(&deep).data, deep);
        assert_eq!(event_of(twice).message_id, "first");
        assert_eq!(event_of(twice).call_id, "A");
    }
}
