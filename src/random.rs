//! Randomness, injected: a test that seeds it sees the same jitter, the same request ids and the same epochs each time.
//!
//! Nothing here is a secret; what must not be guessed does not come from here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A source of random numbers.
pub trait Random: Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// A shared [`Random`].
pub type SharedRandom = Arc<dyn Random>;

/// A random number in `0.0..1.0`.
pub fn unit(random: &dyn Random) -> f64 {
    // 53 bits: as many as a double holds exactly.
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// A random duration in `low..high`; `low` where that is empty.
pub fn between(random: &dyn Random, low: Duration, high: Duration) -> Duration {
    low + high.saturating_sub(low).mul_f64(unit(random))
}

/// The generator of the process, seeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

/// SplitMix64: the same numbers for the same seed, on every platform and in every release.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// A generator that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_is_splitmix64() {
        // The first outputs of the reference implementation for the seed 1234567.
        let random = SeededRandom::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn between_stays_inside_and_fills_the_range() {
        let random = SeededRandom::new(7);
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(3));
        let drawn: Vec<Duration> = (0..1000).map(|_| between(&random, low, high)).collect();
        assert!(drawn.iter().all(|d| (low..high).contains(d)));
        assert!(drawn.iter().any(|d| *d < Duration::from_millis(1200)));
        assert!(drawn.iter().any(|d| *d > Duration::from_millis(2800)));
        assert_eq!(between(&random, high, low), high, "an empty range gives its start");
    }
}
