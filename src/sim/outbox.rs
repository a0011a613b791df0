//! What waits for a session's socket, and what is ordered of the session meanwhile.
//!
//! Everything for the client goes through here in one line, events and replies alike, as it does through the mailbox of the
//! real session's process. What waits *for the socket* is counted: while it takes everything at once nothing waits, however
//! busy the simulator itself is; once it takes no more, what is behind counts, and above the limit of 4.3 and K5 it vanishes,
//! replies included (F46, G30).
//!
//! Behind that stands the network: what is under way to the client can be late, by a delay that keeps the order or by one
//! that does not.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Outbox {
    limit: Option<usize>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    /// By the time at which each can be written, and the order of arrival.
    line: BTreeMap<(Instant, u64), Utf8Bytes>,
    next: u64,
    /// What keeps its order is not due before this.
    latest: Instant,
    /// By how much more than others everything is late.
    lag: Duration,
    /// How much was waiting when the socket took no more, and what came since; unset while it takes everything.
    blocked: Option<usize>,
    /// What waited for the socket is not all written yet.
    behind: bool,
    peak: usize,
    frozen: bool,
    /// Whether the session knows of the last change of `frozen`.
    told: bool,
    close: Option<u16>,
    closed: bool,
}

/// How late a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lateness {
    /// By so much, behind all that was sent before.
    InOrder(Duration),
    /// By so much, overtaken by what comes meanwhile.
    Overtaken(Duration),
}

/// What the session is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Errand {
    Write(Utf8Bytes),
    Close(u16),
    /// Whether the session stands still has changed.
    Froze,
}

