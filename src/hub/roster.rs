//! Which accounts there are: those with credentials, and those below them, as Crossbar tells.
//!
//! A configured account and everything that its session serves is a *branch*. An account that is not configured itself is
//! served by the nearest configured one above it. Its log is made when somebody first asks for it, not when its name
//! becomes known: a reseller has thousands of accounts, and consumers for a few of them. Once made, a log is kept for as
//! long as the account is served, whether anybody reads it or not: to drop it would be to lose its identity.
//!
//! Whoever asks for an account that nobody knows makes the branches ask Crossbar anew, each at most once in
//! `lookup_interval`; only then is the account unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::binding::AccountId;

use super::{
    account::{Account, Hub},
    interest::Interest,
    log::{Control, UpstreamState},
};

/// What Crossbar tells of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// For people.
    pub name: Arc<str>,
    /// What presence events name it by, in any case of letters. Empty where Crossbar does not tell.
    pub realm: Arc<str>,
    /// The accounts above it, the highest first. Empty where Crossbar does not tell.
    pub above: Vec<AccountId>,
}

/// All accounts below one.
pub type Listing = BTreeMap<AccountId, Facts>;

/// What is wanted from the descendants of one branch that have a log.
pub type BranchInterest = BTreeMap<AccountId, Arc<Interest>>;

/// An account as `ListAccounts` shows it, with a log or without one yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: AccountId,
    /// Its name; empty while it is unknown.
    pub name: Arc<str>,
    /// Whose session serves it.
    pub served_by: AccountId,
    /// How that session stands.
    pub upstream: UpstreamState,
}

/// There is no such account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It is neither configured nor below one that is.
    #[error("it is neither configured nor below an account that is")]
    NotServed,
    /// It may be below one of those whose descendants are not known yet, for want of an answer from Crossbar.
    #[error("it is not configured, and the descendants of {branches} configured accounts are not known yet")]
    NotKnownYet {
        /// How many those are.
        branches: usize,
    },
}

/// Where the upstream of a branch learns what it has to do for its descendants.
pub struct BranchOrders {
    /// What is wanted from which.
    pub interest: watch::Receiver<Arc<BranchInterest>>,
    /// Counts the requests to tell the descendants anew.
    pub requests: watch::Receiver<u64>,
}

/// Whether a branch has told its descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Told {
    /// It has not, and may yet.
    NotYet,
    Yes,
    /// It has not, and will not: nobody said that it would, or the credentials are refused.
    #[default]
    Never,
}

/// A configured account, and what its session serves.
struct Branch {
    name: Arc<str>,
    listing: Listing,
    /// Those of the listing that were not in the latest one.
    missed: BTreeSet<AccountId>,
    told: Told,
    /// When Crossbar was last asked, by request or by itself.
    asked: Option<Instant>,
    /// The requests that are answered.
    answered: u64,
    requests: watch::Sender<u64>,
    interest: Arc<watch::Sender<Arc<BranchInterest>>>,
}

impl Branch {
    fn new() -> Self {
        Self {
            name: "".into(),
            listing: Listing::new(),
            missed: BTreeSet::new(),
            told: Told::default(),
            asked: None,
            answered: 0,
            requests: watch::Sender::new(0),
            interest: Arc::new(watch::Sender::new(Arc::default())),
        }
    }

    /// Takes a listing in. An account has gone when it is missing for the second time in a row: one answer of a Crossbar
    /// whose database lags must not end streams.
    fn take(&mut self, mut listing: Listing, is_complete: bool) {
        let missing = self.listing.iter().filter(|(id, _)| !listing.contains_key(id));
        let missed: Listing = missing
            .filter(|(id, _)| !is_complete || !self.missed.contains(id))
            .map(|(id, facts)| (*id, facts.clone()))
            .collect();
        if is_complete {
            self.missed = missed.keys().copied().collect();
        }
        listing.extend(missed);
        self.listing = listing;
        self.told = Told::Yes;
    }

    fn requested(&self) -> u64 {
        *self.requests.borrow()
    }
}

/// What is known of an account that is not configured.
struct Descendant {
    facts: Facts,
    served_by: AccountId,
}

