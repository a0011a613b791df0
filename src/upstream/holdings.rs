//! What a session should hold, what it holds, and what upstream refuses: the table that upstream's own answers cannot
//! replace (F25, F37).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use tokio::time::Instant;

use crate::{
    binding::{AccountId, Kind, UpstreamBinding},
    hub::BindingState,
};

use super::{frame::Refusal, report::BindingHeld};

/// A binding of one account: a session can hold those of descendants too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    /// Whose events.
    pub account: AccountId,
    /// Which.
    pub binding: UpstreamBinding,
}

impl Target {
    fn contains(&self, other: &Target) -> bool {
        self.account == other.account && self.binding.pattern().contains(other.binding.pattern())
    }
}

/// The table of one session.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    wanted: BTreeSet<Target>,
    /// What of that is neither held, nor served by what is held, nor refused.
    missing: BTreeSet<Target>,
    held: BTreeMap<Target, Hold>,
    refused: BTreeMap<Target, Refusal>,
    /// What upstream holds for the session although it serves nothing any more: it cannot be given back.
    leftover: BTreeSet<Target>,
}

/// What is known of a binding that is held.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// When upstream last said that it holds it.
    proven: SystemTime,
    /// When it was last asked for.
    asked: Instant,
}

impl Holdings {
    /// Sets what should be held: the cover of what is wanted. Refusals of what is not wanted any more are forgotten: it is
    /// asked for anew when it is wanted again.
    pub fn want(&mut self, cover: BTreeSet<Target>) {
        self.refused.retain(|target, _| cover.contains(target));
        self.wanted = cover;
        let wanted = self.wanted.iter();
        let missing = wanted.filter(|target| !self.refused.contains_key(target) && !self.serves(target));
        self.missing = missing.cloned().collect();
    }

    /// What must still be asked for. A wider binding that is held from before serves a narrower one: to hold both would
    /// bring each event twice, and the wider one cannot be given back.
    pub fn missing(&self) -> &BTreeSet<Target> {
        &self.missing
    }

    fn serves(&self, target: &Target) -> bool {
        self.held.contains_key(target) || self.held.keys().any(|held| held.contains(target))
    }

    /// Upstream holds it: it said so at `proven`, asked for it now.
    pub fn confirmed(&mut self, target: Target, proven: SystemTime, asked: Instant) {
        self.refused.remove(&target);
        self.leftover.remove(&target);
        self.missing.retain(|missing| missing != &target && !target.contains(missing));
        self.held.insert(target, Hold { proven, asked });
    }

    /// What is held, in order.
    pub fn held(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.held.keys()
    }

    /// One that can be asked for again only to have an answer. Rather none that is filed by month: what its reply shows of
    /// the month is for a refresh to see.
    pub fn any(&self) -> Option<&Target> {
        self.held().find(|target| !target.binding.month_bound()).or_else(|| self.held().next())
    }

    /// When upstream last said that it holds this one; `None` where it does not.
    pub fn proven(&self, target: &Target) -> Option<SystemTime> {
        self.held.get(target).map(|hold| hold.proven)
    }

    /// Until when everything of a kind that is held for an account is proven.
    pub fn proven_kind(&self, account: AccountId, kind: Kind) -> Option<SystemTime> {
        let of_kind =
            self.held.iter().filter(|(held, _)| held.account == account && held.binding.kind() == kind);
        of_kind.map(|(_, hold)| hold.proven).min()
    }

    /// It was asked for again.
    pub fn asked(&mut self, target: &Target, at: Instant) {
        if let Some(hold) = self.held.get_mut(target) {
            hold.asked = at;
        }
    }

    /// Upstream said again that it holds it.
    pub fn refreshed(&mut self, target: &Target, at: SystemTime) {
        if let Some(hold) = self.held.get_mut(target) {
            hold.proven = at;
        }
    }

    /// What was asked for the longest time ago, of those that are `eligible`, and when that was.
    pub fn stalest(&self, eligible: impl Fn(&Target) -> bool) -> Option<(&Target, Instant)> {
        let eligible = self.held.iter().filter(|(target, _)| eligible(target));
        eligible.min_by_key(|(_, hold)| hold.asked).map(|(target, hold)| (target, hold.asked))
    }

