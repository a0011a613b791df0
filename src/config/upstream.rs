//! The sessions to the upstream.

use std::{path::PathBuf, time::Duration};

use jiff::tz::TimeZone;
use rustls_pki_types::ServerName;
use url::Url;

use super::{
    form::{BLACKHOLE, CROSSBAR, FilePath, Flag, Optional, Parsed, Set, Share, bytes, count, span, timeout},
    reader::Checks,
    settings::settings,
};
use crate::binding::{Kind, OptIn};

settings! {
    /// The sessions to the upstream. A reload holds from the next login, session or replacement on.
    pub struct Upstream {
        /// Crossbar's base URL. An account can have its own.
        crossbar_url: Url = url("http://127.0.0.1:8000/"), as CROSSBAR;
        /// Blackhole's URL. An account can have its own.
        blackhole_url: Url = url("ws://127.0.0.1:5555/"), as BLACKHOLE;
        /// The longest that a TCP connection, TLS and the upgrade to WebSocket may take together.
        connect_timeout: Duration = Duration::from_secs(10), as timeout();
        /// How much of what blackhole sends the system is asked to keep for each session until it is read: 4.3 and Kazoo 5
        /// throw events away that find no room. Linux gives no more than net.core.rmem_max allows.
        receive_buffer_bytes: usize = 4 << 20, as bytes(64 << 10, 256 << 20), fixed;
        /// Threads that do nothing but read from the upstream, whatever consumers keep the others busy with; 0: the others do.
        threads: usize = 1, as count(0, 256), fixed;
        /// The longest that one request to Crossbar may take.
        crossbar_timeout: Duration = Duration::from_secs(10), as timeout();
        /// A token that expires within this is not used for a new connection any more.
        token_margin: Duration = Duration::from_secs(60), as span(Duration::ZERO, DAY);
        /// After so much quiet a WebSocket ping is sent.
        ping_interval: Duration = Duration::from_secs(15), as timeout();
        /// Without any inbound frame for so long the session is given up. Longer than ping_interval.
        liveness_timeout: Duration = Duration::from_secs(35), as timeout();
        /// The deadline of one command to blackhole; after it, it is sent again.
        command_timeout: Duration = Duration::from_secs(15), as timeout();
        /// Commands in flight at most: blackhole loses replies when too many wait.
        commands_in_flight: usize = 4, as count(1, 8);
        /// The size of blackhole's token bucket for each session.
        rate_burst: u32 = 100, as count(1, 100_000);
        /// What flows into it every second.
        rate_per_second: u32 = 10, as count(1, 100_000);
        /// The share of the bucket that hawking uses: others may connect from the same address.
        rate_share: f64 = 0.8, as Share;
        /// The first delay before connecting again; each further one is longer, with jitter.
        backoff_initial: Duration = Duration::from_millis(500), as timeout();
        /// The longest delay.
        backoff_max: Duration = Duration::from_secs(30), as timeout();
        /// The delay after refused credentials or a refused connection (400, 403, 429).
        backoff_refused: Duration = Duration::from_secs(60), as timeout();
        /// After so long live the delay starts over from the first.
        backoff_reset_after: Duration = Duration::from_secs(60), as timeout();
        /// Logins started a second at most, at each Crossbar, by all accounts of this process together.
        logins_per_second: u32 = 20, as count(1, 100_000), fixed;
        /// Requests of all kinds started a second at most, at each Crossbar, by all accounts together: each login brings one
        /// or two more, each account one in descendants_interval, and who asks for an account that nobody knows one for
        /// each account.
        crossbar_requests_per_second: u32 = 100, as count(1, 100_000), fixed;
        /// Requests in flight at most, at each Crossbar, of all accounts together. A host that hangs keeps its own only.
        crossbar_in_flight: usize = 8, as count(1, 10_000), fixed;
        /// Connections being opened at most, at each blackhole, by all accounts together.
        connects_in_flight: usize = 16, as count(1, 10_000), fixed;
        /// Whether an account that is not configured is served over the session of the nearest configured one above it.
        /// Crossbar tells which those are.
        descendants: bool = true, as Flag, fixed;
        /// How often Crossbar is asked for the descendants of each configured account. One that Crossbar does not tell of
        /// twice in a row has gone: its streams end with NOT_FOUND.
        descendants_interval: Duration = Duration::from_mins(5), as span(Duration::from_millis(10), DAY), fixed;
        /// Every binding that is held is subscribed to again once in so long: nothing else heals an upstream that has gone
        /// silent. Longer where the budgets below do not allow it.
        refresh_interval: Duration = Duration::from_mins(5), as span(Duration::from_secs(1), DAY);
        /// The share of hawking's own rate of commands that refreshes may take.
        refresh_share: f64 = 0.25, as Share;
        /// What the replies to one session's refreshes may come to each second: each lists all that the session holds.
        refresh_bytes_per_second: usize = 256 << 10, as bytes(1 << 10, 1 << 30);
        /// After a session has ended, the next one subscribes to everything at once, and again after this: upstream may
        /// notice late that the other is gone, and then silences what they had in common.
        resubscribe_delay: Duration = Duration::from_secs(60), as timeout();
        /// How long upstream keeps a session whose client is silent. For so long after a session ended without upstream's
        /// part of it, the next one subscribes to everything again and again (on Kazoo 5: is replaced once, at the end).
        session_idle_timeout: Duration = Duration::from_hours(1), as span(Duration::from_secs(1), DAY);
        /// A session that holds what nobody wants any more, or bindings that overlap, for so long is replaced (not on
        /// Kazoo 5, where that costs a gap).
        rotation_linger: Duration = Duration::from_mins(5), as timeout();
        /// A session that has refreshed everything so often is replaced (not on Kazoo 5): upstream keeps a list of it.
        rotation_refreshes: u32 = 2_000, as count(2, 1_000_000);
        /// A session of this age is replaced.
        rotation_age: Duration = Duration::from_hours(31 * 24), as span(Duration::from_secs(1), 366 * DAY);
        /// On Kazoo 5, where a refresh heals nothing, a session of this age is replaced, unless it holds nothing but
        /// calls. That costs a gap of the time that it takes to connect: the old session must be closed first.
        rotation_age_k5: Duration = Duration::from_hours(4), as span(Duration::from_secs(1), 366 * DAY);
        /// Two replacements of one account's sessions lie at least so far apart; up to half as much again, at random.
        rotation_spacing: Duration = Duration::from_mins(10), as span(Duration::from_secs(1), DAY);
        /// The old session is kept for so long after the new one holds everything: longer than upstream takes to make
        /// true what it has confirmed.
        rotation_grace: Duration = Duration::from_secs(5), as timeout();
        /// For so long it is waited that the old session answers a last request, which shows that nothing is left in it.
        /// Without an answer it is closed all the same, with a gap.
        rotation_timeout: Duration = Duration::from_secs(60), as timeout();
        /// The time zone of the servers. What is filed by month (faxes, voicemail messages, call records) must be
        /// subscribed to again when their month turns.
        time_zone: TimeZone = TimeZone::UTC, as TIME_ZONE, fixed;
        /// How far the servers' clocks may be off from ours when the month turns.
        month_turn_margin: Duration = Duration::from_mins(2), as span(Duration::from_secs(1), Duration::from_hours(1)), fixed;
        /// The kinds of binding that cross tenants and are off unless they are named here: "conference.command", whose
        /// events name no account.
        opt_in: OptIn = OptIn::default(), as KINDS, fixed;
        /// How many recent events of an account the de-duplicator remembers at most: so many with a msg_id, and so many without.
        dedupe_events: usize = 50_000, as count(100, 10_000_000), fixed;
        /// And for how long. Longer than the skew between two sessions.
        dedupe_window: Duration = Duration::from_secs(120), as timeout(), fixed;
    }
    sections {
        /// TLS for https and wss.
        tls: UpstreamTls;
    }
}

