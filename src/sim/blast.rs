//! A source for measurements, not for tests: raw frames of events from memory, at a rate or as fast as consumers take them, in
//! bursts that reach the socket as one write. `hawking sim --blast` runs it; whoever steers it speaks [`control`] to it.
//!
//! To a gateway it is a Kazoo: it logs anybody in, confirms any binding, and from then on sends all events to every session that
//! has subscribed. What is under load here is the gateway, so nothing else of Kazoo is in it; what a gateway does when Kazoo
//! misbehaves is the [`Simulator`](super::Simulator)'s to find out. Only the queue of 4.3 and K5 is, whose length is what a
//! reader that is too slow loses events by (F46, G30).
//!
//! One thread and one readiness loop, because it has to share its processor with the client that counts what arrives.

pub mod control;
pub mod frames;
pub mod pace;
pub mod upstream;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use serde::{Deserialize, Serialize};

use self::{
    control::{Command, stopped},
    frames::Frames,
    pace::Pace,
    upstream::{Role, answer_http, answer_websocket, append_frame_header},
};

/// Where its three listeners are: what it prints, as a line of JSON, when it is ready.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Addresses {
    /// Crossbar: log in here.
    pub crossbar: SocketAddr,
    /// Blackhole: subscribe here.
    pub blackhole: SocketAddr,
    /// For whoever steers it.
    pub control: SocketAddr,
}

/// Someone who gets events that is no session of a gateway: what the events look like on that connection.
#[derive(Clone, Copy)]
pub struct Framing {
    /// Appends what comes before a frame of so many bytes.
    pub before: fn(usize, &mut Vec<u8>),
    /// What comes behind it.
    pub behind: &'static [u8],
    /// Takes what the other side says, and appends what has to be answered.
    pub answer: fn(&mut Vec<u8>, &mut Vec<u8>),
}

/// Unsent bytes of one connection above which nothing is added, unless what is too much is to vanish: the receiver, not the
/// source, sets the pace then.
const BACKLOG: usize = 1 << 20;

/// Listeners' tokens; connections count on from here.
const CROSSBAR: usize = 0;
const BLACKHOLE: usize = 1;
const CONTROL: usize = 2;
/// Somebody asks it to end.
const END: usize = 3;
const CONNECTIONS: usize = 4;

struct Connection {
    stream: TcpStream,
    role: Role,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    written: usize,
    /// Where in `outbox` the frames end that are not written whole. Kept only where there is a limit to them.
    waiting: VecDeque<usize>,
}

/// The source, ready to run.
pub struct Blast {
    poll: Poll,
    ender: Arc<Waker>,
    listeners: [TcpListener; 3],
    connections: Vec<Option<Connection>>,
    frames: Frames,
    pace: Option<Pace>,
    /// The sequence of the last event that was made.
    sequence: u64,
    /// How many frames of a session may wait for its socket; what more there is vanishes.
    limit: Option<usize>,
    /// Frames that vanished, over all sessions.
    vanished: u64,
    burst: Vec<u8>,
    /// Where in `burst` its frames end.
    ends: Vec<usize>,
}

/// Ends a [`Blast`] that runs on another thread.
#[derive(Debug, Clone)]
pub struct Ender(Arc<Waker>);

impl Ender {
    /// Ends it.
    pub fn end(&self) {
        // It fails only where there is nothing any more to be woken.
        let _ = self.0.wake();
    }
}

impl Blast {
    /// Listens at these addresses; port 0 takes a free one. `limit`: how many frames of a session may wait for its socket before
    /// more of them vanish, as in 4.3 and K5; unset, the source waits for its slowest receiver instead.
    ///
    /// # Errors
    ///
    /// Where an address cannot be listened on.
    pub fn listen(at: &Addresses, limit: Option<usize>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let listen = |token, address| {
            let mut listener = TcpListener::bind(address)?;
            poll.registry().register(&mut listener, Token(token), Interest::READABLE)?;
            Ok::<_, io::Error>(listener)
        };
        let listeners =
            [listen(CROSSBAR, at.crossbar)?, listen(BLACKHOLE, at.blackhole)?, listen(CONTROL, at.control)?];
        let ender = Arc::new(Waker::new(poll.registry(), Token(END))?);
        Ok(Self {
            poll,
            ender,
            listeners,
            connections: Vec::new(),
            frames: Frames::new(),
            pace: None,
            sequence: 0,
            limit,
            vanished: 0,
            burst: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Ends it from another thread.
    pub fn ender(&self) -> Ender {
        Ender(Arc::clone(&self.ender))
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// As the system's.
    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            crossbar: self.listeners[CROSSBAR].local_addr()?,
            blackhole: self.listeners[BLACKHOLE].local_addr()?,
            control: self.listeners[CONTROL].local_addr()?,
        })
    }

    /// Sends the events to somebody else, too, over a connection that is there already.
    ///
    /// # Errors
    ///
    /// Where the greeting cannot be sent.
    pub fn join(&mut self, stream: std::net::TcpStream, greeting: &[u8], framing: Framing) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.add(TcpStream::from_std(stream), Role::Other(framing))?;
        if let Some(Some(connection)) = self.connections.last_mut() {
            connection.outbox.extend_from_slice(greeting);
            connection.flush()?;
        }
        Ok(())
    }

