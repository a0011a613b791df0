//! What keeps the accounts of one process from coming over an upstream host all at once: at the start, and after an outage
//! that all of them felt.
//!
//! Each host has a gate of its own, so that one that hangs holds up nobody but those who want to get to it. Time in the
//! gate is not counted as waiting for the host: the deadlines for an answer begin after it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use url::Url;

use crate::config;

/// The gates to all hosts, shared by all accounts.
#[derive(Debug)]
pub struct Gate {
    crossbar_in_flight: usize,
    connects_in_flight: usize,
    login_interval: Duration,
    request_interval: Duration,
    crossbars: Mutex<HashMap<String, Arc<Host>>>,
    blackholes: Mutex<HashMap<String, Arc<Host>>>,
}

/// A place among those who may be at a host at the same time; given back when dropped.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Pass {
    _permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Host {
    places: Arc<Semaphore>,
    /// Logins go through it one by one, so that they begin apart although each has to wait for a place.
    login_line: tokio::sync::Mutex<()>,
    logins: Pace,
    requests: Pace,
}

/// One after the other, evenly spaced, but for a few at once after a pause.
#[derive(Debug, Default)]
struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits for the next turn. It is not given back: who gives up leaves a hole, nobody comes early.
    async fn turn(&self, interval: Duration, at_once: usize) {
        let turn = {
            let now = Instant::now();
            let ahead = interval * u32::try_from(at_once.saturating_sub(1)).unwrap_or(u32::MAX);
            let mut next = self.0.lock();
            // A clock that has just started cannot go back so far: then the first ones wait.
            let earliest = now.checked_sub(ahead).unwrap_or(now);
            let turn = next.map_or(earliest, |next| next.max(earliest));
            *next = Some(turn + interval);
            turn
        };
        sleep_until(turn).await;
    }

    /// Whoever had a turn begins only now: the next turn counts from here.
    fn begins(&self, interval: Duration) {
        let begun = Instant::now() + interval;
        let mut next = self.0.lock();
        *next = next.map(|next| next.max(begun));
    }
}

impl Host {
    /// Those who wait get a place in the order in which they came.
    async fn enter(&self) -> Pass {
        // It is never closed.
        Pass { _permit: self.places.clone().acquire_owned().await.ok() }
    }
}

impl Default for Gate {
    /// As wide as the default settings say.
    fn default() -> Self {
        Self::new(&config::Upstream::default())
    }
}

impl Gate {
    /// Gates as wide as the settings say.
    pub fn new(settings: &config::Upstream) -> Self {
        Self {
            crossbar_in_flight: settings.crossbar_in_flight,
            connects_in_flight: settings.connects_in_flight,
            login_interval: Duration::from_secs(1) / settings.logins_per_second.max(1),
            request_interval: Duration::from_secs(1) / settings.crossbar_requests_per_second.max(1),
            crossbars: Mutex::default(),
            blackholes: Mutex::default(),
        }
    }

    /// Waits until a login at this Crossbar may begin.
    pub async fn login(&self, crossbar: &Url) -> Pass {
        let host = host(&self.crossbars, crossbar, self.crossbar_in_flight);
        // The turns first: who waits for one holds no place. They may lie in the past.
        let _line = host.login_line.lock().await;
        host.logins.turn(self.login_interval, 1).await;
        host.requests.turn(self.request_interval, self.crossbar_in_flight).await;
        let pass = host.enter().await;
        host.logins.begins(self.login_interval);
        pass
    }

    /// Waits until another request to this Crossbar may begin.
    pub async fn read(&self, crossbar: &Url) -> Pass {
        let host = host(&self.crossbars, crossbar, self.crossbar_in_flight);
        host.requests.turn(self.request_interval, self.crossbar_in_flight).await;
        host.enter().await
    }

    /// Waits until a connection to this blackhole may be opened.
    pub async fn connect(&self, blackhole: &Url) -> Pass {
        host(&self.blackholes, blackhole, self.connects_in_flight).enter().await
    }
}

