//! What a request may hold: all bounds, and the step from the message to types that cannot hold a wrong value.
//!
//! A request is read to its end, so that a client is told of all its faults at once.

use std::{
    collections::BTreeMap,
    str::FromStr,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use tonic::Status;

use crate::{
    binding::{AccountId, Binding, OptIn},
    config,
    hub::{
        Cursor, EventFilter, FieldFilter, OverflowPolicy, PayloadFormat, ReplayMissPolicy, Sequence, Start,
        SubscribeSpec,
    },
    proto,
};

use super::status::{self, Reason, Shown, Violation};

// As the comments in `event_service.proto` promise.
const MAX_BINDINGS: usize = 1000;
const MAX_NAMES: usize = 100;
const MAX_NAME_BYTES: usize = 256;
const MAX_CALL_IDS: usize = 1000;
const MAX_CALL_ID_BYTES: usize = 1024;
const MAX_FIELDS: usize = 20;
const MAX_PATH_KEYS: usize = 8;
const MAX_PATH_BYTES: usize = 256;
const MAX_VALUES: usize = 100;
const MAX_VALUE_BYTES: usize = 1024;
const MAX_CLIENT_NAME_CHARS: usize = 128;
const MAX_EPOCH_BYTES: usize = 64;
/// What a page holds at most.
pub(crate) const MAX_PAGE: usize = 1000;

/// A valid `SubscribeRequest`.
#[derive(Debug)]
pub(crate) struct Subscribe {
    pub account: AccountId,
    pub spec: SubscribeSpec,
    /// Each binding as it was requested, and its canonical form; in the order of the request.
    pub requested: Vec<(String, String)>,
    /// Empty where none was given.
    pub client_name: String,
}

/// Which part of a list is asked for. What stands in it is in order of `K`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<K> {
    pub size: usize,
    /// The last of the page before.
    pub after: Option<K>,
}

/// Reads a `SubscribeRequest`.
pub(crate) fn subscribe(
    request: proto::SubscribeRequest,
    settings: &config::Grpc,
    opt_in: &OptIn,
) -> Result<Subscribe, Status> {
    let mut faults = Faults::default();

    let account = faults.account(&request.account_id);
    let (bindings, requested) = faults.bindings(request.bindings, opt_in);
    let start = match request.start {
        None => Some(Start::Live),
        Some(proto::subscribe_request::Start::ResumeAfter(cursor)) => faults.cursor(cursor).map(Start::After),
        Some(proto::subscribe_request::Start::StartTime(time)) => {
            faults.time("start_time", time).map(Start::At)
        }
    };
    let miss_policy =
        faults.choice("replay_miss_policy", request.replay_miss_policy, |policy| match policy {
            proto::ReplayMissPolicy::Unspecified | proto::ReplayMissPolicy::Fail => ReplayMissPolicy::Fail,
            proto::ReplayMissPolicy::Gap => ReplayMissPolicy::Gap,
        });
    let overflow_policy = faults.choice("overflow_policy", request.overflow_policy, |policy| match policy {
        proto::OverflowPolicy::Unspecified | proto::OverflowPolicy::Disconnect => OverflowPolicy::Disconnect,
        proto::OverflowPolicy::Skip => OverflowPolicy::Skip,
    });
    let format = faults.choice("payload_format", request.payload_format, |format| match format {
        proto::PayloadFormat::Unspecified | proto::PayloadFormat::Json => PayloadFormat::Json,
        proto::PayloadFormat::Typed => PayloadFormat::Typed,
        proto::PayloadFormat::Struct => PayloadFormat::Struct,
        proto::PayloadFormat::None => PayloadFormat::None,
    });
    let filter = faults.filter(request.filter.unwrap_or_default());
    let heartbeat_interval = faults.heartbeat(request.heartbeat_interval, settings);
    if request.client_name.chars().count() > MAX_CLIENT_NAME_CHARS {
        faults.add(
            Reason::Request,
            "client_name",
            format!("it has at most {MAX_CLIENT_NAME_CHARS} characters"),
        );
    } else if request.client_name.chars().any(char::is_control) {
        faults.add(Reason::Request, "client_name", "it has no control characters");
    }

    // Whatever is `None` has left a fault behind.
    match (account, start, miss_policy, overflow_policy, format) {
        (Some(account), Some(start), Some(miss_policy), Some(overflow_policy), Some(format))
            if faults.0.is_empty() =>
        {
            Ok(Subscribe {
                account,
                spec: SubscribeSpec {
                    bindings,
                    filter,
                    format,
                    start,
                    miss_policy,
                    overflow_policy,
                    heartbeat_interval,
                    require_all_bindings: request.require_all_bindings,
                },
                requested,
                client_name: request.client_name,
            })
        }
        _ => Err(status::invalid(faults.0)),
    }
}

