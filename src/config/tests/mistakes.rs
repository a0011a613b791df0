//! What is refused, and in which words.

use super::*;

/// Each mistake is found, alone, with its key and what would be right.
#[test]
fn mistakes_are_named() {
    let user = |rest: &str| account(&format!("username = \"a\"\npassword = \"{SECRET}\"\n{rest}"));
    let cases: Vec<(String, &str)> = vec![
        ("[grpc]\nlissten = \"\"".into(), "grpc.lissten: unknown key; did you mean `listen`?"),
        ("[grcp]\nlisten = \"\"".into(), "grcp: unknown key; did you mean `grpc`?"),
        (
            "[upstream.tls]\ncafile = \"x\"".into(),
            "upstream.tls.cafile: unknown key; did you mean `ca_file`?",
        ),
        (
            "[shutdown]\nzzz = 1".into(),
            "shutdown.zzz: unknown key; there are drain_timeout, endpoint_wait, grace",
        ),
        ("grpc = 1".into(), "grpc: found an integer, expected a section with settings"),
        ("accounts = 1".into(), "accounts: found an integer, expected a list of accounts"),
        ("[accounts]\nid = \"x\"".into(), "accounts: found a section, expected a list of accounts"),
        ("accounts = [1]".into(), "accounts[0]: found an integer, expected a section"),
        ("[grpc]\nlisten = 50051".into(), "grpc.listen: found 50051, expected an IP address and a port"),
        (
            "[grpc]\nlisten = \":50051\"".into(),
            "grpc.listen: found \":50051\", expected an IP address and a port",
        ),
        (
            "[grpc]\nmax_connections = \"7\"".into(),
            "grpc.max_connections: found \"7\", expected a whole number, 1 to",
        ),
        (
            "[grpc]\nmax_connections = 0".into(),
            "grpc.max_connections: found 0, expected a whole number, 1 to",
        ),
        (
            "[grpc]\nmax_connections = -1".into(),
            "grpc.max_connections: found -1, expected a whole number, 1 to",
        ),
        (
            "[grpc]\nmax_connections = 1.5".into(),
            "grpc.max_connections: found 1.5, expected a whole number, 1 to",
        ),
        (
            "[grpc]\nmax_connections = [1]".into(),
            "grpc.max_connections: found a list, expected a whole number",
        ),
        (
            "[upstream]\ncommands_in_flight = 9".into(),
            "upstream.commands_in_flight: found 9, expected a whole number, 1 to 8",
        ),
        (
            "[upstream]\nrate_share = 0.0".into(),
            "upstream.rate_share: found 0, expected a number above 0, up to 1",
        ),
        ("[upstream]\nrate_share = 1.1".into(), "upstream.rate_share: found 1.1, expected a number above 0"),
        ("[upstream]\nrate_share = nan".into(), "upstream.rate_share: found NaN, expected a number above 0"),
        (
            "[upstream]\nping_interval = 15".into(),
            "upstream.ping_interval: found 15, expected a duration such as \"500ms\"",
        ),
        (
            "[upstream]\nping_interval = \"15 parsecs\"".into(),
            "upstream.ping_interval: found \"15 parsecs\", expected a duration",
        ),
        (
            "[upstream]\nping_interval = \"0s\"".into(),
            "upstream.ping_interval: found \"0s\", expected a duration",
        ),
        (
            "[hub]\nlog_bytes = \"64 MiBs\"".into(),
            "hub.log_bytes: found \"64 MiBs\", expected a size such as \"64MiB\", 64KiB to 1TiB",
        ),
        ("[hub]\nlog_bytes = 1".into(), "hub.log_bytes: found 1, expected a size"),
        (
            "[upstream]\ncrossbar_url = \"crossbar:8000\"".into(),
            "upstream.crossbar_url: found \"crossbar:8000\", expected a http or https URL",
        ),
        (
            "[upstream]\ncrossbar_url = \"ws://crossbar:8000\"".into(),
            "upstream.crossbar_url: found \"ws://crossbar:8000\", expected a http",
        ),
        (
            "[upstream]\nblackhole_url = \"http://blackhole\"".into(),
            "upstream.blackhole_url: found \"http://blackhole\", expected a ws or wss URL",
        ),
        (
            "[upstream]\nblackhole_url = \"ws://\"".into(),
            "upstream.blackhole_url: found \"ws://\", expected a ws or wss URL",
        ),
        (
            "[upstream]\nopt_in = [\"calls\"]".into(),
            "upstream.opt_in: found \"calls\", expected a list of the kinds",
        ),
        (
            "[upstream.tls]\nonly_ca_file = \"yes\"".into(),
            "upstream.tls.only_ca_file: found \"yes\", expected true or false",
        ),
        (
            "[upstream.tls]\nonly_ca_file = true".into(),
            "upstream.tls.only_ca_file: only_ca_file needs a ca_file",
        ),
        (
            "[upstream.tls]\nserver_name = \"kazoo\\r\\nx: y\"".into(),
            "upstream.tls.server_name: found \"kazoo\\r\\nx: y\", expected a host name",
        ),
        (
            "[upstream.tls]\nserver_name = \"\"".into(),
            "upstream.tls.server_name: found \"\", expected a host name",
        ),
        (
            "[telemetry]\nlog_format = \"xml\"".into(),
            "telemetry.log_format: found \"xml\", expected \"text\" or \"json\"",
        ),
        (
            "[telemetry]\nlog_filter = \"hawking=loud\"".into(),
            "telemetry.log_filter: found \"hawking=loud\", expected a level",
        ),
        (
            "[upstream]\nliveness_timeout = \"15s\"".into(),
            "upstream.liveness_timeout: upstream.liveness_timeout is 15s and upstream.ping_interval is 15s; expected the first to be longer",
        ),
        (
            "[upstream]\nping_interval = \"40s\"".into(),
            "upstream.ping_interval: upstream.liveness_timeout is 35s and",
        ),
        (
            "[upstream]\nbackoff_initial = \"31s\"".into(),
            "upstream.backoff_initial: upstream.backoff_initial is 31s and upstream.backoff_max is 30s; expected the first not to be longer",
        ),
        (
            "[shutdown]\ngrace = \"10s\"".into(),
            "shutdown.grace: shutdown.grace is 10s; expected at least 25s: shutdown.endpoint_wait (5s), shutdown.drain_timeout (15s)",
        ),
        ("[shutdown]\nendpoint_wait = \"11s\"".into(), "shutdown.endpoint_wait: shutdown.grace is 30s"),
        (
            "[grpc]\nheartbeat_min = \"16s\"".into(),
            "grpc.heartbeat_min: grpc.heartbeat_min is 16s and grpc.heartbeat_default is 15s",
        ),
        (
            "[grpc]\nheartbeat_max = \"14s\"".into(),
            "grpc.heartbeat_max: grpc.heartbeat_default is 15s and grpc.heartbeat_max is 14s",
        ),
        (
            "[grpc.tls]\ncertificate_file = \"/tls.crt\"".into(),
            "grpc.tls.certificate_file: certificate_file needs a key_file",
        ),
        (
            "[grpc.tls]\nkey_file = \"/tls.key\"".into(),
            "grpc.tls.key_file: key_file needs a certificate_file",
        ),
        (
            "[grpc]\ntcp_congestion = \"bbr; reboot\"".into(),
            "grpc.tcp_congestion: found \"bbr; reboot\", expected the name of a congestion control",
        ),
        (
            "[grpc]\ntcp_congestion = \"sixteen-bytes-it\"".into(),
            "grpc.tcp_congestion: found \"sixteen-bytes-it\", expected",
        ),
        // Accounts.
        (
            format!("[[accounts]]\napi_key = \"{SECRET}\""),
            "accounts[0].id: missing; expected the account's id",
        ),
        (
            format!("[[accounts]]\nid = \"abc\"\napi_key = \"{SECRET}\""),
            "accounts[0].id: found \"abc\", expected the account's id",
        ),
        (account(""), "accounts[0].username: missing; expected exactly one way to log in"),
        (
            account(&format!("paswword = \"{SECRET}\"\nusername = \"a\"\naccount_name = \"n\"")),
            "accounts[0].password: missing; expected username and password together",
        ),
        (
            account(&format!("password = \"{SECRET}\"\naccount_name = \"n\"")),
            "accounts[0].username: missing; expected username and password together",
        ),
        (user(""), "accounts[0].account_realm: missing; expected exactly one of account_name"),
        (
            user("account_name = \"n\"\naccount_realm = \"r\""),
            "accounts[0].account_name: account_name and account_realm are set; expected exactly one",
        ),
        (
            user(&format!("account_name = \"n\"\napi_key = \"{SECRET}\"")),
            "accounts[0].api_key: username and password and api_key are set; expected exactly one way",
        ),
        (
            account(&format!("api_key = \"{SECRET}\"\naccount_name = \"n\"")),
            "accounts[0].account_name: is not used with api_key",
        ),
        (
            account(&format!("credentials_hash = \"{SECRET}\"\naccount_name = \"n\"")),
            "accounts[0].credentials_hash: found a text with other characters than hex",
        ),
        (
            user("account_name = \"n\"\nhash_method = \"sha256\""),
            "accounts[0].hash_method: found \"sha256\", expected \"md5\" or \"sha\"",
        ),
        (account("api_key = 12345"), "accounts[0].api_key: found an integer, expected a text in quotes"),
        (account("api_key = \"\""), "accounts[0].api_key: found nothing, expected a secret"),
        (
            account("api_key_file = \"/nowhere/key\""),
            "accounts[0].api_key_file: cannot read /nowhere/key: No such file",
        ),
        (
            account("api_key_env = \"NOT_SET\""),
            "accounts[0].api_key_env: found NOT_SET, which is not set, expected the name",
        ),
        (
            account(&format!("api_key = \"{SECRET}\"\napi_key_env = \"X\"")),
            "accounts[0].api_key: api_key and api_key_env are set; expected exactly one of them",
        ),
        (
            format!("{}{}", by_api_key(), by_api_key()),
            "accounts[1].id: 00112233445566778899aabbccddeeff is also accounts[0]",
        ),
        (
            account(&format!("api_key = \"{SECRET}\"\nalways_on = \"call.*.*\"")),
            "accounts[0].always_on: found \"call.*.*\", expected a list of bindings",
        ),
        (
            account(&format!("api_key = \"{SECRET}\"\nalways_on = [\"call.*.*\", \"#\"]")),
            "accounts[0].always_on[1]: found \"#\": ",
        ),
        (
            account(&format!("api_key = \"{SECRET}\"\nalways_on = [\"conference.command.room\"]")),
            "accounts[0].always_on[0]: found \"conference.command.room\": ",
        ),
        (
            format!("upstream.opt_in = 1\n{}always_on = [\"conference.command.room\"]", by_api_key()),
            "upstream.opt_in: found 1, expected a list",
        ),
    ];
    for (text, expected) in cases {
        let errors = toml(&text).expect_err(&text);
        let lines = lines(&errors);
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{text}\n{expected}\n{lines:#?}");
        // The mistyped password is missed, and refused under its wrong name.
        assert_eq!(lines.len(), if text.contains("paswword") { 2 } else { 1 }, "{text}\n{lines:#?}");
        assert!(!format!("{errors} {errors:?}").contains(SECRET), "{errors}");
        for error in &errors.0 {
            assert!(error.to_string().contains("hawking.toml: "), "{error}");
        }
    }
}

#[test]
fn mistakes_in_variables_name_the_variable() {
    for (name, text, expected) in [
        ("HAWKING_GRPC__LISTEN", "here", "HAWKING_GRPC__LISTEN: grpc.listen: found \"here\", expected an IP"),
        (
            "HAWKING_GRPC__LISTN",
            "[::]:1",
            "HAWKING_GRPC__LISTN: grpc.listn: unknown key; did you mean `listen`?",
        ),
        (
            "HAWKING_GRPC_LISTEN",
            "[::]:1",
            "HAWKING_GRPC_LISTEN: grpc_listen: unknown key; did you mean `grpc.listen`?",
        ),
        (
            "HAWKING_UPSTREAM__TLS_CA_FILE",
            "x",
            "HAWKING_UPSTREAM__TLS_CA_FILE: upstream.tls_ca_file: unknown key; did you mean `tls.ca_file`?",
        ),
        ("HAWKING_NEW__THING__DEEP", "x", "HAWKING_NEW__THING__DEEP: new: unknown key; there are "),
        ("HAWKING_", "x", "HAWKING_: unknown key; there are "),
        ("HAWKING___LISTEN", "x", "HAWKING___LISTEN: unknown key; there are "),
        ("HAWKING_GRPC__", "x", "HAWKING_GRPC__: grpc.: unknown key; "),
        (
            "HAWKING_GRPC__LISTEN__PORT",
            "1",
            "HAWKING_GRPC__LISTEN__PORT: grpc.listen: found a section, expected",
        ),
        ("HAWKING_ACCOUNTS", "x", "HAWKING_ACCOUNTS: accounts: found a text, expected a list of accounts"),
        (
            "HAWKING_ACCOUNTS__5__ID",
            ID,
            "HAWKING_ACCOUNTS__5__ID: accounts.5.id: found index 5, expected the next free",
        ),
        (
            "HAWKING_GRPC__MAX_CONNECTIONS",
            "many",
            "HAWKING_GRPC__MAX_CONNECTIONS: grpc.max_connections: found \"many\"",
        ),
        (
            "HAWKING_ACCOUNTS__0__PASSWORD__X",
            SECRET,
            "HAWKING_ACCOUNTS__0__PASSWORD__X: accounts[0].password: found a section",
        ),
        (
            "HAWKING_ACCOUNTS__0__PASSWORD_ENV",
            "NOT_SET",
            "HAWKING_ACCOUNTS__0__PASSWORD_ENV: accounts[0].password_env: found NOT_SET",
        ),
    ] {
        let errors = Config::load(None, variables(&[(name, text)])).unwrap_err();
        assert!(errors.0.iter().any(|error| error.to_string().starts_with(expected)), "{expected}\n{errors}");
        assert!(!errors.to_string().contains(SECRET), "{errors}");
    }
}

/// What looks like a number is one to YAML, and ids, users and phone numbers do.
#[test]
fn what_yaml_takes_for_a_number_is_asked_for_in_quotes() {
    let text = "accounts:\n- id: 11112222333344445555666677778888\n  username: 1001\n  password: 1234\n  phone_number: +15555550100\n";
    let errors = Folder::with("hawking.yaml", text).load(&[]).unwrap_err();
    let lines = lines(&errors);
    for (key, line) in ["id", "username", "password", "phone_number"].into_iter().zip(&lines) {
        assert!(
            line.starts_with(&format!("accounts[0].{key}: found ")) && line.ends_with("in quotes"),
            "{lines:#?}"
        );
    }
    assert_eq!(lines.len(), 4);
    assert!(!errors.to_string().contains("1234,"), "{errors}");
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let text = format!(
        "[grpc]\nlisten = 1\nheartbeat_min = \"x\"\nfoo = 1\n[hub]\nlog_age = \"soon\"\n{}always_off = []\n",
        account("password_file = \"/nowhere\"")
    );
    let file = Folder::with("hawking.toml", &text);
    let errors =
        file.load(&[("HAWKING_SHUTDOWN__GRACE", "a while"), ("HAWKING_ACCOUNTS__9__ID", ID)]).unwrap_err();
    let keys: Vec<&str> = errors.0.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "accounts.9.id",
            "hub.log_age",
            "grpc.listen",
            "grpc.heartbeat_min",
            "grpc.foo",
            "shutdown.grace",
            "accounts[0].password_file",
            "accounts[0].account_realm",
            "accounts[0].username",
            "accounts[0].always_off",
        ]
    );
    assert_eq!(errors.to_string().lines().count(), keys.len());
}

