//! The commands. Each is a file of its own; this one reads the command line and turns what comes back into an exit code.

use std::{fmt::Display, future::Future, io, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

mod admin;
mod bindings;
mod check_config;
mod demo;
pub mod serve;
mod sim;
mod tail;
mod terminal;

const ABOUT: &str = "\
hawking holds one session to Kazoo's blackhole for each account and streams its events to any number of services as gRPC.

Three commands to start with:

  demo   everything at once on this machine, with made-up calls: look at it first
  serve  the gateway itself, for a real Kazoo
  tail   look into the event stream of a running gateway";

const EXAMPLES: &str = "\
Examples:
  hawking demo
  hawking print-config > hawking.toml
  hawking check-config --config hawking.toml
  hawking serve --config hawking.toml
  hawking tail --account ACCOUNT_ID 'call.*.*'
  hawking bindings list
  hawking admin subscribers

Exit codes:
  0  all went well, or it was ended by Ctrl-C or SIGTERM and ended in good order
  1  it failed while running
  2  the command line or the configuration is wrong; nothing was started
Some commands have more: see their --help.

Colours are used on a terminal only, and never where NO_COLOR is set.";

#[derive(Debug, Parser)]
#[command(name = "hawking", version, about = "Streams Kazoo's events as gRPC", long_about = ABOUT)]
#[command(after_long_help = EXAMPLES, arg_required_else_help = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Demo(demo::Arguments),
    Sim(sim::Arguments),
    Tail(Box<tail::Arguments>),
    Admin(admin::Arguments),
    Bindings(bindings::Arguments),
    CheckConfig(check_config::CheckArguments),
    PrintConfig(check_config::PrintArguments),
    /// Print the completions for a shell
    ///
    /// Example: hawking completions bash > /etc/bash_completion.d/hawking
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Why a command did not succeed, in words for people; the variant decides the exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The command line or the configuration is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It failed while running: exit code 1.
    #[error("{0}")]
    Runtime(String),
    /// The server no longer has what came after the cursor: exit code 3.
    #[error("{0}")]
    Missed(String),
}

impl Failure {
    fn usage(what: impl Display) -> Self {
        Self::Usage(what.to_string())
    }

    fn runtime(what: impl Display) -> Self {
        Self::Runtime(what.to_string())
    }
}

/// Reads the command line, runs the command, and gives the exit code: 0 for success, 1 for a failure while running, 2 for
/// a wrong command line or configuration, 3 where `tail` cannot go on after its cursor.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are "errors" of clap too, with exit code 0. A closed pipe behind `--help` is no concern.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let result = match arguments.command {
        Command::Serve(arguments) => block_on(serve::command(arguments)),
        Command::Demo(arguments) => block_on(demo::command(arguments)),
        Command::Sim(arguments) => block_on(sim::command(arguments)),
        Command::Tail(arguments) => block_on(tail::command(*arguments)),
        Command::Admin(arguments) => block_on(admin::command(arguments)),
        Command::Bindings(arguments) => bindings::command(arguments),
        Command::CheckConfig(arguments) => check_config::check(arguments),
        Command::PrintConfig(arguments) => check_config::print(arguments),
        Command::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal::error(&failure);
            ExitCode::from(match failure {
                Failure::Usage(_) => 2,
                Failure::Runtime(_) => 1,
                Failure::Missed(_) => 3,
            })
        }
    }
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format_args!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(command);
    // Dropped, it would wait for threads that are looking up the name of a host that is not there; nothing of ours is left.
    runtime.shutdown_background();
    result
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hawking", &mut script);
    terminal::ignore_closed_pipe(io::Write::write_all(&mut io::stdout(), &script)).map_err(Failure::runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        let command = Arguments::command();
        let within = command.get_subcommands().flat_map(clap::Command::get_subcommands);
        for command in command.get_subcommands().chain(within) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} of {} has no help",
                    argument.get_id(),
                    command.get_name()
                );
            }
        }
    }
}
