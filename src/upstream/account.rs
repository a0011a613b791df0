//! The loop that keeps one session for an account: log in, connect, bind what is wanted, and do it again when it ends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};
use url::Url;

use crate::{
    binding::Flavour,
    config,
    hub::{GapReason, Hub, Interest, UpstreamChange, UpstreamState},
};

use super::{
    Seams,
    backoff::Backoff,
    close::{CloseCause, Ended},
    connector::{BoxedIo, ConnectError, Connector},
    crossbar::{AccountFacts, Crossbar, CrossbarError, Token},
    dedupe::SessionId,
    descendants::{self, Asking, Descendants},
    intake::{Intake, Log, Opened},
    ledger::End,
    session::{self, Orders, Progress, Wanted},
};

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
    let log = hub.add(account.id, account.id, account.always_on.clone());
    let span = info_span!("upstream", account = %account.id);
    let descendants = match settings.descendants {
        true => Some(Descendants::new(hub, account.id, settings.descendants_interval)),
        false => None,
    };
    let mut keeper = Keeper::new(&settings, account, log.clone(), seams);
    keeper.descendants = descendants;
    keeper.run(log.interest(), &stop).instrument(span).await;
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Crossbar(#[from] CrossbarError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Failure {
    fn is_refusal(&self) -> bool {
        match self {
            Failure::Crossbar(error) => error.is_refusal(),
            Failure::Connect(error) => error.is_refusal(),
        }
    }

    /// Whether Crossbar does not want these credentials.
    fn is_of_credentials(&self) -> bool {
        let Failure::Crossbar(error) = self else { return false };
        error.is_refusal() && *error != CrossbarError::RateLimited
    }
}

