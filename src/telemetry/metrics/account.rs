//! What is counted for each configured account.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use crate::binding::AccountId;

use super::{
    catalogue,
    count::{ByWord, Count, Moment},
    family::{Family, Sheet, Value},
    reading::{AccountReading, older},
    words::{
        AttemptOutcome, CommandPurpose, CommandResult, Dropped, RotationEnd, RotationTrigger, SessionEnd,
        State, Word,
    },
};

/// The label of the accounts that have none of their own.
const OTHER: &str = "other";

/// The counts of one configured account: its sessions, and what they bring, for descendants too. What comes with each event
/// is counted without a locked instruction: all sessions of an account run in one task, and nobody else counts for it.
#[derive(Debug)]
pub struct AccountCounts {
    attempts: ByWord,
    sessions_opened: Count,
    sessions_ended: ByWord,
    last_frame: Moment,
    received_bytes: Count,
    commands: ByWord,
    /// By purpose, then by result.
    command_results: BTreeMap<&'static str, ByWord>,
    rotations: ByWord,
    rotations_ended: ByWord,
    gaps: ByWord,
    events_received: Count,
    events_appended: Count,
    duplicates: Count,
    unwanted: Count,
    unattributed: Count,
    unreadable: Count,
    /// Of the whole process.
    lines_suppressed: Arc<Count>,
}

impl Default for AccountCounts {
    fn default() -> Self {
        let results =
            CommandPurpose::ALL.iter().map(|purpose| (purpose.as_str(), ByWord::of::<CommandResult>()));
        Self {
            attempts: ByWord::of::<AttemptOutcome>(),
            sessions_opened: Count::default(),
            sessions_ended: ByWord::of::<SessionEnd>(),
            last_frame: Moment::default(),
            received_bytes: Count::default(),
            commands: ByWord::of::<CommandPurpose>(),
            command_results: results.collect(),
            rotations: ByWord::of::<RotationTrigger>(),
            rotations_ended: ByWord::of::<RotationEnd>(),
            gaps: ByWord::default(),
            events_received: Count::default(),
            events_appended: Count::default(),
            duplicates: Count::default(),
            unwanted: Count::default(),
            unattributed: Count::default(),
            unreadable: Count::default(),
            lines_suppressed: Arc::default(),
        }
    }
}

impl AccountCounts {
    pub(super) fn new(lines_suppressed: Arc<Count>) -> Self {
        Self { lines_suppressed, ..Self::default() }
    }

    /// Counts lines of log that are held back: those of the process, not of the account alone.
    pub fn lines_suppressed(&self) -> Arc<Count> {
        Arc::clone(&self.lines_suppressed)
    }

    /// An attempt to open a session has come to an end.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        self.attempts.hit(outcome);
    }

    /// A session is open.
    pub fn session_opened(self: &Arc<Self>) -> SessionGuard {
        self.sessions_opened.hit();
        SessionGuard { counts: Arc::clone(self), end: SessionEnd::Internal }
    }

    /// A frame came, of whatever kind.
    pub fn frame(&self, now: SystemTime) {
        self.last_frame.set(now);
    }

    /// So much text was received.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.add_alone(bytes as u64);
    }

    /// A command was sent.
    pub fn command_sent(&self, purpose: CommandPurpose) {
        self.commands.hit(purpose);
    }

    /// Something came of a command, or nothing in time.
    pub fn command_result(&self, purpose: CommandPurpose, result: CommandResult) {
        if let Some(results) = self.command_results.get(purpose.as_str()) {
            results.hit(result);
        }
    }

    /// A replacement of the session was begun.
    pub fn rotation_started(&self, trigger: RotationTrigger) {
        self.rotations.hit(trigger);
    }

    /// It is over.
    pub fn rotation_ended(&self, outcome: RotationEnd) {
        self.rotations_ended.hit(outcome);
    }

    /// Which reasons for gaps there are.
    pub fn expect_gaps<W: Word>(&self) {
        self.gaps.expect::<W>();
    }

    /// A loss was recorded.
    pub fn gap(&self, reason: impl Word) {
        self.gaps.hit(reason);
    }

    /// Upstream sent an event.
    pub fn event_received(&self) {
        self.events_received.add_alone(1);
    }

    /// It was put into a log.
    pub fn event_appended(&self) {
        self.events_appended.add_alone(1);
    }

    /// It was not.
    pub fn event_dropped(&self, why: Dropped) {
        self.dropped(why).add_alone(1);
    }

    /// How many were not, for a reason.
    pub fn events_dropped(&self, why: Dropped) -> u64 {
        self.dropped(why).get()
    }

    fn dropped(&self, why: Dropped) -> &Count {
        match why {
            Dropped::Duplicate => &self.duplicates,
            Dropped::Unwanted => &self.unwanted,
            Dropped::Unattributed => &self.unattributed,
            Dropped::Unreadable => &self.unreadable,
        }
    }
}

