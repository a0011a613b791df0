//! `hawking serve`: the gateway.

use std::path::PathBuf;

use clap::Args;

use super::Failure;

/// Run the gateway
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration, TOML or YAML; HAWKING_* environment variables go over it
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::runtime(format_args!("not there yet: {:?}", arguments.config)))
}