/// All that is known.
#[derive(Default)]
pub(super) struct Roster {
    branches: BTreeMap<AccountId, Branch>,
    /// Worked out from the listings of all branches.
    descendants: BTreeMap<AccountId, Descendant>,
}

impl Roster {
    /// A branch, which is made if it is not there.
    fn branch(&mut self, id: AccountId) -> &Branch {
        let known = self.branches.len();
        self.branches.entry(id).or_insert_with(Branch::new);
        if self.branches.len() != known {
            // It may be the nearer one of some.
            self.work_out();
        }
        &self.branches[&id]
    }

    /// Works out who serves whom: the nearest configured account above.
    fn work_out(&mut self) {
        let mut descendants: BTreeMap<AccountId, Descendant> = BTreeMap::new();
        for (branch, of) in &self.branches {
            for (id, facts) in of.listing.iter().filter(|(id, _)| !self.branches.contains_key(id)) {
                let served_by = self.nearest(facts).unwrap_or(*branch);
                // Where listings disagree, the lower one of two branches is right: it is the nearer.
                let nearer = descendants.get(id).is_none_or(|known| {
                    let above = self.branches.get(&known.served_by);
                    above.is_some_and(|above| above.listing.contains_key(&served_by))
                });
                if nearer {
                    descendants.insert(*id, Descendant { facts: facts.clone(), served_by });
                }
            }
        }
        self.descendants = descendants;
    }

    /// Who serves which account that is not configured itself.
    fn homes(&self) -> BTreeMap<AccountId, AccountId> {
        self.descendants.iter().map(|(id, descendant)| (*id, descendant.served_by)).collect()
    }

    fn nearest(&self, facts: &Facts) -> Option<AccountId> {
        facts.above.iter().rev().find(|id| self.branches.contains_key(id)).copied()
    }

    /// Whether a branch still has an account below it. A log stays with the session that it began with, even where a
    /// nearer one has come: moved, events of the change could be delivered twice.
    fn has(&self, branch: &AccountId, id: &AccountId) -> bool {
        let Some(own) = self.branches.get(branch) else { return false };
        let listed = |(other, of): (&AccountId, &Branch)| {
            let facts = of.listing.get(id);
            facts.is_some_and(|facts| other == branch || facts.above.contains(branch))
        };
        own.told != Told::Yes || self.branches.iter().any(listed)
    }

    /// Asks those branches for their descendants that have not been asked for a while. Gives whose answers, up to which,
    /// are to be waited for.
    fn ask(&mut self, now: Instant, interval: Duration) -> Vec<(AccountId, u64)> {
        let mut asked = Vec::new();
        for (id, branch) in &mut self.branches {
            // Nobody is there to ask Crossbar: the branch has no session.
            if branch.requests.receiver_count() == 0 || branch.told == Told::Never {
                continue;
            }
            if branch.requested() <= branch.answered {
                if branch.asked.is_some_and(|at| now < at + interval) {
                    continue;
                }
                branch.asked = Some(now);
                branch.requests.send_modify(|count| *count += 1);
            }
            asked.push((*id, branch.requested()));
        }
        asked
    }

    /// Whether there is nobody left to wait for.
    fn is_answered(&self, asked: &[(AccountId, u64)]) -> bool {
        let answered = |(id, request): &(AccountId, u64)| {
            self.branches
                .get(id)
                .is_none_or(|branch| branch.answered >= *request || branch.requests.receiver_count() == 0)
        };
        self.branches.values().all(|branch| branch.told != Told::NotYet) && asked.iter().all(answered)
    }

    fn unknown(&self, asked: &[(AccountId, u64)]) -> LookupError {
        let open = |(id, branch): &(&AccountId, &Branch)| {
            let waiting = asked.iter().any(|(of, request)| of == *id && branch.answered < *request);
            branch.told == Told::NotYet || (waiting && branch.told != Told::Never)
        };
        match self.branches.iter().filter(open).count() {
            0 => LookupError::NotServed,
            branches => LookupError::NotKnownYet { branches },
        }
    }
}

