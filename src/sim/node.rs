//! What all parts of a simulator share: a node of the cluster.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::SystemTime,
};

use jiff::{Timestamp, civil::Date};
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accounts::{Accounts, hex32},
    bindings::Cluster,
    broker::{Broker, Delivery},
    channels::Channels,
    event::{Event, EventError, GREGORIAN_OFFSET, Moment},
    json::Json,
    record::{Happening, Record},
    request::{Change, Context},
    settings::Settings,
};
use crate::binding::AccountId;

/// See the module's documentation.
pub(super) struct Node {
    pub settings: Settings,
    pub accounts: Mutex<Accounts>,
    pub record: Record,
    /// All tasks of the simulator.
    pub tasks: TaskTracker,
    /// Ends all of them.
    pub stop: CancellationToken,
    broker: Mutex<Broker>,
    sessions: Mutex<BTreeMap<u64, Session>>,
    channels: Mutex<Channels>,
    ping: AtomicBool,
    max_connections_per_ip: Mutex<Option<u64>>,
    /// A day set by hand, instead of the clock's.
    day: Mutex<Option<Date>>,
    connections: AtomicU64,
    sessions_opened: AtomicU64,
}

/// An open session as the rest of the node sees it.
struct Session {
    peer: SocketAddr,
    since: SystemTime,
    outbox: UnboundedSender<Utf8Bytes>,
    cut: CancellationToken,
    /// Leaves its bindings and counts behind when it ends (F38).
    killed: bool,
    account: Option<AccountId>,
    names: Vec<String>,
}

/// What the audit tells of a session.
pub(super) struct Listed {
    pub connection: u64,
    pub peer: SocketAddr,
    pub since: SystemTime,
    pub account: Option<AccountId>,
    pub names: Vec<String>,
}

impl Node {
    pub fn new(settings: Settings) -> Self {
        Self {
            accounts: Mutex::new(Accounts::new(settings.accounts.clone())),
            record: Record::new(settings.record_limit, settings.record_bytes),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            broker: Mutex::default(),
            sessions: Mutex::default(),
            channels: Mutex::default(),
            ping: AtomicBool::new(false),
            max_connections_per_ip: Mutex::new(settings.max_connections_per_ip),
            day: Mutex::new(None),
            connections: AtomicU64::new(0),
            sessions_opened: AtomicU64::new(0),
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

    /// Whether `bh_ping` is loaded; on a fresh Kazoo it is not (F17).
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

    /// Opens a session. Its texts to send come over `outbox`; `cut` ends it.
    pub fn open(
        &self,
        connection: u64,
        peer: SocketAddr,
        outbox: UnboundedSender<Utf8Bytes>,
    ) -> CancellationToken {
        let cut = self.stop.child_token();
        let session = Session {
            peer,
            since: self.now(),
            outbox,
            cut: cut.clone(),
            killed: false,
            account: None,
            names: Vec::new(),
        };
        self.sessions.lock().insert(connection, session);
        self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        self.note(connection, Happening::Opened { peer });
        cut
    }

    /// What the audit shows of a session follows each request that succeeds.
    pub fn update(&self, connection: u64, context: &Context) {
        if let Some(session) = self.sessions.lock().get_mut(&connection) {
            session.account = context.account();
            session.names = context.names();
        }
    }

    /// Closes a session, and takes back what it held, unless it was killed.
    pub fn close(&self, connection: u64, context: &Context) {
        let killed = self.sessions.lock().remove(&connection).is_some_and(|session| session.killed);
        if !killed {
            self.apply(context.closing());
        }
    }

    pub fn apply(&self, changes: Vec<Change>) {
        let mut broker = self.broker.lock();
        for change in changes {
            match change {
                Change::Bind { key, responder } => broker.bind(&key, responder),
                Change::Unbind { key, responder } => broker.unbind(&key, &responder),
                Change::Listen(listener) => broker.listen(&listener),
                Change::Unlisten(listener) => broker.unlisten(&listener),
            }
        }
    }

    /// Restarts the listener: counts and what was listened to are gone, the dispatcher's table stays (F45).
    pub fn restart_listener(&self) {
        self.broker.lock().forget_listeners();
    }

    pub fn sessions(&self) -> Vec<Listed> {
        let listed = |(connection, session): (&u64, &Session)| Listed {
            connection: *connection,
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

    /// Cuts TCP under one session or all; how many.
    pub fn cut(&self, connection: Option<u64>, kill: bool) -> usize {
        let mut sessions = self.sessions.lock();
        let chosen = sessions.iter_mut().filter(|(number, _)| connection.is_none_or(|one| one == **number));
        let mut count = 0;
        for (_, session) in chosen {
            session.killed |= kill;
            session.cut.cancel();
            count += 1;
        }
        count
    }

    /// Queues a text frame to one session or all; to how many.
    pub fn inject(&self, text: &str, connection: Option<u64>) -> usize {
        let text = Utf8Bytes::from(text);
        let sessions = self.sessions.lock();
        let chosen = sessions.iter().filter(|(number, _)| connection.is_none_or(|one| one == **number));
        chosen.filter(|(_, session)| session.outbox.send(text.clone()).is_ok()).count()
    }

    /// Publishes an event; how many frames it makes. They are queued when this returns.
    pub fn publish(&self, event: &Event) -> Result<usize, EventError> {
        self.channels.lock().note(event, self.gregorian());
        let moment = Moment {
            now: self.gregorian(),
            month: self.month(),
            message_id: hex32(self.settings.random.as_ref()),
        };
        let Some(publication) = event.publication(moment)? else {
            return Ok(0);
        };
        let deliveries = self.broker.lock().route(&publication.route, &publication.routing_key);
        if deliveries.is_empty() {
            return Ok(0);
        }
        let name = match publication.name {
            Some(name) => format!(r#""name":{},"#, Json::from(name)),
            None => String::new(),
        };
        let tail = format!(
            r#"{name}"routing_key":{},"data":{}}}"#,
            Json::from(publication.routing_key),
            publication.data
        );
        let frames: Vec<(u64, Utf8Bytes)> =
            deliveries.into_iter().map(|delivery| (delivery.session, frame(delivery, &tail))).collect();
        let sessions = self.sessions.lock();
        let sent = frames.into_iter().filter(|(session, text)| {
            sessions.get(session).is_some_and(|session| session.outbox.send(text.clone()).is_ok())
        });
        Ok(sent.count())
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

impl Cluster for Node {
    fn month(&self) -> (i16, i8) {
        let today = self.today();
        (today.year(), today.month())
    }

    fn realm(&self, account: &AccountId) -> Option<String> {
        self.accounts.lock().get(account).map(|spec| spec.realm.clone())
    }
}
