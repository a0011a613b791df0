//! The log in memory.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use crate::{binding::Kind, config};

use super::{
    Epoch, IncomingEvent, Sequence, Window,
    record::{Change, ControlRecord, EventRecord, Proofs, Record},
};
use crate::hub::coverage::Coverage;

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
    bytes: usize,
    encoded_bytes: Arc<AtomicUsize>,
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

impl Log {
    pub(in crate::hub) fn new(
        epoch: Epoch,
        settings: &config::Hub,
        coverage: Coverage,
        now: SystemTime,
    ) -> Self {
        let coverage = Arc::new(coverage);
        Self {
            epoch,
            limits: Limits {
                bytes: settings.log_bytes,
                records: settings.log_records,
                age: settings.log_age,
            },
            records: VecDeque::new(),
            controls: VecDeque::new(),
            evicted: Sequence(0),
            evicted_control: Sequence(0),
            complete_since: now,
            newest_time: now,
            bytes: 0,
            encoded_bytes: Arc::default(),
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

    /// Records, and the bytes that they take with their encodings.
    pub(in crate::hub) fn size(&self) -> (usize, usize) {
        (self.records.len(), self.bytes + self.encoded_bytes.load(Ordering::Relaxed))
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
        self.proofs.set(event.key.kind, received);
        let record = EventRecord::new(sequence, received, event, Arc::clone(&self.encoded_bytes));
        self.push(Record::Event(Arc::new(record)));
        self.evict(now);
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
        self.push(Record::Control(record));
        self.evict(now);
        sequence
    }

    /// Lets go of what is too much or too old.
    pub(in crate::hub) fn evict(&mut self, now: SystemTime) {
        let horizon = now.checked_sub(self.limits.age);
        loop {
            let (records, bytes) = self.size();
            let Some(oldest) = self.records.front() else { return };
            let too_much = records > 1 && (records > self.limits.records || bytes > self.limits.bytes);
            let too_old = horizon.is_some_and(|horizon| oldest.received() < horizon);
            if !too_much && !too_old {
                return;
            }
            self.complete_since = oldest.received();
            self.bytes -= oldest.size();
            self.evicted = self.evicted.next();
            if let Some(Record::Control(control)) = self.records.pop_front() {
                self.evicted_control = control.sequence;
                Arc::make_mut(&mut self.base).apply(&control);
                self.controls.pop_front();
            }
        }
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

    fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push_back(record);
    }
}
