//! What is measured: the cases, and the goals of the rows that they belong to.

use std::time::Duration;

use crate::{client::h2::Windows, mode::Mode, mode::Topology, source::pace::Speed};

/// Events that the source may be ahead of its consumers.
const AHEAD: u64 = 64;

/// The congestion control under which all is measured, unless a case names another.
pub const CONGESTION: &str = "bbr";

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Subject {
    /// Server CPU for each delivery.
    Cpu,
    /// The time from the source's write to the client's read; CPU as well.
    Latency,
    /// Resident memory for each stream, after traffic.
    Memory,
    /// How healthy streams fare beside consumers that take nothing.
    Stalled(Stall),
    /// A long run in which nothing may be lost.
    Endurance,
}

/// Where the consumers are that take nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stall {
    /// None: the same without them.
    Nowhere,
    /// On the connections of healthy streams.
    Shared,
    /// On connections of their own, which are not read at all.
    Separate,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    /// The rows of the goals that it is for.
    pub rows: &'static [u8],
    pub subject: Subject,
    pub topology: Topology,
    pub speed: Speed,
    pub burst: u64,
    pub congestion: &'static str,
    /// Of the server.
    pub workers: usize,
    pub pinned: bool,
    /// Whether consumers are served over TLS.
    pub tls: bool,
    /// Which Kazoo the source is. Of 4.3 events vanish that are not read at once.
    pub flavour: &'static str,
    pub modes: &'static [Mode],
    pub goals: Vec<Goal>,
    /// How long it is measured; `None` where the command line says.
    pub seconds: Option<f64>,
}

/// hawking's result must not be above this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    pub row: u8,
    pub measure: Measure,
    pub limit: f64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// To the same round's result of another: CPU, or the median latency where that is the subject.
    Ratio(Mode),
    /// KiB of memory for each stream.
    RssPerStream,
}

const ALL: &[Mode] = &[Mode::Hawking, Mode::Tcp, Mode::Naive, Mode::Nats];

fn goal(row: u8, to: Mode, limit: f64) -> Goal {
    Goal { row, measure: Measure::Ratio(to), limit }
}

fn topology(streams: usize, connections: usize) -> Topology {
    Topology { streams, connections, windows: Windows::TONIC, distinct: false, stalled: 0, deaf: 0 }
}

fn saturated(streams: usize, connections: usize, congestion: &'static str, goals: Vec<Goal>) -> Case {
    Case {
        name: "saturated",
        rows: &[1, 2, 3],
        subject: Subject::Cpu,
        topology: topology(streams, connections),
        speed: Speed::Closed { ahead: AHEAD },
        burst: 32,
        congestion,
        workers: 1,
        pinned: true,
        tls: false,
        flavour: "k4",
        modes: ALL,
        goals,
        seconds: None,
    }
}

fn at_rate(name: &'static str, rows: &'static [u8], rate: f64, streams: usize, connections: usize) -> Case {
    let speed = Speed::Rate(rate);
    Case { name, rows, speed, burst: 1, ..saturated(streams, connections, CONGESTION, Vec::new()) }
}

fn memory(name: &'static str, streams: usize, connections: usize, modes: &'static [Mode]) -> Case {
    let subject = Subject::Memory;
    Case { subject, modes, seconds: Some(1.0), ..at_rate(name, &[7], 100.0, streams, connections) }
}

fn stalled(name: &'static str, stall: Stall, streams: usize, connections: usize) -> Case {
    let mut case = at_rate(name, &[10], 1000.0, streams, connections);
    case.subject = Subject::Stalled(stall);
    // Small windows: what stands still must stand still soon.
    case.topology.windows.stream = Windows::SMALL.stream;
    match stall {
        Stall::Nowhere => {}
        Stall::Shared => case.topology.stalled = streams / connections / 2,
        Stall::Separate => case.topology.deaf = streams / 2,
    }
    case.modes = &[Mode::Hawking];
    case.seconds = Some(8.0);
    case
}

/// One case of each kind, small.
pub fn smoke() -> Vec<Case> {
    const KINDS: [&str; 10] = [
        "saturated",
        "saturated-64-kib-windows",
        "paced",
        "latency",
        "memory",
        "views",
        "stalled-shared",
        "stalled-separate",
        "endurance",
        "paced-tls",
    ];
    let first = |kind| all().into_iter().find(|case| case.name == kind && case.topology.streams > 1);
    KINDS.into_iter().filter_map(first).map(Case::shrunk).collect()
}

