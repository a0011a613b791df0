//! What all parts of a simulator share: the cluster.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, civil::Date};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accounts::{Accounts, hex32},
    bindings::{self, Directory},
    broker::{Broker, Delivery, Route},
    channels::Channels,
    event::{Event, EventError, GREGORIAN_OFFSET, Moment},
    faults::Faults,
    json::Json,
    outbox::{Lateness, Outbox},
    record::{Frame, Happening, Loss, Record},
    request::{Change, Context},
    settings::Settings,
};
use crate::binding::{AccountId, Flavour};

/// See the module's documentation.
pub(super) struct Cluster {
    pub settings: Settings,
    pub accounts: Mutex<Accounts>,
    pub record: Record,
    /// All tasks of the simulator.
    pub tasks: TaskTracker,
    /// Ends all of them.
    pub stop: CancellationToken,
    pub faults: Faults,
    /// One for each node.
    brokers: Vec<Mutex<Broker>>,
    sessions: Mutex<BTreeMap<u64, Session>>,
    channels: Mutex<Channels>,
    ping: AtomicBool,
    max_connections_per_ip: Mutex<Option<u64>>,
    /// A day set by hand, instead of the clock's.
    day: Mutex<Option<Date>>,
    idle_timeout: watch::Sender<Duration>,
    keep_alive: watch::Sender<Option<Duration>>,
    token_life: Mutex<Duration>,
    connections: AtomicU64,
    sessions_opened: AtomicU64,
    /// The most that ever waited for a socket, of the sessions that are over.
    queue_peak: AtomicUsize,
}

/// An open session as the rest of the cluster sees it.
struct Session {
    peer: SocketAddr,
    node: usize,
    since: SystemTime,
    outbox: Arc<Outbox>,
    cut: CancellationToken,
    /// Leaves its bindings and counts behind when it ends (F38).
    killed: bool,
    account: Option<AccountId>,
    names: Vec<String>,
}

/// What a session is given when it opens.
pub(super) struct Opened {
    /// The node that it is on.
    pub node: usize,
    /// What it is to send.
    pub outbox: Arc<Outbox>,
    /// Ends it.
    pub cut: CancellationToken,
}

/// What the audit tells of a session.
pub(super) struct Listed {
    pub connection: u64,
    pub node: usize,
    pub waiting: usize,
    pub peak: usize,
    pub peer: SocketAddr,
    pub since: SystemTime,
    pub account: Option<AccountId>,
    pub names: Vec<String>,
}

impl Cluster {
    pub fn new(settings: Settings) -> Self {
        Self {
            accounts: Mutex::new(Accounts::new(settings.accounts.clone())),
            record: Record::new(settings.record_limit, settings.record_bytes),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            faults: Faults::default(),
            brokers: (0..settings.nodes.max(1)).map(|_| Mutex::new(Broker::new(settings.flavour))).collect(),
            sessions: Mutex::default(),
            channels: Mutex::default(),
            ping: AtomicBool::new(settings.flavour == Flavour::K5),
            max_connections_per_ip: Mutex::new(settings.max_connections_per_ip),
            day: Mutex::new(None),
            idle_timeout: watch::channel(settings.idle_timeout).0,
            keep_alive: watch::channel(settings.keep_client_alive).0,
            token_life: Mutex::new(settings.token_life),
            connections: AtomicU64::new(0),
            sessions_opened: AtomicU64::new(0),
            queue_peak: AtomicUsize::new(0),
            settings,
        }
    }

    // Time

    pub fn now(&self) -> SystemTime {
        self.settings.clock.now()
    }

    /// Now in Gregorian seconds.
    pub fn gregorian(&self) -> u64 {
        gregorian(self.now())
    }

    /// The server's local date.
    pub fn today(&self) -> Date {
        let set = *self.day.lock();
        set.unwrap_or_else(|| {
            let now = Timestamp::try_from(self.now()).unwrap_or(Timestamp::UNIX_EPOCH);
            self.settings.time_zone.to_datetime(now).date()
        })
    }

