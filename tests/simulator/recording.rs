//! A recording: its lines, as tests/recordings/README.md describes them.

use std::{fs, path::PathBuf};

use hawking::binding::Flavour;
use serde::Deserialize;

/// One line.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// Seconds since the start.
    pub t: f64,
    /// The label of the connection.
    pub conn: Option<String>,
    /// What it is.
    pub dir: String,
    /// Its content.
    pub text: String,
}

impl Line {
    /// Whether the client, or the recorder, does something here; the other lines say what is seen then.
    pub fn drives(&self) -> bool {
        !matches!(
            self.dir.as_str(),
            "recv" | "recv-raw" | "recv-pong" | "close" | "control-reply" | "http-recv" | "note"
        )
    }

    /// Whether it is an event that came.
    pub fn is_event(&self) -> bool {
        self.dir == "recv" && self.text.starts_with(r#"{"action":"event""#)
    }

    /// Whether it says what is seen.
    pub fn expects(&self) -> bool {
        // `open` and `http` do and see.
        (!self.drives() && self.dir != "note") || matches!(self.dir.as_str(), "open" | "http")
    }
}

/// The folder of a flavour's recordings.
fn folder(flavour: Flavour) -> PathBuf {
    let name = match flavour {
        Flavour::K4 => "master",
        Flavour::V4_3 => "4.3",
        Flavour::K5 => "5",
    };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(name)
}

/// The numbers of the recordings that there are.
pub fn numbers(flavour: Flavour) -> Vec<String> {
    let files = fs::read_dir(folder(flavour)).unwrap().map(|entry| entry.unwrap().file_name());
    let number = |name: &str| name.split_once('-').unwrap().0.to_owned();
    let mut numbers: Vec<String> = files.map(|name| number(name.to_str().unwrap())).collect();
    numbers.sort();
    numbers
}

/// Reads the recording with this number.
pub fn read(flavour: Flavour, number: &str) -> Vec<Line> {
    let folder = folder(flavour);
    let file = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{number}-")))
        .unwrap_or_else(|| panic!("no recording {number} in {}", folder.display()));
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bytes of a Python bytes literal.
pub fn python_bytes(literal: &str) -> Option<Vec<u8>> {
    let inner = literal.strip_prefix("b'")?.strip_suffix('\'')?;
    let mut bytes = Vec::new();
    let mut rest = inner.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [escape, tail @ ..] = rest else { return None };
        rest = tail;
        match escape {
            b'x' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = tail;
            }
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            other => bytes.push(*other),
        }
    }
    Some(bytes)
}
