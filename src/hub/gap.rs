//! Gaps: derived from control records for the bindings of one subscription.
//!
//! A binding is active, or in a gap: also one that upstream refuses, whether it was active before or not. So what is open at a
//! position follows from the coverage there alone, and whoever begins there is told of it.
//!
//! `GapTracker` is a pure fold: the same records from the same position give the same gaps, whether they are read as
//! they come or replayed.

use std::{sync::Arc, time::SystemTime};

use crate::{binding::Binding, telemetry::metrics::Word};

use super::{
    coverage::{BindingReport, BindingState, Cause, Coverage, Standing},
    log::{
        Control, Sequence,
        record::{Change, ControlRecord, Proofs},
    },
};

/// Why events may be missing. As in `hawking.v1.GapReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The session ended or died.
    UpstreamDisconnected,
    /// The binding was not held upstream in that stretch.
    BindingPending,
    /// Evidence of loss although the session was open.
    UpstreamLoss,
    /// A rotation whose barrier never came.
    Rotation,
    /// Month-bound bindings at the turn of the month.
    MonthTurn,
    /// The consumer was too slow and chose to skip.
    SlowConsumer,
    /// The requested start is older than the log.
    ReplayWindowExceeded,
    /// The requested cursor is of another log.
    EpochChanged,
}

impl Word for GapReason {
    const ALL: &'static [Self] = &[
        GapReason::UpstreamDisconnected,
        GapReason::BindingPending,
        GapReason::UpstreamLoss,
        GapReason::Rotation,
        GapReason::MonthTurn,
        GapReason::SlowConsumer,
        GapReason::ReplayWindowExceeded,
        GapReason::EpochChanged,
    ];

    fn as_str(self) -> &'static str {
        match self {
            GapReason::UpstreamDisconnected => "upstream_disconnected",
            GapReason::BindingPending => "binding_pending",
            GapReason::UpstreamLoss => "upstream_loss",
            GapReason::Rotation => "rotation",
            GapReason::MonthTurn => "month_turn",
            GapReason::SlowConsumer => "slow_consumer",
            GapReason::ReplayWindowExceeded => "replay_window_exceeded",
            GapReason::EpochChanged => "epoch_changed",
        }
    }
}

/// A stretch in which events for a subscription were or may have been lost; opened, and closed binding by binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The sequence at which it opened, at least 1: the same in the message that opens it and in those that close it. With the
    /// reason it names the gap.
    pub id: u64,
    /// Why.
    pub reason: GapReason,
    /// The last position before it.
    pub after: Sequence,
    /// The first position after it; `None` while it lasts.
    pub before: Option<Sequence>,
    /// The last proof of life before it; `None` where it is not known (the start lay outside the log).
    pub start_time: Option<SystemTime>,
    /// The bindings' own confirmation; `None` while it lasts.
    pub end_time: Option<SystemTime>,
    /// Canonical texts of the subscription's bindings that it concerns.
    pub bindings: Vec<Arc<str>>,
    /// How many events were lost, where that is known.
    pub lost_count: Option<u64>,
}

/// The gaps and the states of one subscription's bindings, at one position.
#[derive(Debug)]
pub(super) struct GapTracker {
    bindings: Vec<Tracked>,
}

#[derive(Debug)]
struct Tracked {
    standing: Standing,
    /// As it was told last.
    state: BindingState,
    open: Option<Opened>,
}

/// A gap that lasts: what all messages about it have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opened {
    id: u64,
    reason: GapReason,
    after: Sequence,
    start_time: SystemTime,
}

/// What a record changed for a subscription.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) gaps: Vec<Gap>,
    /// The bindings whose state or server changed.
    pub(super) reports: Vec<BindingReport>,
}

impl GapTracker {
    /// Begins at a position, with the coverage there. Bindings that are not active open their gaps at once.
    pub(super) fn new(
        bindings: impl Iterator<Item = (Binding, Arc<str>)>,
        coverage: &Coverage,
        position: Sequence,
        now: SystemTime,
    ) -> (Self, Vec<Gap>) {
        let bindings = bindings.map(|(binding, text)| {
            let standing = coverage.standing(&binding, text);
            Tracked { state: standing.state(), standing, open: None }
        });
        let mut tracker = Self { bindings: bindings.collect() };
        let mut gaps = Grouped::default();
        for tracked in &mut tracker.bindings {
            if tracked.state != BindingState::Active {
                let opened = Opened::found(tracked.standing.cause(now), position);
                tracked.open = Some(opened);
                gaps.add(opened, None, tracked.standing.text());
            }
        }
        (tracker, gaps.0)
    }

