//! `hawking tail`: looks into the event stream of a running gateway.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    pin::pin,
    time::{Duration, SystemTime},
};

use clap::{Args, ValueEnum};
use tonic::transport::Endpoint;

use super::{
    Failure,
    terminal::{self, Palette},
};
use crate::{
    binding::AccountId,
    client::{self, CursorFile, Happening, Refused, Subscriber},
    ops::shutdown::Signals,
    proto::{
        Cursor, EventFilter, FieldFilter, PayloadFormat, ReplayMissPolicy, SubscribeRequest,
        subscribe_request::Start, subscribe_response::Kind,
    },
};

pub(super) mod human;
mod json;
mod keeper;

use keeper::CursorKeeper;

const LONG_ABOUT: &str = "\
Subscribes on a running gateway and prints what comes, one line for each event.

Losses are shown as they are told by the server: a gap opens, and closes again. When the connection to the gateway breaks, \
tail connects again and resumes after the last event, so nothing is missed. If the server no longer has what came since, \
tail says so and goes on live.

With --cursor-file that holds over restarts of tail too: the file has the cursor of what was printed, and the next run \
goes on after it. It is written behind the output, once a second and at the end, so after a kill -9 or a loss of power the \
last second may be printed again, and nothing is left out of a file that the output goes to: that is put to disk before the \
cursor is. What a pipe held when its reader ended is lost.

If the server no longer has what came since, tail ends with exit code 3 and leaves the file as it is: run it once with \
--on-miss live, or with --on-miss oldest to get what there is, and when it is subscribed load anew the state that you keep, \
in this order. A gateway that was restarted (EPOCH_CHANGED) is such a case, as its log is in memory.

Standard output has the stream alone; what tail has to say itself goes to standard error.";

const EXAMPLES: &str = "\
Bindings (quote them: the shell would expand the stars):
  'call.*.*'                       all events of all calls
  'call.CHANNEL_DESTROY.*'         the ends of calls
  'call.*.3c5f.a@192.0.2.10'       one call; its id as it is, with dots and @
  'object.doc_edited.user'         changed users
  'presence.dialog.*'              who is on the phone
The gateway has the whole list:
  grpcurl -plaintext HOST:PORT hawking.v1.EventService/ListBindingTypes

Examples:
  hawking tail --account 1a2b... 'call.*.*'
  hawking tail --account 1a2b... --field hangup_cause=USER_BUSY 'call.*.*'
  hawking tail --account 1a2b... --format json 'call.*.*' | jq .event.payload
  hawking tail --account 1a2b... --count 1 --for 30s 'object.doc_created.*'
  hawking tail --account 1a2b... --format json --cursor-file calls.cursor \
    'call.*.*' >> calls.jsonl

Exit codes:
  0  --count or --for was reached, or Ctrl-C, SIGTERM or a closed pipe ended it
  1  the server refuses to serve, or --for was over before --count was reached,
     or the cursor file cannot be written any more
  2  the command line is wrong, or the server says that the request is: an
     unknown account, a malformed binding; or the cursor file cannot be read or
     written to begin with, is none, or is that of another account
  3  with --on-miss fail: the server no longer has what came after the cursor";

