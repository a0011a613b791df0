//! Where the messages of one gRPC stream begin and end, whatever the frames that they come in.

use super::tally::Tally;

/// A gRPC message's prefix (flag and length), and the tag of its first field: which kind of `SubscribeResponse` it is.
const HEAD: usize = 6;

/// The place in one stream of messages.
#[derive(Debug, Default)]
pub struct Messages {
    head: [u8; HEAD],
    head_length: usize,
    /// Bytes of the message behind its head that have yet to come.
    missing: usize,
    /// The message so far, prefix and all, where somebody wanted to see it when it began.
    seen: Vec<u8>,
}

impl Messages {
    /// Walks over the next bytes of the stream.
    #[inline]
    pub fn feed(&mut self, mut data: &[u8], stream: usize, tally: &mut Tally) -> anyhow::Result<()> {
        while !data.is_empty() {
            if self.head_length < HEAD {
                let length = (HEAD - self.head_length).min(data.len());
                self.head[self.head_length..self.head_length + length].copy_from_slice(&data[..length]);
                self.head_length += length;
                data = &data[length..];
                if self.head_length < HEAD {
                    return Ok(());
                }
                let [flag, a, b, c, d, _] = self.head;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                anyhow::ensure!(
                    flag == 0,
                    "a message with the flag {flag}: compressed, though it was not asked for"
                );
                anyhow::ensure!(length > 0, "an empty message: no kind at all");
                self.missing = length - 1;
                self.seen.clear();
                if tally.looks_inside() {
                    self.seen.extend_from_slice(&self.head);
                }
            }
            let length = self.missing.min(data.len());
            if !self.seen.is_empty() {
                self.seen.extend_from_slice(&data[..length]);
            }
            self.missing -= length;
            data = &data[length..];
            if self.missing == 0 {
                self.head_length = 0;
                tally.message(stream, self.head[HEAD - 1], &self.seen)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let message = |tag: u8, length: usize| {
            let mut bytes = vec![0, 0, 0, 0, length as u8, tag];
            bytes.resize(5 + length, 7);
            bytes
        };
        let stream = [message(0x0a, 3), message(0x12, 40), message(0x12, 1), message(0x22, 9)].concat();
        for cut in 1..stream.len() {
            let mut tally = Tally::counting(1);
            let mut messages = Messages::default();
            for chunk in stream.chunks(cut) {
                messages.feed(chunk, 0, &mut tally).unwrap();
            }
            assert_eq!((tally.events, tally.others), (2, 2), "cut at {cut}");
        }
    }

    #[test]
    fn a_message_that_began_unseen_is_counted_and_not_looked_at() {
        let mut tally = Tally::counting(1);
        let mut messages = Messages::default();
        messages.feed(&[0, 0, 0, 0, 3, 0x12, 1], 0, &mut tally).unwrap();
        tally.measure_latency();
        messages.feed(&[2], 0, &mut tally).unwrap();
        assert_eq!((tally.events, tally.latencies().len()), (1, 0));
    }

    #[test]
    fn compressed_and_empty_messages_are_refused() {
        let mut tally = Tally::counting(1);
        assert!(Messages::default().feed(&[1, 0, 0, 0, 1, 0x12], 0, &mut tally).is_err());
        assert!(Messages::default().feed(&[0, 0, 0, 0, 0, 0], 0, &mut tally).is_err());
    }
}
