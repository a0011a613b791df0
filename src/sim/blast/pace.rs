//! When the source sends.

use std::time::{Duration, Instant};

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many events a second, whatever becomes of them.
    Rate(f64),
    /// As fast as consumers take them: never more than so many events ahead of what they have reported on average.
    Closed {
        /// How many.
        ahead: u64,
    },
}

/// What a start of the source asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// How fast.
    pub speed: Speed,
    /// Events that are written to the socket together.
    pub burst: u64,
    /// Stop by itself after so many; 0 for never.
    pub count: u64,
}

/// An order that is being carried out.
#[derive(Debug)]
pub(super) struct Pace {
    order: Order,
    began: Instant,
    sent: u64,
    consumed: u64,
}

impl Pace {
    pub(super) fn new(order: Order, now: Instant) -> Self {
        Self { order, began: now, sent: 0, consumed: 0 }
    }

    /// How many events are to be sent now: whole bursts.
    pub(super) fn due(&self, now: Instant) -> u64 {
        let burst = self.order.burst.max(1);
        let due = match self.order.speed {
            Speed::Rate(rate) => {
                let by_now = (now.duration_since(self.began).as_secs_f64() * rate) as u64;
                by_now.saturating_sub(self.sent) / burst * burst
            }
            // One burst at a time: between two of them the loop looks for reports.
            Speed::Closed { ahead } if self.sent < self.consumed + ahead => burst,
            Speed::Closed { .. } => 0,
        };
        if self.order.count == 0 { due } else { due.min(self.order.count - self.sent) }
    }

    /// For how long nothing will be due. `None` where a report has to come first, or where the order is done.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.is_done() {
            return None;
        }
        if self.due(now) > 0 {
            return Some(Duration::ZERO);
        }
        match self.order.speed {
            Speed::Rate(rate) => {
                let next =
                    self.began + Duration::from_secs_f64((self.sent + self.order.burst.max(1)) as f64 / rate);
                Some(next.saturating_duration_since(now))
            }
            Speed::Closed { .. } => None,
        }
    }

    pub(super) fn sent(&mut self, events: u64) {
        self.sent += events;
    }

    /// Consumers have taken so many events of this order, on average.
    pub(super) fn consumed(&mut self, events: u64) {
        self.consumed = self.consumed.max(events);
    }

    fn is_done(&self) -> bool {
        self.order.count != 0 && self.sent >= self.order.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_never_runs_further_ahead_than_asked_by_more_than_a_burst() {
        let now = Instant::now();
        let order = Order { speed: Speed::Closed { ahead: 64 }, burst: 32, count: 0 };
        let mut pace = Pace::new(order, now);
        while pace.due(now) > 0 {
            pace.sent(pace.due(now));
        }
        assert_eq!((pace.sent, pace.wait(now)), (64, None));
        pace.consumed(1);
        assert_eq!(pace.due(now), 32);
    }

    #[test]
    fn a_rate_makes_up_for_what_is_late_and_stops_at_the_count() {
        let began = Instant::now();
        let order = Order { speed: Speed::Rate(1000.0), burst: 4, count: 10 };
        let mut pace = Pace::new(order, began);
        assert_eq!(pace.due(began + Duration::from_micros(3900)), 0);
        assert_eq!(pace.due(began + Duration::from_micros(9000)), 8);
        pace.sent(8);
        assert_eq!(pace.wait(began + Duration::from_micros(9000)), Some(Duration::from_micros(3000)));
        assert_eq!(pace.due(began + Duration::from_secs(1)), 2, "the rest of the count");
        pace.sent(2);
        assert_eq!((pace.due(began + Duration::from_secs(9)), pace.wait(began)), (0, None));
    }
}
