//! The folder in which things outlive the process: opened at start, and its lanes with it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use petrel_shard::Keeping;
use petrel_storage::{
    Alive, Clock, DiskOptions, DiskStore, Lane, LaneSettings, StoreError, Sweep, SyncLevel,
};

use crate::config::{StorageConfig, WhenFull};

/// The log of a lane has this many bytes before what counts of it is put into pages.
const WINDOW_BYTES: usize = 128 << 20;

/// Below this a file system has no room for a file of the log.
const SCARCE_BYTES: u64 = 32 << 20;

/// What a lane needs beyond that to put all of its log into pages: the engine's journal has them once,
/// and its files once more, and what has come since somebody looked goes into the log first.
const FOLD_BYTES: u64 = 3 * WINDOW_BYTES as u64;

/// The name under which the key of all keyed hashes is kept.
const HASH_KEY: &str = "hash key";

/// A folder that is open.
pub struct Opened {
    /// Its lanes, which this process has begun to use.
    pub lanes: Vec<Lane<DiskStore>>,
    /// By lane: what its store asks for the sessions that there are.
    pub alive: Vec<Alive>,
    /// What shards must know of it.
    pub keeping: Keeping,
    /// The key of all keyed hashes: hashes of clients are kept with their messages.
    pub hash_key: [u64; 2],
    /// How often it is made to survive the machine; `None` if by itself, or never.
    pub sync_every: Option<Duration>,
    /// How much of the disk may be taken.
    pub room: Room,
}

/// Opens the folder, if there is one. `fresh` is the key of hashes of a new one; `elapsed` is what the
/// monotonic clock of the process shows.
///
/// # Errors
/// Another process has it, it is damaged, or the disk fails.
pub fn open(
    config: &StorageConfig,
    fresh: [u64; 2],
    elapsed: Duration,
) -> Result<Option<Opened>, StoreError> {
    let Some(path) = &config.path else { return Ok(None) };
    let clock = Clock { origin_ms: ms(wall_clock().saturating_sub(elapsed)) };
    let count = config.lanes;
    let mut lanes = Vec::new();
    petrel_storage::make_private(path)?;
    check_lanes(path, count)?;
    for lane in 0..count {
        let alive = Alive::default();
        let wall_clock = Arc::new(|| ms(wall_clock()));
        let sweep = Sweep { alive: alive.clone(), wall_clock };
        let folder = path.join(format!("lane-{lane}"));
        let store = DiskStore::open_and_sweep(folder, DiskOptions::default(), Some(sweep))?;
        let settings =
            LaneSettings { lane, lanes: count, sync: config.sync, window_bytes_max: WINDOW_BYTES };
        lanes.push((Lane::open(store, clock, settings)?, alive));
    }
    let (mut lanes, alive): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
    let epoch = petrel_storage::begin(&mut lanes)?;
    let mut hash_key = fresh;
    if let [first, ..] = &mut lanes[..] {
        match first.note(HASH_KEY)? {
            Some(bytes) => {
                let half = |at: usize| bytes.get(at..at + 8).and_then(|it| it.try_into().ok());
                let damaged = || StoreError::Damaged { what: "the hash key is too short".into() };
                let halves = [half(0).ok_or_else(damaged)?, half(8).ok_or_else(damaged)?];
                hash_key = halves.map(u64::from_be_bytes);
            }
            None => {
                let bytes: Vec<u8> = fresh.iter().flat_map(|half| half.to_be_bytes()).collect();
                first.set_note(HASH_KEY, bytes)?;
            }
        }
    }
    let sync_every = (config.sync == SyncLevel::Interval)
        .then(|| Duration::from_millis(u64::from(config.sync_interval_ms)));
    let keeping = Keeping { epoch, lanes: count };
    let room = Room {
        path: path.clone(),
        limit_bytes: config.disk_limit_bytes,
        lanes: count,
        when_full: config.when_full,
    };
    Ok(Some(Opened { lanes, alive, keeping, hash_key, sync_every, room }))
}

/// How much of a disk may be taken.
#[derive(Debug, Clone)]
pub struct Room {
    /// The folder with all lanes.
    pub path: PathBuf,
    /// What it may have; 0 for 95 % of the file system, or less if that is small.
    pub limit_bytes: u64,
    /// How many lanes there are.
    pub lanes: u16,
    /// What becomes of messages when it has that.
    pub when_full: WhenFull,
}

impl Room {
    /// True if the file system has no room for anything worth trying.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        rustix::fs::statvfs(&self.path)
            .is_ok_and(|system| system.f_bavail.saturating_mul(system.f_frsize) < SCARCE_BYTES)
    }

    /// What is wrong, if too much is taken.
    ///
    /// *Cost*: a call of the system, or a walk over the folder.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if self.limit_bytes > 0 {
            let taken = taken_bytes(&self.path);
            return (taken >= self.limit_bytes)
                .then(|| format!("storage takes {taken} bytes, disk_limit_bytes is reached"));
        }
        let system = rustix::fs::statvfs(&self.path).ok()?;
        let [free, all] =
            [system.f_bavail, system.f_blocks].map(|it| it.saturating_mul(system.f_frsize));
        (free < spared_bytes(all, self.lanes))
            .then(|| format!("{free} bytes of {all} are free on its file system"))
    }
}

/// What is left free of a file system of so many bytes: to give room back takes room.
fn spared_bytes(all: u64, lanes: u16) -> u64 {
    (FOLD_BYTES * u64::from(lanes)).min(all / 2).max(all / 20)
}

/// What a folder takes of its disk; what cannot be read counts for nothing.
fn taken_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Refuses a folder that has more lanes than are asked for; one with fewer says so itself.
fn check_lanes(path: &Path, count: u16) -> Result<(), StoreError> {
    let beyond = path.join(format!("lane-{count}"));
    if DiskStore::exists(&beyond) {
        let what = format!(
            "{} is there, so {} was written with more than {count} lanes; set storage.lanes to the \
             number of its lane folders",
            beyond.display(),
            path.display()
        );
        return Err(StoreError::Foreign { what });
    }
    Ok(())
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_system_is_not_filled_to_where_nothing_can_be_given_back() {
        assert_eq!(spared_bytes(100 << 30, 1), 5 << 30);
        assert_eq!(spared_bytes(4 << 30, 1), 384 << 20);
        assert_eq!(spared_bytes(4 << 30, 4), 1536 << 20);
        assert_eq!(spared_bytes(500 << 20, 1), 250 << 20);
    }
}
