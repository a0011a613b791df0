//! What is kept and who reads it. The hub knows neither WebSockets nor gRPC.
//!
//! An [`Account`] has a [`log`]: events and control records in one sequence. The upstream appends to it; a
//! [`Subscription`] is a position in a view of it. Pull, not push: no queue, task or copy for each subscriber.
//!
//! What a subscriber is told about losses is derived from the control records alone ([`coverage`], [`gap`]), by the same
//! fold for a live reader and for a replaying one.
//!
//! # Layout
//!
//! As a record passes through:
//!
//! - `roster`: which accounts there are, and whose session serves each. `moves`: that changes while they are read.
//! - `account`: the lock, and what happens outside of it: waking, telling the upstream what is wanted.
//! - `state`: what happens under it. Appending: `interest` finds the views that an event belongs to. Reading: what comes
//!   next for a reader.
//! - [`log`]: `record` and `store`. At its two ends stands the [`coverage`]: at any position between it is that before the
//!   oldest record, with the control records up to there.
//! - `view`: the positions of a view's events, and batches of frames, reserved under the lock, encoded outside by the first
//!   reader that comes, and shared by all that stand at the same place. `filter` and `frame` are what it selects and
//!   writes; `payload` is encoded once for each event and format.
//! - `memory` counts what all of that takes, and `bounds` keeps it within bounds.
//! - `start` finds where a subscription begins, `reader` takes it from there and yields what [`subscription`] declares;
//!   `progress` shows to others how far it is. `reading` is what metrics say of all this.

mod account;
mod bounds;
pub mod coverage;
mod filter;
mod frame;
pub mod gap;
pub mod interest;
pub mod log;
mod memory;
mod moves;
mod payload;
mod progress;
mod reader;
mod reading;
mod roster;
mod start;
mod state;
pub mod subscription;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use frame::category;

pub use account::{Account, AccountStatus, Hub};
pub use coverage::{BindingReport, BindingState};
pub use frame::Encodes;
pub use gap::{Gap, GapReason};
pub use interest::Interest;
pub use log::{
    Control, Cursor, Epoch, EventTexts, IncomingEvent, LostBindings, Sequence, UpstreamChange, UpstreamState,
    Window,
};
pub use memory::{Evictions, HELD_PER_STREAM, MemoryUse};
pub use progress::Progress;
pub use roster::{BranchInterest, BranchOrders, Facts, Listed, Listing, LookupError};
pub use subscription::{
    EndReason, EventFilter, FieldFilter, Item, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start,
    SubscribeError, SubscribeSpec, Subscription,
};
