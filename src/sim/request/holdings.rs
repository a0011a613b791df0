//! What a session holds, what it is told of it, and what subscribing and unsubscribing do to the broker. This is where K5
//! differs most (G1 to G3, G21 to G26).

use super::Change;
use crate::{
    binding::Flavour,
    sim::{
        bindings::{Listener, Resolved},
        broker::Responder,
        json::Json,
    },
};

/// What a session holds.
#[derive(Debug, Clone)]
pub(super) enum Holdings {
    /// K4 and 4.3: by the dispatcher's keys. Each subscribe counts, also one that brings nothing new.
    Keys {
        /// Pairs of the client's name and the dispatcher's key, in order of subscription.
        bindings: Vec<(String, String)>,
        /// Everything that was ever counted up for this session; closing it counts all of it down (F51).
        listeners: Vec<Listener>,
    },
    /// K5: by binding. What is held already is not counted again, so a refresh repairs nothing (G21).
    Bindings(Vec<Resolved>),
}

/// The `data` of a reply, as pairs, and what is to be done to the broker.
type Done = (Json, Vec<Change>);

impl Holdings {
    pub fn none(flavour: Flavour) -> Self {
        match flavour {
            Flavour::K4 | Flavour::V4_3 => Holdings::Keys { bindings: Vec::new(), listeners: Vec::new() },
            Flavour::K5 => Holdings::Bindings(Vec::new()),
        }
    }

    /// The names under which a client sees them: one for each key (F25), on K5 for each binding.
    pub fn names(&self) -> Vec<String> {
        match self {
            Holdings::Keys { bindings, .. } => bindings.iter().map(|(name, _)| name.clone()).collect(),
            Holdings::Bindings(held) => held.iter().map(|binding| binding.requested.clone()).collect(),
        }
    }

    pub fn subscribe(&mut self, session: u64, resolved: Vec<Resolved>) -> Done {
        let mut changes = Vec::new();
        match self {
            Holdings::Keys { bindings, listeners } => {
                for Resolved { requested, keys, listeners: wanted } in resolved {
                    for key in keys {
                        let binding = (requested.clone(), key.clone());
                        if !bindings.contains(&binding) {
                            bindings.push(binding);
                            changes.push(Change::bind(session, &requested, key));
                        }
                    }
                    // Counted up each time, also when nothing is new.
                    listeners.extend(wanted.iter().cloned());
                    changes.extend(wanted.into_iter().map(Change::Listen));
                }
                (object([("subscribed", self.names())]), changes)
            }
            Holdings::Bindings(held) => {
                let mut added = Vec::new();
                for binding in resolved {
                    if held.contains(&binding) {
                        continue;
                    }
                    added.push(binding.requested.clone());
                    let bind = |key: &String| Change::bind(session, &binding.requested, key.clone());
                    changes.extend(binding.keys.iter().map(bind));
                    changes.extend(binding.listeners.iter().cloned().map(Change::Listen));
                    held.push(binding);
                }
                (object([("subscribed", added), ("subscriptions", self.names())]), changes)
            }
        }
    }

    /// What is not held is unsubscribed all the same, and lowers the counts (F36, F37).
    pub fn unsubscribe(&mut self, session: u64, resolved: Vec<Resolved>) -> Done {
        let mut names: Vec<String> = resolved.iter().map(|binding| binding.requested.clone()).collect();
        let mut changes = Vec::new();
        for binding in &resolved {
            let unbind = |key: &String| Change::unbind(session, &binding.requested, key.clone());
            changes.extend(binding.keys.iter().map(unbind));
            changes.extend(binding.listeners.iter().cloned().map(Change::Unlisten));
        }
        match self {
            Holdings::Keys { bindings, listeners } => {
                for Resolved { requested, keys, listeners: unwanted } in resolved {
                    for key in keys {
                        remove_first(bindings, &(requested.clone(), key));
                    }
                    unwanted.iter().for_each(|listener| remove_first(listeners, listener));
                }
                names.reverse();
                (object([("unsubscribed", names), ("subscribed", self.names())]), changes)
            }
            Holdings::Bindings(held) => {
                resolved.iter().for_each(|binding| remove_first(held, binding));
                (object([("unsubscribed", names), ("subscriptions", self.names())]), changes)
            }
        }
    }

    /// What closing the session does to the broker.
    pub fn close(&self, session: u64) -> Vec<Change> {
        match self {
            Holdings::Keys { bindings, listeners } => {
                let unlisten = listeners.iter().cloned().map(Change::Unlisten);
                let unbind = bindings.iter().map(|(name, key)| Change::unbind(session, name, key.clone()));
                unlisten.chain(unbind).collect()
            }
            Holdings::Bindings(held) => held
                .iter()
                .flat_map(|binding| {
                    let unlisten = binding.listeners.iter().cloned().map(Change::Unlisten);
                    let unbind = |key: &String| Change::unbind(session, &binding.requested, key.clone());
                    unlisten.chain(binding.keys.iter().map(unbind)).collect::<Vec<_>>()
                })
                .collect(),
        }
    }
}

impl Change {
    fn bind(session: u64, name: &str, key: String) -> Self {
        Change::Bind { key, responder: Responder { session, subscribed_key: name.to_owned() } }
    }

    fn unbind(session: u64, name: &str, key: String) -> Self {
        Change::Unbind { key, responder: Responder { session, subscribed_key: name.to_owned() } }
    }
}

fn object<const N: usize>(lists: [(&str, Vec<String>); N]) -> Json {
    let list = |names: Vec<String>| Json::Array(names.into_iter().map(Json::from).collect());
    Json::Object(lists.into_iter().map(|(key, names)| (key.to_owned(), list(names))).collect())
}

fn remove_first<T: PartialEq>(list: &mut Vec<T>, item: &T) {
    if let Some(position) = list.iter().position(|held| held == item) {
        list.remove(position);
    }
}
