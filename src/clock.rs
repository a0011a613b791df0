//! The wall clock, injected.
//!
//! Monotonic time is tokio's, which tests can pause. Wall-clock time comes from a [`WallClock`], so that a test decides
//! what day it is: what depends on the calendar (month turns, token expiry) and every timestamp that is shown.

use std::{sync::Arc, time::SystemTime};

use tokio::time::Instant;

/// Tells the time of day.
pub trait WallClock: Send + Sync + 'static {
    /// The time now. It may jump; what must not go backwards sees to that itself.
    fn now(&self) -> SystemTime;
}

/// A shared [`WallClock`].
pub type SharedClock = Arc<dyn WallClock>;

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A wall clock that starts at a given time and runs with tokio's clock: it stands still while that is paused, and jumps
/// ahead with it.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    start: SystemTime,
    since: Instant,
}

impl TokioClock {
    /// A clock that shows `start` now.
    pub fn starting_at(start: SystemTime) -> Self {
        Self { start, since: Instant::now() }
    }
}

impl WallClock for TokioClock {
    fn now(&self) -> SystemTime {
        self.start + self.since.elapsed()
    }
}
