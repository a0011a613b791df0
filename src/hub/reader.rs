//! The reader behind a consumer's stream: how it begins, and what it yields.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{
    account::{Account, Membership},
    coverage::{BindingReport, BindingState, Coverage, UpstreamStanding},
    gap::{Gap, GapReason, GapTracker},
    log::{
        Cursor, Sequence, UpstreamChange, UpstreamState, Window,
        record::{ControlRecord, Proofs},
    },
    progress::Progress,
    start::{self, Begin},
    state::{Overtaken, State, Step},
    subscription::{EndReason, Item, OverflowPolicy, Start, SubscribeError, SubscribeSpec},
    view::{Projection, ViewKey},
};

/// How many steps that yield nothing a reader takes before it lets others run.
const STEPS_PER_POLL: usize = 32;

/// One consumer's stream. Dropping it gives its interest back (which lingers).
pub struct Subscription {
    membership: Membership,
    projection: Arc<Projection>,
    overflow_policy: OverflowPolicy,
    begin: Cursor,
    begin_reports: Vec<BindingReport>,
    begin_upstream: UpstreamStanding,
    begin_window: Window,
    /// Everything up to here was looked at.
    passed: Sequence,
    /// When the log was there.
    passed_time: SystemTime,
    /// How many of the view's events it has passed, once it knows.
    ordinal: Option<u64>,
    /// What was yielded: behind `passed` while there is something in `queue`.
    progress: Arc<Progress>,
    tracker: GapTracker,
    upstream: UpstreamStanding,
    queue: VecDeque<Item>,
    heartbeat: Heartbeat,
    ended: bool,
}

/// Says when a quiet stream must speak. The timer is not moved with each item, but looked at when it fires.
struct Heartbeat {
    interval: Duration,
    last_item: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Heartbeat {
    fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self { interval, last_item: now, timer: Box::pin(sleep_until(now + interval)) }
    }

    fn spoke(&mut self) {
        self.last_item = Instant::now();
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = self.last_item + self.interval;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
    }
}

pub(super) async fn subscribe(
    account: &Arc<Account>,
    spec: SubscribeSpec,
) -> Result<Subscription, SubscribeError> {
    let mut bindings = spec.bindings.clone();
    bindings.sort_unstable();
    bindings.dedup();
    let key = ViewKey { bindings, filter: spec.filter.clone(), format: spec.format };

    let now = account.now();
    let (membership, projection, begin) =
        account.join(&key, |state| start::begin(&state.log, spec.start, spec.miss_policy, now))?;
    // From here on an early return gives everything back.
    if spec.start == Start::Live || spec.require_all_bindings {
        settle(account, &projection, spec.require_all_bindings).await?;
    }

    let fix = |state: &mut State| {
        if state.is_gone() {
            return Err(SubscribeError::AccountGone);
        }
        let begin = begin.unwrap_or_else(|| Begin::live(&state.log, account.now()));
        Ok((begin, state.log.window(), state.log.proofs()))
    };
    let (begin, window, proofs) = account.with_state(fix)?;
    Ok(Subscription::new(membership, projection, &spec, begin, window, proofs))
}

/// Waits until no binding is pending any more: as long as the upstream is up, and for a bounded time.
async fn settle(account: &Account, projection: &Projection, all: bool) -> Result<(), SubscribeError> {
    let mut controls = account.controls();
    let deadline = Instant::now() + account.settings().confirm_wait;
    loop {
        controls.mark_unchanged();
        let (gone, coverage, proofs) =
            account.with_state(|state| (state.is_gone(), Arc::clone(state.log.head()), state.log.proofs()));
        if gone {
            return Err(SubscribeError::AccountGone);
        }
        let reports = projection.reports(&coverage, proofs);
        if all && reports.iter().any(|report| matches!(report.state, BindingState::Refused(_))) {
            return Err(SubscribeError::BindingsRefused(reports));
        }
        let pending = reports.iter().any(|report| report.state == BindingState::Pending);
        if !pending || coverage.upstream().change.state == UpstreamState::Down {
            return Ok(());
        }
        // Whoever holds it makes the next record copy it.
        drop(coverage);
        if timeout_at(deadline, controls.changed()).await.is_err() {
            return Ok(());
        }
    }
}