/// Print the events of a running gateway
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The gateway
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051", value_parser = parse_server)]
    server: String,
    /// The account whose events are wanted: 32 letters and digits
    #[arg(long, value_name = "ID")]
    account: AccountId,
    /// What is wanted, such as 'call.*.*' (see the examples with --help)
    #[arg(required = true, value_name = "BINDING")]
    bindings: Vec<String>,
    /// Only events of this name, such as CHANNEL_DESTROY; can be given several times
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only events of this call; can be given several times
    #[arg(long = "call-id", value_name = "ID")]
    call_ids: Vec<String>,
    /// Only events whose payload has this value at this dotted path; several values of one path are alternatives
    #[arg(long = "field", value_name = "PATH=VALUE", value_parser = parse_field)]
    fields: Vec<(String, String)>,
    /// How the events are printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// The form of the payload, with --format json
    #[arg(long, value_enum, default_value_t = Payload::Json)]
    payload: Payload,
    /// Print heartbeats too: the position that the stream has passed
    #[arg(long)]
    heartbeats: bool,
    /// Go on exactly after this cursor, EPOCH:SEQUENCE
    #[arg(long, value_name = "CURSOR", value_parser = parse_cursor, conflicts_with = "since")]
    resume_after: Option<Cursor>,
    /// Go on after the cursor in this file, and keep it there; where there is no file yet, start live or as --since says
    #[arg(long, value_name = "PATH", conflicts_with = "resume_after")]
    cursor_file: Option<PathBuf>,
    /// What to do when the server no longer has what comes after the cursor: fail with --cursor-file, else live
    #[arg(long, value_enum, value_name = "WHAT")]
    on_miss: Option<OnMiss>,
    /// Start with what was received so long ago, such as 5m, or as much of that as the server still has
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after so long, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnMiss {
    /// End with exit code 3; the cursor file stays as it is
    Fail,
    /// Go on with what comes from now on
    Live,
    /// Go on with the oldest event that the server has; a gap tells of what is missing before it
    Oldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned lines for people
    Human,
    /// One JSON object a line: the message SubscribeResponse in protobuf's JSON form, with the raw payload as `payload`
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Payload {
    /// The raw object
    Json,
    /// A message for the category: `call`, `conference`, `fax`, `object`, `presence`
    Typed,
    /// The raw object as google.protobuf.Struct
    Struct,
    /// None
    None,
}

/// Runs the command.
pub(super) async fn command(arguments: Arguments) -> Result<(), Failure> {
    let mut signals = Signals::catch().map_err(Failure::runtime)?;
    let endpoint = Endpoint::from_shared(arguments.server.clone()).map_err(Failure::usage)?;
    let (file, stored) = match &arguments.cursor_file {
        Some(path) => {
            let (file, stored) =
                CursorFile::open(path, arguments.account.as_str()).map_err(Failure::usage)?;
            (Some(file), stored)
        }
        None => (None, None),
    };
    let request = request(&arguments, stored.is_some());
    let mut subscriber = Subscriber::new(endpoint, request).on_miss(match on_miss(&arguments) {
        OnMiss::Fail => client::OnMiss::Fail,
        OnMiss::Live => client::OnMiss::Live,
        OnMiss::Oldest => client::OnMiss::Oldest,
    });
    if let Some(position) = stored {
        terminal::note(format_args!("going on after {}", client::text_of(&position.cursor)));
        subscriber = subscriber.resume_after(position);
    }

    let mut keeper = CursorKeeper::new(file, sync_output);
    let outcome = follow(&arguments, &mut signals, &mut subscriber, &mut keeper).await;
    // However it ended: what was printed is not to be printed again.
    let stored = keeper.store().map_err(Failure::runtime);
    if arguments.format == Format::Human
        && arguments.cursor_file.is_none()
        && let (Ok(Ended::Here), Some(position)) = (&outcome, subscriber.position())
    {
        let cursor = terminal::plain(&client::text_of(&position.cursor));
        terminal::note(format_args!("to go on from here: --resume-after {cursor}"));
    }
    outcome.and(stored)
}

/// Puts what was printed to disk, where standard output is a file: there it must not be younger than its cursor after a loss
/// of power. A pipe or a terminal has no such place.
fn sync_output() -> io::Result<()> {
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if output.metadata()?.is_file() { output.sync_data() } else { Ok(()) }
}

/// How the following ended well.
enum Ended {
    /// All that came was printed.
    Here,
    /// Nobody reads what is printed any more.
    PipeClosed,
}

async fn follow(
    arguments: &Arguments,
    signals: &mut Signals,
    subscriber: &mut Subscriber,
    keeper: &mut CursorKeeper<impl FnMut() -> io::Result<()>>,
) -> Result<Ended, Failure> {
    let mut printer = Printer::new(arguments);
    let mut remaining = arguments.count;
    let mut over = pin!(async {
        match arguments.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    });
    loop {
        let happening = tokio::select! {
            // What has come is printed before the end is looked at.
            biased;
            _ = signals.next() => return Ok(Ended::Here),
            () = &mut over => return match remaining {
                Some(1) => Err(Failure::runtime("the time is over, 1 event is missing")),
                Some(missing) => Err(Failure::runtime(format_args!("the time is over, {missing} events are missing"))),
                None => Ok(Ended::Here),
            },
            () = keeper.due() => {
                keeper.store().map_err(Failure::runtime)?;
                continue;
            }
            happening = subscriber.next() => happening,
        };
        match happening {
            Ok(Happening::Message(message)) => {
                let is_event = matches!(message.kind, Some(Kind::Event(_)));
                match printer.print(&message) {
                    Ok(()) => keeper.printed(subscriber.position()),
                    Err(error) if terminal::is_closed_pipe(&error) => return Ok(Ended::PipeClosed),
                    Err(error) => return Err(Failure::runtime(format_args!("cannot write: {error}"))),
                }
                if is_event && let Some(remaining) = &mut remaining {
                    *remaining -= 1;
                    if *remaining == 0 {
                        return Ok(Ended::Here);
                    }
                }
            }
            Ok(Happening::Interrupted { reason, retry_in }) => {
                terminal::note(format_args!("{reason}; trying again in {:.1} s", retry_in.as_secs_f64()));
            }
            Ok(Happening::StartedOver { reason }) => {
                terminal::note(format_args!("{reason}; events may be missing here, going on live"));
            }
            Err(Refused::Request(reason)) => return Err(Failure::Usage(reason)),
            Err(Refused::Server(reason)) => return Err(Failure::Runtime(reason)),
            Err(Refused::Missed(reason)) => {
                let since = subscriber.position().and_then(|position| position.time);
                return Err(Failure::Missed(missed(arguments, &reason, since)));
            }
        }
    }
}

/// What is lost and what to do next, for people.
fn missed(arguments: &Arguments, reason: &str, since: Option<SystemTime>) -> String {
    let since = match since {
        Some(since) => format!(", which was at {},", humantime::format_rfc3339_millis(since)),
        None => String::new(),
    };
    let file = match &arguments.cursor_file {
        Some(path) => format!(" The cursor file {} is as it was.", path.display()),
        None => String::new(),
    };
    format!(
        "{reason}\nWhat came after the cursor{since} is lost to this reader.{file} Go on with --on-miss live, or with \
         --on-miss oldest to see what the server still has. If you keep a state, load it anew once that run says that it is \
         subscribed, not before: what happens in between would be in neither."
    )
}

/// What was chosen, or what fits: who keeps a cursor wants to know that something is missing, who looks in goes on.
fn on_miss(arguments: &Arguments) -> OnMiss {
    arguments.on_miss.unwrap_or(match arguments.cursor_file {
        Some(_) => OnMiss::Fail,
        None => OnMiss::Live,
    })
}

/// The request. With a stored cursor it is that which says where to start.
fn request(arguments: &Arguments, stored: bool) -> SubscribeRequest {
    let start = match (&arguments.resume_after, arguments.since) {
        _ if stored => None,
        (Some(cursor), _) => Some(Start::ResumeAfter(cursor.clone())),
        (None, Some(since)) => Some(Start::StartTime((SystemTime::now() - since).into())),
        (None, None) => None,
    };
    let mut fields: Vec<FieldFilter> = Vec::new();
    for (path, value) in &arguments.fields {
        match fields.iter_mut().find(|field| field.path == *path) {
            Some(field) => field.values.push(value.clone()),
            None => fields.push(FieldFilter { path: path.clone(), values: vec![value.clone()] }),
        }
    }
    // Who asks for the last hour wants what there is of it; who resumes wants to know that it cannot be had.
    let replay_miss_policy = match (&start, on_miss(arguments)) {
        (Some(Start::StartTime(_)), _) | (_, OnMiss::Oldest) => ReplayMissPolicy::Gap,
        (_, OnMiss::Fail | OnMiss::Live) => ReplayMissPolicy::Fail,
    };
    let payload_format = match (arguments.format, arguments.payload) {
        (Format::Human, _) | (Format::Json, Payload::Json) => PayloadFormat::Json,
        (Format::Json, Payload::Typed) => PayloadFormat::Typed,
        (Format::Json, Payload::Struct) => PayloadFormat::Struct,
        (Format::Json, Payload::None) => PayloadFormat::None,
    };
    let filter = EventFilter { names: arguments.names.clone(), call_ids: arguments.call_ids.clone(), fields };
    SubscribeRequest {
        account_id: arguments.account.to_string(),
        bindings: arguments.bindings.clone(),
        start,
        filter: (filter != EventFilter::default()).then_some(filter),
        replay_miss_policy: replay_miss_policy.into(),
        payload_format: payload_format.into(),
        client_name: format!("hawking tail {}", std::process::id()),
        ..SubscribeRequest::default()
    }
}

/// Writes messages to standard output, each at once.
struct Printer {
    out: io::Stdout,
    form: Form,
    heartbeats: bool,
}

enum Form {
    Human(human::Lines),
    Json(json::Lines),
}

impl Printer {
    fn new(arguments: &Arguments) -> Self {
        let out = io::stdout();
        let form = match arguments.format {
            Format::Human => Form::Human(human::Lines::new(Palette::of(&out))),
            Format::Json => Form::Json(json::Lines::new()),
        };
        Self { out, form, heartbeats: arguments.heartbeats }
    }

    fn print(&mut self, message: &crate::proto::SubscribeResponse) -> io::Result<()> {
        if matches!(message.kind, Some(Kind::Heartbeat(_))) && !self.heartbeats {
            return Ok(());
        }
        let mut line = match &mut self.form {
            Form::Human(lines) => lines.line(message),
            Form::Json(lines) => lines.line(message)?,
        };
        line.push('\n');
        // One write a line, so that lines of several processes on one terminal do not mix.
        let mut out = self.out.lock();
        out.write_all(line.as_bytes())?;
        out.flush()
    }
}

/// A server's URL, `http://HOST:PORT` or without the scheme.
pub(super) fn parse_server(text: &str) -> Result<String, String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match url::Url::parse(&text) {
        Ok(url) if url.scheme() == "http" && url.has_host() => Ok(text),
        Ok(url) if url.scheme() == "https" => Err("TLS is not supported yet: use http".into()),
        Ok(_) => Err("a server is given as http://HOST:PORT".into()),
        Err(error) => Err(format!("a server is given as http://HOST:PORT: {error}")),
    }
}

