//! What a consumer does when its stream ended: the client's side of the status contract, in one place.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What to do about a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Resume at once, after a moment of chance: the server is well, this stream has to go (`DRAINING`, `MAX_STREAM_AGE`,
    /// `DISCONNECTED`, `SLOW_CONSUMER`).
    AtOnce,
    /// Resume after a delay that doubles with each failure: nobody knows how the server is.
    Backoff,
    /// Try again, but not soon: the server has as many streams as it takes (`SUBSCRIPTION_LIMIT`).
    WaitLong,
    /// The log no longer has what comes after the cursor, or is another one (`REPLAY_WINDOW_EXCEEDED`, `EPOCH_CHANGED`,
    /// `INVALID_CURSOR`): start live, and load the state anew.
    StartOver,
    /// The request is wrong, and would be again: mend it.
    Mend,
    /// The server does not do it for this client: an operator has to look.
    Refused,
}

impl Advice {
    /// What the contract advises. `OK` counts as a stream that ended without a word: the server never ends one so.
    pub fn of(status: &Status) -> Self {
        let reason = reason(status);
        match status.code() {
            Code::Aborted => Self::AtOnce,
            Code::Unavailable => match reason.as_str() {
                "DRAINING" | "MAX_STREAM_AGE" | "DISCONNECTED" | "CREDENTIALS_EXPIRED" => Self::AtOnce,
                _ => Self::Backoff,
            },
            Code::OutOfRange => match reason.as_str() {
                "REPLAY_WINDOW_EXCEEDED" | "EPOCH_CHANGED" => Self::StartOver,
                // Our own library's: a message larger than this client takes. It would come again.
                _ => Self::Mend,
            },
            Code::InvalidArgument if reason == "INVALID_CURSOR" => Self::StartOver,
            Code::InvalidArgument | Code::NotFound => Self::Mend,
            Code::ResourceExhausted => Self::WaitLong,
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Self::Refused,
            _ => Self::Backoff,
        }
    }
}

/// The machine's reason (`google.rpc.ErrorInfo`), such as `EPOCH_CHANGED`; empty where there is none, as for all that the
/// server did not say itself.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "hawking.v1", []);
        Status::with_error_details(code, "in words", details)
    }

    #[test]
    fn follows_the_contract() {
        for (code, reason, advice) in [
            (Code::InvalidArgument, "INVALID_BINDING", Advice::Mend),
            (Code::InvalidArgument, "INVALID_CURSOR", Advice::StartOver),
            (Code::OutOfRange, "REPLAY_WINDOW_EXCEEDED", Advice::StartOver),
            (Code::OutOfRange, "EPOCH_CHANGED", Advice::StartOver),
            (Code::NotFound, "ACCOUNT_NOT_CONFIGURED", Advice::Mend),
            (Code::ResourceExhausted, "SUBSCRIPTION_LIMIT", Advice::WaitLong),
            (Code::Aborted, "SLOW_CONSUMER", Advice::AtOnce),
            (Code::Unavailable, "DRAINING", Advice::AtOnce),
            (Code::Unavailable, "MAX_STREAM_AGE", Advice::AtOnce),
            (Code::Unavailable, "DISCONNECTED", Advice::AtOnce),
            (Code::Unavailable, "ACCOUNT_NOT_KNOWN_YET", Advice::Backoff),
            (Code::Unauthenticated, "", Advice::Refused),
            (Code::PermissionDenied, "", Advice::Refused),
        ] {
            assert_eq!(Advice::of(&status(code, reason)), advice, "{code:?} {reason}");
        }
    }

    #[test]
    fn knows_what_the_server_did_not_say_itself() {
        for (status, advice) in [
            (Status::unavailable("connection refused"), Advice::Backoff),
            (Status::unknown("h2 protocol error"), Advice::Backoff),
            (Status::internal("stream reset"), Advice::Backoff),
            (Status::cancelled("stream reset"), Advice::Backoff),
            (Status::deadline_exceeded("a proxy's"), Advice::Backoff),
            (Status::ok(""), Advice::Backoff),
            (Status::out_of_range("decoded message length too large"), Advice::Mend),
            (Status::unimplemented("another server"), Advice::Refused),
        ] {
            assert_eq!(Advice::of(&status), advice, "{status:?}");
        }
    }
}
