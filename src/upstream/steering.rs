//! What an operator can ask of one account's upstream.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::binding::AccountId;

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

/// Steers the loop of one account.
#[derive(Debug, Clone)]
pub struct Steering(mpsc::Sender<Request>);

/// What is asked of a loop.
#[derive(Debug)]
pub(super) enum Request {
    Order(Order, Option<oneshot::Sender<Reply>>),
    Sessions(oneshot::Sender<Vec<Asked>>),
}

/// The other end of a [`Steering`].
#[derive(Debug)]
pub struct Steered(pub(super) mpsc::Receiver<Request>);

impl Steering {
    /// Asks for something. Says whether it is going to be heard: not if the loop has ended, or is busy with requests.
    pub fn order(&self, order: Order) -> bool {
        self.0.try_send(Request::Order(order, None)).is_ok()
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
            self.0.send(request).await.map_err(|_| Unheard)?;
            answer.await.map_err(|_| Unheard)
        };
        timeout(PATIENCE, request).await.unwrap_or(Err(Unheard))
    }
}

/// A pair of ends.
pub fn steering() -> (Steering, Steered) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Steering(sender), Steered(receiver))
}

/// The steering of all configured accounts.
#[derive(Debug, Default)]
pub struct Steerings(RwLock<BTreeMap<AccountId, Steering>>);

impl Steerings {
    /// A pair of ends for an account, of which one is kept here. The one before, if there was one, is forgotten.
    pub fn take_on(&self, account: AccountId) -> Steered {
        let (steering, steered) = steering();
        self.0.write().insert(account, steering);
        steered
    }

    /// Of one account, if it is configured.
    pub fn get(&self, account: &AccountId) -> Option<Steering> {
        self.0.read().get(account).cloned()
    }

    /// All of them, in order of the accounts.
    pub fn all(&self) -> Vec<(AccountId, Steering)> {
        self.0.read().iter().map(|(account, steering)| (*account, steering.clone())).collect()
    }
}
