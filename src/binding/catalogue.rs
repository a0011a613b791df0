//! The catalogue: which kinds of binding there are, with examples, and with what to know of upstream before relying on
//! one.

use super::{Flavour, Kind};

/// Events of calls, by name (F27). Kazoo 5 lets an operator configure the list.
pub const CALL_EVENTS: [&str; 9] = [
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

/// Names of events of conferences. Not complete: it serves to tell an event's name from a conference's id.
pub(super) const CONFERENCE_EVENTS: [&str; 14] = [
    "add-member",
    "del-member",
    "start-talking",
    "stop-talking",
    "mute-member",
    "unmute-member",
    "deaf-member",
    "undeaf-member",
    "kick-member",
    "floor-change",
    "conference-create",
    "conference-destroy",
    "lock",
    "unlock",
];

/// What can happen to a document.
pub const OBJECT_ACTIONS: [&str; 3] = ["doc_created", "doc_edited", "doc_deleted"];

/// Types of documents. The last two never come when asked for by name (F35), so they are served by a wider binding.
pub const OBJECT_TYPES: [&str; 11] = [
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
    "cdr",
];

/// Those of [`OBJECT_TYPES`] that upstream delivers when asked for by name.
pub(super) const NAMED_OBJECT_TYPES: [&str; 9] =
    ["account", "callflow", "device", "faxbox", "media", "user", "vmbox", "fax", "mailbox_message"];

/// Those of [`OBJECT_TYPES`] that live in a database of the month, or may.
pub(super) const MONTH_TYPES: [&str; 5] = ["fax", "mailbox_message", "call_recording", "cdr", "*"];

/// Events of presence.
pub const PRESENCE_EVENTS: [&str; 3] = ["dialog", "mwi_updates", "update"];

/// Events of media streams.
pub const STREAM_EVENTS: [&str; 2] = ["start", "stop"];

/// One kind of binding, explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindingType {
    /// For example `call.EVENT.CALL_ID`.
    pub template: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What comes.
    pub description: &'static str,
    /// Bindings that can be pasted as they are.
    pub examples: &'static [&'static str],
    /// What to know of upstream before relying on it.
    pub caveats: &'static [&'static str],
    /// The flavours that have it by default.
    pub flavours: &'static [Flavour],
    /// Off unless an operator turned it on by name.
    pub requires_opt_in: bool,
    /// Upstream binds it, or a part of it, to the database of the month.
    pub month_bound: bool,
}

const PLAIN_IDS: &str = "Give ids plain, with dots and `@` and all: hawking encodes them. Pasted from a routing key, where \
                         `.` is `%2E` and `@` is `%40`, an id matches nothing.";
const STAR: &str = "`*` stands for all only where it is a whole part: `abc*` is an id with a star in it.";

