//! What a session should hold, what it holds, and what upstream refuses: the table that upstream's own answers cannot
//! replace (F25, F37).

use std::collections::{BTreeMap, BTreeSet};

use crate::binding::{AccountId, UpstreamBinding};

use super::frame::Refusal;

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
    held: BTreeSet<Target>,
    refused: BTreeMap<Target, Refusal>,
}

impl Holdings {
    /// Sets what should be held: the cover of what is wanted. Refusals of what is not wanted any more are forgotten: it is
    /// asked for anew when it is wanted again.
    pub fn want(&mut self, cover: BTreeSet<Target>) {
        self.refused.retain(|target, _| cover.contains(target));
        self.wanted = cover;
    }

    /// What must still be asked for. A wider binding that is held from before serves a narrower one: to hold both would
    /// bring each event twice, and the wider one cannot be given back.
    pub fn missing(&self) -> BTreeSet<Target> {
        self.wanted
            .iter()
            .filter(|target| !self.refused.contains_key(target) && !self.serves(target))
            .cloned()
            .collect()
    }

    fn serves(&self, target: &Target) -> bool {
        self.held.contains(target) || self.held.iter().any(|held| held.contains(target))
    }

    /// Upstream holds it.
    pub fn confirmed(&mut self, target: Target) {
        self.refused.remove(&target);
        self.held.insert(target);
    }

    /// Upstream refuses it.
    pub fn refused(&mut self, target: Target, refusal: Refusal) {
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
        if !self.missing().is_empty() {
            return Vec::new();
        }
        let wanted = &self.wanted;
        // What has a binding of its own by now needs no wider one.
        let in_need: Vec<&Target> = wanted.iter().filter(|target| !self.held.contains(target)).collect();
        let superfluous =
            |held: &Target| !wanted.contains(held) && !in_need.iter().any(|target| held.contains(target));
        let taken: Vec<Target> = self.held.iter().filter(|held| superfluous(held)).cloned().collect();
        self.held.retain(|held| !taken.contains(held));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(binding: &str) -> Target {
        Target {
            account: "account0000000000000000000000002".parse().unwrap(),
            binding: UpstreamBinding::parse(binding).unwrap(),
        }
    }

    fn targets<const N: usize>(bindings: [&str; N]) -> BTreeSet<Target> {
        bindings.into_iter().map(target).collect()
    }

    #[test]
    fn what_is_wanted_is_missing_until_it_is_confirmed_or_refused() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.*.*", "fax.status.*"]));
        assert_eq!(holdings.missing(), targets(["call.*.*", "fax.status.*"]));
        holdings.confirmed(target("call.*.*"));
        holdings.refused(target("fax.status.*"), Refusal::NoModule);
        assert_eq!(holdings.missing(), targets([]));
        assert_eq!(holdings.refusals(), 1);
    }

    #[test]
    fn the_narrower_is_given_up_only_after_the_wider_one_is_there() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        holdings.confirmed(target("call.CHANNEL_CREATE.*"));
        holdings.want(targets(["call.*.*"]));
        assert_eq!(holdings.missing(), targets(["call.*.*"]));
        assert_eq!(holdings.take_superfluous(), []);
        holdings.confirmed(target("call.*.*"));
        assert_eq!(holdings.take_superfluous(), [target("call.CHANNEL_CREATE.*")]);
        assert_eq!(holdings.take_superfluous(), []);
    }

    #[test]
    fn the_wider_one_goes_on_serving_the_narrower() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["call.*.*"]));
        holdings.confirmed(target("call.*.*"));
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        assert_eq!(holdings.missing(), targets([]));
        assert_eq!(holdings.take_superfluous(), []);
        holdings.want(targets([]));
        assert_eq!(holdings.take_superfluous(), [target("call.*.*")]);
        holdings.want(targets(["call.*.*"]));
        assert_eq!(holdings.missing(), targets(["call.*.*"]), "proven anew");
    }

    #[test]
    fn another_accounts_binding_serves_nothing() {
        let mut holdings = Holdings::default();
        let mut descendant = target("call.*.*");
        descendant.account = "account0000000000000000000000004".parse().unwrap();
        holdings.confirmed(descendant);
        holdings.want(targets(["call.CHANNEL_CREATE.*"]));
        assert_eq!(holdings.missing(), targets(["call.CHANNEL_CREATE.*"]));
    }

    #[test]
    fn a_refusal_is_forgotten_with_the_want() {
        let mut holdings = Holdings::default();
        holdings.want(targets(["fax.status.*"]));
        holdings.refused(target("fax.status.*"), Refusal::NoModule);
        holdings.want(targets([]));
        holdings.want(targets(["fax.status.*"]));
        assert_eq!(holdings.missing(), targets(["fax.status.*"]));
    }
}
