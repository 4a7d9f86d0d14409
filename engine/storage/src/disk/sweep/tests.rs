//! What goes while tables are merged, and what stays.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use petrel_shard::Message;

use super::*;
use crate::codec::Clock;
use crate::disk::{DiskOptions, DiskStore};
use crate::sample::{self, life};
use crate::shared::{Named, SharedId};
use crate::store::{Batch, Store};

const SWEPT: [Space; 5] =
    [Space::Subscription, Space::Queue, Space::Receipt, Space::Retained, Space::Shared];

fn message(expires_at_ms: u64) -> Message {
    Message { expires_at_ms, ..(*sample::message("a/b", vec![7; 900])).clone() }
}

fn page(expires_at_ms: u64) -> Bytes {
    let mut out = BytesMut::new();
    let delivery = sample::delivery(&Arc::new(message(expires_at_ms)));
    codec::put_delivery(&mut out, &delivery, None, Clock::default());
    page::write([(1, &out.freeze())]).remove(0).1
}

/// A store with three sessions with a page each, two retained messages and two that are shared, of which
/// one of each expires.
fn store(folder: &tempfile::TempDir, sweep: Sweep) -> DiskStore {
    let options = DiskOptions::default();
    let mut store = DiskStore::open_and_sweep(folder.path(), options, Some(sweep)).unwrap();
    let mut batch = Batch::default();
    for count in 1..=3 {
        let key = life(count).to_u64().to_be_bytes();
        batch.put(Space::Session, key.to_vec(), &b"session"[..]);
        batch.put(Space::Subscription, [&key[..], b"a/#"].concat(), &b"options"[..]);
        batch.put(Space::Receipt, [&key[..], &[0, 5]].concat(), Bytes::new());
        batch.put(Space::Queue, page::key(life(count), 1), page(u64::from(count) * 1000));
    }
    for expires_at_ms in [1000, u64::MAX] {
        let mut value = BytesMut::new();
        codec::put_message(&mut value, &message(expires_at_ms), Clock::default());
        let value = value.freeze();
        batch.put(Space::Retained, expires_at_ms.to_string(), value.clone());
        // Of no session, whatever its name.
        let id = SharedId::from_u64(expires_at_ms);
        let named = Named { count: 3, goes_at_wall_ms: expires_at_ms };
        batch.put(Space::Shared, id.key(), value);
        batch.put(Space::Shared, id.count_key(), named.to_bytes());
    }
    store.write(batch, true).unwrap();
    store
}

fn keys(store: &DiskStore, space: Space) -> Vec<Bytes> {
    let mut found = Vec::new();
    store
        .scan(space, &[], &mut |key, _| {
            found.push(key.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn counts(store: &DiskStore) -> [usize; 5] {
    SWEPT.into_iter().for_each(|space| store.compact(space).unwrap());
    store.compact(Space::Session).unwrap();
    assert_eq!(keys(store, Space::Session).len(), 3);
    SWEPT.map(|space| keys(store, space).len())
}

#[test]
fn what_has_expired_and_what_belongs_to_sessions_that_are_over_goes() {
    let folder = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicU64::new(0));
    let clock = now_ms.clone();
    let alive = Alive::default();
    let wall_clock: WallClock = Arc::new(move || clock.load(Ordering::Relaxed));
    let mut store = store(&folder, Sweep { alive: alive.clone(), wall_clock });
    // Nothing is known of sessions yet, and nothing has expired.
    assert_eq!(counts(&store), [3, 3, 3, 2, 4]);
    now_ms.store(1000, Ordering::Relaxed);
    assert_eq!(counts(&store), [3, 2, 3, 1, 2]);
    alive.fill([life(2), life(3)]);
    assert_eq!(counts(&store), [2, 2, 2, 1, 2]);
    alive.end(life(3));
    alive.begin(life(4));
    assert_eq!(counts(&store), [1, 1, 1, 1, 2]);
    assert_eq!(keys(&store, Space::Queue), [page::key(life(2), 1)]);
    store.reopen().unwrap();
    assert_eq!(counts(&store), [1, 1, 1, 1, 2]);
}

/// Who may have been sent it is told that nothing more comes of it.
#[test]
fn a_shared_message_of_qos_2_stays_when_it_has_expired() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = Sweep { alive: Alive::default(), wall_clock: Arc::new(|| 5000) };
    let options = DiskOptions::default();
    let mut store = DiskStore::open_and_sweep(folder.path(), options, Some(sweep)).unwrap();
    let message = Message { qos: petrel_proto::Qos::ExactlyOnce, ..message(1000) };
    let mut value = BytesMut::new();
    codec::put_message(&mut value, &message, Clock::default());
    let id = SharedId::new(1, 1);
    let mut batch = Batch::default();
    batch.put(Space::Shared, id.key(), value.freeze());
    store.write(batch, true).unwrap();
    store.compact(Space::Shared).unwrap();
    assert_eq!(keys(&store, Space::Shared), [id.key()]);
}

/// Else a message that the client has would come back.
#[test]
fn what_goes_does_not_uncover_what_it_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = Sweep { alive: Alive::default(), wall_clock: Arc::new(|| 2500) };
    let mut store = store(&folder, sweep);
    assert_eq!(counts(&store), [3, 1, 3, 1, 2]);
    let mut batch = Batch::default();
    batch.put(Space::Queue, page::key(life(3), 1), page(2000));
    store.write(batch, true).unwrap();
    assert_eq!(counts(&store)[1], 0);
    store.reopen().unwrap();
    assert_eq!(counts(&store)[1], 0);
}
