//! Events on the wire: `SubscribeResponse` messages in gRPC framing.
//!
//! A frame is put together from parts that are encoded once for each event (`core`, the payload in each format) and the
//! bindings that match, which differ between views. It is written straight into the batch's buffer: no message is built.
//! That the fields of `Event` do not come in the order of their numbers is allowed by protobuf.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::BufMut;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};

use crate::{
    binding::{AccountId, Kind},
    proto,
};

use super::{
    log::{Epoch, record::EventRecord},
    payload,
    subscription::PayloadFormat,
};

/// `hawking.v1.SubscribeResponse.event`
const RESPONSE_EVENT: u32 = 2;
/// `hawking.v1.Event.matched_bindings`
const EVENT_MATCHED_BINDINGS: u32 = 10;
/// `hawking.v1.Event.json_payload`
const EVENT_JSON_PAYLOAD: u32 = 11;
/// A message's flags (0: not compressed) and its length.
const PREFIX: usize = 5;
/// The length of a key of a field whose number is below 16.
const KEY: usize = 1;

/// What all events of a log have in common.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) account: AccountId,
    pub(super) epoch: Epoch,
    pub(super) encodes: Arc<EncodeCounters>,
}

/// How often anything was encoded, in all accounts of a hub.
#[derive(Debug, Default)]
pub(super) struct EncodeCounters {
    cores: AtomicU64,
    typed: AtomicU64,
    structures: AtomicU64,
    frames: AtomicU64,
}

/// How often anything was encoded since the start. Whatever the number of subscribers: the first three rise by at most one
/// for each event, the last by one for each event and view (more where a view is read at several places of the past).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encodes {
    /// The parts of events that all views share.
    pub cores: u64,
    /// Payloads in the format TYPED.
    pub typed: u64,
    /// Payloads in the format STRUCT.
    pub structures: u64,
    /// Framed events of a view.
    pub frames: u64,
}

impl EncodeCounters {
    pub(super) fn read(&self) -> Encodes {
        Encodes {
            cores: self.cores.load(Ordering::Relaxed),
            typed: self.typed.load(Ordering::Relaxed),
            structures: self.structures.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
        }
    }
}

/// The payload field of an event: JSON needs no copy of its own.
enum Payload<'a> {
    Json(&'a [u8]),
    Encoded(&'a [u8]),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Payload::Json(text) => KEY + delimited_len(text.len()),
            Payload::Encoded(field) => field.len(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Payload::Json(text) => put_delimited(out, EVENT_JSON_PAYLOAD, text),
            Payload::Encoded(field) => out.put_slice(field),
        }
    }
}

/// Writes one event as a framed `SubscribeResponse`. `matched`: the bindings of the view that it matches, in order.
pub(super) fn write_event<'a>(
    out: &mut Vec<u8>,
    record: &EventRecord,
    origin: &Origin,
    format: PayloadFormat,
    matched: impl Iterator<Item = &'a str> + Clone,
) {
    origin.encodes.frames.fetch_add(1, Ordering::Relaxed);
    let core = record.core(|record| encode_core(record, origin));
    let payload = match format {
        PayloadFormat::Json => Payload::Json(&record.event.data),
        PayloadFormat::Typed => Payload::Encoded(record.typed(|record| {
            origin.encodes.typed.fetch_add(1, Ordering::Relaxed);
            payload::typed(record.event.key.kind, &record.event.data)
        })),
        PayloadFormat::Struct => Payload::Encoded(record.structure(|record| {
            origin.encodes.structures.fetch_add(1, Ordering::Relaxed);
            payload::structure(&record.event.data)
        })),
        PayloadFormat::None => Payload::Encoded(&[]),
    };
    let bindings: usize = matched.clone().map(|binding| KEY + delimited_len(binding.len())).sum();
    let event = core.len() + bindings + payload.len();
    let message = KEY + delimited_len(event);

    out.reserve(PREFIX + message);
    out.put_u8(0);
    // An upstream frame is far below 4 GiB.
    out.put_u32(u32::try_from(message).unwrap_or(u32::MAX));
    encode_key(RESPONSE_EVENT, WireType::LengthDelimited, out);
    encode_varint(event as u64, out);
    out.put_slice(core);
    for binding in matched {
        put_delimited(out, EVENT_MATCHED_BINDINGS, binding.as_bytes());
    }
    payload.write(out);
}

/// About how many bytes a frame takes, before anything is encoded.
pub(super) fn estimate(record: &EventRecord) -> usize {
    record.event.data.len() + 256
}

fn encode_core(record: &EventRecord, origin: &Origin) -> Vec<u8> {
    origin.encodes.cores.fetch_add(1, Ordering::Relaxed);
    let event = &record.event;
    proto::Event {
        cursor: Some(proto::Cursor { epoch: origin.epoch.to_string(), sequence: record.sequence.0 }),
        account_id: origin.account.to_string(),
        name: event.name.clone(),
        category: category(event.key.kind).into(),
        routing_key: event.routing_key.clone(),
        message_id: event.message_id.clone(),
        call_id: event.call_id.clone(),
        receive_time: Some(record.received.into()),
        event_time: event.event_time.map(Into::into),
        matched_bindings: Vec::new(),
        payload: None,
    }
    .encode_to_vec()
}

fn category(kind: Kind) -> proto::EventCategory {
    match kind {
        Kind::Call => proto::EventCategory::Call,
        Kind::ConferenceEvent | Kind::ConferenceCommand => proto::EventCategory::Conference,
        Kind::FaxStatus => proto::EventCategory::Fax,
        Kind::Object => proto::EventCategory::Object,
        Kind::Presence => proto::EventCategory::Presence,
        Kind::Stream => proto::EventCategory::Stream,
    }
}

fn delimited_len(length: usize) -> usize {
    encoded_len_varint(length as u64) + length
}

fn put_delimited(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.put_slice(value);
}
