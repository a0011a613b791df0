//! The state of one account, under its lock: nothing here waits, encodes, or wakes.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Waker,
    time::SystemTime,
};

use slab::Slab;
use tokio::time::Instant;

use crate::{binding::Binding, config};

use super::{
    coverage::Coverage,
    filter::Fields,
    interest::{ViewId, Wanted},
    log::{
        Control, Epoch, IncomingEvent, Sequence,
        record::{Change, ControlRecord, EventRecord},
        store::{AT_ONCE, Log},
    },
    memory::Share,
    view::{Batch, Next, Projection, View, ViewKey},
};

/// Records that a reader which is behind takes out of the log at once.
const SCAN_RECORDS: u64 = 256;
/// Batches kept for readers to share, in all views of the account.
const BATCHES: usize = 4096;

/// Records that go before all views forget what belonged to them.
const PRUNE_EVERY: u64 = 4096;

/// The log, what is wanted, the views and their readers.
pub(super) struct State {
    pub(super) log: Log,
    wanted: Wanted,
    views: Slab<View>,
    by_key: HashMap<ViewKey, ViewId>,
    share: Arc<Share>,
    /// The batches that views hold, oldest first: bounded for the account. A view that is gone may still be named here: if
    /// another has its place by then, it makes a batch once more at worst.
    batches: VecDeque<Kept>,
    /// What they may take, with what belongs to them.
    batch_bytes_max: usize,
    /// All views have forgotten what the log has let go of up to here.
    pruned: Sequence,
    subscriptions: usize,
    gone: bool,
}

/// A batch that a view holds.
struct Kept {
    view: ViewId,
    first: Sequence,
    last: Sequence,
}

/// Who a reader is: its view, and its place in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReaderId {
    view: ViewId,
    place: u32,
}

/// What a reader does next.
pub(super) enum Step {
    /// Yield these; then it has passed so many of the view's events.
    Batch { batch: Arc<Batch>, ordinal: u64 },
    /// Look through these: they end at `through`. `keep`: there is room for their encodings.
    Scan { records: Vec<Arc<EventRecord>>, through: Sequence, keep: bool },
    /// Take this in.
    Control { record: Arc<ControlRecord> },
    /// The log let go of what it had not read.
    Overtaken(Overtaken),
    /// Nothing up to here; it will be woken.
    Wait { newest: Sequence, time: SystemTime, ordinal: u64 },
    /// The account was removed.
    Gone,
}

/// Where the log stands for a reader that it overtook.
pub(super) struct Overtaken {
    pub(super) oldest: Sequence,
    pub(super) oldest_time: SystemTime,
    pub(super) newest: Sequence,
    pub(super) coverage: Arc<Coverage>,
    /// How many of the reader's events are gone, where that is known.
    pub(super) lost: Option<u64>,
    /// How many of its view's events lie before the oldest record, where that is known.
    pub(super) ordinal: Option<u64>,
}

/// What came of an attempt to append.
pub(super) enum Appended {
    Sequence(Sequence),
    /// Nobody wants it.
    Unwanted,
    /// A view's filter looks into the payload: parse it, without the lock, and come again.
    NeedsFields(Box<IncomingEvent>),
}

impl State {
    pub(super) fn new(
        epoch: Epoch,
        settings: &config::Hub,
        always: &[Binding],
        share: Arc<Share>,
        now: SystemTime,
    ) -> Self {
        Self {
            log: Log::new(epoch, settings, Coverage::new(always, now), &share, now),
            wanted: Wanted::new(always),
            views: Slab::new(),
            by_key: HashMap::new(),
            share,
            batches: VecDeque::new(),
            batch_bytes_max: batch_bytes_max(settings),
            pruned: Sequence(0),
            subscriptions: 0,
            gone: false,
        }
    }

