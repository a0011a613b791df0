//! All metrics: names, labels, help. `docs/metrics.md` shows the same.

use super::family::{Family, Kind};

/// Declares families, and the list of them in the same order.
macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            pub(super) const $id: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*
        /// In the order in which they are documented.
        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    // The process.
    BUILD = Info "hawking_build" ["version"] "What is running.";
    DRAINING = Gauge "hawking_draining" [] "1 from when a drain begins on.";
    RELOADS = Counter "hawking_config_reloads" ["outcome"] "Attempts to load the configuration anew.";
    RELOAD_SUCCESSFUL = Gauge "hawking_config_last_reload_successful" []
        "Whether the last attempt to load the configuration anew went well; 1 before the first.";
    RELOADED = Gauge "hawking_config_last_reload_success_timestamp_seconds" []
        "When the configuration was last found good: at the start or by a reload.";
    LINES_SUPPRESSED = Counter "hawking_suppressed_log_lines" []
        "Log lines left out because the same had just been said; the next one tells how many.";
    CPU = Counter "process_cpu_seconds" [] "Processor time spent, of user and system.";
    RESIDENT = Gauge "process_resident_memory_bytes" [] "Memory in use.";
    VIRTUAL = Gauge "process_virtual_memory_bytes" [] "Address space.";
    OPEN_FDS = Gauge "process_open_fds" [] "Open file descriptors.";
    MAX_FDS = Gauge "process_max_fds" [] "File descriptors that can be open at most.";
    THREADS = Gauge "process_threads" [] "Threads.";
    START_TIME = Gauge "process_start_time_seconds" [] "When the process was started.";

    // The way in.
    UP = Gauge "hawking_upstream_up" ["account"] "1 while there is a session that brings what is wanted (live or degraded).";
    STATE = Gauge "hawking_upstream_state" ["account", "state"] "1 for the state in which the upstream is.";
    FLAVOUR = Info "hawking_upstream_flavour" ["account", "flavour"] "What the upstream was found to be.";
    ATTEMPTS = Counter "hawking_upstream_attempts" ["account", "outcome"]
        "Attempts to open a session, from the login on.";
    SESSIONS = Gauge "hawking_upstream_sessions" ["account"] "Open sessions: one, and two during a rotation.";
    SESSIONS_ENDED = Counter "hawking_upstream_sessions_ended" ["account", "reason"] "Sessions that ended.";
    LAST_FRAME = Gauge "hawking_upstream_last_frame_timestamp_seconds" ["account"]
        "When the last frame came, an answer to a ping included.";
    PROVEN = Gauge "hawking_upstream_proven_timestamp_seconds" ["account", "kind"]
        "Until when bindings of the kind are known to have delivered: the last event or refresh.";
    RECEIVED_BYTES = Counter "hawking_upstream_received_bytes" ["account"] "Payload of text frames received.";
    COMMANDS = Counter "hawking_upstream_commands" ["account", "purpose"] "Commands sent, repeats included.";
    COMMAND_RESULTS = Counter "hawking_upstream_command_results" ["account", "purpose", "result"]
        "What came of commands.";
    BINDINGS = Gauge "hawking_upstream_bindings" ["account", "state"]
        "Bindings that are wanted, by how they stand upstream.";
    ROTATIONS = Counter "hawking_upstream_rotations_started" ["account", "trigger"]
        "Replacements of a session that were begun.";
    ROTATIONS_ENDED = Counter "hawking_upstream_rotations_ended" ["account", "outcome"]
        "Replacements of a session, by how they came out.";
    GAPS = Counter "hawking_upstream_gaps" ["account", "reason"]
        "Losses recorded in the logs of the account, one for each incident and account that it concerns.";
    EVENTS_RECEIVED = Counter "hawking_events_received" ["account"] "Events that upstream sent, those that cannot be read included.";
    EVENTS_APPENDED = Counter "hawking_events_appended" ["account"] "Events that were put into a log: once for each account that one concerns.";
    EVENTS_DROPPED = Counter "hawking_events_dropped" ["account", "reason"] "Events that were not, counted likewise.";

    // What is kept.
    LOGS = Gauge "hawking_logs" ["account"] "Logs: that of the account, and those of descendants that somebody asked for.";
    LOG_BYTES = Gauge "hawking_log_bytes" ["account"] "Bytes in the logs.";
    LOG_RECORDS = Gauge "hawking_log_records" ["account"] "Records in the logs.";
    LOG_WINDOW = Gauge "hawking_log_window_seconds" ["account"]
        "How far back a consumer can resume: in the log that reaches back least, among those that have let go of records.";
    LOG_LIMIT = Gauge "hawking_log_limit_bytes" [] "What all logs together may take, hub.total_log_bytes.";
    EVICTED = Counter "hawking_evicted_records" ["reason"]
        "Records that logs let go of: they were too old, or one of the bounds was reached.";
    HELD_BYTES = Gauge "hawking_held_bytes" []
        "Events that streams hold and no log: what consumers have not taken yet.";
    ENCODES = Counter "hawking_encodes" ["part"] "Encodings made: of the parts that views share, and of framed events.";
    VIEWS = Gauge "hawking_views" ["account"] "Distinct views, each shared by equal streams.";

    // The way out.
    STREAMS = Gauge "hawking_streams" ["account"] "Open streams.";
    STREAMS_STARTED = Counter "hawking_streams_started" ["start"] "Streams that began, by where they start.";
    STREAMS_REFUSED = Counter "hawking_streams_refused" ["reason"] "Subscribe requests that were refused, by ErrorInfo.reason.";
    STREAMS_ENDED = Counter "hawking_streams_ended" ["reason"] "Streams that ended.";
    LAG = Gauge "hawking_stream_lag_events" ["account"]
        "Events that wait for the stream which is furthest behind. Of one that replays the past it is an upper bound.";
    BEHIND = Gauge "hawking_streams_behind" ["at_least"] "Open streams that are behind by at least so many events.";
    DELIVERIES = Counter "hawking_deliveries" ["account"] "Events handed to connections, once for each stream.";
    DELIVERED_BYTES = Counter "hawking_delivered_bytes" ["account"] "Bytes of these, as they are framed for gRPC.";
    STREAMS_STALLED = Gauge "hawking_streams_stalled" []
        "Streams whose consumer takes nothing although there is something for it.";
    STREAM_GAPS = Counter "hawking_stream_gaps" ["reason"] "Gaps that consumers were told of.";
    STREAM_GAP_SECONDS = Counter "hawking_stream_gap_seconds" ["reason"]
        "How long these lasted, once they were closed; bindings of one gap that are closed apart count each for itself.";
    SKIPPED = Counter "hawking_skipped_events" []
        "Events that consumers with the policy SKIP lost because they were too slow, where they could be counted.";
    CONNECTIONS = Gauge "hawking_connections" [] "Open connections of consumers.";
    CONNECTIONS_ACCEPTED = Counter "hawking_connections_accepted" [] "Connections accepted.";
    CONNECTIONS_REFUSED = Counter "hawking_connections_refused" []
        "Connections closed at once: there were too many.";
    CONNECTIONS_ENDED = Counter "hawking_connections_ended" ["reason"] "Connections that ended.";
    ACCEPT_ERRORS = Counter "hawking_accept_errors" []
        "Failures to accept a connection for want of something, such as file descriptors.";
    READ_BYTES = Counter "hawking_connection_read_bytes" [] "Bytes read from consumers.";
    WRITTEN_BYTES = Counter "hawking_connection_written_bytes" [] "Bytes written to consumers.";
    WRITES = Counter "hawking_connection_writes" [] "Writes to consumers' connections.";
}

