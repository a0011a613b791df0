//! NATS's client protocol, as far as a subscriber needs it.

use anyhow::{Context, Result, bail};

use super::{Wire, tally::Tally};
use crate::source::SUBJECT;

/// One connection with several subscriptions of the same subject.
pub struct Nats {
    first: usize,
    subscriptions: usize,
    open: bool,
}

impl Nats {
    pub fn new((first, subscriptions): (usize, usize)) -> Self {
        Self { first, subscriptions, open: false }
    }
}

impl Wire for Nats {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n");
        for id in 0..self.subscriptions {
            out.extend_from_slice(format!("SUB {SUBJECT} {id}\r\n").as_bytes());
        }
        // The answer comes after the subscriptions have been made.
        out.extend_from_slice(b"PING\r\n");
    }

    fn take(&mut self, data: &[u8], out: &mut Vec<u8>, tally: &mut Tally) -> Result<usize> {
        let mut at = 0;
        while let Some(length) = data[at..].iter().position(|byte| *byte == b'\n') {
            let line = data[at..at + length].trim_ascii_end();
            let after = at + length + 1;
            if let Some(arguments) = line.strip_prefix(b"MSG ") {
                // SUBJECT ID LENGTH
                let (id, size) = numbers(arguments).context("a MSG line that is not understood")?;
                if data.len() < after + size + 2 {
                    break;
                }
                tally.bare_event(self.first + id, &data[after..after + size])?;
                at = after + size + 2;
                continue;
            }
            match line {
                b"PONG" => self.open = true,
                b"PING" => out.extend_from_slice(b"PONG\r\n"),
                line if line.starts_with(b"-ERR") => {
                    bail!("nats-server says {}", String::from_utf8_lossy(line))
                }
                _ => {}
            }
            at = after;
        }
        Ok(at)
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// The last two words, which are numbers.
fn numbers(arguments: &[u8]) -> Option<(usize, usize)> {
    let mut words = arguments.rsplit(|byte| *byte == b' ');
    let mut number = || {
        let digits = words.next()?;
        digits.iter().try_fold(0usize, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
        })
    };
    let size = number()?;
    let id = number()?;
    Some((id, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_and_half_ones_kept() {
        let text = b"INFO {}\r\nPONG\r\nMSG events 1 5\r\nhello\r\nPING\r\nMSG events 0 2\r\nab";
        let (mut nats, mut tally, mut out) = (Nats::new((10, 2)), Tally::counting(12), Vec::new());
        let taken = nats.take(text, &mut out, &mut tally).unwrap();
        assert_eq!(&text[taken..], b"MSG events 0 2\r\nab");
        assert!(nats.is_open());
        assert_eq!((tally.events, tally.of_stream(11), out.as_slice()), (1, 1, b"PONG\r\n".as_slice()));
        assert!(nats.take(b"-ERR 'Slow Consumer'\r\n", &mut out, &mut tally).is_err());
    }
}
