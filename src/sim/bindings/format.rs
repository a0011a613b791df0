//! The format of bindings, by module and flavour.

use super::{CALL_EVENTS, DOC_ACTIONS, DOC_TYPES, Module, PRESENCE_EVENTS};
use crate::binding::Flavour;

/// Conference events that 4.3 and K5 take by name. The real list is in the core of each; other events come by `*` alone
/// (G15).
const CONFERENCE_EVENTS: [&str; 14] = [
    "add-member",
    "conference-create",
    "conference-destroy",
    "deaf-member",
    "del-member",
    "lock",
    "mute-member",
    "play-file",
    "play-file-done",
    "start-talking",
    "stop-talking",
    "undeaf-member",
    "unlock",
    "unmute-member",
];

const STREAM_EVENTS: [&str; 2] = ["start", "stop"];

impl Module {
    /// Checks the words behind the module's own.
    pub(super) fn validate(self, words: &[&str], flavour: Flavour, admin: bool) -> Result<(), String> {
        let format = || Err(format!("invalid format for {} subscription : {}", self.key(), words.join(", ")));
        let unsupported = |event: &str| Err(format!("event {event} not supported"));
        match (self, words) {
            (Module::Call, ["*", _]) => Ok(()),
            (Module::Call, [event, _]) if CALL_EVENTS.contains(event) => Ok(()),
            (Module::Call, [event, _]) => unsupported(event),

            (Module::Conference, words) => conference(words, flavour, admin).unwrap_or_else(format),

            (Module::Fax, ["status" | "object", _]) => Ok(()),

            (Module::Object, [action, doc_type]) => {
                let good = (*action == "*" || DOC_ACTIONS.contains(action))
                    && (*doc_type == "*" || DOC_TYPES.contains(doc_type));
                if good { Ok(()) } else { unsupported(&format!("{action}.{doc_type}")) }
            }

            (Module::Presence, [event, ..]) if PRESENCE_EVENTS.contains(event) => Ok(()),
            (Module::Presence, [event, ..]) => unsupported(event),

            (Module::Stream, ["*", _]) => Ok(()),
            (Module::Stream, [event, _]) if STREAM_EVENTS.contains(event) => Ok(()),
            (Module::Stream, [event, _]) => unsupported(&format!("stream.{event}")),

            _ => format(),
        }
    }
}

/// The forms of conferences exclude each other: what one flavour takes, the next refuses (F31, G15). `None`: no form of it.
fn conference(words: &[&str], flavour: Flavour, admin: bool) -> Option<Result<(), String>> {
    let event_is_known = |event: &str| match event {
        "*" => Ok(()),
        event if CONFERENCE_EVENTS.contains(&event) => Ok(()),
        event => Err(format!("Unsupported conference event {event}")),
    };
    match (flavour, words) {
        (Flavour::K5, ["command", conference]) => Some(wildcard(conference, admin)),
        (Flavour::K5, ["event", event, conference, _]) => {
            Some(event_is_known(event).and_then(|()| wildcard(conference, admin)))
        }
        (Flavour::K5, _) => None,
        (Flavour::K4, ["command", "*"] | ["event", "*", _])
        | (Flavour::V4_3, ["command", "*"] | ["event", "*", "*"] | ["event", "*", "*", _]) => {
            Some(Err("ConferenceId required".into()))
        }
        (_, ["command", _]) | (Flavour::K4, ["event", _, _]) | (Flavour::V4_3, ["event", _, "*"]) => {
            Some(Ok(()))
        }
        (Flavour::V4_3, ["event", _, "*", event]) => Some(event_is_known(event)),
        _ => None,
    }
}

fn wildcard(conference: &str, admin: bool) -> Result<(), String> {
    if conference == "*" && !admin { Err("unauthorized wildcard for conference id".into()) } else { Ok(()) }
}
