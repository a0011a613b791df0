//! Topic patterns as AMQP has them.

use std::{fmt, sync::Arc};

/// A pattern over dotted keys: `*` stands for exactly one word, `#` for any number of words, none included.
///
/// Never empty, without empty words or control characters, at most [`Pattern::MAX_LEN`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing at all.
    #[error("a pattern has at least one word")]
    Empty,
    /// Longer than [`Pattern::MAX_LEN`].
    #[error("a pattern has at most {max} bytes, not {length}", max = Pattern::MAX_LEN)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Two dots in a row, or one at an end.
    #[error("a pattern has no empty words")]
    EmptyWord,
    /// A control character or white space.
    #[error("a pattern has no control characters or blanks")]
    BadCharacter,
}

impl Pattern {
    /// The longest pattern, in bytes: enough for an id of 1024 bytes with each byte encoded.
    pub const MAX_LEN: usize = 4096;

    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(PatternError::TooLong { length: text.len() });
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(PatternError::BadCharacter);
        }
        if text.split('.').any(str::is_empty) {
            return Err(PatternError::EmptyWord);
        }
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The words of the pattern.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the pattern lets the key through.
    pub fn matches(&self, _key: &str) -> bool {
        todo!()
    }

    /// Whether every key that `other` lets through is let through by this one too.
    pub fn contains(&self, _other: &Pattern) -> bool {
        todo!()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
