//! The simulator against recordings of a real blackhole: each is played to it over real sockets, and each answer compared.

// What goes wrong in a test's own part should end the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod simulator {
    pub mod deviations;
    pub mod expect;
    pub mod player;
    pub mod recording;
    pub mod unseen;
    pub mod wire;

    mod conformance;
    mod crossbar;
    mod faults;
    mod handles;
    mod protocol;
}
