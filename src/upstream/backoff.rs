//! How long to wait before connecting again.

use std::time::Duration;

use crate::{
    config,
    random::{self, Random},
};

/// Exponential with full jitter, capped: many gateways that lost the same upstream do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    max: Duration,
    refused: Duration,
    reset_after: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(settings: &config::Upstream) -> Self {
        Self {
            initial: settings.backoff_initial,
            max: settings.backoff_max,
            refused: settings.backoff_refused,
            reset_after: settings.backoff_reset_after,
            failures: 0,
        }
    }

    /// A session ended that was live for so long. A short life is no success: an upstream that takes us in and throws us
    /// out again is spared too.
    pub fn lived(&mut self, live: Duration) {
        if live >= self.reset_after {
            self.failures = 0;
        }
    }

    /// The delay after a failure that may be over soon.
    pub fn next(&mut self, random: &dyn Random) -> Duration {
        let ceiling = self.initial.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        random::between(random, Duration::ZERO, ceiling)
    }

    /// The delay after a failure whose cause is mended by the next attempt: short, however often others failed before it.
    pub fn soon(&self, random: &dyn Random) -> Duration {
        random::between(random, Duration::ZERO, self.initial)
    }

    /// The delay after a refusal, which somebody has to do something about. Up to a tenth longer, out of step with others.
    pub fn refused(&self, random: &dyn Random) -> Duration {
        random::between(random, self.refused, self.refused.mul_f64(1.1))
    }
}

#[cfg(test)]
mod tests {
    use crate::random::SeededRandom;

    use super::*;

    /// The most that it can be.
    struct Highest;

    impl Random for Highest {
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }

    fn backoff() -> Backoff {
        Backoff::new(&config::Upstream::default())
    }

    #[test]
    fn doubles_up_to_the_cap_and_starts_over_after_a_long_life_only() {
        let mut backoff = backoff();
        let mut millis = || backoff.next(&Highest).as_millis().div_ceil(100) * 100;
        let delays: Vec<u128> = (0..9).map(|_| millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        backoff.lived(Duration::from_secs(59));
        assert!(backoff.next(&Highest) > Duration::from_secs(29));
        backoff.lived(Duration::from_secs(60));
        assert!(backoff.next(&Highest) <= Duration::from_millis(500));
    }

    #[test]
    fn the_jitter_is_full() {
        let random = SeededRandom::new(1);
        let delays: Vec<Duration> = (0..200).map(|_| backoff().next(&random)).collect();
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(50)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(450)));
    }

    #[test]
    fn a_refusal_waits_long() {
        let delay = backoff().refused(&SeededRandom::new(1));
        assert!((Duration::from_secs(60)..Duration::from_secs(66)).contains(&delay));
    }
}
