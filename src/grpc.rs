//! The way out: the accept loop, the body of `Subscribe`, the unary calls.
//!
//! - `listener`: the accept loop. It owns every task that it starts and ends them all.
//! - `connection`: HTTP/2, by the `h2` crate. One task for each connection drives it and all of its calls. `coalesce` stands
//!   below: one write for all that a connection says at once.
//! - `services`: which path is served by whom; the unary calls, health, reflection.
//! - `subscribe`: the request half of `Subscribe`. `limits` says what a request may hold.
//! - `content`: what a response consists of. `stream`: that of `Subscribe`, what a subscription yields as messages, up to
//!   the trailers.
//! - `ended`: the streams that ended lately, and why.
//! - `message`: the hub's types as messages of `hawking.v1`.
//! - `status`: the contract of errors, one function for each condition.

mod coalesce;
mod connection;
mod content;
pub mod ended;
mod limits;
mod listener;
mod message;
mod services;
mod status;
mod stream;
mod subscribe;

use std::sync::Arc;

use crate::{binding::OptIn, clock::SharedClock, config, hub::Hub, ops::drain::Drain, random::SharedRandom};

pub use services::NewServicesError;

/// What the gRPC server is made of.
#[derive(Clone)]
pub struct Server {
    /// Its bounds and intervals. (`listen` is not read: the caller binds.)
    pub settings: config::Grpc,
    /// The accounts.
    pub hub: Arc<Hub>,
    /// The kinds of binding that are off unless they are here.
    pub opt_in: OptIn,
    /// For the times in heartbeats.
    pub clock: SharedClock,
    /// For the ages of streams.
    pub random: SharedRandom,
    /// When it ends, and how.
    pub drain: Drain,
    /// Where it keeps the streams that ended.
    pub ended: Arc<ended::EndedStreams>,
}
