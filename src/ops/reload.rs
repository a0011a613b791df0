//! New settings for a gateway that runs.
//!
//! A configuration that is wrong changes nothing: what was in force stays, and all of its errors are told. Of one that is
//! right, each difference is told and taken up: accounts come, change and go, limits hold for what comes (and for logs at
//! once). What is read at the start only (`, fixed` in `config`) stays as it is, which is told too, each time. Whom a change
//! does not concern does not notice it.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    binding::AccountId,
    clock::SharedClock,
    config::{self, Changes, Config, ConfigErrors, InForce},
    hub::Hub,
    telemetry::{
        logging::Logging,
        metrics::{Metrics, ReloadOutcome},
    },
    upstream::Accounts,
};

use super::drain::Drain;

/// Where new settings go.
pub struct Parts {
    /// Accounts come and go.
    pub accounts: Arc<Accounts>,
    /// Logs and subscriptions.
    pub hub: Arc<Hub>,
    /// The consumers' listener.
    pub grpc: InForce<config::Grpc>,
    /// The drain, and its times.
    pub drain: Drain,
    /// For the time of an attempt.
    pub clock: SharedClock,
    /// Where attempts are counted.
    pub metrics: Arc<Metrics>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing differs that can change.
    Unchanged {
        /// What is set otherwise than it is in force, because it needs a restart: `key: in force -> set`.
        kept: Vec<String>,
    },
    /// Differences were taken up.
    Applied {
        /// How many.
        changes: usize,
        /// As above.
        kept: Vec<String>,
    },
    /// It was wrong: what was in force stays.
    Refused {
        /// Each error, without secrets.
        errors: Vec<String>,
    },
}

/// Gives new settings to a gateway.
pub struct Reload {
    parts: Parts,
    running: InForce<Config>,
    logging: Option<Logging>,
}

impl Reload {
    /// Of a gateway that was started with `running`.
    pub fn new(running: Config, parts: Parts) -> Self {
        Self { parts, running: running.into(), logging: None }
    }

    /// Log levels change too from now on.
    pub fn set_logging(&mut self, logging: Logging) {
        self.logging = Some(logging);
    }

    /// What is in force.
    pub fn running(&self) -> InForce<Config> {
        self.running.clone()
    }

    /// Tries a new configuration. It takes a moment where sessions have to be closed. `why` is for the log, which also says
    /// all that is said by what is given back.
    pub async fn apply(&mut self, new: Result<Config, ConfigErrors>, why: &str) -> Outcome {
        let outcome = self.try_out(new, why).await;
        let counted = match &outcome {
            Outcome::Unchanged { .. } => ReloadOutcome::Unchanged,
            Outcome::Applied { .. } => ReloadOutcome::Applied,
            Outcome::Refused { .. } => ReloadOutcome::Rejected,
        };
        self.parts.metrics.reloaded(counted, self.parts.clock.now());
        outcome
    }

    async fn try_out(&mut self, new: Result<Config, ConfigErrors>, why: &str) -> Outcome {
        let running = self.running.get();
        let adopted = new.and_then(|new| {
            let kept = Changes::between(&running, &new).settings.into_iter().filter(|change| change.is_fixed);
            let kept: Vec<String> = kept.map(|change| change.to_string()).collect();
            Ok((new.adopt(&running)?, kept))
        });
        let refused = match adopted {
            // What `serve` would not start with.
            Ok((new, _)) if new.accounts.is_empty() => vec!["no account is configured".to_owned()],
            Ok((new, kept)) => {
                for change in &kept {
                    warn!(%change, "needs a restart; it stays as it is until then");
                }
                let changes = Changes::between(&running, &new);
                let count = changes.count();
                if changes.is_empty() {
                    info!(why, "the configuration was read again: nothing else is new");
                    return Outcome::Unchanged { kept };
                }
                info!(why, changes = count, "the configuration has changed");
                // In force once it is: who looks meanwhile sees the old one.
                self.take_up(&new, changes).await;
                self.running.set(new);
                return Outcome::Applied { changes: count, kept };
            }
            Err(ConfigErrors(errors)) => errors.iter().map(ToString::to_string).collect(),
        };
        error!(why, errors = refused.len(), "the configuration is wrong, and the one before stays in force:");
        for error in &refused {
            error!("{error}");
        }
        Outcome::Refused { errors: refused }
    }

    async fn take_up(&self, new: &Config, changes: Changes) {
        for change in &changes.settings {
            info!(%change, "changed");
        }
        let Parts { accounts, hub, grpc, drain, .. } = &self.parts;
        if changes.concern("telemetry")
            && let Some(logging) = &self.logging
            && let Err(error) = logging.set_filter(&new.telemetry.log_filter)
        {
            warn!(%error, "the log filter stays as it is");
        }
        if changes.concern("hub") {
            hub.reconfigure(new.hub.clone()).await;
        }
        if changes.concern("grpc") {
            grpc.set(new.grpc.clone());
        }
        if changes.concern("shutdown") {
            drain.reconfigure(new.shutdown.clone());
        }
        if changes.concern("upstream") {
            accounts.reconfigure(new.upstream.clone());
        }
        for (account, what) in &changes.changed {
            for change in what {
                info!(account = %account.id, %change, "changed");
            }
        }
        accounts.change(changes.changed.into_iter().map(|(account, _)| account).collect());
        // Before any goes: what it served may move to a new one.
        let added: Vec<AccountId> = changes.added.iter().map(|account| account.id).collect();
        accounts.add(changes.added);
        for id in added {
            info!(account = %id, "a new account");
        }
        for id in &changes.removed {
            info!(account = %id, "an account goes");
        }
        accounts.remove(&changes.removed).await;
    }
}

/// The signal that asks for a reload, caught from the moment of [`Hangups::catch`] on.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Starts to catch it: from here on SIGHUP does not end the process by itself.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to install a handler.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one. Dropping the future loses nothing; several that came since are one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
