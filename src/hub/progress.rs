//! How far a subscription is, for those who look at it from outside.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::binding::AccountId;

use super::{
    account::Account,
    log::{Cursor, Sequence},
    state::ReaderId,
};

/// The reader has not come up with its view yet.
const UNKNOWN: u64 = u64::MAX;

/// How far a subscription is. Its reader alone writes it, with plain stores into one cache line once for each batch; whoever
/// looks works out the rest.
///
/// The numbers are those of one moment each, not all of the same: good for people, not for decisions.
pub struct Progress {
    account: Arc<Account>,
    reader: ReaderId,
    yielded: AtomicU64,
    ordinal: AtomicU64,
    delivered: AtomicU64,
    bytes: AtomicU64,
    /// The reader has gone: its place in its view may be another's.
    gone: AtomicBool,
}

impl Progress {
    pub(super) fn new(account: Arc<Account>, reader: ReaderId, position: Sequence) -> Self {
        Self {
            account,
            reader,
            yielded: AtomicU64::new(position.0),
            ordinal: AtomicU64::new(UNKNOWN),
            delivered: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        }
    }

    /// The reader is about to go.
    pub(super) fn end(&self) {
        self.gone.store(true, Relaxed);
    }

    /// Everything up to `position` was yielded: so many of the view's events, if that is known.
    pub(super) fn set(&self, position: Sequence, ordinal: Option<u64>) {
        self.yielded.store(position.0, Relaxed);
        self.ordinal.store(ordinal.unwrap_or(UNKNOWN), Relaxed);
    }

    /// So many more events were yielded, of so many bytes with their framing.
    pub(super) fn add(&self, events: u32, bytes: usize) {
        // There is one writer, so that nothing can come between the two.
        self.delivered.store(self.delivered.load(Relaxed) + u64::from(events), Relaxed);
        self.bytes.store(self.bytes.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// The account whose session serves it.
    pub fn served_by(&self) -> AccountId {
        self.account.served_by()
    }

    /// The position that was passed: everything up to it was yielded.
    pub fn position(&self) -> Cursor {
        self.account.cursor(Sequence(self.yielded.load(Relaxed)))
    }

    /// Events that were yielded.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Bytes of these, as they are framed.
    pub fn delivered_bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Events of the subscription between its position and the end of the log, also those that the log has let go of
    /// already. Exact once it has come up with the present; of one that still replays the past it is an upper bound: how
    /// many of the records before it are its own is only known when they have been read. 0 of one that has gone.
    pub fn lag(&self) -> u64 {
        let ordinal = Some(self.ordinal.load(Relaxed)).filter(|ordinal| *ordinal != UNKNOWN);
        let passed = Sequence(self.yielded.load(Relaxed));
        self.account.with_state(|state| {
            // Under the lock under which its place is given up, which comes after this.
            if self.gone.load(Relaxed) { 0 } else { state.lag(self.reader, passed, ordinal) }
        })
    }
}
