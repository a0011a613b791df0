//! The drain: how a server stops to serve, so that nobody who reads from it loses anything or waits for long.
//!
//! 1. It is *not ready* from the first moment: health says NOT_SERVING, readiness is gone. It goes on serving, and takes new
//!    connections and streams in, for `shutdown.endpoint_wait`: those who would be sent elsewhere have not heard of it yet.
//! 2. Then it *ends streams*: nobody listens any more, each connection is told to go away, each stream gets `Draining` with
//!    its position and the status UNAVAILABLE. A connection closes when it is empty.
//! 3. What is left after `shutdown.drain_timeout` is *cut*: half-open peers, consumers that do not read.
//!
//! [`Drain`] is that plan, and all who have to do with it look at the same one: the gRPC server follows it, readiness is
//! read from it, a signal or an operator begins it. Nothing runs in here: each step is a time that is waited for.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::config::{self, InForce};

/// Why a server drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The process ends.
    Shutdown,
    /// An operator asked for it; the process goes on.
    Operator,
}

/// How far a server is, as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It serves.
    Serving,
    /// It is not ready any more, and serves.
    Leaving,
    /// It ends streams.
    Draining,
    /// It has ended.
    Drained,
}

/// The plan, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Draining { reason: Reason, ends_streams: Instant, cuts: Instant },
    Drained { reason: Reason },
}

/// The drain of one server. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Drain {
    settings: InForce<config::Shutdown>,
    stage: Arc<watch::Sender<Stage>>,
}

impl Drain {
    /// A server that serves.
    pub fn new(settings: config::Shutdown) -> Self {
        Self { settings: settings.into(), stage: Arc::new(watch::Sender::new(Stage::Serving)) }
    }

    /// Other settings hold from now on, for a drain that has not begun.
    pub fn reconfigure(&self, settings: config::Shutdown) {
        self.settings.set(settings);
    }

    /// Begins it. `timeout`: how long streams may take to end, instead of `shutdown.drain_timeout`.
    ///
    /// Where it has begun already nothing is put off by that: of each time the earlier one counts, and the first reason.
    pub fn begin(&self, reason: Reason, timeout: Option<Duration>) {
        let settings = self.settings.get();
        let ends_streams = Instant::now() + settings.endpoint_wait;
        let cuts = ends_streams + timeout.unwrap_or(settings.drain_timeout);
        self.stage.send_modify(|stage| match stage {
            Stage::Serving => *stage = Stage::Draining { reason, ends_streams, cuts },
            Stage::Draining { ends_streams: earlier, cuts: at, .. } => {
                *earlier = ends_streams.min(*earlier);
                *at = cuts.min(*at);
            }
            Stage::Drained { .. } => {}
        });
    }

    /// Ends streams now, without waiting for anybody to notice first. Says whether there was anything to skip.
    pub fn skip_wait(&self) -> bool {
        let now = Instant::now();
        self.stage.send_if_modified(|stage| {
            let Stage::Draining { ends_streams, cuts, .. } = stage else { return false };
            let left = ends_streams.saturating_duration_since(now);
            *ends_streams -= left;
            *cuts -= left;
            !left.is_zero()
        })
    }

    /// The server has ended.
    pub(crate) fn done(&self) {
        self.stage.send_modify(|stage| {
            if let Stage::Draining { reason, .. } = *stage {
                *stage = Stage::Drained { reason };
            }
        });
    }

    /// Whether it has not begun: the server is ready.
    pub fn is_serving(&self) -> bool {
        *self.stage.borrow() == Stage::Serving
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        match *self.stage.borrow() {
            Stage::Serving => Progress::Serving,
            Stage::Draining { ends_streams, .. } if Instant::now() < ends_streams => Progress::Leaving,
            Stage::Draining { .. } => Progress::Draining,
            Stage::Drained { .. } => Progress::Drained,
        }
    }

    /// Whether it is over: the server has ended.
    pub fn is_done(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Drained { .. })
    }

    /// Why, once it has begun.
    pub fn reason(&self) -> Option<Reason> {
        match *self.stage.borrow() {
            Stage::Serving => None,
            Stage::Draining { reason, .. } | Stage::Drained { reason } => Some(reason),
        }
    }

    /// When what is left is cut, while it is under way.
    pub fn cut_at(&self) -> Option<Instant> {
        match *self.stage.borrow() {
            Stage::Draining { cuts, .. } => Some(cuts),
            Stage::Serving | Stage::Drained { .. } => None,
        }
    }

    /// Waits until it has begun: the server is not ready any more.
    pub async fn begun(&self) {
        // The sender is in `self`: it cannot fail.
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::Serving).await;
    }

    /// Waits until streams are to end.
    pub async fn ending(&self) {
        self.until(|ends_streams, _| ends_streams).await;
    }

    /// Waits until what is left is to be cut.
    pub async fn cut(&self) {
        self.until(|_, cuts| cuts).await;
    }

    async fn until(&self, when: impl Fn(Instant, Instant) -> Instant) {
        let mut stage = self.stage.subscribe();
        loop {
            let at = match *stage.borrow_and_update() {
                Stage::Serving => None,
                Stage::Draining { ends_streams, cuts, .. } => Some(when(ends_streams, cuts)),
                Stage::Drained { .. } => return,
            };
            let due = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                // It may come earlier now.
                _ = stage.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain() -> Drain {
        Drain::new(config::Shutdown {
            endpoint_wait: 5 * SECOND,
            drain_timeout: 15 * SECOND,
            ..config::Shutdown::default()
        })
    }

    /// Seconds from now until streams end, and until they are cut.
    async fn times(drain: &Drain) -> (u64, u64) {
        let start = Instant::now();
        drain.ending().await;
        let ending = start.elapsed().as_secs();
        drain.cut().await;
        (ending, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_comes_at_its_time() {
        let drain = drain();
        assert!(drain.is_serving() && drain.begun().now_or_never().is_none());
        assert!(tokio::time::timeout(3600 * SECOND, drain.ending()).await.is_err());
        assert_eq!(drain.progress(), Progress::Serving);
        drain.begin(Reason::Shutdown, None);
        assert!(!drain.is_serving() && drain.begun().now_or_never().is_some());
        assert_eq!(drain.progress(), Progress::Leaving);
        assert_eq!(times(&drain).await, (5, 20));
        assert!(!drain.is_done());
        assert_eq!(drain.progress(), Progress::Draining);
        drain.done();
        assert_eq!(drain.progress(), Progress::Drained);
        assert!(drain.is_done() && !drain.is_serving());
        assert_eq!((drain.reason(), times(&drain).await), (Some(Reason::Shutdown), (0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_already_hears_that_it_comes_earlier() {
        let drain = drain();
        drain.begin(Reason::Operator, Some(3600 * SECOND));
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { times(&drain).await }
        });
        tokio::time::sleep(SECOND).await;
        // A signal after an operator: the process must end in time.
        drain.begin(Reason::Shutdown, None);
        assert_eq!(drain.reason(), Some(Reason::Operator));
        assert!(drain.skip_wait());
        assert!(!drain.skip_wait(), "there is nothing left of it");
        assert_eq!(waiting.await.unwrap(), (1, 1 + 16), "the wait ended, the rest is as long as it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_request_puts_nothing_off() {
        let drain = drain();
        assert!(!drain.skip_wait(), "it has not begun");
        drain.begin(Reason::Shutdown, None);
        tokio::time::sleep(4 * SECOND).await;
        drain.begin(Reason::Operator, Some(3600 * SECOND));
        assert_eq!(times(&drain).await, (1, 16));
    }
}
