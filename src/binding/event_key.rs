//! From an event's routing key to its place in key space.

use std::borrow::Cow;

use super::{AccountId, Kind, encoding};

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
}

impl EventKey {
    /// Reads a routing key. `None` where it is of no known kind, or where an account id or database in it is none.
    ///
    /// Kazoo encodes ids, so an id is one word. Should one come with dots in it, it is taken as a whole and encoded here
    /// rather than lost.
    pub fn from_routing_key(routing_key: &str) -> Option<Self> {
        let [first, rest] = split(routing_key)?;
        match first {
            "call" => {
                let [account, event, call_id] = split(rest)?;
                Some(Self {
                    kind: Kind::Call,
                    owner: Owner::Account(account.parse().ok()?),
                    key: key(&["call", event, &encoding::normalize(call_id)]),
                })
            }
            "conference" => Self::of_conference(rest),
            "fax" => {
                let [status, account, fax_id] = split(rest)?;
                (status == "status").then_some(())?;
                Some(Self {
                    kind: Kind::FaxStatus,
                    owner: Owner::Account(account.parse().ok()?),
                    key: key(&["fax", status, &encoding::normalize(fax_id)]),
                })
            }
            "dialog" | "mwi_updates" | "update" => {
                // Kazoo 5's SIP dialogs (`dialog.event.ACCOUNT.D.I`) are another thing and have more words.
                let (realm, user_or_call) = rest.split_once('.').filter(|(_, id)| !id.contains('.'))?;
                Some(Self {
                    kind: Kind::Presence,
                    owner: Owner::Realm(encoding::decode(realm).into_owned()),
                    key: key(&["presence", first, &encoding::normalize(user_or_call)]),
                })
            }
            "pivot" => {
                let [stream, event, account, call_id] = split(rest)?;
                (stream == "stream").then_some(())?;
                Some(Self {
                    kind: Kind::Stream,
                    owner: Owner::Account(account.parse().ok()?),
                    key: key(&["stream", event, &encoding::normalize(call_id)]),
                })
            }
            action if action.starts_with("doc_") || action.starts_with("db_") => {
                let [database, doc_type, _id] = split(rest)?;
                Some(Self {
                    kind: Kind::Object,
                    owner: Owner::Account(account_of_database(database)?),
                    key: key(&["object", action, doc_type]),
                })
            }
            _ => None,
        }
    }

    /// `event.EVENT.ACCOUNT.CONFERENCE.CALL` and `command.CONFERENCE`.
    fn of_conference(rest: &str) -> Option<Self> {
        match rest.split_once('.')? {
            ("event", rest) => {
                let [event, account, ids] = split(rest)?;
                // What the account's binding `conference.event.*.ACCOUNT.#.*` brings may have no call id, or dots in
                // the conference's; the last word is the call's.
                let (conference, call_id) = ids.rsplit_once('.').unwrap_or((ids, ""));
                let ids = [encoding::normalize(conference), encoding::normalize(call_id)];
                Some(Self {
                    kind: Kind::ConferenceEvent,
                    owner: Owner::Account(account.parse().ok()?),
                    key: key(&["conference", "event", event, &ids[0], &ids[1]]),
                })
            }
            ("command", conference) => Some(Self {
                kind: Kind::ConferenceCommand,
                owner: Owner::Unnamed,
                key: key(&["conference", "command", &encoding::normalize(conference)]),
            }),
            _ => None,
        }
    }

    /// The event's name as the routing key has it: `CHANNEL_CREATE`, `add-member`, `doc_created`, `dialog`, `status`.
    pub fn name(&self) -> &str {
        let place = if self.kind == Kind::ConferenceEvent { 2 } else { 1 };
        self.key.split('.').nth(place).unwrap_or_default()
    }

