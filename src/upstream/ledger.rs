//! Which session holds what, and what that means for the log.
//!
//! A binding that two sessions hold is held as long as one of them lives: that is what makes a rotation without a gap
//! possible. And a binding of which a part is filed by month is only proven, after the month turned, by an answer that shows
//! it: until then it is marked.
//!
//! The ledger only says what is to be recorded; the intake records it, in the same order and under the same lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use smallvec::SmallVec;

use crate::{
    binding::{AccountId, UpstreamBinding},
    hub::{Control, GapReason, LostBindings},
};

use super::{dedupe::SessionId, holdings::Target};

/// Something to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In the log of one account.
    One(AccountId, Control),
    /// In the logs of all accounts.
    All(Control),
}

/// How a session ended, as far as its events are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With events on the way, or nobody knows: lost from `since` on.
    Lost {
        /// Why.
        reason: GapReason,
        /// The last proof.
        since: SystemTime,
    },
    /// Another session had everything, and what this one still had was read: nothing is lost.
    Drained,
    /// The account's older session goes on; lost is only what that one does not hold.
    Redundant {
        /// The last proof of this one.
        since: SystemTime,
    },
}

/// The ledger of one upstream account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sessions: BTreeSet<SessionId>,
    held: BTreeMap<Target, SmallVec<[SessionId; 2]>>,
    refused: BTreeMap<Target, (SessionId, Arc<str>)>,
    /// While nobody can say whether the servers' month has turned.
    month_is_turning: bool,
    /// What is filed by month and not proven since it turned.
    turned: BTreeSet<Target>,
}

impl Ledger {
    /// A session begins.
    pub fn opened(&mut self, session: SessionId) {
        self.sessions.insert(session);
    }

    /// Upstream holds the target for the session.
    pub fn confirmed(&mut self, session: SessionId, target: &Target, now: SystemTime) -> Vec<Entry> {
        self.refused.remove(target);
        let holders = self.held.entry(target.clone()).or_default();
        let is_first = holders.is_empty();
        if !holders.contains(&session) {
            holders.push(session);
        }
        let mut entries = Vec::new();
        if is_first {
            self.turned.remove(target);
            entries.push(confirmed(target));
            if self.month_is_turning && target.binding.month_bound() {
                self.turned.insert(target.clone());
                entries.push(turned(target.account, vec![target.binding.clone()], now));
            }
        }
        entries
    }

    /// Upstream refuses the target to the session. What another one has is not refused as long as that one lives.
    pub fn refused(&mut self, session: SessionId, target: &Target, reason: Arc<str>) -> Vec<Entry> {
        self.refused.insert(target.clone(), (session, reason.clone()));
        match self.held.contains_key(target) {
            true => Vec::new(),
            false => vec![refused(target, reason)],
        }
    }

    /// Upstream refuses to the session what it held: it was lost at some time after `since`.
    pub fn withdrawn(
        &mut self,
        session: SessionId,
        target: &Target,
        reason: Arc<str>,
        since: SystemTime,
    ) -> Vec<Entry> {
        let was_last = self.release(session, target);
        let mut entries = Vec::new();
        if was_last {
            let bindings = vec![target.binding.clone()];
            entries.push(lost(target.account, bindings, GapReason::UpstreamLoss, since));
        }
        entries.extend(self.refused(session, target, reason));
        entries
    }

    /// What the session holds of it serves nothing any more.
    pub fn dropped(&mut self, session: SessionId, target: &Target) -> Vec<Entry> {
        match self.release(session, target) {
            true => vec![dropped(target)],
            false => Vec::new(),
        }
    }

    /// The servers' month turns, now or soon, or has turned since `since`: nobody knows. Lasts until `month_turned`.
    pub fn month_turns(&mut self, since: SystemTime) -> Vec<Entry> {
        self.month_is_turning = true;
        let by_month = self.held.keys().filter(|target| target.binding.month_bound());
        let marked: Vec<Target> = by_month.filter(|target| !self.turned.contains(target)).cloned().collect();
        self.turned.extend(marked.iter().cloned());
        by_account(&marked).into_iter().map(|(account, bindings)| turned(account, bindings, since)).collect()
    }

    /// The month has turned everywhere: what is confirmed from here on is of the new month.
    pub fn month_turned(&mut self) {
        self.month_is_turning = false;
    }

    /// Upstream has shown that it holds the target for the new month.
    pub fn month_proven(&mut self, target: &Target) -> Vec<Entry> {
        match self.turned.remove(target) {
            true => vec![confirmed(target)],
            false => Vec::new(),
        }
    }

    /// Upstream has shown that the month had turned without our knowing: what is filed by it was silent after `since`.
    pub fn month_missed(&mut self, target: &Target, since: SystemTime) -> Vec<Entry> {
        if self.turned.contains(target) || !self.held.contains_key(target) {
            return self.month_proven(target);
        }
        vec![turned(target.account, vec![target.binding.clone()], since), confirmed(target)]
    }

