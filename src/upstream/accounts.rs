//! The tasks of all configured accounts: one each, which come, change and go with the configuration.

use std::{any::Any, collections::BTreeMap, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, warn};

use crate::{
    binding::AccountId,
    config,
    hub::{Control, GapReason, Hub, LostBindings, UpstreamChange, UpstreamState},
    telemetry::metrics::AccountCounts,
};

use super::{
    Seams,
    account::run_steered,
    steering::{Setup, Steered, Steering, steering},
    threads::Threads,
};

/// The first delay before the task of an account is started again after a panic; doubled each time.
const RESTART_FIRST: Duration = Duration::from_secs(1);
const RESTART_LAST: Duration = Duration::from_secs(60);

/// The accounts, and what keeps their sessions. Dropping it ends all tasks at once, [`Accounts::stop`] in good order.
pub struct Accounts {
    hub: Arc<Hub>,
    seams: Seams,
    /// Where the tasks run.
    threads: Threads,
    kept: Mutex<Kept>,
}

struct Kept {
    settings: Arc<config::Upstream>,
    tasks: BTreeMap<AccountId, Task>,
}

struct Task {
    account: config::Account,
    /// The counts of the account go on where a task that panicked has left them.
    _counts: Arc<AccountCounts>,
    steering: Steering,
    stop: CancellationToken,
    handle: AbortOnDropHandle<()>,
}

impl Task {
    /// Ends it in good order, or at once where that takes too long.
    async fn end(self) {
        self.stop.cancel();
        if timeout(Accounts::CLOSING, self.handle).await.is_err() {
            warn!(account = %self.account.id, "its sessions to the upstream did not close and are cut off");
        }
    }
}

impl Accounts {
    /// What each task gets to close its sessions; all of them do so at once.
    pub const CLOSING: Duration = Duration::from_millis(2500);

    /// Starts the tasks of these.
    ///
    /// # Errors
    ///
    /// Where the system gives no more threads ([`Seams::threads`]).
    pub fn start(
        settings: config::Upstream,
        accounts: Vec<config::Account>,
        hub: Arc<Hub>,
        seams: Seams,
    ) -> io::Result<Self> {
        let threads = Threads::start(seams.threads)?;
        let kept = Kept { settings: Arc::new(settings), tasks: BTreeMap::new() };
        let this = Self { hub, seams, threads, kept: Mutex::new(kept) };
        this.add(accounts);
        Ok(this)
    }

    /// Of one account whose task does not answer.
    #[cfg(test)]
    pub(crate) fn unheard(account: config::Account, hub: Arc<Hub>, seams: Seams) -> Self {
        let (steering, steered) = steering();
        drop(steered);
        let task = Task {
            _counts: seams.metrics.account(account.id),
            steering,
            stop: CancellationToken::new(),
            handle: AbortOnDropHandle::new(tokio::spawn(async {})),
            account: account.clone(),
        };
        let kept = Kept { settings: Arc::default(), tasks: BTreeMap::from([(account.id, task)]) };
        Self { hub, seams, threads: Threads::default(), kept: Mutex::new(kept) }
    }

    /// Starts the tasks of further accounts. Those that have one already are left alone.
    pub fn add(&self, mut accounts: Vec<config::Account>) {
        let mut kept = self.kept.lock();
        accounts.retain(|account| !kept.tasks.contains_key(&account.id));
        // In this order those get series of their own that are not there for all.
        accounts.sort_by_key(|account| account.id);
        let counts: Vec<_> = accounts.iter().map(|account| self.seams.metrics.account(account.id)).collect();
        // All of them in the hub already, so that a consumer who comes before a task's first turn is not told NOT_FOUND, and
        // no account is taken for another's descendant.
        for account in &accounts {
            self.hub.configure(account.id, account.always_on.clone());
            if kept.settings.descendants {
                self.hub.will_tell(account.id);
            }
        }
        // They queue for the upstream: not in the same order each time, and in each replica.
        let mut counted: Vec<_> = accounts.into_iter().zip(counts).collect();
        counted.sort_by_cached_key(|_| self.seams.random.next_u64());
        for (account, counts) in counted {
            let (steering, steered) = steering();
            let stop = CancellationToken::new();
            let setup = Setup { settings: kept.settings.clone(), account: account.clone() };
            let task = keep_account(setup, self.hub.clone(), self.seams.clone(), steered, stop.clone());
            let handle = AbortOnDropHandle::new(self.threads.spawn(task));
            kept.tasks.insert(account.id, Task { account, _counts: counts, steering, stop, handle });
        }
    }

    /// Ends the streams of accounts, and of those below them, unless somebody else serves these; then their sessions.
    pub async fn remove(&self, ids: &[AccountId]) {
        let tasks: Vec<Task> = {
            let mut kept = self.kept.lock();
            ids.iter().filter_map(|id| kept.tasks.remove(id)).collect()
        };
        self.hub.end_unserved(ids);
        // What another session is going to serve must not come over both.
        join_all(tasks.into_iter().map(Task::end)).await;
        self.hub.retire(ids);
    }

    /// Accounts that there are have changed: other credentials, another place, other bindings that are always on.
    pub fn change(&self, accounts: Vec<config::Account>) {
        let mut kept = self.kept.lock();
        let settings = kept.settings.clone();
        for account in accounts {
            let Some(task) = kept.tasks.get_mut(&account.id) else { continue };
            if let Some(entry) = self.hub.get(&account.id) {
                entry.set_always_on(&account.always_on);
            }
            task.account = account.clone();
            task.steering.reconfigure(Setup { settings: settings.clone(), account });
        }
    }

