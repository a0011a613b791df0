//! What blackhole makes of a client's binding: whether its format is right, the keys under which its dispatcher holds it,
//! and what its listener must listen to for it.
//!
//! Each *module* (`bh_call`, `bh_object`, ...) decides for its own bindings; one binding can ask several (R06). Which there
//! are, and what they take, differs from flavour to flavour: `format` and `keys`.

mod format;
mod keys;

use super::topic;
use crate::binding::{AccountId, Flavour};

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

const PRESENCE_EVENTS: [&str; 3] = ["dialog", "mwi_updates", "update"];

/// A module that owns bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Module {
    Call,
    Conference,
    Fax,
    Object,
    Presence,
    /// K5 alone.
    Stream,
}

/// What the listener listens to for a binding. Equal ones share a reference count (F37).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Listener {
    /// A hook on an account's call events. K5 counts it, but there all calls come, always (G21).
    Hook { account: String, event: String },
    /// Topics of an AMQP exchange. `origin` keeps two listeners apart that ask for the same topic in different words: they
    /// are counted apart, but the topic is bound only once (G25).
    Amqp { origin: &'static str, topics: Vec<String> },
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
    /// Which blackhole it is.
    fn flavour(&self) -> Flavour;
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

/// The modules of a flavour that a binding asks, in the given order.
fn asked<'a>(order: &'a [Module], flavour: Flavour, key: &'a str) -> impl Iterator<Item = Module> + 'a {
    let loaded = move |module: &Module| match module {
        Module::Presence => flavour != Flavour::V4_3,
        Module::Stream => flavour == Flavour::K5,
        _ => true,
    };
    order.iter().copied().filter(loaded).filter(move |module| topic::blackhole(module.key(), key))
}

/// Checks a binding's format. One module that agrees is enough; where all refuse, the first says why. `admin`: whether it is
/// a superduper admin who asks.
pub(super) fn validate(binding: &str, flavour: Flavour, admin: bool) -> Result<(), String> {
    use Module::{Call, Conference, Fax, Object, Presence, Stream};
    let (key, words) = split(binding);
    let mut refused = None;
    for module in asked(&[Conference, Call, Fax, Object, Presence, Stream], flavour, key) {
        match module.validate(&words, flavour, admin) {
            Ok(()) => return Ok(()),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Resolves a binding for an account, as each module that is asked and does not crash has it. `account` is the text that
/// the client sent, whatever it was (F29).
pub(super) fn resolve(binding: &str, account: &str, directory: &dyn Directory) -> Vec<Resolved> {
    use Module::{Call, Conference, Fax, Object, Presence, Stream};
    let (key, words) = split(binding);
    // The order in which a wildcard's bindings are made (R06, R5-06).
    asked(&[Call, Stream, Object, Fax, Conference, Presence], directory.flavour(), key)
        .filter_map(|module| module.resolve(&words, account, directory))
        .collect()
}

impl Module {
    fn key(self) -> &'static str {
        match self {
            Module::Call => "call",
            Module::Conference => "conference",
            Module::Fax => "fax",
            Module::Object => "object",
            Module::Presence => "presence",
            Module::Stream => "stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct November;

    impl Directory for November {
        fn flavour(&self) -> Flavour {
            Flavour::K4
        }

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
        assert_eq!(validate("*.CHANNEL_CREATE.*", Flavour::K4, false), Ok(()));
        let requested: Vec<String> =
            resolve("*.CHANNEL_CREATE.*", ACCOUNT, &November).into_iter().map(|r| r.requested).collect();
        assert_eq!(requested, ["call.CHANNEL_CREATE.*", "object.CHANNEL_CREATE.*"]);
        assert_eq!(
            validate("#", Flavour::K4, false).unwrap_err(),
            "invalid format for conference subscription : "
        );
    }

    #[test]
    fn conference_forms_exclude_each_other_over_the_flavours() {
        for (binding, k4, v4_3, k5) in [
            ("conference.event.c1.*", true, true, false),
            ("conference.event.c1.x", true, false, false),
            ("conference.event.c1.*.add-member", false, true, false),
            ("conference.event.#.*", true, true, false),
            ("conference.event.*.#.*", false, false, true),
            ("conference.event.add-member.c1.x", false, false, true),
            ("conference.event.floor-change.c1.*", false, false, false),
        ] {
            for (flavour, taken) in [(Flavour::K4, k4), (Flavour::V4_3, v4_3), (Flavour::K5, k5)] {
                assert_eq!(validate(binding, flavour, false).is_ok(), taken, "{binding} {flavour}");
            }
        }
        let wildcard = "conference.event.*.*.*";
        assert_eq!(
            validate(wildcard, Flavour::K5, false).unwrap_err(),
            "unauthorized wildcard for conference id"
        );
        assert_eq!(validate(wildcard, Flavour::K5, true), Ok(()));
    }
}
