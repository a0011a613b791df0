//! Tests of the hub as its two sides see it: upstream appends, consumers read.

mod gaps;
mod interest;
mod live;
mod memory;
mod progress;
mod properties;
mod replay;
mod resuming;
mod roster;

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use bytes::{Buf, Bytes};
use prost::Message as _;

use super::{
    Account, Control, EventFilter, EventTexts, GapReason, Hub, IncomingEvent, Item, LostBindings,
    OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start, SubscribeSpec, Subscription, UpstreamChange,
    UpstreamState,
};
use crate::{
    binding::{AccountId, Binding, EventKey, OptIn, UpstreamBinding},
    clock::{TokioClock, WallClock},
    config, proto,
};

/// What the wall clock shows when a test begins.
fn day() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn settings() -> config::Hub {
    config::Hub { confirm_wait: Duration::ZERO, linger: Duration::from_secs(60), ..config::Hub::default() }
}

/// A hub with one account, under a paused clock.
#[derive(Clone)]
struct Bench {
    hub: Arc<Hub>,
    account: Arc<Account>,
    clock: Arc<TokioClock>,
}

impl Bench {
    fn new(settings: config::Hub) -> Self {
        Self::with_always(settings, &[])
    }

    fn with_always(settings: config::Hub, always: &[&str]) -> Self {
        let clock = Arc::new(TokioClock::starting_at(day()));
        let mut epoch = 0xe0;
        let hub = Hub::new(settings, clock.clone(), move || {
            epoch += 1;
            epoch
        });
        let account = hub.add(account_id(), account_id(), always.iter().map(|text| binding(text)).collect());
        Self { hub: Arc::new(hub), account, clock }
    }

    /// The same hub, and another account.
    fn beside(&self, number: u8) -> Self {
        let id: AccountId = format!("{number:032x}").parse().expect("an account id");
        Self { account: self.hub.add(id, id, Vec::new()), ..self.clone() }
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn confirm(&self, text: &str) -> u64 {
        self.account.record(Control::Confirmed { binding: upstream(text) }).0
    }

    fn lose_all(&self, since: SystemTime) -> u64 {
        let reason = GapReason::UpstreamDisconnected;
        self.account.record(Control::Lost { bindings: LostBindings::All, reason, since }).0
    }

    fn state(&self, state: UpstreamState) -> u64 {
        let change = UpstreamChange { state, flavour: None, last_life: None, detail: "test".into() };
        self.account.record(Control::Upstream(change)).0
    }

    fn call(&self, name: &str, call_id: &str) -> Option<u64> {
        self.account.append(call(name, call_id)).map(|sequence| sequence.0)
    }

    async fn subscribe(&self, bindings: &[&str]) -> Subscription {
        self.account.subscribe(spec(bindings)).await.expect("a subscription")
    }

    async fn replay(&self, bindings: &[&str], after: u64) -> Subscription {
        let cursor = self.account.cursor(super::Sequence(after));
        let spec = SubscribeSpec { start: Start::After(cursor), ..spec(bindings) };
        self.account.subscribe(spec).await.expect("a subscription")
    }
}

fn account_id() -> AccountId {
    "0123456789abcdef0123456789abcdef".parse().expect("an account id")
}

fn binding(text: &str) -> Binding {
    Binding::parse(text, &OptIn::default()).expect("a binding")
}

fn upstream(text: &str) -> UpstreamBinding {
    UpstreamBinding::parse(text).expect("an upstream binding")
}

fn spec(bindings: &[&str]) -> SubscribeSpec {
    SubscribeSpec {
        bindings: bindings.iter().map(|text| binding(text)).collect(),
        filter: EventFilter::default(),
        format: PayloadFormat::Json,
        start: Start::Live,
        miss_policy: ReplayMissPolicy::Fail,
        overflow_policy: OverflowPolicy::Disconnect,
        heartbeat_interval: Duration::from_secs(15),
        require_all_bindings: false,
    }
}

fn event(routing_key: &str, data: &str) -> IncomingEvent {
    let key = EventKey::from_routing_key(routing_key).expect("a routing key");
    let call_id = key.call_id().unwrap_or_default();
    let texts = EventTexts { name: key.name(), routing_key, message_id: "m", call_id: &call_id, data };
    IncomingEvent::new(&key, Some(day()), texts)
}

pub(super) fn call(name: &str, call_id: &str) -> IncomingEvent {
    event(&format!("call.{}.{name}.{call_id}", account_id()), &format!(r#"{{"call_id":"{call_id}","n":7}}"#))
}

/// Runs a test that is not asynchronous itself, under a paused clock.
fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

/// An item, as the tests look at it: events one by one.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Event(Box<proto::Event>),
    Gap(super::Gap),
    Upstream(UpstreamState, u64, Vec<super::BindingReport>),
    Heartbeat(u64),
    End(super::EndReason),
}

impl Seen {
    /// The sequence of an event.
    fn sequence(&self) -> Option<u64> {
        match self {
            Seen::Event(event) => event.cursor.as_ref().map(|cursor| cursor.sequence),
            _ => None,
        }
    }
}

/// Takes frames apart, strictly.
fn events(mut frames: Bytes) -> Vec<proto::Event> {
    let mut events = Vec::new();
    while frames.has_remaining() {
        assert_eq!(frames.get_u8(), 0, "not compressed");
        let length = frames.get_u32() as usize;
        let message = proto::SubscribeResponse::decode(frames.split_to(length)).expect("a message");
        match message.kind {
            Some(proto::subscribe_response::Kind::Event(event)) => events.push(event),
            other => panic!("not an event: {other:?}"),
        }
    }
    events
}

fn seen(item: Item) -> Vec<Seen> {
    match item {
        Item::Events { frames, count, position } => {
            let events = events(frames);
            assert_eq!(events.len(), count as usize);
            let last = events.last().and_then(|event| event.cursor.as_ref()).map(|cursor| cursor.sequence);
            assert!(last <= Some(position.0), "the position is behind its events");
            events.into_iter().map(|event| Seen::Event(Box::new(event))).collect()
        }
        Item::Gap(gap) => {
            assert!(gap.id > 0, "every gap has an id: {gap:?}");
            vec![Seen::Gap(gap)]
        }
        Item::Upstream { change, position, bindings, .. } => {
            vec![Seen::Upstream(change.state, position.0, bindings)]
        }
        Item::Heartbeat { position } => vec![Seen::Heartbeat(position.0)],
        Item::End(reason) => vec![Seen::End(reason)],
    }
}

/// What a subscription has to say now, without waiting.
fn drain(subscription: &mut Subscription) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    // A long read of the log gives way now and then.
    let mut quiet = 0;
    while quiet < 3 {
        match subscription.poll_next(&mut cx) {
            Poll::Ready(Some(item)) => {
                quiet = 0;
                all.extend(seen(item));
            }
            Poll::Ready(None) => break,
            Poll::Pending => quiet += 1,
        }
    }
    all
}

/// The sequences of the events that a subscription has to say now.
fn drain_events(subscription: &mut Subscription) -> Vec<u64> {
    drain(subscription).iter().filter_map(Seen::sequence).collect()
}
