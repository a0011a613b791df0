//! One round: a source, a server and a client are started, measured and ended.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::{
    case::{Case, Stall, Subject},
    certificate::Certificate,
    client::{Client, tally::Tally},
    machine::{Accounts, Placement},
    mode::{Mode, Topology},
    process::{Programs, Running, Setup},
    source::{
        control::{Remote, Sent},
        pace::{Order, Speed},
    },
};

/// Streams must have begun until then.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// Without a delivery for so long the round has failed.
const PROGRESS_WITHIN: Duration = Duration::from_secs(10);

/// Events of a round that is checked rather than timed.
const CHECKED_EVENTS: u64 = 320;

/// hawking's log where it has to be overtaken soon.
const SMALL_LOG: usize = 4 << 20;

/// What one round gave.
#[derive(Debug, Clone, Default)]
pub struct Measurement {
    /// As it was in force; `None` where it could not be set.
    pub congestion: Option<String>,
    /// Server CPU for each delivery, ingest included.
    pub cpu_us: Option<f64>,
    pub events_per_second: f64,
    pub deliveries_per_second: f64,
    /// How much of one CPU the client took: near 1 it may be what limits.
    pub client_busy: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub rss_kb_per_stream: Option<f64>,
    /// Streams of those that take nothing that the server has ended.
    pub stalled_ended: Option<usize>,
}

/// What rounds have in common.
pub struct Laboratory<'a> {
    pub programs: &'a Programs,
    pub seconds: f64,
    /// What comes first is not measured.
    pub warm_up: Duration,
    /// Also measure what ingest alone costs.
    pub ingest: bool,
}

/// Server, source and client of one round.
struct Bench {
    running: Running,
    remote: Remote,
    client: Client,
    streams: u64,
}

impl Bench {
    fn start(
        lab: &Laboratory<'_>,
        case: &Case,
        mode: Mode,
        topology: &Topology,
        tally: Tally,
        placement: &Placement,
    ) -> Result<(Self, u64)> {
        let log_bytes = matches!(case.subject, Subject::Stalled(_)).then_some(SMALL_LOG);
        let certificate = if case.tls { Some(Certificate::issue()?) } else { None };
        let setup = Setup {
            mode,
            congestion: Some(case.congestion),
            workers: case.workers,
            log_bytes,
            flavour: case.flavour,
            certificate: certificate.as_ref(),
        };
        let running = Running::start(&setup, lab.programs, placement)?;
        let remote = Remote::connect(running.control)?;
        let rss_before = settled_rss(running.accounts())?;
        let mut client = Client::connect(running.listen, topology.wires(mode), tally, certificate.as_ref())?;
        client.open(OPEN_WITHIN)?;
        Ok((Self { running, remote, client, streams: topology.streams as u64 }, rss_before))
    }

    /// Lets events flow for so long. Gives those that came on all streams together.
    fn flow(&mut self, duration: Duration) -> Result<u64> {
        let (end, before) = (Instant::now() + duration, self.client.tally.events);
        let (mut seen, mut progress) = (before, Instant::now());
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.client.turn(left.min(Duration::from_millis(20)))?;
            let events = self.client.tally.events;
            if self.streams == 0 {
                continue;
            }
            self.remote.consumed(events / self.streams)?;
            if events != seen {
                (seen, progress) = (events, Instant::now());
            } else if progress.elapsed() > PROGRESS_WITHIN {
                bail!("nothing came for {PROGRESS_WITHIN:?}");
            }
        }
        Ok(self.client.tally.events - before)
    }

    /// Waits until so many deliveries have come in all, as long as any come.
    fn until_came(&mut self, deliveries: u64) -> Result<()> {
        let mut progress = Instant::now();
        while self.client.tally.events < deliveries {
            if self.flow(Duration::from_millis(20))? > 0 {
                progress = Instant::now();
            } else if progress.elapsed() > PROGRESS_WITHIN {
                bail!("{} deliveries of {deliveries} came", self.client.tally.events);
            }
        }
        Ok(())
    }

    /// No gap was told, and no stream and no connection has ended.
    fn is_whole(&self) -> Result<()> {
        let tally = &self.client.tally;
        ensure!(tally.gaps == 0, "{} gaps", tally.gaps);
        ensure!(tally.ends.is_empty(), "{} streams have ended: {:?} ...", tally.ends.len(), tally.ends[0]);
        ensure!(self.client.ended() == 0, "{} connections have ended", self.client.ended());
        Ok(())
    }

    /// Each of these streams has got all that was sent.
    fn all_came_on(&self, mut streams: impl Iterator<Item = usize>, sent: u64) -> Result<()> {
        streams.try_for_each(|stream| {
            let came = self.client.tally.of_stream(stream);
            ensure!(came == sent, "{came} events of {sent} came on stream {stream}");
            Ok(())
        })
    }
}

