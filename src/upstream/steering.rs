//! What an operator can ask of one account's upstream, and how it learns of new settings.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::config;

use super::report::{Asked, SessionReport};

/// Requests that wait at most; more are refused, for the first one answers them all.
const WAITING: usize = 4;
/// The loop waits for nothing but what is to happen next: it answers at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that is to be done with an account's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Replace the session by a new one: without a gap where that is possible. While that is under way already, it is one.
    Rotate,
    /// Close the session and open it again, with a gap. Where there is none, try at once to open one.
    Reconnect,
}

/// What becomes of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is being done.
    Begun,
    /// The session is being replaced already.
    UnderWay,
    /// There is no session.
    NoSession,
}

/// The loop of an account does not answer: it has ended, is started again after a panic, or has too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the account's upstream does not answer at the moment")]
pub struct Unheard;

/// What a loop works with. It can change while the loop runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What concerns all upstreams.
    pub settings: Arc<config::Upstream>,
    /// The account. Its id does not change.
    pub account: config::Account,
}

/// Steers the loop of one account.
#[derive(Debug, Clone)]
pub struct Steering {
    requests: mpsc::Sender<Request>,
    setup: watch::Sender<Option<Setup>>,
}

/// What is asked of a loop.
#[derive(Debug)]
pub(super) enum Request {
    Order(Order, Option<oneshot::Sender<Reply>>),
    Sessions(oneshot::Sender<Vec<Asked>>),
}

/// What a loop is told.
#[derive(Debug)]
pub(super) enum Steer {
    /// Do this.
    Request(Request),
    /// Work with this from now on.
    Setup(Box<Setup>),
}

/// The other end of a [`Steering`].
#[derive(Debug)]
pub struct Steered {
    requests: mpsc::Receiver<Request>,
    setup: watch::Receiver<Option<Setup>>,
}

impl Steered {
    /// What comes next; never, where nobody steers any more. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Steer {
        tokio::select! {
            biased;
            Ok(()) = self.setup.changed() => {}
            Some(request) = self.requests.recv() => return Steer::Request(request),
            else => return pending().await,
        }
        match self.setup() {
            Some(setup) => Steer::Setup(Box::new(setup)),
            // Nobody takes it back.
            None => pending().await,
        }
    }

    /// What the loop works with, where that has changed since it began.
    pub(super) fn setup(&mut self) -> Option<Setup> {
        self.setup.borrow_and_update().clone()
    }
}

impl Steering {
    /// Asks for something. Says whether it is going to be heard: not if the loop has ended, or is busy with requests.
    pub fn order(&self, order: Order) -> bool {
        self.requests.try_send(Request::Order(order, None)).is_ok()
    }

    /// Has it work with something else from now on. The session stays, unless it is with another upstream than the new
    /// settings name: then it is replaced.
    pub fn reconfigure(&self, setup: Setup) {
        self.setup.send_replace(Some(setup));
    }

    /// Asks for something, and waits for what becomes of it.
    ///
    /// # Errors
    ///
    /// [`Unheard`]; it may be done all the same, later.
    pub async fn ask(&self, order: Order) -> Result<Reply, Unheard> {
        let (reply, answer) = oneshot::channel();
        self.request(Request::Order(order, Some(reply)), answer).await
    }

    /// How the account's sessions stand: none, one, or two while one takes the other's place.
    ///
    /// # Errors
    ///
    /// [`Unheard`], also where the loop answers and no session does.
    pub async fn sessions(&self) -> Result<Vec<SessionReport>, Unheard> {
        let (reply, answer) = oneshot::channel();
        let asked = self.request(Request::Sessions(reply), answer).await?;
        let there = !asked.is_empty();
        let told: Vec<_> =
            join_all(asked.into_iter().map(Asked::report)).await.into_iter().flatten().collect();
        // There is one, and it says nothing: that is not the same as none.
        if there && told.is_empty() { Err(Unheard) } else { Ok(told) }
    }

    async fn request<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, Unheard> {
        let request = async {
            self.requests.send(request).await.map_err(|_| Unheard)?;
            answer.await.map_err(|_| Unheard)
        };
        timeout(PATIENCE, request).await.unwrap_or(Err(Unheard))
    }
}

/// A pair of ends.
pub fn steering() -> (Steering, Steered) {
    let (requests, requested) = mpsc::channel(WAITING);
    let (setup, setups) = watch::channel(None);
    (Steering { requests, setup }, Steered { requests: requested, setup: setups })
}
