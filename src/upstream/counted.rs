//! What the upstream side tells metrics: its own words as theirs.

use std::{sync::Arc, time::SystemTime};

use crate::{
    binding::Kind,
    hub::{Control, IncomingEvent, UpstreamChange},
    telemetry::metrics::{
        AccountCounts, Attempt, CommandPurpose, Dropped, RotationEnd, RotationTrigger, SessionEnd,
    },
};

use super::{
    close::CloseCause,
    commands::Purpose,
    connector::ConnectError,
    crossbar::CrossbarError,
    intake::Log,
    link::Failure,
    rotation::{Stage, Trigger},
};

/// A log of which it is counted what is put into it.
pub(super) struct Counted {
    log: Arc<dyn Log>,
    counts: Arc<AccountCounts>,
}

impl Counted {
    pub(super) fn new(log: Arc<dyn Log>, counts: &Arc<AccountCounts>) -> Arc<Self> {
        Arc::new(Self { log, counts: Arc::clone(counts) })
    }
}

impl Log for Counted {
    fn append(&self, event: IncomingEvent) -> bool {
        let kept = self.log.append(event);
        match kept {
            true => self.counts.event_appended(),
            false => self.counts.event_dropped(Dropped::Unwanted),
        }
        kept
    }

    fn record(&self, control: Control) {
        if let Control::Lost { reason, .. } = &control {
            self.counts.gap(*reason);
        }
        self.log.record(control);
    }

    fn said(&self) -> Option<UpstreamChange> {
        self.log.said()
    }

    fn proven(&self, kind: Kind, at: SystemTime) {
        self.log.proven(kind, at);
    }
}

impl Failure {
    /// As what it is counted.
    pub(super) fn outcome(&self) -> Attempt {
        match self {
            Failure::Crossbar(error) => match error {
                CrossbarError::Unauthorized
                | CrossbarError::Forbidden
                | CrossbarError::BadRequest
                | CrossbarError::NotFound
                | CrossbarError::Url => Attempt::LoginRefused,
                CrossbarError::RateLimited => Attempt::LoginRateLimited,
                CrossbarError::Server(_)
                | CrossbarError::Unexpected(_)
                | CrossbarError::NotJson
                | CrossbarError::NoToken => Attempt::LoginFailed,
                CrossbarError::Timeout(_) | CrossbarError::Transport(_) => Attempt::LoginUnreachable,
            },
            Failure::Connect(error) => match error {
                _ if self.is_of_numbers() => Attempt::ConnectRateLimited,
                ConnectError::Upgrade(status) if status.is_client_error() => Attempt::ConnectRefused,
                ConnectError::Url
                | ConnectError::NotResolved
                | ConnectError::Refused
                | ConnectError::Timeout(_)
                | ConnectError::Io(_) => Attempt::ConnectUnreachable,
                ConnectError::TlsSetup(_) | ConnectError::Tls(_) => Attempt::ConnectTls,
                ConnectError::Upgrade(_) | ConnectError::Handshake => Attempt::ConnectFailed,
            },
        }
    }
}

impl From<CloseCause> for SessionEnd {
    fn from(cause: CloseCause) -> Self {
        match cause {
            CloseCause::Asked => SessionEnd::Asked,
            CloseCause::Idle => SessionEnd::Idle,
            CloseCause::Protocol(_) => SessionEnd::Protocol,
            CloseCause::Crashed => SessionEnd::Crashed,
            CloseCause::Code(_) => SessionEnd::Closed,
            CloseCause::Eof => SessionEnd::Eof,
            CloseCause::Io(_) => SessionEnd::Io,
            CloseCause::Silent => SessionEnd::Silent,
            CloseCause::TokenRefused => SessionEnd::TokenRefused,
            CloseCause::TooLarge => SessionEnd::TooLarge,
            CloseCause::Garbage => SessionEnd::Garbage,
        }
    }
}

impl From<Purpose> for CommandPurpose {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Bind => CommandPurpose::Bind,
            Purpose::Refresh => CommandPurpose::Refresh,
            Purpose::Mark(_) => CommandPurpose::Mark,
        }
    }
}

impl From<Trigger> for RotationTrigger {
    fn from(trigger: Trigger) -> Self {
        match trigger {
            Trigger::Operator => RotationTrigger::Operator,
            Trigger::Excess => RotationTrigger::Excess,
            Trigger::Refreshes => RotationTrigger::Refreshes,
            Trigger::MonthLeftovers => RotationTrigger::MonthLeftovers,
            Trigger::Age => RotationTrigger::Age,
        }
    }
}

/// How a replacement came out that was at this stage when it was over, and whether another session took over.
pub(super) fn rotation_end(stage: Stage, succeeded: bool) -> RotationEnd {
    match (stage, succeeded) {
        (Stage::Leaving { drained: true }, true) => RotationEnd::Drained,
        (_, true) => RotationEnd::Gap,
        (Stage::Breaking { .. }, false) => RotationEnd::Broken,
        (_, false) => RotationEnd::Abandoned,
    }
}
