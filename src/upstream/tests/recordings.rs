//! What a real blackhole sent is understood.

use std::{collections::BTreeMap, fs, path::Path};

use crate::upstream::{
    dedupe::SessionId,
    frame::{Incoming, Outcome, Refusal},
    intake::{Opened, tests::intake},
};

use super::*;

/// The received frames of a recording, with their connections.
fn received(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["dir"] == "recv")
        .map(|line| (text(&line, "conn"), text(&line, "text")))
        .collect()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/master"))
}

fn recordings() -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    files
}

/// The recording of that number.
fn recording(number: &str) -> std::path::PathBuf {
    let is_it = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(number);
    recordings().into_iter().find(is_it).unwrap()
}

#[test]
fn every_frame_is_read_and_every_refusal_understood() {
    let mut refusals: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut events, mut replies) = (0, 0);
    for path in recordings() {
        for (_, text) in received(&path) {
            match Incoming::parse(&text) {
                Incoming::Event(_) => events += 1,
                Incoming::Reply { outcome, .. } => {
                    replies += 1;
                    if let Outcome::Refused(refusal) = outcome {
                        assert_ne!(refusal, Refusal::Unknown, "{text}");
                        assert_eq!(refusal == Refusal::Token, text.contains("authenticat"), "{text}");
                        *refusals.entry(refusal.reason()).or_default() += 1;
                    }
                }
                other => panic!("{other:?} in {}: {text}", path.display()),
            }
        }
    }
    assert!(events > 50 && replies > 100, "{events} {replies}");
    assert!(refusals.len() >= 6, "{refusals:?}");
}

/// Brings the events of one connection of a recording; what of them is kept.
fn kept(number: &str, connection: &str) -> Vec<crate::hub::IncomingEvent> {
    let (log, intake) = intake();
    let now = Instant::now();
    for (conn, text) in received(&recording(number)) {
        if conn == connection
            && let Incoming::Event(frame) = Incoming::parse(&text)
        {
            intake.event(Opened { id: SessionId(1), at: now }, &frame, now);
        }
    }
    log.events()
}

#[test]
fn real_call_events_are_taken_over_byte_for_byte() {
    let events = kept("25", "c1");
    let names: Vec<&str> = events.iter().map(|event| event.name()).collect();
    assert_eq!(names[..3], ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"]);
    let frames = received(&recording("25"));
    for event in &events {
        let data = event.data();
        assert!(frames.iter().any(|(_, text)| text.ends_with(&format!("\"data\":{data}}}"))), "{data}");
        assert!(!event.call_id().is_empty() && event.event_time().is_some());
    }
}

#[test]
fn overlapping_bindings_bring_each_event_once() {
    // R09 holds three overlapping bindings and sees one event published several times, each with the same msg_id or none.
    let frames = received(&recording("09"))
        .into_iter()
        .filter(|(_, text)| matches!(Incoming::parse(text), Incoming::Event(_)))
        .count();
    assert!(frames > 2 * kept("09", "c1").len(), "{frames}");
}

#[test]
fn objects_that_share_a_msg_id_are_kept_apart() {
    let events = kept("19", "c1");
    let keys: Vec<&str> = events.iter().map(|event| event.key()).collect();
    assert_eq!(
        keys,
        [
            "object.doc_created.user",
            "object.doc_created.mailbox_message",
            "object.doc_created.cdr",
            "object.doc_deleted.user"
        ]
    );
    let ids: BTreeSet<&str> = events.iter().map(|event| event.message_id()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[test]
fn generic_names_are_replaced_by_the_real_ones() {
    let names = |number| -> Vec<String> {
        kept(number, "c1").into_iter().map(|event| event.name().to_owned()).collect()
    };
    assert_eq!(names("18"), ["update", "dialog", "mwi_updates"]);
    let conference: BTreeSet<String> = names("16").into_iter().collect();
    assert!(conference.contains("add-member") && conference.contains("del-member"), "{conference:?}");
}
