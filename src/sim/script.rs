//! A script of faults: control verbs, each at its time. Written by hand, or made up from a seed; as text it is one JSON object
//! a line, so that what a random run did can be kept and run again.
//!
//! ```text
//! {"at":12.5,"verb":"/restart_listener","body":{}}
//! {"at":30.0,"verb":"/blackhole_door","body":{"door":"closed"}}
//! {"at":34.0,"verb":"/blackhole_door","body":{"door":"open"}}
//! ```

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{ControlError, Simulator};
use crate::random::{Random, between};

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Script {
    /// In order of time.
    steps: Vec<Step>,
}

/// One verb of a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, in seconds since the script's start.
    pub at: f64,
    /// A verb of the control API: `/cut`.
    pub verb: String,
    /// Its body.
    #[serde(default = "empty")]
    pub body: Value,
}

fn empty() -> Value {
    json!({})
}

/// A line of a script is no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the script: {reason}")]
pub struct ScriptError {
    /// Counted from 1.
    line: usize,
    reason: String,
}

impl FromStr for Script {
    type Err = ScriptError;

    /// Reads a script. Empty lines and lines that start with `#` count for nothing.
    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut steps = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |reason: String| ScriptError { line: at + 1, reason };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let step: Step = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if Duration::try_from_secs_f64(step.at).is_err() {
                return Err(wrong("`at` is no time".into()));
            }
            steps.push(step);
        }
        Ok(Self::of(steps))
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{}", serde_json::to_string(step).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

impl Script {
    fn of(mut steps: Vec<Step>) -> Self {
        steps.sort_by(|one, other| one.at.total_cmp(&other.at));
        Self { steps }
    }

    /// The steps, in order of time.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Makes up faults: one about each `every`, of all kinds, for a time of `lasting`; the last twentieth of it is quiet, with
    /// everything healed. `unsubscribed` are pairs of account and binding for foreign unsubscribes.
    pub fn random(
        random: &dyn Random,
        lasting: Duration,
        every: Duration,
        unsubscribed: &[(String, String)],
    ) -> Self {
        let end = lasting.mul_f64(0.95);
        let mut steps = Vec::new();
        let mut at = Duration::ZERO;
        loop {
            at += between(random, every / 2, every + every / 2);
            if at >= end {
                break;
            }
            let until = (at + between(random, Duration::from_secs(2), Duration::from_secs(60))).min(end);
            for (at, verb, body) in fault(random, at, until, unsubscribed) {
                steps.push(Step { at: at.as_secs_f64(), verb: verb.to_owned(), body });
            }
        }
        steps.push(Step { at: end.as_secs_f64(), verb: "/heal".into(), body: empty() });
        Self::of(steps)
    }
}

/// A fault at one time and, if it lasts, its end at another.
fn fault(
    random: &dyn Random,
    at: Duration,
    until: Duration,
    unsubscribed: &[(String, String)],
) -> Vec<(Duration, &'static str, Value)> {
    let pick = |count: usize| {
        usize::try_from(random.next_u64() % u64::try_from(count.max(1)).unwrap_or(1)).unwrap_or_default()
    };
    let once = |verb, body| vec![(at, verb, body)];
    let while_it_lasts = |verb, body, after| vec![(at, verb, body), (until, verb, after)];
    match pick(16) {
        0 => once("/cut", json!({})),
        1 => once("/kill", json!({})),
        2 => {
            let code = [1000, 1001, 1011][pick(3)];
            once("/close", json!({ "code": code }))
        }
        3 | 4 => once("/restart_listener", json!({})),
        5 => once("/broker_outage", json!({ "seconds": (until - at).as_secs_f64() })),
        6 => match unsubscribed.get(pick(unsubscribed.len())) {
            Some((account, binding)) => {
                once("/unsubscribe", json!({ "account_id": account, "binding": binding }))
            }
            None => once("/cut", json!({})),
        },
        7 => vec![(at, "/freeze", json!({})), (until, "/thaw", json!({}))],
        8 => while_it_lasts("/drop_replies", json!({ "probability": 0.2 }), json!({})),
        9 => while_it_lasts("/bind_late", json!({ "ms": 1500 }), json!({})),
        10 => while_it_lasts("/delay", json!({ "ms": 200, "jitter_ms": 300 }), json!({})),
        11 => while_it_lasts("/reorder", json!({ "probability": 0.1, "ms": 50 }), json!({})),
        12 => while_it_lasts("/duplicate", json!({ "probability": 0.3 }), json!({})),
        13 => {
            let status = [400, 403, 429, 500][pick(4)];
            let mut steps = while_it_lasts("/refuse_upgrades", json!({ "status": status }), json!({}));
            steps.push((at, "/cut", json!({})));
            steps
        }
        14 => {
            let door = ["closed", "resets", "hangs"][pick(3)];
            let mut steps =
                while_it_lasts("/blackhole_door", json!({ "door": door }), json!({ "door": "open" }));
            steps.push((at, "/cut", json!({})));
            steps
        }
        _ => {
            let fault = [json!({ "status": 503 }), json!({ "hangs": true }), json!({ "delay_ms": 3000 })];
            let mut steps = while_it_lasts("/crossbar", fault[pick(3)].clone(), json!({}));
            steps.push((at, "/cut", json!({})));
            steps
        }
    }
}

impl Simulator {
    /// Runs a script from now on, until its end or `stop`.
    ///
    /// # Errors
    ///
    /// Where a step's verb is not there or its body is not right; the steps after it are not run.
    pub async fn run(&self, script: &Script, stop: &CancellationToken) -> Result<(), ControlError> {
        let start = Instant::now();
        for step in &script.steps {
            let at = Duration::try_from_secs_f64(step.at).unwrap_or_default();
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(start + at) => {
                    self.control(&step.verb, step.body.clone())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{random::SeededRandom, sim::Settings};

    const HOUR: Duration = Duration::from_secs(3600);

    fn hour(seed: u64) -> Script {
        let unsubscribed = [("account0000000000000000000000002".to_owned(), "object.*.*".to_owned())];
        Script::random(&SeededRandom::new(seed), HOUR, Duration::from_secs(30), &unsubscribed)
    }

    #[test]
    fn the_same_seed_is_the_same_script_and_it_can_be_kept() {
        let script = hour(7);
        assert_eq!(script, hour(7));
        assert_ne!(script, hour(8));
        assert_eq!(script.to_string().parse(), Ok(script));
    }

    #[test]
    fn what_is_no_step_is_named_by_its_line() {
        for (text, line) in [("{}", 1), ("# remark\n\n{\"at\":-1,\"verb\":\"/cut\"}", 3), ("x", 1)] {
            assert_eq!(text.parse::<Script>().unwrap_err().line, line, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_random_hour_runs_to_its_quiet_end() {
        let mut verbs: Vec<String> = Vec::new();
        for seed in 0..5 {
            let script = hour(seed);
            let sim = Simulator::in_memory(Settings::default());
            let start = Instant::now();
            sim.run(&script, &CancellationToken::new()).await.unwrap();
            assert_eq!(start.elapsed().as_secs(), 3420);
            verbs.extend(script.steps().iter().map(|step| step.verb.clone()));
            sim.shutdown().await;
        }
        verbs.sort();
        verbs.dedup();
        assert_eq!(verbs.len(), 17, "all kinds: {verbs:?}");
    }
}
