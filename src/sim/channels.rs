//! The calls that are up, as `GET /v2/accounts/{ID}/channels` tells of them: kept from the call events published.

use std::collections::BTreeMap;

use super::{
    event::Event,
    json::{Json, Object},
};

/// The calls that are up, by account and call id.
#[derive(Debug, Default)]
pub(super) struct Channels(BTreeMap<(String, String), Object>);

impl Channels {
    /// Takes note of an event, at `now` in Gregorian seconds.
    pub fn note(&mut self, event: &Event, now: u64) {
        let (Some((call_id, name)), Some(account)) = (event.as_call(), event.account()) else {
            return;
        };
        let key = (account, call_id.clone());
        match name.as_str() {
            "CHANNEL_CREATE" => {
                let text = |key: &str| Json::from(event.field(key).unwrap_or_default());
                let channel = [
                    ("uuid", call_id.into()),
                    ("direction", text("Call-Direction")),
                    ("other_leg", text("Other-Leg-Call-ID")),
                    ("answered", Json::Bool(false)),
                    ("destination", text("Request")),
                    ("presence_id", text("Presence-ID")),
                    ("timestamp", Json::Number(now.into())),
                ];
                self.0.insert(key, channel.map(|(key, value)| (key.to_owned(), value)).to_vec());
            }
            "CHANNEL_ANSWER" => {
                let answered = self.0.get_mut(&key).and_then(|channel| {
                    channel.iter_mut().find(|(key, _)| key == "answered").map(|(_, value)| value)
                });
                if let Some(answered) = answered {
                    *answered = Json::Bool(true);
                }
            }
            "CHANNEL_DESTROY" => _ = self.0.remove(&key),
            _ => {}
        }
    }

    /// The calls of an account.
    pub fn of(&self, account: &str) -> Vec<Json> {
        let own = self.0.iter().filter(|((owner, _), _)| owner == account);
        own.map(|(_, channel)| Json::Object(channel.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::accounts::recorded_accounts;

    #[test]
    fn a_call_is_up_from_create_to_destroy() {
        let account = &recorded_accounts()[1];
        let mut channels = Channels::default();
        let mut note = |name| {
            channels.note(&Event::call(account, name, "a@b"), 1);
            channels.of(account.id.as_str()).iter().map(|c| c.get("answered").cloned()).collect::<Vec<_>>()
        };
        assert_eq!(note("CHANNEL_CREATE"), [Some(Json::Bool(false))]);
        assert_eq!(note("CHANNEL_ANSWER"), [Some(Json::Bool(true))]);
        assert_eq!(note("CHANNEL_DESTROY"), []);
    }
}
