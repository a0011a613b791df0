//! What a consumer asks for: the grammar of bindings, and sentences that say what would be right.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{
    Kind, OptIn, Pattern,
    catalogue::{
        CALL_EVENTS, CONFERENCE_EVENTS, MONTH_TYPES, OBJECT_ACTIONS, OBJECT_TYPES, PRESENCE_EVENTS,
        STREAM_EVENTS,
    },
    encoding::encode,
};

/// What a consumer asks for, valid by construction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    kind: Kind,
    /// Canonical text, ids plain.
    text: Arc<str>,
    /// The same in key space.
    pattern: Pattern,
}

/// The text is no binding that may be asked for; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BindingError {
    /// What is wrong and what would be right, in a sentence for people.
    pub reason: Cow<'static, str>,
}

impl Binding {
    /// The longest binding as a consumer may give it, and the longest canonical text, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Parses a binding as a consumer gives it: ids plain, the last part taking the rest of the text.
    ///
    /// Canonical text parses to an equal binding.
    ///
    /// # Errors
    ///
    /// A sentence for people where the text is none of the catalogue's, or of a kind that has to be turned on and is
    /// not. Nothing that gets past here can hurt the upstream session, whatever is in it: see
    /// [`UpstreamBinding`](super::UpstreamBinding) for the other half of that.
    pub fn parse(text: &str, opt_in: &OptIn) -> Result<Self, BindingError> {
        if text.is_empty() {
            return refuse(format!("a binding is not empty; {EXAMPLES}"));
        }
        if text.len() > Self::MAX_LEN {
            return refuse(format!("a binding has at most {} bytes, not {}", Self::MAX_LEN, text.len()));
        }
        if text.chars().any(char::is_control) {
            return refuse("a binding has no control characters, such as line ends or tabs");
        }
        if text.trim() != text {
            return refuse("a binding does not begin or end with white space");
        }
        let (first, rest) = text.split_once('.').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let Parsed { kind, text, pattern } = match first {
            "call" => call(rest),
            "conference" => conference(rest, opt_in),
            "fax" => fax(rest),
            "object" => object(rest),
            "presence" => presence(rest),
            event if PRESENCE_EVENTS.contains(&event) => presence(Some(text)),
            "stream" => stream(rest),
            other => return Err(unknown(other)),
        }?;
        if text.len() > Self::MAX_LEN {
            return refuse(format!("the binding is too long when written in full: {} bytes", text.len()));
        }
        // The words are non-empty and encoded, and three bytes for one of the text is the most that encoding makes.
        let pattern = Pattern::parse(&pattern).map_err(|error| error_of(error.to_string()))?;
        Ok(Self { kind, text: text.into(), pattern })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its canonical text, ids plain: equal bindings have equal text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it lets through, in key space.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether what it asks for lives in a database of the month, or may (F34). `object.doc_created.user` does not, even
    /// where it is served by `object.*.*`, which does.
    pub fn month_bound(&self) -> bool {
        self.kind == Kind::Object
            && self.pattern.words().last().is_some_and(|doc_type| MONTH_TYPES.contains(&doc_type))
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const EXAMPLES: &str = "give for example `call.*.*`, `call.CHANNEL_CREATE.*`, `object.doc_created.user` or \
                        `presence.dialog.*`; ListBindingTypes has the whole list";

struct Parsed {
    kind: Kind,
    text: String,
    pattern: String,
}

type Outcome = Result<Parsed, BindingError>;

fn error_of(reason: impl Into<Cow<'static, str>>) -> BindingError {
    BindingError { reason: reason.into() }
}

fn refuse<T>(reason: impl Into<Cow<'static, str>>) -> Result<T, BindingError> {
    Err(error_of(reason))
}

/// `call.EVENT.CALL_ID`
fn call(rest: Option<&str>) -> Outcome {
    const RIGHT: &str =
        "the right form is `call.EVENT.CALL_ID`, with `*` for all: `call.*.*`, `call.CHANNEL_CREATE.*`";
    let Some((event, call_id)) = rest.and_then(|rest| rest.split_once('.')) else {
        return refuse(format!("a part is missing; {RIGHT}"));
    };
    if event != "*" && !CALL_EVENTS.contains(&event) {
        return refuse(match event.to_ascii_uppercase() {
            upper if CALL_EVENTS.contains(&upper.as_str()) => {
                format!("events of calls are written in upper case: `call.{upper}.{call_id}`")
            }
            _ => format!(
                "{} is no event of calls that upstream lets out; {}",
                quote(event),
                one_of(&CALL_EVENTS)
            ),
        });
    }
    let id = id_word(call_id, "a call id", RIGHT)?;
    Ok(Parsed {
        kind: Kind::Call,
        text: format!("call.{event}.{call_id}"),
        pattern: format!("call.{event}.{id}"),
    })
}

/// `conference.event.CONFERENCE_ID.CALL_ID` and `conference.command.CONFERENCE_ID`
fn conference(rest: Option<&str>, opt_in: &OptIn) -> Outcome {
    const RIGHT: &str = "the right form is `conference.event.CONFERENCE_ID.CALL_ID`, with `*` for all: \
                         `conference.event.*.*`; a dot in CONFERENCE_ID is written `%2E`";
    let (what, rest) = rest.and_then(|rest| rest.split_once('.')).unwrap_or((rest.unwrap_or_default(), ""));
    match what {
        "event" => {
            let Some((conference, call_id)) = rest.split_once('.') else {
                return refuse(format!("a part is missing; {RIGHT}"));
            };
            if conference.is_empty() {
                return refuse(format!("a conference id is missing; {RIGHT}"));
            }
            let wild = |word| word == "*" || word == "#";
            if call_id.contains('.') && call_id.split('.').any(wild) {
                return refuse(format!(
                    "the forms with five parts of Kazoo 5 (`conference.event.EVENT.CONFERENCE_ID.CALL_ID`) and of Kazoo \
                     4.3 (`conference.event.CONFERENCE_ID.*.EVENT`) are not taken: give the four parts, whatever the \
                     upstream is, and filter by event name; {RIGHT}"
                ));
            }
            if call_id.contains('.') && CONFERENCE_EVENTS.contains(&conference) {
                return refuse(format!(
                    "{} is an event, and not a conference: filter by event name; {RIGHT}",
                    quote(conference)
                ));
            }
            // `#` stands for any number of words for upstream, and is the only way there to say all conferences.
            let plain = if conference == "#" { Cow::Borrowed("*") } else { unescape_dots(conference) };
            let conference = if plain == "*" { plain.clone() } else { escape_dots(&plain) };
            let call_word = id_word(call_id, "a call id", RIGHT)?;
            Ok(Parsed {
                kind: Kind::ConferenceEvent,
                text: format!("conference.event.{conference}.{call_id}"),
                pattern: format!("conference.event.*.{}.{call_word}", encode(&plain)),
            })
        }
        "command" if !opt_in.allows(Kind::ConferenceCommand) => refuse(
            "commands of conferences do not say whose they are, so upstream shows them to every account; they are off \
             unless the operator turns on `conference.command`. What happens in conferences is `conference.event.*.*`",
        ),
        "command" if rest == "*" || rest == "#" => refuse(
            "upstream takes this for the commands of all conferences of every account; name one conference: \
             `conference.command.CONFERENCE_ID`",
        ),
        "command" => {
            let id =
                id_word(rest, "a conference id", "the right form is `conference.command.CONFERENCE_ID`")?;
            Ok(Parsed {
                kind: Kind::ConferenceCommand,
                text: format!("conference.command.{rest}"),
                pattern: format!("conference.command.{id}"),
            })
        }
        _ => refuse(format!("behind `conference.` comes `event`; {RIGHT}")),
    }
}

/// `fax.status.FAX_ID` and `fax.object.ACTION`
fn fax(rest: Option<&str>) -> Outcome {
    const RIGHT: &str = "the right forms are `fax.status.FAX_ID`, with `*` for all, and `fax.object.ACTION`, which is \
                         `object.ACTION.fax`";
    match rest.and_then(|rest| rest.split_once('.')) {
        Some(("status", fax_id)) => {
            let id = id_word(fax_id, "a fax id", RIGHT)?;
            Ok(Parsed {
                kind: Kind::FaxStatus,
                text: format!("fax.status.{fax_id}"),
                pattern: format!("fax.status.{id}"),
            })
        }
        // Another name for the same events: upstream counts the two names apart and one may silence the other (G25).
        Some(("object", action)) if !action.contains('.') => object(Some(&format!("{action}.fax"))),
        _ => refuse(RIGHT),
    }
}

/// `object.ACTION.TYPE`
///
/// TYPE is one of a fixed list. Upstream's answer to others is harmless, and `object.ACTION.*` would bring them; but a
/// misspelt type would be confirmed and then never deliver, so it is refused here where it can be explained.
fn object(rest: Option<&str>) -> Outcome {
    const RIGHT: &str = "the right form is `object.ACTION.TYPE`, with `*` for all: `object.doc_created.user`, \
                         `object.*.*`";
    let Some((action, doc_type)) = rest.and_then(|rest| rest.split_once('.')) else {
        return refuse(format!("a part is missing; {RIGHT}"));
    };
    if action != "*" && !OBJECT_ACTIONS.contains(&action) {
        return refuse(format!("{} is no action; {}; {RIGHT}", quote(action), one_of(&OBJECT_ACTIONS)));
    }
    if doc_type != "*" && !OBJECT_TYPES.contains(&doc_type) {
        return refuse(format!(
            "{} is no type that is known here; {}. For another, ask for `object.{action}.*` and filter by the field \
             `type`",
            quote(doc_type),
            one_of(&OBJECT_TYPES)
        ));
    }
    let text = format!("object.{action}.{doc_type}");
    Ok(Parsed { kind: Kind::Object, pattern: text.clone(), text })
}

/// `presence.EVENT.ID`, given what is behind `presence.`
fn presence(rest: Option<&str>) -> Outcome {
    const RIGHT: &str = "the right forms are `presence.dialog.CALL_ID`, `presence.mwi_updates.USER` and \
                         `presence.update.CALL_ID`, with `*` for all ids";
    match rest.and_then(|rest| rest.split_once('.')) {
        Some((event, id)) if PRESENCE_EVENTS.contains(&event) => {
            let word = id_word(id, "an id", RIGHT)?;
            Ok(Parsed {
                kind: Kind::Presence,
                text: format!("presence.{event}.{id}"),
                pattern: format!("presence.{event}.{word}"),
            })
        }
        _ => refuse(RIGHT),
    }
}

/// `stream.EVENT.CALL_ID`
fn stream(rest: Option<&str>) -> Outcome {
    const RIGHT: &str = "the right form is `stream.EVENT.CALL_ID`, with `start`, `stop` or `*` for EVENT and `*` for all \
                         calls (Kazoo 5 only)";
    match rest.and_then(|rest| rest.split_once('.')) {
        Some((event, call_id)) if event == "*" || STREAM_EVENTS.contains(&event) => {
            let id = id_word(call_id, "a call id", RIGHT)?;
            Ok(Parsed {
                kind: Kind::Stream,
                text: format!("stream.{event}.{call_id}"),
                pattern: format!("stream.{event}.{id}"),
            })
        }
        _ => refuse(RIGHT),
    }
}

fn unknown(first: &str) -> BindingError {
    error_of(match first {
        "*" | "#" => format!("a binding names one kind of event, not all; {EXAMPLES}"),
        "notifications" => {
            "notifications do not say whose they are, so upstream shows them to every account; they \
                            cannot be subscribed to"
                .to_owned()
        }
        action if action.starts_with("doc_") => format!(
            "changes of documents are asked for by action and type: `object.{}.user`",
            if OBJECT_ACTIONS.contains(&action) { action } else { "doc_created" }
        ),
        other => format!("{} is no kind of event that is known here; {EXAMPLES}", quote(other)),
    })
}

/// The word of a plain id, or of `*`.
fn id_word<'a>(id: &'a str, what: &str, right: &str) -> Result<Cow<'a, str>, BindingError> {
    match id {
        "" => refuse(format!("{what} is missing; {right}")),
        // Kazoo would leave it as it is, and it would let everything through.
        "#" => refuse(format!("`#` is not {what}; {right}")),
        id => Ok(encode(id)),
    }
}

/// A conference id as a consumer writes it in the one part that it has, to plain text. Only a dot, and the percent sign
/// that makes this possible, can be written so.
fn unescape_dots(word: &str) -> Cow<'_, str> {
    if !word.contains('%') {
        return Cow::Borrowed(word);
    }
    let mut plain = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let (byte, length) = match after.get(..2) {
            Some("2E" | "2e") => ('.', 2),
            Some("25") => ('%', 2),
            _ => ('%', 0),
        };
        plain.push(byte);
        rest = &after[length..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn escape_dots(plain: &str) -> Cow<'_, str> {
    if plain.contains(['%', '.']) {
        Cow::Owned(plain.replace('%', "%25").replace('.', "%2E"))
    } else {
        Cow::Borrowed(plain)
    }
}

fn one_of(words: &[&str]) -> String {
    format!("there are {} and `*`", words.join(", "))
}

/// Part of what a consumer gave, fit for a message: short, and without anything that would break a line.
fn quote(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("`{short}{more}`")
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{super::EventKey, *};

    const ACCOUNT: &str = "account0000000000000000000000002";

    fn parse(text: &str) -> Result<Binding, BindingError> {
        Binding::parse(text, &OptIn(Kind::ALL.into()))
    }

    fn reason(text: &str) -> String {
        match Binding::parse(text, &OptIn::default()) {
            Ok(binding) => panic!("{text:?} gave {binding}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn gives_canonical_text_and_a_pattern() {
        for (text, kind, canonical, pattern) in [
            ("call.*.*", Kind::Call, "call.*.*", "call.*.*"),
            (
                "call.CHANNEL_CREATE.3a9b.7c@192.168.1.10",
                Kind::Call,
                "call.CHANNEL_CREATE.3a9b.7c@192.168.1.10",
                "call.CHANNEL_CREATE.3a9b%2E7c%40192%2E168%2E1%2E10",
            ),
            ("call.*.a b*é%", Kind::Call, "call.*.a b*é%", "call.*.a+b%2A%C3%A9%25"),
            ("conference.event.*.*", Kind::ConferenceEvent, "conference.event.*.*", "conference.event.*.*.*"),
            ("conference.event.#.*", Kind::ConferenceEvent, "conference.event.*.*", "conference.event.*.*.*"),
            (
                "conference.event.a%2eb%25 %.c.d@e",
                Kind::ConferenceEvent,
                "conference.event.a%2Eb%25 %25.c.d@e",
                "conference.event.*.a%2Eb%25+%25.c%2Ed%40e",
            ),
            (
                "conference.command.a.b",
                Kind::ConferenceCommand,
                "conference.command.a.b",
                "conference.command.a%2Eb",
            ),
            ("fax.status.202611-x", Kind::FaxStatus, "fax.status.202611-x", "fax.status.202611-x"),
            ("fax.object.doc_edited", Kind::Object, "object.doc_edited.fax", "object.doc_edited.fax"),
            ("fax.object.*", Kind::Object, "object.*.fax", "object.*.fax"),
            ("object.*.call_recording", Kind::Object, "object.*.call_recording", "object.*.call_recording"),
            ("dialog.a.b", Kind::Presence, "presence.dialog.a.b", "presence.dialog.a%2Eb"),
            (
                "presence.mwi_updates.1001",
                Kind::Presence,
                "presence.mwi_updates.1001",
                "presence.mwi_updates.1001",
            ),
            ("update.*", Kind::Presence, "presence.update.*", "presence.update.*"),
            ("stream.*.*", Kind::Stream, "stream.*.*", "stream.*.*"),
            ("stream.stop.a.b", Kind::Stream, "stream.stop.a.b", "stream.stop.a%2Eb"),
        ] {
            let binding = parse(text).unwrap();
            assert_eq!(
                (binding.kind(), binding.as_str(), binding.pattern().as_str()),
                (kind, canonical, pattern),
                "{text}"
            );
            assert_eq!(parse(canonical).unwrap(), binding);
        }
    }

    #[test]
    fn refuses_with_a_sentence_that_says_what_is_right() {
        for (text, right) in [
            ("", "call.*.*"),
            ("call", "`call.EVENT.CALL_ID`"),
            ("call.CHANNEL_CREATE", "`call.EVENT.CALL_ID`"),
            ("call.CHANNEL_CREATE.", "a call id is missing"),
            ("call..x", "there are CHANNEL_CREATE,"),
            ("call.*.#", "`#` is not a call id"),
            ("call.#", "a part is missing"),
            ("call.channel_create.*", "`call.CHANNEL_CREATE.*`"),
            ("call.CHANNEL_CONNECTED.*", "CHANNEL_ANSWER"),
            ("CALL.*.*", "`call.*.*`"),
            ("*", "one kind of event"),
            ("#", "one kind of event"),
            ("*.CHANNEL_CREATE.*", "one kind of event"),
            ("conference", "`conference.event.CONFERENCE_ID.CALL_ID`"),
            ("conference.event", "a part is missing"),
            ("conference.event.conf123", "a part is missing"),
            ("conference.event..*", "a conference id is missing"),
            ("conference.event.*.#", "`#` is not a call id"),
            ("conference.event.*.#.*", "five parts of Kazoo 5"),
            ("conference.event.*.conf123.*", "filter by event name"),
            ("conference.event.add-member.conf123.*", "filter by event name"),
            ("conference.event.add-member.conf123.callA", "`add-member` is an event"),
            ("conference.event.conf123.*.add-member", "of Kazoo 4.3"),
            ("conference.participant.c1.*", "behind `conference.` comes `event`"),
            ("conference.command.conf123", "turns on `conference.command`"),
            ("conference.command.*", "turns on `conference.command`"),
            ("fax", "`fax.status.FAX_ID`"),
            ("fax.status", "`fax.status.FAX_ID`"),
            ("fax.status.#", "`#` is not a fax id"),
            ("fax.object.nonsense", "doc_created, doc_edited, doc_deleted"),
            ("fax.object.doc_created.x", "`fax.object.ACTION`"),
            ("object.doc_created", "a part is missing"),
            ("object.db_created.user", "doc_created, doc_edited, doc_deleted"),
            ("object.doc_created.users", "`object.doc_created.*` and filter"),
            ("object.doc_created.user.x", "no type that is known here"),
            ("doc_edited.*.user.*", "`object.doc_edited.user`"),
            ("presence", "`presence.dialog.CALL_ID`"),
            ("presence.*.*", "`presence.dialog.CALL_ID`"),
            ("presence.dialog", "`presence.dialog.CALL_ID`"),
            ("dialog", "`presence.dialog.CALL_ID`"),
            ("dialog.#", "`#` is not an id"),
            ("stream.foo.*", "`start`, `stop`"),
            ("notifications.sip.missed_call", "cannot be subscribed to"),
            ("relay.conference", "no kind of event"),
            ("call.*.a\nb", "control characters"),
            ("call.*.a\u{85}b", "control characters"),
            ("call.*.* ", "white space"),
        ] {
            let reason = reason(text);
            assert!(reason.contains(right), "{text:?}: {reason}");
            assert!(!reason.contains("  "), "{reason}");
        }
        assert!(parse("conference.command.*").unwrap_err().reason.contains("every account"));
        assert!(parse("conference.command.#").unwrap_err().reason.contains("every account"));
    }

    #[test]
    fn refuses_what_is_too_long_and_does_not_repeat_it() {
        let fits = |prefix: &str| format!("{prefix}{}", "x".repeat(Binding::MAX_LEN - prefix.len()));
        assert!(parse(&fits("call.*.")).is_ok());
        assert!(reason(&(fits("call.*.") + "x")).contains("at most 1024 bytes, not 1025"));
        assert!(reason(&fits("dialog.")).contains("1033 bytes"), "in full it is `presence.dialog.`");
        assert!(parse(&format!("call.*.{}", "é".repeat(500))).is_ok());
        assert!(reason(&fits("")).len() < 400);
    }

    #[test]
    fn knows_what_lives_in_a_month() {
        for (text, expected) in [
            ("object.doc_created.fax", true),
            ("object.*.call_recording", true),
            ("object.doc_edited.*", true),
            ("object.*.user", false),
            ("call.*.*", false),
            ("fax.status.fax", false),
        ] {
            assert_eq!(parse(text).unwrap().month_bound(), expected, "{text}");
        }
    }

    /// An id that a consumer may give: whatever has no control characters and no blanks at an end.
    fn any_id() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9]{1,8}[.@][a-z0-9.]{1,12}",
            "[a-c.@ %+*#é2E]{1,6}",
            any::<String>().prop_map(|id| id.chars().take(40).collect()),
        ]
        .prop_filter("no id", |id: &String| {
            !id.is_empty() && id.trim() == id && !id.chars().any(char::is_control) && id != "*" && id != "#"
        })
    }

