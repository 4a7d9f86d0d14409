//! How much memory the process has, as the kernel counts it.

use std::fmt;
use std::fs;
use std::io;

/// Where the kernel sums up all mappings of a process.
const ROLLUP: &str = "/proc/self/smaps_rollup";

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
    fn this_process_has_memory() {
        let Ok(memory) = Memory::of_this_process() else { return };
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
    }
}
