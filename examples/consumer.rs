//! Follows the events of a Kazoo account through hawking for ever, and says where some may be missing.
//!
//! ```sh
//! cargo run --example consumer -- 127.0.0.1:50051 ACCOUNT_ID calls.cursor 'call.*.*'
//! ```
//!
//! `hawking::client` does what the contract of `hawking.v1` asks of a consumer; what is left is to handle what comes, and to
//! store the position *afterwards*. To copy it into a service: depend on `hawking` by path or git, as it is on no registry,
//! and on anyhow 1, clap 4 with `derive`, prost-types 0.14, tokio 1 with `full`, and tonic 0.14; and put your own work into
//! `handle` and `missed`. An event may come twice (after a crash of yours, or from another gateway), so `handle` has to bear
//! that. docs/consuming.md says why.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Parser;
use hawking::{
    client::{CursorFile, CursorFileError, Happening, OnMiss, Position, Subscriber, text_of},
    proto::{BindingState, Event, Gap, PayloadFormat, SubscribeRequest, subscribe_response::Kind},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tonic::transport::Endpoint;

/// Follows the events of a Kazoo account through hawking.
#[derive(Debug, Parser)]
struct Arguments {
    /// HOST:PORT
    server: String,
    /// The account's id
    account: String,
    /// Where the cursor is kept
    cursor_file: String,
    /// Such as 'call.*.*'
    #[arg(default_value = "call.*.*")]
    bindings: Vec<String>,
    /// Seconds
    #[arg(long, default_value_t = 10)]
    heartbeat: u64,
}

/// One event. When this returns without an error the event counts as handled: its cursor may be stored.
fn handle(event: &Event) -> io::Result<()> {
    let cursor = event.cursor.as_ref().map(text_of).unwrap_or_default();
    writeln!(io::stdout(), "event {cursor} {} {}", event.name, event.call_id)
}

/// Events of these bindings may be missing. Without an end the gap lasts, and is told again when it is over: then ask Kazoo
/// how things are now, if you keep a state. What comes meanwhile comes on this stream.
fn missed(gap: &Gap) -> io::Result<()> {
    let stamp = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let reason = gap.reason().as_str_name().trim_start_matches("GAP_REASON_");
    let (from, to, bindings) = (stamp(gap.start_time), stamp(gap.end_time), gap.bindings.join(","));
    writeln!(io::stdout(), "gap from={from} to={to} reason={reason} bindings={bindings}")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (file, stored) = CursorFile::open(&arguments.cursor_file, &arguments.account)?;
    let request = SubscribeRequest {
        account_id: arguments.account,
        bindings: arguments.bindings,
        payload_format: PayloadFormat::Typed.into(),
        heartbeat_interval: Some(Duration::from_secs(arguments.heartbeat).try_into()?),
        client_name: "consumer.rs".into(),
        ..SubscribeRequest::default()
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", arguments.server))?;
    let mut subscriber = Subscriber::new(endpoint, request).on_miss(OnMiss::ByTime);
    if let Some(position) = stored {
        subscriber = subscriber.resume_after(position);
    }

    let mut store = Store { file, stored_at: None };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let happening = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            happening = subscriber.next() => happening,
        };
        match happening {
            Ok(Happening::Message(message)) => {
                match &message.kind {
                    Some(Kind::Event(event)) => handle(event)?,
                    Some(Kind::Gap(gap)) => missed(gap)?,
                    Some(Kind::Subscribed(subscribed)) => {
                        let refused = |state| state == BindingState::Refused;
                        for binding in subscribed.bindings.iter().filter(|binding| refused(binding.state())) {
                            eprintln!("# {} is refused: {}", binding.requested, binding.reason);
                        }
                    }
                    _ => {}
                }
                store.save(subscriber.position())?;
            }
            Ok(Happening::Interrupted { reason, retry_in }) => {
                eprintln!("# {reason}; again in {retry_in:?}");
                store.save_now(subscriber.position())?;
            }
            Ok(Happening::StartedOver { reason }) => eprintln!("# cannot resume: {reason}"),
            // It would be in vain to go on.
            Err(refused) => {
                store.save_now(subscriber.position())?;
                return Err(refused.into());
            }
        }
    }
    store.save_now(subscriber.position())?;
    Ok(())
}

/// The position in the file, once a second at most, and at the end of each stream.
struct Store {
    file: CursorFile,
    stored_at: Option<Instant>,
}

impl Store {
    fn save(&mut self, position: Option<&Position>) -> Result<(), CursorFileError> {
        match self.stored_at {
            Some(at) if at.elapsed() < Duration::from_secs(1) => Ok(()),
            _ => self.save_now(position),
        }
    }

    fn save_now(&mut self, position: Option<&Position>) -> Result<(), CursorFileError> {
        self.stored_at = Some(Instant::now());
        position.map_or(Ok(()), |position| self.file.store(position))
    }
}
