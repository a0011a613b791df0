//! The commands of one session: paced, a few in flight, each with a deadline, repeated until there is an answer.
//!
//! No answer never means *no*: 4.3 and K5 throw replies away when more than 50 messages wait, and the command was carried
//! out nevertheless (F46, G30). Subscribing again is harmless.
//!
//! What is missing goes before what is only asked for again: a refresh never takes the last place in flight.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config,
    telemetry::metrics::{AccountCounts, CommandResult},
};

use super::{
    frame::{Outcome, Refusal},
    holdings::Target,
    pacing::Pacing,
};

/// Bindings in one command, where upstream takes lists of them (K5; hundreds were seen to work, G4).
const LIST: usize = 100;

/// Probes that wait for their answer: there is to be room for commands beside them.
const PROBES: usize = 2;

/// The subscribes of one session that are to be sent or wait for their reply.
#[derive(Debug)]
pub(crate) struct Commands {
    pacing: Pacing,
    timeout: Duration,
    limit: usize,
    /// Tells the request ids of one session from those of another.
    tag: String,
    issued: u64,
    /// By request id. A repeat has the id of the first try, so that a late reply to that one counts.
    open: HashMap<String, Open>,
    /// Request ids that are to be sent.
    queue: VecDeque<String>,
    /// Those of refreshes: sent when nothing else is.
    later: VecDeque<String>,
    /// What is being refreshed.
    refreshing: BTreeSet<Target>,
    counts: Arc<AccountCounts>,
}

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To hold what is missing.
    Bind,
    /// To subscribe again to what is held.
    Refresh,
    /// To see it answered: then what upstream put on the socket before is read.
    Mark(u32),
    /// The same, where any answer will do: it is not repeated.
    Probe,
}

#[derive(Debug)]
struct Open {
    purpose: Purpose,
    /// All of one account.
    targets: Vec<Target>,
    /// When it was sent for the first time.
    sent: Option<Instant>,
    /// While it is in flight.
    deadline: Option<Instant>,
    timeouts: u32,
    /// Not to be put into a list: a list with it was refused, and a list is taken or refused as a whole (G4).
    alone: bool,
}

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Upstream holds the bindings.
    Confirmed(Vec<Target>),
    /// Upstream still holds the binding, or again. Its answer is to a request that was sent at this time or later.
    Refreshed(Target, Instant),
    /// Upstream refuses it.
    Refused(Target, Refusal),
    /// Upstream does not let us refresh what it let us have.
    Withdrawn(Target, Refusal),
    /// The mark with this number is answered.
    Marked(u32),
    /// The session's credentials are not accepted.
    TokenRefused,
    /// Nothing: it is sent again, now or after its deadline; or it was settled before.
    Nothing,
}

impl Commands {
    /// None yet. `tag` begins the request ids.
    pub fn new(settings: &config::Upstream, tag: String, counts: Arc<AccountCounts>, now: Instant) -> Self {
        Self {
            pacing: Pacing::new(settings, now),
            timeout: settings.command_timeout,
            limit: settings.commands_in_flight.max(1),
            tag,
            issued: 0,
            open: HashMap::new(),
            queue: VecDeque::new(),
            later: VecDeque::new(),
            refreshing: BTreeSet::new(),
            counts,
        }
    }

    /// Asks for these and for no others: what is asked for already is left alone, what is not wanted any more and not yet
    /// sent is not sent.
    pub fn ask(&mut self, missing: &BTreeSet<Target>) {
        self.open.retain(|_, open| {
            open.purpose != Purpose::Bind
                || open.deadline.is_some()
                || open.targets.iter().any(|target| missing.contains(target))
        });
        self.queue.retain(|id| self.open.contains_key(id));
        let asked = self.open.values().filter(|open| open.purpose == Purpose::Bind);
        let asked: BTreeSet<&Target> = asked.flat_map(|open| &open.targets).collect();
        let new: Vec<Target> = missing.iter().filter(|target| !asked.contains(target)).cloned().collect();
        for target in new {
            self.add(Purpose::Bind, target);
        }
    }

    /// Asks again for what is held.
    pub fn refresh(&mut self, target: Target) {
        self.refreshing.insert(target.clone());
        self.add(Purpose::Refresh, target);
    }

