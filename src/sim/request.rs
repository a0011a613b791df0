//! One request of a client, from its text to the reply: rate, authenticate, validate, authorize, command.
//!
//! The steps and their order are blackhole's, and so are its habits: a request that fails leaves the session as it was,
//! authentication included (F20); an action that nobody handles succeeds, with the data of the last success (F16); what does
//! not parse takes the whole session down (F15).

mod holdings;
mod subscription;

use super::{
    accounts::{hex32, parse_account},
    bindings::{self, Listener, Resolved},
    broker::Responder,
    bucket::Bucket,
    cluster::Cluster,
    json::Json,
    topic,
};
use crate::binding::{AccountId, Flavour};
use holdings::Holdings;
use subscription::Subscription;

/// The client's message brought down the process of its session: close code 1011, no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crash;

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The reply's text. K5 does not answer what it does not know (G6).
    pub reply: Option<String>,
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
#[derive(Debug)]
struct State {
    account: Option<AccountId>,
    holdings: Holdings,
    /// `data` of the last reply that succeeded, as JSON.
    data: String,
}

/// Why a request was refused.
type Refusal = String;

/// A request that succeeded.
struct Success {
    /// Whom the session is authenticated as from now on.
    account: Option<AccountId>,
    answer: Answer,
    changes: Vec<Change>,
}

/// What a request that succeeded is answered with.
enum Answer {
    /// This `data`.
    New(String),
    /// The `data` of the last one.
    Stale,
    /// Nothing.
    None,
}

impl Context {
    /// A new session's. `account`: what it is authenticated as from the start, on K5 by its upgrade (G12).
    pub fn new(
        session: u64,
        session_id: String,
        bucket: Bucket,
        flavour: Flavour,
        account: Option<AccountId>,
    ) -> Self {
        let state = State { account, holdings: Holdings::none(flavour), data: "{}".to_owned() };
        Self { session, session_id, bucket, state }
    }

    /// The account that the session is authenticated as.
    pub fn account(&self) -> Option<AccountId> {
        self.state.account
    }

    /// The names of its bindings, as the client is told them.
    pub fn names(&self) -> Vec<String> {
        self.state.holdings.names()
    }

    /// What closing the session does to the broker.
    pub fn closing(&self) -> Vec<Change> {
        self.state.holdings.close(self.session)
    }

    /// Handles the text of one frame.
    pub fn handle(&mut self, cluster: &Cluster, text: &str) -> Result<Outcome, Crash> {
        let message = decode(text)?;
        let request_id =
            message.non_empty("request_id").unwrap_or_else(|| hex32(cluster.settings.random.as_ref()));
        let action = message.non_empty("action").unwrap_or_else(|| "noop".to_owned());

        let id = Json::from(request_id);
        let reply = |status, data: &str| {
            Some(format!(r#"{{"action":"reply","request_id":{id},"status":"{status}","data":{data}}}"#))
        };
        Ok(match self.execute(cluster, &action, &message)? {
            Ok(Success { account, answer, changes }) => {
                self.state.account = account;
                let reply = match answer {
                    Answer::New(data) => {
                        self.state.data = data;
                        reply("success", &self.state.data)
                    }
                    Answer::Stale => reply("success", &self.state.data),
                    Answer::None => None,
                };
                Outcome { reply, changes }
            }
            Err(refusal) => {
                let data = Json::Object(vec![("errors".into(), Json::Array(vec![refusal.into()]))]);
                Outcome { reply: reply("error", &data.to_string()), changes: Vec::new() }
            }
        })
    }

    /// Nothing of the session's state is changed before the request has succeeded.
    fn execute(
        &mut self,
        cluster: &Cluster,
        action: &str,
        message: &Json,
    ) -> Result<Result<Success, Refusal>, Crash> {
        let flavour = cluster.settings.flavour;
        if !self.bucket.take(cluster.settings.stopwatch.elapsed()) {
            return Ok(Err(format!("rate limiting threshold hit for {}!", self.session_id)));
        }
        let mut account = self.state.account;
        if account.is_none() && needs_authentication(action) {
            match authenticate(cluster, message) {
                Ok(own) => account = Some(own),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }

        let handled = |name: &str| topic::blackhole(name, action);
        let (subscribe, unsubscribe) = (handled("subscribe"), handled("unsubscribe"));
        let ping = cluster.ping_enabled() && handled("ping");
        if !subscribe && !unsubscribe {
            let answer = match flavour {
                Flavour::K5 if handled("api") => match api(message) {
                    Ok(()) => Answer::None,
                    Err(refusal) => return Ok(Err(refusal)),
                },
                _ if ping => Answer::New(r#"{"response":"pong"}"#.to_owned()),
                Flavour::K5 => Answer::None,
                // What nobody handles succeeds (F16).
                Flavour::K4 | Flavour::V4_3 => Answer::Stale,
            };
            return Ok(Ok(Success { account, answer, changes: Vec::new() }));
        }
        let admin = account.is_some_and(|account| cluster.is_superduper_admin(&account));
        let subscription = match Subscription::read(message, flavour, account, admin)? {
            Ok(subscription) => subscription,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // There is no authorization on unsubscribe (F37).
        if subscribe && let Err(refusal) = authorize(cluster, account, &subscription) {
            return Ok(Err(refusal));
        }
        let mut resolved: Vec<Resolved> = Vec::new();
        for binding in &subscription.bindings {
            let of_one = match &subscription.account {
                Some(account) => bindings::resolve(binding, account, cluster),
                None => Vec::new(),
            };
            if of_one.is_empty() {
                return Ok(Err("no available subscriptions to requested binding".into()));
            }
            resolved.extend(of_one);
        }
        let holdings = &mut self.state.holdings;
        let mut changes = Vec::new();
        if subscribe && unsubscribe {
            // A wildcard action runs both on the state as it was; the one that ran last is kept (R12).
            changes = holdings.clone().subscribe(self.session, resolved.clone()).1;
        }
        let (data, caused) = if unsubscribe {
            holdings.unsubscribe(self.session, resolved)
        } else {
            holdings.subscribe(self.session, resolved)
        };
        changes.extend(caused);
        Ok(Ok(Success { account, answer: Answer::New(data.to_string()), changes }))
    }
}

/// The action `api` of K5 (G8). Nothing listens where it would send the request: so what is well formed is never answered.
fn api(message: &Json) -> Result<(), Refusal> {
    let Some(data) = message.get("data") else {
        return Err("missing required data object".into());
    };
    data.non_empty("endpoint").map(|_| ()).ok_or_else(|| "missing endpoint".into())
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
    let token = match (message.non_empty("auth_token"), cluster.settings.flavour) {
        (Some(token), _) => token,
        (None, Flavour::K5) => return Err("failed to authenticate token ".into()),
        (None, _) => return Err("authentication token required".into()),
    };
    let account = cluster.authenticate(&token).filter(|_| !cluster.faults.refuses_tokens());
    // The text carries the token. It does so in the real one too (F22).
    account.ok_or_else(|| format!("failed to authenticate token {token}"))
}

fn authorize(
    cluster: &Cluster,
    session: Option<AccountId>,
    subscription: &Subscription,
) -> Result<(), Refusal> {
    // The authorizer is bound to bindings whose first word is not empty.
    if subscription.bindings.iter().all(|binding| binding.is_empty() || binding.starts_with('.')) {
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
