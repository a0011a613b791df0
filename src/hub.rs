//! What is kept and who reads it. The hub knows neither WebSockets nor gRPC.
//!
//! An [`Account`] has a [log](log): events and control records in one sequence. The upstream appends to it; a
//! [`Subscription`] is a position in a view of it. Pull, not push: no queue, task or copy for each subscriber.
//!
//! What a subscriber is told about losses is derived from the control records alone ([`coverage`], [`gap`]), by the same
//! fold for a live reader and for a replaying one.

mod account;
pub mod coverage;
mod filter;
mod frame;
pub mod gap;
pub mod interest;
pub mod log;
mod payload;
mod reader;
mod start;
mod state;
pub mod subscription;
mod view;

#[cfg(test)]
mod tests;

pub use account::{Account, AccountStatus, Hub};
pub use coverage::{BindingReport, BindingState};
pub use frame::Encodes;
pub use gap::{Gap, GapReason};
pub use interest::Interest;
pub use log::{
    Control, Cursor, Epoch, IncomingEvent, LostBindings, Sequence, UpstreamChange, UpstreamState, Window,
};
pub use subscription::{
    EndReason, EventFilter, FieldFilter, Item, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Start,
    SubscribeError, SubscribeSpec, Subscription,
};
