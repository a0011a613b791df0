//! The way out: the accept loop, the body of `Subscribe`, the unary calls.
//!
//! - `listener`: the accept loop. It owns every task that it starts and ends them all.
//! - `connection`: HTTP/2, by the `h2` crate. One task for each connection drives it and all of its calls. `coalesce` stands
//!   below: one write for all that a connection says at once. `tls` stands below that, where it is on.
//! - `services`: which path is served by whom on which listener; the unary calls of consumers, health, reflection. What
//!   operators can do is not here: it takes more than this folder knows of.
//! - `subscribe`: the request half of `Subscribe`. `limits` says what a request may hold.
//! - `content`: what a response consists of. `stream`: that of `Subscribe`, what a subscription yields as messages, up to
//!   the trailers.
//! - `streams`: the streams that are open, and who reads them. `ended`: those that ended lately, and why.
//! - `message`: the hub's types as messages of `hawking.v1`.
//! - `status`: the contract of errors, one function for each condition.

mod coalesce;
mod connection;
mod content;
pub mod ended;
pub(crate) mod limits;
mod listener;
pub(crate) mod message;
mod services;
pub(crate) mod status;
mod stream;
pub mod streams;
mod subscribe;
mod tls;

use std::sync::Arc;

use crate::{
    binding::OptIn,
    clock::SharedClock,
    config::{self, InForce},
    hub::Hub,
    ops::drain::Drain,
    random::SharedRandom,
    telemetry::metrics::Metrics,
};

pub use listener::{Listener, serve_operators};
pub use services::NewServicesError;
pub use tls::{TlsSetupError, check as check_tls};

/// What the gRPC server is made of.
#[derive(Clone)]
pub struct Server {
    /// Its bounds and intervals. (`listen`, `tcp_congestion` and `tls` are not read: they make the [`Listener`].)
    pub settings: InForce<config::Grpc>,
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
    /// Where it lists its streams.
    pub streams: Arc<streams::Streams>,
    /// Where it is counted what happens.
    pub metrics: Arc<Metrics>,
}
