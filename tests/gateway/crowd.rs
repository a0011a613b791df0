//! Many consumers, one session: who gets what is held against what the simulator published and recorded.

use std::{collections::BTreeSet, sync::Arc};

use hawking::{
    proto::{self, PayloadFormat, subscribe_response::Kind},
    sim::Event,
};
use tokio::{sync::watch, task::JoinSet};

use super::{harness::*, whole::Whole};

const CONSUMERS: usize = 1000;
const CONNECTIONS: usize = 20;
const CALLS: usize = 20;

/// Something published, as this test knows it.
#[derive(Debug, Clone)]
struct Published {
    category: &'static str,
    name: &'static str,
    /// Call id, conference id, type of a document, or user.
    of: String,
}

/// Which of the published events a consumer wants.
type Wants = Box<dyn Fn(&Published) -> bool + Send>;

/// The mix: each kind of consumer with its bindings and, said anew, what they let through. The widest of each category come
/// first, so that the cover does not grow under the others.
fn consumer(index: usize) -> (Vec<String>, Wants) {
    let pick = (index / 10) % CALLS;
    match index % 10 {
        0 => (vec!["call.*.*".into()], Box::new(|event| event.category == "call")),
        1 => (vec!["object.*.*".into()], Box::new(|event| event.category == "object")),
        2 => (vec!["conference.event.*.*".into()], Box::new(|event| event.category == "conference")),
        3 => (vec!["presence.dialog.*".into()], Box::new(|event| event.category == "presence")),
        4 => (vec!["fax.status.*".into()], Box::new(|event| event.category == "fax")),
        5 => (
            vec!["call.CHANNEL_CREATE.*".into(), "call.CHANNEL_DESTROY.*".into()],
            Box::new(|event| matches!(event.name, "CHANNEL_CREATE" | "CHANNEL_DESTROY")),
        ),
        6 => (
            vec![format!("call.*.{}", call_id(pick))],
            Box::new(move |event| event.category == "call" && event.of == call_id(pick)),
        ),
        7 => (
            vec![format!("conference.event.conf{}.*", pick % 3), "object.doc_created.user".into()],
            Box::new(move |event| {
                (event.category == "conference" && event.of == format!("conf{}", pick % 3))
                    || (event.name == "doc_created" && event.of == "user")
            }),
        ),
        8 => (
            vec!["object.doc_edited.*".into(), "call.CHANNEL_ANSWER.*".into(), "call.*.*".into()],
            Box::new(|event| event.category == "call" || event.name == "doc_edited"),
        ),
        _ => (
            vec![format!("call.CHANNEL_ANSWER.{}", call_id(pick)), "fax.status.nobody".into()],
            Box::new(move |event| event.name == "CHANNEL_ANSWER" && event.of == call_id(pick)),
        ),
    }
}