    /// Sends a request to see it answered: one that asks again for what is held.
    pub fn mark(&mut self, number: u32, target: Target) {
        self.add(Purpose::Mark(number), target);
    }

    /// Sends a request of which any answer is welcome, unless some wait for theirs.
    pub fn probe(&mut self, target: Target) {
        let probes = self.open.values().filter(|open| open.purpose == Purpose::Probe).count();
        if probes < PROBES {
            self.add(Purpose::Probe, target);
        }
    }

    fn add(&mut self, purpose: Purpose, target: Target) {
        self.issued += 1;
        let id = format!("{}-{}", self.tag, self.issued);
        match purpose {
            Purpose::Refresh => self.later.push_back(id.clone()),
            Purpose::Bind | Purpose::Mark(_) | Purpose::Probe => self.queue.push_back(id.clone()),
        }
        let open =
            Open { purpose, targets: vec![target], sent: None, deadline: None, timeouts: 0, alone: false };
        self.open.insert(id, open);
    }

    /// Whether refreshes wait to be sent: then there is no need for more.
    pub fn is_behind(&self) -> bool {
        !self.later.is_empty()
    }

    /// Whether the target is being refreshed.
    pub fn is_refreshing(&self, target: &Target) -> bool {
        self.refreshing.contains(target)
    }

    /// The next one to send, if one may be sent now: its request id and what it asks for, all of one account. More than one
    /// only if `lists` are taken.
    pub fn next(&mut self, now: Instant, lists: bool) -> Option<(&str, &[Target])> {
        let refresh = self.queue.is_empty();
        if !self.is_sendable() || !self.pacing.take(now) {
            return None;
        }
        let id = if refresh { self.later.pop_front() } else { self.queue.pop_front() }?;
        if lists {
            self.gather(&id);
        }
        let open = self.open.get_mut(&id)?;
        open.deadline = Some(now + self.timeout);
        open.sent.get_or_insert(now);
        self.counts.command_sent(open.purpose.into());
        self.open.get_key_value(&id).map(|(id, open)| (id.as_str(), open.targets.as_slice()))
    }

    /// Whether there is something to send and room for it in flight.
    fn is_sendable(&self) -> bool {
        let (flying, refreshing) = self.in_flight();
        let refreshes = self.limit.saturating_sub(1).max(1);
        flying < self.limit && (!self.queue.is_empty() || (!self.later.is_empty() && refreshing < refreshes))
    }

    /// Adds to a command that is about to be sent all that waits like it: bindings of the same account that were not sent yet.
    fn gather(&mut self, id: &str) {
        let listable = |open: &Open| open.purpose == Purpose::Bind && open.sent.is_none() && !open.alone;
        let Some(mut first) = self.open.remove(id) else { return };
        if listable(&first) {
            let account = first.targets.first().map(|target| target.account);
            self.queue.retain(|other| {
                let alike = self.open.get(other).is_some_and(|open| {
                    listable(open) && open.targets.first().map(|target| target.account) == account
                });
                if alike
                    && first.targets.len() < LIST
                    && let Some(open) = self.open.remove(other)
                {
                    first.targets.extend(open.targets);
                    return false;
                }
                true
            });
        }
        self.open.insert(id.to_owned(), first);
    }

