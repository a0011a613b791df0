//! An index from patterns to what belongs to them: which patterns let a key through, without looking at each.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{Pattern, pattern::key_words};

/// A trie over the words of patterns. `V` is small: an id, or what is shared.
///
/// A key walks down two branches at most for each of its words: the one of that word and the one of `*`. No way through
/// the trie forks at a `#`: one at the end of a pattern belongs to the branch that it hangs on, and patterns with one
/// before the end (no binding of the catalogue gives any) are kept aside and tried one by one. So each pattern is met
/// once, and nothing needs to be allocated to find out.
#[derive(Debug, Clone)]
pub struct Index<V> {
    root: Node<V>,
    /// Patterns with a `#` before the end.
    aside: Vec<(Pattern, Values<V>)>,
}

/// What belongs to one pattern: seldom more than one value, which then needs no way to somewhere else in memory.
type Values<V> = SmallVec<[V; 2]>;

#[derive(Debug, Clone)]
struct Node<V> {
    words: Words<V>,
    star: Option<Box<Node<V>>>,
    /// Of the pattern that ends here.
    here: Values<V>,
    /// Of the pattern that goes on from here with a `#` and nothing else.
    below: Values<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { words: Words::Few(Vec::new()), star: None, here: Values::new(), below: Values::new() }
    }
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { root: Node::default(), aside: Vec::new() }
    }
}

impl<V: PartialEq> Index<V> {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty() && self.aside.is_empty()
    }

    /// Adds a value under a pattern. The same value may stand under several patterns; under one it stands once.
    pub fn insert(&mut self, pattern: &Pattern, value: V) {
        let values = match path(pattern) {
            None => match self.aside.iter().position(|(other, _)| other == pattern) {
                Some(at) => &mut self.aside[at].1,
                None => {
                    self.aside.push((pattern.clone(), Values::new()));
                    let last = self.aside.len() - 1;
                    &mut self.aside[last].1
                }
            },
            Some((words, hash)) => {
                let mut node = &mut self.root;
                for word in words {
                    node = match word {
                        "*" => node.star.get_or_insert_default(),
                        word => node.words.get_or_insert(word),
                    };
                }
                if hash { &mut node.below } else { &mut node.here }
            }
        };
        if !values.contains(&value) {
            values.push(value);
        }
    }

    /// Takes a value away from under a pattern; empty branches go. Returns whether it was there.
    pub fn remove(&mut self, pattern: &Pattern, value: &V) -> bool {
        match path(pattern) {
            None => {
                let Some(at) = self.aside.iter().position(|(other, _)| other == pattern) else {
                    return false;
                };
                let removed = take(&mut self.aside[at].1, value);
                if self.aside[at].1.is_empty() {
                    self.aside.swap_remove(at);
                }
                removed
            }
            Some((words, hash)) => self.root.remove(words, hash, value),
        }
    }

    /// Calls `found` for each value under a pattern that lets `key` through: once for each such pattern.
    pub fn for_each_match(&self, key: &str, mut found: impl FnMut(&V)) {
        self.root.for_each_match(key_words(key), &mut found);
        for (pattern, values) in &self.aside {
            if pattern.matches(key) {
                values.iter().for_each(&mut found);
            }
        }
    }
}

impl<V: PartialEq> Index<V> {
    /// Calls `found` for each value under a pattern that contains `pattern`, and for few others, which the caller has to tell
    /// apart.
    pub fn for_each_around(&self, pattern: &Pattern, found: impl FnMut(&V)) {
        // The pattern's own text, taken for a key, is let through by the pattern (`*` and `#` stand for themselves too), hence
        // by all that contain it.
        self.for_each_match(pattern.as_str(), found);
    }
}

impl<V: PartialEq> Node<V> {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.star.is_none() && self.here.is_empty() && self.below.is_empty()
    }

    fn remove<'a>(&mut self, mut words: impl Iterator<Item = &'a str>, hash: bool, value: &V) -> bool {
        match words.next() {
            None => take(if hash { &mut self.below } else { &mut self.here }, value),
            Some("*") => {
                let Some(node) = &mut self.star else { return false };
                let removed = remove_below(node, &mut words, hash, value);
                if node.is_empty() {
                    self.star = None;
                }
                removed
            }
            Some(word) => {
                let Some(node) = self.words.get_mut(word) else { return false };
                let removed = remove_below(node, &mut words, hash, value);
                if node.is_empty() {
                    self.words.remove(word);
                }
                removed
            }
        }
    }

    fn for_each_match<'a>(
        &self,
        mut words: impl Iterator<Item = &'a str> + Clone,
        found: &mut impl FnMut(&V),
    ) {
        self.below.iter().for_each(&mut *found);
        let Some(word) = words.next() else {
            self.here.iter().for_each(found);
            return;
        };
        if let Some(node) = &self.star {
            node.for_each_match(words.clone(), found);
        }
        if let Some(node) = self.words.get(word) {
            node.for_each_match(words, found);
        }
    }
}

/// One type of iterator for all depths: without it each level of the recursion would be a type of its own.
fn remove_below<V: PartialEq>(
    node: &mut Node<V>,
    words: &mut dyn Iterator<Item = &str>,
    hash: bool,
    value: &V,
) -> bool {
    node.remove(words, hash, value)
}

/// The way to a pattern's place in the trie, and whether a `#` comes behind it. `None` for a pattern that has none.
fn path(pattern: &Pattern) -> Option<(impl Iterator<Item = &str>, bool)> {
    let text = pattern.as_str();
    let (way, hash) = match text
        .strip_suffix('#')
        .and_then(|way| way.strip_suffix('.').or(way.is_empty().then_some(way)))
    {
        Some(way) => (way, true),
        None => (text, false),
    };
    (!key_words(way).any(|word| word == "#")).then(|| (key_words(way), hash))
}

