//! What is shown of accounts at a scrape.

use super::{
    account::{AccountCounts, Totals, add},
    catalogue,
    family::{Family, Sheet, Value},
    reading::{AccountReading, older},
    words::{State, Word},
};
use std::time::SystemTime;

/// What is known of an account, or of several together.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// How it stands; not of one that was removed.
    reading: Option<AccountReading>,
    sessions: Option<u64>,
    last_frame: Option<SystemTime>,
    totals: Totals,
}

impl Sample {
    pub(super) fn new(counts: &AccountCounts, reading: Option<AccountReading>) -> Self {
        Self {
            sessions: Some(counts.sessions()),
            last_frame: counts.last_frame(),
            totals: counts.totals(),
            reading,
        }
    }

    /// What accounts counted that are no more.
    pub(super) fn of_gone(totals: Totals) -> Self {
        Self { totals, ..Self::default() }
    }

    /// Takes another account in: from here on both are one.
    pub(super) fn absorb(&mut self, other: Self) {
        match (&mut self.reading, other.reading) {
            (Some(reading), Some(other)) => reading.absorb(other),
            (reading, other) => *reading = reading.take().or(other),
        }
        if let Some(more) = other.sessions {
            *self.sessions.get_or_insert_default() += more;
        }
        self.last_frame = older(self.last_frame, other.last_frame);
        add(&mut self.totals, other.totals);
    }
}

/// The accounts with their labels, in order of these.
pub(super) struct Samples(pub(super) Vec<(String, Sample)>);

impl Samples {
    pub(super) fn write(&self, sheet: &mut Sheet) {
        self.write_state(sheet);
        for family in [&catalogue::ATTEMPTS, &catalogue::SESSIONS_ENDED] {
            self.write_counts(sheet, family);
        }
        self.each(sheet, &catalogue::SESSIONS, |sample| sample.sessions);
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
        self.each(sheet, &catalogue::LOGS, |sample| Some(sample.reading.as_ref()?.logs));
        self.each(sheet, &catalogue::LOG_BYTES, |sample| Some(sample.reading.as_ref()?.log_bytes));
        self.each(sheet, &catalogue::LOG_RECORDS, |sample| Some(sample.reading.as_ref()?.log_records));
        self.each(sheet, &catalogue::LOG_WINDOW, |sample| sample.reading.as_ref()?.window);
        self.each(sheet, &catalogue::VIEWS, |sample| Some(sample.reading.as_ref()?.views));
        self.each(sheet, &catalogue::STREAMS, |sample| Some(sample.reading.as_ref()?.streams));
        self.each(sheet, &catalogue::LAG, |sample| Some(sample.reading.as_ref()?.lag));
        for family in [&catalogue::DELIVERIES, &catalogue::DELIVERED_BYTES] {
            self.write_counts(sheet, family);
        }
    }

    /// How those that there are stand.
    fn readings(&self) -> impl Iterator<Item = (&str, &AccountReading)> {
        self.0.iter().filter_map(|(label, sample)| Some((label.as_str(), sample.reading.as_ref()?)))
    }

    fn write_state(&self, sheet: &mut Sheet) {
        let readings = || self.readings();
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
        let readings = || self.readings();
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
                let counts = sample.totals.get(family.name).into_iter().flatten();
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
