//! One request of a client, from its text to the reply: rate, authenticate, validate, authorize, command.
//!
//! The steps and their order are blackhole's, and so are its habits: a request that fails leaves the session as it was,
//! authentication included (F20); an action that nobody handles succeeds, with the data of the last success (F16); what does
//! not parse takes the whole session down (F15).

use super::{
    accounts::{hex32, parse_account},
    bindings::{self, Listener, Resolved},
    broker::Responder,
    bucket::Bucket,
    cluster::Cluster,
    json::Json,
    topic,
};
use crate::binding::AccountId;

/// The client's message brought down the process of its session: close code 1011, no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crash;

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The reply's text.
    pub reply: String,
    /// What is to be done to the broker, after the reply was queued: so no event that a subscription brings can come before
    /// its own reply (F14).
    pub changes: Vec<Change>,
}

/// A change to the broker.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Bind { key: String, responder: Responder },
    Unbind { key: String, responder: Responder },
    Listen(Listener),
    Unlisten(Listener),
}

/// A session as its requests see it.
pub(super) struct Context {
    /// The connection's number.
    session: u64,
    /// `IP:PORT` of the client.
    session_id: String,
    bucket: Bucket,
    state: State,
}

/// What a request that succeeds leaves behind.
#[derive(Debug, Clone)]
struct State {
    account: Option<AccountId>,
    /// Pairs of the client's name and the dispatcher's key, in order of subscription.
    bindings: Vec<(String, String)>,
    /// Everything that was ever counted up for this session; closing it counts all of it down (F51).
    listeners: Vec<Listener>,
    /// `data` of the last reply that succeeded, as JSON.
    data: String,
}

/// Why a request was refused.
type Refusal = String;

/// The `data` of a subscribe or unsubscribe, its format checked.
struct Subscription {
    binding: String,
    /// `None` where it is no string: then authorization and resolving crash, each in its own way.
    account: Option<String>,
}

impl Context {
    pub fn new(session: u64, session_id: String, bucket: Bucket) -> Self {
        let state =
            State { account: None, bindings: Vec::new(), listeners: Vec::new(), data: "{}".to_owned() };
        Self { session, session_id, bucket, state }
    }

    /// The account that the session is authenticated as.
    pub fn account(&self) -> Option<AccountId> {
        self.state.account
    }

