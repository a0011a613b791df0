//! Lines for people: aligned, what matters first.

use std::fmt::Write;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::{
    cli::terminal::{Palette, plain},
    client::text_of,
    proto::{
        BindingState, BindingStatus, Draining, Event, EventCategory, Gap, GapReason, Heartbeat,
        SubscribeResponse, Subscribed, UpstreamState, UpstreamStatus, event::Payload,
        subscribe_response::Kind,
    },
};

/// Makes lines out of messages.
#[derive(Debug)]
pub(crate) struct Lines {
    palette: Palette,
    zone: TimeZone,
    ids: bool,
    /// The upstream's state that was told last, and since when.
    upstream: Option<(UpstreamState, Option<prost_types::Timestamp>)>,
}

impl Lines {
    /// Lines with these colours, and times in the zone of this machine.
    pub(crate) fn new(palette: Palette) -> Self {
        Self { palette, zone: TimeZone::system(), ids: true, upstream: None }
    }

    /// The same without the ids of calls and documents, where there is little room.
    pub(crate) fn without_ids(self) -> Self {
        Self { ids: false, ..self }
    }

    /// The line, without its end.
    pub(crate) fn line(&mut self, message: &SubscribeResponse) -> String {
        match &message.kind {
            Some(Kind::Subscribed(subscribed)) => self.subscribed(subscribed),
            Some(Kind::Event(event)) => self.event(event),
            Some(Kind::Gap(gap)) => self.gap(gap),
            Some(Kind::Heartbeat(heartbeat)) => self.heartbeat(heartbeat),
            Some(Kind::UpstreamStatus(status)) => self.upstream(status),
            Some(Kind::Draining(draining)) => self.draining(draining),
            None => "(a message that this version does not know)".into(),
        }
    }

    fn event(&self, event: &Event) -> String {
        let Palette { bold, dim, green, red, yellow, cyan, reset, .. } = self.palette;
        let payload = payload(event);
        let colour = match event.name.as_str() {
            "CHANNEL_CREATE" => cyan,
            "CHANNEL_ANSWER" | "CHANNEL_BRIDGE" => green,
            "CHANNEL_DESTROY" => red,
            "CHANNEL_HOLD" | "CHANNEL_UNHOLD" => yellow,
            _ => bold,
        };
        let time = self.time(event.receive_time.as_ref());
        let mut line = format!("{dim}{time}{reset}  {colour}{:<15}{reset}  ", plain(&event.name));
        if self.ids {
            let id = plain(if event.call_id.is_empty() { text(&payload, "id") } else { &event.call_id });
            // The longest ids that are usual: a UUID, `@` and an IPv4 address.
            let _ = write!(line, "{id:<47}  ");
        }
        line.push_str(&match event.category() {
            EventCategory::Call => call(&payload),
            EventCategory::Conference => conference(&payload),
            EventCategory::Fax => fax(&payload),
            EventCategory::Object => object(&payload),
            EventCategory::Presence => presence(&payload),
            EventCategory::Stream | EventCategory::Other | EventCategory::Unspecified => {
                plain(&event.routing_key)
            }
        });
        line.truncate(line.trim_end().len());
        line
    }

    fn gap(&self, gap: &Gap) -> String {
        let Palette { red, green, reset, .. } = self.palette;
        let reason = match gap.reason() {
            GapReason::Unspecified => "for an unknown reason",
            GapReason::UpstreamDisconnected => "the session to the upstream was lost",
            GapReason::BindingPending => "upstream did not hold the binding",
            GapReason::UpstreamLoss => "upstream lost events",
            GapReason::Rotation => "the session was replaced",
            GapReason::MonthTurn => "the month turned",
            GapReason::SlowConsumer => "this consumer was too slow",
            GapReason::ReplayWindowExceeded => "the server no longer has what came before",
            GapReason::EpochChanged => "the server's log is another one",
        };
        let since = self.time(gap.start_time.as_ref());
        let bindings = plain(&gap.bindings.join(", "));
        let lost = gap.lost_count.map(|count| format!(" ({count} were lost)")).unwrap_or_default();
        if gap.before.is_none() && gap.end_time.is_none() {
            return format!(
                "{red}{since}  GAP opens: {reason}; from here on events of {bindings} may be missing{lost}{reset}"
            );
        }
        let end = self.time(gap.end_time.as_ref());
        format!(
            "{green}{end}  GAP closed: {reason}; since {since} events of {bindings} may be missing{lost}{reset}"
        )
    }

