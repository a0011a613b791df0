//! `serde_json` reads the same frames, by itself and in its own ways, and must come to the same as the scanner.

use std::{fmt, fs, path::Path};

use proptest::{prelude::*, strategy::ValueTree as _};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::{
    envelope::{Envelope, Member},
    facts::PayloadFacts,
};

/// All that is read in a frame. `None` where it is refused.
#[derive(Debug, PartialEq)]
struct Seen {
    texts: [Option<String>; 7],
    data: Option<String>,
    facts: Option<[Option<String>; 6]>,
}

fn scanned(text: &str) -> Option<Seen> {
    let envelope = Envelope::read(text)?;
    let owned = |member: Member<'_>| member.text().map(|text| text.into_owned());
    let facts = |facts: PayloadFacts<'_>| {
        [
            facts.message_id,
            facts.call_id,
            facts.event,
            facts.timestamp,
            facts.date_modified,
            facts.date_created,
        ]
        .map(|fact| fact.map(|fact| fact.into_owned()))
    };
    let data = envelope.data.filter(|data| data.text != "null");
    Some(Seen {
        texts: [
            owned(envelope.action),
            owned(envelope.request_id),
            owned(envelope.status),
            owned(envelope.subscribed_key),
            owned(envelope.subscription_key),
            owned(envelope.name),
            owned(envelope.routing_key),
        ],
        data: data.as_ref().map(|data| data.text.to_owned()),
        facts: data.and_then(|data| data.facts).map(facts),
    })
}

fn by_serde(text: &str) -> Option<Seen> {
    #[derive(Deserialize)]
    struct Frame<'a> {
        action: Option<String>,
        request_id: Option<String>,
        status: Option<String>,
        subscribed_key: Option<String>,
        subscription_key: Option<String>,
        name: Option<String>,
        routing_key: Option<String>,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    // serde takes a list of the values for an object of them.
    text.trim_start().starts_with('{').then_some(())?;
    let frame: Frame<'_> = serde_json::from_str(text).ok()?;
    let data = frame.data.map(RawValue::get);
    Some(Seen {
        texts: [
            frame.action,
            frame.request_id,
            frame.status,
            frame.subscribed_key,
            frame.subscription_key,
            frame.name,
            frame.routing_key,
        ],
        data: data.map(str::to_owned),
        facts: data.filter(|data| data.starts_with('{')).map(facts_by_serde),
    })
}

fn facts_by_serde(data: &str) -> [Option<String>; 6] {
    /// Keys with their values, in order, as they are written.
    struct Members(Vec<(Box<RawValue>, Box<RawValue>)>);

    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> de::Visitor<'de> for Visitor {
                type Value = Members;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(Members(members))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }

    let Members(members) = serde_json::from_str(data).unwrap();
    let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
    FACTS.map(|name| {
        members.iter().filter(|(key, _)| text(key).as_deref() == Some(name)).find_map(|(_, value)| {
            let is_number = value.get().starts_with(|first: char| first == '-' || first.is_ascii_digit());
            if is_number { Some(value.get().to_owned()) } else { text(value) }
        })
    })
}

const MEMBERS: [&str; 7] =
    ["action", "request_id", "status", "subscribed_key", "subscription_key", "name", "routing_key"];
const FACTS: [&str; 6] = ["msg_id", "call_id", "event", "timestamp", "date_modified", "date_created"];

/// Keys that count in a payload, some of them written in another way; and others.
fn any_key() -> impl Strategy<Value = String> {
    let others = vec!["action", "data", "\\u006dsg_id", "call\\u005fid", "\\ud800", ""];
    prop_oneof![
        4 => prop::sample::select(FACTS.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(others).prop_map(str::to_owned),
        1 => any_text(),
    ]
}

/// The inside of a text.
fn any_text() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec![
        "a",
        "plain words",
        "call.x.CHANNEL_CREATE.y",
        "é",
        "😀",
        "\u{7f}",
        "\u{2028}",
        "\\n",
        "\\\"",
        "\\\\",
        "\\/",
        "\\u0041",
        "\\u00e9",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00",
        "\\u0000",
        "12345678",
        "1234567",
    ]);
    prop::collection::vec(parts, 0..4).prop_map(|parts| parts.concat())
}

fn any_blank() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", "", " ", "\n\t", "\r "])
}

