//! Routing keys of events that a binding lets through, for people to look at.

use crate::binding::{
    Binding, Kind,
    catalogue::{CALL_EVENTS, OBJECT_ACTIONS, PRESENCE_EVENTS, STREAM_EVENTS},
    encoding,
};

/// The account in the samples.
pub(super) const ACCOUNT: &str = "account0000000000000000000000002";
/// Its realm: presence names an account by that alone.
const REALM: &str = "account2.sip.example.com";
const CALL: &str = "3a9b.7c@192.168.1.10";
/// As many as show what a star stands for.
const MOST: usize = 3;

/// Some routing keys that the binding lets through: at least one.
pub(super) fn routing_keys(binding: &Binding) -> Vec<String> {
    // Its words in key space: ids encoded, `*` where anything goes.
    let words: Vec<&str> = binding.pattern().words().collect();
    let word = |at: usize| words.get(at).copied().filter(|word| *word != "*");
    let id = |at, sample: &str| word(at).map_or_else(|| encoding::encode(sample).into_owned(), str::to_owned);
    let each = |at, all: &[&str]| match word(at) {
        Some(word) => vec![word.to_owned()],
        None => all.iter().take(MOST).map(|word| (*word).to_owned()).collect(),
    };
    match binding.kind() {
        Kind::Call => {
            let id = id(2, CALL);
            each(1, &CALL_EVENTS).iter().map(|event| format!("call.{ACCOUNT}.{event}.{id}")).collect()
        }
        Kind::Stream => {
            let id = id(2, CALL);
            each(1, &STREAM_EVENTS)
                .iter()
                .map(|event| format!("pivot.stream.{event}.{ACCOUNT}.{id}"))
                .collect()
        }
        Kind::ConferenceEvent => {
            let (conference, call) = (id(3, "conf123"), id(4, CALL));
            ["add-member", "del-member", "floor-change"]
                .map(|event| format!("conference.event.{event}.{ACCOUNT}.{conference}.{call}"))
                .into()
        }
        Kind::ConferenceCommand => vec![format!("conference.command.{}", id(2, "conf123"))],
        Kind::FaxStatus => vec![format!("fax.status.{ACCOUNT}.{}", id(2, "202611-faxjob1"))],
        Kind::Object => {
            let types = match word(2) {
                Some(doc_type) => vec![doc_type],
                None => vec!["user", "fax"],
            };
            let key = |action: &String, doc_type: &&str| {
                format!("{action}.{}.{doc_type}.{}", database(doc_type), document(doc_type))
            };
            let actions = each(1, &OBJECT_ACTIONS);
            let of = |action| types.iter().map(move |doc_type| key(action, doc_type));
            actions.iter().flat_map(of).take(MOST).collect()
        }
        Kind::Presence => each(1, &PRESENCE_EVENTS)
            .iter()
            .map(|event| {
                let sample = if event == "mwi_updates" { "1001" } else { CALL };
                format!("{event}.{}.{}", encoding::encode(REALM), id(2, sample))
            })
            .collect(),
    }
}

/// The account's database, or that of the month, as a routing key names it.
fn database(doc_type: &str) -> String {
    let (first, rest) = ACCOUNT.split_at(2);
    let (second, rest) = rest.split_at(2);
    let month = match doc_type {
        "fax" | "mailbox_message" | "call_recording" | "cdr" => "-202611",
        _ => "",
    };
    encoding::encode(&format!("account/{first}/{second}/{rest}{month}")).into_owned()
}

fn document(doc_type: &str) -> &'static str {
    match doc_type {
        "fax" | "mailbox_message" | "call_recording" | "cdr" => "202611-5d0f9c7b",
        _ => "5d0f9c7b3ae1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{EventKey, OptIn, catalogue::TYPES};

    #[test]
    fn each_sample_is_let_through() {
        let opt_in = OptIn(Kind::ALL.into());
        let others = [
            "call.*.a b%c",
            "call.PARK_PARKED.x",
            "conference.event.a%2Eb.*",
            "conference.event.*.x.y",
            "object.*.call_recording",
            "object.doc_deleted.cdr",
            "presence.update.x.y@z",
            "dialog.*",
            "stream.stop.x",
        ];
        for text in TYPES.iter().flat_map(|entry| entry.examples).chain(&others) {
            let binding = Binding::parse(text, &opt_in).unwrap();
            let keys = routing_keys(&binding);
            assert!(!keys.is_empty() && keys.len() <= MOST, "{text}: {keys:?}");
            for key in keys {
                let event = EventKey::from_routing_key(&key).unwrap_or_else(|| panic!("{key}"));
                assert!(binding.pattern().matches(&event.key), "{text} and {key}");
                assert_eq!(event.kind, binding.kind());
            }
        }
    }
}
