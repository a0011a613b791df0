//! What the logs take of the process's memory: counted where it is taken and where it is given back, and bounded.
//!
//! There are three bounds. A *log* has its own (`log_bytes`), looked at by each append, under the lock that it holds anyway.
//! A *branch*, that is a configured account with all accounts below it, has `account_log_bytes`; the process has
//! `total_log_bytes`. What is bounded together is a [`Pool`], and its rule is: **the largest logs are cut down to one size,
//! such that all fit**. Who has little keeps all of it, and nobody is cut below anybody else ([`level`]).
//!
//! No append waits for the lock of another account, and none looks at other logs. Each change moves the counters of its log
//! and its two pools; whoever moves a pool past its [mark](Pool::mark) wakes the one task that trims
//! ([`Hub::keep_bounds`](super::Hub::keep_bounds)). That one goes over all logs, but only once for every sixteenth of the
//! bound that is appended. Until it has come round, the bound holds all the same: in a pool that is full each new record
//! takes the place of the oldest ones of its own log.
//!
//! Counted are records with all that they own, the allocator's overhead included; encodings, from when they are made; the
//! frames that a view keeps for its readers; the positions that it remembers; and room that is allocated and not used. Apart
//! from that stand the frames that nobody but a stream holds, because its consumer has not taken them: no log can give them
//! back. They are counted too ([`MemoryUse::held`]); whoever serves the streams keeps them within [`HELD_PER_STREAM`] for each.

use std::{
    collections::BTreeMap,
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{binding::AccountId, config};

/// What an allocation takes beyond its size, about: the allocator's header, and what is lost to alignment.
pub(super) const ALLOCATION: usize = 16;
/// What an open stream may hold of frames that nobody else needs, in bytes, on average over all streams. That is more than what
/// is buffered for a stream, with a batch; but an event may be larger. Where all streams together hold more, those end that
/// are stalled within such an event and take nothing of it.
pub const HELD_PER_STREAM: usize = 256 << 10;

/// What the logs of a hub take, at one moment. All in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// All logs together.
    pub logs: usize,
    /// Their bound, `hub.total_log_bytes`.
    pub limit: usize,
    /// Frames of events that streams hold and no log: what consumers have not taken yet.
    pub held: usize,
}

/// Why records are no longer in their logs: how many went for each reason, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Older than `hub.log_age`.
    pub age: u64,
    /// The log had more than `hub.log_records`.
    pub records: u64,
    /// The log took more than `hub.log_bytes`.
    pub log_bytes: u64,
    /// A pool was full: `hub.account_log_bytes` or `hub.total_log_bytes`.
    pub shared_bytes: u64,
}

/// Why a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    Age,
    Records,
    LogBytes,
    SharedBytes,
}

/// The memory of all logs of a hub.
pub(super) struct Memory {
    process: Arc<Pool>,
    branches: Mutex<BTreeMap<AccountId, Weak<Pool>>>,
    branch_limit: AtomicUsize,
    /// Some pool is past its mark.
    pub(super) trim: Arc<Notify>,
    /// Frames of events, whoever holds them.
    frames: AtomicUsize,
    /// Those of them that views keep: they are counted in their logs.
    kept_frames: AtomicUsize,
    evictions: [AtomicU64; 4],
}

/// Logs that are bounded together.
pub(super) struct Pool {
    bytes: AtomicUsize,
    limit: AtomicUsize,
    trim: Arc<Notify>,
}

/// What one log takes, of its own bound and of those that it shares.
pub(super) struct Share {
    bytes: AtomicUsize,
    /// Of these, what its views keep for their readers.
    kept: AtomicUsize,
    /// Its branch, and the process.
    pools: [Arc<Pool>; 2],
    memory: Arc<Memory>,
}

/// A part of what a log takes, given back when dropped.
pub(super) struct Charge {
    share: Arc<Share>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(settings: &config::Hub) -> Arc<Self> {
        let trim = Arc::new(Notify::new());
        Arc::new(Self {
            process: Arc::new(Pool::new(settings.total_log_bytes, &trim)),
            branches: Mutex::default(),
            branch_limit: AtomicUsize::new(settings.account_log_bytes),
            trim,
            frames: AtomicUsize::new(0),
            kept_frames: AtomicUsize::new(0),
            evictions: Default::default(),
        })
    }

    /// For a new log of the branch.
    pub(super) fn share(self: &Arc<Self>, branch: AccountId) -> Arc<Share> {
        let mut branches = self.branches.lock();
        branches.retain(|id, pool| *id == branch || pool.strong_count() > 0);
        let known = branches.get(&branch).and_then(Weak::upgrade);
        let pool = known.unwrap_or_else(|| {
            let pool = Arc::new(Pool::new(self.branch_limit.load(Relaxed), &self.trim));
            branches.insert(branch, Arc::downgrade(&pool));
            pool
        });
        let pools = [pool, Arc::clone(&self.process)];
        Arc::new(Share {
            bytes: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            pools,
            memory: Arc::clone(self),
        })
    }

