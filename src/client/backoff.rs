//! How long a consumer waits before it comes back.

use std::time::Duration;

use super::Advice;

/// The first upper bound of a delay; doubled each time.
const FIRST: Duration = Duration::from_millis(250);
/// The last.
const LAST: Duration = Duration::from_secs(10);
/// Who resumes at once waits for less than this, so that all the consumers of a server that drains do not come as one.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The least that a consumer waits whom the server has no room for.
const LONG: Duration = Duration::from_secs(30);

/// The delays of one subscription.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { bound: FIRST }
    }

    /// The delay after a stream that ended so. `lived` says that it was a success before that; then the delays start over.
    /// `chance` lies between 0 and 1.
    pub(super) fn delay(&mut self, advice: Advice, lived: bool, chance: f64) -> Duration {
        if lived {
            self.bound = FIRST;
        }
        // A server that sends us away at once, each time, is none to come back to at once.
        if advice == Advice::AtOnce && lived {
            return AT_ONCE.mul_f64(chance);
        }
        // All of it is chance ("full jitter"): this spreads the consumers of a server that is back best.
        let delay = self.bound.mul_f64(chance);
        self.bound = (self.bound * 2).min(LAST);
        match advice {
            Advice::WaitLong => LONG + delay,
            _ => delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound_and_starts_over_after_a_success() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..8).map(|_| backoff.delay(Advice::Backoff, false, 1.0).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 10000, 10000]);
        assert_eq!(backoff.delay(Advice::Backoff, true, 1.0), FIRST);
        assert_eq!(backoff.delay(Advice::Backoff, false, 0.5), FIRST, "half of the second bound");
    }

    #[test]
    fn comes_back_at_once_only_from_a_stream_that_lived() {
        let mut backoff = Backoff::new();
        assert!(backoff.delay(Advice::AtOnce, true, 0.999) < AT_ONCE);
        let delays: Vec<_> = (0..4).map(|_| backoff.delay(Advice::AtOnce, false, 1.0).as_millis()).collect();
        assert_eq!(delays, [250, 500, 1000, 2000]);
    }

    #[test]
    fn waits_long_where_there_is_no_room() {
        assert!(Backoff::new().delay(Advice::WaitLong, false, 0.0) >= LONG);
    }
}
