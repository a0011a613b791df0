//! The way in: Crossbar, the WebSocket to blackhole, one session, and the loop that keeps one for each account.
//!
//! # Layout
//!
//! - `accounts`: one task for each configured account; they come, change and go with the configuration.
//! - `account` is the loop of one: log in ([`crossbar`]) and connect ([`connector`], both by `link`), run a session, wait
//!   (`backoff`), again. `rotation` says when a session is replaced by another and how, `month` when the servers' month turns,
//!   `steering` what an operator can ask for, `report` what a session tells then.
//! - `session` is one WebSocket from its first command to its [`CloseCause`]. Its rules are apart from its waiting:
//!   `commands` (what is sent and when, by `pacing`; what a reply means), `holdings` (what it should hold and holds) and
//!   `refresh` (when it asks again for what it holds, and what that can show).
//! - [`frame`] is what goes over the wire, `event` makes of it what the hub keeps.
//! - `descendants`: the session serves the accounts below its own too. `gate` keeps the accounts of a process from coming
//!   over one host all at once.
//! - `intake` is where sessions hand over events and control records, in the order in which they come: it attributes them to
//!   an account, drops what came before (`dedupe`), and keeps the `ledger` of which session holds what. Two sessions of one
//!   account share it.
//!
//! `counted` puts all of that into the words of metrics.
//!
//! Nothing in here waits for a consumer, and there is no unsubscribe: on an upstream that counts references across sessions
//! it would silence others (F37).

mod account;
mod accounts;
mod backoff;
mod close;
mod commands;
pub mod connector;
mod counted;
pub mod crossbar;
mod dedupe;
mod descendants;
mod event;
pub mod frame;
mod gate;
mod holdings;
mod intake;
mod ledger;
mod link;
mod month;
mod pacing;
mod refresh;
mod report;
mod rotation;
mod session;
mod steering;
#[cfg(test)]
mod tests;
mod threads;
mod tls;

use std::sync::Arc;

use crate::{
    clock::{SharedClock, SystemClock},
    config,
    random::{SharedRandom, SystemRandom},
    telemetry::metrics::Metrics,
};

pub use account::{run, run_steered};
pub use accounts::Accounts;
pub use close::CloseCause;
pub use connector::{BoxedIo, Dial, TcpDial};
pub use crossbar::{ReqwestTransport, Transport, TransportError};
pub use event::GREGORIAN_OFFSET;
pub use gate::{Gate, Pass};
pub use report::{BindingHeld, SessionReport};
pub use steering::{Order, Reply, Setup, Steered, Steering, Unheard, steering};
pub use tls::TlsSetupError;

/// All that the upstream side takes from the world: a test puts its own in place of any of them.
#[derive(Clone)]
pub struct Seams {
    /// Opens connections to blackhole.
    pub dial: Arc<dyn Dial>,
    /// Sends requests to Crossbar.
    pub transport: Arc<dyn Transport>,
    /// Tells the time of day.
    pub clock: SharedClock,
    /// Jitter, request ids, epochs.
    pub random: SharedRandom,
    /// Shared by all accounts that come from the same place.
    pub gate: Arc<Gate>,
    /// Threads of their own for the sessions; 0: they run where they are started.
    pub threads: usize,
    /// Where it is counted what happens.
    pub metrics: Arc<Metrics>,
}

impl Seams {
    /// The real world.
    ///
    /// # Errors
    ///
    /// Where the HTTP client cannot be set up. What TLS needs is read later, by the first https or wss connection.
    pub fn system(settings: &config::Upstream) -> Result<Self, TransportError> {
        Ok(Self {
            dial: Arc::new(TcpDial { receive_buffer: settings.receive_buffer_bytes }),
            transport: Arc::new(ReqwestTransport::new(settings.tls.clone())?),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            gate: Arc::new(Gate::new(settings)),
            threads: settings.threads,
            metrics: Arc::default(),
        })
    }
}
