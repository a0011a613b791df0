//! `hawking sim`.

use clap::Args;

use super::Failure;

/// Run a simulated Kazoo to test against
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) async fn command(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::runtime("not there yet"))
}