    /// Takes the next control record in.
    pub(super) fn apply(&mut self, record: &ControlRecord) -> Changes {
        let cause = match &record.change {
            Change::Upstream(Control::Lost { reason, since, .. }) => {
                Cause { sequence: record.sequence, reason: *reason, since: *since }
            }
            _ => Cause::pending_since(record),
        };
        let opening = Opened::seen(cause);
        let mut gaps = Grouped::default();
        let mut reports = Vec::new();
        for tracked in &mut self.bindings {
            let server = tracked.standing.server_text();
            if !tracked.standing.apply(record) {
                continue;
            }
            let state = tracked.standing.state();
            match &state {
                BindingState::Active => {
                    if let Some(opened) = tracked.open.take() {
                        gaps.add(opened, Some((record.sequence, record.time)), tracked.standing.text());
                    }
                }
                BindingState::Pending | BindingState::Refused(_) => {
                    if tracked.open.is_none() {
                        tracked.open = Some(opening);
                        gaps.add(opening, None, tracked.standing.text());
                    }
                }
            }
            if state != tracked.state || server != tracked.standing.server_text() {
                reports.push(tracked.standing.report(record.proofs));
                tracked.state = state;
            }
        }
        Changes { gaps: gaps.0, reports }
    }

    /// Goes on at another position, whose records between were not read: closes what is over, opens what began.
    pub(super) fn skip_to(&mut self, coverage: &Coverage, position: Sequence, time: SystemTime) -> Vec<Gap> {
        let mut gaps = Grouped::default();
        for tracked in &mut self.bindings {
            tracked.standing =
                coverage.standing(tracked.standing.binding(), Arc::clone(tracked.standing.text()));
            tracked.state = tracked.standing.state();
            let found = match tracked.state {
                BindingState::Active => None,
                BindingState::Pending | BindingState::Refused(_) => {
                    Some(Opened::found(tracked.standing.cause(time), position))
                }
            };
            if found.map(|found| found.id) == tracked.open.map(|open| open.id) {
                continue;
            }
            if let Some(over) = tracked.open.take() {
                gaps.add(over, Some((position.next(), time)), tracked.standing.text());
            }
            if let Some(found) = found {
                tracked.open = Some(found);
                gaps.add(found, None, tracked.standing.text());
            }
        }
        gaps.0
    }

    /// How the bindings stand, in their order.
    pub(super) fn reports(&self, proofs: Proofs) -> Vec<BindingReport> {
        self.bindings.iter().map(|tracked| tracked.standing.report(proofs)).collect()
    }

    /// The canonical texts of all bindings.
    pub(super) fn texts(&self) -> Vec<Arc<str>> {
        self.bindings.iter().map(|tracked| Arc::clone(tracked.standing.text())).collect()
    }
}

impl Opened {
    /// Opened by a record that was read.
    fn seen(cause: Cause) -> Self {
        Self {
            // What was wanted before there was any record opens at the first; 0 would look like none.
            id: cause.sequence.0.max(1),
            reason: cause.reason,
            after: cause.sequence.previous(),
            start_time: cause.since,
        }
    }

    /// Found open at a position. An outage keeps the identity that it has for those who saw it begin; what has been
    /// pending since it was wanted, is missing for this reader from where it starts.
    fn found(cause: Cause, position: Sequence) -> Self {
        match cause.reason {
            GapReason::BindingPending => Self { after: position, ..Self::seen(cause) },
            _ => Self::seen(cause),
        }
    }
}

/// Gaps that are told of together: one message for each gap, with all bindings that it concerns.
#[derive(Default)]
struct Grouped(Vec<Gap>);

impl Grouped {
    fn add(&mut self, opened: Opened, closed: Option<(Sequence, SystemTime)>, binding: &Arc<str>) {
        let before = closed.map(|(before, _)| before);
        let known = self.0.iter_mut().find(|gap| gap.id == opened.id && gap.before == before);
        if let Some(gap) = known {
            gap.bindings.push(Arc::clone(binding));
            return;
        }
        self.0.push(Gap {
            id: opened.id,
            reason: opened.reason,
            after: opened.after,
            before,
            start_time: Some(opened.start_time),
            end_time: closed.map(|(_, time)| time),
            bindings: vec![Arc::clone(binding)],
            lost_count: None,
        });
    }
}
