//! When a session is replaced by another, and how.
//!
//! There is no unsubscribe (F37), a session grows with each refresh (F52), and what was bound for an old month stays bound
//! (F34). All that is mended by replacing the session.
//!
//! On K4 and 4.3 the new one is opened and bound first. Both bring events; the de-duplicator makes one of two. The old one
//! goes only when nothing can be in it that the new one does not have: after a grace, because upstream may make true what it
//! has confirmed a little later; after a request sent then was answered (the mark), because what was put on the socket before
//! an answer has been read by then; and after both have answered one that was sent clearly later, so that nothing which the
//! old one alone has brought can be taken for something that comes after it (see `dedupe`). Without these answers it goes all
//! the same, with a gap.
//!
//! On K5 a session that stays is silenced by one that goes, if there was a fault before, and cannot heal itself (G22, G23):
//! there the old one is closed first, and the time until the new one is bound is a gap. So it is where upstream does not let
//! a second connection in (429, F5).
//!
//! Here stand the rules alone; `account` does what they say.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    binding::Flavour,
    config,
    hub::GapReason,
    random::{self, Random},
};

use super::{dedupe, session::Progress};

/// So often `rotation_timeout` is given to all of it: to bind, and for each of two marks, and once more.
const STAGES: u32 = 4;

/// Why a session is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Somebody asked for it.
    Operator,
    /// It holds what nobody wants, or bindings that overlap.
    Excess,
    /// It was refreshed often.
    Refreshes,
    /// It holds bindings of an old month.
    MonthLeftovers,
    /// Another session may have died late, and silenced it (Kazoo 5).
    Ghost,
    /// It is old.
    Age,
    /// It is with another upstream than the configuration names now.
    Moved,
}

/// How far a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// None is under way.
    Idle,
    /// The new session is being opened; where the old one goes first, only its token is being seen to.
    Opening,
    /// The new one binds. Given up at `until`.
    Binding {
        /// When.
        until: Instant,
    },
    /// It holds everything; the old one is given a grace.
    Grace {
        /// When that is over.
        until: Instant,
        /// Until when what is wanted meanwhile has to be bound.
        deadline: Instant,
    },
    /// The old one has been sent a mark.
    Marking {
        /// Without an answer it goes at this time.
        until: Instant,
    },
    /// It has answered. Until what it alone has brought lies clearly behind.
    Parting {
        /// When it does.
        at: Instant,
        /// Without the answer to come the old one goes at this time.
        until: Instant,
    },
    /// Both have been sent a mark.
    Following {
        /// Without an answer the old one goes at this time.
        until: Instant,
    },
    /// The old one has been told to go.
    Leaving {
        /// Whether everything that it had was read.
        drained: bool,
    },
    /// The old one has been told to go before there is a new one.
    Breaking {
        /// What the gap is called.
        reason: GapReason,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Open a second session.
    Open,
    /// See that there is a token, so that the gap is short.
    LogIn,
    /// Send the old one this mark.
    Mark(u32),
    /// Send both this mark.
    MarkBoth(u32),
    /// Tell the old one to go.
    Leave,
    /// Tell the new one to go.
    Abandon,
}

/// The rules of one account.
#[derive(Debug)]
pub(crate) struct Rotation {
    settings: Arc<config::Upstream>,
    stage: Stage,
    /// No replacement begins before, unless it is asked for.
    not_before: Instant,
    requested: bool,
    moved: bool,
    /// Why one is under way.
    trigger: Option<Trigger>,
    /// Since when the session holds too much.
    excess_since: Option<Instant>,
    /// When the leftovers of a month are a reason.
    leftovers_at: Option<Instant>,
    /// Whether a session that nobody held any more may have died since this one was opened.
    ghost: bool,
    /// How much of the greatest age this session is given: not all of a thousand accounts are to go at the same time.
    life: f64,
    mark: u32,
    /// When a new session is given up on that has to begin anew again and again, because ever more is wanted.
    give_up: Instant,
}

