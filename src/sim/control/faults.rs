//! The verbs that let things go wrong: each is the method of [`Simulator`] that the table names, which says more.
//!
//! | verb | body | method |
//! | --- | --- | --- |
//! | `/restart_listener` | `node`; none: all | [`Simulator::restart_listener`] |
//! | `/broker_outage` | `seconds`; none: until healed; 0: it is over | [`Simulator::broker_outage`] |
//! | `/unsubscribe` | `account_id`, `binding` | [`Simulator::foreign_unsubscribe`] |
//! | `/drop_replies` | `every` or `probability`; none: no more | [`Simulator::drop_replies`] |
//! | `/bind_late` | `ms` | [`Simulator::bind_late`] |
//! | `/freeze`, `/thaw` | `connection`; none: all | [`Simulator::freeze`], [`Simulator::thaw`] |
//! | `/delay` | `ms`, `jitter_ms` | [`Simulator::delay`] |
//! | `/lag` | `ms`, `connection`; none: all | [`Simulator::lag`] |
//! | `/reorder` | `probability`, `ms` | [`Simulator::reorder`] |
//! | `/duplicate` | `probability` | [`Simulator::duplicate`] |
//! | `/close` | `code`, `connection`; none: all | [`Simulator::close`] |
//! | `/refuse_upgrades` | `status`; none: no more | [`Simulator::refuse_upgrades`] |
//! | `/blackhole_door`, `/crossbar_door` | `door`: `open`, `closed`, `resets`, `hangs` | [`Simulator::blackhole_door`], [`Simulator::crossbar_door`] |
//! | `/refuse_tokens` | `on` | [`Simulator::refuse_tokens`] |
//! | `/token_life` | `seconds` | [`Simulator::token_life`] |
//! | `/crossbar` | `path`, `delay_ms`, `status`, `hangs`; none: no more | [`Simulator::crossbar_fault`] |
//! | `/idle_timeout` | `ms`, for pings `keep_alive_ms`; none: as it was | [`Simulator::idle_timeout`] |
//! | `/heal` | | [`Simulator::heal`] |

use std::time::Duration;

use serde_json::{Value, json};

use super::{ControlError, account, bad, number};
use crate::sim::{CrossbarFault, Door, ReplyLoss, Simulator, json::Json};

/// Runs a verb; `None` where it is not one of these.
pub(super) fn run(sim: &Simulator, path: &str, body: &Json) -> Result<Option<Value>, ControlError> {
    let connection = || number(body, "connection");
    let ms =
        |key: &str| Ok::<_, ControlError>(number(body, key)?.map(Duration::from_millis).unwrap_or_default());
    let mut sessions = None;
    match path {
        "/restart_listener" => sim.restart_listener(number(body, "node")?),
        "/broker_outage" => sim.broker_outage(seconds(body, "seconds")?.unwrap_or(Duration::MAX)),
        "/unsubscribe" => {
            let binding = body.str("binding").ok_or_else(|| bad("`binding` is missing"))?;
            sim.foreign_unsubscribe(&account(body)?, binding);
        }
        "/drop_replies" => sim.drop_replies(match (number(body, "every")?, probability(body)?) {
            (Some(every), _) => ReplyLoss::Every(every),
            (None, Some(share)) => ReplyLoss::Share(share),
            (None, None) => ReplyLoss::Every(0),
        }),
        "/bind_late" => sim.bind_late(ms("ms")?),
        "/freeze" => sessions = Some(sim.freeze(connection()?)),
        "/thaw" => sessions = Some(sim.thaw(connection()?)),
        "/lag" => sessions = Some(sim.lag(connection()?, ms("ms")?)),
        "/delay" => sim.delay(ms("ms")?, ms("jitter_ms")?),
        "/reorder" => sim.reorder(probability(body)?.unwrap_or(0.0), ms("ms")?),
        "/duplicate" => sim.duplicate(probability(body)?.unwrap_or(0.0)),
        "/close" => {
            let code = number(body, "code")?.unwrap_or(1000);
            if !(1000..5000).contains(&code) {
                return Err(bad("`code` is from 1000 to 4999"));
            }
            sessions = Some(sim.close(code, connection()?));
        }
        "/refuse_upgrades" => sim.refuse_upgrades(status(body)?),
        "/blackhole_door" => sim.blackhole_door(door(body)?),
        "/crossbar_door" => sim.crossbar_door(door(body)?),
        "/refuse_tokens" => sim.refuse_tokens(flag(body, "on")?),
        "/token_life" => {
            sim.token_life(seconds(body, "seconds")?.ok_or_else(|| bad("`seconds` is missing"))?);
        }
        "/crossbar" => {
            let fault = CrossbarFault {
                path: body.str("path").unwrap_or_default().to_owned(),
                delay: ms("delay_ms")?,
                status: status(body)?,
                hangs: flag(body, "hangs")?,
            };
            sim.crossbar_fault((fault != CrossbarFault::default()).then_some(fault));
        }
        "/idle_timeout" => {
            let timeout = number(body, "ms")?.map(Duration::from_millis);
            sim.idle_timeout(timeout.unwrap_or(sim.inner.cluster.settings.idle_timeout));
            if let Some(interval) = number(body, "keep_alive_ms")? {
                sim.inner.cluster.set_keep_alive(Some(Duration::from_millis(interval)));
            }
            let shown =
                timeout.map_or("?MILLISECONDS_IN_HOUR".into(), |timeout| timeout.as_millis().to_string());
            return Ok(Some(json!({ "ok": true, "idle_timeout": shown })));
        }
        "/heal" => sim.heal(),
        _ => return Ok(None),
    }
    Ok(Some(match sessions {
        Some(sessions) => json!({ "ok": true, "sessions": sessions }),
        None => json!({ "ok": true }),
    }))
}

fn real(body: &Json, key: &str) -> Result<Option<f64>, ControlError> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(bad(&format!("`{key}` is no number"))),
    }
}

fn seconds(body: &Json, key: &str) -> Result<Option<Duration>, ControlError> {
    let out_of_range = |_| bad(&format!("`{key}` is out of range"));
    real(body, key)?.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(out_of_range)).transpose()
}

fn probability(body: &Json) -> Result<Option<f64>, ControlError> {
    match real(body, "probability")? {
        Some(share) if !(0.0..=1.0).contains(&share) => Err(bad("`probability` is from 0 to 1")),
        share => Ok(share),
    }
}

fn status(body: &Json) -> Result<Option<u16>, ControlError> {
    match number(body, "status")? {
        Some(status) if !(200..600).contains(&status) => Err(bad("`status` is from 200 to 599")),
        status => Ok(status),
    }
}

fn flag(body: &Json, key: &str) -> Result<bool, ControlError> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(on)) => Ok(*on),
        Some(_) => Err(bad(&format!("`{key}` is true or false"))),
    }
}

fn door(body: &Json) -> Result<Door, ControlError> {
    match body.str("door") {
        Some("open") => Ok(Door::Open),
        Some("closed") => Ok(Door::Closed),
        Some("resets") => Ok(Door::Resets),
        Some("hangs") => Ok(Door::Hangs),
        _ => Err(bad("`door` is `open`, `closed`, `resets` or `hangs`")),
    }
}
