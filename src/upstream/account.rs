//! The loop that keeps a session for an account: log in, connect, bind what is wanted, do it again when it ends, and replace
//! it when it is time.
//!
//! It has one session, or none; during a rotation it has two. All of them live inside this one task.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    binding::Flavour,
    config,
    hub::{BranchInterest, GapReason, Hub, Interest, UpstreamChange, UpstreamState},
    telemetry::metrics::{Attempt as Outcome, SessionGuard},
};

use super::{
    Seams,
    backoff::Backoff,
    close::{CloseCause, Ended},
    connector::BoxedIo,
    counted,
    crossbar::Token,
    dedupe::SessionId,
    descendants::{self, Asking, Descendants},
    intake::{Intake, Log, Opened},
    ledger::End,
    link::{Attempt, Failure, Link},
    month::{self, MonthTurns},
    report::{Asked, Question},
    rotation::{Action, Rotation, Stage},
    session::{self, Orders, Progress, Wanted},
    steering::{self, Order, Reply, Request, Steered},
};

/// After a session ended the next one subscribes again at once, and shortly after: upstream may let go of what the other
/// held a moment after it closed the connection (F51).
const SHORTLY: Duration = Duration::from_millis(500);

/// Questions that wait for a session to answer.
const QUESTIONS: usize = 4;

/// Keeps one account's session, until `stop`. The account is added to the hub first, if it is not there yet.
///
/// A session is held also while nobody wants anything: the upstream's state is known then, and the first subscription is
/// served at once.
pub async fn run(
    settings: Arc<config::Upstream>,
    account: config::Account,
    hub: Arc<Hub>,
    seams: Seams,
    stop: CancellationToken,
) {
    let (_steering, steered) = steering::steering();
    run_steered(settings, account, hub, seams, steered, stop).await;
}

/// The same, for an operator who wants to have a say.
pub async fn run_steered(
    settings: Arc<config::Upstream>,
    account: config::Account,
    hub: Arc<Hub>,
    seams: Seams,
    steered: Steered,
    stop: CancellationToken,
) {
    let log = hub.add(account.id, account.id, account.always_on.clone());
    let span = info_span!("upstream", account = %account.id);
    let descendants = match settings.descendants {
        true => Some(Descendants::new(hub, account.id, settings.descendants_interval)),
        false => {
            hub.cannot_tell(account.id, 0, true);
            None
        }
    };
    let mut keeper = Keeper::new(settings, account, log.clone(), seams);
    keeper.descendants = descendants.map(Arc::new);
    keeper.run(log.interest(), steered, &stop).instrument(span).await;
}

/// A session that is under way.
struct Running {
    id: SessionId,
    opened: Instant,
    orders: watch::Sender<Orders>,
    questions: mpsc::Sender<Question>,
    progress: watch::Receiver<Progress>,
    leave: CancellationToken,
    ends: BoxFuture<'static, Ended>,
    counted: SessionGuard,
}

impl Running {
    fn progress(&self) -> Progress {
        *self.progress.borrow()
    }
}

/// Something that the loop has to do with.
enum Happening {
    Stop,
    CurrentEnded(Ended),
    SuccessorEnded(Ended),
    Attempted(Box<Attempt>),
    Wanted,
    Requested(Request),
    /// A session got further, or it is time for something.
    Look,
}

/// What is known of an account's upstream, over all of its sessions.
pub(super) struct Keeper {
    link: Arc<Link>,
    intake: Arc<Intake>,
    descendants: Option<Arc<Descendants>>,
    backoff: Backoff,
    token: Option<Arc<Token>>,
    /// Whether the token was given out for the session that comes next.
    token_is_fresh: bool,
    realm_is_known: bool,
    flavour: Option<Flavour>,
    last_life: Option<SystemTime>,
    sessions: u64,
    /// The failure that was logged last: the same one again is not worth a line.
    logged: Option<String>,
    current: Option<Running>,
    /// The one that is to take its place.
    successor: Option<Running>,
    /// A session that is being opened.
    opening: Option<BoxFuture<'static, Attempt>>,
    /// When to open the next one, if there is none.
    retry_at: Instant,
    rotation: Rotation,
    month: MonthTurns,
    /// When the session is to subscribe to everything again, because another has ended.
    resubscribe: Vec<Instant>,
    /// Keeps the hub told of descendants, while there is a session.
    telling: Option<BoxFuture<'static, ()>>,
    wanted: Wanted,
}

