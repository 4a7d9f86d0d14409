//! How much memory the process has, as the kernel counts it; and what a thread gives back of it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::pump::load::ProcessLoad;

/// Where the kernel sums up all mappings of a process.
const ROLLUP: &str = "/proc/self/smaps_rollup";

/// A thread gives memory back at most so often.
const REST_MS: u64 = 5_000;
/// A thread with no more to do from one tick to the next is quiet.
const INPUTS_OF_A_QUIET_TICK: usize = 64;
/// How often it gives back after something has happened: first what has been free for a moment, and if nothing
/// happens any more all that is.
const TIMES: u8 = 2;

/// When a thread gives memory back that it has freed: the allocator does so by itself only for those who go on
/// allocating, and a flood that has ended may leave hundreds of megabytes.
#[derive(Debug, Default)]
pub struct GivesBack {
    /// Inputs since the last tick.
    inputs: usize,
    /// The last tick was quiet: what has been freed has been so for a while.
    was_quiet: bool,
    /// How often it still does for what has happened.
    left: u8,
    last_ms: u64,
}

impl GivesBack {
    /// So much has been done.
    pub const fn did(&mut self, inputs: usize) {
        self.inputs += inputs;
    }

    /// To be called at each tick; what the thread should give back now.
    #[must_use]
    pub const fn tick(&mut self, now_ms: u64) -> Option<Back> {
        let inputs = std::mem::replace(&mut self.inputs, 0);
        if inputs > 0 {
            self.left = TIMES;
        }
        let is_quiet = inputs <= INPUTS_OF_A_QUIET_TICK;
        let was_quiet = std::mem::replace(&mut self.was_quiet, is_quiet);
        let now = is_quiet && was_quiet && self.left > 0 && now_ms >= self.last_ms + REST_MS;
        if !now {
            return None;
        }
        self.left -= 1;
        self.last_ms = now_ms;
        Some(if self.left == 0 { Back::All } else { Back::Most })
    }
}

/// How much of its free memory a thread gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// What has been free for a while.
    Most,
    /// Everything, so that what is needed again has to be asked for.
    All,
}

/// Gives back to the system what the calling thread has freed and the allocator still holds.
///
/// *Cost*: a look at each page of 64 KiB that the thread has, and a system call for what is given back.
#[allow(unsafe_code)]
pub fn give_back(back: Back) {
    // SAFETY: it takes no pointer and may be called at any time; blocks in use stay where they are. Where
    // another allocator is in use this one has nothing.
    unsafe { libmimalloc_sys::mi_collect(back == Back::All) };
}

/// Memory of this process, in bytes.
///
/// What a connection costs is the growth of `anonymous_bytes` over the growth of their number: it
/// holds everything from every allocator of the process, and none of the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Resident pages, those shared with others included.
    pub rss_bytes: u64,
    /// Resident pages, shared ones by the part that is ours.
    pub pss_bytes: u64,
    /// Resident pages that come from no file: heaps and stacks.
    pub anonymous_bytes: u64,
}

impl Memory {
    /// Asks the kernel. *Cost*: it walks the page tables, some milliseconds for each gigabyte; never on a
    /// shard.
    ///
    /// # Errors
    /// There is no `/proc`, or its kernel is older than 4.14.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(ROLLUP)?))
    }

    fn parse(text: &str) -> Self {
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB"));
            kilobytes.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0) << 10
        };
        Self {
            rss_bytes: bytes("Rss"),
            pss_bytes: bytes("Pss"),
            anonymous_bytes: bytes("Anonymous"),
        }
    }
}

/// How often the memory of the process is looked at while it is bounded.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often where the process has so many thousandths of its memory.
const LOOK_EVERY_NEAR: Duration = Duration::from_millis(10);
const NEAR_PERMILLE: u64 = 700;

/// What a process may have that says nothing else: eight tenths of what there is.
const PART_OF_ALL: (u64, u64) = (8, 10);

