//! The `hawking` binary: it only starts the command line.

fn main() {}