impl Keeper {
    pub(super) fn new(
        settings: Arc<config::Upstream>,
        account: config::Account,
        log: Arc<dyn Log>,
        seams: Seams,
    ) -> Self {
        let now = Instant::now();
        let counts = seams.metrics.account(account.id);
        counts.expect_gaps::<GapReason>();
        Self {
            intake: Arc::new(Intake::new(account.id, log, &settings, counts)),
            descendants: None,
            backoff: Backoff::new(&settings),
            token: None,
            token_is_fresh: false,
            realm_is_known: false,
            flavour: None,
            last_life: None,
            sessions: 0,
            logged: None,
            current: None,
            successor: None,
            opening: None,
            retry_at: now,
            rotation: Rotation::new(settings.clone(), now),
            month: MonthTurns::new(settings.time_zone.clone(), settings.month_turn_margin, seams.clock.now()),
            resubscribe: Vec::new(),
            telling: None,
            wanted: Wanted::new(),
            link: Arc::new(Link::new(settings, account, seams)),
        }
    }

    pub(super) async fn run(
        mut self,
        mut interest: watch::Receiver<Arc<Interest>>,
        mut steered: Steered,
        stop: &CancellationToken,
    ) {
        let mut of_descendants = self.descendants.as_ref().map(|descendants| descendants.interest());
        self.say(UpstreamState::Connecting, "logging in".into());
        self.want(interest.borrow_and_update().clone());
        loop {
            self.look();
            match self.next(&mut interest, &mut of_descendants, &mut steered, stop).await {
                Happening::Stop => break,
                Happening::CurrentEnded(ended) => self.current_ended(&ended),
                Happening::SuccessorEnded(ended) => self.successor_ended(&ended),
                Happening::Attempted(attempt) => self.attempted(*attempt, stop),
                Happening::Wanted => self.want(interest.borrow_and_update().clone()),
                Happening::Requested(Request::Order(order, reply)) => {
                    let becomes = self.order(order);
                    // Who asked may have lost patience, or not care.
                    _ = reply.map(|reply| reply.send(becomes));
                }
                Happening::Requested(Request::Sessions(reply)) => _ = reply.send(self.ask_sessions()),
                Happening::Look => {}
            }
        }
        self.stopped().await;
    }

    /// An operator asks for something.
    fn order(&mut self, order: Order) -> Reply {
        match (&self.current, order) {
            (None, Order::Rotate) => Reply::NoSession,
            (None, Order::Reconnect) => {
                info!("an operator asks to connect at once");
                self.retry_at = Instant::now();
                Reply::Begun
            }
            (Some(_), _) if self.rotation.stage() != Stage::Idle => Reply::UnderWay,
            (Some(_), Order::Rotate) => {
                self.rotation.request();
                Reply::Begun
            }
            (Some(_), Order::Reconnect) => {
                info!("an operator asks to open the session anew");
                if let Some(action) = self.rotation.reconnect() {
                    self.act(action);
                }
                Reply::Begun
            }
        }
    }

    /// Asks the sessions how they stand: they answer to who wanted to know.
    fn ask_sessions(&self) -> Vec<Asked> {
        let now = self.link.seams.clock.now();
        let ask = |session: &Running, successor| {
            let opened = now.checked_sub(session.opened.elapsed()).unwrap_or(now);
            Asked::ask(&session.questions, session.id.0, opened, successor)
        };
        let current = self.current.as_ref().and_then(|session| ask(session, false));
        let successor = self.successor.as_ref().and_then(|session| ask(session, true));
        current.into_iter().chain(successor).collect()
    }

    /// Where all sessions hand over what they bring.
    #[cfg(test)]
    pub(super) fn intake(&self) -> Arc<Intake> {
        self.intake.clone()
    }

    /// Waits for the next thing to happen. Sessions run in here.
    async fn next(
        &mut self,
        interest: &mut watch::Receiver<Arc<Interest>>,
        of_descendants: &mut Option<watch::Receiver<Arc<BranchInterest>>>,
        steered: &mut Steered,
        stop: &CancellationToken,
    ) -> Happening {
        let wake = self.wake();
        let Self { current, successor, opening, telling, .. } = self;
        let (current, current_progress) = parts(current);
        let (successor, successor_progress) = parts(successor);
        tokio::select! {
            biased;
            () = stop.cancelled() => Happening::Stop,
            ended = or_never(current) => Happening::CurrentEnded(ended),
            ended = or_never(successor) => Happening::SuccessorEnded(ended),
            attempt = or_never(opening.as_mut()) => Happening::Attempted(Box::new(attempt)),
            // The hub keeps the senders for as long as it has the account; after that nothing changes any more.
            Ok(()) = interest.changed() => Happening::Wanted,
            () = descendants::changed(of_descendants) => Happening::Wanted,
            Some(request) = steered.0.recv() => Happening::Requested(request),
            () = changed(current_progress) => Happening::Look,
            () = changed(successor_progress) => Happening::Look,
            () = sleep_until(wake) => Happening::Look,
            () = or_never(telling.as_mut()) => unreachable!("it never ends"),
        }
    }

