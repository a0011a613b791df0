//! One session: an open WebSocket to blackhole, from its first command to its end.
//!
//! The loop only reads, stamps, and hands over: it waits for nothing downstream, because 4.3 and K5 throw away what is not
//! read at once (F46). What is written goes through a queue of its own, so that a peer that does not read cannot keep us from
//! reading. There is no unsubscribe here, and no way to send one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
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
        error::ProtocolError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    binding::{AccountId, Flavour, cover::cover},
    clock::WallClock,
    config,
    hub::{Control, Interest, UpstreamChange, UpstreamState},
};

use super::{
    commands::{Commands, Settled},
    connector::Io,
    crossbar::Token,
    frame::{Action, Command, CommandData, Incoming, Outcome},
    holdings::{Holdings, Target},
    intake::{Intake, Opened},
};

/// Blackhole closes a session whose client was silent for an hour, however much it sends itself (F8).
const OWN_SILENCE: Duration = Duration::from_secs(600);

/// How long the end of a session may take once it is certain.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Messages handled in a row before timers are looked at again.
const BATCH: usize = 64;

/// What is wanted, for each account that the session serves.
pub(crate) type Wanted = BTreeMap<AccountId, Arc<Interest>>;

/// Every way in which a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCause {
    /// We were asked to stop.
    Asked,
    /// Code 1000. From blackhole that means: the client was silent for too long (F8).
    Idle,
    /// Code 1002 or 1007: blackhole found fault with what we sent.
    Protocol(u16),
    /// Code 1011: blackhole crashed on what we sent (F15).
    Crashed,
    /// Another close code, or none (1005).
    Code(u16),
    /// The end of the TCP stream without a close frame: stopped, killed, or tired of a slow reader (F47, F50).
    Eof,
    /// The connection broke.
    Io(io::ErrorKind),
    /// Nothing came within `liveness_timeout`, not even a pong.
    Silent,
    /// The token is not accepted: log in anew.
    TokenRefused,
    /// A message larger than [`MAX_MESSAGE_BYTES`](super::connector::MAX_MESSAGE_BYTES).
    TooLarge,
    /// What came is no WebSocket.
    Garbage,
}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseCause::Asked => f.write_str("hawking closed the session"),
            CloseCause::Idle => f.write_str("upstream closed the session as idle (1000)"),
            CloseCause::Protocol(code) => write!(f, "upstream closed the session over the protocol ({code})"),
            CloseCause::Crashed => f.write_str("upstream's side of the session crashed (1011)"),
            CloseCause::Code(code) => write!(f, "upstream closed the session ({code})"),
            CloseCause::Eof => f.write_str("upstream dropped the connection without a close frame"),
            CloseCause::Io(kind) => write!(f, "the connection to upstream broke: {kind}"),
            CloseCause::Silent => f.write_str("upstream gave no sign of life"),
            CloseCause::TokenRefused => f.write_str("upstream does not accept the token"),
            CloseCause::TooLarge => f.write_str("upstream sent a message that is too large"),
            CloseCause::Garbage => f.write_str("upstream sent something that is no WebSocket"),
        }
    }
}

impl CloseCause {
    fn from_frame(frame: Option<&CloseFrame>) -> Self {
        match frame.map_or(1005, |frame| u16::from(frame.code)) {
            1000 => CloseCause::Idle,
            code @ (1002 | 1007) => CloseCause::Protocol(code),
            1011 => CloseCause::Crashed,
            code => CloseCause::Code(code),
        }
    }

    fn from_error(error: &tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseCause::Eof,
            tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => CloseCause::Eof,
            tungstenite::Error::Io(error) => CloseCause::Io(error.kind()),
            tungstenite::Error::Capacity(_) => CloseCause::TooLarge,
            _ => CloseCause::Garbage,
        }
    }
}

/// What is left of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Why it ended.
    pub cause: CloseCause,
    /// When the last frame came, or the answer to the upgrade.
    pub last_life: SystemTime,
    /// How long it was live.
    pub live: Duration,
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
}

