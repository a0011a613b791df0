//! What an event costs on its way in, in counts that are the same on every machine.

use tokio::time::Instant;

use crate::{
    binding::{Binding, OptIn},
    clock::SystemClock,
    config,
    hub::Hub,
    upstream::{
        dedupe::SessionId,
        frame::Incoming,
        intake::{Intake, Opened},
    },
};

use super::ACCOUNT;

/// The place in key space, all texts in one piece, and the record.
const ALLOCATIONS: u64 = 3;

/// From the text of a frame to the record in the log, when the log is full and an event takes the place of another.
#[test]
fn an_event_allocates_as_much_as_is_kept_and_its_key() {
    const EVENTS: usize = 1000;
    let id = ACCOUNT.parse().unwrap();
    let settings = config::Hub { log_records: 500, ..config::Hub::default() };
    let hub = Hub::new(settings, std::sync::Arc::new(SystemClock), || 1);
    let account = hub.add(id, id, vec![Binding::parse("call.*.*", &OptIn::default()).unwrap()]);
    let settings = config::Upstream { dedupe_events: 500, ..config::Upstream::default() };
    let intake = Intake::new(id, account.clone(), &settings, Default::default());
    let opened = Opened { id: SessionId(1), at: Instant::now() };

    let mut frames = (0..).map(|number| {
        format!(
            r#"{{"action":"event","subscribed_key":"call.*.*","subscription_key":"call.{ACCOUNT}.*.*","name":"CHANNEL_CREATE","routing_key":"call.{ACCOUNT}.CHANNEL_CREATE.a%2Eb{number}","data":{{"call_id":"a.b{number}","timestamp":63899123456,"msg_id":"m{number}","filler":"{number:0500}"}}}}"#
        )
    });
    let mut bring = |count: usize| {
        let frames: Vec<String> = frames.by_ref().take(count).collect();
        allocation_counter::measure(|| {
            for text in &frames {
                let Incoming::Event(frame) = Incoming::parse(text) else { panic!("{text}") };
                intake.event(opened, &frame, Instant::now());
            }
        })
    };
    bring(10 * EVENTS);
    let info = bring(EVENTS);
    assert_eq!(account.status().window.newest.0, 11 * EVENTS as u64, "all are new");
    println!("{} allocations for {EVENTS} events", info.count_total);
    // Tables that grow, now and then, are not an event's.
    assert_eq!(info.count_total / EVENTS as u64, ALLOCATIONS, "{}", info.count_total);
}
