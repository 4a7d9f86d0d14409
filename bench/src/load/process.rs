//! What a process costs, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A program that says what it is takes less.
const VERSION_LONGEST: Duration = Duration::from_secs(2);

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

    /// Time that its threads have run, to the nanosecond. Those that have ended are not in it.
    ///
    /// # Errors
    /// There is no such process, or the kernel does not say.
    pub fn ran(self) -> Result<Duration, String> {
        self.sum_over_threads("schedstat", |text| text.split(' ').next()?.parse().ok())
            .map(Duration::from_nanos)
    }

    /// How often its threads have gone to sleep by themselves.
    ///
    /// # Errors
    /// There is no such process.
    pub fn sleeps(self) -> Result<u64, String> {
        self.sum_over_threads("status", |text| {
            let line = text.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        })
    }

    fn sum_over_threads(
        self,
        file: &str,
        value: impl Fn(&str) -> Option<u64>,
    ) -> Result<u64, String> {
        let folder = format!("/proc/{}/task", self.0);
        let mut sum = 0;
        for thread in fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))? {
            let path = thread.map_err(|error| format!("{folder}: {error}"))?.path().join(file);
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            sum += value(&text).ok_or_else(|| format!("{} cannot be read", path.display()))?;
        }
        Ok(sum)
    }

    /// What its program says to `--version`, in one line. `None` if it does not say so at once.
    #[must_use]
    pub fn build(self) -> Option<String> {
        let program = fs::read_link(format!("/proc/{}/exe", self.0)).ok()?;
        let mut asked = Command::new(format!("/proc/{}/exe", self.0));
        asked.arg0(program).arg("--version");
        asked.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = asked.spawn().ok()?;
        let mut out = child.stdout.take()?;
        let (answer, answered) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            if out.read_to_string(&mut text).is_ok() {
                // Whoever asked may have given up.
                let _ = answer.send(text);
            }
        });
        let text = answered.recv_timeout(VERSION_LONGEST).ok();
        // A program that takes the word for something else must not go on.
        let _ = child.kill();
        let _ = child.wait();
        text?.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// Memory that is its own.
    ///
    /// # Errors
    /// There is no such process, or it is somebody else's.
    pub fn memory(self) -> Result<Memory, String> {
        let path = format!("/proc/{}/smaps_rollup", self.0);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let of = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|it| it.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Memory {
            private_bytes: (of("Private_Clean:") + of("Private_Dirty:")) * 1024,
            pss_bytes: of("Pss:") * 1024,
        })
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Pages that no other process has.
    pub private_bytes: u64,
    /// These, and its share of the others.
    pub pss_bytes: u64,
}

/// Bytes of each of the kernel's caches of objects; none if they may not be read.
#[must_use]
pub fn slab_caches() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    text.lines().filter_map(|line| cache_bytes(line, page)).collect()
}

/// A line of `/proc/slabinfo`: name, then numbers, of which the fifth is pages per slab and the last
/// but one is slabs.
fn cache_bytes(line: &str, page: u64) -> Option<(String, u64)> {
    let (front, slabs) = line.split_once(": slabdata")?;
    let mut front = front.split_whitespace();
    let name = front.next()?.to_owned();
    let pages: u64 = front.nth(4)?.parse().ok()?;
    let slabs: u64 = slabs.split_whitespace().nth(1)?.parse().ok()?;
    Some((name, pages * slabs * page))
}

/// Memory of the kernel for its objects, in bytes; of the whole machine.
#[must_use]
pub fn slab_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// TCP sockets that the machine has, of all processes.
#[must_use]
pub fn tcp_sockets() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_once(" alloc ")?.1.split_whitespace().next()?.parse().ok()
}

/// Cores of the machine, whether or not this process may use them.
#[must_use]
pub fn cores() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match count_ranges(online.trim()) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        cores => cores,
    }
}

/// How many numbers a text such as `0-3,6` stands for.
fn count_ranges(text: &str) -> usize {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((last.parse::<usize>().ok()? + 1).saturating_sub(first.parse().ok()?))
    };
    text.split(',').filter_map(range).sum()
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
        "cores": cores(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_its_slabs_of_pages() {
        let line = "TCP   140  156  2560  12  8 : tunables 0 0 0 : slabdata  13  14  0";
        assert_eq!(cache_bytes(line, 4096), Some(("TCP".to_owned(), 14 * 8 * 4096)));
        assert_eq!(cache_bytes("# name <active_objs>", 4096), None);
    }

    #[test]
    fn cores_are_counted_in_ranges() {
        for (text, count) in [("0", 1), ("0-1", 2), ("0-3,6,8-9", 7), ("", 0), ("x", 0)] {
            assert_eq!(count_ranges(text), count, "{text}");
        }
    }

    #[test]
    fn sockets_are_counted() {
        let _one = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        assert!(tcp_sockets().is_some_and(|it| it > 0));
    }

    #[test]
    fn this_process_holds_memory_of_its_own() {
        let memory = Process(std::process::id()).memory().expect("readable");
        assert!(memory.private_bytes > 0 && memory.pss_bytes > 0);
    }

    /// Of a process with one thread: those of this one come and go with its tests.
    #[test]
    fn what_a_process_has_run_and_slept_is_counted() {
        let mut child = Command::new("bash").arg("-c").arg("read").stdin(Stdio::piped()).spawn();
        let child = child.as_mut().expect("started");
        let process = Process(child.id());
        let begin = std::time::Instant::now();
        while process.sleeps().expect("readable") == 0 {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "it waits for a line and does not sleep"
            );
        }
        assert!(process.ran().expect("readable") > Duration::ZERO);
        drop(child.stdin.take());
        child.wait().expect("ended");
    }

    #[test]
    fn a_program_is_asked_what_it_is() {
        let mut child = Command::new("bash").arg("-c").arg("read").stdin(Stdio::piped()).spawn();
        let child = child.as_mut().expect("started");
        let build = Process(child.id()).build();
        drop(child.stdin.take());
        child.wait().expect("ended");
        assert!(build.is_some_and(|it| it.contains("bash")));
    }
}