    /// Puts those whose deadline has passed back into the queue. Says whether there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let mut any = false;
        self.open.retain(|_, open| {
            open.purpose != Purpose::Probe || open.deadline.is_none_or(|deadline| deadline > now)
        });
        for (id, open) in &mut self.open {
            if open.deadline.is_some_and(|deadline| deadline <= now) {
                open.deadline = None;
                open.timeouts += 1;
                self.counts.command_result(open.purpose.into(), CommandResult::Timeout);
                any = true;
                match open.purpose {
                    Purpose::Refresh => self.later.push_back(id.clone()),
                    Purpose::Bind | Purpose::Mark(_) | Purpose::Probe => self.queue.push_back(id.clone()),
                }
            }
        }
        any
    }

    /// When there is something to do again: send, or give up waiting. `None`: when a reply comes, or something is asked for.
    pub fn wake(&self) -> Option<Instant> {
        let deadline = self.open.values().filter_map(|open| open.deadline).min();
        let slot = self.is_sendable().then(|| self.pacing.next_slot());
        deadline.into_iter().chain(slot).min()
    }

    /// Takes a reply.
    pub fn reply(&mut self, request_id: &str, outcome: Outcome, now: Instant) -> Settled {
        let purpose = self.open.get(request_id).map(|open| open.purpose);
        if let (Some(purpose), Some(result)) = (purpose, result(outcome)) {
            self.counts.command_result(purpose.into(), result);
        }
        match outcome {
            Outcome::Refused(Refusal::RateLimit) => {
                self.pacing.penalise(now);
                if let Some(open) = self.open.get_mut(request_id)
                    && open.deadline.take().is_some()
                {
                    match open.purpose {
                        Purpose::Refresh => self.later.push_front(request_id.to_owned()),
                        Purpose::Bind | Purpose::Mark(_) | Purpose::Probe => {
                            self.queue.push_front(request_id.to_owned())
                        }
                    }
                }
                Settled::Nothing
            }
            Outcome::Refused(Refusal::Token) => Settled::TokenRefused,
            // Whatever the answer is.
            _ if let Some(Purpose::Mark(number)) = purpose => {
                self.close(request_id);
                Settled::Marked(number)
            }
            _ if purpose == Some(Purpose::Probe) => {
                self.close(request_id);
                Settled::Nothing
            }
            Outcome::Subscribed { .. } => {
                self.pacing.accepted();
                match self.close(request_id) {
                    Some(Open { purpose: Purpose::Refresh, mut targets, sent, .. }) => targets
                        .pop()
                        .map_or(Settled::Nothing, |target| Settled::Refreshed(target, sent.unwrap_or(now))),
                    Some(open) => Settled::Confirmed(open.targets),
                    None => Settled::Nothing,
                }
            }
            // It stays in flight until its deadline, and is then sent again.
            Outcome::Unproven => Settled::Nothing,
            Outcome::Refused(refusal) => match self.close(request_id) {
                Some(open) if open.targets.len() > 1 => {
                    // One of them is refused, and nobody knows which.
                    for target in open.targets {
                        self.add(Purpose::Bind, target);
                        if let Some(open) = self.queue.back().and_then(|id| self.open.get_mut(id)) {
                            open.alone = true;
                        }
                    }
                    Settled::Nothing
                }
                Some(Open { purpose, mut targets, .. }) => {
                    targets.pop().map_or(Settled::Nothing, |target| match purpose {
                        Purpose::Refresh => Settled::Withdrawn(target, refusal),
                        Purpose::Bind | Purpose::Mark(_) | Purpose::Probe => {
                            Settled::Refused(target, refusal)
                        }
                    })
                }
                None => Settled::Nothing,
            },
        }
    }

    fn close(&mut self, request_id: &str) -> Option<Open> {
        let open = self.open.remove(request_id)?;
        if open.purpose == Purpose::Refresh {
            open.targets.iter().for_each(|target| _ = self.refreshing.remove(target));
        }
        // A late reply to a first try settles the repeat that is still to be sent.
        if open.deadline.is_none() {
            self.queue.retain(|id| id != request_id);
            self.later.retain(|id| id != request_id);
        }
        Some(open)
    }

    /// When the command was sent for the first time.
    pub fn sent(&self, request_id: &str) -> Option<Instant> {
        self.open.get(request_id).and_then(|open| open.sent)
    }

    /// How many bindings have missed a deadline and are still without an answer.
    pub fn overdue(&self) -> usize {
        let overdue = self.open.values().filter(|open| open.purpose == Purpose::Bind && open.timeouts > 0);
        overdue.map(|open| open.targets.len()).sum()
    }

    /// Whether something that is missing was asked for and is not answered.
    pub fn is_binding(&self) -> bool {
        self.open.values().any(|open| open.purpose == Purpose::Bind && open.sent.is_some())
    }

    /// Commands in flight, and how many of them are refreshes.
    fn in_flight(&self) -> (usize, usize) {
        let flying = || self.open.values().filter(|open| open.deadline.is_some());
        (flying().count(), flying().filter(|open| open.purpose == Purpose::Refresh).count())
    }
}

