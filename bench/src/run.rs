//! Interleaved rounds: A B C A B C, so that a slow minute of the machine falls on all alike; ratios are taken within a
//! round.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::{
    case::{Case, Measure, Subject},
    mode::Mode,
    report::results::{Row, Spreads},
    round::{Laboratory, Measurement, check, measure, measure_ingest},
    statistics::Summary,
};

/// The results of all modes in one case, round by round.
pub struct Rounds {
    pub case: Case,
    by_mode: BTreeMap<Mode, Vec<Measurement>>,
    /// Microseconds for each event when nobody listens.
    ingest_us: BTreeMap<Mode, f64>,
}

impl Rounds {
    /// Runs the case for all of its modes among `modes`: first a round that is checked, then those that are timed.
    pub fn run(lab: &Laboratory<'_>, case: Case, modes: &[Mode], rounds: usize) -> Result<Self> {
        let modes: Vec<Mode> = case.modes.iter().copied().filter(|mode| modes.contains(mode)).collect();
        eprintln!("{}", case.describe());
        for mode in &modes {
            check(lab, &case, *mode).with_context(|| format!("{}, {mode}: the checked round", case.name))?;
        }
        let mut by_mode: BTreeMap<Mode, Vec<Measurement>> = BTreeMap::new();
        for round in 1..=rounds {
            for mode in &modes {
                let measurement = measure(lab, &case, *mode)
                    .with_context(|| format!("{}, {mode}: round {round}", case.name))?;
                by_mode.entry(*mode).or_default().push(measurement);
            }
        }
        let mut ingest_us = BTreeMap::new();
        if lab.ingest && matches!(case.subject, Subject::Cpu | Subject::Endurance) {
            for (mode, measurements) in &by_mode {
                let rates: Vec<f64> =
                    measurements.iter().map(|measurement| measurement.events_per_second).collect();
                let Some(rate) = Summary::of(&rates) else { continue };
                let us = measure_ingest(lab, &case, *mode, case.rate().unwrap_or(rate.median))
                    .with_context(|| format!("{}, {mode}: ingest alone", case.name))?;
                ingest_us.insert(*mode, us);
            }
        }
        Ok(Self { case, by_mode, ingest_us })
    }

    /// What goes into `docs/performance.json`.
    pub fn rows(&self) -> Vec<Row> {
        self.by_mode.keys().map(|mode| self.row(*mode)).collect()
    }

    fn row(&self, mode: Mode) -> Row {
        let measurements = &self.by_mode[&mode];
        let cpu = self.summary(mode, |measurement| measurement.cpu_us);
        let p50 = self.summary(mode, |measurement| measurement.p50_us);
        let p99 = self.summary(mode, |measurement| measurement.p99_us);
        let rss = self.summary(mode, |measurement| measurement.rss_kb_per_stream);
        let [tcp, naive, nats] = [Mode::Tcp, Mode::Naive, Mode::Nats].map(|other| self.ratio(mode, other));
        let deliveries = self.summary(mode, |measurement| Some(measurement.deliveries_per_second));
        let median = |summary: Option<Summary>| summary.map(|summary| summary.median);
        let spread = |summary: Option<Summary>| summary.map(|summary| summary.spread);
        let fan_out = cpu.zip(self.ingest_us.get(&mode)).map(|(cpu, ingest)| {
            let share = ingest / self.case.topology.streams as f64;
            (cpu.median - share).max(0.0)
        });
        let fewest_ended = measurements.iter().filter_map(|measurement| measurement.stalled_ended).min();
        Row {
            streams: self.case.topology.streams,
            connections: self.case.topology.connections,
            burst: self.case.burst,
            events_per_second: self.case.rate(),
            congestion: measurements[0].congestion.clone(),
            rounds: measurements.len(),
            cpu_us: median(cpu),
            cpu_us_without_ingest: fan_out,
            deliveries_per_second: median(deliveries).filter(|deliveries| *deliveries > 0.0),
            ratio_tcp: median(tcp),
            ratio_naive: median(naive),
            ratio_nats: median(nats),
            p50_us: median(p50),
            p99_us: median(p99),
            rss_kb_per_stream: median(rss),
            stalled_streams_ended: fewest_ended,
            spreads: Spreads {
                cpu_us: spread(cpu),
                ratio_tcp: spread(tcp),
                ratio_naive: spread(naive),
                ratio_nats: spread(nats),
                p50_us: spread(p50),
                p99_us: spread(p99),
                rss_kb_per_stream: spread(rss),
                ns: None,
            },
            ..Row::empty(mode, self.case.name)
        }
    }

