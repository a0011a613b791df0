//! What consumers want from an account: counted, with a linger after the last one left.

use std::collections::BTreeSet;

use crate::binding::Binding;

/// The bindings that are wanted at one moment: those of the open subscriptions, those that linger, those always on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// In order of their text.
    pub bindings: BTreeSet<Binding>,
}
