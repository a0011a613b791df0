//! JSON as Kazoo handles it: objects are lists of pairs, in the order in which they came.
//!
//! Two habits of blackhole hang on that. Of a key that stands twice the first one counts (R23), and what it passes on keeps
//! its order (R25). `serde_json::Value` has neither.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Number, Value};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

/// An object: pairs in order, keys possibly repeated.
pub(super) type Object = Vec<(String, Json)>;

/// The text does not start with a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Where reading stopped, in bytes.
    pub offset: usize,
}

impl Json {
    /// Reads the first value in `text`; what comes after it is ignored, as blackhole does (R23).
    pub fn first_in(text: &str) -> Result<Self, Malformed> {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Json>();
        match values.next() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(Malformed { offset: byte_offset(text, error.line(), error.column()) }),
            None => Err(Malformed { offset: text.len() }),
        }
    }

    /// The first value under `key`, where this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(pairs) => pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The string under `key`.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The value as Kazoo makes a binary of it: a string is itself, a number or an atom its text, an object its JSON, a
    /// list an iolist. `None` where that fails.
    pub fn to_binary(&self) -> Option<String> {
        match self {
            Json::Null => Some("null".into()),
            Json::Bool(value) => Some(value.to_string()),
            Json::Number(number) => Some(number.to_string()),
            Json::String(text) => Some(text.clone()),
            Json::Object(_) => Some(self.to_string()),
            Json::Array(items) => items
                .iter()
                .map(|item| match item {
                    Json::Number(number) => {
                        let byte = u8::try_from(number.as_u64()?).ok()?;
                        Some(char::from(byte).to_string())
                    }
                    Json::String(_) | Json::Array(_) => item.to_binary(),
                    _ => None,
                })
                .collect(),
        }
    }

    /// The binary under `key`, unless it is missing, empty or cannot be made.
    pub fn non_empty(&self, key: &str) -> Option<String> {
        self.get(key)?.to_binary().filter(|text| !text.is_empty())
    }
}

/// serde_json tells lines and columns; Kazoo's decoder tells bytes.
fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column).min(text.len())
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Json::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Json::String(text)
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(value),
            Value::Number(number) => Json::Number(number),
            Value::String(text) => Json::String(text),
            Value::Array(items) => Json::Array(items.into_iter().map(Json::from).collect()),
            Value::Object(pairs) => {
                Json::Object(pairs.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(number) => number.serialize(serializer),
            Json::String(text) => serializer.serialize_str(text),
            Json::Array(items) => serializer.collect_seq(items),
            Json::Object(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(Json::Object(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_takes_the_first_of_a_repeated_key_and_ignores_what_follows() {
        let text = r#"{"b":1,"a":{"z":12345678901234567890},"b":2} trailing"#;
        let json = Json::first_in(text).unwrap();
        assert_eq!(json.get("b").unwrap().to_binary().unwrap(), "1");
        assert_eq!(json.to_string(), r#"{"b":1,"a":{"z":12345678901234567890},"b":2}"#);
    }

    #[test]
    fn tells_where_reading_stopped() {
        assert_eq!(Json::first_in("{not json").unwrap_err().offset, 2);
        assert_eq!(Json::first_in("").unwrap_err().offset, 0);
        assert_eq!(Json::first_in("{\n\n  x").unwrap_err().offset, 6, "lines count too");
    }

    #[test]
    fn makes_binaries_as_kazoo_does() {
        let binary = |text: &str| Json::first_in(text).unwrap().to_binary();
        assert_eq!(binary("7.5").unwrap(), "7.5");
        assert_eq!(binary("null").unwrap(), "null");
        assert_eq!(binary(r#"["a"]"#).unwrap(), "a");
        assert_eq!(binary("[97, 98]").unwrap(), "ab");
        assert_eq!(binary(r#"{"a": 1}"#).unwrap(), r#"{"a":1}"#);
        assert_eq!(binary("[{}]"), None);
    }
}