    fn upstream(&mut self, status: &UpstreamStatus) -> String {
        let Palette { green, red, yellow, reset, .. } = self.palette;
        let colour = match status.state() {
            UpstreamState::Live => green,
            UpstreamState::Down => red,
            UpstreamState::Connecting | UpstreamState::Degraded | UpstreamState::Unspecified => yellow,
        };
        let told = Some((status.state(), status.since_time));
        let mut line = if self.upstream == told {
            // Only a binding changed.
            format!("{colour}{:12}  upstream is still {}", "", word(status.state()))
        } else {
            let since = self.time(status.since_time.as_ref());
            let detail = plain(if status.detail.is_empty() { "no reason given" } else { &status.detail });
            format!("{colour}{since}  upstream is {}: {detail}", word(status.state()))
        };
        // What goes without saying is said where there is nothing else to say.
        let tell_pending = self.upstream == told || has_session(status.state());
        let unready = unready(&status.bindings, tell_pending);
        if self.upstream == told && unready.is_empty() {
            line.push_str("; all bindings are active");
        }
        self.upstream = told;
        line.push_str(&unready);
        line.push_str(reset);
        line
    }

    fn subscribed(&mut self, subscribed: &Subscribed) -> String {
        let Palette { dim, reset, .. } = self.palette;
        self.upstream = subscribed.upstream_status.as_ref().map(|status| (status.state(), status.since_time));
        let state = self.upstream.map(|(state, _)| state).unwrap_or_default();
        let bindings: Vec<_> = subscribed.bindings.iter().map(|status| status.binding.as_str()).collect();
        format!(
            "{dim}{:12}  subscribed to {} from {} on; upstream is {}{}{reset}",
            "",
            plain(&bindings.join(", ")),
            cursor(subscribed.position.as_ref()),
            word(state),
            unready(&subscribed.bindings, has_session(state))
        )
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) -> String {
        let Palette { dim, reset, .. } = self.palette;
        let time = self.time(heartbeat.time.as_ref());
        format!("{dim}{time}  heartbeat at {}{reset}", cursor(heartbeat.position.as_ref()))
    }

    fn draining(&self, draining: &Draining) -> String {
        let Palette { yellow, reset, .. } = self.palette;
        format!(
            "{yellow}{:12}  the server ends this stream at {}{reset}",
            "",
            cursor(draining.position.as_ref())
        )
    }

    /// `12:03:04.123`, in this machine's zone.
    fn time(&self, time: Option<&prost_types::Timestamp>) -> String {
        let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
        match time {
            Some(time) => time.to_zoned_datetime(self.zone.clone()).strftime("%H:%M:%S%.3f").to_string(),
            None => format!("{:12}", "?"),
        }
    }
}

fn cursor(cursor: Option<&crate::proto::Cursor>) -> String {
    cursor.map(|cursor| plain(&text_of(cursor))).unwrap_or_default()
}

/// The state of an upstream in a word.
pub(crate) fn word(state: UpstreamState) -> &'static str {
    match state {
        UpstreamState::Live => "live",
        UpstreamState::Connecting => "connecting",
        UpstreamState::Degraded => "degraded",
        UpstreamState::Down => "down",
        UpstreamState::Unspecified => "unknown",
    }
}

/// Whether a binding that is pending is news: without a session all of them are.
fn has_session(upstream: UpstreamState) -> bool {
    matches!(upstream, UpstreamState::Live | UpstreamState::Degraded)
}

/// What of the bindings does not stream, and why.
fn unready(bindings: &[BindingStatus], tell_pending: bool) -> String {
    let mut text = String::new();
    for status in bindings {
        let state = match status.state() {
            BindingState::Refused => "refused",
            BindingState::Pending if tell_pending => "pending",
            _ => continue,
        };
        let _ = write!(text, "; {} is {state}", plain(&status.binding));
        if !status.reason.is_empty() {
            let _ = write!(text, " ({})", plain(&status.reason));
        }
    }
    text
}

/// The payload, with its texts as they may be [shown](plain). Only its own fields are: what they contain is not looked at.
pub(crate) fn payload(event: &Event) -> Value {
    let mut payload = match &event.payload {
        Some(Payload::JsonPayload(json)) => serde_json::from_str(json).unwrap_or_default(),
        _ => Value::Null,
    };
    for value in payload.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()) {
        if let Value::String(text) = value {
            *text = plain(text);
        }
    }
    payload
}

