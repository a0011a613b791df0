//! The payload of an event as protobuf: `data`, a JSON object, becomes the one field of `hawking.v1.Event`'s payload,
//! already encoded, for the formats TYPED and STRUCT.
//!
//! It is done once for each event and format, whatever the number of consumers; but a Struct costs several times what
//! the raw JSON does, so no tree is built on the way: the wire format is written straight from the JSON text. What the
//! typed messages declare is read from the compiled descriptors, so that `payload.proto` is the only list of fields.
//!
//! Objects are written in the order of their keys: equal events have equal bytes.
//!
//! # What a Struct cannot hold
//!
//! - Its numbers are doubles. An integer beyond 2^53 loses its last digits there (in a declared field of type int64, and
//!   in the format JSON, it does not). A number that no double reaches (`1e999`) is given as text: JSON has no infinity,
//!   and clients refuse to print a Struct that has one.
//! - Its depth. Most protobuf decoders give up at 100 nested messages, and one JSON object takes three of them: a consumer
//!   could not decode the response, and its stream would be over. A value below [`MAX_DEPTH`] is given as its JSON text.
//! - Unpaired surrogates (`"\ud800"`), which are no Unicode: they become U+FFFD.

use std::{borrow::Cow, collections::BTreeMap, collections::HashMap, sync::LazyLock};

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto::Type as FieldType,
};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use crate::binding::Kind;

/// How deep JSON may be nested in a payload; deeper values are given as text. `SubscribeResponse`, `Event`, the typed
/// message, its Struct and its first value are five messages, and each level below takes at most three: 95 of the 100
/// that decoders allow.
const MAX_DEPTH: usize = 30;

/// Field numbers of `google.protobuf.Struct`, `Value`, `ListValue`, and of the entries of maps. Those never change.
mod well_known {
    pub const STRUCT_FIELDS: u32 = 1;
    pub const ENTRY_KEY: u32 = 1;
    pub const ENTRY_VALUE: u32 = 2;
    pub const VALUE_NULL: u32 = 1;
    pub const VALUE_NUMBER: u32 = 2;
    pub const VALUE_STRING: u32 = 3;
    pub const VALUE_BOOL: u32 = 4;
    pub const VALUE_STRUCT: u32 = 5;
    pub const VALUE_LIST: u32 = 6;
    pub const LIST_VALUES: u32 = 1;
}

/// The payload field for the format TYPED, encoded: key, length, message. By the rules in `payload.proto`; a kind without
/// a message of its own gets what [`structure`] gives.
///
/// `data` is a JSON object. If it is not, nothing is returned: the event is then delivered without a payload.
pub(crate) fn typed(kind: Kind, data: &[u8]) -> Vec<u8> {
    let Some(message) = SCHEMA.message(kind) else { return structure(data) };
    let Some(object) = Object::parse(data) else { return Vec::new() };

    let mut out = Vec::with_capacity(data.len() + data.len() / 4);
    nested(&mut out, message.payload_field, |out| {
        let mut additional = Vec::new();
        for (key, value) in &object.0 {
            match message.fields.get(&*key.0) {
                Some(field) if field.write(out, value.get()) => {}
                _ => additional.push((key, value.get())),
            }
        }
        if !additional.is_empty() {
            nested(out, message.additional_field, |out| {
                for (key, value) in additional {
                    write_entry(out, &key.0, value, 1);
                }
            });
        }
    });
    out
}

/// The payload field for the format STRUCT, encoded: key, length, message.
///
/// `data` is a JSON object. If it is not, nothing is returned: the event is then delivered without a payload.
pub(crate) fn structure(data: &[u8]) -> Vec<u8> {
    let Some(object) = Object::parse(data) else { return Vec::new() };
    let mut out = Vec::with_capacity(data.len() + data.len() / 2);
    nested(&mut out, SCHEMA.struct_field, |out| write_struct(out, &object, 0));
    out
}

// ---- What the descriptors say.

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::compiled);

/// What is needed of the descriptors of `hawking.v1`.
struct Schema {
    /// `Event.struct_payload`.
    struct_field: u32,
    call: Message,
    conference: Message,
    fax: Message,
    object: Message,
    presence: Message,
}

/// One typed message.
struct Message {
    /// Its field in `Event`.
    payload_field: u32,
    /// Its field for whatever has none.
    additional_field: u32,
    /// All other fields.
    fields: HashMap<String, Field>,
}

