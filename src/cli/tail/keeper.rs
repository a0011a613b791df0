//! The cursor file of `tail`: written behind what was printed, not with each line.

use std::{io, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::client::{CursorFile, CursorFileError, Position};

/// Between two writes. Each goes to the disk, so one for each event would slow down a busy stream.
const INTERVAL: Duration = Duration::from_secs(1);

/// The cursor cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    /// What was printed may not be on the disk, so the file still has the cursor before it.
    #[error("cannot put the output to disk: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    File(#[from] CursorFileError),
}

/// Keeps the cursor of what was printed, if it is to be kept at all.
pub(super) struct CursorKeeper<S> {
    file: Option<CursorFile>,
    /// Puts what was printed where a loss of power does not take it.
    sync: S,
    /// Printed up to here, and not stored yet.
    pending: Option<Position>,
    stored: Option<Position>,
    next_write: Instant,
}

impl<S: FnMut() -> io::Result<()>> CursorKeeper<S> {
    pub(super) fn new(file: Option<CursorFile>, sync: S) -> Self {
        Self { file, sync, pending: None, stored: None, next_write: Instant::now() }
    }

    /// Everything up to here was printed.
    pub(super) fn printed(&mut self, position: Option<&Position>) {
        if self.file.is_some() {
            self.pending = position.filter(|position| Some(*position) != self.stored.as_ref()).cloned();
        }
    }

    /// Completes when it is time to [`store`](Self::store). Dropping the future loses nothing.
    pub(super) async fn due(&self) {
        match self.pending {
            Some(_) => sleep_until(self.next_write).await,
            None => std::future::pending().await,
        }
    }

    /// Stores what is to be stored, behind the output.
    pub(super) fn store(&mut self) -> Result<(), KeepError> {
        if let (Some(file), Some(position)) = (&self.file, self.pending.take()) {
            (self.sync)()?;
            file.store(&position)?;
            self.stored = Some(position);
            self.next_write = Instant::now() + INTERVAL;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tempfile::TempDir;

    use super::*;
    use crate::proto::Cursor;

    fn at(sequence: u64) -> Position {
        Position { cursor: Cursor { epoch: "00000000000000ff".into(), sequence }, time: None }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_the_first_at_once_and_the_others_a_second_apart() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cursor");
        let stored = || CursorFile::open(&path, "a").unwrap().1.map(|position| position.cursor.sequence);
        let mut keeper = CursorKeeper::new(Some(CursorFile::open(&path, "a").unwrap().0), || Ok(()));

        let begun = Instant::now();
        keeper.printed(Some(&at(1)));
        keeper.due().await;
        keeper.store().unwrap();
        assert_eq!((stored(), begun.elapsed()), (Some(1), Duration::ZERO));
        for sequence in 2..100 {
            keeper.printed(Some(&at(sequence)));
        }
        assert_eq!(stored(), Some(1));
        keeper.due().await;
        keeper.store().unwrap();
        assert_eq!((stored(), begun.elapsed()), (Some(99), INTERVAL));
        // At the end nothing is waited for, and nothing is written twice.
        keeper.printed(Some(&at(100)));
        keeper.store().unwrap();
        keeper.store().unwrap();
        assert_eq!(stored(), Some(100));
    }

    #[tokio::test(start_paused = true)]
    async fn the_output_is_on_the_disk_before_its_cursor() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cursor");
        let stored = || CursorFile::open(&path, "a").unwrap().1.map(|position| position.cursor.sequence);
        let synced = RefCell::new(Vec::new());
        let sync = || {
            synced.borrow_mut().push(stored());
            if synced.borrow().len() < 3 { Ok(()) } else { Err(io::Error::other("the disk is full")) }
        };
        let mut keeper = CursorKeeper::new(Some(CursorFile::open(&path, "a").unwrap().0), sync);
        for sequence in [1, 1, 2, 2] {
            // A gap or a status comes without a new cursor.
            keeper.printed(Some(&at(sequence)));
            keeper.store().unwrap();
        }
        assert_eq!(*synced.borrow(), [None, Some(1)], "each time before, and not for nothing");
        keeper.printed(Some(&at(3)));
        assert!(matches!(keeper.store(), Err(KeepError::Output(_))));
        assert_eq!(stored(), Some(2), "a cursor must not be ahead of the output");
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_nothing_without_a_file() {
        let mut keeper = CursorKeeper::new(None, || panic!("there is nothing to wait for"));
        keeper.printed(Some(&at(1)));
        let due = tokio::time::timeout(Duration::from_secs(60), keeper.due()).await;
        assert!(due.is_err());
        keeper.store().unwrap();
    }
}
