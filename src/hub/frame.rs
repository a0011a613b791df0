//! Events on the wire: `SubscribeResponse` messages in gRPC framing.
//!
//! A frame is put together from parts that are encoded once for each event (`core`, the payload in each format) and the
//! bindings that match, which differ between views. It is written straight into the batch's buffer: no message is built.
//! That the fields of `Event` do not come in the order of their numbers is allowed by protobuf.

use std::{
    borrow::Cow,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
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
    memory::Memory,
    payload,
    subscription::PayloadFormat,
};

/// `hawking.v1.SubscribeResponse.event`
const RESPONSE_EVENT: u32 = 2;
// Of `hawking.v1.Event`:
const EVENT_CURSOR: u32 = 1;
const EVENT_ACCOUNT_ID: u32 = 2;
const EVENT_NAME: u32 = 3;
const EVENT_CATEGORY: u32 = 4;
const EVENT_ROUTING_KEY: u32 = 5;
const EVENT_MESSAGE_ID: u32 = 6;
const EVENT_CALL_ID: u32 = 7;
const EVENT_RECEIVE_TIME: u32 = 8;
const EVENT_EVENT_TIME: u32 = 9;
const EVENT_MATCHED_BINDINGS: u32 = 10;
const EVENT_JSON_PAYLOAD: u32 = 11;
// Of `hawking.v1.Cursor`:
const CURSOR_EPOCH: u32 = 1;
const CURSOR_SEQUENCE: u32 = 2;
/// The length of an epoch as a text.
const EPOCH: usize = 16;
/// A message's flags (0: not compressed) and its length.
const PREFIX: usize = 5;
/// The length of a key of a field whose number is below 16.
const KEY: usize = 1;

