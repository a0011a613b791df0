//! Log lines, on standard error.
//!
//! The operator chooses the level, also by module. Only hawking's own modules go below `info`, whatever is chosen:
//! at `debug` and `trace` the libraries print frames, headers and bodies, in which tokens and passwords stand.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{LogFormat, Telemetry};

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is none. [`crate::config::Config::load`] lets none such through.
    #[error("`{filter}` is no log filter: {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// Why it is none.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process logs already.
    #[error("logging is set up already: {0}")]
    SetAlready(#[from] TryInitError),
    /// The subscriber is gone.
    #[error("logging has ended: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes what is logged while the process runs.
#[derive(Debug, Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Logging {
    /// Logs by this filter from now on, as far as the libraries allow (see the module's comment).
    ///
    /// # Errors
    ///
    /// [`LoggingError::Filter`] where it is no filter; the one before stays in force.
    pub fn set_filter(&self, filter: &str) -> Result<(), LoggingError> {
        Ok(self.filter.reload(parse(filter)?)?)
    }
}

/// Logs to standard error from now on, in colours where that is a terminal and `NO_COLOR` is not set. What libraries
/// log through the `log` crate is taken in.
///
/// # Errors
///
/// [`LoggingError::SetAlready`] on the second call in a process.
pub fn init(settings: &Telemetry) -> Result<Logging, LoggingError> {
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, logging) = subscriber(settings, io::stderr, colours)?;
    subscriber.try_init()?;
    Ok(logging)
}

fn subscriber<W>(
    settings: &Telemetry,
    writer: W,
    colours: bool,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Logging), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(&settings.log_filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match settings.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = Registry::default().with(lines.with_filter(filter.and(filter_fn(is_harmless))));
    Ok((subscriber, Logging { filter: handle }))
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(filter).map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })
}

/// Whether this is ours, or of a level at which libraries do not print what passes through them.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    const OURS: &str = env!("CARGO_CRATE_NAME");
    *metadata.level() <= Level::INFO
        || metadata.target().strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// Where log lines go in tests.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.0.lock())).unwrap()
        }
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn settings(log_filter: &str, log_format: LogFormat) -> Telemetry {
        Telemetry { log_filter: log_filter.to_owned(), log_format }
    }

    fn capture(filter: &str, format: LogFormat) -> (impl Subscriber + Send + Sync, Logging, Captured) {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, logging) =
            subscriber(&settings(filter, format), move || writer.clone(), false).unwrap();
        (subscriber, logging, captured)
    }

    /// Logs at each level under each target, through `tracing` and through `log`; gives the targets and levels seen.
    macro_rules! lines_of {
        ($captured:expr, $($target:literal),*) => {{
            let mut seen = Vec::new();
            $(
                tracing::trace!(target: $target, "trace");
                tracing::debug!(target: $target, "debug");
                tracing::info!(target: $target, "info");
                tracing::warn!(target: $target, "warn");
                for level in [log::Level::Trace, log::Level::Debug, log::Level::Info, log::Level::Warn] {
                    log::log!(target: $target, level, "{}", level.as_str().to_lowercase());
                }
                seen.push(($target, levels(&$captured.take())));
            )*
            seen
        }};
    }

    /// The last word of each line, which is the level.
    fn levels(text: &str) -> Vec<String> {
        text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    }

    #[test]
    fn libraries_stay_at_info_whatever_is_asked_for() {
        for filter in
            ["trace", "trace,tungstenite=trace,hyper=trace,h2=trace,reqwest=trace,rustls=trace,tonic=trace"]
        {
            let (subscriber, _logging, captured) = capture(filter, LogFormat::Text);
            let _default = subscriber.set_default();
            // Otherwise `log` itself might hold the lines back, and the test would not show that the filter does.
            log::set_max_level(log::LevelFilter::Trace);

            for (target, levels) in lines_of!(
                captured,
                "tungstenite::protocol",
                "tokio_tungstenite",
                "hyper::proto::h1::role",
                "hyper_util::client::legacy",
                "h2::codec::framed_read",
                "h2",
                "reqwest::connect",
                "rustls::client::hs",
                "tonic::transport",
                "tower::buffer",
                "axum::rejection",
                "mio::poll",
                "tokio::task",
                "hawkinglike"
            ) {
                assert_eq!(levels, ["info", "warn", "info", "warn"], "{target} with {filter}");
            }
            for (target, levels) in lines_of!(captured, "hawking", "hawking::upstream") {
                let all = ["trace", "debug", "info", "warn"];
                assert_eq!(levels, [all, all].concat(), "{target} with {filter}");
            }
        }
    }

    #[test]
    fn the_filter_is_obeyed_and_can_be_changed() {
        let (subscriber, logging, captured) = capture("warn,hawking::hub=debug", LogFormat::Text);
        tracing::subscriber::with_default(subscriber, || {
            let log = || {
                tracing::debug!(target: "hawking::hub", "hub");
                tracing::info!(target: "hawking::grpc", "grpc");
                tracing::warn!(target: "h2", "h2");
            };
            log();
            assert_eq!(levels(&captured.take()), ["hub", "h2"]);

            logging.set_filter("info").unwrap();
            log();
            assert_eq!(levels(&captured.take()), ["grpc", "h2"]);

            assert!(matches!(logging.set_filter("hawking=loud"), Err(LoggingError::Filter { .. })));
            log();
            assert_eq!(levels(&captured.take()), ["grpc", "h2"]);
        });
    }

    #[test]
    fn json_is_one_object_a_line() {
        let (subscriber, _logging, captured) = capture("info", LogFormat::Json);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "hawking::hub", account = "a", "two\nlines");
        });
        let text = captured.take();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["account"], "a");
        assert_eq!(line["level"], "INFO");
    }
}
