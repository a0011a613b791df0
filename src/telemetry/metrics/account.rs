//! What is counted for each configured account.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use super::{
    catalogue,
    count::{ByWord, Count, Moment},
    family::Family,
    reading::Delivered,
    words::{
        AttemptOutcome, CommandPurpose, CommandResult, Dropped, RotationEnd, RotationTrigger, SessionEnd,
        Word,
    },
};

/// Counts by family, and by the values of the labels beside `account`.
pub(super) type Totals = BTreeMap<&'static str, BTreeMap<[&'static str; 2], u64>>;

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
    deliveries: Count,
    delivered_bytes: Count,
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
            deliveries: Count::default(),
            delivered_bytes: Count::default(),
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

    /// Streams were given so much more.
    pub(super) fn delivered(&self, delivered: Delivered) {
        self.deliveries.add(delivered.events);
        self.delivered_bytes.add(delivered.bytes);
    }

    pub(super) fn sessions(&self) -> u64 {
        let over: u64 = self.sessions_ended.get().iter().map(|(_, count)| count).sum();
        self.sessions_opened.get().saturating_sub(over)
    }

    pub(super) fn last_frame(&self) -> Option<SystemTime> {
        self.last_frame.get()
    }

    /// All that only grows.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::new();
        let mut put = |family: &Family, labels: [&'static str; 2], count: u64| {
            totals.entry(family.name).or_default().insert(labels, count);
        };
        for (family, counts) in [
            (&catalogue::ATTEMPTS, &self.attempts),
            (&catalogue::SESSIONS_ENDED, &self.sessions_ended),
            (&catalogue::COMMANDS, &self.commands),
            (&catalogue::ROTATIONS, &self.rotations),
            (&catalogue::ROTATIONS_ENDED, &self.rotations_ended),
            (&catalogue::GAPS, &self.gaps),
        ] {
            counts.get().into_iter().for_each(|(word, count)| put(family, [word, ""], count));
        }
        for (purpose, results) in &self.command_results {
            for (result, count) in results.get() {
                put(&catalogue::COMMAND_RESULTS, [purpose, result], count);
            }
        }
        for (family, count) in [
            (&catalogue::RECEIVED_BYTES, &self.received_bytes),
            (&catalogue::EVENTS_RECEIVED, &self.events_received),
            (&catalogue::EVENTS_APPENDED, &self.events_appended),
            (&catalogue::DELIVERIES, &self.deliveries),
            (&catalogue::DELIVERED_BYTES, &self.delivered_bytes),
        ] {
            put(family, ["", ""], count.get());
        }
        for why in Dropped::ALL {
            put(&catalogue::EVENTS_DROPPED, [why.as_str(), ""], self.events_dropped(*why));
        }
        totals
    }
}

/// Adds counts to others.
pub(super) fn add(totals: &mut Totals, more: Totals) {
    for (family, counts) in more {
        let known = totals.entry(family).or_default();
        counts.into_iter().for_each(|(labels, count)| *known.entry(labels).or_default() += count);
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
