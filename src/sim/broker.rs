//! The broker between publishers and sessions: what blackhole listens to, counted over all sessions of the node, and the
//! dispatcher's table of who gets what.
//!
//! These are two things, and blackhole keeps them apart: an event must first be listened to, and is then matched against the
//! table. A session can stand in the table and get nothing, because somebody else made the listener deaf (F37).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    bindings::Listener,
    topic::{self, Topic},
};
use crate::binding::Flavour;

/// A row of the dispatcher's table: a session, and the name by which it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Responder {
    pub session: u64,
    pub subscribed_key: String,
}

/// One frame to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    pub session: u64,
    pub subscribed_key: String,
    pub subscription_key: String,
}

/// The way by which an event comes to blackhole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// Over a hook on call events.
    Hook { account: String, event: String },
    /// Over an AMQP exchange.
    Amqp,
    /// Put into the dispatcher directly, whether it is listened to or not.
    Direct,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Broker {
    flavour: Flavour,
    counts: HashMap<Listener, i64>,
    hooks: HashSet<(String, String)>,
    /// A hook on every account's call events. It does not replace the others: both bring the event (F42).
    hook_on_all: bool,
    topics: HashSet<String>,
    table: BTreeMap<String, Row>,
}

/// What stands under a key.
#[derive(Debug)]
struct Row {
    topic: Topic,
    /// In order of subscription.
    responders: Vec<Responder>,
}

impl Broker {
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            counts: HashMap::new(),
            hooks: HashSet::new(),
            hook_on_all: false,
            topics: HashSet::new(),
            table: BTreeMap::new(),
        }
    }

    /// Puts a session into the table; once for each name and key.
    pub fn bind(&mut self, key: &str, responder: Responder) {
        let row = self
            .table
            .entry(key.to_owned())
            .or_insert_with(|| Row { topic: Topic::new(key), responders: Vec::new() });
        if !row.responders.contains(&responder) {
            row.responders.push(responder);
        }
    }

    /// Takes a session out of the table.
    pub fn unbind(&mut self, key: &str, responder: &Responder) {
        if let Some(row) = self.table.get_mut(key) {
            row.responders.retain(|held| held != responder);
            if row.responders.is_empty() {
                self.table.remove(key);
            }
        }
    }

    /// Counts a listener up, and starts it at one.
    pub fn listen(&mut self, listener: &Listener) {
        let count = self.counts.entry(listener.clone()).or_default();
        *count += 1;
        if *count == 1 {
            match listener {
                Listener::Hook { account, .. } if account == "*" => self.hook_on_all = true,
                Listener::Hook { account, event } => _ = self.hooks.insert((account.clone(), event.clone())),
                Listener::Amqp { topics, .. } => self.topics.extend(topics.iter().cloned()),
            }
        }
    }

    /// Counts a listener down, whoever asks, and ends it at zero or below (F37).
    pub fn unlisten(&mut self, listener: &Listener) {
        let count = self.counts.entry(listener.clone()).or_default();
        *count -= 1;
        if *count <= 0 {
            self.counts.remove(listener);
            match listener {
                Listener::Hook { account, .. } if account == "*" => self.hook_on_all = false,
                Listener::Hook { account, event } => _ = self.hooks.remove(&(account.clone(), event.clone())),
                // On the K5 of the recordings these are never unbound, only forgotten in a restart (R5-81, R5-83).
                Listener::Amqp { origin: "conference", topics }
                    if self.flavour == Flavour::K5
                        && topics.iter().all(|topic| topic.starts_with("conference.event.")) => {}
                Listener::Amqp { topics, .. } => {
                    topics.iter().for_each(|topic| _ = self.topics.remove(topic))
                }
            }
        }
    }

    /// The reference counts.
    pub fn counts(&self) -> Vec<(String, i64)> {
        let shown = |(listener, count): (&Listener, &i64)| (format!("{listener:?}"), *count);
        self.counts.iter().map(shown).collect()
    }

    /// The listener restarts: it counts from nothing, and hears nothing until somebody subscribes (F45).
    pub fn forget_listeners(&mut self) {
        self.counts.clear();
        self.hooks.clear();
        self.hook_on_all = false;
        self.topics.clear();
    }

    /// The frames that an event makes, in order.
    ///
    /// Later subscribers of a key come first (R09, R16, R24). The order over several keys is that of a hash table in the
    /// real one; here it is that of the keys.
    pub fn route(&self, route: &Route, routing_key: &str) -> Vec<Delivery> {
        let times = match route {
            // One handler for all accounts, outside the listener's table (G21).
            Route::Hook { .. } if self.flavour == Flavour::K5 => 1,
            Route::Hook { account, event } => {
                let one = self.hooks.contains(&(account.clone(), event.clone()));
                usize::from(one) + usize::from(self.hook_on_all)
            }
            Route::Amqp => usize::from(self.topics.iter().any(|pattern| topic::amqp(pattern, routing_key))),
            Route::Direct => 1,
        };
        if times == 0 {
            return Vec::new();
        }
        let rows = self.rows(routing_key);
        let deliveries = rows.into_iter().flat_map(|(key, row)| {
            row.responders.iter().rev().map(|responder| Delivery {
                session: responder.session,
                subscribed_key: responder.subscribed_key.clone(),
                subscription_key: key.clone(),
            })
        });
        let deliveries: Vec<Delivery> = deliveries.collect();
        std::iter::repeat_n(deliveries, times).flatten().collect()
    }

    /// The rows of the table that an event goes to. K5 looks some up by exact keys first, and where one of these is there,
    /// passes over all others that match (G16).
    fn rows(&self, routing_key: &str) -> Vec<(&String, &Row)> {
        if self.flavour == Flavour::K5 {
            let exact: Vec<_> =
                exact_keys(routing_key).iter().filter_map(|key| self.table.get_key_value(key)).collect();
            if !exact.is_empty() {
                return exact;
            }
        }
        let words: Vec<&str> = routing_key.split('.').collect();
        self.table.iter().filter(|(_, row)| row.topic.meets(&words)).collect()
    }
}

