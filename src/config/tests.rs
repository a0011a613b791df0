//! What is read from where. What is refused is in `mistakes`, what is printed in `printed`.

mod mistakes;
mod printed;

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
        account_log_bytes = "1GiB"
        total_log_bytes = "2GiB"
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
  account_log_bytes: 1GiB
  total_log_bytes: 2GiB
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
            ("HAWKING_SHUTDOWN__GRACE", "50s"),
            ("HAWKING_GRPC__MAX_STREAM_AGE", "6h"),
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
    assert_eq!(config.shutdown.grace, Duration::from_secs(50));
    assert_eq!(config.grpc.max_stream_age, Some(Duration::from_hours(6)));
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
