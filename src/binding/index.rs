//! An index from patterns to what belongs to them: which patterns let a key through, without looking at each.

use super::Pattern;

/// A trie over the words of patterns. `V` is small and copied (an id).
#[derive(Debug, Default)]
pub struct Index<V> {
    _placeholder: Vec<V>,
}

impl<V: Copy + PartialEq> Index<V> {
    /// An empty index.
    pub fn new() -> Self {
        Self { _placeholder: Vec::new() }
    }

    /// Adds a value under a pattern. The same value may stand under several patterns.
    pub fn insert(&mut self, _pattern: &Pattern, _value: V) {
        todo!()
    }

    /// Takes a value away from under a pattern; empty branches go. Returns whether it was there.
    pub fn remove(&mut self, _pattern: &Pattern, _value: V) -> bool {
        todo!()
    }

    /// Calls `found` for each value under a pattern that lets `key` through: once for each such pattern.
    pub fn for_each_match(&self, _key: &str, _found: impl FnMut(V)) {
        todo!()
    }
}
