//! The encoding of ids in routing keys, as Kazoo's `kz_amqp_util:encode/1` does it.
//!
//! Byte by byte: letters, digits, `-`, `_` and `~` stay, a space becomes `+`, all others `%XX` in upper case; `.` is
//! `%2E` and `@` is `%40`. An id that is `*` or `#` and nothing else stays as it is. Any other spelling is accepted by
//! blackhole with success and then delivers nothing (F28).

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Whether Kazoo leaves the byte as it is.
fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')
}

/// Encodes an id for use as one word of a routing key.
///
/// `*` and `#` alone come back as they are, as in Kazoo: whoever encodes an id for a *pattern* has to refuse these two
/// first.
pub fn encode(plain: &str) -> Cow<'_, str> {
    if plain.bytes().all(is_safe) || plain == "*" || plain == "#" {
        return Cow::Borrowed(plain);
    }
    let mut encoded = String::with_capacity(plain.len() + 16);
    for byte in plain.bytes() {
        match byte {
            byte if is_safe(byte) => encoded.push(byte.into()),
            b' ' => encoded.push('+'),
            byte => {
                encoded.push('%');
                encoded.push(HEX[usize::from(byte >> 4)].into());
                encoded.push(HEX[usize::from(byte & 0xF)].into());
            }
        }
    }
    Cow::Owned(encoded)
}

/// Decodes one word of a routing key. Malformed escapes stay as they are; bytes that are no UTF-8 are replaced.
pub fn decode(encoded: &str) -> Cow<'_, str> {
    if !encoded.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(encoded);
    }
    let mut rest = encoded.as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'+' => plain.push(b' '),
            b'%' => match escaped(tail) {
                Some(byte) => {
                    plain.push(byte);
                    rest = &tail[2..];
                }
                None => plain.push(b'%'),
            },
            byte => plain.push(byte),
        }
    }
    Cow::Owned(
        String::from_utf8(plain).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()),
    )
}

/// Whether `word` is what [`encode`] could have made.
pub fn is_encoded(word: &str) -> bool {
    let mut rest = word.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'%' if tail.len() >= 2 && tail[..2].iter().all(|digit| HEX.contains(digit)) => &tail[2..],
            byte if byte == b'+' || is_safe(byte) => tail,
            _ => return word == "*" || word == "#",
        };
    }
    true
}

/// The word in the one spelling that [`encode`] gives, whatever spelling it came in.
pub fn normalize(word: &str) -> Cow<'_, str> {
    if is_encoded(word) { Cow::Borrowed(word) } else { Cow::Owned(encode(&decode(word)).into_owned()) }
}

/// The byte whose two hex digits `tail` begins with.
fn escaped(tail: &[u8]) -> Option<u8> {
    let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spells_ids_as_kazoo_does() {
        // The first six are the cases of Kazoo's own test of `encode/1`, the others come from R07, R16, R18 and R19.
        for (plain, encoded) in [
            ("#", "#"),
            ("*", "*"),
            ("key", "key"),
            ("routing.key", "routing%2Ekey"),
            ("long.routing.key", "long%2Erouting%2Ekey"),
            ("test&.192. 168. 5. 5#", "test%26%2E192%2E+168%2E+5%2E+5%23"),
            ("3a9b.7c@192.168.1.10", "3a9b%2E7c%40192%2E168%2E1%2E10"),
            ("a.b@c", "a%2Eb%40c"),
            ("wefwefwefwef.2600hz.com", "wefwefwefwef%2E2600hz%2Ecom"),
            ("account/ac/co/unt2", "account%2Fac%2Fco%2Funt2"),
            ("plain_call-id~1", "plain_call-id~1"),
            ("é", "%C3%A9"),
            ("50%", "50%25"),
            ("a+b", "a%2Bb"),
            ("*97", "%2A97"),
            ("", ""),
        ] {
            assert_eq!(encode(plain), encoded);
            assert_eq!(decode(encoded), plain);
            assert!(is_encoded(encoded), "{encoded}");
        }
    }

    #[test]
    fn decodes_what_kazoo_would_not_write() {
        assert_eq!(decode("a%2eb"), "a.b");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%4"), "%4");
        assert_eq!(decode("%zz%41"), "%zzA");
        assert_eq!(decode("%FF"), "\u{FFFD}");
        assert_eq!(normalize("a%2eb@c"), "a%2Eb%40c");
        // Not to be repaired: there is no text for this byte.
        assert_eq!(normalize("%FF"), "%FF");
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(id in any::<String>()) {
            let encoded = encode(&id).into_owned();
            prop_assert!(is_encoded(&encoded));
            prop_assert!(!encoded.contains('.'));
            prop_assert_eq!(normalize(&encoded), encoded.as_str());
            prop_assert_eq!(decode(&encoded), id);
        }

        #[test]
        fn normal_form_is_encoded_and_means_the_same(word in "[a%2eE.@+* é]{0,8}") {
            let normal = normalize(&word).into_owned();
            prop_assert!(is_encoded(&normal));
            prop_assert_eq!(decode(&normal), decode(&word));
        }
    }
}