    /// The names of its bindings, one for each key (F25).
    pub fn names(&self) -> Vec<String> {
        self.state.bindings.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What closing the session does to the broker.
    pub fn closing(&self) -> Vec<Change> {
        let unlisten = self.state.listeners.iter().cloned().map(Change::Unlisten);
        let unbind = self.state.bindings.iter().map(|(name, key)| Change::Unbind {
            key: key.clone(),
            responder: Responder { session: self.session, subscribed_key: name.clone() },
        });
        unlisten.chain(unbind).collect()
    }

    /// Handles the text of one frame.
    pub fn handle(&mut self, cluster: &Cluster, text: &str) -> Result<Outcome, Crash> {
        let message = decode(text)?;
        let request_id =
            message.non_empty("request_id").unwrap_or_else(|| hex32(cluster.settings.random.as_ref()));
        let action = message.non_empty("action").unwrap_or_else(|| "noop".to_owned());

        let (status, data, changes) = match self.execute(cluster, &action, &message)? {
            Ok((state, changes)) => {
                self.state = state;
                ("success", self.state.data.clone(), changes)
            }
            Err(refusal) => {
                let data = Json::Object(vec![("errors".into(), Json::Array(vec![refusal.into()]))]);
                ("error", data.to_string(), Vec::new())
            }
        };
        let id = Json::from(request_id);
        let reply = format!(r#"{{"action":"reply","request_id":{id},"status":"{status}","data":{data}}}"#);
        Ok(Outcome { reply, changes })
    }

    fn execute(
        &mut self,
        cluster: &Cluster,
        action: &str,
        message: &Json,
    ) -> Result<Result<(State, Vec<Change>), Refusal>, Crash> {
        if !self.bucket.take(cluster.settings.stopwatch.elapsed()) {
            return Ok(Err(format!("rate limiting threshold hit for {}!", self.session_id)));
        }
        let mut state = self.state.clone();
        if state.account.is_none() && needs_authentication(action) {
            match authenticate(cluster, message) {
                Ok(account) => state.account = Some(account),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }

        let handled = |name: &str| topic::blackhole(name, action);
        let (subscribe, unsubscribe) = (handled("subscribe"), handled("unsubscribe"));
        let ping = cluster.ping_enabled() && handled("ping");
        if !subscribe && !unsubscribe {
            if ping {
                state.data = r#"{"response":"pong"}"#.to_owned();
            }
            return Ok(Ok((state, Vec::new())));
        }
        let subscription = match validate(message)? {
            Ok(subscription) => subscription,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // There is no authorization on unsubscribe (F37).
        if subscribe && let Err(refusal) = authorize(cluster, state.account, &subscription) {
            return Ok(Err(refusal));
        }
        let resolved = match &subscription.account {
            Some(account) => bindings::resolve(&subscription.binding, account, cluster),
            None => Vec::new(),
        };
        if resolved.is_empty() {
            return Ok(Err("no available subscriptions to requested binding".into()));
        }
        // A wildcard action runs both on the state as it was; the one that ran last is kept (R12).
        let mut changes = Vec::new();
        let mut after = None;
        if subscribe {
            after = Some(self.subscribed(&state, &resolved, &mut changes));
        }
        if unsubscribe {
            after = Some(self.unsubscribed(&state, &resolved, &mut changes));
        }
        Ok(Ok((after.unwrap_or(state), changes)))
    }

    fn responder(&self, name: &str) -> Responder {
        Responder { session: self.session, subscribed_key: name.to_owned() }
    }

    fn subscribed(&self, before: &State, resolved: &[Resolved], changes: &mut Vec<Change>) -> State {
        let mut state = before.clone();
        for Resolved { requested, keys, listeners } in resolved {
            for key in keys {
                let binding = (requested.clone(), key.clone());
                if !state.bindings.contains(&binding) {
                    state.bindings.push(binding);
                    changes.push(Change::Bind { key: key.clone(), responder: self.responder(requested) });
                }
            }
            // Counted up each time, also when nothing is new.
            state.listeners.extend(listeners.iter().cloned());
            changes.extend(listeners.iter().cloned().map(Change::Listen));
        }
        let data = Json::Object(vec![("subscribed".into(), names(&state.bindings))]);
        state.data = data.to_string();
        state
    }

    fn unsubscribed(&self, before: &State, resolved: &[Resolved], changes: &mut Vec<Change>) -> State {
        let mut state = before.clone();
        let mut unsubscribed = Vec::new();
        for Resolved { requested, keys, listeners } in resolved {
            for key in keys {
                remove_first(&mut state.bindings, &(requested.clone(), key.clone()));
                changes.push(Change::Unbind { key: key.clone(), responder: self.responder(requested) });
            }
            for listener in listeners {
                remove_first(&mut state.listeners, listener);
                changes.push(Change::Unlisten(listener.clone()));
            }
            unsubscribed.insert(0, Json::from(requested.clone()));
        }
        let data = Json::Object(vec![
            ("unsubscribed".into(), Json::Array(unsubscribed)),
            ("subscribed".into(), names(&state.bindings)),
        ]);
        state.data = data.to_string();
        state
    }
}

fn names(bindings: &[(String, String)]) -> Json {
    Json::Array(bindings.iter().map(|(name, _)| Json::from(name.clone())).collect())
}

fn remove_first<T: PartialEq>(list: &mut Vec<T>, item: &T) {
    if let Some(position) = list.iter().position(|held| held == item) {
        list.remove(position);
    }
}

/// Reads a frame's text as an object.
///
/// Kazoo takes what it cannot parse for an empty object, after logging the 25 bytes behind the error; where there are fewer,
/// it is the logging that crashes. So short garbage brings the session down, and a lone surrogate in a longer message does
/// not (R23).
fn decode(text: &str) -> Result<Json, Crash> {
    const LOGGED: usize = 25;
    match Json::first_in(text) {
        Ok(object @ Json::Object(_)) => Ok(object),
        Ok(Json::Array(items)) if items.is_empty() => Ok(Json::Object(Vec::new())),
        Ok(_) => Err(Crash),
        Err(malformed) if malformed.offset + LOGGED <= text.len() => Ok(Json::Object(Vec::new())),
        Err(_) => Err(Crash),
    }
}

/// The authenticator is bound to actions of one word, so one with a dot slips by (F18); not so one with a `#` in it (R58).
fn needs_authentication(action: &str) -> bool {
    topic::blackhole("*", action) || action.split('.').any(|word| word == "#")
}

fn authenticate(cluster: &Cluster, message: &Json) -> Result<AccountId, Refusal> {
    let Some(token) = message.non_empty("auth_token") else {
        return Err("authentication token required".into());
    };
    let account = cluster.authenticate(&token).filter(|_| !cluster.faults.refuses_tokens());
    // The text carries the token. It does so in the real one too (F22).
    account.ok_or_else(|| format!("failed to authenticate token {token}"))
}

fn validate(message: &Json) -> Result<Result<Subscription, Refusal>, Crash> {
    let data = match message.get("data") {
        Some(data @ Json::Object(pairs)) if !pairs.is_empty() => data,
        _ => return Ok(Err("missing required keys in data object".into())),
    };
    let missing: Vec<&str> =
        ["account_id", "binding"].into_iter().filter(|key| data.get(key).is_none()).collect();
    if !missing.is_empty() {
        return Ok(Err(format!("missing required keys : {}", missing.join(", "))));
    }
    let Some(binding) = data.str("binding") else {
        return Err(Crash);
    };
    Ok(bindings::validate(binding).map(|()| Subscription {
        binding: binding.to_owned(),
        account: data.str("account_id").map(str::to_owned),
    }))
}

fn authorize(
    cluster: &Cluster,
    session: Option<AccountId>,
    subscription: &Subscription,
) -> Result<(), Refusal> {
    // The authorizer is bound to bindings whose first word is not empty.
    if subscription.binding.is_empty() || subscription.binding.starts_with('.') {
        return Ok(());
    }
    let Some(session) = session else {
        return Err("auth_account_id not set".into());
    };
    match subscription.account.as_deref() {
        Some("*") if cluster.is_superduper_admin(&session) => Ok(()),
        Some("*") => Err("unauthorized wildcard account id".into()),
        // What crashes the authorizer passes it (F29).
        None | Some("") => Ok(()),
        Some(account) => match parse_account(account) {
            Some(account) if cluster.is_within(&session, &account) => Ok(()),
            _ => Err("unauthorized account id".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_garbage_crashes_and_long_garbage_is_an_empty_object() {
        for text in ["{not json", "", "   ", "null", "5", r#""text""#, "[1,2]", r#"[{"action":"ping"}]"#] {
            assert_eq!(decode(text), Err(Crash), "{text}");
        }
        assert_eq!(decode("\u{feff}{\"action\":\"foo\"}"), Err(Crash));
        let empty = Ok(Json::Object(Vec::new()));
        assert_eq!(decode("[]"), empty);
        assert_eq!(decode(r#"{"action":"\ud800","request_id":"lone-surrogate"}"#), empty);
    }

    #[test]
    fn an_action_with_a_dot_slips_by_authentication() {
        assert!(needs_authentication("subscribe"));
        assert!(needs_authentication("*"));
        assert!(needs_authentication("#.subscribe"));
        assert!(!needs_authentication("foo.bar"));
    }
}
