//! The listeners for operators and their tools.

use std::net::SocketAddr;

use super::{
    form::{Address, OrOff},
    settings::settings,
};

settings! {
    /// The listeners for operators and their tools. Nobody is asked who they are there: keep them on loopback, or behind a
    /// NetworkPolicy.
    pub struct Admin {
        /// Where AdminService listens, for `hawking admin` and grpcurl. Consumers never reach it on their own listener.
        grpc_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 50052)), as Address, fixed;
        /// Plain HTTP with /livez, /readyz, /metrics and /config (without secrets), all of it to look at only. In Kubernetes
        /// "0.0.0.0:9090", where probes and Prometheus reach it.
        http_listen: Option<SocketAddr> = Some(SocketAddr::from(([127, 0, 0, 1], 9090))), as OrOff(Address), fixed;
    }
}
