//! What the kernel knows of this process beside its memory.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use rustix::time::{ClockId, clock_gettime};

/// When this process was started, in whole seconds since 1970: the same each time, though clocks are set.
pub(super) fn started_s() -> Option<f64> {
    static STARTED_S: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED_S.get_or_init(|| {
        let up = clock_gettime(ClockId::Boottime);
        let since_boot_s = up.tv_sec as f64 + up.tv_nsec as f64 / 1e9;
        let now_s = UNIX_EPOCH.elapsed().ok()?.as_secs_f64();
        Some((now_s - since_boot_s + after_boot_s()?).round())
    })
}

/// The same in seconds since its machine was.
fn after_boot_s() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the state follows it, and this is the twentieth after that.
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Descriptors that are open in the table of threads that has most of them. *Cost*: a system call for each thread; before
/// Linux 6.2, which knows the number, as many as it takes to list one table.
pub(super) fn descriptors() -> Option<u64> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let known =
        threads.filter_map(|thread| Some(fs::metadata(thread.path().join("fd")).ok()?.len()));
    match known.max() {
        Some(0) | None => listed(Path::new("/proc/self/fd")),
        known => known,
    }
}

fn listed(folder: &Path) -> Option<u64> {
    Some(fs::read_dir(folder).ok()?.count() as u64)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_are_counted_by_either_way() {
        let open: Vec<_> =
            (0..100).map(|_| File::open("/proc/self/stat").expect("opened")).collect();
        let (known, listed) = (descriptors(), listed(Path::new("/proc/self/fd")));
        assert!(known.is_some_and(|known| known > 100), "{known:?}");
        assert!(listed.is_some_and(|listed| listed > 100), "{listed:?}");
        drop(open);
    }

    #[test]
    fn a_process_was_started_once() {
        let started_s = started_s().expect("the kernel says");
        let now_s = UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
        assert!(started_s <= now_s + 1.0 && started_s.fract() == 0.0, "{started_s} {now_s}");
    }
}
