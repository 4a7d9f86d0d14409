use std::sync::Arc;

use petrel_shard::Message;
use petrel_shard::record::Record;

use super::*;
use crate::memory::MemoryStore;
use crate::sample::{commit, lane, life, session};
use crate::{DiskOptions, DiskStore, Lane, Store, check, sample};

fn message(number: u64) -> Arc<Message> {
    sample::message(&format!("t/{number}"), number.to_be_bytes().to_vec())
}

fn queued(number: u32, sequence: u64) -> Record {
    sample::queued(number, sequence, &message(sequence))
}

/// What a lane says of everything that it keeps.
fn contents<S: Store>(lane: &Lane<S>) -> Vec<String> {
    let mut found = Vec::new();
    let mut alive = Vec::new();
    lane.sessions(|session| {
        alive.push(session.incarnation);
        found.push(format!("{session:?}"));
    })
    .unwrap();
    lane.subscriptions(|it| {
        if alive.contains(&it.incarnation) {
            found.push(format!("{it:?}"));
        }
    })
    .unwrap();
    lane.retained(|message, _| found.push(format!("{message:?}"))).unwrap();
    for incarnation in alive {
        let page = lane.load(incarnation, 0..u64::MAX, usize::MAX, usize::MAX).unwrap();
        assert_eq!((page.next, page.void), (None, vec![]));
        found.extend(page.messages.iter().map(|it| format!("{incarnation:?} {it:?}")));
    }
    found
}

/// Backs a view up, restores it, and says what is in the lane then.
fn through(view: View) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (backup, restored) = (folder.path().join("backup"), folder.path().join("restored"));
    let written = write(&backup, vec![view], 77, &mut || Ok(())).unwrap();
    assert_eq!(examine(&backup).unwrap(), written);
    assert_eq!(restore(&backup, &restored).unwrap(), written);
    let report = check(&restored.join("lane-0"), DiskOptions::default()).unwrap();
    assert_eq!(report.faults_total, 0, "{report}");
    let store = DiskStore::open(restored.join("lane-0"), DiskOptions::default()).unwrap();
    let mut lane = sample::open(store, 0);
    let found = contents(&lane);
    assert_eq!(crate::begin(std::slice::from_mut(&mut lane)).unwrap(), written.epoch + 2);
    found
}

/// Sessions with messages in pages, in the log, in both, in neither; one that is over; what is done
/// with in the log and lies in pages.
fn fill<S: Store>(lane: &mut Lane<S>) {
    commit(lane, (0..5).map(session));
    commit(lane, (0..600).flat_map(|it| [queued(0, it), queued(1, it), queued(4, it)]));
    commit(lane, [Record::Retained(message(1), None)]);
    commit(lane, [Record::Retained(message(2), None)]);
    while lane.wants_folding() {
        lane.fold().unwrap();
    }
    let done = |number, sequence| Record::Done { incarnation: life(number), sequence };
    commit(lane, (0..300).map(|it| done(1, it)));
    commit(lane, [Record::Released { incarnation: life(1), sequence: 300 }]);
    commit(lane, (600..900).flat_map(|it| [queued(1, it), queued(2, it)]));
    commit(
        lane,
        [Record::Cleared(message(2).topic.clone()), Record::Ended { incarnation: life(4) }],
    );
}

#[test]
fn a_backup_brings_back_what_log_and_maps_say_together() {
    // Folded to the end, and not at all.
    for window_bytes_max in [0, usize::MAX] {
        let mut lane = lane(MemoryStore::new(), window_bytes_max);
        fill(&mut lane);
        let expected = contents(&lane);
        assert!(expected.len() > 600 + 600 + 300, "{}", expected.len());
        assert_eq!(through(lane.view().unwrap()), expected);
        // In the middle of folding as well.
        while lane.wants_folding() {
            lane.fold().unwrap();
            assert_eq!(through(lane.view().unwrap()), expected);
        }
    }
}

