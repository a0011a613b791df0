//! One consumer's stream: what it asks for, and what it yields. [`Subscription`] itself is a position in a view.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::binding::Binding;

use super::{
    coverage::BindingReport,
    gap::Gap,
    log::{Cursor, Sequence, UpstreamChange, Window},
};

pub use super::reader::Subscription;

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From now on.
    Live,
    /// Exactly after a cursor.
    After(Cursor),
    /// With the first record received at or after a time.
    At(SystemTime),
}

/// What to do where the start lies outside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayMissPolicy {
    /// Refuse.
    #[default]
    Fail,
    /// Start at the oldest record, with a gap.
    Gap,
}

/// What to do when the log overtakes the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverflowPolicy {
    /// End the subscription.
    #[default]
    Disconnect,
    /// Go on at the oldest record, with a gap.
    Skip,
}

/// The form of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PayloadFormat {
    /// The raw object as a string.
    #[default]
    Json,
    /// A message for the category.
    Typed,
    /// A `google.protobuf.Struct`.
    Struct,
    /// None.
    None,
}

/// Narrows down events; all conditions hold, lists are met by any entry. Sorted and without repeats, so that equal
/// filters are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventFilter {
    /// Event names.
    pub names: Vec<String>,
    /// Call ids, plain.
    pub call_ids: Vec<String>,
    /// Fields of the payload.
    pub fields: Vec<FieldFilter>,
}

/// Holds when the payload's field equals one of the values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldFilter {
    /// Keys from the payload's root.
    pub path: Vec<String>,
    /// Compared with the field's text; for numbers and booleans with their JSON text.
    pub values: Vec<String>,
}

/// What a consumer asks for, parsed.
#[derive(Debug, Clone)]
pub struct SubscribeSpec {
    /// Sorted, without repeats, at least one.
    pub bindings: Vec<Binding>,
    /// The filter.
    pub filter: EventFilter,
    /// The form of the payload.
    pub format: PayloadFormat,
    /// Where to start.
    pub start: Start,
    /// What to do where the start lies outside the log.
    pub miss_policy: ReplayMissPolicy,
    /// What to do when the log overtakes the reader.
    pub overflow_policy: OverflowPolicy,
    /// At least one item in each such interval.
    pub heartbeat_interval: Duration,
    /// Refuse the whole if any binding is refused upstream.
    pub require_all_bindings: bool,
}

/// Why a subscription could not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The cursor's sequence lies above the newest record.
    #[error("the cursor lies above the newest record, {}", window.newest.0)]
    CursorAboveNewest {
        /// What there is.
        window: Window,
    },
    /// The start lies in the future.
    #[error("start_time lies in the future")]
    TimeInFuture {
        /// What there is.
        window: Window,
    },
    /// The start is older than the log.
    #[error("the start is older than the log")]
    WindowExceeded {
        /// What there is.
        window: Window,
    },
    /// The cursor is of another log.
    #[error("the cursor is of another log: its epoch is not {}", window.epoch)]
    EpochChanged {
        /// What there is.
        window: Window,
    },
    /// Upstream refuses bindings, and all were required.
    #[error("upstream refuses a binding")]
    BindingsRefused(Vec<BindingReport>),
    /// No more subscriptions are let in.
    #[error("there are {limit} subscriptions already")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The account was removed.
    #[error("the account is gone")]
    AccountGone,
}

/// Why a subscription ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The log overtook the reader (policy DISCONNECT): the last position delivered, and how many records it was behind.
    SlowConsumer {
        /// The last position passed.
        last: Cursor,
        /// Records between it and the newest.
        lag: u64,
    },
    /// The account was removed.
    AccountGone,
}

/// What a subscription yields, in order of sequence.
#[derive(Debug, Clone)]
pub enum Item {
    /// Events, encoded as `SubscribeResponse` messages in gRPC length-prefixed framing (one byte 0, four bytes of length,
    /// the message), back to back. Shared between all subscriptions of the view.
    Events {
        /// The framed messages.
        frames: Bytes,
        /// How many.
        count: u32,
        /// The position that the reader has passed with them.
        position: Sequence,
    },
    /// A gap opened or closed.
    Gap(Gap),
    /// The upstream's state, or the state of one of the bindings, changed.
    Upstream {
        /// The upstream's state.
        change: UpstreamChange,
        /// Since when.
        since: SystemTime,
        /// Where in the log.
        position: Sequence,
        /// How the subscription's bindings stand: all of them where the upstream's own state changed, else those whose
        /// state or upstream binding changed.
        bindings: Vec<BindingReport>,
    },
    /// Nothing for a whole interval; the reader has passed `position`.
    Heartbeat {
        /// Everything of this subscription up to here was yielded before.
        position: Sequence,
    },
    /// The subscription is over; nothing follows.
    End(EndReason),
}
