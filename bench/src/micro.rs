//! Row 9: what happens to a single event before it is sent to anybody, in thread CPU time.

mod ingest;
mod views;

use std::{hint::black_box, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;
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

/// Row 9's goal for an event among many views, as a part of what it costs among few.
const VIEWS_RATIO: f64 = 1.3;
const MANY_VIEWS: usize = 10_000;
const FEW_VIEWS: usize = 100;

/// Events that are taken in, in one round.
const EVENTS: u64 = 20_000;

/// Each round of a measurement takes about so long.
const ROUND: Duration = Duration::from_millis(100);

/// One of them, done so many times and not timed: for a profiler that counts instructions, which are the same on a busy
/// machine. Twice the number minus once the number is what it costs without its preparation.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Operation {
    /// A frame to `serde_json::Value`.
    Parse,
    /// A frame to the record in the log.
    Ingest,
    /// The frames that are taken in, alone.
    Frames,
    /// A key among ten thousand bindings.
    Match,
    /// A record into the log, with a hundred views of its binding.
    FewViews,
    /// The same with ten thousand.
    ManyViews,
}

/// Does an operation so many times.
pub fn repeat(operation: Operation, times: u64) -> Result<()> {
    let each = |operation: &mut dyn FnMut(usize)| (0..times as usize).for_each(operation);
    match operation {
        Operation::Parse => each(&mut parse(texts()?)),
        Operation::Ingest => _ = ingest::take_in(times, || 0)?,
        Operation::Frames => _ = ingest::make_frames(times, || 0),
        Operation::Match => each(&mut find(bindings()?)),
        Operation::FewViews => append(&mut views::Crowd::new(FEW_VIEWS)?, times, || 0).map(drop)?,
        Operation::ManyViews => append(&mut views::Crowd::new(MANY_VIEWS)?, times, || 0).map(drop)?,
    }
    Ok(())
}

/// Measures all of it, and prints it.
pub fn run(rounds: usize) -> Result<Vec<Row>> {
    let placement = Placement::new(false)?;
    placement.enter(Side::Driver)?;
    let mut parse = parse(texts()?);
    let mut find = find(bindings()?);
    let (mut few, mut many) = (views::Crowd::new(FEW_VIEWS)?, views::Crowd::new(MANY_VIEWS)?);

    let [mut parsing, mut taking_in, mut finding, mut among_few, mut among_many] = [const { Vec::new() }; 5];
    for _ in 0..rounds.max(1) {
        parsing.push(time(&mut parse));
        taking_in.push(ingest::measure(EVENTS)?);
        finding.push(time(&mut find));
        among_few.push(append(&mut few, EVENTS, thread_cpu_ns)?);
        among_many.push(append(&mut many, EVENTS, thread_cpu_ns)?);
    }
    let ratios = |of: &[f64], to: &[f64]| of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<f64>>();
    let ratio = Summary::of(&ratios(&taking_in, &parsing)).unwrap_or_default();
    let views_ratio = Summary::of(&ratios(&among_many, &among_few)).unwrap_or_default();
    let [parsing, taking_in, finding, few, many] = [parsing, taking_in, finding, among_few, among_many]
        .map(|samples| Summary::of(&samples).unwrap_or_default());

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
    println!(
        "  row 9: appending among {FEW_VIEWS} views {few:.0} ns, among {MANY_VIEWS} {many:.0} ns, {views_ratio:.2} times, \
         goal {VIEWS_RATIO}: {}",
        verdict(views_ratio.is_at_most(VIEWS_RATIO))
    );
    let mut rows = vec![
        row("ingest", taking_in, Some(parsing)),
        row("matching", finding, None),
        row("views-of-a-binding", many, Some(few)),
    ];
    rows.iter_mut().for_each(|row| row.rounds = rounds.max(1));
    Ok(rows)
}

fn parse(frames: Vec<String>) -> impl FnMut(usize) {
    move |number| {
        let value: Result<serde_json::Value, _> = serde_json::from_str(&frames[number % frames.len()]);
        let _ = black_box(value);
    }
}

fn find((index, keys): (Index<usize>, Vec<String>)) -> impl FnMut(usize) {
    move |number| {
        let mut met = 0usize;
        index.for_each_match(black_box(keys[number % keys.len()].as_str()), |_| met += 1);
        black_box(met);
    }
}

/// By a clock, for each of so many events.
fn append(crowd: &mut views::Crowd, events: u64, clock: impl Fn() -> u64) -> Result<f64> {
    let batch = crowd.events(events as usize)?;
    let began = clock();
    crowd.append(batch)?;
    Ok((clock() - began) as f64 / events as f64)
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