impl Rotation {
    /// None is under way.
    pub fn new(settings: Arc<config::Upstream>, now: Instant) -> Self {
        Self {
            settings,
            stage: Stage::Idle,
            not_before: now,
            requested: false,
            moved: false,
            trigger: None,
            excess_since: None,
            leftovers_at: None,
            ghost: false,
            life: 1.0,
            mark: 0,
            give_up: now,
        }
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Why one is under way, if one is.
    pub fn trigger(&self) -> Option<Trigger> {
        self.trigger
    }

    /// A session has become the account's only one.
    pub fn begins(&mut self, random: &dyn Random) {
        self.excess_since = None;
        self.leftovers_at = None;
        self.ghost = false;
        self.life = 0.8 + 0.2 * random::unit(random);
    }

    /// Somebody asks for it. While one is under way that one is it.
    pub fn request(&mut self) {
        self.requested = self.stage == Stage::Idle;
    }

    /// Other settings hold from now on.
    pub fn reconfigure(&mut self, settings: Arc<config::Upstream>) {
        self.settings = settings;
    }

    /// Whether the session is with another upstream than it should be. The first attempt to replace it is made at once.
    pub fn set_moved(&mut self, moved: bool, now: Instant) {
        if moved && !self.moved {
            self.not_before = now;
        }
        self.moved = moved;
    }

    /// Somebody asks for the session to be closed and opened again.
    pub fn reconnect(&mut self) -> Option<Action> {
        let idle = self.stage == Stage::Idle;
        if idle {
            self.stage = Stage::Breaking { reason: GapReason::UpstreamDisconnected };
        }
        idle.then_some(Action::Leave)
    }

    /// A session that nobody held any more is gone by now, and may have silenced this one.
    pub fn ghost_is_gone(&mut self) {
        self.ghost = true;
    }

    /// The month has turned for what the session holds.
    pub fn month_turned(&mut self, now: Instant, random: &dyn Random) {
        let jitter = random::between(random, Duration::ZERO, self.settings.rotation_spacing);
        self.leftovers_at = Some(now + jitter);
    }

    /// What comes next. `second` is the new session, if there is one.
    pub fn step(
        &mut self,
        now: Instant,
        opened: Instant,
        first: &Progress,
        second: Option<&Progress>,
    ) -> Option<Action> {
        match first.excess {
            true => _ = self.excess_since.get_or_insert(now),
            false => self.excess_since = None,
        }
        match (self.stage, second) {
            (Stage::Idle, None) => {
                let (at, trigger) = self.due(opened, first)?;
                if now < at {
                    return None;
                }
                tracing::info!(?trigger, "the session is being replaced");
                self.requested = false;
                self.trigger = Some(trigger);
                self.stage = Stage::Opening;
                Some(if self.breaks(first) { Action::LogIn } else { Action::Open })
            }
            (Stage::Binding { until }, Some(second)) => {
                if second.settled {
                    self.stage = Stage::Grace { until: now + self.settings.rotation_grace, deadline: until };
                } else if until <= now {
                    self.stage = Stage::Idle;
                    return Some(Action::Abandon);
                }
                None
            }
            (Stage::Grace { deadline, .. }, Some(second)) if !second.settled => {
                self.stage = Stage::Binding { until: deadline.max(now) };
                None
            }
            (Stage::Grace { until, .. }, _) if until <= now => {
                self.mark += 1;
                self.stage = Stage::Marking { until: now + self.settings.rotation_timeout };
                Some(Action::Mark(self.mark))
            }
            // Something new is wanted that the old one may have, and the new one does not yet.
            (
                Stage::Marking { until } | Stage::Parting { until, .. } | Stage::Following { until },
                Some(second),
            ) if !second.settled && now < until => {
                if self.give_up <= now {
                    self.stage = Stage::Idle;
                    return Some(Action::Abandon);
                }
                self.stage = Stage::Binding { until };
                None
            }
            (Stage::Marking { .. }, _) if first.marked == self.mark => {
                let until = now + self.settings.rotation_timeout;
                self.stage = Stage::Parting { at: now + dedupe::SLACK, until };
                None
            }
            (Stage::Parting { at, until }, _) if at <= now => {
                self.mark += 1;
                self.stage = Stage::Following { until };
                Some(Action::MarkBoth(self.mark))
            }
            (Stage::Following { .. }, Some(second))
                if first.marked == self.mark && second.marked == self.mark =>
            {
                self.stage = Stage::Leaving { drained: true };
                Some(Action::Leave)
            }
            (Stage::Marking { until } | Stage::Following { until }, _) if until <= now => {
                self.stage = Stage::Leaving { drained: false };
                Some(Action::Leave)
            }
            _ => None,
        }
    }

    /// The first trigger, and when it is one.
    fn due(&self, opened: Instant, first: &Progress) -> Option<(Instant, Trigger)> {
        if self.requested {
            return Some((opened, Trigger::Operator));
        }
        let settings = &*self.settings;
        let age = |age: Duration| (opened + age.mul_f64(self.life), Trigger::Age);
        let mut triggers = vec![age(settings.rotation_age)];
        triggers.extend(self.moved.then_some((opened, Trigger::Moved)));
        if self.breaks(first) {
            // It costs a gap: so only for what a refresh cannot heal. Calls need no healing (G21).
            triggers.extend(first.beyond_calls.then(|| age(settings.rotation_age_k5)));
            triggers.extend((first.beyond_calls && self.ghost).then_some((opened, Trigger::Ghost)));
        } else {
            triggers.extend(self.excess_since.map(|at| (at + settings.rotation_linger, Trigger::Excess)));
            triggers.extend(self.leftovers_at.map(|at| (at, Trigger::MonthLeftovers)));
            let worn = first.rounds >= u64::from(settings.rotation_refreshes);
            triggers.extend(worn.then_some((opened, Trigger::Refreshes)));
        }
        let first = triggers.into_iter().min_by_key(|(at, _)| *at);
        first.map(|(at, trigger)| (at.max(self.not_before), trigger))
    }

    fn breaks(&self, first: &Progress) -> bool {
        first.flavour == Some(Flavour::K5)
    }

    /// When to look again, if nothing happens.
    pub fn wake(&self, opened: Instant, first: &Progress, second: bool) -> Option<Instant> {
        match self.stage {
            Stage::Idle if !second => self.due(opened, first).map(|(at, _)| at),
            Stage::Binding { until }
            | Stage::Grace { until, .. }
            | Stage::Marking { until }
            | Stage::Parting { at: until, .. }
            | Stage::Following { until } => Some(until),
            _ => None,
        }
    }

    /// The new session is open.
    pub fn opened(&mut self, now: Instant) {
        self.stage = Stage::Binding { until: now + self.settings.rotation_timeout };
        self.give_up = now + self.settings.rotation_timeout * STAGES;
    }

    /// There is a token; or upstream lets no second connection in: the old one goes first.
    pub fn breaks_first(&mut self) -> Action {
        self.stage = Stage::Breaking { reason: GapReason::Rotation };
        Action::Leave
    }

    /// It is over, whether it came to something or not.
    pub fn ends(&mut self, now: Instant, random: &dyn Random) {
        let spacing = self.settings.rotation_spacing;
        self.stage = Stage::Idle;
        self.trigger = None;
        self.not_before = now + random::between(random, spacing, spacing.mul_f64(1.5));
    }
}

#[cfg(test)]
mod tests {
    use crate::random::SeededRandom;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        rotation: Rotation,
        start: Instant,
        now: Instant,
        first: Progress,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let first = Progress { settled: true, flavour: Some(Flavour::K4), ..Progress::default() };
            Self { rotation: Rotation::new(Arc::default(), now), start: now, now, first }
        }