/// The memory once it has stopped moving.
fn settled_rss(accounts: Accounts) -> Result<u64> {
    std::thread::sleep(Duration::from_millis(200));
    Ok(accounts.rss_kib()?)
}

/// A round that is not timed: the order and the content of all events on all streams are checked.
pub fn check(lab: &Laboratory<'_>, case: &Case, mode: Mode) -> Result<()> {
    let placement = Placement::new(case.pinned)?;
    let topology = case.topology.without_stalls();
    let tally = topology.checking_tally(mode);
    let (mut bench, _) = Bench::start(lab, case, mode, &topology, tally, &placement)?;
    let speed = Speed::Closed { ahead: 64 };
    bench.remote.start(Order { speed, burst: case.burst, count: CHECKED_EVENTS })?;
    let all = CHECKED_EVENTS * bench.streams;
    bench.until_came(all)?;
    let sent = bench.remote.stop()?.events;
    // Should there be one too many, it comes now.
    bench.client.run_for(Duration::from_millis(100))?;
    let tally = &bench.client.tally;
    ensure!(tally.events == all, "{} deliveries of {all} came", tally.events);
    ensure!(tally.gaps == 0 && tally.ends.is_empty(), "{} gaps, ended: {:?}", tally.gaps, tally.ends);
    tally.is_complete(sent)
}

/// A timed round.
pub fn measure(lab: &Laboratory<'_>, case: &Case, mode: Mode) -> Result<Measurement> {
    let placement = Placement::new(case.pinned)?;
    match case.subject {
        Subject::Cpu | Subject::Latency | Subject::Endurance => flowing(lab, case, mode, &placement),
        Subject::Memory => memory(lab, case, mode, &placement),
        Subject::Stalled(stall) => stalled(lab, case, stall, &placement),
    }
}

/// What it costs the server to take in so many events a second when nobody listens, in microseconds for each event.
pub fn measure_ingest(lab: &Laboratory<'_>, case: &Case, mode: Mode, rate: f64) -> Result<f64> {
    let placement = Placement::new(case.pinned)?;
    let topology = Topology { streams: 0, connections: 0, ..case.topology }.without_stalls();
    let (mut bench, _) = Bench::start(lab, case, mode, &topology, Tally::counting(0), &placement)?;
    let order = Order { speed: Speed::Rate(rate), burst: case.burst, count: 0 };
    bench.remote.start(order)?;
    bench.flow(lab.warm_up)?;
    let sent = bench.remote.stop()?.events;
    let cpu = bench.running.accounts().cpu()?;
    bench.remote.start(order)?;
    let some_bursts = Duration::from_secs_f64(4.0 * case.burst as f64 / rate);
    bench.flow(case.measuring_time(lab.seconds).max(some_bursts))?;
    let events = bench.remote.stop()?.events - sent;
    let cpu = bench.running.accounts().cpu()? - cpu;
    ensure!(events > 0, "no event was sent");
    Ok(cpu.as_secs_f64() * 1e6 / events as f64)
}

fn flowing(lab: &Laboratory<'_>, case: &Case, mode: Mode, placement: &Placement) -> Result<Measurement> {
    let tally = Tally::counting(case.topology.streams);
    let (mut bench, _) = Bench::start(lab, case, mode, &case.topology, tally, placement)?;
    bench.remote.start(Order { speed: case.speed, burst: case.burst, count: 0 })?;
    bench.flow(lab.warm_up)?;
    if case.subject == Subject::Latency {
        bench.client.tally.measure_latency();
    }

    let client = Accounts::of(std::process::id());
    let (began, client_cpu, cpu) = (Instant::now(), client.cpu()?, bench.running.accounts().cpu()?);
    let deliveries = bench.flow(case.measuring_time(lab.seconds))?;
    let cpu = bench.running.accounts().cpu()? - cpu;
    let (client_cpu, seconds) = (client.cpu()? - client_cpu, began.elapsed().as_secs_f64());

    let Sent { events: sent, vanished } = bench.remote.stop()?;
    let all = sent * bench.streams;
    if case.subject == Subject::Endurance {
        ensure!(vanished == 0, "{vanished} of {sent} events vanished because they were not read at once");
        let end = Instant::now() + PROGRESS_WITHIN;
        while bench.client.tally.events < all && Instant::now() < end {
            bench.client.turn(Duration::from_millis(20))?;
        }
    }
    // Why something is missing comes before that it is.
    ensure!(deliveries > 0, "nothing was delivered");
    bench.is_whole()?;
    if case.subject == Subject::Endurance {
        bench.all_came_on(0..case.topology.streams, sent)?;
    }

    let latencies = bench.client.tally.latencies();
    Ok(Measurement {
        congestion: bench.running.congestion.clone(),
        cpu_us: Some(cpu.as_secs_f64() * 1e6 / deliveries as f64),
        events_per_second: deliveries as f64 / bench.streams as f64 / seconds,
        deliveries_per_second: deliveries as f64 / seconds,
        client_busy: client_cpu.as_secs_f64() / seconds,
        p50_us: quantile_us(&latencies, 0.5),
        p99_us: quantile_us(&latencies, 0.99),
        ..Measurement::default()
    })
}

