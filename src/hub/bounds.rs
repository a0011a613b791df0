//! The task that keeps the bounds which no append can keep alone: those of several logs together, and the age of logs to which
//! nothing is appended. What is counted, and the rule: [`memory`](super::memory).

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::telemetry::throttle::Throttle;

use super::{
    account::{Account, Hub},
    log::store::AT_ONCE,
    memory::{Pool, level},
};

/// Between two trims. What is appended meanwhile finds the pool full at worst, and takes the place of older records.
const PAUSE: Duration = Duration::from_millis(100);
/// Logs that are looked at before others have their turn.
const LOGS_PER_TURN: usize = 64;
/// All logs are looked at for records that are too old, so often within `hub.log_age`, and at least once a minute.
const LOOKS_PER_AGE: u32 = 16;
const LOOK_AT_LEAST: Duration = Duration::from_secs(60);
/// One line of log about trims in this time.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl Hub {
    /// Keeps the bounds for as long as it is polled; never returns. Whoever starts a hub runs it, once.
    pub async fn keep_bounds(&self) {
        let mut said = Throttle::every(SAY_EVERY);
        let mut next_look = Instant::now();
        loop {
            let interval = (self.settings().log_age / LOOKS_PER_AGE).min(LOOK_AT_LEAST);
            next_look = next_look.min(Instant::now() + interval);
            tokio::select! {
                () = self.memory().trim.notified() => {
                    if let (true, Some(times)) = (self.trim().await, said.hit(Instant::now())) {
                        let used = self.memory_use();
                        tracing::warn!(
                            times,
                            logs_bytes = used.logs,
                            limit = used.limit,
                            "logs are trimmed: they take what hub.account_log_bytes or hub.total_log_bytes allows; \
                             consumers can resume from less far back",
                        );
                    }
                    sleep(PAUSE).await;
                }
                () = sleep_until(next_look) => {
                    self.evict_aged().await;
                    next_look = Instant::now() + interval;
                }
            }
        }
    }

    /// Cuts the largest logs of each pool that is past its mark. Says whether there was any.
    pub(super) async fn trim(&self) -> bool {
        let pools = self.memory().past_mark();
        for pool in &pools {
            let sizes = self
                .accounts
                .read()
                .values()
                .filter(|log| log.share.is_in(pool))
                .map(|log| log.log_bytes())
                .collect();
            let level = level(sizes, pool.aim());
            for log in self.logs_above(pool, level) {
                while log.with_state(|state| state.trim(level, AT_ONCE)) {
                    tokio::task::yield_now().await;
                }
            }
        }
        !pools.is_empty()
    }

    fn logs_above(&self, pool: &Arc<Pool>, level: usize) -> Vec<Arc<Account>> {
        let accounts = self.accounts.read();
        let above = accounts.values().filter(|log| log.log_bytes() > level && log.share.is_in(pool));
        above.map(Arc::clone).collect()
    }

    pub(super) async fn evict_aged(&self) {
        for logs in self.list().chunks(LOGS_PER_TURN) {
            for log in logs {
                while log.look() {
                    tokio::task::yield_now().await;
                }
            }
            tokio::task::yield_now().await;
        }
    }
}
