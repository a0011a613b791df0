//! What blackhole makes of a client's binding: whether its format is right, the keys under which its dispatcher holds it,
//! and what its listener must listen to for it.
//!
//! Each *module* (`bh_call`, `bh_object`, ...) decides for its own bindings; one binding can ask several (R06).

use super::{
    accounts::{account_db, month_db, parse_account},
    topic,
};
use crate::binding::{AccountId, encoding};

/// The modules that own bindings, in the order in which a wildcard's validation asks them: the first to refuse speaks.
const VALIDATION_ORDER: [Module; 5] =
    [Module::Conference, Module::Call, Module::Fax, Module::Object, Module::Presence];

/// The order in which a wildcard's bindings are made (R06).
const BINDING_ORDER: [Module; 5] =
    [Module::Call, Module::Object, Module::Fax, Module::Conference, Module::Presence];

pub(super) const CALL_EVENTS: [&str; 9] = [
    "CHANNEL_CREATE",
    "CHANNEL_ANSWER",
    "CHANNEL_DESTROY",
    "CHANNEL_HOLD",
    "CHANNEL_UNHOLD",
    "CHANNEL_BRIDGE",
    "PARK_PARKED",
    "PARK_RETRIEVED",
    "PARK_ABANDONED",
];

pub(super) const DOC_ACTIONS: [&str; 3] = ["doc_created", "doc_edited", "doc_deleted"];

pub(super) const DOC_TYPES: [&str; 10] = [
    "account",
    "callflow",
    "device",
    "faxbox",
    "media",
    "user",
    "vmbox",
    "fax",
    "mailbox_message",
    "call_recording",
];

/// The types that are looked for in the month's database. Call recordings live there too, but nobody told blackhole (F35).
const MONTH_TYPES: [&str; 2] = ["fax", "mailbox_message"];

const PRESENCE_EVENTS: [&str; 3] = ["dialog", "mwi_updates", "update"];

/// A module that owns bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Call,
    Conference,
    Fax,
    Object,
    Presence,
}

/// What the listener listens to for a binding. Equal ones share a reference count (F37).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Listener {
    /// A hook on an account's call events.
    Hook { account: String, event: String },
    /// A topic of an AMQP exchange. `origin` keeps two listeners apart that ask for the same topic in different words: they
    /// are counted apart, but the topic is bound only once (G25).
    Amqp { origin: &'static str, topic: String },
}

/// A binding as blackhole holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The name under which the client is told of it: `subscribed_key`.
    pub requested: String,
    /// The dispatcher's keys for it: `subscription_key`. More than one for a wildcard.
    pub keys: Vec<String>,
    /// What is listened to for it.
    pub listeners: Vec<Listener>,
}

/// What a module needs to know of the cluster.
pub(super) trait Directory {
    /// The year and month by the server's local date.
    fn month(&self) -> (i16, i8);
    /// The realm of an account that exists.
    fn realm(&self, account: &AccountId) -> Option<String>;
}

/// Splits a binding into the word that picks modules and the rest.
fn split(binding: &str) -> (&str, Vec<&str>) {
    let mut words = binding.split('.');
    (words.next().unwrap_or_default(), words.collect())
}

fn asked<'a>(order: &'a [Module], key: &'a str) -> impl Iterator<Item = Module> + 'a {
    order.iter().copied().filter(move |module| topic::blackhole(module.key(), key))
}