    /// The id in the last word where it is a call's, decoded.
    pub fn call_id(&self) -> Option<Cow<'_, str>> {
        let is_a_calls = match self.kind {
            Kind::Call | Kind::ConferenceEvent | Kind::Stream => true,
            Kind::Presence => self.name() != "mwi_updates",
            Kind::ConferenceCommand | Kind::FaxStatus | Kind::Object => false,
        };
        let (_, word) = self.key.rsplit_once('.').filter(|(_, word)| is_a_calls && !word.is_empty())?;
        Some(encoding::decode(word))
    }
}

/// Words with dots between them. (In one go: `format!` and `join` cost several times as much.)
fn key(words: &[&str]) -> String {
    let mut key = String::with_capacity(words.iter().map(|word| word.len() + 1).sum());
    for (place, word) in words.iter().enumerate() {
        if place > 0 {
            key.push('.');
        }
        key.push_str(word);
    }
    key
}

/// Exactly `N` parts, the last of which takes the rest.
fn split<const N: usize>(text: &str) -> Option<[&str; N]> {
    let mut out = [""; N];
    let (last, parts) = out.split_last_mut()?;
    let mut rest = text;
    for part in parts {
        // For words as short as these it is quicker than `split`.
        let dot = rest.bytes().position(|byte| byte == b'.')?;
        (*part, rest) = (&rest[..dot], &rest[dot + 1..]);
    }
    *last = rest;
    Some(out)
}

