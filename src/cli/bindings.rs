//! `hawking bindings`: what can be subscribed to, and what a binding means. No server is needed.

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::{
    Failure,
    terminal::{self, Palette},
};
use crate::binding::{Flavour, catalogue};

mod explain;
mod sample;
mod text;

use explain::Explanation;

const EXPLAIN_ABOUT: &str = "\
Says what a binding lets through, with examples of routing keys; what hawking sends upstream for it, for each flavour of \
Kazoo; and what to know before relying on it. Where it is refused, it says why, and what would be right.

Several bindings are explained one by one, and then what is sent upstream for all of them together: an account's session \
holds the fewest bindings that contain what its consumers want.";

const EXPLAIN_EXAMPLES: &str = "\
Examples (quote the bindings: the shell would expand the stars):
  hawking bindings explain 'call.CHANNEL_CREATE.*'
  hawking bindings explain --flavour k5 'conference.event.*.*'
  hawking bindings explain --json 'object.*.fax' | jq '.bindings[0].caveats'

Exit codes:
  0  a gateway with default settings serves it
  1  it refuses at least one of them, or the flavour asked for does not have it
  2  the command line is wrong";

const LIST_EXAMPLES: &str = "\
Examples:
  hawking bindings list
  hawking bindings list --json | jq -r '.[].examples[]'

Exit codes:
  0  printed";

/// Explain what can be subscribed to
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what a binding matches, what is sent upstream for it, and its traps
    #[command(long_about = EXPLAIN_ABOUT, after_long_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// What a consumer would ask for, such as 'call.*.*'
        #[arg(required = true, value_name = "BINDING")]
        bindings: Vec<String>,
        /// Only this flavour of Kazoo: k4, 4.3 or k5
        #[arg(long, value_name = "FLAVOUR", value_parser = parse_flavour)]
        flavour: Option<Flavour>,
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// List the kinds of binding, with examples to paste
    #[command(after_long_help = LIST_EXAMPLES)]
    List {
        /// Print JSON, for scripts: an array of kinds
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub(super) fn command(arguments: Arguments) -> Result<(), Failure> {
    let palette = Palette::of(&io::stdout());
    match arguments.command {
        Command::Explain { bindings, flavour, json } => {
            let flavours = flavour.map_or(Flavour::ALL.to_vec(), |flavour| vec![flavour]);
            let explanation = Explanation::of(&bindings, &flavours);
            write(&if json { pretty(&explanation)? } else { text::explanation(&explanation, palette) })?;
            match explanation.unserved() {
                None => Ok(()),
                Some(what) => Err(Failure::runtime(what)),
            }
        }
        Command::List { json: true } => {
            let types: Vec<_> = catalogue::TYPES.iter().map(explain::Type::of).collect();
            write(&pretty(&types)?)
        }
        Command::List { json: false } => write(&text::list(palette)),
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(Failure::runtime)?;
    text.push('\n');
    Ok(text)
}

fn write(text: &str) -> Result<(), Failure> {
    terminal::ignore_closed_pipe(io::stdout().write_all(text.as_bytes())).map_err(Failure::runtime)
}

/// The flavour of that name.
pub(super) fn parse_flavour(text: &str) -> Result<Flavour, String> {
    Flavour::parse(text).ok_or_else(|| "k4, 4.3 or k5".into())
}
