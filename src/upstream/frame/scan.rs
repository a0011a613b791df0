//! A JSON text, read once from its beginning to its end: what is asked for is looked at, all else passed over.
//!
//! `serde_json` reads a frame twice: once to find where its `data` ends, once more to find the few members of `data` that
//! count here. Most of the work for an event was that. A scanner does both at a time, builds nothing, and skips texts eight
//! bytes at a time. It takes what `serde_json` takes and refuses what that refuses (the tests compare them), at any depth.

use std::borrow::Cow;

use smallvec::SmallVec;

/// Where the reading is. All methods give `None` where the text is no JSON; what comes after that means nothing.
#[derive(Clone)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// A text between its quotes, as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    raw: &'a str,
    is_escaped: bool,
}

/// A value that is no object and no list.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Text(Text<'a>),
    /// As it is written.
    Number(&'a str),
}

impl<'a> Text<'a> {
    /// What it says. `None` where half of a surrogate pair stands alone: there is no such text.
    #[inline]
    pub(super) fn decode(self) -> Option<Cow<'a, str>> {
        if self.is_escaped { self.unescape().map(Cow::Owned) } else { Some(Cow::Borrowed(self.raw)) }
    }

    #[cold]
    fn unescape(self) -> Option<String> {
        serde_json::from_str(&format!("\"{}\"", self.raw)).ok()
    }
}

impl<'a> Scanner<'a> {
    /// At the beginning of a text.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads an object. `member` is given each key, with the scanner before its value, and takes that value.
    #[inline]
    pub(super) fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Text<'a>) -> Option<()>,
    ) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            self.expect(b'"')?;
            let key = self.string()?;
            self.expect(b':')?;
            member(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads a value of any kind; gives it where it is a text or a number.
    pub(super) fn scalar(&mut self) -> Option<Option<Scalar<'a>>> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.string().map(Scalar::Text).map(Some)
            }
            b'-' | b'0'..=b'9' => self.raw(Self::number).map(Scalar::Number).map(Some),
            _ => self.pass_over().map(|()| None),
        }
    }

    /// Reads a value of any kind, and gives its text.
    pub(super) fn raw(&mut self, read: impl FnOnce(&mut Self) -> Option<()>) -> Option<&'a str> {
        self.peek()?;
        let from = self.at;
        read(self)?;
        self.text.get(from..self.at)
    }

    /// The first byte of what comes next, blanks apart.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            // What blackhole writes has no blanks.
            if byte > b' ' {
                return Some(byte);
            }
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Nothing may follow.
    pub(super) fn end(mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// Reads a value of any kind.
    #[inline]
    pub(super) fn pass_over(&mut self) -> Option<()> {
        match self.next()? {
            b'"' => self.pass_over_string().map(drop),
            b'{' => self.pass_over_nested(b'}'),
            b'[' => self.pass_over_nested(b']'),
            byte => self.pass_over_word(byte),
        }
    }

    /// Reads an object or a list that was begun. However deep it is, nothing here calls itself.
    fn pass_over_nested(&mut self, end: u8) -> Option<()> {
        // How the objects and lists end that the reading is in.
        let mut open: SmallVec<[u8; 64]> = SmallVec::new();
        let mut end = end;
        let mut is_empty = true;
        loop {
            // After a beginning or a member: another member, or the end.
            match self.next()? {
                byte if byte == end => {
                    let Some(outer) = open.pop() else { return Some(()) };
                    (end, is_empty) = (outer, false);
                    continue;
                }
                b',' if !is_empty => {}
                _ if is_empty => self.at -= 1,
                _ => return None,
            }
            if end == b'}' {
                self.expect(b'"')?;
                self.pass_over_string()?;
                self.expect(b':')?;
            }
            is_empty = false;
            match self.next()? {
                b'"' => _ = self.pass_over_string()?,
                start @ (b'{' | b'[') => {
                    open.push(end);
                    (end, is_empty) = (if start == b'{' { b'}' } else { b']' }, true);
                }
                byte => self.pass_over_word(byte)?,
            }
        }
    }

    /// Reads a number or a literal that begins with a byte.
    fn pass_over_word(&mut self, first: u8) -> Option<()> {
        self.at -= 1;
        match first {
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => None,
        }
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.text.as_bytes().get(self.at..)?.starts_with(word.as_bytes()).then_some(())?;
        self.at += word.len();
        Some(())
    }

    /// A text, from behind its opening quote on.
    #[inline]
    fn string(&mut self) -> Option<Text<'a>> {
        let from = self.at;
        let is_escaped = self.pass_over_string()?;
        Some(Text { raw: self.text.get(from..self.at - 1)?, is_escaped })
    }

    /// Reads a text, from behind its opening quote on. Says whether there are escapes in it.
    #[inline]
    fn pass_over_string(&mut self) -> Option<bool> {
        let bytes = self.text.as_bytes();
        let at = special(bytes, self.at);
        if *bytes.get(at)? == b'"' {
            self.at = at + 1;
            return Some(false);
        }
        self.at = at;
        self.pass_over_escapes().map(|()| true)
    }

    /// Reads the rest of a text, from its first escape on.
    fn pass_over_escapes(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        loop {
            match *bytes.get(at)? {
                b'"' => break,
                b'\\' => {
                    at += match *bytes.get(at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
                        _ => return None,
                    }
                }
                _ => return None,
            }
            at = special(bytes, at);
        }
        self.at = at + 1;
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let bytes = self.text.as_bytes();
        let digits = |from: usize| {
            let mut at = from;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            (at > from).then_some(at)
        };
        let mut at = self.at + usize::from(bytes.get(self.at) == Some(&b'-'));
        at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
        if bytes.get(at) == Some(&b'.') {
            at = digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
            at = digits(at + 1 + usize::from(sign))?;
        }
        self.at = at;
        Some(())
    }
}