    pub(super) fn wanted(&mut self) -> &mut Wanted {
        &mut self.wanted
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub(super) fn views(&self) -> usize {
        self.views.len()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn append(
        &mut self,
        event: IncomingEvent,
        fields: Option<&Fields<'_>>,
        now: SystemTime,
        wakers: &mut Vec<Waker>,
    ) -> Appended {
        let Some(mut views) = self.wanted.candidates(&event).filter(|_| !self.gone) else {
            return Appended::Unwanted;
        };
        let filter = |id: ViewId| self.views.get(id as usize).and_then(View::filter);
        views.retain(|id| filter(*id).is_none_or(|filter| filter.passes_envelope(&event)));
        if views.iter().filter_map(|id| filter(*id)).any(|filter| filter.reads_payload()) {
            let Some(fields) = fields else { return Appended::NeedsFields(Box::new(event)) };
            views.retain(|id| filter(*id).is_none_or(|filter| filter.passes_payload(fields)));
        }
        let sequence = self.log.append(event, now);
        self.forget();
        let evicted = self.log.evicted();
        for id in views {
            if let Some(view) = self.views.get_mut(id as usize) {
                view.push(sequence, evicted);
                view.take_wakers(wakers);
            }
        }
        Appended::Sequence(sequence)
    }

    pub(super) fn record(&mut self, control: Control, now: SystemTime, wakers: &mut Vec<Waker>) -> Sequence {
        if self.gone {
            return self.log.newest();
        }
        let sequence = self.log.record(Change::Upstream(control), now);
        self.take_all_wakers(wakers);
        sequence
    }

    pub(super) fn take_all_wakers(&mut self, wakers: &mut Vec<Waker>) {
        for (_, view) in &mut self.views {
            view.take_wakers(wakers);
        }
    }

    /// Ends everything. Nothing is kept for those who hold on to the account for a while yet.
    pub(super) fn remove(&mut self, wakers: &mut Vec<Waker>) {
        self.gone = true;
        self.take_all_wakers(wakers);
        self.log.clear();
        self.batches = VecDeque::new();
        for (_, view) in &mut self.views {
            view.clear();
        }
    }

    /// Other bindings are wanted whether anybody reads or not. What was not wanted before stands in the log as wanted from
    /// here on.
    pub(super) fn set_always_on(
        &mut self,
        bindings: &[Binding],
        now: Instant,
        linger: std::time::Duration,
        wall: SystemTime,
    ) {
        let new = self.wanted.set_always_on(bindings, now, linger);
        if !new.is_empty() {
            self.log.record(Change::Wanted(new.into()), wall);
        }
    }

    /// A reader comes. What was not wanted before stands in the log as wanted from here on; readers need not be woken for
    /// that: what they have themselves was wanted already.
    pub(super) fn join(&mut self, key: &ViewKey, now: SystemTime) -> (ReaderId, Arc<Projection>, bool) {
        let new = self.wanted.acquire(&key.bindings);
        let changed = !new.is_empty();
        if changed {
            self.log.record(Change::Wanted(new.into()), now);
        }
        let id = match self.by_key.get(key) {
            Some(id) => *id,
            None => {
                let projection = Arc::new(Projection::new(key.clone()));
                let id = self.views.insert(View::new(projection, &self.share, self.log.newest()));
                // There are no more views than subscriptions, and these are bounded.
                let id = ViewId::try_from(id).unwrap_or(ViewId::MAX);
                self.wanted.add_view(&key.bindings, &key.filter, id);
                self.by_key.insert(key.clone(), id);
                id
            }
        };
        let view = &mut self.views[id as usize];
        self.subscriptions += 1;
        (ReaderId { view: id, place: view.join() }, Arc::clone(view.projection()), changed)
    }

    /// A reader goes, and its view with the last one.
    pub(super) fn leave(&mut self, reader: ReaderId, now: Instant, linger: std::time::Duration) {
        let Some(view) = self.views.get_mut(reader.view as usize) else { return };
        let last = view.leave(reader.place);
        let projection = Arc::clone(view.projection());
        let key = projection.key();
        if last {
            self.views.remove(reader.view as usize);
            self.by_key.remove(key);
            self.wanted.remove_view(&key.bindings, &key.filter, reader.view);
        }
        self.wanted.release(&key.bindings, now, linger);
        self.subscriptions -= 1;
    }

    /// Lets go of what has lingered long enough; says whether there was any, and when to look again.
    pub(super) fn expire(&mut self, now: Instant, wall: SystemTime) -> (bool, Option<Instant>) {
        let gone = self.wanted.expire(now);
        let changed = !gone.is_empty();
        if changed && !self.gone {
            self.log.record(Change::Unwanted(gone.into()), wall);
        }
        (changed, self.wanted.next_expiry())
    }

    /// What comes next for a reader. Where there is nothing its waker is registered, under the same lock under which
    /// everything is appended: no wake-up can be lost.
    pub(super) fn step(
        &mut self,
        reader: ReaderId,
        passed: Sequence,
        ordinal: Option<u64>,
        waker: &Waker,
    ) -> Step {
        if self.gone {
            return Step::Gone;
        }
        // A reader's view lives as long as the reader.
        let Some(view) = self.views.get_mut(reader.view as usize) else { return Step::Gone };
        let control = self.log.next_control(passed);
        match (view.next(&self.log, passed, ordinal, control.map(|control| control.sequence)), control) {
            (Next::Batch { batch, ordinal, made }, _) => {
                if made {
                    self.keep_batch(reader.view, &batch);
                }
                Step::Batch { batch, ordinal }
            }
            (Next::Overtaken { lost, ordinal }, _) => Step::Overtaken(Overtaken {
                oldest: self.log.evicted(),
                oldest_time: self.log.window().oldest_time.unwrap_or(self.log.complete_since()),
                newest: self.log.newest(),
                coverage: Arc::clone(self.log.base()),
                lost,
                ordinal,
            }),
            (Next::Behind { through }, _) if through > passed => {
                let through = through.min(Sequence(passed.0 + SCAN_RECORDS));
                let positions = (passed.0 + 1)..=through.0;
                let records =
                    positions.filter_map(|position| self.log.event(Sequence(position))).map(Arc::clone);
                Step::Scan { records: records.collect(), through, keep: self.log.has_room() }
            }
            (Next::Behind { .. } | Next::Nothing { .. }, Some(control)) => {
                Step::Control { record: Arc::clone(control) }
            }
            (Next::Behind { .. }, None) => {
                // Not behind a control record, hence behind the newest record: there is something to read.
                debug_assert!(false, "behind nothing");
                Step::Wait {
                    newest: passed,
                    time: self.log.newest_time(),
                    ordinal: ordinal.unwrap_or_default(),
                }
            }
            (Next::Nothing { ordinal }, None) => {
                view.register(reader.place, waker);
                Step::Wait { newest: self.log.newest(), time: self.log.newest_time(), ordinal }
            }
        }
    }

    /// Whether the log let go of what a reader that has passed a position had not read. Where the account is gone that is
    /// not what there is to tell.
    pub(super) fn is_overtaken(&mut self, reader: ReaderId, passed: Sequence) -> bool {
        !self.gone
            && self
                .views
                .get_mut(reader.view as usize)
                .is_some_and(|view| view.is_overtaken(&self.log, passed))
    }

    /// See [`View::lag`]. Of a reader that is there: its place may be another's afterwards.
    pub(super) fn lag(&self, reader: ReaderId, passed: Sequence, ordinal: Option<u64>) -> u64 {
        self.views.get(reader.view as usize).map_or(0, |view| view.lag(passed, ordinal))
    }

    /// Lets go of the oldest records until the log takes no more than `bytes`, so many records at most; says whether there
    /// is more to do.
    pub(super) fn trim(&mut self, bytes: usize, at_most: usize) -> bool {
        self.log.trim(bytes, at_most);
        self.forget_all();
        // What views kept for those records has gone too: it may be enough.
        self.log.trim(bytes, 0)
    }

    /// Lets go of what is too old, for somebody who comes: a few records at most, so that nobody waits for long.
    pub(super) fn evict(&mut self, now: SystemTime) {
        self.log.evict(now, AT_ONCE);
        self.forget();
    }

    /// Lets go of what is too old or, after a change of the bounds, too much: also in a log to which nothing is appended, and
    /// also what belongs to views for which nothing comes. A few records at once; says whether there is more to do.
    pub(super) fn look(&mut self, now: SystemTime) -> bool {
        self.log.evict(now, AT_ONCE);
        self.forget_all();
        self.log.evict(now, 0)
    }

    /// Takes new bounds. What they exclude goes with the next look.
    pub(super) fn set_limits(&mut self, settings: &config::Hub) {
        self.log.set_limits(settings);
        self.batch_bytes_max = batch_bytes_max(settings);
    }

    /// Forgets what belonged to records that have gone. Views for which something comes do that by themselves: the others now
    /// and then, so that no append has to do with all of them.
    fn forget(&mut self) {
        if self.log.evicted().0 - self.pruned.0 >= PRUNE_EVERY {
            self.forget_all();
        } else {
            self.forget_batches();
        }
    }

    fn forget_all(&mut self) {
        self.forget_batches();
        let evicted = self.log.evicted();
        if evicted != self.pruned {
            for (_, view) in &mut self.views {
                view.prune(evicted);
            }
            self.pruned = evicted;
        }
    }

    fn keep_batch(&mut self, view: ViewId, batch: &Batch) {
        self.batches.push_back(Kept { view, first: batch.first(), last: batch.last() });
        self.forget_batches();
    }

    /// Lets go of batches that are too many, and of those that no reader can come to any more. A reader that is just about to
    /// take one, or to make its frames, holds it: then it is one more or less.
    fn forget_batches(&mut self) {
        let evicted = self.log.evicted();
        while let Some(oldest) = self.batches.front()
            && (self.share.kept() > self.batch_bytes_max
                || self.batches.len() > BATCHES
                || oldest.last <= evicted)
        {
            if let Some(view) = self.views.get_mut(oldest.view as usize) {
                view.forget_batch(oldest.first);
            }
            self.batches.pop_front();
        }
    }
}

fn batch_bytes_max(settings: &config::Hub) -> usize {
    settings.log_bytes / 4
}
