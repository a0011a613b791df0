//! From a frame to what the hub keeps.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use crate::{
    binding::{EventKey, Kind},
    hub::{EventTexts, IncomingEvent},
};

use super::frame::{EventFrame, PayloadFacts};

/// Seconds from the year 0, where Kazoo's times begin, to 1970.
pub const GREGORIAN_OFFSET: u64 = 62_167_219_200;

/// When an event of a kind happened.
fn event_time(facts: &PayloadFacts<'_>, kind: Kind) -> Option<SystemTime> {
    let candidates = match kind {
        Kind::Object => [&facts.date_modified, &facts.date_created, &facts.timestamp],
        _ => [&facts.timestamp, &facts.date_modified, &facts.date_created],
    };
    candidates.into_iter().flatten().find_map(|text| from_gregorian(text))
}

/// Gregorian seconds to time. `None` for what lies before 1970 or after the year 9999: no time of a call.
fn from_gregorian(text: &str) -> Option<SystemTime> {
    const END_OF_9999: u64 = 315_569_519_999;
    let (seconds, nanos) = match text.parse::<u64>() {
        Ok(seconds) => (seconds, 0),
        Err(_) => {
            let (whole, fraction) = text.split_once('.')?;
            let fraction: f64 = format!("0.{fraction}").parse().ok()?;
            (whole.parse().ok()?, (fraction * 1e9) as u32)
        }
    };
    let since_epoch = seconds.checked_sub(GREGORIAN_OFFSET).filter(|_| seconds <= END_OF_9999)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(since_epoch, nanos.min(999_999_999)))
}

/// Makes of a frame what the hub keeps.
pub(crate) fn convert(frame: &EventFrame<'_>, key: &EventKey) -> IncomingEvent {
    let facts = &frame.facts;
    let upstream_name = || frame.name.as_deref().filter(|name| !name.is_empty());
    let name = match key.kind {
        // `name` is `event` for all of them; what happened is in the payload.
        Kind::ConferenceEvent => facts.event.as_deref().unwrap_or_else(|| key.name()),
        // `name` is `dialog_update` and the like; bindings say `dialog`.
        Kind::Presence => key.name(),
        _ => upstream_name().unwrap_or_else(|| key.name()),
    };
    let of_key = || key.call_id().unwrap_or_default();
    let call_id = facts.call_id.as_deref().map_or_else(of_key, Cow::Borrowed);
    let texts = EventTexts {
        name,
        routing_key: &frame.routing_key,
        message_id: facts.message_id.as_deref().unwrap_or_default(),
        call_id: &call_id,
        data: frame.data,
    };
    // A copy: a slice would keep the whole read buffer alive for as long as the log keeps the event.
    IncomingEvent::new(key, event_time(facts, key.kind), texts)
}

#[cfg(test)]
mod tests {
    use crate::{binding::encoding, upstream::frame::Incoming};

    use super::*;

    /// Of a kind, with a name and perhaps a call id in it.
    fn key(kind: Kind, name: &str, call_id: Option<&str>) -> EventKey {
        const ACCOUNT: &str = "account0000000000000000000000002";
        let call_id = call_id.map(encoding::encode).unwrap_or_default();
        let routing_key = match kind {
            Kind::ConferenceEvent => format!("conference.event.{name}.{ACCOUNT}.conf1.{call_id}"),
            Kind::Presence => format!("{name}.realm.{call_id}"),
            Kind::Object => format!("{name}.account%2Fac%2Fco%2Funt0000000000000000000000002.user.u"),
            Kind::FaxStatus => format!("fax.{name}.{ACCOUNT}.f"),
            _ => format!("call.{ACCOUNT}.{name}.{call_id}"),
        };
        let key = EventKey::from_routing_key(&routing_key).unwrap();
        assert_eq!((key.kind, key.name()), (kind, name));
        key
    }

    fn event(name: &str, data: &str, key: EventKey) -> IncomingEvent {
        let text = format!(
            r#"{{"action":"event","subscribed_key":"s","subscription_key":"t","name":"{name}","routing_key":"r","data":{data}}}"#
        );
        let Incoming::Event(frame) = Incoming::parse(&text) else { panic!("{text}") };
        convert(&frame, &key)
    }

    fn unix(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_call_event_is_taken_over() {
        let data = r#"{"timestamp":63610891956,"call_id":"a.b@c","msg_id":"m1","event":"ignored"}"#;
        let event = event("CHANNEL_CREATE", data, key(Kind::Call, "CHANNEL_CREATE", Some("from the key")));
        assert_eq!(event.name(), "CHANNEL_CREATE");
        assert_eq!(event.call_id(), "a.b@c");
        assert_eq!(event.message_id(), "m1");
        assert_eq!(event.event_time(), unix(63_610_891_956 - GREGORIAN_OFFSET));
        assert_eq!(event.data(), data);
        assert_eq!(event.routing_key(), "r");
    }

    #[test]
    fn the_call_id_is_the_payloads_or_else_the_keys() {
        assert_eq!(event("X", "{}", key(Kind::Call, "X", Some("k@1"))).call_id(), "k@1");
        assert_eq!(event("X", r#"{"call_id":{}}"#, key(Kind::Call, "X", Some("k@1"))).call_id(), "k@1");
        assert_eq!(event("X", "{}", key(Kind::Object, "doc_created", None)).call_id(), "");
    }

    #[test]
    fn generic_names_are_replaced() {
        let conference = key(Kind::ConferenceEvent, "add-member", None);
        assert_eq!(event("event", r#"{"event":"del-member"}"#, conference.clone()).name(), "del-member");
        assert_eq!(event("event", "{}", conference).name(), "add-member");
        assert_eq!(event("dialog_update", "{}", key(Kind::Presence, "dialog", None)).name(), "dialog");
        assert_eq!(event("", "{}", key(Kind::Object, "doc_created", None)).name(), "doc_created");
        assert_eq!(event("status", "{}", key(Kind::FaxStatus, "status", None)).name(), "status");
    }

    #[test]
    fn times_are_numbers_or_strings_and_objects_have_their_own() {
        let time = |data: &str, kind| {
            let name = if kind == Kind::Object { "doc_created" } else { "X" };
            event("X", data, key(kind, name, None)).event_time()
        };
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
        assert_eq!(event_of(&deep).message_id(), "7");
        assert_eq!(event_of(&deep).data(), deep);
        assert_eq!(event_of(twice).message_id(), "first");
        assert_eq!(event_of(twice).call_id(), "A");
    }
}
