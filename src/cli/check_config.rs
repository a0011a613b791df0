//! `hawking check-config` and `hawking print-config`: the configuration, before anything runs with it.

use std::path::PathBuf;

use clap::Args;

use super::Failure;

/// Check a configuration without starting anything
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// The file, TOML or YAML; HAWKING_* environment variables go over it
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Print every setting with its default and what it means
#[derive(Debug, Args)]
pub(super) struct PrintArguments {
    /// Print what this file and the environment come to, without secrets, instead of the defaults
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn check(arguments: CheckArguments) -> Result<(), Failure> {
    Err(Failure::runtime(format_args!("not there yet: {:?}", arguments.config)))
}

pub(super) fn print(arguments: PrintArguments) -> Result<(), Failure> {
    Err(Failure::runtime(format_args!("not there yet: {:?}", arguments.config)))
}
