//! `hawking demo`: simulator, gateway and a consumer in one process, to be understood in ten seconds.

use std::{
    io::{self, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use secrecy::SecretString;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::Endpoint;

use super::{
    Failure,
    serve::{Gateway, StartError},
    sim::{for_duration, parse_rate},
    tail::{human::Lines, parse_duration},
    terminal::{self, Palette},
};
use crate::{
    binding::AccountId,
    client::{Happening, Refused, Subscriber},
    config::{self, Config, Credentials},
    ops::shutdown::Signals,
    proto::{PayloadFormat, SubscribeRequest, SubscribeResponse, subscribe_response::Kind},
    random::{Random, SeededRandom, SystemRandom},
    sim::{
        Settings, Simulator,
        traffic::{self, Tenant},
    },
    upstream::Seams,
};
use board::Board;
use screen::{Head, Screen};

mod board;
mod screen;

const LONG_ABOUT: &str = "\
Starts a simulated Kazoo with made-up calls, hawking itself, and a consumer that shows the calls in progress: all in this \
process, on loopback, with nothing to install or configure.

While it runs, subscribe from another terminal with the line that is shown. gRPC is on 127.0.0.1:50051 where that is free, \
else on another port; the line has the right one.

On a terminal the calls are shown in a table that is refreshed in place; without one, each event is a line.";

const EXAMPLES: &str = "\
Examples:
  hawking demo
  hawking demo --rate 3                busier
  hawking demo --for 30s | tee calls   lines, for half a minute

Exit codes:
  0  ended by Ctrl-C, SIGTERM, --for or a closed pipe
  1  it failed
  2  the command line is wrong";

/// What the demo's own view subscribes to.
const BINDINGS: [&str; 5] =
    ["call.*.*", "conference.event.*.*", "fax.status.*", "object.*.*", "presence.mwi_updates.*"];
const REFRESH: Duration = Duration::from_millis(250);

/// Show hawking at work on this machine, with made-up calls
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// New calls a second
    #[arg(long, value_name = "CALLS", default_value_t = 0.5, value_parser = parse_rate)]
    rate: f64,
    /// Makes the calls the same each time; without it, they differ
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Where gRPC is served; another port is taken if this one is not free
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)))]
    listen: SocketAddr,
    /// Stop after so long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
}

/// Runs the command.
pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    let mut signals = Signals::catch().map_err(Failure::runtime)?;

    // Nobody reads the record of a demo.
    let settings = Settings { record_limit: 0, ..Settings::default() };
    // An ordinary account, not the master.
    let shown = settings
        .accounts
        .iter()
        .filter(|account| account.parent.is_some())
        .find_map(|account| Some((account.clone(), account.api_keys.first()?.clone())));
    let Some((account, key)) = shown else {
        return Err(Failure::runtime("the simulator has no account to show"));
    };
    let simulator = Simulator::start(settings)
        .await
        .map_err(|error| Failure::runtime(format_args!("cannot start the simulator: {error}")))?;
    let config = config(&simulator, account.id, key, arguments.listen);
    let (gateway, taken) = start_gateway(config).await?;

    let stop = CancellationToken::new();
    let random: Arc<dyn Random> = match arguments.seed {
        Some(seed) => Arc::new(SeededRandom::new(seed)),
        None => Arc::new(SystemRandom),
    };
    let tenants = vec![Tenant::from(&account)];
    let traffic = traffic::generate(simulator.clone(), tenants, arguments.rate, random, stop.clone());
    let traffic = AbortOnDropHandle::new(tokio::spawn(traffic));

    let palette = Palette::of(&io::stdout());
    let head = head(&simulator, &gateway, account.id, taken.then_some(arguments.listen), palette);
    let mut view = View::open(head, palette)?;
    let result = tokio::select! {
        _ = signals.next() => Ok(()),
        () = for_duration(arguments.duration) => Ok(()),
        result = view.follow(gateway.grpc_addr(), account.id) => result,
    };
    // The terminal is given back first: what follows takes a moment.
    view.close();

    stop.cancel();
    gateway.stop().await;
    let traffic = traffic.await;
    simulator.shutdown().await;
    traffic.map_err(|error| Failure::runtime(format_args!("the traffic failed: {error}")))?;
    result
}

