//! Random histories: what holds whatever happens, in whatever order.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::select};
use tokio::time::advance;

use super::*;
use crate::hub::{Gap, Sequence};

const UPSTREAMS: &[&str] =
    &["call.*.*", "call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*", "object.*.*", "object.doc_created.user"];
const BINDINGS: &[&str] = &[
    "call.*.*",
    "call.CHANNEL_CREATE.*",
    "call.CHANNEL_DESTROY.b",
    "object.doc_created.user",
    "object.doc_edited.*",
];
const EVENTS: &[&str] =
    &["CHANNEL_CREATE.a", "CHANNEL_DESTROY.a", "CHANNEL_DESTROY.b", "CHANNEL_BRIDGE.a", "user"];

#[derive(Debug, Clone)]
pub(super) enum Step {
    Event(&'static str),
    Confirm(&'static str),
    Refuse(&'static str),
    Drop(&'static str),
    Lose(Option<&'static str>, GapReason),
    State(UpstreamState),
    /// Another consumer comes, and the one before it goes.
    Other(&'static str),
    Advance(u64),
    /// The reader under test reads all there is.
    Read,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let reason =
        select(&[GapReason::UpstreamDisconnected, GapReason::MonthTurn, GapReason::UpstreamLoss][..]);
    let state = select(&[UpstreamState::Live, UpstreamState::Down, UpstreamState::Degraded][..]);
    prop_oneof![
        12 => select(EVENTS).prop_map(Step::Event),
        5 => select(UPSTREAMS).prop_map(Step::Confirm),
        1 => select(UPSTREAMS).prop_map(Step::Refuse),
        1 => select(UPSTREAMS).prop_map(Step::Drop),
        3 => (proptest::option::of(select(UPSTREAMS)), reason).prop_map(|(which, reason)| Step::Lose(which, reason)),
        1 => state.prop_map(Step::State),
        1 => select(BINDINGS).prop_map(Step::Other),
        3 => (0..40_u64).prop_map(Step::Advance),
        3 => Just(Step::Read),
    ]
}

pub(super) fn history() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..120)
}

pub(super) fn wishes() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(BINDINGS, 1..=3)
}

/// What happened, as the test itself saw it.
#[derive(Default)]
pub(super) struct Witness {
    /// Each event that was appended, with its key.
    pub(super) events: Vec<(u64, String)>,
    /// Each control record, with the upstream bindings that are confirmed after it, and whether the month has turned since.
    confirmed: Vec<(u64, Vec<(&'static str, bool)>)>,
    other: Option<Subscription>,
}

impl Witness {
    fn now_confirmed(&self) -> Vec<(&'static str, bool)> {
        self.confirmed.last().map(|(_, bindings)| bindings.clone()).unwrap_or_default()
    }

    pub(super) async fn take(&mut self, bench: &Bench, step: &Step) {
        let mut confirmed = self.now_confirmed();
        let since = bench.now() - Duration::from_secs(1);
        let sequence = match *step {
            Step::Event(name) => {
                let event = match name {
                    "user" => event(
                        &format!(
                            "doc_created.account%2F01%2F23%2F456789abcdef0123456789abcdef.user.{}",
                            "9".repeat(32)
                        ),
                        r#"{"id":"9"}"#,
                    ),
                    name => call(
                        name.split('.').next().unwrap_or_default(),
                        name.split('.').nth(1).unwrap_or_default(),
                    ),
                };
                let key = event.key().to_owned();
                if let Some(sequence) = bench.account.append(event) {
                    self.events.push((sequence.0, key));
                }
                return;
            }
            Step::Confirm(text) => {
                confirmed.retain(|(other, _)| *other != text);
                confirmed.push((text, false));
                bench.confirm(text)
            }
            Step::Refuse(text) => {
                confirmed.retain(|(other, _)| *other != text);
                bench.account.record(Control::Refused { binding: upstream(text), reason: "no".into() }).0
            }
            Step::Drop(text) => {
                confirmed.retain(|(other, _)| *other != text);
                bench.account.record(Control::Dropped { binding: upstream(text) }).0
            }
            Step::Lose(None, reason) => {
                match reason {
                    GapReason::MonthTurn => confirmed.iter_mut().for_each(|(_, turned)| *turned = true),
                    _ => confirmed.clear(),
                }
                bench.account.record(Control::Lost { bindings: LostBindings::All, reason, since }).0
            }
            Step::Lose(Some(text), reason) => {
                match reason {
                    GapReason::MonthTurn => confirmed
                        .iter_mut()
                        .filter(|(other, _)| *other == text)
                        .for_each(|(_, turned)| *turned = true),
                    _ => confirmed.retain(|(other, _)| *other != text),
                }
                let bindings = LostBindings::These(vec![upstream(text)]);
                bench.account.record(Control::Lost { bindings, reason, since }).0
            }
            Step::State(state) => bench.state(state),
            Step::Other(text) => {
                self.other = Some(bench.subscribe(&[text]).await);
                return;
            }
            Step::Advance(seconds) => {
                advance(Duration::from_secs(seconds)).await;
                // What has lingered long enough goes.
                tokio::task::yield_now().await;
                return;
            }
            Step::Read => return,
        };
        self.confirmed.push((sequence, confirmed));
    }

    /// The stretches in which a binding was not covered, from a position on: by the book, without the hub's own fold.
    fn uncovered(&self, wish: &str, from: u64) -> Vec<(u64, Option<u64>)> {
        let covers = |bindings: &[(&str, bool)]| {
            bindings.iter().any(|(text, turned)| {
                upstream(text).pattern().contains(binding(wish).pattern())
                    && !(*turned && binding(wish).month_bound())
            })
        };
        let at_start = self.confirmed.iter().rev().find(|(sequence, _)| *sequence <= from);
        let mut stretches: Vec<(u64, Option<u64>)> = Vec::new();
        if !at_start.is_some_and(|(_, bindings)| covers(bindings)) {
            stretches.push((from, None));
        }
        for (sequence, bindings) in self.confirmed.iter().filter(|(sequence, _)| *sequence > from) {
            match (stretches.last_mut(), covers(bindings)) {
                (Some((_, end @ None)), true) => *end = Some(*sequence),
                (Some((_, Some(_))) | None, false) => stretches.push((*sequence, None)),
                _ => {}
            }
        }
        stretches
    }
}

/// Without what may differ between a live reader and a replaying one: heartbeats, and how the moment is called at which
/// both found a binding pending.
fn comparable(seen: Vec<Seen>, start: u64) -> Vec<Seen> {
    let comparable =
        seen.into_iter().filter(|seen| !matches!(seen, Seen::Heartbeat(_))).map(|seen| match seen {
            Seen::Gap(gap) if gap.reason == GapReason::BindingPending && gap.after.0 == start => {
                Seen::Gap(Gap { start_time: None, ..gap })
            }
            seen => seen,
        });
    comparable.collect()
}

/// For each binding the stretches that the gaps tell of: where it opened, where it closed.
fn stretches(seen: &[Seen]) -> BTreeMap<String, Vec<(u64, Option<u64>)>> {
    let mut all: BTreeMap<String, Vec<(u64, Option<u64>)>> = BTreeMap::new();
    let mut open: BTreeMap<String, Gap> = BTreeMap::new();
    for seen in seen {
        let Seen::Gap(gap) = seen else { continue };
        for text in &gap.bindings {
            let stretches = all.entry(text.to_string()).or_default();
            match gap.before {
                None => {
                    assert!(
                        open.insert(text.to_string(), gap.clone()).is_none(),
                        "{text} has two gaps at once"
                    );
                    stretches.push((gap.after.0, None));
                }
                Some(before) => {
                    let opened = open.remove(&**text).expect("a gap that closes was open");
                    assert_eq!((opened.id, opened.reason, opened.after), (gap.id, gap.reason, gap.after));
                    assert!(gap.start_time <= gap.end_time);
                    stretches.last_mut().expect("opened before").1 = Some(before.0);
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever reads live and whoever replays later from where that one began are told the same; and both are told of
    /// each event, and of each stretch without cover, that there was.
    #[test]
    fn replay_tells_what_live_told(before in history(), after in history(), wishes in wishes()) {
        paused(async {
            let bench = Bench::new(settings());
            let mut witness = Witness::default();
            for step in &before {
                witness.take(&bench, step).await;
            }
            let mut reader = bench.subscribe(&wishes).await;
            let start = reader.start_position().sequence.0;
            let mut live = Vec::new();
            for step in &after {
                witness.take(&bench, step).await;
                if matches!(step, Step::Read) {
                    live.extend(drain(&mut reader));
                }
            }
            live.extend(drain(&mut reader));
            let live = comparable(live, start);

            let mut replaying = bench.replay(&wishes, start).await;
            let states = |reader: &Subscription| -> Vec<_> {
                reader.bindings().into_iter().map(|report| (report.state, report.upstream_binding)).collect()
            };
            prop_assert_eq!(states(&replaying), states(&reader));
            let replayed = comparable(drain(&mut replaying), start);
            prop_assert_eq!(&replayed, &live);

            // Every event, once, in order.
            let wanted = witness.events.iter().filter(|(sequence, key)| {
                *sequence > start && wishes.iter().any(|wish| binding(wish).pattern().matches(key))
            });
            let wanted: Vec<u64> = wanted.map(|(sequence, _)| *sequence).collect();
            prop_assert_eq!(live.iter().filter_map(Seen::sequence).collect::<Vec<_>>(), wanted);

            // Every stretch without cover.
            let told = stretches(&live);
            for wish in &wishes {
                let canonical = binding(wish).to_string();
                let told: Vec<_> = told.get(&canonical).into_iter().flatten().copied().collect();
                let uncovered = witness.uncovered(wish, start);
                prop_assert_eq!(told.len(), uncovered.len(), "{} {:?} {:?}", wish, told, uncovered);
                for ((after, before), (from, until)) in told.into_iter().zip(uncovered) {
                    prop_assert!(after <= from, "{} {} {}", wish, after, from);
                    prop_assert_eq!(before, until);
                }
            }

            // Whoever resumes in the middle gets the rest.
            for (index, seen) in live.iter().enumerate().filter(|(_, seen)| seen.sequence().is_some()) {
                let Some(sequence) = seen.sequence() else { continue };
                let mut resumed = bench.replay(&wishes, sequence).await;
                let rest: Vec<_> = live[index + 1..].iter().filter_map(Seen::sequence).collect();
                prop_assert_eq!(drain_events(&mut resumed), rest);
            }
            Ok(())
        })?;
    }

    /// After a heartbeat at a position no event at or before it comes any more: all of them were there already.
    #[test]
    fn heartbeats_never_run_ahead(history in history(), wishes in wishes(), names in any::<bool>()) {
        paused(async {
            let bench = Bench::new(settings());
            let mut witness = Witness::default();
            let names = if names { vec!["CHANNEL_DESTROY".to_owned(), "doc_created".to_owned()] } else { vec![] };
            let spec = SubscribeSpec {
                filter: EventFilter { names: names.clone(), ..EventFilter::default() },
                ..spec(&wishes)
            };
            let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
            let mut had = Vec::new();
            for step in &history {
                witness.take(&bench, step).await;
                let Step::Read = step else { continue };
                for seen in drain(&mut reader) {
                    match seen {
                        Seen::Event(event) => had.push(event.cursor.expect("a cursor").sequence),
                        Seen::Heartbeat(position) => {
                            let due = witness.events.iter().filter(|(sequence, key)| {
                                let name = key.split('.').nth(1).unwrap_or_default();
                                *sequence <= position
                                    && wishes.iter().any(|wish| binding(wish).pattern().matches(key))
                                    && (names.is_empty() || names.iter().any(|wanted| wanted == name))
                            });
                            let due: Vec<u64> = due.map(|(sequence, _)| *sequence).collect();
                            prop_assert_eq!(&had, &due);
                            prop_assert_eq!(reader.position().sequence, Sequence(position));
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })?;
    }

    /// A log far too small: what a reader that skips is given, and what it is told that it lost, is all there was.
    #[test]
    fn a_reader_that_skips_knows_what_it_lost(reads in proptest::collection::vec((1..40_usize, any::<bool>()), 1..20)) {
        paused(async {
            let bench = Bench::new(config::Hub { log_records: 16, ..settings() });
            bench.confirm("call.*.*");
            let spec = SubscribeSpec { overflow_policy: OverflowPolicy::Skip, ..spec(&["call.CHANNEL_CREATE.*"]) };
            let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
            let _all = bench.subscribe(&["call.*.*"]).await;
            drain(&mut reader);
            let (mut appended, mut had, mut lost) = (Vec::new(), Vec::new(), 0);
            for (count, mixed) in reads {
                for number in 0..count {
                    let name = if mixed && number % 3 == 0 { "CHANNEL_DESTROY" } else { "CHANNEL_CREATE" };
                    let sequence = bench.call(name, "a").expect("wanted");
                    if name == "CHANNEL_CREATE" {
                        appended.push(sequence);
                    }
                }
                for seen in drain(&mut reader) {
                    if let Some(sequence) = seen.sequence() {
                        had.push(sequence);
                    }
                    if let Seen::Gap(gap) = seen {
                        let before = gap.before.expect("it is over").0;
                        let missing = appended.iter().filter(|s| **s > gap.after.0 && **s < before).count();
                        prop_assert_eq!(gap.lost_count, Some(missing as u64));
                        prop_assert!(had.iter().all(|sequence| *sequence <= gap.after.0));
                        lost += missing;
                    }
                }
            }
            prop_assert_eq!(had.len() + lost, appended.len());
            prop_assert!(had.is_sorted());
            Ok(())
        })?;
    }
}

/// Under load, on several threads: a reader with a filter, its heartbeats, and a writer that does not wait for it.
#[test]
fn heartbeats_never_run_ahead_of_a_busy_writer() {
    const EVENTS: u64 = 20_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let (had, heartbeats) = runtime.expect("a runtime").block_on(async {
        let bench = Bench::new(settings());
        bench.confirm("call.*.*");
        let filter = EventFilter { call_ids: vec!["0".into()], ..EventFilter::default() };
        // The shortest there is: a heartbeat whenever there is nothing else.
        let spec = SubscribeSpec { filter, heartbeat_interval: Duration::ZERO, ..spec(&["call.*.*"]) };
        let mut reader = bench.account.subscribe(spec).await.expect("a subscription");
        let account = Arc::clone(&bench.account);
        let writer = tokio::spawn(async move {
            let mut wanted = Vec::new();
            for number in 0..EVENTS {
                let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
                let sequence = account.append(call("CHANNEL_CREATE", &id.to_string())).expect("wanted");
                if id == 0 {
                    wanted.push(sequence.0);
                }
            }
            wanted
        });
        let (mut had, mut heartbeats) = (Vec::new(), Vec::new());
        let newest = EVENTS + reader.start_position().sequence.0;
        while heartbeats.last().is_none_or(|(position, _)| *position < newest) {
            for seen in seen(reader.next().await.expect("an item")) {
                match seen {
                    Seen::Heartbeat(position) => heartbeats.push((position, had.len())),
                    seen => had.extend(seen.sequence()),
                }
            }
        }
        assert_eq!(writer.await.expect("a writer"), had, "everything, once, in order");
        (had, heartbeats)
    });
    assert!(had.len() > 1000);
    for (position, before) in heartbeats {
        let due = had.partition_point(|sequence| *sequence <= position);
        assert_eq!(due, before, "heartbeat at {position}");
    }
}
