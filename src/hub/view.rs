//! A view: the projection of a log that all subscriptions with equal account, bindings, filter and payload format share.
//!
//! A view has no ring of its own. It knows the positions of its events in the log's recent part, and the batches of frames
//! that its readers share at the moment. Readers that are further back read the log through the same projection.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, OnceLock},
    task::Waker,
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::binding::{Binding, Index};

use super::{
    filter::Fields,
    frame::{self, Origin},
    log::{
        Sequence,
        record::EventRecord,
        store::{self, Log},
    },
    memory::{ALLOCATION, Charge, Share},
    subscription::{EventFilter, PayloadFormat},
};

/// Events in one batch at most.
const BATCH_EVENTS: usize = 64;
/// Bytes of one batch at most, unless its first event alone is larger.
const BATCH_BYTES: usize = 64 << 10;
/// Positions that a view remembers at most: what lies further back is found by reading the log.
const POSITIONS: usize = 4096;

/// What makes two subscriptions share a view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ViewKey {
    /// Sorted, without repeats.
    pub(super) bindings: Vec<Binding>,
    pub(super) filter: EventFilter,
    pub(super) format: PayloadFormat,
}

/// From a log's events to a view's: which, and how they look. Live and replayed events go through the same one.
pub(super) struct Projection {
    key: ViewKey,
    texts: Vec<Arc<str>>,
    /// The length of the longest of them.
    longest: usize,
    index: Index<u32>,
}

impl Projection {
    pub(super) fn new(key: ViewKey) -> Self {
        let mut index = Index::new();
        for (number, binding) in (0..).zip(&key.bindings) {
            index.insert(binding.pattern(), number);
        }
        let texts: Vec<Arc<str>> = key.bindings.iter().map(|binding| binding.as_str().into()).collect();
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        Self { key, texts, longest, index }
    }

    pub(super) fn key(&self) -> &ViewKey {
        &self.key
    }

    pub(super) fn filter(&self) -> &EventFilter {
        &self.key.filter
    }

    /// Its bindings with their canonical texts.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (&Binding, &Arc<str>)> {
        self.key.bindings.iter().zip(&self.texts)
    }

    /// Which of the bindings let the event's key through, in order.
    fn matched(&self, key: &str) -> SmallVec<[u32; 4]> {
        let mut matched = SmallVec::new();
        self.index.for_each_match(key, |number| matched.push(*number));
        matched.sort_unstable();
        matched.dedup();
        matched
    }

    fn write(&self, out: &mut Vec<u8>, record: &EventRecord, origin: &Origin, keep: bool, matched: &[u32]) {
        let texts = matched.iter().map(|number| &*self.texts[*number as usize]);
        frame::write_event(out, record, origin, self.key.format, keep, texts);
    }

    /// About how many bytes an event's frame takes.
    fn estimate(&self, record: &EventRecord) -> usize {
        frame::estimate(record, self.key.format, self.longest)
    }

    /// Encodes events that are known to belong to the view.
    fn encode(&self, records: &[Arc<EventRecord>], origin: &Origin) -> Vec<u8> {
        let mut out = Vec::with_capacity(records.iter().map(|record| self.estimate(record)).sum());
        for record in records {
            self.write(&mut out, record, origin, true, &self.matched(record.event.key()));
        }
        out
    }

    /// Encodes those of a log's events that belong to the view, up to a batch's bounds. Gives the frames, how many they
    /// are, and the last event looked at. `keep`: whether the log has room for the encodings.
    pub(super) fn project<'a>(
        &self,
        records: &'a [Arc<EventRecord>],
        origin: &Origin,
        keep: bool,
    ) -> (Bytes, u32, Option<&'a EventRecord>) {
        let mut out = Vec::new();
        let mut count = 0;
        let mut last = None;
        for record in records {
            let matched = self.matched(record.event.key());
            if !matched.is_empty()
                && self.key.filter.passes_envelope(&record.event)
                && self.key.filter.passes_payload(&Fields::new(record.event.data()))
            {
                let full = out.len() + self.estimate(record) > BATCH_BYTES || count as usize == BATCH_EVENTS;
                if count > 0 && full {
                    break;
                }
                self.write(&mut out, record, origin, keep, &matched);
                count += 1;
            }
            last = Some(&**record);
        }
        // It grew as it came.
        (origin.memory.frames(out, true).0, count, last)
    }
}

/// Frames that the readers at one position share. Reserved under the account's lock, encoded outside of it by the first
/// reader that comes.
pub(super) struct Batch {
    first: Sequence,
    last: Sequence,
    last_time: SystemTime,
    count: u32,
    /// Let go of as soon as they are encoded.
    records: Mutex<Vec<Arc<EventRecord>>>,
    /// And what they take.
    frames: OnceLock<(Bytes, usize)>,
    /// Of a batch that is kept: what it is counted in.
    share: Option<Arc<Share>>,
}

