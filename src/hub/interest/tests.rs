use proptest::{prelude::*, sample::select};

use super::*;
use crate::{binding::OptIn, hub::tests};

fn binding(text: &str) -> Binding {
    Binding::parse(text, &OptIn::default()).unwrap()
}

fn filter(names: &[&str], call_ids: &[&str]) -> EventFilter {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    EventFilter { names: texts(names), call_ids: texts(call_ids), fields: Vec::new() }
}

/// Ten thousand consumers of the same binding, each of which follows a call of its own: an event looks at its own and at
/// those that name no call, whatever their number.
#[test]
fn an_event_looks_at_the_views_that_follow_its_call() {
    let mut wanted = Wanted::new(&[binding("object.*.*")]);
    let bindings = [binding("call.*.*")];
    for view in 0..10_000 {
        wanted.add_view(&bindings, &filter(&[], &[&format!("{view}"), &format!("of {view}")]), view);
    }
    wanted.add_view(&bindings, &filter(&[], &[]), 10_000);
    wanted.add_view(&bindings, &filter(&["CHANNEL_CREATE"], &[]), 10_001);
    wanted.add_view(&bindings, &filter(&["CHANNEL_CREATE", "CHANNEL_BRIDGE"], &["77"]), 10_002);

    let found =
        |wanted: &Wanted, name, call_id| wanted.candidates(&tests::call(name, call_id)).map(|f| f.to_vec());
    assert_eq!(found(&wanted, "CHANNEL_CREATE", "4711"), Some(vec![4711, 10_000, 10_001]));
    assert_eq!(found(&wanted, "CHANNEL_DESTROY", "4711"), Some(vec![4711, 10_000]));
    assert_eq!(found(&wanted, "CHANNEL_BRIDGE", "77"), Some(vec![77, 10_000, 10_002]));
    assert_eq!(found(&wanted, "CHANNEL_BRIDGE", "none"), Some(vec![10_000]));

    for view in 0..10_000 {
        wanted.remove_view(&bindings, &filter(&[], &[&format!("{view}"), &format!("of {view}")]), view);
    }
    assert_eq!(found(&wanted, "CHANNEL_BRIDGE", "77"), Some(vec![10_000, 10_002]));
}

const BINDINGS: &[&str] = &["call.*.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_BRIDGE.b", "call.*.a"];
const NAMES: &[&str] = &["CHANNEL_CREATE", "CHANNEL_BRIDGE", "CHANNEL_DESTROY"];
const CALLS: &[&str] = &["a", "b", "c"];

fn view() -> impl Strategy<Value = (Vec<Binding>, EventFilter)> {
    let some = |of: &'static [&'static str]| prop::sample::subsequence(of, 0..=of.len());
    (prop::sample::subsequence(BINDINGS, 1..=3), some(NAMES), some(CALLS)).prop_map(
        |(bindings, names, call_ids)| {
            (bindings.into_iter().map(binding).collect(), filter(&names, &call_ids))
        },
    )
}

proptest! {
    /// Views come and go: an event finds those that a look at each of them would have found, each once.
    #[test]
    fn finds_what_a_scan_finds(
        steps in prop::collection::vec(prop_oneof![3 => view().prop_map(Ok), 1 => any::<prop::sample::Index>().prop_map(Err)], 1..40),
        events in prop::collection::vec((select(NAMES), select(CALLS)), 1..8),
    ) {
        let mut wanted = Wanted::default();
        let mut scan: Vec<(ViewId, Vec<Binding>, EventFilter)> = Vec::new();
        for (step, id) in steps.into_iter().zip(0..) {
            match step {
                Ok((bindings, filter)) => {
                    wanted.add_view(&bindings, &filter, id);
                    scan.push((id, bindings, filter));
                }
                Err(_) if scan.is_empty() => {}
                Err(which) => {
                    let (id, bindings, filter) = scan.swap_remove(which.index(scan.len()));
                    wanted.remove_view(&bindings, &filter, id);
                }
            }
        }
        for (name, call_id) in events {
            let event = tests::call(name, call_id);
            let of = |view: &ViewId| scan.iter().find(|(id, ..)| id == view).map(|(_, _, filter)| filter);
            let found = wanted.candidates(&event).unwrap_or_default();
            prop_assert!(found.is_sorted_by(|a, b| a < b), "each once: {:?}", found);
            // Where a filter names calls, its names are for the view itself to look at; all else was.
            let passes = |filter: &EventFilter| !filter.call_ids.is_empty() || filter.passes_envelope(&event);
            prop_assert!(found.iter().all(|id| of(id).is_some_and(passes)), "{:?}", found);
            let found: Vec<ViewId> =
                found.into_iter().filter(|id| of(id).is_some_and(|filter| filter.passes_envelope(&event))).collect();
            let mut expected: Vec<ViewId> = scan
                .iter()
                .filter(|(_, bindings, filter)| {
                    let lets_through = |binding: &Binding| binding.pattern().matches(event.key());
                    bindings.iter().any(lets_through) && filter.passes_envelope(&event)
                })
                .map(|(id, ..)| *id)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