/// Checks a binding's format. One module that agrees is enough; where all refuse, the first says why.
pub(super) fn validate(binding: &str) -> Result<(), String> {
    let (key, words) = split(binding);
    let mut refused = None;
    for module in asked(&VALIDATION_ORDER, key) {
        match module.validate(&words) {
            Ok(()) => return Ok(()),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Resolves a binding for an account, as each module that is asked and does not crash has it. `account` is the text that
/// the client sent, whatever it was (F29).
pub(super) fn resolve(binding: &str, account: &str, directory: &dyn Directory) -> Vec<Resolved> {
    let (key, words) = split(binding);
    asked(&BINDING_ORDER, key).filter_map(|module| module.resolve(&words, account, directory)).collect()
}

impl Module {
    fn key(self) -> &'static str {
        match self {
            Module::Call => "call",
            Module::Conference => "conference",
            Module::Fax => "fax",
            Module::Object => "object",
            Module::Presence => "presence",
        }
    }

    fn validate(self, words: &[&str]) -> Result<(), String> {
        let format = || Err(format!("invalid format for {} subscription : {}", self.key(), words.join(", ")));
        let unsupported = |event: &str| Err(format!("event {event} not supported"));
        match (self, words) {
            (Module::Call, ["*", _]) => Ok(()),
            (Module::Call, [event, _]) if CALL_EVENTS.contains(event) => Ok(()),
            (Module::Call, [event, _]) => unsupported(event),

            (Module::Conference, ["command", "*"] | ["event", "*", _]) => Err("ConferenceId required".into()),
            (Module::Conference, ["command", _] | ["event", _, _]) => Ok(()),

            (Module::Fax, ["status" | "object", _]) => Ok(()),

            (Module::Object, [action, doc_type]) => {
                let good = (*action == "*" || DOC_ACTIONS.contains(action))
                    && (*doc_type == "*" || DOC_TYPES.contains(doc_type));
                if good { Ok(()) } else { unsupported(&format!("{action}.{doc_type}")) }
            }

            (Module::Presence, [event, ..]) if PRESENCE_EVENTS.contains(event) => Ok(()),
            (Module::Presence, [event, ..]) => unsupported(event),

            _ => format(),
        }
    }

    /// `None` is a module that crashed on what it was given, which blackhole takes for having nothing to offer.
    fn resolve(self, words: &[&str], account: &str, directory: &dyn Directory) -> Option<Resolved> {
        match (self, words) {
            (Module::Call, [event, call_id]) => {
                let events: Vec<&str> = if *event == "*" { CALL_EVENTS.to_vec() } else { vec![event] };
                Some(Resolved {
                    requested: format!("call.{event}.{call_id}"),
                    keys: events.iter().map(|event| format!("call.{account}.{event}.{call_id}")).collect(),
                    listeners: events
                        .iter()
                        .map(|event| Listener::Hook { account: account.into(), event: (*event).into() })
                        .collect(),
                })
            }
            (Module::Conference, ["command", conference]) => {
                let key = format!("conference.command.{conference}");
                Some(Resolved {
                    requested: key.clone(),
                    keys: vec![key.clone()],
                    listeners: vec![Listener::Amqp { origin: "conference", topic: key }],
                })
            }
            (Module::Conference, ["event", conference, call_id]) => Some(Resolved {
                requested: format!("conference.event.{conference}.{call_id}"),
                keys: vec![format!("conference.event.*.{account}.{conference}.{call_id}")],
                listeners: vec![Listener::Amqp {
                    origin: "conference",
                    topic: format!("conference.event.*.{account}.{conference}.{}", word(call_id)),
                }],
            }),
            (Module::Fax, ["status", fax]) => Some(Resolved {
                requested: format!("fax.status.{fax}"),
                keys: vec![format!("fax.status.{account}.{fax}")],
                listeners: vec![Listener::Amqp {
                    origin: "fax",
                    topic: format!("fax.status.{account}.{}", word(fax)),
                }],
            }),
            (Module::Fax, ["object", action]) => {
                let key = format!("{action}.{}.fax.*", month_db(&parse_account(account)?, directory.month()));
                Some(Resolved {
                    requested: format!("fax.object.{action}"),
                    keys: vec![key.clone()],
                    listeners: vec![Listener::Amqp { origin: "fax", topic: key }],
                })
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
                Some(Resolved {
                    requested: format!("object.{action}.{doc_type}"),
                    listeners: keys
                        .iter()
                        .map(|key| Listener::Amqp { origin: "object", topic: key.clone() })
                        .collect(),
                    keys,
                })
            }
            (Module::Presence, [event, id]) if PRESENCE_EVENTS.contains(event) => {
                let realm = directory.realm(&parse_account(account)?)?;
                let realm = encoding::encode(&realm);
                Some(Resolved {
                    requested: format!("{event}.{id}"),
                    keys: vec![format!("{event}.{realm}.{id}")],
                    listeners: vec![Listener::Amqp {
                        origin: "presence",
                        topic: format!("{event}.{realm}.{}", word(id)),
                    }],
                })
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

#[cfg(test)]
mod tests {
    use super::*;

    struct November;

    impl Directory for November {
        fn month(&self) -> (i16, i8) {
            (2026, 11)
        }

        fn realm(&self, _: &AccountId) -> Option<String> {
            Some("a.example".into())
        }
    }

    const ACCOUNT: &str = "account0000000000000000000000002";

    fn keys(binding: &str) -> Vec<String> {
        resolve(binding, ACCOUNT, &November).into_iter().flat_map(|resolved| resolved.keys).collect()
    }

    #[test]
    fn a_call_wildcard_is_nine_keys() {
        assert_eq!(keys("call.*.*").len(), 9);
        assert_eq!(keys("call.CHANNEL_CREATE.x"), [format!("call.{ACCOUNT}.CHANNEL_CREATE.x")]);
    }

    #[test]
    fn objects_go_to_the_account_the_month_or_both() {
        let db = "account%2Fac%2Fco%2Funt0000000000000000000000002";
        assert_eq!(keys("object.doc_created.user"), [format!("doc_created.{db}.user.*")]);
        assert_eq!(keys("object.*.fax"), [format!("*.{db}-202611.fax.*")]);
        assert_eq!(keys("object.*.*"), [format!("*.{db}.*.*"), format!("*.{db}-202611.*.*")]);
        assert_eq!(keys("object.doc_created.call_recording"), [format!("doc_created.{db}.call_recording.*")]);
    }

    #[test]
    fn presence_is_held_by_realm() {
        assert_eq!(keys("presence.dialog.*"), ["dialog.a%2Eexample.*"]);
        assert_eq!(keys("presence.dialog.a.b"), Vec::<String>::new());
    }

    #[test]
    fn a_wildcard_module_asks_all_and_one_that_agrees_is_enough() {
        assert_eq!(validate("*.CHANNEL_CREATE.*"), Ok(()));
        let requested: Vec<String> =
            resolve("*.CHANNEL_CREATE.*", ACCOUNT, &November).into_iter().map(|r| r.requested).collect();
        assert_eq!(requested, ["call.CHANNEL_CREATE.*", "object.CHANNEL_CREATE.*"]);
        assert_eq!(validate("#").unwrap_err(), "invalid format for conference subscription : ");
    }
}