        /// Goes to the time at which something is due, and does it.
        fn next(&mut self, second: Option<&Progress>) -> Option<Action> {
            let wake = self.rotation.wake(self.start, &self.first, second.is_some());
            self.now = self.now.max(wake.unwrap_or(self.now));
            self.rotation.step(self.now, self.start, &self.first, second)
        }

        fn after(&self) -> u64 {
            (self.now - self.start).as_secs()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_reason_leads_to_one_and_they_lie_apart() {
        let random = SeededRandom::new(3);
        let mut bench = Bench::new();
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, None), None);
        bench.first.excess = true;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, None), None);
        assert_eq!((bench.next(None), bench.after()), (Some(Action::Open), 300));
        assert_eq!(bench.next(None), None, "one at a time");
        bench.rotation.request();
        bench.rotation.ends(bench.now, &random);
        // The excess is still there, but the next one waits.
        assert_eq!(bench.next(None), Some(Action::Open));
        assert!((900..1200).contains(&bench.after()), "{}", bench.after());
        bench.rotation.ends(bench.now, &random);
        bench.first.excess = false;
        bench.rotation.request();
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, None), Some(Action::Open));

        for (trigger, at) in [("refreshes", 0..1), ("month", 0..601), ("age", 2_142_720..2_678_401)] {
            let mut bench = Bench::new();
            match trigger {
                "refreshes" => bench.first.rounds = 2000,
                "month" => bench.rotation.month_turned(bench.now, &random),
                _ => {}
            }
            assert_eq!(bench.next(None), Some(Action::Open), "{trigger}");
            assert!(at.contains(&bench.after()), "{trigger} {}", bench.after());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_one_goes_after_grace_and_mark() {
        let mut bench = Bench::new();
        bench.rotation.request();
        assert_eq!(bench.next(None), Some(Action::Open));
        bench.rotation.opened(bench.now);
        let mut second = Progress::default();
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        second.settled = true;
        bench.now += SECOND;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        assert_eq!((bench.next(Some(&second)), bench.after()), (Some(Action::Mark(1)), 6));
        // Something new is wanted: the mark came too early.
        second.settled = false;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        bench.first.marked = 1;
        second.settled = true;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        assert_eq!(bench.next(Some(&second)), Some(Action::Mark(2)));
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        bench.first.marked = 2;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        assert_eq!(bench.next(Some(&second)), Some(Action::MarkBoth(3)));
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        second.marked = 3;
        assert_eq!(bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)), None);
        bench.first.marked = 3;
        assert_eq!(
            bench.rotation.step(bench.now, bench.start, &bench.first, Some(&second)),
            Some(Action::Leave)
        );
        assert_eq!(bench.rotation.stage(), Stage::Leaving { drained: true });
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_it_goes_all_the_same_and_one_that_does_not_bind_is_given_up() {
        let mut bench = Bench::new();
        bench.rotation.request();
        bench.next(None);
        bench.rotation.opened(bench.now);
        let second = Progress { settled: true, ..Progress::default() };
        assert_eq!(bench.next(Some(&second)), None);
        assert_eq!(bench.next(Some(&second)), Some(Action::Mark(1)));
        assert_eq!(bench.next(Some(&second)), Some(Action::Leave));
        assert_eq!(bench.rotation.stage(), Stage::Leaving { drained: false });
        assert_eq!(bench.after(), 65 + 60, "where `next` waited for the binding");

        let mut bench = Bench::new();
        bench.rotation.request();
        bench.next(None);
        bench.rotation.opened(bench.now);
        assert_eq!((bench.next(Some(&Progress::default())), bench.after()), (Some(Action::Abandon), 60));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_always_has_more_to_bind_is_given_up() {
        let mut bench = Bench::new();
        bench.rotation.request();
        bench.next(None);
        bench.rotation.opened(bench.now);
        let settled = |settled| Progress { settled, ..Progress::default() };
        let abandoned = (0..1000).find_map(|_| {
            // It has bound everything, until it is sent a mark.
            bench.now += SECOND;
            while bench.rotation.step(bench.now, bench.start, &bench.first, Some(&settled(true))).is_none() {
                bench.now += SECOND;
            }
            let action = bench.rotation.step(bench.now, bench.start, &bench.first, Some(&settled(false)));
            action.map(|action| (action, bench.after()))
        });
        let (action, after) = abandoned.expect("an end");
        assert_eq!(action, Action::Abandon);
        assert!((240..260).contains(&after), "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn kazoo_5_breaks_first_and_only_for_what_a_refresh_cannot_heal() {
        let mut bench = Bench::new();
        bench.first = Progress { flavour: Some(Flavour::K5), excess: true, rounds: 1 << 40, ..bench.first };
        bench.rotation.month_turned(bench.now, &SeededRandom::new(1));
        assert_eq!(bench.next(None), Some(Action::LogIn));
        assert_eq!(bench.after(), 31 * 24 * 3600, "calls alone");

        let mut bench = Bench::new();
        bench.first = Progress { flavour: Some(Flavour::K5), beyond_calls: true, ..bench.first };
        assert_eq!((bench.next(None), bench.after()), (Some(Action::LogIn), 4 * 3600));
        assert_eq!(bench.rotation.breaks_first(), Action::Leave);
    }
}
