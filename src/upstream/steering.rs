//! What an operator can ask of one account's upstream.

use tokio::sync::mpsc;

/// Requests that wait at most; more are refused, for the first one answers them all.
const WAITING: usize = 4;

/// Something that is to be done with an account's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Replace the session by a new one: without a gap where that is possible. While that is under way already, it is one.
    Rotate,
    /// Close the session and open it again, with a gap.
    Reconnect,
}

/// Steers the loop of one account.
#[derive(Debug, Clone)]
pub struct Steering(mpsc::Sender<Order>);

/// The other end of a [`Steering`].
#[derive(Debug)]
pub struct Steered(pub(super) mpsc::Receiver<Order>);

impl Steering {
    /// Asks for something. Says whether it is going to be heard: not if the loop has ended, or is busy with requests.
    pub fn order(&self, order: Order) -> bool {
        self.0.try_send(order).is_ok()
    }
}

/// A pair of ends.
pub fn steering() -> (Steering, Steered) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Steering(sender), Steered(receiver))
}
