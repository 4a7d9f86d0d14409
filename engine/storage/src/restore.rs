//! From lanes back into shards, after a restart.

use petrel_shard::{Now, Shard, ShardIndex, Slot, SlotMap};

use crate::lane::Lane;
use crate::store::{Store, StoreError};

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restored {
    /// Sessions, those of which only a will was left included.
    pub sessions: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// QoS 2 messages received and not released.
    pub receipts: u64,
    /// Retained messages.
    pub retained: u64,
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
    let place = |slot: Slot| {
        let ShardIndex(index) = slots.home(slot);
        usize::from(index)
    };
    for lane in lanes {
        lane.sessions(|session| {
            restored.sessions += 1;
            shards[place(session.incarnation.slot())].restore_session(now, session);
        })?;
        lane.subscriptions(|subscription| {
            restored.subscriptions += 1;
            shards[place(subscription.incarnation.slot())].restore_subscription(&subscription);
        })?;
        lane.receipts(|incarnation, packet_id| {
            restored.receipts += 1;
            shards[place(incarnation.slot())].restore_receipt(incarnation, packet_id);
        })?;
        lane.retained(|message| {
            restored.retained += 1;
            let slot = Slot::of(message.topic.as_bytes());
            shards[place(slot)].restore_retained(now, message.into_owned());
        })?;
    }
    Ok(restored)
}
