//! `docs/performance.json`: a list of objects, one for each mode in each case. What was not measured is absent.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{machine, mode::Mode, process::Programs};

/// One result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub mode: Mode,
    pub case: String,
    pub streams: usize,
    pub connections: usize,
    pub burst: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub events_per_second: Option<f64>,
    /// In force on the server's side.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub congestion: Option<String>,
    pub rounds: usize,
    /// Server CPU for each delivery, ingest included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_us_without_ingest: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deliveries_per_second: Option<f64>,
    /// Medians of the ratios of single rounds: of the latency in the case `latency`, of the memory in `memory`, else of CPU.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_tcp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_naive: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_nats: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_kb_per_stream: Option<f64>,
    /// The fewest in any round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stalled_streams_ended: Option<usize>,
    /// Of the cases `ingest` and `matching`: thread CPU time for each operation, and that of what it is compared with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reference_ns: Option<f64>,
    /// Median distances from the medians.
    #[serde(default)]
    pub spreads: Spreads,
    pub versions: BTreeMap<String, String>,
    /// The day, in UTC.
    pub date: String,
}

/// The spreads of the fields of the same names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Spreads {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_tcp: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_naive: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_nats: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_kb_per_stream: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ns: Option<f64>,
}

impl Row {
    /// A result of which only this much is known yet.
    pub fn empty(mode: Mode, case: &str) -> Self {
        Self {
            mode,
            case: case.to_owned(),
            streams: 0,
            connections: 0,
            burst: 1,
            events_per_second: None,
            congestion: None,
            rounds: 0,
            cpu_us: None,
            cpu_us_without_ingest: None,
            deliveries_per_second: None,
            ratio_tcp: None,
            ratio_naive: None,
            ratio_nats: None,
            p50_us: None,
            p99_us: None,
            rss_kb_per_stream: None,
            stalled_streams_ended: None,
            ns: None,
            reference_ns: None,
            spreads: Spreads::default(),
            versions: BTreeMap::new(),
            date: String::new(),
        }
    }

    /// What makes it the same measurement as another, made at another time.
    fn key(&self) -> (Mode, &str, usize, usize, Option<&str>) {
        (self.mode, &self.case, self.streams, self.connections, self.congestion.as_deref())
    }
}

/// All results that are kept. No file means none.
pub fn load(path: &Path) -> Result<Vec<Row>> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("{} is not understood", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

/// Puts new results in the place of old ones of the same, and keeps the others.
pub fn merge(old: Vec<Row>, new: Vec<Row>) -> Vec<Row> {
    let mut rows = old;
    for row in new {
        match rows.iter_mut().find(|old| old.key() == row.key()) {
            Some(place) => *place = row,
            None => rows.push(row),
        }
    }
    rows
}

/// Writes them, one object a line, so that a change of one shows as one.
pub fn save(path: &Path, rows: &[Row]) -> Result<()> {
    let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Stamps results with what they were measured with, and when.
pub fn stamp(rows: &mut [Row], programs: &Programs) {
    let (versions, date) = (versions(programs), today());
    for row in rows {
        row.versions = versions.clone();
        row.date = date.clone();
    }
}

fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

fn versions(programs: &Programs) -> BTreeMap<String, String> {
    let mut versions: BTreeMap<String, String> = ["tonic", "hyper", "h2", "prost", "tokio"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), locked(name)?.to_owned())))
        .collect();
    versions.insert("hawking".to_owned(), locked("hawking").unwrap_or_default().to_owned());
    versions.insert("machine".to_owned(), machine::describe());
    if let Some(program) = &programs.nats_server {
        let output = Command::new(program).arg("--version").output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let version = text.trim().trim_start_matches("nats-server: v").to_owned();
        versions.insert("nats-server".to_owned(), version);
    }
    versions
}

/// The version of a crate that this was built with.
fn locked(name: &str) -> Option<&'static str> {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let (_, rest) = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mode: &str, cpu_us: f64) -> Row {
        let json = serde_json::json!({
            "mode": mode, "case": "saturated", "streams": 1, "connections": 1, "burst": 32, "rounds": 5,
            "cpu_us": cpu_us, "versions": {}, "date": "2026-11-24",
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn new_results_replace_old_ones_of_the_same() {
        let rows = merge(vec![row("tcp", 1.0), row("nats", 2.0)], vec![row("tcp", 3.0), row("naive", 4.0)]);
        let cpu: Vec<_> = rows.iter().filter_map(|row| row.cpu_us).collect();
        assert_eq!(cpu, [3.0, 2.0, 4.0]);
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_was_not_measured_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docs/performance.json");
        assert!(load(&path).unwrap().is_empty());
        save(&path, &[row("hawking", 0.25), row("tcp", 0.2)]).unwrap();
        let rows = load(&path).unwrap();
        assert_eq!((rows.len(), rows[0].mode, rows[0].cpu_us), (2, Mode::Hawking, Some(0.25)));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("p50_us") && !text.contains("null"), "{text}");
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(locked("tonic").unwrap().starts_with("0."));
        assert_eq!(locked("no-such-crate"), None);
    }
}
