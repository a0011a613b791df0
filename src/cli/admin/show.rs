//! Answers for people.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime},
};

use crate::{
    cli::{
        tail::human::word,
        terminal::{Palette, plain},
    },
    proto::{
        BindingState, EndedStream, GetServerInfoResponse, ListEndedStreamsResponse, ListSubscribersResponse,
        ListUpstreamSessionsResponse, ServingState, Subscriber, UpstreamBinding, UpstreamSession,
        UpstreamState,
    },
};

use super::{
    Answer, Verb,
    table::{Cell, Side, Table, duration, number, short, some},
};

/// A lag that is worth a look.
const LAGGING: u64 = 1000;

/// What is printed on.
pub(super) struct Screen {
    pub palette: Palette,
    /// Ages are from here on.
    pub now: SystemTime,
}

impl Screen {
    /// The whole text.
    pub fn answer(&self, verb: &Verb, answer: &Answer) -> String {
        match (answer, verb) {
            (Answer::Info(info), _) => self.info(info),
            (Answer::Sessions(sessions), Verb::Bindings { .. }) => self.bindings(sessions),
            (Answer::Sessions(sessions), _) => self.sessions(sessions),
            (Answer::Subscribers(subscribers), _) => self.subscribers(subscribers),
            (Answer::Ended(ended), _) => self.ended(ended),
            (Answer::Disconnect(_), Verb::Disconnect { subscription }) => {
                format!("{subscription} is told to end, and where to resume.\n")
            }
            (Answer::Reconnect(_), Verb::Reconnect { account }) => {
                format!("The session of {account} is opened anew; its consumers are told of a gap.\n")
            }
            (Answer::Rotate(_), Verb::Rotate { account }) => {
                format!("A new session of {account} takes the old one's place, once it is bound.\n")
            }
            (Answer::Drain(_), _) => {
                "The gateway drains: it is not ready any more, and its streams end.\n".into()
            }
            // An answer belongs to its verb.
            (Answer::Disconnect(_) | Answer::Reconnect(_) | Answer::Rotate(_), _) => "Done.\n".into(),
        }
    }

    fn info(&self, info: &GetServerInfoResponse) -> String {
        let Palette { bold, green, yellow, reset, .. } = self.palette;
        let state = match info.serving_state() {
            ServingState::Leaving => format!("{yellow}leaving{reset}"),
            ServingState::Drained => format!("{yellow}drained{reset}"),
            // Of an older gateway.
            ServingState::Unspecified if !info.draining => format!("{green}serving{reset}"),
            ServingState::Draining | ServingState::Unspecified => format!("{yellow}draining{reset}"),
            ServingState::Serving => format!("{green}serving{reset}"),
        };
        format!(
            "{bold}hawking {}{reset}  {state}, up for {}\n{} configured, {} open\n",
            plain(&info.version),
            self.since(info.start_time.as_ref()),
            count(u64::from(info.accounts), "account"),
            count(u64::from(info.subscriptions), "stream"),
        )
    }

    fn sessions(&self, answer: &ListUpstreamSessionsResponse) -> String {
        let mut text = String::new();
        // An account's sessions come one after the other.
        for sessions in answer.sessions.chunk_by(|one, other| one.account_id == other.account_id) {
            self.account_heading(&mut text, &sessions[0]);
            let mut table = Table::new([
                ("SESSION", Side::Left),
                ("OPEN", Side::Right),
                ("EVENTS", Side::Right),
                ("DUPLICATES", Side::Right),
                ("HELD", Side::Right),
                ("PENDING", Side::Right),
                ("REFUSED", Side::Right),
                ("SUPERFLUOUS", Side::Right),
            ]);
            let open: Vec<_> = sessions.iter().filter(|session| !session.session_id.is_empty()).collect();
            for session in &open {
                table.row(self.session(session));
            }
            if !open.is_empty() {
                table.write(&mut text, "  ", self.palette);
            }
        }
        if text.is_empty() {
            text.push_str("No account is configured.\n");
        }
        text
    }

