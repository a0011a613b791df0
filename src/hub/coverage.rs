//! What upstream holds for an account, folded from control records.

use std::{sync::Arc, time::SystemTime};

/// How a consumer's binding stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingState {
    /// Upstream has confirmed a binding that contains it.
    Active,
    /// Not confirmed (yet, or again).
    Pending,
    /// Upstream refuses it; why.
    Refused(Arc<str>),
}

/// A consumer's binding, how it stands, and what serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingReport {
    /// Canonical text.
    pub binding: Arc<str>,
    /// How it stands.
    pub state: BindingState,
    /// The upstream binding that serves it, as it is sent.
    pub upstream_binding: Option<Arc<str>>,
    /// The last confirmation, or the last event of the binding that serves it.
    pub proven: Option<SystemTime>,
}
