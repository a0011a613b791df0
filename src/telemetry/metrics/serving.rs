//! What is counted on the consumers' side: connections and streams.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    catalogue,
    count::{ByWord, Count},
    family::Sheet,
    reading::{BEHIND, Reading},
    words::{ConnectionEnd, Refusal, StreamStart, Word},
};

/// Connections and streams.
#[derive(Debug)]
pub struct ServingCounts {
    connections: Mutex<Connections>,
    connections_accepted: Count,
    connections_refused: Count,
    connections_ended: ByWord,
    accept_errors: Count,
    streams_started: ByWord,
    streams_refused: ByWord,
    streams_ended: ByWord,
    gaps: ByWord,
    gap_time: Mutex<BTreeMap<&'static str, Duration>>,
    skipped: Count,
}

/// Those that are open, and what those that are over left.
#[derive(Debug, Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Arc<ConnectionCounts>>,
    ended: Traffic,
}

/// What went over connections.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    read: u64,
    written: u64,
    writes: u64,
}

/// What one connection counts. Only the task that drives it writes, and does so without a locked instruction.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Bytes read.
    pub read: Count,
    written: Count,
    /// Each a system call.
    writes: Count,
    /// Streams that are stalled.
    stalled: AtomicUsize,
}

impl ConnectionCounts {
    /// Something was written, at once.
    pub fn wrote(&self, bytes: usize) {
        self.written.add_alone(bytes as u64);
        self.writes.add_alone(1);
    }

    /// So many of its streams are stalled now.
    pub fn stalled(&self, count: usize) {
        self.stalled.store(count, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        Traffic { read: self.read.get(), written: self.written.get(), writes: self.writes.get() }
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.written += other.written;
        self.writes += other.writes;
    }
}

/// A connection while it is open. Where it is dropped without a word, it was cut.
#[derive(Debug)]
pub struct ConnectionGuard {
    serving: Arc<ServingCounts>,
    number: u64,
    counts: Arc<ConnectionCounts>,
    end: ConnectionEnd,
}

impl ConnectionGuard {
    /// It has ended.
    pub fn ended(mut self, end: ConnectionEnd) {
        self.end = end;
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut connections = self.serving.connections.lock();
        connections.open.remove(&self.number);
        connections.ended += self.counts.traffic();
        drop(connections);
        self.serving.connections_ended.hit(self.end);
    }
}

impl Default for ServingCounts {
    fn default() -> Self {
        Self {
            connections: Mutex::default(),
            connections_accepted: Count::default(),
            connections_refused: Count::default(),
            connections_ended: ByWord::of::<ConnectionEnd>(),
            accept_errors: Count::default(),
            streams_started: ByWord::of::<StreamStart>(),
            streams_refused: ByWord::of::<Refusal>(),
            streams_ended: ByWord::default(),
            gaps: ByWord::default(),
            gap_time: Mutex::default(),
            skipped: Count::default(),
        }
    }
}

impl ServingCounts {
    /// A connection was accepted, and counts by these.
    pub fn connection_accepted(self: &Arc<Self>, counts: Arc<ConnectionCounts>) -> ConnectionGuard {
        self.connections_accepted.hit();
        let mut connections = self.connections.lock();
        let number = connections.next;
        connections.next += 1;
        connections.open.insert(number, Arc::clone(&counts));
        drop(connections);
        ConnectionGuard { serving: Arc::clone(self), number, counts, end: ConnectionEnd::Cut }
    }

    /// A connection was closed at once: there were too many.
    pub fn connection_refused(&self) {
        self.connections_refused.hit();
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.hit();
    }

    /// A stream began.
    pub fn stream_started(&self, start: StreamStart) {
        self.streams_started.hit(start);
    }

    /// A request for one was refused. The reason is one of the contract's: `ErrorInfo.reason`.
    pub fn stream_refused(&self, reason: &str) {
        let known = Refusal::ALL.iter().find(|known| known.as_str() == reason);
        self.streams_refused.hit(known.copied().unwrap_or(Refusal::Other));
    }

    /// In which ways a stream can end.
    pub fn expect_stream_ends<W: Word>(&self) {
        self.streams_ended.expect::<W>();
    }

    /// A stream ended.
    pub fn stream_ended(&self, reason: impl Word) {
        self.streams_ended.hit(reason);
    }

    /// Which reasons for gaps there are.
    pub fn expect_gaps<W: Word>(&self) {
        self.gaps.expect::<W>();
        let mut times = self.gap_time.lock();
        W::ALL.iter().for_each(|reason| _ = times.entry(reason.as_str()).or_default());
    }

    /// A consumer was told of a gap.
    pub fn gap_opened(&self, reason: impl Word) {
        self.gaps.hit(reason);
    }

    /// A consumer was told that a gap is over, and how long it was, if that is known.
    pub fn gap_closed(&self, reason: impl Word, length: Duration) {
        *self.gap_time.lock().entry(reason.as_str()).or_default() += length;
    }

    /// A consumer that was too slow lost so many events.
    pub fn skipped(&self, count: u64) {
        self.skipped.add(count);
    }

    pub(super) fn write(&self, sheet: &mut Sheet, reading: &Reading) {
        sheet.maybe(&catalogue::LOG_LIMIT, reading.log_limit);
        sheet.family(&catalogue::EVICTED, reading.evictions.iter().map(|(why, count)| ([*why], *count)));
        sheet.maybe(&catalogue::HELD_BYTES, reading.held_bytes);
        sheet.family(&catalogue::ENCODES, reading.encodes.iter().map(|(part, count)| ([*part], *count)));
        sheet.words(&catalogue::STREAMS_STARTED, &self.streams_started);
        sheet.words(&catalogue::STREAMS_REFUSED, &self.streams_refused);
        sheet.words(&catalogue::STREAMS_ENDED, &self.streams_ended);
        let behind = reading.behind.iter().zip(BEHIND).map(|(count, (_, label))| ([label], *count));
        sheet.family(&catalogue::BEHIND, behind);
        sheet.words(&catalogue::STREAM_GAPS, &self.gaps);
        let times: Vec<_> = self.gap_time.lock().iter().map(|(word, time)| (*word, *time)).collect();
        sheet.family(&catalogue::STREAM_GAP_SECONDS, times.into_iter().map(|(word, time)| ([word], time)));
        sheet.one(&catalogue::SKIPPED, [], self.skipped.get());

        let (open, stalled, traffic) = {
            let connections = self.connections.lock();
            let mut traffic = connections.ended;
            let mut stalled = 0;
            for counts in connections.open.values() {
                traffic += counts.traffic();
                stalled += counts.stalled.load(Ordering::Relaxed);
            }
            (connections.open.len(), stalled, traffic)
        };
        sheet.one(&catalogue::STREAMS_STALLED, [], stalled);
        sheet.one(&catalogue::CONNECTIONS, [], open);
        sheet.one(&catalogue::CONNECTIONS_ACCEPTED, [], self.connections_accepted.get());
        sheet.one(&catalogue::CONNECTIONS_REFUSED, [], self.connections_refused.get());
        sheet.words(&catalogue::CONNECTIONS_ENDED, &self.connections_ended);
        sheet.one(&catalogue::ACCEPT_ERRORS, [], self.accept_errors.get());
        sheet.one(&catalogue::READ_BYTES, [], traffic.read);
        sheet.one(&catalogue::WRITTEN_BYTES, [], traffic.written);
        sheet.one(&catalogue::WRITES, [], traffic.writes);
    }
}
