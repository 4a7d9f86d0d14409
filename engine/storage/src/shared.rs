//! Messages that wait for several sessions and are stored once.
//!
//! What waits for a session names such a message instead of holding it. In the log it stands before the
//! first that names it, in the same batch. In the maps it has a key of its own, and beside it stands how
//! many of the messages in pages name it; the two change together with those pages.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use petrel_proto::Qos;

use crate::codec;

/// The name of a message that is stored once. No other has the same, not even after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SharedId(u64);

/// Stands behind the name in the key of how many name it.
const COUNT: u8 = b'n';

impl SharedId {
    /// Bits that count within one process.
    pub(crate) const COUNT_BITS: u32 = 40;

    /// The `count`th that the process with this epoch has stored in a lane.
    pub(crate) const fn new(epoch: u32, count: u64) -> Self {
        Self((epoch as u64) << Self::COUNT_BITS | count)
    }

    pub(crate) const fn to_u64(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The key of the message.
    pub(crate) fn key(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// The key of how many name it.
    pub(crate) fn count_key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(9);
        key.put_u64(self.0);
        key.put_u8(COUNT);
        key.freeze()
    }

    /// The message to which a key belongs, and whether the key is that of the message itself.
    pub(crate) fn of_key(key: &[u8]) -> Option<(Self, bool)> {
        let (id, rest) = key.split_first_chunk::<8>()?;
        let id = Self(u64::from_be_bytes(*id));
        match rest {
            [] => Some((id, true)),
            [COUNT] => Some((id, false)),
            _ => None,
        }
    }
}

/// What stands for a message that is stored once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Which.
    pub(crate) id: SharedId,
    /// When it expires, on the wall clock; `u64::MAX` for never.
    pub(crate) expires_at_wall_ms: u64,
    /// What it counts for against a queue's bound.
    pub(crate) cost_bytes: u32,
    /// It was published at QoS 2: who may have been sent it still has to hear of it when it has expired.
    pub(crate) stays: bool,
}

impl Shared {
    const BYTES: usize = 21;

    pub(crate) fn put(self, out: &mut BytesMut) {
        out.put_u64(self.id.0);
        out.put_u64(self.expires_at_wall_ms);
        out.put_u32(self.cost_bytes);
        out.put_u8(self.stays.into());
    }

    /// Reads what takes all of `bytes`.
    pub(crate) fn read(mut bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::BYTES).then(|| Self {
            id: SharedId(bytes.get_u64()),
            expires_at_wall_ms: bytes.get_u64(),
            cost_bytes: bytes.get_u32(),
            stays: bytes.get_u8() != 0,
        })
    }

    /// When the sweep may take it although somebody names it, on the wall clock; `u64::MAX` for never.
    pub(crate) const fn goes_at_wall_ms(self) -> u64 {
        if self.stays { u64::MAX } else { self.expires_at_wall_ms }
    }
}

/// How many of the messages in pages name a message, and when the sweep may take both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) count: u64,
    pub(crate) goes_at_wall_ms: u64,
}

impl Named {
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64(self.goes_at_wall_ms);
        bytes.put_u64(self.count);
        bytes.freeze()
    }

    pub(crate) fn read(mut bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 16)
            .then(|| Self { goes_at_wall_ms: bytes.get_u64(), count: bytes.get_u64() })
    }
}

/// When the sweep may take an entry of the messages that are stored once, on the wall clock.
pub(crate) fn goes_at_wall_ms(key: &[u8], value: &[u8]) -> Option<u64> {
    match SharedId::of_key(key)? {
        (_, true) if codec::message_qos(value)? == Qos::ExactlyOnce => Some(u64::MAX),
        (_, true) => codec::message_expires_at_wall_ms(value),
        (_, false) => Named::read(value).map(|named| named.goes_at_wall_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_as_they_were_written() {
        let id = SharedId::new(7, 300);
        assert_eq!(SharedId::of_key(&id.key()), Some((id, true)));
        assert_eq!(SharedId::of_key(&id.count_key()), Some((id, false)));
        assert_eq!(SharedId::of_key(b"short"), None);
        assert!(id < SharedId::new(8, 0));
        let shared = Shared { id, expires_at_wall_ms: 5, cost_bytes: 1_000, stays: true };
        let mut out = BytesMut::new();
        shared.put(&mut out);
        assert_eq!(Shared::read(&out), Some(shared));
        assert_eq!(Shared::read(&out[1..]), None);
        let named = Named { count: 3, goes_at_wall_ms: u64::MAX };
        assert_eq!(Named::read(&named.to_bytes()), Some(named));
        assert_eq!(goes_at_wall_ms(&id.count_key(), &named.to_bytes()), Some(u64::MAX));
    }
}