/// A thread that says how much memory the process has; it ends when this is dropped.
#[derive(Debug)]
pub struct MemoryWatch {
    bounds: Option<Sender<Option<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begins to look, and to compare with a bound in bytes if there is one.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(bytes_max: Option<u64>, load: Arc<ProcessLoad>) -> io::Result<Self> {
        let (bounds, new_bounds) = channel();
        let look = move || {
            let (mut bytes_max, mut every) = (bytes_max, LOOK_EVERY);
            loop {
                match new_bounds.recv_timeout(every) {
                    Ok(bound) => bytes_max = bound,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let permille = bytes_max.map_or(0, |bytes_max| {
                    resident_bytes().saturating_mul(1000) / bytes_max.max(1)
                });
                load.set_memory_permille(u32::try_from(permille).unwrap_or(u32::MAX));
                every = if permille < NEAR_PERMILLE { LOOK_EVERY } else { LOOK_EVERY_NEAR };
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(look)?;
        Ok(Self { bounds: Some(bounds), thread: Some(thread) })
    }

    /// Compares with this from now on.
    pub fn set_bound(&self, bytes_max: Option<u64>) {
        if let Some(bounds) = &self.bounds {
            // It takes them for as long as this lives.
            let _ = bounds.send(bytes_max);
        }
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        drop(self.bounds.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

/// Resident pages of this process; 0 if nobody says. *Cost*: counters that the kernel has, some microseconds.
pub(crate) fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// What the process has in memory and beyond, by the kernel's counts: anonymous, of files, shared, swapped out.
/// *Cost*: as [`resident_bytes`].
#[cfg(feature = "admin")]
pub(crate) fn by_state() -> [(&'static str, u64); 4] {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    let states = [
        ("anonymous", "RssAnon"),
        ("file", "RssFile"),
        ("shared", "RssShmem"),
        ("swapped", "VmSwap"),
    ];
    states.map(|(name, key)| (name, of(key)))
}

/// What a process may have if nobody says: most of what its machine has, or its control group allows. `None` if
/// neither is known.
#[must_use]
pub fn usual_bound() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    // A group above may allow less.
    let allowed = Path::new(own).ancestors().filter_map(|group| {
        let group = group.strip_prefix("/").ok()?;
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    });
    let least = allowed.chain(machine).min()?;
    let (part, all) = PART_OF_ALL;
    Some(least / all * part)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rss_bytes, pss_bytes, anonymous_bytes } = self;
        write!(f, "memory: rss_bytes={rss_bytes} pss_bytes={pss_bytes} ")?;
        write!(f, "anonymous_bytes={anonymous_bytes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_the_kernel_are_read() {
        let text = "55d0-7ffc ---p 00000000 00:00 0      [rollup]\nRss:    2048 kB\nPss:  1024 kB\n\
                    Pss_Anon:  900 kB\nAnonymous:   512 kB\n";
        let memory = Memory::parse(text);
        assert_eq!(
            memory.to_string(),
            "memory: rss_bytes=2097152 pss_bytes=1048576 anonymous_bytes=524288"
        );
    }

    #[test]
    fn a_quiet_thread_gives_back_twice_and_not_too_often() {
        let mut gives_back = GivesBack::default();
        let mut seen = |inputs: &[usize], from: u64| -> Vec<(u64, Back)> {
            let mut ticks = (from..).zip(inputs);
            std::iter::from_fn(|| ticks.next())
                .filter_map(|(second, inputs)| {
                    gives_back.did(*inputs);
                    Some((second, gives_back.tick(second * 1000)?))
                })
                .collect()
        };
        use Back::{All, Most};
        assert_eq!(
            seen(&[5000, 5000, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 20),
            [(23, Most), (28, All)]
        );
        assert_eq!(
            seen(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], 40),
            [(40, Most), (45, Most), (50, Most)]
        );
        assert!(seen(&[65; 30], 60).is_empty(), "there is work all the time");
    }

    #[test]
    fn there_is_a_bound_below_what_the_machine_has() {
        let (Some(bound), resident) = (usual_bound(), resident_bytes()) else { return };
        assert!(bound > resident && resident > 0, "{bound} {resident}");
    }

    #[test]
    fn this_process_has_memory() {
        let Ok(memory) = Memory::of_this_process() else { return };
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
    }
}