    /// A session ended.
    pub fn ended(&mut self, session: SessionId, end: End) -> Vec<Entry> {
        self.sessions.remove(&session);
        if self.sessions.is_empty() {
            self.held.clear();
            self.refused.clear();
            self.turned.clear();
            return match end {
                End::Lost { reason, since } => vec![Entry::All(all_lost(reason, since))],
                End::Drained => Vec::new(),
                End::Redundant { since } => {
                    vec![Entry::All(all_lost(GapReason::UpstreamDisconnected, since))]
                }
            };
        }
        let mine: Vec<Target> = self
            .held
            .iter()
            .filter(|(_, by)| by.contains(&session))
            .map(|(target, _)| target.clone())
            .collect();
        let (alone, shared): (Vec<Target>, Vec<Target>) =
            mine.into_iter().partition(|target| self.release(session, target));
        let refusals = self.refusals_after(session, &alone);
        let losses = |targets: &[Target], reason, since| {
            let lost = |(account, bindings)| lost(account, bindings, reason, since);
            by_account(targets).into_iter().map(lost).collect::<Vec<_>>()
        };
        let mut entries = Vec::new();
        match end {
            End::Drained => {
                let gone = alone.iter().filter(|target| !self.refused.contains_key(target));
                entries.extend(gone.map(dropped));
            }
            End::Lost { reason, since } => {
                let all: BTreeSet<Target> = alone.iter().chain(&shared).cloned().collect();
                entries.extend(losses(&Vec::from_iter(all), reason, since));
                for target in &shared {
                    entries.push(confirmed(target));
                    if self.turned.contains(target) {
                        entries.push(turned(target.account, vec![target.binding.clone()], since));
                    }
                }
            }
            End::Redundant { since } => {
                entries.extend(losses(&alone, GapReason::UpstreamDisconnected, since));
            }
        }
        entries.extend(refusals);
        entries
    }

    /// What the sessions that stay were refused, among what nobody holds any more.
    fn refusals_after(&mut self, session: SessionId, alone: &[Target]) -> Vec<Entry> {
        self.refused.retain(|_, (by, _)| *by != session);
        let refusals = alone.iter().filter_map(|target| self.refused.get_key_value(target));
        refusals.map(|(target, (_, reason))| refused(target, reason.clone())).collect()
    }

    /// The session does not hold the target any more. Whether nobody does now.
    fn release(&mut self, session: SessionId, target: &Target) -> bool {
        let Some(holders) = self.held.get_mut(target) else { return false };
        holders.retain(|holder| *holder != session);
        let nobody = holders.is_empty();
        if nobody {
            self.held.remove(target);
            self.turned.remove(target);
        }
        nobody
    }

    /// Sessions and bindings that are on record.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        (self.sessions.len(), self.held.len() + self.refused.len() + self.turned.len())
    }
}

fn by_account(targets: &[Target]) -> BTreeMap<AccountId, Vec<UpstreamBinding>> {
    let mut accounts: BTreeMap<AccountId, Vec<UpstreamBinding>> = BTreeMap::new();
    for target in targets {
        accounts.entry(target.account).or_default().push(target.binding.clone());
    }
    accounts
}

fn confirmed(target: &Target) -> Entry {
    Entry::One(target.account, Control::Confirmed { binding: target.binding.clone() })
}

fn dropped(target: &Target) -> Entry {
    Entry::One(target.account, Control::Dropped { binding: target.binding.clone() })
}

fn refused(target: &Target, reason: Arc<str>) -> Entry {
    Entry::One(target.account, Control::Refused { binding: target.binding.clone(), reason })
}

fn lost(account: AccountId, bindings: Vec<UpstreamBinding>, reason: GapReason, since: SystemTime) -> Entry {
    Entry::One(account, Control::Lost { bindings: LostBindings::These(bindings), reason, since })
}

fn turned(account: AccountId, bindings: Vec<UpstreamBinding>, since: SystemTime) -> Entry {
    lost(account, bindings, GapReason::MonthTurn, since)
}

