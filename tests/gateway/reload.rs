//! New settings while consumers read: whom a change does not concern does not notice it.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use hawking::{
    binding::{AccountId, Binding, OptIn},
    cli::serve::Gateway,
    config::{self, AccountName, Config, ConfigErrors, Credentials, HashMethod},
    ops::reload::Outcome,
    proto::event_service_client::EventServiceClient,
    random::{Random, SeededRandom},
    sim::{AccountSpec, Event, Happening, Settings, Simulator},
    telemetry::metrics::Form,
    upstream::Seams,
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};
use url::Url;

use super::{
    harness::{account_id, channel, eventually, settings, soon},
    numbered::{Reading, Traffic, reason},
    whole::config as config_for,
};

fn id(number: usize) -> AccountId {
    account_id(&format!("reload{number:026}"))
}

fn spec(number: usize, parent: Option<AccountId>) -> AccountSpec {
    let name = format!("reload{number}");
    AccountSpec::new(id(number), &name, &format!("{name}.example.com"), parent)
        .with_api_key(&format!("key{number}"))
        .with_user(&format!("user{number}"), &format!("pass{number}"))
}

/// How an account is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Way {
    by_password: bool,
    by_name: bool,
    other_host: bool,
    always_on: bool,
}

struct Place {
    sim: Simulator,
    gateway: Gateway,
    client: EventServiceClient<Channel>,
    base: Config,
}

impl Place {
    /// With these accounts configured.
    async fn start(specs: Vec<AccountSpec>, ways: &BTreeMap<usize, Way>) -> Self {
        let sim = Simulator::start(Settings { accounts: specs, ..Settings::default() });
        let sim = sim.await.unwrap();
        let mut base = config_for(&sim);
        base.grpc = config::Grpc { listen: ([127, 0, 0, 1], 0).into(), ..settings() };
        base.upstream.rotation_grace = Duration::from_millis(50);
        base.upstream.logins_per_second = 1000;
        base.upstream.descendants_interval = Duration::from_millis(50);
        base.accounts = accounts(&base, ways);
        let seams = Seams::system(&base.upstream).unwrap();
        let gateway = Gateway::start(base.clone(), seams).await.unwrap();
        let client = EventServiceClient::new(channel(gateway.grpc_addr()).await);
        Self { sim, gateway, client, base }
    }

    /// What the next change is made of: what is in force, with other accounts.
    fn with(&self, ways: &BTreeMap<usize, Way>) -> Config {
        Config { accounts: accounts(&self.base, ways), ..self.base.clone() }
    }

    async fn apply(&mut self, config: Result<Config, ConfigErrors>) -> Outcome {
        soon("a reload", self.gateway.reload().apply(config, "a test")).await
    }

    async fn subscribe(&mut self, number: usize) -> Result<Reading, Status> {
        Reading::begin(&mut self.client, id(number)).await
    }

    async fn stop(self) {
        soon("the gateway ends", self.gateway.stop()).await;
        soon("the simulator ends", self.sim.shutdown()).await;
    }
}

fn accounts(base: &Config, ways: &BTreeMap<usize, Way>) -> Vec<config::Account> {
    let account = |(number, way): (&usize, &Way)| config::Account {
        id: id(*number),
        crossbar_url: None,
        // The same server by another name.
        blackhole_url: way.other_host.then(|| {
            let url = base.upstream.blackhole_url.as_str();
            Url::parse(&url.replace("127.0.0.1", "localhost")).unwrap()
        }),
        credentials: match way.by_password {
            true => Credentials::User {
                username: format!("user{number}"),
                password: format!("pass{number}").into(),
                method: HashMethod::Md5,
                realm: match way.by_name {
                    true => AccountName::Name(format!("reload{number}")),
                    false => AccountName::Realm(format!("reload{number}.example.com")),
                },
            },
            false => Credentials::ApiKey { key: format!("key{number}").into() },
        },
        always_on: match way.always_on {
            true => vec![Binding::parse("object.*.*", &OptIn::default()).unwrap()],
            false => Vec::new(),
        },
    };
    ways.iter().map(account).collect()
}

