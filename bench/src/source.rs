//! The source: raw upstream frames from memory, at a rate or as fast as consumers take them.
//!
//! A process of its own. To hawking and to the peers that take WebSocket frames it is an upstream: it logs anybody in,
//! confirms any binding, and from then on sends frames to every session that has subscribed. To nats-server it is a
//! publisher of the same frames. The driver steers it over a socket (see [`control`]).
//!
//! One thread and one readiness loop, so that the source takes little of the CPU that it shares with the client.

pub mod control;
pub mod frames;
pub mod pace;
pub mod upstream;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use serde::{Deserialize, Serialize};

use self::{
    control::Command,
    frames::Frames,
    pace::Pace,
    upstream::{Role, answer_http, answer_websocket, append_frame_header},
};
use crate::machine::monotonic_ns;

/// The subject that is published to.
pub const SUBJECT: &str = "events";

/// What the source prints when it is ready.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Addresses {
    /// Crossbar: log in here.
    pub crossbar: SocketAddr,
    /// Blackhole: subscribe here.
    pub blackhole: SocketAddr,
    /// For the driver.
    pub control: SocketAddr,
}

/// Unsent bytes of one connection above which nothing is added: the receiver, not the source, sets the pace then.
const BACKLOG: usize = 1 << 20;

/// Listeners' tokens; connections count on from here.
const CROSSBAR: usize = 0;
const BLACKHOLE: usize = 1;
const CONTROL: usize = 2;
const CONNECTIONS: usize = 3;

struct Connection {
    stream: TcpStream,
    role: Role,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    written: usize,
}

struct Source {
    poll: Poll,
    listeners: [TcpListener; 3],
    connections: Vec<Option<Connection>>,
    frames: Frames,
    pace: Option<Pace>,
    /// The sequence of the last event that was sent.
    sequence: u64,
    burst: Vec<u8>,
}

/// Runs until the control connection ends. `nats` is a server to publish to.
pub fn run(nats: Option<SocketAddr>) -> Result<()> {
    let mut source = Source::new()?;
    if let Some(address) = nats {
        source.join_nats(address)?;
    }
    let addresses = source.addresses()?;
    println!("{}", serde_json::to_string(&addresses)?);
    source.run()
}

