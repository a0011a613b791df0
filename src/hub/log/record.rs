//! What a log keeps: events with their encodings, and control records.

use std::{
    borrow::Cow,
    mem,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use crate::binding::{Binding, Kind, UpstreamBinding};

use super::{Control, IncomingEvent, LostBindings, Sequence};
use crate::hub::{
    memory::{ALLOCATION, Share},
    subscription::PayloadFormat,
};

/// What an `Arc` takes beyond its content: two counts, and the allocation.
const SHARED: usize = 2 * mem::size_of::<usize>() + ALLOCATION;

/// What a binding owns beyond its text and its pattern.
const OWNED: usize = 2 * SHARED;

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
    core: OnceLock<Box<[u8]>>,
    /// The payload field, `PayloadFormat::Typed`.
    typed: OnceLock<Box<[u8]>>,
    /// The payload field, `PayloadFormat::Struct`.
    structure: OnceLock<Box<[u8]>>,
    share: Arc<Share>,
}

impl EventRecord {
    pub(in crate::hub) fn new(
        sequence: Sequence,
        received: SystemTime,
        event: IncomingEvent,
        share: Arc<Share>,
    ) -> Self {
        let encodings =
            Encodings { core: OnceLock::new(), typed: OnceLock::new(), structure: OnceLock::new(), share };
        Self { sequence, received, event, encodings }
    }

    pub(in crate::hub) fn core(&self, keep: bool, encode: impl FnOnce(&Self) -> Vec<u8>) -> Cow<'_, [u8]> {
        self.encodings.get(&self.encodings.core, keep, || encode(self))
    }

    pub(in crate::hub) fn typed(&self, keep: bool, encode: impl FnOnce(&Self) -> Vec<u8>) -> Cow<'_, [u8]> {
        self.encodings.get(&self.encodings.typed, keep, || encode(self))
    }

    pub(in crate::hub) fn structure(
        &self,
        keep: bool,
        encode: impl FnOnce(&Self) -> Vec<u8>,
    ) -> Cow<'_, [u8]> {
        self.encodings.get(&self.encodings.structure, keep, || encode(self))
    }

    /// The length of its payload field in a format, if that has been made, and is kept.
    pub(in crate::hub) fn made(&self, format: PayloadFormat) -> Option<usize> {
        let made = match format {
            PayloadFormat::Typed => &self.encodings.typed,
            PayloadFormat::Struct => &self.encodings.structure,
            PayloadFormat::Json | PayloadFormat::None => return None,
        };
        made.get().map(|encoded| encoded.len())
    }

    fn size(&self) -> usize {
        SHARED + mem::size_of::<Self>() + self.event.text_len() + ALLOCATION
    }
}

impl Encodings {
    /// What is there, or else made; `keep`: for the next who wants it, as long as the record lives.
    fn get<'a>(
        &'a self,
        cell: &'a OnceLock<Box<[u8]>>,
        keep: bool,
        encode: impl FnOnce() -> Vec<u8>,
    ) -> Cow<'a, [u8]> {
        match cell.get() {
            Some(encoded) => Cow::Borrowed(encoded),
            None if !keep => Cow::Owned(encode()),
            None => Cow::Borrowed(cell.get_or_init(|| {
                let encoded = encode().into_boxed_slice();
                self.share.change(0, encoded.len() + ALLOCATION);
                encoded
            })),
        }
    }
}

impl Drop for Encodings {
    fn drop(&mut self) {
        let made = [&self.core, &self.typed, &self.structure];
        let sizes = made.into_iter().filter_map(OnceLock::get).map(|encoded| encoded.len() + ALLOCATION);
        self.share.change(sizes.sum(), 0);
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
            Change::Upstream(Control::Upstream(change)) => SHARED + change.detail.len(),
            Change::Upstream(Control::Lost { bindings: LostBindings::All, .. }) => 0,
            Change::Upstream(Control::Lost { bindings: LostBindings::These(bindings), .. }) => {
                bindings.capacity() * mem::size_of::<UpstreamBinding>()
                    + bindings.iter().map(|binding| OWNED + 2 * binding.text().len()).sum::<usize>()
            }
            Change::Upstream(
                Control::Confirmed { binding }
                | Control::Refused { binding, .. }
                | Control::Dropped { binding },
            ) => OWNED + 2 * binding.text().len(),
            Change::Wanted(bindings) | Change::Unwanted(bindings) => {
                let each = mem::size_of::<Binding>() + OWNED;
                SHARED + bindings.iter().map(|binding| each + 2 * binding.as_str().len()).sum::<usize>()
            }
        };
        SHARED + mem::size_of::<Self>() + texts
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
