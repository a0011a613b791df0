//! The counting client: opens many streams over a few connections and decodes nothing, so that the server is what is
//! measured. One thread, one readiness loop.
//!
//! - [`Wire`]: what a connection speaks: [`h2`] (gRPC over HTTP/2), [`tcp`], [`nats`].
//! - [`messages`]: where messages of gRPC begin and end.
//! - [`tally`]: what was counted; in untimed rounds also whether it was right.

pub mod h2;
pub mod messages;
pub mod nats;
pub mod tally;
pub mod tcp;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustls::ClientConnection;

use self::tally::Tally;
use crate::{
    certificate::{self, Certificate},
    machine::monotonic_ns,
};

/// One connection's protocol. It owns no socket: bytes in, bytes out.
pub trait Wire {
    /// Appends what is sent first.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Takes what it can from the front of `data` and gives its length; the rest is shown again with what comes next.
    fn take(&mut self, data: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Result<usize>;

    /// Whether all its streams have begun.
    fn is_open(&self) -> bool;
}

/// Bytes that are read at once at most.
const READ: usize = 512 * 1024;

pub struct Client {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    pub tally: Tally,
}

struct Connection {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    wire: Box<dyn Wire>,
    /// What was read but not taken.
    rest: Vec<u8>,
    out: Vec<u8>,
    /// It stopped reading: a consumer that hangs.
    deaf: bool,
    ended: bool,
}

impl Client {
    /// Connects all; the streams begin during the next turns.
    pub fn connect(
        address: SocketAddr,
        wires: Vec<Box<dyn Wire>>,
        tally: Tally,
        certificate: Option<&Certificate>,
    ) -> Result<Self> {
        let poll = Poll::new()?;
        let mut connections = Vec::with_capacity(wires.len());
        for (index, mut wire) in wires.into_iter().enumerate() {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            let mut out = Vec::new();
            wire.open(&mut out);
            let tls = certificate.map(|certificate| session(certificate).map(Box::new)).transpose()?;
            let (rest, deaf, ended) = (Vec::new(), false, false);
            connections.push(Connection { stream, tls, wire, rest, out, deaf, ended });
        }
        let (events, scratch) = (Events::with_capacity(1024), vec![0; READ]);
        Ok(Self { poll, events, connections, scratch, tally })
    }

    /// Waits for something to happen, and deals with it.
    pub fn turn(&mut self, timeout: Duration) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            let connection = &mut self.connections[event.token().0];
            if !connection.deaf && !connection.ended {
                connection.read(&mut self.scratch, &mut self.tally)?;
            }
            connection.write()?;
        }
        Ok(())
    }

    /// Turns for so long.
    pub fn run_for(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.turn(left.min(Duration::from_millis(20)))?;
        }
        Ok(())
    }

    /// Turns until all streams have begun.
    pub fn open(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while !self.connections.iter().all(|connection| connection.wire.is_open()) {
            if Instant::now() > end {
                let open = self.connections.iter().filter(|connection| connection.wire.is_open()).count();
                bail!(
                    "after {deadline:?} all streams have begun on {open} of {} connections only",
                    self.connections.len()
                );
            }
            self.turn(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// The last so many connections read no more.
    pub fn deafen_last(&mut self, connections: usize) {
        self.connections.iter_mut().rev().take(connections).for_each(|connection| connection.deaf = true);
    }

    /// All connections read again, first what they have missed.
    pub fn listen_again(&mut self) {
        for connection in self.connections.iter_mut().filter(|connection| connection.deaf) {
            connection.deaf = false;
            // A connection that breaks here has ended; that is what is asked.
            if connection.read(&mut self.scratch, &mut self.tally).is_err() {
                connection.ended = true;
            }
        }
    }

    /// Connections that the server has ended.
    pub fn ended(&self) -> usize {
        self.connections.iter().filter(|connection| connection.ended).count()
    }
}

impl Connection {
    fn read(&mut self, scratch: &mut [u8], tally: &mut Tally) -> Result<()> {
        loop {
            let kept = self.rest.len();
            scratch[..kept].copy_from_slice(&self.rest);
            let length = match self.read_some(&mut scratch[kept..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            tally.read(length, monotonic_ns);
            let data = &scratch[..kept + length];
            let taken = self.wire.take(data, &mut self.out, tally)?;
            self.rest.clear();
            self.rest.extend_from_slice(&data[taken..]);
            if self.rest.len() == scratch.len() {
                bail!("a unit larger than {READ} bytes");
            }
        }
    }

    /// What the peer has sent: as it came, or decrypted.
    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(into) };
        let mut taken = 0;
        loop {
            // First what is decrypted already: there is a bound to what the session keeps of it.
            match tls.reader().read(&mut into[taken..]) {
                Ok(0) => return Ok(taken),
                Ok(length) => taken += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if taken == into.len() {
                return Ok(taken);
            }
            match tls.read_tls(&mut self.stream) {
                Ok(0) => return Ok(taken),
                Ok(_) => _ = tls.process_new_packets().map_err(io::Error::other)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
    }

    fn write_some(&mut self) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.write(&self.out) };
        let length = tls.writer().write(&self.out)?;
        Ok(length)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() && !self.ended {
            match self.write_some() {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.ended = true;
                }
                Err(error) => return Err(error),
            }
        }
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() && !self.ended {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.ended = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn session(certificate: &Certificate) -> Result<ClientConnection> {
    let mut session = ClientConnection::new(certificate.client.clone(), certificate::NAME.try_into()?)?;
    session.set_buffer_limit(None);
    Ok(session)
}

/// How `streams` are spread over `connections`: for each, the number of the first and how many.
pub fn spread(streams: usize, connections: usize) -> Vec<(usize, usize)> {
    let mut first = 0;
    let share = |index| streams / connections + usize::from(index < streams % connections);
    (0..connections)
        .map(|index| {
            let part = (first, share(index));
            first += part.1;
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn streams_are_spread_evenly_and_all_of_them() {
        assert_eq!(super::spread(7, 3), [(0, 3), (3, 2), (5, 2)]);
        assert_eq!(super::spread(100, 5).last(), Some(&(80, 20)));
    }
}
