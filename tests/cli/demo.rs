//! `demo` where there is no terminal: lines, and an end in good order.

use std::net::TcpListener;

use crate::{hawking, process::Running, run};

fn demo(listen: &str) -> Running {
    Running::start(&mut hawking(["demo", "--rate", "20", "--seed", "1", "--listen", listen]))
}

/// The line to paste: the address in it, and the request.
fn grpcurl_line(demo: &mut Running) -> (String, serde_json::Value) {
    let line = demo.stdout_line("grpcurl -plaintext");
    let (_, rest) = line.split_once("-d '").unwrap();
    let (request, rest) = rest.split_once("' ").unwrap();
    let (address, method) = rest.split_once(' ').unwrap();
    assert_eq!(method, "hawking.v1.EventService/Subscribe");
    (address.to_owned(), serde_json::from_str(request).unwrap())
}

#[test]
fn it_says_what_to_paste_and_shows_calls() {
    let mut demo = demo("127.0.0.1:0");
    let address = demo.stdout_line("hawking, gRPC").split_whitespace().last().unwrap().to_owned();
    let (pasted, request) = grpcurl_line(&mut demo);
    assert_eq!(pasted, address);
    assert_eq!(request["bindings"], serde_json::json!(["call.*.*"]));
    demo.stdout_line("CHANNEL_CREATE");
    demo.stdout_line("CHANNEL_ANSWER");

    // The request of the pasted line is one that the server takes.
    let account = request["account_id"].as_str().unwrap();
    let mut tail = hawking(["tail", "--server", &address, "--account", account, "--count", "3", "call.*.*"]);
    let (code, stdout, _) = Running::start(&mut tail).end();
    assert_eq!((code, stdout.matches("CHANNEL_").count()), (Some(0), 3), "{stdout}");
}

#[test]
fn signals_end_it_in_good_order() {
    for signal in ["TERM", "INT"] {
        let mut demo = demo("127.0.0.1:0");
        demo.stdout_line("CHANNEL_CREATE");
        demo.signal(signal);
        let (code, _, stderr) = demo.end();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "SIG{signal}");
    }
}

#[test]
fn it_ends_by_itself_after_the_given_time() {
    let (code, stdout, stderr) =
        crate::run(&mut hawking(["demo", "--for", "100ms", "--listen", "127.0.0.1:0"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(!stdout.contains('\x1b'), "no colours without a terminal: {stdout}");
}

#[test]
fn a_taken_port_is_told_and_another_one_is_used() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Held again at once: nothing else on this machine asked for exactly this port meanwhile, or the demo could not have
    // it either.
    let _holder = TcpListener::bind(taken);
    let mut demo = demo(&taken.to_string());
    demo.stdout_line(&format!("{taken} is taken"));
    let (address, _) = grpcurl_line(&mut demo);
    assert_ne!(address, taken.to_string());
    demo.stdout_line("CHANNEL_CREATE");
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let mut demo = demo("127.0.0.1:0");
    demo.stdout_line("CHANNEL_CREATE");
    demo.stop_reading();
    let (code, _, stderr) = demo.end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
}

/// The source of the benchmark: nobody who looks for help is shown it, and whoever steers it knows where it is.
#[test]
fn the_source_of_the_benchmark_says_where_it_is_and_ends_when_it_is_told() {
    let (code, help, _) = run(&mut hawking(["sim", "--help"]));
    assert!(code == 0 && !help.contains("blast"), "{help}");
    let mut command = hawking(["sim", "--blast"]);
    for listener in ["--crossbar", "--blackhole", "--control"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    let mut source = Running::start(&mut command);
    let addresses: serde_json::Value = serde_json::from_str(&source.stdout_line("control")).unwrap();
    let control: std::net::SocketAddr = addresses["control"].as_str().unwrap().parse().unwrap();
    // Who steers it goes, and it goes too.
    drop(std::net::TcpStream::connect(control).unwrap());
    assert_eq!(source.end().0, Some(0));

    let mut source = Running::start(&mut command);
    source.stdout_line("control");
    source.signal("TERM");
    assert_eq!(source.end().0, Some(0));
}
