//! Events as they are published to the AMQP broker, and what blackhole makes of them.
//!
//! [`Event`] builds the payloads that Kazoo's own applications publish: keys in `Upper-Kebab` case, headers included. What a
//! client gets is that, normalised (F40).

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::{
    accounts::{AccountSpec, account_db, month_db},
    broker::Route,
    json::{Json, Object},
};
use crate::binding::{AccountId, encoding};

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

/// Types of documents that live in the database of the month.
const MONTH_TYPES: [&str; 5] = ["fax", "mailbox_message", "call_recording", "cdr", "recording"];

/// Unix seconds to Gregorian seconds, as Kazoo counts time.
pub(super) const GREGORIAN_OFFSET: u64 = 62_167_219_200;

/// An event, ready to be published.
#[derive(Debug, Clone)]
pub struct Event {
    api: Api,
    payload: Object,
    /// Whether it was built here, so that what it lacks is filled in; what is given whole is published as it is.
    built: bool,
}

/// Which of Kazoo's message APIs publishes it: that decides the routing key.
#[derive(Debug, Clone)]
enum Api {
    Call,
    Document {
        action: String,
        database: Database,
        doc_type: String,
        id: String,
    },
    Conference,
    ConferenceCommand {
        conference: String,
    },
    FaxStatus,
    PresenceUpdate,
    PresenceDialog,
    PresenceMwi,
    /// Put into the dispatcher under this key, past the broker.
    Direct {
        routing_key: String,
    },
}

#[derive(Debug, Clone)]
enum Database {
    Account(AccountId),
    ThisMonth(AccountId),
    Month(AccountId, (i16, i8)),
    /// By name, as the recordings have it.
    Named(String),
}

/// What [`Event::publication`] needs to know.
pub(super) struct Moment {
    /// Gregorian seconds.
    pub now: u64,
    /// The server's month.
    pub month: (i16, i8),
    /// For an event that has none.
    pub message_id: String,
}

/// An event on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Publication {
    pub route: Route,
    pub routing_key: String,
    /// The frame's `name`.
    pub name: Option<String>,
    /// The frame's `data`.
    pub data: Json,
}

/// The event lacks what its routing key is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EventError(String);

fn object(value: Value) -> Object {
    match Json::from(value) {
        Json::Object(pairs) => pairs,
        _ => Vec::new(),
    }
}

fn headers(app: &str, category: &str, name: &str) -> Object {
    [("App-Name", app), ("App-Version", "4.0.0"), ("Event-Category", category), ("Event-Name", name)]
        .map(|(key, value)| (key.to_owned(), Json::from(value)))
        .to_vec()
}

impl Event {
    fn new(api: Api, headers: Object, fields: Value) -> Self {
        let mut payload = headers;
        payload.extend(object(fields));
        Self { api, payload, built: true }
    }

    /// A call event: `name` is one of blackhole's (`CHANNEL_CREATE`, ...) or another that it does not pass on.
    pub fn call(account: &AccountSpec, name: &str, call_id: &str) -> Self {
        let realm = &account.realm;
        let fields = json!({
            "Call-Direction": "inbound",
            "Call-ID": call_id,
            "Caller-ID-Name": "Alice",
            "Caller-ID-Number": "1001",
            "Custom-Channel-Vars": {
                "Account-ID": account.id.as_str(),
                "Account-Name": account.name,
                "Account-Realm": realm,
                "Authorizing-ID": "d509114b66efabf32dfd78dc464b46dd",
                "Authorizing-Type": "device",
                "Realm": realm,
                "Username": "user_1001",
            },
            "From": format!("1001@{realm}"),
            "From-Uri": format!("1001@{realm}"),
            "Media-Server": format!("fs1.{realm}"),
            "Node": format!("ecallmgr@{realm}"),
            "Presence-ID": format!("1001@{realm}"),
            "Request": format!("1002@{realm}"),
            "Switch-URI": "sip:192.0.2.10:11000",
            "To": format!("1002@{realm}"),
            "To-Uri": format!("1002@{realm}"),
        });
        Self::new(Api::Call, headers("ecallmgr", "call_event", name), fields)
    }

