//! Crossbar: the REST API that logs in, and tells of accounts, sessions and calls.

use std::{str::FromStr as _, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use jiff::Timestamp;
use serde_json::json;

use super::{
    accounts::{HashMethod, Named, hex32, owner_id},
    bindings::{CALL_EVENTS, DOC_ACTIONS, DOC_TYPES},
    cluster::{Cluster, Listed, gregorian},
    json::{Json, Object},
    record::Happening,
};
use crate::binding::{AccountId, Flavour};

type Shared = State<Arc<Cluster>>;

/// The routes of Crossbar.
pub(super) fn router(cluster: Arc<Cluster>) -> Router {
    Router::new()
        .route("/v2/user_auth", put(user_auth))
        .route("/v2/api_auth", put(api_auth))
        .route("/v2/websockets", get(catalogue))
        .route("/v2/accounts/{account}", get(account))
        .route("/v2/accounts/{account}/descendants", get(descendants))
        .route("/v2/accounts/{account}/channels", get(channels))
        .route("/v2/accounts/{account}/websockets", get(sessions))
        .route("/v2/accounts/{account}/websockets/{session}", get(session))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&cluster), note))
        .with_state(cluster)
}

/// Puts each request and its answer into the record, and lets go wrong what is to.
async fn note(State(cluster): Shared, request: Request, next: Next) -> Response {
    let connection = cluster.next_connection();
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let fault = cluster.faults.of_crossbar(&path).unwrap_or_default();
    tokio::time::sleep(fault.delay).await;
    if fault.hangs {
        cluster.stop.cancelled().await;
    }
    let response = match fault.status.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) => error(&cluster, status, "fault", Json::Object(Vec::new())),
        None => next.run(request).await,
    };
    cluster.note(connection, Happening::Crossbar { method, path, status: response.status().as_u16() });
    response
}

// What an answer is wrapped in