/// As what an answer is counted. One that proves nothing is none: the command's time goes on.
fn result(outcome: Outcome) -> Option<CommandResult> {
    match outcome {
        Outcome::Subscribed { .. } => Some(CommandResult::Done),
        Outcome::Refused(Refusal::RateLimit) => Some(CommandResult::RateLimited),
        Outcome::Refused(_) => Some(CommandResult::Refused),
        Outcome::Unproven => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::binding::UpstreamBinding;

    use super::*;

    const SUBSCRIBED: Outcome = Outcome::Subscribed { lists_all: false, entries: 1 };

    fn target(binding: &str) -> Target {
        Target {
            account: "account0000000000000000000000002".parse().unwrap(),
            binding: UpstreamBinding::parse(binding).unwrap(),
        }
    }

    const FIVE: [&str; 5] =
        ["call.CHANNEL_CREATE.*", "call.CHANNEL_ANSWER.*", "call.*.*", "fax.status.*", "object.*.*"];

    fn commands(asked: &[&str]) -> Commands {
        let mut commands =
            Commands::new(&config::Upstream::default(), "s".into(), Arc::default(), Instant::now());
        commands.ask(&asked.iter().map(|binding| target(binding)).collect());
        commands
    }

    fn send_all(commands: &mut Commands, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| commands.next(now, false).map(|(id, _)| id.to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_in_flight_and_the_next_when_one_is_answered() {
        let mut commands = commands(&FIVE);
        let now = Instant::now();
        assert_eq!(send_all(&mut commands, now), ["s-1", "s-2", "s-3", "s-4"]);
        assert_eq!(commands.wake(), Some(now + Duration::from_secs(15)), "nothing to do before the deadline");
        assert!(matches!(commands.reply("s-2", SUBSCRIBED, now), Settled::Confirmed(_)));
        assert!(commands.wake().unwrap() <= now);
        assert_eq!(send_all(&mut commands, now), ["s-5"]);
        assert_eq!(commands.reply("s-2", SUBSCRIBED, now), Settled::Nothing, "once");
        assert_eq!(commands.reply("foreign", SUBSCRIBED, now), Settled::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_reply_it_is_repeated_and_never_counted_as_failed() {
        let mut commands = commands(&["call.*.*"]);
        let mut now = Instant::now();
        for _ in 0..10 {
            assert_eq!(send_all(&mut commands, now), ["s-1"]);
            now = commands.wake().unwrap();
            commands.expire(now);
            assert_eq!(commands.overdue(), 1);
        }
        // The reply to an early try comes while the next repeat still waits to be sent.
        assert_eq!(commands.reply("s-1", SUBSCRIBED, now), Settled::Confirmed(vec![target("call.*.*")]));
        assert_eq!((send_all(&mut commands, now), commands.wake(), commands.overdue()), (vec![], None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn success_that_proves_nothing_is_waited_out() {
        let mut commands = commands(&["call.*.*"]);
        let now = Instant::now();
        send_all(&mut commands, now);
        assert_eq!(commands.reply("s-1", Outcome::Unproven, now), Settled::Nothing);
        assert_eq!(send_all(&mut commands, now), [""; 0]);
        assert_eq!(commands.wake(), Some(now + Duration::from_secs(15)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hit_rate_limit_is_waited_out_and_repeated() {
        let mut commands = commands(&["call.*.*"]);
        let now = Instant::now();
        send_all(&mut commands, now);
        let limited = Outcome::Refused(Refusal::RateLimit);
        assert_eq!(commands.reply("s-1", limited, now), Settled::Nothing);
        assert_eq!(commands.reply("s-1", limited, now), Settled::Nothing, "said twice");
        assert_eq!(send_all(&mut commands, now), [""; 0]);
        let later = commands.wake().unwrap();
        assert!(later >= now + Duration::from_secs(1));
        assert_eq!(send_all(&mut commands, later), ["s-1"]);
        assert_eq!(commands.overdue(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_of_the_binding_or_of_the_token() {
        let mut commands = commands(&["call.*.*", "fax.status.*"]);
        let now = Instant::now();
        send_all(&mut commands, now);
        assert_eq!(
            commands.reply("s-1", Outcome::Refused(Refusal::NoModule), now),
            Settled::Refused(target("call.*.*"), Refusal::NoModule)
        );
        assert_eq!(commands.reply("s-2", Outcome::Refused(Refusal::Token), now), Settled::TokenRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_wanted_any_more_is_not_sent() {
        let mut commands = commands(&FIVE);
        let now = Instant::now();
        assert_eq!(send_all(&mut commands, now).len(), 4);
        commands.ask(&BTreeSet::new());
        for n in 1..=4 {
            let settled = commands.reply(&format!("s-{n}"), SUBSCRIBED, now);
            assert!(matches!(settled, Settled::Confirmed(_)), "what was sent is known to be held");
        }
        assert_eq!(send_all(&mut commands, now), [""; 0]);
        // Asked for again, it is sent again.
        commands.ask(&[target("object.*.*")].into());
        assert_eq!(send_all(&mut commands, now), ["s-6"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_waits_for_what_is_missing_and_leaves_room_for_it() {
        let mut commands = commands(&FIVE[..1]);
        for binding in FIVE {
            commands.refresh(target(binding));
        }
        let now = Instant::now();
        assert_eq!(
            send_all(&mut commands, now),
            ["s-1", "s-2", "s-3", "s-4"],
            "three refreshes behind the other"
        );
        assert!(commands.is_behind() && commands.is_refreshing(&target(FIVE[4])));
        assert!(matches!(commands.reply("s-1", SUBSCRIBED, now), Settled::Confirmed(_)));
        assert_eq!(send_all(&mut commands, now), [""; 0], "one place stays free");
        commands.ask(&[target("object.*.user")].into());
        assert_eq!(send_all(&mut commands, now), ["s-7"]);
        let later = now + Duration::from_secs(1);
        assert_eq!(commands.reply("s-2", SUBSCRIBED, later), Settled::Refreshed(target(FIVE[0]), now));
        assert_eq!(
            commands.reply("s-3", Outcome::Refused(Refusal::NoModule), later),
            Settled::Withdrawn(target(FIVE[1]), Refusal::NoModule)
        );
        assert_eq!(send_all(&mut commands, later), ["s-5", "s-6"]);
        assert_eq!(commands.overdue(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn any_answer_answers_a_mark() {
        for outcome in [SUBSCRIBED, Outcome::Unproven, Outcome::Refused(Refusal::NoModule)] {
            let mut commands = commands(&[]);
            let now = Instant::now();
            commands.mark(7, target("call.*.*"));
            assert_eq!(send_all(&mut commands, now), ["s-1"]);
            assert_eq!(commands.reply("s-1", Outcome::Refused(Refusal::RateLimit), now), Settled::Nothing);
            let later = commands.wake().unwrap();
            assert_eq!(send_all(&mut commands, later), ["s-1"]);
            assert_eq!(commands.reply("s-1", outcome, later), Settled::Marked(7));
            assert_eq!(commands.wake(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lists_are_of_one_account_and_taken_apart_when_they_are_refused() {
        let mut commands = commands(&FIVE);
        let mut other = target("call.*.*");
        other.account = "account0000000000000000000000004".parse().unwrap();
        commands.ask(&FIVE.iter().map(|binding| target(binding)).chain([other.clone()]).collect());
        let now = Instant::now();
        let sent = |commands: &mut Commands| {
            let sent = std::iter::from_fn(|| commands.next(now, true).map(|(_, targets)| targets.to_vec()));
            sent.collect::<Vec<_>>()
        };
        let lists = sent(&mut commands);
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(lists[1], [other]);
        assert_eq!(commands.reply("s-1", Outcome::Refused(Refusal::Form), now), Settled::Nothing);
        assert!(sent(&mut commands).iter().all(|list| list.len() == 1));
        assert!(
            matches!(commands.reply("s-6", SUBSCRIBED, now), Settled::Confirmed(list) if list.len() == 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_without_a_reply_is_repeated_as_it_was() {
        let mut commands = commands(&FIVE);
        let now = Instant::now();
        assert_eq!(commands.next(now, true).unwrap().1.len(), 5);
        let later = commands.wake().unwrap();
        assert!(commands.expire(later));
        assert_eq!(commands.overdue(), 5);
        assert_eq!(commands.next(later, true).unwrap().1.len(), 5);
        assert!(
            matches!(commands.reply("s-1", SUBSCRIBED, later), Settled::Confirmed(list) if list.len() == 5)
        );
    }
}
