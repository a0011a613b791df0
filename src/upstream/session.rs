//! One session: an open WebSocket to blackhole, from its first command to its end.
//!
//! The loop only reads, stamps, and hands over: it waits for nothing downstream, because 4.3 and K5 throw away what is not
//! read at once (F46). What is written goes through a queue of its own, so that a peer that does not read cannot keep us from
//! reading. There is no unsubscribe here, and no way to send one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::{sync::mpsc, sync::watch, time::Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    binding::{AccountId, Flavour, Kind, cover::cover},
    clock::WallClock,
    config,
    hub::{Interest, UpstreamChange, UpstreamState},
};

use super::{
    close::{CloseCause, Ended},
    commands::{Commands, Settled},
    connector::Io,
    crossbar::Token,
    frame::{Action, Command, CommandData, Incoming, Outcome},
    holdings::{Holdings, Target},
    intake::{Intake, Opened},
    refresh::Refresh,
};

/// Blackhole closes a session whose client was silent for an hour, however much it sends itself (F8).
const OWN_SILENCE: Duration = Duration::from_secs(600);

/// How long the end of a session may take once it is certain.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Messages handled in a row before timers are looked at again.
const BATCH: usize = 64;

/// What is wanted, for each account that the session serves.
pub(crate) type Wanted = BTreeMap<AccountId, Arc<Interest>>;

/// What a session is to do. All of it is a state, not an event: what was asked for twice is done once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    /// What it has to hold.
    pub wanted: Wanted,
    /// Whether it says how the upstream stands: of two sessions, one does.
    pub speaks: bool,
    /// Everything that was asked for before this is to be asked for again.
    pub all_before: Option<Instant>,
    /// The same, for what is filed by month.
    pub month_before: Option<Instant>,
    /// An answer to a request that was sent at this time or later is one of the new month.
    pub month_certain: Option<Instant>,
    /// The mark to be answered: see [`Progress::marked`].
    pub mark: u32,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Whether all that is wanted is held, or refused.
    pub settled: bool,
    /// The last mark that was answered: what upstream put on the socket before is read.
    pub marked: u32,
    /// Whether upstream holds more for it than what is wanted.
    pub excess: bool,
    /// How often all that is held was refreshed.
    pub rounds: u64,
    /// Whether it holds what is filed by month.
    pub by_month: bool,
    /// Whether it holds anything but calls.
    pub beyond_calls: bool,
    /// What the upstream was found to be.
    pub flavour: Option<Flavour>,
}

/// What a session works with.
pub(crate) struct Context<'a> {
    /// Which session it is.
    pub opened: Opened,
    /// Begins its request ids.
    pub tag: String,
    /// The settings.
    pub settings: &'a config::Upstream,
    /// For [`Ended::last_life`].
    pub clock: &'a dyn WallClock,
    /// Where everything goes.
    pub intake: &'a Intake,
    /// Sent with every command.
    pub token: &'a Token,
    /// What an earlier session found upstream to be.
    pub flavour: Option<Flavour>,
    /// Where it tells how far it is.
    pub progress: watch::Sender<Progress>,
}

/// Runs a session to its end.
pub(crate) async fn run<S: Io>(
    context: Context<'_>,
    socket: WebSocketStream<S>,
    mut orders: watch::Receiver<Orders>,
    stop: &CancellationToken,
) -> Ended {
    let (sink, mut stream) = socket.split();
    // Room for all commands in flight, the repeats of those that are stuck, a ping and the close frame.
    let (outgoing, queue) = mpsc::channel(context.settings.commands_in_flight * 2 + 2);
    let mut writer = pin!(write(sink, queue));
    let mut session = Session::new(context, outgoing);
    session.order(orders.borrow_and_update().clone());

    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(tokio::time::sleep_until(session.wake()));
    let cause = loop {
        session.send(Instant::now());
        let wake = session.wake();
        // Life moves the deadlines away all the time: let the timer ring early rather than set it for each frame.
        if timer.is_elapsed() || wake < timer.deadline() {
            timer.as_mut().reset(wake);
        }
        tokio::select! {
            biased;
            () = &mut stopped => break CloseCause::Asked,
            kind = &mut writer, if session.write_failed.is_none() => session.write_failed(kind, Instant::now()),
            Ok(()) = orders.changed() => session.order(orders.borrow_and_update().clone()),
            () = &mut timer => match session.tick(Instant::now()) {
                // It may be this process that was not there (a paused machine): what waits in the socket is life too.
                Some(CloseCause::Silent) if let Some(message) = stream.next().now_or_never() => {
                    if let Some(cause) = session.receive(message) { break cause }
                }
                Some(cause) => break cause,
                None => {}
            },
            message = stream.next() => {
                let mut cause = session.receive(message);
                for _ in 1..BATCH {
                    if cause.is_some() { break }
                    let Some(message) = stream.next().now_or_never() else { break };
                    cause = session.receive(message);
                }
                if let Some(cause) = cause { break cause }
            }
        }
    };
    session.finish(cause, &mut stream, writer).await
}

