//! Topic patterns as AMQP has them.

use std::{collections::HashSet, fmt, sync::Arc};

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

    /// Whether the pattern lets the key through. An empty key has no words; between two dots there may be an empty one.
    pub fn matches(&self, key: &str) -> bool {
        let mut pattern = self.0.split('.');
        let mut key = key_words(key);
        // Where to go on when the words after the last `#` do not fit: let that `#` take one word more.
        let mut retry = None;
        loop {
            let (mut pattern_rest, mut key_rest) = (pattern.clone(), key.clone());
            match (pattern_rest.next(), key_rest.next()) {
                (Some("#"), _) => {
                    retry = Some((pattern_rest.clone(), key.clone()));
                    pattern = pattern_rest;
                }
                (Some(wanted), Some(word)) if wanted == "*" || wanted == word => {
                    (pattern, key) = (pattern_rest, key_rest);
                }
                (None, None) => return true,
                _ => {
                    let Some((after_hash, taken)) = &mut retry else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    (pattern, key) = (after_hash.clone(), taken.clone());
                }
            }
        }
    }

    /// Whether every key that `other` lets through is let through by this one too.
    ///
    /// `true` is always right. `false` is right too, unless this pattern has more than 63 words or there are more than
    /// a few thousand cases to look at (many `#` in both): then it means "not known".
    pub fn contains(&self, other: &Pattern) -> bool {
        // The words of a key that `other` lets through are fed to this pattern, seen as an automaton: `reached` has the
        // bit n where the first n words of the pattern can have let through what was fed. There are always words that
        // stand in neither pattern, and they are the hardest to let through, so `None` stands for all that a wildcard
        // of `other` can be.
        const MAX_CASES: usize = 4096;
        if !self.0.contains('#') && !other.0.contains('#') {
            // What is asked nearly always: word by word. (`Iterator::zip` would not see that one is longer.)
            let mut words = other.words();
            return self.words().all(|word| words.next().is_some_and(|other| word == "*" || word == other))
                && words.next().is_none();
        }
        let words: Vec<&str> = self.words().collect();
        if words.len() > 63 {
            return self == other;
        }
        let skip_hashes = |reached: u64| {
            words.iter().enumerate().fold(reached, |reached, (at, word)| {
                if *word == "#" && reached & 1 << at != 0 { reached | 1 << (at + 1) } else { reached }
            })
        };
        let feed = |reached: u64, fed: Option<&str>| {
            let mut next = 0;
            for (at, word) in words.iter().enumerate().filter(|(at, _)| reached & 1 << at != 0) {
                match *word {
                    "#" => next |= 1 << at,
                    word if word == "*" || Some(word) == fed => next |= 1 << (at + 1),
                    _ => {}
                }
            }
            skip_hashes(next)
        };
        let other: Vec<&str> = other.words().collect();
        let mut seen = HashSet::new();
        let mut cases = vec![(0, skip_hashes(1))];
        while let Some((at, reached)) = cases.pop() {
            if !seen.insert((at, reached)) {
                continue;
            }
            if reached == 0 || seen.len() > MAX_CASES {
                return false;
            }
            match other.get(at) {
                None if reached & 1 << words.len() == 0 => return false,
                None => {}
                Some(&"#") => cases.extend([(at + 1, reached), (at, feed(reached, None))]),
                Some(&"*") => cases.push((at + 1, feed(reached, None))),
                Some(word) => cases.push((at + 1, feed(reached, Some(word)))),
            }
        }
        true
    }
}

