//! Three processes as in production: the upstream (simulated), the gateway, and `tail` as a consumer.

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{hawking, process::Running};

const ACCOUNT: &str = "account0000000000000000000000002";

/// Where the three find each other: fixed for a test, because two of them are started again in it.
struct Place {
    crossbar: String,
    blackhole: String,
    grpc: String,
    config: PathBuf,
    _folder: TempDir,
}

/// What a command that should end by itself came to: exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let (code, stdout, stderr) = Running::start(command).end();
    (code.unwrap(), stdout, stderr)
}

/// An address on a port that is free, and stays so: it lies below those that the operating system gives out by itself.
fn free_address() -> String {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    loop {
        let start = u16::try_from(std::process::id() % 10_000).unwrap();
        let port = 20_000 + (start + TRIED.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}

impl Place {
    fn new() -> Self {
        let [crossbar, blackhole, grpc] = [(); 3].map(|()| free_address());
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("hawking.toml");
        let text = format!(
            "[upstream]\ncrossbar_url = \"http://{crossbar}/\"\nblackhole_url = \"ws://{blackhole}/\"\n\
             backoff_initial = \"50ms\"\nbackoff_max = \"200ms\"\nbackoff_refused = \"200ms\"\n\
             [grpc]\nlisten = \"{grpc}\"\n[shutdown]\nendpoint_wait = \"0s\"\n\
             [[accounts]]\nid = \"{ACCOUNT}\"\nusername = \"demo\"\npassword = \"hawking\"\n\
             account_realm = \"wefwefwefwef.2600hz.com\"\n"
        );
        fs::write(&config, text).unwrap();
        Self { crossbar, blackhole, grpc, config, _folder: folder }
    }

    fn sim(&self) -> Running {
        let mut command = hawking(["sim", "--rate", "40", "--seed", "1", "--control", "127.0.0.1:0"]);
        command.args(["--crossbar", &self.crossbar, "--blackhole", &self.blackhole]);
        let mut sim = Running::start(&mut command);
        sim.stdout_line("An event of your own");
        sim
    }

    fn serve(&self) -> Running {
        let mut serve = Running::start(hawking(["serve", "--config"]).arg(&self.config));
        serve.stderr_line("serving gRPC");
        serve
    }

    fn tail(&self, arguments: &[&str]) -> Command {
        let mut command = hawking(["tail", "--server", &self.grpc, "--account", ACCOUNT]);
        command.args(arguments);
        command
    }
}

#[test]
fn the_loss_of_the_upstream_is_told_and_mended() {
    let place = Place::new();
    let sim = place.sim();
    let serve = place.serve();
    let mut tail = Running::start(&mut place.tail(&["call.*.*"]));
    tail.stdout_line("subscribed to call.*.*");
    tail.stdout_line("CHANNEL_CREATE");

    sim.signal("KILL");
    drop(sim);
    tail.stdout_line("upstream is down");
    tail.stdout_line("GAP opens: the session to the upstream was lost");
    let _sim = place.sim();
    tail.stdout_line("GAP closed");
    tail.stdout_line("CHANNEL_CREATE");

    tail.signal("INT");
    assert_eq!(tail.end().0, Some(0));
    serve.signal("TERM");
    let (code, _, log) = serve.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("ended in good order"), "{log}");
}

#[test]
fn a_restarted_gateway_cannot_resume_and_tail_says_so() {
    let place = Place::new();
    let _sim = place.sim();
    let serve = place.serve();
    let mut tail = Running::start(&mut place.tail(&["call.*.*"]));
    tail.stdout_line("CHANNEL_CREATE");

    serve.signal("TERM");
    assert_eq!(serve.end().0, Some(0));
    tail.stderr_line("DRAINING");
    let _serve = place.serve();
    tail.stderr_line("EPOCH_CHANGED");
    tail.stdout_line("subscribed to call.*.*");
    tail.stdout_line("CHANNEL_CREATE");
}

#[test]
fn json_lines_are_objects_and_resume_goes_on_exactly_there() {
    let place = Place::new();
    let _sim = place.sim();
    let _serve = place.serve();
    let json = ["--format", "json", "call.*.*"];
    let (code, stdout, _) = run(place.tail(&["--count", "10"]).args(json));
    assert_eq!(code, 0);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["subscribed"]["bindings"][0]["state"], "BINDING_STATE_ACTIVE");
    let events: Vec<&Value> = lines.iter().filter_map(|line| line.get("event")).collect();
    assert_eq!(events.len(), 10);
    for event in &events {
        assert_eq!(event["payload"]["call_id"], event["callId"], "{event}");
        assert_eq!(event["payload"]["event_name"], event["name"], "{event}");
    }

    let cursor = |event: &Value| {
        let cursor = &event["cursor"];
        format!("{}:{}", cursor["epoch"].as_str().unwrap(), cursor["sequence"].as_str().unwrap())
    };
    let (code, stdout, _) =
        run(place.tail(&["--resume-after", &cursor(events[3]), "--count", "6"]).args(json));
    assert_eq!(code, 0);
    let again: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let again: Vec<&Value> = again.iter().filter_map(|line| line.get("event")).collect();
    assert_eq!(again, events[4..]);
}