/// A number from the environment, for runs by hand.
fn scale(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Errors as they come from a file.
fn broken(text: &str) -> ConfigErrors {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hawking.toml");
    fs::write(&path, text).unwrap();
    Config::load(Some(&path), []).unwrap_err()
}

/// Changes at random, of all kinds, under load. `RELOAD_ROUNDS=100` is the full size; `RELOAD_SEED` makes others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_changes_under_load() {
    const ALL: usize = 8;
    let random = SeededRandom::new(scale("RELOAD_SEED", 1));
    let draw = |below: usize| (random.next_u64() % below as u64) as usize;
    let mut ways: BTreeMap<usize, Way> = (0..ALL - 2).map(|number| (number, Way::default())).collect();
    let mut place = Place::start((0..ALL).map(|number| spec(number, None)).collect(), &ways).await;
    let mut readings = BTreeMap::new();
    for number in ways.keys() {
        readings.insert(
            *number,
            [place.subscribe(*number).await.unwrap(), place.subscribe(*number).await.unwrap()],
        );
    }
    let traffic = Traffic::start(&place.sim, (0..ALL).map(id).collect(), Duration::from_millis(4));

    let mut made = BTreeMap::<&str, usize>::new();
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for round in 0..scale("RELOAD_ROUNDS", 30) {
        let before = (ways.clone(), place.base.clone());
        let some = *ways.keys().nth(draw(ways.len())).unwrap();
        let absent: Vec<usize> = (0..ALL).filter(|number| !ways.contains_key(number)).collect();
        // What is wrong, and how many errors it has.
        let (mut added, mut removed, mut wrong) = (None, None, None);
        let count = ways.len();
        let way = ways.get_mut(&some).unwrap();
        let what = match draw(13) {
            0 | 1 if !absent.is_empty() => {
                let number = absent[draw(absent.len())];
                ways.insert(number, Way { by_password: draw(2) == 0, ..Way::default() });
                added = Some(number);
                "an account comes"
            }
            2 | 3 if count > 3 => {
                ways.remove(&some);
                removed = Some(some);
                "an account goes"
            }
            4 => {
                way.by_password = !way.by_password;
                "other credentials"
            }
            5 => {
                *way = Way { by_password: true, by_name: !way.by_name, ..*way };
                "named otherwise"
            }
            6 => {
                way.other_host = !way.other_host;
                "another address"
            }
            7 => {
                way.always_on = !way.always_on;
                "always on"
            }
            8 => {
                place.base.hub.linger = Duration::from_millis(draw(1000) as u64);
                place.base.hub.max_subscriptions = 100 + draw(100);
                place.base.hub.log_records = 1000 + draw(1000);
                place.base.grpc.heartbeat_default = Duration::from_millis(100 + draw(1000) as u64);
                "limits"
            }
            9 => {
                place.base.upstream.ping_interval = Duration::from_millis(100 + draw(300) as u64);
                place.base.upstream.refresh_interval = Duration::from_secs(1 + draw(9) as u64);
                "upstream's settings"
            }
            10 => {
                wrong = Some((Err(broken("[grpc]\nlissten = 1\n[hub]\nlog_age = \"long\"")), 2));
                "a file that is wrong"
            }
            11 => {
                wrong = Some((Ok(place.with(&BTreeMap::new())), 1));
                "no account is left"
            }
            _ => "nothing",
        };
        *made.entry(what).or_default() += 1;
        let (config, expected_errors) = match wrong {
            Some((config, errors)) => (config, Some(errors)),
            None => (Ok(place.with(&ways)), None),
        };
        let in_force = place.gateway.reload().running().get();
        let outcome = place.apply(config).await;
        let word = match outcome {
            Outcome::Unchanged { .. } => "unchanged",
            Outcome::Applied { .. } => "applied",
            Outcome::Refused { .. } => "rejected",
        };
        *outcomes.entry(word).or_default() += 1;
        match expected_errors {
            Some(expected) => {
                let Outcome::Refused { errors } = &outcome else { panic!("{what}: {outcome:?}") };
                assert_eq!(errors.len(), expected, "{what}: {errors:?}");
                assert!(Arc::ptr_eq(&in_force, &place.gateway.reload().running().get()), "{what}");
            }
            None if before == (ways.clone(), place.base.clone()) => {
                assert_eq!(outcome, Outcome::Unchanged { kept: Vec::new() }, "{what}");
            }
            None => assert!(matches!(outcome, Outcome::Applied { .. }), "{what}: {outcome:?}"),
        }
        if let Some(number) = removed {
            for mut reading in readings.remove(&number).unwrap() {
                reading.gone(what).await;
                reading.has_no_hole(what);
            }
            let refused = place.subscribe(number).await.err().expect("it is not served any more");
            assert_eq!(reason(&refused), "ACCOUNT_NOT_CONFIGURED");
        }
        if let Some(number) = added {
            let both = [place.subscribe(number).await.unwrap(), place.subscribe(number).await.unwrap()];
            readings.insert(number, both);
        }
        for reading in readings.values().flatten() {
            reading.check(&format!("round {round}, {what}"));
        }
        tokio::time::sleep(Duration::from_millis(draw(60) as u64)).await;
    }

    let text = place.gateway.metrics().expose(Form::Prometheus);
    for (outcome, count) in outcomes {
        let series = format!("hawking_config_reloads_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(text.contains(&series), "{series} in {text}");
    }
    for reading in readings.values().flatten() {
        // One may have come with the last change.
        reading.has(1).await;
    }
    let published = traffic.stop().await;
    for (number, both) in &readings {
        for reading in both {
            reading.has(published[*number]).await;
            reading.check("at the end");
        }
    }
    println!("{made:?}, published {published:?}");
    place.stop().await;
}

/// An account that gets credentials of its own moves to its own session, and back to its ancestor's when it loses them. Its
/// streams go on, with a gap for each move; and end when nobody serves it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_descendant_moves_between_sessions() {
    let own = |numbers: &[usize]| numbers.iter().map(|number| (*number, Way::default())).collect();
    let mut place = Place::start(
        vec![spec(0, None), spec(1, Some(id(0))), spec(2, Some(id(1))), spec(3, None)],
        &own(&[0, 3]),
    )
    .await;
    let served_by = |place: &Place, number: usize| place.gateway.hub().get(&id(number)).unwrap().served_by();
    let mut child = place.subscribe(1).await.unwrap();
    let mut grandchild = place.subscribe(2).await.unwrap();
    let neighbour = place.subscribe(3).await.unwrap();
    let epoch = place.gateway.hub().get(&id(1)).unwrap().epoch();
    assert_eq!((served_by(&place, 1), served_by(&place, 2)), (id(0), id(0)));
    let mut published = 0;

    for (round, configured, expected) in [(1, &[0, 1, 3][..], id(1)), (2, &[0, 3], id(0))] {
        let config = place.with(&own(configured));
        place.apply(Ok(config)).await;
        assert_eq!((served_by(&place, 1), served_by(&place, 2)), (expected, id(0)));
        eventually("the gap is closed", async || {
            child.seen.lock().gaps.iter().filter(|gap| gap.before.is_some()).count() == round
        })
        .await;
        for number in 1..=3 {
            let account = place.sim.account(&id(number)).unwrap();
            for offset in 1..=10 {
                let call_id = (published + offset).to_string();
                place.sim.publish(&Event::call(account, "CHANNEL_CREATE", &call_id)).unwrap();
            }
        }
        published += 10;
        for reading in [&child, &grandchild, &neighbour] {
            reading.has(published).await;
        }
    }
    assert_eq!(child.seen.lock().numbers, (1..=published).collect::<Vec<_>>());
    assert_eq!(place.gateway.hub().get(&id(1)).unwrap().epoch(), epoch, "its cursors are good");
    grandchild.check("after the moves of another");
    neighbour.check("after the moves of others");

    let config = place.with(&own(&[3]));
    place.apply(Ok(config)).await;
    child.gone("nobody serves it").await;
    grandchild.gone("nobody serves it").await;
    assert!(neighbour.seen.lock().end.is_none());
    place.stop().await;
}

