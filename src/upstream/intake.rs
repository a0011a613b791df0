//! Where an account's sessions hand over what they bring, in the order in which they bring it.
//!
//! Control records pass here too, so that a confirmation stands in the log before the first event that it lets through. All
//! sessions of an upstream account share one intake: during a rotation there are two of them, and an event that both bring
//! is one event.

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
    fn pour(self) -> impl FnMut(Fate<Arrived>) + use<'a> {
        move |fate| match fate {
            Fate::New((account, event)) => {
                if let Some(served) = self.served.get(&account) {
                    match served.log.append(event) {
                        true => self.counts.event_appended(),
                        false => self.counts.event_dropped(Dropped::Unwanted),
                    }
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
        let (dedupe, deliver) = inner.pour();
        dedupe.answered(session, sent, deliver);
    }

    /// The same, of a request that was sent when the session that takes its place had been bound for a while.
    pub fn marked(&self, session: SessionId, sent: Instant) {
        self.inner.lock().dedupe.marked(session, sent);
    }

    /// Whether events wait for an answer of the older one of two sessions. Asked now and then while there are two.
    pub fn is_waiting(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let (dedupe, deliver) = inner.pour();
        dedupe.is_waiting(now, deliver)
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
        let (dedupe, deliver) = inner.pour();
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
        let (dedupe, deliver) = self.pour();
        dedupe.offer(identity, source, frame.data, now, event, deliver);
    }

    /// What comes out of the de-duplicator, and goes into the logs.
    fn pour(&mut self) -> (&mut Deduplicator<Arrived>, impl FnMut(Fate<Arrived>)) {
        let Self { dedupe, served, counts, duplicates, .. } = self;
        (dedupe, Outlet { served, counts, duplicates }.pour())
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

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use crate::{binding::encoding, upstream::frame::Incoming};

    use super::*;

    /// What was appended, in order.
    #[derive(Debug, Clone)]
    #[allow(clippy::large_enum_variant)]
    pub(crate) enum Entry {
        Event(IncomingEvent),
        Control(Control),
    }

    /// A log that is only looked at.
    #[derive(Default)]
    pub(crate) struct FakeLog(pub Mutex<Vec<Entry>>, pub Mutex<BTreeMap<Kind, SystemTime>>);

    impl Log for FakeLog {
        fn append(&self, event: IncomingEvent) -> bool {
            self.0.lock().push(Entry::Event(event));
            true
        }

        fn record(&self, control: Control) {
            self.0.lock().push(Entry::Control(control));
        }

        fn proven(&self, kind: Kind, at: SystemTime) {
            self.1.lock().insert(kind, at);
        }
    }

    impl FakeLog {
        pub(crate) fn events(&self) -> Vec<IncomingEvent> {
            let event = |entry: &Entry| match entry {
                Entry::Event(event) => Some(event.clone()),
                Entry::Control(_) => None,
            };
            self.0.lock().iter().filter_map(event).collect()
        }

        pub(crate) fn controls(&self) -> Vec<Control> {
            let control = |entry: &Entry| match entry {
                Entry::Control(control) => Some(control.clone()),
                Entry::Event(_) => None,
            };
            self.0.lock().iter().filter_map(control).collect()
        }
    }

    pub(crate) const ACCOUNT: &str = "account0000000000000000000000002";

    pub(crate) fn intake() -> (Arc<FakeLog>, Intake) {
        let log = Arc::new(FakeLog::default());
        let settings = config::Upstream::default();
        let intake = Intake::new(ACCOUNT.parse().unwrap(), log.clone(), &settings, Arc::default());
        (log, intake)
    }

    fn bring(intake: &Intake, routing_key: &str, data: &str) {
        let text = format!(
            r#"{{"action":"event","subscribed_key":"s","subscription_key":"t","name":"n","routing_key":"{routing_key}","data":{data}}}"#
        );
        let Incoming::Event(frame) = Incoming::parse(&text) else { panic!("{text}") };
        let now = Instant::now();
        intake.event(Opened { id: SessionId(1), at: now }, &frame, now);
    }

    #[test]
    fn events_of_others_are_left_out() {
        let (log, intake) = intake();
        bring(&intake, &format!("call.{ACCOUNT}.CHANNEL_CREATE.a%2Eb"), r#"{"msg_id":"1"}"#);
        bring(&intake, "call.account0000000000000000000000003.CHANNEL_CREATE.a", r#"{"msg_id":"2"}"#);
        bring(&intake, "nonsense", r#"{"msg_id":"3"}"#);
        let events = log.events();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].call_id(), "a.b");
        assert_eq!(events[0].key(), "call.CHANNEL_CREATE.a%2Eb");
    }

    #[test]
    fn presence_belongs_to_the_realm() {
        let (log, intake) = intake();
        bring(&intake, "dialog.acme%2Eexample%2Ecom.abc1", r#"{"msg_id":"1"}"#);
        assert_eq!(log.events().len(), 1, "the realm is not known yet");
        intake.set_realm(ACCOUNT.parse().unwrap(), "Acme.example.com");
        bring(&intake, "dialog.acme%2Eexample%2Ecom.abc1", r#"{"msg_id":"2"}"#);
        bring(&intake, "dialog.other%2Eexample%2Ecom.abc1", r#"{"msg_id":"3"}"#);
        assert_eq!(log.events().len(), 2);
    }

    #[test]
    fn the_same_state_is_said_once() {
        let (log, intake) = intake();
        let change = |detail: &str, life| UpstreamChange {
            state: hub::UpstreamState::Down,
            flavour: None,
            last_life: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(life)),
            detail: detail.into(),
        };
        intake.say(change("refused", 1));
        intake.say(change("refused", 2));
        intake.say(change("silent", 3));
        assert_eq!(log.controls().len(), 2);
    }

    /// An account of a generated tree: 2 to 9.
    fn id(number: usize) -> AccountId {
        format!("account000000000000000000000000{number}").parse().unwrap()
    }

    /// An event of each kind that names its account, and one of each that names its realm.
    fn routing_key(kind: usize, account: usize, realm: &str) -> String {
        let id = id(account);
        let database =
            format!("account%2F{}%2F{}%2F{}", &id.as_str()[..2], &id.as_str()[2..4], &id.as_str()[4..]);
        let realm = encoding::encode(realm);
        match kind {
            0 => format!("call.{id}.CHANNEL_CREATE.a%2Eb"),
            1 => format!("conference.event.add-member.{id}.conf1.a%2Eb"),
            2 => format!("fax.status.{id}.f1"),
            3 => format!("doc_created.{database}.user.u1"),
            4 => format!("doc_edited.{database}-202611.mailbox_message.m1"),
            5 => format!("pivot.stream.start.{id}.a%2Eb"),
            6 => format!("dialog.{realm}.a%2Eb"),
            7 => format!("mwi_updates.{realm}.1001"),
            _ => format!("update.{realm}.a%2Eb"),
        }
    }

    /// The case of letters means nothing in a realm.
    fn in_some_case(realm: &str, seed: u8) -> String {
        let flip = |(at, letter): (usize, char)| match (at + usize::from(seed)) % 3 {
            0 => letter.to_ascii_uppercase(),
            _ => letter,
        };
        realm.char_indices().map(flip).collect()
    }

    proptest! {
        /// Whatever is served over one session, and however that changes: an event is in the log of its own account, and in
        /// no other; where its account or its realm is not served, or the realm is of two, it is in none, and counted.
        #[test]
        fn an_event_is_in_the_log_of_its_own_account_alone(
            realms in prop::collection::vec(0u8..7, 8),
            own_realm_known in any::<bool>(),
            served in prop::collection::vec(any::<bool>(), 8),
            events in prop::collection::vec((0usize..9, 0usize..8, any::<u8>()), 1..60),
            change in (0usize..60, prop::collection::vec(any::<bool>(), 8)),
        ) {
            let settings = config::Upstream::default();
            let intake = Intake::new(id(2), Arc::new(FakeLog::default()), &settings, Arc::default());
            let own = Arc::new(FakeLog::default());
            intake.inner.lock().served.get_mut(&id(2)).unwrap().log = own.clone();
            // Nobody's session is without a realm but the own one's, before Crossbar tells.
            let realm_of = |account: usize| format!("r{}.example.com", realms[account]);
            if own_realm_known {
                intake.set_realm(id(2), &in_some_case(&realm_of(0), 1));
            }
            let mut logs: BTreeMap<usize, Arc<FakeLog>> = BTreeMap::from([(0, own)]);
            let mut expected: BTreeMap<usize, Vec<String>> = BTreeMap::new();
            let (mut nobodys, mut is_alone) = (0, true);
            let mut now_served: Vec<bool> = vec![true; 8];
            for (at, (kind, account, seed)) in events.iter().copied().enumerate() {
                if at == 0 || at == change.0 {
                    now_served = if at == change.0 { change.1.clone() } else { served.clone() };
                    now_served[0] = true;
                    intake.serve_only(|account| (1..8).any(|n| now_served[n] && id(n + 2) == *account));
                    for other in (1..8).filter(|n| now_served[*n]) {
                        let log = logs.entry(other).or_default();
                        intake.serve(id(other + 2), log.clone());
                        intake.set_realm(id(other + 2), &in_some_case(&realm_of(other), 2));
                        is_alone = false;
                    }
                }
                let key = routing_key(kind, account + 2, &in_some_case(&realm_of(account), seed));
                bring(&intake, &key, &format!(r#"{{"msg_id":"{at}"}}"#));
                let known = |n: &usize| now_served[*n] && (*n > 0 || own_realm_known);
                let owner = if kind < 6 {
                    now_served[account].then_some(account)
                } else if is_alone && !own_realm_known {
                    Some(0)
                } else {
                    let same: Vec<usize> =
                        (0..8).filter(known).filter(|n| realms[*n] == realms[account]).collect();
                    (same.len() == 1).then(|| same[0])
                };
                match owner {
                    Some(owner) => expected.entry(owner).or_default().push(at.to_string()),
                    None => nobodys += 1,
                }
            }
            for (account, log) in logs {
                let brought: Vec<String> = log.events().into_iter().map(|event| event.message_id().to_owned()).collect();
                prop_assert_eq!(brought, expected.remove(&account).unwrap_or_default(), "account {}", account);
            }
            prop_assert!(expected.is_empty(), "{:?}", expected);
            prop_assert_eq!(intake.counts().events_dropped(Dropped::Unattributed), nobodys);
        }
    }

    #[test]
    fn an_event_without_an_account_goes_to_all_that_may_have_asked_for_it() {
        let (own, intake) = intake();
        let other = Arc::new(FakeLog::default());
        intake.serve(id(4), other.clone());
        bring(&intake, "conference.command.conf1", r#"{"msg_id":"1"}"#);
        assert_eq!((own.events().len(), other.events().len()), (1, 1));
    }

    #[test]
    fn a_descendant_that_comes_late_learns_how_the_upstream_stands() {
        let (_, intake) = intake();
        let change = UpstreamChange {
            state: hub::UpstreamState::Live,
            flavour: None,
            last_life: None,
            detail: "all is well".into(),
        };
        intake.say(change.clone());
        let other = Arc::new(FakeLog::default());
        intake.serve(id(4), other.clone());
        intake.serve(id(4), other.clone());
        let lost = |intake: &Intake| {
            let end = ledger::End::Lost {
                reason: hub::GapReason::UpstreamDisconnected,
                since: SystemTime::UNIX_EPOCH,
            };
            intake.book(|ledger| ledger.ended(SessionId(1), end));
        };
        lost(&intake);
        let controls = other.controls();
        assert_eq!(controls.len(), 2, "{controls:?}");
        assert_eq!(controls[0], Control::Upstream(change));
        intake.serve_only(|_| false);
        lost(&intake);
        assert_eq!(other.controls().len(), 2, "not served any more");
    }
}
