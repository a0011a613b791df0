//! The kinds of binding, and which of them an operator has to turn on.

use std::{collections::BTreeSet, fmt};

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

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] = [
        Kind::Call,
        Kind::ConferenceEvent,
        Kind::ConferenceCommand,
        Kind::FaxStatus,
        Kind::Object,
        Kind::Presence,
        Kind::Stream,
    ];

    /// Its name, as the configuration and the metrics have it: `call`, `conference.event`, `conference.command`,
    /// `fax.status`, `object`, `presence`, `stream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Call => "call",
            Kind::ConferenceEvent => "conference.event",
            Kind::ConferenceCommand => "conference.command",
            Kind::FaxStatus => "fax.status",
            Kind::Object => "object",
            Kind::Presence => "presence",
            Kind::Stream => "stream",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether events of this kind do not say whose they are, so that upstream shows them to other tenants: off unless
    /// an operator turns the kind on by name.
    pub fn requires_opt_in(self) -> bool {
        matches!(self, Kind::ConferenceCommand)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds that an operator turned on by name: those that cross tenants are off without it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptIn(pub BTreeSet<Kind>);

impl OptIn {
    /// Whether bindings of the kind may be asked for.
    pub fn allows(&self, kind: Kind) -> bool {
        !kind.requires_opt_in() || self.0.contains(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("notifications"), None);
    }
}
