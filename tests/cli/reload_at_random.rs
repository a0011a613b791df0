//! Changes at random of the files of a running server, right ones and wrong ones, in all the ways in which files change, under
//! load: whoever is not concerned misses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawking::random::{Random, SeededRandom};

use crate::{
    mounted::Files,
    numbered::{Reading, Traffic, reason},
    reload::{Place, id, key},
};

const ACCOUNTS: u8 = 6;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a writer halts in the middle of a file: less than it must stay the same to be read.
const HALT: Duration = Duration::from_millis(20);

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    /// The accounts, each with the name of its key and whether it has a binding that is always on.
    accounts: BTreeMap<u8, (&'static str, bool)>,
    /// Differs in each: what is in force is known by it.
    max_subscriptions: usize,
    log_records: usize,
    log_filter: &'static str,
    ping_millis: usize,
    drain_secs: usize,
}

impl Settings {
    fn files(&self, place: &Place, round: usize) -> Files {
        let Self { max_subscriptions, log_records, log_filter, ping_millis, drain_secs, .. } = self;
        let mut text = format!(
            "# round {round}\n{}[hub]\nmax_subscriptions = {max_subscriptions}\nlog_records = {log_records}\n\
             [telemetry]\nlog_filter = \"{log_filter}\"\n\
             [shutdown]\nendpoint_wait = \"0s\"\ndrain_timeout = \"{drain_secs}s\"\ngrace = \"20s\"\n",
            place.head(&format!("ping_interval = \"{ping_millis}ms\"\n")),
        );
        let mut files = Files::new();
        for number in 0..ACCOUNTS {
            let which = self.accounts.get(&number).map_or("old", |(which, _)| which);
            files.insert(format!("key{number}"), key(number, which) + "\n");
        }
        for (number, (_, always_on)) in &self.accounts {
            text += &place.account(*number);
            if *always_on {
                text += "always_on = [\"object.*.*\"]\n";
            }
        }
        files.insert("hawking.toml".to_owned(), text);
        files
    }
}

/// What is to become of a change.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Applied,
    /// It is right, and nothing of it can be taken up; the log says this.
    Unchanged(&'static str),
    /// It is wrong; the log says this.
    Refused(&'static str),
}

/// Draws a change that is right.
fn change(settings: &mut Settings, draw: &dyn Fn(usize) -> usize) -> &'static str {
    settings.max_subscriptions += 1;
    let absent: Vec<u8> = (0..ACCOUNTS).filter(|number| !settings.accounts.contains_key(number)).collect();
    let some = *settings.accounts.keys().nth(draw(settings.accounts.len())).unwrap();
    match draw(8) {
        0 | 1 if !absent.is_empty() => {
            let number = absent[draw(absent.len())];
            settings.accounts.insert(number, (["old", "new"][draw(2)], false));
            "an account comes"
        }
        0..=2 if settings.accounts.len() > 2 => {
            settings.accounts.remove(&some);
            "an account goes"
        }
        // Nobody logs in while the session is good, so that a wrong one is not noticed either.
        3 => {
            settings.accounts.get_mut(&some).unwrap().0 = ["old", "new", "wrong"][draw(3)];
            "another secret"
        }
        4 => {
            let always_on = &mut settings.accounts.get_mut(&some).unwrap().1;
            *always_on = !*always_on;
            "always on"
        }
        5 => {
            settings.log_filter = ["info", "debug", "info,hawking::upstream=trace"][draw(3)];
            "the log's level"
        }
        6 => {
            settings.ping_millis = 200 + draw(300);
            settings.drain_secs = 5 + draw(5);
            "times"
        }
        _ => {
            settings.log_records = 2000 + draw(1000);
            "limits"
        }
    }
}

/// Kinds of [`spoil`].
const SPOILT: usize = 10;