fn reply(cluster: &Cluster, status: StatusCode, mut body: Object) -> Response {
    let now = Timestamp::try_from(cluster.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    let request_id = hex32(cluster.settings.random.as_ref());
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    // The version is the one that the recordings show; nothing depends on it.
    for (key, value) in [
        ("request_id", request_id.as_str()),
        ("node", "hawking-sim"),
        ("timestamp", &stamp),
        ("version", "5.0.0"),
    ] {
        body.push((key.to_owned(), value.into()));
    }
    (status, [(CONTENT_TYPE, "application/json")], Json::Object(body).to_string()).into_response()
}

fn success(cluster: &Cluster, data: Json) -> Response {
    reply(cluster, StatusCode::OK, vec![("data".into(), data), ("status".into(), "success".into())])
}

fn error(cluster: &Cluster, status: StatusCode, message: &str, data: Json) -> Response {
    let body = vec![
        ("data".into(), data),
        ("error".into(), status.as_str().into()),
        ("message".into(), message.into()),
        ("status".into(), "error".into()),
    ];
    reply(cluster, status, body)
}

fn invalid_credentials(cluster: &Cluster) -> Response {
    let data = json!({ "message": "invalid credentials" }).into();
    error(cluster, StatusCode::UNAUTHORIZED, "invalid_credentials", data)
}

fn invalid(cluster: &Cluster, fields: &[&str]) -> Response {
    let missing = || json!({ "required": { "message": "Field is required but missing" } }).into();
    let data = fields.iter().map(|field| ((*field).to_owned(), missing())).collect();
    error(cluster, StatusCode::BAD_REQUEST, "validation error", Json::Object(data))
}

async fn not_found(State(cluster): Shared) -> Response {
    let data = json!({ "message": "not found" }).into();
    error(&cluster, StatusCode::NOT_FOUND, "not_found", data)
}

// Login

/// `data` of a request's body.
fn request_data(cluster: &Cluster, body: &[u8]) -> Result<Json, Box<Response>> {
    let unreadable = || {
        let data = json!({ "json": { "message": "Invalid JSON request envelope" } }).into();
        Box::new(error(cluster, StatusCode::BAD_REQUEST, "invalid request envelope", data))
    };
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    let envelope = Json::first_in(text).map_err(|_| unreadable())?;
    envelope.get("data").cloned().ok_or_else(unreadable)
}

async fn user_auth(State(cluster): Shared, body: Bytes) -> Response {
    let data = match request_data(&cluster, &body) {
        Ok(data) => data,
        Err(response) => return *response,
    };
    let Some(credentials) = data.str("credentials") else {
        return invalid(&cluster, &["credentials"]);
    };
    let method = match data.str("method").unwrap_or("md5") {
        "md5" => HashMethod::Md5,
        "sha" => HashMethod::Sha,
        _ => return invalid_credentials(&cluster),
    };
    let named = if let Some(name) = data.str("account_name") {
        Named::Name(name)
    } else if let Some(realm) = data.str("account_realm") {
        Named::Realm(realm)
    } else if let Some(number) = data.str("phone_number") {
        Named::PhoneNumber(number)
    } else {
        return invalid_credentials(&cluster);
    };
    let account = cluster.accounts.lock().login(named, credentials, method);
    logged_in(&cluster, account, "cb_user_auth")
}

async fn api_auth(State(cluster): Shared, body: Bytes) -> Response {
    let data = match request_data(&cluster, &body) {
        Ok(data) => data,
        Err(response) => return *response,
    };
    let Some(key) = data.str("api_key") else {
        return invalid(&cluster, &["api_key"]);
    };
    let account = cluster.accounts.lock().login_with_key(key);
    logged_in(&cluster, account, "cb_api_auth")
}

fn logged_in(cluster: &Cluster, account: Option<AccountId>, method: &str) -> Response {
    let Some(account) = account else {
        return invalid_credentials(cluster);
    };
    let now = cluster.now();
    let mut accounts = cluster.accounts.lock();
    let expires = now + cluster.token_life();
    let token = accounts.issue(account, method, now, expires, cluster.settings.random.as_ref());
    let (name, above) = match accounts.get(&account) {
        Some(spec) => (spec.name.clone(), accounts.tree(spec)),
        None => (String::new(), Vec::new()),
    };
    drop(accounts);
    let text = |text: &str| Json::from(text);
    let data: Vec<(&str, Json)> = vec![
        ("owner_id", owner_id(&account).into()),
        ("account_id", text(account.as_str())),
        ("reseller_id", text(above.first().unwrap_or(&account).as_str())),
        ("is_reseller", Json::Bool(above.is_empty())),
        ("account_name", name.into()),
        ("language", text("en-us")),
        ("apps", Json::Array(Vec::new())),
        ("ui_config", Json::Object(Vec::new())),
    ];
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let body = vec![
        ("data".into(), Json::Object(data)),
        ("auth_token".into(), token.into()),
        ("status".into(), "success".into()),
        ("revision".into(), "automatic".into()),
    ];
    reply(cluster, StatusCode::CREATED, body)
}

// The catalogue

async fn catalogue(State(cluster): Shared) -> Response {
    let list = |items: Vec<String>| Json::Array(items.into_iter().map(Json::from).collect());
    let fixed = |items: &[&str]| list(items.iter().map(|item| (*item).to_owned()).collect());
    let objects = DOC_ACTIONS
        .iter()
        .flat_map(|action| DOC_TYPES.iter().map(move |doc_type| format!("object.{action}.{doc_type}")));
    let flavour = cluster.settings.flavour;
    let conference = match flavour {
        Flavour::K4 => "conference.event.{CONFERENCE_ID}.{CALL_ID}",
        Flavour::V4_3 => "conference.event.{CONFERENCE_ID}.*.{EVENT}",
        Flavour::K5 => "conference.event.{EVENT}.{CONFERENCE_ID}.{CALL_ID}",
    };
    let mut data = vec![
        ("call", list(CALL_EVENTS.iter().map(|event| format!("call.{event}.{{CALL_ID}}")).collect())),
        ("conference", fixed(&[conference, "conference.command.{CONFERENCE_ID}"])),
        ("fax", fixed(&["fax.status.{FAX_ID}", "fax.object.{ACTION}"])),
        ("object", list(objects.collect())),
    ];
    if flavour != Flavour::V4_3 {
        // Listed without its prefix; asked for like this it is refused.
        data.push(("presence", fixed(&["dialog.{CALL_ID}", "mwi_updates.{USER}", "update.{CALL_ID}"])));
    }
    if flavour == Flavour::K5 {
        data.push(("stream", fixed(&["stream.start.{CALL_ID}", "stream.stop.{CALL_ID}"])));
    }
    success(&cluster, Json::Object(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

// What a token may look at

/// The account in the path, if the request's token may see it.
fn authorized(cluster: &Cluster, headers: &HeaderMap, account: &str) -> Result<AccountId, Box<Response>> {
    let token = headers.get("x-auth-token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let refused = || {
        let data = json!({ "message": "invalid credentials" }).into();
        Box::new(error(cluster, StatusCode::UNAUTHORIZED, "invalid_credentials", data))
    };
    let own = cluster.authenticate(token).ok_or_else(refused)?;
    match AccountId::from_str(account) {
        Ok(account) if cluster.is_within(&own, &account) => Ok(account),
        _ => {
            let data = json!({ "message": "forbidden" }).into();
            Err(Box::new(error(cluster, StatusCode::FORBIDDEN, "forbidden", data)))
        }
    }
}

async fn account(State(cluster): Shared, Path(account): Path<String>, headers: HeaderMap) -> Response {
    let account = match authorized(&cluster, &headers, &account) {
        Ok(account) => account,
        Err(response) => return *response,
    };
    let accounts = cluster.accounts.lock();
    let data = accounts.get(&account).map(|spec| {
        json!({
            "id": spec.id.as_str(),
            "name": spec.name,
            "realm": spec.realm,
            "enabled": true,
            "superduper_admin": spec.superduper_admin,
            "timezone": "UTC",
            "language": "en-us",
        })
    });
    drop(accounts);
    success(&cluster, data.unwrap_or_default().into())
}

/// Which page is asked for.
#[derive(serde::Deserialize)]
struct Paging {
    start_key: Option<String>,
}

async fn descendants(
    State(cluster): Shared,
    Path(account): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Response {
    let account = match authorized(&cluster, &headers, &account) {
        Ok(account) => account,
        Err(response) => return *response,
    };
    let accounts = cluster.accounts.lock();
    let mut below = accounts.descendants(&account);
    below.sort_by_key(|(spec, _)| spec.id);
    let start = paging.start_key.as_deref().unwrap_or_default();
    let mut rest = below.into_iter().skip_while(|(spec, _)| spec.id.as_str() < start).peekable();
    let page: Vec<_> = rest
        .by_ref()
        .take(cluster.settings.page_size.unwrap_or(usize::MAX))
        .map(|(spec, tree)| {
            let tree: Vec<&str> = tree.iter().map(AccountId::as_str).collect();
            json!({ "id": spec.id.as_str(), "name": spec.name, "realm": spec.realm, "tree": tree })
        })
        .collect();
    let mut body = vec![("data".into(), json!(page).into()), ("status".into(), "success".into())];
    if let Some((next, _)) = rest.peek() {
        body.push(("next_start_key".into(), next.id.as_str().into()));
    }
    drop(rest);
    drop(accounts);
    reply(&cluster, StatusCode::OK, body)
}

async fn channels(State(cluster): Shared, Path(account): Path<String>, headers: HeaderMap) -> Response {
    match authorized(&cluster, &headers, &account) {
        Ok(account) => success(&cluster, Json::Array(cluster.channels_of(&account))),
        Err(response) => *response,
    }
}

// The audit

fn shown(session: &Listed) -> Json {
    let bindings = session.names.iter().map(|name| Json::from(name.as_str())).collect();
    let fields: Vec<(&str, Json)> = vec![
        ("bindings", Json::Array(bindings)),
        ("websocket_session_id", session.peer.to_string().into()),
        ("timestamp", Json::Number(gregorian(session.since).into())),
        ("destination", "nohost".into()),
        ("source", session.peer.ip().to_string().into()),
    ];
    Json::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

async fn sessions(State(cluster): Shared, Path(account): Path<String>, headers: HeaderMap) -> Response {
    let account = match authorized(&cluster, &headers, &account) {
        Ok(account) => account,
        Err(response) => return *response,
    };
    let own = cluster.sessions().into_iter().filter(|session| session.account == Some(account));
    success(&cluster, Json::Array(own.map(|session| shown(&session)).collect()))
}

async fn session(
    State(cluster): Shared,
    Path((account, session)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Err(response) = authorized(&cluster, &headers, &account) {
        return *response;
    }
    match cluster.sessions().iter().find(|open| open.peer.to_string() == session) {
        Some(open) => success(&cluster, shown(open)),
        None => not_found(State(cluster)).await,
    }
}
