//! When the servers' month turns.
//!
//! What is filed by month is bound to the month in which it was subscribed, by the servers' local date, and goes silent when
//! that is over (F34, G26). Nothing says so. So it is subscribed to again around the turn; and because the servers' clocks may
//! be off by some margin, in steps: from the earliest moment at which their month may have turned, to the latest. Only an
//! answer that shows the new month by itself, or one to a request after the latest moment, proves that it is held.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, ToSpan, tz::TimeZone};

/// Steps from the earliest moment to the latest: the longest time that the new month goes unheard is one of them.
const STEPS: u32 = 5;

/// The clock may be set meanwhile: so often it is looked at again.
const LOOK: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The month may have turned since then: nothing that is filed by it is proven.
    Begin(SystemTime),
    /// Ask again.
    Ask,
    /// It has turned everywhere: what is asked for from now on is of the new month.
    Over,
}

/// The turns of the month in the servers' time zone.
#[derive(Debug)]
pub(crate) struct MonthTurns {
    zone: TimeZone,
    margin: Duration,
    /// The one that comes, or is under way.
    turn: SystemTime,
    /// The steps of it that were taken.
    taken: u32,
}

impl MonthTurns {
    /// The turn that comes next, or is under way.
    pub fn new(zone: TimeZone, margin: Duration, now: SystemTime) -> Self {
        let turn = next_turn(&zone, now.checked_sub(margin).unwrap_or(now));
        Self { zone, margin, turn, taken: 0 }
    }

    /// The next step, if it is time for it.
    pub fn step(&mut self, now: SystemTime) -> Option<Step> {
        if now < self.at(self.taken) {
            return None;
        }
        self.taken += 1;
        Some(match self.taken {
            1 => Step::Begin(self.at(0)),
            STEPS => {
                self.turn = next_turn(&self.zone, self.turn.max(now));
                self.taken = 0;
                Step::Over
            }
            _ => Step::Ask,
        })
    }

    /// How long until it may be time for the next step.
    pub fn wait(&self, now: SystemTime) -> Duration {
        self.at(self.taken).duration_since(now).unwrap_or(Duration::ZERO).min(LOOK)
    }

    fn at(&self, step: u32) -> SystemTime {
        self.turn - self.margin + self.margin * 2 * step / (STEPS - 1)
    }
}

/// The first moment of the next month; far away where the calendar ends.
fn next_turn(zone: &TimeZone, after: SystemTime) -> SystemTime {
    let next = |after: SystemTime| {
        let today = zone.to_datetime(Timestamp::try_from(after).ok()?).date();
        let first = today.first_of_month().checked_add(1.month()).ok()?;
        SystemTime::try_from(first.to_zoned_datetime(zone.clone()).ok()?.timestamp()).ok()
    };
    next(after).unwrap_or(after + Duration::from_hours(24 * 365))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_mins(2);

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().try_into().unwrap()
    }

    #[test]
    fn the_servers_zone_decides() {
        for (zone, turn) in [
            ("UTC", "2026-12-01T00:00:00Z"),
            ("Pacific/Auckland", "2026-11-30T11:00:00Z"),
            ("Pacific/Honolulu", "2026-12-01T10:00:00Z"),
        ] {
            let turns = MonthTurns::new(TimeZone::get(zone).unwrap(), MARGIN, at("2026-11-24T05:00:00Z"));
            assert_eq!(turns.turn, at(turn), "{zone}");
        }
    }

    #[test]
    fn steps_lie_around_the_turn() {
        let turn = at("2027-01-01T00:00:00Z");
        let mut turns = MonthTurns::new(TimeZone::UTC, MARGIN, turn - Duration::from_hours(24));
        let mut now = turn - Duration::from_hours(24);
        let mut steps = Vec::new();
        while steps.len() < 5 {
            let wait = turns.wait(now);
            assert!(wait <= LOOK);
            now += wait;
            if let Some(step) = turns.step(now) {
                let offset = now.duration_since(turn - MARGIN).unwrap().as_secs();
                steps.push((offset, step));
            }
        }
        let begin = Step::Begin(turn - MARGIN);
        assert_eq!(
            steps,
            [(0, begin), (60, Step::Ask), (120, Step::Ask), (180, Step::Ask), (240, Step::Over)]
        );
        assert_eq!(turns.step(now), None);
        assert_eq!(turns.turn, at("2027-02-01T00:00:00Z"));
    }

    #[test]
    fn one_that_is_under_way_is_not_missed_and_neither_is_one_that_was_slept_through() {
        let turn = at("2026-12-01T00:00:00Z");
        let mut turns = MonthTurns::new(TimeZone::UTC, MARGIN, turn + Duration::from_secs(90));
        assert_eq!(turns.step(turn + Duration::from_secs(90)), Some(Step::Begin(turn - MARGIN)));

        let mut turns = MonthTurns::new(TimeZone::UTC, MARGIN, turn - Duration::from_hours(5));
        let later = turn + Duration::from_hours(9);
        let steps: Vec<Step> = std::iter::from_fn(|| turns.step(later)).collect();
        assert_eq!(steps.len(), 5);
        assert_eq!((steps[0], steps[4]), (Step::Begin(turn - MARGIN), Step::Over));
        assert_eq!(turns.turn, at("2027-01-01T00:00:00Z"));
    }
}
