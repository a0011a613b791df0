//! The recent past of one account: events and control records in one sequence, bounded by bytes, count and age.
//!
//! Here stand the words that upstream and consumers speak, an event's in `incoming`; `record` is what is kept, `store` how.

mod incoming;
pub(super) mod record;
pub(super) mod store;

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use crate::binding::{Flavour, UpstreamBinding};

use super::gap::GapReason;

pub use self::incoming::{EventTexts, IncomingEvent};

/// The identity of a log: a new one begins if and only if the log's identity is lost. Shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// A position in a log. The first record has 1; 0 is the position before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// A position and the log that it is in. As text: `EPOCH:SEQUENCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which log.
    pub epoch: Epoch,
    /// Where in it.
    pub sequence: Sequence,
}

/// The text is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is EPOCH:SEQUENCE: 16 hex digits, a colon, a number")]
pub struct CursorError;

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Epoch {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(CursorError);
        }
        u64::from_str_radix(text, 16).map(Epoch).map_err(|_| CursorError)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.sequence.0)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, sequence) = text.split_once(':').ok_or(CursorError)?;
        let sequence = sequence.parse().map(Sequence).map_err(|_| CursorError)?;
        Ok(Self { epoch: epoch.parse()?, sequence })
    }
}

/// How the upstream of an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamState {
    /// Logging in, connecting, or binding for the first time on this session.
    Connecting,
    /// A session is open and all that is wanted is bound.
    Live,
    /// A session is open; something that is wanted is not bound.
    Degraded,
    /// No session; the account loop tries again by itself.
    Down,
}

/// A change of the upstream's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChange {
    /// The new state.
    pub state: UpstreamState,
    /// What the upstream was found to be, once it is known.
    pub flavour: Option<Flavour>,
    /// The last sign of life from the session, if there was any.
    pub last_life: Option<SystemTime>,
    /// Why, in words for people. Never a secret, never upstream's raw text.
    pub detail: Arc<str>,
}

/// Which bindings were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostBindings {
    /// All that are held.
    All,
    /// These.
    These(Vec<UpstreamBinding>),
}

/// What happened to an account's coverage: the only source of gaps and of `UpstreamStatus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The upstream's state changed.
    Upstream(UpstreamChange),
    /// Upstream holds the binding for us from now on.
    Confirmed {
        /// Which.
        binding: UpstreamBinding,
    },
    /// Events of these bindings were or may have been lost from `since` on.
    Lost {
        /// Which. Those that are not confirmed at this point are not affected.
        bindings: LostBindings,
        /// Why.
        reason: GapReason,
        /// The last proof of life before the loss; not the moment of its detection.
        since: SystemTime,
    },
    /// Upstream refuses the binding.
    Refused {
        /// Which.
        binding: UpstreamBinding,
        /// Why: one of our own texts, scrubbed.
        reason: Arc<str>,
    },
    /// Nobody wants the binding any more: nothing is appended for it from here on, whatever upstream still sends.
    Dropped {
        /// Which.
        binding: UpstreamBinding,
    },
}

impl UpstreamChange {
    /// What is said of an upstream before its account loop has said anything.
    pub(super) fn unknown() -> Self {
        Self {
            state: UpstreamState::Connecting,
            flavour: None,
            last_life: None,
            detail: "not connected yet".into(),
        }
    }
}

impl Sequence {
    /// The position after it.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before it; 0 stays 0.
    pub(super) fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The part of a log that is there, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The log's identity.
    pub epoch: Epoch,
    /// Resuming after this position works: the one before the oldest record.
    pub oldest: Sequence,
    /// The newest record, or `oldest` of an empty log.
    pub newest: Sequence,
    /// When the oldest record was received.
    pub oldest_time: Option<SystemTime>,
}
