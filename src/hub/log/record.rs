//! What a log keeps: events with their encodings, and control records.

use std::{
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;

use crate::binding::{Binding, Kind};

use super::{Control, IncomingEvent, Sequence};

/// A record of the log.
#[derive(Clone)]
pub(in crate::hub) enum Record {
    Event(Arc<EventRecord>),
    Control(Arc<ControlRecord>),
}

impl Record {
    pub(in crate::hub) fn received(&self) -> SystemTime {
        match self {
            Record::Event(event) => event.received,
            Record::Control(control) => control.time,
        }
    }

    /// The bytes that it takes, without the encodings that come and go.
    pub(in crate::hub) fn size(&self) -> usize {
        match self {
            Record::Event(event) => event.size(),
            Record::Control(control) => control.size(),
        }
    }
}

/// An event in the log. What can be encoded independently of the view is encoded here, lazily and once.
pub(in crate::hub) struct EventRecord {
    pub(in crate::hub) sequence: Sequence,
    pub(in crate::hub) received: SystemTime,
    pub(in crate::hub) event: IncomingEvent,
    encodings: Encodings,
}

/// The encodings of one event. Their bytes count towards the log's bound from when they are made until they go.
struct Encodings {
    /// `hawking.v1.Event` without `matched_bindings` and payload.
    core: OnceLock<Bytes>,
    /// The payload field, `PayloadFormat::Typed`.
    typed: OnceLock<Bytes>,
    /// The payload field, `PayloadFormat::Struct`.
    structure: OnceLock<Bytes>,
    /// The bytes of all encodings of the log.
    total: Arc<AtomicUsize>,
}

impl EventRecord {
    pub(in crate::hub) fn new(
        sequence: Sequence,
        received: SystemTime,
        event: IncomingEvent,
        encoded_total: Arc<AtomicUsize>,
    ) -> Self {
        let encodings = Encodings {
            core: OnceLock::new(),
            typed: OnceLock::new(),
            structure: OnceLock::new(),
            total: encoded_total,
        };
        Self { sequence, received, event, encodings }
    }

    pub(in crate::hub) fn core(&self, encode: impl FnOnce(&Self) -> Vec<u8>) -> &Bytes {
        self.encodings.get(&self.encodings.core, || encode(self))
    }

    pub(in crate::hub) fn typed(&self, encode: impl FnOnce(&Self) -> Vec<u8>) -> &Bytes {
        self.encodings.get(&self.encodings.typed, || encode(self))
    }

    pub(in crate::hub) fn structure(&self, encode: impl FnOnce(&Self) -> Vec<u8>) -> &Bytes {
        self.encodings.get(&self.encodings.structure, || encode(self))
    }

    fn size(&self) -> usize {
        let event = &self.event;
        mem::size_of::<Self>()
            + event.data.len()
            + event.key.key.len()
            + event.key.name.len()
            + event.name.len()
            + event.routing_key.len()
            + event.message_id.len()
            + event.call_id.len()
    }
}

impl Encodings {
    fn get<'a>(&self, cell: &'a OnceLock<Bytes>, encode: impl FnOnce() -> Vec<u8>) -> &'a Bytes {
        cell.get_or_init(|| {
            let encoded = Bytes::from(encode());
            self.total.fetch_add(encoded.len(), Ordering::Relaxed);
            encoded
        })
    }
}

impl Drop for Encodings {
    fn drop(&mut self) {
        let made = [&self.core, &self.typed, &self.structure];
        let bytes = made.into_iter().filter_map(OnceLock::get).map(Bytes::len).sum();
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A change of the coverage, in the log.
#[derive(Debug)]
pub(in crate::hub) struct ControlRecord {
    pub(in crate::hub) sequence: Sequence,
    pub(in crate::hub) time: SystemTime,
    pub(in crate::hub) change: Change,
    /// When each kind was last proven before it: so that what a replaying reader is told of proofs is what a live one was.
    pub(in crate::hub) proofs: Proofs,
}

/// What can change the coverage: the upstream, and what is wanted. The latter stands in the log too, because an event
/// that nobody wanted was not kept: a reader that wants it must be told, although upstream held the binding.
#[derive(Debug, Clone)]
pub(in crate::hub) enum Change {
    Upstream(Control),
    Wanted(Arc<[Binding]>),
    Unwanted(Arc<[Binding]>),
}

impl ControlRecord {
    fn size(&self) -> usize {
        let texts = match &self.change {
            Change::Upstream(Control::Upstream(change)) => change.detail.len(),
            Change::Upstream(Control::Lost { .. }) => 64,
            Change::Upstream(
                Control::Confirmed { binding }
                | Control::Refused { binding, .. }
                | Control::Dropped { binding },
            ) => 2 * binding.text().len(),
            Change::Wanted(bindings) | Change::Unwanted(bindings) => {
                bindings.iter().map(|binding| 64 + 2 * binding.as_str().len()).sum()
            }
        };
        mem::size_of::<Self>() + texts
    }
}

/// Until when each kind of binding is proven to have delivered: its last event, or the refresh of all its bindings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::hub) struct Proofs([Option<SystemTime>; 7]);

impl Proofs {
    pub(in crate::hub) fn set(&mut self, kind: Kind, time: SystemTime) {
        let proof = &mut self.0[slot(kind)];
        *proof = (*proof).max(Some(time));
    }

    pub(in crate::hub) fn get(&self, kind: Kind) -> Option<SystemTime> {
        self.0[slot(kind)]
    }
}

fn slot(kind: Kind) -> usize {
    match kind {
        Kind::Call => 0,
        Kind::ConferenceEvent => 1,
        Kind::ConferenceCommand => 2,
        Kind::FaxStatus => 3,
        Kind::Object => 4,
        Kind::Presence => 5,
        Kind::Stream => 6,
    }
}
