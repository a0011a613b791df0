//! What is read when somebody scrapes, from where it is kept.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    time::{Duration, SystemTime},
};

use crate::binding::{AccountId, Flavour, Kind};

use super::words::{State, Word};

/// All that is read at one scrape.
#[derive(Debug, Default)]
pub struct Reading {
    /// Whether it drains.
    pub draining: bool,
    /// The configured accounts, each with its descendants.
    pub accounts: BTreeMap<AccountId, AccountReading>,
    /// What all logs together may take.
    pub log_limit: Option<u64>,
    /// Bytes that streams hold and no log.
    pub held_bytes: Option<u64>,
    /// Records that are no longer in their logs, by why.
    pub evictions: Vec<(&'static str, u64)>,
    /// What was encoded, by what it is.
    pub encodes: Vec<(&'static str, u64)>,
    /// Open streams that are behind by at least so many events as [`BEHIND`] has at the same place.
    pub(super) behind: [u64; BEHIND.len()],
    /// What streams were given since the last time that somebody read, by the account whose session served them.
    pub delivered: BTreeMap<AccountId, Delivered>,
}

/// What streams were given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Events that were handed to connections.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an open stream's lag is compared with, as number and as label.
pub(super) const BEHIND: [(u64, &str); 4] = [(1, "1"), (100, "100"), (1000, "1000"), (10_000, "10000")];

impl AddAssign for Delivered {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.bytes += more.bytes;
    }
}

impl Reading {
    /// An open stream of a configured account, or of one below it, is so many events behind.
    pub fn lags(&mut self, account: &AccountId, lag: u64) {
        for (count, (bound, _)) in self.behind.iter_mut().zip(BEHIND) {
            *count += u64::from(lag >= bound);
        }
        if let Some(account) = self.accounts.get_mut(account) {
            account.lag = account.lag.max(lag);
        }
    }
}

/// How a configured account stands, its descendants included.
#[derive(Debug, Clone, Default)]
pub struct AccountReading {
    /// How many accounts are in which state: one, unless several are shown together.
    pub(super) states: BTreeMap<&'static str, u64>,
    pub(super) flavour: Option<Flavour>,
    pub(super) proven: BTreeMap<&'static str, SystemTime>,
    /// Active, pending, refused.
    pub(super) bindings: [u64; 3],
    /// How many logs.
    pub logs: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Their records.
    pub log_records: u64,
    pub(super) window: Option<Duration>,
    /// Distinct views.
    pub views: u64,
    /// Open streams.
    pub streams: u64,
    pub(super) lag: u64,
}

impl AccountReading {
    /// How the account's upstream stands.
    pub fn stands(&mut self, state: State, flavour: Option<Flavour>) {
        self.states = BTreeMap::from([(state.as_str(), 1)]);
        self.flavour = flavour;
    }

    /// Bindings of a kind are proven until a time: of several, the last counts, since all come over one session.
    pub fn proven(&mut self, kind: Kind, at: SystemTime) {
        let known = self.proven.entry(kind.as_str()).or_insert(at);
        *known = (*known).max(at);
    }

    /// So many bindings are active, pending, refused.
    pub fn bindings(&mut self, active: u64, pending: u64, refused: u64) {
        for (known, more) in self.bindings.iter_mut().zip([active, pending, refused]) {
            *known += more;
        }
    }

    /// A log that has let go of records reaches back so far.
    pub fn reaches_back(&mut self, window: Duration) {
        self.window = Some(self.window.map_or(window, |known| known.min(window)));
    }

    /// Whether there is a session that brings what is wanted.
    pub(super) fn is_up(&self) -> bool {
        let up = |state: &str| [State::Live, State::Degraded].iter().any(|known| known.as_str() == state);
        !self.states.is_empty() && self.states.iter().all(|(state, count)| up(state) || *count == 0)
    }

    /// Takes another configured account in: of what cannot be added the worse is shown.
    pub(super) fn absorb(&mut self, other: Self) {
        for (state, count) in other.states {
            *self.states.entry(state).or_default() += count;
        }
        self.flavour = None;
        for (kind, at) in other.proven {
            let known = self.proven.entry(kind).or_insert(at);
            *known = (*known).min(at);
        }
        let [active, pending, refused] = other.bindings;
        self.bindings(active, pending, refused);
        self.logs += other.logs;
        self.log_bytes += other.log_bytes;
        self.log_records += other.log_records;
        if let Some(window) = other.window {
            self.reaches_back(window);
        }
        self.views += other.views;
        self.streams += other.streams;
        self.lag = self.lag.max(other.lag);
    }
}

/// The earlier of two times, where there are two.
pub(super) fn older(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    one.into_iter().chain(other).min()
}