/// Changes files so that they are wrong, or that nothing changes. The kind is a number that counts on.
fn spoil(files: &mut Files, kind: usize) -> (&'static str, Expected) {
    let text = files.get_mut("hawking.toml").unwrap();
    let accounts = text.find("[[accounts]]").unwrap();
    let (what, spoilt, expected) = match kind % SPOILT {
        0 => ("no TOML", text.replacen("[hub]", "[hub", 1), Expected::Refused("not valid TOML")),
        1 => {
            let cut = text.rfind("id = \"").unwrap() + 10;
            ("cut off in a text", text[..cut].to_owned(), Expected::Refused("not valid TOML"))
        }
        2 => ("cut off before the accounts", text[..accounts].to_owned(), Expected::Refused("no account")),
        3 => (
            "a wrong value",
            text.replacen("log_records = ", "log_records = -", 1),
            Expected::Refused("hub.log_records"),
        ),
        4 => (
            "an unknown key",
            text.replacen("[hub]\n", "[hub]\nlog_recrods = 1\n", 1),
            Expected::Refused("hub.log_recrods: unknown key"),
        ),
        5 => (
            "a contradiction",
            text.replacen("grace = \"20s\"", "grace = \"1s\"", 1),
            Expected::Refused("shutdown.grace"),
        ),
        6 => (
            "a secret that is not there",
            text.replacen("/key", "/no-such-key", 1),
            Expected::Refused("no-such-key"),
        ),
        7 => {
            let first = text[accounts..].to_owned();
            ("an account twice", text.clone() + &first, Expected::Refused("accounts["))
        }
        8 => (
            "what needs a restart",
            text.replacen("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"", 1),
            Expected::Unchanged("needs a restart"),
        ),
        _ => ("a comment", text.clone(), Expected::Unchanged("nothing else is new")),
    };
    *text = spoilt;
    (what, expected)
}

/// `RELOAD_ROUNDS=100` is the full size; `RELOAD_SEED` makes others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_random_under_load() {
    let scale = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let random = SeededRandom::new(scale("RELOAD_SEED", 1) as u64);
    let draw = |below: usize| (random.next_u64() % below as u64) as usize;
    let mut settings = Settings {
        accounts: (0..ACCOUNTS - 2).map(|number| (number, ("old", false))).collect(),
        max_subscriptions: 1000,
        log_records: 2000,
        log_filter: "info",
        ping_millis: 300,
        drain_secs: 5,
    };
    let mut place = Place::new(true, ACCOUNTS).await;
    let files = settings.files(&place, 0);
    place.mounted.swap(&files);
    let (mut serve, mut client) = place.serve().await;
    let mut readings = BTreeMap::new();
    for number in settings.accounts.keys() {
        readings.insert(*number, Reading::begin(&mut client, id(*number)).await.unwrap());
    }
    let every = Duration::from_millis(10);
    let traffic = Traffic::start(&place.sim, (0..ACCOUNTS).map(id).collect(), every);

    let mut made = BTreeMap::<String, usize>::new();
    // The kinds of what is wrong take turns, beginning with any, so that each comes.
    let (mut kind, mut wrong) = (draw(SPOILT), BTreeMap::<&str, usize>::new());
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    let rounds = scale("RELOAD_ROUNDS", 24);
    for round in 1..=rounds {
        let served: BTreeSet<u8> = settings.accounts.keys().copied().collect();
        let is_due = rounds >= SPOILT && SPOILT - wrong.len() > rounds - round;
        let (what, expected, files) = match draw(2) == 0 || is_due {
            true => {
                let mut files = settings.files(&place, round);
                let (what, expected) = spoil(&mut files, kind);
                kind += 1;
                *wrong.entry(what).or_default() += 1;
                (what.to_owned(), expected, files)
            }
            false => {
                let what: Vec<&str> = (0..=draw(3)).map(|_| change(&mut settings, &draw)).collect();
                (what.join(", "), Expected::Applied, settings.files(&place, round))
            }
        };
        let serves: BTreeSet<u8> = settings.accounts.keys().copied().collect();
        let before = (place.reloads().await, place.shown().await);
        let how = match draw(4) {
            0 => {
                place.mounted.rename_over(&files);
                "renamed over"
            }
            1 => {
                place.mounted.overwrite(&files);
                "in place"
            }
            2 => {
                let text = &files["hawking.toml"];
                // What is there then is without accounts, and so it is wrong however long it stays so.
                let at = draw(text.find("[[accounts]]").unwrap_or(text.len()));
                place.mounted.halting(&files, "hawking.toml", at, HALT);
                "half written first"
            }
            _ => {
                place.mounted.swap(&files);
                "symlinks swapped"
            }
        };
        let told = Instant::now();
        let hangup = draw(2) == 0;
        if hangup {
            serve.signal("HUP");
        }
        let when = format!("round {round}: {what}, {how}, by SIGHUP: {hangup}, {expected:?}");
        println!("{when}");
        what.split(", ").for_each(|what| *made.entry(what.to_owned()).or_default() += 1);
        *made.entry(how.to_owned()).or_default() += 1;
        match expected {
            Expected::Applied => {
                let mark = format!("max_subscriptions = {}\n", settings.max_subscriptions);
                until(&when, async || place.shown().await.contains(&mark)).await;
                until(&when, async || place.reloads().await["last"] == 1).await;
            }
            Expected::Unchanged(says) => {
                let known = before.0["unchanged"];
                until(&when, async || place.reloads().await["unchanged"] > known).await;
                serve.stderr_line(says);
                assert_eq!(place.shown().await, before.1, "{when}");
            }
            Expected::Refused(says) => {
                let known = before.0["rejected"];
                until(&when, async || place.reloads().await["rejected"] > known).await;
                serve.stderr_line(says);
                let now = place.reloads().await;
                assert_eq!((now["last"], now["applied"]), (0, before.0["applied"]), "{when}");
                assert_eq!(place.shown().await, before.1, "{when}");
            }
        }
        longest = longest.max(told.elapsed());

        for number in served.difference(&serves) {
            let mut reading = readings.remove(number).unwrap();
            reading.gone(&when).await;
            reading.has_no_hole(&when);
            let refused = Reading::begin(&mut client, id(*number)).await.err().expect("it is not served");
            assert_eq!(reason(&refused), "ACCOUNT_NOT_CONFIGURED", "{when}");
        }
        for number in serves.difference(&served) {
            readings.insert(*number, Reading::begin(&mut client, id(*number)).await.unwrap());
        }
        for reading in readings.values() {
            reading.check(&when);
        }
    }

    let took = began.elapsed();
    assert!(wrong.len() == SPOILT || rounds < SPOILT, "each kind has come: {wrong:?}");
    for reading in readings.values() {
        // One may have come with the last change.
        reading.has(1).await;
    }
    let published = traffic.stop().await;
    let mut events = 0;
    for (number, reading) in &readings {
        reading.has(published[usize::from(*number)]).await;
        reading.check("at the end");
        events += reading.seen.lock().numbers.len();
    }
    println!("{made:#?}\n{:?} in {took:?}, the longest {longest:?}; {events} events", place.reloads().await);
    serve.signal("INT");
    let (code, said) = tokio::task::spawn_blocking(|| serve.end_with_everything()).await.unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("kingfisher"), "a secret was told");
    place.sim.shutdown().await;
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