    fn session(&self, session: &UpstreamSession) -> [Cell; 8] {
        let Palette { red, yellow, .. } = self.palette;
        let bindings = |wanted: fn(&UpstreamBinding) -> bool, colour| {
            let count = session.bindings.iter().filter(|binding| wanted(binding)).count() as u64;
            Cell::coloured(number(count), if count > 0 { colour } else { "" })
        };
        let successor = if session.successor { " takes over" } else { "" };
        [
            format!("{}{successor}", session.session_id).into(),
            self.since(session.connect_time.as_ref()).into(),
            number(session.events_received).into(),
            number(session.duplicates).into(),
            bindings(|binding| binding.state() == BindingState::Active, ""),
            bindings(|binding| binding.state() == BindingState::Pending, yellow),
            bindings(|binding| binding.state() == BindingState::Refused, red),
            bindings(|binding| binding.superfluous, ""),
        ]
    }

    fn account_heading(&self, text: &mut String, session: &UpstreamSession) {
        let Palette { bold, dim, reset, .. } = self.palette;
        let status = session.status.clone().unwrap_or_default();
        let flavour = if status.flavour.is_empty() { "" } else { &format!("  {}", plain(&status.flavour)) };
        let _ = writeln!(
            text,
            "{bold}{}{reset}  {}{}{reset} for {}{flavour}",
            plain(&session.account_id),
            self.colour(status.state()),
            word(status.state()),
            self.since(status.since_time.as_ref()),
        );
        if status.state() != UpstreamState::Live {
            let _ = writeln!(text, "  {dim}{}{reset}", plain(&status.detail));
        }
    }

    fn bindings(&self, answer: &ListUpstreamSessionsResponse) -> String {
        let Palette { bold, reset, .. } = self.palette;
        let mut text = String::new();
        for session in answer.sessions.iter().filter(|session| !session.session_id.is_empty()) {
            let successor = if session.successor { " (takes over)" } else { "" };
            let _ = writeln!(
                text,
                "{bold}{}{reset}  session {}{successor}",
                plain(&session.account_id),
                plain(&session.session_id)
            );
            // A session serves the accounts below its own too.
            let mut by_account: BTreeMap<&str, Vec<&UpstreamBinding>> = BTreeMap::new();
            for binding in &session.bindings {
                by_account.entry(&binding.account_id).or_default().push(binding);
            }
            for (account, bindings) in by_account {
                if account != session.account_id {
                    let _ = writeln!(text, "  for {}", plain(account));
                }
                let mut table =
                    Table::new([("BINDING", Side::Left), ("STATE", Side::Left), ("CONFIRMED", Side::Left)]);
                for binding in bindings {
                    table.row(self.binding(binding));
                }
                table.write(&mut text, "  ", self.palette);
            }
            if session.bindings.is_empty() {
                text.push_str("  nothing is wanted of it\n");
            }
        }
        if text.is_empty() {
            text.push_str("There is no session.\n");
        }
        text
    }

    fn binding(&self, binding: &UpstreamBinding) -> [Cell; 3] {
        let Palette { green, red, yellow, dim, .. } = self.palette;
        let state = match binding.state() {
            BindingState::Active if binding.superfluous => Cell::coloured("superfluous", dim),
            BindingState::Active => Cell::coloured("active", green),
            BindingState::Pending | BindingState::Unspecified => Cell::coloured("pending", yellow),
            BindingState::Refused => Cell::coloured("refused", red),
        };
        let confirmed = match &binding.confirm_time {
            Some(_) => format!("{} ago", self.since(binding.confirm_time.as_ref())),
            None => binding.reason.clone(),
        };
        [binding.binding.clone().into(), state, confirmed.into()]
    }