/// The text of a field, or nothing.
fn text<'a>(payload: &'a Value, field: &str) -> &'a str {
    payload[field].as_str().unwrap_or_default()
}

/// A number that upstream sends as a number or as text (F40).
fn number(payload: &Value, field: &str) -> Option<i64> {
    let value = &payload[field];
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// `Ada Lovelace <1001>`, or the number alone where the name adds nothing.
pub(crate) fn caller(payload: &Value) -> String {
    match (text(payload, "caller_id_name"), text(payload, "caller_id_number")) {
        ("", number) => number.to_owned(),
        (name, "") => name.to_owned(),
        (name, number) if name == number => number.to_owned(),
        (name, number) => format!("{name} <{number}>"),
    }
}

/// The number that was called: upstream has it in several places.
pub(crate) fn callee(payload: &Value) -> &str {
    let user = |field| text(payload, field).split('@').next().unwrap_or_default();
    [
        text(payload, "callee_id_number"),
        user("request"),
        user("to"),
        text(payload, "caller_destination_number"),
    ]
    .into_iter()
    .find(|candidate| !candidate.is_empty())
    .unwrap_or("?")
}

fn call(payload: &Value) -> String {
    if payload.is_null() {
        return String::new();
    }
    let direction = match text(payload, "call_direction") {
        "inbound" => "in ",
        "outbound" => "out",
        _ => "   ",
    };
    let mut line = format!("{direction}  {} -> {}", caller(payload), callee(payload));
    let cause = text(payload, "hangup_cause");
    if !cause.is_empty() {
        let _ = write!(line, "  {cause}");
    }
    if let Some(seconds) = number(payload, "billing_seconds") {
        let _ = write!(line, "  {seconds} s talk");
    }
    line
}

fn conference(payload: &Value) -> String {
    format!("conference {}  {}", text(payload, "conference_id"), caller(payload))
}

fn fax(payload: &Value) -> String {
    format!("fax {} {}  {}", text(payload, "direction"), text(payload, "fax_state"), text(payload, "status"))
}

fn object(payload: &Value) -> String {
    format!("{} {}", text(payload, "type"), text(payload, "rev"))
}

fn presence(payload: &Value) -> String {
    let who = match text(payload, "presence_id") {
        "" => text(payload, "to"),
        who => who,
    };
    match number(payload, "messages_new") {
        Some(new) => format!("{who}  {new} new messages"),
        None => format!("{who}  {}", text(payload, "state")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::Cursor;

    fn lines() -> Lines {
        Lines { palette: Palette::PLAIN, zone: TimeZone::UTC, ids: true, upstream: None }
    }

    fn line(kind: Kind) -> String {
        lines().line(&SubscribeResponse { kind: Some(kind) })
    }

    fn time(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 120_000_000 })
    }

    #[test]
    fn the_end_of_a_call_tells_why_and_how_long() {
        let payload = json!({
            "call_direction": "inbound", "caller_id_name": "Ada", "caller_id_number": "1001",
            "request": "+15550100@example.com", "hangup_cause": "NORMAL_CLEARING", "billing_seconds": "31",
        });
        let event = Event {
            name: "CHANNEL_DESTROY".into(),
            category: EventCategory::Call.into(),
            call_id: "3c5f.a@192.0.2.10".into(),
            receive_time: time(0),
            payload: Some(Payload::JsonPayload(payload.to_string())),
            ..Event::default()
        };
        assert_eq!(
            line(Kind::Event(event)),
            "00:00:00.120  CHANNEL_DESTROY  3c5f.a@192.0.2.10                                \
             in   Ada <1001> -> +15550100  NORMAL_CLEARING  31 s talk"
        );
    }

    #[test]
    fn a_gap_opens_and_closes() {
        let open = Gap {
            gap_id: 7,
            reason: GapReason::UpstreamDisconnected.into(),
            start_time: time(5),
            bindings: vec!["call.*.*".into()],
            ..Gap::default()
        };
        let closed = Gap {
            end_time: time(9),
            before: Some(Cursor { epoch: "x".into(), sequence: 8 }),
            ..open.clone()
        };
        let opened = line(Kind::Gap(open));
        assert!(
            opened.contains("GAP opens") && opened.contains("00:00:05.120") && opened.contains("call.*.*")
        );
        let closed = line(Kind::Gap(closed));
        assert!(
            closed.starts_with("00:00:09.120  GAP closed") && closed.contains("since 00:00:05.120"),
            "{closed}"
        );
    }

    #[test]
    fn a_state_is_told_once_and_bindings_beside_it() {
        let mut lines = lines();
        let pending = BindingStatus {
            binding: "call.*.*".into(),
            state: BindingState::Pending.into(),
            ..BindingStatus::default()
        };
        let mut status = UpstreamStatus {
            state: UpstreamState::Live.into(),
            since_time: time(5),
            detail: "all is held".into(),
            ..UpstreamStatus::default()
        };
        let mut line = |status: &UpstreamStatus| {
            lines.line(&SubscribeResponse { kind: Some(Kind::UpstreamStatus(status.clone())) })
        };
        assert_eq!(line(&status), "00:00:05.120  upstream is live: all is held");
        status.bindings = vec![pending];
        assert_eq!(line(&status), "              upstream is still live; call.*.* is pending");
        // Without a session it goes without saying.
        status.state = UpstreamState::Down.into();
        assert_eq!(line(&status), "00:00:05.120  upstream is down: all is held");
        // Then only the binding changed: it must not be called active.
        assert_eq!(line(&status), "              upstream is still down; call.*.* is pending");
    }

    #[test]
    fn a_binding_that_does_not_stream_is_named() {
        let subscribed = Subscribed {
            bindings: vec![BindingStatus {
                binding: "object.doc_created.user".into(),
                state: BindingState::Refused.into(),
                reason: "no such module".into(),
                ..BindingStatus::default()
            }],
            ..Subscribed::default()
        };
        assert!(
            line(Kind::Subscribed(subscribed))
                .ends_with("object.doc_created.user is refused (no such module)")
        );
    }

    /// What a caller can choose for a name, and upstream or a server for anything else: a new title for the window, a colour
    /// (once by a character of its own), a line that looks like ours.
    const NASTY: &str = "Eve\u{1b}]0;owned\u{7}\u{9b}31m\r\n00:00:00.000  GAP closed";

    #[test]
    fn a_text_of_others_cannot_break_the_terminal() {
        let names = ["Call", "Conference", "Fax", "Object", "Presence", "Other"];
        let categories = names.map(|name| format!("EVENT_CATEGORY_{}", name.to_uppercase()));
        let categories = categories.map(|name| EventCategory::from_str_name(&name).unwrap());
        let fields = [
            "id",
            "caller_id_name",
            "caller_id_number",
            "callee_id_number",
            "hangup_cause",
            "conference_id",
            "direction",
            "fax_state",
            "status",
            "type",
            "rev",
            "presence_id",
            "state",
        ];
        let payload: Value = fields.map(|field| (field.to_owned(), json!(NASTY))).into_iter().collect();
        let nasty = || NASTY.to_owned();
        let mut kinds: Vec<_> = categories
            .into_iter()
            .map(|category| {
                Kind::Event(Event {
                    name: nasty(),
                    category: category.into(),
                    routing_key: nasty(),
                    payload: Some(Payload::JsonPayload(payload.to_string())),
                    ..Event::default()
                })
            })
            .collect();
        let position = Some(Cursor { epoch: nasty(), sequence: 1 });
        let refused = BindingStatus {
            binding: nasty(),
            reason: nasty(),
            state: BindingState::Refused.into(),
            ..BindingStatus::default()
        };
        let status =
            UpstreamStatus { detail: nasty(), bindings: vec![refused.clone()], ..UpstreamStatus::default() };
        kinds.extend([
            Kind::Event(Event { call_id: nasty(), ..Event::default() }),
            Kind::Gap(Gap { bindings: vec![nasty()], ..Gap::default() }),
            Kind::Heartbeat(Heartbeat { position: position.clone(), time: None }),
            Kind::Draining(Draining { position: position.clone(), ..Draining::default() }),
            Kind::UpstreamStatus(status),
            Kind::Subscribed(Subscribed { position, bindings: vec![refused], ..Subscribed::default() }),
        ]);
        for kind in kinds {
            let line = line(kind);
            assert!(line.contains("GAP closed") && !line.contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn a_payload_that_is_no_json_is_survived() {
        let event = Event {
            name: "CHANNEL_CREATE".into(),
            category: EventCategory::Call.into(),
            payload: Some(Payload::JsonPayload("{".into())),
            ..Event::default()
        };
        assert!(line(Kind::Event(event)).contains("CHANNEL_CREATE"));
    }
}