/// The whole catalogue, in the order in which it is shown.
pub static TYPES: &[BindingType] = &[
    BindingType {
        template: "call.EVENT.CALL_ID",
        kind: Kind::Call,
        description: "Calls: CHANNEL_CREATE, CHANNEL_ANSWER, CHANNEL_DESTROY, CHANNEL_HOLD, CHANNEL_UNHOLD, \
                      CHANNEL_BRIDGE, PARK_PARKED, PARK_RETRIEVED, PARK_ABANDONED, or `*` for all of these.",
        examples: &["call.*.*", "call.CHANNEL_CREATE.*", "call.*.3a9b.7c@192.168.1.10"],
        caveats: &[
            "Kazoo reorders events of calls now and then: of 200 calls with three events each, one or two came out of \
             order. Order by event_time and call_id where order matters.",
            "No other events exist for consumers: upstream refuses CHANNEL_CONNECTED and the like, and `*` does not \
             bring them. Names are in upper case.",
            "There is no snapshot: calls that were up before the first event are not told of.",
            "Kazoo 4.3 and 5 throw events away in bursts before they reach the socket, without a trace.",
            PLAIN_IDS,
            STAR,
        ],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "conference.event.CONFERENCE_ID.CALL_ID",
        kind: Kind::ConferenceEvent,
        description: "Conferences and their members: add-member, del-member, floor-change and others. The event's name \
                      is no part of the binding: filter by name.",
        examples: &[
            "conference.event.*.*",
            "conference.event.conf123.*",
            "conference.event.*.3a9b.7c@192.168.1.10",
        ],
        caveats: &[
            "Four parts, whatever the upstream is. Kazoo 5 itself wants conference.event.EVENT.CONFERENCE_ID.CALL_ID, \
             Kazoo 4.3 conference.event.CONFERENCE_ID.*: hawking translates.",
            "CONFERENCE_ID is one part: write a dot in it as %2E, and a percent sign as %25. All that follows it is one \
             call id, dots and all.",
            "Upstream calls each of these events just `event`; Event.name has the real name.",
            PLAIN_IDS,
        ],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "conference.command.CONFERENCE_ID",
        kind: Kind::ConferenceCommand,
        description: "Commands given to a conference, such as kick or mute.",
        examples: &["conference.command.conf123"],
        caveats: &[
            "Crosses tenants: the routing key has no account in it, so upstream shows the commands of a conference id to \
             every account that asks, whoever's conference it is.",
            "Off unless the operator turned on `conference.command`. Never all conferences at once.",
        ],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: true,
        month_bound: false,
    },
    BindingType {
        template: "fax.status.FAX_ID",
        kind: Kind::FaxStatus,
        description: "The progress of faxes that are being sent or received.",
        examples: &["fax.status.*", "fax.status.202611-faxjob1"],
        caveats: &["Only while the fax is under way. What is stored afterwards comes as object.*.fax."],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "object.ACTION.TYPE",
        kind: Kind::Object,
        description: "Documents made, edited or deleted. ACTION: doc_created, doc_edited, doc_deleted or `*`. TYPE: \
                      account, callflow, device, faxbox, media, user, vmbox, fax, mailbox_message, call_recording, cdr \
                      or `*`.",
        examples: &[
            "object.doc_created.user",
            "object.*.device",
            "object.doc_created.mailbox_message",
            "object.doc_created.call_recording",
            "object.doc_edited.*",
            "object.*.*",
        ],
        caveats: &[
            "Faxes, voicemail messages, call recordings and CDRs live in a database of the month. Upstream binds them to \
             the month in which it was asked and says nothing when the month is over. hawking asks again at once, and a \
             Gap (MONTH_TURN) tells of the stretch between.",
            "call_recording and cdr never come when upstream is asked for them by name, although it answers success: \
             hawking asks for `object.ACTION.*` and picks them out. That brings every change of every document to \
             hawking.",
            "An event names the document and holds few of its fields: fetch it from Crossbar.",
            "A document can be changed again before you have fetched it: expect to read a later revision.",
        ],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: false,
        month_bound: true,
    },
    BindingType {
        template: "fax.object.ACTION",
        kind: Kind::Object,
        description: "Faxes stored, edited or deleted: another name for object.ACTION.fax, and reported as that.",
        examples: &["fax.object.doc_created", "fax.object.*"],
        caveats: &[
            "Upstream counts the two names apart, and one can silence the other; hawking only ever uses \
             object.ACTION.fax.",
            "Lives in a database of the month: see object.ACTION.TYPE.",
        ],
        flavours: &[Flavour::K4, Flavour::V4_3, Flavour::K5],
        requires_opt_in: false,
        month_bound: true,
    },
    BindingType {
        template: "presence.dialog.CALL_ID",
        kind: Kind::Presence,
        description: "States of dialogs (early, confirmed, terminated), as lamps on phones show them.",
        examples: &["presence.dialog.*", "dialog.*"],
        caveats: &[PRESENCE_MODULE, PRESENCE_REALM, PRESENCE_PREFIX, PLAIN_IDS],
        flavours: &[Flavour::K4, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "presence.mwi_updates.USER",
        kind: Kind::Presence,
        description: "Message-waiting lamps: how many voicemails a user has.",
        examples: &["presence.mwi_updates.*", "presence.mwi_updates.1001"],
        caveats: &[
            "USER is the user part alone, without the realm.",
            PRESENCE_MODULE,
            PRESENCE_REALM,
            PRESENCE_PREFIX,
        ],
        flavours: &[Flavour::K4, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "presence.update.CALL_ID",
        kind: Kind::Presence,
        description: "Updates of presence that belong to a call.",
        examples: &["presence.update.*", "update.*"],
        caveats: &[PRESENCE_MODULE, PRESENCE_REALM, PRESENCE_PREFIX, PLAIN_IDS],
        flavours: &[Flavour::K4, Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
    BindingType {
        template: "stream.EVENT.CALL_ID",
        kind: Kind::Stream,
        description: "Media streams of calls starting and stopping. EVENT: start, stop or `*`.",
        examples: &["stream.*.*", "stream.start.*"],
        caveats: &["Kazoo 5 alone has it; elsewhere the binding is refused.", PLAIN_IDS],
        flavours: &[Flavour::K5],
        requires_opt_in: false,
        month_bound: false,
    },
];

const PRESENCE_MODULE: &str = "Kazoo 4.3 does not load the module for presence unless its operator says so; the binding is \
                               refused then.";
const PRESENCE_REALM: &str = "Events name the account by its realm alone, so they are attributed by the realm that Crossbar \
                              has for the account.";
const PRESENCE_PREFIX: &str = "Upstream itself lists and confirms these without `presence.`; hawking takes both and says \
                               `presence.`";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::binding::{Binding, OptIn, cover::cover};

    #[test]
    fn every_example_can_be_pasted_and_is_served_where_it_says() {
        let opt_in = OptIn(Kind::ALL.into());
        for entry in TYPES {
            assert!(!entry.examples.is_empty() && !entry.caveats.is_empty(), "{}", entry.template);
            assert_eq!(entry.requires_opt_in, entry.kind.requires_opt_in(), "{}", entry.template);
            for example in entry.examples {
                let binding = Binding::parse(example, &opt_in).unwrap();
                assert_eq!(binding.kind(), entry.kind, "{example}");
                for &flavour in entry.flavours {
                    let cover = cover([&binding], flavour);
                    assert!(
                        cover.iter().any(|upstream| upstream.pattern().contains(binding.pattern())),
                        "{example}"
                    );
                    assert!(
                        entry.month_bound || cover.iter().all(|upstream| !upstream.month_bound()),
                        "{example}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_kind_is_explained() {
        let explained: BTreeSet<_> = TYPES.iter().map(|entry| entry.kind).collect();
        assert_eq!(explained, Kind::ALL.into());
    }

    #[test]
    fn the_texts_are_for_people_who_do_not_know_our_notes() {
        let finding = |word: &str| {
            let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            word.len() >= 2
                && word.starts_with(['F', 'G', 'R'])
                && word[1..].bytes().all(|b| b.is_ascii_digit())
        };
        for entry in TYPES {
            for text in entry.caveats.iter().chain([&entry.description]) {
                assert!(!text.split_whitespace().any(finding), "{text}");
                assert!(!text.contains("  "), "{text}");
            }
        }
    }
}
