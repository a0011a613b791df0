//! gRPC over HTTP/2, as far as a counting client needs it: frame headers are walked, credit is given back, pings and
//! settings are answered. Headers are not decoded: that they came, and whether they end the stream, is all there is to
//! know.

use std::collections::VecDeque;

use anyhow::{Result, bail, ensure};
use hawking::proto::SubscribeRequest;
use prost::Message;

use super::{
    Wire,
    messages::Messages,
    tally::{End, Tally},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;

/// Frame types, RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// Flags.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Settings.
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The window that every connection begins with.
const DEFAULT_WINDOW: u32 = 65_535;

/// How much the server may send before it hears of it.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub stream: u32,
    pub connection: u32,
}

impl Windows {
    /// What tonic's and hyper's clients have by default.
    pub const TONIC: Self = Self { stream: 2 << 20, connection: 5 << 20 };
    /// HTTP/2's own default.
    pub const SMALL: Self = Self { stream: DEFAULT_WINDOW, connection: DEFAULT_WINDOW };
}

/// One connection with several `Subscribe` calls.
pub struct H2 {
    first: usize,
    windows: Windows,
    streams: Vec<Stream>,
    /// Calls that are yet to be made: the server's settings come first.
    unmade: VecDeque<Vec<u8>>,
    may_open: usize,
    send_window: i64,
    settled: bool,
    /// Bytes taken for which the server has no credit back.
    owed: u32,
    begun: usize,
}

#[derive(Default)]
struct Stream {
    messages: Messages,
    owed: u32,
    begun: bool,
    ended: bool,
    /// It gives no credit back: a consumer that does not take what comes.
    stalled: bool,
}

impl H2 {
    /// `requests`: one for each stream, the first of which has the number `first`.
    pub fn new(first: usize, requests: &[SubscribeRequest], windows: Windows) -> Self {
        let unmade: VecDeque<Vec<u8>> = requests.iter().map(prefixed).collect();
        let streams = requests.iter().map(|_| Stream::default()).collect();
        let (may_open, send_window) = (usize::MAX, i64::from(DEFAULT_WINDOW));
        Self { first, windows, streams, unmade, may_open, send_window, settled: false, owed: 0, begun: 0 }
    }

    /// The last so many streams of the connection never give credit back.
    pub fn stall_last(mut self, stalled: usize) -> Self {
        self.streams.iter_mut().rev().take(stalled).for_each(|stream| stream.stalled = true);
        self
    }

