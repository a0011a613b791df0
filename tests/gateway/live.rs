//! Streams from now on: order, formats, filters, heartbeats.

use std::time::Duration;

use hawking::proto::{self, PayloadFormat, event::Payload, subscribe_response::Kind};
use tonic::Code;

use super::harness::*;

#[tokio::test]
async fn subscribed_comes_first_and_then_events_in_order() {
    let server = Direct::start().await;
    let mut consumer = server.subscribe(request(&["call.CHANNEL_DESTROY.*", "call.CHANNEL_CREATE.*"])).await;

    let subscribed = &consumer.subscribed;
    let told: Vec<_> = subscribed.bindings.iter().map(|of| (&*of.requested, of.state())).collect();
    assert_eq!(
        told,
        [
            ("call.CHANNEL_DESTROY.*", proto::BindingState::Active),
            ("call.CHANNEL_CREATE.*", proto::BindingState::Active),
        ],
        "in the order of the request"
    );
    let start = subscribed.position.clone().unwrap();
    let status = subscribed.upstream_status.clone().unwrap();
    assert_eq!((status.state(), &*status.flavour), (proto::UpstreamState::Live, "k4"));
    assert!(!subscribed.subscription_id.is_empty());

    for index in 0..100 {
        server.call("CHANNEL_CREATE", &format!("call-{index}@10.0.0.1"));
        server.call("CHANNEL_ANSWER", &format!("call-{index}@10.0.0.1"));
    }
    let events = consumer.events(100).await;
    let mut last = start.sequence;
    for (index, event) in events.iter().enumerate() {
        let cursor = event.cursor.clone().unwrap();
        assert_eq!(cursor.epoch, start.epoch);
        assert!(cursor.sequence > last, "{cursor:?} after {last}");
        last = cursor.sequence;
        assert_eq!(event.call_id, format!("call-{index}@10.0.0.1"));
        assert_eq!(event.name, "CHANNEL_CREATE");
        assert_eq!(event.category(), proto::EventCategory::Call);
        assert_eq!(event.account_id, ACCOUNT);
        assert_eq!(event.matched_bindings, ["call.CHANNEL_CREATE.*"]);
        assert!(event.receive_time.is_some());
    }
}

#[tokio::test]
async fn each_format_carries_the_same_event() {
    let server = Direct::start().await;
    let format = |format: PayloadFormat| {
        server.subscribe(proto::SubscribeRequest { payload_format: format.into(), ..request(&["call.*.*"]) })
    };
    let mut json = format(PayloadFormat::Json).await;
    let mut typed = format(PayloadFormat::Typed).await;
    let mut structure = format(PayloadFormat::Struct).await;
    let mut none = format(PayloadFormat::None).await;
    let mut default = server.subscribe(request(&["call.*.*"])).await;

    let data =
        r#"{ "call_id":"a.b@c","event_name":"CHANNEL_DESTROY", "duration_seconds":"32", "odd":{"x":[1]} }"#;
    server.publish(&format!("call.{ACCOUNT}.CHANNEL_DESTROY.a%2Eb%40c"), data);

    let as_json = json.event().await;
    assert_eq!(as_json.payload, Some(Payload::JsonPayload(data.into())), "byte for byte");
    assert_eq!(default.event().await, as_json);

    let as_typed = typed.event().await;
    let Some(Payload::Call(call)) = &as_typed.payload else { panic!("{as_typed:?}") };
    assert_eq!((&*call.call_id, call.duration_seconds), ("a.b@c", Some(32)));
    assert!(call.additional_fields.as_ref().unwrap().fields.contains_key("odd"));

    let as_struct = structure.event().await;
    let Some(Payload::StructPayload(fields)) = &as_struct.payload else { panic!("{as_struct:?}") };
    assert_eq!(fields.fields.len(), 4);

    let without = none.event().await;
    assert_eq!(without.payload, None);

    // All but the payload is the same.
    for event in [as_typed, as_struct] {
        assert_eq!(proto::Event { payload: None, ..event }, without);
    }
}