impl Projection {
    fn reports(&self, coverage: &Coverage, proofs: Proofs) -> Vec<BindingReport> {
        self.bindings()
            .map(|(binding, text)| coverage.standing(binding, Arc::clone(text)).report(proofs))
            .collect()
    }
}

impl Subscription {
    fn new(
        membership: Membership,
        projection: Arc<Projection>,
        spec: &SubscribeSpec,
        begin: Begin,
        window: Window,
        proofs: Proofs,
    ) -> Self {
        let Begin { position, time, coverage, controls, miss } = begin;
        let coverage = start::coverage_at(coverage, &controls);
        let proofs = if spec.start == Start::Live { proofs } else { coverage.proofs() };
        let bindings = spec.bindings.iter().map(|binding| (binding.clone(), binding.as_str().into()));
        let (tracker, gaps) = GapTracker::new(bindings, &coverage, position, time);
        let miss = miss.map(|miss| miss.gap(position, tracker.texts()));
        let upstream = coverage.upstream().clone();
        let progress = Progress::new(Arc::clone(&membership.account), membership.reader, position);
        Self {
            progress: Arc::new(progress),
            begin: membership.account.cursor(position),
            begin_reports: tracker.reports(proofs),
            begin_upstream: upstream.clone(),
            begin_window: window,
            membership,
            projection,
            overflow_policy: spec.overflow_policy,
            passed: position,
            passed_time: time,
            ordinal: None,
            queue: miss.into_iter().chain(gaps).map(Item::Gap).collect(),
            tracker,
            upstream,
            heartbeat: Heartbeat::new(spec.heartbeat_interval),
            ended: false,
        }
    }

    /// Where the stream began: `Subscribed.position`.
    pub fn start_position(&self) -> Cursor {
        self.begin
    }

    /// The position passed so far: everything up to it was yielded.
    pub fn position(&self) -> Cursor {
        self.progress.position()
    }

    /// How far it is, also for others to look at.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// How the bindings stood at the start, in the order of `SubscribeSpec::bindings`. For a start in the past `proven` is as
    /// of the last control record before it, hence rather too early than too late.
    pub fn bindings(&self) -> Vec<BindingReport> {
        self.begin_reports.clone()
    }

    /// How the upstream stood at the start: its state, since when, and where in the log that change stands.
    pub fn upstream(&self) -> (&UpstreamChange, SystemTime, Cursor) {
        let UpstreamStanding { change, since, position } = &self.begin_upstream;
        (change, *since, self.membership.account.cursor(*position))
    }

    /// What could be replayed when it began.
    pub fn window(&self) -> Window {
        self.begin_window
    }

    /// Whether the log has let go of what it has not yielded, and its policy is to end then. Changes nothing.
    pub fn is_overtaken(&self) -> bool {
        let Membership { account, reader } = &self.membership;
        self.overflow_policy == OverflowPolicy::Disconnect
            && account.with_state(|state| state.is_overtaken(*reader, self.passed))
    }