/// The gate to a URL's host and port. There are as many as there are in the configuration.
fn host(hosts: &Mutex<HashMap<String, Arc<Host>>>, url: &Url, places: usize) -> Arc<Host> {
    let name =
        format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let mut hosts = hosts.lock();
    let host = hosts.entry(name).or_insert_with(|| {
        let places = Arc::new(Semaphore::new(places.max(1)));
        Arc::new(Host {
            places,
            login_line: tokio::sync::Mutex::default(),
            logins: Pace::default(),
            requests: Pace::default(),
        })
    });
    Arc::clone(host)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    fn gate() -> Gate {
        Gate::new(&config::Upstream {
            logins_per_second: 10,
            crossbar_requests_per_second: 1000,
            crossbar_in_flight: 2,
            connects_in_flight: 1,
            ..config::Upstream::default()
        })
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn logins_come_one_after_the_other() {
        let (gate, start) = (gate(), Instant::now());
        let crossbar = url("http://a:8000/");
        let login = async || {
            let _pass = gate.login(&crossbar).await;
            start.elapsed().as_millis()
        };
        let at = join_all((0..5).map(|_| login())).await;
        // A paused timer is up to a millisecond late.
        assert!(
            at.iter().zip([0, 100, 200, 300, 400]).all(|(at, turn)| (turn..turn + 2).contains(at)),
            "{at:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn logins_that_wait_hold_up_no_other_request() {
        let gate = Gate::new(&config::Upstream {
            logins_per_second: 1,
            crossbar_requests_per_second: 4,
            crossbar_in_flight: 1,
            ..config::Upstream::default()
        });
        let (crossbar, start) = (url("http://a:8000/"), Instant::now());
        let millis = || start.elapsed().as_millis() / 10 * 10;
        let login = async || {
            drop(gate.login(&crossbar).await);
            millis()
        };
        let read = async || {
            drop(gate.read(&crossbar).await);
            millis()
        };
        let (logins, reads) =
            tokio::join!(join_all((0..3).map(|_| login())), join_all((0..3).map(|_| read())));
        assert_eq!((logins, reads), (vec![0, 1000, 2000], vec![250, 500, 750]));
    }

    #[tokio::test(start_paused = true)]
    async fn logins_that_waited_for_a_place_do_not_all_begin_at_once() {
        let (gate, start) = (gate(), Instant::now());
        let crossbar = url("http://a:8000/");
        let slow = [gate.read(&crossbar).await, gate.read(&crossbar).await];
        let login = async || {
            let _pass = gate.login(&crossbar).await;
            start.elapsed().as_millis() / 10 * 10
        };
        let answered = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(slow);
        };
        let (at, ()) = tokio::join!(join_all((0..4).map(|_| login())), answered);
        assert_eq!(at, [1000, 1100, 1200, 1300]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back_however_its_holder_ends() {
        let gate = gate();
        let crossbar = url("http://a:8000/");
        let (first, second) = (gate.read(&crossbar).await, gate.read(&crossbar).await);
        let soon = || tokio::time::timeout(Duration::from_secs(1), gate.read(&crossbar));
        assert!(soon().await.is_err(), "both are taken");
        drop(first);
        let cancelled = tokio::time::timeout(Duration::from_secs(1), async {
            let _pass = gate.read(&crossbar).await;
            std::future::pending::<()>().await;
        });
        assert!(cancelled.await.is_err());
        let third = soon().await.expect("given back");
        drop((second, third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_hangs_holds_up_nobody_else() {
        let gate = gate();
        let mut hanging = Vec::new();
        for _ in 0..2 {
            hanging.push(gate.login(&url("http://hangs/")).await);
        }
        hanging.push(gate.connect(&url("ws://hangs:5555/")).await);
        assert!(gate.login(&url("http://hangs:80/")).now_or_never().is_none());
        assert!(
            gate.connect(&url("ws://hangs:5555/other")).now_or_never().is_none(),
            "the path is no other host"
        );
        for good in ["http://hangs:8000/", "http://good/"] {
            assert!(gate.login(&url(good)).now_or_never().is_some(), "{good}");
        }
        assert!(gate.connect(&url("ws://good:5555/")).now_or_never().is_some());
    }
}