    /// Sets the day by hand; `None` goes back to the clock.
    pub fn set_day(&self, day: Option<Date>) {
        *self.day.lock() = day;
    }

    // Accounts

    /// Whose token it is; `None` where it is no good.
    pub fn authenticate(&self, token: &str) -> Option<AccountId> {
        self.accounts.lock().authenticate(token, self.now())
    }

    pub fn is_within(&self, ancestor: &AccountId, account: &AccountId) -> bool {
        self.accounts.lock().is_within(ancestor, account)
    }

    pub fn is_superduper_admin(&self, account: &AccountId) -> bool {
        self.accounts.lock().get(account).is_some_and(|spec| spec.superduper_admin)
    }

    pub fn channels_of(&self, account: &AccountId) -> Vec<Json> {
        self.channels.lock().of(account.as_str())
    }

    // Modules and limits

    /// Whether `bh_ping` is loaded; on a fresh Kazoo it is not (F17), but on K5 (G7).
    pub fn ping_enabled(&self) -> bool {
        self.ping.load(Ordering::Acquire)
    }

    pub fn enable_ping(&self, enabled: bool) {
        self.ping.store(enabled, Ordering::Release);
    }

    pub fn set_max_connections_per_ip(&self, limit: Option<u64>) {
        *self.max_connections_per_ip.lock() = limit;
    }

    /// Whether one more session from this address would be too many (F5).
    pub fn is_full_for(&self, ip: IpAddr) -> bool {
        let Some(limit) = *self.max_connections_per_ip.lock() else {
            return false;
        };
        let open = self.sessions.lock().values().filter(|session| session.peer.ip() == ip).count();
        u64::try_from(open).unwrap_or(u64::MAX) >= limit
    }

    // Connections and sessions