    /// What the case compares: the latency where that is its subject, else CPU.
    fn compared(&self, measurement: &Measurement) -> Option<f64> {
        match self.case.subject {
            Subject::Latency => measurement.p50_us,
            Subject::Memory => measurement.rss_kb_per_stream,
            _ => measurement.cpu_us,
        }
    }

    fn summary(&self, mode: Mode, value: impl Fn(&Measurement) -> Option<f64>) -> Option<Summary> {
        let values: Vec<f64> = self.by_mode[&mode].iter().filter_map(value).collect();
        Summary::of(&values)
    }

    fn ratio(&self, mode: Mode, other: Mode) -> Option<Summary> {
        let (these, those) = (self.by_mode.get(&mode)?, self.by_mode.get(&other)?);
        // Congestion control costs or saves more than most servers differ by: unlike is not compared with unlike.
        let congestion =
            |measurements: &[Measurement]| measurements.first().and_then(|first| first.congestion.clone());
        if mode == other || congestion(these).is_none() || congestion(these) != congestion(those) {
            return None;
        }
        let ratios: Vec<f64> = these
            .iter()
            .zip(those)
            .filter_map(|(this, that)| Some(self.compared(this)? / self.compared(that)?))
            .collect();
        Summary::of(&ratios)
    }

    /// A table for people, and how the goals stand.
    pub fn print(&self) {
        println!("\n{}", self.case.describe());
        println!(
            "  {:8} {:>16} {:>10} {:>11} {:>11} {:>11} {:>13} {:>9} {:>9} {:>9} {:>6}",
            "mode",
            "cpu us/delivery",
            "no ingest",
            "x tcp",
            "x naive",
            "x nats",
            "deliveries/s",
            "p50 us",
            "p99 us",
            "KB/stream",
            "client"
        );
        for mode in self.by_mode.keys() {
            let row = self.row(*mode);
            let both = |median: Option<f64>, spread: Option<f64>| match (median, spread) {
                (Some(median), Some(spread)) => format!("{median:.3} ±{spread:.3}"),
                _ => "-".to_owned(),
            };
            let one = |value: Option<f64>, digits: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let ratio = |median: Option<f64>, spread: Option<f64>| match (median, spread) {
                (Some(median), Some(spread)) => format!("{median:.2} ±{spread:.2}"),
                _ => "-".to_owned(),
            };
            let spreads = &row.spreads;
            let busy =
                self.summary(*mode, |measurement| Some(measurement.client_busy).filter(|busy| *busy > 0.0));
            println!(
                "  {:8} {:>16} {:>10} {:>11} {:>11} {:>11} {:>13} {:>9} {:>9} {:>9} {:>6}{}",
                mode,
                both(row.cpu_us, spreads.cpu_us),
                one(row.cpu_us_without_ingest, 3),
                ratio(row.ratio_tcp, spreads.ratio_tcp),
                ratio(row.ratio_naive, spreads.ratio_naive),
                ratio(row.ratio_nats, spreads.ratio_nats),
                one(row.deliveries_per_second, 0),
                one(row.p50_us, 0),
                one(row.p99_us, 0),
                one(row.rss_kb_per_stream, 2),
                one(busy.map(|busy| busy.median), 2),
                match (&row.congestion, row.stalled_streams_ended) {
                    (None, _) => format!("  ({} could not be set)", self.case.congestion),
                    (_, Some(ended)) => format!("  ({ended} stalled streams ended)"),
                    _ => String::new(),
                },
            );
        }
        for goal in &self.case.goals {
            let found = match goal.measure {
                Measure::Ratio(other) => {
                    self.by_mode.get(&Mode::Hawking).and_then(|_| self.ratio(Mode::Hawking, other))
                }
                Measure::RssPerStream => self
                    .by_mode
                    .get(&Mode::Hawking)
                    .and_then(|_| self.summary(Mode::Hawking, |measurement| measurement.rss_kb_per_stream)),
            };
            let Some(found) = found else { continue };
            let what = match goal.measure {
                Measure::Ratio(other) => format!("x {other}"),
                Measure::RssPerStream => "KB for each stream".to_owned(),
            };
            let verdict = if found.is_at_most(goal.limit) { "holds" } else { "MISSED" };
            let (row, limit) = (goal.row, goal.limit);
            println!(
                "  row {row}: {:.2} ±{:.2} {what}, goal {limit:.2}: {verdict}",
                found.median, found.spread
            );
        }
    }
}
