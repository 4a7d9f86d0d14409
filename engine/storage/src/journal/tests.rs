//! Damage to copies of a real folder.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::*;
use crate::disk::{DiskOptions, DiskStore};
use crate::store::{Batch, Space, Store};

type Maps = Vec<BTreeMap<Bytes, Bytes>>;

/// How often a bit is flipped, in each test that flips bits.
const ROUNDS: u64 = 120;

/// Small enough that most of it goes through tables.
const SMALL: DiskOptions = DiskOptions {
    cache_bytes: 1 << 20,
    log_file_bytes: 64 << 10,
    memtable_bytes: 4000,
    journal_bytes_max: 64 << 20,
    worker_threads: 1,
};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
}

/// A place in memory, if there is one: thousands of copies are made.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

/// Writes some batches like those of a lane. Returns what is there after each of them.
fn fill(folder: &Path, batches: u64, options: DiskOptions) -> Vec<Maps> {
    fill_with(folder, batches, 900, options)
}

fn fill_with(folder: &Path, batches: u64, bytes: usize, options: DiskOptions) -> Vec<Maps> {
    let mut store = DiskStore::open(folder, options).unwrap();
    let mut state = 7;
    let mut maps: Maps = vec![BTreeMap::new(); Space::ALL.len()];
    let mut after = vec![maps.clone()];
    for number in 0..batches {
        let mut batch = Batch::default();
        let length = 20 + random(&mut state) as usize % bytes;
        let value: Vec<u8> = (0..length).map(|_| random(&mut state) as u8).collect();
        batch.put(Space::Retained, number.to_be_bytes().to_vec(), value);
        if number % 3 == 2 {
            batch.remove(Space::Retained, (number / 3).to_be_bytes().to_vec());
            let page = vec![number as u8; bytes * 2 / 3];
            batch.put(Space::Queue, random(&mut state).to_be_bytes().to_vec(), page);
        }
        for change in &batch.changes {
            let map = &mut maps[change.space as usize];
            match &change.value {
                Some(value) => map.insert(change.key.clone(), value.clone()),
                None => map.remove(&change.key),
            };
        }
        store.write(batch, true).unwrap();
        after.push(maps.clone());
    }
    drop(store);
    // What is reserved only makes copies slow.
    let path = journal_of(folder);
    cut(&path, read(&path).unwrap().whole_bytes + 100).unwrap();
    after
}

