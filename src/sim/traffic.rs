//! Believable call traffic: calls with two legs that ring, are answered, held and hung up, several at once; and beside them
//! what else goes on in an account: voicemail, faxes, conferences, changed documents.
//!
//! The traffic is a function of seed, tenants, rate and start time, laid out in virtual time by [`Traffic`]; [`generate`]
//! publishes it on the simulator as real time passes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{AccountSpec, Simulator};
use crate::random::{self, SharedRandom};

mod call;
mod people;
mod side;

/// One account with its people.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The account's id, 32 characters.
    pub account_id: String,
    /// Its name.
    pub name: String,
    /// Its realm: presence events name an account by it alone.
    pub realm: String,
}

impl From<&AccountSpec> for Tenant {
    fn from(account: &AccountSpec) -> Self {
        Self { account_id: account.id.to_string(), name: account.name.clone(), realm: account.realm.clone() }
    }
}

/// Publishes traffic on the simulator as time passes, until `stop`: `rate` new calls a second, over all tenants together.
/// A rate of 0, or no tenants, publishes nothing.
pub async fn generate(
    simulator: Simulator,
    tenants: Vec<Tenant>,
    rate: f64,
    random: SharedRandom,
    stop: CancellationToken,
) {
    if rate <= 0.0 || tenants.is_empty() {
        return stop.cancelled().await;
    }
    let start = Instant::now();
    for (at, publication) in Traffic::new(tenants, rate, random, SystemTime::now()) {
        tokio::select! {
            // After a pause of this machine the events that are due come at once: no call loses its end.
            () = sleep_until(start + at) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = simulator.control("/publish", publication) {
            // A defect of this generator: the simulator refuses what it does not know.
            warn!(%error, "the simulator refuses an event of the traffic");
        }
    }
}

/// What is published when: in virtual time from the start of the traffic, in order.
pub struct Traffic {
    dice: Dice,
    tenants: Vec<Tenant>,
    /// Calls a second, over all tenants.
    rate: f64,
    start: SystemTime,
    next_arrival: Duration,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
}

/// One publication. Ordered by time, and for equal times by the order in which they were scheduled.
#[derive(Debug, PartialEq, Eq)]
struct Scheduled {
    at: Duration,
    order: u64,
    publication: Value,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Traffic {
    /// Traffic of `rate` calls a second (more than 0) on at least one tenant, whose timestamps begin at `start`.
    pub fn new(tenants: Vec<Tenant>, rate: f64, random: SharedRandom, start: SystemTime) -> Self {
        let mut traffic = Self {
            dice: Dice { random },
            tenants,
            rate,
            start,
            next_arrival: Duration::ZERO,
            queue: BinaryHeap::new(),
            scheduled: 0,
        };
        // The first call comes soon, so that somebody who looks does not look at nothing.
        traffic.next_arrival = traffic.dice.between(100, 400);
        traffic
    }

    /// Schedules all that one more call brings.
    fn arrive(&mut self) {
        let at = self.next_arrival;
        self.next_arrival += self.dice.exponential(Duration::from_secs_f64(1.0 / self.rate));
        let Some(tenant) = self.dice.pick(&self.tenants).cloned() else { return };
        let mut story =
            Story { dice: &mut self.dice, tenant: &tenant, start: self.start, events: Vec::new() };
        call::tell(&mut story, at);
        side::tell(&mut story, at);
        for (at, publication) in story.events {
            self.scheduled += 1;
            self.queue.push(Reverse(Scheduled { at, order: self.scheduled, publication }));
        }
    }
}

/// Endless: when, and the body of the simulator's `/publish`.
impl Iterator for Traffic {
    type Item = (Duration, Value);

    fn next(&mut self) -> Option<Self::Item> {
        // A call that arrives later cannot bring an event that is earlier than its arrival.
        while self.queue.peek().is_none_or(|Reverse(first)| first.at >= self.next_arrival) {
            if self.tenants.is_empty() {
                return None;
            }
            self.arrive();
        }
        self.queue.pop().map(|Reverse(first)| (first.at, first.publication))
    }
}

/// What happens around one call, as it is being told.
struct Story<'a> {
    dice: &'a mut Dice,
    tenant: &'a Tenant,
    start: SystemTime,
    events: Vec<(Duration, Value)>,
}

impl Story<'_> {
    /// Publishes an AMQP payload at a time; adds what every payload has.
    fn publish(&mut self, at: Duration, api: &str, mut extra: Value, mut event: Value) {
        event["Msg-ID"] = self.dice.hex(32).into();
        event["Node"] = "ecallmgr@apps1.example.com".into();
        event["App-Version"] = "4.3.0".into();
        extra["api"] = api.into();
        extra["event"] = event;
        self.events.push((at, extra));
    }

    /// A document was created, edited or deleted. `month` puts it into the account's database of the month.
    fn document(&mut self, at: Duration, action: &str, kind: &str, id: &str, month: bool) {
        let id_of_account = &self.tenant.account_id;
        let (head, rest) = id_of_account.split_at_checked(2).unwrap_or((id_of_account, ""));
        let (middle, tail) = rest.split_at_checked(2).unwrap_or((rest, ""));
        let mut database = format!("account%2F{head}%2F{middle}%2F{tail}");
        if month {
            database.push('-');
            database.push_str(&self.month(at));
        }
        let now = self.gregorian(at);
        let (revision, created) = match action {
            "created" => (1, now),
            _ => (self.dice.number(2, 9), now - self.dice.number(60, 90 * 86_400)),
        };
        let event = json!({
            "App-Name": "datamgr", "Event-Category": "configuration", "Event-Name": format!("doc_{action}"),
            "ID": id, "Type": kind, "Database": database, "Rev": format!("{revision}-{}", self.dice.hex(32)),
            "Account-ID": id_of_account, "Date-Created": created, "Date-Modified": now,
            "Is-Soft-Deleted": false, "Origin-Cache": "kazoo_data_cache",
        });
        let extra = json!({ "action": action, "db": database, "type": kind, "id": id });
        self.publish(at, "doc_update", extra, event);
    }

    /// Seconds since the year 0, as Kazoo counts.
    fn gregorian(&self, at: Duration) -> u64 {
        const UNIX_EPOCH: u64 = 62_167_219_200;
        UNIX_EPOCH + self.unix(at).as_secs()
    }

    fn unix(&self, at: Duration) -> Duration {
        (self.start + at).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }

    /// `YYYYMM` in UTC.
    fn month(&self, at: Duration) -> String {
        let seconds = i64::try_from(self.unix(at).as_secs()).unwrap_or_default();
        let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
        time.strftime("%Y%m").to_string()
    }
}