    /// A document was created, edited or deleted: `action` is `doc_created` and so on. Types that live in the month's
    /// database (`fax`, `mailbox_message`, `call_recording`, `cdr`) go to that of the server's month.
    pub fn document(account: &AccountSpec, action: &str, doc_type: &str, id: &str) -> Self {
        let month_bound = MONTH_TYPES.contains(&doc_type);
        let database =
            if month_bound { Database::ThisMonth(account.id) } else { Database::Account(account.id) };
        let api = Api::Document { action: action.into(), database, doc_type: doc_type.into(), id: id.into() };
        let fields = json!({
            "ID": id,
            "Type": doc_type,
            "Rev": "1-967a00dff5e02add41819138abb3284d",
            "Account-ID": account.id.as_str(),
            "Is-Soft-Deleted": false,
            "Origin-Cache": "kazoo_data_cache",
        });
        Self::new(api, headers("datamgr", "configuration", action), fields)
    }

    /// The same document event in the database of another month.
    pub fn in_month(mut self, year: i16, month: i8) -> Self {
        if let Api::Document { database, .. } = &mut self.api
            && let Database::Account(account) | Database::ThisMonth(account) = *database
        {
            *database = Database::Month(account, (year, month));
        }
        self
    }

    /// A conference event: `event` is its real name, such as `add-member`.
    pub fn conference(account: &AccountSpec, event: &str, conference: &str, call_id: &str) -> Self {
        let fields = json!({
            "Account-ID": account.id.as_str(),
            "Call-ID": call_id,
            "Caller-ID-Name": "Bob",
            "Caller-ID-Number": "+15551234567",
            "Conference-ID": conference,
            "Custom-Channel-Vars": { "Account-ID": account.id.as_str() },
            "Event": event,
            "Instance-ID": "inst-1",
            "Participant-ID": 1,
        });
        Self::new(Api::Conference, headers("ecallmgr", "conference", "event"), fields)
    }

    /// A command to a conference. No account is in its key (F31).
    pub fn conference_command(conference: &str, application: &str) -> Self {
        let fields =
            json!({ "Application-Name": application, "Conference-ID": conference, "Participant-ID": 1 });
        let api = Api::ConferenceCommand { conference: conference.into() };
        Self::new(api, headers("conferences", "conference", "command"), fields)
    }

    /// The status of a fax job.
    pub fn fax_status(account: &AccountSpec, job: &str, status: &str) -> Self {
        let fields = json!({
            "Account-ID": account.id.as_str(),
            "Direction": "outgoing",
            "Fax-Info": { "Fax-Total-Pages": 2 },
            "Fax-State": "send",
            "FaxBox-ID": "fb1",
            "Job-ID": job,
            "Page": 1,
            "Stage": "negociated",
            "Status": status,
        });
        Self::new(Api::FaxStatus, headers("fax", "fax", "status"), fields)
    }

    /// A presence update of `user`: `state` is `early`, `confirmed`, `terminated`, ...
    pub fn presence_update(account: &AccountSpec, user: &str, call_id: &str, state: &str) -> Self {
        Self::presence(Api::PresenceUpdate, "update", account, user, call_id, state)
    }

    /// A presence dialog update of `user`.
    pub fn presence_dialog(account: &AccountSpec, user: &str, call_id: &str, state: &str) -> Self {
        Self::presence(Api::PresenceDialog, "dialog_update", account, user, call_id, state)
    }

    fn presence(api: Api, name: &str, account: &AccountSpec, user: &str, call_id: &str, state: &str) -> Self {
        let realm = &account.realm;
        let fields = json!({
            "Call-ID": call_id,
            "From": format!("sip:{user}@{realm}"),
            "Presence-ID": format!("{user}@{realm}"),
            "State": state,
            "To": format!("sip:1002@{realm}"),
        });
        Self::new(api, headers("ecallmgr", "presence", name), fields)
    }

    /// Waiting messages of `user`.
    pub fn mwi_update(account: &AccountSpec, user: &str, new: u32, saved: u32) -> Self {
        let fields = json!({
            "Messages-New": new,
            "Messages-Saved": saved,
            "Messages-Waiting": if new > 0 { "yes" } else { "no" },
            "To": format!("{user}@{}", account.realm),
        });
        Self::new(Api::PresenceMwi, headers("ecallmgr", "presence", "mwi_update"), fields)
    }