impl Hub {
    /// The account, if there is one; for one that nobody knows Crossbar is asked, and waited for, for `lookup_wait` at
    /// most. A descendant gets its log here, the first time.
    ///
    /// # Errors
    ///
    /// See [`LookupError`].
    pub async fn lookup(&self, id: AccountId) -> Result<Arc<Account>, LookupError> {
        let settings = self.settings();
        let deadline = Instant::now() + settings.lookup_wait;
        let mut changes = self.roster_changes.subscribe();
        let mut asked: Option<Vec<(AccountId, u64)>> = None;
        loop {
            changes.mark_unchanged();
            if let Some(account) = self.get(&id).or_else(|| self.demand(id)) {
                return Ok(account);
            }
            let (is_answered, waiting) = {
                let mut roster = self.roster.lock();
                let asked = asked.get_or_insert_with(|| roster.ask(Instant::now(), settings.lookup_interval));
                (roster.is_answered(asked), asked.clone())
            };
            let over = is_answered || timeout_at(deadline, changes.changed()).await.is_err();
            if over {
                // What came together with the answer is here now.
                let found = self.get(&id).or_else(|| self.demand(id));
                return found.ok_or_else(|| self.roster.lock().unknown(&waiting));
            }
        }
    }

    /// Makes the log of a descendant.
    fn demand(&self, id: AccountId) -> Option<Arc<Account>> {
        let served_by = self.roster.lock().descendants.get(&id)?.served_by;
        Some(self.add(id, served_by, Vec::new()))
    }

    /// The channel of the branch that `served_by` is.
    pub(super) fn branch(&self, served_by: AccountId) -> Arc<watch::Sender<Arc<BranchInterest>>> {
        Arc::clone(&self.roster.lock().branch(served_by).interest)
    }

    /// A descendant that has just got its log: it stands as its branch does, and its branch learns of it.
    pub(super) fn attach(&self, account: &Account) {
        if let Some(server) = self.get(&account.served_by()) {
            account.record(Control::Upstream(server.upstream().0));
        }
        let branch = self.branch(account.served_by());
        branch.send_modify(|interest| {
            Arc::make_mut(interest).insert(account.id(), account.interest().borrow().clone());
        });
    }

    /// An account is removed: its branch serves it no more, and if it is a branch itself, that ends too.
    pub(super) fn detach(&self, account: &Account) {
        let own = account.id() == account.served_by();
        if own {
            self.end_branches(&[account.id()]);
            self.sweep();
        } else {
            self.leave_branch(account);
        }
    }

    /// Who would serve which account if these branches were no more.
    pub(super) fn homes_without(&self, ids: &[AccountId]) -> BTreeMap<AccountId, AccountId> {
        let mut roster = self.roster.lock();
        let branches: Vec<_> = ids.iter().filter_map(|id| roster.branches.remove_entry(id)).collect();
        roster.work_out();
        let homes = roster.homes();
        roster.branches.extend(branches);
        roster.work_out();
        homes
    }

    /// These branches are no more. Gives who serves which account from now on.
    pub(super) fn end_branches(&self, ids: &[AccountId]) -> BTreeMap<AccountId, AccountId> {
        let mut roster = self.roster.lock();
        roster.branches.retain(|id, _| !ids.contains(id));
        roster.work_out();
        roster.homes()
    }

    /// Its branch serves an account no more.
    pub(super) fn leave_branch(&self, account: &Account) {
        let roster = self.roster.lock();
        let branch = roster.branches.get(&account.served_by()).map(|branch| Arc::clone(&branch.interest));
        drop(roster);
        if let Some(interest) = branch {
            interest.send_if_modified(|interest| {
                interest.contains_key(&account.id())
                    && Arc::make_mut(interest).remove(&account.id()).is_some()
            });
        }
    }

    /// The upstream of a configured account will tell its descendants: until then, who is not known may be one.
    pub fn will_tell(&self, branch: AccountId) {
        let mut roster = self.roster.lock();
        roster.branch(branch);
        if let Some(branch) = roster.branches.get_mut(&branch)
            && branch.told == Told::Never
        {
            branch.told = Told::NotYet;
        }
    }