/// Writes what is queued, and ends when the connection does not take it.
async fn write<S>(mut sink: S, mut queue: mpsc::Receiver<Message>) -> io::ErrorKind
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    while let Some(message) = queue.recv().await {
        match sink.send(message).await {
            Ok(()) => {}
            Err(tungstenite::Error::Io(error)) => return error.kind(),
            Err(_) => return io::ErrorKind::BrokenPipe,
        }
    }
    // The sender lives as long as the session.
    std::future::pending().await
}

/// The state of a session; all of its rules, none of its waiting.
struct Session<'a> {
    context: Context<'a>,
    outgoing: mpsc::Sender<Message>,
    commands: Commands,
    holdings: Holdings,
    refresh: Refresh,
    /// When the next refresh is due, if there is anything to refresh.
    refresh_due: Option<Instant>,
    orders: Orders,
    /// The entries that the last reply listed, if none is missing since (K4, 4.3).
    listed: Option<usize>,
    marked: u32,
    flavour: Option<Flavour>,
    /// The last inbound frame, by both clocks.
    life: Instant,
    last_life: SystemTime,
    /// The last frame of ours, and the last ping.
    sent: Instant,
    pinged: Instant,
    pings: u64,
    read_through: Instant,
    live_since: Option<Instant>,
    write_failed: Option<(io::ErrorKind, Instant)>,
}

impl<'a> Session<'a> {
    fn new(context: Context<'a>, outgoing: mpsc::Sender<Message>) -> Self {
        let now = Instant::now();
        Self {
            commands: Commands::new(context.settings, context.tag.clone(), now),
            holdings: Holdings::default(),
            refresh: Refresh::new(context.settings, now),
            refresh_due: None,
            orders: Orders::default(),
            listed: None,
            marked: 0,
            flavour: context.flavour,
            life: now,
            last_life: context.clock.now(),
            sent: now,
            pinged: now,
            pings: 0,
            read_through: now,
            live_since: None,
            write_failed: None,
            outgoing,
            context,
        }
    }

    /// What is to be done changed.
    fn order(&mut self, orders: Orders) {
        let before = std::mem::replace(&mut self.orders, orders);
        if before.all_before != self.orders.all_before
            && let Some(at) = self.orders.all_before
        {
            self.refresh.hurry(at);
        }
        if before.month_before != self.orders.month_before
            && let Some(at) = self.orders.month_before
        {
            self.refresh.hurry_month(at);
        }
        if before.mark != self.orders.mark {
            match self.holdings.held().next() {
                Some(target) => self.commands.mark(self.orders.mark, target.clone()),
                // Nothing is held: nothing can be on the way.
                None => self.marked = self.orders.mark,
            }
        }
        if before.wanted == self.orders.wanted && self.live_since.is_some() {
            self.plan();
            self.say();
        } else {
            self.cover();
        }
    }

    /// Works out anew what should be held: after what is wanted changed, or the flavour became known.
    fn cover(&mut self) {
        let flavour = self.flavour.unwrap_or(Flavour::K4);
        let targets = |(account, interest): (&AccountId, &Arc<Interest>)| {
            let account = *account;
            let mut bindings = cover(&interest.bindings, flavour);
            // What this flavour has no events of is asked for as the one asks that has them: upstream's own refusal is
            // better than ours, and the flavour may not be known yet.
            let foreign = interest.bindings.iter().filter(|binding| !flavour.has(binding.kind()));
            bindings.extend(cover(foreign, Flavour::K5));
            bindings.into_iter().map(move |binding| Target { account, binding })
        };
        let targets: BTreeSet<Target> = self.orders.wanted.iter().flat_map(targets).collect();
        self.holdings.want(targets);
        self.settle();
    }

