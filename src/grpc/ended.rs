//! The streams that ended lately, and why: for whoever asks later where a consumer went.

use std::{collections::VecDeque, time::SystemTime};

use parking_lot::Mutex;
use tonic::Code;

use crate::{hub::Cursor, telemetry::metrics::Word};

use super::streams::Consumer;

/// Streams that are kept.
const KEPT: usize = 1000;
/// Bindings of each that are kept, so that the whole is bounded; and that are listed of one that is open, for the same reason.
pub(crate) const KEPT_BINDINGS: usize = 16;

/// Why a stream ended: every way in which one can end has its own cause, and none ends with OK. Logs, metrics, AdminService
/// and the statuses of those that can be told all take their words from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The server drained: `UNAVAILABLE` after `Draining`.
    Drained,
    /// The server drained, and the consumer did not take its end in time: cut.
    DrainTimeout,
    /// It had reached its greatest age: `UNAVAILABLE` after `Draining`.
    MaxStreamAge,
    /// An operator ended it, in the same way.
    Disconnected,
    /// The deadline that the client set with `grpc-timeout` passed.
    DeadlineExceeded,
    /// The log overtook a consumer that still read: `ABORTED`.
    SlowConsumer,
    /// The log overtook a consumer that had stopped to read: reset.
    SlowConsumerNotReading,
    /// The consumer took nothing for the whole of `grpc.stall_timeout`: reset. Or for an eighth of that, where streams hold too
    /// much memory and it holds most.
    NotReading,
    /// The account was removed.
    AccountRemoved,
    /// The client reset the stream.
    ClientCancelled,
    /// The connection ended.
    ConnectionLost,
    /// The client's end of the connection did not answer a ping within `grpc.keepalive_timeout`.
    KeepaliveTimeout,
    /// A defect of ours.
    Internal,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 13] = [
        Cause::Drained,
        Cause::DrainTimeout,
        Cause::MaxStreamAge,
        Cause::Disconnected,
        Cause::DeadlineExceeded,
        Cause::SlowConsumer,
        Cause::SlowConsumerNotReading,
        Cause::NotReading,
        Cause::AccountRemoved,
        Cause::ClientCancelled,
        Cause::ConnectionLost,
        Cause::KeepaliveTimeout,
        Cause::Internal,
    ];

    /// For logs, metrics and `AdminService`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Drained => "drained",
            Cause::DrainTimeout => "drain_timeout",
            Cause::MaxStreamAge => "max_stream_age",
            Cause::Disconnected => "disconnected",
            Cause::DeadlineExceeded => "deadline_exceeded",
            Cause::SlowConsumer => "slow_consumer",
            Cause::SlowConsumerNotReading => "slow_consumer_not_reading",
            Cause::NotReading => "not_reading",
            Cause::AccountRemoved => "account_removed",
            Cause::ClientCancelled => "client_cancelled",
            Cause::ConnectionLost => "connection_lost",
            Cause::KeepaliveTimeout => "keepalive_timeout",
            Cause::Internal => "internal",
        }
    }

    /// The code and `ErrorInfo.reason` by which the client is told. `None` where no status can reach it.
    pub fn status(self) -> Option<(Code, &'static str)> {
        match self {
            Cause::Drained => Some((Code::Unavailable, "DRAINING")),
            Cause::MaxStreamAge => Some((Code::Unavailable, "MAX_STREAM_AGE")),
            Cause::Disconnected => Some((Code::Unavailable, "DISCONNECTED")),
            Cause::DeadlineExceeded => Some((Code::DeadlineExceeded, "DEADLINE_EXCEEDED")),
            Cause::SlowConsumer => Some((Code::Aborted, "SLOW_CONSUMER")),
            Cause::AccountRemoved => Some((Code::NotFound, "ACCOUNT_NOT_CONFIGURED")),
            Cause::Internal => Some((Code::Internal, "INTERNAL")),
            Cause::DrainTimeout
            | Cause::SlowConsumerNotReading
            | Cause::NotReading
            | Cause::ClientCancelled
            | Cause::ConnectionLost
            | Cause::KeepaliveTimeout => None,
        }
    }
}

impl Word for Cause {
    const ALL: &'static [Self] = &Cause::ALL;

    fn as_str(self) -> &'static str {
        Cause::as_str(self)
    }
}

/// A stream that is over.
#[derive(Debug, Clone)]
pub struct EndedStream {
    /// Who read it.
    pub consumer: Consumer,
    /// As they were requested; of many, the first 16.
    pub bindings: Vec<String>,
    /// Where it stood. A stream that was reset, or whose connection is gone, may not have sent the last batch before that.
    pub position: Cursor,
    /// Events for it behind that: see [`Progress::lag`](crate::hub::Progress::lag).
    pub lag: u64,
    /// Events up to there.
    pub delivered: u64,
    /// When it ended.
    pub ended: SystemTime,
    /// Why.
    pub cause: Cause,
}

/// The last of them, a bounded number.
#[derive(Debug, Default)]
pub struct EndedStreams(Mutex<VecDeque<EndedStream>>);

impl EndedStreams {
    /// Those that ended last, newest first.
    pub fn newest(&self, limit: usize) -> Vec<EndedStream> {
        self.0.lock().iter().rev().take(limit).cloned().collect()
    }

    pub(super) fn push(&self, mut stream: EndedStream) {
        stream.bindings.truncate(KEPT_BINDINGS);
        let mut streams = self.0.lock();
        if streams.len() == KEPT {
            streams.pop_front();
        }
        streams.push_back(stream);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::hub::{Epoch, Sequence};

    #[test]
    fn each_cause_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        assert!(Cause::ALL.iter().all(|cause| cause.status().is_none_or(|(code, _)| code != Code::Ok)));
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let ended = EndedStreams::default();
        for number in 0..KEPT as u64 + 5 {
            ended.push(EndedStream {
                consumer: Consumer {
                    subscription_id: format!("s{number}").parse().unwrap(),
                    account: "account0000000000000000000000002".parse().unwrap(),
                    client_name: String::new(),
                    peer: ([127, 0, 0, 1], 1).into(),
                    began: SystemTime::UNIX_EPOCH,
                },
                bindings: vec!["call.*.*".into(); KEPT_BINDINGS + 1],
                position: Cursor { epoch: Epoch(1), sequence: Sequence(number) },
                lag: 0,
                delivered: 0,
                ended: SystemTime::UNIX_EPOCH,
                cause: Cause::Drained,
            });
        }
        let streams = ended.newest(usize::MAX);
        assert_eq!(streams.len(), KEPT);
        assert_eq!(streams[0].consumer.subscription_id.to_string(), format!("s{}", KEPT + 4));
        assert_eq!(streams[KEPT - 1].consumer.subscription_id.to_string(), "s5");
        assert_eq!(streams[0].bindings.len(), KEPT_BINDINGS);
        assert_eq!(ended.newest(2).len(), 2);
    }
}
