//! The text frames of blackhole's protocol.
//!
//! Inbound frames are read with as little work as possible, once: the envelope's strings are borrowed from the frame, `data`
//! is kept as the bytes that came, and what counts in it is picked out on the way (`envelope`, `facts`, over `scan`).
//! Outbound there is one kind of frame: hawking never sends an action that is not listed in [`Action`], and `unsubscribe` is
//! not (F37).

mod envelope;
mod facts;
#[cfg(test)]
mod reference;
mod scan;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::envelope::Envelope;
pub(crate) use self::facts::PayloadFacts;

/// What hawking may ask of blackhole. Everything else is either useless or dangerous on a session that others share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Take a binding.
    Subscribe,
    /// Prove that commands are answered: K5 alone has it always (G7); elsewhere an unknown action "succeeds" (F17).
    Ping,
}

/// A frame to blackhole. It holds a token: no `Debug`.
#[derive(Serialize, Deserialize)]
pub struct Command<'a> {
    /// What to do.
    pub action: Action,
    /// Sent with every request: only one that succeeds as a whole authenticates the session (F20).
    #[serde(borrow)]
    pub auth_token: Cow<'a, str>,
    /// Comes back in the reply.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// What it concerns.
    #[serde(borrow)]
    pub data: CommandData<'a>,
}

/// The `data` of a [`Command`]. One `binding` is the form that every flavour takes (F23); a list takes K5 alone (G4).
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct CommandData<'a> {
    /// The plain id: any other form gets success and no events (F29).
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<Cow<'a, str>>,
    /// The binding, ids encoded.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Cow<'a, str>>,
    /// Bindings that are taken or refused as a whole, for one rate-limit token. Never beside `binding`.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<Cow<'a, str>>,
}

impl Command<'_> {
    /// The frame's text.
    pub fn to_text(&self) -> String {
        // Strings and fixed keys alone: serialising them into memory cannot fail.
        #[allow(clippy::expect_used)]
        serde_json::to_string(self).expect("a command is plain strings")
    }
}

/// A reply to a command.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reply<'a> {
    /// `reply`
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    /// As it was sent, as a string.
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    /// `success` or `error`
    #[serde(borrow)]
    pub status: Cow<'a, str>,
    /// What the status means in detail.
    pub data: ReplyData,
}

/// The `data` of a [`Reply`], as far as it says anything that can be relied on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct ReplyData {
    /// Display text (F25): only that it is there counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribed: Option<Vec<String>>,
    /// All that the session holds: K5 alone sends it (G1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<Vec<String>>,
    /// Texts without codes. **They may contain the token** (F22): never shown, never logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<String>>,
}

/// An event.
#[derive(Debug)]
pub(crate) struct EventFrame<'a> {
    /// The AMQP pattern that brought it.
    pub subscription_key: Cow<'a, str>,
    /// Absent when the event has no Event-Name; generic for conference and presence (F39).
    pub name: Option<Cow<'a, str>>,
    /// Where it was published.
    pub routing_key: Cow<'a, str>,
    /// The payload, an object, as it came.
    pub data: &'a str,
    /// What counts in it.
    pub facts: PayloadFacts<'a>,
}

/// A frame from blackhole.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// The answer to a command.
    Reply {
        /// Which command.
        request_id: Cow<'a, str>,
        /// What it says.
        outcome: Outcome,
    },
    /// An event.
    Event(EventFrame<'a>),
    /// A well-formed frame of another kind.
    Other,
    /// Not a frame of this protocol, or an event or reply that lacks what it must have.
    Unreadable,
}

/// What a reply says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `success`, and the expected key is there: upstream holds the binding.
    Subscribed {
        /// Whether `subscriptions` was there too, which only K5 sends.
        lists_all: bool,
        /// Entries of `subscribed`: all AMQP keys of the session on K4 and 4.3 (F25), what this request added on K5 (G1).
        entries: usize,
    },
    /// `success` without the expected key proves nothing (F16).
    Unproven,
    /// `error`.
    Refused(Refusal),
}

/// Why upstream refuses a command, read from its error text (section 9 of the findings), which goes no further than here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The token is missing or not accepted.
    Token,
    /// The token bucket is empty.
    RateLimit,
    /// The account may not be seen with these credentials.
    Account,
    /// The event's name is not known.
    Event,
    /// The binding's form is not accepted.
    Form,
    /// A conference id is wanted in place of a wildcard.
    ConferenceId,
    /// No module serves such a binding.
    NoModule,
    /// Something is missing in the request.
    Incomplete,
    /// None of the texts that are known.
    Unknown,
}