    /// The number of a new connection.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn note(&self, connection: u64, what: Happening) {
        self.record.add(self.now(), connection, what);
    }

    /// Opens a session, on the node whose turn it is.
    pub fn open(&self, connection: u64, peer: SocketAddr) -> Opened {
        let turn = self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        let node = usize::try_from(turn).unwrap_or_default() % self.brokers.len();
        let outbox = Arc::new(Outbox::new(self.settings.queue_limit()));
        let cut = self.stop.child_token();
        let session = Session {
            peer,
            node,
            since: self.now(),
            outbox: Arc::clone(&outbox),
            cut: cut.clone(),
            killed: false,
            account: None,
            names: Vec::new(),
        };
        self.sessions.lock().insert(connection, session);
        self.note(connection, Happening::Opened { peer });
        Opened { node, outbox, cut }
    }

    /// What the audit shows of a session has changed.
    pub fn update(&self, connection: u64, context: &Context) {
        if let Some(session) = self.sessions.lock().get_mut(&connection) {
            session.account = context.account();
            session.names = context.names();
        }
    }

    /// Closes a session, and takes back what it held, unless it was killed.
    pub fn close(&self, connection: u64, node: usize, context: &Context) {
        let Some(session) = self.sessions.lock().remove(&connection) else { return };
        self.queue_peak.fetch_max(session.outbox.peak(), Ordering::Relaxed);
        if !session.killed {
            self.apply(node, context.closing());
        }
    }

    pub fn apply(&self, node: usize, changes: Vec<Change>) {
        let Some(broker) = self.brokers.get(node) else { return };
        let mut broker = broker.lock();
        for change in changes {
            match change {
                Change::Bind { key, responder } => broker.bind(&key, responder),
                Change::Unbind { key, responder } => broker.unbind(&key, &responder),
                Change::Listen(listener) => broker.listen(&listener),
                Change::Unlisten(listener) => broker.unlisten(&listener),
            }
        }
    }

    /// Restarts the listener of a node or all: counts and what was listened to are gone, the dispatcher's table stays (F45).
    pub fn restart_listener(&self, node: Option<usize>) {
        let chosen = self.brokers.iter().enumerate().filter(|(at, _)| node.is_none_or(|node| node == *at));
        chosen.for_each(|(_, broker)| broker.lock().forget_listeners());
    }

    /// The reference counts of all nodes.
    pub fn counts(&self) -> Vec<(String, i64)> {
        self.brokers.iter().flat_map(|broker| broker.lock().counts()).collect()
    }

    /// Blackhole stops: all that it knew is gone with its sessions.
    pub fn stop_blackhole(&self) {
        self.cut(None, true);
        self.brokers.iter().for_each(|broker| *broker.lock() = Broker::new(self.settings.flavour));
    }

    /// An unsubscribe by nobody's session: it lowers the counts on every node and touches no table (F37).
    pub fn foreign_unsubscribe(&self, account: &AccountId, binding: &str) {
        for resolved in bindings::resolve(binding, account.as_str(), self) {
            for broker in &self.brokers {
                let mut broker = broker.lock();
                resolved.listeners.iter().for_each(|listener| broker.unlisten(listener));
            }
        }
    }

    pub fn sessions(&self) -> Vec<Listed> {
        let listed = |(connection, session): (&u64, &Session)| Listed {
            connection: *connection,
            node: session.node,
            waiting: session.outbox.waiting(),
            peak: session.outbox.peak(),
            peer: session.peer,
            since: session.since,
            account: session.account,
            names: session.names.clone(),
        };
        self.sessions.lock().iter().map(listed).collect()
    }

    pub fn open_sessions(&self) -> usize {
        self.sessions.lock().len()
    }

    pub fn sessions_opened(&self) -> u64 {
        self.sessions_opened.load(Ordering::Relaxed)
    }

    /// The most that ever waited for the socket of one session.
    pub fn queue_peak(&self) -> usize {
        let open = self.sessions.lock().values().map(|session| session.outbox.peak()).max().unwrap_or(0);
        open.max(self.queue_peak.load(Ordering::Relaxed))
    }

    /// Does something to one session or all; how many.
    fn each(&self, connection: Option<u64>, mut act: impl FnMut(&mut Session)) -> usize {
        let mut sessions = self.sessions.lock();
        let chosen = sessions.iter_mut().filter(|(number, _)| connection.is_none_or(|one| one == **number));
        chosen.map(|(_, session)| act(session)).count()
    }

    /// Cuts TCP under one session or all; how many.
    pub fn cut(&self, connection: Option<u64>, kill: bool) -> usize {
        self.each(connection, |session| {
            session.killed |= kill;
            session.cut.cancel();
        })
    }

    /// Closes one session or all with a code; how many.
    pub fn close_with(&self, code: u16, connection: Option<u64>) -> usize {
        self.each(connection, |session| session.outbox.close(code))
    }

    /// Makes one session or all stand still, or go on; how many.
    pub fn freeze(&self, connection: Option<u64>, frozen: bool) -> usize {
        self.each(connection, |session| session.outbox.freeze(frozen))
    }

    /// Makes what one session or all are sent late by so much more; how many.
    pub fn lag(&self, connection: Option<u64>, by: Duration) -> usize {
        self.each(connection, |session| session.outbox.lag(by))
    }

    pub fn idle_timeout(&self) -> watch::Receiver<Duration> {
        self.idle_timeout.subscribe()
    }

    pub fn set_idle_timeout(&self, timeout: Duration) {
        self.idle_timeout.send_replace(timeout);
    }

    /// How often sessions are pinged.
    pub fn keep_alive(&self) -> watch::Receiver<Option<Duration>> {
        self.keep_alive.subscribe()
    }

    pub fn set_keep_alive(&self, interval: Option<Duration>) {
        self.keep_alive.send_replace(interval);
    }

    pub fn token_life(&self) -> Duration {
        *self.token_life.lock()
    }

    pub fn set_token_life(&self, life: Duration) {
        *self.token_life.lock() = life;
    }

    // What goes to clients

    /// Queues a text for a session; whether it will be written. What vanishes is noted.
    fn queue(&self, connection: u64, session: &Session, text: Utf8Bytes, lateness: Lateness) -> bool {
        let queued = session.outbox.push(text.clone(), lateness);
        if !queued {
            self.note(connection, Happening::Lost(Frame::Text(text), Loss::Queue));
        }
        queued
    }

    /// Queues the reply to a session's request, or loses it.
    pub fn reply(&self, connection: u64, text: String) {
        let random = self.settings.random.as_ref();
        let text = Utf8Bytes::from(text);
        if self.faults.loses_reply(random) {
            self.note(connection, Happening::Lost(Frame::Text(text), Loss::Fault));
            return;
        }
        let lateness = self.faults.lateness(false, random);
        let reply = |session: &Session| session.outbox.reply(text.clone(), lateness);
        if self.sessions.lock().get(&connection).is_some_and(|session| !reply(session)) {
            self.note(connection, Happening::Lost(Frame::Text(text), Loss::Queue));
        }
    }

    /// Queues a text frame to one session or all; to how many.
    pub fn inject(&self, text: &str, connection: Option<u64>) -> usize {
        let text = Utf8Bytes::from(text);
        let random = self.settings.random.as_ref();
        let sessions = self.sessions.lock();
        let chosen = sessions.iter().filter(|(number, _)| connection.is_none_or(|one| one == **number));
        chosen
            .filter(|(connection, session)| {
                let lateness = self.faults.lateness(false, random);
                self.queue(**connection, session, text.clone(), lateness)
            })
            .count()
    }

    /// Publishes an event; how many frames it makes, those that vanish not counted. They are queued when this returns.
    pub fn publish(&self, event: &Event) -> Result<usize, EventError> {
        self.channels.lock().note(event, self.gregorian());
        let random = self.settings.random.as_ref();
        let moment = Moment { now: self.gregorian(), month: self.month(), message_id: hex32(random) };
        let Some(publication) = event.publication(moment)? else {
            return Ok(0);
        };
        // K5 passes on no call without an Event-Name (G34).
        let nameless = publication.name.is_none() && publication.routing_key.starts_with("call.");
        if nameless && self.settings.flavour == Flavour::K5 {
            return Ok(0);
        }
        if publication.route != Route::Direct && !self.faults.broker_is_up() {
            return Ok(0);
        }
        let deliveries: Vec<Delivery> = self
            .brokers
            .iter()
            .flat_map(|broker| broker.lock().route(&publication.route, &publication.routing_key))
            .collect();
        if deliveries.is_empty() {
            return Ok(0);
        }
        let name = match publication.name {
            Some(name) => format!(r#""name":{},"#, Json::from(name)),
            None => String::new(),
        };
        let call_event = publication.routing_key.starts_with("call.");
        let tail = format!(
            r#"{name}"routing_key":{},"data":{}}}"#,
            Json::from(publication.routing_key),
            publication.data
        );
        let frames: Vec<(u64, Utf8Bytes)> =
            deliveries.into_iter().map(|delivery| (delivery.session, frame(delivery, &tail))).collect();
        let times = if call_event && self.faults.duplicates(random) { 2 } else { 1 };
        let lateness = self.faults.lateness(call_event, random);
        let sessions = self.sessions.lock();
        let mut sent = 0;
        for (connection, text) in std::iter::repeat_n(frames, times).flatten() {
            if let Some(session) = sessions.get(&connection) {
                sent += usize::from(self.queue(connection, session, text, lateness));
            }
        }
        Ok(sent)
    }
}

fn frame(delivery: Delivery, tail: &str) -> Utf8Bytes {
    let subscribed = Json::from(delivery.subscribed_key);
    let subscription = Json::from(delivery.subscription_key);
    format!(r#"{{"action":"event","subscribed_key":{subscribed},"subscription_key":{subscription},{tail}"#)
        .into()
}

/// Kazoo's seconds, counted from the year 0.
pub(super) fn gregorian(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() + GREGORIAN_OFFSET
}

impl Directory for Cluster {
    fn flavour(&self) -> Flavour {
        self.settings.flavour
    }

    fn month(&self) -> (i16, i8) {
        let today = self.today();
        (today.year(), today.month())
    }

    fn realm(&self, account: &AccountId) -> Option<String> {
        self.accounts.lock().get(account).map(|spec| spec.realm.clone())
    }
}
