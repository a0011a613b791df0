//! `check-config` and `print-config`.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::{hawking, run};

const ID: &str = "00112233445566778899aabbccddeeff";
const SECRET: &str = "correct-horse-battery";

/// A configuration file in a folder of its own.
struct File {
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Self { path, _folder: folder }
    }

    fn run(&self, command: &str) -> (i32, String, String) {
        run(hawking([command, "--config"]).arg(&self.path))
    }
}

fn valid() -> String {
    format!("[grpc]\nlisten = \"127.0.0.1:4\"\n[[accounts]]\nid = \"{ID}\"\napi_key = \"{SECRET}\"\n")
}

#[test]
fn a_valid_file_is_valid() {
    for (name, text) in [
        ("hawking.toml", valid()),
        ("hawking.yaml", format!("accounts: [{{ id: \"{ID}\", api_key: {SECRET} }}]")),
    ] {
        let (code, stdout, stderr) = File::new(name, &text).run("check-config");
        assert_eq!((code, stderr.as_str()), (0, ""), "{name}");
        assert!(stdout.contains("1 account"), "{stdout}");
    }
}

/// Such as what `print-config` prints, before anything in it was filled in.
#[test]
fn a_file_without_an_account_is_told_what_it_needs() {
    let (code, reference, _) = run(&mut hawking(["print-config"]));
    assert_eq!(code, 0);
    for command in ["check-config", "serve"] {
        let (code, _, stderr) = File::new("hawking.toml", &reference).run(command);
        assert_eq!(code, 2);
        assert!(stderr.contains("hawking.toml") && stderr.contains("[[accounts]]"), "{stderr}");
        assert!(!stderr.contains("--config FILE"), "it was given: {stderr}");
        let (code, _, stderr) = run(&mut hawking([command]));
        assert_eq!(code, 2);
        assert!(stderr.contains("--config FILE"), "{stderr}");
    }
}

#[test]
fn variables_alone_are_enough() {
    let mut command = hawking(["check-config"]);
    command
        .env("HAWKING_ACCOUNTS__0__ID", ID)
        .env("HAWKING_ACCOUNTS__0__API_KEY_ENV", "KEY")
        .env("KEY", SECRET);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("1 account"), "{stdout}");
}

