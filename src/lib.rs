//! hawking holds one session to Kazoo's blackhole for each account, takes from it all that its consumers want, and
//! radiates the events as server-streaming gRPC: typed, in order of receipt, resumable, and honest about every loss.
//!
//! # Layout
//!
//! The modules stand in the order in which an event passes through them; arrows between them run one way.
//!
//! - [`binding`]: what can be asked for. Patterns, the catalogue, encoding, cover, the index. Pure: no I/O, no clock.
//! - [`upstream`]: the way in. Crossbar, the WebSocket, the session, and the loop that keeps one for each account.
//! - [`hub`]: what is kept and who reads it. The log, coverage, interest, views, subscriptions, gaps. It knows no
//!   transport.
//! - [`grpc`]: the way out. The accept loop, the body of `Subscribe`, the unary calls.
//! - [`sim`]: an upstream to run and to test against, faithful to recordings of the real one.
//! - [`client`]: a consumer of all this, which resumes by itself. It knows the wire types and nothing else of ours.
//! - [`cli`]: the commands; it wires all the others together.
//!
//! [`config`], [`telemetry`], [`clock`] and [`random`] are leaves.

pub mod binding;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod hub;
pub mod ops;
pub mod random;
pub mod sim;
pub mod telemetry;
pub mod upstream;

/// The wire types of `hawking.v1`, generated from `proto/`.
#[allow(missing_docs, clippy::all, rustdoc::all)]
pub mod proto {
    tonic::include_proto!("hawking.v1");

    /// The encoded `FileDescriptorSet` of all of `proto/`, with comments.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
