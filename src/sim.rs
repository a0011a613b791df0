//! An upstream to run and to test against: Crossbar and blackhole, faithful to recordings of the real ones.

pub mod traffic;