/// A session while it is open. Where it is dropped without a word, something went wrong.
#[derive(Debug)]
pub struct SessionGuard {
    counts: Arc<AccountCounts>,
    end: SessionEnd,
}

impl SessionGuard {
    /// It has ended.
    pub fn ended(mut self, reason: SessionEnd) {
        self.end = reason;
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.counts.sessions_ended.hit(self.end);
    }
}

/// What is known of an account at a scrape, or of several together.
#[derive(Debug, Clone, Default)]
struct Sample {
    reading: AccountReading,
    sessions: u64,
    last_frame: Option<SystemTime>,
    /// By family, and by the values of the labels beside `account`.
    counts: BTreeMap<&'static str, BTreeMap<[&'static str; 2], u64>>,
}

impl Sample {
    fn new(counts: Option<&AccountCounts>, reading: Option<AccountReading>) -> Self {
        let mut sample = Self { reading: reading.unwrap_or_default(), ..Self::default() };
        if let Some(counts) = counts {
            sample.take(counts);
        }
        sample
    }

    fn take(&mut self, counts: &AccountCounts) {
        let ended = counts.sessions_ended.get();
        let over: u64 = ended.iter().map(|(_, count)| count).sum();
        self.sessions = counts.sessions_opened.get().saturating_sub(over);
        self.last_frame = counts.last_frame.get();
        let mut put = |family: &Family, label: [&'static str; 2], count: u64| {
            self.counts.entry(family.name).or_default().insert(label, count);
        };
        for (family, counts) in [
            (&catalogue::ATTEMPTS, &counts.attempts),
            (&catalogue::SESSIONS_ENDED, &counts.sessions_ended),
            (&catalogue::COMMANDS, &counts.commands),
            (&catalogue::ROTATIONS, &counts.rotations),
            (&catalogue::ROTATIONS_ENDED, &counts.rotations_ended),
            (&catalogue::GAPS, &counts.gaps),
        ] {
            counts.get().into_iter().for_each(|(word, count)| put(family, [word, ""], count));
        }
        for (purpose, results) in &counts.command_results {
            for (result, count) in results.get() {
                put(&catalogue::COMMAND_RESULTS, [purpose, result], count);
            }
        }
        for (family, count) in [
            (&catalogue::RECEIVED_BYTES, &counts.received_bytes),
            (&catalogue::EVENTS_RECEIVED, &counts.events_received),
            (&catalogue::EVENTS_APPENDED, &counts.events_appended),
        ] {
            put(family, ["", ""], count.get());
        }
        for why in Dropped::ALL {
            put(&catalogue::EVENTS_DROPPED, [why.as_str(), ""], counts.events_dropped(*why));
        }
    }

    /// Takes another account in: from here on both are one.
    fn absorb(&mut self, other: Self) {
        self.reading.absorb(other.reading);
        self.sessions += other.sessions;
        self.last_frame = older(self.last_frame, other.last_frame);
        for (family, counts) in other.counts {
            let known = self.counts.entry(family).or_default();
            counts.into_iter().for_each(|(label, count)| *known.entry(label).or_default() += count);
        }
    }
}

/// The accounts with their labels, in order of these.
pub(super) struct Samples(Vec<(String, Sample)>);

impl Samples {
    /// All accounts of which anything is known; those beyond `shown` together.
    pub(super) fn new(
        counts: &BTreeMap<AccountId, Arc<AccountCounts>>,
        mut readings: BTreeMap<AccountId, AccountReading>,
        shown: usize,
    ) -> Self {
        let ids: BTreeSet<AccountId> = counts.keys().chain(readings.keys()).copied().collect();
        let mut samples: Vec<(String, Sample)> = Vec::new();
        for (place, id) in ids.into_iter().enumerate() {
            let sample = Sample::new(counts.get(&id).map(Arc::as_ref), readings.remove(&id));
            match samples.last_mut() {
                Some((_, others)) if place > shown => others.absorb(sample),
                _ if place == shown => samples.push((OTHER.to_owned(), sample)),
                _ => samples.push((id.to_string(), sample)),
            }
        }
        Self(samples)
    }

