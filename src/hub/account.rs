//! The accounts, and what each has: log, coverage, interest, views.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::watch;

use crate::{
    binding::{AccountId, Binding},
    clock::SharedClock,
    config,
};

use super::{
    coverage::BindingReport,
    interest::Interest,
    log::{Control, Cursor, IncomingEvent, Sequence, UpstreamChange, Window},
    subscription::{SubscribeError, SubscribeSpec, Subscription},
};

/// All accounts that are served.
pub struct Hub {
    _placeholder: (),
}

/// One account: what upstream appends to and consumers read from. Cheap to share.
pub struct Account {
    _placeholder: (),
}

/// How an account stands, at one moment.
#[derive(Debug, Clone)]
pub struct AccountStatus {
    /// The upstream's state, and since when.
    pub upstream: UpstreamChange,
    /// Since when.
    pub since: SystemTime,
    /// Where in the log that change stands.
    pub position: Cursor,
    /// What could be replayed.
    pub window: Window,
    /// Records in the log.
    pub records: usize,
    /// The bytes that they take.
    pub bytes: usize,
    /// Open subscriptions.
    pub subscriptions: usize,
    /// Distinct views.
    pub views: usize,
    /// What is wanted, with its state.
    pub interest: Vec<BindingReport>,
}

impl Hub {
    /// An empty hub. `epoch_source` gives each new log its epoch.
    pub fn new(
        _settings: config::Hub,
        _clock: SharedClock,
        _epoch_source: impl FnMut() -> u64 + Send + 'static,
    ) -> Self {
        todo!()
    }

    /// Adds an account with an empty log; gives the existing one if it is there already. `served_by` is the account whose
    /// session serves it (itself, or an ancestor). `always` is wanted whether anybody subscribes or not.
    pub fn add(&self, _id: AccountId, _served_by: AccountId, _always: Vec<Binding>) -> Arc<Account> {
        todo!()
    }

    /// The account, if it is served.
    pub fn get(&self, _id: &AccountId) -> Option<Arc<Account>> {
        todo!()
    }

    /// All accounts, in order of their ids.
    pub fn list(&self) -> Vec<Arc<Account>> {
        todo!()
    }

    /// Removes an account: its subscriptions end with `EndReason::AccountGone`.
    pub fn remove(&self, _id: &AccountId) -> bool {
        todo!()
    }
}

impl Account {
    /// Its id.
    pub fn id(&self) -> AccountId {
        todo!()
    }

    /// The account whose session serves it.
    pub fn served_by(&self) -> AccountId {
        todo!()
    }

    /// Appends an event; `None` where nobody wants it. Never waits. The caller has removed duplicates.
    pub fn append(&self, _event: IncomingEvent) -> Option<Sequence> {
        todo!()
    }

    /// Appends a control record.
    pub fn record(&self, _control: Control) -> Sequence {
        todo!()
    }

    /// What is wanted, and its changes.
    pub fn interest(&self) -> watch::Receiver<Arc<Interest>> {
        todo!()
    }

    /// Begins a subscription. Registers its interest at once; then, where the upstream is up, waits a bounded time for the
    /// bindings to be confirmed or refused, and only then fixes a live start's position.
    pub async fn subscribe(self: &Arc<Self>, _spec: SubscribeSpec) -> Result<Subscription, SubscribeError> {
        todo!()
    }

    /// How it stands.
    pub fn status(&self) -> AccountStatus {
        todo!()
    }
}