/// Other credentials are for the next login; another place is for now, and costs no gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_replaced_only_where_it_must_be() {
    let mut ways: BTreeMap<usize, Way> = [(0, Way::default())].into();
    let mut place = Place::start(vec![spec(0, None)], &ways).await;
    let reading = place.subscribe(0).await.unwrap();
    let traffic = Traffic::start(&place.sim, vec![id(0)], Duration::from_millis(4));
    let logins = |place: &Place, path: &str| {
        let of = |exchange: &hawking::sim::Exchange| matches!(&exchange.what, Happening::Crossbar { path: at, .. } if at.ends_with(path));
        place.sim.record().iter().filter(|exchange| of(exchange)).count()
    };
    assert_eq!((logins(&place, "api_auth"), place.sim.connections_total()), (1, 1));

    ways.insert(0, Way { by_password: true, ..Way::default() });
    let config = place.with(&ways);
    place.apply(Ok(config)).await;
    let seen = reading.last();
    eventually("it goes on", async || reading.last() > seen + 50).await;
    assert_eq!((logins(&place, "user_auth"), place.sim.connections_total()), (0, 1), "the session stays");

    ways.insert(0, Way { by_password: true, other_host: true, ..Way::default() });
    let config = place.with(&ways);
    place.apply(Ok(config)).await;
    eventually("there is another session, and only that", async || {
        place.sim.connections_total() == 2 && place.sim.connections() == 1
    })
    .await;
    assert_eq!((logins(&place, "api_auth"), logins(&place, "user_auth")), (1, 1), "with the new credentials");
    let published = traffic.stop().await;
    reading.has(published[0]).await;
    reading.check("after both");
    place.stop().await;
}

