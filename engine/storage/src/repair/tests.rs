use std::collections::BTreeMap;
use std::sync::Arc;

use petrel_shard::Message;
use petrel_shard::record::Record;

use super::*;
use crate::sample::{commit, fold, session};
use crate::{Lane, check, sample};

const SESSIONS: u32 = 60;
const MESSAGES: u64 = 80;

/// In memory, if that can be had: these tests open and synchronise a store some hundred times.
fn somewhere() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn message(topic: &str, number: u64) -> Arc<Message> {
    // Long enough for pages to be blobs, and never the same.
    let payload = (0..40).flat_map(|part| (number * 1_000_003 + part).to_be_bytes());
    sample::message(topic, payload.collect::<Vec<u8>>())
}

fn queued(number: u32, sequence: u64) -> Record {
    sample::queued(number, sequence, &message("a/b", sequence))
}

fn open(folder: &Path) -> Lane<DiskStore> {
    let options = DiskOptions { log_file_bytes: 512 << 10, ..DiskOptions::default() };
    sample::open(DiskStore::open(folder, options).unwrap(), 0)
}

/// A lane with half of what it has in tables and blobs only, and the rest in its log.
fn make_folder(folder: &Path) {
    let mut lane = open(folder);
    crate::begin(std::slice::from_mut(&mut lane)).unwrap();
    lane.set_note("hash key", vec![7; 16]).unwrap();
    commit(&mut lane, (0..SESSIONS).map(session));
    let retained = |number| Record::Retained(message(&format!("kept/{number:04}"), number), None);
    commit(&mut lane, (0..600).map(retained));
    for half in 0..2 {
        let sequences = (half * MESSAGES / 2)..((half + 1) * MESSAGES / 2);
        for number in 0..SESSIONS {
            commit(&mut lane, sequences.clone().map(|sequence| queued(number, sequence)));
        }
        if half == 0 {
            fold(&mut lane);
            for space in Space::ALL {
                lane.store_mut().compact(space).unwrap();
            }
            drop(lane);
            // Journals are kept until they are large, and would stand in for what tables lose.
            for path in crate::journal::journals(folder).unwrap() {
                File::create(path).unwrap();
            }
            lane = open(folder);
        }
    }
}

/// What is in a lane: of each session what waits for it, and the topics of retained messages.
#[derive(Debug, PartialEq)]
struct Contents {
    sessions: BTreeMap<String, Vec<String>>,
    topics: BTreeSet<Vec<u8>>,
}

fn contents(folder: &Path) -> Contents {
    let lane = open(folder);
    let mut lives = Vec::new();
    lane.sessions(|it| {
        let client = String::from_utf8(it.client_id.as_bytes().to_vec()).unwrap();
        lives.push((it.incarnation, client));
    })
    .unwrap();
    let waiting = |life| {
        let page = lane.load(life, 0..u64::MAX, usize::MAX, usize::MAX).unwrap();
        page.messages.iter().map(|it| format!("{it:?}")).collect()
    };
    let sessions = lives.into_iter().map(|(life, client)| (client, waiting(life))).collect();
    let mut topics = BTreeSet::new();
    lane.retained(|message, _| {
        topics.insert(message.topic.as_bytes().to_vec());
    })
    .unwrap();
    Contents { sessions, topics }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// All files, those of spaces without tables left out.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let tables = fs::read_dir(path.join("tables"));
        match path.is_dir() {
            true if tables.is_ok_and(|mut tables| tables.next().is_none()) => {}
            true => files(&path, found),
            false => found.push(path),
        }
    }
    found.sort();
}