settings! {
    /// TLS towards the upstream.
    pub struct UpstreamTls {
        /// A PEM file of CA certificates that are trusted in addition to the system's.
        ca_file: Option<PathBuf> = None, as Optional(FilePath { example: "/etc/hawking/upstream-ca.pem" }), fixed;
        /// Trust only those of ca_file.
        only_ca_file: bool = false, as Flag, fixed;
        /// The name that the certificate is checked against and that is sent as SNI, instead of the URL's host.
        server_name: Option<String> = None, as Optional(SERVER_NAME), fixed;
    }
}

const DAY: Duration = Duration::from_hours(24);

const SERVER_NAME: Parsed<String> = Parsed {
    expected: "a host name or an IP address in quotes",
    example: "kazoo.example.com",
    parse: |text| ServerName::try_from(text).ok().map(|_| text.to_owned()),
    show: String::clone,
};

const TIME_ZONE: Parsed<TimeZone> = Parsed {
    expected: "the name of a time zone such as \"UTC\" or \"Pacific/Auckland\"",
    example: "Pacific/Auckland",
    parse: |name| TimeZone::get(name).ok(),
    show: |zone| zone.iana_name().unwrap_or("UTC").to_owned(),
};

const KINDS: Set<OptIn> = Set {
    expected: "a list of the kinds that need to be turned on: \"conference.command\"",
    parse: |names| {
        let kind =
            |name: &&str| Kind::parse(name).filter(|kind| kind.requires_opt_in()).ok_or((*name).to_owned());
        Ok(OptIn(names.iter().map(kind).collect::<Result<_, _>>()?))
    },
    show: |kinds| kinds.0.iter().map(Kind::to_string).collect(),
};

// Both callers give constants that parse.
#[allow(clippy::expect_used)]
fn url(text: &str) -> Url {
    Url::parse(text).expect("a constant URL")
}

impl Upstream {
    pub(super) fn check(&self, checks: &mut Checks<'_, '_>) {
        checks.longer(
            ("upstream.liveness_timeout", self.liveness_timeout),
            ("upstream.ping_interval", self.ping_interval),
        );
        checks.longer(
            ("upstream.dedupe_window", self.dedupe_window),
            ("upstream.rotation_grace", self.rotation_grace),
        );
        checks.ordered(
            ("upstream.backoff_initial", self.backoff_initial),
            ("upstream.backoff_max", self.backoff_max),
        );
        let tls = &self.tls;
        if tls.only_ca_file && tls.ca_file.is_none() {
            checks.fail(&["upstream.tls.only_ca_file", "upstream.tls.ca_file"], || {
                "only_ca_file needs a ca_file: otherwise no certificate would be trusted".to_owned()
            });
        }
    }
}
