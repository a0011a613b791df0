//! Whether an event passes a filter.

use std::{borrow::Cow, cell::OnceCell, collections::HashMap};

use serde_json::value::RawValue;

use super::{
    log::IncomingEvent,
    subscription::{EventFilter, FieldFilter},
};

/// The payload of one event, parsed when a filter first asks for a field, and only one level deep: most filters ask for a
/// field of the root. Kept as raw text, so that a number is compared as it was written.
pub(super) struct Fields<'a> {
    data: &'a str,
    root: OnceCell<HashMap<String, &'a RawValue>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(data: &'a str) -> Self {
        Self { data, root: OnceCell::new() }
    }

    /// Parses now what would otherwise be parsed later.
    pub(super) fn parse(&self) {
        self.root();
    }

    /// What is no JSON object has no fields.
    fn root(&self) -> &HashMap<String, &'a RawValue> {
        self.root.get_or_init(|| serde_json::from_str(self.data).unwrap_or_default())
    }

    /// The text of the field at a path: of a string its value, of a number or boolean its JSON text. Null, objects and
    /// lists have none.
    fn text(&self, path: &[String]) -> Option<Cow<'a, str>> {
        let (first, rest) = path.split_first()?;
        let mut value: &'a RawValue = self.root().get(first)?;
        for key in rest {
            let object: HashMap<String, &'a RawValue> = serde_json::from_str(value.get()).ok()?;
            value = object.get(key)?;
        }
        let text = value.get();
        match text.as_bytes().first()? {
            b'"' => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
            b'{' | b'[' | b'n' => None,
            _ => Some(Cow::Borrowed(text)),
        }
    }
}

impl EventFilter {
    /// Whether the filter looks into the payload.
    pub(super) fn reads_payload(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Whether it asks for no more than that by which `Audience` finds its view: then whatever is found passes.
    pub(super) fn asks_one_thing(&self) -> bool {
        self.fields.is_empty() && (self.names.is_empty() || self.call_ids.is_empty())
    }

    /// Whether the event passes, as far as can be told without its payload.
    pub(super) fn passes_envelope(&self, event: &IncomingEvent) -> bool {
        let name = self.names.is_empty() || contains(&self.names, event.name());
        name && (self.call_ids.is_empty() || contains(&self.call_ids, event.call_id()))
    }

    /// Whether the payload passes.
    pub(super) fn passes_payload(&self, fields: &Fields<'_>) -> bool {
        self.fields.iter().all(|filter| filter.passes(fields))
    }
}

fn contains(texts: &[String], text: &str) -> bool {
    texts.iter().any(|other| other == text)
}

impl FieldFilter {
    fn passes(&self, fields: &Fields<'_>) -> bool {
        fields.text(&self.path).is_some_and(|text| self.values.iter().any(|value| *value == text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(data: &str, path: &str, value: &str) -> bool {
        let path = path.split('.').map(str::to_owned).collect();
        FieldFilter { path, values: vec!["other".into(), value.into()] }.passes(&Fields::new(data))
    }

    #[test]
    fn compares_strings_by_value_and_numbers_and_booleans_by_their_text() {
        let data = r#"{"a":"x\u0041\"","n":32,"e":1e3,"big":123456789012345678901234567890,"t":true,"z":null,
            "o":{"p":{"q":"deep"},"l":["deep"]},"s":"32"}"#;
        assert!(passes(data, "a", "xA\""));
        assert!(passes(data, "n", "32"));
        assert!(passes(data, "s", "32"));
        assert!(passes(data, "e", "1e3"));
        assert!(!passes(data, "e", "1000"));
        assert!(passes(data, "big", "123456789012345678901234567890"));
        assert!(passes(data, "t", "true"));
        assert!(passes(data, "o.p.q", "deep"));
        assert!(!passes(data, "o.l", "deep"));
        assert!(!passes(data, "o.p", "{\"q\":\"deep\"}"));
        assert!(!passes(data, "z", "null"));
        assert!(!passes(data, "missing", "32"));
        assert!(!passes(data, "n.x", "32"));
    }

    #[test]
    fn what_is_no_object_passes_no_field_filter() {
        assert!(!passes("[1]", "a", "1"));
        assert!(!passes("{\"a\":1", "a", "1"));
    }
}