    /// Makes the calls that settings and window allow.
    fn make_calls(&mut self, out: &mut Vec<u8>) {
        while let Some(request) = self.unmade.front() {
            let made = self.streams.len() - self.unmade.len();
            let over = self.streams.iter().filter(|stream| stream.ended).count();
            if !self.settled || made - over >= self.may_open || (request.len() as i64) > self.send_window {
                return;
            }
            let id = stream_id(made);
            self.send_window -= request.len() as i64;
            append(out, HEADERS, END_HEADERS, id, &request_headers());
            append(out, DATA, END_STREAM, id, request);
            self.unmade.pop_front();
        }
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        body: &[u8],
        out: &mut Vec<u8>,
        tally: &mut Tally,
    ) -> Result<()> {
        match kind {
            DATA => self.data(flags, id, body, out, tally)?,
            HEADERS => {
                let number = self.number(id)?;
                let stream = &mut self.streams[number];
                if flags & END_STREAM != 0 {
                    self.end(number, End::Trailers, tally);
                } else if !stream.begun {
                    stream.begun = true;
                    self.begun += 1;
                }
            }
            RST_STREAM => {
                ensure!(body.len() == 4, "a malformed RST_STREAM");
                let number = self.number(id)?;
                self.end(number, End::Reset(read_u32(body)), tally);
            }
            SETTINGS if flags & ACK == 0 => {
                for setting in body.chunks_exact(6) {
                    let (key, value) =
                        (u16::from_be_bytes([setting[0], setting[1]]), read_u32(&setting[2..]));
                    match key {
                        MAX_CONCURRENT_STREAMS => self.may_open = value as usize,
                        INITIAL_WINDOW_SIZE => {
                            ensure!(value >= 4096, "a window of {value} bytes for a request")
                        }
                        _ => {}
                    }
                }
                self.settled = true;
                append(out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => append(out, PING, ACK, 0, body),
            GOAWAY => {
                ensure!(body.len() >= 8, "a malformed GOAWAY");
                let code = read_u32(&body[4..]);
                let text = String::from_utf8_lossy(&body[8..]);
                ensure!(code == 0, "the server ends the connection: error {code} {text}");
                tally.going_away += 1;
            }
            WINDOW_UPDATE if id == 0 => {
                ensure!(body.len() == 4, "a malformed WINDOW_UPDATE");
                self.send_window += i64::from(read_u32(body));
            }
            // Priorities, windows of streams (requests are smaller), continuations, what is unknown.
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, flags: u8, id: u32, body: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Result<()> {
        let number = self.number(id)?;
        let length = body.len() as u32;
        let content = match (flags & PADDED, body) {
            (0, body) => body,
            (_, [padding, body @ ..]) if usize::from(*padding) <= body.len() => {
                &body[..body.len() - usize::from(*padding)]
            }
            _ => bail!("malformed padding"),
        };
        tally.frames += 1;
        let stream = &mut self.streams[number];
        stream.messages.feed(content, self.first + number, tally)?;
        if flags & END_STREAM != 0 {
            self.end(number, End::Data, tally);
        } else if !stream.stalled {
            stream.owed += length;
            give_credit(&mut stream.owed, self.windows.stream, id, out);
        }
        if !self.streams[number].stalled {
            self.owed += length;
            give_credit(&mut self.owed, self.windows.connection, 0, out);
        }
        Ok(())
    }

    fn end(&mut self, number: usize, end: End, tally: &mut Tally) {
        let stream = &mut self.streams[number];
        if !stream.ended {
            stream.ended = true;
            tally.ended(self.first + number, end);
        }
    }

    fn number(&self, id: u32) -> Result<usize> {
        let number = (id / 2) as usize;
        ensure!(id % 2 == 1 && number < self.streams.len(), "a frame for the stream {id} that nobody opened");
        Ok(number)
    }
}

impl Wire for H2 {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        let mut settings = Vec::new();
        for (key, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, self.windows.stream)] {
            settings.extend_from_slice(&key.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        append(out, SETTINGS, 0, 0, &settings);
        // An increment of 0 would be an error.
        if let Some(more @ 1..) = self.windows.connection.checked_sub(DEFAULT_WINDOW) {
            append(out, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
    }

    fn take(&mut self, data: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Result<usize> {
        let mut at = 0;
        while let Some(&[a, b, c, kind, flags, w, x, y, z]) = data[at..].first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let id = u32::from_be_bytes([w, x, y, z]) & 0x7fff_ffff;
            let start = at + FRAME_HEADER;
            let Some(body) = data.get(start..start + length) else { break };
            self.frame(kind, flags, id, body, out, tally)?;
            at = start + length;
        }
        if !self.unmade.is_empty() {
            self.make_calls(out);
        }
        Ok(at)
    }

    fn is_open(&self) -> bool {
        self.begun == self.streams.len()
    }
}

/// As h2 does it: credit goes back once half of the window is used.
fn give_credit(owed: &mut u32, window: u32, id: u32, out: &mut Vec<u8>) {
    if *owed >= window / 2 {
        append(out, WINDOW_UPDATE, 0, id, &owed.to_be_bytes());
        *owed = 0;
    }
}

fn stream_id(number: usize) -> u32 {
    number as u32 * 2 + 1
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn append(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(body);
}

/// The message with gRPC's prefix.
fn prefixed(request: &SubscribeRequest) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(request.encoded_len() as u32).to_be_bytes());
    bytes.extend_from_slice(&request.encode_to_vec());
    bytes
}

/// The headers of a call: references into HPACK's static table (RFC 7541, appendix A) and literals that no table keeps.
fn request_headers() -> Vec<u8> {
    const POST: u8 = 0x80 | 3;
    const HTTP: u8 = 0x80 | 6;
    let mut block = vec![POST, HTTP];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[4], "/hawking.v1.EventService/Subscribe"); // :path
    literal(&[1], "localhost"); // :authority
    literal(&[15, 31 - 15], "application/grpc"); // content-type: an index above 14 takes two bytes
    literal(b"\0\x02te", "trailers");
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, id: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, kind, flags, id, body);
        out
    }

    fn opened(streams: usize, windows: Windows) -> (H2, Tally) {
        let mut wire = H2::new(0, &vec![SubscribeRequest::default(); streams], windows);
        let (mut out, mut tally) = (Vec::new(), Tally::counting(streams));
        wire.open(&mut out);
        wire.take(&frame(SETTINGS, 0, 0, &[]), &mut out, &mut tally).unwrap();
        for number in 0..streams {
            wire.take(&frame(HEADERS, END_HEADERS, stream_id(number), b"\x88"), &mut out, &mut tally)
                .unwrap();
        }
        assert!(wire.is_open());
        (wire, tally)
    }

    #[test]
    fn calls_wait_for_the_settings_and_keep_to_them() {
        let mut wire = H2::new(0, &vec![SubscribeRequest::default(); 3], Windows::TONIC);
        let (mut out, mut tally) = (Vec::new(), Tally::counting(3));
        wire.open(&mut out);
        assert!(out.starts_with(PREFACE) && wire.unmade.len() == 3);
        let two = [0, 3, 0, 0, 0, 2];
        wire.take(&frame(SETTINGS, 0, 0, &two), &mut out, &mut tally).unwrap();
        assert_eq!(wire.unmade.len(), 1);
        wire.take(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]), &mut out, &mut tally).unwrap();
        assert_eq!(wire.unmade.len(), 0, "one is over, so another may begin");
    }

