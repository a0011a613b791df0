//! What upstream holds for an account, folded from control records.
//!
//! A consumer's binding is *covered* when some binding that upstream has confirmed contains it, **and** when something
//! that is wanted contains it: upstream bindings are wider than what is wanted, and what nobody wants is not kept, so that
//! a confirmed `call.*.*` alone says nothing about the events of `call.CHANNEL_BRIDGE.*` in the log.
//!
//! `Coverage` is that of the whole account, `Standing` the part of it that concerns one consumer's binding. Both fold
//! the same records by the same rules (`Holdings`).

use std::{sync::Arc, time::SystemTime};

use crate::binding::{Binding, Index, Kind, Pattern, UpstreamBinding};

use super::{
    gap::GapReason,
    log::{
        Control, LostBindings, Sequence, UpstreamChange,
        record::{Change, ControlRecord, Proofs},
    },
};

/// How a consumer's binding stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingState {
    /// Upstream has confirmed a binding that contains it.
    Active,
    /// Not confirmed (yet, or again).
    Pending,
    /// Upstream refuses it; why.
    Refused(Arc<str>),
}

/// A consumer's binding, how it stands, and what serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingReport {
    /// Canonical text.
    pub binding: Arc<str>,
    /// How it stands.
    pub state: BindingState,
    /// The upstream binding that serves it, as it is sent.
    pub upstream_binding: Option<Arc<str>>,
    /// The last confirmation or event of the binding that serves it, or the last refresh of all bindings of its kind.
    pub proven: Option<SystemTime>,
}

/// Why a binding is not covered, and since when: what a gap is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    /// The record that uncovered it; no two records share one, so it names the gap.
    pub(super) sequence: Sequence,
    pub(super) reason: GapReason,
    /// The last proof of life before.
    pub(super) since: SystemTime,
}

impl Cause {
    /// A record that says nothing of an outage.
    pub(super) fn pending_since(record: &ControlRecord) -> Self {
        Self { sequence: record.sequence, reason: GapReason::BindingPending, since: record.time }
    }
}

/// How an upstream binding stands.
///
/// A turn of the month silences a part of what a binding brings: `object.*.*` goes on bringing users and devices (F34). So
/// it is not lost then, but marked, and the mark concerns those alone who want what is filed by month.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Active {
        confirmed: SystemTime,
        turned: Option<Cause>,
    },
    Lost {
        confirmed: SystemTime,
        cause: Cause,
        turned: Option<Cause>,
    },
    /// `cause`: what took it away, where it was there before.
    Refused {
        reason: Arc<str>,
        cause: Option<Cause>,
        turned: Option<Cause>,
    },
}

impl Held {
    /// Why it brings nothing, to one who wants what is filed by month, or to one who does not. What is lost twice is lost
    /// since the first time.
    fn lost(&self, month_bound: bool) -> Option<Cause> {
        match self {
            Held::Active { turned, .. } => turned.filter(|_| month_bound),
            Held::Lost { cause, turned, .. } => Some(turned.filter(|_| month_bound).unwrap_or(*cause)),
            Held::Refused { cause, turned, .. } => turned.filter(|_| month_bound).or(*cause),
        }
    }

    /// It is refused from now on. What was lost before was lost then.
    fn refuse(before: Option<&Self>, reason: &Arc<str>, now: Cause) -> Self {
        let (cause, turned) = match before {
            None => (None, None),
            Some(Held::Active { turned, .. }) => (Some(now), *turned),
            Some(Held::Lost { cause, turned, .. }) => (Some(*cause), *turned),
            Some(Held::Refused { cause, turned, .. }) => (*cause, *turned),
        };
        Held::Refused { reason: Arc::clone(reason), cause, turned }
    }

    /// Whether it brings what it is for.
    fn brings(&self, month_bound: bool) -> bool {
        self.confirmed().is_some() && self.lost(month_bound).is_none()
    }

    fn confirmed(&self) -> Option<SystemTime> {
        match self {
            Held::Active { confirmed, .. } | Held::Lost { confirmed, .. } => Some(*confirmed),
            Held::Refused { .. } => None,
        }
    }
}

