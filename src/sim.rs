//! An upstream to run and to test against: Crossbar and blackhole, faithful to recordings of the real ones.
//!
//! A [`Simulator`] is a Kazoo cluster as a client meets it: Crossbar to log in, blackhole to get events from, and
//! a control API that makes the events. It is built as blackhole is, quirk for quirk, because the quirks are what a client has
//! to survive: reference counts that sessions share, months that are bound at subscription, success that proves nothing.
//! `tests/simulator.rs` plays recordings of a real blackhole against it.
//!
//! # Layout
//!
//! In the order in which things pass:
//!
//! - `listener` accepts (or `memory` does, without sockets), `upgrade` answers HTTP, `session` carries the frames, `request`
//!   executes what a frame asks, `bindings` knows what a binding stands for.
//! - `event` builds what is published, `broker` says who gets it, `outbox` is where it waits for the socket; `inbound` is what
//!   comes meanwhile.
//! - `faults` is what goes wrong on demand, `script` a sequence of it.
//! - `crossbar` and `control` are the two HTTP APIs; `http` serves them.
//! - `blast` is another thing: a source of frames for measurements, which is nothing but fast.
//! - `cluster` is what all of them share; `accounts`, `channels` and `record` are its parts.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use hawking::sim::{Event, Settings, Simulator};
//!
//! let sim = Simulator::start(Settings::default()).await?;
//! println!("{} {}", sim.crossbar_url(), sim.blackhole_url());
//! let account = &sim.accounts()[1];
//! sim.publish(&Event::call(account, "CHANNEL_CREATE", "3a9b.7c@192.0.2.1"))?;
//! sim.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod accounts;
mod bindings;
pub mod blast;
mod broker;
mod bucket;
mod channels;
mod cluster;
mod control;
mod crossbar;
mod event;
mod faults;
mod http;
mod inbound;
mod json;
mod listener;
mod memory;
mod outbox;
mod record;
mod request;
mod script;
mod session;
mod settings;
mod topic;
pub mod traffic;
mod upgrade;

use std::{fmt, io, net::SocketAddr, sync::Arc};

use serde_json::Value;
use url::Url;

pub use accounts::{AccountSpec, UserSpec, recorded_accounts};
pub use bucket::{ManualStopwatch, RateLimit, SharedStopwatch, Stopwatch, TokioStopwatch};
pub use control::ControlError;
pub use event::{Event, EventError};
pub use faults::{CrossbarFault, Door, ReplyLoss};
pub use record::{Ending, Exchange, Frame, Happening, Loss};
pub use script::{Script, ScriptError, Step};
pub use settings::Settings;

use crate::{
    binding::AccountId,
    upstream::{Dial, Seams, Transport},
};
use cluster::Cluster;
use listener::Port;
use tokio::net::TcpStream;

/// A running simulator. Clones are handles to the same one; it ends with [`Simulator::shutdown`], or when the last handle is
/// dropped.
#[derive(Clone)]
pub struct Simulator {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Cluster>,
    /// Unset: in memory.
    addresses: Option<Addresses>,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    crossbar: SocketAddr,
    blackhole: SocketAddr,
    control: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cluster.stop.cancel();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("addresses", &self.inner.addresses).finish_non_exhaustive()
    }
}

/// What a client asked for with one `subscribe` or `unsubscribe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The connection that it came over.
    pub connection: u64,
    /// `subscribe` or `unsubscribe`.
    pub action: String,
    /// `account_id`, as it was sent.
    pub account_id: String,
    /// `binding`, as it was sent.
    pub binding: String,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The number of its connection: what faults that concern one session take.
    pub connection: u64,
    /// The node that it is on, counted from 0.
    pub node: usize,
    /// The account that it is authenticated as.
    pub account: Option<AccountId>,
    /// Its bindings, as the audit lists them.
    pub bindings: Vec<String>,
    /// Frames that were not written yet.
    pub waiting: usize,
    /// The most that ever waited for its socket.
    pub peak: usize,
}

