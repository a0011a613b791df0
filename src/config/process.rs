//! The process: what it says about itself, and how it ends.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{
    form::{Choice, Parsed, span},
    reader::Checks,
    settings::settings,
};

settings! {
    /// What hawking says about itself.
    pub struct Telemetry {
        /// What is logged: a level (error, warn, info, debug, trace), or levels by module such as
        /// "info,hawking::upstream=debug". Libraries that see tokens stay at info or above whatever is asked for.
        log_filter: String = "info".to_owned(), as FILTER;
        /// How log lines look: "text" for people, "json" for one object a line.
        log_format: LogFormat = LogFormat::Text, as Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]), fixed;
    }
}

/// The longest that streams may be given to end, whoever asks for it.
pub const MAX_DRAIN_TIMEOUT: Duration = Duration::from_hours(1);

settings! {
    /// How hawking ends.
    pub struct Shutdown {
        /// The whole: hawking has ended so long after SIGTERM at the latest. In Kubernetes: terminationGracePeriodSeconds, or
        /// shorter.
        grace: Duration = Duration::from_secs(30), as span(Duration::ZERO, Duration::from_hours(2));
        /// After SIGTERM hawking says that it is not ready, but goes on serving for so long, and takes new connections and
        /// streams in: until load balancers and clients have noticed. After SIGINT (Ctrl-C) it does not wait.
        endpoint_wait: Duration = Duration::from_secs(5), as span(Duration::ZERO, Duration::from_hours(1));
        /// After that, streams and connections are given so long to end; what is left is cut.
        drain_timeout: Duration = Duration::from_secs(15), as span(Duration::ZERO, MAX_DRAIN_TIMEOUT);
    }
}

impl Shutdown {
    /// What it takes at most to end all the rest once the streams have ended or were cut, the sessions to the upstream above
    /// all, and the process with it.
    pub const CLOSING: Duration = Duration::from_secs(5);

    pub(super) fn check(&self, checks: &mut Checks<'_, '_>) {
        let needed = self.endpoint_wait + self.drain_timeout + Self::CLOSING;
        if needed > self.grace {
            let show = humantime::format_duration;
            checks.fail(&["shutdown.grace", "shutdown.endpoint_wait", "shutdown.drain_timeout"], || {
                format!(
                    "shutdown.grace is {}; expected at least {}: shutdown.endpoint_wait ({}), shutdown.drain_timeout ({}), \
                     and {} to close the sessions to the upstream",
                    show(self.grace),
                    show(needed),
                    show(self.endpoint_wait),
                    show(self.drain_timeout),
                    show(Self::CLOSING),
                )
            });
        }
    }
}

const FILTER: Parsed<String> = Parsed {
    expected: "a level or a list of levels by module, such as \"info,hawking::upstream=debug\"",
    example: "info,hawking::upstream=debug",
    parse: |text| EnvFilter::try_new(text).ok().filter(|_| !text.is_empty()).map(|_| text.to_owned()),
    show: String::clone,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
