//! `hawking admin` against a gateway that runs: the demo.

use std::{
    io::Write as _,
    net::TcpListener,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{hawking, process::Running, run};

const ACCOUNT: &str = "account0000000000000000000000002";
const STRANGER: &str = "account0000000000000000000000009";

/// A demo, with its two addresses.
struct Demo {
    running: Running,
    public: String,
    admin: String,
    /// Where probes and scrapers ask.
    pages: String,
}

impl Demo {
    fn start() -> Self {
        let mut running =
            Running::start(&mut hawking(["demo", "--rate", "20", "--seed", "1", "--listen", "127.0.0.1:0"]));
        let last_word = |line: String| line.split_whitespace().last().unwrap().to_owned();
        let public = last_word(running.stdout_line("hawking, gRPC"));
        let admin = last_word(running.stdout_line("for operators"));
        let pages = last_word(running.stdout_line("metrics")).trim_end_matches("/metrics").to_owned();
        running.stdout_line("CHANNEL_CREATE");
        Self { running, public, admin, pages }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = hawking(["admin"]);
        command.args(arguments).env("HAWKING_ADMIN_ADDRESS", &self.admin);
        command
    }

    /// What a verb prints, which must succeed.
    fn admin(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(&mut self.command(arguments));
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        for line in stdout.lines().filter(|_| !arguments.contains(&"--json")) {
            assert!(line.chars().count() <= 100, "wider than a hundred columns: {line}");
        }
        stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.admin(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// What a verb complains of, which must fail.
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let (real, stdout, stderr) = run(&mut self.command(arguments));
        assert_eq!((real, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
        stderr
    }

    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < until, "{what}: it does not come");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn tables_show_what_there_is() {
    let demo = Demo::start();
    let info = demo.admin(&["info"]);
    assert!(info.starts_with(&format!("hawking {}  serving, up for ", env!("CARGO_PKG_VERSION"))), "{info}");
    assert!(info.contains("1 account configured, 1 stream open"), "{info}");

    let sessions = demo.admin(&["sessions", ACCOUNT]);
    assert!(sessions.starts_with(&format!("{ACCOUNT}  live for ")), "{sessions}");
    let row: Vec<_> = sessions.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!((row[0], &row[row.len() - 5..]), ("1", &["0", "5", "0", "0", "0"][..]), "{sessions}");

    let bindings = demo.admin(&["bindings"]);
    let row = bindings.lines().find(|line| line.contains("call.*.*")).unwrap();
    assert!(row.contains("  active  ") && row.ends_with(" ago"), "{bindings}");

    let subscribers = demo.admin(&["subscribers", "--account", ACCOUNT]);
    let mut lines = subscribers.lines();
    assert_eq!(lines.next(), Some(&*format!("{ACCOUNT}  1 open stream")));
    let heading: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["ID", "CLIENT", "PEER", "OPEN", "LAG", "DELIVERED", "BINDINGS"]);
    let row = lines.next().unwrap();
    assert!(row.contains("s1  hawking demo  127.0.0.1:") && row.contains("call.*.*"), "{subscribers}");
    assert!(!subscribers.contains('\x1b'), "no colours without a terminal");
    assert_eq!(demo.admin(&["ended"]), "No stream has ended.\n");
}

#[test]
fn scripts_get_one_document() {
    let demo = Demo::start();
    let info = demo.json(&["info"]);
    assert_eq!((&info["draining"], &info["servingState"]), (&false.into(), &"SERVING_STATE_SERVING".into()));
    let sessions = demo.json(&["sessions"]);
    assert_eq!(sessions["sessions"][0]["status"]["state"], "UPSTREAM_STATE_LIVE");
    assert_eq!(sessions, {
        let mut bindings = demo.json(&["bindings"]);
        // It goes on meanwhile.
        bindings["sessions"][0]["eventsReceived"] = sessions["sessions"][0]["eventsReceived"].clone();
        bindings["sessions"][0]["connectTime"] = sessions["sessions"][0]["connectTime"].clone();
        bindings
    });
    let subscriber = &demo.json(&["subscribers"])["subscribers"][0];
    assert_eq!((&subscriber["accountId"], &subscriber["subscriptionId"]), (&ACCOUNT.into(), &"s1".into()));
    assert!(subscriber["lag"].as_str().unwrap().parse::<u64>().is_ok(), "{subscriber}");
    assert_eq!(demo.json(&["ended", "--limit", "5"])["streams"], serde_json::json!([]));
}

#[test]
fn a_stream_is_ended_and_comes_back() {
    let demo = Demo::start();
    let mut tail = hawking(["tail", "--server", &demo.public, "--account", ACCOUNT, "call.*.*"]);
    let mut tail = Running::start(&mut tail);
    tail.stdout_line("subscribed to call.*.*");
    let said = demo.admin(&["disconnect", "s2"]);
    assert_eq!(said, "s2 is told to end, and where to resume.\n");
    tail.stderr_line("an operator ended this stream: connect again and resume [DISCONNECTED]; trying again");
    // It resumes: the subscription is another one.
    demo.eventually("it is back", || {
        let subscribers = demo.json(&["subscribers"]);
        let ids =
            subscribers["subscribers"].as_array().unwrap().iter().map(|of| of["subscriptionId"].clone());
        ids.collect::<Vec<_>>() == ["s1", "s3"]
    });
    let ended = demo.admin(&["ended"]);
    let row = ended.lines().nth(2).unwrap();
    assert!(row.contains(" ago  s2  disconnected  hawking tail "), "{ended}");

    let gone = demo.fails(&["disconnect", "s2"], 2);
    assert!(
        gone.contains("no open stream is called s2") && gone.contains("SUBSCRIPTION_NOT_FOUND"),
        "{gone}"
    );
    demo.fails(&["disconnect", "2"], 2);
}

#[test]
fn sessions_are_steered() {
    let demo = Demo::start();
    let said = demo.admin(&["rotate", ACCOUNT]);
    assert!(said.starts_with(&format!("A new session of {ACCOUNT} takes the old one's place")), "{said}");
    let busy = demo.fails(&["rotate", ACCOUNT], 1);
    assert!(busy.contains("is being replaced already [ROTATION_UNDER_WAY]"), "{busy}");
    demo.eventually("there are two", || demo.admin(&["sessions"]).contains("\n  2 takes over "));
    for verb in ["rotate", "reconnect"] {
        let unknown = demo.fails(&[verb, STRANGER], 2);
        assert!(unknown.contains("ACCOUNT_NOT_CONFIGURED"), "{unknown}");
    }
    assert!(demo.fails(&["sessions", STRANGER], 2).contains("ACCOUNT_NOT_CONFIGURED"));
}

#[test]
fn a_session_is_opened_anew() {
    let demo = Demo::start();
    let said = demo.admin(&["reconnect", ACCOUNT]);
    assert!(said.starts_with(&format!("The session of {ACCOUNT} is opened anew")), "{said}");
    demo.eventually("it is another one", || {
        let sessions = demo.json(&["sessions"]);
        sessions["sessions"][0]["sessionId"] == "2"
    });
}

#[test]
fn a_drain_can_be_waited_for() {
    let mut demo = Demo::start();
    let said = demo.admin(&["drain", "--deadline", "10s", "--wait", "20s"]);
    assert_eq!(
        said,
        "The gateway drains: it is not ready any more, and its streams end.\n\
         The drain is over: no consumer is connected, and none is let in any more.\n"
    );
    let info = demo.admin(&["info"]);
    assert!(info.contains("  drained, up for ") && info.contains("0 streams open"), "{info}");
    assert!(demo.admin(&["ended"]).contains("  drained  "));
    assert!(demo.admin(&["sessions"]).contains("live for"), "the upstream stays");
    demo.running.signal("TERM");
    demo.running.stop_reading();
    assert_eq!(demo.running.end().0, Some(0));
}

/// Nobody is there, but somebody may come: that is not the end of a drain.
#[test]
fn a_drain_is_not_over_while_streams_are_let_in() {
    let mut config = NamedTempFile::with_suffix(".toml").unwrap();
    // No upstream is needed for it.
    write!(
        config,
        "[upstream]\ncrossbar_url = \"http://127.0.0.1:1\"\nblackhole_url = \"ws://127.0.0.1:1\"\n\
         [grpc]\nlisten = \"127.0.0.1:0\"\n[admin]\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"off\"\n\
         [shutdown]\nendpoint_wait = \"20s\"\ngrace = \"60s\"\n\
         [[accounts]]\nid = \"{ACCOUNT}\"\napi_key = \"of no concern\"\n"
    )
    .unwrap();
    let mut running = Running::start(hawking(["serve", "--config"]).arg(config.path()));
    let line = running.stderr_line("serving AdminService");
    let port = line.rsplit_once("127.0.0.1:").unwrap().1;
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let admin = |arguments: &[&str]| {
        let mut command = hawking(["admin"]);
        run(command.args(arguments).env("HAWKING_ADMIN_ADDRESS", format!("127.0.0.1:{port}")))
    };
    let (code, _, stderr) = admin(&["drain", "--wait", "300ms"]);
    assert_eq!(code, 1, "{stderr}");
    let why = "not over after 300ms: 0 streams are open, and streams are let in still";
    assert!(stderr.contains(why), "{stderr}");
    let (_, info, _) = admin(&["info"]);
    assert!(info.contains("  leaving, up for "), "{info}");
    // A signal that comes while it waits skips that.
    running.signal("INT");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn what_does_not_answer_is_told_with_what_to_do() {
    // A port that nobody listens on, held so that nobody else does.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    drop(deaf);
    let (code, stdout, stderr) = run(&mut hawking(["admin", "info", "--admin-address", &address]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&format!("no gateway's admin listener at http://{address}")), "{stderr}");
    assert!(stderr.contains("--admin-address"), "{stderr}");

    let demo = Demo::start();
    for elsewhere in [&demo.public, &demo.pages] {
        let (code, _, stderr) = run(&mut hawking(["admin", "info", "--admin-address", elsewhere]));
        assert_eq!(code, 1);
        assert!(stderr.contains("is this the admin listener?"), "{stderr}");
    }
}

#[test]
fn the_command_line_is_checked() {
    for wrong in [&["admin"][..], &["admin", "rotate", "short"], &["admin", "ended", "--limit", "0"]] {
        let (code, stdout, _) = run(&mut hawking(wrong));
        assert_eq!((code, stdout.as_str()), (2, ""), "{wrong:?}");
    }
    let (code, stdout, _) = run(&mut hawking(["admin", "--help"]));
    assert_eq!(code, 0);
    for part in ["Exit codes:", "HAWKING_ADMIN_ADDRESS", "127.0.0.1:50052", "disconnect", "--json"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}
