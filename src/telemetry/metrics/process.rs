//! What the kernel knows of the process, under the names that every Prometheus client gives it. Linux alone tells; elsewhere
//! there is only the time at which it began.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{catalogue, family::Sheet};

/// What Linux counts the time of processes in (`USER_HZ`), the same on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what can be found out.
pub(super) fn write(sheet: &mut Sheet, started: SystemTime) {
    let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // The one that the directory itself is read by is not counted.
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));

    sheet.maybe(&catalogue::CPU, stat.as_ref().map(|stat| stat.cpu));
    sheet.maybe(&catalogue::RESIDENT, field(&status, "VmRSS:").map(|kilobytes| kilobytes << 10));
    sheet.maybe(&catalogue::VIRTUAL, field(&status, "VmSize:").map(|kilobytes| kilobytes << 10));
    sheet.maybe(&catalogue::OPEN_FDS, open);
    sheet.maybe(&catalogue::MAX_FDS, field(&limits, "Max open files"));
    sheet.maybe(&catalogue::THREADS, field(&status, "Threads:"));
    let booted = fs::read_to_string("/proc/stat").ok().and_then(|text| field(&text, "btime"));
    let begun =
        booted.zip(stat).map(|(at, stat)| SystemTime::UNIX_EPOCH + Duration::from_secs(at) + stat.begun);
    sheet.one(&catalogue::START_TIME, [], begun.unwrap_or(started));
}

/// From `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    /// Of user and system.
    cpu: Duration,
    /// Since the machine was started.
    begun: Duration,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses: it may have anything in it.
        let (_, fields) = text.rsplit_once(')')?;
        let ticks = |number: usize| {
            // The first one after the name is the third.
            fields.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok().map(|ticks| ticks as f64)
        };
        let seconds = |ticks: f64| Duration::from_secs_f64(ticks / TICKS_PER_SECOND);
        Some(Self { cpu: seconds(ticks(14)? + ticks(15)?), begun: seconds(ticks(22)?) })
    }
}

/// The first number after a line's name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_says() {
        let stat = "17 (a) b) c) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1234 1 1 1";
        let expected = Stat { cpu: Duration::from_secs(3), begun: Duration::from_millis(12_340) };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(Stat::parse("17 (a) S 1"), None);
        // A machine that has been up for more than 497 days.
        let old = stat.replace("1234", "5000000000");
        assert_eq!(Stat::parse(&old).map(|stat| stat.begun), Some(Duration::from_secs(50_000_000)));

        let limits = "Limit     Soft Limit   Hard Limit   Units\nMax open files    1024     4096    files\n";
        assert_eq!(field(limits, "Max open files"), Some(1024));
        assert_eq!(field("Max open files   unlimited", "Max open files"), None);
        assert_eq!(field("VmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
    }
}
