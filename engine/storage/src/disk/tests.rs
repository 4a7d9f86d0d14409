//! The store on a real folder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

/// Tells a process that a test has started what to do.
const ROLE: &str = "PETREL_TEST_ROLE";
const FOLDER: &str = "PETREL_TEST_FOLDER";

fn all(store: &DiskStore, space: Space) -> BTreeMap<Bytes, Bytes> {
    let mut found = BTreeMap::new();
    store
        .scan(space, &[], &mut |key, value| {
            found.insert(key.clone(), value.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn put(store: &mut DiskStore, number: u64, bytes: usize, sync: bool) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    batch.put(Space::Retained, number.to_be_bytes().to_vec(), vec![number as u8; bytes]);
    store.write(batch, sync)
}

fn append(store: &mut DiskStore, number: u64, bytes: usize, sync: bool) -> Result<(), StoreError> {
    store.append(number, &Bytes::from(vec![number as u8; bytes]), sync)
}

/// Starts this test again in a process of its own.
fn spawn(test: &str, role: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("disk::tests::{test}"), "--nocapture"])
        .env(ROLE, role)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FOLDER)?.into()))
}

#[test]
fn what_is_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    let mut batch = Batch::default();
    for space in Space::ALL {
        batch.put(space, &b"a"[..], space.name());
        batch.put(space, &b"b"[..], Bytes::new());
    }
    store.write(batch, true).unwrap();
    let mut batch = Batch::default();
    batch.remove(Space::Queue, &b"a"[..]);
    store.write(batch, false).unwrap();
    for _ in 0..2 {
        assert_eq!(store.get(Space::Queue, b"a").unwrap(), None);
        assert_eq!(store.get(Space::Session, b"a").unwrap().unwrap(), "session");
        assert_eq!(all(&store, Space::Queue).len(), 1);
        assert_eq!(all(&store, Space::Retained)[&b"a"[..]], "retained");
        store.reopen().unwrap();
    }
    // With the note that says which file is the newest.
    assert_eq!(store.usage().unwrap().log_bytes, (16 << 20) + 528);
}

#[test]
fn a_scan_begins_at_a_key_and_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    for number in 0..9 {
        put(&mut store, number, 1, false).unwrap();
    }
    let mut seen = Vec::new();
    let from = 3u64.to_be_bytes();
    let mut visit = |_: &Bytes, value: &Bytes| {
        seen.push(value[0]);
        if value[0] == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.scan(Space::Retained, &from, &mut visit).unwrap();
    assert_eq!(seen, [3, 4, 5]);
}

/// A client may subscribe to a filter of 65,535 bytes.
#[test]
fn keys_that_are_longer_than_the_database_takes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    let mut expected = BTreeMap::new();
    let mut batch = Batch::default();
    for bytes in [65_533, 65_534, 65_535, 65_536, 65_543] {
        let key = Bytes::from(vec![b'x'; bytes]);
        batch.put(Space::Subscription, key.clone(), bytes.to_string());
        expected.insert(key, Bytes::from(bytes.to_string()));
    }
    store.write(batch, true).unwrap();
    store.reopen().unwrap();
    assert_eq!(all(&store, Space::Subscription), expected);
    for (key, value) in &expected {
        assert_eq!(store.get(Space::Subscription, key).unwrap().as_ref(), Some(value));
        let mut batch = Batch::default();
        batch.remove(Space::Subscription, key.clone());
        store.write(batch, false).unwrap();
    }
    assert!(all(&store, Space::Subscription).is_empty());
}

