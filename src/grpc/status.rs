//! The contract of errors: one function for each condition, and no other place that makes a status.
//!
//! Each carries a `google.rpc.ErrorInfo` of the domain `hawking.v1`, and `google.rpc.BadRequest` where fields are at
//! fault. Sizes are bounded: a status travels in headers, of which many clients take no more than 8 KiB together, base64
//! and all. So no text of a request gets into one unshortened, and at most [`MAX_VIOLATIONS`] fields are named.

use std::{borrow::Cow, collections::HashMap};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::hub::{BindingState, Cursor, EndReason, LookupError, SubscribeError, Window};

use super::{ended::Cause, message, streams::SubscriptionId};

/// `ErrorInfo.domain`.
pub(crate) const DOMAIN: &str = "hawking.v1";

/// Fields named in one status at most.
const MAX_VIOLATIONS: usize = 10;
/// The longest description of a field's fault, in bytes.
const MAX_DESCRIPTION: usize = 300;
/// The longest `grpc-message`, in bytes before percent-encoding.
const MAX_MESSAGE: usize = 400;

/// `ErrorInfo.reason` of a faulty request, and of each faulty field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Request,
    Binding,
    Filter,
    Cursor,
    Time,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Request => "INVALID_REQUEST",
            Reason::Binding => "INVALID_BINDING",
            Reason::Filter => "INVALID_FILTER",
            Reason::Cursor => "INVALID_CURSOR",
            Reason::Time => "INVALID_TIME",
        }
    }
}

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Its path, such as `bindings[3]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
    pub reason: Reason,
}

/// `ErrorInfo.reason` of a status.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The request is malformed: all of its faults at once. There is at least one.
pub(crate) fn invalid(violations: Vec<Violation>) -> Status {
    let reason = match violations.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other.reason == first.reason) => first.reason,
        _ => Reason::Request,
    };
    let total = violations.len();
    let mut text = match violations.first() {
        Some(first) => format!("{}: {}", first.field, first.description),
        None => "the request is malformed".to_owned(),
    };
    if total > 1 {
        shorten(&mut text, MAX_MESSAGE - 50);
        text.push_str(&format!(" (and {} more)", total - 1));
    }
    let mut fields: Vec<_> = violations.into_iter().take(MAX_VIOLATIONS).map(field_violation).collect();
    if total > MAX_VIOLATIONS {
        fields.push(FieldViolation::new("", format!("{} more fields are at fault", total - MAX_VIOLATIONS)));
    }
    let mut details = error_info(reason.as_str(), []);
    details.set_bad_request(fields);
    build(Code::InvalidArgument, text, details)
}

/// One field is at fault.
pub(crate) fn invalid_field(reason: Reason, field: &str, description: impl Into<String>) -> Status {
    invalid(vec![Violation { field: field.to_owned(), description: description.into(), reason }])
}

/// The request is no well-formed gRPC message; no field can be named.
pub(crate) fn malformed(description: impl Into<String>) -> Status {
    build(Code::InvalidArgument, description.into(), error_info(Reason::Request.as_str(), []))
}

/// The message is compressed.
pub(crate) fn compressed() -> Status {
    build(
        Code::Unimplemented,
        "compressed requests are not taken here: send grpc-encoding identity".into(),
        error_info("COMPRESSION_UNSUPPORTED", []),
    )
}

/// The account is neither configured nor a descendant of a configured one; or it was removed.
pub(crate) fn account_not_configured(account: &str) -> Status {
    caused(
        Cause::AccountRemoved,
        format!("account {account} is not served here: ListAccounts tells which are"),
        [("account_id", account.to_owned())],
    )
}

/// There is no such account, or none that is known yet.
pub(crate) fn lookup_error(error: &LookupError, account: &str) -> Status {
    match error {
        LookupError::NotServed => account_not_configured(account),
        // Nothing to fix for the client: the upstream owes an answer.
        LookupError::NotKnownYet { .. } => build(
            Code::Unavailable,
            format!("account {account} is not known yet: {error}"),
            error_info("ACCOUNT_NOT_KNOWN_YET", [("account_id", account.to_owned())]),
        ),
    }
}

/// A subscription could not begin.
pub(crate) fn subscribe_error(error: &SubscribeError, account: &str) -> Status {
    match error {
        SubscribeError::CursorAboveNewest { window } => with_window(
            Code::InvalidArgument,
            Reason::Cursor.as_str(),
            error.to_string(),
            window,
            Some("resume_after.sequence"),
        ),
        SubscribeError::TimeInFuture { window } => with_window(
            Code::InvalidArgument,
            Reason::Time.as_str(),
            error.to_string(),
            window,
            Some("start_time"),
        ),
        SubscribeError::WindowExceeded { window } => {
            with_window(Code::OutOfRange, "REPLAY_WINDOW_EXCEEDED", error.to_string(), window, None)
        }
        SubscribeError::EpochChanged { window } => {
            with_window(Code::OutOfRange, "EPOCH_CHANGED", error.to_string(), window, None)
        }
        SubscribeError::BindingsRefused(reports) => {
            let refused = reports.iter().filter_map(|report| match &report.state {
                BindingState::Refused(why) => Some(Violation {
                    field: "bindings".into(),
                    description: format!("upstream refuses {}: {why}", Shown(&report.binding)),
                    reason: Reason::Binding,
                }),
                _ => None,
            });
            invalid(refused.collect())
        }
        SubscribeError::TooMany { limit } => build(
            Code::ResourceExhausted,
            error.to_string(),
            error_info("SUBSCRIPTION_LIMIT", [("limit", limit.to_string())]),
        ),
        SubscribeError::AccountGone => account_not_configured(account),
    }
}

/// A subscription ended by itself.
pub(crate) fn ended(reason: &EndReason, account: &str) -> Status {
    match reason {
        EndReason::SlowConsumer { last, lag } => caused(
            Cause::SlowConsumer,
            format!("too slow: the log has overtaken this stream, {lag} records behind; resume after {last}"),
            [("last_cursor", last.to_string()), ("lag", lag.to_string())],
        ),
        EndReason::AccountGone => account_not_configured(account),
    }
}

/// The server drains; `position` is where to resume, where there is a stream.
pub(crate) fn draining(position: Option<Cursor>) -> Status {
    caused(
        Cause::Drained,
        "the server shuts down: connect again and resume".into(),
        position.map(|cursor| ("last_cursor", cursor.to_string())),
    )
}

/// An operator ended the stream.
pub(crate) fn disconnected(position: Cursor) -> Status {
    caused(
        Cause::Disconnected,
        "an operator ended this stream: connect again and resume".into(),
        [("last_cursor", position.to_string())],
    )
}

/// The stream has reached its greatest age.
pub(crate) fn max_stream_age(position: Cursor) -> Status {
    caused(
        Cause::MaxStreamAge,
        "the stream has reached its greatest age: resume at once".into(),
        [("last_cursor", position.to_string())],
    )
}

/// The deadline that the client set with `grpc-timeout` has passed.
pub(crate) fn deadline_exceeded(position: Option<Cursor>) -> Status {
    caused(
        Cause::DeadlineExceeded,
        "the deadline that the client set has passed".into(),
        position.map(|cursor| ("last_cursor", cursor.to_string())),
    )
}

/// No stream of this id is open.
pub(crate) fn no_such_subscription(id: SubscriptionId) -> Status {
    build(
        Code::NotFound,
        format!(
            "no open stream is called {id}: ListSubscribers tells which are, ListEndedStreams which were"
        ),
        error_info("SUBSCRIPTION_NOT_FOUND", [("subscription_id", id.to_string())]),
    )
}

/// The account is served, but has no session of its own.
pub(crate) fn served_by_another(account: &str, served_by: &str) -> Status {
    caused(
        Cause::AccountRemoved,
        format!("account {account} has no session of its own: it is served by that of {served_by}"),
        [("account_id", account.to_owned()), ("served_by_account_id", served_by.to_owned())],
    )
}

/// A session cannot be replaced: there is none, or that is under way already; or nobody answers.
pub(crate) fn upstream_unwilling(why: Unwilling, account: &str) -> Status {
    let (code, reason, message) = match why {
        Unwilling::UnderWay => (
            Code::FailedPrecondition,
            "ROTATION_UNDER_WAY",
            format!("the session of {account} is being replaced already"),
        ),
        Unwilling::NoSession => (
            Code::FailedPrecondition,
            "NO_SESSION",
            format!("{account} has no session that could be replaced: ListUpstreamSessions tells why"),
        ),
        Unwilling::Unheard => (
            Code::Unavailable,
            "UPSTREAM_BUSY",
            format!("the upstream of {account} does not answer at the moment: try again"),
        ),
    };
    build(code, message, error_info(reason, [("account_id", account.to_owned())]))
}

/// Why an operator cannot have something done to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwilling {
    /// It is being replaced already.
    UnderWay,
    /// There is none.
    NoSession,
    /// Its loop does not answer.
    Unheard,
}

/// The client sent its request too slowly.
pub(crate) fn request_too_slow() -> Status {
    build(
        Code::DeadlineExceeded,
        "the request message did not come in time".into(),
        error_info("REQUEST_TIMEOUT", []),
    )
}

/// A defect of ours; `what` says which, in words for people.
pub(crate) fn internal(what: &'static str) -> Status {
    caused(Cause::Internal, what.into(), [])
}

/// A status by which a stream ends, or by which one does not even begin, for the same cause.
fn caused<'a>(
    cause: Cause,
    message: String,
    metadata: impl IntoIterator<Item = (&'a str, String)>,
) -> Status {
    // Those without a status are not said by one.
    let (code, reason) = cause.status().unwrap_or((Code::Internal, "INTERNAL"));
    build(code, message, error_info(reason, metadata))
}

fn with_window(code: Code, reason: &str, message: String, window: &Window, field: Option<&str>) -> Status {
    let mut details = error_info(
        reason,
        [
            ("oldest", message::cursor_text(window.epoch, window.oldest)),
            ("newest", message::cursor_text(window.epoch, window.newest)),
        ],
    );
    if let Some(field) = field {
        details.set_bad_request(vec![FieldViolation::new(field, message.clone())]);
    }
    build(code, message, details)
}

fn error_info<'a>(reason: &str, metadata: impl IntoIterator<Item = (&'a str, String)>) -> ErrorDetails {
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
    ErrorDetails::with_error_info(reason, DOMAIN, metadata.collect::<HashMap<_, _>>())
}

fn field_violation(violation: Violation) -> FieldViolation {
    let mut description = violation.description;
    shorten(&mut description, MAX_DESCRIPTION);
    FieldViolation::new(violation.field, description)
}

fn build(code: Code, mut message: String, details: ErrorDetails) -> Status {
    shorten(&mut message, MAX_MESSAGE);
    Status::with_error_details(code, message, details)
}

/// Cuts a text to at most `max` bytes, at the end of a character, and shows that it was cut.
fn shorten(text: &mut String, max: usize) {
    const MARK: &str = "…";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MARK.len()));
        text.push_str(MARK);
    }
}

/// A text of the client's as it can be shown: without control characters, and short.
pub(crate) struct Shown<'a>(pub &'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MAX: usize = 80;
        let mut text = Cow::Borrowed(self.0);
        if text.len() > MAX {
            shorten(text.to_mut(), MAX);
        }
        write!(f, "{:?}", text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::hub::{BindingReport, Epoch, Sequence};

    /// Code, reason and metadata of a status as a client reads them.
    fn read(status: &Status) -> (Code, String, HashMap<String, String>) {
        let details = status.get_error_details();
        let info = details.error_info().expect("every status carries ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        (status.code(), info.reason.clone(), info.metadata.clone())
    }

    fn violation(field: &str, reason: Reason) -> Violation {
        Violation { field: field.into(), description: "wrong".into(), reason }
    }

    const WINDOW: Window = Window {
        epoch: Epoch(0xabc),
        oldest: Sequence(5),
        newest: Sequence(9),
        oldest_time: Some(SystemTime::UNIX_EPOCH),
    };

    /// The table of the contract.
    #[test]
    fn contract() {
        let last = Cursor { epoch: Epoch(0xabc), sequence: Sequence(7) };
        let window = [("oldest", "0000000000000abc:5"), ("newest", "0000000000000abc:9")];
        type Row<'a> = (Status, Code, &'a str, Vec<(&'a str, &'a str)>);
        let table: Vec<Row<'_>> = vec![
            (
                subscribe_error(&SubscribeError::CursorAboveNewest { window: WINDOW }, "a"),
                Code::InvalidArgument,
                "INVALID_CURSOR",
                window.to_vec(),
            ),
            (
                subscribe_error(&SubscribeError::TimeInFuture { window: WINDOW }, "a"),
                Code::InvalidArgument,
                "INVALID_TIME",
                window.to_vec(),
            ),
            (
                subscribe_error(&SubscribeError::WindowExceeded { window: WINDOW }, "a"),
                Code::OutOfRange,
                "REPLAY_WINDOW_EXCEEDED",
                window.to_vec(),
            ),
            (
                subscribe_error(&SubscribeError::EpochChanged { window: WINDOW }, "a"),
                Code::OutOfRange,
                "EPOCH_CHANGED",
                window.to_vec(),
            ),
            (
                subscribe_error(&SubscribeError::TooMany { limit: 3 }, "a"),
                Code::ResourceExhausted,
                "SUBSCRIPTION_LIMIT",
                vec![("limit", "3")],
            ),
            (
                subscribe_error(&SubscribeError::AccountGone, "a"),
                Code::NotFound,
                "ACCOUNT_NOT_CONFIGURED",
                vec![("account_id", "a")],
            ),
            (
                ended(&EndReason::SlowConsumer { last, lag: 12 }, "a"),
                Code::Aborted,
                "SLOW_CONSUMER",
                vec![("last_cursor", "0000000000000abc:7"), ("lag", "12")],
            ),
            (
                ended(&EndReason::AccountGone, "a"),
                Code::NotFound,
                "ACCOUNT_NOT_CONFIGURED",
                vec![("account_id", "a")],
            ),
            (
                draining(Some(last)),
                Code::Unavailable,
                "DRAINING",
                vec![("last_cursor", "0000000000000abc:7")],
            ),
            (draining(None), Code::Unavailable, "DRAINING", vec![]),
            (
                served_by_another("a", "b"),
                Code::NotFound,
                "ACCOUNT_NOT_CONFIGURED",
                vec![("account_id", "a"), ("served_by_account_id", "b")],
            ),
            (
                upstream_unwilling(Unwilling::UnderWay, "a"),
                Code::FailedPrecondition,
                "ROTATION_UNDER_WAY",
                vec![("account_id", "a")],
            ),
            (
                upstream_unwilling(Unwilling::NoSession, "a"),
                Code::FailedPrecondition,
                "NO_SESSION",
                vec![("account_id", "a")],
            ),
            (
                upstream_unwilling(Unwilling::Unheard, "a"),
                Code::Unavailable,
                "UPSTREAM_BUSY",
                vec![("account_id", "a")],
            ),
            (
                disconnected(last),
                Code::Unavailable,
                "DISCONNECTED",
                vec![("last_cursor", "0000000000000abc:7")],
            ),
            (
                no_such_subscription("s7".parse().unwrap()),
                Code::NotFound,
                "SUBSCRIPTION_NOT_FOUND",
                vec![("subscription_id", "s7")],
            ),
            (deadline_exceeded(None), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", vec![]),
            (
                lookup_error(&LookupError::NotServed, "a"),
                Code::NotFound,
                "ACCOUNT_NOT_CONFIGURED",
                vec![("account_id", "a")],
            ),
            (
                lookup_error(&LookupError::NotKnownYet { branches: 2 }, "a"),
                Code::Unavailable,
                "ACCOUNT_NOT_KNOWN_YET",
                vec![("account_id", "a")],
            ),
            (malformed("x"), Code::InvalidArgument, "INVALID_REQUEST", vec![]),
            (compressed(), Code::Unimplemented, "COMPRESSION_UNSUPPORTED", vec![]),
        ];
        for (status, code, reason, metadata) in table {
            let metadata: HashMap<_, _> =
                metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            assert_eq!(read(&status), (code, reason.to_owned(), metadata), "{status:?}");
        }
    }

    #[test]
    fn a_reason_of_its_own_only_where_all_fields_share_it() {
        let status = invalid(vec![
            violation("bindings[0]", Reason::Binding),
            violation("bindings[2]", Reason::Binding),
        ]);
        assert_eq!(read(&status).1, "INVALID_BINDING");
        assert_eq!(status.message(), "bindings[0]: wrong (and 1 more)");
        let status =
            invalid(vec![violation("bindings[0]", Reason::Binding), violation("filter", Reason::Filter)]);
        assert_eq!(read(&status).1, "INVALID_REQUEST");
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| &*v.field).collect();
        assert_eq!(fields, ["bindings[0]", "filter"]);
    }

    #[test]
    fn refused_bindings_are_named() {
        let report = |binding: &str, state| BindingReport {
            binding: binding.into(),
            state,
            upstream_binding: None,
            proven: None,
        };
        let status = subscribe_error(
            &SubscribeError::BindingsRefused(vec![
                report("call.X.*", BindingState::Active),
                report("call.Y.*", BindingState::Refused("not supported".into())),
            ]),
            "a",
        );
        assert_eq!(read(&status).1, "INVALID_BINDING");
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].description, "upstream refuses \"call.Y.*\": not supported");
    }

    /// As headers: 8 KiB is what common clients take by default, names and 32 bytes for each header included.
    #[test]
    fn the_worst_request_gets_a_status_that_fits_into_headers() {
        let long = "ü\u{7}".repeat(10_000);
        let violations = (0..1001).map(|index| Violation {
            field: format!("filter.fields[{index}].values[99]"),
            description: format!("{long} {}", Shown(&long)),
            reason: Reason::Filter,
        });
        let response = invalid(violations.collect()).into_http::<()>();
        let size: usize =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8192, "{size}");
        let status = Status::from_header_map(response.headers()).unwrap();
        assert!(status.message().ends_with("(and 1000 more)"), "{}", status.message());
        let details = status.get_error_details();
        let last = details.bad_request().unwrap().field_violations.last().unwrap();
        assert_eq!(last.description, "991 more fields are at fault");
    }

    #[test]
    fn texts_are_cut_at_characters() {
        for max in 3..12 {
            let mut text = "aüé東京🚀".to_owned();
            shorten(&mut text, max);
            assert!(text.len() <= max, "{text:?} {max}");
        }
    }
}