fn parse_field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("a field is given as PATH=VALUE, such as hangup_cause=USER_BUSY".into()),
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, String> {
    client::parse_cursor(text).ok_or_else(|| "a cursor is given as EPOCH:SEQUENCE".into())
}

/// A duration such as `30s`, `5m`, `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a duration is given as 30s, 5m or 1h"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(arguments: &[&str]) -> Result<SubscribeRequest, clap::Error> {
        let line = ["tail", "--account", "account0000000000000000000000002"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| request(&line.arguments, false))
    }

    #[test]
    fn values_of_one_path_are_alternatives_and_paths_are_conditions() {
        let request =
            parse(&["--field", "a.b=1", "--field", "c=x=y", "--field", "a.b=2", "call.*.*"]).unwrap();
        let fields = request.filter.unwrap().fields;
        let fields: Vec<_> = fields.iter().map(|field| (field.path.as_str(), field.values.clone())).collect();
        assert_eq!(fields, [("a.b", vec!["1".into(), "2".into()]), ("c", vec!["x=y".to_owned()])]);
    }

    #[test]
    fn no_filter_is_sent_where_none_was_given() {
        assert_eq!(parse(&["call.*.*"]).unwrap().filter, None);
    }

    #[test]
    fn a_cursor_is_the_text_form() {
        let request = parse(&["--resume-after", "00000000000000ff:12", "call.*.*"]).unwrap();
        let cursor = Cursor { epoch: "00000000000000ff".into(), sequence: 12 };
        assert_eq!(request.start, Some(Start::ResumeAfter(cursor)));
    }

    #[test]
    fn a_stored_cursor_goes_before_a_time_and_decides_what_a_miss_means() {
        for (on_miss, stored, policy) in [
            (None, true, ReplayMissPolicy::Fail),
            (None, false, ReplayMissPolicy::Gap),
            (Some("oldest"), true, ReplayMissPolicy::Gap),
            (Some("live"), true, ReplayMissPolicy::Fail),
        ] {
            let mut line = vec!["tail", "--account", "account0000000000000000000000002", "call.*.*"];
            line.extend(["--since", "5m", "--cursor-file", "x"]);
            if let Some(on_miss) = on_miss {
                line.extend(["--on-miss", on_miss]);
            }
            let line = Line::try_parse_from(line).unwrap();
            let request = request(&line.arguments, stored);
            assert_eq!(request.replay_miss_policy, i32::from(policy), "{on_miss:?} {stored:?}");
            assert_eq!(request.start.is_none(), stored);
        }
    }

    #[test]
    fn a_miss_is_told_in_whole_sentences() {
        let line = ["tail", "--account", "account0000000000000000000000002", "call.*.*"];
        let line = Line::try_parse_from(line).unwrap();
        let at = SystemTime::UNIX_EPOCH;
        assert!(missed(&line.arguments, "gone", None).contains("after the cursor is lost"));
        assert!(
            missed(&line.arguments, "gone", Some(at))
                .contains("after the cursor, which was at 1970-01-01T00:00:00.000Z, is lost")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in [
            &["call.*.*", "--field", "novalue"][..],
            &["call.*.*", "--resume-after", "12"],
            &["call.*.*", "--server", "https://x:1"],
            &["call.*.*", "--server", "ftp://x:1"],
            &["call.*.*", "--count", "0"],
            &["call.*.*", "--for", "soon"],
            &["call.*.*", "--since", "5m", "--resume-after", "00000000000000ff:12"],
            &["call.*.*", "--cursor-file", "x", "--resume-after", "00000000000000ff:12"],
            &["call.*.*", "--on-miss", "perhaps"],
            &[],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