#[test]
fn a_folder_belongs_to_one_process() {
    const TEST: &str = "a_folder_belongs_to_one_process";
    if let Some((_, folder)) = role() {
        let error = DiskStore::open(folder, DiskOptions::default()).unwrap_err();
        println!("refused {}", matches!(error, StoreError::InUse { .. }));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    let output = spawn(TEST, "second", folder.path()).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("refused true"), "{said}");
    let error = DiskStore::open(folder.path(), DiskOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_was_written() {
    const TEST: &str = "a_process_that_is_killed_loses_nothing_that_was_written";
    if let Some((_, folder)) = role() {
        let mut store = DiskStore::open(folder, DiskOptions::default()).unwrap();
        store.read_log(1, u64::MAX).unwrap();
        for number in 1.. {
            put(&mut store, number, 100 + number as usize * 7 % 9000, false).unwrap();
            append(&mut store, number, 100 + number as usize * 7 % 9000, false).unwrap();
            println!("written {number}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = spawn(TEST, "writer", folder.path());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let number = |line: String| line.strip_prefix("written ").and_then(|n| n.parse::<u64>().ok());
    let written = lines.map_while(Result::ok).filter_map(number).find(|&n| n == 500).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    let found = all(&store, Space::Retained);
    assert!(found.len() as u64 >= written, "{} of {written}", found.len());
    let log = store.read_log(1, u64::MAX).unwrap();
    assert!(log.len() as u64 >= written, "{} of {written}", log.len());
    for (number, batch) in log {
        assert_eq!(batch.len(), 100 + number as usize * 7 % 9000);
    }
    for (number, (key, value)) in (1u64..).zip(&found) {
        assert_eq!(key[..], number.to_be_bytes());
        assert_eq!(value.len(), 100 + number as usize * 7 % 9000);
    }
}

/// A file system of its own, which is given back.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mount = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        let done = Command::new("mount").args(mount).arg(folder.path()).output().ok()?;
        done.status.success().then_some(Self(folder))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_loses_nothing_and_works_again_when_there_is_room() {
    let Some(mount) = Mount::new("24m") else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    for memtable in [1 << 20, 64 << 20] {
        let folder = mount.0.path().join(memtable.to_string());
        let options = DiskOptions {
            memtable_bytes: memtable,
            log_file_bytes: 1 << 20,
            ..DiskOptions::default()
        };
        let mut store = DiskStore::open(&folder, options).unwrap();
        store.read_log(1, u64::MAX).unwrap();
        let (mut written, mut appended) = (0, 0);
        let error = loop {
            let next = append(&mut store, appended + 1, 100_000, true);
            match next.and_then(|()| {
                appended += 1;
                put(&mut store, written + 1, 100_000, true)
            }) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(written > 10, "{written}");
        // While there is no room, opening may fail, and says why.
        if let Err(error) = store.reopen() {
            assert!(matches!(error, StoreError::Full { .. }), "{error}");
            assert!(store.get(Space::Retained, &[0]).is_err());
        }
        mount.resize("64m");
        store.reopen().unwrap();
        let found = all(&store, Space::Retained).len() as u64;
        assert!(found == written || found == written + 1, "{found} of {written}");
        let log = store.read_log(1, appended + 1).unwrap();
        assert_eq!(log.len() as u64, appended);
        put(&mut store, 1 << 40, 100_000, true).unwrap();
        append(&mut store, appended + 1, 100_000, true).unwrap();
        drop(store);
        std::fs::remove_dir_all(&folder).unwrap();
        mount.resize("24m");
    }
}

#[test]
fn what_is_not_as_it_must_be_is_said_with_its_place_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| DiskStore::open(path, DiskOptions::default());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (path, part) in [
        (file.clone(), "file is there and is no folder; move it away, or choose another place"),
        (file.join("lane-0"), "file/lane-0 cannot be made, since something above it is no folder"),
    ] {
        let error = open(&path).unwrap_err().to_string();
        assert!(error.starts_with(folder.path().to_str().unwrap()), "{error}");
        assert!(error.contains(part), "{error}");
    }
    let lane = folder.path().join("lane-0");
    drop(open(&lane).unwrap());
    std::fs::remove_file(lane.join(LOCK)).unwrap();
    let error = open(&lane).unwrap_err().to_string();
    assert!(error.contains("lane-0/lock is missing"), "{error}");
    assert!(error.contains("make the file again, empty"), "{error}");
    std::fs::write(lane.join(LOCK), "").unwrap();
    open(&lane).unwrap();
}

/// Bytes that nothing makes shorter.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// What a folder takes of its disk.
fn taken_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let of = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => taken_bytes(&entry.path()),
        meta => meta.blocks() * 512,
    };
    std::fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).sum()
}

/// Writes what a lane does that has much to keep, or removes it again.
fn keep_much(store: &mut DiskStore, numbers: std::ops::Range<u64>, removed: bool) {
    for number in numbers {
        let mut batch = Batch::default();
        for (space, bytes) in [
            (Space::Queue, 150_000),
            (Space::Shared, 90_000),
            (Space::Meta, 20),
            (Space::Session, 200),
            (Space::Stream, 20),
        ] {
            let key = [7, number].map(u64::to_be_bytes).concat();
            match removed {
                true => batch.remove(space, key),
                false => batch.put(space, key, noise(number, bytes)),
            }
        }
        store.write(batch, number % 8 == 0).unwrap();
    }
}

#[test]
fn what_was_removed_is_given_back_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    store.read_log(1, u64::MAX).unwrap();
    for (number, count) in (1..).zip([300, 1, 700, 90]) {
        // More than a file of the log has.
        append(&mut store, number, 20 << 20, true).unwrap();
        store.release_log(number).unwrap();
        keep_much(&mut store, 0..count, false);
        // Tables have it, and then the journals have what was removed.
        store.compact(Space::Queue).unwrap();
        keep_much(&mut store, 0..count, true);
        store.release_log(number + 1).unwrap();
        store.shrink().unwrap();
        let taken = taken_bytes(folder.path());
        assert!(taken <= shrink::EMPTY_BYTES_MAX, "{count}: {taken}");
        let opened = store.opened().unwrap();
        assert_eq!(opened.database.journal_count(), 1, "{count}");
        for keyspace in &opened.keyspaces {
            assert_eq!(keyspace.blob_file_count(), 0, "{count}: {}", keyspace.name());
        }
        let Usage { spaces, .. } = store.usage().unwrap();
        for (space, bytes) in spaces {
            assert!(bytes < 64 << 10, "{count}: {space:?} has {bytes}");
        }
        // And is not brought back by what stays.
        store.reopen().unwrap();
        assert!(store.read_log(number + 1, u64::MAX).unwrap().is_empty());
        for space in Space::ALL {
            assert!(all(&store, space).is_empty(), "{count}: {space:?}");
        }
    }
}

/// What stays is what was not removed, and what is beside it in the same files goes.
#[test]
fn what_stays_can_be_read_after_the_rest_was_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
    keep_much(&mut store, 0..200, false);
    store.compact(Space::Shared).unwrap();
    keep_much(&mut store, 20..200, true);
    for _ in 0..2 {
        store.shrink().unwrap();
        let queued = all(&store, Space::Queue);
        assert_eq!(queued.len(), 20);
        for (number, value) in (0..).zip(queued.values()) {
            assert_eq!(value[..], noise(number, 150_000));
        }
        assert_eq!(all(&store, Space::Session).len(), 20);
        store.reopen().unwrap();
    }
}

/// A journal goes when each space that it has something of has a table as new, and merging takes from a
/// space that is written no more what was newest.
#[test]
fn journals_do_not_pile_up_behind_a_space_that_is_written_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let options = DiskOptions { journal_bytes_max: 192 << 20, ..DiskOptions::default() };
    let mut store = DiskStore::open(folder.path(), options).unwrap();
    store.read_log(1, u64::MAX).unwrap();
    let mut batch = Batch::default();
    batch.put(Space::Shared, &b"key"[..], &b"value"[..]);
    store.write(batch, false).unwrap();
    let mut batch = Batch::default();
    batch.remove(Space::Shared, &b"key"[..]);
    // Which keeps the first journal, and has too little to go into a table soon.
    batch.put(Space::Session, &b"key"[..], &b"value"[..]);
    store.write(batch, false).unwrap();
    for number in 1..=900 {
        put(&mut store, number % 7, 1 << 20, false).unwrap();
        append(&mut store, number, 1 << 20, false).unwrap();
        if number == 90 {
            store.compact(Space::Shared).unwrap();
        }
        store.release_log(number).unwrap();
        let journals = store.opened().unwrap().database.journal_count();
        assert!(journals <= store.journals_max() + 1, "{number}: {journals}");
    }
}
