//! The last cursor in a file, for a consumer that goes on where it was when it was ended.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Position;
use crate::proto::Cursor;

/// A file that holds the position in one account's stream: one line of JSON,
/// `{"account":"…","cursor":"EPOCH:SEQUENCE","time":"2026-11-24T08:00:12.345Z"}`.
///
/// It is replaced as a whole and put to disk each time, so that at every moment, and after a loss of power, one of the last
/// two cursors stands in it. Two consumers must not share one.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    account: String,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorFileError {
    /// It cannot be read, or written where it is to be.
    #[error("cannot {what} the cursor file {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else. It is left as it is.
    #[error(
        "{} is no cursor file, so it is left alone; one looks like \
         {{\"account\":\"…\",\"cursor\":\"EPOCH:SEQUENCE\"}}",
        path.display()
    )]
    NotACursorFile {
        /// Which file.
        path: PathBuf,
    },
    /// It belongs to the stream of another account. It is left as it is.
    #[error(
        "the cursor file {} belongs to account {found}, not to {wanted}: a cursor means something in the log of its \
         account alone; give each its own file",
        path.display()
    )]
    OtherAccount {
        /// Which file.
        path: PathBuf,
        /// The account in it.
        found: String,
        /// The account that was asked for.
        wanted: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Content {
    account: String,
    cursor: String,
    /// The time of the cursor, for people and for a start by time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl CursorFile {
    /// The file at `path` and the position in it; `None` where there is no file yet.
    ///
    /// # Errors
    ///
    /// When it is no cursor file or another account's; and when no file can be written there, which is found out here
    /// rather than after the first event.
    pub fn open(
        path: impl Into<PathBuf>,
        account: impl Into<String>,
    ) -> Result<(Self, Option<Position>), CursorFileError> {
        let (path, account) = (path.into(), account.into());
        let position = match fs::read(&path) {
            Ok(bytes) => Some(read(&path, &bytes, &account)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(CursorFileError::Io { what: "read", path, source }),
        };
        let file = Self { path, account };
        let temporary = file.temporary();
        let tried = File::create(&temporary).and_then(|_| fs::remove_file(&temporary));
        tried.map_err(|source| file.cannot_write(source))?;
        Ok((file, position))
    }

    /// Stores a position: everything up to it was handled. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the file still has the one before.
    pub fn store(&self, position: &Position) -> Result<(), CursorFileError> {
        let content = Content {
            account: self.account.clone(),
            cursor: text_of(&position.cursor),
            time: position.time.map(|time| humantime::format_rfc3339_millis(time).to_string()),
        };
        let mut line = serde_json::to_vec(&content).map_err(|error| self.cannot_write(error.into()))?;
        line.push(b'\n');
        self.replace(&line).map_err(|source| self.cannot_write(source))
    }

    fn replace(&self, content: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        // Before the rename, or a loss of power could leave an empty file under the good name.
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(self.folder())?.sync_all()
    }

    /// In the same folder: only within one file system a rename is one step.
    fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        self.folder().join(name)
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn cannot_write(&self, source: io::Error) -> CursorFileError {
        CursorFileError::Io { what: "write", path: self.path.clone(), source }
    }
}

fn read(path: &Path, bytes: &[u8], account: &str) -> Result<Position, CursorFileError> {
    let no_cursor_file = || CursorFileError::NotACursorFile { path: path.to_owned() };
    let content: Content = serde_json::from_slice(bytes).map_err(|_| no_cursor_file())?;
    let cursor = parse_cursor(&content.cursor).ok_or_else(no_cursor_file)?;
    let time = content.time.map(|time| humantime::parse_rfc3339(&time)).transpose();
    let time = time.map_err(|_| no_cursor_file())?;
    if content.account != account {
        let (found, wanted) = (content.account, account.to_owned());
        return Err(CursorFileError::OtherAccount { path: path.to_owned(), found, wanted });
    }
    Ok(Position { cursor, time })
}

/// A cursor's text form, `EPOCH:SEQUENCE`.
pub fn text_of(cursor: &Cursor) -> String {
    format!("{}:{}", cursor.epoch, cursor.sequence)
}

/// Reads `EPOCH:SEQUENCE`; `None` where the text is none.
pub fn parse_cursor(text: &str) -> Option<Cursor> {
    let (epoch, sequence) = text.rsplit_once(':')?;
    let epoch_is_one = (1..=64).contains(&epoch.len()) && epoch.bytes().all(|byte| byte.is_ascii_graphic());
    let digits = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
    (epoch_is_one && digits).then_some(())?;
    Some(Cursor { epoch: epoch.to_owned(), sequence: sequence.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use tempfile::TempDir;

    use super::*;

    const ACCOUNT: &str = "account0000000000000000000000002";

    fn cursor(sequence: u64) -> Cursor {
        Cursor { epoch: "00000000000000ff".into(), sequence }
    }

    fn at(sequence: u64) -> Position {
        let time = UNIX_EPOCH + Duration::from_millis(1_764_000_000_345);
        Position { cursor: cursor(sequence), time: Some(time) }
    }

    #[test]
    fn what_was_stored_is_there_again_and_nothing_else_is_left() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cursor");
        let (file, none) = CursorFile::open(&path, ACCOUNT).unwrap();
        assert_eq!(none, None);
        assert!(!path.exists(), "nothing was handled yet");
        for sequence in [7, u64::MAX] {
            file.store(&at(sequence)).unwrap();
            assert_eq!(CursorFile::open(&path, ACCOUNT).unwrap().1, Some(at(sequence)));
        }
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!(
                "{{\"account\":\"{ACCOUNT}\",\"cursor\":\"00000000000000ff:18446744073709551615\",\
                 \"time\":\"2025-11-24T16:00:00.345Z\"}}\n"
            )
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cursor");
        for content in ["", "hello", "{}", "{\"account\":\"a\",\"cursor\":\"12\"}", "[1]"] {
            fs::write(&path, content).unwrap();
            let error = CursorFile::open(&path, ACCOUNT).unwrap_err();
            assert!(matches!(error, CursorFileError::NotACursorFile { .. }), "{content}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn another_accounts_file_is_refused_with_both_names() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("cursor");
        CursorFile::open(&path, "other").unwrap().0.store(&at(1)).unwrap();
        let error = CursorFile::open(&path, ACCOUNT).unwrap_err().to_string();
        assert!(error.contains("belongs to account other") && error.contains(ACCOUNT), "{error}");
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_found_out_at_once() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("not-there").join("cursor");
        let error = CursorFile::open(&path, ACCOUNT).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the cursor file"), "{error}");
    }

    #[test]
    fn a_cursor_is_an_epoch_and_a_number() {
        assert_eq!(parse_cursor("00000000000000ff:12"), Some(cursor(12)));
        assert_eq!(parse_cursor("a:b:12").map(|cursor| cursor.epoch), Some("a:b".into()));
        for wrong in ["", "12", ":12", "a:", "a:-1", "a:+1", "a b:1", "a:18446744073709551616"] {
            assert_eq!(parse_cursor(wrong), None, "{wrong}");
        }
    }
}