/// Each mistake of a file is on standard error, and nothing is on standard output.
#[test]
fn every_mistake_is_reported_and_the_exit_code_is_2() {
    let text = format!(
        "[grpc]\nlissten = \"127.0.0.1:4\"\nmax_connections = \"many\"\n\
         [upstream]\ncrossbar_url = \"crossbar\"\nping_interval = \"often\"\n\
         [[accounts]]\nid = \"{ID}\"\napi_key_file = \"/nowhere/key\"\n\
         [[accounts]]\nid = \"{ID}\"\napi_key = \"{SECRET}\"\nusername = \"{SECRET}\"\n"
    );
    let expected = [
        "grpc.lissten: unknown key; did you mean `listen`?",
        "grpc.max_connections: found \"many\", expected a whole number",
        "upstream.crossbar_url: found \"crossbar\", expected a http or https URL",
        "upstream.ping_interval: found \"often\", expected a duration",
        "accounts[0].api_key_file: cannot read /nowhere/key: ",
        "accounts[1].id: 00112233445566778899aabbccddeeff is also accounts[0]",
        "accounts[1].api_key: ",
    ];
    let file = File::new("hawking.toml", &text);
    for command in ["check-config", "print-config", "serve"] {
        let (code, stdout, stderr) = file.run(command);
        assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {stderr}");
        for part in expected {
            assert!(
                stderr.contains(&format!("{}: {part}", file.path.display())),
                "{command}: {part}\n{stderr}"
            );
        }
        assert_eq!(stderr.matches("hawking.toml: ").count(), expected.len(), "{command}: {stderr}");
        assert!(!stderr.contains(SECRET), "{stderr}");
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    for (name, text, expected) in [
        ("hawking.toml", format!("password = {SECRET}"), "not valid TOML: "),
        ("hawking.yaml", format!("password: \"{SECRET}"), "not valid YAML: "),
        ("hawking.json", "{}".to_owned(), "expected a name that ends in .toml, .yaml or .yml"),
    ] {
        let (code, stdout, stderr) = File::new(name, &text).run("check-config");
        assert_eq!((code, stdout.as_str()), (2, ""), "{name}: {stderr}");
        assert!(stderr.contains(name) && stderr.contains(expected), "{stderr}");
        assert!(!stderr.contains(SECRET), "{stderr}");
    }
    let (code, _, stderr) = run(&mut hawking(["check-config", "--config", "/nowhere/hawking.toml"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("/nowhere/hawking.toml: cannot read the configuration file: "), "{stderr}");
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let file = File::new("hawking.toml", &valid());
    let mut command = hawking(["check-config", "--config"]);
    command.arg(&file.path).env("HAWKING_GRPC__LISTEN", "everywhere").env("HAWKING_SHUTDOWN_GRACE", "1s");
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 2);
    assert!(stderr.contains("HAWKING_GRPC__LISTEN: grpc.listen: found \"everywhere\""), "{stderr}");
    assert!(stderr.contains("HAWKING_SHUTDOWN_GRACE: shutdown_grace: unknown key"), "{stderr}");
}

/// What is printed without a file is a file that can be begun with.
#[test]
fn the_printed_defaults_are_a_configuration() {
    let (code, printed, stderr) = run(&mut hawking(["print-config"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(printed.contains("\n#listen = \"127.0.0.1:50051\"\n"), "{printed}");

    let file = File::new(
        "hawking.toml",
        &format!("{printed}\n[[accounts]]\nid = \"{ID}\"\napi_key = \"{SECRET}\"\n"),
    );
    let (code, _, stderr) = file.run("check-config");
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn what_variables_alone_come_to_is_printed_too() {
    let mut command = hawking(["print-config"]);
    command.env("HAWKING_ACCOUNTS__0__ID", ID).env("HAWKING_ACCOUNTS__0__API_KEY", SECRET);
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains(&format!("\nid = \"{ID}\"\n")), "{stdout}");
    assert!(!stdout.contains(SECRET), "{stdout}");
}

#[test]
fn a_variable_can_name_the_file() {
    let file = File::new("hawking.toml", &valid());
    let (code, stdout, stderr) = run(hawking(["check-config"]).env("HAWKING_CONFIG", &file.path));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("1 account"), "{stdout}");
}

#[test]
fn what_is_in_force_is_printed_without_secrets() {
    let file = File::new("hawking.toml", &valid());
    let mut command = hawking(["print-config", "--config"]);
    command.arg(&file.path).env("HAWKING_HUB__LOG_BYTES", "128MiB");
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    for line in
        ["api_key = \"***\"", "listen = \"127.0.0.1:4\"", "# Default: \"64MiB\"\nlog_bytes = \"128MiB\""]
    {
        assert!(stdout.contains(&format!("\n{line}\n")), "{line}\n{stdout}");
    }
    assert!(!stdout.contains(SECRET), "{stdout}");
}

/// The example in the README, with the one file that it names.
#[test]
fn the_readme_shows_a_valid_configuration() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```toml\n# hawking.toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();

    let secret = File::new("kazoo-api-key", SECRET);
    let text = example.replace("/run/secrets/kazoo-api-key", &secret.path.display().to_string());
    assert_ne!(text, example);
    let (code, _, stderr) = File::new("hawking.toml", &text).run("check-config");
    assert_eq!((code, stderr.as_str()), (0, ""));
}

/// A certificate that could not be served with is a mistake as any other, found before anything is started.
#[test]
fn a_certificate_that_cannot_be_used_is_said() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(["hawking".to_owned()]).unwrap().self_signed(&key).unwrap();
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write("tls.crt", &certificate.pem());
    let own_key = write("tls.key", &key.serialize_pem());
    let other_key = write("other.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
    let tls = |certificate: &str, key: &str| {
        let text = format!("{}[grpc.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n", valid());
        File::new("hawking.toml", &text)
    };
    let (code, stdout, stderr) = tls(&good, &own_key).run("check-config");
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("gRPC on 127.0.0.1:4 with TLS"), "{stdout}");

    for (certificate, key, expected) in [
        ("/nowhere/tls.crt", own_key.as_str(), "grpc.tls.certificate_file: cannot read /nowhere/tls.crt: "),
        (&good, &other_key, "does not belong to the first certificate in "),
        (&own_key, &own_key, "tls.key holds no certificate in PEM form"),
    ] {
        for command in ["check-config", "serve"] {
            let (code, stdout, stderr) = tls(certificate, key).run(command);
            assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {stderr}");
            assert!(stderr.contains(expected) && !stderr.contains("PRIVATE KEY"), "{command}: {stderr}");
        }
    }
}
