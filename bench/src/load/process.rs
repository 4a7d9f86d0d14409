//! What a process costs, as the kernel tells it.

use std::fs;
use std::time::Duration;

/// The broker's process, if its number was given.
#[derive(Debug, Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// CPU time it has used, children not included.
    ///
    /// # Errors
    /// There is no such process.
    pub fn cpu(self) -> Result<Duration, String> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // The name in parentheses may hold anything.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let field = |at: usize| rest.split(' ').nth(at).and_then(|it| it.parse::<u64>().ok());
        let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
        let ticks = ticks.ok_or_else(|| format!("{path} cannot be read"))?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Memory that is its own, in bytes.
    ///
    /// # Errors
    /// There is no such process, or it is somebody else's.
    pub fn private_bytes(self) -> Result<u64, String> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let of = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|it| it.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok((of("Private_Clean:") + of("Private_Dirty:")) * 1024)
    }
}

/// Memory of the kernel for its objects, in bytes; of the whole machine.
#[must_use]
pub fn slab_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the machine is, for a report.
#[must_use]
pub fn machine() -> serde_json::Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    serde_json::json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": model.map(|it| it.trim_start_matches([' ', '\t', ':'])),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
    })
}
