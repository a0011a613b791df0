//! The same below TLS: what a connection says at once is one write of the encrypted transport, too.

use std::{io::Write, sync::LazyLock};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{grpc::tls::Tls, telemetry::throttle::Throttle};

const NAME: &str = "hawking.example.com";

/// Keys take a while to make.
static BOTH_SIDES: LazyLock<(Tls, TlsConnector)> = LazyLock::new(both_sides);

/// The server's side, and a client's that trusts it.
fn both_sides() -> (Tls, TlsConnector) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let file = |text: String| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (certificate, key) = (file(cert.pem()), file(signing_key.serialize_pem()));
    let settings = config::GrpcTls {
        certificate_file: Some(certificate.path().to_owned()),
        key_file: Some(key.path().to_owned()),
    };
    let tls = Tls::load(&settings, Throttle::every(Duration::from_secs(1))).unwrap().unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    (tls, TlsConnector::from(Arc::new(client)))
}

impl Rig {
    pub(super) async fn connect_tls(&self, windows: Windows) -> Client {
        let (client, wire) = wire(windows);
        let writes = wire.writes.clone();
        let (tls, connector) = LazyLock::force(&BOTH_SIDES);
        let server = self.serve(async move { tls.accept(wire, PEER).await });
        let client = connector.connect(NAME.try_into().unwrap(), client).await.unwrap();
        Client::over(client, server, writes, windows).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_encrypted_write_for_all_streams_of_a_connection() {
    const STREAMS: usize = 20;
    let rig = Rig::new().await;
    let mut client = rig.connect_tls(WIDE).await;
    let mut readers = client.subscribe_all(STREAMS).await;
    rig.publish("first", 500);
    all_receive(&mut readers, "first").await;
    // 20 times 500 bytes fit into one record of TLS, 20 times 2,500 take four.
    for size in [500, 2_500] {
        let before = client.writes();
        for index in 0..50 {
            rig.publish(&index.to_string(), size);
            all_receive(&mut readers, &index.to_string()).await;
        }
        assert_eq!(client.writes() - before, 50, "one for each event, of {size} bytes");
    }
    let before = client.writes();
    rig.burst(&mut readers).await;
    let writes = client.writes() - before;
    assert!(writes <= 9, "{writes} for some 500 KiB");
}

/// A transport that takes little at a time, so that TLS holds more than it could pass on: everything comes all the same.
#[tokio::test(start_paused = true)]
async fn a_slow_transport_gets_everything() {
    const EVENTS: usize = 200;
    let rig = Rig::new().await;
    for pipe in [1_000, 20_000] {
        let mut client = rig.connect_tls(Windows { pipe, ..WIDE }).await;
        let mut readers = [client.subscribe().await, client.subscribe().await];
        for index in 0..EVENTS {
            rig.publish(&index.to_string(), 3_000);
        }
        for index in 0..EVENTS {
            all_receive(&mut readers, &index.to_string()).await;
        }
        assert_eq!(rig.services.streams().count(), 2, "still open");
        drop((readers, client));
        while rig.services.streams().count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
