//! What the client has counted, and, in rounds that are not timed, whether it was right.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use hawking::proto::{SubscribeResponse, subscribe_response::Kind};
use prost::Message;

use crate::source::frames::{DIGITS, Frames, SENT_MARK, read_digits};

/// The first byte of a `SubscribeResponse` that holds an event: field 2, with a length.
const EVENT: u8 = 0x12;
/// The same for a gap: field 3.
const GAP: u8 = 0x1a;

/// gRPC's prefix.
const PREFIX: usize = 5;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By trailers: a status.
    Trailers,
    /// By DATA with END_STREAM, which gRPC does not do.
    Data,
    /// By RST_STREAM with this code.
    Reset(u32),
}

pub struct Tally {
    /// Events, on all streams together.
    pub events: u64,
    /// Messages that are no events.
    pub others: u64,
    /// Of those, gaps.
    pub gaps: u64,
    pub bytes: u64,
    pub reads: u64,
    /// HTTP/2 DATA frames.
    pub frames: u64,
    /// GOAWAY frames without an error.
    pub going_away: u64,
    pub ends: Vec<(usize, End)>,
    of_streams: Vec<u64>,
    look: Look,
    now_ns: u64,
}

/// What is looked at inside of messages.
enum Look {
    Nothing,
    /// The time of sending; one sample a delivery, in nanoseconds.
    Latency(Vec<u64>),
    Content(Box<Content>),
}

/// What is known of each stream's content.
struct Content {
    frames: Frames,
    copies: Copies,
}

/// Whether the messages of a stream are each there once.
enum Copies {
    /// The sequence that each stream has come to.
    Once(Vec<u64>),
    /// Raw TCP: so many copies of each event; how often each came.
    Many(Vec<(usize, HashMap<u64, usize>)>),
}

impl Tally {
    /// Counts only.
    pub fn counting(streams: usize) -> Self {
        Self {
            events: 0,
            others: 0,
            gaps: 0,
            bytes: 0,
            reads: 0,
            frames: 0,
            going_away: 0,
            ends: Vec::new(),
            of_streams: vec![0; streams],
            look: Look::Nothing,
            now_ns: 0,
        }
    }

    /// Also checks the order and the content of every event. `copies`: for a peer that sends several copies of each over
    /// one connection, how many on the connection that counts on this stream; empty for all others.
    pub fn checking(streams: usize, copies: &[(usize, usize)]) -> Self {
        let copies = if copies.is_empty() {
            Copies::Once(vec![0; streams])
        } else {
            let mut many: Vec<(usize, HashMap<u64, usize>)> = Vec::new();
            many.resize_with(streams, Default::default);
            copies.iter().for_each(|(stream, copies)| many[*stream].0 = *copies);
            Copies::Many(many)
        };
        let look = Look::Content(Box::new(Content { frames: Frames::new(), copies }));
        Self { look, ..Self::counting(streams) }
    }

    /// From now on also takes the latency of each delivery.
    pub fn measure_latency(&mut self) {
        self.look = Look::Latency(Vec::with_capacity(1 << 20));
    }

    /// The latencies taken, sorted, in nanoseconds.
    pub fn latencies(&mut self) -> Vec<u64> {
        let Look::Latency(samples) = &mut self.look else { return Vec::new() };
        let mut samples = std::mem::take(samples);
        samples.sort_unstable();
        samples
    }

    /// Events of one stream.
    pub fn of_stream(&self, stream: usize) -> u64 {
        self.of_streams[stream]
    }

    /// Bytes have been read. The clock is read only where it is needed.
    #[inline]
    pub fn read(&mut self, bytes: usize, now_ns: impl Fn() -> u64) {
        self.reads += 1;
        self.bytes += bytes as u64;
        if let Look::Latency(_) = self.look {
            self.now_ns = now_ns();
        }
    }

    /// Whether messages have to be kept until they are whole.
    #[inline]
    pub fn looks_inside(&self) -> bool {
        !matches!(self.look, Look::Nothing)
    }

    pub fn ended(&mut self, stream: usize, end: End) {
        self.ends.push((stream, end));
    }

    /// A `SubscribeResponse` has come; `whole` has its bytes, prefix included, if [`Tally::looks_inside`] when it began.
    #[inline]
    pub fn message(&mut self, stream: usize, tag: u8, whole: &[u8]) -> Result<()> {
        if tag != EVENT {
            self.others += 1;
            self.gaps += u64::from(tag == GAP);
            return Ok(());
        }
        self.events += 1;
        self.of_streams[stream] += 1;
        match &mut self.look {
            Look::Nothing => Ok(()),
            Look::Latency(_) if whole.is_empty() => Ok(()),
            Look::Latency(samples) => latency(self.now_ns, whole, samples),
            Look::Content(content) => {
                let response = SubscribeResponse::decode(&whole[PREFIX..])?;
                let Some(Kind::Event(event)) = response.kind else { bail!("an event that is none") };
                let Some(hawking::proto::event::Payload::JsonPayload(payload)) = &event.payload else {
                    bail!("an event without the JSON payload that was asked for")
                };
                let sequence = content.check(stream, payload.as_bytes())?;
                ensure!(
                    event.message_id == format!("{sequence:020}"),
                    "another message id: {}",
                    event.message_id
                );
                ensure!(
                    event.call_id == content.frames.call_id(sequence),
                    "another call id: {}",
                    event.call_id
                );
                Ok(())
            }
        }
    }

