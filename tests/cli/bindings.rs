//! `bindings`: needs no server and no configuration.

use serde_json::Value;

use crate::{hawking, run};

#[test]
fn explains_for_people_and_for_scripts() {
    let (code, stdout, stderr) = run(&mut hawking(["bindings", "explain", "call.CHANNEL_CREATE.a.b@c"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(
        stdout.contains("CHANNEL_CREATE.a%2Eb%40c") && stdout.contains("call.CHANNEL_CREATE.*"),
        "{stdout}"
    );

    let json = ["bindings", "explain", "--json", "--flavour", "k5", "conference.event.*.*", "call.*.*"];
    let (code, stdout, _) = run(&mut hawking(json));
    assert_eq!(code, 0);
    let explained: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(explained["bindings"][0]["upstream"][0]["sent"][0]["binding"], "conference.event.*.#.*");
    assert_eq!(explained["upstream"][0]["sent"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_not_served_has_its_own_exit_code() {
    for (arguments, code, said) in [
        (&["call.CHANNEL_CRATE.*"][..], 1, "refuses `call.CHANNEL_CRATE.*`"),
        (&["conference.command.c"], 1, "refuses `conference.command.c`"),
        (&["--flavour", "k4", "stream.*.*"], 1, "does not have `stream.*.*`"),
        (&["--flavour", "k6", "call.*.*"], 2, "k4, 4.3 or k5"),
        (&[], 2, "BINDING"),
    ] {
        let mut command = hawking(["bindings", "explain"]);
        let (seen, _, stderr) = run(command.args(arguments));
        assert_eq!(seen, code, "{arguments:?}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn what_is_listed_can_be_pasted() {
    let (code, stdout, _) = run(&mut hawking(["bindings", "list", "--json"]));
    assert_eq!(code, 0);
    let types: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let open = types.iter().filter(|entry| entry["requires_opt_in"] == false);
    let examples: Vec<&str> =
        open.flat_map(|entry| entry["examples"].as_array().unwrap()).filter_map(Value::as_str).collect();
    assert!(examples.len() > 15);
    let mut command = hawking(["bindings", "explain"]);
    assert_eq!(run(command.args(examples)).0, 0);
}