fn read_all(folder: &Path) -> Result<Maps, StoreError> {
    let store = DiskStore::open(folder, SMALL)?;
    let mut maps: Maps = vec![BTreeMap::new(); Space::ALL.len()];
    for space in Space::ALL {
        store.scan(space, &[], &mut |key, value| {
            maps[space as usize].insert(key.clone(), value.clone());
            ControlFlow::Continue(())
        })?;
        for (key, value) in &maps[space as usize] {
            assert_eq!(store.get(space, key)?.as_ref(), Some(value));
        }
    }
    Ok(maps)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

fn journal_of(folder: &Path) -> PathBuf {
    journals(folder).unwrap().pop().unwrap()
}

/// Where the batches of a journal end.
fn ends(path: &Path) -> Vec<usize> {
    let bytes = fs::read(path).unwrap();
    let mut ends = vec![0];
    while let Ok((length, _)) = batch(&bytes[ends[ends.len() - 1]..]) {
        ends.push(ends[ends.len() - 1] + length);
    }
    ends
}

#[test]
fn a_journal_is_read_as_it_was_written() {
    let folder = folder();
    fill(folder.path(), 20, DiskOptions::default());
    let journal = read(&journal_of(folder.path())).unwrap();
    assert_eq!((journal.batches, journal.rest), (20, Rest::Empty));
    examine(folder.path()).unwrap();
}

#[test]
fn a_journal_that_was_cut_anywhere_gives_the_batches_before_the_cut() {
    let (whole, work) = (folder(), folder());
    let after = fill_with(whole.path(), 12, 60, DiskOptions::default());
    let path = journal_of(whole.path());
    let (ends, bytes) = (ends(&path), fs::read(&path).unwrap());
    let work = work.path().join("copy");
    for cut in ends[ends.len() - 4]..=ends[ends.len() - 1] {
        let survived = ends.iter().filter(|&&end| end > 0 && end <= cut).count();
        // Behind the cut the file ends, or has what was reserved.
        let zeros = [0, 4096][cut % 2];
        copy(whole.path(), &work);
        let torn = [&bytes[..cut], &vec![0; zeros][..]].concat();
        fs::write(journal_of(&work), torn).unwrap();
        let found = read_all(&work).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(found == after[survived], "cut at {cut}");
    }
}

#[test]
fn sectors_that_were_never_written_are_a_torn_end_only_if_nothing_follows() {
    let (whole, work) = (folder(), folder());
    let after = fill(whole.path(), 30, DiskOptions::default());
    let path = journal_of(whole.path());
    let (ends, bytes) = (ends(&path), fs::read(&path).unwrap());
    let work = work.path().join("copy");
    let last = ends[ends.len() - 1];
    let mut refused = 0;
    for sector in 0..last / SECTOR_BYTES {
        copy(whole.path(), &work);
        let mut torn = bytes[..last].to_vec();
        torn[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES].fill(0);
        fs::write(journal_of(&work), torn).unwrap();
        match read_all(&work) {
            Ok(found) => {
                let survived = ends.iter().filter(|&&end| end <= sector * SECTOR_BYTES).count();
                // It held a part of every batch from there to the end.
                assert!(ends[ends.len() - 2] < (sector + 1) * SECTOR_BYTES, "sector {sector}");
                assert!(found == after[survived - 1], "sector {sector}");
            }
            Err(StoreError::Damaged { what }) => {
                let place = format!("{} cannot be read at byte", journal_of(&work).display());
                assert!(what.contains(&place) && what.contains("whole batches follow"), "{what}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 10, "{refused}");
}

/// What became of a damaged folder.
#[derive(Debug, Default)]
struct Outcomes {
    whole: u32,
    refused: u32,
    panicked: u32,
}

impl Outcomes {
    fn count(&mut self, folder: &Path, expected: &Maps, what: &str) {
        match catch_unwind(AssertUnwindSafe(|| read_all(folder))) {
            Ok(Ok(found)) => {
                assert!(&found == expected, "{what}: other data, without an error");
                self.whole += 1;
            }
            Ok(Err(error)) => {
                assert!(!matches!(error, StoreError::Full { .. }), "{what}: {error}");
                self.refused += 1;
            }
            Err(_) => self.panicked += 1,
        }
    }
}

#[test]
fn a_flipped_bit_of_a_journal_is_said() {
    let (whole, work) = (folder(), folder());
    let after = fill(whole.path(), 12, DiskOptions::default());
    let last = *ends(&journal_of(whole.path())).last().unwrap();
    let work = work.path().join("copy");
    let mut state = 11;
    let mut outcomes = Outcomes::default();
    for round in 0..ROUNDS {
        copy(whole.path(), &work);
        let path = journal_of(&work);
        let mut bytes = fs::read(&path).unwrap();
        // The last batch is the hardest.
        let from = if round % 2 == 0 { 0 } else { last - 300 };
        let at = from + random(&mut state) as usize % (last - from);
        let bit = random(&mut state) % 8;
        bytes[at] ^= 1 << bit;
        fs::write(path, bytes).unwrap();
        outcomes.count(&work, after.last().unwrap(), &format!("bit {bit} of byte {at} of {last}"));
    }
    assert_eq!((outcomes.whole, outcomes.panicked), (0, 0), "{outcomes:?}");
}

#[test]
fn a_flipped_bit_of_any_other_file_is_said_or_does_no_harm() {
    let (whole, work) = (folder(), folder());
    let after = fill(whole.path(), 150, SMALL);
    let work = work.path().join("copy");
    let tables: Vec<PathBuf> = files(whole.path())
        .into_iter()
        .filter(|path| path.extension().is_none_or(|extension| extension != "jnl"))
        .map(|path| path.strip_prefix(whole.path()).unwrap().into())
        .collect();
    let mut state = 13;
    let mut outcomes = Outcomes::default();
    for _ in 0..ROUNDS {
        copy(whole.path(), &work);
        let name = &tables[random(&mut state) as usize % tables.len()];
        let path = work.join(name);
        let mut bytes = fs::read(&path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let (at, bit) = (random(&mut state) as usize % bytes.len(), random(&mut state) % 8);
        bytes[at] ^= 1 << bit;
        fs::write(path, bytes).unwrap();
        let what = format!("bit {bit} of byte {at} of {}", name.display());
        outcomes.count(&work, after.last().unwrap(), &what);
    }
    assert!(outcomes.refused > 0, "{outcomes:?}");
    println!("{outcomes:?}");
}

#[test]
fn a_file_that_is_missing_is_said() {
    let (whole, work) = (folder(), folder());
    let after = fill(whole.path(), 150, SMALL);
    let work = work.path().join("copy");
    let mut outcomes = Outcomes::default();
    for path in files(whole.path()) {
        copy(whole.path(), &work);
        let name = path.strip_prefix(whole.path()).unwrap();
        fs::remove_file(work.join(name)).unwrap();
        outcomes.count(&work, after.last().unwrap(), &format!("without {}", name.display()));
    }
    println!("{outcomes:?}");
}
