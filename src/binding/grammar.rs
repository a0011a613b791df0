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
             unless the operator has `conference.command` in `upstream.opt_in`. What happens in conferences is \
             `conference.event.*.*`",
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
pub(super) mod tests;
