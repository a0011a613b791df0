//! The processes that take part: the source, and the server that is measured. Each ends with its value.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::{
    certificate::Certificate,
    machine::{Accounts, Placement, Side, default_congestion, set_congestion},
    mode::Mode,
    peer,
    source::{
        Addresses,
        frames::{ACCOUNT, BINDING},
    },
};

/// Until then a process must be ready.
const STARTED_WITHIN: Duration = Duration::from_secs(15);

/// A child that is ended, at the latest, when this is dropped.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the programs are that are not this one.
#[derive(Debug, Clone)]
pub struct Programs {
    pub hawking: PathBuf,
    pub nats_server: Option<PathBuf>,
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub mode: Mode,
    pub congestion: Option<&'a str>,
    pub workers: usize,
    /// hawking's log: bytes at most.
    pub log_bytes: Option<usize>,
    /// Which Kazoo the source is.
    pub flavour: &'a str,
    /// What consumers are served over TLS with.
    pub certificate: Option<&'a Certificate>,
}

/// The source, and what it feeds.
pub struct Running {
    pub control: SocketAddr,
    pub listen: SocketAddr,
    /// In force on the server's listener. `None` where what was asked for could not be set.
    pub congestion: Option<String>,
    accounts: Accounts,
    // In this order they are ended.
    _server: Owned,
    _source: Owned,
    _directory: Option<tempfile::TempDir>,
}

impl Running {
    /// Starts both. The caller's thread is on the driver's side afterwards.
    pub fn start(setup: &Setup<'_>, programs: &Programs, placement: &Placement) -> Result<Self> {
        let (mut directory, mut congestion) = (None, setup.congestion.map(str::to_owned));
        let (source, addresses, server, listen);
        match setup.mode {
            Mode::Nats => {
                let program = programs.nats_server.as_ref().context("there is no nats-server")?;
                listen = free_port()?;
                let mut command = Command::new(program);
                command.args(["-a", "127.0.0.1", "-p", &listen.port().to_string()]);
                command.env("GOMAXPROCS", setup.workers.to_string()).stderr(Stdio::null());
                server = spawn(command, Side::Server, placement)?;
                wait_for(listen, "nats-server")?;
                // It has no setting for it.
                congestion = congestion.filter(|wanted| *wanted == default_congestion());
                (source, addresses) = start_publisher(listen, placement)?;
            }
            Mode::Tcp | Mode::Naive => {
                (source, addresses) = start_source(programs, setup.flavour, placement)?;
                let mut command = Command::new(std::env::current_exe()?);
                let name = if setup.mode == Mode::Tcp { "tcp" } else { "naive" };
                command.args(["peer", name, "--upstream", &addresses.blackhole.to_string()]);
                command.args(["--workers", &setup.workers.to_string()]);
                if let Some(name) = setup.congestion {
                    command.args(["--congestion", name]);
                }
                if let Some(certificate) = setup.certificate {
                    command.arg("--certificate").arg(&certificate.certificate_file);
                    command.arg("--key").arg(&certificate.key_file);
                }
                let (child, ready): (_, peer::Ready) = spawn_until_ready(command, Side::Server, placement)?;
                (server, listen) = (child, ready.listen);
                congestion = congestion.filter(|_| ready.congestion_refused.is_none());
            }
            Mode::Hawking => {
                (source, addresses) = start_source(programs, setup.flavour, placement)?;
                let folder = tempfile::tempdir()?;
                listen = free_port()?;
                // It goes on where it may not set it: so what this process may not set either was not set.
                congestion = congestion.filter(|wanted| may_set_congestion(wanted));
                let config = folder.path().join("hawking.toml");
                fs::write(&config, hawking_config(setup, &addresses, listen))?;
                let mut command = Command::new(&programs.hawking);
                command.arg("serve").arg("--config").arg(&config);
                command.env("TOKIO_WORKER_THREADS", setup.workers.to_string()).stdout(Stdio::null());
                server = spawn(command, Side::Server, placement)?;
                wait_for(listen, "hawking")?;
                directory = Some(folder);
            }
        }
        placement.enter(Side::Driver)?;
        if setup.congestion.is_none() {
            congestion = Some(default_congestion());
        }
        Ok(Self {
            control: addresses.control,
            listen,
            congestion,
            accounts: Accounts::of(server.0.id()),
            _server: server,
            _source: source,
            _directory: directory,
        })
    }

