//! The reference is true, and what is in force can be read again.

use super::*;

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

/// Also where there is neither a value nor an example: the paragraph says what it is about.
#[test]
fn every_setting_is_shown_with_its_name() {
    let in_force = toml(&account(&format!("api_key = \"{SECRET}\""))).unwrap().redacted_toml();
    for (text, names) in [
        (&reference(), &["max_stream_age"][..]),
        (&in_force, &["max_stream_age", "password", "credentials_hash"]),
    ] {
        for name in names {
            assert!(text.contains(&format!("# Not set: {name}.\n")), "{name}: {text}");
        }
        assert!(!text.contains("# Not set.\n"), "{text}");
    }
}
