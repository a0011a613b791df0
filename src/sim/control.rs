//! The control API: makes events, and changes or breaks the server.
//!
//! Each verb is a `POST` of JSON to its path. The first group is that of the rig on which the recordings were made, so that
//! these can be played again; the second is ours, and [`faults`] has more. There is no authentication: it belongs on loopback.
//!
//! | verb | body | what it does |
//! | --- | --- | --- |
//! | `/publish` | `api`, `event`, for documents `action`, `db`, `type`, `id`, for commands `conference_id` | publishes to the broker |
//! | `/inject` | `routing_key`, `event`, `times` | puts an event into blackhole's dispatcher, listened to or not |
//! | `/hook` | `event`, `account_id`, `type`, `times` | the same under the key of a call event |
//! | `/month` | `year`, `month`; none: today's | moves the server's date to the first of a month |
//! | `/get_modb` | `account_id` | the account's databases |
//! | `/config` | `key` `max_connections_per_ip`, `value`; none: no limit | sets it |
//! |  | `key` `keep_client_alive`, `value` | K5: pings sessions once a minute (G14) |
//! | `/module` | `module` `bh_ping`, `action` `start` or `stop` | loads it |
//! | `/token` | `token`, `account_id` and `exp` in Unix seconds; without them: never good again | sets a token |
//! | `/kill` | `reason`, `session_id`; none: all | `kill` ends sessions, their bindings and counts left behind (F38); other reasons they survive |
//! | `/app` | `action` `restart_listener_srv` | restarts the listener: deaf until somebody subscribes (F45) |
//! |  | `action` `stop`, `stop_listener`, `start` or `restart` | stops and starts blackhole: it remembers nothing (F50) |
//! | `/cut` | `connection`; none: all | cuts TCP without a close frame |
//! | `/frame` | `text`, `connection`; none: all | sends a text frame as it is |
//! | `/sessions` | | the open sessions |
//! | `/counts` | | the reference counts |
//! | `/record` | | the record |

mod faults;

use std::{sync::Weak, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use jiff::civil::Date;
use serde_json::{Value, json};

use super::{
    Inner, Simulator,
    accounts::{account_db, month_db},
    bindings::Directory as _,
    cluster::Cluster,
    event::{Event, EventError},
    json::Json,
    record::{Frame, Happening},
};
use crate::binding::{AccountId, Flavour};

/// How often K5 pings where it does (G14).
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// A control verb failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such verb.
    #[error("there is no control verb `{0}`")]
    UnknownVerb(String),
    /// The body is not what the verb takes.
    #[error("{0}")]
    BadBody(String),
}

impl From<EventError> for ControlError {
    fn from(error: EventError) -> Self {
        ControlError::BadBody(error.to_string())
    }
}

/// The routes of the control API. They keep no simulator alive.
pub(super) fn router(simulator: Weak<Inner>) -> Router {
    Router::new().fallback(answer).with_state(simulator)
}

