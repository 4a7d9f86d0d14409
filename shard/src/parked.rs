//! CONNECTs that wait for somebody to say who their clients are.
//!
//! Of several for one client identifier the answers may come in any order. What came later counts: when one comes
//! in, those that were there before it never do. Nobody has proved anything before, so a CONNECT that merely waits
//! keeps no other from coming in.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use smallvec::SmallVec;

use crate::ConnId;

/// The connections that wait, by the keyed hash of the client identifier, in the order in which they came; and
/// about the bytes that they hold.
///
/// *Bounds*: [`PARKED_BYTES_MAX`], one CONNECT excepted: nobody has proved anything yet, and a will may have as
/// many bytes as a packet.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    waiting: HashMap<u64, SmallVec<[(ConnId, u32); 1]>, Hashed>,
    bytes: u64,
}

/// Bytes of the CONNECTs that may wait at one shard.
const PARKED_BYTES_MAX: u64 = 64 << 20;

/// What is hashed already.
#[derive(Debug, Clone, Copy, Default)]
struct Hashed;

struct Same(u64);

impl std::hash::BuildHasher for Hashed {
    type Hasher = Same;

    fn build_hasher(&self) -> Same {
        Same(0)
    }
}

impl std::hash::Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Parked {
    /// A CONNECT waits from now on.
    pub(crate) fn push(&mut self, client_hash: u64, conn: ConnId, bytes: u32) {
        self.bytes += u64::from(bytes);
        self.waiting.entry(client_hash).or_default().push((conn, bytes));
    }

    /// True if no more may wait.
    pub(crate) const fn is_full(&self) -> bool {
        self.bytes > PARKED_BYTES_MAX
    }

    /// A CONNECT waits no longer.
    pub(crate) fn remove(&mut self, client_hash: u64, conn: ConnId) {
        let Entry::Occupied(mut found) = self.waiting.entry(client_hash) else { return };
        let held = &mut self.bytes;
        found.get_mut().retain(|(other, bytes)| {
            let stays = *other != conn;
            *held -= if stays { 0 } else { u64::from(*bytes) };
            stays
        });
        if found.get().is_empty() {
            found.remove();
        }
    }

    /// Those that came before this one; all if it does not wait.
    pub(crate) fn before(&self, client_hash: u64, conn: ConnId) -> SmallVec<[ConnId; 1]> {
        let Some(all) = self.waiting.get(&client_hash) else { return SmallVec::new() };
        all.iter().map(|(other, _)| *other).take_while(|other| *other != conn).collect()
    }

    /// True if none waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.values().map(SmallVec::len).sum()
    }
}