    /// Asks for what is missing, lets go of what is superfluous, says how things stand.
    fn settle(&mut self) {
        self.commands.ask(self.holdings.missing());
        let session = self.context.opened.id;
        for target in self.holdings.take_superfluous() {
            debug!(account = %target.account, binding = %target.binding, "nobody wants the binding any more");
            self.context.intake.book(|ledger| ledger.dropped(session, &target));
        }
        if self.holdings.missing().is_empty() && self.live_since.is_none() {
            self.live_since = Some(Instant::now());
        }
        self.plan();
        self.say();
    }

    /// Works out anew when the next refresh is due, and tells how far the session is.
    fn plan(&mut self) {
        let held = self.holdings.held().len();
        let due =
            |(target, asked): (&Target, Instant)| self.refresh.due(asked, target.binding.month_bound(), held);
        // What is filed by month can be due although something else waits for longer.
        let by_month = self.refreshable(|target| target.binding.month_bound()).map(due);
        self.refresh_due = self.refreshable(|_| true).map(due).into_iter().chain(by_month).min();

        let progress = Progress {
            settled: self.live_since.is_some() && self.holdings.missing().is_empty(),
            marked: self.marked,
            excess: self.holdings.has_excess(),
            rounds: self.refresh.count() / held.max(1) as u64,
            by_month: self.holdings.held().any(|target| target.binding.month_bound()),
            beyond_calls: self.holdings.held().any(|target| target.binding.kind() != Kind::Call),
            flavour: self.flavour,
        };
        self.context.progress.send_if_modified(|told| std::mem::replace(told, progress) != progress);
    }

    /// What may be refreshed and was asked for the longest time ago.
    fn refreshable(&self, eligible: impl Fn(&Target) -> bool) -> Option<(&Target, Instant)> {
        let heals = |target: &Target| self.flavour != Some(Flavour::K5) || target.binding.month_bound();
        self.holdings
            .stalest(|target| heals(target) && eligible(target) && !self.commands.is_refreshing(target))
    }

    /// Asks again for what is due.
    fn refresh(&mut self, now: Instant) {
        while self.refresh_due.is_some_and(|due| due <= now) && !self.commands.is_behind() {
            let held = self.holdings.held().len();
            let is_due = |(target, asked): &(&Target, Instant)| {
                self.refresh.due(*asked, target.binding.month_bound(), held) <= now
            };
            let is_hurried = |(_, asked): &(&Target, Instant)| self.refresh.is_hurried(*asked, true);
            let by_month = self.refreshable(|target| target.binding.month_bound()).filter(is_hurried);
            let stalest = by_month.or_else(|| self.refreshable(|_| true).filter(is_due));
            if let Some(target) = stalest.map(|(target, _)| target.clone()) {
                self.holdings.asked(&target, now);
                self.commands.refresh(target);
                self.refresh.sent(now);
            }
            self.plan();
        }
    }

    fn say(&self) {
        if !self.orders.speaks {
            return;
        }
        let (refused, overdue) = (self.holdings.refusals(), self.commands.overdue());
        let (state, detail) = if overdue > 0 {
            (UpstreamState::Degraded, format!("upstream has not confirmed {overdue} bindings in time"))
        } else if self.live_since.is_none() {
            (UpstreamState::Connecting, "the session is open; bindings are not confirmed yet".to_owned())
        } else if refused > 0 {
            (UpstreamState::Degraded, format!("upstream refuses {refused} bindings"))
        } else {
            (UpstreamState::Live, "the session is open and all bindings are held".to_owned())
        };
        self.context.intake.say(UpstreamChange {
            state,
            // Found out on the way, it is told with the next state.
            flavour: if state == UpstreamState::Connecting { self.context.flavour } else { self.flavour },
            last_life: Some(self.last_life),
            detail: detail.into(),
        });
    }

    /// Queues the commands that may be sent now.
    fn send(&mut self, now: Instant) {
        self.refresh(now);
        let lists = self.flavour == Some(Flavour::K5);
        // Two places are kept for a ping and the close frame.
        while self.outgoing.capacity() > 2
            && let Some((request_id, targets)) = self.commands.next(now, lists)
            && let Some(first) = targets.first()
        {
            debug!(account = %first.account, binding = %first.binding, count = targets.len(), "subscribing");
            let binding = |target: &'_ Target| target.binding.text().to_string().into();
            let mut data =
                CommandData { account_id: Some(first.account.as_str().into()), ..Default::default() };
            match targets {
                [target] => data.binding = Some(binding(target)),
                targets => data.bindings = targets.iter().map(binding).collect(),
            }
            let command = Command {
                action: Action::Subscribe,
                auth_token: self.context.token.expose().into(),
                request_id: request_id.into(),
                data,
            };
            let _ = self.outgoing.try_send(Message::text(command.to_text()));
            self.sent = now;
        }
    }

