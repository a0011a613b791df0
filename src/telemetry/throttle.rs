//! Says one thing once in a while, with the number of times it was left unsaid.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::metrics::Count;

/// The count of one kind of incident.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    since_said: u64,
    quiet_until: Option<Instant>,
    suppressed: Option<Arc<Count>>,
}

impl Throttle {
    /// At most one line of log in each `interval`.
    pub fn every(interval: Duration) -> Self {
        Self { interval, since_said: 0, quiet_until: None, suppressed: None }
    }

    /// Counts what it holds back.
    pub fn counted(self, suppressed: Arc<Count>) -> Self {
        Self { suppressed: Some(suppressed), ..self }
    }

    /// Counts an incident. How many there were since the last time that it was said, if it is time to say it again.
    pub fn hit(&mut self, now: Instant) -> Option<u64> {
        self.since_said += 1;
        if self.quiet_until.is_some_and(|until| now < until) {
            self.suppressed.iter().for_each(|suppressed| suppressed.hit());
            return None;
        }
        self.quiet_until = Some(now + self.interval);
        Some(std::mem::take(&mut self.since_said))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_is_said_at_once_and_the_rest_are_counted() {
        let suppressed = Arc::<Count>::default();
        let mut throttle = Throttle::every(Duration::from_secs(60)).counted(suppressed.clone());
        let start = Instant::now();
        assert_eq!(throttle.hit(start), Some(1));
        for _ in 0..41 {
            assert_eq!(throttle.hit(start + Duration::from_secs(59)), None);
        }
        assert_eq!(throttle.hit(start + Duration::from_secs(60)), Some(42));
        assert_eq!(suppressed.get(), 41);
    }
}
