//! What a binding stands for: the dispatcher's keys, and what must be listened to for them.

use super::{CALL_EVENTS, Directory, Listener, Module, PRESENCE_EVENTS, Resolved};
use crate::{
    binding::{Flavour, encoding},
    sim::accounts::{account_db, month_db, parse_account},
};

/// The types that are looked for in the month's database. Call recordings live there too, but nobody told blackhole (F35).
const MONTH_TYPES: [&str; 2] = ["fax", "mailbox_message"];

impl Module {
    /// `None` is a module that crashed on what it was given, which blackhole takes for having nothing to offer.
    pub(super) fn resolve(
        self,
        words: &[&str],
        account: &str,
        directory: &dyn Directory,
    ) -> Option<Resolved> {
        let flavour = directory.flavour();
        let name = |module: &str| format!("{module}.{}", words.join("."));
        // One key, and a listener for one topic.
        let one = |requested, key, topic| {
            let listeners = vec![Listener::Amqp { origin: self.key(), topics: vec![topic] }];
            Some(Resolved { requested, keys: vec![key], listeners })
        };
        match (self, words) {
            (Module::Call, [event, call_id]) => {
                let events: Vec<&str> = if *event == "*" { CALL_EVENTS.to_vec() } else { vec![event] };
                let hook = |event: &&str| Listener::Hook { account: account.into(), event: (*event).into() };
                Some(Resolved {
                    requested: name("call"),
                    keys: events.iter().map(|event| format!("call.{account}.{event}.{call_id}")).collect(),
                    listeners: events.iter().map(hook).collect(),
                })
            }
            (Module::Conference, ["command", _]) => {
                one(name("conference"), name("conference"), name("conference"))
            }
            (Module::Conference, ["event", rest @ ..]) => {
                let (event, conference, call_id) = match (flavour, rest) {
                    (Flavour::K4, [conference, call_id]) => ("*", conference, call_id),
                    (Flavour::V4_3, [conference, call_id]) => ("*", conference, call_id),
                    (Flavour::V4_3, [conference, call_id, event]) => (*event, conference, call_id),
                    (Flavour::K5, [event, conference, call_id]) => (*event, conference, call_id),
                    _ => return None,
                };
                let stem = format!("conference.event.{event}.{account}.{conference}");
                one(name("conference"), format!("{stem}.{call_id}"), format!("{stem}.{}", word(call_id)))
            }
            (Module::Fax, ["status", fax]) => {
                let stem = format!("fax.status.{account}");
                one(name("fax"), format!("{stem}.{fax}"), format!("{stem}.{}", word(fax)))
            }
            (Module::Fax, ["object", action]) => {
                let key = format!("{action}.{}.fax.*", month_db(&parse_account(account)?, directory.month()));
                one(name("fax"), key.clone(), key)
            }
            (Module::Object, [action, doc_type]) => {
                let account = parse_account(account)?;
                let databases = match *doc_type {
                    "*" => vec![account_db(&account), month_db(&account, directory.month())],
                    doc_type if MONTH_TYPES.contains(&doc_type) => {
                        vec![month_db(&account, directory.month())]
                    }
                    _ => vec![account_db(&account)],
                };
                let keys: Vec<String> =
                    databases.iter().map(|db| format!("{action}.{db}.{doc_type}.*")).collect();
                let listener = |topics| Listener::Amqp { origin: "object", topics };
                let listeners = match flavour {
                    // One for all of them (R5-80).
                    Flavour::K5 => vec![listener(keys.clone())],
                    Flavour::K4 | Flavour::V4_3 => {
                        keys.iter().map(|key| listener(vec![key.clone()])).collect()
                    }
                };
                Some(Resolved { requested: name("object"), keys, listeners })
            }
            (Module::Presence, [event, id]) if PRESENCE_EVENTS.contains(event) => {
                let realm = directory.realm(&parse_account(account)?)?;
                let stem = format!("{event}.{}", encoding::encode(&realm));
                one(format!("{event}.{id}"), format!("{stem}.{id}"), format!("{stem}.{}", word(id)))
            }
            (Module::Stream, [event, call_id]) => {
                let stem = format!("pivot.stream.{event}.{account}");
                one(name("stream"), format!("{stem}.{call_id}"), format!("{stem}.{}", word(call_id)))
            }
            _ => None,
        }
    }
}

/// A word as Kazoo puts it into an AMQP topic: encoded, once more if the client had encoded it already. So a binding for
/// one encoded id is held, but brings nothing unless another binding brings it. (Calls come by hooks and are spared.)
fn word(text: &str) -> String {
    match text {
        "*" | "#" => text.to_owned(),
        _ => encoding::encode(text).into_owned(),
    }
}
