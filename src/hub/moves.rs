//! Accounts that begin or cease to be configured while others read from them.
//!
//! A log outlives the session that serves it, as long as any other can: an account that gets credentials of its own moves to
//! its own session, one that loses them to the session of the nearest configured account above it, and so do those below it.
//! Their streams go on, with a gap from the last sign of life of the one session to the confirmations of the other. What
//! nobody serves any more is removed. What a log takes stays counted with the logs beside which it began.

use std::sync::Arc;

use crate::binding::{AccountId, Binding};

use super::{
    account::{Account, Hub},
    gap::GapReason,
    log::{Control, LostBindings, UpstreamChange, UpstreamState},
};

impl Hub {
    /// Adds an account that has credentials. Where it was served by another account's session, it is moved.
    pub fn configure(&self, id: AccountId, always: Vec<Binding>) -> Arc<Account> {
        let account = self.add(id, id, always.clone());
        if account.served_by() != id {
            account.set_always_on(&always);
            self.move_to(&account, id);
        }
        account
    }

    /// These accounts are about to lose their credentials. What nobody else is going to serve ends now, before its session
    /// does: the subscriptions end with `EndReason::AccountGone`, and are not told of an outage first.
    pub fn end_unserved(&self, ids: &[AccountId]) {
        let homes = self.homes_without(ids);
        for account in self.list() {
            if ids.contains(&account.served_by()) && !homes.contains_key(&account.id()) {
                self.take_away(&account);
            }
        }
    }

    /// These accounts have no credentials any more, and their sessions have ended. What they served moves to others, or is
    /// removed.
    pub fn retire(&self, ids: &[AccountId]) {
        let homes = self.end_branches(ids);
        for account in self.list() {
            if !ids.contains(&account.served_by()) {
                continue;
            }
            match homes.get(&account.id()) {
                Some(served_by) => {
                    account.set_always_on(&[]);
                    tracing::info!(account = %account.id(), %served_by, "the account moves to another session");
                    self.move_to(&account, *served_by);
                }
                None => self.take_away(&account),
            }
        }
    }

    /// Another session serves the account from now on.
    fn move_to(&self, account: &Account, to: AccountId) {
        let (last, since, _) = account.upstream();
        // First, so that its session appends nothing more.
        self.leave_branch(account);
        let branch = (to != account.id()).then(|| self.branch(to));
        account.set_home(to, branch);
        // Said before the loss: nobody is told that a live upstream holds nothing.
        account.record(Control::Upstream(UpstreamChange {
            state: UpstreamState::Connecting,
            detail: "another session serves the account from now on".into(),
            ..last.clone()
        }));
        account.record(Control::Lost {
            bindings: LostBindings::All,
            reason: GapReason::UpstreamDisconnected,
            since: last.last_life.unwrap_or(since),
        });
        if to != account.id() {
            self.attach(account);
        }
    }
}