async fn answer(State(simulator): State<Weak<Inner>>, uri: Uri, body: String) -> Response {
    let Some(inner) = simulator.upgrade() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let simulator = Simulator { inner };
    let body = if body.trim().is_empty() { Ok(Json::Object(Vec::new())) } else { Json::first_in(&body) };
    let answer = match body {
        Ok(body) => run(&simulator, uri.path(), &body),
        Err(_) => Err(ControlError::BadBody("the body is no JSON".into())),
    };
    let (status, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => {
            let status = match error {
                ControlError::UnknownVerb(_) => StatusCode::NOT_FOUND,
                ControlError::BadBody(_) => StatusCode::BAD_REQUEST,
            };
            (status, json!({ "ok": false, "error": error.to_string() }))
        }
    };
    (status, [(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn bad(message: &str) -> ControlError {
    ControlError::BadBody(message.to_owned())
}

/// A whole number under `key`, if it is there.
fn number<T: TryFrom<i64>>(body: &Json, key: &str) -> Result<Option<T>, ControlError> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) => {
            let number = number.as_i64().and_then(|number| T::try_from(number).ok());
            number.map(Some).ok_or_else(|| bad(&format!("`{key}` is out of range")))
        }
        Some(_) => Err(bad(&format!("`{key}` is no number"))),
    }
}

fn account(body: &Json) -> Result<AccountId, ControlError> {
    let id = body.str("account_id").and_then(|id| id.parse().ok());
    id.ok_or_else(|| bad("`account_id` is missing or no account id"))
}

/// Runs a verb.
pub(super) fn run(simulator: &Simulator, path: &str, body: &Json) -> Result<Value, ControlError> {
    let cluster = &*simulator.inner.cluster;
    match path {
        "/publish" => {
            cluster.publish(&Event::from_control(body)?)?;
            Ok(json!({ "ok": true, "result": "ok" }))
        }
        "/inject" => repeat(cluster, body, &Event::from_control(body)?),
        "/hook" => repeat(cluster, body, &Event::hook_from_control(body)?),
        "/month" => {
            let day = match (number(body, "year")?, number(body, "month")?) {
                (Some(year), Some(month)) => {
                    Some(Date::new(year, month, 1).map_err(|_| bad("there is no such month"))?)
                }
                _ => None,
            };
            cluster.set_day(day);
            let today = cluster.today();
            let shown = format!("{{{},{},{}}}", today.year(), today.month(), today.day());
            Ok(json!({ "ok": true, "date": shown }))
        }
        "/get_modb" => {
            let account = account(body)?;
            Ok(json!({ "ok": true, "modb": month_db(&account, cluster.month()), "db": account_db(&account) }))
        }
        "/config" => config(simulator, body),
        "/module" => match (body.str("module"), body.str("action")) {
            (Some(module), Some(action @ ("start" | "stop"))) => {
                // Others are not simulated, and stay as they are.
                if module == "bh_ping" {
                    cluster.enable_ping(action == "start");
                }
                Ok(json!({ "ok": true, "result": "ok" }))
            }
            _ => Err(bad("`action` can be `start` or `stop`")),
        },
        "/token" => {
            let token = body.str("token").ok_or_else(|| bad("`token` is missing"))?;
            let until = match number::<u64>(body, "exp")? {
                Some(exp) => {
                    let expires = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(exp);
                    Some((account(body)?, expires))
                }
                None => None,
            };
            cluster.accounts.lock().set_token(token, until);
            Ok(json!({ "ok": true }))
        }
        "/kill" => {
            // Cowboy's process traps exits: only an untrappable kill ends it.
            let killed = match body.str("reason") {
                None | Some("kill") => cluster.cut(session(cluster, body)?, true),
                // K5's does not, so any reason but `normal` ends it (R5-84).
                Some(reason) if cluster.settings.flavour == Flavour::K5 && reason != "normal" => {
                    cluster.cut(session(cluster, body)?, true)
                }
                Some(_) => cluster.open_sessions(),
            };
            Ok(json!({ "ok": true, "killed": killed }))
        }
        "/app" => match body.str("action") {
            Some("restart_listener_srv") => {
                cluster.restart_listener(number(body, "node")?);
                Ok(json!({ "ok": true, "result": "true" }))
            }
            // Harmless: the sessions do not notice (F45).
            Some("restart_tracking") => Ok(json!({ "ok": true, "result": "true" })),
            Some(action @ ("stop" | "stop_listener" | "start" | "restart")) => {
                if action != "start" {
                    simulator.run_blackhole(false);
                }
                if matches!(action, "start" | "restart") {
                    simulator.run_blackhole(true);
                }
                Ok(json!({ "ok": true, "result": "ok" }))
            }
            _ => Err(bad("`action` is none of the known ones")),
        },
        "/cut" => Ok(json!({ "ok": true, "cut": cluster.cut(number(body, "connection")?, false) })),
        "/frame" => {
            let text = body.str("text").ok_or_else(|| bad("`text` is missing"))?;
            Ok(json!({ "ok": true, "sessions": cluster.inject(text, number(body, "connection")?) }))
        }
        "/counts" => Ok(json!({ "ok": true, "counts": cluster.counts() })),
        "/sessions" => Ok(sessions(cluster)),
        "/record" => Ok(record(cluster)),
        other => {
            let answer = faults::run(simulator, path, body)?;
            answer.ok_or_else(|| ControlError::UnknownVerb(other.to_owned()))
        }
    }
}

/// The connection that `session_id` names; `None` where nothing does.
fn session(cluster: &Cluster, body: &Json) -> Result<Option<u64>, ControlError> {
    let Some(id) = body.str("session_id") else { return Ok(None) };
    let found = cluster.sessions().into_iter().find(|session| session.peer.to_string() == id);
    found.map(|session| Some(session.connection)).ok_or_else(|| bad("there is no such session"))
}

fn config(simulator: &Simulator, body: &Json) -> Result<Value, ControlError> {
    let cluster = &simulator.inner.cluster;
    match body.str("key") {
        Some("max_connections_per_ip") => cluster.set_max_connections_per_ip(number(body, "value")?),
        Some("keep_client_alive") => {
            let on = matches!(body.get("value"), Some(Json::Bool(true)));
            cluster.set_keep_alive(on.then_some(KEEP_ALIVE));
        }
        Some("auth_tuple") => simulator.crash_on_authorization(body.str("value") == Some("reject")),
        // Where K5's action `api` goes: nowhere.
        Some("bh_api_url" | "delay_ms") => {}
        _ => return Err(bad("`key` is none of the known ones")),
    }
    Ok(json!({ "ok": true }))
}

fn repeat(cluster: &Cluster, body: &Json, event: &Event) -> Result<Value, ControlError> {
    let times: u32 = number(body, "times")?.unwrap_or(1);
    let began = tokio::time::Instant::now();
    for _ in 0..times {
        cluster.publish(event)?;
    }
    let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(json!({ "ok": true, "times": times, "us": us }))
}

fn sessions(cluster: &Cluster) -> Value {
    let sessions: Vec<Value> = cluster
        .sessions()
        .into_iter()
        .map(|session| {
            json!({
                "connection": session.connection,
                "session_id": session.peer.to_string(),
                "account_id": session.account.map(|account| account.to_string()),
                "bindings": session.names,
                "node": session.node,
                "waiting": session.waiting,
                "peak": session.peak,
            })
        })
        .collect();
    json!({ "ok": true, "sessions": sessions })
}

fn record(cluster: &Cluster) -> Value {
    let shown = |what: Happening| match what {
        Happening::Crossbar { method, path, status } => {
            json!({ "what": "crossbar", "method": method, "path": path, "status": status })
        }
        Happening::Refused { status } => json!({ "what": "refused", "status": status }),
        Happening::Opened { peer } => json!({ "what": "opened", "session_id": peer.to_string() }),
        Happening::Received(frame) => json!({ "what": "received", "frame": shown_frame(frame) }),
        Happening::Lost(frame, why) => {
            json!({ "what": "lost", "frame": shown_frame(frame), "why": format!("{why:?}") })
        }
        Happening::Sent(frame) => json!({ "what": "sent", "frame": shown_frame(frame) }),
        Happening::Closed(ending) => json!({ "what": "closed", "ending": format!("{ending:?}") }),
    };
    let exchanges: Vec<Value> = cluster
        .record
        .exchanges()
        .into_iter()
        .map(|exchange| {
            let at = exchange.at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
            let mut shown = shown(exchange.what);
            shown["number"] = exchange.number.into();
            shown["connection"] = exchange.connection.into();
            shown["at"] = at.as_secs_f64().into();
            shown
        })
        .collect();
    json!({ "ok": true, "record": exchanges })
}

fn shown_frame(frame: Frame) -> Value {
    match frame {
        Frame::Text(text) => json!({ "text": text.as_str() }),
        Frame::Binary(bytes) => json!({ "binary": bytes.len() }),
        Frame::Ping(bytes) => json!({ "ping": bytes.len() }),
        Frame::Pong(bytes) => json!({ "pong": bytes.len() }),
        Frame::Close(code) => json!({ "close": code }),
    }
}
