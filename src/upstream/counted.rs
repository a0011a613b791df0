//! What the upstream side tells metrics: its own words as theirs.

use crate::telemetry::metrics::{AttemptOutcome, CommandPurpose, RotationEnd, RotationTrigger, SessionEnd};

use super::{
    close::CloseCause,
    commands::Purpose,
    connector::ConnectError,
    crossbar::CrossbarError,
    link::Failure,
    rotation::{Stage, Trigger},
};

impl Failure {
    /// As what it is counted.
    pub(super) fn outcome(&self) -> AttemptOutcome {
        match self {
            Failure::Crossbar(error) => match error {
                CrossbarError::Unauthorized
                | CrossbarError::Forbidden
                | CrossbarError::BadRequest
                | CrossbarError::NotFound
                | CrossbarError::Url => AttemptOutcome::LoginRefused,
                CrossbarError::RateLimited => AttemptOutcome::LoginRateLimited,
                CrossbarError::Server(_)
                | CrossbarError::Unexpected(_)
                | CrossbarError::NotJson
                | CrossbarError::NoToken => AttemptOutcome::LoginFailed,
                CrossbarError::Timeout(_) | CrossbarError::Transport(_) => AttemptOutcome::LoginUnreachable,
            },
            Failure::Connect(error) => match error {
                _ if self.is_of_numbers() => AttemptOutcome::ConnectRateLimited,
                ConnectError::Upgrade(status) if status.is_client_error() => AttemptOutcome::ConnectRefused,
                ConnectError::Url
                | ConnectError::NotResolved
                | ConnectError::Refused
                | ConnectError::Timeout(_)
                | ConnectError::Io(_) => AttemptOutcome::ConnectUnreachable,
                ConnectError::TlsSetup(_) | ConnectError::Tls(_) => AttemptOutcome::ConnectTls,
                ConnectError::Upgrade(_) | ConnectError::Handshake => AttemptOutcome::ConnectFailed,
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
            Purpose::Mark(_) | Purpose::Probe => CommandPurpose::Mark,
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
            Trigger::Ghost => RotationTrigger::Ghost,
            Trigger::Age => RotationTrigger::Age,
            Trigger::Moved => RotationTrigger::Moved,
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
