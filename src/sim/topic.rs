//! Topic matching, twice: as RabbitMQ does it, and as blackhole's own dispatcher does it afterwards.

use smallvec::SmallVec;

/// The words of a topic. Each event is compared with each pattern there is: that must not allocate.
type Words<'a> = SmallVec<[&'a str; 8]>;

/// A topic that is kept, its words told apart.
#[derive(Debug, Clone)]
pub(super) struct Topic(Vec<Box<str>>);

impl Topic {
    pub fn new(text: &str) -> Self {
        Self(text.split('.').map(Box::from).collect())
    }

    /// [`blackhole`], for a topic of which the words are known.
    pub fn meets(&self, other: &[&str]) -> bool {
        let words: Words<'_> = self.0.iter().map(|word| &**word).collect();
        one_way(&words, other) || one_way(other, &words)
    }
}

/// Whether an AMQP topic pattern lets a routing key through: `*` is one word, `#` any number of words, none included.
pub(super) fn amqp(pattern: &str, key: &str) -> bool {
    let pattern: Words<'_> = pattern.split('.').collect();
    let key: Words<'_> = key.split('.').collect();
    amqp_words(&pattern, &key)
}

fn amqp_words(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => (0..=key.len()).any(|skip| amqp_words(rest, &key[skip..])),
        (["*", rest @ ..], [_, key @ ..]) => amqp_words(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && amqp_words(rest, key),
        _ => false,
    }
}

/// Whether blackhole's dispatcher takes two topics for a match. It asks both ways round, so a wildcard in what is
/// *asked* matches too: an action `*` runs every handler (R12), a binding `*.X.*` asks every module (R06).
pub(super) fn blackhole(one: &str, other: &str) -> bool {
    let one: Words<'_> = one.split('.').collect();
    let other: Words<'_> = other.split('.').collect();
    one_way(&one, &other) || one_way(&other, &one)
}

/// One direction of [`blackhole`]. Not quite AMQP: `*` on the right matches any word on the left; after `#` the first
/// word that fits is taken, with a second try only where that word comes again; and a `#` behind another wildcard matches no
/// word (R59, R5-75).
fn one_way(left: &[&str], right: &[&str]) -> bool {
    match (left, right) {
        ([], []) | (["#"], []) => true,
        (["#", "*"], [] | [""]) => false,
        (["#", "*"], [_]) => true,
        (["#", rest @ ..], []) => one_way(rest, &[]),
        ([], _) | (_, [] | [""]) => false,
        (["#" | "*", "#", ..], [_, ..]) => false,
        (["*", left @ ..], [_, right @ ..]) | ([_, left @ ..], ["*", right @ ..]) => one_way(left, right),
        (["#", word, rest @ ..], [first, right @ ..]) if word == first => {
            if one_way(rest, right) {
                return true;
            }
            let mut again = vec!["#"];
            again.extend_from_slice(rest);
            right.contains(word) && one_way(&again, right)
        }
        (["#", "*", ..], [_, right @ ..]) => one_way(&left[1..], right),
        (["#", ..], [_, right @ ..]) => one_way(left, right),
        ([word, left @ ..], [first, right @ ..]) => word == first && one_way(left, right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amqp_is_amqp() {
        for (pattern, key, expected) in [
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("a.#.c", "a.c", true),
            ("a.#.c.*", "a.c.c.d", true),
            ("*", "a.b", false),
        ] {
            assert_eq!(amqp(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn blackhole_asks_both_ways() {
        assert!(blackhole("subscribe", "*"));
        assert!(blackhole("#", "unsubscribe"));
        assert!(!blackhole("*", "foo.bar"), "a dotted action escapes authentication (R12)");
        assert!(blackhole("conference.event.*.A.#.*", "conference.event.add-member.A.conf.call"));
        assert!(!blackhole("conference.event.*.A.#.#", "conference.event.add-member.A.conf.call"));
        assert!(!blackhole("conference.event.*.*.#.*", "conference.event.add-member.A.conf.call"));
        assert!(!blackhole("subscribe", ""));
    }
}
