//! What goes wrong on demand. Each fault is a method of [`Simulator`] and a verb of the control API (`control/faults.rs`); they
//! last until they are set otherwise, or all ended by [`Simulator::heal`].
//!
//! What takes chance takes it from [`Settings::random`](super::Settings::random): the same seed, the same faults.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{Simulator, cluster::Cluster, outbox::Lateness};
use crate::{
    binding::AccountId,
    random::{Random, between, unit},
};

/// Which replies are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReplyLoss {
    /// Each n-th over all sessions; 1 is all, 0 none.
    Every(u32),
    /// Each with this probability, 0.0 to 1.0.
    Share(f64),
}

/// What a connection is met with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    /// It is served.
    #[default]
    Open,
    /// Nothing listens: connection refused.
    Closed,
    /// It is accepted and reset at once.
    Resets,
    /// It is accepted, and nothing comes.
    Hangs,
}

/// What is wrong with Crossbar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CrossbarFault {
    /// The requests that it concerns, by the start of their path (`/v2/user_auth`); all, if empty.
    pub path: String,
    /// Answered so late.
    pub delay: Duration,
    /// Answered with this status instead of being served: 429, 500, 503, ...
    pub status: Option<u16>,
    /// Not answered at all.
    pub hangs: bool,
}

/// The faults that are on.
pub(super) struct Faults {
    state: Mutex<State>,
    crossbar_door: watch::Sender<Door>,
    blackhole_door: watch::Sender<Door>,
}

#[derive(Default)]
struct State {
    /// Until when the broker brings nothing.
    outage: Option<Instant>,
    replies: Option<ReplyLoss>,
    replies_seen: u32,
    bind_delay: Duration,
    delay: Duration,
    jitter: Duration,
    reorder: f64,
    reorder_by: Duration,
    duplicate: f64,
    refuse_upgrades: Option<u16>,
    refuse_tokens: bool,
    /// A token in the upgrade crashes the handler, as with the core of Kazoo 4 under it (G12).
    authorization_crashes: bool,
    crossbar: Option<CrossbarFault>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            crossbar_door: watch::channel(Door::Open).0,
            blackhole_door: watch::channel(Door::Open).0,
        }
    }
}

impl Faults {
    pub fn crossbar_door(&self) -> watch::Receiver<Door> {
        self.crossbar_door.subscribe()
    }

    pub fn blackhole_door(&self) -> watch::Receiver<Door> {
        self.blackhole_door.subscribe()
    }

    /// Whether the broker brings events.
    pub fn broker_is_up(&self) -> bool {
        self.state.lock().outage.is_none_or(|until| Instant::now() >= until)
    }

    /// Whether the reply at hand is lost.
    pub fn loses_reply(&self, random: &dyn Random) -> bool {
        let mut state = self.state.lock();
        match state.replies {
            None | Some(ReplyLoss::Every(0)) => false,
            Some(ReplyLoss::Every(n)) => {
                state.replies_seen += 1;
                let lost = state.replies_seen >= n;
                if lost {
                    state.replies_seen = 0;
                }
                lost
            }
            Some(ReplyLoss::Share(share)) => unit(random) < share,
        }
    }

    /// How long what a subscription changes takes to come about.
    pub fn bind_delay(&self) -> Duration {
        self.state.lock().bind_delay
    }

    /// How late a frame is. The order is lost for call events alone (F43).
    pub fn lateness(&self, call_event: bool, random: &dyn Random) -> Lateness {
        let state = self.state.lock();
        if call_event && state.reorder > 0.0 && unit(random) < state.reorder {
            return Lateness::Overtaken(between(random, Duration::from_micros(1), state.reorder_by));
        }
        let jitter = state.jitter;
        let late = if jitter.is_zero() { jitter } else { between(random, Duration::ZERO, jitter) };
        Lateness::InOrder(state.delay + late)
    }

    /// Whether a call event's frames come twice (F42).
    pub fn duplicates(&self, random: &dyn Random) -> bool {
        let share = self.state.lock().duplicate;
        share > 0.0 && unit(random) < share
    }

    /// The status with which an upgrade is refused.
    pub fn refuses_upgrades(&self) -> Option<u16> {
        self.state.lock().refuse_upgrades
    }

    /// Whether blackhole takes no token.
    pub fn refuses_tokens(&self) -> bool {
        self.state.lock().refuse_tokens
    }

    pub fn authorization_crashes(&self) -> bool {
        self.state.lock().authorization_crashes
    }

    /// What is wrong with a request to Crossbar.
    pub fn of_crossbar(&self, path: &str) -> Option<CrossbarFault> {
        self.state.lock().crossbar.clone().filter(|fault| path.starts_with(&fault.path))
    }
}