    /// Upstream does not let us have it any more.
    pub fn withdrawn(&mut self, target: &Target, refusal: Refusal) {
        self.held.remove(target);
        self.refused(target.clone(), refusal);
        let wanted = std::mem::take(&mut self.wanted);
        self.want(wanted);
    }

    /// All of it, for people.
    pub fn report(&self) -> Vec<BindingHeld> {
        let told = |target: &Target, state, confirmed, superfluous| BindingHeld {
            account: target.account,
            binding: Arc::clone(target.binding.text()),
            state,
            confirmed,
            superfluous,
        };
        let held = self.held.iter();
        let held = held.map(|(target, hold)| told(target, BindingState::Active, Some(hold.proven), false));
        let missing = self.missing.iter().map(|target| told(target, BindingState::Pending, None, false));
        let refused = self.refused.iter().map(|(target, refusal)| {
            told(target, BindingState::Refused(refusal.reason().into()), None, false)
        });
        let leftover = self.leftover.iter().map(|target| told(target, BindingState::Active, None, true));
        held.chain(missing).chain(refused).chain(leftover).collect()
    }

    /// Whether upstream holds more for the session than what is wanted now.
    pub fn has_excess(&self) -> bool {
        !self.leftover.is_empty() || self.held.keys().any(|held| !self.wanted.contains(held))
    }

    /// Upstream refuses it.
    pub fn refused(&mut self, target: Target, refusal: Refusal) {
        self.missing.remove(&target);
        if self.wanted.contains(&target) {
            self.refused.insert(target, refusal);
        }
    }

    /// How many of those that are wanted upstream refuses.
    pub fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// Takes out what serves nothing that is wanted, once all that is wanted is settled: before that it may still be the
    /// only one that brings it. (Upstream goes on sending it; nobody takes it.)
    pub fn take_superfluous(&mut self) -> Vec<Target> {
        if !self.missing.is_empty() {
            return Vec::new();
        }
        let wanted = &self.wanted;
        // What has a binding of its own by now needs no wider one.
        let in_need: Vec<&Target> = wanted.iter().filter(|target| !self.held.contains_key(target)).collect();
        let superfluous =
            |held: &Target| !wanted.contains(held) && !in_need.iter().any(|target| held.contains(target));
        let taken: Vec<Target> = self.held.keys().filter(|held| superfluous(held)).cloned().collect();
        self.held.retain(|held, _| !taken.contains(held));
        self.leftover.extend(taken.iter().cloned());
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(binding: &str) -> Target {
        Target {
            account: "account0000000000000000000000002".parse().unwrap(),
            binding: UpstreamBinding::parse(binding).unwrap(),
        }
    }

    fn confirm(holdings: &mut Holdings, target: Target) {
        holdings.confirmed(target, SystemTime::UNIX_EPOCH, Instant::now());
    }

    fn targets<const N: usize>(bindings: [&str; N]) -> BTreeSet<Target> {
        bindings.into_iter().map(target).collect()
    }

    #[test]
    fn what_is_wanted_is_missing_until_it_is_confirmed_or_refused() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.*.*", "fax.status.*"]));
        assert_eq!(holdings.missing(), &targets(["call.*.*", "fax.status.*"]));
        confirm(&mut holdings, target("call.*.*"));
        holdings.refused(target("fax.status.*"), Refusal::NoModule);
        assert_eq!(holdings.missing(), &targets([]));
        assert_eq!(holdings.refusals(), 1);
    }

