//! From lanes back into shards, after a restart.

use std::sync::{Arc, mpsc};
use std::thread;

use petrel_proto::PacketId;
use petrel_shard::peer::GroupKey;
use petrel_shard::record::{SessionRecord, SubscriptionRecord};
use petrel_shard::{Author, Incarnation, Message, Now, Shard, ShardIndex, Slot, SlotMap};

use crate::disk::Alive;
use crate::lane::Lane;
use crate::store::{Store, StoreError};

/// What is handed to a shard's thread at once.
const TOGETHER: usize = 512;
/// So many of these may wait for it.
const WAITING_MAX: usize = 16;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Sessions, those of which only a will was left included.
    pub sessions: u64,
    /// Shared groups in which something may wait.
    pub groups: u64,
    /// The subscriptions of sessions.
    pub subscriptions: u64,
    /// QoS 2 messages received and not released.
    pub receipts: u64,
    /// Retained messages.
    pub retained: u64,
}

/// Something that comes back.
enum Item {
    Session(SessionRecord),
    Group(Incarnation, Arc<GroupKey>),
    Subscription(SubscriptionRecord),
    Receipt(Incarnation, PacketId),
    Retained(Message, Option<Author>),
}

/// Gives shards what the lanes have of their slots; the number of shards may be another than before.
/// [`Shard::finish_restore`] is still to be called on each.
///
/// What waits for the sessions stays where it is until they ask for it.
///
/// # Errors
/// A lane fails or is damaged.
pub fn restore<S: Store>(
    lanes: &[Lane<S>],
    shards: &mut [Shard],
    slots: &SlotMap,
    now: Now,
) -> Result<Restored, StoreError> {
    let mut restored = Restored::default();
    for lane in lanes {
        read(lane, slots, &mut restored, |shard, item| give(&mut shards[shard], now, item))?;
    }
    Ok(restored)
}

/// The same, with a thread for each lane that reads and one for each shard that takes what was read.
/// Each shard gets what one lane has in the same order as by [`restore`]. Each lane sweeps for its
/// `alive` from now on ([`Lane::sweep`]).
///
/// *Bounds*: some 10,000 items for each shard are on their way.
///
/// # Errors
/// A lane fails or is damaged.
pub fn restore_on_threads<S: Store + Send>(
    lanes: &mut [Lane<S>],
    alive: Vec<Alive>,
    shards: &mut [Shard],
    slots: &SlotMap,
    now: Now,
) -> Result<Restored, StoreError> {
    thread::scope(|scope| {
        let ways: Vec<_> = shards
            .iter_mut()
            .map(|shard| {
                let (way, items) = mpsc::sync_channel::<Vec<Item>>(WAITING_MAX);
                scope.spawn(move || {
                    items.into_iter().flatten().for_each(|item| give(shard, now, item));
                });
                way
            })
            .collect();
        let readers: Vec<_> = lanes
            .iter_mut()
            .zip(alive)
            .map(|(lane, alive)| {
                let ways = ways.clone();
                scope.spawn(move || read_together(lane, alive, slots, &ways))
            })
            .collect();
        drop(ways);
        let mut all = Restored::default();
        for reader in readers {
            // A panic of a thread goes on in this one.
            let restored =
                reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.sessions += restored.sessions;
            all.groups += restored.groups;
            all.subscriptions += restored.subscriptions;
            all.receipts += restored.receipts;
            all.retained += restored.retained;
        }
        Ok(all)
    })
}

fn read_together<S: Store>(
    lane: &mut Lane<S>,
    alive: Alive,
    slots: &SlotMap,
    ways: &[mpsc::SyncSender<Vec<Item>>],
) -> Result<Restored, StoreError> {
    let mut restored = Restored::default();
    let mut sessions = Vec::new();
    let mut gathered: Vec<Vec<Item>> = ways.iter().map(|_| Vec::new()).collect();
    // A shard's thread ends early only in a panic, which is heard of when it is joined.
    let send = |shard: usize, items: Vec<Item>| drop(ways[shard].send(items));
    read(lane, slots, &mut restored, |shard, item| {
        match &item {
            Item::Session(session) => sessions.push(session.incarnation),
            Item::Group(incarnation, _) => sessions.push(*incarnation),
            _ => {}
        }
        let items = &mut gathered[shard];
        if items.capacity() == 0 {
            items.reserve_exact(TOGETHER);
        }
        items.push(item);
        if items.len() == TOGETHER {
            send(shard, std::mem::take(items));
        }
    })?;
    gathered.into_iter().enumerate().for_each(|(shard, items)| send(shard, items));
    lane.sweep_of(sessions, alive)?;
    Ok(restored)
}

/// Shows everything of a lane with the shard that it belongs to.
fn read<S: Store>(
    lane: &Lane<S>,
    slots: &SlotMap,
    restored: &mut Restored,
    mut show: impl FnMut(usize, Item),
) -> Result<(), StoreError> {
    let place = |slot: Slot| {
        let ShardIndex(index) = slots.home(slot);
        usize::from(index)
    };
    lane.sessions(|session| {
        restored.sessions += 1;
        show(place(session.incarnation.slot()), Item::Session(session));
    })?;
    lane.groups(|incarnation, key| {
        restored.groups += 1;
        show(place(incarnation.slot()), Item::Group(incarnation, Arc::new(key)));
    })?;
    lane.subscriptions(|subscription| {
        restored.subscriptions += 1;
        show(place(subscription.incarnation.slot()), Item::Subscription(subscription));
    })?;
    lane.receipts(|incarnation, packet_id| {
        restored.receipts += 1;
        show(place(incarnation.slot()), Item::Receipt(incarnation, packet_id));
    })?;
    lane.retained(|message, author| {
        restored.retained += 1;
        let slot = Slot::of(message.topic.as_bytes());
        show(place(slot), Item::Retained(message, author));
    })
}

fn give(shard: &mut Shard, now: Now, item: Item) {
    match item {
        Item::Session(session) => shard.restore_session(now, session),
        Item::Group(incarnation, key) => shard.restore_group(incarnation, &key),
        Item::Subscription(subscription) => shard.restore_subscription(&subscription),
        Item::Receipt(incarnation, packet_id) => shard.restore_receipt(incarnation, packet_id),
        Item::Retained(message, author) => {
            shard.restore_retained(now, message.into_owned(), author.as_ref());
        }
    }
}
