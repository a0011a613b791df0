//! Gaps: derived from control records for the bindings of one subscription.

use std::{sync::Arc, time::SystemTime};

use super::log::Sequence;

/// Why events may be missing. As in `hawking.v1.GapReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The session ended or died.
    UpstreamDisconnected,
    /// The binding was not held upstream in that stretch.
    BindingPending,
    /// Evidence of loss although the session was open.
    UpstreamLoss,
    /// A rotation whose barrier never came.
    Rotation,
    /// Month-bound bindings at the turn of the month.
    MonthTurn,
    /// The consumer was too slow and chose to skip.
    SlowConsumer,
    /// The requested start is older than the log.
    ReplayWindowExceeded,
    /// The requested cursor is of another log.
    EpochChanged,
}

/// A stretch in which events for one subscription were or may have been lost; opened, and closed binding by binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The sequence at which it opened: the same in the message that opens it and in those that close it.
    pub id: u64,
    /// Why.
    pub reason: GapReason,
    /// The last position before it.
    pub after: Sequence,
    /// The first position after it; `None` while it lasts.
    pub before: Option<Sequence>,
    /// The last proof of life before it.
    pub start_time: SystemTime,
    /// The bindings' own confirmation; `None` while it lasts.
    pub end_time: Option<SystemTime>,
    /// Canonical texts of the subscription's bindings that it concerns.
    pub bindings: Vec<Arc<str>>,
    /// How many events were lost, where that is known.
    pub lost_count: Option<u64>,
}
