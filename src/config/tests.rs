//! What is read, what is refused and in which words, and that the reference is true.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::binding::Binding;

const ID: &str = "00112233445566778899aabbccddeeff";
const OTHER_ID: &str = "ffeeddccbbaa99887766554433221100";
const SECRET: &str = "correct-horse-battery";

/// A folder with one configuration file.
struct Folder {
    dir: TempDir,
    file: PathBuf,
}

impl Folder {
    fn with(name: &str, text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        Self { dir, file }
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        Config::load(Some(&self.file), variables(env))
    }
}

fn variables(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn toml(text: &str) -> Result<Config, ConfigErrors> {
    Folder::with("hawking.toml", text).load(&[])
}

fn account(rest: &str) -> String {
    format!("[[accounts]]\nid = \"{ID}\"\n{rest}\n")
}

fn by_api_key() -> String {
    account(&format!("api_key = \"{SECRET}\""))
}

fn password(config: &Config) -> &str {
    match &config.accounts[0].credentials {
        Credentials::User { password, .. } => password.expose_secret(),
        other => panic!("{other:?}"),
    }
}

/// `key: problem` of each error, without its place.
fn lines(errors: &ConfigErrors) -> Vec<String> {
    errors.0.iter().map(|error| format!("{}: {}", error.key, error.problem)).collect()
}

#[test]
fn no_file_and_no_variable_is_the_default() {
    assert_eq!(Config::load(None, []).unwrap(), Config::default());
    assert_eq!(toml("").unwrap(), Config::default());
}

#[test]
fn toml_and_yaml_say_the_same() {
    let toml = format!(
        r#"
        [upstream]
        crossbar_url = "https://crossbar.example.com/api"
        commands_in_flight = 2
        rate_share = 0.5
        opt_in = ["conference.command"]
        [upstream.tls]
        ca_file = "/ca.pem"
        only_ca_file = true
        [hub]
        log_bytes = "1GiB"
        log_age = "2h 30m"
        [telemetry]
        log_format = "json"
        [[accounts]]
        id = "{ID}"
        username = "admin"
        password = "{SECRET}"
        hash_method = "sha"
        account_realm = "a.example.com"
        [[accounts]]
        id = "{OTHER_ID}"
        api_key = "{SECRET}"
        always_on = ["call.*.*", "conference.command.room", "call.*.*"]
        "#
    );
    let yaml = format!(
        r#"
upstream:
  crossbar_url: https://crossbar.example.com/api
  commands_in_flight: 2
  rate_share: 0.5
  opt_in: [conference.command]
  tls: {{ ca_file: /ca.pem, only_ca_file: true }}
hub:
  log_bytes: 1GiB
  log_age: 2h 30m
grpc:
  # listen: nothing here
telemetry: {{ log_format: json }}
accounts:
  - id: {ID}
    username: admin
    password: {SECRET}
    hash_method: sha
    account_realm: a.example.com
  - {{ id: {OTHER_ID}, api_key: {SECRET}, always_on: ["call.*.*", "conference.command.room"] }}
"#
    );
    let config = Folder::with("hawking.toml", &toml).load(&[]).unwrap();
    assert_eq!(config, Folder::with("hawking.yaml", &yaml).load(&[]).unwrap());
    assert_eq!(config, Folder::with("hawking.yml", &yaml).load(&[]).unwrap());

    // Paths are joined to it, so it ends with a slash.
    assert_eq!(config.upstream.crossbar_url.as_str(), "https://crossbar.example.com/api/");
    assert_eq!(config.upstream.tls.ca_file.as_deref(), Some(Path::new("/ca.pem")));
    assert!(config.upstream.opt_in.0.contains(&crate::binding::Kind::ConferenceCommand));
    assert_eq!(config.hub.log_bytes, 1 << 30);
    assert_eq!(config.hub.log_age, Duration::from_secs(9000));
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert_eq!(password(&config), SECRET);
    let always_on: Vec<&str> = config.accounts[1].always_on.iter().map(Binding::as_str).collect();
    assert_eq!(always_on, ["call.*.*", "conference.command.room"]);
    assert!(matches!(
        &config.accounts[0].credentials,
        Credentials::User { username, method: HashMethod::Sha, realm: AccountName::Realm(realm), .. }
            if username == "admin" && realm == "a.example.com"
    ));
    assert!(
        matches!(&config.accounts[1].credentials, Credentials::ApiKey { key } if key.expose_secret() == SECRET)
    );
}

#[test]
fn variables_win_over_the_file() {
    let text = "[grpc]\nlisten = \"127.0.0.1:1\"\nmax_connections = 7\n[hub]\nlog_records = 1000\n";
    let config = Folder::with("hawking.toml", text)
        .load(&[
            ("HAWKING_GRPC__LISTEN", "[::]:2"),
            ("HAWKING_UPSTREAM__TLS__ONLY_CA_FILE", "true"),
            ("HAWKING_UPSTREAM__TLS__CA_FILE", "/ca.pem"),
            ("HAWKING_UPSTREAM__RATE_SHARE", "1"),
            ("HAWKING_UPSTREAM__OPT_IN", "conference.command,"),
            ("HAWKING_HUB__LOG_RECORDS", "2000"),
            ("HAWKING_HUB__LOG_BYTES", "128Mi"),
            ("HAWKING_SHUTDOWN__GRACE", "5s"),
            // Not set: a template left it empty.
            ("HAWKING_GRPC__MAX_CONNECTIONS", ""),
            // Not settings: the command line's own, Kubernetes' links to a Service named hawking, and others'.
            ("HAWKING_CONFIG", "/etc/hawking.toml"),
            ("HAWKING_SERVICE_HOST", "10.0.0.1"),
            ("HAWKING_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
    assert_eq!(config.grpc.listen, "[::]:2".parse::<SocketAddr>().unwrap());
    assert_eq!(config.grpc.max_connections, 7);
    assert!(config.upstream.tls.only_ca_file);
    assert_eq!(config.upstream.rate_share, 1.0);
    assert_eq!(config.upstream.opt_in.0.len(), 1);
    assert_eq!(config.hub.log_records, 2000);
    assert_eq!(config.hub.log_bytes, 128 << 20);
    assert_eq!(config.shutdown.grace, Duration::from_secs(5));
}

#[test]
fn variables_alone_are_enough() {
    let config = Config::load(
        None,
        variables(&[
            ("HAWKING_UPSTREAM__CROSSBAR_URL", "http://crossbar:8000"),
            ("HAWKING_UPSTREAM__BLACKHOLE_URL", "ws://blackhole:5555"),
            ("HAWKING_ACCOUNTS__0__ID", ID),
            ("HAWKING_ACCOUNTS__0__USERNAME", "admin"),
            ("HAWKING_ACCOUNTS__0__PASSWORD_ENV", "KAZOO_PASSWORD"),
            ("HAWKING_ACCOUNTS__0__ACCOUNT_NAME", "example"),
            ("HAWKING_ACCOUNTS__0__ALWAYS_ON", "call.*.*, fax.status.*"),
            ("KAZOO_PASSWORD", SECRET),
        ]),
    )
    .unwrap();
    assert_eq!(config.accounts.len(), 1);
    assert_eq!(config.accounts[0].id.as_str(), ID);
    assert_eq!(config.accounts[0].always_on.len(), 2);
    assert_eq!(password(&config), SECRET);
}

#[test]
fn variables_reach_accounts_by_index_and_by_id() {
    let file = Folder::with(
        "hawking.toml",
        &format!("{}[[accounts]]\nid = \"{OTHER_ID}\"\napi_key = \"in-file\"\n", by_api_key()),
    );
    let new = "abcdefabcdefabcdefabcdefabcdefab";
    let (by_id, added) = (
        format!("HAWKING_ACCOUNTS__{}__API_KEY", OTHER_ID.to_uppercase()),
        format!("HAWKING_ACCOUNTS__{}__API_KEY", new.to_uppercase()),
    );
    let config = file
        .load(&[("HAWKING_ACCOUNTS__0__API_KEY", "by-index"), (&by_id, "by-id"), (&added, "added")])
        .unwrap();
    let keys: Vec<(&str, &str)> = config
        .accounts
        .iter()
        .map(|account| match &account.credentials {
            Credentials::ApiKey { key } => (account.id.as_str(), key.expose_secret()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys, [(ID, "by-index"), (OTHER_ID, "by-id"), (new, "added")]);
}

#[test]
fn twelve_accounts_from_variables_are_in_order() {
    let ids: Vec<String> = (0..12).map(|n| format!("{n:032}")).collect();
    let mut env = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        env.push((format!("HAWKING_ACCOUNTS__{n}__ID"), id.clone()));
        env.push((format!("HAWKING_ACCOUNTS__{n}__API_KEY"), SECRET.to_owned()));
    }
    let config = Config::load(None, env).unwrap();
    let loaded: Vec<&str> = config.accounts.iter().map(|account| account.id.as_str()).collect();
    assert_eq!(loaded, ids);
}

#[test]
fn secrets_come_from_files_and_variables() {
    let user = "username = \"admin\"\naccount_name = \"example\"\n";
    let file = Folder::with("hawking.toml", "");
    let secret = file.dir.path().join("password");
    for (content, read) in [
        (SECRET.to_owned(), SECRET.to_owned()),
        (format!("{SECRET}\n"), SECRET.to_owned()),
        (format!("{SECRET}\r\n"), SECRET.to_owned()),
        // One newline alone is taken off, and nothing else: blanks may be part of it.
        (format!(" {SECRET} \n\n"), format!(" {SECRET} \n")),
    ] {
        fs::write(&secret, content).unwrap();
        fs::write(&file.file, account(&format!("{user}password_file = {:?}", secret.display().to_string())))
            .unwrap();
        assert_eq!(password(&file.load(&[]).unwrap()), read);
    }

    fs::write(&file.file, account(&format!("{user}password_env = \"KAZOO_PASSWORD\""))).unwrap();
    assert_eq!(password(&file.load(&[("KAZOO_PASSWORD", SECRET)]).unwrap()), SECRET);

    // In another spelling than the file's, a variable wins as well.
    fs::write(&file.file, account(&format!("{user}password_file = \"/nowhere\""))).unwrap();
    assert_eq!(password(&file.load(&[("HAWKING_ACCOUNTS__0__PASSWORD", SECRET)]).unwrap()), SECRET);
}

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
        ("[shutdown]\nzzz = 1".into(), "shutdown.zzz: unknown key; there are grace"),
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
            "[grpc]\nheartbeat_min = \"16s\"".into(),
            "grpc.heartbeat_min: grpc.heartbeat_min is 16s and grpc.heartbeat_default is 15s",
        ),
        (
            "[grpc]\nheartbeat_max = \"14s\"".into(),
            "grpc.heartbeat_max: grpc.heartbeat_default is 15s and grpc.heartbeat_max is 14s",
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
        ("HAWKING_GRPC_LISTEN", "[::]:1", "HAWKING_GRPC_LISTEN: grpc_listen: unknown key; "),
        ("HAWKING_NEW__THING__DEEP", "x", "HAWKING_NEW__THING__DEEP: new: unknown key; there are "),
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

/// `#key = value` with the `#` taken off, where the key is one of those that are wanted.
fn uncomment(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && wanted(setting.split(' ').next().unwrap_or("")) => {
            setting
        }
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The reference's part about accounts, and all the rest.
fn reference_parts() -> (String, String) {
    let reference = reference();
    let (accounts, rest) = reference.split_once("\n[upstream]\n").unwrap();
    (accounts.to_owned(), format!("[upstream]\n{rest}"))
}

#[test]
fn the_reference_sets_nothing_and_uncommented_sets_the_defaults() {
    let reference = reference();
    assert_eq!(toml(&reference).unwrap(), Config::default());

    let (_, rest) = reference_parts();
    let uncommented = uncomment(&rest, |_| true);
    assert_ne!(uncommented, rest);
    assert_eq!(toml(&uncommented).unwrap(), Config::default(), "{uncommented}");

    // Every setting of a section is there to be uncommented, or is shown with an example.
    let effective = Config::default().redacted_toml();
    for line in effective.lines().skip(1).filter(|line| !line.is_empty()) {
        let line = line.trim_end();
        assert!(reference.contains(line), "{line}");
    }
}

/// With each of the ways to log in, and everything else that an account can have.
#[test]
fn the_account_in_the_reference_can_be_uncommented() {
    let (accounts, _) = reference_parts();
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0badc0de").unwrap();
    let accounts = accounts
        .lines()
        .map(|line| match line.split_once(" = \"/run/secrets/") {
            Some((key, _)) => format!("{key} = {:?}\n", secret.display().to_string()),
            None => format!("{line}\n"),
        })
        .collect::<String>();

    let common = ["[[accounts]]", "id", "crossbar_url", "blackhole_url", "always_on"];
    for (way, is_that) in [
        (
            &["username", "password_file", "hash_method", "account_name"][..],
            (|credentials| matches!(credentials, Credentials::User { .. })) as fn(&Credentials) -> bool,
        ),
        (&["credentials_hash_file", "hash_method", "account_realm"], |credentials| {
            matches!(credentials, Credentials::Hash { .. })
        }),
        (&["credentials_hash_file", "phone_number"], |credentials| {
            matches!(credentials, Credentials::Hash { realm: AccountName::PhoneNumber(_), .. })
        }),
        (&["api_key_file"], |credentials| matches!(credentials, Credentials::ApiKey { .. })),
    ] {
        let text = uncomment(&accounts, |key| common.contains(&key) || way.contains(&key));
        let config = toml(&text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        assert!(is_that(&config.accounts[0].credentials), "{way:?}");
        assert_eq!(config.accounts[0].crossbar_url.as_ref().unwrap().as_str(), "http://crossbar:8000/");
    }
}

#[test]
fn what_is_in_force_can_be_loaded_again() {
    let text = format!(
        "[grpc]\nlisten = \"0.0.0.0:1\"\n[upstream]\nopt_in = [\"conference.command\"]\nrate_share = 1\n{}",
        account(&format!(
            "username = \"a\\\"b\\\\c\"\npassword = \"{SECRET}\"\naccount_name = \"n\"\nalways_on = [\"call.*.*\"]"
        ))
    );
    let config = toml(&text).unwrap();
    let shown = config.redacted_toml();
    assert!(shown.contains("# Default: \"127.0.0.1:50051\"\nlisten = \"0.0.0.0:1\"\n"), "{shown}");

    let again = toml(&shown).unwrap();
    assert_eq!(again.redacted_toml(), shown);
    assert_eq!(password(&again), "***");
    assert_eq!((&again.grpc, &again.upstream), (&config.grpc, &config.upstream));
}