/// One declared field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    number: u32,
    shape: Shape,
}

/// What fits into a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `string`: text; a number or a boolean as its JSON text.
    Text,
    /// `int64`: an integer, also as text.
    Integer,
    /// `bool`: true and false, also as text.
    Boolean,
    /// `google.protobuf.Struct`: an object.
    Object,
}

impl Schema {
    /// Reads the descriptors that were compiled into the binary.
    fn compiled() -> Self {
        // Constants of this very build: a test reads them.
        #[allow(clippy::expect_used)]
        Self::read(crate::proto::DESCRIPTORS).expect("the descriptors of this build hold hawking.v1.Event")
    }

    fn read(descriptors: &[u8]) -> Option<Self> {
        let set = FileDescriptorSet::decode(descriptors).ok()?;
        let messages = || {
            let files = set.file.iter().filter(|file| file.package() == "hawking.v1");
            files.flat_map(|file| &file.message_type)
        };
        let event = messages().find(|message| message.name() == "Event")?;
        let payload = |name: &str| event.field.iter().find(|field| field.name() == name);
        let message = |name: &str| {
            let field = payload(name)?;
            let declared = field.type_name().strip_prefix(".hawking.v1.")?;
            Message::read(number(field)?, messages().find(|message| message.name() == declared)?)
        };
        Some(Self {
            struct_field: number(payload("struct_payload")?)?,
            call: message("call")?,
            conference: message("conference")?,
            fax: message("fax")?,
            object: message("object")?,
            presence: message("presence")?,
        })
    }

    fn message(&self, kind: Kind) -> Option<&Message> {
        match kind {
            Kind::Call => Some(&self.call),
            Kind::ConferenceEvent | Kind::ConferenceCommand => Some(&self.conference),
            Kind::FaxStatus => Some(&self.fax),
            Kind::Object => Some(&self.object),
            Kind::Presence => Some(&self.presence),
            Kind::Stream => None,
        }
    }
}

impl Message {
    /// `None` if the message has a field of a type that no [`Shape`] stands for.
    fn read(payload_field: u32, descriptor: &DescriptorProto) -> Option<Self> {
        let mut additional_field = None;
        let mut fields = HashMap::new();
        for field in &descriptor.field {
            let number = number(field)?;
            if field.name() == "additional_fields" {
                additional_field = Some(number);
                continue;
            }
            let shape = match field.r#type() {
                FieldType::String => Shape::Text,
                FieldType::Int64 => Shape::Integer,
                FieldType::Bool => Shape::Boolean,
                FieldType::Message if field.type_name() == ".google.protobuf.Struct" => Shape::Object,
                _ => return None,
            };
            fields.insert(field.name().to_owned(), Field { number, shape });
        }
        Some(Self { payload_field, additional_field: additional_field?, fields })
    }
}

fn number(field: &FieldDescriptorProto) -> Option<u32> {
    u32::try_from(field.number()).ok()
}

// ---- Writing.

impl Field {
    /// Writes the value if it fits; otherwise writes nothing and says false.
    fn write(self, out: &mut Vec<u8>, json: &str) -> bool {
        let value = Json::of(json);
        match self.shape {
            Shape::Text => match value {
                Json::Text(text) => write_text(out, self.number, &text),
                Json::Number(text) => write_text(out, self.number, text),
                Json::Boolean(_) => write_text(out, self.number, json),
                _ => return false,
            },
            Shape::Integer => {
                let integer = match &value {
                    Json::Text(text) => text.parse().ok(),
                    Json::Number(text) => integer(text),
                    _ => None,
                };
                let Some(integer) = integer else { return false };
                encode_key(self.number, WireType::Varint, out);
                encode_varint(integer as u64, out);
            }
            Shape::Boolean => {
                let boolean = match &value {
                    Json::Boolean(boolean) => *boolean,
                    Json::Text(text) if text == "true" => true,
                    Json::Text(text) if text == "false" => false,
                    _ => return false,
                };
                encode_key(self.number, WireType::Varint, out);
                encode_varint(u64::from(boolean), out);
            }
            Shape::Object => match value {
                Json::Object(object) => nested(out, self.number, |out| write_struct(out, &object, 0)),
                _ => return false,
            },
        }
        true
    }
}

