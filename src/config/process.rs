//! The process: what it says about itself, and how it ends.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{
    form::{Choice, Parsed, span},
    settings::settings,
};

settings! {
    /// What hawking says about itself.
    pub struct Telemetry {
        /// What is logged: a level (error, warn, info, debug, trace), or levels by module such as
        /// "info,hawking::upstream=debug". Libraries that see tokens stay at info or above whatever is asked for.
        log_filter: String = "info".to_owned(), as FILTER;
        /// How log lines look: "text" for people, "json" for one object a line.
        log_format: LogFormat = LogFormat::Text, as Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    }
}

settings! {
    /// How hawking ends.
    pub struct Shutdown {
        /// Streams and connections are given so long to end. In Kubernetes: shorter than terminationGracePeriodSeconds.
        grace: Duration = Duration::from_secs(20), as span(Duration::ZERO, Duration::from_hours(1));
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
