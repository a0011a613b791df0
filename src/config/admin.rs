//! The listeners for operators.

use std::net::SocketAddr;

use super::{form::Address, settings::settings};

settings! {
    /// The listeners for operators. Nobody is asked who they are there: keep them on loopback, or behind a NetworkPolicy.
    pub struct Admin {
        /// Where AdminService listens, for `hawking admin` and grpcurl. Consumers never reach it on their own listener.
        grpc_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50052)), as Address;
    }
}