impl Batch {
    /// What it takes beside its frames.
    const BESIDE: usize = mem::size_of::<Self>() + 4 * ALLOCATION;

    pub(super) fn first(&self) -> Sequence {
        self.first
    }

    pub(super) fn last(&self) -> Sequence {
        self.last
    }

    /// When its last event was received.
    pub(super) fn last_time(&self) -> SystemTime {
        self.last_time
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn frames(&self, projection: &Projection, origin: &Origin) -> Bytes {
        let encode = || {
            let records = mem::take(&mut *self.records.lock());
            let frames = origin.memory.frames(projection.encode(&records, origin), self.share.is_some());
            if let Some(share) = &self.share {
                share.keep_frames(frames.1, Self::BESIDE);
            }
            frames
        };
        self.frames.get_or_init(encode).0.clone()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let (Some(share), Some((_, taken))) = (&self.share, self.frames.get()) {
            share.forget_frames(*taken, Self::BESIDE);
        }
    }
}

/// The state of a view that its readers share, under the account's lock.
pub(super) struct View {
    projection: Arc<Projection>,
    /// Its filter has to be looked at for each event. Kept here, because there is little else to look at for an event, and
    /// the filter lies far away.
    asks: bool,
    /// The view's events after `complete_after`, oldest first.
    positions: VecDeque<Sequence>,
    complete_after: Sequence,
    /// The newest of the view's events that the log let go of.
    lost_through: Sequence,
    /// Events that were ever put in `positions`.
    total: u64,
    /// In order of their first events.
    batches: VecDeque<Arc<Batch>>,
    share: Arc<Share>,
    /// The room in `positions`.
    slots: Charge,
    /// A reader's waker stands at its index, while it waits; free indices are reused.
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

/// What a view has for a reader.
pub(super) enum Next {
    /// These events; how many of the view's events it then has passed.
    Batch { batch: Arc<Batch>, ordinal: u64, made: bool },
    /// Nothing up to here.
    Nothing { ordinal: u64 },
    /// It must read the log itself, up to here.
    Behind { through: Sequence },
    /// The log let go of events that it has not had: how many, where that is known; and how many of the view's events lie
    /// before the oldest record, where that is.
    Overtaken { lost: Option<u64>, ordinal: Option<u64> },
}

impl View {
    pub(super) fn new(projection: Arc<Projection>, share: &Arc<Share>, newest: Sequence) -> Self {
        Self {
            asks: !projection.filter().asks_one_thing(),
            projection,
            positions: VecDeque::new(),
            complete_after: newest,
            lost_through: Sequence(0),
            total: 0,
            batches: VecDeque::new(),
            share: Arc::clone(share),
            slots: Charge::new(share),
            wakers: Vec::new(),
            free: Vec::new(),
        }
    }

    pub(super) fn projection(&self) -> &Arc<Projection> {
        &self.projection
    }

    /// Its filter, where that says more than what events find it by.
    pub(super) fn filter(&self) -> Option<&EventFilter> {
        self.asks.then(|| self.projection.filter())
    }

    pub(super) fn join(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        self.wakers.push(None);
        // Bounded by the limit on subscriptions.
        u32::try_from(self.wakers.len() - 1).unwrap_or(u32::MAX)
    }

    /// Says whether it was the last.
    pub(super) fn leave(&mut self, reader: u32) -> bool {
        self.wakers[reader as usize] = None;
        self.free.push(reader);
        self.free.len() == self.wakers.len()
    }

    pub(super) fn register(&mut self, reader: u32, waker: &Waker) {
        match &mut self.wakers[reader as usize] {
            Some(known) => known.clone_from(waker),
            empty => *empty = Some(waker.clone()),
        }
    }

    /// Takes the wakers of all who wait. To be woken when the lock is released.
    pub(super) fn take_wakers(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.wakers.iter_mut().filter_map(Option::take));
    }

    /// An event of the view was appended.
    pub(super) fn push(&mut self, position: Sequence, evicted: Sequence) {
        self.prune(evicted);
        if self.positions.len() == POSITIONS
            && let Some(oldest) = self.positions.pop_front()
        {
            self.complete_after = oldest;
        }
        self.positions.push_back(position);
        self.total += 1;
        self.slots.set(store::room(&self.positions));
    }

