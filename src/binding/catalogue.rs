//! The kinds of binding there are, the grammar of each, and how an event's routing key maps to its key.

use std::{borrow::Cow, collections::BTreeSet, fmt};

use super::{AccountId, Pattern};

/// A kind of binding, and of event. What is proven, refreshed and lost, is so by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `call.EVENT.CALL_ID`
    Call,
    /// `conference.event.CONFERENCE_ID.CALL_ID`
    ConferenceEvent,
    /// `conference.command.CONFERENCE_ID`: has no account in its key (F31); opt-in only.
    ConferenceCommand,
    /// `fax.status.FAX_ID`
    FaxStatus,
    /// `object.ACTION.TYPE`; `fax.object.ACTION` is another name for `object.ACTION.fax` (G25) and is parsed to that.
    Object,
    /// `presence.dialog.CALL_ID`, `presence.mwi_updates.USER`, `presence.update.CALL_ID`; also without `presence.`
    Presence,
    /// `stream.start|stop|*.CALL_ID` (K5, G18)
    Stream,
}

/// The kinds that an operator turned on by name: those that cross tenants are off without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptIn(pub BTreeSet<Kind>);

/// What a consumer asks for, valid by construction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    kind: Kind,
    /// Canonical text, ids plain.
    text: std::sync::Arc<str>,
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
    /// The longest binding as a consumer may give it, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Parses a binding as a consumer gives it: ids plain, the last part taking the rest of the text.
    pub fn parse(_text: &str, _opt_in: &OptIn) -> Result<Self, BindingError> {
        todo!()
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

/// Whose an event is, as its routing key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Named by id.
    Account(AccountId),
    /// Presence names the account by its realm alone.
    Realm(String),
    /// The key names nobody (`conference.command`).
    Unnamed,
}

/// An event's place in key space, worked out from its routing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventKey {
    /// Its kind.
    pub kind: Kind,
    /// Whose it is.
    pub owner: Owner,
    /// The key that patterns are matched against.
    pub key: String,
    /// The event's name as the routing key has it: `CHANNEL_CREATE`, `add-member`, `doc_created`, `dialog`, `status`.
    pub name: String,
    /// The id in the last word where it is a call's, decoded.
    pub call_id: Option<String>,
}

impl EventKey {
    /// Reads a routing key. `None` where it is of no known kind.
    pub fn from_routing_key(_routing_key: &str) -> Option<Self> {
        todo!()
    }
}