    #[test]
    fn the_narrower_is_given_up_only_after_the_wider_one_is_there() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        confirm(&mut holdings, target("call.CHANNEL_CREATE.*"));
        holdings.want(targets(["call.*.*"]));
        assert_eq!(holdings.missing(), &targets(["call.*.*"]));
        assert_eq!(holdings.take_superfluous(), []);
        confirm(&mut holdings, target("call.*.*"));
        assert_eq!(holdings.take_superfluous(), [target("call.CHANNEL_CREATE.*")]);
        assert_eq!(holdings.take_superfluous(), []);
    }

    #[test]
    fn the_wider_one_goes_on_serving_the_narrower() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.*.*"]));
        confirm(&mut holdings, target("call.*.*"));
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        assert_eq!(holdings.missing(), &targets([]));
        assert_eq!(holdings.take_superfluous(), []);
        holdings.want(targets([]));
        assert!(holdings.has_excess());
        assert_eq!(holdings.take_superfluous(), [target("call.*.*")]);
        assert!(holdings.has_excess(), "it was not given back");
        holdings.want(targets(["call.*.*"]));
        assert_eq!(holdings.missing(), &targets(["call.*.*"]), "proven anew");
    }

    #[test]
    fn everything_is_told_once() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.*.*", "fax.status.*", "object.*.user", "object.*.device"]));
        confirm(&mut holdings, target("call.*.*"));
        confirm(&mut holdings, target("object.*.device"));
        holdings.refused(target("fax.status.*"), Refusal::NoModule);
        holdings.want(targets(["call.*.*", "fax.status.*"]));
        holdings.want(targets(["call.*.*", "fax.status.*", "object.*.user"]));
        confirm(&mut holdings, target("object.*.user"));
        assert_eq!(holdings.take_superfluous(), [target("object.*.device")]);
        holdings.want(targets(["call.*.*", "fax.status.*", "object.*.user", "presence.mwi_updates.*"]));
        let report = holdings.report();
        let told: Vec<_> = report
            .iter()
            .map(|held| {
                let state = match &held.state {
                    BindingState::Active => "active",
                    BindingState::Pending => "pending",
                    BindingState::Refused(reason) => reason,
                };
                (&*held.binding, state, held.confirmed.is_some(), held.superfluous)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("call.*.*", "active", true, false),
                ("object.*.user", "active", true, false),
                ("presence.mwi_updates.*", "pending", false, false),
                ("fax.status.*", Refusal::NoModule.reason(), false, false),
                ("object.*.device", "active", false, true),
            ]
        );
    }

    #[test]
    fn another_accounts_binding_serves_nothing() {
        let mut holdings = Holdings::default();
        let mut descendant = target("call.*.*");
        descendant.account = "account0000000000000000000000004".parse().unwrap();
        confirm(&mut holdings, descendant);
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        assert_eq!(holdings.missing(), &targets(["call.CHANNEL_CREATE.*"]));
    }

    #[test]
    fn a_refusal_is_forgotten_with_the_want() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["fax.status.*"]));
        holdings.refused(target("fax.status.*"), Refusal::NoModule);
        holdings.want(targets([]));
        holdings.want(targets(["fax.status.*"]));
        assert_eq!(holdings.missing(), &targets(["fax.status.*"]));
    }

    #[test]
    fn a_kind_is_proven_as_far_as_all_its_bindings_are() {
        let mut holdings = Holdings::default();
        let (start, now) = (SystemTime::UNIX_EPOCH, Instant::now());
        let at = |seconds| Duration::from_secs(seconds);
        let (users, devices) = (target("object.*.user"), target("object.*.device"));
        holdings.want([users.clone(), devices.clone()].into());
        holdings.confirmed(users.clone(), start, now);
        holdings.confirmed(devices.clone(), start + at(1), now + at(1));
        let proven = |holdings: &Holdings| holdings.proven_kind(users.account, Kind::Object);
        assert_eq!(proven(&holdings), Some(start));
        assert_eq!(holdings.stalest(|_| true), Some((&users, now)));
        holdings.asked(&users, now + at(2));
        holdings.refreshed(&users, start + at(3));
        assert_eq!(proven(&holdings), Some(start + at(1)));
        assert_eq!(holdings.stalest(|_| true), Some((&devices, now + at(1))));
        assert!(!holdings.has_excess());
        assert_eq!(holdings.proven_kind(users.account, Kind::Call), None);
        holdings.withdrawn(&devices, Refusal::Account);
        assert_eq!(proven(&holdings), Some(start + at(3)));
        assert_eq!(holdings.missing(), &targets([]), "it is refused");
    }
}
