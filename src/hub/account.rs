//! The accounts, and what each has: log, coverage, interest, views.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::SystemTime,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    binding::{AccountId, Binding, Kind},
    clock::SharedClock,
    config,
};

use super::{
    coverage::BindingReport,
    filter::Fields,
    frame::{EncodeCounters, Encodes, Origin},
    interest::Interest,
    log::{Control, Cursor, Epoch, IncomingEvent, Sequence, UpstreamChange, Window},
    memory::{Evictions, Memory, MemoryUse, Share},
    reader::{self, Subscription},
    roster::{BranchInterest, Roster},
    state::{Appended, ReaderId, State, Step},
    subscription::{SubscribeError, SubscribeSpec},
    view::{Projection, ViewKey},
};

/// All accounts that are served.
pub struct Hub {
    process: Arc<Process>,
    pub(super) clock: SharedClock,
    epochs: Mutex<Box<dyn FnMut() -> u64 + Send>>,
    pub(super) accounts: RwLock<BTreeMap<AccountId, Arc<Account>>>,
    /// Taken before `accounts` where both are needed.
    pub(super) roster: Mutex<Roster>,
    /// Changes with each answer from Crossbar about descendants.
    pub(super) roster_changes: watch::Sender<()>,
}

/// What the accounts of a hub share.
struct Process {
    /// Changes with a reload; read where somebody comes or goes, not for events.
    settings: RwLock<Arc<config::Hub>>,
    memory: Arc<Memory>,
    subscriptions: AtomicUsize,
    encodes: Arc<EncodeCounters>,
}

impl Process {
    fn settings(&self) -> Arc<config::Hub> {
        Arc::clone(&self.settings.read())
    }
}

/// One account: what upstream appends to and consumers read from. Cheap to share.
pub struct Account {
    id: AccountId,
    home: Mutex<Home>,
    origin: Origin,
    process: Arc<Process>,
    clock: SharedClock,
    /// What its log takes.
    pub(super) share: Arc<Share>,
    state: Mutex<State>,
    interest: watch::Sender<Arc<Interest>>,
    /// Changes with each control record, for those who wait for confirmations.
    controls: watch::Sender<()>,
    /// A binding has begun to linger.
    lingering: Arc<Notify>,
    /// Ends what has lingered; runs from the first subscription on.
    janitor: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Whose session serves an account.
struct Home {
    served_by: AccountId,
    /// Where that session learns what is wanted; none for a configured account, whose session follows its interest itself.
    branch: Option<Arc<watch::Sender<Arc<BranchInterest>>>>,
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
    /// The bytes that they take, with all that belongs to them: encodings, frames kept for the readers of a view.
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
        settings: config::Hub,
        clock: SharedClock,
        epoch_source: impl FnMut() -> u64 + Send + 'static,
    ) -> Self {
        let process = Process {
            memory: Memory::new(&settings),
            settings: RwLock::new(Arc::new(settings)),
            subscriptions: AtomicUsize::new(0),
            encodes: Arc::default(),
        };
        Self {
            process: Arc::new(process),
            clock,
            epochs: Mutex::new(Box::new(epoch_source)),
            accounts: RwLock::default(),
            roster: Mutex::default(),
            roster_changes: watch::Sender::new(()),
        }
    }

    /// Adds an account with an empty log; gives the existing one if it is there already. `served_by` is the account whose
    /// session serves it (itself, or an ancestor). `always` is wanted whether anybody subscribes or not.
    pub fn add(&self, id: AccountId, served_by: AccountId, always: Vec<Binding>) -> Arc<Account> {
        let branch = self.branch(served_by);
        let (account, is_new) = {
            let mut accounts = self.accounts.write();
            let is_new = !accounts.contains_key(&id);
            let account = accounts.entry(id).or_insert_with(|| {
                let epoch = Epoch((self.epochs.lock())());
                let account =
                    Account::new(id, served_by, epoch, &always, self.process.clone(), self.clock.clone());
                account.set_home(served_by, (id != served_by).then_some(branch));
                Arc::new(account)
            });
            (Arc::clone(account), is_new)
        };
        if is_new && id != served_by {
            self.attach(&account);
        }
        account
    }

