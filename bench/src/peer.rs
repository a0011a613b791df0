//! The servers that hawking is measured beside. Each takes the same frames from the same source over a WebSocket, reads
//! them as a gateway must, and serves its consumers its own way.
//!
//! - [`tcp`]: the limit. Each event is encoded once and written as often as a connection has streams, with no protocol.
//! - [`naive`]: what one writes first: a broadcast channel, and a task and a queue for each stream, on tonic.
//!
//! (The third peer, nats-server, is a program of its own.)

pub mod ingest;
pub mod naive;
pub mod tcp;

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};

use tokio_rustls::TlsAcceptor;

use crate::machine::set_congestion;

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    Tcp,
    Naive,
}

/// What a peer prints when it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Where consumers connect.
    pub listen: SocketAddr,
    /// Why the congestion control that was asked for could not be set.
    pub congestion_refused: Option<String>,
}

/// What TLS is served with.
pub fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    // What the client offers is not what is spoken here; but it wants an answer.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// Serves until the process is ended.
pub fn run(
    peer: Peer,
    upstream: SocketAddr,
    congestion: Option<&str>,
    workers: usize,
    tls: Option<TlsAcceptor>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let (listener, congestion_refused) = listen(congestion)?;
        let frames = ingest::connect(upstream).await.context("the source cannot be reached")?;
        let ready = Ready { listen: listener.local_addr()?, congestion_refused };
        println!("{}", serde_json::to_string(&ready)?);
        match peer {
            Peer::Tcp => tcp::serve(listener, frames, tls).await,
            Peer::Naive => naive::serve(listener, frames).await,
        }
    })
}

fn listen(congestion: Option<&str>) -> Result<(tokio::net::TcpListener, Option<String>)> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(4096)?;
    let refused =
        congestion.and_then(|name| set_congestion(&listener, name).err()).map(|error| error.to_string());
    Ok((listener, refused))
}
