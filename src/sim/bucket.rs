//! The token bucket of a session, and the stopwatch that it reads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Monotonic time as the buckets read it; a test moves it by hand.
pub trait Stopwatch: Send + Sync + 'static {
    /// Time since some fixed moment. Never less than before.
    fn elapsed(&self) -> Duration;
}

/// A shared [`Stopwatch`].
pub type SharedStopwatch = Arc<dyn Stopwatch>;

/// A stopwatch that runs with tokio's clock.
#[derive(Debug, Clone, Copy)]
pub struct TokioStopwatch(Instant);

impl TokioStopwatch {
    /// Started now.
    pub fn started() -> Self {
        Self(Instant::now())
    }
}

impl Stopwatch for TokioStopwatch {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A stopwatch that is set by hand.
#[derive(Debug, Default)]
pub struct ManualStopwatch(AtomicU64);

impl ManualStopwatch {
    /// Moves it to `elapsed`; never back.
    pub fn set(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanos, Ordering::AcqRel);
    }
}

impl Stopwatch for ManualStopwatch {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// How many requests a session may make (F49).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens in a full bucket. Each text frame costs one, also one that fails.
    pub burst: u32,
    /// Tokens added each second, all at once.
    pub per_second: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { burst: 100, per_second: 10 }
    }
}

/// One session's bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: u32,
    /// When the last whole second of refill ended.
    filled: Duration,
}

impl Bucket {
    /// A full bucket, its seconds counted from `now`.
    pub fn full(limit: RateLimit, now: Duration) -> Self {
        Self { limit, tokens: limit.burst, filled: now }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        let seconds = now.saturating_sub(self.filled).as_secs();
        self.filled += Duration::from_secs(seconds);
        let refill = u64::from(self.limit.per_second) * seconds;
        let tokens = (u64::from(self.tokens) + refill).min(u64::from(self.limit.burst));
        self.tokens = u32::try_from(tokens).unwrap_or(self.limit.burst);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refills_ten_at_each_full_second_and_never_above_the_burst() {
        let start = Duration::from_millis(300);
        let mut bucket = Bucket::full(RateLimit::default(), start);
        let mut take = |now: u64, times: usize| {
            (0..times).filter(|_| bucket.take(start + Duration::from_millis(now))).count()
        };
        assert_eq!(take(0, 150), 100);
        assert_eq!(take(999, 5), 0, "nothing before the second is full");
        assert_eq!(take(1_044, 15), 10);
        assert_eq!(take(2_553, 15), 10);
        assert_eq!(take(4_056, 15), 15, "two seconds went by");
        assert_eq!(take(3_600_000, 150), 100);
    }
}
