//! The configuration: one typed tree, from a file and the environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::SecretString;
use url::Url;

use crate::binding::{AccountId, Binding, OptIn};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// What concerns all upstreams.
    pub upstream: Upstream,
    /// The accounts that hawking has credentials for.
    pub accounts: Vec<Account>,
    /// Logs and subscriptions.
    pub hub: Hub,
    /// The listener for consumers.
    pub grpc: Grpc,
    /// What hawking says about itself.
    pub telemetry: Telemetry,
    /// How it ends.
    pub shutdown: Shutdown,
}

/// What concerns the sessions to the upstream.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Crossbar's base URL, such as `http://crossbar:8000/`. An account can have its own.
    pub crossbar_url: Url,
    /// Blackhole's URL, such as `ws://blackhole:5555/`. An account can have its own.
    pub blackhole_url: Url,
    /// TLS for https and wss.
    pub tls: UpstreamTls,
    /// The longest that a TCP connection, TLS and the upgrade may take together.
    pub connect_timeout: Duration,
    /// The longest that one request to Crossbar may take.
    pub crossbar_timeout: Duration,
    /// How long before a token's expiry it is not used for a new connection any more.
    pub token_margin: Duration,
    /// After so much quiet a WebSocket ping is sent.
    pub ping_interval: Duration,
    /// Without any inbound frame for so long the session is given up. Longer than `ping_interval`.
    pub liveness_timeout: Duration,
    /// The deadline of one command; after it, it is sent again.
    pub command_timeout: Duration,
    /// Commands in flight at most (F46: replies are lost above 50 that wait).
    pub commands_in_flight: usize,
    /// Blackhole's token bucket for each session: its size (F49: 100).
    pub rate_burst: u32,
    /// Its refill a second (F49: 10).
    pub rate_per_second: u32,
    /// The share of the bucket that hawking uses, 0.1 to 1.0: others may share the address.
    pub rate_share: f64,
    /// The first delay before connecting again.
    pub backoff_initial: Duration,
    /// The longest delay.
    pub backoff_max: Duration,
    /// The delay after refused credentials or a refused connection (400, 403, 429).
    pub backoff_refused: Duration,
    /// After so long live the delay starts over.
    pub backoff_reset_after: Duration,
    /// The kinds of binding that cross tenants and were turned on by name.
    pub opt_in: OptIn,
    /// How many recent events the de-duplicator remembers, and for how long.
    pub dedupe_events: usize,
    /// See `dedupe_events`. Longer than the skew between two sessions.
    pub dedupe_window: Duration,
}

/// TLS towards the upstream.
#[derive(Debug, Clone, Default)]
pub struct UpstreamTls {
    /// A PEM file of CA certificates trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Trust only `ca_file`.
    pub only_ca_file: bool,
    /// The name that the certificate is checked against and that is sent as SNI, instead of the URL's host.
    pub server_name: Option<String>,
}

/// One account with credentials.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its own Crossbar.
    pub crossbar_url: Option<Url>,
    /// Its own blackhole.
    pub blackhole_url: Option<Url>,
    /// How it logs in.
    pub credentials: Credentials,
    /// Bindings that are held whether anybody subscribes or not, so that they can be replayed.
    pub always_on: Vec<Binding>,
}

/// How hawking logs in to Crossbar.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// `PUT /v2/user_auth` with the hash of `username:password`.
    User {
        /// Lower-cased before hashing.
        username: String,
        /// Kept secret.
        password: SecretString,
        /// Which hash.
        method: HashMethod,
        /// How the account is named to Crossbar.
        realm: AccountName,
    },
    /// `PUT /v2/user_auth` with a hash made beforehand.
    Hash {
        /// Hex digits; as good as a password.
        credentials: SecretString,
        /// Which hash.
        method: HashMethod,
        /// How the account is named to Crossbar.
        realm: AccountName,
    },
    /// `PUT /v2/api_auth`.
    ApiKey {
        /// Kept secret.
        key: SecretString,
    },
}