    /// Sets a field of the payload, by its name before it is normalised (`Hangup-Cause`), or takes it away with `null`.
    /// Without `Msg-ID` the event is given one when it is published, and a new one each time; likewise `Timestamp` for calls
    /// and the dates of documents.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = Json::from(value.into());
        self.payload.retain(|(name, _)| name != key);
        if value != Json::Null {
            self.payload.push((key.to_owned(), value));
        }
        self
    }

    /// Reads what the control API's `/publish` and `/inject` are given.
    pub(super) fn from_control(body: &Json) -> Result<Self, EventError> {
        let missing = |key: &str| EventError(format!("`{key}` is missing or of the wrong type"));
        let text = |key: &str| body.str(key).map(str::to_owned).ok_or_else(|| missing(key));
        let Some(Json::Object(payload)) = body.get("event") else {
            return Err(missing("event"));
        };
        let api = if let Some(routing_key) = body.str("routing_key") {
            Api::Direct { routing_key: routing_key.into() }
        } else {
            match text("api")?.as_str() {
                "call_event" => Api::Call,
                "doc_update" => Api::Document {
                    action: format!("doc_{}", text("action")?.trim_start_matches("doc_")),
                    database: Database::Named(text("db")?),
                    doc_type: text("type")?,
                    id: text("id")?,
                },
                "conference_event" => Api::Conference,
                "conference_command" => Api::ConferenceCommand { conference: text("conference_id")? },
                "fax_status" => Api::FaxStatus,
                "presence_update" => Api::PresenceUpdate,
                "presence_dialog" => Api::PresenceDialog,
                "presence_mwi_update" => Api::PresenceMwi,
                other => {
                    return Err(EventError(format!("`api` is `{other}`, which is none of the known ones")));
                }
            }
        };
        Ok(Self { api, payload: payload.clone(), built: false })
    }

    /// A hook's event, as the control API's `/hook` is given it: past the broker, under the key of a call event.
    pub(super) fn hook_from_control(body: &Json) -> Result<Self, EventError> {
        let mut event = Self::from_control(&Json::Object(vec![
            ("api".into(), "call_event".into()),
            ("event".into(), body.get("event").cloned().unwrap_or(Json::Null)),
        ]))?;
        let payload = Json::Object(event.payload.clone());
        let account = body.str("account_id").map(str::to_owned).or_else(|| account_of(&payload));
        let name = body.str("type").or_else(|| payload.str("Event-Name"));
        let (Some(account), Some(name)) = (account, name) else {
            return Err(EventError("a hook needs an account and an event's name".into()));
        };
        let call_id = payload.str("Call-ID").unwrap_or_default();
        event.api =
            Api::Direct { routing_key: format!("call.{account}.{name}.{}", encoding::encode(call_id)) };
        Ok(event)
    }

    /// For the table of calls that are up: the call id and the name of a call event.
    pub(super) fn as_call(&self) -> Option<(String, String)> {
        let payload = Json::Object(self.payload.clone());
        matches!(self.api, Api::Call)
            .then(|| Some((payload.str("Call-ID")?.to_owned(), payload.str("Event-Name")?.to_owned())))
            .flatten()
    }

    /// A field of the payload, as text.
    pub(super) fn field(&self, key: &str) -> Option<&str> {
        self.payload.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.as_str())
    }

    /// The account that a call event names.
    pub(super) fn account(&self) -> Option<String> {
        account_of(&Json::Object(self.payload.clone()))
    }

    /// What the broker and blackhole make of it. An event without an account that needs one goes nowhere: `None`.
    pub(super) fn publication(&self, moment: Moment) -> Result<Option<Publication>, EventError> {
        let payload = Json::Object(self.payload.clone());
        let need =
            |key: &str| payload.str(key).ok_or_else(|| EventError(format!("the event has no `{key}`")));
        let encoded = |key: &str| need(key).map(|text| encoding::encode(text).into_owned());

        let mut fields = self.payload.clone();
        let lacks = |fields: &Object, key: &str| !fields.iter().any(|(name, _)| name == key);
        if !matches!(self.api, Api::Direct { .. }) && lacks(&fields, "Msg-ID") {
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
        let untouched = matches!(self.api, Api::Direct { .. } | Api::ConferenceCommand { .. });
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
        let name = payload.str("Event-Name").map(str::to_owned);
        fields.retain(|(key, _)| !TRANSPORT_HEADERS.contains(&key.as_str()));
        Ok(Some(Publication { route, routing_key, name, data: normalise(&Json::Object(fields)) }))
    }
}

fn account_of(payload: &Json) -> Option<String> {
    let vars = payload.get("Custom-Channel-Vars").and_then(|vars| vars.str("Account-ID"));
    vars.or_else(|| payload.str("Account-ID")).map(str::to_owned)
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