    /// When to look again, if nothing comes.
    fn wake(&self) -> Instant {
        let commands = self.commands.wake().map(|at| {
            // Nothing can be queued while the peer does not read: do not turn in circles over it.
            if self.outgoing.capacity() > 2 { at } else { at.max(Instant::now() + CLOSE_GRACE) }
        });
        let refresh = self.refresh_due.filter(|_| !self.commands.is_behind());
        let given_up = self.write_failed.map(|(_, at)| at);
        let soonest = self.ping_due().min(self.dead_at());
        commands.into_iter().chain(refresh).chain(given_up).fold(soonest, Instant::min)
    }

    /// A ping is due after `ping_interval` of quiet. It goes an eighth early, so that its pong lies within the interval: what
    /// a gap says of the last sign of life is then never older than one interval.
    fn ping_due(&self) -> Instant {
        let interval = self.context.settings.ping_interval;
        let quiet = self.life.max(self.pinged) + (interval - interval / 8);
        quiet.min(self.sent + OWN_SILENCE)
    }

    fn dead_at(&self) -> Instant {
        self.life + self.context.settings.liveness_timeout
    }

    /// The timer rang.
    fn tick(&mut self, now: Instant) -> Option<CloseCause> {
        if self.dead_at() <= now {
            return Some(CloseCause::Silent);
        }
        if let Some((kind, at)) = self.write_failed
            && at <= now
        {
            return Some(CloseCause::Io(kind));
        }
        if self.ping_due() <= now {
            self.pings += 1;
            let _ = self.outgoing.try_send(Message::Ping(self.pings.to_be_bytes().to_vec().into()));
            (self.pinged, self.sent) = (now, now);
        }
        let overdue = self.commands.overdue();
        if self.commands.expire(now) {
            self.listed = None;
        }
        if self.commands.overdue() != overdue {
            info!(overdue = self.commands.overdue(), "no reply in time; subscribing again");
            self.say();
        }
        None
    }

    /// Nothing can be written any more. What upstream wrote before may still say why.
    fn write_failed(&mut self, kind: io::ErrorKind, now: Instant) {
        self.write_failed = Some((kind, now + CLOSE_GRACE));
    }