fn call_id(index: usize) -> String {
    format!("{index}.call@10.0.0.1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_consumers_share_one_session() {
    let whole = Whole::start().await;

    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(whole.client().await);
    }
    let mut readers = JoinSet::new();
    // What was published, and the sequence of the last of it, once it is.
    let (publishing, done) = watch::channel(None::<(Arc<[Published]>, u64)>);
    let mut begun = Vec::new();
    for index in 0..CONSUMERS {
        let (bindings, wants) = consumer(index);
        let mut request = request(&[]);
        request.bindings = bindings;
        request.payload_format = PayloadFormat::None.into();
        request.heartbeat_interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let mut client = clients[index % CONNECTIONS].clone();
        let begin = async move {
            let mut consumer = Consumer::begin(&mut client, request).await.expect("a good request");
            consumer.confirmed().await;
            consumer
        };
        // The widest one by one, then everybody at once.
        let consumer = if index < 10 { Ok(begin.await) } else { Err(tokio::spawn(begin)) };
        begun.push((consumer, wants));
    }
    for (consumer, wants) in begun {
        let mut consumer = match consumer {
            Ok(consumer) => consumer,
            Err(begin) => begin.await.expect("it begins"),
        };
        let done = done.clone();
        readers.spawn(async move {
            // Everything that comes, until a heartbeat says that all is passed.
            let mut got: Vec<(u64, String)> = Vec::new();
            let published = loop {
                match consumer.next().await {
                    Kind::Event(event) => got.push((sequence(&event.cursor), event.routing_key)),
                    Kind::Heartbeat(beat) => {
                        let passed = sequence(&beat.position);
                        if let Some((published, newest)) = done.borrow().clone()
                            && passed >= newest
                        {
                            break published;
                        }
                    }
                    Kind::Gap(gap) => panic!("a gap: {gap:?}"),
                    _ => {}
                }
            };
            let expected = (0..published.len()).filter(|&at| wants(&published[at]));
            (got, expected.collect::<Vec<_>>())
        });
    }

    let account_log = whole.gateway.hub().get(&account_id(ACCOUNT)).expect("the account");
    let before = account_log.status().window.newest.0;
    // Published in this order, and so recorded.
    let account = whole.account().clone();
    let mut published = Vec::new();
    let mut publish = |event: Event, category, name, of: &str| {
        whole.publish(&event);
        published.push(Published { category, name, of: of.to_owned() });
    };
    for name in ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"] {
        for call in 0..CALLS {
            let id = call_id(call);
            publish(Event::call(&account, name, &id), "call", name, &id);
            if call % 4 == 0 {
                for (action, doc_type) in
                    [("doc_created", "user"), ("doc_edited", "user"), ("doc_edited", "device")]
                {
                    let document = Event::document(&account, action, doc_type, &format!("{doc_type}-{call}"));
                    publish(document, "object", action, doc_type);
                }
                let conference = format!("conf{}", (call / 4) % 3);
                publish(
                    Event::conference(&account, "add-member", &conference, &id),
                    "conference",
                    "add-member",
                    &conference,
                );
                publish(Event::presence_dialog(&account, "1001", &id, "early"), "presence", "dialog", "1001");
                publish(
                    Event::fax_status(&account, &format!("job{call}"), "sending"),
                    "fax",
                    "status",
                    "job",
                );
            }
        }
    }

    // The record is the truth: each once, in the order of publication.
    eventually("all is sent", async || whole.sent().len() >= published.len()).await;
    let sent = whole.sent();
    assert_eq!(sent.len(), published.len(), "no frame twice: the cover does not overlap");
    // Somebody wants each of them, and nothing else happens: one record for each.
    let newest = before + published.len() as u64;
    eventually("all is in the log", async || account_log.status().window.newest.0 == newest).await;
    publishing.send(Some((published.into(), newest))).expect("they wait");

    let mut deliveries = 0;
    while let Some(reader) = readers.join_next().await {
        let (got, expected) = reader.expect("a consumer");
        assert!(got.is_sorted_by(|(one, _), (two, _)| one < two), "in order, each once");
        let got: Vec<_> = got.into_iter().map(|(_, key)| key).collect();
        let expected: Vec<_> = expected.into_iter().map(|at| sent[at].routing_key.clone()).collect();
        assert_eq!(got, expected);
        deliveries += got.len();
    }
    assert!(deliveries > 20_000, "{deliveries}");

    assert_eq!(whole.sim.connections_total(), 1);
    let asked = whole.sim.subscribe_requests();
    assert!(asked.iter().all(|request| request.action == "subscribe"), "never unsubscribe: {asked:?}");
    let bindings: BTreeSet<_> = asked.iter().map(|request| &*request.binding).collect();
    let cover = ["call.*.*", "conference.event.#.*", "fax.status.*", "object.*.*", "presence.dialog.*"];
    assert_eq!(bindings, cover.into());
    whole.stop().await;
}

fn sequence(cursor: &Option<proto::Cursor>) -> u64 {
    cursor.as_ref().expect("a cursor").sequence
}