    pub(super) fn write(&self, sheet: &mut Sheet) {
        self.write_state(sheet);
        for family in [&catalogue::ATTEMPTS, &catalogue::SESSIONS_ENDED] {
            self.write_counts(sheet, family);
        }
        self.each(sheet, &catalogue::SESSIONS, |sample| Some(sample.sessions));
        self.each(sheet, &catalogue::LAST_FRAME, |sample| sample.last_frame);
        self.write_bindings(sheet);
        for family in [
            &catalogue::RECEIVED_BYTES,
            &catalogue::COMMANDS,
            &catalogue::COMMAND_RESULTS,
            &catalogue::ROTATIONS,
            &catalogue::ROTATIONS_ENDED,
            &catalogue::GAPS,
            &catalogue::EVENTS_RECEIVED,
            &catalogue::EVENTS_APPENDED,
            &catalogue::EVENTS_DROPPED,
        ] {
            self.write_counts(sheet, family);
        }
        self.each(sheet, &catalogue::LOGS, |sample| Some(sample.reading.logs));
        self.each(sheet, &catalogue::LOG_BYTES, |sample| Some(sample.reading.log_bytes));
        self.each(sheet, &catalogue::LOG_RECORDS, |sample| Some(sample.reading.log_records));
        self.each(sheet, &catalogue::LOG_WINDOW, |sample| sample.reading.window);
        self.each(sheet, &catalogue::VIEWS, |sample| Some(sample.reading.views));
        self.each(sheet, &catalogue::STREAMS, |sample| Some(sample.reading.streams));
        self.each(sheet, &catalogue::LAG, |sample| Some(sample.reading.lag));
        self.each(sheet, &catalogue::DELIVERIES, |sample| Some(sample.reading.deliveries));
        self.each(sheet, &catalogue::DELIVERED_BYTES, |sample| Some(sample.reading.delivered_bytes));
    }

    fn write_state(&self, sheet: &mut Sheet) {
        let readings = || self.0.iter().map(|(label, sample)| (label.as_str(), &sample.reading));
        sheet.family(&catalogue::UP, readings().map(|(label, reading)| ([label], reading.is_up())));
        let states = readings().flat_map(|(label, reading)| {
            let count = |state: &State| reading.states.get(state.as_str()).copied().unwrap_or(0);
            State::ALL.iter().map(move |state| ([label, state.as_str()], count(state)))
        });
        sheet.family(&catalogue::STATE, states);
        let flavours =
            readings().filter_map(|(label, reading)| Some(([label, reading.flavour?.as_str()], true)));
        sheet.family(&catalogue::FLAVOUR, flavours);
    }

    fn write_bindings(&self, sheet: &mut Sheet) {
        let readings = || self.0.iter().map(|(label, sample)| (label.as_str(), &sample.reading));
        let proven = readings()
            .flat_map(|(label, reading)| reading.proven.iter().map(move |(kind, at)| ([label, *kind], *at)));
        sheet.family(&catalogue::PROVEN, proven);
        let bindings = readings().flat_map(|(label, reading)| {
            let [active, pending, refused] = reading.bindings;
            [("active", active), ("pending", pending), ("refused", refused)]
                .map(|(state, count)| ([label, state], count))
        });
        sheet.family(&catalogue::BINDINGS, bindings);
    }

    /// A family with one number for each account, where there is one.
    fn each<V: Into<Value>>(&self, sheet: &mut Sheet, family: &Family, value: impl Fn(&Sample) -> Option<V>) {
        let samples = self.0.iter().filter_map(|(label, sample)| Some(([label.as_str()], value(sample)?)));
        sheet.family(family, samples);
    }

