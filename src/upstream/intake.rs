//! Where an account's sessions hand over what they bring, in the order in which they bring it.
//!
//! Control records pass here too, so that a confirmation stands in the log before the first event that it lets through. All
//! sessions of an upstream account share one intake: during a rotation there are two of them, and an event that both bring
//! is one event.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    binding::{AccountId, EventKey, Owner},
    config,
    hub::{self, Control, GapReason, IncomingEvent, LostBindings, UpstreamChange},
};

use super::{
    dedupe::{Deduplicator, Identity, SessionId, Source},
    event::{PayloadFacts, convert},
    frame::EventFrame,
    throttle::Throttle,
};

/// Where events and control records go: an account of the hub.
pub(crate) trait Log: Send + Sync {
    /// Appends an event. Never waits.
    fn append(&self, event: IncomingEvent);
    /// Appends a control record. Never waits.
    fn record(&self, control: Control);
}

impl Log for hub::Account {
    fn append(&self, event: IncomingEvent) {
        // Where nobody wants it, the hub leaves it out.
        let _ = hub::Account::append(self, event);
    }

    fn record(&self, control: Control) {
        hub::Account::record(self, control);
    }
}

/// The intake of one upstream account.
pub(crate) struct Intake {
    /// Nothing is awaited under it.
    inner: Mutex<Inner>,
}

struct Inner {
    own: AccountId,
    /// The own account; descendants have their place here.
    served: BTreeMap<AccountId, Served>,
    dedupe: Deduplicator,
    /// What was last said of the upstream.
    said: Option<UpstreamChange>,
    unattributed: Throttle,
    unreadable: Throttle,
}

struct Served {
    log: Arc<dyn Log>,
    /// Presence events name an account by it. Known after the first login, if Crossbar tells.
    realm: Option<String>,
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
    pub fn new(own: AccountId, log: Arc<dyn Log>, settings: &config::Upstream) -> Self {
        let inner = Inner {
            own,
            served: BTreeMap::from([(own, Served { log, realm: None })]),
            dedupe: Deduplicator::new(settings.dedupe_events, settings.dedupe_window),
            said: None,
            unattributed: Throttle::default(),
            unreadable: Throttle::default(),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Crossbar told the realm of an account.
    pub fn set_realm(&self, account: AccountId, realm: String) {
        if let Some(served) = self.inner.lock().served.get_mut(&account) {
            served.realm = Some(realm);
        }
    }

    /// A session brings an event.
    pub fn event(&self, session: Opened, frame: &EventFrame<'_>, now: Instant) {
        let mut inner = self.inner.lock();
        let Some(key) = EventKey::from_routing_key(&frame.routing_key) else {
            return inner.unattributed(now, "its routing key is of no known kind");
        };
        let Some(account) = inner.owner(&key.owner) else {
            return inner.unattributed(now, "it belongs to no account that is served");
        };
        let facts = PayloadFacts::read(frame.data.get());
        let identity = Identity {
            account,
            routing_key: &frame.routing_key,
            event: facts.event.as_deref().unwrap_or_default(),
            call_id: facts.call_id.as_deref().unwrap_or_default(),
            message_id: facts.message_id.as_deref().unwrap_or_default(),
        };
        let source =
            Source { session: session.id, opened: session.at, subscription_key: &frame.subscription_key };
        if inner.dedupe.is_new(identity, source, frame.data.get(), now)
            && let Some(served) = inner.served.get(&account)
        {
            served.log.append(convert(frame, key, &facts));
        }
    }

    /// A session brings something that cannot be read. Only its size is told.
    pub fn unreadable(&self, bytes: usize, now: Instant) {
        if let Some(count) = self.inner.lock().unreadable.hit(now) {
            warn!(count, bytes, "upstream sent a frame that cannot be read");
        }
    }

    /// Records something about one account.
    pub fn record(&self, account: AccountId, control: Control) {
        if let Some(served) = self.inner.lock().served.get(&account) {
            served.log.record(control);
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

    /// Records that everything is lost from `since` on.
    pub fn lost(&self, since: SystemTime) {
        for served in self.inner.lock().served.values() {
            served.log.record(Control::Lost {
                bindings: LostBindings::All,
                reason: GapReason::UpstreamDisconnected,
                since,
            });
        }
    }
}

impl Inner {
    /// The served account that an event belongs to.
    fn owner(&self, owner: &Owner) -> Option<AccountId> {
        match owner {
            Owner::Account(id) => self.served.contains_key(id).then_some(*id),
            Owner::Realm(realm) => {
                let by_realm = |served: &Served| {
                    served.realm.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(realm))
                };
                let named = self.served.iter().find(|(_, served)| by_realm(served)).map(|(id, _)| *id);
                // While a realm is not known, presence can only be that of the account it was subscribed for.
                let own_is_unknown = self.served.get(&self.own).is_some_and(|own| own.realm.is_none());
                named.or(own_is_unknown.then_some(self.own))
            }
            // Only what an operator turned on by name has a key without an account.
            Owner::Unnamed => Some(self.own),
        }
    }

    fn unattributed(&mut self, now: Instant, why: &'static str) {
        if let Some(count) = self.unattributed.hit(now) {
            debug!(count, why, "an event of upstream is left out");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use crate::upstream::frame::Incoming;

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
    pub(crate) struct FakeLog(pub Mutex<Vec<Entry>>);

    impl Log for FakeLog {
        fn append(&self, event: IncomingEvent) {
            self.0.lock().push(Entry::Event(event));
        }

        fn record(&self, control: Control) {
            self.0.lock().push(Entry::Control(control));
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
        let intake = Intake::new(ACCOUNT.parse().unwrap(), log.clone(), &config::Upstream::default());
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
        assert_eq!(events[0].call_id, "a.b");
        assert_eq!(events[0].key.key, "call.CHANNEL_CREATE.a%2Eb");
    }

    #[test]
    fn presence_belongs_to_the_realm() {
        let (log, intake) = intake();
        bring(&intake, "dialog.acme%2Eexample%2Ecom.abc1", r#"{"msg_id":"1"}"#);
        assert_eq!(log.events().len(), 1, "the realm is not known yet");
        intake.set_realm(ACCOUNT.parse().unwrap(), "Acme.example.com".into());
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
}
