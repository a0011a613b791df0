//! One session: an open WebSocket to blackhole, from its first command to its end.
//!
//! The loop only reads, stamps, and hands over: it waits for nothing downstream, because 4.3 and K5 throw away what is not
//! read at once (F46). What is written goes through a queue of its own, so that a peer that does not read cannot keep us from
//! reading. There is no unsubscribe here, and no way to send one.
//!
//! What waits is here; the rules are in `state`.

mod state;

use std::{collections::BTreeMap, io, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::{sync::mpsc, sync::watch, task::unconstrained, time::Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message},
};
use tokio_util::sync::CancellationToken;

use crate::{
    binding::{AccountId, Flavour},
    clock::WallClock,
    config,
    hub::Interest,
};

use super::{
    close::{CloseCause, Ended},
    connector::Io,
    crossbar::Token,
    intake::{Intake, Opened},
    report::Questions,
};

use self::state::Session;

/// How long the end of a session may take once it is certain.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The same for a session that is replaced: nobody is in a hurry, and it matters that upstream has ended it too (F51, G22).
const UNHURRIED: Duration = Duration::from_secs(5);

/// Messages handled in a row before timers are looked at again.
const BATCH: usize = 64;

/// What is wanted, for each account that the session serves.
pub(crate) type Wanted = BTreeMap<AccountId, Arc<Interest>>;

/// What a session is to do. All of it is a state, not an event: what was asked for twice is done once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    /// What it has to hold.
    pub wanted: Wanted,
    /// Whether it says how the upstream stands: of two sessions, one does.
    pub speaks: bool,
    /// Everything that was asked for before this is to be asked for again.
    pub all_before: Option<Instant>,
    /// The same, for what is filed by month.
    pub month_before: Option<Instant>,
    /// An answer to a request that was sent at this time or later is one of the new month.
    pub month_certain: Option<Instant>,
    /// Whether there is another session beside it: then it matters how far each has been read.
    pub probe: bool,
    /// Whether upstream may have a session of the account that nobody holds any more: when that dies, this one may fall
    /// silent, and subscribing again heals it (F51).
    pub haunted: bool,
    /// Whether it may take its time over its end.
    pub unhurried: bool,
    /// The mark to be answered: see [`Progress::marked`].
    pub mark: u32,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Whether all that is wanted is held, or refused.
    pub settled: bool,
    /// The last mark that was answered: what upstream put on the socket before is read.
    pub marked: u32,
    /// Whether upstream holds more for it than what is wanted.
    pub excess: bool,
    /// How often all that is held was refreshed.
    pub rounds: u64,
    /// Whether it holds what is filed by month.
    pub by_month: bool,
    /// Whether it holds anything but calls.
    pub beyond_calls: bool,
    /// What the upstream was found to be.
    pub flavour: Option<Flavour>,
}

/// What a session works with.
pub(crate) struct Context<'a> {
    /// Which session it is.
    pub opened: Opened,
    /// Begins its request ids.
    pub tag: String,
    /// The settings.
    pub settings: &'a config::Upstream,
    /// For [`Ended::last_life`] and [`Ended::alive`].
    pub clock: &'a dyn WallClock,
    /// Where everything goes.
    pub intake: &'a Intake,
    /// Sent with every command.
    pub token: &'a Token,
    /// What an earlier session found upstream to be.
    pub flavour: Option<Flavour>,
    /// Where it tells how far it is.
    pub progress: watch::Sender<Progress>,
}

/// Runs a session to its end.
pub(crate) async fn run<S: Io>(
    context: Context<'_>,
    socket: WebSocketStream<S>,
    mut orders: watch::Receiver<Orders>,
    mut questions: Questions,
    stop: &CancellationToken,
) -> Ended {
    let (sink, mut stream) = socket.split();
    // Room for all commands in flight, the repeats of those that are stuck, a ping and the close frame.
    let (outgoing, queue) = mpsc::channel(context.settings.commands_in_flight * 2 + 2);
    let mut writer = pin!(write(sink, queue));
    let mut session = Session::new(context, outgoing);
    session.order(orders.borrow_and_update().clone());

    let mut stopped = pin!(stop.cancelled());
    let mut timer = pin!(tokio::time::sleep_until(session.wake()));
    let cause = loop {
        session.send(Instant::now());
        let wake = session.wake();
        // Life moves the deadlines away all the time: let the timer ring early rather than set it for each frame.
        if timer.is_elapsed() || wake < timer.deadline() {
            timer.as_mut().reset(wake);
        }
        tokio::select! {
            biased;
            () = &mut stopped => break CloseCause::Asked,
            kind = &mut writer, if session.can_write() => session.write_failed(kind, Instant::now()),
            Ok(()) = orders.changed() => session.order(orders.borrow_and_update().clone()),
            // Who asked may have lost patience.
            Some(question) = questions.recv() => drop(question.send(session.told())),
            () = &mut timer => match session.tick(Instant::now()) {
                // It may be this process that was not there (a paused machine): what waits in the socket is life too.
                Some(CloseCause::Silent) if let Some(message) = stream.next().now_or_never() => {
                    if let Some(cause) = session.receive(message) { break cause }
                }
                Some(cause) => break cause,
                None => {}
            },
            message = stream.next() => {
                let mut cause = session.receive(message);
                for _ in 1..BATCH {
                    if cause.is_some() { break }
                    // The scheduler's patience must not be taken for an empty socket.
                    let Some(message) = unconstrained(stream.next()).now_or_never() else {
                        session.caught_up();
                        break;
                    };
                    cause = session.receive(message);
                }
                if let Some(cause) = cause { break cause }
            }
        }
    };
    // It may have been told together with the order to leave.
    let patience = if orders.borrow().unhurried { UNHURRIED } else { CLOSE_GRACE };
    finish(session, cause, patience, &mut stream, writer).await
}

/// Writes what is queued, and ends when the connection does not take it.
async fn write<S>(mut sink: S, mut queue: mpsc::Receiver<Message>) -> io::ErrorKind
where
    S: Sink<Message, Error = tungstenite::Error> + Unpin,
{
    while let Some(message) = queue.recv().await {
        match sink.send(message).await {
            Ok(()) => {}
            Err(tungstenite::Error::Io(error)) => return error.kind(),
            Err(_) => return io::ErrorKind::BrokenPipe,
        }
    }
    // The sender lives as long as the session.
    std::future::pending().await
}

/// Ends a session: reads what was sent before the goodbye was heard.
async fn finish<T, W>(
    mut session: Session<'_>,
    cause: CloseCause,
    patience: Duration,
    stream: &mut T,
    mut writer: W,
) -> Ended
where
    T: Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    W: Future<Output = io::ErrorKind> + Unpin,
{
    let mut parted = cause.is_of_upstream();
    if session.goodbye(cause) {
        let read = async {
            loop {
                tokio::select! {
                    message = stream.next() => if let Some(end) = session.receive(message) {
                        parted |= end.is_of_upstream();
                        break;
                    },
                    _ = &mut writer => break,
                }
            }
        };
        // Who does not end it in time is left alone: all that came by then was read.
        let _ = tokio::time::timeout(patience, read).await;
    }
    session.ended(cause, parted)
}
