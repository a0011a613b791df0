//! Secrets in a configuration that is wrong, in a place where they do not belong, or in force: they are not shown.

use std::{collections::BTreeSet, fs};

use hawking::config::Config;
use tempfile::TempDir;

use crate::{hawking, run, secrets::leaks};

const ID: &str = "00112233445566778899aabbccddeeff";
const SECRET: &str = "Xk7/qPz4+Wm2=vB9";

fn found(text: &str) -> Vec<String> {
    leaks(text, &BTreeSet::from([SECRET.to_owned()]))
}

/// What stands after `[[accounts]]` and its id, and is wrong.
fn wrong_accounts() -> Vec<String> {
    let user = "username = \"a\"\naccount_name = \"b\"\n";
    [
        format!("api_key = \"{SECRET}\"\npassword = \"{SECRET}\""),
        format!("api_key = \"{SECRET}\"\napi_key_file = \"/nowhere\""),
        format!("api_key = \"{SECRET}\"\napi_kex = \"{SECRET}\""),
        format!("api_key = [\"{SECRET}\"]"),
        format!("api_key = {{ key = \"{SECRET}\" }}"),
        format!("api_key_file = \"{SECRET}\""),
        format!("api_key_env = \"{SECRET}\""),
        format!("api_key = \"{SECRET}\"\ncrossbar_url = \"http://user:{SECRET}@crossbar\""),
        format!("api_key = \"{SECRET}\"\ncrossbar_url = \"http://crossbar/?token={SECRET}\""),
        format!("api_key = \"{SECRET}\"\nblackhole_url = \"wss://crossbar/#{SECRET}\""),
        format!("api_key = \"{SECRET}\"\nblackhole_url = \"user:{SECRET}@blackhole\""),
        format!("api_key = \"{SECRET}\"\nalways_on = 7"),
        format!("credentials_hash = \"{SECRET}\"\naccount_name = \"b\""),
        format!("credentials_hash = \"{SECRET}\"\nhash_method = \"sha256\"\naccount_name = \"b\""),
        format!("{user}password = \"{SECRET}\"\nphone_number = \"1\""),
        format!("{user}password = \"{SECRET}"),
        format!("{user}password = {SECRET}"),
        format!("{user}password = '{SECRET}' {SECRET}"),
        format!("{user}password = \"\\q{SECRET}\""),
        format!("{user}password = \"\"\"{SECRET}\n\n{SECRET}"),
        format!("{user}password = 0x{SECRET}"),
        format!("{user}password = 1979-05-27T{SECRET}"),
        format!("{user}password \"{SECRET}\""),
        format!("{user}password.\"{SECRET}\"\n= 1"),
    ]
    .into()
}

/// The same in YAML, which has more ways to go wrong.
fn wrong_yaml() -> Vec<String> {
    [
        format!("[{SECRET}"),
        format!("\"{SECRET}"),
        format!("*{SECRET}"),
        format!("@{SECRET}"),
        format!("%{SECRET}"),
        format!("`{SECRET}"),
        format!("{SECRET}: {SECRET}"),
        format!("{SECRET}\n {SECRET}: ]"),
        format!("|{SECRET}\n x"),
        format!("\"\\q{SECRET}\""),
        format!("\t{SECRET}\n\t- {SECRET}"),
        format!("{{ {SECRET}"),
        format!("? {SECRET}"),
    ]
    .into()
}

#[test]
fn a_wrong_configuration_shows_no_secret() {
    let folder = TempDir::new().unwrap();
    let toml =
        wrong_accounts().into_iter().map(|rest| ("toml", format!("[[accounts]]\nid = \"{ID}\"\n{rest}\n")));
    let yaml = wrong_yaml().into_iter().map(|rest| {
        ("yaml", format!("accounts:\n- id: \"{ID}\"\n  account_name: b\n  username: a\n  password: {rest}\n"))
    });
    for (extension, text) in toml.chain(yaml) {
        let path = folder.path().join(format!("hawking.{extension}"));
        fs::write(&path, &text).unwrap();
        for command in ["check-config", "print-config", "serve"] {
            let (code, stdout, stderr) = run(hawking([command, "--config"]).arg(&path));
            assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {text}");
            assert!(stderr.contains(&format!("hawking.{extension}: ")), "{command}: {text}\n{stderr}");
            assert_eq!(found(&stderr), [""; 0], "{command}: {text}\n{stderr}");
        }
    }
}

#[test]
fn a_wrong_variable_shows_no_secret() {
    for (name, text) in [
        ("HAWKING_ACCOUNTS__0__API_KEY_ENV", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS__0__API_KEY_FILE", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS__0__API_KEYS", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS__0__CREDENTIALS_HASH", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS__0__API_KEY__X", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS__7__API_KEY", SECRET.to_owned()),
        ("HAWKING_ACCOUNTS_0_API_KEY", SECRET.to_owned()),
        ("HAWKING_PASSWORD", SECRET.to_owned()),
        ("HAWKING_UPSTREAM__CROSSBAR_URL", format!("http://user:{SECRET}@crossbar/")),
    ] {
        for command in ["check-config", "print-config", "serve"] {
            let mut command = hawking([command]);
            command.env("HAWKING_ACCOUNTS__0__ID", ID).env("HAWKING_ACCOUNTS__0__ACCOUNT_NAME", "a");
            let (code, stdout, stderr) = run(command.env(name, &text));
            assert_eq!((code, stdout.as_str()), (2, ""), "{name}: {stderr}");
            assert!(stderr.contains(name), "{name}: {stderr}");
            assert_eq!(found(&stderr), [""; 0], "{name}: {stderr}");
        }
    }
}

#[test]
fn help_shows_no_variable() {
    for command in ["serve", "demo", "sim", "tail", "check-config", "print-config", "completions"] {
        let mut command = hawking([command, "--help"]);
        command.env("HAWKING_ACCOUNTS__0__API_KEY", SECRET).env("HAWKING_ACCOUNTS__0__PASSWORD", SECRET);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(found(&stdout), [""; 0]);
    }
}

/// What a developer prints, or a panic.
#[test]
fn what_is_in_force_shows_no_secret() {
    for account in [
        format!("api_key = \"{SECRET}\""),
        format!("username = \"a\"\naccount_realm = \"b\"\npassword = \"{SECRET}\""),
        "username = \"a\"\naccount_realm = \"b\"\npassword_env = \"PASSWORD\"".to_owned(),
    ] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("hawking.toml");
        fs::write(&path, format!("[[accounts]]\nid = \"{ID}\"\n{account}\n")).unwrap();
        let environment = [("PASSWORD".to_owned(), SECRET.to_owned())];
        let config = Config::load(Some(&path), environment).unwrap();
        let all = format!("{config:?} {config:#?} {}", config.redacted_toml());
        assert!(all.contains(ID), "{all}");
        assert_eq!(found(&all), [""; 0]);

        let (code, stdout, _) = run(hawking(["print-config", "--config"]).arg(&path).env("PASSWORD", SECRET));
        assert_eq!(code, 0);
        assert!(stdout.contains(ID), "{stdout}");
        assert_eq!(found(&stdout), [""; 0]);
    }
}