/// Upstream bindings and how they stand, and what is wanted and since which record: both in order of the bindings.
#[derive(Debug, Clone, Default)]
struct Holdings {
    held: Vec<(UpstreamBinding, Held)>,
    wanted: Vec<(Binding, Sequence)>,
}

impl Holdings {
    /// Takes a record in, as far as it is about patterns that are `relevant`. Says whether anything was.
    fn apply(&mut self, record: &ControlRecord, relevant: impl Fn(&Pattern) -> bool) -> bool {
        match &record.change {
            Change::Upstream(Control::Upstream(_)) => false,
            Change::Upstream(Control::Confirmed { binding }) => {
                relevant(binding.pattern())
                    && self.hold(binding, Held::Active { confirmed: record.time, turned: None })
            }
            Change::Upstream(Control::Refused { binding, reason }) => {
                if !relevant(binding.pattern()) {
                    return false;
                }
                let before = self.position(binding).ok().map(|index| &self.held[index].1);
                let refused = Held::refuse(before, reason, Cause::pending_since(record));
                self.hold(binding, refused)
            }
            Change::Upstream(Control::Dropped { binding }) => match self.position(binding) {
                Ok(index) => {
                    self.held.remove(index);
                    true
                }
                Err(_) => false,
            },
            Change::Upstream(Control::Lost { bindings, reason, since }) => {
                let cause = Cause { sequence: record.sequence, reason: *reason, since: *since };
                self.lose(bindings, cause)
            }
            Change::Wanted(bindings) => {
                let mut touched = false;
                for binding in bindings.iter().filter(|binding| relevant(binding.pattern())) {
                    if let Err(index) = self.wanted.binary_search_by(|(other, _)| other.cmp(binding)) {
                        self.wanted.insert(index, (binding.clone(), record.sequence));
                        touched = true;
                    }
                }
                touched
            }
            Change::Unwanted(bindings) => {
                let before = self.wanted.len();
                for binding in bindings.iter() {
                    if let Ok(index) = self.wanted.binary_search_by(|(other, _)| other.cmp(binding)) {
                        self.wanted.remove(index);
                    }
                }
                self.wanted.len() != before
            }
        }
    }

    fn position(&self, binding: &UpstreamBinding) -> Result<usize, usize> {
        self.held.binary_search_by(|(other, _)| other.cmp(binding))
    }

    fn hold(&mut self, binding: &UpstreamBinding, held: Held) -> bool {
        match self.position(binding) {
            Ok(index) => self.held[index].1 = held,
            Err(index) => self.held.insert(index, (binding.clone(), held)),
        }
        true
    }

    /// Only what is confirmed can be lost.
    fn lose(&mut self, lost: &LostBindings, cause: Cause) -> bool {
        let lose = |held: &mut Held| match (&mut *held, cause.reason) {
            (Held::Active { turned, .. }, GapReason::MonthTurn) => {
                let first = turned.is_none();
                turned.get_or_insert(cause);
                first
            }
            (Held::Active { confirmed, turned }, _) => {
                *held = Held::Lost { confirmed: *confirmed, cause, turned: *turned };
                true
            }
            (Held::Lost { .. } | Held::Refused { .. }, _) => false,
        };
        let mut touched = false;
        match lost {
            LostBindings::All => {
                for (_, held) in &mut self.held {
                    touched |= lose(held);
                }
            }
            LostBindings::These(bindings) => {
                for binding in bindings {
                    if let Ok(index) = self.position(binding) {
                        touched |= lose(&mut self.held[index].1);
                    }
                }
            }
        }
        touched
    }
}

/// What upstream holds for an account, and what is wanted from it, at one position of its log.
#[derive(Debug, Clone)]
pub(super) struct Coverage {
    upstream: UpstreamStanding,
    holdings: Holdings,
    /// The same bindings, found by what they contain: who comes looks for those around its own, and thousands may come.
    held: Index<UpstreamBinding>,
    wanted: Index<Binding>,
    proofs: Proofs,
}

