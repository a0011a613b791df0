//! Commands are paced, so that they do not run into blackhole's token bucket (F49).
//!
//! Blackhole gives each session a full bucket and refills it once a second, in one step, whenever its own second turns;
//! what does not fit is lost. A client cannot see when that is. So in a window of `w` seconds no more than
//! `burst + per_second * floor(w)` may be counted on. A bucket that fills evenly and is smaller by one such step never takes
//! more than that, in any window. It is kept as a single moment (the virtual scheduling of ATM's GCRA): the time at which
//! the bucket will be full again.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// The first pause after upstream said that its bucket is empty; doubled each time in a row, four times.
const PENALTY: Duration = Duration::from_secs(1);

/// The bucket of one session.
#[derive(Debug)]
pub(crate) struct Pacing {
    /// The time in which one token comes back.
    interval: Duration,
    /// The time in which all tokens but one come back.
    tolerance: Duration,
    /// When the bucket is full again; in the past if it is.
    full_at: Instant,
    /// How often in a row upstream said that its bucket is empty.
    penalties: u32,
}

impl Pacing {
    /// A full bucket: upstream's is full too at the beginning of a session.
    pub fn new(settings: &config::Upstream, now: Instant) -> Self {
        let per_second = (f64::from(settings.rate_per_second) * settings.rate_share).max(0.1);
        let burst = (f64::from(settings.rate_burst) * settings.rate_share - per_second).floor().max(1.0);
        let interval = Duration::from_secs_f64(1.0 / per_second);
        Self { interval, tolerance: interval.mul_f64(burst - 1.0), full_at: now, penalties: 0 }
    }

    /// When the next command may be sent: now if that is not in the future.
    pub fn next_slot(&self) -> Instant {
        // A clock that has just started cannot go back so far: then there is nothing to wait for.
        self.full_at.checked_sub(self.tolerance).unwrap_or(self.full_at)
    }

    /// Takes a token, if one may be taken.
    pub fn take(&mut self, now: Instant) -> bool {
        let may = self.next_slot() <= now;
        if may {
            self.full_at = self.full_at.max(now) + self.interval;
        }
        may
    }

    /// Upstream says that its bucket is empty: others share the address, or it counts differently. Wait, longer each time
    /// in a row.
    pub fn penalise(&mut self, now: Instant) {
        self.full_at = now + self.tolerance + PENALTY * (1 << self.penalties.min(4));
        self.penalties += 1;
    }

    /// A command went through.
    pub fn accepted(&mut self) {
        self.penalties = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pacing(burst: u32, per_second: u32, share: f64) -> Pacing {
        let settings = config::Upstream {
            rate_burst: burst,
            rate_per_second: per_second,
            rate_share: share,
            ..config::Upstream::default()
        };
        Pacing::new(&settings, Instant::now())
    }

    /// Blackhole's side: refilled in one step, at a phase that the client does not know.
    struct Upstream {
        tokens: u32,
        burst: u32,
        per_second: u32,
        next: Instant,
    }

    impl Upstream {
        fn accepts(&mut self, now: Instant) -> bool {
            while self.next <= now {
                self.tokens = (self.tokens + self.per_second).min(self.burst);
                self.next += SECOND;
            }
            self.tokens > 0 && {
                self.tokens -= 1;
                true
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_evenly() {
        let mut pacing = pacing(100, 10, 0.8);
        let start = Instant::now();
        let mut sent = Vec::new();
        while start.elapsed() < Duration::from_millis(3_500) {
            if pacing.take(Instant::now()) {
                sent.push(start.elapsed());
            } else {
                tokio::time::sleep_until(pacing.next_slot()).await;
            }
        }
        let within = |end: u64| sent.iter().filter(|at| **at < Duration::from_millis(end)).count();
        assert_eq!([within(1), within(1_001), within(2_001), within(3_001)], [72, 80, 88, 96]);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_once_it_waits_and_each_time_longer() {
        let mut pacing = pacing(100, 10, 1.0);
        let now = Instant::now();
        pacing.penalise(now);
        assert_eq!(pacing.next_slot(), now + SECOND);
        let later = now + SECOND;
        assert!(pacing.take(later));
        assert!(!pacing.take(later), "one after the other from here");
        pacing.penalise(later);
        assert_eq!(pacing.next_slot(), later + 2 * SECOND);
        pacing.accepted();
        pacing.penalise(later);
        assert_eq!(pacing.next_slot(), later + SECOND);
    }

    #[tokio::test]
    async fn a_tiny_share_still_sends() {
        assert!(pacing(1, 1, 0.1).take(Instant::now()));
    }

    proptest! {
        /// Whatever the phase of upstream's second and however commands come, upstream's bucket never runs dry.
        #[test]
        fn never_more_than_upstream_allows(
            phase in 0u64..1000,
            above in 1u32..30,
            per_second in 1u32..12,
            pauses in prop::collection::vec(0u64..3000, 1..200),
        ) {
            let burst = per_second + above;
            let start = Instant::now();
            let mut upstream =
                Upstream { tokens: burst, burst, per_second, next: start + Duration::from_millis(phase) };
            let mut pacing = pacing(burst, per_second, 1.0);
            let mut now = start.max(pacing.next_slot());
            for pause in pauses {
                now = pacing.next_slot().max(now + Duration::from_millis(pause));
                // As many at once as are let through.
                while pacing.take(now) {
                    prop_assert!(upstream.accepts(now));
                }
            }
        }
    }
}