/// The account whose database it is: `account%2Fxx%2Fxx%2Frest`, with `-YYYYMM` behind it for one of a month.
fn account_of_database(word: &str) -> Option<AccountId> {
    let database = encoding::decode(word);
    let path = database.strip_prefix("account/")?;
    let path = match path.split_once('-') {
        Some((path, month)) if month.len() == 6 && month.bytes().all(|b| b.is_ascii_digit()) => path,
        Some(_) => return None,
        None => path,
    };
    path.replace('/', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "account0000000000000000000000002";

    fn read(routing_key: &str) -> (Kind, Owner, String, String, Option<String>) {
        let key = EventKey::from_routing_key(routing_key).unwrap_or_else(|| panic!("{routing_key}"));
        let (name, call_id) = (key.name().to_owned(), key.call_id().map(Cow::into_owned));
        (key.kind, key.owner, key.key, name, call_id)
    }

    #[test]
    fn reads_each_form_that_was_recorded() {
        let owner = || Owner::Account(ACCOUNT.parse().unwrap());
        let realm = || Owner::Realm("wefwefwefwef.2600hz.com".into());
        let check = |routing_key: &str, kind, owner, key: &str, name: &str, call_id: Option<&str>| {
            let expected = (kind, owner, key.to_owned(), name.to_owned(), call_id.map(str::to_owned));
            assert_eq!(read(routing_key), expected, "{routing_key}");
        };
        check(
            "call.account0000000000000000000000002.CHANNEL_CREATE.3a9b%2E7c%40192%2E168%2E1%2E10",
            Kind::Call,
            owner(),
            "call.CHANNEL_CREATE.3a9b%2E7c%40192%2E168%2E1%2E10",
            "CHANNEL_CREATE",
            Some("3a9b.7c@192.168.1.10"),
        );
        check(
            "call.account0000000000000000000000002.PARK_RETRIEVED.at6dmu4ffk97vnlp6qfq",
            Kind::Call,
            owner(),
            "call.PARK_RETRIEVED.at6dmu4ffk97vnlp6qfq",
            "PARK_RETRIEVED",
            Some("at6dmu4ffk97vnlp6qfq"),
        );
        check(
            "conference.event.del-member.account0000000000000000000000002.conf123.a%2Eb%40c",
            Kind::ConferenceEvent,
            owner(),
            "conference.event.del-member.conf123.a%2Eb%40c",
            "del-member",
            Some("a.b@c"),
        );
        check(
            "conference.command.conf123",
            Kind::ConferenceCommand,
            Owner::Unnamed,
            "conference.command.conf123",
            "command",
            None,
        );
        check(
            "fax.status.account0000000000000000000000002.202611-faxjob1",
            Kind::FaxStatus,
            owner(),
            "fax.status.202611-faxjob1",
            "status",
            None,
        );
        for (routing_key, key) in [
            (
                "doc_created.account%2Fac%2Fco%2Funt0000000000000000000000002.user.u1",
                "object.doc_created.user",
            ),
            (
                "doc_deleted.account%2Fac%2Fco%2Funt0000000000000000000000002.user.u1",
                "object.doc_deleted.user",
            ),
            (
                "doc_edited.account%2Fac%2Fco%2Funt0000000000000000000000002-202611.fax.202611-faxjob1",
                "object.doc_edited.fax",
            ),
            (
                "doc_created.account%2Fac%2Fco%2Funt0000000000000000000000002-202612.fax.f",
                "object.doc_created.fax",
            ),
            (
                "doc_created.account%2Fac%2Fco%2Funt0000000000000000000000002-202611.cdr.202611-c1",
                "object.doc_created.cdr",
            ),
        ] {
            let name = key.split('.').nth(1).unwrap();
            check(routing_key, Kind::Object, owner(), key, name, None);
        }
        check(
            "dialog.wefwefwefwef%2E2600hz%2Ecom.abc1",
            Kind::Presence,
            realm(),
            "presence.dialog.abc1",
            "dialog",
            Some("abc1"),
        );
        check(
            "update.wefwefwefwef%2E2600hz%2Ecom.abc%2E1%40h",
            Kind::Presence,
            realm(),
            "presence.update.abc%2E1%40h",
            "update",
            Some("abc.1@h"),
        );
        check(
            "mwi_updates.wefwefwefwef%2E2600hz%2Ecom.1001",
            Kind::Presence,
            realm(),
            "presence.mwi_updates.1001",
            "mwi_updates",
            None,
        );
        check(
            "pivot.stream.start.account0000000000000000000000002.callA",
            Kind::Stream,
            owner(),
            "stream.start.callA",
            "start",
            Some("callA"),
        );
    }

    #[test]
    fn reads_what_kazoo_should_not_write() {
        // A dot that nobody encoded belongs to the id.
        let key = read("call.account0000000000000000000000002.CHANNEL_CREATE.a.b");
        assert_eq!((key.2.as_str(), key.4.as_deref()), ("call.CHANNEL_CREATE.a%2Eb", Some("a.b")));
        let key = read("conference.event.lock.account0000000000000000000000002.a.b.call");
        assert_eq!((key.2.as_str(), key.4.as_deref()), ("conference.event.lock.a%2Eb.call", Some("call")));
        // No call id: an empty last word, which `*` lets through.
        let key = read("conference.event.lock.account0000000000000000000000002.conf");
        assert_eq!((key.2.as_str(), key.4.as_deref()), ("conference.event.lock.conf.", None));
        // The other spelling of the same byte is still the same id.
        assert_eq!(read("call.account0000000000000000000000002.X.a%2eb").2, "call.X.a%2Eb");
    }

    #[test]
    fn says_nothing_of_other_kinds() {
        for routing_key in [
            "",
            "call",
            "call.account0000000000000000000000002.CHANNEL_CREATE",
            "call.short.CHANNEL_CREATE.id",
            "notifications.sip.missed_call",
            "live.conference.account0000000000000000000000002.chat.conf123",
            "dialog.event.account0000000000000000000000002.d1.i1",
            "dialog.realm",
            "doc_created.system_config.user.u1",
            "doc_created.account%2Fac%2Fco%2Funt0000000000000000000000002-2026.fax.f",
            "doc_created.account0000000000000000000000002.user.u1",
            "conference.participant.x",
            "fax.object.account0000000000000000000000002.x",
            "pivot.other.start.account0000000000000000000000002.callA",
        ] {
            assert_eq!(EventKey::from_routing_key(routing_key), None, "{routing_key}");
        }
    }
}
