//! What metrics say of accounts and logs, read when somebody scrapes.
//!
//! Each account's lock is taken for a moment and for nothing that grows with the log. A descendant counts for the account
//! whose session serves it.

use std::{sync::Arc, time::Duration};

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
        let now = self.now();
        let (coverage, proofs, size, evicted, window, views, streams) = self.with_state(|state| {
            state.evict(now);
            (
                Arc::clone(state.log.head()),
                state.log.proofs(),
                state.log.size(),
                state.log.evicted(),
                state.log.window(),
                state.views(),
                state.subscriptions(),
            )
        });
        if self.id() == self.served_by() {
            let change = &coverage.upstream().change;
            reading.stands(change.state.into(), change.flavour);
        }
        for kind in Kind::ALL {
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
            let age = window.oldest_time.and_then(|oldest| now.duration_since(oldest).ok());
            reading.reaches_back(age.unwrap_or(Duration::ZERO));
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
