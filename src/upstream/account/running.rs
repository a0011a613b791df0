//! A session that is under way inside the loop of its account: how it is begun, and how it is waited for.

use std::{future::pending, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use crate::{
    telemetry::metrics::SessionGuard,
    upstream::{
        close::Ended,
        connector::BoxedIo,
        crossbar::Token,
        dedupe::SessionId,
        intake::Opened,
        link::Link,
        report::Question,
        session::{self, Orders, Progress},
    },
};

use super::Keeper;

/// Questions that wait for a session to answer.
const QUESTIONS: usize = 4;

/// A session that is under way.
pub(super) struct Running {
    pub(super) id: SessionId,
    pub(super) opened: Instant,
    /// How it was reached: as it was configured then.
    pub(super) link: Arc<Link>,
    pub(super) token: Arc<Token>,
    pub(super) orders: watch::Sender<Orders>,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) leave: CancellationToken,
    pub(super) ends: BoxFuture<'static, Ended>,
    pub(super) counted: SessionGuard,
}

impl Running {
    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }
}

impl Keeper {
    /// Starts a session over an open socket.
    pub(super) fn start(
        &mut self,
        link: Arc<Link>,
        (socket, token): (WebSocketStream<BoxedIo>, Arc<Token>),
        speaks: bool,
        stop: &CancellationToken,
    ) -> Running {
        self.sessions += 1;
        self.logged = None;
        let (id, at) = (SessionId(self.sessions), Instant::now());
        self.intake.book(|ledger| {
            ledger.opened(id);
            Vec::new()
        });
        let (wanted, haunted) = (self.wanted.clone(), self.haunted_until.is_some());
        let orders = watch::Sender::new(Orders { wanted, speaks, haunted, ..Orders::default() });
        let (told, progress) = watch::channel(Progress::default());
        let (receiver, leave) = (orders.subscribe(), stop.child_token());
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let intake = self.intake.clone();
        let (flavour, until) = (self.flavour, leave.clone());
        let (way, pass) = (link.clone(), token.clone());
        let ends = async move {
            info!("connected to blackhole");
            let context = session::Context {
                opened: Opened { id, at },
                tag: format!("{:08x}", way.seams.random.next_u64() as u32),
                settings: &way.settings,
                clock: &*way.seams.clock,
                intake: &intake,
                token: &pass,
                flavour,
                progress: told,
            };
            session::run(context, socket, receiver, asked, &until).await
        };
        let ends = ends.instrument(info_span!("session", session = id.0)).boxed();
        let counted = self.intake.counts().session_opened();
        Running { id, opened: at, link, token, orders, questions, progress, leave, ends, counted }
    }
}

/// A session's end to wait for, and its progress.
pub(super) fn parts(
    session: &mut Option<Running>,
) -> (Option<&mut BoxFuture<'static, Ended>>, Option<&mut watch::Receiver<Progress>>) {
    match session {
        Some(Running { ends, progress, .. }) => (Some(ends), Some(progress)),
        None => (None, None),
    }
}

/// The future, if there is one. Nothing of it is lost where this is dropped.
pub(super) async fn or_never<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

pub(super) async fn changed(progress: Option<&mut watch::Receiver<Progress>>) {
    // A session that has ended is heard of otherwise.
    if let Some(progress) = progress
        && progress.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
