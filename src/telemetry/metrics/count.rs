//! Numbers that are added to, by whoever sees something happen.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use super::words::Word;

/// A number that only grows. Adding to it is cheap where one task does, or where it seldom happens.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn hit(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// So many more, where nobody else ever adds: without a locked instruction.
    pub fn add_alone(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The last time that something happened, to the millisecond.
#[derive(Debug, Default)]
pub struct Moment(AtomicU64);

impl Moment {
    /// It happened now.
    pub fn set(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When it happened; `None` if it never did.
    pub fn get(&self) -> Option<SystemTime> {
        let millis = self.0.load(Ordering::Relaxed);
        (millis > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }
}

/// Counts of one thing, by one word of a few. For what seldom happens: there is a lock.
#[derive(Debug, Default)]
pub struct ByWord(Mutex<BTreeMap<&'static str, u64>>);

impl ByWord {
    /// All words are there from the start, with nothing counted: a rise from nothing is none for Prometheus.
    pub fn of<W: Word>() -> Self {
        let counts = Self::default();
        counts.expect::<W>();
        counts
    }

    /// The same, for words that are known only now.
    pub fn expect<W: Word>(&self) {
        let mut counts = self.0.lock();
        for word in W::ALL {
            counts.entry(word.as_str()).or_default();
        }
    }

    /// One more.
    pub fn hit(&self, word: impl Word) {
        self.add(word.as_str(), 1);
    }

    /// So many more of a word: one of a fixed set.
    pub fn add(&self, word: &'static str, count: u64) {
        *self.0.lock().entry(word).or_default() += count;
    }

    /// All words with their counts.
    pub fn get(&self) -> Vec<(&'static str, u64)> {
        self.0.lock().iter().map(|(word, count)| (*word, *count)).collect()
    }
}
