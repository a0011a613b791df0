//! What one event costs among many views of the same binding, each of which follows a call of its own.

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use hawking::{
    binding::{AccountId, Binding, EventKey, OptIn},
    clock::SystemClock,
    config,
    hub::{
        Account, EventFilter, EventTexts, Hub, IncomingEvent, OverflowPolicy, PayloadFormat,
        ReplayMissPolicy, Start, SubscribeSpec, Subscription,
    },
};

use crate::source::frames::{ACCOUNT, BINDING, Frames};

/// An account with views, and events each of which belongs to one of them.
pub struct Crowd {
    /// The account's janitor is a task.
    runtime: tokio::runtime::Runtime,
    account: Arc<Account>,
    readers: Vec<Subscription>,
    data: String,
}

impl Crowd {
    pub fn new(views: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let id: AccountId = ACCOUNT.parse()?;
        let settings = config::Hub { confirm_wait: Duration::ZERO, ..config::Hub::default() };
        let account = Hub::new(settings, Arc::new(SystemClock), || 1).add(id, id, Vec::new());
        let data = String::from_utf8(Frames::new().data(1, 0))?;
        let mut crowd = Self { runtime, account, readers: Vec::new(), data };
        for number in 0..views {
            let filter = EventFilter { call_ids: vec![call_id(number)], ..EventFilter::default() };
            let spec = SubscribeSpec {
                bindings: vec![Binding::parse(BINDING, &OptIn::default())?],
                filter,
                format: PayloadFormat::Json,
                start: Start::Live,
                miss_policy: ReplayMissPolicy::Fail,
                overflow_policy: OverflowPolicy::Skip,
                heartbeat_interval: Duration::from_secs(3600),
                require_all_bindings: false,
            };
            crowd.readers.push(crowd.runtime.block_on(crowd.account.subscribe(spec))?);
        }
        // The first round makes what the others find made.
        let all = crowd.events(views)?;
        crowd.append(all)?;
        Ok(crowd)
    }

    /// Events for one view after the other; each consumer waits for its own.
    pub fn events(&mut self, count: usize) -> Result<Vec<IncomingEvent>> {
        let _entered = self.runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        for reader in &mut self.readers {
            while reader.poll_next(&mut cx).is_ready() {}
        }
        (0..count).map(|number| event(&call_id(number % self.readers.len()), &self.data)).collect()
    }

    pub fn append(&self, events: Vec<IncomingEvent>) -> Result<()> {
        for event in events {
            ensure!(self.account.append(event).is_some(), "an event is wanted by nobody");
        }
        Ok(())
    }
}

fn call_id(number: usize) -> String {
    format!("{number:06}-5f2c-4b1e-9d3a@192.0.2.16")
}

fn event(call_id: &str, data: &str) -> Result<IncomingEvent> {
    let routing_key =
        format!("call.{ACCOUNT}.CHANNEL_CREATE.{}", call_id.replace('.', "%2E").replace('@', "%40"));
    let key = EventKey::from_routing_key(&routing_key);
    let key = key.ok_or_else(|| anyhow::anyhow!("{routing_key} is no routing key"))?;
    let texts = EventTexts { name: key.name(), routing_key: &routing_key, message_id: "m", call_id, data };
    Ok(IncomingEvent::new(&key, Some(SystemTime::UNIX_EPOCH), texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_belongs_to_one_view() {
        let mut crowd = Crowd::new(3).unwrap();
        let events = crowd.events(4).unwrap();
        crowd.append(events).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let items = crowd.readers.iter_mut().map(|reader| match reader.poll_next(&mut cx) {
            std::task::Poll::Ready(Some(hawking::hub::Item::Events { count, .. })) => count,
            other => panic!("{other:?}"),
        });
        assert_eq!(items.collect::<Vec<_>>(), [2, 1, 1]);
    }
}