    /// A family of what was counted.
    fn write_counts(&self, sheet: &mut Sheet, family: &Family) {
        let counts = || {
            self.0.iter().flat_map(|(label, sample)| {
                let counts = sample.counts.get(family.name).into_iter().flatten();
                counts.map(move |([first, second], count)| (label.as_str(), *first, *second, *count))
            })
        };
        match family.labels.len() {
            1 => sheet.family(family, counts().map(|(label, _, _, count)| ([label], count))),
            2 => sheet.family(family, counts().map(|(label, word, _, count)| ([label, word], count))),
            _ => {
                sheet.family(family, counts().map(|(label, word, more, count)| ([label, word, more], count)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::family::Form, *};
    use crate::binding::{Flavour, Kind};

    fn id(number: usize) -> AccountId {
        format!("account{number:025}").parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn written(shown: usize) -> String {
        let mut counts = BTreeMap::new();
        let mut readings = BTreeMap::new();
        for number in 0..5 {
            let account = Arc::<AccountCounts>::default();
            account.received(100);
            account.frame(at(1000 + number as u64));
            account.event_dropped(Dropped::Duplicate);
            account.command_result(CommandPurpose::Bind, CommandResult::Done);
            std::mem::forget(account.session_opened());
            if number == 3 {
                account.session_opened().ended(SessionEnd::Silent);
            }
            counts.insert(id(number), account);

            let mut reading = AccountReading { logs: 2, log_bytes: 10, streams: 1, ..Default::default() };
            reading.stands(if number == 4 { State::Down } else { State::Live }, Some(Flavour::K4));
            reading.proven(Kind::Call, at(500 + number as u64));
            // As of a descendant.
            reading.proven(Kind::Call, at(400));
            reading.bindings(1, 2, 0);
            reading.reaches_back(Duration::from_secs(60 - number as u64));
            readings.insert(id(number), reading);
        }
        let mut sheet = Sheet::new(Form::Prometheus);
        Samples::new(&counts, readings, shown).write(&mut sheet);
        sheet.finish()
    }

    fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    #[test]
    fn each_account_has_its_own_series() {
        let text = written(5);
        let of = |family: &str, number: usize, rest: &str| {
            let series = format!("{family}{{account=\"{}\"{rest}}}", id(number));
            value(&text, &series).map(str::to_owned)
        };
        for number in 0..5 {
            assert_eq!(
                of("hawking_upstream_up", number, "").as_deref(),
                Some(if number == 4 { "0" } else { "1" })
            );
            assert_eq!(of("hawking_upstream_sessions", number, "").as_deref(), Some("1"));
            let proven = of("hawking_upstream_proven_timestamp_seconds", number, ",kind=\"call\"");
            assert_eq!(
                proven,
                Some((500 + number).to_string()),
                "the last proof of those that one session serves"
            );
        }
        assert_eq!(of("hawking_upstream_state", 4, ",state=\"down\"").as_deref(), Some("1"));
        assert_eq!(of("hawking_upstream_state", 4, ",state=\"live\"").as_deref(), Some("0"));
        assert_eq!(
            of("hawking_upstream_sessions_ended_total", 3, ",reason=\"silent\"").as_deref(),
            Some("1")
        );
        assert_eq!(of("hawking_upstream_flavour_info", 0, ",flavour=\"k4\"").as_deref(), Some("1"));
        assert!(!text.contains(OTHER));
    }

    /// Whatever somebody configures, the number of series is bounded; what is shown together errs towards the worse.
    #[test]
    fn those_beyond_the_bound_are_shown_together() {
        let text = written(2);
        for (series, expected) in [
            ("hawking_upstream_up{account=\"other\"}", Some("0")),
            ("hawking_upstream_state{account=\"other\",state=\"live\"}", Some("2")),
            ("hawking_upstream_state{account=\"other\",state=\"down\"}", Some("1")),
            ("hawking_upstream_sessions{account=\"other\"}", Some("3")),
            ("hawking_upstream_sessions_ended_total{account=\"other\",reason=\"silent\"}", Some("1")),
            ("hawking_upstream_last_frame_timestamp_seconds{account=\"other\"}", Some("1002")),
            ("hawking_upstream_proven_timestamp_seconds{account=\"other\",kind=\"call\"}", Some("502")),
            ("hawking_upstream_received_bytes_total{account=\"other\"}", Some("300")),
            ("hawking_events_dropped_total{account=\"other\",reason=\"duplicate\"}", Some("3")),
            (
                "hawking_upstream_command_results_total{account=\"other\",purpose=\"bind\",result=\"done\"}",
                Some("3"),
            ),
            ("hawking_upstream_bindings{account=\"other\",state=\"pending\"}", Some("6")),
            ("hawking_logs{account=\"other\"}", Some("6")),
            ("hawking_log_window_seconds{account=\"other\"}", Some("56")),
            ("hawking_streams{account=\"other\"}", Some("3")),
            ("hawking_upstream_flavour_info{account=\"other\",flavour=\"k4\"}", None),
        ] {
            assert_eq!(value(&text, series), expected, "{series}");
        }
        let labels: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once("account=\"")?.1.split_once('"'))
            .map(|(label, _)| label)
            .collect();
        assert_eq!(labels.len(), 3, "{labels:?}");
    }
}