    fn subscribers(&self, answer: &ListSubscribersResponse) -> String {
        let Palette { bold, red, reset, .. } = self.palette;
        if answer.subscribers.is_empty() {
            return "No stream is open.\n".into();
        }
        let mut by_account: BTreeMap<&str, Vec<&Subscriber>> = BTreeMap::new();
        for subscriber in &answer.subscribers {
            by_account.entry(&subscriber.account_id).or_default().push(subscriber);
        }
        let mut text = String::new();
        for (account, subscribers) in by_account {
            let account = plain(account);
            let _ =
                writeln!(text, "{bold}{account}{reset}  {}", count(subscribers.len() as u64, "open stream"));
            let mut table = Table::new([
                ("ID", Side::Left),
                ("CLIENT", Side::Left),
                ("PEER", Side::Left),
                ("OPEN", Side::Right),
                ("LAG", Side::Right),
                ("DELIVERED", Side::Right),
                ("BINDINGS", Side::Left),
            ]);
            for subscriber in subscribers {
                let lag = if subscriber.lag >= LAGGING { red } else { "" };
                table.row([
                    subscriber.subscription_id.clone().into(),
                    name(&subscriber.client_name),
                    subscriber.peer.clone().into(),
                    self.since(subscriber.start_time.as_ref()).into(),
                    Cell::coloured(number(subscriber.lag), lag),
                    number(subscriber.delivered).into(),
                    some(subscriber.bindings.iter().map(String::as_str)).into(),
                ]);
            }
            table.write(&mut text, "  ", self.palette);
        }
        text
    }

    fn ended(&self, answer: &ListEndedStreamsResponse) -> String {
        let Palette { bold, reset, .. } = self.palette;
        if answer.streams.is_empty() {
            return "No stream has ended.\n".into();
        }
        let mut by_account: BTreeMap<&str, Vec<&EndedStream>> = BTreeMap::new();
        for stream in &answer.streams {
            let account = stream.subscriber.as_ref().map_or("", |of| &of.account_id);
            by_account.entry(account).or_default().push(stream);
        }
        let mut text = String::new();
        for (account, streams) in by_account {
            let account = plain(account);
            let _ = writeln!(text, "{bold}{account}{reset}  {}", count(streams.len() as u64, "ended stream"));
            let mut table = Table::new([
                ("ENDED", Side::Left),
                ("ID", Side::Left),
                ("REASON", Side::Left),
                ("CLIENT", Side::Left),
                ("LASTED", Side::Right),
                ("LAG", Side::Right),
                ("DELIVERED", Side::Right),
            ]);
            for stream in streams {
                table.row(self.ended_stream(stream));
            }
            table.write(&mut text, "  ", self.palette);
        }
        text
    }

    fn ended_stream(&self, stream: &EndedStream) -> [Cell; 7] {
        let Palette { red, yellow, .. } = self.palette;
        let of = stream.subscriber.clone().unwrap_or_default();
        let colour = match stream.reason.as_str() {
            "internal" => red,
            "slow_consumer" | "slow_consumer_not_reading" | "not_reading" | "drain_timeout" => yellow,
            _ => "",
        };
        let lasted = match (time(of.start_time.as_ref()), time(stream.end_time.as_ref())) {
            (Some(began), Some(ended)) => duration(ended.duration_since(began).unwrap_or_default()),
            _ => "?".into(),
        };
        [
            format!("{} ago", self.since(stream.end_time.as_ref())).into(),
            of.subscription_id.into(),
            Cell::coloured(stream.reason.clone(), colour),
            name(&of.client_name),
            lasted.into(),
            number(of.lag).into(),
            number(of.delivered).into(),
        ]
    }

    fn colour(&self, state: UpstreamState) -> &'static str {
        match state {
            UpstreamState::Live => self.palette.green,
            UpstreamState::Connecting | UpstreamState::Degraded => self.palette.yellow,
            UpstreamState::Down => self.palette.red,
            UpstreamState::Unspecified => "",
        }
    }

    /// How long ago that was. Clocks of two machines differ: what lies ahead is now.
    fn since(&self, at: Option<&prost_types::Timestamp>) -> String {
        match time(at) {
            Some(at) => duration(self.now.duration_since(at).unwrap_or(Duration::ZERO)),
            None => "?".into(),
        }
    }
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| SystemTime::try_from(*at).ok())
}

