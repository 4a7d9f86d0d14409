//! The log on a disk, against what was appended.

use proptest::prelude::*;

use super::*;

/// Small enough that a few batches fill a file.
const FILE_BYTES: usize = 32 << 10;

fn batch(number: u64, bytes: usize) -> Bytes {
    Bytes::from((0..bytes).map(|at| (at as u64 * 7 + number) as u8).collect::<Vec<_>>())
}

fn open(folder: &Path) -> LogFiles {
    let mut log = LogFiles::open(folder.join("log"), FILE_BYTES).unwrap();
    if log.is_empty() {
        log.begin(1).unwrap();
    }
    log
}

fn folder() -> tempfile::TempDir {
    // In memory where the system has such a place: nothing here is about power.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

/// A log of batches from 1 on; every third is synchronised.
fn fill(folder: &Path, count: u64) -> LogFiles {
    let mut log = open(folder);
    log.read(1, u64::MAX).unwrap();
    for number in 1..=count {
        log.append(number, &batch(number, number as usize * 977 % 9000), number % 3 == 0).unwrap();
    }
    log
}

fn check(found: &[(u64, Bytes)], first: u64) {
    for ((number, found), expected) in found.iter().zip(first..) {
        assert_eq!(*number, expected);
        assert_eq!(*found, batch(expected, expected as usize * 977 % 9000));
    }
}

fn paths(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|it| it == kind)).collect();
    paths.sort();
    paths
}

#[test]
fn batches_come_back_from_wherever_one_asks() {
    let folder = folder();
    drop(fill(folder.path(), 40));
    assert!(paths(folder.path(), "log").len() > 3);
    for from in [1, 2, 17, 40, 41] {
        let found = open(folder.path()).read(from, u64::MAX).unwrap();
        assert_eq!(found.len() as u64, 41 - from);
        check(&found, from);
    }
    let error = open(folder.path()).read(42, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("batch 41 is missing"), "{error}");
}

#[test]
fn the_newest_file_is_missed() {
    let folder = folder();
    drop(fill(folder.path(), 40));
    let newest = paths(folder.path(), "log").pop().unwrap();
    fs::remove_file(&newest).unwrap();
    let error = open(folder.path()).read(1, u64::MAX).unwrap_err().to_string();
    assert!(error.contains(newest.to_str().unwrap()), "{error}");
    assert!(error.ends_with("is missing"), "{error}");
    // What says so may be torn, and is no more than a help.
    let note = folder.path().join("log").join(NEWEST);
    let whole = fs::read(&note).unwrap();
    fs::write(&note, &whole[..3]).unwrap();
    open(folder.path()).read(1, u64::MAX).unwrap();
    fs::remove_file(&note).unwrap();
    open(folder.path()).read(1, u64::MAX).unwrap();
}

#[test]
fn files_are_used_again_and_nothing_of_their_earlier_lives_comes_back() {
    let folder = folder();
    let mut log = fill(folder.path(), 40);
    for number in 41..400 {
        log.append(number, &batch(number, number as usize * 977 % 9000), true).unwrap();
        log.release(number - 5).unwrap();
        if number % 50 == 0 {
            assert!(log.files.len() <= 5, "{}", log.files.len());
            log = open(folder.path());
            let found = log.read(number - 4, u64::MAX).unwrap();
            assert_eq!(found.len(), 5);
            check(&found, number - 4);
        }
    }
    assert!(paths(folder.path(), "spare").len() <= SPARE_MAX);
}

#[test]
fn a_batch_that_is_larger_than_a_file_has_one_of_its_own() {
    let folder = folder();
    let mut log = fill(folder.path(), 3);
    log.append(4, &batch(4, 3 * FILE_BYTES), true).unwrap();
    log.append(5, &batch(5, 10), true).unwrap();
    let found = open(folder.path()).read(4, u64::MAX).unwrap();
    assert_eq!(found, [(4, batch(4, 3 * FILE_BYTES)), (5, batch(5, 10))]);
    log.release(5).unwrap();
    assert!(paths(folder.path(), "spare").len() <= 2);
}

#[test]
fn what_is_written_again_after_a_failure_counts_once() {
    let folder = folder();
    let mut log = fill(folder.path(), 20);
    drop(log);
    for _ in 0..3 {
        log = open(folder.path());
        let found = log.read(1, 15).unwrap();
        assert_eq!(found.len(), 14);
        for number in 15..=20 {
            log.append(number, &batch(number, number as usize * 977 % 9000), false).unwrap();
        }
        log.sync().unwrap();
    }
    let found = open(folder.path()).read(1, u64::MAX).unwrap();
    assert_eq!(found.len(), 20);
    check(&found, 1);
}

/// Where the frames of a file begin, by the number of the batch.
fn frames(path: &Path) -> Vec<(u64, usize, usize)> {
    let bytes = fs::read(path).unwrap();
    let number = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    let (_, key) = segment::read_header(&bytes, number).unwrap();
    let mut at = PAGE_BYTES;
    let frames = segment::read(&bytes, key).frames.into_iter().map(|frame| {
        let begin = at;
        at += segment::frame_bytes(frame.payload.len());
        (frame.number, begin, at)
    });
    frames.collect()
}

/// As if it had never been written.
fn erase(folder: &Path, number: u64) {
    for path in paths(folder, "log") {
        for (found, begin, end) in frames(&path) {
            if found == number {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(&vec![0; end - begin], begin as u64).unwrap();
            }
        }
    }
}