fn config(simulator: &Simulator, id: AccountId, key: SecretString, listen: SocketAddr) -> Config {
    let upstream = config::Upstream {
        crossbar_url: simulator.crossbar_url(),
        blackhole_url: simulator.blackhole_url(),
        ..config::Upstream::default()
    };
    let account = config::Account {
        id,
        crossbar_url: None,
        blackhole_url: None,
        credentials: Credentials::ApiKey { key },
        always_on: Vec::new(),
    };
    Config {
        upstream,
        accounts: vec![account],
        hub: config::Hub::default(),
        grpc: config::Grpc { listen, ..config::Grpc::default() },
        admin: config::Admin::default(),
        telemetry: config::Telemetry::default(),
        reload: config::Reload::default(),
        // Nobody depends on the streams of a demo.
        shutdown: config::Shutdown {
            endpoint_wait: Duration::ZERO,
            drain_timeout: Duration::from_secs(2),
            ..config::Shutdown::default()
        },
    }
}

/// Starts the gateway; on a free port where the wanted one is taken, which it tells.
async fn start_gateway(mut config: Config) -> Result<(Gateway, bool), Failure> {
    let seams = Seams::system(&config.upstream).map_err(Failure::runtime)?;
    let mut taken = false;
    loop {
        match Gateway::start(config.clone(), seams.clone()).await {
            Ok(gateway) => return Ok((gateway, taken)),
            Err(StartError::Listen { address, setting, source })
                if source.kind() == io::ErrorKind::AddrInUse && address.port() != 0 =>
            {
                match setting {
                    "admin.grpc_listen" => config.admin.grpc_listen.set_port(0),
                    "admin.http_listen" => {
                        config.admin.http_listen.iter_mut().for_each(|address| address.set_port(0));
                    }
                    _ => {
                        config.grpc.listen.set_port(0);
                        taken = true;
                    }
                }
            }
            Err(error) => return Err(Failure::runtime(error)),
        }
    }
}

/// What runs where, and what to paste next.
fn head(
    simulator: &Simulator,
    gateway: &Gateway,
    account: AccountId,
    taken: Option<SocketAddr>,
    palette: Palette,
) -> Head {
    let Palette { bold, dim, cyan, yellow, reset, .. } = palette;
    let address = gateway.grpc_addr();
    let (crossbar, blackhole) = (simulator.crossbar_url(), simulator.blackhole_url());

    let title = format!("{bold}hawking demo{reset}: made-up calls from a simulated Kazoo. Ctrl-C ends it.");
    let taken = taken.map(|taken| {
        format!("  {yellow}{taken} is taken by another program: hawking took a free port{reset}")
    });
    let invitation =
        format!("{bold}Paste into another terminal{reset} to see the same events as a service would:");
    let grpcurl = format!(
        "{cyan}grpcurl -plaintext -d '{{\"account_id\":\"{account}\",\"bindings\":[\"call.*.*\"],\
         \"payload_format\":\"PAYLOAD_FORMAT_TYPED\"}}' {address} \
         hawking.v1.EventService/Subscribe{reset}"
    );

    let mut short = vec![title.clone()];
    short.extend(taken.clone());
    short.extend([invitation.clone(), grpcurl.clone(), String::new()]);

    let mut full = vec![
        title,
        String::new(),
        format!("  {dim}simulated Kazoo{reset}  {crossbar} and {blackhole}"),
        format!("  {dim}hawking, gRPC{reset}    {bold}{address}{reset}"),
        format!("  {dim}for operators{reset}    {}", gateway.admin_addr()),
    ];
    full.extend(
        gateway.http_addr().map(|address| format!("  {dim}metrics{reset}          http://{address}/metrics")),
    );
    full.extend(taken);
    full.extend([
        String::new(),
        invitation,
        String::new(),
        grpcurl,
        String::new(),
        format!("{dim}or, without grpcurl:{reset}"),
        String::new(),
        format!("{cyan}{} tail --server http://{address} --account {account} 'call.*.*'{reset}", own_name()),
        String::new(),
    ]);
    Head { full, short }
}

