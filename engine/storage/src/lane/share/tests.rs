use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::*;
use crate::disk::{DiskOptions, DiskStore};
use crate::memory::MemoryStore;
use crate::sample::{commit, fold, life, queued, session};
use crate::shared::Named;
use crate::{page, sample};

/// How many messages in pages name each message, and how many it is said to be.
pub(in crate::lane) fn names<S: Store>(
    lane: &Lane<S>,
) -> (BTreeMap<SharedId, u64>, BTreeMap<SharedId, u64>) {
    let (mut named, mut stored) = (BTreeMap::new(), BTreeMap::new());
    let mut messages = 0;
    lane.store
        .scan(Space::Queue, &[], &mut |_, value| {
            for (_, value) in page::read(value).unwrap() {
                if let Some(shared) = codec::shared(&value) {
                    *named.entry(shared.id).or_default() += 1;
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    lane.store
        .scan(Space::Shared, &[], &mut |key, value| {
            match SharedId::of_key(key).unwrap() {
                (_, true) => messages += 1,
                (id, false) => drop(stored.insert(id, Named::read(value).unwrap().count)),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(messages, stored.len());
    (named, stored)
}

fn message(payload_bytes: usize) -> Arc<Message> {
    sample::message("a/b", vec![7; payload_bytes])
}

fn open<S: Store>(store: S) -> Lane<S> {
    let mut lane = sample::lane(store, 0);
    lane.sweep(crate::Alive::default()).unwrap();
    lane
}

/// What waits for a session.
fn load<S: Store>(lane: &Lane<S>, number: u32) -> Vec<(u64, Arc<Message>)> {
    let page = lane.load(life(number), 0..u64::MAX, 100, usize::MAX).unwrap();
    page.messages.into_iter().map(|it| (it.sequence, it.delivery.unwrap().message)).collect()
}

const SESSIONS: u32 = 50;
const PAYLOAD: usize = 10_000;

fn fan_out<S: Store>(lane: &mut Lane<S>) -> Arc<Message> {
    let message = message(PAYLOAD);
    commit(lane, (0..SESSIONS).map(session));
    let before = lane.written().bytes;
    commit(lane, (0..SESSIONS).map(|number| queued(number, 1, &message)));
    assert!(lane.written().bytes - before < 2 * PAYLOAD as u64);
    message
}

#[test]
fn a_long_message_for_many_is_stored_once_until_the_last_has_it() {
    let mut lane = open(MemoryStore::new());
    let message = fan_out(&mut lane);
    for round in 0..2 {
        for number in 0..SESSIONS {
            assert_eq!(load(&lane, number), [(1, Arc::clone(&message))], "{round}");
        }
        fold(&mut lane);
        assert!(!lane.has_log());
    }
    let (named, stored) = names(&lane);
    assert_eq!(named.values().copied().collect::<Vec<_>>(), [u64::from(SESSIONS)]);
    assert_eq!(stored, named);
    // After a restart some have it and some are over.
    let mut lane = open(lane.into_store());
    for number in 0..SESSIONS {
        let record = match number % 2 {
            0 => Record::Done { incarnation: life(number), sequence: 1 },
            _ => Record::Ended { incarnation: life(number) },
        };
        assert_eq!(load(&lane, number), [(1, Arc::clone(&message))]);
        commit(&mut lane, [record]);
        fold(&mut lane);
        let (named, stored) = names(&lane);
        assert_eq!(named.values().sum::<u64>(), u64::from(SESSIONS - 1 - number));
        assert_eq!(stored, named);
    }
}

/// Another shard may say so late that a message of a group is not needed any more.
#[test]
fn a_word_after_the_end_of_a_session_takes_nothing_from_others() {
    let mut lane = open(MemoryStore::new());
    fan_out(&mut lane);
    fold(&mut lane);
    let ended = Record::Ended { incarnation: life(0) };
    let late = Record::Done { incarnation: life(0), sequence: 1 };
    commit(&mut lane, [ended, late]);
    fold(&mut lane);
    let (named, stored) = names(&lane);
    assert_eq!(named.values().sum::<u64>(), u64::from(SESSIONS - 1));
    assert_eq!(stored, named);
}

#[test]
fn sessions_that_read_a_shared_message_share_it_in_memory() {
    let mut lane = open(MemoryStore::new());
    fan_out(&mut lane);
    fold(&mut lane);
    let (one, other) = (load(&lane, 1).remove(0).1, load(&lane, 2).remove(0).1);
    assert!(Arc::ptr_eq(&one, &other));
}

/// A client may be slow, and a batch long.
#[test]
fn what_was_read_keeps_no_batch_in_memory() {
    let mut lane = open(MemoryStore::new());
    commit(&mut lane, [session(0)]);
    let (one, other) = (message(100), message(PAYLOAD));
    commit(&mut lane, [queued(0, 1, &one), queued(0, 2, &other), queued(1, 1, &other)]);
    let read = load(&lane, 0);
    let (_, batches) = lane.window.batches();
    let log = batches[1].as_ptr_range();
    assert!(read.iter().all(|(_, message)| !log.contains(&message.payload.as_ptr())));
    assert!(read.iter().all(|(_, message)| !log.contains(&message.topic.as_bytes().as_ptr())));
}

/// It is looked at which are in use when twice as many are as then.
#[test]
fn what_nobody_uses_any_more_is_forgotten() {
    let reads = Reads::default();
    let used: Vec<_> = (0..10_000)
        .map(|number| {
            let message = message(1);
            reads.insert(SharedId::new(1, number), &message);
            message
        })
        .collect();
    assert!(used.iter().zip(0..).all(|(message, number)| {
        reads.get(SharedId::new(1, number)).is_some_and(|read| Arc::ptr_eq(&read, message))
    }));
    drop(used);
    for number in 10_000..50_000 {
        reads.insert(SharedId::new(1, number), &message(1));
    }
    assert!(reads.0.lock().unwrap().messages.len() <= READ_MIN);
}

#[test]
fn what_is_short_or_waits_for_one_only_is_stored_where_it_waits() {
    let mut lane = open(MemoryStore::new());
    let (short, long) = (message(SHARED_BYTES_MIN - 1), message(SHARED_BYTES_MIN));
    commit(&mut lane, [session(1), session(2)]);
    commit(&mut lane, [queued(1, 1, &short), queued(2, 1, &short), queued(1, 2, &long)]);
    fold(&mut lane);
    assert!(names(&lane).1.is_empty());
    assert_eq!(load(&lane, 1), [(1, short), (2, long)]);
}

#[test]
fn a_batch_that_ends_between_those_who_share_begins_anew() {
    let mut lane = open(MemoryStore::new());
    lane.batch_bytes_max = PAYLOAD + 200;
    let message = message(PAYLOAD);
    commit(&mut lane, (0..SESSIONS).map(session));
    commit(&mut lane, (0..SESSIONS).map(|number| queued(number, 1, &message)));
    assert!(lane.written().batches > 4);
    for _ in 0..2 {
        for number in 0..SESSIONS {
            assert_eq!(load(&lane, number), [(1, Arc::clone(&message))]);
        }
        fold(&mut lane);
    }
    let (named, stored) = names(&lane);
    assert_eq!(named.values().sum::<u64>(), u64::from(SESSIONS));
    assert_eq!(stored, named);
}

/// A view of it is what a backup holds, and a repaired folder.
#[test]
fn what_is_shared_comes_back_from_a_backup_and_from_a_repair() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let options = DiskOptions { log_file_bytes: 512 << 10, ..DiskOptions::default() };
    let mut lane = open(DiskStore::open(path("lane-0"), options).unwrap());
    let older = fan_out(&mut lane);
    fold(&mut lane);
    let newer = message(PAYLOAD + 1);
    commit(&mut lane, (0..SESSIONS).map(|number| queued(number, 2, &newer)));
    let views = vec![lane.view().unwrap()];
    crate::backup::write(&path("backup"), views, 77, &mut || Ok(())).unwrap();
    drop(lane);
    crate::backup::restore(&path("backup"), &path("restored")).unwrap();
    crate::repair::repair(&path("lane-0"), 0, 1, "x").unwrap();
    for folder in [path("lane-0"), path("restored").join("lane-0")] {
        let report = crate::check(&folder, options).unwrap();
        assert_eq!(report.faults_total, 0, "{report}");
        let mut lane = open(DiskStore::open(&folder, options).unwrap());
        let third = message(PAYLOAD + 2);
        commit(&mut lane, (0..SESSIONS).map(|number| queued(number, 3, &third)));
        fold(&mut lane);
        for number in 0..SESSIONS {
            let waiting = load(&lane, number);
            let expected = [&older, &newer, &third].map(Arc::clone);
            assert!(waiting.iter().map(|(_, it)| it).eq(&expected), "{number}");
        }
        assert_eq!(names(&lane).0.len(), 3);
    }
}

#[test]
fn a_message_that_is_missing_is_found_by_a_check() {
    let folder = tempfile::tempdir().unwrap();
    let options = DiskOptions::default();
    let mut lane = open(DiskStore::open(folder.path(), options).unwrap());
    fan_out(&mut lane);
    fold(&mut lane);
    let id = *names(&lane).0.first_key_value().unwrap().0;
    let mut batch = crate::Batch::default();
    batch.remove(Space::Shared, id.key());
    lane.store_mut().write(batch, true).unwrap();
    let error = lane.load(life(3), 0..9, 9, 9).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    drop(lane);
    let report = crate::check(folder.path(), options).unwrap();
    assert_eq!(report.faults_total, 1, "{report}");
    assert!(report.to_string().contains("50 messages name it, and it is missing"), "{report}");
}
