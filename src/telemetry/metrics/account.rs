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
        Attempt, CommandPurpose, CommandResult, Dropped, RotationEnd, RotationTrigger, SessionEnd, State,
        Word,
    },
};

/// The label of the accounts that have none of their own.
const OTHER: &str = "other";

/// The counts of one configured account: its sessions, and what they bring, for descendants too.
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
}

impl Default for AccountCounts {
    fn default() -> Self {
        let results =
            CommandPurpose::ALL.iter().map(|purpose| (purpose.as_str(), ByWord::of::<CommandResult>()));
        Self {
            attempts: ByWord::of::<Attempt>(),
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
        }
    }
}

impl AccountCounts {
    /// An attempt to open a session has come to an end.
    pub fn attempted(&self, outcome: Attempt) {
        self.attempts.hit(outcome);
    }

    /// A session is open.
    pub fn session_opened(&self) {
        self.sessions_opened.hit();
    }

    /// A session ended.
    pub fn session_ended(&self, reason: SessionEnd) {
        self.sessions_ended.hit(reason);
    }

    /// A frame came, of whatever kind.
    pub fn frame(&self, now: SystemTime) {
        self.last_frame.set(now);
    }

    /// So much text was received.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.add(bytes as u64);
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
        self.events_received.hit();
    }

    /// It was put into a log.
    pub fn event_appended(&self) {
        self.events_appended.hit();
    }

    /// It was not.
    pub fn event_dropped(&self, why: Dropped) {
        self.dropped(why).hit();
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
            put(&catalogue::EVENTS_DROPPED, [why.as_str(), ""], counts.dropped(*why).get());
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