/// Crossbar's `method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashMethod {
    /// `md5`, the default.
    Md5,
    /// `sha`: SHA-1.
    Sha,
}

/// How an account is named at login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountName {
    /// `account_name`
    Name(String),
    /// `account_realm`
    Realm(String),
    /// `phone_number`
    PhoneNumber(String),
}

/// Logs and subscriptions.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The log of one account: bytes at most.
    pub log_bytes: usize,
    /// Records at most.
    pub log_records: usize,
    /// Age at most.
    pub log_age: Duration,
    /// How long a binding stays wanted after its last consumer left.
    pub linger: Duration,
    /// How long `Subscribe` waits at most for its bindings to be confirmed before it says that they are pending.
    pub confirm_wait: Duration,
    /// Open subscriptions at most, for each account.
    pub max_subscriptions_per_account: usize,
    /// Open subscriptions at most, for the process.
    pub max_subscriptions: usize,
}

/// The listener for consumers.
#[derive(Debug, Clone)]
pub struct Grpc {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The heartbeat of a stream that asks for none.
    pub heartbeat_default: Duration,
    /// The shortest that can be asked for.
    pub heartbeat_min: Duration,
    /// The longest.
    pub heartbeat_max: Duration,
    /// HTTP/2 keepalive pings.
    pub keepalive_interval: Duration,
    /// A connection that does not answer one within this is closed.
    pub keepalive_timeout: Duration,
    /// Streams for each connection at most.
    pub max_concurrent_streams: u32,
    /// Connections at most.
    pub max_connections: usize,
    /// The largest request message, in bytes.
    pub max_request_bytes: usize,
    /// Unsent bytes of one stream that are held at most.
    pub send_buffer_bytes: usize,
    /// The HTTP/2 handshake must be over within this.
    pub handshake_timeout: Duration,
}

/// What hawking says about itself.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// A filter as tracing-subscriber's `EnvFilter` has it, such as `info,hawking=debug`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How hawking ends.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Streams and connections are given so long to end.
    pub grace: Duration,
}

impl Default for Upstream {
    fn default() -> Self {
        // Both URLs are constants that parse.
        #[allow(clippy::expect_used)]
        let url = |text| Url::parse(text).expect("a constant URL");
        Self {
            crossbar_url: url("http://127.0.0.1:8000/"),
            blackhole_url: url("ws://127.0.0.1:5555/"),
            tls: UpstreamTls::default(),
            connect_timeout: Duration::from_secs(10),
            crossbar_timeout: Duration::from_secs(10),
            token_margin: Duration::from_secs(60),
            ping_interval: Duration::from_secs(15),
            liveness_timeout: Duration::from_secs(35),
            command_timeout: Duration::from_secs(15),
            commands_in_flight: 4,
            rate_burst: 100,
            rate_per_second: 10,
            rate_share: 0.8,
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            backoff_refused: Duration::from_secs(60),
            backoff_reset_after: Duration::from_secs(60),
            opt_in: OptIn::default(),
            dedupe_events: 50_000,
            dedupe_window: Duration::from_secs(120),
        }
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            log_bytes: 64 << 20,
            log_records: 200_000,
            log_age: Duration::from_secs(3600),
            linger: Duration::from_secs(60),
            confirm_wait: Duration::from_secs(2),
            max_subscriptions_per_account: 10_000,
            max_subscriptions: 20_000,
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            heartbeat_default: Duration::from_secs(15),
            heartbeat_min: Duration::from_secs(1),
            heartbeat_max: Duration::from_secs(600),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            max_concurrent_streams: 1000,
            max_connections: 10_000,
            max_request_bytes: 2 << 20,
            send_buffer_bytes: 256 << 10,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_filter: "info".into(), log_format: LogFormat::Text }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(20) }
    }
}