impl Outbox {
    pub fn new(limit: Option<usize>) -> Self {
        let state = State {
            line: BTreeMap::new(),
            next: 0,
            latest: Instant::now(),
            lag: Duration::ZERO,
            blocked: None,
            behind: false,
            peak: 0,
            frozen: false,
            told: true,
            close: None,
            closed: false,
        };
        Self { limit, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Queues a text. Whether it was; if not, it vanished above the limit, or the session is over.
    pub fn push(&self, text: Utf8Bytes, lateness: Lateness) -> bool {
        self.add(text, lateness, |_| false)
    }

    /// Queues a reply. Its request had its turn just now: what waits, waits behind that, whether the socket takes it by now or
    /// not.
    pub fn reply(&self, text: Utf8Bytes, lateness: Lateness) -> bool {
        let limit = self.limit;
        self.add(text, lateness, |state| state.behind && limit.is_some_and(|limit| state.line.len() >= limit))
    }

    fn add(&self, text: Utf8Bytes, lateness: Lateness, is_full: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        if state.closed || is_full(&state) {
            return false;
        }
        if let Some(waiting) = state.blocked {
            if self.limit.is_some_and(|limit| waiting >= limit) {
                return false;
            }
            state.blocked = Some(waiting + 1);
            state.peak = state.peak.max(waiting + 1);
        }
        let due = match lateness {
            Lateness::InOrder(by) => {
                state.latest = state.latest.max(Instant::now() + state.lag + by);
                state.latest
            }
            Lateness::Overtaken(by) => state.latest.max(Instant::now()) + by,
        };
        let number = state.next;
        state.next += 1;
        state.line.insert((due, number), text);
        drop(state);
        self.wake.notify_one();
        true
    }

    /// What to do next. One task at a time waits here.
    pub async fn next(&self) -> Errand {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                if !state.told {
                    state.told = true;
                    return Errand::Froze;
                }
                match (state.frozen, state.close.take(), state.line.first_entry()) {
                    (true, close, _) => {
                        state.close = close;
                        None
                    }
                    (false, Some(code), _) => return Errand::Close(code),
                    (false, None, Some(first)) if first.key().0 <= Instant::now() => {
                        return Errand::Write(first.remove());
                    }
                    (false, None, Some(first)) => Some(first.key().0),
                    (false, None, None) => {
                        state.behind = false;
                        None
                    }
                }
            };
            match due {
                Some(due) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(due) => {}
                },
                None => woken.await,
            }
        }
    }

    /// The socket takes no more. What is then above the limit vanishes, the newest of it; it is returned.
    pub fn block(&self) -> Vec<Utf8Bytes> {
        let mut state = self.state.lock();
        let end = (Instant::now(), u64::MAX);
        let last_is_due = state.line.last_key_value().is_none_or(|(key, _)| *key <= end);
        let mut waiting = if last_is_due { state.line.len() } else { state.line.range(..=end).count() };
        let mut vanished = Vec::new();
        while self.limit.is_some_and(|limit| waiting > limit) {
            let Some(newest) = state.line.range(..=end).next_back().map(|(key, _)| *key) else { break };
            vanished.extend(state.line.remove(&newest));
            waiting -= 1;
        }
        vanished.reverse();
        state.peak = state.peak.max(waiting);
        state.blocked = Some(waiting);
        state.behind = true;
        vanished
    }

    /// The socket takes everything again.
    pub fn unblock(&self) {
        self.state.lock().blocked = None;
    }

    /// How many texts were ever queued.
    pub fn queued(&self) -> u64 {
        self.state.lock().next
    }

    /// The number of the text that is written next, if one can be.
    pub fn next_number(&self) -> Option<u64> {
        let state = self.state.lock();
        let first = state.line.first_key_value().filter(|((due, _), _)| *due <= Instant::now());
        first.map(|((_, number), _)| *number)
    }

    /// The most that ever waited for the socket.
    pub fn peak(&self) -> usize {
        self.state.lock().peak
    }

    /// How much is in line.
    pub fn waiting(&self) -> usize {
        self.state.lock().line.len()
    }

    /// Nothing is written or read while the session stands still.
    pub fn freeze(&self, frozen: bool) {
        let mut state = self.state.lock();
        if state.frozen != frozen {
            state.frozen = frozen;
            state.told = false;
            // What comes meanwhile waits for a socket that is not even tried.
            state.blocked = frozen.then_some(state.line.len());
        }
        drop(state);
        self.wake.notify_one();
    }

    /// What comes from here on is late by so much more.
    pub fn lag(&self, by: Duration) {
        self.state.lock().lag = by;
    }

    pub fn is_frozen(&self) -> bool {
        self.state.lock().frozen
    }

    /// Asks the session to close with a code, ahead of all that waits.
    pub fn close(&self, code: u16) {
        self.state.lock().close = Some(code);
        self.wake.notify_one();
    }

    /// The session is over: takes nothing more, and gives back what was not written.
    pub fn end(&self) -> Vec<Utf8Bytes> {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.line).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    const AT_ONCE: Lateness = Lateness::InOrder(Duration::ZERO);

    async fn written(outbox: &Outbox) -> String {
        match outbox.next().await {
            Errand::Write(text) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn above_the_limit_the_newest_vanish_but_only_while_the_socket_takes_nothing() {
        let outbox = Outbox::new(Some(3));
        let push = |text: &str| outbox.push(text.into(), AT_ONCE);
        assert!((0..10).all(|n| push(&n.to_string())), "a busy simulator is not a slow socket");
        assert_eq!(written(&outbox).await, "0");
        assert_eq!(outbox.block(), ["4", "5", "6", "7", "8", "9"]);
        assert!(!push("x"));
        outbox.unblock();
        assert_eq!(written(&outbox).await, "1");
        assert_eq!(outbox.block(), [""; 0]);
        assert!(push("y") && !push("z"));
        assert_eq!(outbox.peak(), 3);
        outbox.unblock();
        assert_eq!((outbox.next_number(), outbox.queued()), (Some(2), 11));
        let reply = || outbox.reply("reply".into(), AT_ONCE);
        assert!(!reply(), "three are behind its request");
        assert_eq!(written(&outbox).await, "2");
        assert!(reply() && !reply());
        for text in ["3", "y", "reply"] {
            assert_eq!(written(&outbox).await, text);
        }
        assert!(poll!(std::pin::pin!(outbox.next())).is_pending());
        assert!(push("end"));
        assert_eq!(outbox.end(), ["end"]);
        assert!(!push("late"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_keeps_the_order_and_what_is_overtaken_does_not() {
        let outbox = Outbox::new(None);
        let start = Instant::now();
        outbox.push("slow".into(), Lateness::InOrder(Duration::from_millis(50)));
        outbox.push("behind it".into(), Lateness::InOrder(Duration::from_millis(10)));
        outbox.push("late".into(), Lateness::Overtaken(Duration::from_millis(20)));
        outbox.push("overtakes".into(), AT_ONCE);
        for (text, at) in [("slow", 50), ("behind it", 50), ("overtakes", 50), ("late", 70)] {
            assert_eq!(written(&outbox).await, text);
            assert_eq!(start.elapsed(), Duration::from_millis(at));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_session_writes_nothing_until_it_thaws() {
        let outbox = Outbox::new(Some(2));
        outbox.push("a".into(), AT_ONCE);
        outbox.freeze(true);
        assert_eq!(outbox.next().await, Errand::Froze);
        outbox.close(1011);
        assert!(poll!(std::pin::pin!(outbox.next())).is_pending());
        assert!(outbox.push("b".into(), AT_ONCE) && !outbox.push("c".into(), AT_ONCE));
        outbox.freeze(false);
        assert_eq!(outbox.next().await, Errand::Froze);
        assert_eq!(outbox.next().await, Errand::Close(1011));
        assert_eq!(written(&outbox).await, "a");
    }
}