    fn receive(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Option<CloseCause> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Some(CloseCause::from_error(&error)),
            None => return Some(CloseCause::Eof),
        };
        let now = Instant::now();
        self.life = now;
        self.last_life = self.context.clock.now();
        match message {
            Message::Text(text) => self.text(text.as_str(), now),
            Message::Close(frame) => Some(CloseCause::from_frame(frame.as_ref())),
            Message::Pong(payload) => {
                // A pong waits its turn behind the events (F46).
                if payload[..] == self.pings.to_be_bytes() {
                    self.read_through = self.read_through.max(self.pinged);
                }
                None
            }
            // tungstenite answers pings itself.
            Message::Ping(_) | Message::Binary(_) | Message::Frame(_) => None,
        }
    }

    fn text(&mut self, text: &str, now: Instant) -> Option<CloseCause> {
        match Incoming::parse(text) {
            Incoming::Event(event) => self.context.intake.event(self.context.opened, &event, now),
            Incoming::Reply { request_id, outcome } => {
                return self.reply(&request_id, outcome, text.len(), now);
            }
            Incoming::Unreadable => self.context.intake.unreadable(text.len(), now),
            Incoming::Other => {}
        }
        None
    }

    fn reply(
        &mut self,
        request_id: &str,
        outcome: Outcome,
        bytes: usize,
        now: Instant,
    ) -> Option<CloseCause> {
        if let Some(sent) = self.commands.sent(request_id) {
            self.read_through = self.read_through.max(sent);
        }
        let added = self.added(outcome);
        let Context { opened: Opened { id: session, .. }, intake, .. } = self.context;
        let wall = self.last_life;
        match self.commands.reply(request_id, outcome, now) {
            Settled::Confirmed(targets) => {
                for target in targets {
                    debug!(account = %target.account, binding = %target.binding, "upstream holds the binding");
                    intake.book(|ledger| ledger.confirmed(session, &target, wall));
                    self.holdings.confirmed(target, wall, now);
                }
            }
            Settled::Refused(target, refusal) => {
                let reason = refusal.reason();
                info!(account = %target.account, binding = %target.binding, reason, "upstream refuses the binding");
                intake.book(|ledger| ledger.refused(session, &target, reason.into()));
                self.holdings.refused(target, refusal);
            }
            Settled::Refreshed(target, sent) => {
                self.refresh.received(bytes, now);
                self.refreshed(&target, sent, added);
            }
            Settled::Withdrawn(target, refusal) => {
                if let Some(since) = self.holdings.proven(&target) {
                    let reason = refusal.reason();
                    warn!(account = %target.account, binding = %target.binding, reason, "upstream refuses to refresh the binding");
                    self.holdings.withdrawn(&target, refusal);
                    intake.book(|ledger| ledger.withdrawn(session, &target, reason.into(), since));
                }
            }
            Settled::Marked(number) => self.marked = number,
            Settled::TokenRefused => return Some(CloseCause::TokenRefused),
            Settled::Nothing => return None,
        }
        match self.recognise(outcome) {
            true => self.cover(),
            false => self.settle(),
        }
        None
    }

    /// Whether a reply shows that upstream added something to what the session held before: see `refresh`.
    fn added(&mut self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Subscribed { lists_all: true, entries } => entries > 0,
            Outcome::Subscribed { lists_all: false, entries } => {
                let before = self.listed.replace(entries);
                // Something else that is on its way may have been added too.
                !self.commands.is_binding() && before.is_some_and(|before| entries > before)
            }
            _ => false,
        }
    }

    /// Upstream answered a refresh that was sent at `sent` or later.
    fn refreshed(&mut self, target: &Target, sent: Instant, added: bool) {
        let Some(since) = self.holdings.proven(target) else { return };
        let intake = self.context.intake;
        if target.binding.month_bound() {
            if added {
                info!(account = %target.account, binding = %target.binding, "upstream's month has turned");
                intake.book(|ledger| ledger.month_missed(target, since));
            } else if self.orders.month_certain.is_some_and(|certain| sent >= certain) {
                intake.book(|ledger| ledger.month_proven(target));
            }
        }
        if self.flavour == Some(Flavour::K5) {
            // It heals nothing but the month there, and proves nothing (G21).
            return;
        }
        self.holdings.refreshed(target, self.last_life);
        let (account, kind) = (target.account, target.binding.kind());
        if let Some(at) = self.holdings.proven_kind(account, kind) {
            intake.proven(account, kind, at);
        }
    }

    /// Finds out the flavour from the shape of a reply (G1). Whether it changed.
    fn recognise(&mut self, outcome: Outcome) -> bool {
        let Outcome::Subscribed { lists_all, .. } = outcome else { return false };
        let flavour = match self.flavour {
            _ if lists_all => Flavour::K5,
            // By its replies alone 4.3 is not to be told from K4.
            Some(Flavour::V4_3) => Flavour::V4_3,
            _ => Flavour::K4,
        };
        let changed = self.flavour.unwrap_or(Flavour::K4) != flavour;
        self.flavour = Some(flavour);
        changed
    }

    /// Ends the session: says goodbye where that is still heard, and reads what was sent before it was.
    async fn finish<T, W>(mut self, cause: CloseCause, stream: &mut T, mut writer: W) -> Ended
    where
        T: Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
        W: Future<Output = io::ErrorKind> + Unpin,
    {
        let goodbye = match cause {
            CloseCause::Asked | CloseCause::TokenRefused => {
                let normal = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
                self.outgoing.try_send(Message::Close(Some(normal))).is_ok()
            }
            // tungstenite has the answer to a close frame ready; it is sent while we read on.
            CloseCause::Idle | CloseCause::Protocol(_) | CloseCause::Crashed | CloseCause::Code(_) => true,
            _ => false,
        };
        if goodbye && self.write_failed.is_none() {
            let read = async {
                loop {
                    tokio::select! {
                        message = stream.next() => if self.receive(message).is_some() { break },
                        _ = &mut writer => break,
                    }
                }
            };
            let _ = tokio::time::timeout(CLOSE_GRACE, read).await;
        }
        let ago = self.read_through.elapsed();
        Ended {
            cause,
            last_life: self.last_life,
            read_through: self
                .context
                .clock
                .now()
                .checked_sub(ago)
                .unwrap_or(self.last_life)
                .min(self.last_life),
            live: self.live_since.map_or(Duration::ZERO, |since| since.elapsed()),
            flavour: self.flavour,
        }
    }
}
