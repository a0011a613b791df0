//! Texts: free ones, one of a few, lists of them, and those that something else reads.

use std::path::PathBuf;

use super::{Form, Found, quote, text};
use crate::config::tree::{Node, Value, shorten};

/// Any text but none at all.
pub(crate) struct Text {
    /// What it names, for people.
    pub(crate) what: &'static str,
    /// One.
    pub(crate) example: &'static str,
}

impl Form for Text {
    type Value = String;

    fn expected(&self) -> String {
        // Quotes, because YAML reads 1001 and +15555550100 as numbers.
        format!("{} in quotes", self.what)
    }

    fn parse(&self, node: &Node) -> Result<String, Found> {
        match text(node)? {
            "" => Err(node.into()),
            text => Ok(text.to_owned()),
        }
    }

    fn show(&self, value: &String) -> Option<String> {
        Some(quote(value))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// The path of a file.
pub(crate) struct FilePath {
    /// One.
    pub(crate) example: &'static str,
}

impl Form for FilePath {
    type Value = PathBuf;

    fn expected(&self) -> String {
        "the path of a file".to_owned()
    }

    fn parse(&self, node: &Node) -> Result<PathBuf, Found> {
        match text(node)? {
            "" => Err(node.into()),
            text => Ok(text.into()),
        }
    }

    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quote(&value.display().to_string()))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// One of a few words.
pub(crate) struct Choice<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Form for Choice<T> {
    type Value = T;

    fn expected(&self) -> String {
        one_of(self.0.iter().map(|(word, _)| *word))
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        let text = text(node)?;
        self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| node.into())
    }

    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, each)| each == value).map(|(word, _)| quote(word))
    }

    fn example(&self) -> Option<String> {
        self.0.first().map(|(word, _)| quote(word))
    }
}

fn one_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    words.join(" or ")
}

/// A list of texts; in a variable, separated by commas.
pub(crate) struct Texts {
    /// What each of them is, for people.
    pub(crate) what: &'static str,
    /// One of them.
    pub(crate) example: &'static str,
}

impl Form for Texts {
    type Value = Vec<String>;

    fn expected(&self) -> String {
        format!("a list of {}", self.what)
    }

    fn parse(&self, node: &Node) -> Result<Vec<String>, Found> {
        match &node.value {
            Value::List(list) => list.iter().map(|item| text(item).map(str::to_owned)).collect(),
            Value::Variable(text) => Ok(split_commas(text).map(str::to_owned).collect()),
            _ => Err(node.into()),
        }
    }

    fn show(&self, value: &Vec<String>) -> Option<String> {
        let quoted: Vec<String> = value.iter().map(|text| quote(text)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    }

    fn example(&self) -> Option<String> {
        Some(format!("[{}]", quote(self.example)))
    }
}

fn split_commas(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Text that is read by a function of its own.
pub(crate) struct Parsed<T> {
    /// What would be right, for people.
    pub(crate) expected: &'static str,
    /// One, as text.
    pub(crate) example: &'static str,
    /// Reads it.
    pub(crate) parse: fn(&str) -> Option<T>,
    /// Writes it.
    pub(crate) show: fn(&T) -> String,
}

impl<T> Form for Parsed<T> {
    type Value = T;

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        (self.parse)(text(node)?).ok_or_else(|| node.into())
    }

    fn show(&self, value: &T) -> Option<String> {
        Some(quote(&(self.show)(value)))
    }

    fn example(&self) -> Option<String> {
        Some(quote(self.example))
    }
}

/// A list whose entries are read by a function of its own; in a variable, separated by commas.
pub(crate) struct Set<T> {
    /// What would be right, for people.
    pub(crate) expected: &'static str,
    /// Reads the entries; the error is the entry that is none.
    pub(crate) parse: fn(&[&str]) -> Result<T, String>,
    /// Writes them.
    pub(crate) show: fn(&T) -> Vec<String>,
}

impl<T> Form for Set<T> {
    type Value = T;

    fn expected(&self) -> String {
        self.expected.to_owned()
    }

    fn parse(&self, node: &Node) -> Result<T, Found> {
        let texts: Vec<&str> = match &node.value {
            Value::List(list) => list.iter().map(text).collect::<Result<_, _>>()?,
            Value::Variable(text) => split_commas(text).collect(),
            _ => return Err(node.into()),
        };
        (self.parse)(&texts).map_err(|entry| Found(shorten(&entry)))
    }

    fn show(&self, value: &T) -> Option<String> {
        let quoted: Vec<String> = (self.show)(value).iter().map(|text| quote(text)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    }
}

/// What can be turned off: then it is the word `off`.
pub(crate) struct OrOff<F>(pub(crate) F);

const OFF: &str = "off";

impl<F: Form> Form for OrOff<F> {
    type Value = Option<F::Value>;

    fn expected(&self) -> String {
        format!("{}, or {OFF:?}", self.0.expected())
    }

    fn parse(&self, node: &Node) -> Result<Self::Value, Found> {
        match text(node) {
            Ok(OFF) => Ok(None),
            _ => self.0.parse(node).map(Some),
        }
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        match value {
            Some(value) => self.0.show(value),
            None => Some(quote(OFF)),
        }
    }
}

/// A setting that may be left out.
pub(crate) struct Optional<F>(pub(crate) F);

impl<F: Form> Form for Optional<F> {
    type Value = Option<F::Value>;

    fn expected(&self) -> String {
        self.0.expected()
    }

    fn parse(&self, node: &Node) -> Result<Self::Value, Found> {
        self.0.parse(node).map(Some)
    }

    fn show(&self, value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }

    fn example(&self) -> Option<String> {
        self.0.example()
    }
}