    /// The bounds have changed.
    pub(super) fn set_limits(&self, settings: &config::Hub) {
        self.process.limit.store(settings.total_log_bytes, Relaxed);
        // Under the lock under which a new branch takes it.
        let branches = self.branches.lock();
        self.branch_limit.store(settings.account_log_bytes, Relaxed);
        for pool in branches.values().filter_map(Weak::upgrade) {
            pool.limit.store(settings.account_log_bytes, Relaxed);
        }
        self.trim.notify_one();
    }

    /// The pools that are past their marks, the process last.
    pub(super) fn past_mark(&self) -> Vec<Arc<Pool>> {
        let branches: Vec<_> = self.branches.lock().values().filter_map(Weak::upgrade).collect();
        let all = branches.into_iter().chain([Arc::clone(&self.process)]);
        all.filter(|pool| pool.is_past_mark()).collect()
    }

    pub(super) fn usage(&self) -> MemoryUse {
        MemoryUse {
            logs: self.process.bytes.load(Relaxed),
            limit: self.process.limit.load(Relaxed),
            held: self.held(),
        }
    }

    fn held(&self) -> usize {
        // Two counters: one may be ahead of the other for a moment.
        self.frames.load(Relaxed).saturating_sub(self.kept_frames.load(Relaxed))
    }

    /// Frames, whoever holds them, and those that views keep.
    #[cfg(test)]
    pub(super) fn frames_and_kept(&self) -> (usize, usize) {
        (self.frames.load(Relaxed), self.kept_frames.load(Relaxed))
    }

    /// Whether so many streams hold more than they may, all together.
    pub(super) fn is_overheld(&self, streams: usize) -> bool {
        self.held() > streams.max(1) * HELD_PER_STREAM
    }

    pub(super) fn evicted(&self, why: Eviction) {
        self.evictions[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn evictions(&self) -> Evictions {
        let count = |why: Eviction| self.evictions[why as usize].load(Relaxed);
        Evictions {
            age: count(Eviction::Age),
            records: count(Eviction::Records),
            log_bytes: count(Eviction::LogBytes),
            shared_bytes: count(Eviction::SharedBytes),
        }
    }

    /// Frames as they are handed out: counted until the last who holds any part of them lets go. With what they take.
    /// `for_long`: more is made of them than a consumer needs to take them.
    pub(super) fn frames(self: &Arc<Self>, mut frames: Vec<u8>, for_long: bool) -> (Bytes, usize) {
        if frames.is_empty() {
            return (Bytes::new(), 0);
        }
        // Their sizes were estimated.
        if for_long && frames.capacity() - frames.len() > frames.len() / 8 {
            frames.shrink_to_fit();
        }
        let frames = Frames { frames, memory: Arc::clone(self) };
        let taken = frames.taken();
        self.frames.fetch_add(taken, Relaxed);
        (Bytes::from_owner(frames), taken)
    }
}

struct Frames {
    frames: Vec<u8>,
    memory: Arc<Memory>,
}

impl Frames {
    /// Itself too, and the count of who holds it.
    fn taken(&self) -> usize {
        self.frames.capacity() + mem::size_of::<Self>() + 2 * mem::size_of::<usize>() + 2 * ALLOCATION
    }
}

impl AsRef<[u8]> for Frames {
    fn as_ref(&self) -> &[u8] {
        &self.frames
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.memory.frames.fetch_sub(self.taken(), Relaxed);
    }
}

impl Pool {
    fn new(limit: usize, trim: &Arc<Notify>) -> Self {
        Self { bytes: AtomicUsize::new(0), limit: AtomicUsize::new(limit), trim: Arc::clone(trim) }
    }

    /// Past it, logs are trimmed down to the [aim](Self::aim). Between it and the limit is what may be appended meanwhile.
    fn mark(&self) -> usize {
        let limit = self.limit.load(Relaxed);
        limit - limit / 16
    }

    /// What is left by a trim.
    pub(super) fn aim(&self) -> usize {
        let limit = self.limit.load(Relaxed);
        limit - limit / 8
    }

    fn is_past_mark(&self) -> bool {
        self.bytes.load(Relaxed) > self.mark()
    }

    fn is_full(&self) -> bool {
        self.bytes.load(Relaxed) > self.limit.load(Relaxed)
    }

    fn grow(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Relaxed);
        if before + bytes > self.mark() {
            self.trim.notify_one();
        }
    }
}

impl Share {
    /// What the log takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// What was `before` takes `after` now.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after > before {
            self.bytes.fetch_add(after - before, Relaxed);
            self.pools.iter().for_each(|pool| pool.grow(after - before));
        } else if before > after {
            self.bytes.fetch_sub(before - after, Relaxed);
            self.pools.iter().for_each(|pool| {
                pool.bytes.fetch_sub(before - after, Relaxed);
            });
        }
    }

    /// A view keeps frames that take so much, and `beside` for itself.
    pub(super) fn keep_frames(&self, taken: usize, beside: usize) {
        self.change(0, taken + beside);
        self.kept.fetch_add(taken + beside, Relaxed);
        self.memory.kept_frames.fetch_add(taken, Relaxed);
    }

    /// It keeps them no more.
    pub(super) fn forget_frames(&self, taken: usize, beside: usize) {
        self.change(taken + beside, 0);
        self.kept.fetch_sub(taken + beside, Relaxed);
        self.memory.kept_frames.fetch_sub(taken, Relaxed);
    }

    /// What the views of the log keep.
    pub(super) fn kept(&self) -> usize {
        self.kept.load(Relaxed)
    }

    /// Whether a pool that it is in is over its limit.
    pub(super) fn is_full(&self) -> bool {
        self.pools.iter().any(|pool| pool.is_full())
    }

    /// Whether it is worth while to keep what could be made again: no pool is past its mark.
    pub(super) fn has_room(&self) -> bool {
        !self.pools.iter().any(|pool| pool.is_past_mark())
    }

    pub(super) fn is_in(&self, pool: &Arc<Pool>) -> bool {
        self.pools.iter().any(|own| Arc::ptr_eq(own, pool))
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Share {
    /// Whoever took something holds the share, and has given it back.
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        debug_assert!(bytes == 0 || std::thread::panicking(), "{bytes} bytes are counted that nobody takes");
    }
}

