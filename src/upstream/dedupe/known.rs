//! The events with a msg_id that have come.
//!
//! Nearly all events are, and most of what it costs to remember one is to wait for memory: the table is too large for any
//! cache, and each event is looked up in one place of it and forgotten in another. So an entry is sixteen bytes and nothing
//! else.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::time::Instant;

/// 128 bits of a keyed hash: two different events have the same one as good as never, and nobody who does not know the key
/// can aim for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u128);

/// Makes fingerprints, each with a key of its own.
pub(super) struct Fingerprints(SipHasher13);

impl Fingerprints {
    pub(super) fn new() -> Self {
        Self(SipHasher13::new_with_key(&rand::random()))
    }

    pub(super) fn of(&self, what: &impl Hash) -> Fingerprint {
        let mut hasher = self.0;
        what.hash(&mut hasher);
        Fingerprint(hasher.finish128().as_u128())
    }
}

/// Events that have come, each remembered for a while.
#[derive(Default)]
pub(super) struct Known {
    fingerprints: HashSet<Fingerprint, BuildHasherDefault<Hashed>>,
    /// In the order in which they came.
    line: VecDeque<(Instant, Fingerprint)>,
}

impl Known {
    /// Whether an event has not come yet. From now on it has. At most `capacity` are remembered.
    pub(super) fn is_new(&mut self, fingerprint: Fingerprint, now: Instant, capacity: usize) -> bool {
        let new = self.fingerprints.insert(fingerprint);
        if new {
            self.line.push_back((now, fingerprint));
            if self.line.len() > capacity {
                self.forget_oldest();
            }
        }
        new
    }

    /// Forgets what came longer ago than `window`.
    pub(super) fn expire(&mut self, now: Instant, window: Duration) {
        while let Some((at, _)) = self.line.front()
            && now.saturating_duration_since(*at) > window
        {
            self.forget_oldest();
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.line.len(), self.fingerprints.len());
        self.line.len()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, fingerprint)) = self.line.pop_front() {
            self.fingerprints.remove(&fingerprint);
        }
    }
}

/// A fingerprint is a hash already.
#[derive(Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "{} bytes that are no fingerprint", bytes.len());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
