//! The machine that is measured on: clocks, CPUs, congestion control, and what the kernel accounts to a process.

use std::{fs, io, os::fd::AsFd, time::Duration};

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds of a clock that all processes of the machine share: a time stamp of one can be subtracted in another.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Nanoseconds for which this thread has run. Unlike the time of day, it stands still while others have the CPU.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Where processes run. A child inherits the CPUs of the thread that starts it, so the starting thread is moved before:
/// no moment is left in which the child's threads could begin elsewhere.
pub struct Placement {
    all: CpuSet,
    pinned: bool,
}

/// What runs where: the measured server alone, all else together.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    /// CPU 0.
    Server,
    /// CPU 1: the client and the source.
    Driver,
}

impl Placement {
    /// `pinned` asks for one CPU for each side; it needs two CPUs.
    pub fn new(pinned: bool) -> io::Result<Self> {
        let all = sched_getaffinity(None)?;
        if pinned && !(all.is_set(0) && all.is_set(1)) {
            return Err(io::Error::other("pinning needs the CPUs 0 and 1; try --unpinned"));
        }
        Ok(Self { all, pinned })
    }

    /// Moves this thread, and with it what it starts from now on.
    pub fn enter(&self, side: Side) -> io::Result<()> {
        if !self.pinned {
            return Ok(sched_setaffinity(None, &self.all)?);
        }
        let mut one = CpuSet::new();
        one.set(match side {
            Side::Server => 0,
            Side::Driver => 1,
        });
        Ok(sched_setaffinity(None, &one)?)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        // The thread may be used for something else; where it then runs is of no importance to results already taken.
        let _ = sched_setaffinity(None, &self.all);
    }
}

/// Sets the congestion control of a listener; connections that it accepts inherit it. An error means that the system does
/// not have it, or does not allow it to this user.
pub fn set_congestion(listener: impl AsFd, name: &str) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(listener, name)?)
}

/// The congestion control of a socket for which none is set.
pub fn default_congestion() -> String {
    let name = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    name.trim().to_owned()
}

/// The kernel's accounts of another process.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    pid: u32,
}

impl Accounts {
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// For how long all its threads ran, in user and kernel mode. (Threads that have ended are not counted any more: what
    /// is measured keeps its threads.)
    pub fn cpu(self) -> io::Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            // A thread may end in between.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let running: u64 =
                text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
            sum += running;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Its resident memory, in KiB.
    pub fn rss_kib(self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS: the process has ended"))
    }
}

/// The machine in a line: processor, number of CPUs, kernel.
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")))
        .map_or("unknown processor", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cpus} CPUs, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_accounts() {
        let accounts = Accounts::of(std::process::id());
        let before = accounts.cpu().unwrap();
        let began = thread_cpu_ns();
        while thread_cpu_ns() - began < 20_000_000 {}
        let used = accounts.cpu().unwrap() - before;
        assert!(used >= Duration::from_millis(10), "{used:?}");
        assert!(accounts.rss_kib().unwrap() > 100);
    }
}
