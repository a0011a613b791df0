//! Where in a log a subscription starts.

use std::{sync::Arc, time::SystemTime};

use super::{
    coverage::Coverage,
    gap::GapReason,
    log::{Sequence, record::ControlRecord, store::Log},
    reader::Miss,
    subscription::{ReplayMissPolicy, Start, SubscribeError},
};

/// A start that is fixed: the position, and what it takes to know the coverage there.
pub(super) struct Begin {
    pub(super) position: Sequence,
    /// When that is.
    pub(super) time: SystemTime,
    /// The coverage at the position, once `controls` are folded in.
    pub(super) coverage: Arc<Coverage>,
    pub(super) controls: Vec<Arc<ControlRecord>>,
    /// What lay before the log.
    pub(super) miss: Option<Miss>,
}

impl Begin {
    /// After the newest record.
    pub(super) fn live(log: &Log, now: SystemTime) -> Self {
        Self {
            position: log.newest(),
            time: now,
            coverage: Arc::clone(log.head()),
            controls: Vec::new(),
            miss: None,
        }
    }

    fn replay(log: &Log, position: Sequence, miss: Option<Miss>) -> Self {
        Self {
            position,
            time: log.time_at(position),
            coverage: Arc::clone(log.base()),
            controls: log.controls_up_to(position),
            miss,
        }
    }
}

/// Folds control records into the coverage before them.
pub(super) fn coverage_at(mut coverage: Arc<Coverage>, controls: &[Arc<ControlRecord>]) -> Arc<Coverage> {
    if !controls.is_empty() {
        let folded = Arc::make_mut(&mut coverage);
        for record in controls {
            folded.apply(record);
        }
    }
    coverage
}

/// Fixes a start in the past; `None` for a live one, whose position is fixed later.
pub(super) fn begin(
    log: &Log,
    start: Start,
    policy: ReplayMissPolicy,
    now: SystemTime,
) -> Result<Option<Begin>, SubscribeError> {
    let window = log.window();
    let (miss, refusal) = match start {
        Start::Live => return Ok(None),
        Start::After(cursor) if cursor.epoch != window.epoch => (
            // Nothing is known of the other log: all of this one is behind it.
            Miss {
                reason: GapReason::EpochChanged,
                after: Sequence(0),
                start_time: None,
                end_time: log.complete_since(),
            },
            SubscribeError::EpochChanged { window },
        ),
        Start::After(cursor) if cursor.sequence > window.newest => {
            return Err(SubscribeError::CursorAboveNewest { window });
        }
        Start::After(cursor) if cursor.sequence >= window.oldest => {
            return Ok(Some(Begin::replay(log, cursor.sequence, None)));
        }
        Start::After(cursor) => {
            let reason = GapReason::ReplayWindowExceeded;
            (
                Miss { reason, after: cursor.sequence, start_time: None, end_time: log.complete_since() },
                SubscribeError::WindowExceeded { window },
            )
        }
        Start::At(time) if time > now => return Err(SubscribeError::TimeInFuture { window }),
        Start::At(time) if log.is_complete_from(time) => {
            return Ok(Some(Begin::replay(log, log.position_before(time), None)));
        }
        Start::At(time) => {
            let reason = GapReason::ReplayWindowExceeded;
            (
                Miss { reason, after: Sequence(0), start_time: Some(time), end_time: log.complete_since() },
                SubscribeError::WindowExceeded { window },
            )
        }
    };
    match policy {
        ReplayMissPolicy::Fail => Err(refusal),
        ReplayMissPolicy::Gap => Ok(Some(Begin::replay(log, window.oldest, Some(miss)))),
    }
}
