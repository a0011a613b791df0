use std::{io::Write, path::PathBuf};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

struct Files(TempDir);

impl Files {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }
}

/// A certificate and its key, in PEM.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["hawking".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn what_is_wrong_with_which_file_is_said_and_no_more() {
    let files = Files(TempDir::new().unwrap());
    let (certificate, key) = pair();
    let (_, other_key) = pair();
    let body = key.lines().nth(1).unwrap().to_owned();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let broken = key.replace("-----END", "----END");
    let no_base64 = key.replace(&body, &format!("{}#", &body[1..]));
    let no_key = key.replace(&body, "AAAA");
    let cases: Vec<(&str, &str, &str)> = vec![
        (
            &certificate,
            &other_key,
            "grpc.tls: the key in KEY does not belong to the first certificate in CERT",
        ),
        ("", &key, "grpc.tls.certificate_file: CERT holds no certificate in PEM form"),
        (&key, &key, "grpc.tls.certificate_file: CERT holds no certificate in PEM form"),
        (&certificate, "", "grpc.tls.key_file: KEY holds no private key in PEM form"),
        (&certificate, &certificate, "grpc.tls.key_file: KEY holds no private key in PEM form"),
        (
            &certificate,
            &encrypted,
            "grpc.tls.key_file: KEY holds an encrypted private key; expected one without",
        ),
        (&certificate, &broken, "grpc.tls.key_file: KEY is not valid PEM"),
        (&certificate, &no_base64, "grpc.tls.key_file: KEY is not valid PEM"),
        (&certificate, &no_key, "grpc.tls.key_file: KEY holds a private key of a kind that is not supported"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
            "grpc.tls.certificate_file: CERT holds a certificate that cannot be understood",
        ),
    ];
    for (certificate, key, expected) in cases {
        let (certificate, key) = (files.write("tls.crt", certificate), files.write("tls.key", key));
        let expected = expected
            .replace("CERT", &certificate.display().to_string())
            .replace("KEY", &key.display().to_string());
        let settings = config::GrpcTls { certificate_file: Some(certificate), key_file: Some(key) };
        let error = check(&settings).unwrap_err();
        assert!(error.to_string().starts_with(&expected), "{error}\n{expected}");
        assert!(!format!("{error} {error:?}").contains(&body[..12]), "{error:?}");
    }

    let (certificate, key) = (files.write("tls.crt", &certificate), files.write("tls.key", &key));
    let good = config::GrpcTls { certificate_file: Some(certificate.clone()), key_file: Some(key) };
    check(&good).unwrap();
    let missing = config::GrpcTls { key_file: Some("/nowhere/tls.key".into()), ..good };
    assert_eq!(
        check(&missing).unwrap_err().to_string(),
        "grpc.tls.key_file: cannot read /nowhere/tls.key: entity not found"
    );
    check(&config::GrpcTls::default()).unwrap();
}

/// The order is that of TLS: the server's own first.
#[test]
fn a_chain_is_read_whole() {
    let files = Files(TempDir::new().unwrap());
    let ((certificate, _), (authority, _)) = (pair(), pair());
    let path = files.write("chain.crt", &format!("# a comment\n{certificate}\n{authority}"));
    assert_eq!(read_chain(&path).unwrap().len(), 2);
}
