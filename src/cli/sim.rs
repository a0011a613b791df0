//! `hawking sim`: the simulated Kazoo, for tests of hawking's users and ours.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use secrecy::ExposeSecret;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Failure,
    bindings::parse_flavour,
    tail::parse_duration,
    terminal::{self, Palette},
};
use crate::{
    binding::Flavour,
    ops::shutdown::Signals,
    random::{Random, SeededRandom, SystemRandom},
    sim::{
        Settings, Simulator,
        blast::{Addresses, Blast},
        traffic::{self, Tenant},
    },
};

const LONG_ABOUT: &str = "\
Runs what hawking needs of a Kazoo: Crossbar (login) and blackhole (the event WebSocket), faithful to recordings of the real \
ones, with made-up call traffic. Test your own services with it: start it, point hawking at it, and publish the events that \
your test wants on the control API.

The credentials are printed. They are constants and protect nothing: keep the addresses on loopback.";

const EXAMPLES: &str = "\
Examples:
  hawking sim                          one call every two seconds
  hawking sim --rate 20 --seed 7       busy, and the same each time
  hawking sim --rate 0                 silent: only what you publish yourself
  hawking sim --flavour k5             as Kazoo 5 behaves
  hawking sim --control 127.0.0.1:0    a free port, printed

The control API, on the control address; each verb is a POST of JSON, as in
  curl -X POST 127.0.0.1:5580/delay -d '{\"ms\": 200}'

  /publish   make an event: {\"api\": \"call_event\", \"event\": {..}} with the AMQP
             payload; also conference_event, fax_status, doc_update,
             presence_update, presence_dialog, presence_mwi_update
  /sessions  who is connected, with the numbers that \"connection\" takes
  /cut       drop TCP connections without a close frame: \"connection\"; none: all
  /month     turn the month: \"year\", \"month\"; none: back to today
  /app       {\"action\": \"restart_listener_srv\"}: go deaf in silence

Things go wrong on demand, until /heal; what each takes:
  /close             \"code\", \"connection\"; none: all, with 1000
  /freeze, /thaw     \"connection\"; none: all
  /delay             \"ms\", \"jitter_ms\"
  /reorder           \"probability\" (0 to 1), \"ms\"
  /duplicate         \"probability\"
  /drop_replies      \"every\" (1: all) or \"probability\"
  /bind_late         \"ms\"
  /restart_listener  \"node\"; none: all
  /broker_outage     \"seconds\"; none: until healed
  /unsubscribe       \"account_id\", \"binding\"
  /refuse_tokens     \"on\": true
  /token_life        \"seconds\"
  /refuse_upgrades   \"status\", such as 429
  /blackhole_door, /crossbar_door
                     \"door\": \"open\", \"closed\", \"resets\" or \"hangs\"
  /crossbar          \"path\", \"delay_ms\", \"status\", \"hangs\": true

Exit codes:
  0  ended by Ctrl-C, SIGTERM or --for
  1  it failed: an address is taken
  2  the command line is wrong";

/// Run a simulated Kazoo to test against
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where Crossbar listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)))]
    crossbar: SocketAddr,
    /// Where blackhole listens
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 5555)))]
    blackhole: SocketAddr,
    /// Where the control API listens
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 5580)))]
    control: SocketAddr,
    /// Which Kazoo it is: k4 (Kazoo 4, its master branch), 4.3 (Kazoo 4, the release branch) or k5 (Kazoo 5)
    #[arg(long, value_name = "FLAVOUR", default_value = "k4", value_parser = parse_flavour)]
    flavour: Flavour,
    /// New calls a second, over all accounts; 0 for no traffic
    #[arg(long, value_name = "CALLS", default_value_t = 0.5, value_parser = parse_rate)]
    rate: f64,
    /// Makes the traffic the same each time; without it, it differs
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Stop after so long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Nothing of all that, but a source of frames for the benchmark: prints its addresses as JSON and is steered over the
    /// control address
    #[arg(long, hide = true)]
    blast: bool,
}

