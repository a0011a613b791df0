//! Where the events come from: `hawking sim --blast`, a process of its own. To hawking and to the peers that take WebSocket
//! frames it is an upstream.
//!
//! nats-server takes no frames, so a publisher stands before it: the same source in this binary, with another framing.

use std::{io, net::SocketAddr, net::TcpStream};

use anyhow::{Context, Result};
pub use hawking::sim::blast::{Addresses, control, frames, pace, upstream};
use hawking::sim::blast::{Blast, Framing};

/// The subject that is published to.
pub const SUBJECT: &str = "events";

/// Publishes to a nats-server until whoever steers it has gone.
pub fn run(nats: SocketAddr) -> Result<()> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut blast = Blast::listen(&Addresses { crossbar: free, blackhole: free, control: free }, None)?;
    let stream = TcpStream::connect(nats).context("nats-server cannot be reached")?;
    blast.join(stream, b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n", PUBLISHED)?;
    serde_json::to_writer(io::stdout(), &blast.addresses()?)?;
    println!();
    Ok(blast.run()?)
}

const PUBLISHED: Framing = Framing {
    before: |length, out| out.extend_from_slice(format!("PUB {SUBJECT} {length}\r\n").as_bytes()),
    behind: b"\r\n",
    answer: |inbox, outbox| {
        if inbox.windows(6).any(|window| window == b"PING\r\n") {
            outbox.extend_from_slice(b"PONG\r\n");
        }
        inbox.clear();
    },
};