#[test]
fn a_view_stays_what_it_was_while_the_lane_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let alive = crate::Alive::default();
    let sweep = crate::Sweep { alive: alive.clone(), wall_clock: std::sync::Arc::new(|| 0) };
    let options = DiskOptions::default();
    let mut lane = lane(DiskStore::open_and_sweep(folder.path(), options, Some(sweep)).unwrap(), 0);
    lane.sweep(alive).unwrap();
    fill(&mut lane);
    let expected = contents(&lane);
    let view = lane.view().unwrap();
    commit(&mut lane, (0..4).map(|number| Record::Ended { incarnation: life(number) }));
    commit(&mut lane, [Record::Cleared(message(1).topic.clone())]);
    while lane.wants_folding() {
        lane.fold().unwrap();
    }
    for space in crate::Space::ALL {
        lane.store_mut().compact(space).unwrap();
    }
    assert_eq!(contents(&lane), Vec::<String>::new());
    assert_eq!(through(view), expected);
    assert_eq!(through(lane.view().unwrap()), Vec::<String>::new());
}

/// A backup of what [`fill`] makes.
fn sample(folder: &Path) -> PathBuf {
    let backup = folder.join("backup");
    let mut lane = lane(MemoryStore::new(), 0);
    fill(&mut lane);
    write(&backup, vec![lane.view().unwrap()], 77, &mut || Ok(())).unwrap();
    backup
}

#[test]
fn every_flipped_bit_and_every_missing_byte_is_found_and_its_place_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let backup = sample(folder.path());
    for name in [MANIFEST.to_owned(), file_name(0)] {
        let path = backup.join(&name);
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let error = examine(&backup).map(drop).expect_err(what).to_string();
            assert!(error.contains(&name), "{what}: {error}");
        };
        for at in (0..whole.len()).step_by(whole.len() / 150 + 1) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes, &format!("{name} with another byte at {at}"));
            refused(&whole[..at], &format!("{name} cut at {at}"));
        }
        refused(&[&whole[..], b"x"].concat(), "something behind the end");
        fs::write(&path, &whole).unwrap();
        examine(&backup).unwrap();
    }
}

#[test]
fn what_is_no_whole_backup_of_its_own_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let backup = sample(folder.path());
    let other = tempfile::tempdir().unwrap();
    let mut lane = lane(MemoryStore::new(), 0);
    commit(&mut lane, [session(7)]);
    let target = other.path().join("x");
    write(&target, vec![lane.view().unwrap()], 78, &mut || Ok(())).unwrap();
    fs::copy(target.join(file_name(0)), backup.join(file_name(0))).unwrap();
    let error = examine(&backup).unwrap_err().to_string();
    assert!(error.contains("belongs to another backup"), "{error}");
    fs::remove_file(backup.join(MANIFEST)).unwrap();
    let restored = folder.path().join("restored");
    let error = restore(&backup, &restored).unwrap_err().to_string();
    assert!(error.contains("it has no manifest"), "{error}");
    assert!(!restored.exists());
    let error = restore(&target, &backup).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    let error = write(&backup, vec![lane.view().unwrap()], 78, &mut || Ok(())).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
}

#[test]
fn a_backup_that_is_called_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut lane = lane(MemoryStore::new(), usize::MAX);
    commit(&mut lane, [session(0)]);
    commit(&mut lane, (0..60_000).map(|it| queued(0, it)));
    let mut chunks = 0;
    let error = write(folder.path(), vec![lane.view().unwrap()], 77, &mut || {
        chunks += 1;
        if chunks == 1 { Ok(()) } else { Err("enough".into()) }
    });
    assert!(error.unwrap_err().to_string().ends_with("called off: enough"));
    assert_eq!(chunks, 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_numbers_of_the_spaces_are_part_of_the_format() {
    let names = crate::Space::ALL.map(crate::Space::name);
    let of_format_2 =
        ["meta", "session", "subscription", "queue", "receipt", "retained", "stream", "shared"];
    assert_eq!((chunks::FORMAT, names), (2, of_format_2));
}

#[test]
fn a_backup_is_not_made_inside_of_what_it_is_a_backup_of() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("data");
    fs::create_dir_all(storage.join("lane-0")).unwrap();
    std::os::unix::fs::symlink(&storage, folder.path().join("link")).unwrap();
    for inside in
        ["data", "data/lane-0/x", "data/lane-9", "link/x", "no/../data/x", "data2/../link/lane-0"]
    {
        let error = refuse_inside(&storage, &folder.path().join(inside)).unwrap_err().to_string();
        assert!(error.contains("choose a place outside of it"), "{inside}: {error}");
        let through_link = refuse_inside(&folder.path().join("link"), &folder.path().join(inside));
        assert!(through_link.is_err(), "{inside}");
    }
    for outside in ["", "data2", "x/data", "data/../x", "link/../x"] {
        refuse_inside(&storage, &folder.path().join(outside)).unwrap();
    }
}