#[cfg(test)]
mod tests {
    use super::{
        super::family::{Form, Sheet},
        *,
    };

    /// As it stands in the document.
    fn row(family: &Family) -> String {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
        };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", family.exposed_name(), labels.join(", "), family.help)
    }

    /// What is exported is compared with the document by an integration test; here, that it says the same of each.
    #[test]
    fn the_document_has_exactly_these_in_this_order() {
        let document = include_str!("../../../docs/metrics.md");
        let documented: Vec<&str> =
            document.lines().filter(|line| line.starts_with("| `") && line.contains("_")).collect();
        let rows: Vec<String> = ALL.iter().map(row).collect();
        assert_eq!(documented, rows, "the rows that docs/metrics.md should have:\n{}", rows.join("\n"));
    }

    /// What Prometheus asks of names, beyond what `promtool check metrics` says of those that it sees.
    #[test]
    fn names_follow_the_rules() {
        for family in ALL {
            let Family { name, kind, labels, help } = family;
            assert!(name.starts_with("hawking_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!name.ends_with("_total") && !name.ends_with("_info"), "the kind adds it: {name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{help}");
            assert!(*kind != Kind::Info || !labels.is_empty(), "{name}");
            for millis in ["milliseconds", "minutes", "kilobytes", "mb", "ms"] {
                assert!(!name.split('_').any(|part| part == millis), "{name}");
            }
            let same = ALL.iter().filter(|other| other.exposed_name() == family.exposed_name()).count();
            assert_eq!(same, 1, "{name}");
        }
        // The sheet itself is tested where it is; here, that a family is written under its documented name.
        let mut sheet = Sheet::new(Form::Prometheus);
        sheet.one(&ENCODES, ["core"], 1_u64);
        assert!(sheet.finish().contains("# TYPE hawking_encodes_total counter"));
    }
}
