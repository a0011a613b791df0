//! Where an account's sessions hand over what they bring, in the order in which they bring it.
//!
//! Control records pass here too, so that a confirmation stands in the log before the first event that it lets through. All
//! sessions of an upstream account share one intake: during a rotation there are two of them, and an event that both bring
//! is one event.

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    binding::{AccountId, EventKey, Kind, Owner},
    config,
    hub::{self, Control, IncomingEvent, UpstreamChange},
    telemetry::{
        metrics::{AccountCounts, Dropped},
        throttle::Throttle,
    },
};

use super::{
    dedupe::{Deduplicator, Fate, Identity, Rest, SessionId, Source},
    event::convert,
    frame::EventFrame,
    ledger::{self, End, Ledger},
};

/// How often it is said that frames are left out.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Sessions whose duplicates are counted.
const SESSIONS_COUNTED: usize = 4;

/// Where events and control records go: an account of the hub.
pub(crate) trait Log: Send + Sync {
    /// Appends an event, and says whether anybody wants it: if not, it is left out. Never waits.
    fn append(&self, event: IncomingEvent) -> bool;
    /// Appends a control record. Never waits.
    fn record(&self, control: Control);
    /// What stands in it about the upstream, where that can be known.
    fn said(&self) -> Option<UpstreamChange> {
        None
    }
    /// Everything of a kind is proven until `at`. Never waits.
    fn proven(&self, kind: Kind, at: SystemTime);
}

impl Log for hub::Account {
    fn append(&self, event: IncomingEvent) -> bool {
        hub::Account::append(self, event).is_some()
    }

    fn record(&self, control: Control) {
        hub::Account::record(self, control);
    }

    fn said(&self) -> Option<UpstreamChange> {
        Some(self.upstream().0)
    }

    fn proven(&self, kind: Kind, at: SystemTime) {
        hub::Account::proven(self, kind, at);
    }
}

/// The intake of one upstream account.
pub(crate) struct Intake {
    counts: Arc<AccountCounts>,
    /// Nothing is awaited under it.
    inner: Mutex<Inner>,
}

struct Inner {
    own: AccountId,
    counts: Arc<AccountCounts>,
    /// The own account, and the descendants that somebody asked for.
    served: BTreeMap<AccountId, Served>,
    /// Whose a realm is, in lower case; nobody's where two have the same.
    realms: HashMap<String, Option<AccountId>>,
    /// No descendant was ever served: all that comes is the own account's.
    is_alone: bool,
    dedupe: Deduplicator<Arrived>,
    ledger: Ledger,
    /// What was last said of the upstream.
    said: Option<UpstreamChange>,
    /// Frames that were no new event, by the session that brought them; of the last few sessions.
    duplicates: BTreeMap<SessionId, u64>,
    unattributed: Throttle,
    unreadable: Throttle,
}

/// Whose an event is.
enum Owned {
    By(AccountId),
    ByNobody,
    ByAll,
}

struct Served {
    log: Arc<dyn Log>,
    /// Presence events name an account by it. The own one is known after the first login, if Crossbar tells.
    realm: Option<String>,
}

/// An event that has come, and whose it is.
type Arrived = (AccountId, IncomingEvent);

/// Where events go that are known to be new, and where is counted what became of frames.
struct Outlet<'a> {
    served: &'a BTreeMap<AccountId, Served>,
    counts: &'a AccountCounts,
    duplicates: &'a mut BTreeMap<SessionId, u64>,
}

impl<'a> Outlet<'a> {
    fn sink(self) -> impl FnMut(Fate<Arrived>) + use<'a> {
        move |fate| match fate {
            Fate::New((account, event)) => {
                match self.served.get(&account).map(|served| served.log.append(event)) {
                    Some(true) => self.counts.event_appended(),
                    Some(false) => self.counts.event_dropped(Dropped::Unwanted),
                    // It is served no more since this waited.
                    None => self.counts.event_dropped(Dropped::Unattributed),
                }
            }
            Fate::Duplicate(session) => {
                self.counts.event_dropped(Dropped::Duplicate);
                *self.duplicates.entry(session).or_default() += 1;
                // There are two at a time at most; who has ended is not asked for any more.
                while self.duplicates.len() > SESSIONS_COUNTED {
                    self.duplicates.pop_first();
                }
            }
        }
    }
}

/// A session, as the intake needs to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    /// Its number.
    pub id: SessionId,
    /// When it was opened.
    pub at: Instant,
}