/// What follows on a word. Most places have a handful of followers (there are seven kinds, nine events of calls), and to
/// look at these is quicker than to hash a word; ids go by the thousand.
#[derive(Debug, Clone)]
enum Words<V> {
    Few(Vec<(Box<str>, Node<V>)>),
    Many(HashMap<Box<str>, Node<V>>),
}

impl<V> Words<V> {
    const FEW: usize = 9;

    fn is_empty(&self) -> bool {
        match self {
            Words::Few(list) => list.is_empty(),
            Words::Many(map) => map.is_empty(),
        }
    }

    fn get(&self, word: &str) -> Option<&Node<V>> {
        match self {
            Words::Few(list) => list.iter().find(|(other, _)| **other == *word).map(|(_, node)| node),
            Words::Many(map) => map.get(word),
        }
    }

    fn get_mut(&mut self, word: &str) -> Option<&mut Node<V>> {
        match self {
            Words::Few(list) => list.iter_mut().find(|(other, _)| **other == *word).map(|(_, node)| node),
            Words::Many(map) => map.get_mut(word),
        }
    }

    fn get_or_insert(&mut self, word: &str) -> &mut Node<V> {
        if let Words::Few(list) = self
            && list.len() == Self::FEW
            && !list.iter().any(|(other, _)| **other == *word)
        {
            *self = Words::Many(list.drain(..).collect());
        }
        match self {
            Words::Few(list) => {
                let at = list.iter().position(|(other, _)| **other == *word).unwrap_or(list.len());
                if at == list.len() {
                    list.push((word.into(), Node::default()));
                }
                &mut list[at].1
            }
            Words::Many(map) => map.entry(word.into()).or_default(),
        }
    }

    fn remove(&mut self, word: &str) {
        match self {
            Words::Few(list) => list.retain(|(other, _)| **other != *word),
            Words::Many(map) => _ = map.remove(word),
        }
    }
}

fn take<V: PartialEq>(values: &mut Values<V>, value: &V) -> bool {
    let Some(at) = values.iter().position(|other| other == value) else { return false };
    values.swap_remove(at);
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::pattern::tests::{any_key, any_pattern},
        *,
    };

    fn matches(index: &Index<u32>, key: &str) -> Vec<u32> {
        let mut found = Vec::new();
        index.for_each_match(key, |value| found.push(*value));
        found.sort_unstable();
        found
    }

    #[test]
    fn reports_a_value_once_for_each_of_its_patterns() {
        let mut index = Index::new();
        for text in
            ["call.*.*", "call.CHANNEL_CREATE.*", "call.#", "#", "#.a.#", "#.#", "call.CHANNEL_CREATE.a"]
        {
            index.insert(&Pattern::parse(text).unwrap(), 7);
            index.insert(&Pattern::parse(text).unwrap(), 7);
        }
        assert_eq!(matches(&index, "call.CHANNEL_CREATE.a"), [7; 7]);
        assert_eq!(matches(&index, "a.a"), [7; 3]);
        assert_eq!(matches(&index, ""), [7; 2]);
        assert!(index.remove(&Pattern::parse("#.a.#").unwrap(), &7));
        assert!(!index.remove(&Pattern::parse("#.a.#").unwrap(), &7));
        assert!(!index.remove(&Pattern::parse("call.*").unwrap(), &7));
        assert_eq!(matches(&index, "a.a"), [7; 2]);
    }

    proptest! {
        #[test]
        fn finds_all_that_contain_a_pattern(
            patterns in prop::collection::vec(any_pattern(4), 0..24),
            pattern in any_pattern(4),
        ) {
            let mut index = Index::new();
            for (number, pattern) in patterns.iter().enumerate() {
                index.insert(pattern, number);
            }
            let mut found = Vec::new();
            index.for_each_around(&pattern, |number| found.push(*number));
            for (number, other) in patterns.iter().enumerate() {
                if other.contains(&pattern) {
                    prop_assert!(found.contains(&number), "{} contains {}", other, pattern);
                }
            }
        }

        #[test]
        fn finds_what_a_scan_finds(
            entries in prop::collection::vec((any_pattern(4), 0_u32..4), 0..24),
            removals in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            keys in prop::collection::vec(any_key(5), 1..12),
        ) {
            let mut index = Index::new();
            let mut list: Vec<(Pattern, u32)> = Vec::new();
            for (pattern, value) in &entries {
                index.insert(pattern, *value);
                if !list.contains(&(pattern.clone(), *value)) {
                    list.push((pattern.clone(), *value));
                }
            }
            for removal in removals {
                if entries.is_empty() {
                    break;
                }
                let (pattern, value) = removal.get(&entries);
                let at = list.iter().position(|entry| entry == &(pattern.clone(), *value));
                prop_assert_eq!(index.remove(pattern, value), at.is_some());
                at.map(|at| list.swap_remove(at));
            }
            for key in keys {
                let mut scan: Vec<u32> =
                    list.iter().filter(|(pattern, _)| pattern.matches(&key)).map(|(_, value)| *value).collect();
                scan.sort_unstable();
                prop_assert_eq!(matches(&index, &key), scan);
            }
            for (pattern, value) in list {
                prop_assert!(index.remove(&pattern, &value));
            }
            prop_assert!(index.is_empty(), "no empty branches stay: {:?}", index);
        }
    }
}