/// Draws from the injected randomness.
struct Dice {
    random: SharedRandom,
}

impl Dice {
    fn unit(&self) -> f64 {
        random::unit(&*self.random)
    }

    fn chance(&self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A whole number in `low..=high`.
    fn number(&self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high - low + 1)
    }

    /// A duration in milliseconds.
    fn between(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.number(low, high))
    }

    /// The time to the next of independent arrivals, at most ten times the mean.
    fn exponential(&self, mean: Duration) -> Duration {
        mean.mul_f64((-(1.0 - self.unit()).ln()).min(10.0))
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(from.len()).ok().filter(|len| *len > 0)?;
        from.get(usize::try_from(self.number(0, len - 1)).ok()?)
    }

    fn hex(&self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            text.push_str(&format!("{:016x}", self.random.next_u64()));
        }
        text.truncate(digits);
        text
    }

    /// In the form of a version 4 UUID.
    fn uuid(&self) -> String {
        let hex = self.hex(30);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30])
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use super::*;
    use crate::random::SeededRandom;

    const START: Duration = Duration::from_secs(1_790_000_000);

    fn traffic(seed: u64) -> Traffic {
        let tenant = |digit| Tenant {
            account_id: format!("account000000000000000000000000{digit}"),
            name: format!("Tenant {digit}"),
            realm: format!("t{digit}.example.com"),
        };
        let random = Arc::new(SeededRandom::new(seed));
        Traffic::new(vec![tenant(2), tenant(3)], 0.5, random, SystemTime::UNIX_EPOCH + START)
    }

    #[test]
    fn the_same_seed_gives_the_same_traffic() {
        let of = |seed| traffic(seed).take(500).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn time_does_not_go_backwards_and_the_rate_is_kept() {
        let hour = Duration::from_secs(3600);
        let events: Vec<_> = traffic(3).take_while(|(at, _)| *at < hour).collect();
        assert!(events.is_sorted_by_key(|(at, _)| *at));
        let first_legs = events
            .iter()
            .filter(|(_, body)| {
                body["event"]["Event-Name"] == "CHANNEL_CREATE"
                    && body["event"]["Call-Direction"] == "inbound"
            })
            .count();
        // 1800 are expected; four standard deviations are 170.
        assert!((1630..1970).contains(&first_legs), "{first_legs} calls in an hour");
    }

    #[test]
    fn message_ids_are_unique() {
        let mut seen = BTreeSet::new();
        for (_, body) in traffic(4).take(5000) {
            assert!(seen.insert(body["event"]["Msg-ID"].as_str().unwrap().to_owned()));
        }
    }

    #[test]
    fn every_leg_has_a_life_in_order() {
        let mut legs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut dotted = 0;
        for (_, body) in traffic(5).take(5000).filter(|(_, body)| body["api"] == "call_event") {
            let event = &body["event"];
            let id = event["Call-ID"].as_str().unwrap().to_owned();
            legs.entry(id).or_default().push(event["Event-Name"].as_str().unwrap().to_owned());
        }
        for (id, names) in &legs {
            dotted += usize::from(id.contains('.') && id.contains('@'));
            assert_eq!(names[0], "CHANNEL_CREATE", "{id}");
            let ends = names.iter().filter(|name| *name == "CHANNEL_DESTROY").count();
            assert!(
                ends == 0 || (ends == 1 && names.last().unwrap() == "CHANNEL_DESTROY"),
                "{id}: {names:?}"
            );
            let place = |name: &str| names.iter().position(|other| other == name);
            if let Some(bridge) = place("CHANNEL_BRIDGE") {
                assert!(place("CHANNEL_ANSWER").is_some_and(|answer| answer < bridge), "{id}: {names:?}");
            }
            if let Some(unhold) = place("CHANNEL_UNHOLD") {
                assert!(place("CHANNEL_HOLD").is_some_and(|hold| hold < unhold), "{id}: {names:?}");
            }
        }
        assert!(dotted > legs.len() / 5 && dotted < legs.len(), "{dotted} of {} ids have dots", legs.len());
        let all: BTreeSet<_> = legs.values().flatten().map(String::as_str).collect();
        let expected = [
            "CHANNEL_ANSWER",
            "CHANNEL_BRIDGE",
            "CHANNEL_CREATE",
            "CHANNEL_DESTROY",
            "CHANNEL_HOLD",
            "CHANNEL_UNHOLD",
        ];
        assert!(expected.iter().all(|name| all.contains(name)), "{all:?}");
    }

    #[test]
    fn all_kinds_of_event_come() {
        let apis: BTreeSet<_> =
            traffic(6).take(5000).map(|(_, body)| body["api"].as_str().unwrap().to_owned()).collect();
        let expected = [
            "call_event",
            "conference_event",
            "doc_update",
            "fax_status",
            "presence_dialog",
            "presence_mwi_update",
            "presence_update",
        ];
        assert_eq!(apis.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn times_are_gregorian() {
        let (at, body) = traffic(7).next().unwrap();
        let expected = 62_167_219_200 + (START + at).as_secs();
        assert_eq!(body["event"]["Timestamp"], expected);
    }
}
