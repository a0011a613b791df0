//! The `hawking` binary: it only starts the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything can want TLS: rustls has one provider for the process, and some of its users do not choose one.
    // It fails only if there is one already, and then that one is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    hawking::cli::run()
}