fn all_lost(reason: GapReason, since: SystemTime) -> Control {
    Control::Lost { bindings: LostBindings::All, reason, since }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OLD: SessionId = SessionId(1);
    const NEW: SessionId = SessionId(2);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn target(binding: &str) -> Target {
        Target {
            account: "account0000000000000000000000002".parse().unwrap(),
            binding: UpstreamBinding::parse(binding).unwrap(),
        }
    }

    /// What is to be recorded, in short.
    fn short(entries: Vec<Entry>) -> Vec<String> {
        let short = |entry| match entry {
            Entry::All(Control::Lost { reason, since, .. }) => {
                format!("all {reason:?} {}", since.duration_since(at(0)).unwrap().as_secs())
            }
            Entry::One(_, Control::Confirmed { binding }) => format!("+{binding}"),
            Entry::One(_, Control::Dropped { binding }) => format!("-{binding}"),
            Entry::One(_, Control::Refused { binding, reason }) => format!("!{binding} {reason}"),
            Entry::One(_, Control::Lost { bindings, reason, since }) => {
                let LostBindings::These(bindings) = bindings else { panic!("{bindings:?}") };
                let since = since.duration_since(at(0)).unwrap().as_secs();
                format!("{bindings:?} {reason:?} {since}")
            }
            other => panic!("{other:?}"),
        };
        entries.into_iter().map(short).collect()
    }

    fn two_sessions() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.opened(OLD);
        assert_eq!(short(ledger.confirmed(OLD, &target("call.*.*"), at(0))), ["+call.*.*"]);
        assert_eq!(short(ledger.confirmed(OLD, &target("object.*.*"), at(0))), ["+object.*.*"]);
        ledger.opened(NEW);
        assert_eq!(short(ledger.confirmed(NEW, &target("call.*.*"), at(1))), [""; 0], "it is held already");
        ledger
    }

    #[test]
    fn a_drained_session_leaves_no_gap() {
        let mut ledger = two_sessions();
        let narrower = target("object.doc_created.user");
        assert_eq!(short(ledger.confirmed(NEW, &narrower, at(1))), ["+object.doc_created.user"]);
        assert_eq!(short(ledger.ended(OLD, End::Drained)), ["-object.*.*"]);
        let lost = End::Lost { reason: GapReason::UpstreamDisconnected, since: at(7) };
        assert_eq!(short(ledger.ended(NEW, lost)), ["all UpstreamDisconnected 7"]);
        assert_eq!(ledger.size(), (0, 0));
    }

    #[test]
    fn a_session_that_was_not_drained_leaves_one_that_is_over_where_another_holds_the_same() {
        let mut ledger = two_sessions();
        let lost = End::Lost { reason: GapReason::Rotation, since: at(7) };
        let entries = short(ledger.ended(OLD, lost));
        assert_eq!(entries, ["[call.*.*, object.*.*] Rotation 7", "+call.*.*"]);
        assert_eq!(short(ledger.confirmed(NEW, &target("object.*.*"), at(8))), ["+object.*.*"]);
    }

    #[test]
    fn a_successor_that_dies_takes_only_its_own_with_it() {
        let mut ledger = two_sessions();
        ledger.confirmed(NEW, &target("fax.status.*"), at(1));
        let entries = short(ledger.ended(NEW, End::Redundant { since: at(7) }));
        assert_eq!(entries, ["[fax.status.*] UpstreamDisconnected 7"]);
    }

    #[test]
    fn what_the_successor_is_refused_counts_when_the_other_is_gone() {
        let mut ledger = two_sessions();
        assert_eq!(short(ledger.refused(NEW, &target("object.*.*"), "no".into())), [""; 0]);
        assert_eq!(short(ledger.ended(OLD, End::Drained)), ["!object.*.* no"]);
        assert_eq!(
            short(ledger.withdrawn(NEW, &target("call.*.*"), "no".into(), at(5))),
            ["[call.*.*] UpstreamLoss 5", "!call.*.* no"]
        );
    }

    #[test]
    fn the_month_concerns_what_is_filed_by_it_until_it_is_proven() {
        let mut ledger = two_sessions();
        assert_eq!(short(ledger.month_turns(at(60))), ["[object.*.*] MonthTurn 60"]);
        assert_eq!(short(ledger.month_turns(at(61))), [""; 0], "once");
        // What is confirmed while nobody knows may be of the old month.
        let fax = target("object.doc_created.fax");
        assert_eq!(
            short(ledger.confirmed(NEW, &fax, at(62))),
            ["+object.doc_created.fax", "[object.doc_created.fax] MonthTurn 62"]
        );
        assert_eq!(short(ledger.month_proven(&target("object.*.*"))), ["+object.*.*"]);
        assert_eq!(short(ledger.month_proven(&target("object.*.*"))), [""; 0]);
        ledger.month_turned();
        assert_eq!(short(ledger.month_proven(&fax)), ["+object.doc_created.fax"]);
        assert_eq!(
            short(ledger.month_missed(&fax, at(9))),
            ["[object.doc_created.fax] MonthTurn 9", "+object.doc_created.fax"]
        );
        assert_eq!(short(ledger.month_turns(at(99))).len(), 1);
    }

    #[test]
    fn what_turned_stays_marked_when_one_of_two_sessions_ends() {
        let mut ledger = two_sessions();
        ledger.confirmed(NEW, &target("object.*.*"), at(1));
        ledger.month_turns(at(60));
        let entries =
            short(ledger.ended(OLD, End::Lost { reason: GapReason::UpstreamDisconnected, since: at(70) }));
        assert_eq!(
            entries,
            [
                "[call.*.*, object.*.*] UpstreamDisconnected 70",
                "+call.*.*",
                "+object.*.*",
                "[object.*.*] MonthTurn 70"
            ]
        );
        assert_eq!(short(ledger.month_proven(&target("object.*.*"))), ["+object.*.*"]);
    }
}
