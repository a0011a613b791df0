//! The calls in progress, folded from the events of a subscription as any consumer would do it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cli::{
        tail::human::{self, Lines},
        terminal::plain,
    },
    proto::{Event, EventCategory, SubscribeResponse, UpstreamState, subscribe_response::Kind},
};

/// An ended call is shown a little longer, so that its cause can be read.
const AFTERGLOW: Duration = Duration::from_secs(4);
/// Calls whose end never comes (it was in a gap) are dropped after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);
/// Other events that are shown.
const RECENT: usize = 5;

/// One call: its first leg, and the second once it is known.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: String,
    other_id: Option<String>,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) began: Instant,
    pub(super) answered: Option<Instant>,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Ringing,
    Talking,
    OnHold,
    Ended { at: Instant, cause: String },
}

/// All that the demo shows.
#[derive(Debug)]
pub(super) struct Board {
    /// In order of their beginnings.
    pub(super) calls: VecDeque<Call>,
    /// Lines about events that are not of calls, newest last.
    pub(super) recent: VecDeque<String>,
    pub(super) total_calls: u64,
    pub(super) total_events: u64,
    pub(super) gaps: u64,
    pub(super) upstream: UpstreamState,
    lines: Lines,
}

impl Board {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            calls: VecDeque::new(),
            recent: VecDeque::new(),
            total_calls: 0,
            total_events: 0,
            gaps: 0,
            upstream: UpstreamState::Unspecified,
            lines,
        }
    }

    /// Takes a message in.
    pub(super) fn fold(&mut self, message: &SubscribeResponse, now: Instant) {
        match &message.kind {
            Some(Kind::Subscribed(subscribed)) => {
                if let Some(status) = &subscribed.upstream_status {
                    self.upstream = status.state();
                }
            }
            Some(Kind::UpstreamStatus(status)) => {
                if status.state() != self.upstream {
                    self.mention(message);
                }
                self.upstream = status.state();
            }
            Some(Kind::Gap(gap)) => {
                // Messages with `before` close a gap that was counted when it opened.
                self.gaps += u64::from(gap.before.is_none());
                self.mention(message);
            }
            Some(Kind::Event(event)) => {
                self.total_events += 1;
                if event.category() == EventCategory::Call {
                    self.fold_call(event, now);
                } else {
                    self.mention(message);
                }
            }
            Some(Kind::Heartbeat(_)) => {}
            Some(Kind::Draining(_)) | None => self.mention(message),
        }
    }

    /// Forgets what is over.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.calls.retain(|call| match call.phase {
            Phase::Ended { at, .. } => now.duration_since(at) < AFTERGLOW,
            _ => now.duration_since(call.began) < FORGOTTEN_AFTER,
        });
    }

    /// Calls that have not ended.
    pub(super) fn in_progress(&self) -> usize {
        self.calls.iter().filter(|call| !matches!(call.phase, Phase::Ended { .. })).count()
    }

    fn mention(&mut self, message: &SubscribeResponse) {
        let line = self.lines.line(message);
        self.say(&line);
    }

    /// Shows a text among the recent ones, in one line.
    pub(super) fn say(&mut self, text: &str) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(plain(text));
    }

    fn fold_call(&mut self, event: &Event, now: Instant) {
        let payload = human::payload(event);
        let id = plain(&event.call_id);
        let other_id = payload["other_leg_call_id"].as_str();
        if event.name == "CHANNEL_CREATE" {
            return self.begin(id, other_id, &payload, now);
        }
        let Some(call) = self.calls.iter_mut().find(|call| call.has(&id)) else {
            // It began before we looked, or in a gap.
            return;
        };
        if let Phase::Ended { .. } = call.phase {
            return;
        }
        match event.name.as_str() {
            // The callee's leg answers first; the call is answered with it.
            "CHANNEL_ANSWER" | "CHANNEL_BRIDGE" => {
                call.answered.get_or_insert(now);
                call.phase = Phase::Talking;
            }
            "CHANNEL_HOLD" => call.phase = Phase::OnHold,
            "CHANNEL_UNHOLD" => call.phase = Phase::Talking,
            // The call ends with its first leg. (The second ends before it where nobody answered.)
            "CHANNEL_DESTROY" if call.id == id => {
                let cause = payload["hangup_cause"].as_str().unwrap_or("?").to_owned();
                call.phase = Phase::Ended { at: now, cause };
            }
            _ => {}
        }
    }

    fn begin(&mut self, id: String, other_id: Option<&str>, payload: &Value, now: Instant) {
        if let Some(other_id) = other_id
            && let Some(call) = self.calls.iter_mut().find(|call| call.id == other_id)
        {
            call.other_id = Some(id);
            return;
        }
        self.total_calls += 1;
        self.calls.push_back(Call {
            id,
            other_id: None,
            from: human::caller(payload),
            to: human::callee(payload).to_owned(),
            began: now,
            answered: None,
            phase: Phase::Ringing,
        });
    }
}

impl Call {
    fn has(&self, id: &str) -> bool {
        self.id == id || self.other_id.as_deref() == Some(id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cli::terminal::Palette, proto::event::Payload};

    fn event(name: &str, call_id: &str, payload: &Value) -> SubscribeResponse {
        let event = Event {
            name: name.into(),
            category: EventCategory::Call.into(),
            call_id: call_id.into(),
            payload: Some(Payload::JsonPayload(payload.to_string())),
            ..Event::default()
        };
        SubscribeResponse { kind: Some(Kind::Event(event)) }
    }

    #[test]
    fn two_legs_are_one_call_from_ring_to_hangup() {
        let mut board = Board::new(Lines::new(Palette::PLAIN));
        let now = Instant::now();
        let none = json!({});
        board.fold(
            &event("CHANNEL_CREATE", "a", &json!({"caller_id_number": "1001", "request": "1002@x"})),
            now,
        );
        board.fold(&event("CHANNEL_CREATE", "b", &json!({"other_leg_call_id": "a"})), now);
        assert_eq!((board.calls.len(), board.total_calls, board.total_events), (1, 1, 2));
        assert_eq!((board.calls[0].from.as_str(), board.calls[0].to.as_str()), ("1001", "1002"));
        assert_eq!(board.calls[0].phase, Phase::Ringing);

        board.fold(&event("CHANNEL_ANSWER", "b", &none), now);
        assert_eq!(board.calls[0].phase, Phase::Talking);
        board.fold(&event("CHANNEL_HOLD", "a", &none), now);
        assert_eq!(board.calls[0].phase, Phase::OnHold);
        board.fold(&event("CHANNEL_UNHOLD", "a", &none), now);
        board.fold(&event("CHANNEL_DESTROY", "b", &none), now);
        assert_eq!((&board.calls[0].phase, board.in_progress()), (&Phase::Talking, 1));
        board.fold(&event("CHANNEL_DESTROY", "a", &json!({"hangup_cause": "NORMAL_CLEARING"})), now);
        assert_eq!(board.in_progress(), 0);

        board.tidy(now);
        assert_eq!(board.calls.len(), 1, "its cause can still be read");
        board.tidy(now + AFTERGLOW);
        assert!(board.calls.is_empty());
    }

    #[test]
    fn a_call_that_began_earlier_is_not_shown() {
        let mut board = Board::new(Lines::new(Palette::PLAIN));
        board.fold(&event("CHANNEL_ANSWER", "a", &json!({})), Instant::now());
        assert!(board.calls.is_empty());
    }
}
