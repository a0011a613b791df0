//! What can be asked for: bindings, and everything about them that is pure.
//!
//! Three spellings of one idea are kept apart by type:
//!
//! - A [`Binding`] is what a consumer asks for, parsed once at the edge: `call.CHANNEL_CREATE.3a.b@host`, ids plain.
//! - A [`Pattern`] is the same in *key space*: dotted words with `*` and `#` as in AMQP, ids encoded. Each event has one
//!   key there ([`EventKey`]): its routing key without the account, in the spelling of bindings
//!   (`call.ACCOUNT.CHANNEL_CREATE.3a%2Eb` has the key `call.CHANNEL_CREATE.3a%2Eb`;
//!   `doc_created.account%2F...-202611.fax.ID` has `object.doc_created.fax`; `dialog.REALM.1001` has
//!   `presence.dialog.1001`).
//! - An [`UpstreamBinding`] is what is sent to blackhole, with the pattern of all that it brings.
//!
//! [`cover`](cover::cover) goes from a set of the first to the fewest, safest of the last, for a [`Flavour`].

mod account;
pub mod catalogue;
pub mod cover;
pub mod encoding;
mod event_key;
mod grammar;
mod index;
mod kind;
mod pattern;
mod upstream_binding;

pub use account::{AccountId, AccountIdError};
pub use cover::Flavour;
pub use event_key::{EventKey, Owner};
pub use grammar::{Binding, BindingError};
pub use index::Index;
pub use kind::{Kind, OptIn};
pub use pattern::{Pattern, PatternError};
pub use upstream_binding::{NotSendable, UpstreamBinding};
