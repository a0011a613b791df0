//! Row 9: what happens to a single event before it is sent to anybody, in thread CPU time.

mod ingest;

use std::{hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use hawking::binding::{Index, Pattern};

use crate::{
    machine::{Placement, Side, thread_cpu_ns},
    mode::Mode,
    report::results::{Row, Spreads},
    source::frames::Frames,
    statistics::Summary,
};

/// Distinct bindings in the index.
const BINDINGS: usize = 10_000;

/// Row 9's goal for one key among them.
const MATCHING_NS: f64 = 200.0;

/// Row 9's goal for taking a frame in, as a part of what parsing it alone costs.
const INGEST_RATIO: f64 = 0.45;

/// Events that are taken in, in one round.
const EVENTS: u64 = 20_000;

/// Each round of a measurement takes about so long.
const ROUND: Duration = Duration::from_millis(100);

/// Measures all of it, and prints it.
pub fn run(rounds: usize) -> Result<Vec<Row>> {
    let placement = Placement::new(false)?;
    placement.enter(Side::Driver)?;
    let frames = texts()?;
    let mut parse = |number: usize| {
        let value: Result<serde_json::Value, _> = serde_json::from_str(&frames[number % frames.len()]);
        let _ = black_box(value);
    };
    let (index, keys) = bindings()?;
    let mut matching = |number: usize| {
        let mut met = 0usize;
        index.for_each_match(black_box(keys[number % keys.len()].as_str()), |_| met += 1);
        black_box(met);
    };

    let [mut parsing, mut taking_in, mut finding] = [const { Vec::new() }; 3];
    for _ in 0..rounds.max(1) {
        parsing.push(time(&mut parse));
        taking_in.push(ingest::measure(EVENTS)?);
        finding.push(time(&mut matching));
    }
    let ratios: Vec<f64> = taking_in.iter().zip(&parsing).map(|(ingest, parse)| ingest / parse).collect();
    let [parsing, taking_in, finding, ratio] =
        [parsing, taking_in, finding, ratios].map(|samples| Summary::of(&samples).unwrap_or_default());

    println!("\nsingle events, thread CPU time");
    println!("  a frame as serde_json::Value: {parsing:.0} ns");
    let verdict = |met| if met { "holds" } else { "MISSED" };
    println!(
        "  row 9: from frame to record {taking_in:.0} ns, {ratio:.2} times that, goal {INGEST_RATIO}: {}",
        verdict(ratio.is_at_most(INGEST_RATIO))
    );
    println!(
        "  row 9: matching, {BINDINGS} bindings: {finding:.0} ns, goal {MATCHING_NS}: {}",
        verdict(finding.is_at_most(MATCHING_NS))
    );
    let mut rows = vec![row("ingest", taking_in, Some(parsing)), row("matching", finding, None)];
    rows.iter_mut().for_each(|row| row.rounds = rounds.max(1));
    Ok(rows)
}

/// Ten thousand different bindings, and keys that a few of them let through.
fn bindings() -> Result<(Index<usize>, Vec<String>)> {
    const NAMES: [&str; 4] = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_BRIDGE", "CHANNEL_DESTROY"];
    let mut index = Index::new();
    let mut patterns = Vec::with_capacity(BINDINGS);
    for number in 0..BINDINGS {
        let name = NAMES[number % NAMES.len()];
        let text = match number {
            0 => "call.*.*".to_owned(),
            1..=4 => format!("call.{name}.*"),
            _ if number % 10 < 5 => format!("call.{name}.id{number}"),
            _ if number % 10 < 8 => format!("call.*.id{number}"),
            _ => format!("presence.dialog.{number}"),
        };
        let pattern = Pattern::parse(&text)?;
        index.insert(&pattern, number);
        patterns.push(pattern);
    }
    let keys: Vec<String> =
        (0..64).map(|number| format!("call.{}.id{}", NAMES[number % NAMES.len()], number * 151)).collect();
    for key in &keys {
        let mut met = 0;
        index.for_each_match(key, |_| met += 1);
        let expected = patterns.iter().filter(|pattern| pattern.matches(key)).count();
        ensure!(met == expected, "{key} meets {met} bindings, not {expected}");
    }
    Ok((index, keys))
}

/// CPU time of one call, in nanoseconds.
fn time(operation: &mut dyn FnMut(usize)) -> f64 {
    let (began, mut calls) = (thread_cpu_ns(), 0);
    loop {
        for _ in 0..64 {
            operation(calls);
            calls += 1;
        }
        let elapsed = thread_cpu_ns() - began;
        if elapsed >= ROUND.as_nanos() as u64 {
            return elapsed as f64 / calls as f64;
        }
    }
}

fn texts() -> Result<Vec<String>> {
    let frames = Frames::new();
    let text = |sequence| {
        let mut text = Vec::new();
        frames.append(sequence, 0, &mut text);
        Ok(String::from_utf8(text)?)
    };
    (1..=64).map(text).collect()
}

fn row(case: &str, found: Summary, reference: Option<Summary>) -> Row {
    Row {
        ns: Some(found.median),
        reference_ns: reference.map(|reference| reference.median),
        spreads: Spreads { ns: Some(found.spread), ..Spreads::default() },
        ..Row::empty(Mode::Hawking, case)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_index_agrees_with_each_pattern_by_itself() {
        super::bindings().unwrap();
    }
}
