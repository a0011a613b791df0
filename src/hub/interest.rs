//! What consumers want from an account: counted, with a linger after the last one left.

mod audience;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::binding::{Binding, Index};

use self::audience::Audience;
use super::{log::IncomingEvent, subscription::EventFilter};

/// The bindings that are wanted at one moment: those of the open subscriptions, those that linger, those always on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// In order of their text.
    pub bindings: BTreeSet<Binding>,
}

/// Names a view within its account, as long as it is there.
pub(super) type ViewId = u32;

/// What is wanted, by whom; and which views an event may belong to.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    by_binding: BTreeMap<Binding, usize>,
    entries: Slab<Entry>,
    index: Index<usize>,
}

#[derive(Debug)]
struct Entry {
    binding: Binding,
    always: bool,
    subscriptions: usize,
    /// When it is no longer wanted, if nobody comes before.
    expires: Option<Instant>,
    audience: Audience,
}

impl Wanted {
    pub(super) fn new(always: &[Binding]) -> Self {
        let mut wanted = Self { index: Index::new(), ..Self::default() };
        for binding in always {
            wanted.entry(binding).always = true;
        }
        wanted
    }

    /// Other bindings are always wanted; what was and is not, and nobody has, lingers. Gives those that were not wanted
    /// before.
    pub(super) fn set_always_on(
        &mut self,
        bindings: &[Binding],
        now: Instant,
        linger: Duration,
    ) -> Vec<Binding> {
        for (_, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.always) {
            if !bindings.contains(&entry.binding) {
                entry.always = false;
                entry.expires = (entry.subscriptions == 0).then_some(now + linger);
            }
        }
        let new = bindings.iter().filter(|binding| !self.by_binding.contains_key(binding)).cloned().collect();
        for binding in bindings {
            let entry = self.entry(binding);
            entry.always = true;
            entry.expires = None;
        }
        new
    }

    /// What is wanted.
    pub(super) fn snapshot(&self) -> Interest {
        Interest { bindings: self.by_binding.keys().cloned().collect() }
    }

    /// A subscription begins. Gives those of its bindings that were not wanted before.
    pub(super) fn acquire(&mut self, bindings: &[Binding]) -> Vec<Binding> {
        let new = bindings.iter().filter(|binding| !self.by_binding.contains_key(binding)).cloned().collect();
        for binding in bindings {
            let entry = self.entry(binding);
            entry.subscriptions += 1;
            entry.expires = None;
        }
        new
    }

    /// A subscription ends: what nobody else has lingers.
    pub(super) fn release(&mut self, bindings: &[Binding], now: Instant, linger: Duration) {
        for binding in bindings {
            let entry = self.entry(binding);
            entry.subscriptions -= 1;
            if entry.subscriptions == 0 && !entry.always {
                entry.expires = Some(now + linger);
            }
        }
    }

    /// Forgets what has lingered long enough, and gives it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Binding> {
        let over = |entry: &&Entry| entry.expires.is_some_and(|at| at <= now);
        let gone: Vec<Binding> = self
            .entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(over)
            .map(|entry| entry.binding.clone())
            .collect();
        for binding in &gone {
            if let Some(id) = self.by_binding.remove(binding) {
                self.index.remove(binding.pattern(), id);
                self.entries.remove(id);
            }
        }
        gone
    }

    /// When the next binding has lingered long enough.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|(_, entry)| entry.expires).min()
    }

    /// A view has come whose bindings are wanted already.
    pub(super) fn add_view(&mut self, bindings: &[Binding], filter: &EventFilter, view: ViewId) {
        for binding in bindings {
            self.entry(binding).audience.add(filter, view);
        }
    }

    /// A view has gone.
    pub(super) fn remove_view(&mut self, bindings: &[Binding], filter: &EventFilter, view: ViewId) {
        for binding in bindings {
            self.entry(binding).audience.remove(filter, view);
        }
    }

    /// The views that the event may belong to, each once: those with a binding that lets it through, less those whose
    /// filters name other calls, or only other names. `None` where nothing that is wanted lets it through.
    pub(super) fn candidates(&self, event: &IncomingEvent) -> Option<SmallVec<[ViewId; 8]>> {
        let mut wanted = false;
        let mut views = SmallVec::new();
        self.index.for_each_match(&event.key.key, |id| {
            wanted = true;
            for found in
                self.entries.get(id).map(|entry| entry.audience.candidates(event)).into_iter().flatten()
            {
                views.extend_from_slice(found);
            }
        });
        views.sort_unstable();
        views.dedup();
        wanted.then_some(views)
    }

    fn entry(&mut self, binding: &Binding) -> &mut Entry {
        let id = *self.by_binding.entry(binding.clone()).or_insert_with(|| {
            let id = self.entries.insert(Entry {
                binding: binding.clone(),
                always: false,
                subscriptions: 0,
                expires: None,
                audience: Audience::default(),
            });
            self.index.insert(binding.pattern(), id);
            id
        });
        &mut self.entries[id]
    }
}

#[cfg(test)]
mod tests;