    /// Whether it has begun to say something, and not said all of it: [`position`](Self::position) is not to be told as one to
    /// resume from before that is out. It takes no more than that has items, and brings nothing new.
    pub fn has_more_to_say(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next item. `Ready(None)` after `Item::End`.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        for _ in 0..STEPS_PER_POLL {
            if let Some(item) = self.queue.pop_front() {
                if self.queue.is_empty() {
                    // Its room, too: there is seldom anything in it.
                    self.queue = VecDeque::new();
                    self.progress.set(self.passed, self.ordinal);
                }
                self.heartbeat.spoke();
                return Poll::Ready(Some(item));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let account = &self.membership.account;
            match account.step(self.membership.reader, self.passed, self.ordinal, cx.waker()) {
                Step::Batch { batch, ordinal } => {
                    let frames = batch.frames(&self.projection, account.origin());
                    self.ordinal = Some(ordinal);
                    self.advance(batch.last(), batch.last_time());
                    return Poll::Ready(Some(self.events(frames, batch.count())));
                }
                Step::Scan { records, through, keep } => {
                    let (frames, count, last) = self.projection.project(&records, account.origin(), keep);
                    // Cut short by a batch's bounds, or looked through to the end.
                    let full = last.map(|last| last.sequence) < records.last().map(|record| record.sequence);
                    let passed = last.filter(|_| full).map_or(through, |last| last.sequence);
                    self.advance(passed, last.map_or(self.passed_time, |last| last.received));
                    // These are the view's events too.
                    self.ordinal = self.ordinal.map(|ordinal| ordinal + u64::from(count));
                    if count > 0 {
                        return Poll::Ready(Some(self.events(frames, count)));
                    }
                }
                Step::Control { record } => self.take_in(&record),
                Step::Overtaken(overtaken) => self.overtaken(overtaken),
                Step::Gone => self.end(EndReason::AccountGone),
                Step::Wait { newest, time, ordinal } => {
                    self.ordinal = Some(ordinal);
                    self.advance(newest, time);
                    self.progress.set(newest, self.ordinal);
                    ready!(self.heartbeat.poll_due(cx));
                    self.heartbeat.spoke();
                    return Poll::Ready(Some(Item::Heartbeat { position: newest }));
                }
            }
            if self.queue.is_empty() {
                self.progress.set(self.passed, self.ordinal);
            }
        }
        // Much to look through, and nothing in it so far.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next item, as a future.
    pub async fn next(&mut self) -> Option<Item> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Events up to the position that was passed.
    fn events(&mut self, frames: Bytes, count: u32) -> Item {
        self.progress.add(count, frames.len());
        self.progress.set(self.passed, self.ordinal);
        self.heartbeat.spoke();
        Item::Events { frames, count, position: self.passed }
    }

    fn advance(&mut self, passed: Sequence, time: SystemTime) {
        self.passed = passed;
        self.passed_time = time;
    }

    fn end(&mut self, reason: EndReason) {
        self.queue.push_back(Item::End(reason));
        self.ended = true;
    }

    fn take_in(&mut self, record: &ControlRecord) {
        self.advance(record.sequence, record.time);
        let upstream = self.upstream.fold(record);
        let changes = self.tracker.apply(record);
        self.queue.extend(changes.gaps.into_iter().map(Item::Gap));
        let reports = if upstream { self.tracker.reports(record.proofs) } else { changes.reports };
        if upstream || !reports.is_empty() {
            self.queue.push_back(upstream_item(&self.upstream, record.sequence, reports));
        }
    }

    fn overtaken(&mut self, at: Overtaken) {
        if self.overflow_policy == OverflowPolicy::Disconnect {
            let last = self.progress.position();
            let lag = at.newest.0.saturating_sub(last.sequence.0);
            return self.end(EndReason::SlowConsumer { last, lag });
        }
        self.queue.push_back(Item::Gap(Gap {
            id: self.passed.next().0,
            reason: GapReason::SlowConsumer,
            after: self.passed,
            before: Some(at.oldest.next()),
            start_time: Some(self.passed_time),
            end_time: Some(at.oldest_time),
            bindings: self.tracker.texts(),
            lost_count: at.lost,
        }));
        let gaps = self.tracker.skip_to(&at.coverage, at.oldest, at.oldest_time);
        self.queue.extend(gaps.into_iter().map(Item::Gap));
        // Any change of a state in the stretch that was skipped.
        self.upstream = at.coverage.upstream().clone();
        let reports = self.tracker.reports(at.coverage.proofs());
        self.queue.push_back(upstream_item(&self.upstream, at.oldest, reports));
        self.ordinal = at.ordinal;
        self.advance(at.oldest, at.oldest_time);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.progress.end();
    }
}

fn upstream_item(upstream: &UpstreamStanding, position: Sequence, bindings: Vec<BindingReport>) -> Item {
    Item::Upstream { change: upstream.change.clone(), since: upstream.since, position, bindings }
}

/// A start that lay outside of the log.
pub(super) struct Miss {
    pub(super) reason: GapReason,
    /// The last position before what is missing.
    pub(super) after: Sequence,
    pub(super) start_time: Option<SystemTime>,
    /// When the log begins.
    pub(super) end_time: SystemTime,
}

impl Miss {
    fn gap(self, position: Sequence, bindings: Vec<Arc<str>>) -> Gap {
        Gap {
            id: self.after.next().0,
            reason: self.reason,
            after: self.after,
            before: Some(position.next()),
            start_time: self.start_time,
            end_time: Some(self.end_time),
            bindings,
            lost_count: None,
        }
    }
}