fn any_value() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "7",
        "63610891956",
        "63610891956.5",
        "-1.50e+10",
        "1e999",
        "{}",
        "[]",
        "123456789012345678901234567890",
    ]);
    let leaf = prop_oneof![plain.prop_map(str::to_owned), any_text().prop_map(|text| format!("\"{text}\""))];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            any_object(inner.clone()),
            prop::collection::vec((any_blank(), inner), 0..4).prop_map(|values| {
                let values: Vec<_> =
                    values.iter().map(|(blank, value)| format!("{blank}{value}{blank}")).collect();
                format!("[{}]", values.join(","))
            }),
        ]
    })
}

fn any_object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((any_blank(), any_key(), any_blank(), value), 0..6).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(a, key, b, value)| format!("{a}\"{key}\"{b}:{a}{value}{b}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// Frames as they are, their members in any order; and with anything in place of a member.
fn any_frame() -> impl Strategy<Value = String> {
    let named = prop::sample::subsequence(MEMBERS.to_vec(), 0..=MEMBERS.len()).prop_flat_map(|names| {
        names
            .into_iter()
            .map(|name| any_text().prop_map(move |text| format!("\"{name}\":\"{text}\"")))
            .collect::<Vec<_>>()
    });
    let data = prop_oneof![4 => any_object(any_value()), 1 => any_value()];
    let odd = prop_oneof![any_key(), prop::sample::select(MEMBERS.to_vec()).prop_map(str::to_owned)];
    let odd = prop_oneof![
        3 => Just(None),
        1 => (odd, any_value()).prop_map(|(key, value)| Some(format!("\"{key}\":{value}"))),
    ];
    let members = (named, prop::option::weighted(0.9, data), odd).prop_map(|(mut members, data, odd)| {
        members.extend(data.map(|data| format!("\"data\":{data}")));
        members.extend(odd);
        members
    });
    (members.prop_shuffle(), any_blank())
        .prop_map(|(members, blank)| format!("{blank}{{{}}}{blank}", members.join(&format!("{blank},"))))
}

/// A change to a text: at one place something goes, comes, or becomes something else.
#[derive(Debug, Clone)]
struct Edit {
    at: prop::sample::Index,
    removed: usize,
    inserted: String,
}

impl Edit {
    /// What comes of a text. Where it is no text any more: no WebSocket lets it through.
    fn apply(&self, text: &str) -> Option<String> {
        let at = self.at.index(text.len() + 1);
        let mut bytes = text.as_bytes().to_vec();
        bytes.splice(at..(at + self.removed).min(text.len()), self.inserted.bytes());
        String::from_utf8(bytes).ok()
    }
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let inserted = prop::sample::select(vec![
        "",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "0",
        "-",
        ".",
        "e",
        " ",
        "\u{0}",
        "\n",
        "a",
        "é",
        "null",
        "\\u12",
        "\"data\":{},",
        "\"name\":1,",
        "\"msg_id\":\"x\",",
    ]);
    (any::<prop::sample::Index>(), prop_oneof![0usize..3, 0usize..2000], inserted)
        .prop_map(|(at, removed, inserted)| Edit { at, removed, inserted: inserted.to_owned() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_of_any_members_is_read_as_serde_reads_it(frame in any_frame(), edit in any_edit()) {
        prop_assert_eq!(scanned(&frame), by_serde(&frame));
        if let Some(edited) = edit.apply(&frame) {
            prop_assert_eq!(scanned(&edited), by_serde(&edited), "{}", edited);
        }
    }
}

/// All frames that were recorded, in both directions.
fn recorded() -> Vec<String> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings"));
    let mut frames = Vec::new();
    for flavour in ["master", "4.3", "5"] {
        for file in fs::read_dir(root.join(flavour)).unwrap() {
            for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                frames.extend(line["text"].as_str().map(str::to_owned));
            }
        }
    }
    assert!(frames.len() > 2000, "{}", frames.len());
    frames
}

#[test]
fn recorded_frames_are_read_as_serde_reads_them_whole_and_damaged() {
    // Always the same damages: what fails here, fails again.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let edits = prop::collection::vec(any_edit(), 24);
    let mut read = 0;
    for frame in recorded() {
        let seen = scanned(&frame);
        assert_eq!(seen, by_serde(&frame), "{frame}");
        read += usize::from(seen.is_some());
        for edit in edits.new_tree(&mut runner).unwrap().current() {
            if let Some(edited) = edit.apply(&frame) {
                assert_eq!(scanned(&edited), by_serde(&edited), "{edited}");
            }
        }
        // Cut off anywhere: of a long one not everywhere.
        for end in (0..frame.len()).step_by(1 + frame.len() / 64).filter(|end| frame.is_char_boundary(*end)) {
            assert_eq!(scanned(&frame[..end]), by_serde(&frame[..end]), "{}", &frame[..end]);
        }
    }
    assert!(read > 2000, "{read}");
}