#[test]
fn files_that_cannot_be_read() {
    let errors = Config::load(Some(Path::new("/nowhere/hawking.toml")), []).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("/nowhere/hawking.toml: cannot read the configuration file: No such file"),
        "{errors}"
    );

    for (name, text, expected) in [
        ("hawking.json", "{}".to_owned(), "found a file of unknown type, expected a name that ends in .toml"),
        ("hawking.toml", format!("a = 1\npassword = {SECRET}\n"), "not valid TOML: "),
        (
            "hawking.toml",
            format!("a = \"{SECRET}\"\na = \"{SECRET}\"\n"),
            "not valid TOML: duplicate key, at line 2",
        ),
        ("hawking.toml", format!("password = \"{SECRET}"), "not valid TOML: "),
        ("hawking.yaml", format!("password: \"{SECRET}"), "not valid YAML: "),
        ("hawking.yaml", format!("a: {SECRET}\na: {SECRET}\n"), "not valid YAML: duplicate key, at line 2"),
        ("hawking.yaml", format!("? {{a: {SECRET}}}\n: 1\n"), "not valid YAML: "),
        ("hawking.yaml", format!("- {SECRET}\n"), "not valid YAML: "),
        ("hawking.yaml", format!("{SECRET}\n"), "not valid YAML: "),
    ] {
        let errors = Folder::with(name, &text).load(&[]).expect_err(&text);
        let shown = errors.to_string();
        assert!(shown.contains(name) && shown.contains(expected), "{text}\n{shown}");
        assert!(!format!("{errors} {errors:?}").contains(SECRET), "{errors}");
    }
}