/// The keys that K5 tries first.
fn exact_keys(routing_key: &str) -> Vec<String> {
    let words: Vec<&str> = routing_key.split('.').collect();
    match words[..] {
        [kind @ ("call" | "fax"), one, two, id] => {
            ["*", id].map(|id| format!("{kind}.{one}.{two}.{id}")).to_vec()
        }
        [action, db, doc_type, _] if action.starts_with("doc_") => [action, "*"]
            .iter()
            .flat_map(|action| [doc_type, "*"].map(|doc_type| format!("{action}.{db}.{doc_type}.*")))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "call.A.CHANNEL_CREATE.*";

    fn hook() -> Listener {
        Listener::Hook { account: "A".into(), event: "CHANNEL_CREATE".into() }
    }

    fn responder(session: u64) -> Responder {
        Responder { session, subscribed_key: "call.CHANNEL_CREATE.*".into() }
    }

    fn reached(broker: &Broker) -> Vec<u64> {
        let route = Route::Hook { account: "A".into(), event: "CHANNEL_CREATE".into() };
        broker.route(&route, "call.A.CHANNEL_CREATE.x").iter().map(|delivery| delivery.session).collect()
    }

    #[test]
    fn one_sessions_unsubscribing_twice_silences_the_other_until_somebody_subscribes() {
        let mut broker = Broker::new(Flavour::K4);
        for session in [1, 2] {
            broker.bind(KEY, responder(session));
            broker.listen(&hook());
        }
        assert_eq!(reached(&broker), [2, 1]);
        broker.unbind(KEY, &responder(1));
        broker.unlisten(&hook());
        assert_eq!(reached(&broker), [2]);
        broker.unlisten(&hook());
        assert_eq!(reached(&broker), [0u64; 0], "deaf, though 2 still stands in the table");
        broker.listen(&hook());
        assert_eq!(reached(&broker), [2]);
    }

    #[test]
    fn a_count_does_not_stay_below_zero() {
        let mut broker = Broker::new(Flavour::K4);
        broker.unlisten(&hook());
        broker.unlisten(&hook());
        broker.listen(&hook());
        broker.bind(KEY, responder(1));
        assert_eq!(reached(&broker), [1]);
    }

    #[test]
    fn a_hook_on_all_accounts_doubles_every_call_event() {
        let mut broker = Broker::new(Flavour::K4);
        broker.bind(KEY, responder(1));
        broker.listen(&hook());
        broker.listen(&Listener::Hook { account: "*".into(), event: "CHANNEL_CREATE".into() });
        assert_eq!(reached(&broker), [1, 1]);
    }

    #[test]
    fn two_names_for_one_topic_are_counted_apart_but_bound_once() {
        let topic = "doc_created.db-202611.fax.*".to_owned();
        let object = Listener::Amqp { origin: "object", topics: vec![topic.clone()] };
        let fax = Listener::Amqp { origin: "fax", topics: vec![topic.clone()] };
        let mut broker = Broker::new(Flavour::K4);
        broker.listen(&object);
        broker.listen(&fax);
        broker.bind(&topic, responder(1));
        assert_eq!(broker.route(&Route::Amqp, "doc_created.db-202611.fax.f1").len(), 1);
        broker.unlisten(&fax);
        assert_eq!(broker.route(&Route::Amqp, "doc_created.db-202611.fax.f1").len(), 0);
    }
}