#[test]
fn a_hole_is_a_failure_of_the_power_or_damage() {
    for missing in 1..=40 {
        let folder = folder();
        drop(fill(folder.path(), 40));
        erase(folder.path(), missing);
        let mut log = open(folder.path());
        match log.read(1, u64::MAX) {
            // A file is synchronised before the next is begun, and every third batch is.
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                assert!(error.to_string().contains(&format!("batch {missing} ")), "{error}");
                assert!(missing < 40, "{missing} was lost, and nothing came after it");
            }
            Ok(found) => {
                assert_eq!(found.len() as u64, missing - 1);
                assert!(missing >= 38, "{missing} was known to survive");
                // What lay behind it never comes back.
                for number in missing..45 {
                    log.append(number, &batch(0, 100), true).unwrap();
                }
                let found = open(folder.path()).read(1, u64::MAX).unwrap();
                assert_eq!(found.len(), 44);
                check(&found[..missing as usize - 1], 1);
                assert!(found[missing as usize - 1..].iter().all(|(_, it)| *it == batch(0, 100)));
            }
        }
    }
}

#[test]
fn a_missing_file_is_damage() {
    let reference = folder();
    drop(fill(reference.path(), 40));
    let count = paths(reference.path(), "log").len();
    for missing in 0..count {
        let folder = folder();
        drop(fill(folder.path(), 40));
        let path = paths(folder.path(), "log").remove(missing);
        let last = missing == count - 1;
        fs::remove_file(path).unwrap();
        let read = open(folder.path()).read(1, u64::MAX);
        // That there was a last file, nobody knows but the maps, which say how far they have come.
        let read = if last { open(folder.path()).read(40, u64::MAX) } else { read };
        let error = read.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_folder_with_something_else_in_it_is_refused() {
    let folder = folder();
    drop(fill(folder.path(), 3));
    fs::write(folder.path().join("log/notes.txt"), "mine").unwrap();
    let error = LogFiles::open(folder.path().join("log"), FILE_BYTES).unwrap_err();
    assert!(error.to_string().contains("notes.txt is no file of a log"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A bit that flips anywhere is refused with its place, or nothing is lost by it.
    #[test]
    fn a_flipped_bit_loses_nothing_in_silence(file in any::<prop::sample::Index>(), bit in any::<prop::sample::Index>()) {
        let folder = folder();
        drop(fill(folder.path(), 20));
        let paths = paths(folder.path(), "log");
        let path = &paths[file.index(paths.len())];
        let mut bytes = fs::read(path).unwrap();
        let end = frames(path).last().map_or(PAGE_BYTES, |(_, _, end)| *end);
        let bit = bit.index(end * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
        match open(folder.path()).read(1, u64::MAX) {
            Ok(found) => {
                prop_assert_eq!(found.len(), 20);
                check(&found, 1);
            }
            Err(StoreError::Damaged { what }) => {
                let name = path.display().to_string();
                prop_assert!(what.contains(&name), "{} in {}", name, what);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// A failure keeps any sectors of what was not synchronised, and a prefix of the batches is read.
    #[test]
    fn a_torn_end_is_cut(lost in prop::collection::vec(any::<bool>(), 40)) {
        let folder = folder();
        drop(fill(folder.path(), 20));
        let last = paths(folder.path(), "log").pop().unwrap();
        let file = OpenOptions::new().write(true).open(&last).unwrap();
        // 18 is the last that was synchronised.
        let mut first_lost = 21;
        for (number, begin, end) in frames(&last) {
            for (sector, lost) in (begin..end).step_by(512).zip(&lost) {
                if number > 18 && *lost {
                    file.write_all_at(&[0; 512], sector as u64).unwrap();
                    let payload_end = begin + (32 + number as usize * 977 % 9000).div_ceil(504) * 512;
                    if sector < payload_end {
                        first_lost = first_lost.min(number);
                    }
                }
            }
        }
        let mut log = open(folder.path());
        let found = log.read(1, u64::MAX).unwrap();
        prop_assert_eq!(found.len() as u64, first_lost - 1);
        check(&found, 1);
        for number in first_lost..30 {
            log.append(number, &batch(number, number as usize * 977 % 9000), true).unwrap();
        }
        let found = open(folder.path()).read(1, u64::MAX).unwrap();
        prop_assert_eq!(found.len(), 29);
        check(&found, 1);
    }
}

#[test]
fn a_file_that_is_missing_is_missed_even_if_nothing_has_been_written_since() {
    let folder = folder();
    let mut log = fill(folder.path(), 40);
    log.begin(41).unwrap();
    drop(log);
    let paths = paths(folder.path(), "log");
    fs::remove_file(&paths[paths.len() - 2]).unwrap();
    let error = open(folder.path()).read(1, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
}

#[test]
fn a_long_file_goes_when_its_batch_is_needed_no_more_and_only_then() {
    let folder = folder();
    let mut log = fill(folder.path(), 2);
    log.append(3, &batch(3, 2 * FILE_BYTES), true).unwrap();
    log.shorten(3).unwrap();
    let long = |path: &PathBuf| fs::metadata(path).unwrap().len() > FILE_BYTES as u64;
    assert!(paths(folder.path(), "log").iter().any(long));
    log.shorten(4).unwrap();
    assert!(!paths(folder.path(), "log").iter().any(long));
    log.append(4, &batch(4, 4 * 977), true).unwrap();
    let found = open(folder.path()).read(4, u64::MAX).unwrap();
    assert_eq!(found.len(), 1);
    check(&found, 4);
}
