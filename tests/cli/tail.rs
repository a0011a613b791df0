//! Three processes as in production: the upstream (simulated), the gateway, and `tail` as a consumer.

use std::{
    fs::{self, File},
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
             [grpc]\nlisten = \"{grpc}\"\n[admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
             [shutdown]\nendpoint_wait = \"0s\"\n\
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
    assert!(stderr.contains("1 event is missing"), "{stderr}");
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

/// The other listeners of a gateway, and what is none.
#[test]
fn what_is_no_gateway_is_told_apart_from_one_that_is_away() {
    let place = Place::new();
    let mut serve = Running::start(hawking(["serve", "--config"]).arg(&place.config));
    let mut address = |line: &str| serve.stderr_line(line).rsplit_once("address=").unwrap().1.to_owned();
    let operators = address("serving AdminService");
    let pages = address("serving admin HTTP");
    let tail = |server: &str| {
        let mut command = hawking(["tail", "--account", ACCOUNT, "--server", server, "call.*.*"]);
        Running::start(&mut command)
    };

    let (code, _, stderr) = tail(&operators).end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&operators) && stderr.contains("operators have another"), "{stderr}");

    let said = tail(&pages).stderr_line("trying again");
    assert!(said.contains(&pages) && said.contains("is it a gateway's listener for consumers"), "{said}");
    assert!(!said.contains("transport error"), "{said}");
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

/// The text forms of the cursors of the events in JSON lines.
fn cursors(stdout: &str) -> Vec<(String, u64)> {
    let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events = lines.filter_map(|line| line.get("event").cloned());
    events
        .map(|event| {
            let cursor = &event["cursor"];
            let sequence = cursor["sequence"].as_str().unwrap().parse().unwrap();
            (cursor["epoch"].as_str().unwrap().to_owned(), sequence)
        })
        .collect()
}

#[test]
fn with_a_cursor_file_it_goes_on_where_it_was_ended() {
    let place = Place::new();
    let _sim = place.sim();
    let _serve = place.serve();
    let file = place.config.with_file_name("cursor");
    let file = file.to_str().unwrap();
    let json = ["--format", "json", "call.*.*"];

    // Ended by a count and by signals: none of it may lose or repeat an event. (A reader that has had enough is another thing:
    // what the pipe held then was printed, and is lost.)
    let (code, stdout, _) = run(place.tail(&["--cursor-file", file, "--count", "5"]).args(json));
    assert_eq!(code, 0);
    let mut seen = cursors(&stdout);
    for signal in ["INT", "TERM"] {
        let mut tail = Running::start(place.tail(&["--cursor-file", file]).args(json));
        tail.stderr_line("going on after");
        tail.stdout_line("\"event\"");
        tail.signal(signal);
        let (code, output) = tail.end_with_everything();
        assert_eq!(code, Some(0));
        let stdout: Vec<_> = output.lines().filter(|line| line.starts_with('{')).collect();
        seen.extend(cursors(&stdout.join("\n")));
    }
    // To a file, as in a service of its own: then it is put to disk before the cursor is.
    let output = place.config.with_file_name("events");
    let mut tail = place.tail(&["--cursor-file", file, "--count", "5"]);
    let status = tail.args(json).stdout(File::create(&output).unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    seen.extend(cursors(&fs::read_to_string(&output).unwrap()));

    let first = format!("{}:{}", seen[0].0, seen[0].1 - 1);
    let all = ["--resume-after", &first, "--count", &seen.len().to_string()];
    let (_, stdout, _) = run(place.tail(&all).args(json));
    assert_eq!(seen, cursors(&stdout), "as one reader saw it");
}

#[test]
fn a_cursor_file_of_another_gateway_run_ends_it_with_3_and_is_kept() {
    let place = Place::new();
    let _sim = place.sim();
    let serve = place.serve();
    let file = place.config.with_file_name("cursor");
    let arguments = ["--cursor-file", file.to_str().unwrap(), "call.*.*"];
    assert_eq!(run(place.tail(&["--count", "3"]).args(arguments)).0, 0);
    let stored = fs::read_to_string(&file).unwrap();
    assert!(stored.contains(ACCOUNT), "{stored}");

    // A running one ends so too, with what it had: it cannot go on without a hole.
    let mut tail = Running::start(place.tail(&[]).args(arguments));
    tail.stdout_line("CHANNEL_");
    serve.signal("TERM");
    assert_eq!(serve.end().0, Some(0));
    let serve = place.serve();
    let (code, _, stderr) = tail.end();
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("EPOCH_CHANGED") && stderr.contains("--on-miss live"), "{stderr}");

    fs::write(&file, &stored).unwrap();
    let (code, _, stderr) = run(place.tail(&["--count", "1"]).args(arguments));
    assert_eq!(code, 3, "{stderr}");
    assert_eq!(fs::read_to_string(&file).unwrap(), stored);

    let (code, stdout, _) = run(place.tail(&["--count", "1", "--on-miss", "oldest"]).args(arguments));
    assert_eq!(code, 0);
    assert!(stdout.contains("GAP"), "{stdout}");
    fs::write(&file, &stored).unwrap();
    let (code, stdout, stderr) = run(place.tail(&["--count", "1", "--on-miss", "live"]).args(arguments));
    assert_eq!(code, 0, "{stderr}");
    assert!(!stdout.contains("GAP") && stderr.contains("going on live"), "{stdout}{stderr}");
    assert_ne!(fs::read_to_string(&file).unwrap(), stored);
    drop(serve);
}

#[test]
fn a_file_that_is_not_for_this_stream_is_refused_with_words() {
    let place = Place::new();
    let file = place.config.with_file_name("cursor");
    let arguments = ["--cursor-file", file.to_str().unwrap(), "call.*.*"];
    for (content, why) in [
        ("{\"account\":\"account0000000000000000000000003\",\"cursor\":\"a:1\"}", "belongs to account"),
        ("[upstream]\n", "is no cursor file"),
    ] {
        fs::write(&file, content).unwrap();
        let (code, _, stderr) = run(place.tail(&[]).args(arguments));
        assert_eq!(code, 2);
        assert!(stderr.contains(why), "{stderr}");
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
    }
    let (code, _, stderr) =
        run(place.tail(&["--cursor-file", "/nowhere/cursor", "call.*.*"]).args(["--count", "1"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("cannot write the cursor file"), "{stderr}");
}