/// All cases, in the order of their rows.
pub fn all() -> Vec<Case> {
    use Mode::{Naive, Nats, Tcp};

    let mut cases = vec![
        saturated(1, 1, CONGESTION, vec![]),
        saturated(10, 1, CONGESTION, vec![]),
        saturated(100, 5, CONGESTION, vec![goal(1, Tcp, 1.6), goal(2, Naive, 1.0 / 3.5), goal(3, Nats, 0.9)]),
        saturated(
            1000,
            50,
            CONGESTION,
            vec![goal(1, Tcp, 1.6), goal(2, Naive, 1.0 / 3.5), goal(3, Nats, 0.6)],
        ),
        saturated(100, 100, CONGESTION, vec![goal(3, Nats, 0.6)]),
        saturated(100, 5, "cubic", vec![goal(1, Tcp, 2.0), goal(2, Naive, 1.0 / 5.0)]),
        saturated(1000, 50, "cubic", vec![goal(1, Tcp, 2.0), goal(2, Naive, 1.0 / 5.0)]),
    ];

    // Without bursts: how much is left of the gain when a batch has to be found first.
    cases.push(Case {
        name: "saturated-burst-1",
        burst: 1,
        rows: &[1],
        ..saturated(100, 5, CONGESTION, vec![])
    });

    let mut small = saturated(100, 5, CONGESTION, vec![]);
    small.name = "saturated-64-kib-windows";
    small.topology.windows = Windows::SMALL;
    small.modes = &[Mode::Hawking, Naive];
    cases.push(small);

    let mut paced = at_rate("paced", &[4], 1000.0, 100, 5);
    paced.goals = vec![goal(4, Tcp, 1.7), goal(4, Naive, 0.25), goal(4, Nats, 0.85)];
    cases.push(paced);

    let mut alone = at_rate("paced", &[5], 1000.0, 100, 100);
    alone.goals = vec![goal(5, Tcp, 1.15)];
    cases.push(alone);

    let mut latency = at_rate("latency", &[6], 200.0, 100, 5);
    latency.subject = Subject::Latency;
    latency.goals = vec![goal(6, Tcp, 1.2), goal(6, Naive, 0.25), goal(6, Nats, 0.7)];
    cases.push(latency);

    let mut many = memory("memory", 5000, 250, ALL);
    many.goals = vec![Goal { row: 7, measure: Measure::RssPerStream, limit: 5.0 }];
    cases.push(many);
    let mut views = memory("views", 5000, 250, &[Mode::Hawking]);
    views.topology.distinct = true;
    views.goals = vec![Goal { row: 7, measure: Measure::RssPerStream, limit: 9.0 }];
    cases.push(views);
    cases.push(memory("memory", 10_000, 500, &[Mode::Hawking]));

    cases.push(stalled("healthy", Stall::Nowhere, 100, 5));
    cases.push(stalled("stalled-shared", Stall::Shared, 200, 10));
    cases.push(stalled("stalled-separate", Stall::Separate, 200, 105));

    let mut endurance = at_rate("endurance", &[11], 5000.0, 100, 5);
    endurance.flavour = "4.3";
    (endurance.subject, endurance.modes, endurance.seconds) =
        (Subject::Endurance, &[Mode::Hawking], Some(60.0));
    cases.push(endurance);

    let mut encrypted = at_rate("paced-tls", &[12], 1000.0, 100, 5);
    (encrypted.tls, encrypted.modes, encrypted.goals) =
        (true, &[Mode::Hawking, Tcp], vec![goal(12, Tcp, 1.8)]);
    cases.push(encrypted);

    // Both CPUs for all, as it is outside of a laboratory.
    let mut together = saturated(100, 5, CONGESTION, vec![goal(13, Tcp, 1.6 * 1.3)]);
    (together.name, together.rows, together.workers, together.pinned) =
        ("saturated-two-workers", &[13], 2, false);
    cases.push(together);
    let mut together = at_rate("paced-two-workers", &[13], 1000.0, 100, 5);
    (together.workers, together.pinned, together.goals) = (2, false, vec![goal(13, Tcp, 1.7 * 1.3)]);
    cases.push(together);
    cases
}

impl Case {
    /// The same, small, short and slow: to see whether it works, also in a build that is not optimised.
    pub fn shrunk(mut self) -> Self {
        let Topology { streams, connections, deaf, .. } = self.topology;
        let share = |number: usize| number * streams.min(40) / streams;
        self.topology.streams = share(streams);
        self.topology.deaf = share(deaf);
        self.topology.connections = share(connections - deaf).max(1) + share(deaf);
        if let Speed::Rate(rate) = &mut self.speed {
            *rate = rate.min(500.0);
        }
        self.seconds = Some(0.3);
        self.goals.clear();
        self
    }

    /// Events a second, where they are fixed.
    pub fn rate(&self) -> Option<f64> {
        match self.speed {
            Speed::Rate(rate) => Some(rate),
            Speed::Closed { .. } => None,
        }
    }

    /// A line that says what is done.
    pub fn describe(&self) -> String {
        let (streams, connections) = (self.topology.streams, self.topology.connections);
        let speed = match self.speed {
            Speed::Rate(rate) => format!("{rate} events/s"),
            Speed::Closed { .. } => "as fast as they are taken".to_owned(),
        };
        let (burst, congestion) = (self.burst, self.congestion);
        let tls = if self.tls { ", TLS" } else { "" };
        format!(
            "{}: {streams} streams on {connections} connections, {speed}, bursts of {burst}, {congestion}{tls}",
            self.name
        )
    }

    pub fn measuring_time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_case_is_smoked_and_connections_are_enough_for_those_that_stop_reading() {
        let smoked = smoke();
        assert_eq!(smoked.len(), 10);
        for case in smoked.iter().chain(&all()) {
            let Topology { streams, connections, deaf, .. } = case.topology;
            assert!(connections > deaf && streams >= connections, "{}", case.describe());
        }
    }

    #[test]
    fn each_row_that_is_measured_between_processes_has_a_case() {
        for row in [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13] {
            assert!(all().iter().any(|case| case.rows.contains(&row)), "row {row}");
        }
    }
}