    fn add(&mut self, mut stream: TcpStream, role: Role) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let token = Token(CONNECTIONS + self.connections.len());
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let (inbox, outbox, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
        self.connections.push(Some(Connection { stream, role, inbox, outbox, written: 0, waiting }));
        Ok(())
    }

    /// Runs until whoever steers it has gone, or it is ended.
    ///
    /// # Errors
    ///
    /// As the system's, for what concerns more than one connection.
    pub fn run(&mut self) -> io::Result<()> {
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
                    END => return Ok(()),
                    token => {
                        if let Some(Role::Control) = self.serve(token - CONNECTIONS) {
                            // So is the need for a source.
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
    fn serve(&mut self, index: usize) -> Option<Role> {
        let mut connection = self.connections.get_mut(index).and_then(Option::take)?;
        let mut open = connection.fill();
        let (inbox, outbox) = (&mut connection.inbox, &mut connection.outbox);
        match &mut connection.role {
            Role::Crossbar => answer_http(inbox, outbox),
            role @ (Role::Upgrade | Role::Session { .. }) => {
                open &= answer_websocket(role, inbox, outbox).is_ok();
            }
            Role::Control => self.obey(&mut connection),
            Role::Other(framing) => (framing.answer)(inbox, outbox),
        }
        if open && connection.flush().is_ok() {
            self.connections[index] = Some(connection);
            return None;
        }
        Some(connection.role)
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
                    connection.outbox.extend_from_slice(stopped(self.sequence, self.vanished).as_bytes());
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
        let sequences = self.sequence + 1..=self.sequence + due;
        self.sequence += due;
        let sent_ns = monotonic_ns();
        // All are sessions, or the one is somebody else.
        let other = self.live().find_map(|connection| match connection.role {
            Role::Other(framing) => Some(framing),
            _ => None,
        });
        self.burst.clear();
        self.ends.clear();
        for sequence in sequences {
            let length = self.frames.length(sequence);
            match other {
                Some(framing) => (framing.before)(length, &mut self.burst),
                None => append_frame_header(length, &mut self.burst)?,
            }
            self.frames.append(sequence, sent_ns, &mut self.burst);
            if let Some(framing) = other {
                self.burst.extend_from_slice(framing.behind);
            }
            self.ends.push(self.burst.len());
        }
        for connection in self.connections.iter_mut().flatten().filter(|connection| connection.is_live()) {
            let base = connection.outbox.len();
            connection.outbox.extend_from_slice(&self.burst);
            if self.limit.is_some() {
                connection.waiting.extend(self.ends.iter().map(|end| base + end));
            }
            // A connection that has broken is noticed by its next event.
            let _ = connection.flush();
            if let Some(limit) = self.limit {
                self.vanished += connection.vanish_above(limit);
            }
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().flatten().filter(|connection| connection.is_live())
    }

    fn is_backed_up(&self) -> bool {
        let is_full = |connection: &Connection| connection.outbox.len() - connection.written > BACKLOG;
        self.limit.is_none() && self.live().any(is_full)
    }
}

impl Connection {
    /// Whether it gets events.
    fn is_live(&self) -> bool {
        matches!(self.role, Role::Session { live: true } | Role::Other(_))
    }

    /// Of the frames that wait because the socket takes no more, those above the limit vanish. How many did.
    fn vanish_above(&mut self, limit: usize) -> u64 {
        let vanished = self.waiting.len().saturating_sub(limit);
        if vanished > 0 {
            self.waiting.truncate(limit);
            self.outbox.truncate(self.waiting.back().copied().unwrap_or(self.written));
        }
        vanished as u64
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
                    while self.waiting.front().is_some_and(|end| *end <= self.written) {
                        self.waiting.pop_front();
                    }
                    // What is written already is given up only when it is much, so that bytes are moved seldom.
                    if self.written > BACKLOG {
                        self.outbox.drain(..self.written);
                        self.waiting.iter_mut().for_each(|end| *end -= self.written);
                        self.written = 0;
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.waiting.clear();
        self.written = 0;
        Ok(())
    }
}

/// Nanoseconds of a clock that all processes of the machine share: a time stamp of one can be subtracted in another.
pub fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests;
