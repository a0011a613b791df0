//! Raw TCP: each message as many times as there are streams, and nothing around it.

use anyhow::{Result, ensure};

use super::{Wire, messages::Messages, tally::Tally};

/// One connection to the raw peer. Both sides begin with the number of copies, as 32 bits.
pub struct Tcp {
    /// Where its copies are counted: they cannot be told apart, so all go to its first stream.
    stream: usize,
    copies: u32,
    open: bool,
    messages: Messages,
}

impl Tcp {
    pub fn new((stream, copies): (usize, usize)) -> Self {
        Self { stream, copies: copies as u32, open: false, messages: Messages::default() }
    }
}

impl Wire for Tcp {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.copies.to_be_bytes());
    }

    fn take(&mut self, data: &[u8], _out: &mut Vec<u8>, tally: &mut Tally) -> Result<usize> {
        let mut taken = 0;
        if !self.open {
            let Some(echo) = data.first_chunk::<4>() else { return Ok(0) };
            ensure!(u32::from_be_bytes(*echo) == self.copies, "the peer understood another number of copies");
            self.open = true;
            taken = 4;
        }
        self.messages.feed(&data[taken..], self.stream, tally)?;
        Ok(data.len())
    }

    fn is_open(&self) -> bool {
        self.open
    }
}