impl Intake {
    /// An intake for `own`, which goes to `log`.
    pub fn new(
        own: AccountId,
        log: Arc<dyn Log>,
        settings: &config::Upstream,
        counts: Arc<AccountCounts>,
    ) -> Self {
        let inner = Inner {
            own,
            counts: counts.clone(),
            served: BTreeMap::from([(own, Served { log, realm: None })]),
            realms: HashMap::new(),
            is_alone: true,
            dedupe: Deduplicator::new(settings.dedupe_events, settings.dedupe_window),
            ledger: Ledger::default(),
            said: None,
            duplicates: BTreeMap::new(),
            unattributed: Throttle::every(SAY_EVERY).counted(counts.lines_suppressed()),
            unreadable: Throttle::every(SAY_EVERY).counted(counts.lines_suppressed()),
        };
        Self { counts, inner: Mutex::new(inner) }
    }

    /// Crossbar told the realm of an account.
    pub fn set_realm(&self, account: AccountId, realm: &str) {
        let realm = Some(realm.to_ascii_lowercase()).filter(|realm| !realm.is_empty());
        let mut inner = self.inner.lock();
        if let Some(served) = inner.served.get_mut(&account)
            && served.realm != realm
        {
            served.realm = realm;
            inner.index_realms();
        }
    }

    /// Serves a descendant too, if it is not served already. Its log is told how the upstream stands.
    pub fn serve(&self, account: AccountId, log: Arc<dyn Log>) {
        let mut inner = self.inner.lock();
        if inner.served.contains_key(&account) {
            return;
        }
        if let Some(said) = &inner.said
            && log.said().as_ref() != Some(said)
        {
            log.record(Control::Upstream(said.clone()));
        }
        inner.served.insert(account, Served { log, realm: None });
        inner.is_alone = false;
    }

    /// Serves these descendants only. What still comes for others is nobody's.
    pub fn serve_only(&self, descendants: impl Fn(&AccountId) -> bool) {
        let mut inner = self.inner.lock();
        let (own, before) = (inner.own, inner.served.len());
        inner.served.retain(|account, _| *account == own || descendants(account));
        if inner.served.len() != before {
            inner.index_realms();
        }
    }

    /// How many frames of a session that is open were an event which had come before.
    pub fn duplicates(&self, session: SessionId) -> u64 {
        self.inner.lock().duplicates.get(&session).copied().unwrap_or_default()
    }

    /// What is counted for the account.
    pub fn counts(&self) -> &Arc<AccountCounts> {
        &self.counts
    }

    /// Sessions and bindings that are on record, and what the de-duplicator remembers.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        let (sessions, bindings) = inner.ledger.size();
        (sessions, bindings, inner.dedupe.size())
    }

    /// A session brings an event.
    pub fn event(&self, session: Opened, frame: &EventFrame<'_>, now: Instant) {
        self.counts.event_received();
        let mut inner = self.inner.lock();
        let Some(key) = EventKey::from_routing_key(&frame.routing_key) else {
            return inner.unattributed(now, "its routing key is of no known kind");
        };
        match inner.owner(&key.owner) {
            Owned::By(account) => inner.deliver(account, session, frame, key, now),
            Owned::ByNobody => inner.unattributed(now, "it belongs to no account that is served"),
            Owned::ByAll => {
                let accounts: SmallVec<[AccountId; 1]> = inner.served.keys().copied().collect();
                for account in accounts {
                    inner.deliver(account, session, frame, key.clone(), now);
                }
            }
        }
    }

    /// A session brings something that cannot be read. Only its size is told.
    pub fn unreadable(&self, bytes: usize, now: Instant) {
        self.counts.event_received();
        self.counts.event_dropped(Dropped::Unreadable);
        if let Some(count) = self.inner.lock().unreadable.hit(now) {
            warn!(count, bytes, "upstream sent a frame that cannot be read");
        }
    }

    /// Does something to the ledger, and records what comes of it: under the same lock under which events are appended, so
    /// that a confirmation stands before the first event that it lets through.
    pub fn book(&self, change: impl FnOnce(&mut Ledger) -> Vec<ledger::Entry>) {
        self.inner.lock().book(change);
    }

    /// A session has answered a request that was sent at `sent`: what upstream put on it before that is read.
    pub fn answered(&self, session: SessionId, sent: Instant) {
        let mut inner = self.inner.lock();
        let (dedupe, deliver) = inner.dedupe();
        dedupe.answered(session, sent, deliver);
    }

    /// The same, of a request that was sent when the session that takes its place had been bound for a while.
    pub fn marked(&self, session: SessionId, sent: Instant) {
        self.inner.lock().dedupe.marked(session, sent);
    }

    /// Decides upon events that have waited too long for an answer of the older one of two sessions; whether others still wait.
    /// Called now and then while there are two.
    pub fn decide_overdue(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let (dedupe, deliver) = inner.dedupe();
        dedupe.decide_overdue(now, deliver)
    }

    /// A session has ended, `parted` if upstream's part of that came: what waited for it is decided upon, and what it held is
    /// recorded.
    pub fn ended(&self, session: SessionId, end: End, parted: bool) {
        let rest = match end {
            End::Drained if parted => Rest::Read,
            End::Drained => Rest::Unknown,
            End::Lost { .. } | End::Redundant { .. } => Rest::Lost,
        };
        let mut inner = self.inner.lock();
        let (dedupe, deliver) = inner.dedupe();
        dedupe.ended(session, rest, deliver);
        inner.book(|ledger| ledger.ended(session, end));
    }

    /// Everything of a kind that is held for an account is proven until `at`.
    pub fn proven(&self, account: AccountId, kind: Kind, at: SystemTime) {
        if let Some(served) = self.inner.lock().served.get(&account) {
            served.log.proven(kind, at);
        }
    }

    /// Records how the upstream stands, for all accounts that it serves, unless that was said already.
    pub fn say(&self, change: UpstreamChange) {
        let mut inner = self.inner.lock();
        let known = inner.said.as_ref().is_some_and(|said| {
            (said.state, said.flavour, &said.detail) == (change.state, change.flavour, &change.detail)
        });
        if !known {
            debug!(state = ?change.state, detail = &*change.detail, "the upstream's state changed");
            for served in inner.served.values() {
                served.log.record(Control::Upstream(change.clone()));
            }
            inner.said = Some(change);
        }
    }
}

