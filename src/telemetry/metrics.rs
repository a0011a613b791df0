//! Metrics: what an operator, and Prometheus on his behalf, can know of a running hawking. `docs/metrics.md` lists them all.
//!
//! Nothing here is global: a gateway has one [`Metrics`], and hands it down. What happens is told by typed functions; what
//! *is* (how long a log is, how many streams are open) is read from where it is kept when somebody scrapes, through the
//! sources that [`Metrics::read_from`] was given. So nothing is counted twice, and the path of an event through hawking
//! gets no more from all this than an addition to a number that nobody else writes.
//!
//! # Cardinality
//!
//! No label has a value that somebody outside of hawking chooses: no call ids, bindings, names of clients, peers. The label
//! `account` names configured accounts alone: a descendant counts for the account whose session serves it, and of more than
//! [`ACCOUNTS_SHOWN`] configured accounts those that came last have the label `other` together.
//!
//! # Layout
//!
//! - `family`: what a metric is (name, unit, labels, help), and how its samples are written. `catalogue`: all of them.
//! - `count`: numbers that are added to. `words`: labels that have one of a few values.
//! - `account`: what is counted for each configured account. `accounts`: which of them have a label; `samples`: what is shown
//!   of them. `serving`: what is counted on the consumers' side.
//! - `reading`: what is read at a scrape. `process`: what the kernel knows.

mod account;
mod accounts;
mod catalogue;
mod count;
mod family;
mod process;
mod reading;
mod samples;
mod serving;
mod words;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use parking_lot::{Mutex, RwLock};

use crate::binding::AccountId;

pub use self::{
    account::{AccountCounts, SessionGuard},
    count::{Count, Moment},
    family::Form,
    reading::{AccountReading, Delivered, Reading},
    serving::{ConnectionCounts, ConnectionGuard, ServingCounts},
    words::{
        AttemptOutcome, CommandPurpose, CommandResult, ConnectionEnd, Dropped, ReloadOutcome, RotationEnd,
        RotationTrigger, SessionEnd, State, StreamStart, Word,
    },
};
use self::{accounts::Accounts, count::ByWord, family::Sheet};

/// Configured accounts that have a label of their own: those that were there first.
pub const ACCOUNTS_SHOWN: usize = 500;

/// Reads what is, when somebody scrapes.
type Source = Box<dyn Fn(&mut Reading) + Send + Sync>;

/// All metrics of one gateway.
pub struct Metrics {
    started: SystemTime,
    accounts: Mutex<Accounts>,
    serving: Arc<ServingCounts>,
    reloads: ByWord,
    /// The last attempt to reload went well; so it is before the first.
    reload_is_good: AtomicBool,
    reloaded: Moment,
    lines_suppressed: Arc<Count>,
    sources: RwLock<Vec<Source>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let lines_suppressed = Arc::<Count>::default();
        let metrics = Self {
            started: SystemTime::now(),
            accounts: Mutex::new(Accounts::new(ACCOUNTS_SHOWN, Arc::clone(&lines_suppressed))),
            serving: Arc::default(),
            reloads: ByWord::of::<ReloadOutcome>(),
            reload_is_good: true.into(),
            reloaded: Moment::default(),
            lines_suppressed,
            sources: RwLock::default(),
        };
        // It runs with a configuration that was good.
        metrics.reloaded.set(metrics.started);
        metrics
    }

    /// What is counted for a configured account. The same for each who asks, for as long as somebody holds it or the account
    /// is read of ([`Reading`]): nothing is said of one that was removed.
    pub fn account(&self, id: AccountId) -> Arc<AccountCounts> {
        self.accounts.lock().get(id)
    }

    /// What is counted on the consumers' side.
    pub fn serving(&self) -> &Arc<ServingCounts> {
        &self.serving
    }

    /// The configuration was loaded anew, or could not be.
    pub fn reloaded(&self, outcome: ReloadOutcome, now: SystemTime) {
        self.reloads.hit(outcome);
        let good = outcome != ReloadOutcome::Rejected;
        self.reload_is_good.store(good, Ordering::Relaxed);
        if good {
            self.reloaded.set(now);
        }
    }

    /// Counts lines of log that are held back because the same was said a moment before.
    pub fn lines_suppressed(&self) -> Arc<Count> {
        Arc::clone(&self.lines_suppressed)
    }

    /// Whatever is read at a scrape is read by this too. It must not wait for anything but short locks.
    pub fn read_from(&self, source: impl Fn(&mut Reading) + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    /// All of them as text. Takes milliseconds where there are many accounts: not for a thread that serves streams.
    pub fn expose(&self, form: Form) -> String {
        let mut reading = Reading::default();
        for source in self.sources.read().iter() {
            source(&mut reading);
        }
        let mut sheet = Sheet::new(form);
        self.write_process(&mut sheet, &reading);
        let (accounts, delivered) =
            (std::mem::take(&mut reading.accounts), std::mem::take(&mut reading.delivered));
        self.accounts.lock().read(accounts, delivered).write(&mut sheet);
        self.serving.write(&mut sheet, &reading);
        sheet.finish()
    }

    /// What is neither of an account nor of consumers.
    fn write_process(&self, sheet: &mut Sheet, reading: &Reading) {
        sheet.one(&catalogue::BUILD, [env!("CARGO_PKG_VERSION")], true);
        sheet.one(&catalogue::DRAINING, [], reading.draining);
        sheet.words(&catalogue::RELOADS, &self.reloads);
        sheet.one(&catalogue::RELOAD_SUCCESSFUL, [], self.reload_is_good.load(Ordering::Relaxed));
        sheet.maybe(&catalogue::RELOADED, self.reloaded.get());
        sheet.one(&catalogue::LINES_SUPPRESSED, [], self.lines_suppressed.get());
        process::write(sheet, self.started);
    }
}