/// The upstream's state at one position.
#[derive(Debug, Clone)]
pub(super) struct UpstreamStanding {
    pub(super) change: UpstreamChange,
    /// When the state (not only the detail) became what it is.
    pub(super) since: SystemTime,
    /// Where the last change stands.
    pub(super) position: Sequence,
}

impl UpstreamStanding {
    fn apply(&mut self, change: &UpstreamChange, record: &ControlRecord) {
        if change.state != self.change.state {
            self.since = record.time;
        }
        self.change = change.clone();
        self.position = record.sequence;
    }

    /// Takes a record in; says whether it was about the upstream's state.
    pub(super) fn fold(&mut self, record: &ControlRecord) -> bool {
        let Change::Upstream(Control::Upstream(change)) = &record.change else { return false };
        self.apply(change, record);
        true
    }
}

impl Coverage {
    /// Before the first record: nothing is held, `always` is wanted.
    pub(super) fn new(always: &[Binding], now: SystemTime) -> Self {
        let mut wanted: Vec<_> = always.iter().map(|binding| (binding.clone(), Sequence(0))).collect();
        wanted.sort();
        wanted.dedup();
        let mut index = Index::new();
        wanted.iter().for_each(|(binding, _)| index.insert(binding.pattern(), binding.clone()));
        Self {
            upstream: UpstreamStanding {
                change: UpstreamChange::unknown(),
                since: now,
                position: Sequence(0),
            },
            holdings: Holdings { held: Vec::new(), wanted },
            held: Index::new(),
            wanted: index,
            proofs: Proofs::default(),
        }
    }

    pub(super) fn apply(&mut self, record: &ControlRecord) {
        self.upstream.fold(record);
        self.holdings.apply(record, |_| true);
        self.index(&record.change);
        self.proofs = record.proofs;
    }

    fn index(&mut self, change: &Change) {
        match change {
            Change::Upstream(Control::Confirmed { binding } | Control::Refused { binding, .. }) => {
                self.held.insert(binding.pattern(), binding.clone());
            }
            Change::Upstream(Control::Dropped { binding }) => {
                self.held.remove(binding.pattern(), binding);
            }
            // What is lost is still on record.
            Change::Upstream(Control::Lost { .. } | Control::Upstream(_)) => {}
            Change::Wanted(bindings) => {
                bindings.iter().for_each(|binding| self.wanted.insert(binding.pattern(), binding.clone()));
            }
            Change::Unwanted(bindings) => {
                bindings.iter().for_each(|binding| _ = self.wanted.remove(binding.pattern(), binding));
            }
        }
    }

    pub(super) fn upstream(&self) -> &UpstreamStanding {
        &self.upstream
    }

    pub(super) fn proofs(&self) -> Proofs {
        self.proofs
    }

    /// The part that concerns one binding.
    pub(super) fn standing(&self, binding: &Binding, text: Arc<str>) -> Standing {
        let pattern = binding.pattern();
        let (mut held, mut wanted) = (Vec::new(), Vec::new());
        self.held.for_each_around(pattern, |upstream| {
            if upstream.pattern().contains(pattern)
                && let Ok(index) = self.holdings.position(upstream)
            {
                held.push(self.holdings.held[index].clone());
            }
        });
        self.wanted.for_each_around(pattern, |binding| {
            if binding.pattern().contains(pattern)
                && let Ok(index) = self.holdings.wanted.binary_search_by(|(other, _)| other.cmp(binding))
            {
                wanted.push(self.holdings.wanted[index].clone());
            }
        });
        held.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        wanted.sort_unstable();
        // Kept by each subscription: room to grow would be most of what it takes.
        held.shrink_to_fit();
        wanted.shrink_to_fit();
        Standing { binding: binding.clone(), text, holdings: Holdings { held, wanted } }
    }

    /// Whether any binding of the kind is wanted.
    pub(super) fn wants(&self, kind: Kind) -> bool {
        self.holdings.wanted.iter().any(|(binding, _)| binding.kind() == kind)
    }