impl Source {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let listen = |token| {
            let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            poll.registry().register(&mut listener, Token(token), Interest::READABLE)?;
            Ok::<_, io::Error>(listener)
        };
        let listeners = [listen(CROSSBAR)?, listen(BLACKHOLE)?, listen(CONTROL)?];
        Ok(Self {
            poll,
            listeners,
            connections: Vec::new(),
            frames: Frames::new(),
            pace: None,
            sequence: 0,
            burst: Vec::new(),
        })
    }

    fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            crossbar: self.listeners[CROSSBAR].local_addr()?,
            blackhole: self.listeners[BLACKHOLE].local_addr()?,
            control: self.listeners[CONTROL].local_addr()?,
        })
    }

    fn join_nats(&mut self, address: SocketAddr) -> Result<()> {
        let stream = std::net::TcpStream::connect(address).context("nats-server cannot be reached")?;
        stream.set_nonblocking(true)?;
        self.add(TcpStream::from_std(stream), Role::Nats)?;
        if let Some(Some(connection)) = self.connections.last_mut() {
            connection
                .outbox
                .extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n");
            connection.flush()?;
        }
        Ok(())
    }

    fn add(&mut self, mut stream: TcpStream, role: Role) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let token = Token(CONNECTIONS + self.connections.len());
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (inbox, outbox) = (Vec::new(), Vec::new());
        self.connections.push(Some(Connection { stream, role, inbox, outbox, written: 0 }));
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = self.rest();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in events.iter() {
                match event.token().0 {
                    CROSSBAR => self.accept(CROSSBAR, Role::Crossbar)?,
                    BLACKHOLE => self.accept(BLACKHOLE, Role::Upgrade)?,
                    CONTROL => self.accept(CONTROL, Role::Control)?,
                    token => {
                        if self.serve(token - CONNECTIONS)? == Some(Role::Control) {
                            // The driver is gone: so is the need for a source.
                            return Ok(());
                        }
                    }
                }
            }
            self.send_due()?;
        }
    }

    /// How long the poll may wait. The system's poll counts in milliseconds, so shorter waits are slept through here.
    fn rest(&self) -> Option<Duration> {
        let idle = if self.is_backed_up() { None } else { self.pace.as_ref()?.wait(Instant::now()) };
        let wait = idle?;
        if wait > Duration::ZERO {
            thread::sleep(wait.min(Duration::from_millis(1)));
        }
        Some(Duration::ZERO)
    }

    fn accept(&mut self, listener: usize, role: Role) -> io::Result<()> {
        loop {
            match self.listeners[listener].accept() {
                Ok((stream, _)) => self.add(stream, role)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads, answers, writes. Gives the role of a connection that has ended.
    fn serve(&mut self, index: usize) -> Result<Option<Role>> {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return Ok(None);
        };
        let open = connection.fill();
        match connection.role {
            Role::Crossbar => answer_http(&mut connection.inbox, &mut connection.outbox),
            Role::Upgrade | Role::Session { .. } => {
                answer_websocket(&mut connection.role, &mut connection.inbox, &mut connection.outbox)?;
            }
            Role::Control => self.obey(&mut connection),
            Role::Nats => {
                if connection.inbox.windows(6).any(|window| window == b"PING\r\n") {
                    connection.outbox.extend_from_slice(b"PONG\r\n");
                }
                connection.inbox.clear();
            }
        }
        if open && connection.flush().is_ok() {
            self.connections[index] = Some(connection);
            return Ok(None);
        }
        Ok(Some(connection.role))
    }

    fn obey(&mut self, connection: &mut Connection) {
        while let Some(end) = connection.inbox.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = connection.inbox.drain(..=end).collect();
            match std::str::from_utf8(&line).ok().and_then(Command::parse) {
                Some(Command::Start(order)) => self.pace = Some(Pace::new(order, Instant::now())),
                Some(Command::Consumed(events)) => {
                    if let Some(pace) = &mut self.pace {
                        pace.consumed(events);
                    }
                }
                Some(Command::Stop) => {
                    self.pace = None;
                    connection.outbox.extend_from_slice(format!("stopped {}\n", self.sequence).as_bytes());
                }
                None => connection.outbox.extend_from_slice(b"not understood\n"),
            }
        }
    }

    fn send_due(&mut self) -> io::Result<()> {
        if self.is_backed_up() {
            return Ok(());
        }
        let Some(pace) = &mut self.pace else { return Ok(()) };
        let due = pace.due(Instant::now());
        if due == 0 {
            return Ok(());
        }
        pace.sent(due);
        // All are WebSockets, or the one is NATS.
        let nats = self.live().any(|connection| connection.role == Role::Nats);
        let sent_ns = monotonic_ns();
        self.burst.clear();
        for sequence in self.sequence + 1..=self.sequence + due {
            let length = self.frames.length(sequence);
            if nats {
                write!(self.burst, "PUB {SUBJECT} {length}\r\n")?;
            } else {
                append_frame_header(length, &mut self.burst)?;
            }
            self.frames.append(sequence, sent_ns, &mut self.burst);
            if nats {
                self.burst.extend_from_slice(b"\r\n");
            }
        }
        self.sequence += due;
        for connection in self.connections.iter_mut().flatten().filter(|connection| connection.is_live()) {
            connection.outbox.extend_from_slice(&self.burst);
            // A connection that has broken is noticed by its next event.
            let _ = connection.flush();
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().flatten().filter(|connection| connection.is_live())
    }

    fn is_backed_up(&self) -> bool {
        self.live().any(|connection| connection.outbox.len() - connection.written > BACKLOG)
    }
}

impl Connection {
    /// Whether it gets events.
    fn is_live(&self) -> bool {
        matches!(self.role, Role::Session { live: true } | Role::Nats)
    }

    /// Takes all that can be read. False at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(length) => self.inbox.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Writes what can be written.
    fn flush(&mut self) -> io::Result<()> {
        while self.written < self.outbox.len() {
            match self.stream.write(&self.outbox[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // What is written already is given up only when it is much, so that bytes are moved seldom.
                    if self.written > BACKLOG {
                        self.outbox.drain(..self.written);
                        self.written = 0;
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.written = 0;
        Ok(())
    }
}