/// Repairs a damaged copy, and compares what is there then with what was said to be lost.
fn mend(whole: &Contents, folder: &Path, what: &str) -> (Survey, Contents) {
    let said = survey(folder).unwrap();
    let (done, aside) = repair(folder, 0, 1, "test").unwrap();
    assert_eq!((said.to_string(), said.entries), (done.to_string(), done.entries), "{what}");
    assert!(aside.exists() && !folder.with_file_name("lane-0.read").exists());
    let report = check(folder, DiskOptions::default()).unwrap();
    assert_eq!(report.faults_total, 0, "{what}: {report}");
    let left = contents(folder);
    let affected = done.affected();
    let gone = whole.sessions.keys().filter(|client| !left.sessions.contains_key(*client));
    assert_eq!(gone.count(), done.nameless(), "{what}\n{done}");
    for (client, waiting) in &whole.sessions {
        if left.sessions.contains_key(client) && !affected.contains(&client.as_str()) {
            assert_eq!(left.sessions.get(client), Some(waiting), "{what}: {client}\n{done}");
        }
    }
    for topic in whole.topics.difference(&left.topics) {
        let is_said = done.damage.iter().any(|damage| match &damage.lost {
            Lost::Keys(Space::Retained, behind, before) => {
                behind.as_ref().is_none_or(|behind| behind[..] <= topic[..])
                    && before.as_ref().is_none_or(|before| before[..] >= topic[..])
            }
            lost => *lost == Lost::Changes,
        });
        assert!(is_said, "{what}: {} is lost in silence\n{done}", topic.escape_ascii());
    }
    let epoch = open(folder).epoch();
    assert!(epoch > 1, "{what}: numbers are not given again");
    (done, left)
}

#[test]
fn a_whole_folder_loses_nothing_and_its_files_are_understood() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    make_folder(&folder);
    let whole = contents(&folder);
    let (done, left) = mend(&whole, &folder, "nothing");
    assert_eq!(done.damage, []);
    assert_eq!((done.entries[Space::Retained as usize], done.affected().len()), (600, 0));
    assert_eq!(left, whole);
    // Nothing is replaced that an attempt has left.
    assert!(repair(&folder, 0, 1, "test").is_err());
}

/// In each file at several places, one at a time.
#[test]
fn a_flipped_bit_costs_no_more_than_is_said() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    make_folder(&folder);
    let whole = contents(&folder);
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    let (mut cases, mut said, mut costs) = (0, 0, 0);
    for path in paths {
        let inner = path.strip_prefix(&folder).unwrap();
        let used = fs::read(&path).unwrap().iter().rposition(|&it| it != 0).map_or(0, |at| at + 1);
        for part in 0..if used > 5_000 { 2 } else { used.min(1) } {
            let at = used * (2 * part + 1) / 4;
            let other = somewhere();
            let damaged = other.path().join("lane-0");
            copy(&folder, &damaged);
            let mut bytes = fs::read(damaged.join(inner)).unwrap();
            bytes[at] ^= 1 << (at % 8);
            fs::write(damaged.join(inner), bytes).unwrap();
            let (done, left) = mend(&whole, &damaged, &format!("{} at {at}", inner.display()));
            costs += usize::from(left != whole);
            // Frames of the log end on pages, with what is of no use.
            let is_said = !done.damage.is_empty();
            let is_useless = inner.starts_with("log") && left == whole;
            assert!(is_said || is_useless, "{} at {at}", inner.display());
            said += usize::from(is_said);
            cases += 1;
        }
    }
    assert!(cases > 15 && said > 10 && costs > 3, "{cases} {said} {costs}");
}