    /// The states of everything that is wanted.
    pub(super) fn states(&self) -> impl Iterator<Item = BindingState> {
        self.holdings.wanted.iter().map(|(binding, _)| {
            let pattern = binding.pattern();
            let held = self.holdings.held.iter();
            let held = held.filter(move |(upstream, _)| upstream.pattern().contains(pattern));
            state_of(held.map(|(_, held)| held), binding.month_bound())
        })
    }

    /// How everything that is wanted stands.
    pub(super) fn reports(&self, proofs: Proofs) -> Vec<BindingReport> {
        self.holdings
            .wanted
            .iter()
            .map(|(binding, _)| self.standing(binding, binding.as_str().into()).report(proofs))
            .collect()
    }
}

/// The state of a binding that is wanted, from the upstream bindings that contain it.
fn state_of<'a>(held: impl Iterator<Item = &'a Held> + Clone, month_bound: bool) -> BindingState {
    if held.clone().any(|held| held.brings(month_bound)) {
        return BindingState::Active;
    }
    // What was lost comes again, whatever is refused beside it.
    if held.clone().any(|held| held.confirmed().is_some()) {
        return BindingState::Pending;
    }
    let mut held = held;
    let refusal = held.find_map(|held| match held {
        Held::Refused { reason, .. } => Some(Arc::clone(reason)),
        Held::Active { .. } | Held::Lost { .. } => None,
    });
    refusal.map_or(BindingState::Pending, BindingState::Refused)
}

/// How one consumer's binding stands: of the coverage, what contains it.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    binding: Binding,
    text: Arc<str>,
    holdings: Holdings,
}

impl Standing {
    /// Takes a record in; says whether it concerned the binding.
    pub(super) fn apply(&mut self, record: &ControlRecord) -> bool {
        let pattern = self.binding.pattern();
        self.holdings.apply(record, |other| other.contains(pattern))
    }

    pub(super) fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The upstream binding that serves it, as it is sent.
    pub(super) fn server_text(&self) -> Option<Arc<str>> {
        self.server().map(|(upstream, _)| Arc::clone(upstream.text()))
    }

    /// The canonical text of the binding.
    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub(super) fn state(&self) -> BindingState {
        if self.holdings.wanted.is_empty() {
            return BindingState::Pending;
        }
        state_of(self.holdings.held.iter().map(|(_, held)| held), self.binding.month_bound())
    }

    /// Why it is not covered, where nobody saw it happen: the loss that uncovered it if it was wanted then, else that it
    /// has been pending since it was wanted.
    pub(super) fn cause(&self, now: SystemTime) -> Cause {
        let wanted = self.holdings.wanted.iter().map(|(_, since)| *since).min();
        let month_bound = self.binding.month_bound();
        let losses = self.holdings.held.iter().filter_map(|(_, held)| held.lost(month_bound));
        losses
            .max_by_key(|cause| cause.sequence)
            .filter(|cause| wanted < Some(cause.sequence) && wanted.is_some())
            .unwrap_or(Cause {
                // Every gap has an id. Of what was not wanted at all, and what has been wanted from the first record on, the
                // same may be said from wherever anybody begins: it is one gap.
                sequence: wanted.unwrap_or_default().max(Sequence(1)),
                reason: GapReason::BindingPending,
                since: now,
            })
    }

    /// The confirmed upstream binding that serves it.
    fn server(&self) -> Option<&(UpstreamBinding, Held)> {
        let month_bound = self.binding.month_bound();
        self.holdings.held.iter().find(|(_, held)| held.brings(month_bound))
    }

    pub(super) fn report(&self, proofs: Proofs) -> BindingReport {
        let month_bound = self.binding.month_bound();
        let last = proofs.get(self.kind());
        let proven = self.holdings.held.iter().filter_map(|(_, held)| {
            let confirmed = held.confirmed()?;
            let last = last.unwrap_or(confirmed).max(confirmed);
            Some(held.lost(month_bound).map_or(last, |cause| last.min(cause.since).max(confirmed)))
        });
        BindingReport {
            binding: Arc::clone(&self.text),
            state: self.state(),
            upstream_binding: self.server_text(),
            proven: proven.max(),
        }
    }

    fn kind(&self) -> Kind {
        self.binding.kind()
    }
}