/// Whatever is wrong with the rest, and wherever a secret was put by mistake.
#[test]
fn no_secret_is_shown() {
    let texts = [
        account(&format!("api_key = \"{SECRET}\"\nusername = \"{SECRET}\"")),
        account(&format!("api_key = [\"{SECRET}\"]")),
        account(&format!("api_key_file = \"{SECRET}\"")),
        account(&format!("api_key_env = \"{SECRET}\"")),
        account(&format!("apikey = \"{SECRET}\"")),
        account(&format!("api_key_file = [\"{SECRET}\"]")),
        format!("[accounts]\napi_key = \"{SECRET}\""),
        format!("accounts = \"{SECRET}\""),
        format!("secrets = \"{SECRET}\""),
        format!("[upstream]\ncrossbar_url = \"http://user:{SECRET}@host/\""),
        format!("[upstream]\nblackhole_url = \"ws://host/?auth_token={SECRET}\""),
    ];
    for text in texts {
        let errors = toml(&text).expect_err(&text);
        assert!(!format!("{errors} {errors:?} {errors:#?}").contains(SECRET), "{text}\n{errors}");
    }

    for text in [
        by_api_key(),
        account(&format!("username = \"a\"\npassword = \"{SECRET}\"\naccount_name = \"n\"")),
        account("credentials_hash = \"0badc0de\"\nphone_number = \"+1\""),
    ] {
        let config = toml(&text).unwrap();
        for shown in [format!("{config:?}"), format!("{config:#?}"), config.redacted_toml()] {
            assert!(!shown.contains(SECRET) && !shown.contains("0badc0de"), "{shown}");
        }
        assert!(config.redacted_toml().contains(" = \"***\"\n"));
    }
}
