//! The simulator against recordings of a real blackhole: each is played to it over real sockets, and each answer compared.

mod simulator {
    pub mod deviations;
    pub mod expect;
    pub mod player;
    pub mod recording;
    pub mod wire;

    mod conformance;
    mod handles;
}