#[test]
fn files_that_are_missing_or_cut_cost_no_more_than_is_said() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    make_folder(&folder);
    let whole = contents(&folder);
    let mut paths = Vec::new();
    files(&folder.join("log"), &mut paths);
    assert!(paths.len() > 2, "{paths:?}");
    let newest = paths.iter().rfind(|path| path.extension().is_some()).cloned().unwrap();
    files(&folder.join("keyspaces"), &mut paths);
    paths.extend(["petrel", "version"].map(|name| folder.join(name)));
    let (mut cases, mut costs) = (0, 0);
    for path in paths {
        let inner = path.strip_prefix(&folder).unwrap();
        for keep in [None, Some(3)] {
            let other = somewhere();
            let damaged = other.path().join("lane-0");
            copy(&folder, &damaged);
            let bytes = fs::read(damaged.join(inner)).unwrap();
            // Nothing says how long the newest file of the log was.
            if keep.is_some() && (bytes.is_empty() || path == newest) {
                continue;
            }
            match keep {
                None => fs::remove_file(damaged.join(inner)).unwrap(),
                Some(part) => fs::write(damaged.join(inner), &bytes[..bytes.len() / part]).unwrap(),
            }
            let (done, left) =
                mend(&whole, &damaged, &format!("{} cut: {keep:?}", inner.display()));
            costs += usize::from(left != whole);
            // The oldest file of the log may hold what has been folded only.
            let is_useless = inner.starts_with("log") && left == whole;
            assert!(!done.damage.is_empty() || is_useless, "{} {keep:?}", inner.display());
            cases += 1;
        }
    }
    assert!(cases > 10 && costs > 5, "{cases} {costs}");
}

#[test]
fn the_oldest_file_of_a_log_is_missed_before_anything_was_folded() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    let mut lane = open(&folder);
    crate::begin(std::slice::from_mut(&mut lane)).unwrap();
    commit(&mut lane, (0..SESSIONS).map(session));
    for number in 0..SESSIONS {
        commit(&mut lane, (0..MESSAGES).map(|sequence| queued(number, sequence)));
    }
    drop(lane);
    let mut logs = Vec::new();
    files(&folder.join("log"), &mut logs);
    fs::remove_file(&logs[0]).unwrap();
    assert!(check(&folder, DiskOptions::default()).unwrap().faults_total > 0);
    let (done, _) = repair(&folder, 0, 1, "x").unwrap();
    assert!(done.to_string().contains("of the log are missing before it"), "{done}");
    assert_eq!(check(&folder, DiskOptions::default()).unwrap().faults_total, 0);
}

/// Else a place or a name would be given a second time.
#[test]
fn processes_are_counted_on_above_every_number_that_was_given() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    // Places and names in the log, or in the maps only.
    for (round, folds) in [false, true].into_iter().enumerate() {
        let folder = folder.with_file_name(format!("lane-{round}"));
        let mut lane = open(&folder);
        crate::begin(std::slice::from_mut(&mut lane)).unwrap();
        commit(&mut lane, (0..2).map(session));
        for _ in 0..5 {
            crate::begin(std::slice::from_mut(&mut lane)).unwrap();
        }
        assert_eq!(lane.epoch(), 6);
        let long = message("a/b", 1);
        let waits = (0..2).map(|number| sample::queued(number, (6 << 40) + 1, &long));
        lane.share_from(1);
        commit(&mut lane, waits);
        if folds {
            fold(&mut lane);
            for space in Space::ALL {
                lane.store_mut().compact(space).unwrap();
            }
        }
        drop(lane);
        // What the folder says of itself is in the journal.
        let journals = crate::journal::journals(&folder).unwrap();
        if folds {
            fs::write(&journals[0], []).unwrap();
            fs::remove_dir_all(folder.join("keyspaces").join("1").join("tables")).unwrap();
        } else {
            fs::remove_file(&journals[0]).unwrap();
        }
        repair(&folder, 0, 1, "x").unwrap();
        let lane = open(&folder);
        assert!(lane.epoch() > 6, "{folds}: {}", lane.epoch());
    }
}

#[test]
fn a_folder_that_a_process_has_is_left_alone() {
    let place = somewhere();
    let folder = place.path().join("lane-0");
    let lane = open(&folder);
    assert!(matches!(survey(&folder), Err(StoreError::InUse { .. })));
    assert!(matches!(repair(&folder, 0, 1, "x"), Err(StoreError::InUse { .. })));
    drop(lane);
    survey(&folder).unwrap();
}