impl Charge {
    pub(super) fn new(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), bytes: 0 }
    }

    /// What it stands for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// It stands for so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.share.change(self.bytes, bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The size such that logs of these sizes, those above it cut down to it, take `room` together.
pub(super) fn level(mut sizes: Vec<usize>, room: usize) -> usize {
    sizes.sort_unstable();
    let (mut room, mut logs) = (room, sizes.len());
    for size in sizes {
        let fair = room / logs;
        if size > fair {
            return fair;
        }
        room -= size;
        logs -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_are_cut_to_one_size(sizes in prop::collection::vec(0..1000_usize, 0..50), room in 0..20_000_usize) {
            let level = level(sizes.clone(), room);
            let cut: usize = sizes.iter().map(|size| *size.min(&level)).sum();
            prop_assert!(cut <= room, "they fit");
            if level < usize::MAX {
                // One byte more for each that was cut would be too much.
                let more: usize = sizes.iter().map(|size| *size.min(&(level + 1))).sum();
                prop_assert!(more > room || more == cut, "and no more is cut than must be");
            } else {
                prop_assert_eq!(cut, sizes.iter().sum::<usize>());
            }
        }
    }

    #[test]
    fn a_log_gives_everything_back() {
        let settings = config::Hub::default();
        let memory = Memory::new(&settings);
        let (branch, other) = ([b'a'; 32], [b'b'; 32]);
        let id = |bytes: [u8; 32]| String::from_utf8(bytes.to_vec()).unwrap().parse::<AccountId>().unwrap();
        let (one, two) = (memory.share(id(branch)), memory.share(id(branch)));
        let apart = memory.share(id(other));
        assert!(Arc::ptr_eq(&one.pools[0], &two.pools[0]) && !Arc::ptr_eq(&one.pools[0], &apart.pools[0]));
        one.change(0, 100);
        two.change(0, 50);
        apart.change(0, 7);
        let mut charge = Charge::new(&two);
        charge.set(30);
        charge.set(20);
        assert_eq!((two.bytes(), one.pools[0].bytes.load(Relaxed), memory.usage().logs), (70, 170, 177));
        drop(charge);
        two.change(50, 40);
        assert_eq!((two.bytes(), memory.usage().logs), (40, 147));
        two.keep_frames(1000, 20);
        assert_eq!((two.bytes(), two.kept()), (1060, 1020));
        two.forget_frames(1000, 20);
        two.change(40, 0);
        assert_eq!((two.bytes(), two.kept(), one.pools[0].bytes.load(Relaxed)), (0, 0, 100));
        one.change(100, 0);
        apart.change(7, 0);
        assert_eq!((memory.usage().logs, memory.frames_and_kept()), (0, (0, 0)));
    }

    #[test]
    #[should_panic(expected = "7 bytes are counted")]
    fn a_log_that_keeps_something_is_found_out() {
        let memory = Memory::new(&config::Hub::default());
        let share = memory.share("a".repeat(32).parse().unwrap());
        share.change(0, 7);
        drop(share);
    }

    #[test]
    fn frames_are_held_until_the_last_piece_of_them_goes() {
        let memory = Memory::new(&config::Hub::default());
        let (mut frames, taken) = memory.frames(vec![1; 1000], false);
        let piece = frames.split_to(10);
        drop(frames);
        assert!((1000..1200).contains(&taken));
        assert_eq!(memory.usage().held, taken);
        assert!(!memory.is_overheld(1));
        drop(piece);
        assert_eq!(memory.usage().held, 0);
        let held = memory.frames(vec![1; HELD_PER_STREAM + 1], false);
        assert!(memory.is_overheld(0) && memory.is_overheld(1) && !memory.is_overheld(2));
        drop(held);
    }
}
