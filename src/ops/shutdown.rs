//! The signals that end the process.
//!
//! SIGTERM is what Kubernetes and systemd send, SIGINT what Ctrl-C sends; both mean the same here: end in good order. As
//! the first process of a container hawking gets no default action for them, so both must be caught.

use std::{fmt, io};

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// A request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// From an orchestrator.
    Terminate,
    /// From a keyboard.
    Interrupt,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Terminate => "SIGTERM",
            Signal::Interrupt => "SIGINT",
        })
    }
}

/// The signals, caught from the moment of [`Signals::catch`] on. One that came between two calls of [`Signals::next`] is
/// not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Starts to catch the signals: from here on they no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to install a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}