    /// An event has come as the upstream's frame.
    pub fn bare_event(&mut self, stream: usize, frame: &[u8]) -> Result<()> {
        self.events += 1;
        self.of_streams[stream] += 1;
        match &mut self.look {
            Look::Nothing => Ok(()),
            Look::Latency(samples) => latency(self.now_ns, frame, samples),
            Look::Content(content) => {
                let data = frame
                    .windows(7)
                    .position(|window| window == b"\"data\":")
                    .context("a frame without data")?;
                content.check(stream, &frame[data + 7..frame.len() - 1])?;
                Ok(())
            }
        }
    }

    /// Whether each stream has got each of the events 1 to `sent`.
    pub fn is_complete(&self, sent: u64) -> Result<()> {
        let Look::Content(content) = &self.look else { bail!("the content was not looked at") };
        match &content.copies {
            Copies::Once(last) => {
                for (stream, last) in last.iter().enumerate() {
                    ensure!(*last == sent, "stream {stream} ends with event {last} of {sent}");
                }
            }
            Copies::Many(many) => {
                for (copies, counts) in many.iter().filter(|(copies, _)| *copies > 0) {
                    ensure!(counts.len() as u64 == sent, "{} events of {sent}", counts.len());
                    ensure!(
                        counts.values().all(|count| count == copies),
                        "not {copies} copies of each event"
                    );
                }
            }
        }
        Ok(())
    }
}

fn latency(now_ns: u64, message: &[u8], samples: &mut Vec<u64>) -> Result<()> {
    let sent = sent_ns(message).context("an event without its time of sending")?;
    samples.push(now_ns.saturating_sub(sent));
    Ok(())
}

/// The time of sending, found by its name: where it stands depends on what is around the payload.
fn sent_ns(message: &[u8]) -> Option<u64> {
    let at = message.windows(SENT_MARK.len()).position(|window| window == SENT_MARK)? + SENT_MARK.len();
    read_digits(message.get(at..at + DIGITS)?)
}

impl Content {
    /// Compares with what the source must have sent, and gives the event's sequence.
    fn check(&mut self, stream: usize, data: &[u8]) -> Result<u64> {
        const ID_MARK: &[u8] = b"\"msg_id\":\"";
        let at = data.windows(ID_MARK.len()).position(|window| window == ID_MARK).context("no msg_id")?;
        let digits =
            data.get(at + ID_MARK.len()..).and_then(|rest| rest.get(..DIGITS)).context("a short msg_id")?;
        let sequence = read_digits(digits).context("a msg_id that is no number")?;
        let sent = sent_ns(data).context("no time of sending")?;
        ensure!(
            data == self.frames.data(sequence, sent),
            "event {sequence} has another payload than was sent"
        );
        match &mut self.copies {
            Copies::Once(last) => {
                let last = &mut last[stream];
                ensure!(sequence == *last + 1, "stream {stream}: event {sequence} behind {last}");
                *last = sequence;
            }
            Copies::Many(many) => *many[stream].1.entry(sequence).or_default() += 1,
        }
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u64) -> Vec<u8> {
        let mut text = Vec::new();
        Frames::new().append(sequence, 1_000, &mut text);
        text
    }

    #[test]
    fn a_missing_a_doubled_and_a_changed_event_are_found() {
        let mut tally = Tally::checking(1, &[]);
        tally.bare_event(0, &frame(1)).unwrap();
        tally.bare_event(0, &frame(2)).unwrap();
        tally.is_complete(2).unwrap();
        assert!(tally.is_complete(3).is_err());
        assert!(tally.bare_event(0, &frame(2)).is_err(), "doubled");
        assert!(tally.bare_event(0, &frame(4)).is_err(), "missing");
        let mut changed = frame(3);
        let at = changed.len() - 20;
        changed[at] ^= 1;
        assert!(tally.bare_event(0, &changed).is_err(), "changed");
    }

    #[test]
    fn copies_are_counted() {
        let mut tally = Tally::checking(3, &[(0, 2), (2, 1)]);
        for (stream, sequence) in [(0, 1), (0, 1), (2, 1)] {
            tally.bare_event(stream, &frame(sequence)).unwrap();
        }
        tally.is_complete(1).unwrap();
        tally.bare_event(0, &frame(1)).unwrap();
        assert!(tally.is_complete(1).is_err(), "a third copy of two");
    }

    #[test]
    fn latency_is_the_time_since_sending() {
        let mut tally = Tally::counting(1);
        tally.measure_latency();
        tally.read(10, || 4_000);
        tally.bare_event(0, &frame(1)).unwrap();
        assert_eq!(tally.latencies(), [3_000]);
    }
}
