//! Ids are given plain by consumers, and told plain. What blackhole takes with success and then delivers nothing for must
//! not be sent.

use hawking::{
    binding::{Flavour, catalogue},
    proto,
    sim::{AccountSpec, Event},
};

use super::{harness::*, whole::Whole};

/// Each id is told apart from all others, its encoded form among them.
#[tokio::test]
async fn call_ids() {
    let ids = [
        "plain",
        "3a9b.7c@192.168.1.10",
        "with space",
        "with+plus",
        "with%2Epercent",
        "with%percent",
        "Jürgen-東京-🚀",
        "a.b.c.d.e",
        "*star",
        "#hash",
        "a/b?c=d&e:f;g",
        "\"quoted\\\"",
        "~tilde_-.",
    ];
    let whole = Whole::start().await;
    let mut consumers = Vec::new();
    for id in ids {
        consumers.push(whole.subscribe(request(&[&format!("call.CHANNEL_CREATE.{id}")])).await);
    }
    for id in ids.into_iter().rev().chain(["other"]) {
        whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", id));
        whole.publish(&Event::call(whole.account(), "CHANNEL_DESTROY", id));
    }
    for (id, consumer) in ids.into_iter().zip(&mut consumers) {
        let event = consumer.event().await;
        assert_eq!((&*event.call_id, &*event.name), (id, "CHANNEL_CREATE"));
        assert_eq!(event.matched_bindings, [format!("call.CHANNEL_CREATE.{id}")]);
    }
    // Each got that one alone: the next is its own again.
    for id in ids {
        whole.publish(&Event::call(whole.account(), "CHANNEL_CREATE", id));
    }
    for (id, consumer) in ids.into_iter().zip(&mut consumers) {
        assert_eq!(consumer.event().await.call_id, id);
    }
    drop(consumers);
    whole.stop().await;
}

#[tokio::test]
async fn conferences_of_an_account() {
    let whole = Whole::start().await;
    let mut all = whole.subscribe(request(&["conference.event.*.*"])).await;
    let mut one = whole.subscribe(request(&["conference.event.conf1.*"])).await;
    let mut member = whole.subscribe(request(&["conference.event.*.b.2@host"])).await;
    for (event, conference, call) in [
        ("add-member", "conf1", "a.1@host"),
        ("add-member", "conf2", "b.2@host"),
        ("del-member", "conf1", "a.1@host"),
    ] {
        whole.publish(&Event::conference(whole.account(), event, conference, call));
    }
    let told = |events: Vec<proto::Event>| -> Vec<String> {
        events.into_iter().map(|event| format!("{} {}", event.name, event.call_id)).collect()
    };
    assert_eq!(
        told(all.events(3).await),
        ["add-member a.1@host", "add-member b.2@host", "del-member a.1@host"]
    );
    assert_eq!(told(one.events(2).await), ["add-member a.1@host", "del-member a.1@host"]);
    assert_eq!(told(member.events(1).await), ["add-member b.2@host"]);
    drop((all, one, member));
    whole.stop().await;
}

#[tokio::test]
async fn presence_without_its_prefix() {
    let whole = Whole::start().await;
    let mut without = whole.subscribe(request(&["dialog.*"])).await;
    let mut with = whole.subscribe(request(&["presence.dialog.*"])).await;
    let mut lamp = whole.subscribe(request(&["mwi_updates.1001"])).await;
    assert_eq!(without.subscribed.bindings[0].requested, "dialog.*");
    assert_eq!(without.subscribed.bindings[0].binding, "presence.dialog.*");
    whole.publish(&Event::presence_dialog(whole.account(), "1001", "a.b@c", "early"));
    whole.publish(&Event::mwi_update(whole.account(), "1002", 1, 0));
    whole.publish(&Event::mwi_update(whole.account(), "1001", 2, 0));
    for consumer in [&mut without, &mut with] {
        let event = consumer.event().await;
        assert_eq!((&*event.name, &*event.call_id), ("dialog", "a.b@c"));
        assert_eq!(event.matched_bindings, ["presence.dialog.*"]);
    }
    let event = lamp.event().await;
    assert!(event.routing_key.ends_with(".1001"), "{}", event.routing_key);
    drop((without, with, lamp));
    whole.stop().await;
}

#[tokio::test]
async fn documents_of_all_types() {
    let whole = Whole::start().await;
    let mut all = whole.subscribe(request(&["object.*.*"])).await;
    let types = ["user", "device", "callflow", "mailbox_message", "fax", "call_recording", "cdr"];
    for doc_type in types {
        whole.publish(&Event::document(whole.account(), "doc_created", doc_type, &format!("{doc_type}-1")));
    }
    for (doc_type, event) in types.into_iter().zip(all.events(types.len()).await) {
        assert!(event.routing_key.contains(&format!(".{doc_type}.")), "{} for {doc_type}", event.routing_key);
    }
    drop(all);
    whole.stop().await;
}

/// Every example of the catalogue that Kazoo 4 has, there and back: it is confirmed, and an event that it means comes.
#[tokio::test]
async fn every_example_of_the_catalogue() {
    let whole = Whole::start().await;
    let mut seen = 0;
    for of in catalogue::TYPES.iter().filter(|of| of.flavours.contains(&Flavour::K4)) {
        for example in of.examples {
            let mut consumer = whole.subscribe(request(&[example])).await;
            whole.publish(&event_for(whole.account(), example));
            let event = consumer.event().await;
            assert_eq!(
                event.matched_bindings,
                [consumer.subscribed.bindings[0].binding.clone()],
                "{example}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
    whole.stop().await;
}

/// An event that the binding lets through.
fn event_for(account: &AccountSpec, binding: &str) -> Event {
    let concrete =
        |word: &str, otherwise: &str| if word == "*" { otherwise.to_owned() } else { word.to_owned() };
    let words: Vec<_> = binding.splitn(4, '.').collect();
    let rest = |from: usize| binding.splitn(from + 1, '.').nth(from).unwrap_or("*");
    match words[0] {
        "call" => {
            Event::call(account, &concrete(words[1], "CHANNEL_ANSWER"), &concrete(rest(2), "any.call@host"))
        }
        "conference" if words[1] == "command" => {
            Event::conference_command(&concrete(rest(2), "conf"), "kick")
        }
        "conference" => Event::conference(
            account,
            "add-member",
            &concrete(words[2], "conf"),
            &concrete(rest(3), "any.call@host"),
        ),
        "fax" if words[1] == "object" => {
            Event::document(account, &concrete(words[2], "doc_created"), "fax", "fax-1")
        }
        "fax" => Event::fax_status(account, &concrete(rest(2), "job-1"), "sending"),
        "object" => {
            Event::document(account, &concrete(words[1], "doc_edited"), &concrete(words[2], "user"), "doc-1")
        }
        _ => {
            let (event, id) = match words[0] {
                "presence" => (words[1], rest(2)),
                event => (event, rest(1)),
            };
            match event {
                "dialog" => Event::presence_dialog(account, "1001", &concrete(id, "any.call@host"), "early"),
                "update" => Event::presence_update(account, "1001", &concrete(id, "any.call@host"), "early"),
                "mwi_updates" => Event::mwi_update(account, &concrete(id, "1001"), 1, 0),
                other => panic!("{other} in {binding}: teach this test to make such an event"),
            }
        }
    }
}
