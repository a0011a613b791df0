//! `hawking demo`.

use clap::Args;

use super::Failure;

/// Show hawking at work on this machine, with made-up calls
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) async fn command(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::runtime("not there yet"))
}
