//! The log in memory.

use std::{collections::VecDeque, mem, sync::Arc, time::SystemTime};

use crate::{binding::Kind, config};

use super::{
    Epoch, IncomingEvent, Sequence, Window,
    record::{Change, ControlRecord, EventRecord, Proofs, Record},
};
use crate::hub::{
    coverage::Coverage,
    memory::{Charge, Eviction, Share},
};

/// Records that go under one hold of a log's lock: its appends wait for that at most.
pub(in crate::hub) const AT_ONCE: usize = 256;
/// How many times its own size a record that comes may push out, where the log is full. With its encodings in all forms it
/// takes less than that, so that the log does not grow.
const FREED_BY_APPEND: usize = 8;

/// The records of one account, in an unbroken sequence, and the coverage before the first and after the last of them:
/// the coverage at any position between is `base` with the control records up to it.
pub(in crate::hub) struct Log {
    epoch: Epoch,
    limits: Limits,
    records: VecDeque<Record>,
    /// Those of `records` that are control records, so that the next one after a position is found without a scan.
    controls: VecDeque<Arc<ControlRecord>>,
    /// The position before the oldest record.
    evicted: Sequence,
    /// The last control record that was evicted.
    evicted_control: Sequence,
    /// Records received after this time are all there.
    complete_since: SystemTime,
    newest_time: SystemTime,
    share: Arc<Share>,
    /// What the records take, without encodings.
    bytes: usize,
    /// As much of that as the share knows of.
    told: Charge,
    /// The room in the queues.
    slots: Charge,
    base: Arc<Coverage>,
    head: Arc<Coverage>,
    proofs: Proofs,
}

/// What bounds a log. The newest record stays whatever its size.
#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes: usize,
    records: usize,
    age: std::time::Duration,
}

impl Limits {
    fn new(settings: &config::Hub) -> Self {
        Self { bytes: settings.log_bytes, records: settings.log_records, age: settings.log_age }
    }
}

impl Log {
    pub(in crate::hub) fn new(
        epoch: Epoch,
        settings: &config::Hub,
        coverage: Coverage,
        share: &Arc<Share>,
        now: SystemTime,
    ) -> Self {
        let coverage = Arc::new(coverage);
        Self {
            epoch,
            limits: Limits::new(settings),
            records: VecDeque::new(),
            controls: VecDeque::new(),
            evicted: Sequence(0),
            evicted_control: Sequence(0),
            complete_since: now,
            newest_time: now,
            bytes: 0,
            told: Charge::new(share),
            slots: Charge::new(share),
            share: Arc::clone(share),
            base: Arc::clone(&coverage),
            head: coverage,
            proofs: Proofs::default(),
        }
    }

    /// The position before the oldest record.
    pub(in crate::hub) fn evicted(&self) -> Sequence {
        self.evicted
    }

    /// The newest record.
    pub(in crate::hub) fn newest(&self) -> Sequence {
        Sequence(self.evicted.0 + self.records.len() as u64)
    }

    /// When the newest record was received; when the log began, if there was none.
    pub(in crate::hub) fn newest_time(&self) -> SystemTime {
        self.newest_time
    }

    /// The last control record that is no longer there.
    pub(in crate::hub) fn evicted_control(&self) -> Sequence {
        self.evicted_control
    }

    pub(in crate::hub) fn window(&self) -> Window {
        Window {
            epoch: self.epoch,
            oldest: self.evicted,
            newest: self.newest(),
            oldest_time: self.records.front().map(Record::received),
        }
    }