#[tokio::test]
async fn filters_narrow_down() {
    let server = Direct::start().await;
    let filter = |filter| {
        server.subscribe(proto::SubscribeRequest {
            filter: Some(filter),
            payload_format: PayloadFormat::None.into(),
            ..request(&["call.*.*"])
        })
    };
    let mut names =
        filter(proto::EventFilter { names: vec!["CHANNEL_DESTROY".into()], ..Default::default() }).await;
    let mut ids = filter(proto::EventFilter { call_ids: vec!["b@c".into()], ..Default::default() }).await;
    let field =
        |path: &str, value: &str| proto::FieldFilter { path: path.into(), values: vec![value.into()] };
    let mut fields = filter(proto::EventFilter {
        fields: vec![field("vars.owner", "o1"), field("n", "32")],
        ..Default::default()
    })
    .await;

    let publish = |name: &str, id: &str, more: &str| {
        let data = format!(r#"{{"call_id":"{id}"{more}}}"#);
        server.publish(&format!("call.{ACCOUNT}.{name}.{}", hawking::binding::encoding::encode(id)), &data);
    };
    publish("CHANNEL_CREATE", "a", r#","vars":{"owner":"o1"},"n":32"#);
    publish("CHANNEL_CREATE", "b@c", r#","vars":{"owner":"o1"},"n":33"#);
    publish("CHANNEL_DESTROY", "d", r#","vars":{"owner":"o2"},"n":32"#);
    publish("CHANNEL_DESTROY", "b@c", r#","vars":{"owner":"o1"},"n":"32""#);

    let seen = |events: Vec<proto::Event>| -> Vec<String> {
        events.into_iter().map(|event| format!("{} {}", event.name, event.call_id)).collect()
    };
    assert_eq!(seen(names.events(2).await), ["CHANNEL_DESTROY d", "CHANNEL_DESTROY b@c"]);
    assert_eq!(seen(ids.events(2).await), ["CHANNEL_CREATE b@c", "CHANNEL_DESTROY b@c"]);
    assert_eq!(seen(fields.events(2).await), ["CHANNEL_CREATE a", "CHANNEL_DESTROY b@c"]);
}

#[tokio::test]
async fn heartbeats_carry_what_was_passed() {
    let server = Direct::start().await;
    let mut consumer = server
        .subscribe(proto::SubscribeRequest {
            heartbeat_interval: Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 }),
            ..request(&["call.CHANNEL_CREATE.*"])
        })
        .await;
    // Somebody else's events move the log on; a quiet consumer's heartbeat follows.
    let mut other = server.subscribe(request(&["call.CHANNEL_ANSWER.*"])).await;
    for _ in 0..5 {
        server.call("CHANNEL_ANSWER", "x");
    }
    let answered = other.events(5).await;
    let newest = answered.last().unwrap().cursor.clone().unwrap().sequence;
    let heartbeats = consumer
        .until(|kind| matches!(kind, Kind::Heartbeat(beat) if beat.position.as_ref().unwrap().sequence >= newest))
        .await;
    assert!(heartbeats.iter().all(|kind| matches!(kind, Kind::Heartbeat(_) | Kind::UpstreamStatus(_))));

    // No heartbeat runs ahead of an event.
    server.call("CHANNEL_CREATE", "mine");
    let messages = consumer.until(|kind| matches!(kind, Kind::Event(_))).await;
    let Some(Kind::Event(event)) = messages.last() else { panic!() };
    let sequence = event.cursor.as_ref().unwrap().sequence;
    for message in &messages {
        if let Kind::Heartbeat(beat) = message {
            assert!(beat.position.as_ref().unwrap().sequence < sequence, "{beat:?} before {event:?}");
            assert!(beat.time.is_some());
        }
    }
}

#[tokio::test]
async fn a_cancelled_stream_is_given_back() {
    let server = Direct::start().await;
    let consumers =
        [server.subscribe(request(&["call.*.*"])).await, server.subscribe(request(&["call.*.*"])).await];
    assert_eq!(server.account.status().subscriptions, 2);
    drop(consumers);
    eventually("both are gone", async || server.account.status().subscriptions == 0).await;
    // And the same connection goes on serving others.
    let mut client = server.client().await;
    drop(Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap());
    let mut consumer = Consumer::begin(&mut client, request(&["call.*.*"])).await.unwrap();
    server.call("CHANNEL_CREATE", "a");
    assert_eq!(consumer.event().await.call_id, "a");
}

#[tokio::test]
async fn a_deadline_of_the_client_ends_the_stream() {
    let server = Direct::start().await;
    let mut deadline = tonic::Request::new(request(&["call.*.*"]));
    // Not `set_timeout`: tonic's client would watch it too, and here it is the server that has to.
    deadline.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut consumer = Consumer::begin(&mut server.client().await, deadline).await.unwrap();
    server.call("CHANNEL_CREATE", "a");
    let (messages, status) = consumer.end().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(messages.iter().filter(|kind| matches!(kind, Kind::Event(_))).count(), 1);
}

#[tokio::test]
async fn a_removed_account_ends_its_streams() {
    let server = Direct::start().await;
    let mut consumer = server.subscribe(request(&["call.*.*"])).await;
    server.hub.remove(&account_id(ACCOUNT));
    let (_, status) = consumer.end().await;
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(reason(&status), "ACCOUNT_NOT_CONFIGURED");
}

#[tokio::test]
async fn large_events_and_many() {
    let server = Direct::start().await;
    let mut consumer = server.subscribe(request(&["call.*.*"])).await;
    // More than every window and buffer on the way, so that the stream stops and goes.
    let filler = "x".repeat(100_000);
    for index in 0..100 {
        let data = format!(r#"{{"call_id":"{index}","filler":"{filler}"}}"#);
        server.publish(&format!("call.{ACCOUNT}.CHANNEL_CREATE.{index}"), &data);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for (index, event) in consumer.events(100).await.into_iter().enumerate() {
        assert_eq!(event.call_id, index.to_string());
        let Some(Payload::JsonPayload(json)) = event.payload else { panic!("no JSON") };
        assert!(json.len() > filler.len());
    }
}