fn name(client: &str) -> Cell {
    match client {
        "" => "-".into(),
        name => short(name).into(),
    }
}

fn count(value: u64, what: &str) -> String {
    let plural = if value == 1 { "" } else { "s" };
    format!("{} {what}{plural}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{self, UpstreamStatus};

    const ACCOUNT: &str = "account0000000000000000000000002";
    const BELOW: &str = "account0000000000000000000000004";

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn screen() -> Screen {
        Screen { palette: Palette::PLAIN, now: SystemTime::UNIX_EPOCH + Duration::from_secs(100_000) }
    }

    fn binding(account: &str, text: &str, state: BindingState) -> UpstreamBinding {
        UpstreamBinding {
            binding: text.into(),
            state: state.into(),
            account_id: account.into(),
            ..Default::default()
        }
    }

    fn sessions() -> Answer {
        let session = UpstreamSession {
            account_id: ACCOUNT.into(),
            session_id: "7".into(),
            status: Some(UpstreamStatus {
                state: UpstreamState::Degraded.into(),
                flavour: "k4".into(),
                since_time: at(99_000),
                detail: "upstream refuses 1 binding".into(),
                ..Default::default()
            }),
            connect_time: at(90_000),
            bindings: vec![
                UpstreamBinding {
                    confirm_time: at(99_990),
                    ..binding(ACCOUNT, "call.*.*", BindingState::Active)
                },
                UpstreamBinding {
                    superfluous: true,
                    ..binding(ACCOUNT, "fax.status.*", BindingState::Active)
                },
                UpstreamBinding {
                    reason: "upstream has no module loaded".into(),
                    ..binding(BELOW, "object.*.user", BindingState::Refused)
                },
            ],
            events_received: 18_422,
            duplicates: 1,
            successor: false,
        };
        let none = UpstreamSession {
            account_id: BELOW.into(),
            status: Some(UpstreamStatus {
                state: UpstreamState::Down.into(),
                since_time: at(99_940),
                detail: "Crossbar refuses the credentials".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sessions = vec![
            session.clone(),
            UpstreamSession { session_id: "8".into(), successor: true, ..session },
            none,
        ];
        Answer::Sessions(ListUpstreamSessionsResponse { sessions })
    }

    #[test]
    fn sessions_stand_under_their_accounts() {
        let text = screen().answer(&Verb::Sessions { account: None }, &sessions());
        let expected = "\
account0000000000000000000000002  degraded for 16m 40s  k4
  upstream refuses 1 binding
  SESSION         OPEN  EVENTS  DUPLICATES  HELD  PENDING  REFUSED  SUPERFLUOUS
  7             2h 46m  18 422           1     2        0        1            1
  8 takes over  2h 46m  18 422           1     2        0        1            1
account0000000000000000000000004  down for 1m 0s
  Crossbar refuses the credentials
";
        assert_eq!(text, expected);
    }

    #[test]
    fn bindings_stand_under_the_account_whose_events_they_bring() {
        let text = screen().answer(&Verb::Bindings { account: None }, &sessions());
        let (first, second) = text.split_once("\naccount").unwrap();
        let expected = "\
account0000000000000000000000002  session 7
  BINDING       STATE        CONFIRMED
  call.*.*      active       10s ago
  fax.status.*  superfluous
  for account0000000000000000000000004
  BINDING        STATE    CONFIRMED
  object.*.user  refused  upstream has no module loaded";
        assert_eq!(first, expected);
        assert!(second.contains("session 8 (takes over)"), "{second}");
    }

    #[test]
    fn streams_stand_under_their_accounts() {
        let subscriber = |id: &str, account: &str| Subscriber {
            subscription_id: id.into(),
            account_id: account.into(),
            client_name: if id == "s12" {
                "a name that is much too long for a table".into()
            } else {
                "".into()
            },
            peer: "10.0.0.7:50412".into(),
            bindings: vec!["call.*.*".into(), "object.*.user".into(), "fax.status.*".into()],
            lag: 4097,
            start_time: at(99_000),
            delivered: 1_234_567,
            ..Default::default()
        };
        let subscribers = vec![subscriber("s3", BELOW), subscriber("s12", ACCOUNT), subscriber("s4", BELOW)];
        let answer = Answer::Subscribers(ListSubscribersResponse { subscribers, ..Default::default() });
        let text = screen().answer(&Verb::Subscribers { account: None }, &answer);
        let expected = "\
account0000000000000000000000002  1 open stream
  ID   CLIENT                    PEER               OPEN    LAG  DELIVERED  BINDINGS
  s12  a name that is much too…  10.0.0.7:50412  16m 40s  4 097  1 234 567  call.*.*, object.*.user +1
account0000000000000000000000004  2 open streams
  ID  CLIENT  PEER               OPEN    LAG  DELIVERED  BINDINGS
  s3  -       10.0.0.7:50412  16m 40s  4 097  1 234 567  call.*.*, object.*.user +1
  s4  -       10.0.0.7:50412  16m 40s  4 097  1 234 567  call.*.*, object.*.user +1
";
        assert_eq!(text, expected);

        let ended = proto::EndedStream {
            subscriber: Some(subscriber("s12", ACCOUNT)),
            end_time: at(99_970),
            reason: "slow_consumer_not_reading".into(),
        };
        let answer = Answer::Ended(ListEndedStreamsResponse { streams: vec![ended] });
        let text = screen().answer(&Verb::Ended { limit: 1 }, &answer);
        let expected = "\
account0000000000000000000000002  1 ended stream
  ENDED    ID   REASON                     CLIENT                     LASTED    LAG  DELIVERED
  30s ago  s12  slow_consumer_not_reading  a name that is much too…  16m 10s  4 097  1 234 567
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_text_of_others_cannot_break_the_terminal() {
        const NASTY: &str = "Eve\u{1b}[2J\u{9b}1m\nroot";
        let nasty = || NASTY.to_owned();
        let status = UpstreamStatus { flavour: nasty(), detail: nasty(), ..Default::default() };
        let session = UpstreamSession {
            account_id: nasty(),
            session_id: nasty(),
            status: Some(status),
            bindings: vec![UpstreamBinding { reason: nasty(), ..binding("", NASTY, BindingState::Refused) }],
            ..Default::default()
        };
        let below = UpstreamSession {
            bindings: vec![binding(NASTY, NASTY, BindingState::Active)],
            session_id: nasty(),
            ..Default::default()
        };
        let sessions = ListUpstreamSessionsResponse { sessions: vec![session, below] };
        let subscriber = Subscriber {
            subscription_id: nasty(),
            account_id: nasty(),
            client_name: nasty(),
            peer: nasty(),
            bindings: vec![nasty()],
            ..Default::default()
        };
        let ended =
            EndedStream { subscriber: Some(subscriber.clone()), reason: nasty(), ..Default::default() };
        let all = Verb::Sessions { account: None };
        for (verb, answer, lines) in [
            (&all, Answer::Info(GetServerInfoResponse { version: nasty(), ..Default::default() }), 2),
            (&Verb::Bindings { account: None }, Answer::Sessions(sessions.clone()), 8),
            (&all, Answer::Sessions(sessions), 8),
            (
                &all,
                Answer::Subscribers(ListSubscribersResponse {
                    subscribers: vec![subscriber],
                    ..Default::default()
                }),
                3,
            ),
            (&all, Answer::Ended(ListEndedStreamsResponse { streams: vec![ended] }), 3),
        ] {
            let text = screen().answer(verb, &answer);
            assert!(
                text.contains("Eve") && text.lines().all(|line| !line.contains(char::is_control)),
                "{text:?}"
            );
            assert_eq!(text.lines().count(), lines, "{text}");
        }
    }
}