    /// `kz_amqp_util:encode/1`, written down once more from its source.
    fn kazoo_encode(id: &str) -> String {
        id.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'~' | b'_' => char::from(byte).to_string(),
                b' ' => "+".to_owned(),
                byte => format!("%{byte:02X}"),
            })
            .collect()
    }

    /// A way to ask for an id: the binding that a consumer writes, and the routing key that Kazoo makes.
    #[derive(Debug, Clone, Copy)]
    enum Form {
        Call,
        CallOfConference,
        Conference,
        Command,
        Fax,
        Dialog,
        Mwi,
        Stream,
    }

    impl Form {
        fn binding(self, id: &str) -> String {
            match self {
                Form::Call => format!("call.CHANNEL_ANSWER.{id}"),
                Form::CallOfConference => format!("conference.event.*.{id}"),
                Form::Conference => {
                    format!("conference.event.{}.*", id.replace('%', "%25").replace('.', "%2E"))
                }
                Form::Command => format!("conference.command.{id}"),
                Form::Fax => format!("fax.status.{id}"),
                Form::Dialog => format!("dialog.{id}"),
                Form::Mwi => format!("presence.mwi_updates.{id}"),
                Form::Stream => format!("stream.*.{id}"),
            }
        }

        fn routing_key(self, id: &str) -> String {
            let id = kazoo_encode(id);
            match self {
                Form::Call => format!("call.{ACCOUNT}.CHANNEL_ANSWER.{id}"),
                Form::CallOfConference => format!("conference.event.lock.{ACCOUNT}.conf1.{id}"),
                Form::Conference => format!("conference.event.lock.{ACCOUNT}.{id}.call1"),
                Form::Command => format!("conference.command.{id}"),
                Form::Fax => format!("fax.status.{ACCOUNT}.{id}"),
                Form::Dialog => format!("dialog.realm%2Eorg.{id}"),
                Form::Mwi => format!("mwi_updates.realm%2Eorg.{id}"),
                Form::Stream => format!("pivot.stream.stop.{ACCOUNT}.{id}"),
            }
        }
    }

    fn any_form() -> impl Strategy<Value = Form> {
        prop::sample::select(
            &[
                Form::Call,
                Form::CallOfConference,
                Form::Conference,
                Form::Command,
                Form::Fax,
                Form::Dialog,
                Form::Mwi,
                Form::Stream,
            ][..],
        )
    }

    /// Any binding, over few enough words that several of a set overlap.
    pub(crate) fn any_binding() -> impl Strategy<Value = Binding> {
        let words = |words: &'static [&'static str]| prop::sample::select(words).prop_map(str::to_owned);
        let or_all =
            |list: &'static [&'static str]| prop_oneof![2 => prop::sample::select(list), 1 => Just("*")];
        let id = || prop_oneof![Just("*".to_owned()), Just("a.b@c".to_owned()), any_id()];
        prop_oneof![
            3 => (or_all(&CALL_EVENTS), id()).prop_map(|(event, id)| format!("call.{event}.{id}")),
            2 => words(&["conference.event.*.*", "conference.event.a%2Eb.*", "conference.event.c.d"]),
            1 => words(&["conference.command.a", "conference.command.b.c"]),
            1 => id().prop_map(|id| format!("fax.status.{id}")),
            6 => (or_all(&OBJECT_ACTIONS), or_all(&OBJECT_TYPES)).prop_map(|(a, t)| format!("object.{a}.{t}")),
            2 => (prop::sample::select(&PRESENCE_EVENTS[..]), id()).prop_map(|(e, id)| format!("presence.{e}.{id}")),
            1 => (or_all(&STREAM_EVENTS), id()).prop_map(|(event, id)| format!("stream.{event}.{id}")),
        ]
        .prop_map(|text| parse(&text).unwrap())
    }

    proptest! {
        #[test]
        fn an_id_finds_its_own_events_and_no_others(form in any_form(), id in any_id(), other in any_id()) {
            let text = form.binding(&id);
            let binding = match parse(&text) {
                Ok(binding) => binding,
                Err(error) => {
                    // `conference.event.*.x.*` is taken for the form of Kazoo 5: the one thing that cannot be asked for.
                    let wild = id.split('.').any(|word| word == "*" || word == "#");
                    prop_assert!(matches!(form, Form::CallOfConference) && wild, "{}: {}", text, error);
                    return Ok(());
                }
            };
            prop_assert_eq!(&parse(binding.as_str()).unwrap(), &binding);
            let key = EventKey::from_routing_key(&form.routing_key(&id)).unwrap();
            prop_assert_eq!(key.kind, binding.kind());
            prop_assert!(binding.pattern().matches(&key.key), "{} {}", binding.pattern(), key.key);
            let neighbour = EventKey::from_routing_key(&form.routing_key(&other)).unwrap();
            prop_assert_eq!(binding.pattern().matches(&neighbour.key), id == other);
            if let Form::Call | Form::CallOfConference | Form::Dialog | Form::Stream = form {
                prop_assert_eq!(key.call_id.as_deref(), Some(id.as_str()));
            }
        }

        #[test]
        fn any_text_at_all_is_parsed_or_refused(
            start in prop::sample::select(&["", "call.", "call.*.", "conference.event.", "conference.command.", "fax.",
                "object.", "object.*.", "presence.", "dialog.", "stream.", "*."][..]),
            rest in "\\PC{0,12}|[.*#a%]{0,8}",
        ) {
            let text = format!("{start}{rest}");
            match parse(&text) {
                Ok(binding) => {
                    prop_assert_eq!(&parse(binding.as_str()).unwrap(), &binding);
                    prop_assert!(!binding.pattern().words().any(|word| word == "#"));
                }
                Err(error) => prop_assert!(!error.reason.is_empty() && !error.reason.contains('\n')),
            }
        }
    }
}
