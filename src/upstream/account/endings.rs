//! What the loop of an account does when a session ends, or could not be had.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    hub::{GapReason, UpstreamState},
    upstream::{
        close::{CloseCause, Ended},
        counted,
        ledger::End,
        link::Failure,
        rotation::Stage,
    },
};

use super::Keeper;

/// After a session ended the next one subscribes again at once, and shortly after: upstream may let go of what the other
/// held a moment after it closed the connection (F51).
const SHORTLY: Duration = Duration::from_millis(500);

impl Keeper {
    /// Records the end of the session: what was held is lost from the last proof of life on, unless another holds it and all
    /// that was on its way was read.
    pub(super) fn current_ended(&mut self, ended: &Ended) {
        let Some(session) = self.current.take() else { return };
        session.counted.ended(ended.cause.into());
        self.telling = None;
        self.flavour = ended.flavour;
        self.last_life = Some(ended.last_life);
        let now = Instant::now();
        let stage = self.rotation.stage();
        let lost = |reason, since| End::Lost { reason, since };
        let end = match stage {
            Stage::Leaving { drained: true } => End::Drained,
            Stage::Leaving { drained: false } => lost(GapReason::Rotation, ended.read_through),
            Stage::Breaking { reason } => lost(reason, ended.alive),
            // What it had before the other was bound may have waited in it.
            _ if self.successor.is_some() => lost(GapReason::UpstreamDisconnected, ended.read_through),
            _ => lost(GapReason::UpstreamDisconnected, ended.alive),
        };
        // Where no session is left that is said before the loss: nobody is told that a live upstream holds nothing.
        if self.successor.is_none() {
            match stage {
                Stage::Breaking { .. } => {
                    self.say(UpstreamState::Connecting, "the session is being replaced".into());
                }
                _ => self.say(UpstreamState::Down, ended.cause.to_string()),
            }
        }
        self.intake.ended(session.id, end, ended.parted);
        self.part(ended, now);
        if let Some(successor) = self.successor.take() {
            info!(cause = %ended.cause, ?end, "another session takes the place of the one that ended");
            successor.orders.send_modify(|orders| orders.speaks = true);
            self.current = Some(successor);
            self.begins();
            self.rotation_over(now, true);
            self.survived(now);
        } else if let Stage::Breaking { .. } = stage {
            info!("the session was closed to be opened again");
            self.rotation_over(now, false);
            self.retry_at = now;
        } else {
            warn!(cause = %ended.cause, live = ?ended.live, "the session ended; connecting again");
            self.rotation_over(now, false);
            self.retry_at = now + self.delay_after(ended);
        }
    }

    /// The session that was to take another's place ended first.
    pub(super) fn successor_ended(&mut self, ended: &Ended) {
        let Some(session) = self.successor.take() else { return };
        session.counted.ended(ended.cause.into());
        info!(cause = %ended.cause, "the session that was to take over ended");
        let end = End::Redundant { since: ended.alive };
        self.intake.ended(session.id, end, ended.parted);
        if ended.cause == CloseCause::TokenRefused {
            self.token = None;
        }
        let now = Instant::now();
        self.part(ended, now);
        self.rotation_over(now, false);
        self.survived(now);
    }

    /// A replacement of the session, if one was under way, is over. Whether another one took over.
    pub(super) fn rotation_over(&mut self, now: Instant, succeeded: bool) {
        if self.rotation.trigger().is_some() {
            let outcome = counted::rotation_end(self.rotation.stage(), succeeded);
            self.intake.counts().rotation_ended(outcome);
        }
        self.rotation.ends(now, &*self.link.seams.random);
    }

    /// A session ended and another stays: that one subscribes to everything at once, and again later (F51).
    pub(super) fn survived(&mut self, now: Instant) {
        self.resubscribe = vec![now, now + SHORTLY, now + self.link.settings.resubscribe_delay];
    }

    /// A session has ended; if upstream may not know of it, it may die there at any time, for a while.
    fn part(&mut self, ended: &Ended, now: Instant) {
        if !ended.parted {
            self.haunted_until = Some(now + self.link.settings.session_idle_timeout);
            self.haunt();
        }
    }

    /// Tells the sessions whether one may die late.
    pub(super) fn haunt(&self) {
        let haunted = self.haunted_until.is_some();
        self.order_all(|orders| orders.haunted = haunted);
    }

    /// Everything ends.
    pub(super) async fn stopped(mut self) {
        if let Some(mut successor) = self.successor.take() {
            let ended = successor.ends.as_mut().await;
            successor.counted.ended(ended.cause.into());
            let end = End::Redundant { since: ended.alive };
            self.intake.ended(successor.id, end, ended.parted);
        }
        if let Some(mut current) = self.current.take() {
            let ended = current.ends.as_mut().await;
            current.counted.ended(ended.cause.into());
            (self.flavour, self.last_life) = (ended.flavour, Some(ended.last_life));
            let end = End::Lost { reason: GapReason::UpstreamDisconnected, since: ended.alive };
            self.intake.ended(current.id, end, ended.parted);
            info!("the session was closed");
        }
        self.say(UpstreamState::Down, CloseCause::Asked.to_string());
    }

    fn delay_after(&mut self, ended: &Ended) -> Duration {
        self.backoff.lived(ended.live);
        let random = &*self.link.seams.random;
        if ended.cause == CloseCause::TokenRefused {
            self.token = None;
            if self.token_is_fresh {
                // A new token is not accepted either: trying again soon is of no use.
                return self.backoff.refused(random);
            }
            // Upstream was restarted, say, and knows the old one no more. The next attempt logs in.
            return self.backoff.soon(random);
        }
        self.backoff.next(random)
    }

    /// Records that there is still no session.
    pub(super) fn failed(&mut self, failure: &Failure) -> Duration {
        let refused = failure.is_refusal();
        let detail = match refused {
            true => {
                let every = humantime::format_duration(self.link.settings.backoff_refused);
                format!("{failure}; the next attempt is made after {every}")
            }
            false => failure.to_string(),
        };
        if self.logged.as_ref() == Some(&detail) {
            debug!(%detail, "no session");
        } else {
            warn!(%detail, "no session");
            self.logged = Some(detail.clone());
        }
        if failure.is_of_credentials()
            && let Some(descendants) = &self.descendants
        {
            descendants.give_up();
        }
        self.say(UpstreamState::Down, detail);
        let random = &*self.link.seams.random;
        match refused {
            true => self.backoff.refused(random),
            false => self.backoff.next(random),
        }
    }
}