impl Refusal {
    fn from_text(text: &str) -> Self {
        const TEXTS: &[(&str, Refusal)] = &[
            ("rate limiting threshold hit", Refusal::RateLimit),
            ("failed to authenticate token", Refusal::Token),
            ("authentication token required", Refusal::Token),
            ("invalid authentication token format", Refusal::Token),
            ("auth_account_id not set", Refusal::Token),
            ("unauthorized wildcard for conference id", Refusal::ConferenceId),
            ("unauthorized", Refusal::Account),
            ("ConferenceId required", Refusal::ConferenceId),
            ("Unsupported conference event", Refusal::Event),
            ("event ", Refusal::Event),
            ("invalid format for", Refusal::Form),
            ("no available subscriptions", Refusal::NoModule),
            ("missing required", Refusal::Incomplete),
            ("empty subscription", Refusal::Incomplete),
        ];
        TEXTS.iter().find(|(start, _)| text.starts_with(start)).map_or(Refusal::Unknown, |(_, kind)| *kind)
    }

    /// The reason in hawking's own words.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Token => "upstream does not accept the token",
            Refusal::RateLimit => "upstream's rate limit is hit",
            Refusal::Account => "these credentials may not see the account",
            Refusal::Event => "upstream does not know the event",
            Refusal::Form => "upstream does not accept the form of the binding",
            Refusal::ConferenceId => "upstream wants a conference id in place of the wildcard",
            Refusal::NoModule => "upstream has no module loaded that serves the binding",
            Refusal::Incomplete => "upstream finds the request incomplete",
            Refusal::Unknown => "upstream refuses the binding and gives a reason that hawking does not know",
        }
    }
}

/// The reply's `data`: replies list everything that is held, so the lists are passed over, not kept.
#[derive(Deserialize)]
struct ReplyFacts<'a> {
    #[serde(borrow)]
    subscribed: Option<&'a RawValue>,
    #[serde(borrow)]
    subscriptions: Option<&'a RawValue>,
    #[serde(default)]
    errors: Vec<String>,
}

impl<'a> Incoming<'a> {
    /// Reads a text frame.
    pub fn parse(text: &'a str) -> Self {
        let Some(mut envelope) = Envelope::read(text) else { return Incoming::Unreadable };
        match std::mem::take(&mut envelope.action).text().as_deref() {
            Some("event") => event(envelope).map_or(Incoming::Unreadable, Incoming::Event),
            Some("reply") => reply(envelope).unwrap_or(Incoming::Unreadable),
            _ => Incoming::Other,
        }
    }
}

fn event(envelope: Envelope<'_>) -> Option<EventFrame<'_>> {
    let data = envelope.data?;
    Some(EventFrame {
        subscription_key: envelope.subscription_key.text().unwrap_or_default(),
        name: envelope.name.text(),
        routing_key: envelope.routing_key.text()?,
        data: data.text,
        // A payload is an object; anything else could not be given on as one.
        facts: data.facts?,
    })
}

/// How many texts a list has. It can be megabytes long (F25): it is not taken apart for that.
fn entries(list: &RawValue) -> usize {
    let mut quotes = 0;
    let mut escaped = false;
    for byte in list.get().bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quotes += 1,
            _ => {}
        }
    }
    quotes / 2
}

