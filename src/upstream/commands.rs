//! The commands of one session: paced, a few in flight, each with a deadline, repeated until there is an answer.
//!
//! No answer never means *no*: 4.3 and K5 throw replies away when more than 50 messages wait, and the command was carried
//! out nevertheless (F46, G30). Subscribing again is harmless.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::config;

use super::{
    frame::{Outcome, Refusal},
    holdings::Target,
    pacing::Pacing,
};

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
}

#[derive(Debug)]
struct Open {
    target: Target,
    /// While it is in flight.
    deadline: Option<Instant>,
    timeouts: u32,
}

/// What a reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Upstream holds the binding.
    Confirmed(Target),
    /// Upstream refuses it.
    Refused(Target, Refusal),
    /// The session's credentials are not accepted.
    TokenRefused,
    /// Nothing: it is sent again, now or after its deadline; or it was settled before.
    Nothing,
}

impl Commands {
    /// None yet. `tag` begins the request ids.
    pub fn new(settings: &config::Upstream, tag: String, now: Instant) -> Self {
        Self {
            pacing: Pacing::new(settings, now),
            timeout: settings.command_timeout,
            limit: settings.commands_in_flight.max(1),
            tag,
            issued: 0,
            open: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Asks for these and for no others: what is asked for already is left alone, what is not wanted any more and not yet
    /// sent is not sent.
    pub fn ask(&mut self, mut missing: BTreeSet<Target>) {
        self.open.retain(|_, open| open.deadline.is_some() || missing.contains(&open.target));
        self.queue.retain(|id| self.open.contains_key(id));
        for open in self.open.values() {
            missing.remove(&open.target);
        }
        for target in missing {
            self.issued += 1;
            let id = format!("{}-{}", self.tag, self.issued);
            self.queue.push_back(id.clone());
            self.open.insert(id, Open { target, deadline: None, timeouts: 0 });
        }
    }

    /// The next one to send, if one may be sent now: its request id and what it asks for.
    pub fn next(&mut self, now: Instant) -> Option<(&str, &Target)> {
        if self.queue.is_empty() || self.in_flight() >= self.limit || !self.pacing.take(now) {
            return None;
        }
        let id = self.queue.pop_front()?;
        self.open.get_mut(&id)?.deadline = Some(now + self.timeout);
        self.open.get_key_value(&id).map(|(id, open)| (id.as_str(), &open.target))
    }

    /// Puts those whose deadline has passed back into the queue.
    pub fn expire(&mut self, now: Instant) {
        for (id, open) in &mut self.open {
            if open.deadline.is_some_and(|deadline| deadline <= now) {
                open.deadline = None;
                open.timeouts += 1;
                self.queue.push_back(id.clone());
            }
        }
    }

    /// When there is something to do again: send, or give up waiting. `None`: when a reply comes, or something is asked for.
    pub fn wake(&self) -> Option<Instant> {
        let deadline = self.open.values().filter_map(|open| open.deadline).min();
        let slot = (!self.queue.is_empty() && self.in_flight() < self.limit).then(|| self.pacing.next_slot());
        deadline.into_iter().chain(slot).min()
    }

    /// Takes a reply.
    pub fn reply(&mut self, request_id: &str, outcome: Outcome, now: Instant) -> Settled {
        match outcome {
            Outcome::Subscribed { .. } => {
                self.pacing.accepted();
                self.close(request_id).map_or(Settled::Nothing, Settled::Confirmed)
            }
            // It stays in flight until its deadline, and is then sent again.
            Outcome::Unproven => Settled::Nothing,
            Outcome::Refused(Refusal::Token) => Settled::TokenRefused,
            Outcome::Refused(Refusal::RateLimit) => {
                self.pacing.penalise(now);
                if let Some(open) = self.open.get_mut(request_id)
                    && open.deadline.take().is_some()
                {
                    self.queue.push_front(request_id.to_owned());
                }
                Settled::Nothing
            }
            Outcome::Refused(refusal) => {
                self.close(request_id).map_or(Settled::Nothing, |target| Settled::Refused(target, refusal))
            }
        }
    }

    fn close(&mut self, request_id: &str) -> Option<Target> {
        let open = self.open.remove(request_id)?;
        // A late reply to a first try settles the repeat that is still to be sent.
        if open.deadline.is_none() {
            self.queue.retain(|id| id != request_id);
        }
        Some(open.target)
    }

    /// How many have missed a deadline and are still without an answer.
    pub fn overdue(&self) -> usize {
        self.open.values().filter(|open| open.timeouts > 0).count()
    }

    fn in_flight(&self) -> usize {
        self.open.len() - self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::binding::UpstreamBinding;

    use super::*;

    const SUBSCRIBED: Outcome = Outcome::Subscribed { lists_all: false };

    fn target(binding: &str) -> Target {
        Target {
            account: "account0000000000000000000000002".parse().unwrap(),
            binding: UpstreamBinding::parse(binding).unwrap(),
        }
    }

    const FIVE: [&str; 5] =
        ["call.CHANNEL_CREATE.*", "call.CHANNEL_ANSWER.*", "call.*.*", "fax.status.*", "object.*.*"];

    fn commands(asked: &[&str]) -> Commands {
        let mut commands = Commands::new(&config::Upstream::default(), "s".into(), Instant::now());
        commands.ask(asked.iter().map(|binding| target(binding)).collect());
        commands
    }

    fn send_all(commands: &mut Commands, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| commands.next(now).map(|(id, _)| id.to_owned())).collect()
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
        assert_eq!(commands.reply("s-1", SUBSCRIBED, now), Settled::Confirmed(target("call.*.*")));
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
        commands.ask(BTreeSet::new());
        for n in 1..=4 {
            let settled = commands.reply(&format!("s-{n}"), SUBSCRIBED, now);
            assert!(matches!(settled, Settled::Confirmed(_)), "what was sent is known to be held");
        }
        assert_eq!(send_all(&mut commands, now), [""; 0]);
        // Asked for again, it is sent again.
        commands.ask([target("object.*.*")].into());
        assert_eq!(send_all(&mut commands, now), ["s-6"]);
    }
}
