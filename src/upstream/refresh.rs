//! When a session subscribes again to what it holds.
//!
//! Nothing tells a client that upstream has gone silent (F34, F37, F45); on K4 and 4.3 subscribing again heals all of that.
//! So every binding is asked for again once in `refresh_interval`, one after the other, evenly spread.
//!
//! # The budget
//!
//! - Tokens: at most `refresh_share` of the rate at which hawking sends commands, that is `rate_per_second * rate_share *
//!   refresh_share` a second: 2 of upstream's 10 as it is set by default.
//! - Bytes: each reply lists all that the session holds (F25), so that the replies of one round grow with the square of the
//!   number of bindings. After a reply of `b` bytes the next refresh waits `b / refresh_bytes_per_second`.
//!
//! Where the budget does not allow a round within the interval, the round takes longer; everything is asked for in turn all
//! the same. With both at their defaults, one round of 1,200 bindings on K4 (300 accounts with four each, replies of
//! 100 kB) takes ten minutes.
//!
//! # While a session may die late
//!
//! A session that ended without upstream's part of it may live on there, until upstream notices: for as long as
//! `session_idle_timeout` (F8). When it dies it may silence those that stay (F51), and nothing tells. So for that long a round
//! takes a second, where the budget allows it, and tokens are taken at twice the rate of other times: all of up to four
//! bindings are subscribed again within a second of that death, of `n` within `n / 4` seconds.
//!
//! # What a refresh can show
//!
//! - That upstream holds the binding *from now on*. On K4 and 4.3 it does not show whether the binding was silent before: the
//!   reply is the same after a listener restart or a foreign unsubscribe. So no gap is claimed, and all that can be said is
//!   until when each kind of binding was last proven.
//! - That the month has turned: the reply has one more entry than the one before it (R24); on K5 its `subscribed`, which is
//!   empty otherwise (G2), is not. Then what is filed by month was silent since it was last proven.
//! - That upstream refuses what it had granted. Then it was lost at some time since it was last proven.
//! - On K5 it shows nothing but that: a refresh never reaches the listener there (G21), heals the month alone, and proves
//!   nothing. So there only what is filed by month is refreshed, and rotation takes its place for the rest.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// The schedule of one session's refreshes.
#[derive(Debug)]
pub(crate) struct Refresh {
    interval: Duration,
    /// The time in which one token comes back.
    per_token: Duration,
    bytes_per_second: usize,
    /// When the last one was sent; at first, when the session began.
    last: Instant,
    /// Until then the replies so far use up the budget.
    bytes_until: Instant,
    /// Everything that was asked for before this is to be asked for again, without regard to the interval.
    all_before: Option<Instant>,
    /// The same, for what is filed by month.
    month_before: Option<Instant>,
    /// Whether a round is to take [`OFTEN`].
    often: bool,
    sent: u64,
}

/// How long a round takes while a session may die late.
const OFTEN: Duration = Duration::from_secs(1);

impl Refresh {
    /// Begins now: everything is new.
    pub fn new(settings: &config::Upstream, now: Instant) -> Self {
        let per_second = f64::from(settings.rate_per_second) * settings.rate_share * settings.refresh_share;
        let per_token = Duration::from_secs_f64(1.0 / per_second.max(0.01));
        Self {
            interval: settings.refresh_interval,
            per_token,
            bytes_per_second: settings.refresh_bytes_per_second.max(1),
            last: now,
            bytes_until: now,
            all_before: None,
            month_before: None,
            often: false,
            sent: 0,
        }
    }

    /// Everything asked for before `now` is to be asked for again as soon as may be.
    pub fn hurry(&mut self, now: Instant) {
        self.all_before = Some(now);
    }

    /// Whether a round is to take a second, where the budget allows it, instead of the whole interval.
    pub fn often(&mut self, often: bool) {
        self.often = often;
    }

    /// What is filed by month is to be asked for again as soon as may be.
    pub fn hurry_month(&mut self, now: Instant) {
        self.month_before = Some(now);
    }

    /// Whether something that was last asked for at `asked` is to be asked for again without regard to the interval.
    pub fn is_hurried(&self, asked: Instant, month_bound: bool) -> bool {
        let hurried = |before: Option<Instant>| before.is_some_and(|before| asked < before);
        hurried(self.all_before) || (month_bound && hurried(self.month_before))
    }

    /// When something that was last asked for at `asked` is due, while so many are held.
    pub fn due(&self, asked: Instant, month_bound: bool, held: usize) -> Instant {
        if self.is_hurried(asked, month_bound) {
            return asked;
        }
        let (interval, per_token) = match self.often {
            true => (self.interval.min(OFTEN), self.per_token / 2),
            false => (self.interval, self.per_token),
        };
        let spread = interval / u32::try_from(held.max(1)).unwrap_or(u32::MAX);
        (self.last + spread.max(per_token)).max(self.bytes_until)
    }

    /// One was sent.
    pub fn sent(&mut self, now: Instant) {
        self.sent += 1;
        self.last = now;
    }

    /// A reply of so many bytes came.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        let wait = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.bytes_until = self.bytes_until.max(now) + wait;
    }

    /// Refreshes that were sent.
    pub fn count(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn refresh() -> (Refresh, Instant) {
        let now = Instant::now();
        (Refresh::new(&config::Upstream::default(), now), now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_spread_over_the_interval() {
        let (mut refresh, start) = refresh();
        let mut now = start;
        for _ in 0..30 {
            now = refresh.due(start, false, 30);
            refresh.sent(now);
            refresh.received(2000, now);
        }
        assert_eq!((now - start, refresh.count()), (300 * SECOND, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_and_bytes_stretch_it() {
        let (mut refresh, start) = refresh();
        assert_eq!(refresh.due(start, false, 100_000), start + SECOND / 2, "two a second");
        refresh.received(1 << 20, start);
        refresh.received(1 << 20, start);
        assert_eq!(refresh.due(start, false, 100_000), start + 8 * SECOND, "256 KiB a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hurry_is_over_when_everything_was_asked_for() {
        let (mut refresh, start) = refresh();
        refresh.hurry_month(start + SECOND);
        assert_eq!(refresh.due(start, true, 1), start);
        assert_eq!(refresh.due(start, false, 1), start + 300 * SECOND);
        refresh.hurry(start + 2 * SECOND);
        assert_eq!(refresh.due(start, false, 1), start);
        assert_eq!(refresh.due(start + 2 * SECOND, true, 1), start + 300 * SECOND);
    }
}
