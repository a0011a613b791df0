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
        let end =
            ledger::End::Lost { reason: hub::GapReason::UpstreamDisconnected, since: SystemTime::UNIX_EPOCH };
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
