//! What the broker and blackhole make of an event: the way it takes, its routing key, and the payload that clients get.

use md5::{Digest as _, Md5};

use super::{Api, Database, Event, EventError, account_of};
use crate::{
    binding::encoding,
    sim::{
        accounts::{account_db, month_db},
        broker::Route,
        json::{Json, Object},
    },
};

/// Headers that every message has. Kazoo's message builder puts them first, and hands out the whole in reverse.
const DEFAULT_HEADERS: [&str; 5] = ["App-Name", "App-Version", "Event-Category", "Event-Name", "Msg-ID"];

/// Headers that are between Kazoo and its broker, and are not for clients. (`Account-ID` and `Call-ID` are of the same list,
/// but are let through.)
const TRANSPORT_HEADERS: [&str; 14] = [
    "Access-Group",
    "AMQP-Broker",
    "AMQP-Zone",
    "Defer-Response",
    "Deliver-To-PID",
    "Destination-Server",
    "Geo-Location",
    "Node",
    "Queue-ID",
    "Raw-Headers",
    "Reply-To-PID",
    "Request-From-PID",
    "Server-ID",
    "System-Log-ID",
];

/// What [`Event::publication`] needs to know.
pub(in crate::sim) struct Moment {
    /// Gregorian seconds.
    pub now: u64,
    /// The server's month.
    pub month: (i16, i8),
    /// For an event that has none.
    pub message_id: String,
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sim) struct Publication {
    pub route: Route,
    pub routing_key: String,
    /// The frame's `name`.
    pub name: Option<String>,
    /// The frame's `data`.
    pub data: Json,
}

impl Event {
    /// What the broker and blackhole make of it. An event without an account that needs one goes nowhere: `None`.
    pub(in crate::sim) fn publication(&self, moment: Moment) -> Result<Option<Publication>, EventError> {
        let payload = Json::Object(self.payload.clone());
        let need =
            |key: &str| payload.str(key).ok_or_else(|| EventError(format!("the event has no `{key}`")));
        let encoded = |key: &str| need(key).map(|text| encoding::encode(text).into_owned());

        let mut fields = self.payload.clone();
        let lacks = |fields: &Object, key: &str| !fields.iter().any(|(name, _)| name == key);
        let has_id = !lacks(&fields, "Msg-ID") || !lacks(&fields, "msg_id");
        if !matches!(self.api, Api::Direct { .. }) && !has_id {
            fields.push(("Msg-ID".to_owned(), moment.message_id.into()));
        }
        let mut fill = |key: &str, value: Json| {
            if self.built && lacks(&fields, key) {
                fields.push((key.to_owned(), value));
            }
        };
        let now = Json::Number(moment.now.into());

        let (route, routing_key) = match &self.api {
            Api::Direct { routing_key } => (Route::Direct, routing_key.clone()),
            Api::Raw { routing_key } => {
                let mut words = routing_key.split('.');
                let route = match (words.next(), words.next(), words.next()) {
                    (Some("call"), Some(account), Some(event)) => {
                        Route::Hook { account: account.into(), event: event.into() }
                    }
                    _ => Route::Amqp,
                };
                (route, routing_key.clone())
            }
            Api::Call => {
                fill("Timestamp", now);
                let Some(account) = account_of(&payload) else {
                    return Ok(None);
                };
                let event = need("Event-Name")?.to_owned();
                let key = format!("call.{account}.{event}.{}", encoded("Call-ID")?);
                (Route::Hook { account, event }, key)
            }
            Api::Document { action, database, doc_type, id } => {
                let database = match database {
                    Database::Account(account) => account_db(account),
                    Database::ThisMonth(account) => month_db(account, moment.month),
                    Database::Month(account, month) => month_db(account, *month),
                    Database::Named(name) => name.clone(),
                };
                fill("Database", database.clone().into());
                fill("Date-Modified", now.clone());
                fill("Date-Created", now);
                (Route::Amqp, format!("{action}.{database}.{doc_type}.{}", encoding::encode(id)))
            }
            Api::Conference => {
                let Some(account) = account_of(&payload) else {
                    return Ok(None);
                };
                let conference = need("Conference-ID")?;
                let call_id = payload.str("Call-ID").unwrap_or(conference);
                let call_id = encoding::encode(call_id);
                (Route::Amqp, format!("conference.event.{}.{account}.{conference}.{call_id}", need("Event")?))
            }
            Api::ConferenceCommand { conference } => {
                (Route::Amqp, format!("conference.command.{conference}"))
            }
            Api::FaxStatus => {
                (Route::Amqp, format!("fax.status.{}.{}", need("Account-ID")?, encoded("Job-ID")?))
            }
            Api::PresenceUpdate | Api::PresenceDialog => {
                let (_, realm) = address(need("Presence-ID")?);
                let word = if matches!(self.api, Api::PresenceUpdate) { "update" } else { "dialog" };
                (Route::Amqp, format!("{word}.{}.{}", encoding::encode(realm), encoded("Call-ID")?))
            }
            Api::PresenceMwi => {
                let to = need("To")?.to_owned();
                let (user, realm) = address(&to);
                let presence_id = format!("{user}@{realm}");
                let sip = format!("sip:{presence_id}");
                fields.retain(|(key, _)| key != "To");
                for (key, value) in [
                    ("To", sip.as_str()),
                    ("Call-ID", &hex::encode(Md5::digest(&presence_id))),
                    ("From", &sip),
                    ("From-Realm", realm),
                    ("From-User", user),
                    ("Message-Account", &sip),
                    ("Presence-ID", &presence_id),
                    ("To-Realm", realm),
                    ("To-User", user),
                ] {
                    fields.push((key.to_owned(), value.into()));
                }
                for key in ["Messages-Urgent", "Messages-Urgent-Saved"] {
                    fields.push((key.to_owned(), Json::Number(0.into())));
                }
                (Route::Amqp, format!("mwi_updates.{}.{}", encoding::encode(realm), encoding::encode(user)))
            }
        };

        // What a message builder has not touched comes in the order in which it was given.
        let untouched =
            matches!(self.api, Api::Direct { .. } | Api::Raw { .. } | Api::ConferenceCommand { .. });
        if !untouched {
            let call = matches!(self.api, Api::Call);
            let rank = |key: &str| match DEFAULT_HEADERS.iter().position(|header| *header == key) {
                Some(position) => position,
                None if call && key == "Call-ID" => DEFAULT_HEADERS.len(),
                None => DEFAULT_HEADERS.len() + 1,
            };
            fields.sort_by_key(|(key, _)| rank(key));
            fields.reverse();
        }
        let name = payload.str("Event-Name").or_else(|| payload.str("event_name")).map(str::to_owned);
        fields.retain(|(key, _)| !TRANSPORT_HEADERS.contains(&key.as_str()));
        Ok(Some(Publication { route, routing_key, name, data: normalise(&Json::Object(fields)) }))
    }
}