    /// The account, if it is served.
    pub fn get(&self, id: &AccountId) -> Option<Arc<Account>> {
        self.accounts.read().get(id).map(Arc::clone)
    }

    /// All accounts, in order of their ids.
    pub fn list(&self) -> Vec<Arc<Account>> {
        self.accounts.read().values().map(Arc::clone).collect()
    }

    /// Removes an account: its subscriptions end with `EndReason::AccountGone`.
    pub fn remove(&self, id: &AccountId) -> bool {
        let removed = self.accounts.write().remove(id);
        if let Some(account) = &removed {
            self.detach(account);
            account.end();
        }
        removed.is_some()
    }

    /// Removes an account alone: what its branch is, and serves besides, stays.
    pub(super) fn take_away(&self, account: &Account) {
        if self.accounts.write().remove(&account.id).is_some() {
            self.leave_branch(account);
            account.end();
        }
    }

    /// Takes new settings. They hold for what comes; and logs that are larger than they may be now, are cut.
    pub async fn reconfigure(&self, settings: config::Hub) {
        let settings = Arc::new(settings);
        // An account that comes meanwhile takes the new ones itself, or is in the list.
        *self.process.settings.write() = Arc::clone(&settings);
        self.process.memory.set_limits(&settings);
        for account in self.list() {
            account.with_state(|state| state.set_limits(&settings));
            while account.look() {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(super) fn settings(&self) -> Arc<config::Hub> {
        self.process.settings()
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.process.memory
    }

    /// What the logs take. Cheap.
    pub fn memory_use(&self) -> MemoryUse {
        self.process.memory.usage()
    }

    /// How many records have gone, and why. Cheap.
    pub fn evictions(&self) -> Evictions {
        self.process.memory.evictions()
    }

    /// Whether the open streams hold more frames that consumers have not taken than they may, all together.
    pub fn is_overheld(&self) -> bool {
        self.process.memory.is_overheld(self.subscriptions())
    }

    /// Open subscriptions of all accounts.
    pub fn subscriptions(&self) -> usize {
        self.process.subscriptions.load(Ordering::Relaxed)
    }

    /// How often anything was encoded.
    pub fn encodes(&self) -> Encodes {
        self.process.encodes.read()
    }
}

impl Account {
    fn new(
        id: AccountId,
        served_by: AccountId,
        epoch: Epoch,
        always: &[Binding],
        process: Arc<Process>,
        clock: SharedClock,
    ) -> Self {
        let share = process.memory.share(served_by);
        let mut state = State::new(epoch, &process.settings(), always, Arc::clone(&share), clock.now());
        Self {
            id,
            home: Mutex::new(Home { served_by, branch: None }),
            origin: Origin {
                account: id,
                epoch,
                encodes: Arc::clone(&process.encodes),
                memory: Arc::clone(&process.memory),
            },
            share,
            interest: watch::Sender::new(Arc::new(state.wanted().untold().unwrap_or_default())),
            controls: watch::Sender::new(()),
            lingering: Arc::default(),
            janitor: Mutex::default(),
            state: Mutex::new(state),
            process,
            clock,
        }
    }

    /// Its id.
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// The account whose session serves it.
    pub fn served_by(&self) -> AccountId {
        self.home.lock().served_by
    }

    pub(super) fn set_home(
        &self,
        served_by: AccountId,
        branch: Option<Arc<watch::Sender<Arc<BranchInterest>>>>,
    ) {
        *self.home.lock() = Home { served_by, branch };
    }

    /// Other bindings are wanted whether anybody subscribes or not. Those that are not any more linger.
    pub fn set_always_on(self: &Arc<Self>, bindings: &[Binding]) {
        let (linger, now) = (self.settings().linger, self.clock.now());
        self.with_state(|state| state.set_always_on(bindings, Instant::now(), linger, now));
        self.publish_interest();
        self.keep_janitor();
        self.lingering.notify_one();
    }

    /// The identity of its log.
    pub fn epoch(&self) -> Epoch {
        self.origin.epoch
    }

    /// Appends an event; `None` where nobody wants it. Never waits. The caller has removed duplicates.
    pub fn append(&self, event: IncomingEvent) -> Option<Sequence> {
        let mut wakers = Vec::new();
        let mut appended = self.state.lock().append(event, None, self.clock.now(), &mut wakers);
        if let Appended::NeedsFields(event) = appended {
            // A copy, because the event itself goes into the log: it costs little beside the parsing.
            let data = event.data().to_owned();
            let fields = Fields::new(&data);
            fields.parse();
            appended = self.state.lock().append(*event, Some(&fields), self.clock.now(), &mut wakers);
        }
        let sequence = match appended {
            Appended::Sequence(sequence) => Some(sequence),
            // With the fields at hand none are needed.
            Appended::Unwanted | Appended::NeedsFields(_) => None,
        };
        wake(wakers);
        sequence
    }

    /// Appends a control record.
    pub fn record(&self, control: Control) -> Sequence {
        let mut wakers = Vec::new();
        let sequence = self.state.lock().record(control, self.clock.now(), &mut wakers);
        wake(wakers);
        self.controls.send_replace(());
        sequence
    }

    /// Upstream has shown at a time that it delivers every binding of the kind that it holds for this account. That stands
    /// beside the log: it changes nothing for any reader, and is told with the next report.
    pub fn proven(&self, kind: Kind, at: SystemTime) {
        self.state.lock().log.prove(kind, at);
    }

    /// What is wanted, and its changes.
    pub fn interest(&self) -> watch::Receiver<Arc<Interest>> {
        self.interest.subscribe()
    }

    /// Begins a subscription. Registers its interest at once; then, where the upstream is up, waits a bounded time for the
    /// bindings to be confirmed or refused, and only then fixes a live start's position.
    ///
    /// A replaying start waits only where all bindings are required: its position is fixed from the first, and it is told
    /// of the confirmations in their places.
    pub async fn subscribe(self: &Arc<Self>, spec: SubscribeSpec) -> Result<Subscription, SubscribeError> {
        reader::subscribe(self, spec).await
    }

    /// How its upstream stands: the state, since when, and where in the log that change stands.
    pub fn upstream(&self) -> (UpstreamChange, SystemTime, Cursor) {
        let coverage = self.with_state(|state| Arc::clone(state.log.head()));
        let upstream = coverage.upstream();
        (upstream.change.clone(), upstream.since, self.cursor(upstream.position))
    }

    /// The bytes that its log takes. Cheap.
    pub fn log_bytes(&self) -> usize {
        self.share.bytes()
    }

    /// Lets go of what is too old, or is too much since the bounds have changed: a few records at once. Says whether there is
    /// more to do.
    pub(super) fn look(&self) -> bool {
        let now = self.clock.now();
        self.with_state(|state| state.look(now))
    }

    /// How it stands.
    pub fn status(&self) -> AccountStatus {
        let (mut status, coverage, proofs) = {
            let mut state = self.state.lock();
            state.evict(self.clock.now());
            let (records, bytes) = state.log.size();
            let upstream = state.log.head().upstream();
            let status = AccountStatus {
                upstream: upstream.change.clone(),
                since: upstream.since,
                position: self.cursor(upstream.position),
                window: state.log.window(),
                records,
                bytes,
                subscriptions: state.subscriptions(),
                views: state.views(),
                interest: Vec::new(),
            };
            (status, Arc::clone(state.log.head()), state.log.proofs())
        };
        status.interest = coverage.reports(proofs);
        status
    }

    pub(super) fn cursor(&self, sequence: Sequence) -> Cursor {
        Cursor { epoch: self.origin.epoch, sequence }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn settings(&self) -> Arc<config::Hub> {
        self.process.settings()
    }

    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(super) fn controls(&self) -> watch::Receiver<()> {
        self.controls.subscribe()
    }

    /// Reads or changes the state. Short, and nothing that waits or encodes.
    pub(super) fn with_state<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        use_state(&mut self.state.lock())
    }

    pub(super) fn step(
        &self,
        reader: ReaderId,
        passed: Sequence,
        ordinal: Option<u64>,
        waker: &Waker,
    ) -> Step {
        self.state.lock().step(reader, passed, ordinal, waker)
    }

    /// Lets a reader in, if there is room and `admit` does not object.
    pub(super) fn join<T>(
        self: &Arc<Self>,
        key: &ViewKey,
        admit: impl FnOnce(&mut State) -> Result<T, SubscribeError>,
    ) -> Result<(Membership, Arc<Projection>, T), SubscribeError> {
        let settings = self.settings();
        let limit = settings.max_subscriptions;
        let count = |open: usize| (open < limit).then_some(open + 1);
        let process = &self.process.subscriptions;
        if process.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_err() {
            return Err(SubscribeError::TooMany { limit });
        }
        let joined = self.with_state(|state| {
            let limit = settings.max_subscriptions_per_account;
            if state.is_gone() {
                return Err(SubscribeError::AccountGone);
            }
            if state.subscriptions() >= limit {
                return Err(SubscribeError::TooMany { limit });
            }
            let now = self.clock.now();
            state.evict(now);
            let admitted = admit(state)?;
            let (reader, projection, changed) = state.join(key, now);
            Ok((reader, projection, changed, admitted))
        });
        match joined {
            Ok((reader, projection, changed, admitted)) => {
                let membership = Membership { account: Arc::clone(self), reader };
                self.keep_janitor();
                if changed {
                    self.publish_interest();
                }
                Ok((membership, projection, admitted))
            }
            Err(error) => {
                process.fetch_sub(1, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn leave(&self, reader: ReaderId) {
        let linger = self.settings().linger;
        self.with_state(|state| state.leave(reader, Instant::now(), linger));
        self.process.subscriptions.fetch_sub(1, Ordering::Relaxed);
        self.lingering.notify_one();
    }

    /// Tells the upstream what is wanted, if it changed. What is sent is read under the channel's own lock, so that two
    /// changes at once cannot be told of in the wrong order.
    fn publish_interest(&self) {
        self.interest.send_if_modified(|told| {
            let untold = self.with_state(|state| state.wanted().untold());
            untold.map(|wanted| *told = Arc::new(wanted)).is_some()
        });
        let Some(branch) = self.home.lock().branch.clone() else { return };
        branch.send_if_modified(|told| {
            let wanted = Arc::clone(&self.interest.borrow());
            // Not there: it was removed.
            let changed = told.get(&self.id).is_some_and(|known| !Arc::ptr_eq(known, &wanted));
            if changed {
                Arc::make_mut(told).insert(self.id, wanted);
            }
            changed
        });
    }

    fn keep_janitor(self: &Arc<Self>) {
        self.janitor.lock().get_or_insert_with(|| {
            let task = end_lingering(Arc::downgrade(self), Arc::clone(&self.lingering));
            AbortOnDropHandle::new(tokio::spawn(task))
        });
    }

    /// Ends what has lingered, and says when to look again.
    fn expire(&self) -> Option<Instant> {
        let wall = self.clock.now();
        let (changed, next) = self.with_state(|state| state.expire(Instant::now(), wall));
        if changed {
            self.publish_interest();
        }
        next
    }

    fn end(&self) {
        let mut wakers = Vec::new();
        self.with_state(|state| state.remove(&mut wakers));
        wake(wakers);
        self.controls.send_replace(());
        self.janitor.lock().take();
    }
}

/// A reader's place in its account, given back when dropped.
pub(super) struct Membership {
    pub(super) account: Arc<Account>,
    pub(super) reader: ReaderId,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.account.leave(self.reader);
    }
}

/// Owned by the account, and ended with it.
async fn end_lingering(account: Weak<Account>, lingering: Arc<Notify>) {
    loop {
        let Some(next) = account.upgrade().map(|account| account.expire()) else { return };
        match next {
            Some(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = lingering.notified() => {}
                }
            }
            None => lingering.notified().await,
        }
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
