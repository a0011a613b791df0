//! The `data` of a subscribe or unsubscribe: what it names, and whether its format is right.

use super::{Crash, Refusal};
use crate::{
    binding::{AccountId, Flavour},
    sim::{bindings, json::Json},
};

/// What is to be subscribed or unsubscribed, its format checked.
pub(super) struct Subscription {
    /// More than one on K5 alone (G4).
    pub bindings: Vec<String>,
    /// `None` where it is no string (K4, 4.3): then authorization and resolving crash, each in its own way.
    pub account: Option<String>,
}

impl Subscription {
    /// Reads a message's. `own` is the account of the session, `admin` whether that is a superduper admin.
    pub fn read(
        message: &Json,
        flavour: Flavour,
        own: Option<AccountId>,
        admin: bool,
    ) -> Result<Result<Self, Refusal>, Crash> {
        let read = match flavour {
            Flavour::K4 | Flavour::V4_3 => single(message)?,
            Flavour::K5 => list(message, own)?,
        };
        Ok(read.and_then(|subscription| {
            let mut bindings = subscription.bindings.iter();
            bindings.try_for_each(|binding| bindings::validate(binding, flavour, admin))?;
            Ok(subscription)
        }))
    }
}

fn single(message: &Json) -> Result<Result<Subscription, Refusal>, Crash> {
    let data = match message.get("data") {
        Some(data @ Json::Object(pairs)) if !pairs.is_empty() => data,
        _ => return Ok(Err("missing required keys in data object".into())),
    };
    let missing: Vec<&str> =
        ["account_id", "binding"].into_iter().filter(|key| data.get(key).is_none()).collect();
    if !missing.is_empty() {
        return Ok(Err(format!("missing required keys : {}", missing.join(", "))));
    }
    let Some(binding) = data.str("binding") else {
        return Err(Crash);
    };
    let account = data.str("account_id").map(str::to_owned);
    Ok(Ok(Subscription { bindings: vec![binding.to_owned()], account }))
}

/// A list wins over a single binding, and need not name an account (G4, G5). What crashes differs too (G9).
fn list(message: &Json, own: Option<AccountId>) -> Result<Result<Subscription, Refusal>, Crash> {
    let empty = || Ok(Err("empty subscription".into()));
    let data = match message.get("data") {
        Some(data @ Json::Object(_)) => data,
        None | Some(Json::Array(_)) => return empty(),
        Some(_) => return Err(Crash),
    };
    let bindings: Vec<String> = match data.get("bindings") {
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or(Crash))
            .collect::<Result<_, _>>()?,
        Some(_) => Vec::new(),
        None => data.non_empty("binding").into_iter().collect(),
    };
    if bindings.is_empty() {
        return empty();
    }
    let account = data.non_empty("account_id").or_else(|| own.map(|own| own.to_string()));
    Ok(Ok(Subscription { bindings, account }))
}
