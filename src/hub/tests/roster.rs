//! Who serves whom, and what becomes of an account that nobody knows.

use futures_util::FutureExt;

use super::*;
use crate::hub::{BranchOrders, Facts, Listing, LookupError};

fn id(digit: u8) -> AccountId {
    format!("{digit:032}").parse().expect("an account id")
}

/// Accounts, each with those above it.
fn listing<const N: usize>(accounts: [(u8, &[u8]); N]) -> Listing {
    let facts = |(digit, above): (u8, &[u8])| {
        let above = above.iter().copied().map(id).collect();
        (id(digit), Facts { name: format!("n{digit}").into(), realm: format!("r{digit}").into(), above })
    };
    accounts.into_iter().map(facts).collect()
}

/// A hub with these accounts configured, and their upstreams' ends.
fn hub<const N: usize>(configured: [u8; N]) -> (Arc<Hub>, [BranchOrders; N]) {
    let bench = Bench::new(config::Hub {
        lookup_wait: Duration::from_secs(3),
        lookup_interval: Duration::from_secs(30),
        ..settings()
    });
    bench.hub.remove(&account_id());
    for digit in configured {
        bench.hub.add(id(digit), id(digit), Vec::new());
        bench.hub.will_tell(id(digit));
    }
    let orders = configured.map(|digit| bench.hub.orders(id(digit)));
    (bench.hub, orders)
}

/// Who serves an account, if anybody does.
fn server(hub: &Hub, digit: u8) -> Option<AccountId> {
    let listed = hub.listed();
    listed.iter().find(|account| account.id == id(digit)).map(|account| account.served_by)
}

#[tokio::test(start_paused = true)]
async fn the_nearest_configured_account_serves_and_a_configured_one_itself() {
    let (hub, _orders) = hub([1, 3]);
    let all = [(2, &[1][..]), (3, &[1, 2]), (4, &[1, 2, 3]), (5, &[1, 2]), (6, &[1, 2, 3, 4])];
    hub.tell(id(1), listing(all), true, 0);
    let servers = [1, 2, 3, 4, 5, 6].map(|digit| server(&hub, digit).expect("it is known"));
    assert_eq!(servers, [1, 1, 3, 3, 1, 3].map(id));
    hub.tell(id(3), listing([(4, &[1, 2, 3]), (6, &[1, 2, 3, 4])]), true, 0);
    assert_eq!(server(&hub, 6), Some(id(3)));

    let account = hub.lookup(id(6)).await.expect("it is known");
    assert_eq!((account.id(), account.served_by()), (id(6), id(3)));
    let names: Vec<_> = hub.listed().iter().map(|account| account.name.to_string()).collect();
    assert_eq!(names, ["", "n2", "", "n4", "n5", "n6"], "the configured ones' names come another way");
}

