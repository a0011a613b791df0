//! How a session ends.

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use tokio_tungstenite::tungstenite::{self, error::ProtocolError, protocol::CloseFrame};

use crate::binding::Flavour;

/// Every way in which a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCause {
    /// We closed it.
    Asked,
    /// Code 1000. From blackhole that means: the client was silent for too long (F8).
    Idle,
    /// Code 1002 or 1007: blackhole found fault with what we sent.
    Protocol(u16),
    /// Code 1011: blackhole crashed on what we sent (F15).
    Crashed,
    /// Another close code, or none (1005).
    Code(u16),
    /// The end of the TCP stream without a close frame: stopped, killed, or tired of a slow reader (F47, F50).
    Eof,
    /// The connection broke.
    Io(io::ErrorKind),
    /// Nothing came within `liveness_timeout`, not even a pong.
    Silent,
    /// The token is not accepted: log in anew.
    TokenRefused,
    /// A message larger than [`MAX_MESSAGE_BYTES`](super::connector::MAX_MESSAGE_BYTES).
    TooLarge,
    /// What came is no WebSocket.
    Garbage,
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseCause::Asked => f.write_str("hawking closed the session"),
            CloseCause::Idle => f.write_str("upstream closed the session as idle (1000)"),
            CloseCause::Protocol(code) => write!(f, "upstream closed the session over the protocol ({code})"),
            CloseCause::Crashed => f.write_str("upstream's side of the session crashed (1011)"),
            CloseCause::Code(code) => write!(f, "upstream closed the session ({code})"),
            CloseCause::Eof => f.write_str("upstream dropped the connection without a close frame"),
            CloseCause::Io(kind) => write!(f, "the connection to upstream broke: {kind}"),
            CloseCause::Silent => f.write_str("upstream gave no sign of life"),
            CloseCause::TokenRefused => f.write_str("upstream does not accept the token"),
            CloseCause::TooLarge => f.write_str("upstream sent a message that is too large"),
            CloseCause::Garbage => f.write_str("upstream sent something that is no WebSocket"),
        }
    }
}

impl CloseCause {
    /// Whether upstream has ended the session itself.
    pub(super) fn is_of_upstream(self) -> bool {
        match self {
            CloseCause::Idle
            | CloseCause::Protocol(_)
            | CloseCause::Crashed
            | CloseCause::Code(_)
            | CloseCause::Eof => true,
            // Something on the way may have broken the connection.
            CloseCause::Io(_)
            | CloseCause::Asked
            | CloseCause::Silent
            | CloseCause::TokenRefused
            | CloseCause::TooLarge
            | CloseCause::Garbage => false,
        }
    }

    pub(super) fn from_frame(frame: Option<&CloseFrame>) -> Self {
        match frame.map_or(1005, |frame| u16::from(frame.code)) {
            1000 => CloseCause::Idle,
            code @ (1002 | 1007) => CloseCause::Protocol(code),
            1011 => CloseCause::Crashed,
            code => CloseCause::Code(code),
        }
    }

    pub(super) fn from_error(error: &tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseCause::Eof,
            tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => CloseCause::Eof,
            tungstenite::Error::Io(error) => CloseCause::Io(error.kind()),
            tungstenite::Error::Capacity(_) => CloseCause::TooLarge,
            _ => CloseCause::Garbage,
        }
    }
}

/// What is left of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Why it ended.
    pub cause: CloseCause,
    /// When the last frame came, or the answer to the upgrade.
    pub last_life: SystemTime,
    /// The last proof of life: when all before the last frame had been read, because that may have lain unread since, or when
    /// the last request was sent that was answered. (What upstream itself held back until it died, it held back unseen.)
    pub alive: SystemTime,
    /// When the last request was sent that upstream has answered: all that it put on the socket before was read.
    pub read_through: SystemTime,
    /// Whether upstream is known to have ended it too: its close frame came, or the end of its stream. Otherwise it may have
    /// a session there that nobody holds any more, and that dies at some time (F51).
    pub parted: bool,
    /// How long it was live.
    pub live: Duration,
    /// What the upstream was found to be.
    pub flavour: Option<Flavour>,
}
