//! The loop that keeps a session for an account: log in, connect, bind what is wanted, do it again when it ends, and replace
//! it when it is time.
//!
//! It has one session, or none; during a rotation it has two. All of them live inside this one task. `running` is such a
//! session; `endings` is what follows from its end.

mod endings;
mod running;

use std::{sync::Arc, time::SystemTime};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span};

use crate::{
    binding::Flavour,
    config,
    hub::{BranchInterest, GapReason, Hub, Interest, UpstreamChange, UpstreamState},
    telemetry::metrics::AttemptOutcome,
};

use super::{
    Seams,
    backoff::Backoff,
    close::Ended,
    crossbar::Token,
    descendants::{self, Asking, Descendants},
    intake::{Intake, Log},
    link::{Attempt, Link},
    month::{self, MonthTurns},
    report::Asked,
    rotation::{Action, Rotation, Stage},
    session::Orders,
    session::Wanted,
    steering::{self, Order, Reply, Request, Setup, Steer, Steered},
};

use self::running::{Running, changed, or_never, parts};

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
    let (_steering, mut steered) = steering::steering();
    run_steered(Setup { settings, account }, hub, seams, &mut steered, stop).await;
}

/// The same, for somebody who wants to have a say while it runs. It begins with the setup that `steered` was given last, if
/// it was.
pub async fn run_steered(
    setup: Setup,
    hub: Arc<Hub>,
    seams: Seams,
    steered: &mut Steered,
    stop: CancellationToken,
) {
    let Setup { settings, account } = steered.setup().unwrap_or(setup);
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

/// Something that the loop has to do with.
enum Happening {
    Stop,
    CurrentEnded(Ended),
    SuccessorEnded(Ended),
    Attempted(Arc<Link>, Box<Attempt>),
    Wanted,
    Steered(Steer),
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
    /// A session that is being opened, and how.
    opening: Option<BoxFuture<'static, (Arc<Link>, Attempt)>>,
    /// When to open the next one, if there is none.
    retry_at: Instant,
    rotation: Rotation,
    month: MonthTurns,
    /// When the session is to subscribe to everything again, because another has ended.
    resubscribe: Vec<Instant>,
    /// Until when upstream may have a session of the account that nobody holds any more.
    haunted_until: Option<Instant>,
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
            haunted_until: None,
            telling: None,
            wanted: Wanted::new(),
            link: Arc::new(Link::new(settings, account, seams)),
        }
    }

    pub(super) async fn run(
        mut self,
        mut interest: watch::Receiver<Arc<Interest>>,
        steered: &mut Steered,
        stop: &CancellationToken,
    ) {
        let mut of_descendants = self.descendants.as_ref().map(|descendants| descendants.interest());
        self.say(UpstreamState::Connecting, "logging in".into());
        self.want(interest.borrow_and_update().clone());
        loop {
            self.look();
            match self.next(&mut interest, &mut of_descendants, steered, stop).await {
                Happening::Stop => break,
                Happening::CurrentEnded(ended) => self.current_ended(&ended),
                Happening::SuccessorEnded(ended) => self.successor_ended(&ended),
                Happening::Attempted(link, attempt) => self.attempted(link, *attempt, stop),
                Happening::Wanted => self.want(interest.borrow_and_update().clone()),
                Happening::Steered(Steer::Setup(setup)) => self.reconfigure(*setup),
                Happening::Steered(Steer::Request(Request::Order(order, reply))) => {
                    let becomes = self.order(order);
                    // Who asked may have lost patience, or not care.
                    _ = reply.map(|reply| reply.send(becomes));
                }
                Happening::Steered(Steer::Request(Request::Sessions(reply))) => {
                    _ = reply.send(self.ask_sessions())
                }
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
            (link, attempt) = or_never(opening.as_mut()) => Happening::Attempted(link, Box::new(attempt)),
            // The hub keeps the senders for as long as it has the account; after that nothing changes any more.
            Ok(()) = interest.changed() => Happening::Wanted,
            () = descendants::changed(of_descendants) => Happening::Wanted,
            steer = steered.next() => Happening::Steered(steer),
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
        let again = self.resubscribe.first().copied().into_iter().chain(self.haunted_until);
        retry.into_iter().chain(rotation).chain(again).fold(month, Instant::min)
    }

    /// Does what is due.
    fn look(&mut self) {
        let now = Instant::now();
        if self.current.is_none() && self.opening.is_none() && self.retry_at <= now {
            self.open(true);
        }
        while self.resubscribe.first().is_some_and(|at| *at <= now) {
            self.resubscribe.remove(0);
            let alone = self.resubscribe.is_empty() && self.successor.is_none();
            if let Some(current) = &self.current {
                current.orders.send_modify(|orders| {
                    orders.all_before = Some(now);
                    // Nothing of another session waits any more.
                    orders.probe &= !alone;
                });
            }
        }
        if self.haunted_until.is_some_and(|until| until <= now) {
            self.haunted_until = None;
            self.haunt();
            self.rotation.ghost_is_gone();
        }
        while let Some(step) = self.month.step(self.link.seams.clock.now()) {
            self.turn_month(step, now);
        }
        while let Some(current) = &self.current {
            self.rotation.set_moved(self.link.leads_elsewhere(&current.link), now);
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
            Action::MarkBoth(mark) => {
                self.order_all(|orders| orders.mark = mark);
            }
            Action::Leave => {
                if let Some(current) = &self.current {
                    current.orders.send_modify(|orders| orders.unhurried = true);
                    current.leave.cancel();
                }
            }
            Action::Abandon => self.successor.iter().for_each(|successor| successor.leave.cancel()),
        }
    }

    /// The sessions that there are: two while one is replaced.
    fn sessions(&self) -> impl Iterator<Item = &Running> {
        self.current.iter().chain(&self.successor)
    }

    /// Changes what all of them are to do.
    fn order_all(&self, change: impl Fn(&mut Orders)) {
        self.sessions().for_each(|session| session.orders.send_modify(&change));
    }

    fn turn_month(&mut self, step: month::Step, now: Instant) {
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
                if self.sessions().any(|session| session.progress().by_month) {
                    self.rotation.month_turned(now, &*self.link.seams.random);
                }
                self.order_all(|orders| orders.month_certain = Some(now));
            }
        }
        self.order_all(|orders| orders.month_before = Some(now));
    }

    fn open(&mut self, connect: bool) {
        let link = self.link.clone();
        let open = link.clone().open(self.token.clone(), !self.realm_is_known, connect);
        self.opening = Some(async move { (link, open.await) }.boxed());
    }

    /// Other settings hold from now on: for the next login, the next session, the next rotation. The session that there is
    /// goes on by those that it began with; if it is with another upstream now than it should be, it is replaced.
    fn reconfigure(&mut self, setup: Setup) {
        let link = Arc::new(Link::new(setup.settings, setup.account, self.link.seams.clone()));
        let old = std::mem::replace(&mut self.link, link);
        let settings = &self.link.settings;
        self.backoff = Backoff::new(settings);
        self.rotation.reconfigure(settings.clone());
        self.logged = None;
        let is_other = !self.link.shares_tokens(&old);
        if is_other {
            self.token = None;
        }
        if self.link.leads_elsewhere(&old) {
            self.realm_is_known = false;
        }
        if self.current.is_none() {
            // An attempt that is under way may be the one that could not succeed.
            self.opening = None;
            self.retry_at = Instant::now();
        }
        if is_other {
            self.tell_descendants();
        }
    }

    /// What is wanted changed.
    fn want(&mut self, interest: Arc<Interest>) {
        self.wanted = Wanted::from([(self.link.account.id, interest)]);
        if let Some(descendants) = &self.descendants {
            descendants.add_to(&mut self.wanted, &self.intake);
        }
        self.order_all(|orders| orders.wanted.clone_from(&self.wanted));
    }

    /// An attempt to open a session, or to get a token for one, has come to an end.
    fn attempted(&mut self, link: Arc<Link>, attempt: Attempt, stop: &CancellationToken) {
        self.opening = None;
        self.token_is_fresh = attempt.token_is_fresh;
        // Reconfigured meanwhile: the next one logs in with the new credentials.
        self.token = attempt.token.clone().filter(|_| self.link.shares_tokens(&link));
        if let Some(facts) = attempt.facts.filter(|_| !self.link.leads_elsewhere(&link)) {
            self.intake.set_realm(self.link.account.id, &facts.realm);
            if let Some(descendants) = &self.descendants {
                descendants.set_own_name(&facts.name);
            }
            self.realm_is_known = true;
        }
        let now = Instant::now();
        match &attempt.socket {
            Ok(Some(_)) => self.intake.counts().attempted(AttemptOutcome::Connected),
            // A token was all that was asked for.
            Ok(None) => {}
            Err(failure) => self.intake.counts().attempted(failure.outcome()),
        }
        let socket = match (attempt.socket, attempt.token) {
            (Ok(Some(socket)), Some(token)) => Ok(Some((socket, token))),
            (Ok(_), _) => Ok(None),
            (Err(failure), _) => Err(failure),
        };
        match (socket, self.current.is_some()) {
            (Ok(Some(socket)), false) => {
                let first = self.sessions == 0;
                let session = self.start(link, socket, true, stop);
                self.resubscribe.clear();
                if !first {
                    self.resubscribe.push(now + self.link.settings.resubscribe_delay);
                }
                self.current = Some(session);
                self.begins();
            }
            (Ok(Some(socket)), true) => {
                self.successor = Some(self.start(link, socket, false, stop));
                self.order_all(|orders| orders.probe = true);
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

    /// A session has become the account's only one.
    fn begins(&mut self) {
        self.rotation.begins(&*self.link.seams.random);
        self.tell_descendants();
    }

    /// Keeps the hub told of descendants while there is a session, from now on as it is configured now.
    fn tell_descendants(&mut self) {
        let token = self.current.as_ref().map(|current| current.token.clone());
        let (Some(descendants), Some(token)) = (self.descendants.clone(), token) else { return };
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

    fn say(&self, state: UpstreamState, detail: String) {
        self.intake.say(UpstreamChange {
            state,
            flavour: self.flavour,
            last_life: self.last_life,
            detail: detail.into(),
        });
    }
}