    /// Other settings hold from now on, for all.
    pub fn reconfigure(&self, settings: config::Upstream) {
        let mut kept = self.kept.lock();
        kept.settings = Arc::new(settings);
        for task in kept.tasks.values() {
            let (settings, account) = (kept.settings.clone(), task.account.clone());
            task.steering.reconfigure(Setup { settings, account });
        }
    }

    /// The steering of one account, if it is configured.
    pub fn steering(&self, id: &AccountId) -> Option<Steering> {
        self.kept.lock().tasks.get(id).map(|task| task.steering.clone())
    }

    /// That of all of them, in order of the accounts.
    pub fn steerings(&self) -> Vec<(AccountId, Steering)> {
        self.kept.lock().tasks.iter().map(|(id, task)| (*id, task.steering.clone())).collect()
    }

    /// Ends all tasks. Consumers are told that the upstream is down.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut self.kept.lock().tasks);
        join_all(tasks.into_values().map(Task::end)).await;
    }
}

/// Keeps the task of an account going. A panic in it is a defect, and must neither take the other accounts down nor be
/// kept from this one's consumers.
async fn keep_account(
    setup: Setup,
    hub: Arc<Hub>,
    seams: Seams,
    mut steered: Steered,
    stop: CancellationToken,
) {
    let id = setup.account.id;
    let mut delay = RESTART_FIRST;
    loop {
        let run = run_steered(setup.clone(), hub.clone(), seams.clone(), &mut steered, stop.clone());
        // Unwind safe: what the task shared with others is the hub alone, which is told below that the session is lost.
        let result = AssertUnwindSafe(run).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        let cause = match &result {
            Ok(()) => "it returned",
            Err(panic) => message(panic.as_ref()),
        };
        error!(account = %id, cause, ?delay, "the task of an account ended, which is a defect; it is started again");
        report_lost(&hub, id);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return,
        }
        delay = (delay * 2).min(RESTART_LAST);
    }
}

/// The session went with its task: without this, consumers would take the silence for quiet, those of its descendants too.
fn report_lost(hub: &Hub, id: AccountId) {
    for account in hub.list().into_iter().filter(|account| account.served_by() == id) {
        let status = account.status();
        let last_life = status.upstream.last_life;
        account.record(Control::Lost {
            bindings: LostBindings::All,
            reason: GapReason::UpstreamDisconnected,
            since: last_life.unwrap_or(status.since),
        });
        account.record(Control::Upstream(UpstreamChange {
            state: UpstreamState::Down,
            flavour: status.upstream.flavour,
            last_life,
            detail: "an internal error; the session is opened again".into(),
        }));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use tokio::time::sleep;

    use super::*;
    use crate::{
        binding::{Binding, Flavour, OptIn, cover::cover},
        clock::SystemClock,
        config::Credentials,
        hub::BindingState,
        random::SeededRandom,
        upstream::{TcpDial, Transport, TransportError},
    };

    /// Panics at the first login, and never answers those after it.
    #[derive(Default)]
    struct Panics {
        logins: AtomicUsize,
    }

    impl Transport for Panics {
        fn send(
            &self,
            _: http::Request<Bytes>,
        ) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
            assert!(self.logins.fetch_add(1, Ordering::Relaxed) > 0, "a defect");
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_to_consumers_and_the_task_is_started_again() {
        let id: AccountId = "account0000000000000000000000002".parse().unwrap();
        let binding = Binding::parse("call.*.*", &OptIn::default()).unwrap();
        let account = config::Account {
            id,
            crossbar_url: None,
            blackhole_url: None,
            credentials: Credentials::ApiKey { key: "secret".into() },
            always_on: vec![binding.clone()],
        };
        let transport = Arc::new(Panics::default());
        let seams = Seams {
            dial: Arc::new(TcpDial { receive_buffer: 64 << 10 }),
            threads: 0,
            transport: transport.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(1)),
            gate: Arc::default(),
            metrics: Arc::default(),
        };
        let hub = Arc::new(Hub::new(config::Hub::default(), seams.clock.clone(), || 1));
        let entry = hub.add(id, id, account.always_on.clone());
        // As if a session had been live before the panic.
        for held in cover([&binding], Flavour::K4) {
            entry.record(Control::Confirmed { binding: held });
        }
        assert_eq!(entry.status().interest[0].state, BindingState::Active);

        let stop = CancellationToken::new();
        let setup = Setup { settings: Arc::default(), account };
        let (_steering, steered) = steering();
        let task = tokio::spawn(keep_account(setup, hub.clone(), seams, steered, stop.clone()));
        sleep(RESTART_FIRST / 2).await;
        let status = entry.status();
        assert_eq!(transport.logins.load(Ordering::Relaxed), 1);
        assert_eq!(status.upstream.state, UpstreamState::Down);
        assert!(status.upstream.detail.contains("internal error"), "{}", status.upstream.detail);
        assert_eq!(status.interest[0].state, BindingState::Pending, "its loss is recorded");

        sleep(RESTART_FIRST).await;
        assert_eq!(transport.logins.load(Ordering::Relaxed), 2, "it was started again");
        stop.cancel();
        task.await.unwrap();
    }
}
