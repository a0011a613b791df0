//! Whoever comes back sees what it would have seen had it stayed: from every position, heartbeat and time, for every filter,
//! also where the log was trimmed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::Index};

use super::{
    properties::{Step, Witness, history, step, wishes},
    *,
};
use crate::hub::{Cursor, FieldFilter, Gap, Sequence, SubscribeError};

/// What a reader was told by one record of the log, for one binding.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Event(Box<proto::Event>),
    Upstream(UpstreamState, u64, Vec<super::super::BindingReport>),
    /// Of a gap that was open when the reader began, only how it ended: what has been pending since before is missing for
    /// each reader from where it begins; and where two things took the cover away, one of them without a trace, who comes
    /// later is told of the other, which was before.
    Gap(String, Gap),
}

/// The stretch of a log that a reader was told of: in the order in which it was told.
#[derive(Debug, Clone)]
struct Story {
    begin: u64,
    /// The gaps that were open where it began: why, and their ids, if these do not depend on who is told.
    open: BTreeMap<String, (GapReason, Option<u64>)>,
    /// With the position of the record that each is derived from.
    told: Vec<(u64, Seen)>,
}

impl Story {
    fn new(begin: u64, seen: Vec<Seen>) -> Self {
        let mut story = Self { begin, open: BTreeMap::new(), told: Vec::new() };
        for seen in seen {
            match &seen {
                Seen::Gap(gap) if gap.before.is_none() && gap.id <= begin => {
                    for text in &gap.bindings {
                        assert!(story.open.insert(text.to_string(), named(gap)).is_none(), "opened once");
                    }
                }
                _ => story.told.push((record_of(&seen), seen)),
            }
        }
        assert!(story.told.iter().map(|(record, _)| *record).is_sorted(), "in order");
        story
    }

    /// What it would have been, had the reader begun later.
    fn from(&self, position: u64) -> Self {
        let mut open = self.open.clone();
        for (_, seen) in self.told.iter().take_while(|(record, _)| *record <= position) {
            let Seen::Gap(gap) = seen else { continue };
            for text in &gap.bindings {
                match gap.before {
                    None => open.insert(text.to_string(), named(gap)),
                    Some(_) => open.remove(&**text),
                };
            }
        }
        let rest = self.told.iter().filter(|(record, _)| *record > position);
        let told = rest.filter(|(_, seen)| !matches!(seen, Seen::Heartbeat(_))).cloned().collect();
        Self { begin: position, open, told }
    }

    /// So that two stories can be compared: gaps binding by binding, as one message may stand for several.
    fn told(&self) -> Vec<Told> {
        let mut all = Vec::new();
        let mut gaps: Vec<(String, Gap)> = Vec::new();
        for (_, seen) in &self.told {
            if let Seen::Gap(gap) = seen {
                for text in &gap.bindings {
                    let mut gap = Gap { bindings: Vec::new(), ..gap.clone() };
                    if gap.after.0 <= self.begin && gap.id <= self.begin {
                        let reason = GapReason::BindingPending;
                        gap = Gap { id: 0, reason, after: Sequence(0), start_time: None, ..gap };
                    }
                    gaps.push((text.to_string(), gap));
                }
                continue;
            }
            flush(&mut gaps, &mut all);
            match seen {
                Seen::Event(event) => all.push(Told::Event(event.clone())),
                Seen::Upstream(state, position, reports) => {
                    all.push(Told::Upstream(*state, *position, reports.clone()));
                }
                _ => {}
            }
        }
        flush(&mut gaps, &mut all);
        all
    }

    fn events(&self) -> Vec<u64> {
        self.told.iter().filter_map(|(_, seen)| seen.sequence()).collect()
    }
}

fn named(gap: &Gap) -> (GapReason, Option<u64>) {
    (gap.reason, (gap.reason != GapReason::BindingPending).then_some(gap.id))
}

