//! What a simulator is started with.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::tz::TimeZone;

use super::{
    accounts::{AccountSpec, recorded_accounts},
    bucket::{RateLimit, SharedStopwatch, TokioStopwatch},
};
use crate::{
    binding::Flavour,
    clock::{SharedClock, SystemClock, TokioClock},
    random::{SeededRandom, SharedRandom, SystemRandom},
};

/// Everything a simulator is started with. The default has the four accounts of the recordings, listens on free ports of
/// 127.0.0.1, and has all limits and times as a fresh Kazoo has them.
#[derive(Clone)]
pub struct Settings {
    /// Where Crossbar listens. Port 0 takes a free one.
    pub crossbar: SocketAddr,
    /// Where blackhole listens.
    pub blackhole: SocketAddr,
    /// Where the control API listens. It has no authentication: keep it on loopback.
    pub control: SocketAddr,
    /// The accounts there are.
    pub accounts: Vec<AccountSpec>,
    /// How many nodes stand behind blackhole's address. Each new session goes to the next; each node counts references for
    /// itself, and events come to all.
    pub nodes: usize,
    /// Which blackhole it is.
    pub flavour: Flavour,
    /// The time of day: months, timestamps, the life of tokens.
    pub clock: SharedClock,
    /// The time that rate limits are counted in.
    pub stopwatch: SharedStopwatch,
    /// Ids and signatures.
    pub random: SharedRandom,
    /// The server's own time zone: it decides which month it is (F34).
    pub time_zone: TimeZone,
    /// How long a token of a login is good. Crossbar's default is an hour.
    pub token_life: Duration,
    /// How many descendants Crossbar tells of at once, with a `next_start_key` to go on, however it is asked. Unset: all.
    pub page_size: Option<usize>,
    /// Blackhole's bucket for each session (F49).
    pub rate_limit: RateLimit,
    /// Blackhole's `max_connections_per_ip`; unset on a fresh Kazoo (F5).
    pub max_connections_per_ip: Option<u64>,
    /// A connection that sends no request for so long is closed without a word (F4: 5 s).
    pub request_timeout: Duration,
    /// A session whose client sends nothing for so long is closed with 1000 (F8: one hour).
    pub idle_timeout: Duration,
    /// How often a session is pinged: K5's `keep_client_alive`, once a minute where it is on (G14). Unset: never, as on a fresh
    /// Kazoo.
    pub keep_client_alive: Option<Duration>,
    /// A session that takes nothing for so long is dropped, its last frame cut in the middle. Unset: as long as the flavour
    /// waits (F47: K4 30 s, 4.3 and K5 5 s).
    pub send_timeout: Option<Duration>,
    /// What more than this many messages of a session wait for its socket vanishes. Unset: the flavour's own limit (F46,
    /// G30: 50 in 4.3 and K5, none in K4); `Some(None)`: none.
    pub max_queued_messages: Option<Option<usize>>,
    /// How many bytes a session's socket buffers; over TCP the kernel doubles that for its own use.
    pub send_buffer: u32,
    /// How many exchanges the record keeps; older ones go. 0 keeps none.
    pub record_limit: usize,
    /// How many bytes of frames the record keeps; older exchanges go.
    pub record_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            crossbar: free,
            blackhole: free,
            control: free,
            accounts: recorded_accounts(),
            nodes: 1,
            flavour: Flavour::K4,
            clock: Arc::new(SystemClock),
            stopwatch: Arc::new(TokioStopwatch::started()),
            random: Arc::new(SystemRandom),
            time_zone: TimeZone::UTC,
            token_life: Duration::from_secs(3600),
            page_size: None,
            rate_limit: RateLimit::default(),
            max_connections_per_ip: None,
            request_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3600),
            keep_client_alive: None,
            send_timeout: None,
            max_queued_messages: None,
            send_buffer: 256 << 10,
            record_limit: 100_000,
            record_bytes: 64 << 20,
        }
    }
}

impl Settings {
    /// For a simulated run: the wall clock shows `start` now and goes with tokio's, and the same seed gives the same ids and
    /// the same chances. For [`Simulator::in_memory`](super::Simulator::in_memory) under a paused clock.
    pub fn simulated(start: SystemTime, seed: u64) -> Self {
        Self {
            clock: Arc::new(TokioClock::starting_at(start)),
            random: Arc::new(SeededRandom::new(seed)),
            ..Self::default()
        }
    }

    /// [`Settings::send_timeout`], or the flavour's own.
    pub(super) fn send_timeout(&self) -> Duration {
        self.send_timeout.unwrap_or(match self.flavour {
            Flavour::K4 => Duration::from_secs(30),
            Flavour::V4_3 | Flavour::K5 => Duration::from_secs(5),
        })
    }

    /// [`Settings::max_queued_messages`], or the flavour's own.
    pub fn queue_limit(&self) -> Option<usize> {
        self.max_queued_messages.unwrap_or(match self.flavour {
            Flavour::K4 => None,
            Flavour::V4_3 | Flavour::K5 => Some(50),
        })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The clocks have nothing to show.
        f.debug_struct("Settings")
            .field("crossbar", &self.crossbar)
            .field("blackhole", &self.blackhole)
            .field("control", &self.control)
            .field("accounts", &self.accounts)
            .field("flavour", &self.flavour)
            .finish_non_exhaustive()
    }
}
