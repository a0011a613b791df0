//! The forms that values take in a file or a variable: how each is read, what it must look like, and how it is shown.

mod address;
mod number;
mod word;

pub(crate) use self::{
    address::{Address, BLACKHOLE, CROSSBAR},
    number::{Flag, Share, Span, bytes, count, span, timeout},
    word::{Choice, FilePath, Optional, OrOff, Parsed, Set, Text, Texts},
};
use super::tree::{Node, Value};

/// How values of one kind are written.
pub(crate) trait Form {
    /// What it is read into.
    type Value;

    /// What would be right, for people: "a duration such as `30s`, 1s to 10m".
    fn expected(&self) -> String;

    /// Reads a value; the error says what was found instead.
    fn parse(&self, node: &Node) -> Result<Self::Value, Found>;

    /// The value as TOML. `None` where there is no value.
    fn show(&self, value: &Self::Value) -> Option<String>;

    /// A value as TOML to show where there is none by default.
    fn example(&self) -> Option<String> {
        None
    }
}

/// What stood there instead of what was expected, fit to be printed.
pub(crate) struct Found(pub(crate) String);

impl From<&Node> for Found {
    fn from(node: &Node) -> Self {
        Self(node.describe())
    }
}

/// A TOML string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn text(node: &Node) -> Result<&str, Found> {
    match &node.value {
        Value::Text(text) | Value::Variable(text) => Ok(text),
        _ => Err(node.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_has_no_raw_quotes_or_controls() {
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