/// `sip:user@realm` in its two parts.
fn address(text: &str) -> (&str, &str) {
    let text = text.strip_prefix("sip:").unwrap_or(text);
    text.split_once('@').unwrap_or(("", text))
}

/// Keys in lower case with `_` for `-`, at every depth; nulls in objects dropped; all other values as they are (F40).
fn normalise(value: &Json) -> Json {
    match value {
        Json::Object(pairs) => {
            let mut normal = Object::with_capacity(pairs.len());
            for (key, value) in pairs {
                if *value == Json::Null {
                    continue;
                }
                let key = key.to_ascii_lowercase().replace('-', "_");
                let value = normalise(value);
                match normal.iter_mut().find(|(held, _)| *held == key) {
                    Some((_, held)) => *held = value,
                    None => normal.push((key, value)),
                }
            }
            Json::Object(normal)
        }
        Json::Array(items) => Json::Array(items.iter().map(normalise).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sim::accounts::recorded_accounts;

    fn publication(event: &Event) -> Publication {
        let moment = Moment { now: 63_962_705_528, month: (2026, 11), message_id: "m1".into() };
        event.publication(moment).unwrap().unwrap()
    }

    #[test]
    fn each_kind_has_the_routing_key_that_was_recorded_for_it() {
        let account = &recorded_accounts()[1];
        let id = account.id;
        let db = "account%2Fac%2Fco%2Funt0000000000000000000000002";
        for (event, key) in [
            (
                Event::call(account, "CHANNEL_CREATE", "3a.b@h"),
                format!("call.{id}.CHANNEL_CREATE.3a%2Eb%40h"),
            ),
            (Event::document(account, "doc_created", "user", "u1"), format!("doc_created.{db}.user.u1")),
            (
                Event::document(account, "doc_edited", "fax", "202611-f"),
                format!("doc_edited.{db}-202611.fax.202611-f"),
            ),
            (
                Event::document(account, "doc_edited", "fax", "f").in_month(2026, 12),
                format!("doc_edited.{db}-202612.fax.f"),
            ),
            (
                Event::conference(account, "add-member", "conf123", "a.b@c"),
                format!("conference.event.add-member.{id}.conf123.a%2Eb%40c"),
            ),
            (Event::conference_command("conf123", "kick"), "conference.command.conf123".into()),
            (Event::fax_status(account, "202611-j", "ok"), format!("fax.status.{id}.202611-j")),
            (
                Event::presence_update(account, "1001", "abc.1@h", "early"),
                "update.wefwefwefwef%2E2600hz%2Ecom.abc%2E1%40h".into(),
            ),
            (
                Event::presence_dialog(account, "1001", "abc1", "early"),
                "dialog.wefwefwefwef%2E2600hz%2Ecom.abc1".into(),
            ),
            (Event::mwi_update(account, "1001", 2, 1), "mwi_updates.wefwefwefwef%2E2600hz%2Ecom.1001".into()),
        ] {
            assert_eq!(publication(&event).routing_key, key);
        }
    }

    #[test]
    fn a_payload_is_normalised_at_every_depth_and_loses_transport_headers_and_nulls() {
        let account = &recorded_accounts()[1];
        let event = Event::call(account, "CHANNEL_CREATE", "c")
            .with("Nested", json!({ "Inner-Key": { "A-B": [{ "C-D": 1, "N": null }, "E-F"] } }))
            .with("X Odd Key", 1)
            .with("Server-ID", "secretq");
        let data = publication(&event).data;
        assert_eq!(data.get("nested").unwrap().to_string(), r#"{"inner_key":{"a_b":[{"c_d":1},"E-F"]}}"#);
        assert!(data.get("x odd key").is_some());
        assert!(data.get("server_id").is_none() && data.get("node").is_none());
        assert_eq!(data.str("msg_id"), Some("m1"));
    }

    #[test]
    fn a_message_comes_out_in_reverse_with_the_default_headers_last() {
        let data = publication(&Event::call(&recorded_accounts()[1], "CHANNEL_CREATE", "c")).data;
        let Json::Object(pairs) = data else { panic!("an object") };
        let last: Vec<&str> = pairs.iter().rev().take(6).map(|(key, _)| key.as_str()).collect();
        assert_eq!(last, ["app_name", "app_version", "event_category", "event_name", "msg_id", "call_id"]);
    }
}
