//! The way out: the accept loop, the body of `Subscribe`, the unary calls.
//!
//! - `listener`: connections. It owns every task that it starts and ends them all.
//! - `services`: which path is served by whom; the unary calls, health, reflection.
//! - `subscribe`: the request half of `Subscribe`. `limits` says what a request may hold.
//! - `stream`: the response half: what a subscription yields as messages, up to the trailers. Only its end knows what
//!   writes them to the wire.
//! - `message`: the hub's types as messages of `hawking.v1`.
//! - `status`: the contract of errors, one function for each condition.

mod limits;
mod listener;
mod message;
mod services;
mod status;
mod stream;
mod subscribe;

use std::{sync::Arc, time::Duration};

use crate::{binding::OptIn, clock::SharedClock, config, hub::Hub};

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
    /// How long streams and connections have to end, once it drains.
    pub grace: Duration,
}
