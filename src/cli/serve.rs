//! `hawking serve`: the gateway.

use std::{backtrace::Backtrace, path::PathBuf, pin::pin};

use clap::Args;
use tracing::{error, info, warn};

use super::{Failure, check_config};
use crate::{
    ops::{
        drain::Reason,
        reload::Hangups,
        shutdown::{Signal, Signals},
        watch::Watch,
    },
    telemetry,
    upstream::Seams,
};

mod gateway;

pub use gateway::{Gateway, StartError};

const LONG_ABOUT: &str = "\
Holds one session to blackhole for each configured account and serves its events as gRPC.

It runs until SIGTERM or SIGINT (Ctrl-C), drains, and exits with 0 within `shutdown.grace`: it says that it is not ready, \
goes on serving until others have noticed (`shutdown.endpoint_wait`; after SIGINT it does not wait for that), then tells \
every stream where to resume and ends it. A second signal skips the wait; where streams are ending already it ends \
everything at once, with 1.

Changes of the configuration, and of the files that secrets are in, are taken up while it runs, also on SIGHUP: accounts \
come, change and go, limits and log levels change, and whom a change does not concern does not notice it. A configuration \
that is wrong changes nothing. Each difference is a line in the log, also those that need a restart.

The upstream need not be there at the start, nor stay: hawking tries for ever, and consumers are told how it stands.";

const EXAMPLES: &str = "\
Examples:
  hawking print-config > hawking.toml      all settings, to edit
  hawking check-config --config hawking.toml
  hawking serve --config hawking.toml
  HAWKING_TELEMETRY__LOG_FILTER=debug hawking serve --config hawking.toml

Exit codes:
  0  ended in good order by SIGTERM or SIGINT
  1  it failed: the address is taken, or another signal cut the drain short
  2  the configuration is wrong; each error is printed";

/// Run the gateway
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The configuration, TOML or YAML; HAWKING_* environment variables go over it
    #[arg(long, short, value_name = "FILE", env = "HAWKING_CONFIG")]
    config: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    let (mut watch, config) = Watch::load(arguments.config.clone());
    let config = check_config::to_run_with(config, arguments.config.as_deref())?;
    let logging = telemetry::logging::init(&config.telemetry).map_err(Failure::usage)?;
    // Where logs are collected as JSON, the lines of the default hook would be lost.
    std::panic::set_hook(Box::new(|panic| {
        error!(%panic, backtrace = %Backtrace::capture(), "a panic, which is a defect");
    }));
    // Before anything is started, so that a signal during the start is heeded too.
    let mut signals = Signals::catch().map_err(Failure::runtime)?;
    let mut hangups = Hangups::catch().map_err(Failure::runtime)?;

    let seams = Seams::system(&config.upstream).map_err(Failure::usage)?;
    let tls = config.grpc.tls.is_on();
    info!(version = env!("CARGO_PKG_VERSION"), accounts = config.accounts.len(), "starting");
    let mut gateway = Gateway::start(config, seams).await.map_err(Failure::runtime)?;
    gateway.reload().set_logging(logging);
    announce(&gateway, tls);

    let signal = loop {
        let settings = gateway.reload().running().get().reload.clone();
        let changed = async {
            match settings.watch {
                true => watch.changed(settings.watch_interval).await,
                false => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            signal = signals.next() => break signal,
            () = gateway.failed() => return Err(Failure::runtime("a gRPC server ended by itself; see the log")),
            () = hangups.next() => "SIGHUP",
            () = changed => "a file has changed",
        };
        let reload = async {
            let config = watch.reload().await;
            gateway.reload().apply(config, why).await
        };
        tokio::select! {
            _outcome = reload => {}
            // What goes has not quite gone, say: now all does.
            signal = signals.next() => break signal,
        }
    };
    info!(%signal, "draining");
    let drain = gateway.drain().clone();
    drain.begin(Reason::Shutdown, None);
    if signal == Signal::Interrupt {
        // Who sits at the keyboard has no load balancer that must notice first.
        drain.skip_wait();
    }
    let mut stopping = pin!(gateway.stop());
    loop {
        tokio::select! {
            () = &mut stopping => {
                info!("ended in good order");
                return Ok(());
            }
            signal = signals.next() => {
                if drain.skip_wait() {
                    info!(%signal, "streams end now; another signal cuts them off");
                } else {
                    warn!(%signal, "ending at once: streams are cut off");
                    return Err(Failure::runtime("another signal cut the drain short"));
                }
            }
        }
    }
}

fn announce(gateway: &Gateway, tls: bool) {
    info!(address = %gateway.admin_addr(), "serving AdminService, for operators");
    info!(address = %gateway.grpc_addr(), tls, "serving gRPC");
    if let Some(address) = gateway.http_addr() {
        info!(%address, "serving admin HTTP");
    }
}