    /// Forgets what the log has let go of.
    pub(super) fn prune(&mut self, evicted: Sequence) {
        while let Some(oldest) = self.positions.front()
            && *oldest <= evicted
        {
            self.lost_through = *oldest;
            self.positions.pop_front();
        }
        store::shrink(&mut self.positions);
        self.slots.set(store::room(&self.positions));
    }

    /// Nobody will read it any more.
    pub(super) fn clear(&mut self) {
        self.positions = VecDeque::new();
        self.batches = VecDeque::new();
        self.slots.set(0);
    }

    /// Whether the log let go of what a reader that has passed a position had not read.
    pub(super) fn is_overtaken(&mut self, log: &Log, passed: Sequence) -> bool {
        let evicted = log.evicted();
        self.prune(evicted);
        // An outage may have come and gone in what it did not read: then nobody can count what it lost.
        let informed = passed >= log.evicted_control();
        let untouched = passed >= self.complete_after && passed >= self.lost_through;
        passed < evicted && !(untouched && informed)
    }

    /// What comes next for a reader that has passed a position, before the next control record (`until`).
    pub(super) fn next(
        &mut self,
        log: &Log,
        passed: Sequence,
        ordinal: Option<u64>,
        until: Option<Sequence>,
    ) -> Next {
        if self.is_overtaken(log, passed) {
            let complete = self.complete_after <= log.evicted();
            let informed = passed >= log.evicted_control();
            let gone = Some(self.total - self.positions.len() as u64).filter(|_| complete);
            let lost = ordinal.filter(|_| informed).zip(gone).map(|(had, gone)| gone.saturating_sub(had));
            return Next::Overtaken { lost, ordinal: gone };
        }
        let until = until.unwrap_or_else(|| log.newest().next());
        if passed < self.complete_after {
            return Next::Behind { through: self.complete_after.min(until.previous()) };
        }
        let index = self.positions.partition_point(|position| *position <= passed);
        let before = self.total - (self.positions.len() - index) as u64;
        match self.positions.get(index) {
            Some(first) if *first < until => self.batch(log, *first, index, before, until),
            _ => Next::Nothing { ordinal: before },
        }
    }

    /// How many of its events a reader that has passed a position still has before it. Of a reader that has never come up
    /// with the view it is only known how many records of any kind lie before that point.
    pub(super) fn lag(&self, passed: Sequence, ordinal: Option<u64>) -> u64 {
        if let Some(ordinal) = ordinal {
            return self.total.saturating_sub(ordinal);
        }
        let index = self.positions.partition_point(|position| *position <= passed);
        (self.positions.len() - index) as u64 + self.complete_after.0.saturating_sub(passed.0)
    }

    fn batch(&mut self, log: &Log, first: Sequence, index: usize, before: u64, until: Sequence) -> Next {
        let place = match self.batches.binary_search_by_key(&first, |batch| batch.first) {
            Ok(place) => {
                let batch = Arc::clone(&self.batches[place]);
                return Next::Batch { ordinal: before + u64::from(batch.count), batch, made: false };
            }
            Err(place) => place,
        };
        // Ends where a neighbour ends or begins, so that readers who are at different places come together.
        let within =
            place.checked_sub(1).map(|before| self.batches[before].last).filter(|last| *last >= first);
        let neighbour = self.batches.get(place).map(|after| after.first.previous());
        let limit = [within, neighbour].into_iter().flatten().fold(until.previous(), Sequence::min);

        let mut records = Vec::new();
        let mut size = 0;
        for position in
            self.positions.range(index..).take(BATCH_EVENTS).take_while(|position| **position <= limit)
        {
            // A position that the view has is in the log: both are pruned alike.
            let Some(record) = log.event(*position) else { break };
            let more = size + self.projection.estimate(record);
            if !records.is_empty() && more > BATCH_BYTES {
                break;
            }
            size = more;
            records.push(Arc::clone(record));
        }
        let (last, last_time) =
            records.last().map_or((first, log.newest_time()), |record| (record.sequence, record.received));
        let shared = self.wakers.len() - self.free.len() > 1;
        let batch = Arc::new(Batch {
            first,
            last,
            last_time,
            count: u32::try_from(records.len()).unwrap_or(u32::MAX),
            records: Mutex::new(records),
            frames: OnceLock::new(),
            share: shared.then(|| Arc::clone(&self.share)),
        });
        if shared {
            self.batches.insert(place, Arc::clone(&batch));
        }
        Next::Batch { ordinal: before + u64::from(batch.count), batch, made: shared }
    }

    /// Lets go of a batch: a reader that still needs it makes it again.
    pub(super) fn forget_batch(&mut self, first: Sequence) {
        if let Ok(place) = self.batches.binary_search_by_key(&first, |batch| batch.first) {
            self.batches.remove(place);
        }
    }
}