/// What is known between two sessions.
pub(super) struct Keeper<'a> {
    settings: &'a config::Upstream,
    account: config::Account,
    seams: Seams,
    crossbar: Crossbar,
    connector: Connector,
    blackhole: Url,
    intake: Intake,
    descendants: Option<Descendants>,
    backoff: Backoff,
    token: Option<Token>,
    /// Whether the token was given out for the session that comes next.
    token_is_fresh: bool,
    realm_is_known: bool,
    flavour: Option<Flavour>,
    last_life: Option<SystemTime>,
    sessions: u64,
    /// The failure that was logged last: the same one again is not worth a line.
    logged: Option<String>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        settings: &'a config::Upstream,
        account: config::Account,
        log: Arc<dyn Log>,
        seams: Seams,
    ) -> Self {
        let crossbar_url = account.crossbar_url.clone().unwrap_or_else(|| settings.crossbar_url.clone());
        Self {
            settings,
            crossbar: Crossbar::new(
                seams.transport.clone(),
                seams.clock.clone(),
                crossbar_url,
                settings.crossbar_timeout,
            )
            .behind(seams.gate.clone()),
            connector: Connector::new(seams.dial.clone(), settings.tls.clone(), settings.connect_timeout),
            blackhole: account.blackhole_url.clone().unwrap_or_else(|| settings.blackhole_url.clone()),
            intake: Intake::new(account.id, log, settings),
            descendants: None,
            backoff: Backoff::new(settings),
            token: None,
            token_is_fresh: false,
            realm_is_known: false,
            flavour: None,
            last_life: None,
            sessions: 0,
            logged: None,
            account,
            seams,
        }
    }

    pub(super) async fn run(
        mut self,
        mut interest: watch::Receiver<Arc<Interest>>,
        stop: &CancellationToken,
    ) {
        self.say(UpstreamState::Connecting, "logging in".into());
        loop {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                opened = self.open() => opened,
            };
            let delay = match opened {
                Ok(socket) => {
                    let ended = self.hold(socket, &mut interest, stop).await;
                    self.ended(&ended);
                    if ended.cause == CloseCause::Asked {
                        return;
                    }
                    self.delay_after(&ended)
                }
                Err(failure) => self.failed(&failure),
            };
            debug!(?delay, "waiting before the next attempt");
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.say(UpstreamState::Down, CloseCause::Asked.to_string());
    }

    /// Logs in, unless the token is still good for long, and connects.
    async fn open(&mut self) -> Result<WebSocketStream<BoxedIo>, Failure> {
        let now = self.seams.clock.now();
        let good = |token: &Token| token.is_good(now, self.settings.token_margin);
        self.token_is_fresh = !self.token.as_ref().is_some_and(good);
        if self.token_is_fresh {
            self.token = None;
            self.token = Some(self.login().await?);
        }
        let socket = async {
            let _pass = self.seams.gate.connect(&self.blackhole).await;
            self.connector.connect(&self.blackhole).await
        };
        let (socket, facts) = tokio::join!(socket, self.facts());
        if let Some(facts) = facts {
            self.intake.set_realm(self.account.id, &facts.realm);
            if let Some(descendants) = &self.descendants {
                descendants.set_own_name(&facts.name);
            }
            self.realm_is_known = true;
        }
        Ok(socket?)
    }

    async fn login(&self) -> Result<Token, CrossbarError> {
        let login = self.crossbar.login(&self.account.credentials).await?;
        if login.account_id.is_some_and(|id| id != self.account.id) {
            debug!("the credentials are those of another account");
        }
        Ok(login.token)
    }

    /// The account's facts, where its realm is not known yet. Without it presence is attributed less strictly; that is no
    /// reason not to connect.
    async fn facts(&self) -> Option<AccountFacts> {
        let token = self.token.as_ref().filter(|_| !self.realm_is_known)?;
        match self.crossbar.account(token, self.account.id).await {
            Ok(facts) => Some(facts),
            Err(error) => {
                debug!(%error, "Crossbar does not tell the account's realm");
                None
            }
        }
    }

    /// Runs a session over an open socket, to its end.
    async fn hold(
        &mut self,
        socket: WebSocketStream<BoxedIo>,
        interest: &mut watch::Receiver<Arc<Interest>>,
        stop: &CancellationToken,
    ) -> Ended {
        self.sessions += 1;
        self.logged = None;
        let span = info_span!("session", session = self.sessions);
        let Some(token) = &self.token else { unreachable!("a socket is opened after a login only") };
        let context = session::Context {
            opened: Opened { id: SessionId(self.sessions), at: Instant::now() },
            tag: format!("{:08x}", self.seams.random.next_u64() as u32),
            settings: self.settings,
            clock: &*self.seams.clock,
            intake: &self.intake,
            token,
            flavour: self.flavour,
            progress: watch::Sender::new(Progress::default()),
        };
        let descendants = self.descendants.as_ref();
        let mut of_descendants = descendants.map(Descendants::interest);
        let work_out = |interest: Arc<Interest>| {
            let mut wanted = Wanted::from([(self.account.id, interest)]);
            if let Some(descendants) = descendants {
                descendants.add_to(&mut wanted, &self.intake);
            }
            wanted
        };
        let session = SessionId(self.sessions);
        self.intake.book(|ledger| {
            ledger.opened(session);
            Vec::new()
        });
        let orders = Orders {
            wanted: work_out(interest.borrow_and_update().clone()),
            speaks: true,
            ..Orders::default()
        };
        let (orders, receiver) = watch::channel(orders);
        let follow = async {
            loop {
                // The hub keeps the senders for as long as it has the account; after that nothing changes any more.
                tokio::select! {
                    Ok(()) = interest.changed() => {}
                    () = descendants::changed(&mut of_descendants) => {}
                }
                let wanted = work_out(interest.borrow_and_update().clone());
                orders.send_modify(|orders| orders.wanted = wanted);
            }
        };
        let asking = Asking {
            crossbar: &self.crossbar,
            credentials: &self.account.credentials,
            clock: &*self.seams.clock,
            random: &*self.seams.random,
            token,
            token_margin: self.settings.token_margin,
        };
        let tell = async {
            match descendants {
                Some(descendants) => descendants.keep_told(asking, &self.intake).await,
                None => std::future::pending().await,
            }
        };
        let held = async {
            info!("connected to blackhole");
            tokio::select! {
                ended = session::run(context, socket, receiver, stop) => ended,
                () = follow => unreachable!("it never ends"),
                () = tell => unreachable!("it never ends"),
            }
        };
        held.instrument(span).await
    }

    /// Records the end of a session: what was held is lost from the last sign of life on.
    fn ended(&mut self, ended: &Ended) {
        self.flavour = ended.flavour;
        self.last_life = Some(ended.last_life);
        let end = End::Lost { reason: GapReason::UpstreamDisconnected, since: ended.last_life };
        self.intake.book(|ledger| ledger.ended(SessionId(self.sessions), end));
        self.say(UpstreamState::Down, ended.cause.to_string());
        if ended.cause == CloseCause::Asked {
            info!("the session was closed");
        } else {
            warn!(cause = %ended.cause, live = ?ended.live, "the session ended; connecting again");
        }
    }

    fn delay_after(&mut self, ended: &Ended) -> Duration {
        self.backoff.lived(ended.live);
        if ended.cause == CloseCause::TokenRefused {
            self.token = None;
            if self.token_is_fresh {
                // A new token is not accepted either: trying again soon is of no use.
                return self.backoff.refused(&*self.seams.random);
            }
        }
        self.backoff.next(&*self.seams.random)
    }

    /// Records that there is still no session.
    fn failed(&mut self, failure: &Failure) -> Duration {
        let refused = failure.is_refusal();
        let detail = match refused {
            true => {
                let every = humantime::format_duration(self.settings.backoff_refused);
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
        match refused {
            true => self.backoff.refused(&*self.seams.random),
            false => self.backoff.next(&*self.seams.random),
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