/// Runs the command.
pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    let mut signals = Signals::catch().map_err(Failure::runtime)?;
    if arguments.blast {
        return blast(&arguments, signals).await;
    }
    let settings = Settings {
        crossbar: arguments.crossbar,
        blackhole: arguments.blackhole,
        control: arguments.control,
        flavour: arguments.flavour,
        // Only tests in the same process can read it.
        record_limit: 0,
        ..Settings::default()
    };
    let simulator = Simulator::start(settings).await.map_err(|error| {
        let Arguments { crossbar, blackhole, control, .. } = arguments;
        Failure::runtime(format_args!("cannot listen on {crossbar}, {blackhole} and {control}: {error}"))
    })?;

    let text = banner(&simulator, arguments.rate);
    terminal::ignore_closed_pipe(io::stdout().write_all(text.as_bytes())).map_err(Failure::runtime)?;

    let stop = CancellationToken::new();
    let random: Arc<dyn Random> = match arguments.seed {
        Some(seed) => Arc::new(SeededRandom::new(seed)),
        None => Arc::new(SystemRandom),
    };
    let tenants = simulator.accounts().iter().map(Tenant::from).collect();
    let traffic = traffic::generate(simulator.clone(), tenants, arguments.rate, random, stop.clone());
    let traffic = AbortOnDropHandle::new(tokio::spawn(traffic));

    tokio::select! {
        _ = signals.next() => {}
        () = for_duration(arguments.duration) => {}
    }
    stop.cancel();
    traffic.await.map_err(|error| Failure::runtime(format_args!("the traffic failed: {error}")))?;
    simulator.shutdown().await;
    Ok(())
}

/// Runs the source of the benchmark.
async fn blast(arguments: &Arguments, mut signals: Signals) -> Result<(), Failure> {
    let Arguments { crossbar, blackhole, control, flavour, duration, .. } = *arguments;
    // As the simulator has it for the flavour.
    let limit = Settings { flavour, ..Settings::default() }.queue_limit();
    let mut blast =
        Blast::listen(&Addresses { crossbar, blackhole, control }, limit).map_err(Failure::runtime)?;
    let addresses = blast.addresses().map_err(Failure::runtime)?;
    let line = serde_json::to_string(&addresses).map_err(Failure::runtime)?;
    terminal::ignore_closed_pipe(writeln!(io::stdout(), "{line}")).map_err(Failure::runtime)?;

    let ender = blast.ender();
    // It blocks, and its pace is not to depend on anything else in this process.
    let mut running = tokio::task::spawn_blocking(move || blast.run());
    let ended = tokio::select! {
        ended = &mut running => ended,
        _ = signals.next() => { ender.end(); running.await }
        () = for_duration(duration) => { ender.end(); running.await }
    };
    ended.map_err(Failure::runtime)?.map_err(Failure::runtime)
}

/// Completes after the duration; never without one.
pub(super) async fn for_duration(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A number of calls a second that makes sense: finite, from 0 to 1000.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1000.0).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of calls a second, from 0 to 1000".into()),
    }
}

fn banner(simulator: &Simulator, rate: f64) -> String {
    let accounts = simulator.accounts();
    let Palette { bold, dim, reset, .. } = Palette::of(&io::stdout());
    let (crossbar, blackhole, control) =
        (simulator.crossbar_url(), simulator.blackhole_url(), simulator.control_url());
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{bold}A simulated Kazoo{reset}, {rate} calls a second. Ctrl-C ends it.\n");
    let _ = writeln!(text, "  Crossbar   {crossbar}");
    let _ = writeln!(text, "  blackhole  {blackhole}");
    let _ = writeln!(text, "  control    {control}\n");
    let _ = writeln!(text, "{bold}Accounts{reset}");
    for account in accounts {
        let _ = write!(text, "  {}  {}{dim}", account.id, account.realm);
        for user in &account.users {
            let (name, password) = (&user.username, user.password.expose_secret());
            let _ = write!(text, "; user {name}, password {password}");
        }
        for key in &account.api_keys {
            let _ = write!(text, "; API key {}", key.expose_secret());
        }
        let _ = writeln!(text, "{reset}");
    }
    let Some((account, key)) = accounts
        .iter()
        .skip(1)
        .chain(accounts)
        .find_map(|account| Some((account, account.api_keys.first()?)))
    else {
        return text;
    };
    let _ = writeln!(
        text,
        "\n{bold}A configuration for hawking{reset} (hawking serve --config hawking.toml)\n\n\
         [upstream]\n\
         crossbar_url = \"{crossbar}\"\n\
         blackhole_url = \"{blackhole}\"\n\n\
         [[accounts]]\n\
         id = \"{id}\"\n\
         api_key = {key:?}\n\n\
         {bold}An event of your own{reset}\n\n\
         curl -s {control}publish -H 'content-type: application/json' -d '{{\"api\":\"call_event\",\"event\":\
         {{\"Event-Category\":\"call_event\",\"Event-Name\":\"CHANNEL_CREATE\",\"Call-ID\":\"my-call-1\",\
         \"Custom-Channel-Vars\":{{\"Account-ID\":\"{id}\"}},\"App-Name\":\"me\",\"App-Version\":\"1\",\
         \"Msg-ID\":\"1\"}}}}'\n",
        id = account.id,
        key = key.expose_secret(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_make_no_sense_are_refused() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for wrong in ["-1", "NaN", "inf", "many", "1001"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