/// The words of a key: none in an empty one.
pub(super) fn key_words(key: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = (!key.is_empty()).then_some(key);
    std::iter::from_fn(move || {
        let text = rest?;
        // Words are short: to look at each byte is quicker than what `split` prepares.
        let dot = text.bytes().position(|byte| byte == b'.');
        let (word, after) = dot.map_or((text, None), |dot| (&text[..dot], Some(&text[dot + 1..])));
        rest = after;
        Some(word)
    })
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

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    /// Patterns over so few words that they often meet a key.
    pub(crate) fn any_pattern(max_words: usize) -> impl Strategy<Value = Pattern> {
        let word = prop_oneof![3 => Just("a"), 2 => Just("b"), 3 => Just("*"), 2 => Just("#")];
        prop::collection::vec(word, 1..=max_words).prop_map(|words| pattern(&words.join(".")))
    }

    /// Keys over the same words, an unknown one and the empty one.
    pub(crate) fn any_key(max_words: usize) -> impl Strategy<Value = String> {
        let word = prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("c"), 1 => Just("")];
        prop::collection::vec(word, 0..=max_words).prop_map(|words| words.join("."))
    }

    /// The definition, word for word.
    fn matches_by_definition(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], key) => key.is_empty(),
            (["#", rest @ ..], key) => {
                (0..=key.len()).any(|taken| matches_by_definition(rest, &key[taken..]))
            }
            ([_, ..], []) => false,
            ([wanted, rest @ ..], [word, key @ ..]) => {
                (*wanted == "*" || wanted == word) && matches_by_definition(rest, key)
            }
        }
    }

    #[test]
    fn lets_through_as_amqp_does() {
        for (text, key, expected) in [
            ("call.*.*", "call.CHANNEL_CREATE.a%2Eb", true),
            ("call.*.*", "call.CHANNEL_CREATE", false),
            ("call.*.*", "call.CHANNEL_CREATE.a.b", false),
            ("call.#", "call", true),
            ("call.#", "call.a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("#.a.#.b", "a.x.b.y.b", true),
            ("#.a.#.b", "b.a", false),
            ("*", "", false),
            ("#", "", true),
            ("a.*", "a.", true),
            ("CALL.*", "call.x", false),
        ] {
            assert_eq!(pattern(text).matches(key), expected, "{text} on {key:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert_eq!(Pattern::parse(""), Err(PatternError::Empty));
        assert_eq!(Pattern::parse("a..b"), Err(PatternError::EmptyWord));
        assert_eq!(Pattern::parse(".a"), Err(PatternError::EmptyWord));
        assert_eq!(Pattern::parse("a b"), Err(PatternError::BadCharacter));
        assert_eq!(Pattern::parse("a\n"), Err(PatternError::BadCharacter));
        assert_eq!(Pattern::parse(&"a".repeat(4097)), Err(PatternError::TooLong { length: 4097 }));
    }

    #[test]
    fn contains_what_is_narrower() {
        for (wide, narrow, expected) in [
            ("call.*.*", "call.CHANNEL_CREATE.*", true),
            ("call.*.*", "call.*.x", true),
            ("call.CHANNEL_CREATE.*", "call.*.*", false),
            ("#", "a.#.b", true),
            ("*.#", "#.*", true),
            ("#.a.*.#", "a.#.b", true),
            ("*.*", "#", false),
            ("a.#", "a", true),
            ("a", "a.#", false),
        ] {
            assert_eq!(pattern(wide).contains(&pattern(narrow)), expected, "{wide} over {narrow}");
        }
    }

    #[test]
    fn contains_gives_up_on_monsters() {
        let long = pattern(&["#", "a"].repeat(40).join("."));
        assert!(long.contains(&long));
        assert!(!long.contains(&pattern(&format!("{long}.a"))), "more than 63 words: not known");
        let busy = pattern(&["#", "a"].repeat(30).join("."));
        assert!(!pattern("b").contains(&busy));
        let _ends = busy.contains(&long);
    }

    proptest! {
        #[test]
        fn matches_as_defined(pattern in any_pattern(5), key in any_key(6)) {
            let words: Vec<&str> = pattern.words().collect();
            let key_words: Vec<&str> = key_words(&key).collect();
            prop_assert_eq!(pattern.matches(&key), matches_by_definition(&words, &key_words));
        }

        #[test]
        fn containment_is_sound(wide in any_pattern(4), narrow in any_pattern(4), key in any_key(6)) {
            if wide.contains(&narrow) && narrow.matches(&key) {
                prop_assert!(wide.matches(&key));
            }
        }

        #[test]
        fn containment_is_complete(wide in any_pattern(3), narrow in any_pattern(3)) {
            // If no key of up to seven words over the words that occur and a strange one tells them apart, none does.
            let mut keys = vec![String::new()];
            let mut longest = 0..1;
            for _ in 0..7 {
                let from = keys.len();
                for at in longest.clone() {
                    for word in ["a", "b", "c"] {
                        let key = if at == 0 { word.to_owned() } else { format!("{}.{word}", keys[at]) };
                        keys.push(key);
                    }
                }
                longest = from..keys.len();
            }
            let expected = keys.iter().all(|key| !narrow.matches(key) || wide.matches(key));
            prop_assert_eq!(wide.contains(&narrow), expected);
        }
    }
}
