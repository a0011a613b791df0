//! The record: every connection, and each frame received and put on the wire, in order. It is the truth that tests compare
//! with.

use std::{collections::VecDeque, net::SocketAddr, time::SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// One thing that happened on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its place in the record, counted from 0; without holes.
    pub number: u64,
    /// When, by the simulator's wall clock.
    pub at: SystemTime,
    /// The connection, counted from 1 in order of arrival over all listeners; 0 is the control API's own.
    pub connection: u64,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A request to Crossbar was answered.
    Crossbar {
        /// `PUT`
        method: String,
        /// `/v2/user_auth`
        path: String,
        /// The status of the answer.
        status: u16,
    },
    /// An upgrade was refused.
    Refused {
        /// The status of the answer.
        status: u16,
    },
    /// A session began.
    Opened {
        /// The client's address: the session's id.
        peer: SocketAddr,
    },
    /// A frame came in.
    Received(Frame),
    /// A frame was handed to the socket whole, and the socket was then not ended before it was sent. So it comes to a client
    /// that reads on until the end.
    Sent(Frame),
    /// A frame for the client did not come to the socket whole.
    Lost(Frame, Loss),
    /// A session ended.
    Closed(Ending),
}

/// A WebSocket frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(Utf8Bytes),
    /// Binary.
    Binary(Bytes),
    /// A ping. The pong for it is not in the record.
    Ping(Bytes),
    /// A pong.
    Pong(Bytes),
    /// A close frame with its code.
    Close(Option<u16>),
}

/// Why a frame was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Too much waited for the socket: `max_queued_messages` of 4.3 and K5 (F46, G30).
    Queue,
    /// A fault: see [`Simulator::drop_replies`](super::Simulator::drop_replies).
    Fault,
    /// The connection ended while it was written: a part of it may have come.
    Torn,
    /// The connection ended before it was written.
    Unsent,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closed it.
    Client,
    /// The server closed it with this code: 1000 idle, 1002 and 1007 protocol, 1011 bad input.
    Server(u16),
    /// TCP ended without a close frame, by the client's doing.
    Lost,
    /// TCP was cut without a close frame, by the control API or because the server stopped.
    Cut,
    /// The client took nothing for too long.
    Slow,
}

/// The record of a simulator.
pub(super) struct Record {
    limit: usize,
    byte_limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    next: u64,
    bytes: usize,
    exchanges: VecDeque<Exchange>,
}

impl Record {
    /// A record of at most so many exchanges, and so many bytes of frames.
    pub fn new(limit: usize, byte_limit: usize) -> Self {
        Self { limit, byte_limit, kept: Mutex::default() }
    }

    pub fn add(&self, at: SystemTime, connection: u64, what: Happening) {
        if self.limit == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        let number = kept.next;
        kept.next += 1;
        kept.bytes += what.bytes();
        kept.exchanges.push_back(Exchange { number, at, connection, what });
        while kept.exchanges.len() > self.limit || kept.bytes > self.byte_limit {
            let Some(oldest) = kept.exchanges.pop_front() else { break };
            kept.bytes -= oldest.what.bytes();
        }
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.kept.lock().exchanges.iter().cloned().collect()
    }
}

impl Happening {
    fn bytes(&self) -> usize {
        match self {
            Happening::Received(frame) | Happening::Sent(frame) | Happening::Lost(frame, _) => match frame {
                Frame::Text(text) => text.len(),
                Frame::Binary(bytes) | Frame::Ping(bytes) | Frame::Pong(bytes) => bytes.len(),
                Frame::Close(_) => 0,
            },
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_by_count_and_by_bytes() {
        let record = Record::new(3, 10);
        let add = |text: &str| {
            record.add(SystemTime::UNIX_EPOCH, 1, Happening::Sent(Frame::Text(text.into())));
            record.exchanges().iter().map(|exchange| exchange.number).collect::<Vec<_>>()
        };
        add("a");
        add("b");
        assert_eq!(add("c"), [0, 1, 2]);
        assert_eq!(add("d"), [1, 2, 3]);
        assert_eq!(add("12345678"), [2, 3, 4]);
        assert_eq!(add("fg"), [4, 5]);
        assert_eq!(add("more than all of them"), [0u64; 0]);
        assert_eq!(add("e"), [7]);
    }
}
