//! What a real blackhole sent, as a consumer gets it. The frames go through the simulator exactly as they were recorded.

use std::{collections::BTreeSet, fs};

use hawking::{
    proto::{self, EventCategory, PayloadFormat, event::Payload},
    sim::Event,
};

use super::{
    harness::*,
    whole::{SentEvent, Whole},
};

/// The event frames of a recording, in order; with `once`, each event only once, however many frames it came in.
fn recorded(file: &str, once: bool) -> Vec<SentEvent> {
    #[derive(serde::Deserialize)]
    struct Line {
        dir: String,
        text: String,
    }
    let path = format!("{}/tests/recordings/master/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let lines = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = lines.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    let received = lines.filter(|line| line.dir == "recv");
    let events = received.filter_map(|line| SentEvent::read(&line.text));
    let mut seen = BTreeSet::new();
    events
        .filter(|event| {
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            !once || seen.insert((event.routing_key.clone(), data.to_string()))
        })
        .collect()
}

/// Sends the frames to a consumer of `bindings`, and gives what it gets as JSON and TYPED: `count` events, and no more.
async fn replay(frames: &[SentEvent], bindings: &[&str], count: usize) -> Vec<(proto::Event, proto::Event)> {
    let whole = Whole::start().await;
    let bindings: Vec<_> = bindings.iter().copied().chain(["call.PARK_RETRIEVED.last"]).collect();
    let mut json = whole.subscribe(request(&bindings)).await;
    let as_typed =
        proto::SubscribeRequest { payload_format: PayloadFormat::Typed.into(), ..request(&bindings) };
    let mut typed = whole.subscribe(as_typed).await;
    for frame in frames {
        assert_eq!(whole.sim.inject_frame(&frame.frame), 1, "one session");
    }
    let events = json.events(count).await.into_iter().zip(typed.events(count).await).collect();

    // What is published now comes next: so there was nothing more.
    whole.publish(&Event::call(whole.account(), "PARK_RETRIEVED", "last"));
    assert_eq!(json.event().await.call_id, "last");
    assert_eq!(typed.event().await.call_id, "last");
    drop((json, typed));
    whole.stop().await;
    events
}

/// What holds for each event: the payload byte for byte, everything else equal in both formats, cursors that rise.
fn check(frames: &[SentEvent], events: &[(proto::Event, proto::Event)]) {
    let mut last = 0;
    assert_eq!(frames.len(), events.len());
    for (frame, (json, typed)) in frames.iter().zip(events) {
        assert_eq!(json.payload, Some(Payload::JsonPayload(frame.data.clone())), "byte for byte");
        assert_eq!(json.routing_key, frame.routing_key);
        assert_eq!(json.account_id, ACCOUNT);
        assert_eq!(json.message_id, frame.field("msg_id"));
        assert!(json.receive_time.is_some());
        let (json, typed) = (json.clone(), typed.clone());
        assert_eq!(proto::Event { payload: None, ..json.clone() }, proto::Event { payload: None, ..typed });
        let sequence = json.cursor.unwrap().sequence;
        assert!(sequence > last);
        last = sequence;
    }
}

/// Name, category, call id and Unix seconds of each event.
fn told(events: &[(proto::Event, proto::Event)]) -> Vec<(&str, EventCategory, &str, Option<i64>)> {
    let told = events.iter().map(|(event, _)| {
        let time = event.event_time.as_ref().map(|time| time.seconds);
        (&*event.name, event.category(), &*event.call_id, time)
    });
    told.collect()
}

/// R25: three events of one call, as ecallmgr published them.
#[tokio::test]
async fn calls() {
    let frames = &recorded("25-real-call-events", true)[..3];
    let events = replay(frames, &["call.*.*"], 3).await;
    check(frames, &events);
    let call = "at6dmu4ffk97vnlp6qfq";
    assert_eq!(
        told(&events),
        [
            ("CHANNEL_CREATE", EventCategory::Call, call, Some(1_443_672_756)),
            ("CHANNEL_ANSWER", EventCategory::Call, call, Some(1_443_672_757)),
            ("CHANNEL_DESTROY", EventCategory::Call, call, Some(1_443_672_788)),
        ]
    );
    let Some(Payload::Call(destroy)) = &events[2].1.payload else { panic!("{:?}", events[2]) };
    assert_eq!(destroy.hangup_cause, "NORMAL_CLEARING");
    assert_eq!((destroy.duration_seconds, destroy.billing_seconds), (Some(32), Some(31)));
    assert_eq!(destroy.timestamp, Some(63_610_891_988));
    assert!(destroy.remote_sdp.starts_with("v=0"), "{:?}", destroy.remote_sdp);
    assert!(destroy.custom_channel_vars.as_ref().unwrap().fields.contains_key("owner_id"));
}

/// R25 again: the same message, with what the recorder put into it to see what blackhole does with odd values.
#[tokio::test]
async fn odd_values() {
    let frames = &recorded("25-real-call-events", true)[3..];
    assert!(frames[0].data.contains(r#""big":12345678901234567890,"#), "{}", frames[0].data);
    let events = replay(frames, &["call.CHANNEL_CREATE.*"], 1).await;
    check(frames, &events);
    let Some(Payload::Call(call)) = &events[0].1.payload else { panic!("{:?}", events[0]) };
    let rest = &call.additional_fields.as_ref().unwrap().fields;
    let odd: Vec<_> = rest.keys().map(String::as_str).collect();
    assert_eq!(odd, ["big", "empty", "float", "nested", "unicode", "upper_case_mixed", "x odd key"]);
    assert_eq!(rest["unicode"].kind, Some(prost_types::value::Kind::StringValue("é☃😀".into())));
}

/// R16.
#[tokio::test]
async fn conferences() {
    let frames = recorded("16-conference", true);
    let events = replay(&frames, &["conference.event.*.*", "conference.command.conf123"], frames.len()).await;
    check(&frames, &events);
    let told = told(&events);
    assert_eq!(told[0], ("add-member", EventCategory::Conference, "callA", None));
    assert_eq!(told[1], ("del-member", EventCategory::Conference, "a.b@c", None));
    let Some(Payload::Conference(added)) = &events[0].1.payload else { panic!("{:?}", events[0]) };
    assert_eq!(
        (&*added.event, &*added.conference_id, &*added.participant_id),
        ("add-member", "conf123", "1")
    );
    assert_eq!(events[2].0.matched_bindings, ["conference.command.conf123"]);
    assert!(matches!(events[3].1.payload, Some(Payload::Conference(_))));
}

/// R17: the job's status, and its document. `fax.object.X` is another name for `object.X.fax`.
#[tokio::test]
async fn faxes() {
    let frames = recorded("17-fax", true);
    let events = replay(&frames, &["fax.status.*", "fax.object.*"], frames.len()).await;
    check(&frames, &events);
    let told = told(&events);
    assert_eq!((told[0].0, told[0].1), ("status", EventCategory::Fax));
    assert_eq!((told[1].0, told[1].1), ("doc_edited", EventCategory::Object));
    let Some(Payload::Fax(fax)) = &events[0].1.payload else { panic!("{:?}", events[0]) };
    assert_eq!((&*fax.job_id, fax.page, &*fax.stage), ("202611-faxjob1", Some(1), "negociated"));
    let Some(Payload::Object(document)) = &events[1].1.payload else { panic!("{:?}", events[1]) };
    assert_eq!(document.r#type, "fax");
}

/// R18: the account is in these keys by its realm alone, which hawking asks Crossbar for.
#[tokio::test]
async fn presence() {
    let frames = recorded("18-presence", true);
    // The last without its prefix, as blackhole takes it too.
    let events =
        replay(&frames, &["presence.update.*", "presence.dialog.*", "mwi_updates.1001"], frames.len()).await;
    check(&frames, &events);
    let told = told(&events);
    assert_eq!(told[0], ("update", EventCategory::Presence, "abc.1@h", None));
    assert_eq!(told[1], ("dialog", EventCategory::Presence, "abc1", None));
    assert_eq!((told[2].0, told[2].1), ("mwi_updates", EventCategory::Presence));
    let Some(Payload::Presence(dialog)) = &events[1].1.payload else { panic!("{:?}", events[1]) };
    assert_eq!((&*dialog.state, &*dialog.presence_id), ("confirmed", "1001@wefwefwefwef.2600hz.com"));
}

/// R19: three documents that share a msg_id, and one that is deleted. Four events.
#[tokio::test]
async fn objects_that_share_a_message_id() {
    let frames = recorded("19-object", true);
    assert!(frames.iter().all(|frame| frame.field("msg_id") == "o1"));
    let events = replay(&frames, &["object.*.*"], 4).await;
    check(&frames, &events);
    let types: Vec<_> = events
        .iter()
        .map(|(event, typed)| match &typed.payload {
            Some(Payload::Object(object)) => (&*event.name, &*object.r#type, &*object.id),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        types,
        [
            ("doc_created", "user", "u1"),
            ("doc_created", "mailbox_message", "202611-m1"),
            ("doc_created", "cdr", "202611-c1"),
            ("doc_deleted", "user", "u1"),
        ]
    );
    // Gregorian seconds, of the document.
    assert!(events[0].0.event_time.as_ref().unwrap().seconds > 1_790_000_000);
}

/// R24: the same, over the turn of a month.
#[tokio::test]
async fn objects_of_two_months() {
    let frames = recorded("24-month-rollover", true);
    let events = replay(&frames, &["object.doc_created.fax"], 3).await;
    check(&frames, &events);
    assert!(events.iter().all(|(event, _)| event.message_id == "o1"));
}

/// R09: one event in eight frames, under three bindings and sent three times over. One event.
#[tokio::test]
async fn overlapping_bindings() {
    let frames = recorded("09-overlap-duplicates", false);
    assert_eq!(frames.len(), 8);
    let call = "at6dmu4ffk97vnlp6qfq";
    let bindings = ["call.*.*", "call.CHANNEL_CREATE.*", &format!("call.CHANNEL_CREATE.{call}")];
    let events = replay(&frames, &bindings, 1).await;
    check(&frames[..1], &events);
    let mut bindings = bindings.to_vec();
    bindings.sort_unstable();
    assert_eq!(events[0].0.matched_bindings, bindings);
}
