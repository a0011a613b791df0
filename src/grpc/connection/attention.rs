//! Who wants to be polled: a connection with hundreds of streams polls those that have something to do, and no others.
//!
//! Each call of a connection has a waker of its own, which puts the call's key into the connection's list. That happens once
//! until it is polled, however often it is woken, and allocates nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// Nobody has called since it went to rest.
const RESTING: u8 = 0;
/// It is polled, and nobody has called since that began.
const BUSY: u8 = 1;
/// Somebody has called.
const CALLED: u8 = 2;

/// Whether something is to be polled. Calls that come while it is polled anyway are remembered, but disturb nobody: that is
/// what most of them are, as whoever sends over `h2` is woken by that itself.
struct Attention(AtomicU8);

impl Attention {
    fn call(&self) -> Called {
        match self.0.swap(CALLED, Ordering::AcqRel) {
            RESTING => Called::First,
            _ => Called::Again,
        }
    }

    /// It is about to be polled: whatever was called for so far is seen to by that.
    fn begin(&self) {
        // A swap, to see what the callers wrote before they called.
        self.0.swap(BUSY, Ordering::AcqRel);
    }

    /// It was polled, and has nothing to do. False if somebody has called since.
    fn rest(&self) -> bool {
        self.0.compare_exchange(BUSY, RESTING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[derive(PartialEq, Eq)]
enum Called {
    /// It rests, and must be told.
    First,
    Again,
}

/// A connection's own wake-up, and the list of its calls that are to be polled.
pub(super) struct Ready {
    attention: Attention,
    task: AtomicWaker,
    calls: Mutex<Vec<usize>>,
}

impl Ready {
    pub fn new() -> Arc<Self> {
        let attention = Attention(AtomicU8::new(CALLED));
        Arc::new(Self { attention, task: AtomicWaker::new(), calls: Mutex::default() })
    }

    /// Wakes the connection's task from now on.
    pub fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// The connection itself (its transport, its timers) is about to be polled. Calls in the list stay there.
    pub fn begin(&self) {
        self.attention.begin();
    }

    /// Nothing is left to do; false if there is again.
    pub fn rest(&self) -> bool {
        // In this order: a call is put into the list before the connection is woken for it.
        self.calls.lock().is_empty() && self.attention.rest()
    }

    /// Takes the list, behind what is there already, and leaves an empty one in its place.
    pub fn take(&self, calls: &mut Vec<usize>) {
        let mut list = self.calls.lock();
        if calls.is_empty() {
            std::mem::swap(calls, &mut *list);
        } else {
            calls.append(&mut list);
        }
    }

    /// Puts a call into the list.
    pub fn push(self: &Arc<Self>, key: usize) {
        self.calls.lock().push(key);
        self.wake_by_ref();
    }
}

/// The calls that wait until the transport takes more, in the order in which they began to wait; each once, however often it is
/// woken meanwhile.
#[derive(Debug, Default)]
pub struct Held {
    line: Vec<usize>,
    /// By the key of a call, whether it is in line.
    there: Vec<bool>,
}

impl Held {
    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// The call with this key waits.
    pub fn hold(&mut self, key: usize) {
        if self.there.len() <= key {
            self.there.resize(key + 1, false);
        }
        if !std::mem::replace(&mut self.there[key], true) {
            self.line.push(key);
        }
    }

    /// All of them go on: they come first in this list, which is empty.
    pub fn release(&mut self, calls: &mut Vec<usize>) {
        std::mem::swap(calls, &mut self.line);
        for key in calls {
            self.there[*key] = false;
        }
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.attention.call() == Called::First {
            self.task.wake();
        }
    }
}

/// Wakes one call of a connection.
pub(super) struct CallWaker {
    attention: Attention,
    key: usize,
    ready: Arc<Ready>,
}

impl CallWaker {
    /// As if it had been woken already: the call has never been polled. It must be put into the list by hand.
    pub fn new(key: usize, ready: Arc<Ready>) -> Arc<Self> {
        Arc::new(Self { attention: Attention(AtomicU8::new(CALLED)), key, ready })
    }

    /// The call is about to be polled, all of it.
    pub fn begin(&self) {
        self.attention.begin();
    }

    /// The call waits for something; false if that has come already.
    pub fn rest(&self) -> bool {
        self.attention.rest()
    }

    /// The call has more to do than was good for its neighbours: later.
    pub fn later(&self) {
        self.attention.call();
        self.ready.push(self.key);
    }
}

impl Wake for CallWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.attention.call() == Called::First {
            self.ready.push(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn connection() -> (Arc<Ready>, Arc<Task>) {
        let (ready, task) = (Ready::new(), Arc::new(Task::default()));
        ready.register(&task.clone().into());
        ready.begin();
        assert!(ready.rest());
        (ready, task)
    }

    fn woken(task: &Task) -> usize {
        task.0.load(Ordering::Relaxed)
    }

    fn list(ready: &Ready) -> Vec<usize> {
        let mut calls = Vec::new();
        ready.take(&mut calls);
        calls
    }

    fn resting_call(key: usize, ready: &Arc<Ready>) -> Arc<CallWaker> {
        let call = CallWaker::new(key, ready.clone());
        call.begin();
        assert!(call.rest());
        call
    }

    #[test]
    fn many_wakes_of_many_calls_wake_the_connection_once() {
        let (ready, task) = connection();
        let calls = [resting_call(7, &ready), resting_call(8, &ready)];
        for _ in 0..3 {
            for call in &calls {
                call.wake_by_ref();
            }
        }
        assert_eq!(woken(&task), 1);
        assert_eq!(list(&ready), [7, 8], "each once");
    }

    #[test]
    fn a_wake_while_it_is_polled_asks_for_another_round_and_wakes_nobody() {
        let (ready, task) = connection();
        let call = resting_call(7, &ready);
        ready.begin();
        call.begin();
        call.wake_by_ref();
        assert!(!call.rest());
        assert!(list(&ready).is_empty());
        call.begin();
        assert!(call.rest() && ready.rest());
        assert_eq!(woken(&task), 0);
        call.wake_by_ref();
        assert_eq!((woken(&task), list(&ready)), (1, vec![7]));
    }

    #[test]
    fn a_call_woken_while_the_connection_is_polled_keeps_it_from_resting() {
        let (ready, task) = connection();
        let call = resting_call(7, &ready);
        ready.begin();
        call.wake_by_ref();
        // The transport is polled after that; the call is still in the list.
        ready.begin();
        assert!(!ready.rest());
        assert_eq!(list(&ready), [7]);
        assert!(ready.rest());
        assert_eq!(woken(&task), 0, "it was awake");
    }

    #[test]
    fn later_is_the_next_time() {
        let (ready, _) = connection();
        let call = resting_call(7, &ready);
        ready.begin();
        call.begin();
        call.later();
        call.wake_by_ref();
        assert_eq!(list(&ready), [7], "once");
    }

    #[test]
    fn who_is_held_is_so_once_and_in_order() {
        let (mut held, mut calls) = (Held::default(), Vec::new());
        for _ in 0..2 {
            assert!(held.is_empty());
            for key in [3, 1, 3, 3, 1, 7] {
                held.hold(key);
            }
            held.release(&mut calls);
            assert_eq!(calls, [3, 1, 7]);
            calls.clear();
        }
    }

    /// One thread wakes, the other polls: what was there before a wake is seen.
    #[test]
    fn no_wake_is_lost_between_threads() {
        const COUNT: usize = 20_000;
        let ready = Ready::new();
        let calls: Vec<_> = (0..3).map(|key| CallWaker::new(key, ready.clone())).collect();
        let said: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        for key in 0..3 {
            ready.push(key);
        }
        std::thread::scope(|scope| {
            let this = std::thread::current();
            struct Unpark(std::thread::Thread);
            impl Wake for Unpark {
                fn wake(self: Arc<Self>) {
                    self.0.unpark();
                }
            }
            ready.register(&Arc::new(Unpark(this)).into());
            let (wakers, words) = (calls.clone(), said.clone());
            scope.spawn(move || {
                for index in 0..COUNT {
                    words[index % 3].fetch_add(1, Ordering::Relaxed);
                    wakers[index % 3].wake_by_ref();
                }
            });
            let mut heard = 0;
            let mut list = Vec::new();
            while heard < COUNT {
                ready.begin();
                ready.take(&mut list);
                for key in list.drain(..) {
                    loop {
                        calls[key].begin();
                        heard += said[key].swap(0, Ordering::Relaxed);
                        if calls[key].rest() {
                            break;
                        }
                    }
                }
                if heard < COUNT && ready.rest() {
                    const LONG: std::time::Duration = std::time::Duration::from_secs(10);
                    let asleep = std::time::Instant::now();
                    std::thread::park_timeout(LONG);
                    assert!(asleep.elapsed() < LONG, "a wake was lost");
                }
            }
        });
    }
}