fn memory(lab: &Laboratory<'_>, case: &Case, mode: Mode, placement: &Placement) -> Result<Measurement> {
    let tally = Tally::counting(case.topology.streams);
    let (mut bench, before) = Bench::start(lab, case, mode, &case.topology, tally, placement)?;
    bench.remote.start(Order { speed: case.speed, burst: case.burst, count: 0 })?;
    bench.flow(case.measuring_time(lab.seconds))?;
    let sent = bench.remote.stop()?.events;
    bench.until_came(sent * bench.streams)?;
    bench.client.run_for(Duration::from_secs(1))?;
    // What each stream costs is asked of streams that were all in use.
    bench.is_whole()?;
    ensure!(sent > 0, "nothing was sent");
    let came = bench.client.tally.events;
    ensure!(came == sent * bench.streams, "{came} deliveries of {sent} events to {} streams", bench.streams);
    if mode != Mode::Tcp {
        bench.all_came_on(0..case.topology.streams, sent)?;
    }
    let after = settled_rss(bench.running.accounts())?;
    Ok(Measurement {
        congestion: bench.running.congestion.clone(),
        rss_kb_per_stream: Some((after.saturating_sub(before)) as f64 / bench.streams as f64),
        ..Measurement::default()
    })
}

/// Half of the streams take nothing, unless nobody is to stall. The others miss nothing for it.
fn stalled(lab: &Laboratory<'_>, case: &Case, stall: Stall, placement: &Placement) -> Result<Measurement> {
    let tally = Tally::counting(case.topology.streams);
    let (mut bench, before) = Bench::start(lab, case, Mode::Hawking, &case.topology, tally, placement)?;
    bench.client.deafen_last(case.topology.deaf);
    bench.remote.start(Order { speed: case.speed, burst: case.burst, count: 0 })?;
    // Until those that take nothing have stopped.
    bench.flow(Duration::from_millis(500))?;
    bench.client.tally.measure_latency();
    let first = bench.running.accounts().rss_kib()?;
    bench.flow(case.measuring_time(lab.seconds))?;
    let most = bench.running.accounts().rss_kib()?.max(first);
    let sent = bench.remote.stop()?.events;
    let latencies = bench.client.tally.latencies();
    let (healthy, standing_still): (Vec<_>, Vec<_>) =
        (0..case.topology.streams).partition(|stream| case.topology.is_healthy(*stream));
    let of_all =
        |streams: &[usize], tally: &Tally| streams.iter().map(|stream| tally.of_stream(*stream)).sum::<u64>();
    let end = Instant::now() + PROGRESS_WITHIN;
    while of_all(&healthy, &bench.client.tally) < sent * healthy.len() as u64 && Instant::now() < end {
        bench.client.turn(Duration::from_millis(20))?;
    }
    ensure!(sent > 0, "nothing was sent");
    bench.all_came_on(healthy.iter().copied(), sent)?;
    for stream in &standing_still {
        let came = bench.client.tally.of_stream(*stream);
        ensure!(came < sent, "all {sent} events came on stream {stream}, which was to stand still");
    }
    if stall == Stall::Nowhere {
        bench.is_whole()?;
    }
    // Those that did not listen hear now how it ended.
    bench.client.listen_again();
    bench.client.run_for(Duration::from_millis(500))?;
    // Who stands still is ended, not skipped over; and nobody else is.
    let tally = &bench.client.tally;
    ensure!(tally.gaps == 0, "{} gaps", tally.gaps);
    if let Some((stream, end)) = tally.ends.iter().find(|(stream, _)| healthy.contains(stream)) {
        bail!("stream {stream} has ended, which takes what comes: {end:?}");
    }
    ensure!(
        stall == Stall::Separate || bench.client.ended() == 0,
        "{} connections have ended",
        bench.client.ended()
    );
    let standing = if stall == Stall::Nowhere { bench.streams } else { bench.streams / 2 };
    let log_kib = SMALL_LOG as u64 / 1024;
    Ok(Measurement {
        congestion: bench.running.congestion.clone(),
        p50_us: quantile_us(&latencies, 0.5),
        p99_us: quantile_us(&latencies, 0.99),
        rss_kb_per_stream: Some(most.saturating_sub(before + log_kib) as f64 / standing as f64),
        stalled_ended: (stall != Stall::Nowhere).then_some(bench.client.tally.ends.len()),
        ..Measurement::default()
    })
}

fn quantile_us(sorted: &[u64], quantile: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * quantile).round() as usize] as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        assert_eq!(quantile_us(&[], 0.5), None);
        let sorted: Vec<u64> = (0..=100).map(|n| n * 1000).collect();
        assert_eq!((quantile_us(&sorted, 0.5), quantile_us(&sorted, 0.99)), (Some(50.0), Some(99.0)));
    }
}