/// New bounds hold at once: a log that is too long is cut, and who comes is counted against the new quota.
#[tokio::test]
async fn limits_change_while_they_are_used() {
    let ways: BTreeMap<usize, Way> = [(0, Way::default())].into();
    let mut place = Place::start(vec![spec(0, None)], &ways).await;
    let reading = place.subscribe(0).await.unwrap();
    let account = place.sim.account(&id(0)).unwrap().clone();
    for number in 1..=500 {
        place.sim.publish(&Event::call(&account, "CHANNEL_CREATE", &number.to_string())).unwrap();
    }
    eventually("all have come", async || reading.last() == 500).await;
    let records = |place: &Place| place.gateway.hub().get(&id(0)).unwrap().status().records;
    assert!(records(&place) >= 500);

    let mut config = place.base.clone();
    config.hub.log_records = 100;
    config.hub.max_subscriptions = 1;
    // Needs a restart.
    config.grpc.listen.set_port(1);
    config.telemetry.log_format = config::LogFormat::Json;
    let outcome = place.apply(Ok(config)).await;
    let Outcome::Applied { changes: 2, kept } = &outcome else { panic!("{outcome:?}") };
    let kept: Vec<&str> = kept.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(kept, ["grpc.listen", "telemetry.log_format"]);
    assert!(records(&place) <= 100, "{}", records(&place));
    let refused = place.subscribe(0).await.err().expect("there is one already");
    assert_eq!(reason(&refused), "SUBSCRIPTION_LIMIT");
    assert!(reading.seen.lock().end.is_none(), "who is there stays");
    assert_eq!(place.gateway.reload().running().get().grpc.listen.port(), 0, "what is in force is shown");
    place.stop().await;
}