fn reply(envelope: Envelope<'_>) -> Option<Incoming<'_>> {
    let facts = envelope.data.and_then(|data| serde_json::from_str::<ReplyFacts<'_>>(data.text).ok());
    let is_list = |value: &RawValue| value.get().starts_with('[');
    let outcome = match (envelope.status.text()?.as_ref(), facts) {
        ("success", Some(facts)) if facts.subscribed.is_some_and(is_list) => Outcome::Subscribed {
            lists_all: facts.subscriptions.is_some_and(is_list),
            entries: facts.subscribed.map_or(0, entries),
        },
        ("error", facts) => {
            let errors = facts.map(|facts| facts.errors).unwrap_or_default();
            let kinds = errors.iter().map(|text| Refusal::from_text(text));
            Outcome::Refused(kinds.fold(Refusal::Unknown, |found, kind| {
                // A refused token and an empty bucket say something about the session, so they win over the rest.
                if found == Refusal::Unknown || matches!(kind, Refusal::Token | Refusal::RateLimit) {
                    kind
                } else {
                    found
                }
            }))
        }
        _ => Outcome::Unproven,
    };
    Some(Incoming::Reply { request_id: envelope.request_id.text()?, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Outcome {
        match Incoming::parse(text) {
            Incoming::Reply { outcome, .. } => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn refused(error: &str) -> Refusal {
        let text = serde_json::json!({
            "action": "reply", "request_id": "r", "status": "error", "data": {"errors": [error]}
        });
        match outcome(&text.to_string()) {
            Outcome::Refused(kind) => kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_looks_as_in_the_recordings() {
        let command = Command {
            action: Action::Subscribe,
            auth_token: "T".into(),
            request_id: "req-0".into(),
            data: CommandData {
                account_id: Some("account0000000000000000000000002".into()),
                binding: Some("call.CHANNEL_CREATE.*".into()),
                bindings: Vec::new(),
            },
        };
        assert_eq!(
            command.to_text(),
            r#"{"action":"subscribe","auth_token":"T","request_id":"req-0","data":{"account_id":"account0000000000000000000000002","binding":"call.CHANNEL_CREATE.*"}}"#
        );
    }

    #[test]
    fn an_event_is_borrowed_and_its_data_is_untouched() {
        let text = concat!(
            r#"{"action":"event","subscribed_key":"call.*.*","subscription_key":"call.A.CHANNEL_CREATE.*","#,
            r#""name":"CHANNEL_CREATE","routing_key":"call.A.CHANNEL_CREATE.x","data": { "b" : 1, "a":[ 1.50 ] } }"#
        );
        let Incoming::Event(event) = Incoming::parse(text) else { panic!() };
        assert!(matches!(event.routing_key, Cow::Borrowed("call.A.CHANNEL_CREATE.x")));
        assert!(matches!(event.name, Some(Cow::Borrowed("CHANNEL_CREATE"))));
        assert_eq!(event.data, r#"{ "b" : 1, "a":[ 1.50 ] }"#);
    }

    #[test]
    fn an_event_without_a_name_is_an_event() {
        let text =
            r#"{"action":"event","subscribed_key":"a","subscription_key":"b","routing_key":"c","data":{}}"#;
        assert!(matches!(Incoming::parse(text), Incoming::Event(EventFrame { name: None, .. })));
    }

    #[test]
    fn what_is_no_frame_is_unreadable_and_what_is_unknown_is_passed_over() {
        for text in [
            "",
            "null",
            "[]",
            "{",
            r#"{"action":"event","routing_key":"c"}"#,
            r#"{"action":"event","data":{}}"#,
            r#"{"action":"event","routing_key":"c","data":"text"}"#,
            r#"{"action":"event","routing_key":"c","data":[{}]}"#,
            r#"{"action":"reply","status":"success"}"#,
            r#"{"action":"reply","request_id":"r"}"#,
            r#"{"action":"event","routing_key":"c","data":{}} x"#,
            r#"{"action":"event","routing_key":"c","data":{"a":01}}"#,
            r#"{"action":"event","routing_key":"c","data":{},"data":{}}"#,
            r#"{"action":"event","routing_key":"c","name":null,"name":"n","data":{}}"#,
            r#"{"action":"event","routing_key":7,"data":{}}"#,
            r#"{"action":"event","routing_key":"c","name":["n"],"data":{}}"#,
            r#"{"action":"event","routing_key":"\ud800","data":{}}"#,
        ] {
            assert!(matches!(Incoming::parse(text), Incoming::Unreadable), "{text}");
        }
        for text in ["{}", r#"{"action":"relay","relay_key":"x","relay":{}}"#] {
            assert!(matches!(Incoming::parse(text), Incoming::Other), "{text}");
        }
    }

    #[test]
    fn success_is_believed_only_with_the_expected_key() {
        let reply =
            |data: &str| format!(r#"{{"action":"reply","request_id":"r","status":"success","data":{data}}}"#);
        assert_eq!(
            outcome(&reply(r#"{"subscribed":["a","a"]}"#)),
            Outcome::Subscribed { lists_all: false, entries: 2 }
        );
        assert_eq!(
            outcome(&reply(r#"{"subscribed":[],"subscriptions":["a"]}"#)),
            Outcome::Subscribed { lists_all: true, entries: 0 },
            "K5, a refresh (G2)"
        );
        for data in
            ["{}", r#"{"response":"pong"}"#, r#"{"subscribed":null}"#, "[]", "null", r#""subscribed""#]
        {
            assert_eq!(outcome(&reply(data)), Outcome::Unproven, "{data}");
        }
        assert_eq!(outcome(r#"{"action":"reply","request_id":"r","status":"success"}"#), Outcome::Unproven);
    }

    #[test]
    fn every_error_text_that_was_seen_is_understood() {
        for (text, kind) in [
            ("authentication token required", Refusal::Token),
            ("failed to authenticate token SECRET", Refusal::Token),
            ("failed to authenticate token ", Refusal::Token),
            ("auth_account_id not set", Refusal::Token),
            ("invalid authentication token format", Refusal::Token),
            ("unauthorized account id", Refusal::Account),
            ("unauthorized wildcard account id", Refusal::Account),
            ("unauthorized wildcard for conference id", Refusal::ConferenceId),
            ("missing required keys in data object", Refusal::Incomplete),
            ("missing required keys : account_id, binding", Refusal::Incomplete),
            ("empty subscription", Refusal::Incomplete),
            ("event FOO not supported", Refusal::Event),
            ("event doc_created.bogus not supported", Refusal::Event),
            ("Unsupported conference event X", Refusal::Event),
            ("invalid format for call subscription : a, b, c", Refusal::Form),
            ("ConferenceId required", Refusal::ConferenceId),
            ("no available subscriptions to requested binding", Refusal::NoModule),
            ("rate limiting threshold hit for 127.0.0.1:33568!", Refusal::RateLimit),
            ("something else", Refusal::Unknown),
        ] {
            assert_eq!(refused(text), kind, "{text}");
            assert!(!kind.reason().contains("SECRET"));
        }
    }

    #[test]
    fn frames_go_there_and_back() {
        let reply = r#"{"action":"reply","request_id":"r","status":"success","data":{"subscribed":["a"]}}"#;
        let parsed: Reply<'_> = serde_json::from_str(reply).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), reply);
    }
}