/// What all events of a log have in common.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) account: AccountId,
    pub(super) epoch: Epoch,
    pub(super) encodes: Arc<EncodeCounters>,
    pub(super) memory: Arc<Memory>,
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
/// for each event (more where the past is read of a log that is full: its encodings are not kept then), the last by one for
/// each event and view (more where a view is read at several places of the past).
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
    Encoded(Cow<'a, [u8]>),
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

/// Writes one event as a framed `SubscribeResponse`. `matched`: the bindings of the view that it matches, in order. `keep`:
/// whether its encodings are kept for the next who needs them.
pub(super) fn write_event<'a>(
    out: &mut Vec<u8>,
    record: &EventRecord,
    origin: &Origin,
    format: PayloadFormat,
    keep: bool,
    matched: impl Iterator<Item = &'a str> + Clone,
) {
    origin.encodes.frames.fetch_add(1, Ordering::Relaxed);
    let core = record.core(keep, |record| encode_core(record, origin));
    let payload = match format {
        PayloadFormat::Json => Payload::Json(record.event.data().as_bytes()),
        PayloadFormat::Typed => Payload::Encoded(record.typed(keep, |record| {
            origin.encodes.typed.fetch_add(1, Ordering::Relaxed);
            payload::typed(record.event.kind(), record.event.data().as_bytes())
        })),
        PayloadFormat::Struct => Payload::Encoded(record.structure(keep, |record| {
            origin.encodes.structures.fetch_add(1, Ordering::Relaxed);
            payload::structure(record.event.data().as_bytes())
        })),
        PayloadFormat::None => Payload::Encoded(Cow::Borrowed(&[])),
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
    out.put_slice(&core);
    for binding in matched {
        put_delimited(out, EVENT_MATCHED_BINDINGS, binding.as_bytes());
    }
    payload.write(out);
}

/// About how many bytes a frame takes, before anything is encoded: hardly ever less than it is then, and little more, so that
/// its place is neither made twice nor half empty. `binding`: the length of the binding that it matches.
pub(super) fn estimate(record: &EventRecord, format: PayloadFormat, binding: usize) -> usize {
    /// Everything but the texts: prefix, cursor, account, category, times, and the key and length of each field.
    const BESIDE: usize = 112;
    let event = &record.event;
    let json = event.data().len();
    let payload = match format {
        PayloadFormat::Json => json,
        PayloadFormat::Typed => record.made(format).unwrap_or(json),
        PayloadFormat::Struct => record.made(format).unwrap_or(json + json / 4),
        PayloadFormat::None => 0,
    };
    let texts = event.text_len() - json - event.key().len();
    BESIDE + texts + binding + payload
}

/// Written field by field, as everything here: a message would want texts of its own, six allocations for each event.
fn encode_core(record: &EventRecord, origin: &Origin) -> Vec<u8> {
    origin.encodes.cores.fetch_add(1, Ordering::Relaxed);
    let event = &record.event;
    let texts = [
        (EVENT_ACCOUNT_ID, origin.account.as_str()),
        (EVENT_NAME, event.name()),
        (EVENT_ROUTING_KEY, event.routing_key()),
        (EVENT_MESSAGE_ID, event.message_id()),
        (EVENT_CALL_ID, event.call_id()),
    ];
    let texts = texts.iter().filter(|(_, text)| !text.is_empty());
    let times = [(EVENT_RECEIVE_TIME, Some(record.received)), (EVENT_EVENT_TIME, event.event_time())];
    let times = times.map(|(field, time)| (field, time.map(prost_types::Timestamp::from)));
    let category = category(event.kind()) as u64;
    let cursor = KEY + delimited_len(EPOCH) + KEY + encoded_len_varint(record.sequence.0);

    let length = KEY
        + delimited_len(cursor)
        + texts.clone().map(|(_, text)| KEY + delimited_len(text.len())).sum::<usize>()
        + KEY
        + encoded_len_varint(category)
        + times
            .iter()
            .flat_map(|(_, time)| time)
            .map(|time| KEY + delimited_len(time.encoded_len()))
            .sum::<usize>();
    let mut out = Vec::with_capacity(length);
    encode_key(EVENT_CURSOR, WireType::LengthDelimited, &mut out);
    encode_varint(cursor as u64, &mut out);
    encode_key(CURSOR_EPOCH, WireType::LengthDelimited, &mut out);
    encode_varint(EPOCH as u64, &mut out);
    // Into a vector it cannot fail.
    let _ = write!(out, "{}", origin.epoch);
    encode_key(CURSOR_SEQUENCE, WireType::Varint, &mut out);
    encode_varint(record.sequence.0, &mut out);
    for (field, text) in texts {
        put_delimited(&mut out, *field, text.as_bytes());
    }
    encode_key(EVENT_CATEGORY, WireType::Varint, &mut out);
    encode_varint(category, &mut out);
    for (field, time) in &times {
        if let Some(time) = time {
            prost::encoding::message::encode(*field, time, &mut out);
        }
    }
    debug_assert_eq!(out.len(), length, "nothing is written that was not counted");
    out
}

/// What an event of a kind is about.
pub(crate) fn category(kind: Kind) -> proto::EventCategory {
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use prost::Message as _;

    use super::*;
    use crate::{
        binding::EventKey,
        hub::{EventTexts, IncomingEvent, Sequence},
    };

    /// As `prost` would write the message, but for the order of fields.
    #[test]
    fn the_core_is_that_of_the_message() {
        let origin = Origin {
            account: "account0000000000000000000000002".parse().unwrap(),
            epoch: Epoch(0xabc),
            encodes: Arc::default(),
            memory: Memory::new(&crate::config::Hub::default()),
        };
        let share = origin.memory.share(origin.account);
        let received = SystemTime::UNIX_EPOCH + Duration::new(1_795_000_000, 7);
        for (message_id, event_time, sequence) in
            [("", None, 1), ("m", Some(received - Duration::from_millis(1500)), u64::MAX)]
        {
            let routing_key = "call.account0000000000000000000000002.CHANNEL_CREATE.a%2Eb";
            let key = EventKey::from_routing_key(routing_key).unwrap();
            let texts =
                EventTexts { name: "CHANNEL_CREATE", routing_key, message_id, call_id: "a.b", data: "" };
            let event = IncomingEvent::new(&key, event_time, texts);
            let record = EventRecord::new(Sequence(sequence), received, event, Arc::clone(&share));
            let core = encode_core(&record, &origin);
            let expected = proto::Event {
                cursor: Some(proto::Cursor { epoch: "0000000000000abc".into(), sequence }),
                account_id: origin.account.to_string(),
                name: "CHANNEL_CREATE".into(),
                category: proto::EventCategory::Call.into(),
                routing_key: routing_key.into(),
                message_id: message_id.into(),
                call_id: "a.b".into(),
                receive_time: Some(received.into()),
                event_time: event_time.map(Into::into),
                matched_bindings: Vec::new(),
                payload: None,
            };
            assert_eq!(proto::Event::decode(&core[..]).unwrap(), expected);
            assert_eq!(core.len(), expected.encoded_len());
        }
    }
}
