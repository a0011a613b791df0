//! An upstream to run and to test against: Crossbar and blackhole, faithful to recordings of the real ones.
//!
//! A [`Simulator`] is one node of a Kazoo cluster as a client meets it: Crossbar to log in, blackhole to get events from, and
//! a control API that makes the events. It is built as blackhole is, quirk for quirk, because the quirks are what a client has
//! to survive: reference counts that sessions share, months that are bound at subscription, success that proves nothing.
//! `tests/simulator.rs` plays recordings of a real blackhole against it.
//!
//! # Layout
//!
//! In the order in which things pass:
//!
//! - `upgrade` answers HTTP, `session` carries the frames, `request` executes what a frame asks, `bindings` knows what a
//!   binding stands for.
//! - `event` builds what is published, `broker` says who gets it.
//! - `crossbar` and `control` are the two HTTP APIs; `http` serves them.
//! - `node` is what all of them share; `accounts`, `channels` and `record` are its parts.
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
mod broker;
mod bucket;
mod channels;
mod control;
mod crossbar;
mod event;
mod http;
mod json;
mod node;
mod record;
mod request;
mod session;
mod settings;
mod topic;
pub mod traffic;
mod upgrade;

use std::{fmt, io, net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::net::TcpListener;
use url::Url;

pub use accounts::{AccountSpec, UserSpec, recorded_accounts};
pub use bucket::{ManualStopwatch, RateLimit, SharedStopwatch, Stopwatch, TokioStopwatch};
pub use control::ControlError;
pub use event::{Event, EventError};
pub use record::{Ending, Exchange, Frame, Happening};
pub use settings::Settings;

use crate::binding::{AccountId, Flavour};
use node::Node;

/// A running simulator. Clones are handles to the same one; it ends with [`Simulator::shutdown`], or when the last handle is
/// dropped.
#[derive(Clone)]
pub struct Simulator {
    inner: Arc<Inner>,
}

struct Inner {
    node: Arc<Node>,
    crossbar: SocketAddr,
    blackhole: SocketAddr,
    control: SocketAddr,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.node.stop.cancel();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("crossbar", &self.inner.crossbar)
            .field("blackhole", &self.inner.blackhole)
            .field("control", &self.inner.control)
            .finish()
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

impl Simulator {
    /// Starts a simulator on the listeners that the settings name.
    ///
    /// # Errors
    ///
    /// Where an address cannot be listened on, and ([`io::ErrorKind::Unsupported`]) where the flavour cannot be simulated
    /// yet.
    pub async fn start(settings: Settings) -> io::Result<Self> {
        if settings.flavour != Flavour::K4 {
            let message = format!("flavour {} cannot be simulated yet", settings.flavour.as_str());
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let crossbar = TcpListener::bind(settings.crossbar).await?;
        let blackhole = TcpListener::bind(settings.blackhole).await?;
        let control = TcpListener::bind(settings.control).await?;
        let node = Arc::new(Node::new(settings));
        let inner = Inner {
            crossbar: crossbar.local_addr()?,
            blackhole: blackhole.local_addr()?,
            control: control.local_addr()?,
            node: Arc::clone(&node),
        };
        let routes = (crossbar::router(Arc::clone(&node)), control::router(Arc::clone(&node)));
        node.tasks.spawn(http::accept(Arc::clone(&node), crossbar, routes.0));
        node.tasks.spawn(http::accept(Arc::clone(&node), control, routes.1));
        node.tasks.spawn(upgrade::accept(Arc::clone(&node), blackhole));
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Crossbar's base URL.
    pub fn crossbar_url(&self) -> Url {
        url("http", self.inner.crossbar)
    }

    /// Blackhole's URL.
    pub fn blackhole_url(&self) -> Url {
        url("ws", self.inner.blackhole)
    }

    /// The control API's base URL.
    pub fn control_url(&self) -> Url {
        url("http", self.inner.control)
    }

    /// The accounts there are.
    pub fn accounts(&self) -> &[AccountSpec] {
        &self.inner.node.settings.accounts
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
        self.inner.node.publish(event)
    }

    /// Runs a verb of the control API in process: the same as a `POST` of `body` to `path`.
    ///
    /// # Errors
    ///
    /// Where there is no such verb, or it cannot make sense of the body.
    pub fn control(&self, path: &str, body: Value) -> Result<Value, ControlError> {
        control::run(&self.inner.node, path, &body.into())
    }

    /// Sends a text frame to all sessions, exactly as it is. Returns to how many.
    pub fn inject_frame(&self, text: &str) -> usize {
        self.inner.node.inject(text, None)
    }

    /// Cuts TCP under all sessions, without a close frame. Returns how many there were.
    pub fn cut_all(&self) -> usize {
        self.inner.node.cut(None, false)
    }

    /// The sessions that are open now.
    pub fn connections(&self) -> usize {
        self.inner.node.open_sessions()
    }

    /// The sessions that were ever opened.
    pub fn connections_total(&self) -> u64 {
        self.inner.node.sessions_opened()
    }

    /// Every connection, and each frame received and sent, in order; the oldest gone if there were more than
    /// [`Settings::record_limit`] and [`Settings::record_bytes`].
    pub fn record(&self) -> Vec<Exchange> {
        self.inner.node.record.exchanges()
    }

    /// Every `subscribe` and `unsubscribe` in the record, in order.
    pub fn subscribe_requests(&self) -> Vec<SubscribeRequest> {
        self.record().into_iter().filter_map(|exchange| subscribe_request(&exchange)).collect()
    }

    /// Ends the simulator: listeners closed, sessions cut without a close frame (as when blackhole stops, F50), all tasks
    /// over when this returns.
    pub async fn shutdown(self) {
        let node = &self.inner.node;
        node.stop.cancel();
        node.tasks.close();
        node.tasks.wait().await;
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

fn url(scheme: &str, address: SocketAddr) -> Url {
    // A scheme, an IP address and a port always parse.
    #[allow(clippy::expect_used)]
    Url::parse(&format!("{scheme}://{address}/")).expect("a URL of an address")
}