impl Simulator {
    /// Starts a simulator on the listeners that the settings name.
    ///
    /// # Errors
    ///
    /// Where an address cannot be listened on.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let crossbar = Port::bind(settings.crossbar, None)?;
        let blackhole = Port::bind(settings.blackhole, Some(settings.send_buffer))?;
        let control = Port::bind(settings.control, None)?;
        let addresses = Addresses {
            crossbar: crossbar.address(),
            blackhole: blackhole.address(),
            control: control.address(),
        };
        let cluster = Arc::new(Cluster::new(settings));
        let inner = Arc::new(Inner { cluster: Arc::clone(&cluster), addresses: Some(addresses) });

        let serve = http_server(&cluster, crossbar::router(Arc::clone(&cluster)));
        let door = cluster.faults.crossbar_door();
        cluster.tasks.spawn(listener::accept(Arc::clone(&cluster), crossbar, door, serve));

        let serve = http_server(&cluster, control::router(Arc::downgrade(&inner)));
        let door = tokio::sync::watch::channel(Door::Open).1;
        cluster.tasks.spawn(listener::accept(Arc::clone(&cluster), control, door, serve));

        let for_each = Arc::clone(&cluster);
        let serve = move |stream: TcpStream, peer| {
            // Events are small and should not wait for each other.
            _ = stream.set_nodelay(true);
            let connection = for_each.next_connection();
            for_each.tasks.spawn(upgrade::serve(Arc::clone(&for_each), connection, stream, peer));
        };
        let door = cluster.faults.blackhole_door();
        cluster.tasks.spawn(listener::accept(Arc::clone(&cluster), blackhole, door, serve));
        Ok(Self { inner })
    }

    /// Starts a simulator without listeners: it is reached by [`Simulator::seams`] alone, and works under a paused clock.
    /// Takes the same settings; the addresses in them mean nothing.
    pub fn in_memory(settings: Settings) -> Self {
        let cluster = Arc::new(Cluster::new(settings));
        Self { inner: Arc::new(Inner { cluster, addresses: None }) }
    }

    /// Opens pipes to this simulator's blackhole, under the host of an in-memory [`Simulator::blackhole_url`].
    pub fn dial(&self) -> Arc<dyn Dial> {
        Arc::new(memory::Pipes(Arc::clone(&self.inner.cluster)))
    }

    /// Hands requests to this simulator's Crossbar, under the host of an in-memory [`Simulator::crossbar_url`].
    pub fn transport(&self) -> Arc<dyn Transport> {
        let cluster = Arc::clone(&self.inner.cluster);
        let router = crossbar::router(Arc::clone(&cluster));
        Arc::new(memory::Calls { cluster, router })
    }

    /// All that the upstream side needs to run on an in-memory simulator: its connections, and the simulator's own clock and
    /// randomness.
    pub fn seams(&self) -> Seams {
        let settings = &self.inner.cluster.settings;
        Seams {
            dial: self.dial(),
            transport: self.transport(),
            clock: Arc::clone(&settings.clock),
            random: Arc::clone(&settings.random),
            gate: Arc::default(),
            threads: 0,
            metrics: Arc::default(),
        }
    }

    /// Crossbar's base URL.
    pub fn crossbar_url(&self) -> Url {
        self.url("http", |addresses| addresses.crossbar, memory::CROSSBAR)
    }

    /// Blackhole's URL.
    pub fn blackhole_url(&self) -> Url {
        self.url("ws", |addresses| addresses.blackhole, memory::BLACKHOLE)
    }

    /// The control API's base URL. In memory there is none that could be reached: see [`Simulator::control`].
    pub fn control_url(&self) -> Url {
        self.url("http", |addresses| addresses.control, "control.sim")
    }

    fn url(&self, scheme: &str, address: impl Fn(&Addresses) -> SocketAddr, in_memory: &str) -> Url {
        let host = match &self.inner.addresses {
            Some(addresses) => address(addresses).to_string(),
            None => in_memory.to_owned(),
        };
        // A scheme, a name or an IP address, and a port always parse.
        #[allow(clippy::expect_used)]
        Url::parse(&format!("{scheme}://{host}/")).expect("a URL of an address")
    }

    /// The accounts there are.
    pub fn accounts(&self) -> &[AccountSpec] {
        &self.inner.cluster.settings.accounts
    }

    /// An account by its id.
    pub fn account(&self, id: &AccountId) -> Option<&AccountSpec> {
        self.accounts().iter().find(|account| account.id == *id)
    }

    /// Publishes an event. Returns how many frames it makes, over all sessions; they are queued in the order of the calls,
    /// behind the replies queued before.
    ///
    /// # Errors
    ///
    /// Where the event lacks what its routing key is made of.
    pub fn publish(&self, event: &Event) -> Result<usize, EventError> {
        self.inner.cluster.publish(event)
    }

    /// Runs a verb of the control API in process: the same as a `POST` of `body` to `path`.
    ///
    /// # Errors
    ///
    /// Where there is no such verb, or it cannot make sense of the body.
    pub fn control(&self, path: &str, body: Value) -> Result<Value, ControlError> {
        control::run(self, path, &body.into())
    }

    /// Sends a text frame to all sessions, exactly as it is. Returns to how many.
    pub fn inject_frame(&self, text: &str) -> usize {
        self.inner.cluster.inject(text, None)
    }

    /// Cuts TCP under all sessions, without a close frame. Returns how many there were.
    pub fn cut_all(&self) -> usize {
        self.cut(None)
    }

    /// The most messages that ever waited for the socket of one session: 4.3 and K5 lose those above
    /// `max_queued_messages` in the [`Settings`].
    pub fn queue_peak(&self) -> usize {
        self.inner.cluster.queue_peak()
    }

    /// The sessions that are open now, the oldest first.
    pub fn sessions(&self) -> Vec<Session> {
        let listed = self.inner.cluster.sessions().into_iter();
        listed
            .map(|session| Session {
                connection: session.connection,
                node: session.node,
                account: session.account,
                bindings: session.names,
                waiting: session.waiting,
                peak: session.peak,
            })
            .collect()
    }

    /// How many sessions are open now.
    pub fn connections(&self) -> usize {
        self.inner.cluster.open_sessions()
    }

    /// How many sessions were ever opened.
    pub fn connections_total(&self) -> u64 {
        self.inner.cluster.sessions_opened()
    }

    /// Every connection, and each frame received and sent, in order; the oldest gone if there were more than
    /// [`Settings::record_limit`] and [`Settings::record_bytes`].
    pub fn record(&self) -> Vec<Exchange> {
        self.inner.cluster.record.exchanges()
    }

    /// Every `subscribe` and `unsubscribe` in the record, in order.
    pub fn subscribe_requests(&self) -> Vec<SubscribeRequest> {
        self.record().into_iter().filter_map(|exchange| subscribe_request(&exchange)).collect()
    }

    /// Ends the simulator: listeners closed, sessions cut without a close frame (as when blackhole stops, F50), all tasks
    /// over when this returns.
    pub async fn shutdown(self) {
        let cluster = &self.inner.cluster;
        cluster.stop.cancel();
        cluster.tasks.close();
        cluster.tasks.wait().await;
    }
}

fn subscribe_request(exchange: &Exchange) -> Option<SubscribeRequest> {
    let Happening::Received(Frame::Text(text)) = &exchange.what else {
        return None;
    };
    let message = json::Json::first_in(text).ok()?;
    let action = message.str("action")?;
    let data = message.get("data")?;
    action.ends_with("subscribe").then_some(())?;
    Some(SubscribeRequest {
        connection: exchange.connection,
        action: action.to_owned(),
        account_id: data.str("account_id")?.to_owned(),
        binding: data.str("binding")?.to_owned(),
    })
}

/// Serves HTTP on each connection.
fn http_server(cluster: &Arc<Cluster>, router: axum::Router) -> impl Fn(TcpStream, SocketAddr) + use<> {
    let cluster = Arc::clone(cluster);
    move |stream, _| _ = cluster.tasks.spawn(http::serve(Arc::clone(&cluster), stream, router.clone()))
}