/// What this program was called as: `hawking`, or a path where it is not installed.
fn own_name() -> String {
    std::env::args().next().filter(|name| !name.contains(' ')).unwrap_or_else(|| "hawking".into())
}

/// The live view: a table on a terminal, lines elsewhere.
struct View {
    board: Board,
    lines: Lines,
    screen: Option<Screen>,
}

impl View {
    fn open(head: Head, palette: Palette) -> Result<Self, Failure> {
        let screen = if io::stdout().is_terminal() {
            Some(Screen::enter(palette, head).map_err(Failure::runtime)?)
        } else {
            let mut text = head.full.join("\n");
            text.push('\n');
            terminal::ignore_closed_pipe(write(&text)).map_err(Failure::runtime)?;
            None
        };
        Ok(Self {
            board: Board::new(Lines::new(Palette::PLAIN).without_ids()),
            lines: Lines::new(palette),
            screen,
        })
    }

    /// Subscribes like any other consumer, and shows what comes. Ends only if it cannot go on, or nobody looks any more.
    async fn follow(&mut self, server: SocketAddr, account: AccountId) -> Result<(), Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(Failure::runtime)?;
        let request = SubscribeRequest {
            account_id: account.to_string(),
            bindings: BINDINGS.map(str::to_owned).into(),
            payload_format: PayloadFormat::Json.into(),
            client_name: "hawking demo".into(),
            ..SubscribeRequest::default()
        };
        let mut subscriber = Subscriber::new(endpoint, request);
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let written = tokio::select! {
                _ = refresh.tick() => self.refresh(),
                happening = subscriber.next() => match happening {
                    Ok(Happening::Message(message)) => self.show(&message),
                    Ok(Happening::Interrupted { reason, .. } | Happening::StartedOver { reason }) => {
                        self.board.say(&reason);
                        Ok(())
                    }
                    Err(Refused::Request(reason) | Refused::Server(reason) | Refused::Missed(reason)) => {
                        return Err(Failure::Runtime(reason));
                    }
                },
            };
            match written {
                Ok(()) => {}
                Err(error) if terminal::is_closed_pipe(&error) => return Ok(()),
                Err(error) => return Err(Failure::runtime(format_args!("cannot write: {error}"))),
            }
        }
    }

    fn show(&mut self, message: &SubscribeResponse) -> io::Result<()> {
        self.board.fold(message, Instant::now());
        if self.screen.is_some() || matches!(message.kind, Some(Kind::Heartbeat(_))) {
            return Ok(());
        }
        let mut line = self.lines.line(message);
        line.push('\n');
        write(&line)
    }

    fn refresh(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.board.tidy(now);
        match &mut self.screen {
            Some(screen) => screen.draw(&self.board, now),
            None => Ok(()),
        }
    }

    /// Gives the terminal back, and leaves one line there, since the table is gone.
    fn close(&mut self) {
        if self.screen.take().is_some() {
            let Board { total_calls, total_events, gaps, .. } = &self.board;
            // If the terminal is gone, nobody misses it.
            let _ =
                write(&format!("hawking demo: {total_calls} calls, {total_events} events, {gaps} gaps.\n"));
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Binding, OptIn};

    #[test]
    fn the_view_asks_for_what_there_is() {
        for binding in BINDINGS {
            Binding::parse(binding, &OptIn::default()).unwrap();
        }
    }
}