/// A JSON number as an integer, if it is one: also `32.0` and `1e3`, where the double holds it exactly.
fn integer(text: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    text.parse().ok().or_else(|| {
        let double: f64 = text.parse().ok()?;
        (double.fract() == 0.0 && double.abs() <= EXACT).then_some(double as i64)
    })
}

/// Writes the body of a `Struct`. `depth` is that of the object itself.
fn write_struct(out: &mut Vec<u8>, object: &Object<'_>, depth: usize) {
    for (key, value) in &object.0 {
        write_entry(out, &key.0, value.get(), depth + 1);
    }
}

/// Writes one entry of a `Struct`. `depth` is that of the value.
fn write_entry(out: &mut Vec<u8>, key: &str, value: &str, depth: usize) {
    nested(out, well_known::STRUCT_FIELDS, |out| {
        write_text(out, well_known::ENTRY_KEY, key);
        nested(out, well_known::ENTRY_VALUE, |out| write_value(out, value, depth));
    });
}

/// Writes the body of a `Value`. A member of a oneof is written even where it is zero or empty.
fn write_value(out: &mut Vec<u8>, json: &str, depth: usize) {
    match Json::of(json) {
        Json::Object(object) if depth < MAX_DEPTH => {
            nested(out, well_known::VALUE_STRUCT, |out| write_struct(out, &object, depth));
        }
        Json::List(values) if depth < MAX_DEPTH => nested(out, well_known::VALUE_LIST, |out| {
            for value in values {
                nested(out, well_known::LIST_VALUES, |out| write_value(out, value.get(), depth + 1));
            }
        }),
        Json::Object(_) | Json::List(_) | Json::Unreadable => {
            bytes(out, well_known::VALUE_STRING, json.as_bytes())
        }
        Json::Text(text) => bytes(out, well_known::VALUE_STRING, text.as_bytes()),
        Json::Number(text) => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                encode_key(well_known::VALUE_NUMBER, WireType::SixtyFourBit, out);
                out.extend_from_slice(&number.to_le_bytes());
            }
            _ => bytes(out, well_known::VALUE_STRING, text.as_bytes()),
        },
        Json::Boolean(boolean) => {
            encode_key(well_known::VALUE_BOOL, WireType::Varint, out);
            out.push(u8::from(boolean));
        }
        Json::Null => {
            encode_key(well_known::VALUE_NULL, WireType::Varint, out);
            out.push(0);
        }
    }
}

/// Writes a field of text; nothing for an empty one, which means absent.
fn write_text(out: &mut Vec<u8>, field: u32, text: &str) {
    if !text.is_empty() {
        bytes(out, field, text.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Writes a nested message. Its length is known only afterwards: one byte is kept for it, and the content moves up where
/// that is not enough.
fn nested(out: &mut Vec<u8>, field: u32, content: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, out);
    let at = out.len();
    out.push(0);
    content(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(10);
        encode_varint(length as u64, &mut prefix);
        out.splice(at..=at, prefix);
    }
}

// ---- Reading. Each level is parsed on its own, its values kept as text: numbers stay as they were written, and no depth
// of nesting reaches the parser's own bound.

/// One JSON value.
enum Json<'a> {
    Object(Object<'a>),
    List(Vec<&'a RawValue>),
    Text(Cow<'a, str>),
    /// As it is written.
    Number(&'a str),
    Boolean(bool),
    Null,
    /// No JSON; does not occur inside of a parsed object.
    Unreadable,
}

impl<'a> Json<'a> {
    fn of(json: &'a str) -> Self {
        match json.as_bytes().first() {
            Some(b'{') => Object::parse(json.as_bytes()).map(Self::Object),
            Some(b'[') => serde_json::from_str(json).ok().map(Self::List),
            Some(b'"') => serde_json::from_str(json).ok().map(|Text(text)| Self::Text(text)),
            Some(b't') => Some(Self::Boolean(true)),
            Some(b'f') => Some(Self::Boolean(false)),
            Some(b'n') => Some(Self::Null),
            Some(_) => Some(Self::Number(json)),
            None => None,
        }
        .unwrap_or(Self::Unreadable)
    }
}

/// An object's members in order of their keys. A repeated key has its last value, as in most readers of JSON.
struct Object<'a>(BTreeMap<Text<'a>, &'a RawValue>);

impl<'a> Object<'a> {
    fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Self)
    }
}

/// A JSON string, borrowed where it has no escapes. Read as bytes, because unpaired surrogates fail as text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())))
            }
        }

        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests;