impl Inner {
    fn owner(&self, owner: &Owner) -> Owned {
        let account = match owner {
            Owner::Account(id) => self.served.contains_key(id).then_some(*id),
            Owner::Realm(realm) => match self.realms.get(&realm.to_ascii_lowercase()) {
                Some(account) => *account,
                // While the own realm is not known, and nobody else was ever served, it can only be the own one.
                None => {
                    let own_is_unknown = self.served.get(&self.own).is_some_and(|own| own.realm.is_none());
                    (self.is_alone && own_is_unknown).then_some(self.own)
                }
            },
            // Only what an operator turned on by name has a key without an account. Each account that asks for it would
            // get all of it on a session of its own; so it does here. (Where nobody wants it, the hub leaves it out.)
            Owner::Unnamed => return Owned::ByAll,
        };
        account.map_or(Owned::ByNobody, Owned::By)
    }

    fn deliver(
        &mut self,
        account: AccountId,
        session: Opened,
        frame: &EventFrame<'_>,
        key: EventKey,
        now: Instant,
    ) {
        let facts = &frame.facts;
        let identity = Identity {
            account,
            routing_key: &frame.routing_key,
            event: facts.event.as_deref().unwrap_or_default(),
            call_id: facts.call_id.as_deref().unwrap_or_default(),
            message_id: facts.message_id.as_deref().unwrap_or_default(),
        };
        let source =
            Source { session: session.id, opened: session.at, subscription_key: &frame.subscription_key };
        let event = || (account, convert(frame, &key));
        let (dedupe, deliver) = self.dedupe();
        dedupe.offer(identity, source, frame.data, now, event, deliver);
    }

    /// The de-duplicator, and where that goes which comes out of it.
    fn dedupe(&mut self) -> (&mut Deduplicator<Arrived>, impl FnMut(Fate<Arrived>)) {
        let Self { dedupe, served, counts, duplicates, .. } = self;
        (dedupe, Outlet { served, counts, duplicates }.sink())
    }

    fn book(&mut self, change: impl FnOnce(&mut Ledger) -> Vec<ledger::Entry>) {
        for entry in change(&mut self.ledger) {
            match entry {
                ledger::Entry::One(account, control) => {
                    if let Some(served) = self.served.get(&account) {
                        self.record(served, control);
                    }
                }
                ledger::Entry::All(control) => {
                    for served in self.served.values() {
                        self.record(served, control.clone());
                    }
                }
            }
        }
    }

    fn record(&self, served: &Served, control: Control) {
        if let Control::Lost { reason, .. } = &control {
            self.counts.gap(*reason);
        }
        served.log.record(control);
    }

    fn index_realms(&mut self) {
        self.realms.clear();
        for (account, served) in &self.served {
            let Some(realm) = &served.realm else { continue };
            let owner = self.realms.entry(realm.clone()).or_insert(Some(*account));
            if *owner != Some(*account) {
                *owner = None;
            }
        }
    }

    fn unattributed(&mut self, now: Instant, why: &'static str) {
        self.counts.event_dropped(Dropped::Unattributed);
        if let Some(count) = self.unattributed.hit(now) {
            debug!(count, why, "an event of upstream is left out");
        }
    }
}
