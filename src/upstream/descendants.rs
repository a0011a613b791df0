//! What a session does for the accounts below its own: it asks Crossbar which there are, and holds what is wanted from them
//! beside what is wanted from its own account.

use std::{future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    binding::AccountId,
    clock::WallClock,
    config::Credentials,
    hub::{BranchInterest, Hub},
    random::{self, Random},
};

use super::{
    crossbar::{Crossbar, CrossbarError, Token},
    intake::Intake,
    session::Wanted,
};

/// How long to wait at most before Crossbar is asked again that did not answer.
const RETRY: Duration = Duration::from_secs(30);

/// The descendants of one configured account.
pub(super) struct Descendants {
    hub: Arc<Hub>,
    own: AccountId,
    interval: Duration,
    interest: watch::Receiver<Arc<BranchInterest>>,
    /// When Crossbar is asked next. Kept over sessions, so that a flapping one does not ask each time.
    due: Mutex<Instant>,
}

/// How Crossbar is asked.
pub(super) struct Asking<'a> {
    pub crossbar: &'a Crossbar,
    pub credentials: &'a Credentials,
    pub clock: &'a dyn WallClock,
    pub random: &'a dyn Random,
    /// The session's token; it may expire long before the session ends.
    pub token: &'a Token,
    pub token_margin: Duration,
}

impl Descendants {
    /// Those below `own`.
    pub fn new(hub: Arc<Hub>, own: AccountId, interval: Duration) -> Self {
        hub.will_tell(own);
        let interest = hub.orders(own).interest;
        Self { hub, own, interval, interest, due: Mutex::new(Instant::now()) }
    }

    /// Crossbar told the name of the own account.
    pub fn set_own_name(&self, name: &str) {
        self.hub.set_name(self.own, name);
    }

    /// There will be no answer: the credentials are refused.
    pub fn give_up(&self) {
        self.hub.cannot_tell(self.own, 0, true);
    }

    /// What is wanted from them, from now on.
    pub fn interest(&self) -> watch::Receiver<Arc<BranchInterest>> {
        let mut interest = self.interest.clone();
        interest.mark_unchanged();
        interest
    }

    /// Puts what is wanted from descendants beside the rest, and serves those that it is wanted from. Before a session asks
    /// for a binding the descendant is served: otherwise its first events would be nobody's.
    pub fn add_to(&self, wanted: &mut Wanted, intake: &Intake) {
        let interest = self.interest.borrow().clone();
        intake.serve_only(|account| interest.contains_key(account));
        for (account, interest) in interest.iter() {
            let Some(log) = self.hub.get(account) else { continue };
            intake.serve(*account, log);
            if let Some(facts) = self.hub.facts(account) {
                intake.set_realm(*account, &facts.realm);
            }
            if !interest.bindings.is_empty() {
                wanted.insert(*account, interest.clone());
            }
        }
    }

    /// Keeps the hub told which descendants there are: every now and then, and when somebody asks for an account that
    /// nobody knows. Never ends.
    pub async fn keep_told(&self, asking: Asking<'_>, intake: &Intake) {
        let mut requests = self.hub.orders(self.own).requests;
        let mut renewed = None;
        let mut failed = false;
        loop {
            let due = *self.due.lock();
            tokio::select! {
                () = sleep_until(due) => {}
                Ok(()) = requests.changed() => {}
            }
            requests.mark_unchanged();
            let request = self.hub.asking(self.own);
            let wait = match self.ask(&asking, &mut renewed).await {
                Ok(told) => {
                    debug!(descendants = told.listing.len(), "Crossbar told the descendants");
                    if !told.is_complete {
                        warn!("Crossbar did not tell all descendants");
                    }
                    self.hub.tell(self.own, told.listing, told.is_complete, request);
                    for account in self.interest.borrow().keys() {
                        if let Some(facts) = self.hub.facts(account) {
                            intake.set_realm(*account, &facts.realm);
                        }
                    }
                    failed = false;
                    self.interval
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        info!(%error, "Crossbar does not tell the descendants");
                    }
                    use CrossbarError::{BadRequest, Forbidden, NotFound};
                    let is_final = matches!(error, BadRequest | Forbidden | NotFound);
                    self.hub.cannot_tell(self.own, request, is_final);
                    self.interval.min(RETRY)
                }
            };
            // Out of step with the other accounts.
            let wait = random::between(asking.random, wait.mul_f64(0.9), wait.mul_f64(1.1));
            *self.due.lock() = Instant::now() + wait;
        }
    }

    async fn ask(
        &self,
        asking: &Asking<'_>,
        renewed: &mut Option<Token>,
    ) -> Result<super::crossbar::Descendants, CrossbarError> {
        let good = |token: &Token| token.is_good(asking.clock.now(), asking.token_margin);
        if !good(renewed.as_ref().unwrap_or(asking.token)) {
            *renewed = Some(asking.crossbar.login(asking.credentials).await?.token);
        }
        let token = renewed.as_ref().unwrap_or(asking.token);
        let told = asking.crossbar.descendants(token, self.own).await;
        if told == Err(CrossbarError::Unauthorized) {
            // It was good by its own word; the next time another one is asked for.
            *renewed = Some(asking.crossbar.login(asking.credentials).await?.token);
        }
        told
    }
}

/// Waits until something else is wanted from descendants.
pub(super) async fn changed(interest: &mut Option<watch::Receiver<Arc<BranchInterest>>>) {
    if let Some(interest) = interest
        && interest.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
