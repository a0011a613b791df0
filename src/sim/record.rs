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
    /// A frame was handed to the socket whole.
    Sent(Frame),
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
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    next: u64,
    exchanges: VecDeque<Exchange>,
}

impl Record {
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    pub fn add(&self, at: SystemTime, connection: u64, what: Happening) {
        if self.limit == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        let number = kept.next;
        kept.next += 1;
        if kept.exchanges.len() == self.limit {
            kept.exchanges.pop_front();
        }
        kept.exchanges.push_back(Exchange { number, at, connection, what });
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.kept.lock().exchanges.iter().cloned().collect()
    }
}