    /// Records, and the bytes that the log takes with all that belongs to it.
    pub(in crate::hub) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.taken())
    }

    /// The share knows all else, and of the records as much as it was told.
    fn taken(&self) -> usize {
        self.share.bytes() + self.bytes - self.told.bytes()
    }

    /// Whether there is room for what could be made again.
    pub(in crate::hub) fn has_room(&self) -> bool {
        self.share.bytes() < self.limits.bytes - self.limits.bytes / 8 && self.share.has_room()
    }

    /// The coverage before the oldest record.
    pub(in crate::hub) fn base(&self) -> &Arc<Coverage> {
        &self.base
    }

    /// The coverage after the newest record.
    pub(in crate::hub) fn head(&self) -> &Arc<Coverage> {
        &self.head
    }

    pub(in crate::hub) fn proofs(&self) -> Proofs {
        self.proofs
    }

    /// Whether everything received at or after a time is there.
    pub(in crate::hub) fn is_complete_from(&self, time: SystemTime) -> bool {
        if self.evicted == Sequence(0) { time >= self.complete_since } else { time > self.complete_since }
    }

    /// Since when the log is complete: everything received after it is there.
    pub(in crate::hub) fn complete_since(&self) -> SystemTime {
        self.complete_since
    }

    /// When the record at a position was received, or that before the oldest at the latest.
    pub(in crate::hub) fn time_at(&self, position: Sequence) -> SystemTime {
        self.at(position).map_or(self.complete_since, Record::received)
    }

    /// The position before the first record received at or after a time.
    pub(in crate::hub) fn position_before(&self, time: SystemTime) -> Sequence {
        Sequence(self.evicted.0 + self.records.partition_point(|record| record.received() < time) as u64)
    }

    pub(in crate::hub) fn append(&mut self, event: IncomingEvent, now: SystemTime) -> Sequence {
        let (sequence, received) = self.stamp(now);
        self.proofs.set(event.kind(), received);
        let record = EventRecord::new(sequence, received, event, Arc::clone(&self.share));
        self.push(Record::Event(Arc::new(record)), now);
        sequence
    }

    /// All bindings of the kind were proven at a time. No record: it changes nothing for any reader.
    pub(in crate::hub) fn prove(&mut self, kind: Kind, at: SystemTime) {
        self.proofs.set(kind, at);
    }

    pub(in crate::hub) fn record(&mut self, change: Change, now: SystemTime) -> Sequence {
        let (sequence, time) = self.stamp(now);
        let record = Arc::new(ControlRecord { sequence, time, change, proofs: self.proofs });
        Arc::make_mut(&mut self.head).apply(&record);
        self.controls.push_back(Arc::clone(&record));
        self.push(Record::Control(record), now);
        sequence
    }

    /// Lets go of what is too much or too old, so many records at most. Says whether there is more to do.
    pub(in crate::hub) fn evict(&mut self, now: SystemTime, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some(why) = self.excess(now) else { break };
            self.evict_oldest(why);
        }
        self.settle();
        self.excess(now).is_some()
    }

    /// Why the oldest record has to go, if it has to.
    fn excess(&self, now: SystemTime) -> Option<Eviction> {
        let oldest = self.records.front()?;
        let many = self.records.len() > 1;
        if now.checked_sub(self.limits.age).is_some_and(|horizon| oldest.received() < horizon) {
            Some(Eviction::Age)
        } else if many && self.records.len() > self.limits.records {
            Some(Eviction::Records)
        } else if many && self.taken() > self.limits.bytes {
            Some(Eviction::LogBytes)
        } else {
            None
        }
    }

    /// Lets go of everything: nobody will read it.
    pub(in crate::hub) fn clear(&mut self) {
        self.evicted = self.newest();
        self.evicted_control = self.controls.back().map_or(self.evicted_control, |control| control.sequence);
        self.complete_since = self.newest_time;
        self.base = Arc::clone(&self.head);
        self.records = VecDeque::new();
        self.controls = VecDeque::new();
        self.bytes = 0;
        self.settle();
    }

    /// Lets go of the oldest records, so many at most, until the log takes no more than `bytes` or has one record left. Says
    /// whether there is more to do.
    pub(in crate::hub) fn trim(&mut self, bytes: usize, at_most: usize) -> bool {
        let is_over = |log: &Self| log.records.len() > 1 && log.taken() > bytes;
        for _ in 0..at_most {
            if !is_over(self) {
                break;
            }
            self.evict_oldest(Eviction::SharedBytes);
        }
        self.settle();
        is_over(self)
    }

    /// New bounds. What they exclude goes with the next eviction.
    pub(in crate::hub) fn set_limits(&mut self, settings: &config::Hub) {
        self.limits = Limits::new(settings);
    }

    /// The bytes that it gave back.
    fn evict_oldest(&mut self, why: Eviction) -> usize {
        let Some(oldest) = self.records.pop_front() else { return 0 };
        let size = oldest.size();
        self.bytes -= size;
        self.complete_since = oldest.received();
        self.evicted = self.evicted.next();
        self.share.memory().evicted(why);
        if let Record::Control(control) = oldest {
            self.evicted_control = control.sequence;
            Arc::make_mut(&mut self.base).apply(&control);
            self.controls.pop_front();
        }
        size
    }

    /// Tells the share what the records take now, and gives back room that is no longer needed.
    fn settle(&mut self) {
        self.told.set(self.bytes);
        shrink(&mut self.records);
        shrink(&mut self.controls);
        self.slots.set(room(&self.records) + room(&self.controls));
    }

    /// The next control record after a position.
    pub(in crate::hub) fn next_control(&self, position: Sequence) -> Option<&Arc<ControlRecord>> {
        self.controls.get(self.controls.partition_point(|control| control.sequence <= position))
    }

    /// The control records up to a position, oldest first.
    pub(in crate::hub) fn controls_up_to(&self, position: Sequence) -> Vec<Arc<ControlRecord>> {
        self.controls.iter().take_while(|control| control.sequence <= position).map(Arc::clone).collect()
    }

    /// The event at a position; `None` where there is none, or a control record.
    pub(in crate::hub) fn event(&self, position: Sequence) -> Option<&Arc<EventRecord>> {
        match self.at(position)? {
            Record::Event(event) => Some(event),
            Record::Control(_) => None,
        }
    }

    fn at(&self, position: Sequence) -> Option<&Record> {
        let index = position.0.checked_sub(self.evicted.0 + 1)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// The next record's sequence, and its receive time, which never falls even where the wall clock does.
    fn stamp(&mut self, now: SystemTime) -> (Sequence, SystemTime) {
        self.newest_time = self.newest_time.max(now);
        (self.newest().next(), self.newest_time)
    }

    fn push(&mut self, record: Record, now: SystemTime) {
        let size = record.size();
        self.bytes += size;
        self.records.push_back(record);
        // What is new takes the place of what is oldest; of some times its own size at most. The rest, if there is any, goes
        // with the next ones: part of what is too much may be what views take, and that goes behind the records.
        let mut freed = 0;
        for _ in 0..AT_ONCE {
            match self.excess(now) {
                Some(Eviction::LogBytes) if freed >= size * FREED_BY_APPEND => break,
                Some(why) => freed += self.evict_oldest(why),
                None => break,
            }
        }
        self.settle();
        // The same where the log itself has room and its pool has none, because nobody has come to trim yet.
        let mut freed = 0;
        while freed < size && self.records.len() > 1 && self.share.is_full() {
            freed += self.evict_oldest(Eviction::SharedBytes);
        }
        if freed > 0 {
            self.settle();
        }
    }
}

/// What a queue takes, whether it is filled or not.
pub(in crate::hub) fn room<T>(queue: &VecDeque<T>) -> usize {
    queue.capacity() * mem::size_of::<T>()
}

/// Gives room back where little of it is used: a queue that was long for a while must not be so for ever.
pub(in crate::hub) fn shrink<T>(queue: &mut VecDeque<T>) {
    const SMALL: usize = 64;
    let little = queue.len() < queue.capacity() / 4;
    if queue.is_empty() || (little && queue.capacity() > SMALL) {
        queue.shrink_to(queue.len() * 2);
    }
}
