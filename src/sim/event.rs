//! Events as Kazoo's own applications publish them: keys in `Upper-Kebab` case, headers included. What a client gets is
//! that, normalised; see `publication`.

mod publication;

use serde_json::{Value, json};

pub(super) use publication::Moment;

use super::{
    accounts::AccountSpec,
    json::{Json, Object},
};
use crate::binding::{AccountId, encoding};

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
    /// Published under this key as it is.
    Raw {
        routing_key: String,
    },
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

    /// A stream of a call begins (`start`) or ends (`stop`): K5 alone (G18).
    pub fn stream(account: &AccountSpec, event: &str, call_id: &str) -> Self {
        let routing_key = format!("pivot.stream.{event}.{}.{}", account.id, encoding::encode(call_id));
        let fields = json!({
            "Account-ID": account.id.as_str(),
            "Call-ID": call_id,
            "Stream-ID": "s1",
            "Stream-Name": "n1",
        });
        Self::new(Api::Raw { routing_key }, headers("pivot", "pivot", &format!("stream_{event}")), fields)
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
        let api = if body.get("api").is_none() && body.get("routing_key").is_some() {
            Api::Direct { routing_key: text("routing_key")? }
        } else {
            match text("api")?.as_str() {
                "raw" => Api::Raw { routing_key: text("routing_key")? },
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
}

fn account_of(payload: &Json) -> Option<String> {
    let vars = payload.get("Custom-Channel-Vars").and_then(|vars| vars.str("Account-ID"));
    vars.or_else(|| payload.str("Account-ID")).map(str::to_owned)
}
