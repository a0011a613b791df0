//! Row 9: what happens to a single event before it is sent to anybody, in thread CPU time.

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

    let mut samples: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds.max(1) {
        samples[0].push(time(&mut parse));
        samples[1].push(time(&mut matching));
    }
    let [parse, matching] = samples.map(|samples| Summary::of(&samples));
    let mut rows = Vec::new();
    println!("\nsingle events, thread CPU time");
    if let Some(parse) = parse {
        println!("  serde_json::Value of a frame: {:.0} ±{:.0} ns", parse.median, parse.spread);
    }
    if let Some(matching) = matching {
        let verdict = if matching.is_at_most(MATCHING_NS) { "holds" } else { "MISSED" };
        let Summary { median, spread } = matching;
        println!(
            "  row 9: matching, {BINDINGS} bindings: {median:.0} ±{spread:.0} ns, goal {MATCHING_NS}: {verdict}"
        );
        rows.push(row("matching", matching, None));
    }
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
