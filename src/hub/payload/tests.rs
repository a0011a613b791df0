use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{Struct, Value, value::Kind as ValueKind};

use super::*;
use crate::proto::{self, Event, event::Payload};

/// Decodes what a consumer would: the payload inside of a whole response, so that decoders' depth limits count.
fn decode(payload: Vec<u8>) -> Option<Payload> {
    let mut response = Vec::new();
    bytes(&mut response, 2, &payload);
    let response = proto::SubscribeResponse::decode(response.as_slice()).expect("a consumer can decode it");
    match response.kind {
        Some(proto::subscribe_response::Kind::Event(Event { payload, .. })) => payload,
        other => panic!("no event: {other:?}"),
    }
}

fn call(json: &str) -> proto::CallEvent {
    match decode(typed(Kind::Call, json.as_bytes())) {
        Some(Payload::Call(call)) => call,
        other => panic!("no call: {other:?}"),
    }
}

fn object(json: &str) -> proto::ObjectEvent {
    match decode(typed(Kind::Object, json.as_bytes())) {
        Some(Payload::Object(object)) => object,
        other => panic!("no object: {other:?}"),
    }
}

fn struct_of(json: &str) -> Struct {
    match decode(structure(json.as_bytes())) {
        Some(Payload::StructPayload(fields)) => fields,
        other => panic!("no struct: {other:?}"),
    }
}

fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => ValueKind::NullValue(0),
        serde_json::Value::Bool(boolean) => ValueKind::BoolValue(*boolean),
        serde_json::Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => ValueKind::StringValue(text.clone()),
        serde_json::Value::Array(values) => {
            ValueKind::ListValue(prost_types::ListValue { values: values.iter().map(value).collect() })
        }
        serde_json::Value::Object(_) => ValueKind::StructValue(expected_struct(json)),
    };
    Value { kind: Some(kind) }
}

/// The same by the long way: a tree, then prost's types.
fn expected_struct(json: &serde_json::Value) -> Struct {
    let fields = json.as_object().unwrap().iter().map(|(key, json)| (key.clone(), value(json)));
    Struct { fields: fields.collect::<BTreeMap<_, _>>() }
}

fn parsed(json: &str) -> serde_json::Value {
    serde_json::from_str(json).unwrap()
}

/// `data` of a CHANNEL_ANSWER as a real blackhole sent it (R25).
const ANSWER: &str = r#"{"to_uri":"*97@wefwefwefwef.2600hz.com","to":"*97@wefwefwefwef.2600hz.com","timestamp":63610891957,"switch_url":"sip:mod_sofia@192.168.25.216:11000","disposition":"EARLY MEDIA","custom_sip_headers":{"x_auth_ip":"192.168.25.203"},"custom_channel_vars":{"account_id":"account0000000000000000000000002","channel_authorized":"true","global_resource":"false"},"caller_id_number":"user_wpxnx7am9w","call_direction":"inbound","call_id":"at6dmu4ffk97vnlp6qfq","msg_id":"1443672757313423","event_name":"CHANNEL_ANSWER","event_category":"call_event","app_version":"0.8.0","app_name":"ecallmgr"}"#;
/// R16.
const ADD_MEMBER: &str = r#"{"custom_channel_vars":{"account_id":"account0000000000000000000000002"},"caller_id_number":"+15551234567","caller_id_name":"Bob","participant_id":1,"call_id":"callA","instance_id":"inst-1","conference_id":"conf123","event":"add-member","account_id":"account0000000000000000000000002","msg_id":"cm1","event_name":"event","event_category":"conference","app_version":"4.0.0","app_name":"ecallmgr"}"#;
/// R17.
const FAX: &str = r#"{"stage":"negociated","page":1,"direction":"outgoing","fax_state":"send","fax_info":{"fax_total_pages":2},"account_id":"account0000000000000000000000002","faxbox_id":"fb1","status":"Sending page 1","job_id":"202611-faxjob1","msg_id":"f1","event_name":"status","event_category":"fax","app_version":"4.0.0","app_name":"fax"}"#;
/// R18.
const DIALOG: &str = r#"{"state":"confirmed","presence_id":"1001@wefwefwefwef.2600hz.com","call_id":"abc1","to":"sip:1002@wefwefwefwef.2600hz.com","from":"sip:1001@wefwefwefwef.2600hz.com","msg_id":"p1","event_name":"dialog_update","event_category":"presence","app_version":"4.0.0","app_name":"ecallmgr"}"#;
/// R19.
const DOC_CREATED: &str = r#"{"origin_cache":"kazoo_data_cache","type":"user","rev":"1-abc","is_soft_deleted":false,"date_modified":63962705528,"date_created":63962705528,"account_id":"account0000000000000000000000002","database":"account%2Fac%2Fco%2Funt0000000000000000000000002","id":"u1","msg_id":"o1","event_name":"doc_created","event_category":"configuration","app_version":"1.0.0","app_name":"datamgr"}"#;

