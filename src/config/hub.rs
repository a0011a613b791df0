//! Logs and subscriptions.

use std::time::Duration;

use super::{
    form::{bytes, count, span},
    reader::Checks,
    settings::settings,
};

settings! {
    /// Logs and subscriptions.
    pub struct Hub {
        /// The log of one account, from which consumers resume: bytes of memory at most, with all that belongs to it.
        log_bytes: usize = 64 << 20, as bytes(64 << 10, 1 << 40);
        /// The logs of a configured account and of all accounts below it, together. Where they take more, the largest of
        /// them are cut down to one size.
        account_log_bytes: usize = 256 << 20, as bytes(64 << 10, 1 << 40);
        /// All logs together; in the same way. Beside them the process needs some 30 MiB, a few KiB for each stream, and up
        /// to 256 KiB for one whose consumer does not read.
        total_log_bytes: usize = 512 << 20, as bytes(64 << 10, 1 << 40);
        /// Records at most.
        log_records: usize = 200_000, as count(100, 1_000_000_000);
        /// Age at most.
        log_age: Duration = Duration::from_hours(1), as span(Duration::from_secs(1), Duration::from_hours(24 * 31));
        /// How long a binding is still held upstream after its last consumer left.
        linger: Duration = Duration::from_secs(60), as span(Duration::ZERO, Duration::from_hours(24));
        /// How long Subscribe waits at most for its bindings to be confirmed before it says that they are pending.
        confirm_wait: Duration = Duration::from_secs(2), as span(Duration::ZERO, Duration::from_secs(60));
        /// How long a request for an account that nobody knows waits at most for Crossbar to be asked for the descendants
        /// of the configured accounts.
        lookup_wait: Duration = Duration::from_secs(3), as span(Duration::ZERO, Duration::from_secs(60));
        /// How often such requests make hawking ask at most, for each configured account. So long can it take until an
        /// account that is new in Kazoo is found.
        lookup_interval: Duration = Duration::from_secs(30), as span(Duration::from_millis(10), Duration::from_hours(24));
        /// Open subscriptions at most, for each account.
        max_subscriptions_per_account: usize = 10_000, as count(1, 10_000_000);
        /// Open subscriptions at most, for the process.
        max_subscriptions: usize = 20_000, as count(1, 10_000_000);
    }
}

impl Hub {
    pub(super) fn check(&self, checks: &mut Checks<'_, '_>) {
        let log = ("hub.log_bytes", self.log_bytes);
        let account = ("hub.account_log_bytes", self.account_log_bytes);
        checks.no_larger(log, account);
        checks.no_larger(account, ("hub.total_log_bytes", self.total_log_bytes));
    }
}