    /// What the kernel has accounted to the server.
    pub fn accounts(&self) -> Accounts {
        self.accounts
    }
}

/// The source is a mode of the binary that is measured.
fn start_source(programs: &Programs, flavour: &str, placement: &Placement) -> Result<(Owned, Addresses)> {
    let mut command = Command::new(&programs.hawking);
    command.args(["sim", "--blast", "--flavour", flavour]);
    for listener in ["--crossbar", "--blackhole", "--control"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    // It has one thread that does something.
    command.env("TOKIO_WORKER_THREADS", "1");
    spawn_until_ready(command, Side::Driver, placement)
}

fn start_publisher(nats: SocketAddr, placement: &Placement) -> Result<(Owned, Addresses)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["publish", &nats.to_string()]);
    spawn_until_ready(command, Side::Driver, placement)
}

fn spawn(mut command: Command, side: Side, placement: &Placement) -> Result<Owned> {
    placement.enter(side)?;
    command.stdin(Stdio::null());
    let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()));
    placement.enter(Side::Driver)?;
    Ok(Owned(child?))
}

/// Starts a program that says in its first line, as JSON, that it is ready.
fn spawn_until_ready<T: DeserializeOwned>(
    mut command: Command,
    side: Side,
    placement: &Placement,
) -> Result<(Owned, T)> {
    command.stdout(Stdio::piped());
    let mut child = spawn(command, side, placement)?;
    let stdout = child.0.stdout.take().context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let ready = serde_json::from_str(&line).with_context(|| format!("not ready: {line:?}"))?;
    Ok((child, ready))
}

fn wait_for(address: SocketAddr, name: &str) -> Result<()> {
    let end = Instant::now() + STARTED_WITHIN;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            bail!("{name} does not listen on {address} after {STARTED_WITHIN:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A port that was free a moment ago, for programs that do not say which one the system gave them.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// Whether the system has this congestion control, and allows it to this user.
fn may_set_congestion(name: &str) -> bool {
    TcpListener::bind(("127.0.0.1", 0)).is_ok_and(|listener| set_congestion(&listener, name).is_ok())
}

fn hawking_config(setup: &Setup<'_>, source: &Addresses, listen: SocketAddr) -> String {
    let congestion = setup.congestion.map_or(String::new(), |name| format!("tcp_congestion = \"{name}\"\n"));
    let tls = setup.certificate.map_or(String::new(), |certificate| {
        let (certificate, key) = (&certificate.certificate_file, &certificate.key_file);
        format!("[grpc.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n")
    });
    let log_bytes = setup.log_bytes.map_or(String::new(), |bytes| format!("log_bytes = \"{bytes}B\"\n"));
    format!(
        r#"[upstream]
crossbar_url = "http://{crossbar}/"
blackhole_url = "ws://{blackhole}/"

[[accounts]]
id = "{ACCOUNT}"
api_key = "bench"
# So that frames are taken in also where nobody listens: the cost of ingest alone.
always_on = ["{BINDING}"]

[hub]
{log_bytes}max_subscriptions_per_account = 20000

[grpc]
listen = "{listen}"
{congestion}
{tls}
# As shipped, but beside any other that runs on this machine.
[admin]
grpc_listen = "127.0.0.1:0"
http_listen = "127.0.0.1:0"

[telemetry]
log_filter = "warn"
"#,
        crossbar = source.crossbar,
        blackhole = source.blackhole,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_hawking_takes() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        let addresses = Addresses { crossbar: address, blackhole: address, control: address };
        let certificate = Certificate::issue().unwrap();
        let setup = Setup {
            mode: Mode::Hawking,
            congestion: Some("bbr"),
            workers: 1,
            log_bytes: Some(4 << 20),
            flavour: "k4",
            certificate: Some(&certificate),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hawking.toml");
        fs::write(&path, hawking_config(&setup, &addresses, address)).unwrap();
        let config = hawking::config::Config::load(Some(&path), []).unwrap();
        assert_eq!(config.grpc.listen, address);
        assert_eq!(config.admin.grpc_listen.port(), 0);
        assert_eq!(config.admin.http_listen.map(|address| address.port()), Some(0));
        assert_eq!(config.hub.log_bytes, 4 << 20);
        assert_eq!(config.grpc.tcp_congestion.as_deref(), Some("bbr"));
        hawking::grpc::check_tls(&config.grpc.tls).unwrap();
        assert_eq!(config.accounts[0].always_on.len(), 1);
    }
}