#[test]
fn filters_narrow_and_bounds_stop() {
    let place = Place::new();
    let _sim = place.sim();
    let _serve = place.serve();
    let (code, stdout, _) = run(&mut place.tail(&[
        "--name",
        "CHANNEL_CREATE",
        "--field",
        "call_direction=outbound",
        "--count",
        "5",
        "call.*.*",
    ]));
    let events: Vec<_> = stdout.lines().filter(|line| line.contains("CHANNEL_")).collect();
    assert_eq!((code, events.len()), (0, 5), "{stdout}");
    assert!(
        events.iter().all(|line| line.contains("CHANNEL_CREATE") && line.contains("  out  ")),
        "{stdout}"
    );

    let none = ["--name", "NO_SUCH_EVENT", "--for", "200ms", "call.*.*"];
    assert_eq!(run(&mut place.tail(&none)).0, 0);
    let (code, _, stderr) = run(place.tail(&none).args(["--count", "1"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("1 events are missing"), "{stderr}");
}

#[test]
fn what_the_server_refuses_is_explained_and_the_exit_code_is_2() {
    let place = Place::new();
    // Without it nobody would know yet whether the account is one below those that are configured.
    let _sim = place.sim();
    let _serve = place.serve();
    let (code, stdout, stderr) = run(&mut place.tail(&["call.*.*", "call.CHANNEL_CRATE.*"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("bindings[1]") && stderr.contains("CHANNEL_CREATE"), "{stderr}");

    let mut command = hawking(["tail", "--server", &place.grpc, "--account"]);
    let (code, _, stderr) = run(command.args(["00000000000000000000000000000000", "call.*.*"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("ACCOUNT_NOT_CONFIGURED"), "{stderr}");
}

#[test]
fn a_server_that_is_not_there_is_waited_for() {
    let place = Place::new();
    let mut tail = Running::start(&mut place.tail(&["--count", "1", "call.*.*"]));
    tail.stderr_line("cannot connect to");
    let _sim = place.sim();
    let _serve = place.serve();
    tail.stdout_line("CHANNEL_");
    assert_eq!(tail.end().0, Some(0));
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let place = Place::new();
    let _sim = place.sim();
    let _serve = place.serve();
    let mut tail = Running::start(&mut place.tail(&["call.*.*"]));
    tail.stdout_line("CHANNEL_");
    tail.stop_reading();
    let (code, _, stderr) = tail.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_taken_port_is_a_failure_that_names_it() {
    let place = Place::new();
    let _holder = TcpListener::bind(&place.grpc).unwrap();
    let (code, _, stderr) = run(hawking(["serve", "--config"]).arg(&place.config));
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("cannot listen on {}", place.grpc)), "{stderr}");
}
