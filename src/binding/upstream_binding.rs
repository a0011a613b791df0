//! What is ever sent to blackhole as a binding.

use std::{fmt, sync::Arc};

use super::{
    Kind, Pattern,
    catalogue::{CALL_EVENTS, NAMED_OBJECT_TYPES, OBJECT_ACTIONS, PRESENCE_EVENTS, STREAM_EVENTS},
    encoding::is_encoded,
};

/// A binding as it is sent to blackhole: one of a short list of forms, whoever made it (see
/// [`UpstreamBinding::parse`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamBinding {
    kind: Kind,
    text: Arc<str>,
    pattern: Pattern,
    month_bound: bool,
}

/// The text is none of those that may be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no binding that is ever sent upstream")]
pub struct NotSendable;

impl UpstreamBinding {
    /// The last line of defence: the forms that are sent, and nothing else.
    ///
    /// - `call.EVENT.*`, `call.*.*`
    /// - `conference.event.#.*` (K4, 4.3), `conference.event.*.#.*` (K5): all of the account's. `*` is refused there.
    /// - `conference.command.ID`, never with a wildcard: it would show the commands of all tenants (F31).
    /// - `fax.status.*`, `presence.EVENT.*`, `stream.EVENT.*`, `stream.*.*`
    /// - `object.ACTION.TYPE` with `*` for either
    ///
    /// Bad input kills the session that all consumers share (F15), and forms outside of this list are accepted with
    /// success and then deliver nothing, or too much.
    ///
    /// # Errors
    ///
    /// [`NotSendable`] for any other text.
    pub fn parse(text: &str) -> Result<Self, NotSendable> {
        let mut words = text.split('.');
        let parts: [Option<&str>; 5] = std::array::from_fn(|_| words.next());
        let [Some(first), Some(second), third, fourth, fifth] = parts else { return Err(NotSendable) };
        let (kind, pattern, month_bound) = match (first, second, third, fourth, fifth) {
            ("call", event, Some("*"), None, None) if event == "*" || CALL_EVENTS.contains(&event) => {
                (Kind::Call, text, false)
            }
            ("conference", "event", Some("#"), Some("*"), None)
            | ("conference", "event", Some("*"), Some("#"), Some("*"))
                if words.next().is_none() =>
            {
                (Kind::ConferenceEvent, "conference.event.*.*.*", false)
            }
            ("conference", "command", Some(id), None, None) if is_id(id) => {
                (Kind::ConferenceCommand, text, false)
            }
            ("fax", "status", Some("*"), None, None) => (Kind::FaxStatus, text, false),
            ("object", action, Some(doc_type), None, None)
                if (action == "*" || OBJECT_ACTIONS.contains(&action))
                    && (doc_type == "*" || NAMED_OBJECT_TYPES.contains(&doc_type)) =>
            {
                // Asked for without a type, upstream binds the account's database and that of the month (F34).
                (Kind::Object, text, matches!(doc_type, "fax" | "mailbox_message" | "*"))
            }
            ("presence", event, Some("*"), None, None) if PRESENCE_EVENTS.contains(&event) => {
                (Kind::Presence, text, false)
            }
            ("stream", event, Some("*"), None, None) if event == "*" || STREAM_EVENTS.contains(&event) => {
                (Kind::Stream, text, false)
            }
            _ => return Err(NotSendable),
        };
        let pattern = Pattern::parse(pattern).map_err(|_| NotSendable)?;
        Ok(Self { kind, text: text.into(), pattern, month_bound })
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text sent as `binding`, ids encoded.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// All that it brings, in key space.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Whether upstream resolves it (or a part of it) to the database of the month in which it was subscribed (F34).
    pub fn month_bound(&self) -> bool {
        self.month_bound
    }
}

/// One encoded id that is no wildcard.
fn is_id(word: &str) -> bool {
    !word.is_empty() && word != "*" && word != "#" && is_encoded(word)
}

impl fmt::Debug for UpstreamBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for UpstreamBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_a_short_list_of_forms() {
        for (text, kind, month_bound) in [
            ("call.*.*", Kind::Call, false),
            ("call.PARK_PARKED.*", Kind::Call, false),
            ("conference.event.#.*", Kind::ConferenceEvent, false),
            ("conference.event.*.#.*", Kind::ConferenceEvent, false),
            ("conference.command.a%2Eb+c", Kind::ConferenceCommand, false),
            ("fax.status.*", Kind::FaxStatus, false),
            ("object.*.*", Kind::Object, true),
            ("object.doc_created.*", Kind::Object, true),
            ("object.doc_created.user", Kind::Object, false),
            ("object.*.mailbox_message", Kind::Object, true),
            ("object.*.fax", Kind::Object, true),
            ("presence.mwi_updates.*", Kind::Presence, false),
            ("stream.*.*", Kind::Stream, false),
        ] {
            let binding = UpstreamBinding::parse(text).unwrap();
            assert_eq!((binding.kind(), binding.month_bound()), (kind, month_bound), "{text}");
            assert_eq!(&**binding.text(), text);
        }
    }

    #[test]
    fn sends_nothing_else() {
        for text in [
            "",
            "#",
            "*",
            "call",
            "call.*",
            "call.#",
            "call.*.#",
            "call.*.*.*",
            "call.CHANNEL_CREATE.id1",
            "call.CHANNEL_CREATE.*\n",
            "call.channel_create.*",
            "*.CHANNEL_CREATE.*",
            "conference.#",
            "conference.event.*.*",
            "conference.event.#.#",
            "conference.event.*.#.#",
            "conference.event.*.#.*.x",
            "conference.event.#.*.x",
            "conference.command.*",
            "conference.command.#",
            "conference.command.",
            "conference.command.a@b",
            "conference.command.a.b",
            "fax.object.doc_created",
            "fax.status.#",
            "object.doc_created.call_recording",
            "object.doc_created.cdr",
            "object.#.#",
            "presence.*.*",
            "presence.dialog.#",
            "dialog.*",
            "stream.foo.*",
            "notifications.sip.missed_call",
        ] {
            assert_eq!(UpstreamBinding::parse(text), Err(NotSendable), "{text:?}");
        }
    }
}