    #[test]
    fn credit_goes_back_at_half_a_window_but_not_from_a_stalled_stream() {
        let (wire, mut tally) = opened(2, Windows::SMALL);
        let mut wire = wire.stall_last(1);
        let mut message = vec![0, 0, 0, 0x3f, 0xfb, 0x12]; // 16 KiB with its prefix
        message.resize(0x4000, 0);
        for (id, updates) in [(1, 2), (3, 0)] {
            let mut out = Vec::new();
            for _ in 0..2 {
                wire.take(&frame(DATA, 0, id, &message), &mut out, &mut tally).unwrap();
            }
            assert_eq!(out.len(), updates * 13, "stream {id}");
        }
        assert_eq!((tally.events, tally.of_stream(0)), (4, 2));
    }

    #[test]
    fn ends_are_told_apart() {
        let (mut wire, mut tally) = opened(3, Windows::TONIC);
        let mut out = Vec::new();
        wire.take(&frame(HEADERS, END_STREAM | END_HEADERS, 1, b""), &mut out, &mut tally).unwrap();
        wire.take(&frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]), &mut out, &mut tally).unwrap();
        assert_eq!(tally.ends, [(0, End::Trailers), (1, End::Reset(8))]);
        assert!(wire.take(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]), &mut out, &mut tally).is_err());
        assert!(wire.take(&frame(DATA, 0, 99, b""), &mut out, &mut tally).is_err());
    }

    #[test]
    fn padding_is_not_content() {
        let (mut wire, mut tally) = opened(1, Windows::TONIC);
        let body = [&[2u8][..], &[0, 0, 0, 0, 1, 0x12], &[0, 0]].concat();
        wire.take(&frame(DATA, PADDED, 1, &body), &mut Vec::new(), &mut tally).unwrap();
        assert_eq!(tally.events, 1);
    }
}