#[test]
fn recorded_call() {
    let call = call(ANSWER);
    assert_eq!(call.call_id, "at6dmu4ffk97vnlp6qfq");
    assert_eq!(call.event_name, "CHANNEL_ANSWER");
    assert_eq!(call.timestamp, Some(63_610_891_957));
    assert_eq!(call.disposition, "EARLY MEDIA");
    assert_eq!(call.billing_seconds, None);
    let vars = &parsed(ANSWER)["custom_channel_vars"];
    assert_eq!(call.custom_channel_vars, Some(expected_struct(vars)));
    assert_eq!(call.additional_fields, None, "all of it is declared");
}

#[test]
fn recorded_conference() {
    let Some(Payload::Conference(event)) = decode(typed(Kind::ConferenceEvent, ADD_MEMBER.as_bytes())) else {
        panic!("no conference")
    };
    assert_eq!(event.event, "add-member");
    assert_eq!(event.participant_id, "1", "a number where text is declared");
    assert_eq!(event.caller_id_number, "+15551234567");
    assert_eq!(
        event.additional_fields,
        Some(expected_struct(&parsed(r#"{"account_id":"account0000000000000000000000002"}"#)))
    );
}

#[test]
fn recorded_fax_presence_and_object() {
    let Some(Payload::Fax(fax)) = decode(typed(Kind::FaxStatus, FAX.as_bytes())) else { panic!("no fax") };
    assert_eq!((fax.page, &*fax.job_id, &*fax.fax_state), (Some(1), "202611-faxjob1", "send"));
    assert_eq!(fax.fax_info, Some(expected_struct(&parsed(r#"{"fax_total_pages":2}"#))));

    let Some(Payload::Presence(dialog)) = decode(typed(Kind::Presence, DIALOG.as_bytes())) else {
        panic!("no presence")
    };
    assert_eq!((&*dialog.state, &*dialog.from), ("confirmed", "sip:1001@wefwefwefwef.2600hz.com"));

    let created = object(DOC_CREATED);
    assert_eq!((&*created.r#type, created.is_soft_deleted), ("user", Some(false)));
    assert_eq!(created.date_created, Some(63_962_705_528));
    assert_eq!(created.database, "account%2Fac%2Fco%2Funt0000000000000000000000002");
    assert_eq!(created.additional_fields, None);
}

#[test]
fn structs_equal_those_of_the_long_way() {
    for json in [
        ANSWER,
        ADD_MEMBER,
        FAX,
        DIALOG,
        DOC_CREATED,
        "{}",
        r#" { "a" : null , "b":[ ], "c":{ },"d":[1,[true,"x",{"k":-0.5}],null], "":"", "e":0, "f":false } "#,
    ] {
        assert_eq!(struct_of(json), expected_struct(&parsed(json)), "{json}");
    }
}

#[test]
fn what_fits_is_converted() {
    let call =
        call(r#"{"duration_seconds":"32","billing_seconds":-7,"ringing_seconds":4.0,"from":1.50,"to":true}"#);
    assert_eq!(call.duration_seconds, Some(32));
    assert_eq!(call.billing_seconds, Some(-7));
    assert_eq!(call.ringing_seconds, Some(4));
    assert_eq!(call.from, "1.50", "as it was written");
    assert_eq!(call.to, "true");
    assert_eq!(call.additional_fields, None);

    assert_eq!(object(r#"{"is_soft_deleted":"true"}"#).is_soft_deleted, Some(true));
    assert_eq!(object(r#"{"is_soft_deleted":"false"}"#).is_soft_deleted, Some(false));
}

#[test]
fn what_does_not_fit_is_not_lost() {
    let json = r#"{
        "duration_seconds":"a while","billing_seconds":1.5,"ringing_seconds":"","timestamp":99999999999999999999,
        "dtmf_duration":{},"call_id":{"a":[1]},"from":["x"],"to":null,"custom_channel_vars":"text","fax_info":[],
        "additional_fields":{"nested":true},"X Odd Key":"ü","unheard_of":false
    }"#;
    let call = call(json);
    assert_eq!(call.additional_fields, Some(expected_struct(&parsed(json))), "each of them, unchanged");
    assert_eq!(proto::CallEvent { additional_fields: None, ..call }, proto::CallEvent::default());

    let json = r#"{"is_soft_deleted":"maybe"}"#;
    assert_eq!(object(json).additional_fields, Some(expected_struct(&parsed(json))));
    let json = r#"{"is_soft_deleted":1}"#;
    assert_eq!(object(json).additional_fields, Some(expected_struct(&parsed(json))));
}

#[test]
fn zero_and_false_are_there_and_empty_text_is_absent() {
    let call = call(r#"{"billing_seconds":0,"from":"","duration_seconds":"0"}"#);
    assert_eq!((call.billing_seconds, call.duration_seconds), (Some(0), Some(0)));
    assert_eq!(call.from, "");
    assert_eq!(call.additional_fields, None);
}

#[test]
fn big_integers() {
    // A declared field keeps all 64 bits; text keeps every digit; a Struct rounds to a double.
    let call = call(
        r#"{"timestamp":9223372036854775807,"from":123456789012345678901234567890,"x":9007199254740993}"#,
    );
    assert_eq!(call.timestamp, Some(i64::MAX));
    assert_eq!(call.from, "123456789012345678901234567890");
    let rounded = call.additional_fields.unwrap().fields["x"].clone();
    assert_eq!(rounded.kind, Some(ValueKind::NumberValue(9_007_199_254_740_992.0)));

    // No double at all.
    let text = |json: &str| struct_of(json).fields["x"].kind.clone();
    assert_eq!(text(r#"{"x":1e999}"#), Some(ValueKind::StringValue("1e999".into())));
    assert_eq!(text(r#"{"x":-1e999}"#), Some(ValueKind::StringValue("-1e999".into())));
}

#[test]
fn unicode() {
    let call = call(
        r#"{"caller_id_name":"J\u00fcrgen \ud83d\ude80 東京","from":"\ud800","\udfffk\u0065y":"\\\"\n"}"#,
    );
    assert_eq!(call.caller_id_name, "Jürgen 🚀 東京");
    assert!(call.from.chars().all(|c| c == '\u{fffd}') && !call.from.is_empty(), "{:?}", call.from);
    let rest = call.additional_fields.unwrap().fields;
    let (key, value) = rest.first_key_value().unwrap();
    assert!(key.ends_with("key"), "{key:?}");
    assert_eq!(value.kind, Some(ValueKind::StringValue("\\\"\n".into())));
}

#[test]
fn equal_objects_have_equal_bytes() {
    let one = r#"{"from":"a","to":"b","zeta":1,"alpha":{"x":1,"y":[]}}"#;
    let two = r#"{ "alpha":{"y":[],"x":1}, "zeta":1, "to":"b", "from":"a" }"#;
    assert_eq!(typed(Kind::Call, one.as_bytes()), typed(Kind::Call, two.as_bytes()));
    assert_eq!(structure(one.as_bytes()), structure(two.as_bytes()));
}

#[test]
fn any_depth_can_be_decoded_and_nothing_is_lost() {
    for depth in [1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 127, 1000, 10_000] {
        for (open, close) in [(r#"{"k":"#, "}"), ("[", "]")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let json = format!(r#"{{"deep":{deep}}}"#);
            let additional = call(&json).additional_fields.unwrap();
            assert_eq!(additional, struct_of(&json));
            assert_eq!(back_to_json(&additional.fields["deep"]), deep, "depth {depth}");
        }
        let deep = format!("{}1{}", r#"{"k":"#.repeat(depth), "}".repeat(depth));
        let vars = call(&format!(r#"{{"custom_channel_vars":{deep}}}"#)).custom_channel_vars.unwrap();
        assert_eq!(back_to_json(&vars.fields["k"]), deep[5..deep.len() - 1], "depth {depth}");
    }
}

/// The JSON of a value made by the test above: what was too deep is in it as text.
fn back_to_json(value: &Value) -> String {
    match value.kind.as_ref().unwrap() {
        ValueKind::NumberValue(number) => number.to_string(),
        ValueKind::StringValue(text) => text.clone(),
        ValueKind::StructValue(fields) => format!(r#"{{"k":{}}}"#, back_to_json(&fields.fields["k"])),
        ValueKind::ListValue(list) => format!("[{}]", back_to_json(&list.values[0])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_object_no_payload() {
    for json in ["", "null", "[]", "\"text\"", "{", "{\"a\":}", "{} x", "\u{feff}{}"] {
        assert_eq!(typed(Kind::Call, json.as_bytes()), b"", "{json}");
        assert_eq!(structure(json.as_bytes()), b"", "{json}");
    }
    assert_eq!(structure(b"\xff"), b"");
}

#[test]
fn kinds_without_a_message_give_a_struct() {
    let json = r#"{"call_id":"a"}"#;
    assert_eq!(typed(Kind::Stream, json.as_bytes()), structure(json.as_bytes()));
}

/// Every kind of field that `payload.proto` has is one that is written; and no name in it hides another.
#[test]
fn every_declared_field_is_written() {
    for (kind, message) in
        [(Kind::Call, &SCHEMA.call), (Kind::Object, &SCHEMA.object), (Kind::Presence, &SCHEMA.presence)]
    {
        for (name, field) in &message.fields {
            let json = match field.shape {
                Shape::Text => r#""t""#,
                Shape::Integer => "5",
                Shape::Boolean => "true",
                Shape::Object => r#"{"a":1}"#,
            };
            let encoded = typed(kind, format!(r#"{{"{name}":{json}}}"#).as_bytes());
            let additional = match decode(encoded) {
                Some(Payload::Call(event)) => event.additional_fields,
                Some(Payload::Object(event)) => event.additional_fields,
                Some(Payload::Presence(event)) => event.additional_fields,
                other => panic!("{other:?}"),
            };
            assert_eq!(additional, None, "{name}");
        }
    }
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,20}".prop_map(Into::into),
            "-?[0-9]{1,20}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map(".{0,8}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Names that are declared, with every shape among them, and others.
    fn object() -> impl Strategy<Value = serde_json::Value> {
        let key = prop_oneof!["is_soft_deleted|date_created|date_modified|doc|id|type", ".{0,8}"];
        prop::collection::btree_map(key, json(), 0..8)
            .prop_map(|members| serde_json::Value::Object(members.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn structs(json in object()) {
            prop_assert_eq!(struct_of(&json.to_string()), expected_struct(&json));
        }

        /// Each member is either in `additional_fields`, unchanged, or in its field.
        #[test]
        fn nothing_is_lost(json in object()) {
            let object = super::object(&json.to_string());
            let additional = object.additional_fields.clone().unwrap_or_default().fields;
            for (key, member) in json.as_object().unwrap() {
                if let Some(kept) = additional.get(key) {
                    prop_assert_eq!(kept, &value(member));
                    continue;
                }
                let plain = member.as_str().map_or_else(|| member.to_string(), str::to_owned);
                let (is_there, read_back) = match key.as_str() {
                    "is_soft_deleted" => (object.is_soft_deleted.is_some(), object.is_soft_deleted.map(|b| b.to_string())),
                    "date_created" => (object.date_created.is_some(), object.date_created.map(|n| n.to_string())),
                    "date_modified" => (object.date_modified.is_some(), object.date_modified.map(|n| n.to_string())),
                    "doc" => (true, Some(object.doc.clone())),
                    "id" => (true, Some(object.id.clone())),
                    "type" => (true, Some(object.r#type.clone())),
                    other => return Err(TestCaseError::fail(format!("{other:?} is nowhere"))),
                };
                prop_assert!(is_there, "{} is nowhere", key);
                let read_back = read_back.unwrap();
                let same_number = read_back.parse::<f64>().ok().zip(plain.parse::<f64>().ok()).is_some_and(|(a, b)| a == b);
                prop_assert!(read_back == plain || same_number, "{key}: {read_back} for {plain}");
            }
        }
    }
}