#[tokio::test(start_paused = true)]
async fn where_crossbar_does_not_tell_what_is_above_the_lower_branch_serves() {
    for order in [[1, 3], [3, 1]] {
        let (hub, _orders) = hub([1, 3]);
        for branch in order {
            match branch {
                1 => hub.tell(id(1), listing([(3, &[]), (4, &[]), (5, &[])]), true, 0),
                _ => hub.tell(id(3), listing([(4, &[])]), true, 0),
            }
        }
        assert_eq!([4, 5].map(|digit| server(&hub, digit)), [Some(id(3)), Some(id(1))]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_reaches_the_branch() {
    let (hub, [orders, _]) = hub([1, 2]);
    hub.tell(id(1), listing([(4, &[1]), (5, &[1])]), true, 0);
    assert!(orders.interest.borrow().is_empty(), "a name alone makes no log");
    let account = hub.lookup(id(4)).await.unwrap();
    let subscription = account.subscribe(spec(&["call.*.*"])).await.unwrap();
    let wanted = |digit: u8| {
        let told = orders.interest.borrow();
        told.get(&id(digit))
            .map(|interest| interest.bindings.iter().map(|b| b.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(wanted(4).unwrap(), ["call.*.*"]);
    assert_eq!(wanted(5), None);
    drop(subscription);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(wanted(4).unwrap(), [""; 0], "the log is kept, whether it is read or not");
    assert_eq!(hub.lookup(id(4)).await.unwrap().epoch(), account.epoch());
}

#[tokio::test(start_paused = true)]
async fn a_new_log_stands_as_its_branch_does() {
    let (hub, _orders) = hub([1]);
    hub.tell(id(1), listing([(4, &[1])]), true, 0);
    let change = UpstreamChange {
        state: UpstreamState::Live,
        flavour: None,
        last_life: Some(day()),
        detail: "x".into(),
    };
    hub.get(&id(1)).unwrap().record(Control::Upstream(change.clone()));
    assert_eq!(hub.listed()[1].upstream, UpstreamState::Live);
    assert_eq!(hub.lookup(id(4)).await.unwrap().upstream().0, change);
}

#[tokio::test(start_paused = true)]
async fn who_is_missing_twice_in_a_row_has_gone() {
    let (hub, [orders]) = hub([1]);
    let (both, one) = (|| listing([(4, &[1]), (5, &[1])]), || listing([(5, &[1])]));
    hub.tell(id(1), both(), true, 0);
    let account = hub.lookup(id(4)).await.unwrap();
    let mut subscription = account.subscribe(spec(&["call.*.*"])).await.unwrap();
    hub.tell(id(1), one(), true, 0);
    hub.tell(id(1), both(), true, 0);
    hub.tell(id(1), one(), true, 0);
    hub.tell(id(1), one(), false, 0);
    assert!(hub.get(&id(4)).is_some(), "missing once, or not all were told");
    while let Some(item) = subscription.next().now_or_never() {
        assert!(!matches!(item, None | Some(Item::End(_))), "{item:?}");
    }
    hub.tell(id(1), one(), true, 0);
    assert!(hub.get(&id(4)).is_none());
    let end = subscription.next().await;
    assert!(matches!(end, Some(Item::End(_))), "{end:?}");
    assert!(orders.interest.borrow().is_empty(), "the session need not hold its bindings any more");
    drop(orders);
    assert_eq!(hub.lookup(id(4)).await.err(), Some(LookupError::NotServed));
    // Back again it is another log.
    hub.tell(id(1), both(), true, 0);
    assert_ne!(hub.lookup(id(4)).await.unwrap().epoch(), account.epoch());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_account_makes_each_branch_ask_once_in_a_while() {
    let (hub, [first, second]) = hub([1, 2]);
    hub.tell(id(1), listing([]), true, 0);
    hub.tell(id(2), listing([]), true, 0);
    let requests = || [*first.requests.borrow(), *second.requests.borrow()];
    let start = tokio::time::Instant::now();

    // Many at once ask once.
    let answer = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(requests(), [1, 1]);
        let request = hub.asking(id(1));
        hub.tell(id(1), listing([(4, &[1])]), true, request);
        tokio::time::sleep(Duration::from_millis(500)).await;
        hub.cannot_tell(id(2), hub.asking(id(2)), false);
    };
    let (found, other, again, ()) =
        tokio::join!(hub.lookup(id(4)), hub.lookup(id(5)), hub.lookup(id(4)), answer);
    assert_eq!(found.unwrap().epoch(), again.unwrap().epoch());
    assert_eq!(other.err(), Some(LookupError::NotServed), "both have answered, and told before");
    assert_eq!(start.elapsed(), Duration::from_millis(1500), "it waits for the last answer");

    for _ in 0..100 {
        assert_eq!(hub.lookup(id(6)).await.err(), Some(LookupError::NotServed));
    }
    assert_eq!((requests(), start.elapsed()), ([1, 1], Duration::from_millis(1500)), "at once, from memory");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let lookup = hub.lookup(id(6)).await;
    assert_eq!(lookup.err(), Some(LookupError::NotKnownYet { branches: 2 }), "asked, and no answer in time");
    assert_eq!((requests(), start.elapsed()), ([2, 2], Duration::from_millis(34_500)));
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_from_all_branches_an_account_is_not_known_to_be_unknown() {
    let (hub, orders) = hub([1, 2]);
    // Neither has a session, so nobody can ask.
    drop(orders);
    hub.tell(id(1), listing([(4, &[1])]), true, 0);
    assert!(hub.lookup(id(4)).await.is_ok());
    let start = tokio::time::Instant::now();
    assert_eq!(hub.lookup(id(5)).await.err(), Some(LookupError::NotKnownYet { branches: 1 }));
    assert_eq!(start.elapsed(), Duration::from_secs(3), "it may come");
    // Refused credentials are an answer.
    hub.cannot_tell(id(2), 0, true);
    assert_eq!(hub.lookup(id(5)).await.err(), Some(LookupError::NotServed));
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    // And when they are put right, that is one too.
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        hub.tell(id(2), listing([(5, &[2])]), true, 0);
    };
    hub.cannot_tell(id(2), 0, false);
    let (found, ()) = tokio::join!(hub.lookup(id(5)), late);
    assert_eq!(found.unwrap().served_by(), id(2));
}

#[tokio::test(start_paused = true)]
async fn a_log_stays_with_the_session_that_it_began_with() {
    let (hub, [first]) = hub([1]);
    hub.tell(id(1), listing([(2, &[1]), (4, &[1, 2])]), true, 0);
    let account = hub.lookup(id(4)).await.unwrap();
    hub.add(id(2), id(2), Vec::new());
    for branch in [1, 2] {
        for _ in 0..2 {
            hub.tell(id(branch), listing([(4, &[1, 2])]), true, 0);
        }
    }
    assert_eq!(hub.lookup(id(4)).await.unwrap().epoch(), account.epoch());
    assert_eq!(server(&hub, 4), Some(id(1)));
    assert!(first.interest.borrow().contains_key(&id(4)));
    // With its session it ends.
    hub.remove(&id(1));
    assert!(hub.get(&id(4)).is_none());
    assert_eq!(hub.lookup(id(4)).await.unwrap().served_by(), id(2));
}
