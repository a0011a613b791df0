//! What consumers want from an account: counted, with a linger after the last one left.

mod audience;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rpds::RedBlackTreeSetSync;
use slab::Slab;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::binding::{Binding, Index};

use self::audience::Audience;
use super::{log::IncomingEvent, subscription::EventFilter};

/// The bindings that are wanted at one moment: those of the open subscriptions, those that linger, those always on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// In order of their text. To copy them costs nothing: they are told anew with each change, and there may be thousands.
    pub bindings: RedBlackTreeSetSync<Binding>,
}

/// Names a view within its account, as long as it is there.
pub(super) type ViewId = u32;

/// What is wanted, by whom; and which views an event may belong to.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    by_binding: BTreeMap<Binding, usize>,
    entries: Slab<Entry>,
    index: Index<usize>,
    /// The entries that expire, soonest first.
    expiring: BTreeSet<(Instant, usize)>,
    interest: Interest,
    /// It has changed since it was asked for.
    untold: bool,
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
        let mut wanted = Self::default();
        for binding in always {
            let id = wanted.id(binding);
            wanted.entries[id].always = true;
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
        for (id, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.always) {
            if !bindings.contains(&entry.binding) {
                entry.always = false;
                let expires = (entry.subscriptions == 0).then_some(now + linger);
                entry.expire_at(id, expires, &mut self.expiring);
            }
        }
        let new = bindings.iter().filter(|binding| !self.by_binding.contains_key(binding)).cloned().collect();
        for binding in bindings {
            let id = self.id(binding);
            let entry = &mut self.entries[id];
            entry.always = true;
            entry.expire_at(id, None, &mut self.expiring);
        }
        new
    }

    /// What is wanted, if that has changed since this was last asked.
    pub(super) fn untold(&mut self) -> Option<Interest> {
        std::mem::take(&mut self.untold).then(|| self.interest.clone())
    }

    /// A subscription begins. Gives those of its bindings that were not wanted before.
    pub(super) fn acquire(&mut self, bindings: &[Binding]) -> Vec<Binding> {
        let new = bindings.iter().filter(|binding| !self.by_binding.contains_key(binding)).cloned().collect();
        for binding in bindings {
            let id = self.id(binding);
            let entry = &mut self.entries[id];
            entry.subscriptions += 1;
            entry.expire_at(id, None, &mut self.expiring);
        }
        new
    }

    /// A subscription ends: what nobody else has lingers.
    pub(super) fn release(&mut self, bindings: &[Binding], now: Instant, linger: Duration) {
        for binding in bindings {
            let id = self.id(binding);
            let entry = &mut self.entries[id];
            entry.subscriptions -= 1;
            if entry.subscriptions == 0 && !entry.always {
                entry.expire_at(id, Some(now + linger), &mut self.expiring);
            }
        }
    }

    /// Forgets what has lingered long enough, and gives it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Binding> {
        let mut gone = Vec::new();
        while let Some((at, id)) = self.expiring.first().copied()
            && at <= now
        {
            self.expiring.pop_first();
            let binding = self.entries.remove(id).binding;
            self.by_binding.remove(&binding);
            self.index.remove(binding.pattern(), &id);
            self.interest.bindings.remove_mut(&binding);
            self.untold = true;
            gone.push(binding);
        }
        gone
    }

    /// When the next binding has lingered long enough.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// A view has come whose bindings are wanted already.
    pub(super) fn add_view(&mut self, bindings: &[Binding], filter: &EventFilter, view: ViewId) {
        for binding in bindings {
            let id = self.id(binding);
            self.entries[id].audience.add(filter, view);
        }
    }

    /// A view has gone.
    pub(super) fn remove_view(&mut self, bindings: &[Binding], filter: &EventFilter, view: ViewId) {
        for binding in bindings {
            let id = self.id(binding);
            self.entries[id].audience.remove(filter, view);
        }
    }

    /// The views that the event may belong to, each once: those with a binding that lets it through, less those whose
    /// filters name other calls, or only other names. `None` where nothing that is wanted lets it through.
    pub(super) fn candidates(&self, event: &IncomingEvent) -> Option<SmallVec<[ViewId; 8]>> {
        let mut wanted = false;
        let mut views = SmallVec::new();
        self.index.for_each_match(event.key(), |id| {
            wanted = true;
            for found in
                self.entries.get(*id).map(|entry| entry.audience.candidates(event)).into_iter().flatten()
            {
                views.extend_from_slice(found);
            }
        });
        views.sort_unstable();
        views.dedup();
        wanted.then_some(views)
    }

    fn id(&mut self, binding: &Binding) -> usize {
        *self.by_binding.entry(binding.clone()).or_insert_with(|| {
            let id = self.entries.insert(Entry {
                binding: binding.clone(),
                always: false,
                subscriptions: 0,
                expires: None,
                audience: Audience::default(),
            });
            self.index.insert(binding.pattern(), id);
            self.interest.bindings.insert_mut(binding.clone());
            self.untold = true;
            id
        })
    }
}

impl Entry {
    fn expire_at(&mut self, id: usize, at: Option<Instant>, expiring: &mut BTreeSet<(Instant, usize)>) {
        if let Some(before) = std::mem::replace(&mut self.expires, at) {
            expiring.remove(&(before, id));
        }
        expiring.extend(at.map(|at| (at, id)));
    }
}

#[cfg(test)]
mod tests;