    /// When there is something to do, if nothing happens.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        let retry = (self.current.is_none() && self.opening.is_none()).then_some(self.retry_at);
        let rotation = self.current.as_ref().and_then(|current| {
            self.rotation.wake(current.opened, &current.progress(), self.successor.is_some())
        });
        let month = now + self.month.wait(self.link.seams.clock.now());
        retry.into_iter().chain(rotation).chain(self.resubscribe.first().copied()).fold(month, Instant::min)
    }

    /// Does what is due.
    fn look(&mut self) {
        let now = Instant::now();
        if self.current.is_none() && self.opening.is_none() && self.retry_at <= now {
            self.open(true);
        }
        while self.resubscribe.first().is_some_and(|at| *at <= now) {
            self.resubscribe.remove(0);
            if let Some(current) = &self.current {
                current.orders.send_modify(|orders| orders.all_before = Some(now));
            }
        }
        while let Some(step) = self.month.step(self.link.seams.clock.now()) {
            self.turn_month(step, now);
        }
        while let Some(current) = &self.current {
            let second = self.successor.as_ref().map(Running::progress);
            let action = self.rotation.step(now, current.opened, &current.progress(), second.as_ref());
            let Some(action) = action else { break };
            if let (Action::Open | Action::LogIn, Some(trigger)) = (action, self.rotation.trigger()) {
                self.intake.counts().rotation_started(trigger.into());
            }
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open => self.open(true),
            Action::LogIn => self.open(false),
            Action::Mark(mark) => {
                if let Some(current) = &self.current {
                    current.orders.send_modify(|orders| orders.mark = mark);
                }
            }
            Action::Leave => self.current.iter().for_each(|current| current.leave.cancel()),
            Action::Abandon => self.successor.iter().for_each(|successor| successor.leave.cancel()),
        }
    }

    fn turn_month(&mut self, step: month::Step, now: Instant) {
        let sessions = || self.current.iter().chain(&self.successor);
        match step {
            month::Step::Begin(since) => {
                debug!("the month turns");
                self.intake.book(|ledger| ledger.month_turns(since));
            }
            month::Step::Ask => {}
            month::Step::Over => {
                info!("the month has turned");
                self.intake.book(|ledger| {
                    ledger.month_turned();
                    Vec::new()
                });
                if sessions().any(|session| session.progress().by_month) {
                    self.rotation.month_turned(now, &*self.link.seams.random);
                }
                for session in self.current.iter().chain(&self.successor) {
                    session.orders.send_modify(|orders| orders.month_certain = Some(now));
                }
            }
        }
        for session in self.current.iter().chain(&self.successor) {
            session.orders.send_modify(|orders| orders.month_before = Some(now));
        }
    }

    fn open(&mut self, connect: bool) {
        let open = self.link.clone().open(self.token.clone(), !self.realm_is_known, connect);
        self.opening = Some(open.boxed());
    }

    /// What is wanted changed.
    fn want(&mut self, interest: Arc<Interest>) {
        self.wanted = Wanted::from([(self.link.account.id, interest)]);
        if let Some(descendants) = &self.descendants {
            descendants.add_to(&mut self.wanted, &self.intake);
        }
        for session in self.current.iter().chain(&self.successor) {
            session.orders.send_modify(|orders| orders.wanted.clone_from(&self.wanted));
        }
    }

    /// An attempt to open a session, or to get a token for one, has come to an end.
    fn attempted(&mut self, attempt: Attempt, stop: &CancellationToken) {
        self.opening = None;
        self.token_is_fresh = attempt.token_is_fresh;
        self.token = attempt.token;
        if let Some(facts) = attempt.facts {
            self.intake.set_realm(self.link.account.id, &facts.realm);
            if let Some(descendants) = &self.descendants {
                descendants.set_own_name(&facts.name);
            }
            self.realm_is_known = true;
        }
        let now = Instant::now();
        match &attempt.socket {
            Ok(Some(_)) => self.intake.counts().attempted(Outcome::Connected),
            // A token was all that was asked for.
            Ok(None) => {}
            Err(failure) => self.intake.counts().attempted(failure.outcome()),
        }
        match (attempt.socket, self.current.is_some()) {
            (Ok(Some(socket)), false) => {
                let first = self.sessions == 0;
                let session = self.start(socket, true, stop);
                self.resubscribe.clear();
                if !first {
                    self.resubscribe.push(now + self.link.settings.resubscribe_delay);
                }
                self.current = Some(session);
                self.begins();
            }
            (Ok(Some(socket)), true) => {
                self.successor = Some(self.start(socket, false, stop));
                self.rotation.opened(now);
            }
            (Ok(None), true) => {
                let action = self.rotation.breaks_first();
                self.act(action);
            }
            // The session ended while a token was got.
            (Ok(None), false) => {}
            (Err(failure), false) => self.retry_at = now + self.failed(&failure),
            (Err(failure), true) if failure.is_of_numbers() => {
                info!("upstream lets no second connection in: the session is closed first");
                let action = self.rotation.breaks_first();
                self.act(action);
            }
            (Err(failure), true) => {
                info!(%failure, "the session cannot be replaced now");
                self.rotation_over(now, false);
            }
        }
    }

    /// Starts a session over an open socket.
    fn start(&mut self, socket: WebSocketStream<BoxedIo>, speaks: bool, stop: &CancellationToken) -> Running {
        self.sessions += 1;
        self.logged = None;
        let (id, at) = (SessionId(self.sessions), Instant::now());
        self.intake.book(|ledger| {
            ledger.opened(id);
            Vec::new()
        });
        let orders = watch::Sender::new(Orders { wanted: self.wanted.clone(), speaks, ..Orders::default() });
        let (told, progress) = watch::channel(Progress::default());
        let (receiver, leave) = (orders.subscribe(), stop.child_token());
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (link, intake, token) = (self.link.clone(), self.intake.clone(), self.token.clone());
        let (flavour, until) = (self.flavour, leave.clone());
        let ends = async move {
            let Some(token) = token else { unreachable!("a socket is opened after a login only") };
            info!("connected to blackhole");
            let context = session::Context {
                opened: Opened { id, at },
                tag: format!("{:08x}", link.seams.random.next_u64() as u32),
                settings: &link.settings,
                clock: &*link.seams.clock,
                intake: &intake,
                token: &token,
                flavour,
                progress: told,
            };
            session::run(context, socket, receiver, asked, &until).await
        };
        let ends = ends.instrument(info_span!("session", session = id.0)).boxed();
        let counted = self.intake.counts().session_opened();
        Running { id, opened: at, orders, questions, progress, leave, ends, counted }
    }

    /// A session has become the account's only one.
    fn begins(&mut self) {
        self.rotation.begins(&*self.link.seams.random);
        let (Some(descendants), Some(token)) = (self.descendants.clone(), self.token.clone()) else { return };
        let (link, intake) = (self.link.clone(), self.intake.clone());
        let tell = async move {
            let asking = Asking {
                crossbar: &link.crossbar,
                credentials: &link.account.credentials,
                clock: &*link.seams.clock,
                random: &*link.seams.random,
                token: &token,
                token_margin: link.settings.token_margin,
            };
            descendants.keep_told(asking, &intake).await;
        };
        self.telling = Some(tell.boxed());
    }

    /// Records the end of the session: what was held is lost from the last sign of life on, unless another holds it and all
    /// that was on its way was read.
    fn current_ended(&mut self, ended: &Ended) {
        let Some(session) = self.current.take() else { return };
        session.counted.ended(ended.cause.into());
        self.telling = None;
        self.flavour = ended.flavour;
        self.last_life = Some(ended.last_life);
        let now = Instant::now();
        let stage = self.rotation.stage();
        let reason = GapReason::UpstreamDisconnected;
        let end = match stage {
            Stage::Leaving { drained: true } => End::Drained,
            Stage::Leaving { drained: false } => {
                End::Lost { reason: GapReason::Rotation, since: ended.read_through }
            }
            Stage::Breaking { reason } => End::Lost { reason, since: ended.last_life },
            _ => End::Lost { reason, since: ended.last_life },
        };
        // Where no session is left that is said before the loss: nobody is told that a live upstream holds nothing.
        if self.successor.is_none() {
            match stage {
                Stage::Breaking { .. } => {
                    self.say(UpstreamState::Connecting, "the session is being replaced".into());
                }
                _ => self.say(UpstreamState::Down, ended.cause.to_string()),
            }
        }
        self.intake.book(|ledger| ledger.ended(session.id, end));
        if let Some(successor) = self.successor.take() {
            info!(cause = %ended.cause, ?end, "another session takes the place of the one that ended");
            successor.orders.send_modify(|orders| orders.speaks = true);
            self.current = Some(successor);
            self.begins();
            self.rotation_over(now, true);
            self.survived(now);
        } else if let Stage::Breaking { .. } = stage {
            info!("the session was closed to be opened again");
            self.rotation_over(now, false);
            self.retry_at = now;
        } else {
            warn!(cause = %ended.cause, live = ?ended.live, "the session ended; connecting again");
            self.rotation_over(now, false);
            self.retry_at = now + self.delay_after(ended);
        }
    }

    /// The session that was to take another's place ended first.
    fn successor_ended(&mut self, ended: &Ended) {
        let Some(session) = self.successor.take() else { return };
        session.counted.ended(ended.cause.into());
        info!(cause = %ended.cause, "the session that was to take over ended");
        let end = End::Redundant { since: ended.last_life };
        self.intake.book(|ledger| ledger.ended(session.id, end));
        if ended.cause == CloseCause::TokenRefused {
            self.token = None;
        }
        let now = Instant::now();
        self.rotation_over(now, false);
        self.survived(now);
    }

    /// A replacement of the session, if one was under way, is over. Whether another one took over.
    fn rotation_over(&mut self, now: Instant, succeeded: bool) {
        if self.rotation.trigger().is_some() {
            let outcome = counted::rotation_end(self.rotation.stage(), succeeded);
            self.intake.counts().rotation_ended(outcome);
        }
        self.rotation.ends(now, &*self.link.seams.random);
    }

    /// A session ended and another stays: that one subscribes to everything at once, and again later (F51).
    fn survived(&mut self, now: Instant) {
        self.resubscribe = vec![now, now + SHORTLY, now + self.link.settings.resubscribe_delay];
    }

    /// Everything ends.
    async fn stopped(mut self) {
        if let Some(mut successor) = self.successor.take() {
            let ended = successor.ends.as_mut().await;
            successor.counted.ended(ended.cause.into());
            let end = End::Redundant { since: ended.last_life };
            self.intake.book(|ledger| ledger.ended(successor.id, end));
        }
        if let Some(mut current) = self.current.take() {
            let ended = current.ends.as_mut().await;
            current.counted.ended(ended.cause.into());
            (self.flavour, self.last_life) = (ended.flavour, Some(ended.last_life));
            let end = End::Lost { reason: GapReason::UpstreamDisconnected, since: ended.last_life };
            self.intake.book(|ledger| ledger.ended(current.id, end));
            info!("the session was closed");
        }
        self.say(UpstreamState::Down, CloseCause::Asked.to_string());
    }

    fn delay_after(&mut self, ended: &Ended) -> Duration {
        self.backoff.lived(ended.live);
        let random = &*self.link.seams.random;
        if ended.cause == CloseCause::TokenRefused {
            self.token = None;
            if self.token_is_fresh {
                // A new token is not accepted either: trying again soon is of no use.
                return self.backoff.refused(random);
            }
            // Upstream was restarted, say, and knows the old one no more. The next attempt logs in.
            return self.backoff.soon(random);
        }
        self.backoff.next(random)
    }

    /// Records that there is still no session.
    fn failed(&mut self, failure: &Failure) -> Duration {
        let refused = failure.is_refusal();
        let detail = match refused {
            true => {
                let every = humantime::format_duration(self.link.settings.backoff_refused);
                format!("{failure}; the next attempt is made after {every}")
            }
            false => failure.to_string(),
        };
        if self.logged.as_ref() == Some(&detail) {
            debug!(%detail, "no session");
        } else {
            warn!(%detail, "no session");
            self.logged = Some(detail.clone());
        }
        if failure.is_of_credentials()
            && let Some(descendants) = &self.descendants
        {
            descendants.give_up();
        }
        self.say(UpstreamState::Down, detail);
        let random = &*self.link.seams.random;
        match refused {
            true => self.backoff.refused(random),
            false => self.backoff.next(random),
        }
    }

    fn say(&self, state: UpstreamState, detail: String) {
        self.intake.say(UpstreamChange {
            state,
            flavour: self.flavour,
            last_life: self.last_life,
            detail: detail.into(),
        });
    }
}

/// A session's end to wait for, and its progress.
fn parts(
    session: &mut Option<Running>,
) -> (Option<&mut BoxFuture<'static, Ended>>, Option<&mut watch::Receiver<Progress>>) {
    match session {
        Some(Running { ends, progress, .. }) => (Some(ends), Some(progress)),
        None => (None, None),
    }
}

/// The future, if there is one. Nothing of it is lost where this is dropped.
async fn or_never<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn changed(progress: Option<&mut watch::Receiver<Progress>>) {
    // A session that has ended is heard of otherwise.
    if let Some(progress) = progress
        && progress.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