/// Those of one record in the order of their bindings.
fn flush(gaps: &mut Vec<(String, Gap)>, all: &mut Vec<Told>) {
    gaps.sort_by(|(one, of_one), (two, of_two)| {
        let record = |gap: &Gap| gap.before.unwrap_or(gap.after.next());
        (record(of_one), one).cmp(&(record(of_two), two))
    });
    all.extend(gaps.drain(..).map(|(text, gap)| Told::Gap(text, gap)));
}

/// The position of the record that something is derived from.
fn record_of(seen: &Seen) -> u64 {
    match seen {
        Seen::Event(event) => event.cursor.as_ref().expect("a cursor").sequence,
        Seen::Upstream(_, position, _) | Seen::Heartbeat(position) => *position,
        Seen::Gap(gap) => gap.before.unwrap_or(gap.after.next()).0,
        Seen::End(_) => u64::MAX,
    }
}

/// One item after the other, with the position that the reader says it has after each.
fn read(reader: &mut Subscription, items: &mut Vec<(Vec<Seen>, u64)>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut quiet = 0;
    while quiet < 3 {
        match reader.poll_next(&mut cx) {
            Poll::Ready(Some(item)) => {
                quiet = 0;
                let seen = seen(item);
                items.push((seen, reader.position().sequence.0));
            }
            Poll::Ready(None) => break,
            Poll::Pending => quiet += 1,
        }
    }
}

fn filter() -> impl Strategy<Value = EventFilter> {
    let names = prop::sample::subsequence(vec!["CHANNEL_CREATE", "CHANNEL_DESTROY", "doc_created"], 0..=2);
    let call_ids = prop::sample::subsequence(vec!["a", "b"], 0..=1);
    // Documents have no `n`, and an id that is no text of theirs is never equal.
    let fields = prop::option::weighted(0.3, prop::sample::select(vec![("n", "7"), ("id", "9"), ("n", "8")]));
    (names, call_ids, fields).prop_map(|(names, call_ids, field)| EventFilter {
        names: names.into_iter().map(str::to_owned).collect(),
        call_ids: call_ids.into_iter().map(str::to_owned).collect(),
        fields: field
            .map(|(path, value)| FieldFilter { path: vec![path.to_owned()], values: vec![value.to_owned()] })
            .into_iter()
            .collect(),
    })
}

/// Whether a filter lets an event through, by the book: call events have the call id that their key ends with and `n` = 7,
/// documents have the id 9 and no call id.
fn passes(filter: &EventFilter, key: &str) -> bool {
    let words: Vec<_> = key.split('.').collect();
    let (name, call_id) = (words[1], (words[0] == "call").then_some(words[2]));
    let field = |field: &FieldFilter| match field.path[0].as_str() {
        "n" => call_id.is_some() && field.values[0] == "7",
        _ => call_id.is_none() && field.values[0] == "9",
    };
    (filter.names.is_empty() || filter.names.iter().any(|wanted| wanted == name))
        && (filter.call_ids.is_empty()
            || filter.call_ids.iter().any(|wanted| Some(wanted.as_str()) == call_id))
        && filter.fields.iter().all(field)
}

fn is_wanted(wishes: &[&str], filter: &EventFilter, key: &str) -> bool {
    wishes.iter().any(|wish| binding(wish).pattern().matches(key)) && passes(filter, key)
}

async fn begin(
    bench: &Bench,
    wishes: &[&str],
    filter: &EventFilter,
    start: Start,
    miss_policy: ReplayMissPolicy,
) -> Result<Subscription, SubscribeError> {
    let spec = SubscribeSpec {
        filter: filter.clone(),
        start,
        miss_policy,
        overflow_policy: OverflowPolicy::Skip,
        heartbeat_interval: Duration::from_secs(3),
        ..spec(wishes)
    };
    bench.account.subscribe(spec).await
}

