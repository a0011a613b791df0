//! What metrics say of accounts and logs, read when somebody scrapes.
//!
//! Each account's lock is taken for a moment and for nothing that grows with the log. A descendant counts for the account
//! whose session serves it.

use std::sync::Arc;

use crate::{
    binding::Kind,
    telemetry::metrics::{AccountReading, Reading, State},
};

use super::{
    account::{Account, Hub},
    coverage::BindingState,
    log::UpstreamState,
};

impl Hub {
    /// Adds how all accounts stand, and what was encoded.
    pub fn read(&self, reading: &mut Reading) {
        for account in self.list() {
            account.read(reading.accounts.entry(account.served_by()).or_default());
        }
        let memory = self.memory_use();
        reading.log_limit = Some(memory.limit as u64);
        reading.held_bytes = Some(memory.held as u64);
        let evictions = self.evictions();
        reading.evictions.extend([
            ("age", evictions.age),
            ("log_records", evictions.records),
            ("log_bytes", evictions.log_bytes),
            ("shared_bytes", evictions.shared_bytes),
        ]);
        let encodes = self.encodes();
        reading.encodes.extend([
            ("core", encodes.cores),
            ("typed", encodes.typed),
            ("struct", encodes.structures),
            ("frame", encodes.frames),
        ]);
    }
}

impl Account {
    fn read(&self, reading: &mut AccountReading) {
        let (coverage, proofs, size, evicted, complete_since, views, streams) = self.with_state(|state| {
            let log = &state.log;
            let (evicted, complete_since) = (log.evicted(), log.complete_since());
            let (views, streams) = (state.views(), state.subscriptions());
            (Arc::clone(log.head()), log.proofs(), log.size(), evicted, complete_since, views, streams)
        });
        if self.id() == self.served_by() {
            let change = &coverage.upstream().change;
            reading.stands(change.state.into(), change.flavour);
        }
        for kind in Kind::ALL.into_iter().filter(|kind| coverage.wants(*kind)) {
            if let Some(at) = proofs.get(kind) {
                reading.proven(kind, at);
            }
        }
        let [mut active, mut pending, mut refused] = [0; 3];
        for state in coverage.states() {
            *match state {
                BindingState::Active => &mut active,
                BindingState::Pending => &mut pending,
                BindingState::Refused(_) => &mut refused,
            } += 1;
        }
        reading.bindings(active, pending, refused);
        let (records, bytes) = size;
        reading.logs += 1;
        reading.log_records += records as u64;
        reading.log_bytes += bytes as u64;
        if evicted.0 > 0 {
            // What is too old goes with the next record or reader: it is not looked for here.
            let window = self.now().duration_since(complete_since).unwrap_or_default();
            reading.reaches_back(window.min(self.settings().log_age));
        }
        reading.views += views as u64;
        reading.streams += streams as u64;
    }
}

impl From<UpstreamState> for State {
    fn from(state: UpstreamState) -> Self {
        match state {
            UpstreamState::Connecting => State::Connecting,
            UpstreamState::Live => State::Live,
            UpstreamState::Degraded => State::Degraded,
            UpstreamState::Down => State::Down,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        binding::{AccountId, Binding, Flavour, OptIn, cover::cover},
        clock::TokioClock,
        config,
        hub::{Control, UpstreamChange, tests::call},
        telemetry::metrics::{Form, Metrics},
    };

    fn id(number: u32) -> AccountId {
        format!("account{number:025}").parse().unwrap()
    }

    /// A configured account and two below it are one account for metrics, whatever the number of descendants.
    #[tokio::test(start_paused = true)]
    async fn descendants_count_for_the_account_that_serves_them() {
        let clock = TokioClock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let settings = config::Hub { log_records: 100, ..config::Hub::default() };
        let hub = Arc::new(Hub::new(settings, Arc::new(clock), || 1));
        let binding = Binding::parse("call.*.*", &OptIn::default()).unwrap();
        for number in 1..=3 {
            let account = hub.add(id(number), id(1), vec![binding.clone()]);
            account.record(Control::Upstream(UpstreamChange {
                state: UpstreamState::Live,
                flavour: Some(Flavour::K5),
                last_life: None,
                detail: "".into(),
            }));
            for held in cover([&binding], Flavour::K4) {
                account.record(Control::Confirmed { binding: held });
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Only this log lets go of something.
        for _ in 0..150 {
            hub.get(&id(2)).unwrap().append(call("CHANNEL_CREATE", "x"));
        }
        tokio::time::sleep(Duration::from_secs(5)).await;

        let metrics = Metrics::new();
        let read = hub.clone();
        metrics.read_from(move |reading| read.read(reading));
        let text = metrics.expose(Form::Prometheus);
        let of = |name: &str, labels: &str| {
            let series = format!("{name}{{account=\"{}\"{labels}}} ", id(1));
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("none").to_owned()
        };
        assert_eq!(of("hawking_upstream_up", ""), "1");
        assert_eq!(of("hawking_upstream_state", ",state=\"live\""), "1", "the upstream is one");
        assert_eq!(of("hawking_upstream_flavour_info", ",flavour=\"k5\""), "1");
        assert_eq!(of("hawking_upstream_bindings", ",state=\"active\""), "3");
        assert_eq!(of("hawking_upstream_proven_timestamp_seconds", ",kind=\"call\""), "1000060");
        assert_eq!(of("hawking_logs", ""), "3");
        let records: usize = hub.list().iter().map(|account| account.status().records).sum();
        assert!(records > 100);
        assert_eq!(of("hawking_log_records", ""), records.to_string());
        assert_eq!(of("hawking_log_window_seconds", ""), "5");
        assert!(!text.contains(id(2).as_str()) && !text.contains(id(3).as_str()));
    }
}