/// Runs a session to its end.
pub(crate) async fn run<S: Io>(
    context: Context<'_>,
    socket: WebSocketStream<S>,
    mut wanted: watch::Receiver<Wanted>,
    stop: &CancellationToken,
) -> Ended {
    let (sink, mut stream) = socket.split();
    // Room for all commands in flight, the repeats of those that are stuck, a ping and the close frame.
    let (outgoing, queue) = mpsc::channel(context.settings.commands_in_flight * 2 + 2);
    let mut writer = pin!(write(sink, queue));
    let mut session = Session::new(context, outgoing);
    session.want(&wanted.borrow_and_update().clone());

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
            Ok(()) = wanted.changed() => session.want(&wanted.borrow_and_update().clone()),
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
    wanted: Wanted,
    flavour: Option<Flavour>,
    /// The last inbound frame, by both clocks.
    life: Instant,
    last_life: SystemTime,
    /// The last frame of ours, and the last ping.
    sent: Instant,
    pinged: Instant,
    live_since: Option<Instant>,
    write_failed: Option<(io::ErrorKind, Instant)>,
}

impl<'a> Session<'a> {
    fn new(context: Context<'a>, outgoing: mpsc::Sender<Message>) -> Self {
        let now = Instant::now();
        Self {
            commands: Commands::new(context.settings, context.tag.clone(), now),
            holdings: Holdings::default(),
            wanted: Wanted::new(),
            flavour: context.flavour,
            life: now,
            last_life: context.clock.now(),
            sent: now,
            pinged: now,
            live_since: None,
            write_failed: None,
            outgoing,
            context,
        }
    }

    /// What is wanted changed.
    fn want(&mut self, wanted: &Wanted) {
        self.wanted.clone_from(wanted);
        self.cover();
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
        let targets: BTreeSet<Target> = self.wanted.iter().flat_map(targets).collect();
        self.holdings.want(targets);
        self.settle();
    }

    /// Asks for what is missing, lets go of what is superfluous, says how things stand.
    fn settle(&mut self) {
        let missing = self.holdings.missing();
        let settled = missing.is_empty();
        self.commands.ask(missing);
        for Target { account, binding } in self.holdings.take_superfluous() {
            debug!(%account, %binding, "nobody wants the binding any more");
            self.context.intake.record(account, Control::Dropped { binding });
        }
        if settled && self.live_since.is_none() {
            self.live_since = Some(Instant::now());
        }
        self.say();
    }

    fn say(&self) {
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
        // Two places are kept for a ping and the close frame.
        while self.outgoing.capacity() > 2
            && let Some((request_id, target)) = self.commands.next(now)
        {
            let command = Command {
                action: Action::Subscribe,
                auth_token: self.context.token.expose().into(),
                request_id: request_id.into(),
                data: CommandData {
                    account_id: Some(target.account.as_str().into()),
                    binding: Some(target.binding.text().as_ref().into()),
                },
            };
            debug!(account = %target.account, binding = %target.binding, "subscribing");
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
        let given_up = self.write_failed.map(|(_, at)| at);
        let soonest = self.ping_due().min(self.dead_at());
        commands.into_iter().chain(given_up).fold(soonest, Instant::min)
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
            let _ = self.outgoing.try_send(Message::Ping(Default::default()));
            (self.pinged, self.sent) = (now, now);
        }
        let overdue = self.commands.overdue();
        self.commands.expire(now);
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
            // tungstenite answers pings itself.
            Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => None,
        }
    }

    fn text(&mut self, text: &str, now: Instant) -> Option<CloseCause> {
        match Incoming::parse(text) {
            Incoming::Event(event) => self.context.intake.event(self.context.opened, &event, now),
            Incoming::Reply { request_id, outcome } => return self.reply(&request_id, outcome, now),
            Incoming::Unreadable => self.context.intake.unreadable(text.len(), now),
            Incoming::Other => {}
        }
        None
    }

    fn reply(&mut self, request_id: &str, outcome: Outcome, now: Instant) -> Option<CloseCause> {
        match self.commands.reply(request_id, outcome, now) {
            Settled::Confirmed(target) => {
                let Target { account, binding } = target.clone();
                debug!(%account, %binding, "upstream holds the binding");
                self.holdings.confirmed(target);
                self.context.intake.record(account, Control::Confirmed { binding });
            }
            Settled::Refused(target, refusal) => {
                let Target { account, binding } = target.clone();
                info!(%account, %binding, reason = refusal.reason(), "upstream refuses the binding");
                self.holdings.refused(target, refusal);
                let reason = refusal.reason().into();
                self.context.intake.record(account, Control::Refused { binding, reason });
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

    /// Finds out the flavour from the shape of a reply (G1). Whether it changed.
    fn recognise(&mut self, outcome: Outcome) -> bool {
        let Outcome::Subscribed { lists_all } = outcome else { return false };
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
        Ended {
            cause,
            last_life: self.last_life,
            live: self.live_since.map_or(Duration::ZERO, |since| since.elapsed()),
            flavour: self.flavour,
        }
    }
}
