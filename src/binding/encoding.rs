//! The encoding of ids in routing keys, as Kazoo's `kz_amqp_util:encode/1` does it.
//!
//! Byte by byte: unreserved characters stay, a space becomes `+`, all others `%XX` in upper case; `.` is `%2E` and `@` is
//! `%40`. Any other spelling is accepted by blackhole with success and then delivers nothing (F28).

use std::borrow::Cow;

/// Encodes an id for use as one word of a routing key.
pub fn encode(_plain: &str) -> Cow<'_, str> {
    todo!()
}

/// Decodes one word of a routing key. Malformed escapes stay as they are; bytes that are no UTF-8 are replaced.
pub fn decode(_encoded: &str) -> Cow<'_, str> {
    todo!()
}
