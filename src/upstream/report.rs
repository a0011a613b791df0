//! What a session tells of itself to an operator who asks. Nobody is told unless they ask: it costs the session nothing
//! otherwise.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{binding::AccountId, hub::BindingState};

/// A session answers between two frames. One that does not is at its end, or was put to sleep with the machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// Names it in logs, among those of its account.
    pub number: u64,
    /// When it was opened.
    pub opened: SystemTime,
    /// Whether it is to take the place of the account's other session.
    pub successor: bool,
    /// What it holds, and what it should hold.
    pub bindings: Vec<BindingHeld>,
    /// Frames with events that it brought.
    pub events: u64,
    /// Of these, those that were an event which had come before.
    pub duplicates: u64,
}

/// How a session stands with one upstream binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingHeld {
    /// Whose events: the session's account, or one below it.
    pub account: AccountId,
    /// As it is sent.
    pub binding: Arc<str>,
    /// Held, asked for, or refused.
    pub state: BindingState,
    /// When upstream last said that it holds it, if it is needed still.
    pub confirmed: Option<SystemTime>,
    /// Upstream holds it although nobody wants it any more: it cannot be given back.
    pub superfluous: bool,
}

/// What a session says itself.
#[derive(Debug)]
pub(super) struct Told {
    pub bindings: Vec<BindingHeld>,
    pub events: u64,
    pub duplicates: u64,
}

/// A question to a session.
pub(super) type Question = oneshot::Sender<Told>;

/// Where a session is asked.
pub(super) type Questions = mpsc::Receiver<Question>;

/// A session that has been asked.
#[derive(Debug)]
pub(super) struct Asked {
    number: u64,
    opened: SystemTime,
    successor: bool,
    answer: oneshot::Receiver<Told>,
}

impl Asked {
    /// Asks a session, if it is not overrun with questions.
    pub fn ask(
        questions: &mpsc::Sender<Question>,
        number: u64,
        opened: SystemTime,
        successor: bool,
    ) -> Option<Self> {
        let (question, answer) = oneshot::channel();
        questions.try_send(question).ok()?;
        Some(Self { number, opened, successor, answer })
    }

    /// What it answers; `None` if it ended meanwhile.
    pub async fn report(self) -> Option<SessionReport> {
        let Self { number, opened, successor, answer } = self;
        let Told { bindings, events, duplicates } = timeout(PATIENCE, answer).await.ok()?.ok()?;
        Some(SessionReport { number, opened, successor, bindings, events, duplicates })
    }
}