/// Reads the `account_id` of a unary request.
pub(crate) fn account(id: &str) -> Result<AccountId, Status> {
    let mut faults = Faults::default();
    faults.account(id).ok_or_else(|| status::invalid(faults.0))
}

/// Reads `page_size` and `page_token` of a request. The token is the key of the last of the page before. `default`: the size
/// of a page where the request does not say.
pub(crate) fn page<K: FromStr>(size: i32, token: &str, default: usize) -> Result<Page<K>, Status> {
    let mut faults = Faults::default();
    let size = match usize::try_from(size) {
        Ok(0) => default,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => {
            faults.add(Reason::Request, "page_size", "it is 0 (the default) or more");
            0
        }
    };
    let after = match token {
        "" => None,
        token => match token.parse() {
            Ok(id) => Some(id),
            Err(_) => {
                faults.add(Reason::Request, "page_token", "it is no `next_page_token` of this server");
                None
            }
        },
    };
    if faults.0.is_empty() { Ok(Page { size, after }) } else { Err(status::invalid(faults.0)) }
}

/// What is wrong with a request, gathered field by field.
#[derive(Default)]
struct Faults(Vec<Violation>);

impl Faults {
    fn add(&mut self, reason: Reason, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into(), reason });
    }

    fn account(&mut self, id: &str) -> Option<AccountId> {
        match id.parse() {
            Ok(id) => Some(id),
            Err(_) if id.is_empty() => {
                self.add(Reason::Request, "account_id", "it is required");
                None
            }
            Err(error) => {
                self.add(Reason::Request, "account_id", error.to_string());
                None
            }
        }
    }

    /// Sorted and without repeats; and as they were requested.
    fn bindings(&mut self, texts: Vec<String>, opt_in: &OptIn) -> (Vec<Binding>, Vec<(String, String)>) {
        if texts.is_empty() {
            self.add(Reason::Binding, "bindings", "at least one is required: ListBindingTypes has examples");
        }
        if texts.len() > MAX_BINDINGS {
            self.add(Reason::Binding, "bindings", format!("at most {MAX_BINDINGS}, not {}", texts.len()));
            return (Vec::new(), Vec::new());
        }
        let mut bindings = BTreeMap::new();
        let mut requested = Vec::with_capacity(texts.len());
        for (index, text) in texts.into_iter().enumerate() {
            match Binding::parse(&text, opt_in) {
                Ok(binding) => {
                    requested.push((text, binding.as_str().to_owned()));
                    bindings.insert(binding.as_str().to_owned(), binding);
                }
                Err(error) => {
                    self.add(
                        Reason::Binding,
                        format!("bindings[{index}]"),
                        format!("{}: {error}", Shown(&text)),
                    );
                }
            }
        }
        let mut bindings: Vec<_> = bindings.into_values().collect();
        bindings.sort();
        (bindings, requested)
    }

    fn cursor(&mut self, cursor: proto::Cursor) -> Option<Cursor> {
        let proto::Cursor { epoch, sequence } = cursor;
        if epoch.is_empty() || epoch.len() > MAX_EPOCH_BYTES {
            self.add(
                Reason::Cursor,
                "resume_after.epoch",
                format!("1 to {MAX_EPOCH_BYTES} characters, as they were received"),
            );
            return None;
        }
        match epoch.parse() {
            Ok(epoch) => Some(Cursor { epoch, sequence: Sequence(sequence) }),
            Err(_) => {
                self.add(
                    Reason::Cursor,
                    "resume_after.epoch",
                    "no epoch of this server: pass it on as it was received",
                );
                None
            }
        }
    }

    fn time(&mut self, field: &str, time: Timestamp) -> Option<SystemTime> {
        // Years 1 to 9999, and nanoseconds that count forward: as `timestamp.proto` has it.
        const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let valid = SECONDS.contains(&time.seconds) && (0..1_000_000_000).contains(&time.nanos);
        match SystemTime::try_from(time) {
            Ok(time) if valid => Some(time),
            _ => {
                self.add(Reason::Time, field, "seconds from year 1 to 9999, nanos from 0 to 999999999");
                None
            }
        }
    }

    fn choice<E: TryFrom<i32>, T>(
        &mut self,
        field: &str,
        number: i32,
        known: impl FnOnce(E) -> T,
    ) -> Option<T> {
        match E::try_from(number) {
            Ok(value) => Some(known(value)),
            Err(_) => {
                self.add(Reason::Request, field, format!("{number} is no value of this enum"));
                None
            }
        }
    }

    /// Held within the server's bounds; only what is no interval at all is a fault.
    fn heartbeat(&mut self, wanted: Option<prost_types::Duration>, settings: &config::Grpc) -> Duration {
        let Some(wanted) = wanted else { return settings.heartbeat_default };
        let valid = (0..1_000_000_000).contains(&wanted.nanos);
        match u64::try_from(wanted.seconds) {
            Ok(seconds) if valid => Duration::new(seconds, wanted.nanos.unsigned_abs())
                .clamp(settings.heartbeat_min, settings.heartbeat_max.max(settings.heartbeat_min)),
            _ => {
                self.add(
                    Reason::Request,
                    "heartbeat_interval",
                    "it is not negative, nanos from 0 to 999999999",
                );
                settings.heartbeat_default
            }
        }
    }

    fn filter(&mut self, filter: proto::EventFilter) -> EventFilter {
        let names = self.texts("filter.names", filter.names, 0..=MAX_NAMES, 1..=MAX_NAME_BYTES);
        let call_ids =
            self.texts("filter.call_ids", filter.call_ids, 0..=MAX_CALL_IDS, 1..=MAX_CALL_ID_BYTES);
        let mut fields = Vec::new();
        if filter.fields.len() > MAX_FIELDS {
            self.add(
                Reason::Filter,
                "filter.fields",
                format!("at most {MAX_FIELDS}, not {}", filter.fields.len()),
            );
        } else {
            for (index, field) in filter.fields.into_iter().enumerate() {
                let path = self.path(&format!("filter.fields[{index}].path"), &field.path);
                let values = self.texts(
                    &format!("filter.fields[{index}].values"),
                    field.values,
                    1..=MAX_VALUES,
                    0..=MAX_VALUE_BYTES,
                );
                fields.push(FieldFilter { path, values });
            }
        }
        fields.sort();
        fields.dedup();
        EventFilter { names, call_ids, fields }
    }

    fn path(&mut self, field: &str, path: &str) -> Vec<String> {
        let keys: Vec<_> = path.split('.').map(str::to_owned).collect();
        if path.is_empty() {
            self.add(Reason::Filter, field, "it is required");
        } else if path.len() > MAX_PATH_BYTES || keys.len() > MAX_PATH_KEYS {
            self.add(
                Reason::Filter,
                field,
                format!("at most {MAX_PATH_KEYS} keys and {MAX_PATH_BYTES} bytes"),
            );
        } else if keys.iter().any(String::is_empty) {
            self.add(Reason::Filter, field, format!("{}: keys are parted by single dots", Shown(path)));
        } else if path.chars().any(char::is_control) {
            self.add(Reason::Filter, field, "it has no control characters");
        }
        keys
    }

    /// Sorted and without repeats.
    fn texts(
        &mut self,
        field: &str,
        mut texts: Vec<String>,
        count: std::ops::RangeInclusive<usize>,
        bytes: std::ops::RangeInclusive<usize>,
    ) -> Vec<String> {
        if !count.contains(&texts.len()) {
            let (min, max) = count.into_inner();
            self.add(Reason::Filter, field, format!("{min} to {max} entries, not {}", texts.len()));
            return Vec::new();
        }
        for (index, text) in texts.iter().enumerate() {
            if !bytes.contains(&text.len()) {
                let (min, max) = (bytes.start(), bytes.end());
                self.add(
                    Reason::Filter,
                    format!("{field}[{index}]"),
                    format!("{min} to {max} bytes, not {}", text.len()),
                );
            }
        }
        texts.sort();
        texts.dedup();
        texts
    }
}

#[cfg(test)]
mod tests;