/// Faults of blackhole's node. What concerns sessions takes a connection's number, or `None` for all.
impl Simulator {
    fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.cluster().faults.state.lock());
    }

    /// A token in the upgrade crashes K5's handler (G12): for the recordings alone.
    pub(super) fn crash_on_authorization(&self, crash: bool) {
        self.set(|state| state.authorization_crashes = crash);
    }

    /// Restarts blackhole's listener: counts and what it listened to are gone, sessions notice nothing, and everything is
    /// silent until somebody subscribes again (F45, R38, R62). On K5 calls go on, and it takes a *new* session to
    /// subscribe (G21). With several nodes, on the one numbered so from 0; `None` is all.
    pub fn restart_listener(&self, node: Option<usize>) {
        self.cluster().restart_listener(node);
    }

    /// The message broker is away: events published meanwhile are lost, subscribing succeeds, and it comes back by itself
    /// (R46: 11 to 36 s after the broker itself was back).
    pub fn broker_outage(&self, lasting: Duration) {
        // Beyond any test.
        let longest = Duration::from_secs(1 << 30);
        self.set(|state| state.outage = Some(Instant::now() + lasting.min(longest)));
    }

    /// Somebody unsubscribes a binding of an account on a node: once, whoever holds it (F37, R35, R42).
    pub fn foreign_unsubscribe(&self, account: &AccountId, binding: &str) {
        self.cluster().foreign_unsubscribe(account, binding);
    }

    /// Replies vanish; what was asked for is done (F46).
    pub fn drop_replies(&self, loss: ReplyLoss) {
        self.set(|state| {
            state.replies = Some(loss);
            state.replies_seen = 0;
        });
    }

    /// A subscribe is answered at once, but what it brings begins so much later.
    pub fn bind_late(&self, by: Duration) {
        self.set(|state| state.bind_delay = by);
    }

    /// TCP stays open, and nothing is read or answered. Returns how many sessions there are. New ones are not frozen: see
    /// [`Door::Hangs`].
    pub fn freeze(&self, connection: Option<u64>) -> usize {
        self.cluster().freeze(connection, true)
    }

    /// Ends [`Simulator::freeze`]; what waited comes.
    pub fn thaw(&self, connection: Option<u64>) -> usize {
        self.cluster().freeze(connection, false)
    }

    /// Each text frame for a client is late by `delay` and up to `jitter` more; their order stays.
    pub fn delay(&self, delay: Duration, jitter: Duration) {
        self.set(|state| (state.delay, state.jitter) = (delay, jitter));
    }

    /// The same for one session, on top: it lags behind the others. Sessions to come do not. Returns how many there are.
    pub fn lag(&self, connection: Option<u64>, by: Duration) -> usize {
        self.cluster().lag(connection, by)
    }

    /// Call events are overtaken with this probability by what comes up to `by` later (F43).
    pub fn reorder(&self, probability: f64, by: Duration) {
        self.set(|state| (state.reorder, state.reorder_by) = (probability, by));
    }

    /// A call event's frames come twice with this probability, exactly alike (F42).
    pub fn duplicate(&self, probability: f64) {
        self.set(|state| state.duplicate = probability);
    }

    /// Cuts TCP without a close frame. Returns how many sessions there were.
    pub fn cut(&self, connection: Option<u64>) -> usize {
        self.cluster().cut(connection, false)
    }

    /// Kills the processes of sessions: TCP ends without a close frame, and their bindings and counts stay behind for ever
    /// (F38).
    pub fn kill(&self, connection: Option<u64>) -> usize {
        self.cluster().cut(connection, true)
    }

    /// Closes sessions with a code. Returns how many there were.
    pub fn close(&self, code: u16, connection: Option<u64>) -> usize {
        self.cluster().close_with(code, connection)
    }

    /// Upgrades are answered with this status: 400, 403, 429, 500, ... `None` ends it.
    pub fn refuse_upgrades(&self, status: Option<u16>) {
        self.set(|state| state.refuse_upgrades = status);
    }

    /// What connections to blackhole are met with, from a moment after this returns (over TCP: the task that listens must get
    /// to it). Sessions that exist stay.
    pub fn blackhole_door(&self, door: Door) {
        self.cluster().faults.blackhole_door.send_replace(door);
    }

    /// What connections to Crossbar are met with.
    pub fn crossbar_door(&self, door: Door) {
        self.cluster().faults.crossbar_door.send_replace(door);
    }

    /// Blackhole stops (`false`), as by SIGTERM or SIGKILL: TCP ends without a close frame, connections are refused, and when
    /// it runs again (`true`) it remembers nothing (F50, G35).
    pub fn run_blackhole(&self, runs: bool) {
        if !runs {
            self.cluster().stop_blackhole();
        }
        self.blackhole_door(if runs { Door::Open } else { Door::Closed });
    }

    /// Blackhole takes no token of anybody who is not authenticated yet.
    pub fn refuse_tokens(&self, refuse: bool) {
        self.set(|state| state.refuse_tokens = refuse);
    }

    /// How long tokens of later logins are good.
    pub fn token_life(&self, life: Duration) {
        self.cluster().set_token_life(life);
    }

    /// Something is wrong with Crossbar; `None`: nothing any more.
    pub fn crossbar_fault(&self, fault: Option<CrossbarFault>) {
        self.set(|state| state.crossbar = fault);
    }

    /// After how long a session whose client sends nothing is closed with 1000, for sessions that exist too (F8).
    pub fn idle_timeout(&self, timeout: Duration) {
        self.cluster().set_idle_timeout(timeout);
    }

    /// Ends all faults that last: everything here but what was closed, cut, silenced or shortened.
    pub fn heal(&self) {
        self.set(|state| *state = State::default());
        self.blackhole_door(Door::Open);
        self.crossbar_door(Door::Open);
        self.thaw(None);
        self.lag(None, Duration::ZERO);
    }
}
