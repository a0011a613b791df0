//! The binary as an operator meets it: what it prints where, and how it exits.

// clippy.toml allows these in test functions alone, not in what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "cli/admin.rs"]
mod admin;
#[path = "cli/bindings.rs"]
mod bindings;
#[path = "cli/config.rs"]
mod config;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/drain.rs"]
mod drain;
#[path = "cli/mistyped.rs"]
mod mistyped;
#[path = "cli/mounted.rs"]
mod mounted;
#[path = "common/numbered.rs"]
mod numbered;
#[path = "cli/process.rs"]
mod process;
#[path = "cli/reload.rs"]
mod reload;
#[path = "cli/reload_at_random.rs"]
mod reload_at_random;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cli/stalled.rs"]
mod stalled;
#[path = "cli/tail.rs"]
mod tail;
#[path = "cli/takeover.rs"]
mod takeover;

use std::{
    ffi::OsStr,
    process::{Command, Output},
};

/// The command line, with no variable of whoever runs the tests, and with an empty store of CA certificates: plain http and
/// ws need none.
fn hawking<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawking"));
    command.env_clear().env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nowhere").args(arguments);
    command
}

/// What a command that ends by itself came to: exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}
