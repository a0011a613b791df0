//! Who is measured, and how the client speaks to each.

use std::fmt;

use clap::ValueEnum;
use hawking::proto::{EventFilter, SubscribeRequest};
use serde::{Deserialize, Serialize};

use crate::{
    client::{
        Wire,
        h2::{H2, Windows},
        nats::Nats,
        spread,
        tally::Tally,
        tcp::Tcp,
    },
    source::frames::{ACCOUNT, BINDING, NAMES},
};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The shipped binary.
    Hawking,
    /// The limit.
    Tcp,
    /// tonic, a broadcast channel, a task for each stream.
    Naive,
    /// nats-server.
    Nats,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hawking => "hawking",
            Self::Tcp => "tcp",
            Self::Naive => "naive",
            Self::Nats => "nats",
        })
    }
}

/// The streams that a client opens.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    pub streams: usize,
    pub connections: usize,
    pub windows: Windows,
    /// No two streams ask for the same.
    pub distinct: bool,
    /// So many streams of each connection never give credit back.
    pub stalled: usize,
    /// So many of all streams have connections of their own, which stop reading.
    pub deaf: usize,
}

impl Topology {
    /// The connections, ready to be opened.
    pub fn wires(&self, mode: Mode) -> Vec<Box<dyn Wire>> {
        let parts = self.parts();
        let wire = |part: (usize, usize)| -> Box<dyn Wire> {
            match mode {
                Mode::Tcp => Box::new(Tcp::new(part)),
                Mode::Nats => Box::new(Nats::new(part)),
                Mode::Hawking | Mode::Naive => {
                    let requests: Vec<_> =
                        (part.0..part.0 + part.1).map(|stream| self.request(stream)).collect();
                    Box::new(H2::new(part.0, &requests, self.windows).stall_last(self.stalled))
                }
            }
        };
        parts.into_iter().map(wire).collect()
    }

    /// Whether a stream takes what comes: neither its credit nor its connection is held back.
    pub fn is_healthy(&self, stream: usize) -> bool {
        let parts = self.parts();
        let healthy = &parts[..parts.len() - self.deaf];
        healthy.iter().any(|(first, count)| (*first..first + count - self.stalled).contains(&stream))
    }

    /// The same, but all take what comes.
    pub fn without_stalls(self) -> Self {
        Self { stalled: 0, deaf: 0, ..self }
    }

    /// For each connection its first stream and how many.
    fn parts(&self) -> Vec<(usize, usize)> {
        let together = self.streams - self.deaf;
        let mut parts = spread(together, self.connections - self.deaf);
        parts.extend((together..self.streams).map(|stream| (stream, 1)));
        parts
    }

    /// A tally that looks at all content.
    pub fn checking_tally(&self, mode: Mode) -> Tally {
        let parts = if mode == Mode::Tcp { self.parts() } else { Vec::new() };
        Tally::checking(self.streams, &parts)
    }

    fn request(&self, stream: usize) -> SubscribeRequest {
        let filter = self.distinct.then(|| {
            // All events still pass: the last name is only there to make the view another one.
            let mut names = NAMES.map(str::to_owned).to_vec();
            names.push(format!("NO-SUCH-EVENT-{stream}"));
            EventFilter { names, ..EventFilter::default() }
        });
        SubscribeRequest {
            account_id: ACCOUNT.to_owned(),
            bindings: vec![BINDING.to_owned()],
            filter,
            client_name: "bench".to_owned(),
            ..SubscribeRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stalls_is_at_the_end_of_its_connection_and_who_is_deaf_at_the_end_of_all() {
        let topology = Topology {
            streams: 12,
            connections: 4,
            windows: Windows::TONIC,
            distinct: false,
            stalled: 2,
            deaf: 2,
        };
        let healthy: Vec<_> = (0..12).filter(|stream| topology.is_healthy(*stream)).collect();
        assert_eq!(healthy, [0, 1, 2, 5, 6, 7]);
        assert!((0..12).all(|stream| topology.without_stalls().is_healthy(stream)));
    }
}