    /// What the upstream of a configured account has to do for its descendants.
    pub fn orders(&self, branch: AccountId) -> BranchOrders {
        let mut roster = self.roster.lock();
        let branch = roster.branch(branch);
        BranchOrders { interest: branch.interest.subscribe(), requests: branch.requests.subscribe() }
    }

    /// Crossbar is about to be asked for a branch's descendants. Gives the number of the latest request, which the answer
    /// answers.
    pub fn asking(&self, branch: AccountId) -> u64 {
        let mut roster = self.roster.lock();
        let Some(branch) = roster.branches.get_mut(&branch) else { return 0 };
        branch.asked = Some(Instant::now());
        branch.requested()
    }

    /// Crossbar told descendants of a configured account; all of them, if it `is_complete`: then those that have gone are
    /// removed.
    pub fn tell(&self, branch: AccountId, listing: Listing, is_complete: bool, request: u64) {
        {
            let mut roster = self.roster.lock();
            let Some(branch) = roster.branches.get_mut(&branch) else { return };
            branch.take(listing, is_complete);
            branch.answered = branch.answered.max(request);
            roster.work_out();
        }
        self.sweep();
        self.roster_changes.send_replace(());
    }

    /// Crossbar did not tell. `is_final`: nor will it.
    pub fn cannot_tell(&self, branch: AccountId, request: u64, is_final: bool) {
        if let Some(branch) = self.roster.lock().branches.get_mut(&branch) {
            branch.answered = branch.answered.max(request);
            if branch.told != Told::Yes {
                branch.told = if is_final { Told::Never } else { Told::NotYet };
            }
        }
        self.roster_changes.send_replace(());
    }

    /// Crossbar told the name of a configured account.
    pub fn set_name(&self, id: AccountId, name: &str) {
        if let Some(branch) = self.roster.lock().branches.get_mut(&id) {
            branch.name = name.into();
        }
    }

    /// What Crossbar tells of a descendant.
    pub fn facts(&self, id: &AccountId) -> Option<Facts> {
        self.roster.lock().descendants.get(id).map(|descendant| descendant.facts.clone())
    }

    /// Whose session serves an account: its own, or that of an account above it. `None` for one that is not served here.
    pub fn served_by(&self, id: &AccountId) -> Option<AccountId> {
        // A descendant is among the accounts only once somebody has asked for its events.
        let account = self.get(id).map(|account| account.served_by());
        account.or_else(|| self.roster.lock().descendants.get(id).map(|descendant| descendant.served_by))
    }

    /// All accounts that can be asked for, in order of their ids.
    pub fn listed(&self) -> Vec<Listed> {
        let accounts: BTreeMap<_, _> =
            self.list().into_iter().map(|account| (account.id(), account)).collect();
        let state = |id: &AccountId| accounts.get(id).map(|account| account.upstream().0.state);
        let roster = self.roster.lock();
        let mut listed: BTreeMap<AccountId, Listed> = BTreeMap::new();
        for (id, descendant) in &roster.descendants {
            let served_by = accounts.get(id).map_or(descendant.served_by, |account| account.served_by());
            let upstream = state(id).or_else(|| state(&served_by)).unwrap_or(UpstreamState::Connecting);
            let name = Arc::clone(&descendant.facts.name);
            listed.insert(*id, Listed { id: *id, name, served_by, upstream });
        }
        for account in accounts.values() {
            let (id, served_by) = (account.id(), account.served_by());
            let name = roster.branches.get(&id).map(|branch| Arc::clone(&branch.name));
            let upstream = account.upstream().0.state;
            listed.entry(id).or_insert_with(|| Listed {
                id,
                name: name.unwrap_or_default(),
                served_by,
                upstream,
            });
        }
        listed.into_values().collect()
    }

    /// Removes the accounts that no branch has below it any more.
    fn sweep(&self) {
        let gone: Vec<AccountId> = {
            let accounts = self.list();
            let roster = self.roster.lock();
            let has = |account: &&Arc<Account>| {
                let (id, served_by) = (account.id(), account.served_by());
                id != served_by && !roster.has(&served_by, &id)
            };
            accounts.iter().filter(has).map(|account| account.id()).collect()
        };
        for id in gone {
            tracing::info!(account = %id, "the account is not below a configured one any more");
            self.remove(&id);
        }
    }
}
