//! The state of a session: all of its rules, none of its waiting.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, time::Instant};
use tokio_tungstenite::tungstenite::{
    self, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tracing::{debug, info, warn};

use crate::{
    binding::{AccountId, Flavour, Kind, cover::cover},
    hub::{Interest, UpstreamChange, UpstreamState},
};

use super::{
    super::{
        close::{CloseCause, Ended},
        commands::{Commands, Settled},
        frame::{Action, Command, CommandData, Incoming, Outcome},
        holdings::{Holdings, Target},
        intake::Opened,
        refresh::Refresh,
        report::Told,
    },
    CLOSE_GRACE, Context, Orders, Progress,
};

/// Blackhole closes a session whose client was silent for an hour, however much it sends itself (F8).
const OWN_SILENCE: Duration = Duration::from_secs(600);

/// While events of one session wait for an answer of another, both are asked for one so often.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// One session, as far as it is known.
pub(super) struct Session<'a> {
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
    /// When nothing was left to read.
    caught_up: SystemTime,
    /// The same, before the last frame came: that was sent later.
    heard_after: SystemTime,
    /// The last frame of ours, and the last ping.
    sent: Instant,
    pinged: Instant,
    pings: u64,
    /// The last probe.
    probed: Instant,
    /// Frames with events.
    events: u64,
    read_through: Instant,
    live_since: Option<Instant>,
    write_failed: Option<(io::ErrorKind, Instant)>,
}

impl<'a> Session<'a> {
    pub(super) fn new(context: Context<'a>, outgoing: mpsc::Sender<Message>) -> Self {
        let now = Instant::now();
        let opened = context.clock.now();
        Self {
            commands: Commands::new(
                context.settings,
                context.tag.clone(),
                context.intake.counts().clone(),
                now,
            ),
            holdings: Holdings::default(),
            refresh: Refresh::new(context.settings, now),
            refresh_due: None,
            orders: Orders::default(),
            listed: None,
            marked: 0,
            flavour: context.flavour,
            life: now,
            last_life: opened,
            caught_up: opened,
            heard_after: opened,
            sent: now,
            pinged: now,
            pings: 0,
            probed: now,
            events: 0,
            read_through: now,
            live_since: None,
            write_failed: None,
            outgoing,
            context,
        }
    }

    /// What is to be done changed.
    pub(super) fn order(&mut self, orders: Orders) {
        let before = std::mem::replace(&mut self.orders, orders);
        // On Kazoo 5 subscribing again heals nothing of this (G22).
        self.refresh.often(self.orders.haunted && self.flavour != Some(Flavour::K5));
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
            match self.holdings.any() {
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
        let bindings = |count| format!("{count} binding{}", if count == 1 { "" } else { "s" });
        let (state, detail) = if overdue > 0 {
            (UpstreamState::Degraded, format!("upstream has not confirmed {} in time", bindings(overdue)))
        } else if self.live_since.is_none() {
            (UpstreamState::Connecting, "the session is open; bindings are not confirmed yet".to_owned())
        } else if refused > 0 {
            (UpstreamState::Degraded, format!("upstream refuses {}", bindings(refused)))
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
    pub(super) fn send(&mut self, now: Instant) {
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
    pub(super) fn wake(&self) -> Instant {
        let commands = self.commands.wake().map(|at| {
            // Nothing can be queued while the peer does not read: do not turn in circles over it.
            if self.outgoing.capacity() > 2 { at } else { at.max(Instant::now() + CLOSE_GRACE) }
        });
        let refresh = self.refresh_due.filter(|_| !self.commands.is_behind());
        let given_up = self.write_failed.map(|(_, at)| at);
        let probe = self.orders.probe.then_some(self.probed + PROBE_INTERVAL);
        let soonest = self.ping_due().min(self.dead_at());
        commands.into_iter().chain(refresh).chain(given_up).chain(probe).fold(soonest, Instant::min)
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
    pub(super) fn tick(&mut self, now: Instant) -> Option<CloseCause> {
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
        if self.orders.probe && self.probed + PROBE_INTERVAL <= now {
            self.probed = now;
            if self.context.intake.decide_overdue(now)
                && let Some(target) = self.holdings.any()
            {
                self.commands.probe(target.clone());
            }
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
    pub(super) fn write_failed(&mut self, kind: io::ErrorKind, now: Instant) {
        self.write_failed = Some((kind, now + CLOSE_GRACE));
    }

    pub(super) fn receive(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Option<CloseCause> {
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Some(CloseCause::from_error(&error)),
            None => return Some(CloseCause::Eof),
        };
        let now = Instant::now();
        self.life = now;
        self.last_life = self.context.clock.now();
        self.heard_after = self.caught_up;
        self.context.intake.counts().frame(self.last_life);
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

    /// All that had come by the time of the last frame is read.
    pub(super) fn caught_up(&mut self) {
        self.caught_up = self.last_life;
    }

    fn text(&mut self, text: &str, now: Instant) -> Option<CloseCause> {
        self.context.intake.counts().received(text.len());
        match Incoming::parse(text) {
            Incoming::Event(event) => {
                self.events += 1;
                self.context.intake.event(self.context.opened, &event, now);
            }
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
        let sent = self.commands.sent(request_id);
        if let Some(sent) = sent {
            self.read_through = self.read_through.max(sent);
            self.context.intake.answered(self.context.opened.id, sent);
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
            Settled::Marked(number) => {
                // The answer to one that was repeated may come after that to the next.
                self.marked = self.marked.max(number);
                intake.marked(session, sent.unwrap_or(now));
            }
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
        self.refresh.often(self.orders.haunted && flavour != Flavour::K5);
        changed
    }

    /// What an operator is told of it.
    pub(super) fn told(&self) -> Told {
        Told {
            bindings: self.holdings.report(),
            events: self.events,
            duplicates: self.context.intake.duplicates(self.context.opened.id),
        }
    }

    /// Says goodbye where that is still heard. Whether there is something to wait for: what upstream sent before it heard.
    pub(super) fn goodbye(&self, cause: CloseCause) -> bool {
        let said = match cause {
            CloseCause::Asked | CloseCause::TokenRefused => {
                let normal = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
                self.outgoing.try_send(Message::Close(Some(normal))).is_ok()
            }
            // tungstenite has the answer to a close frame ready; it is sent while we read on.
            CloseCause::Idle | CloseCause::Protocol(_) | CloseCause::Crashed | CloseCause::Code(_) => true,
            _ => false,
        };
        said && self.can_write()
    }

    /// What is left of it.
    pub(super) fn ended(&self, cause: CloseCause, parted: bool) -> Ended {
        let ago = self.read_through.elapsed();
        let read_through = self.context.clock.now().checked_sub(ago).unwrap_or(self.last_life);
        Ended {
            cause,
            last_life: self.last_life,
            alive: read_through.max(self.heard_after).min(self.last_life),
            read_through: read_through.min(self.last_life),
            parted,
            live: self.live_since.map_or(Duration::ZERO, |since| since.elapsed()),
            flavour: self.flavour,
        }
    }

    /// Whether the connection still takes what is written.
    pub(super) fn can_write(&self) -> bool {
        self.write_failed.is_none()
    }
}