/// Where the next byte is that means something within a text: a quote, a backslash, a control character. The end where
/// there is none.
#[inline]
fn special(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*word);
        // The highest bit of each byte that is less than a small number. What is above the first such byte may be wrong.
        let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
        // With its second bit turned a quote stands just above the control characters, which only change places: one
        // comparison finds both.
        let found = below(word ^ (ONES * 2), b'"' - 1) | below(word ^ (ONES * u64::from(b'\\')), 1);
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    at + rest.iter().position(is_special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// The value, if the whole text is one.
    fn whole(text: &str) -> Option<&str> {
        let mut scanner = Scanner::new(text);
        let value = scanner.raw(Scanner::pass_over)?;
        scanner.end()?;
        Some(value)
    }

    fn by_serde(text: &str) -> Option<&str> {
        serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
    }

    #[test]
    fn takes_what_is_json_and_refuses_what_is_not() {
        for text in [
            r#" { "a" : [ 1 , -0.5e+10, "\u00e9\"\\" , true,false,null, {} , [ ] ] } "#,
            "0",
            "-0",
            "10.01",
            "1E9",
            "\"\"",
            r#""\ud83d""#,
            "\"\u{7f}é\u{2028}\"",
        ] {
            assert_eq!(whole(text), Some(text.trim()), "{text}");
            assert_eq!(whole(text), by_serde(text), "{text}");
        }
        for text in [
            "",
            " ",
            "{",
            "[",
            "\"",
            "{}{}",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "tru",
            "nul",
            "True",
            r#""\x""#,
            r#""\u12""#,
            r#""\u12g4""#,
            "\"\t\"",
            "\"\n\"",
            "[1}",
            "{\"a\":1]",
            "\u{a0}1",
            "1 2",
            "\"a\\",
            "\"abcdefgh\\\"",
        ] {
            assert_eq!(whole(text), None, "{text}");
            assert_eq!(by_serde(text), None, "{text}");
        }
    }

    #[test]
    fn depth_does_not_matter() {
        let deep = format!("{}1{}", r#"[{"a":"#.repeat(200_000), "}]".repeat(200_000));
        assert_eq!(whole(&deep), Some(&*deep));
        assert_eq!(whole(&deep[..deep.len() - 1]), None);
    }

    #[test]
    fn a_text_says_what_it_says() {
        let decode = |text: &str| match Scanner::new(text).scalar() {
            Some(Some(Scalar::Text(text))) => text.decode().map(Cow::into_owned),
            other => panic!("{other:?}"),
        };
        assert_eq!(decode(r#""plain é""#).as_deref(), Some("plain é"));
        assert_eq!(decode(r#""\ud83d\ude00\n\u0041\"""#).as_deref(), Some("😀\nA\""));
        assert_eq!(decode(r#""\ud83d""#), None);
    }

    proptest! {
        /// Texts of what JSON is made of, most of them broken somewhere.
        #[test]
        fn agrees_with_serde(parts in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(vec!["{", "}", "[", "]", ",", ":", "\"", "\\", " ", "\n", "\"a\"", "\"\":", "1", "-", "0", ".",
                "e", "E+", "true", "null", "\\u", "00e9", "\"\\\\\"", "\u{1}", "é", "12345678", "abcdefghijk"]).prop_map(str::to_owned),
            1 => "\\PC{0,12}",
        ], 0..14)) {
            let text = parts.concat();
            prop_assert_eq!(whole(&text), by_serde(&text));
        }

        /// Documents, whole and with one byte changed.
        #[test]
        fn agrees_with_serde_about_nearly_whole_documents(
            texts in prop::collection::vec(any::<String>(), 6),
            number in any::<f64>().prop_filter("finite", |number| number.is_finite()),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let document = serde_json::json!({
                &texts[0]: [texts[1], number, null], &texts[2]: { &texts[3]: texts[4], "n": 12, "b": [true, [], {}] }, "last": texts[5],
            }).to_string();
            prop_assert_eq!(whole(&document), Some(&*document));
            let mut bytes = document.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert_eq!(whole(&text), by_serde(&text));
            }
        }

        #[test]
        fn finds_what_a_look_at_each_byte_finds(bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), 0..=255u8], 0..40), from in 0usize..40) {
            let from = from.min(bytes.len());
            let found = bytes[from..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).map_or(bytes.len(), |at| from + at);
            prop_assert_eq!(special(&bytes, from), found);
        }
    }
}
