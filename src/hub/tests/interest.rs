//! What is wanted: counted, lingering, told of when it changes.

use tokio::time::{Instant, advance, sleep};

use super::*;

fn wanted(bench: &Bench) -> Vec<String> {
    bench.account.interest().borrow().bindings.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn lingers_after_the_last_one_left_and_tells_of_changes_only() {
    let bench = Bench::with_always(settings(), &["object.doc_created.user"]);
    let mut changes = bench.account.interest();
    assert_eq!(wanted(&bench), ["object.doc_created.user"]);
    let first = bench.subscribe(&["call.*.*", "object.doc_created.user"]).await;
    assert!(changes.has_changed().expect("an account"));
    changes.mark_unchanged();
    let second = bench.subscribe(&["call.*.*"]).await;
    drop(first);
    drop(second);
    assert!(!changes.has_changed().expect("an account"));
    assert_eq!(wanted(&bench), ["call.*.*", "object.doc_created.user"]);
    assert!(bench.call("CHANNEL_CREATE", "a").is_some(), "kept while it lingers");

    // Whoever comes back within the linger finds it as it was.
    advance(Duration::from_secs(59)).await;
    let third = bench.subscribe(&["call.*.*"]).await;
    sleep(Duration::from_secs(600)).await;
    assert!(!changes.has_changed().expect("an account"));
    drop(third);
    let left = Instant::now();
    changes.changed().await.expect("an account");
    assert_eq!(left.elapsed().as_secs(), 60);
    assert_eq!(wanted(&bench), ["object.doc_created.user"]);
    assert_eq!(bench.call("CHANNEL_CREATE", "a"), None);
    assert_eq!(bench.account.status().views, 0);
}

#[tokio::test(start_paused = true)]
async fn expires_each_binding_in_its_own_time() {
    let bench = Bench::new(settings());
    let a = bench.subscribe(&["call.CHANNEL_CREATE.*"]).await;
    let b = bench.subscribe(&["call.CHANNEL_BRIDGE.*"]).await;
    let mut changes = bench.account.interest();
    let start = Instant::now();
    drop(a);
    sleep(Duration::from_secs(30)).await;
    drop(b);
    changes.changed().await.expect("an account");
    assert_eq!((start.elapsed().as_secs(), wanted(&bench)), (60, vec!["call.CHANNEL_BRIDGE.*".to_owned()]));
    changes.changed().await.expect("an account");
    assert_eq!((start.elapsed().as_secs(), wanted(&bench)), (90, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_that_is_given_up_gives_its_interest_back() {
    let bench = Bench::new(config::Hub { confirm_wait: Duration::from_secs(5), ..settings() });
    let subscribe = bench.account.subscribe(spec(&["call.*.*"]));
    assert!(tokio::time::timeout(Duration::from_secs(1), subscribe).await.is_err());
    assert_eq!((bench.account.status().subscriptions, bench.hub.subscriptions()), (0, 0));
    assert_eq!(wanted(&bench), ["call.*.*"]);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(wanted(&bench), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_running_when_an_account_goes() {
    let bench = Bench::new(settings());
    drop(bench.subscribe(&["call.*.*"]).await);
    sleep(Duration::from_secs(1)).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 1);
    bench.hub.remove(&account_id());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

/// Each of thousands of consumers wants something of its own: what the first of them cost, the last costs too.
#[tokio::test(start_paused = true)]
async fn what_one_more_costs_does_not_grow_with_what_is_wanted() {
    let many = config::Hub {
        max_subscriptions_per_account: usize::MAX,
        max_subscriptions: usize::MAX,
        ..settings()
    };
    let bench = Bench::new(many);
    // Nobody waits for confirmations then.
    bench.state(UpstreamState::Down);
    let mut all = Vec::new();
    let mut begin = |count: usize| {
        let texts: Vec<String> =
            (all.len()..all.len() + count).map(|number| format!("call.*.{number}")).collect();
        let info = allocation_counter::measure(|| {
            for text in &texts {
                let bindings = [text.as_str()];
                let mut subscribing = std::pin::pin!(bench.subscribe(&bindings));
                let Poll::Ready(subscription) =
                    subscribing.as_mut().poll(&mut Context::from_waker(Waker::noop()))
                else {
                    panic!("nothing is to be waited for")
                };
                all.push(subscription);
            }
        });
        info.bytes_total / count as u64
    };
    let first = begin(200);
    begin(3000);
    let last = begin(200);
    println!("{first} bytes for each of the first, {last} for each of the last");
    assert!(last < 2 * first, "{first} bytes for each of the first, {last} for each of the last");
}
