//! Subscribing again to what is held: when, how much of it, and what it shows.

use crate::{binding::Kind, hub::GapReason};

use super::*;

/// What `call.*.*` and the like list on K4: display text, one entry for each AMQP key (F25).
fn listing(entries: usize) -> Value {
    json!({ "subscribed": vec!["display text"; entries] })
}

async fn reply(peer: &mut Peer, id: &str, data: &Value) {
    let reply = json!({ "action": "reply", "request_id": id, "status": "success", "data": data });
    peer.send(reply.to_string()).await;
}

fn months(bench: &Bench) -> Vec<(Vec<String>, GapReason, SystemTime)> {
    let lost = |control: Control| match control {
        Control::Lost { bindings: hub::LostBindings::These(bindings), reason, since } => {
            Some((bindings.iter().map(ToString::to_string).collect(), reason, since))
        }
        _ => None,
    };
    bench.log.controls().into_iter().filter_map(lost).collect()
}

#[tokio::test(start_paused = true)]
async fn every_binding_once_in_an_interval_evenly_spread_and_without_a_record() {
    let mut bench =
        Bench::start(&["call.*.*", "fax.status.*", "object.doc_created.user", "presence.dialog.*"]);
    let mut peer = bench.accept().await;
    let bindings = peer.confirm(4).await;
    bench.settle().await;
    let story = bench.story();
    let mut asked = Vec::new();
    for _ in 0..8 {
        let (id, binding) = peer.command().await;
        peer.success(&id).await;
        asked.push((bench.seconds().round() as u64, binding));
    }
    let times: Vec<u64> = asked.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [75, 150, 225, 300, 375, 450, 525, 600]);
    let order: Vec<String> = asked.into_iter().map(|(_, binding)| binding).collect();
    assert_eq!(order, [bindings.clone(), bindings].concat());
    bench.settle().await;
    assert_eq!(bench.story(), story, "nothing changed");
    let proven = bench.log.1.lock().clone();
    assert_eq!(proven.len(), 4);
    let newest = bench.now().duration_since(*proven.values().max().unwrap()).unwrap();
    assert!(newest < Duration::from_secs(1), "{newest:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_not_proven_and_asked_for_again() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    let (first, _) = peer.command().await;
    let (second, _) = peer.command().await;
    assert_eq!(first, second);
    assert!((315.0..316.0).contains(&bench.seconds()), "{}", bench.seconds());
    assert_eq!(bench.log.1.lock().get(&Kind::Call), None);
    peer.success(&first).await;
    bench.settle().await;
    assert!(bench.log.1.lock().contains_key(&Kind::Call));
    assert_eq!(bench.state().0, UpstreamState::Live);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_on_a_refresh_was_lost_since_it_was_last_proven() {
    let mut bench = Bench::start(&["call.*.*"]);
    let mut peer = bench.accept().await;
    peer.confirm(1).await;
    peer.confirm(1).await;
    bench.settle().await;
    let proven = bench.log.1.lock()[&Kind::Call];
    let (id, _) = peer.command().await;
    peer.error(&id, "unauthorized account id").await;
    bench.settle().await;
    assert_eq!(months(&bench), [(vec!["call.*.*".to_owned()], GapReason::UpstreamLoss, proven)]);
    assert!(bench.story().ends_with(&["Lost".into(), "!call.*.*".into(), "Degraded".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_has_grown_shows_that_the_month_has_turned() {
    let mut bench = Bench::start(&["call.*.*", "object.doc_created.fax"]);
    let mut peer = bench.accept().await;
    for entries in [9, 10] {
        let (id, _) = peer.command().await;
        reply(&mut peer, &id, &listing(entries)).await;
    }
    for _ in 0..4 {
        let (id, _) = peer.command().await;
        reply(&mut peer, &id, &listing(10)).await;
    }
    bench.settle().await;
    assert_eq!(months(&bench), []);
    let proven = bench.log.1.lock()[&Kind::Object];
    // Calls come first, and they have no month.
    let (id, binding) = peer.command().await;
    assert_eq!(binding, "call.*.*");
    reply(&mut peer, &id, &listing(10)).await;
    let (id, binding) = peer.command().await;
    assert_eq!(binding, "object.doc_created.fax");
    reply(&mut peer, &id, &listing(11)).await;
    bench.settle().await;
    assert_eq!(months(&bench), [(vec![binding], GapReason::MonthTurn, proven)]);
    assert!(bench.story().ends_with(&["Lost".into(), "+object.doc_created.fax".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_was_lost_is_no_sign_of_a_new_month() {
    let mut bench = Bench::start(&["call.*.*", "object.doc_created.fax"]);
    let mut peer = bench.accept().await;
    let (first, _) = peer.command().await;
    let (second, _) = peer.command().await;
    reply(&mut peer, &second, &listing(1)).await;
    // The other reply is lost, but the command was carried out: the list grows all the same.
    let (again, _) = peer.command().await;
    assert_eq!(first, again);
    reply(&mut peer, &again, &listing(10)).await;
    for _ in 0..4 {
        let (id, _) = peer.command().await;
        reply(&mut peer, &id, &listing(10)).await;
    }
    bench.settle().await;
    assert_eq!(months(&bench), []);
}

#[tokio::test(start_paused = true)]
async fn kazoo_5_is_refreshed_for_the_month_alone_and_proves_nothing() {
    let mut bench = Bench::start(&["call.*.*", "object.doc_created.fax", "object.doc_created.user"]);
    let mut peer = bench.accept().await;
    let all = ["call.*.*", "object.doc_created.fax", "object.doc_created.user"];
    for _ in 0..3 {
        let (id, binding) = peer.command().await;
        reply(&mut peer, &id, &json!({ "subscribed": [binding], "subscriptions": all })).await;
    }
    bench.settle().await;
    let confirmed = bench.now();
    for _ in 0..10 {
        let (id, binding) = peer.command().await;
        assert_eq!(binding, "object.doc_created.fax");
        reply(&mut peer, &id, &json!({ "subscribed": [], "subscriptions": all })).await;
    }
    bench.settle().await;
    assert!(bench.log.1.lock().is_empty());
    assert_eq!(months(&bench), []);
    let (id, binding) = peer.command().await;
    reply(&mut peer, &id, &json!({ "subscribed": [binding], "subscriptions": all })).await;
    bench.settle().await;
    let [(_, GapReason::MonthTurn, since)] = months(&bench)[..] else { panic!("{:?}", months(&bench)) };
    let off = confirmed.duration_since(since).unwrap();
    assert!(off < Duration::from_secs(1), "since it was last proven: {off:?}");
}

/// Three hundred bindings of one account, as an operator who opted in can have them.
fn conferences(count: usize) -> Arc<Interest> {
    let opt_in = OptIn([Kind::ConferenceCommand].into());
    let binding = |n| Binding::parse(&format!("conference.command.room{n}"), &opt_in).unwrap();
    Arc::new(Interest { bindings: (0..count).map(binding).collect() })
}

/// A session's bucket of tokens as blackhole keeps it, refilled once a second in one step (F49).
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl Bucket {
    fn take(&mut self) -> bool {
        while self.refilled + Duration::from_secs(1) <= Instant::now() {
            self.refilled += Duration::from_secs(1);
            self.tokens = (self.tokens + 10).min(100);
        }
        self.tokens > 0 && {
            self.tokens -= 1;
            true
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_hundred_bindings_while_one_reply_in_five_is_lost() {
    let mut bench = Bench::start(&[]);
    bench.interest.send_replace(conferences(300));
    let mut peer = bench.accept().await;
    let mut bucket = Bucket { tokens: 100, refilled: Instant::now() };
    let (mut held, mut waiting) = (BTreeSet::new(), std::collections::VecDeque::new());
    let (mut most, mut commands) = (0, 0_u32);
    let random = SeededRandom::new(11);
    while bench.state().0 != UpstreamState::Live {
        // Half a second from a request to its reply.
        let next = tokio::time::timeout(Duration::from_millis(100), peer.0.next()).await;
        if let Ok(message) = next {
            let Message::Text(text) = message.unwrap().unwrap() else { continue };
            let (id, binding) = command(&text);
            commands += 1;
            assert!(bucket.take(), "command {commands} after {} s runs into the rate limit", bench.seconds());
            held.insert(binding);
            let is_lost = crate::random::unit(&random) < 0.2;
            waiting.push_back((Instant::now() + Duration::from_millis(500), id, is_lost));
        }
        most = most.max(waiting.len());
        while let Some((at, id, is_lost)) = waiting.front().cloned()
            && at <= Instant::now()
        {
            waiting.pop_front();
            if !is_lost {
                peer.success(&id).await;
            }
        }
    }
    assert_eq!(held.len(), 300);
    assert!(most <= 8, "{most} in flight");
    assert!((300..500).contains(&commands), "{commands}");
    let confirmed = bench.story().iter().filter(|control| control.starts_with('+')).count();
    assert_eq!(confirmed, 300);
}

/// Refreshes everything once. The number of commands and of bytes a second, and how long it took.
async fn round(settings: config::Upstream, bindings: usize, entry: usize) -> (f64, f64, f64) {
    let answers = [Ok(login()), Ok(facts())];
    let mut bench = Bench::start_with(&[], FakeTransport::answering(answers), settings);
    bench.interest.send_replace(conferences(bindings));
    let mut peer = bench.accept().await;
    peer.confirm(bindings).await;
    bench.settle().await;
    let start = bench.seconds();
    let listing = json!({ "subscribed": vec!["x".repeat(entry); bindings] });
    let bytes = listing.to_string().len();
    let mut asked = BTreeSet::new();
    let mut commands = 0;
    while asked.len() < bindings {
        let Message::Text(text) = peer.message().await else { continue };
        let (id, binding) = command(&text);
        reply(&mut peer, &id, &listing).await;
        asked.insert(binding);
        commands += 1;
    }
    let took = bench.seconds() - start;
    (f64::from(commands) / took, f64::from(commands) * bytes as f64 / took, took)
}

#[tokio::test(start_paused = true)]
async fn a_round_of_many_stays_inside_its_budget() {
    let settings = || config::Upstream { refresh_interval: Duration::from_secs(30), ..Default::default() };
    let (per_second, _, took) = round(settings(), 300, 1).await;
    assert!(per_second <= 2.05 && took < 160.0, "{per_second} tokens a second, {took} s");

    // As K4 lists them, some 80 bytes an entry.
    let settings = config::Upstream { refresh_bytes_per_second: 16 << 10, ..settings() };
    let (_, bytes, took) = round(settings, 100, 77).await;
    assert!(bytes <= 1.02 * f64::from(16 << 10) && took < 60.0, "{bytes} bytes a second, {took} s");
}
