//! `hawking check-config` and `hawking print-config`: the configuration, before anything runs with it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{Failure, terminal};
use crate::{
    config::{self, Config, ConfigErrors},
    grpc,
};

const CHECK_EXAMPLES: &str = "\
Examples:
  hawking check-config --config hawking.toml
  HAWKING_GRPC__LISTEN=0.0.0.0:50051 hawking check-config --config hawking.toml

Exit codes:
  0  `hawking serve` would start with it
  2  something is wrong; each error is a line: where it was set, the setting,
     what would be right";

/// Check a configuration without starting anything
///
/// Reads the file and the HAWKING_* environment variables as `serve` does, also the files that secrets are read from, the
/// certificate and the key, and reports everything that is wrong at once. It makes no connections: whether the credentials are good is not tried.
#[derive(Debug, Args)]
#[command(after_long_help = CHECK_EXAMPLES)]
pub(super) struct CheckArguments {
    /// The file, TOML or YAML; HAWKING_* environment variables go over it
    #[arg(long, short, value_name = "FILE", env = "HAWKING_CONFIG")]
    config: Option<PathBuf>,
}

const PRINT_EXAMPLES: &str = "\
Examples:
  hawking print-config > hawking.toml           all settings, to edit
  hawking print-config --config hawking.toml    what is in force

Exit codes:
  0  printed
  2  the configuration given is wrong; each error is printed";

/// Print every setting with its default and what it means
///
/// Where a file or any HAWKING_* environment variable sets something: what they come to. Secrets are not shown.
#[derive(Debug, Args)]
#[command(after_long_help = PRINT_EXAMPLES)]
pub(super) struct PrintArguments {
    /// Print what this file and the environment come to
    #[arg(long, short, value_name = "FILE", env = "HAWKING_CONFIG")]
    config: Option<PathBuf>,
}

/// Runs `check-config`.
pub(super) fn check(arguments: CheckArguments) -> Result<(), Failure> {
    let config = load(arguments.config)?;
    let count = config.accounts.len();
    let accounts = if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") };
    let tls = if config.grpc.tls.is_on() { " with TLS" } else { "" };
    write(&format!("The configuration is valid: {accounts}, gRPC on {}{tls}.\n", config.grpc.listen))
}

/// Runs `print-config`.
pub(super) fn print(arguments: PrintArguments) -> Result<(), Failure> {
    let text = if arguments.config.is_some() || config::is_set_by(config::environment()) {
        let config = Config::load(arguments.config.as_deref(), config::environment());
        config.map_err(Failure::usage)?.redacted_toml()
    } else {
        config::reference()
    };
    write(&text)
}

/// Reads a configuration that something is to be run with.
fn load(path: Option<PathBuf>) -> Result<Config, Failure> {
    to_run_with(Config::load(path.as_deref(), config::environment()), path.as_deref())
}

/// What was read, if something can be run with it; `path` is that of the file, where one was given.
pub(super) fn to_run_with(
    config: Result<Config, ConfigErrors>,
    path: Option<&Path>,
) -> Result<Config, Failure> {
    let config = config.map_err(Failure::usage)?;
    if config.accounts.is_empty() {
        let none = "no account is configured, so there would be nothing to serve";
        let how = "`hawking print-config` shows how to write one";
        return Err(Failure::usage(match path {
            Some(path) => format!("{}: {none}: add a section [[accounts]]; {how}", path.display()),
            None => format!("{none}: give --config FILE; {how}"),
        }));
    }
    grpc::check_tls(&config.grpc.tls).map_err(Failure::usage)?;
    Ok(config)
}

fn write(text: &str) -> Result<(), Failure> {
    terminal::ignore_closed_pipe(io::stdout().write_all(text.as_bytes())).map_err(Failure::runtime)
}