fn time_of(bench: &Bench, position: u64) -> SystemTime {
    bench.account.with_state(|state| state.log.time_at(Sequence(position)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// From every position of the log, from every heartbeat, from where the reader says it is between any two items, and from
    /// every time, a replaying reader is told what the live one was told from there on.
    #[test]
    fn from_everywhere_the_rest_is_told(
        before in history(),
        after in history(),
        wishes in wishes(),
        filter in prop_oneof![1 => Just(EventFilter::default()), 2 => filter()],
        times in prop::collection::vec(any::<Index>(), 4),
    ) {
        paused(async {
            let bench = Bench::new(settings());
            let mut witness = Witness::default();
            for step in &before {
                witness.take(&bench, step).await;
            }
            let live = begin(&bench, &wishes, &filter, Start::Live, ReplayMissPolicy::Fail).await;
            let mut reader = live.expect("a subscription");
            let start = reader.start_position().sequence.0;
            let mut items = Vec::new();
            for step in &after {
                witness.take(&bench, step).await;
                if matches!(step, Step::Read) {
                    read(&mut reader, &mut items);
                }
            }
            read(&mut reader, &mut items);
            let newest = bench.account.status().window.newest.0;
            let live = Story::new(start, items.iter().flat_map(|(seen, _)| seen.clone()).collect());

            let due = witness.events.iter().filter(|(sequence, key)| *sequence > start && is_wanted(&wishes, &filter, key));
            prop_assert_eq!(live.events(), due.map(|(sequence, _)| *sequence).collect::<Vec<_>>());

            let is_traceless = |step: &Step| matches!(step, Step::Drop(_));
            let traceless = before.iter().chain(&after).any(is_traceless);
            let mut stories = BTreeMap::new();
            for position in start..=newest {
                let cursor = Start::After(bench.account.cursor(Sequence(position)));
                let mut replaying = begin(&bench, &wishes, &filter, cursor, ReplayMissPolicy::Fail).await.expect("all is there");
                let story = Story::new(position, drain(&mut replaying));
                let rest = live.from(position);
                prop_assert!(story.open.keys().eq(rest.open.keys()), "open at {}: {:?} {:?}", position, story.open, rest.open);
                if !traceless {
                    prop_assert_eq!(&story.open, &rest.open, "open at {}", position);
                }
                prop_assert_eq!(story.told(), rest.told(), "from {}", position);
                stories.insert(position, story);
            }

            // What it says of its own position holds: all that comes after an item comes after that position too.
            let mut rest: Vec<(u64, Seen)> = live.told.clone();
            let opening = items.iter().flat_map(|(seen, _)| seen).count() - rest.len();
            let mut skipped = 0;
            for (seen, position) in &items {
                for _ in seen {
                    if skipped < opening {
                        skipped += 1;
                    } else {
                        rest.remove(0);
                    }
                }
                if skipped < opening {
                    continue;
                }
                let heartbeat = matches!(seen[..], [Seen::Heartbeat(_)]);
                if heartbeat {
                    prop_assert_eq!(&seen[0], &Seen::Heartbeat(*position));
                }
                let said = rest.iter().filter(|(_, seen)| !matches!(seen, Seen::Heartbeat(_))).cloned().collect::<Vec<_>>();
                let resumed = live.from(*position).told;
                prop_assert!(resumed.ends_with(&said), "at {}: {:?} {:?}", position, resumed, said);
                let again = &resumed[..resumed.len() - said.len()];
                prop_assert!(again.iter().all(|(_, seen)| seen.sequence().is_none()), "no event twice: {:?}", again);
                prop_assert!(!heartbeat || again.is_empty(), "behind everything before it: {:?}", again);
            }

            // Times of records, and between them.
            let first = time_of(&bench, start);
            for time in &times {
                let of = time_of(&bench, start + time.index((newest - start + 1) as usize) as u64);
                for time in [of, of + Duration::from_millis(500), of - Duration::from_millis(500)] {
                    if time < first || time > bench.now() {
                        continue;
                    }
                    let first = (1..=newest).find(|position| time_of(&bench, *position) >= time).unwrap_or(newest + 1);
                    if first <= start {
                        continue;
                    }
                    let mut replaying = begin(&bench, &wishes, &filter, Start::At(time), ReplayMissPolicy::Fail).await.expect("all is there");
                    prop_assert_eq!(replaying.start_position().sequence.0, first - 1);
                    let story = Story::new(first - 1, drain(&mut replaying));
                    prop_assert_eq!(story.told(), stories[&(first - 1)].told());
                }
            }
            Ok(())
        })?;
    }
}

/// One of several accounts whose logs are trimmed together.
struct Tenant {
    bench: Bench,
    witness: Witness,
    wishes: Vec<&'static str>,
    filter: EventFilter,
    skipping: Subscription,
    /// `None` while it has been cut off and has not come back.
    cut: Option<Subscription>,
    /// Where the one that is cut off has to resume.
    resume: Option<Cursor>,
    /// What each of them was told, in stretches: `(after, before)` of what was lost, and the events.
    skipped: Received,
    resumed: Received,
}

/// What a reader had and lost.
#[derive(Default)]
struct Received {
    begin: u64,
    had: Vec<u64>,
    lost: Vec<(u64, u64, Option<u64>)>,
}

impl Received {
    fn take(&mut self, seen: &[Seen]) {
        for seen in seen {
            match seen {
                Seen::Event(event) => self.had.push(event.cursor.as_ref().expect("a cursor").sequence),
                Seen::Gap(gap)
                    if matches!(gap.reason, GapReason::SlowConsumer | GapReason::ReplayWindowExceeded) =>
                {
                    let before = gap.before.expect("it is over").0;
                    self.lost.push((gap.after.0, before, gap.lost_count));
                }
                _ => {}
            }
        }
    }

    /// Every event that it wanted was had once, in order, or lies in a stretch that it was told is lost; and where the
    /// number that was lost is told, it is right.
    fn check(&self, due: &[u64], through: u64) -> Result<(), TestCaseError> {
        let due: Vec<u64> =
            due.iter().copied().filter(|sequence| *sequence > self.begin && *sequence <= through).collect();
        let in_gap =
            |sequence: &u64| self.lost.iter().any(|(after, before, _)| after < sequence && sequence < before);
        let had: Vec<u64> = due.iter().copied().filter(|sequence| !in_gap(sequence)).collect();
        prop_assert_eq!(&self.had, &had, "lost: {:?}", self.lost);
        for (after, before, count) in &self.lost {
            let lost =
                due.iter().filter(|sequence| *after < **sequence && **sequence < *before).count() as u64;
            prop_assert!(count.is_none_or(|count| count == lost), "{:?}: {}", (after, before, count), lost);
        }
        Ok(())
    }
}

impl Tenant {
    async fn new(bench: Bench, wishes: Vec<&'static str>, filter: EventFilter) -> Self {
        let skipping = begin(&bench, &wishes, &filter, Start::Live, ReplayMissPolicy::Fail)
            .await
            .expect("a subscription");
        let begun = |reader: &Subscription| Received {
            begin: reader.start_position().sequence.0,
            ..Received::default()
        };
        let cut = bench
            .account
            .subscribe(SubscribeSpec { filter: filter.clone(), ..spec(&wishes) })
            .await
            .expect("a subscription");
        Self {
            skipped: begun(&skipping),
            resumed: begun(&cut),
            bench,
            witness: Witness::default(),
            wishes,
            filter,
            skipping,
            cut: Some(cut),
            resume: None,
        }
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.witness.take(&self.bench, step).await;
        if !matches!(step, Step::Read) {
            return Ok(());
        }
        let seen = drain(&mut self.skipping);
        prop_assert!(!seen.iter().any(|seen| matches!(seen, Seen::End(_))), "who skips stays");
        self.skipped.take(&seen);
        let mut reader = match self.cut.take() {
            Some(reader) => reader,
            None => {
                let cursor = self.resume.take().expect("where it was cut off");
                let window = self.bench.account.status().window;
                let refused = begin(
                    &self.bench,
                    &self.wishes,
                    &self.filter,
                    Start::After(cursor),
                    ReplayMissPolicy::Fail,
                )
                .await
                .err();
                let is_gone = cursor.sequence < window.oldest;
                prop_assert_eq!(refused, is_gone.then_some(SubscribeError::WindowExceeded { window }));
                let spec = SubscribeSpec {
                    filter: self.filter.clone(),
                    start: Start::After(cursor),
                    miss_policy: ReplayMissPolicy::Gap,
                    ..spec(&self.wishes)
                };
                self.bench.account.subscribe(spec).await.expect("a gap at worst")
            }
        };
        let seen = drain(&mut reader);
        self.resumed.take(&seen);
        match seen.last() {
            Some(Seen::End(super::super::EndReason::SlowConsumer { last, lag })) => {
                let window = self.bench.account.status().window;
                prop_assert_eq!(*lag, window.newest.0 - last.sequence.0);
                self.resume = Some(*last);
            }
            _ => self.cut = Some(reader),
        }
        Ok(())
    }

    fn due(&self) -> Vec<u64> {
        let due = self.witness.events.iter().filter(|(_, key)| is_wanted(&self.wishes, &self.filter, key));
        due.map(|(sequence, _)| *sequence).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several accounts whose logs are far too small together, trimmed now and then: each reader has, in order and once,
    /// every event or is told that it may be lost; and what is still there can be replayed as the window says.
    #[test]
    fn trims_are_told_of(
        tenants in prop::collection::vec((wishes(), prop_oneof![1 => Just(EventFilter::default()), 1 => filter()]), 2..4),
        steps in prop::collection::vec((any::<Index>(), prop_oneof![9 => step().prop_map(Some), 1 => Just(None)]), 50..400),
        bound in 8_000..80_000_usize,
    ) {
        /// A record with all that is made of it, at most.
        const LARGEST: usize = 1 << 10;
        paused(async {
            let shared = config::Hub { log_bytes: bound, account_log_bytes: bound, total_log_bytes: bound, ..settings() };
            let bench = Bench::new(shared);
            let mut all = Vec::new();
            for (number, (wishes, filter)) in (1..).zip(tenants) {
                all.push(Tenant::new(bench.beside(number), wishes, filter).await);
            }
            for (index, step) in &steps {
                let which = index.index(all.len());
                match step {
                    Some(step) => all[which].take(step).await?,
                    None => {
                        bench.hub.trim().await;
                    }
                }
            }
            for tenant in &mut all {
                // The second time it has come back.
                tenant.take(&Step::Read).await?;
                tenant.take(&Step::Read).await?;
                prop_assert!(tenant.cut.is_some());
                let due = tenant.due();
                let window = tenant.bench.account.status().window;
                tenant.skipped.check(&due, window.newest.0)?;
                tenant.resumed.check(&due, window.newest.0)?;
                let mut last = window;
                let there: BTreeSet<u64> = (window.oldest.0..=window.newest.0).collect();
                for position in there {
                    let start = Start::After(tenant.bench.account.cursor(Sequence(position)));
                    let replaying = begin(&tenant.bench, &tenant.wishes, &tenant.filter, start, ReplayMissPolicy::Fail).await;
                    match replaying {
                        Ok(mut replaying) => {
                            let rest: Vec<u64> = due.iter().copied().filter(|sequence| *sequence > position).collect();
                            prop_assert_eq!(drain_events(&mut replaying), rest);
                        }
                        // What readers before it made counts too, and may have cost the oldest records.
                        Err(SubscribeError::WindowExceeded { window }) => prop_assert!(position < window.oldest.0),
                        Err(error) => prop_assert!(false, "{error:?}"),
                    }
                    let now = tenant.bench.account.status().window;
                    prop_assert_eq!((now.epoch, now.newest), (window.epoch, window.newest), "to read adds nothing");
                    let bytes = tenant.bench.account.log_bytes();
                    let is_full = bytes + LARGEST > bound - bound / 8;
                    prop_assert!(now == last || is_full, "to read costs nothing where there is room");
                    last = now;
                }
            }
            Ok(())
        })?;
    }
}
