//! How a source is steered: lines over a TCP connection.
//!
//! ```text
//! start rate 1000 burst 1 count 0      so many events a second
//! start closed 64 burst 32 count 0     never more than 64 ahead of what is reported
//! consumed 128                         consumers have taken so many events of this order, on average
//! stop                                 answered by `stopped SENT VANISHED`: the events sent since the source began, and the
//!                                      frames of them that vanished, over all sessions
//! ```
//!
//! The reports go one way and are never answered, so a closed loop costs whoever steers it one small write for each quarter of
//! its window.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    str::SplitAsciiWhitespace,
    time::Duration,
};

use super::pace::{Order, Speed};

/// What is said to a source.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Start(Order),
    Consumed(u64),
    Stop,
}

/// The answer to [`Command::Stop`].
pub(super) fn stopped(sent: u64, vanished: u64) -> String {
    format!("stopped {sent} {vanished}\n")
}

/// What a source has sent since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Events, each once.
    pub events: u64,
    /// Frames that vanished because too many waited for a session's socket.
    pub vanished: u64,
}

impl Command {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "consumed" => Some(Self::Consumed(words.next()?.parse().ok()?)),
            "stop" => Some(Self::Stop),
            "start" => {
                let speed = match words.next()? {
                    "rate" => Speed::Rate(words.next()?.parse().ok().filter(|rate| *rate > 0.0)?),
                    "closed" => Speed::Closed { ahead: words.next()?.parse().ok()? },
                    _ => return None,
                };
                let burst = named(&mut words, "burst")?;
                let count = named(&mut words, "count")?;
                Some(Self::Start(Order { speed, burst, count }))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Consumed(events) => writeln!(f, "consumed {events}"),
            Self::Stop => writeln!(f, "stop"),
            Self::Start(Order { speed, burst, count }) => {
                match speed {
                    Speed::Rate(rate) => write!(f, "start rate {rate}")?,
                    Speed::Closed { ahead } => write!(f, "start closed {ahead}")?,
                }
                writeln!(f, " burst {burst} count {count}")
            }
        }
    }
}

fn named(words: &mut SplitAsciiWhitespace<'_>, name: &str) -> Option<u64> {
    words.next().filter(|word| *word == name)?;
    words.next()?.parse().ok()
}

impl Sent {
    fn read(line: &str) -> Option<Self> {
        let (events, vanished) = line.trim_end().strip_prefix("stopped ")?.split_once(' ')?;
        Some(Self { events: events.parse().ok()?, vanished: vanished.parse().ok()? })
    }
}

/// The other end of the line: of whoever steers a source.
pub struct Remote {
    stream: BufReader<TcpStream>,
    /// Where the next report is worth a write, if the loop is closed.
    next_report: Option<(u64, u64)>,
}

impl Remote {
    /// Connects to a source.
    ///
    /// # Errors
    ///
    /// As the system's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream: BufReader::new(stream), next_report: None })
    }

    /// Begins an order; one that is under way ends.
    ///
    /// # Errors
    ///
    /// As the system's.
    pub fn start(&mut self, order: Order) -> io::Result<()> {
        self.next_report = match order.speed {
            Speed::Closed { ahead } => Some((1, (ahead / 4).max(1))),
            Speed::Rate(_) => None,
        };
        self.say(&Command::Start(order))
    }

    /// Reports how many events consumers have taken since the start, on average, if that is worth it.
    ///
    /// # Errors
    ///
    /// As the system's.
    pub fn consumed(&mut self, events: u64) -> io::Result<()> {
        match &mut self.next_report {
            Some((next, step)) if events >= *next => {
                *next = events + *step;
                self.say(&Command::Consumed(events))
            }
            _ => Ok(()),
        }
    }

    /// Stops it.
    ///
    /// # Errors
    ///
    /// As the system's, and where it does not answer as it should.
    pub fn stop(&mut self) -> io::Result<Sent> {
        self.next_report = None;
        self.say(&Command::Stop)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Sent::read(&line).ok_or_else(|| io::Error::other(format!("the source says {line:?} to a stop")))
    }

    fn say(&mut self, command: &Command) -> io::Result<()> {
        self.stream.get_mut().write_all(command.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_is_written() {
        assert_eq!(Sent::read(&stopped(7, 2)), Some(Sent { events: 7, vanished: 2 }));
        assert_eq!(Sent::read("not understood\n"), None);
    }

    #[test]
    fn commands_are_read_as_they_are_written() {
        let orders = [Speed::Rate(0.5), Speed::Closed { ahead: 64 }]
            .map(|speed| Command::Start(Order { speed, burst: 32, count: 7 }));
        for command in orders.into_iter().chain([Command::Consumed(9), Command::Stop]) {
            assert_eq!(Command::parse(command.to_string().trim()), Some(command));
        }
        for line in ["", "start", "start rate 0 burst 1 count 0", "start rate 1 count 0", "consumed x"] {
            assert_eq!(Command::parse(line), None, "{line}");
        }
    }
}
