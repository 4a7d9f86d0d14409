//! How often one source address may connect: a token bucket for each, in a table of fixed size.
//!
//! One table serves all shards, since the kernel spreads the connections of a source over them. It is
//! asked once per accepted connection, and not at all unless the operator wants it. Knows no clock.
//!
//! Invariants:
//! - memory is the table's, however many addresses connect;
//! - an address whose connections are accepted at its rate is not refused, whatever others do, but in
//!   the moment in which two shards give its place to somebody new;
//! - what is refused changes nothing, so trying costs a client no later place.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed as RELAXED;

/// Addresses remembered at once; 16 bytes each, 1 MiB in all.
const ADDRESSES_MAX: usize = 1 << 16;

/// Places that an address may be in: two cache lines.
const WAYS: usize = 8;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// How many connections one address may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Connections per second in the long run; at least 1.
    pub per_s: u32,
    /// Connections at once after a time without any; at least 1.
    pub burst: u32,
}

impl Rate {
    const fn interval_ns(self) -> u64 {
        NS_PER_S.div_ceil(if self.per_s == 0 { 1 } else { self.per_s as u64 })
    }

    /// Takes one token from a bucket. A bucket is the moment at which it will be full again, in
    /// nanoseconds; the result is the bucket afterwards, or `None` if it is empty.
    fn take(self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        let from = full_at_ns.max(now_ns);
        let room = self.interval_ns().saturating_mul(u64::from(self.burst.saturating_sub(1)));
        (from - now_ns <= room).then(|| from.saturating_add(self.interval_ns()))
    }
}

/// The buckets of all addresses that have connected lately.
///
/// An address that is not in the table has a full bucket. If there is no place for a new one, the
/// bucket of its set that would be full first is forgotten. So the limit is exact for up to some tens
/// of thousands of addresses that use theirs up, and generous beyond.
#[derive(Debug)]
pub struct Buckets<S = RandomState> {
    rate: Rate,
    entries: Box<[Entry]>,
    /// Keyed, so that nobody can choose whose set an address falls into.
    hasher: S,
}

/// Two shards that meet here may let one connection more through; nothing else is lost.
#[derive(Debug, Default)]
struct Entry {
    /// Hash of the address; 0: nobody's.
    tag: AtomicU64,
    full_at_ns: AtomicU64,
}

impl Buckets {
    /// Full buckets for everybody.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with(rate, ADDRESSES_MAX, RandomState::new())
    }
}

impl<S: BuildHasher> Buckets<S> {
    fn with(rate: Rate, addresses_max: usize, hasher: S) -> Self {
        let sets = (addresses_max / WAYS).max(1);
        let entries = std::iter::repeat_with(Entry::default).take(sets * WAYS).collect();
        Self { rate, entries, hasher }
    }

    /// Whether this address may connect now, which uses up one of its tokens.
    ///
    /// *Units*: `now_ms` of one clock for all that ask. *Cost*: one hash, two cache lines.
    pub fn admit(&self, address: IpAddr, now_ms: u64) -> bool {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let hash = self.hasher.hash_one(source(address));
        let sets = self.entries.len() / WAYS;
        let first = (hash as usize % sets) * WAYS;
        let set = &self.entries[first..first + WAYS];
        let tag = hash | 1;
        loop {
            if let Some(entry) = set.iter().find(|entry| entry.tag.load(RELAXED) == tag) {
                return self.take(entry, now_ns);
            }
            let Some(entry) = set.iter().min_by_key(|it| it.full_at_ns.load(RELAXED)) else {
                return true;
            };
            let (others, full_at_ns) = (entry.tag.load(RELAXED), entry.full_at_ns.load(RELAXED));
            if entry.tag.compare_exchange(others, tag, RELAXED, RELAXED).is_err() {
                // Another shard was faster, perhaps for the same address.
                continue;
            }
            let fresh = now_ns.saturating_add(self.rate.interval_ns());
            let begun = entry.full_at_ns.compare_exchange(full_at_ns, fresh, RELAXED, RELAXED);
            return begun.is_ok() || self.take(entry, now_ns);
        }
    }

    fn take(&self, entry: &Entry, now_ns: u64) -> bool {
        let take = |full_at_ns| self.rate.take(full_at_ns, now_ns);
        entry.full_at_ns.fetch_update(RELAXED, RELAXED, take).is_ok()
    }
}

/// What counts as one source: an IPv4 address, or the 64 bits of IPv6 that a site is given at least.
fn source(address: IpAddr) -> u64 {
    // The prefix of a multicast address, which no connection comes from.
    let of_v4 = |v4: Ipv4Addr| 0xff00_0000_0000_0000 | u64::from(u32::from(v4));
    match address {
        IpAddr::V4(v4) => of_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => of_v4(v4),
            None => (u128::from(v6) >> 64) as u64,
        },
    }
}

#[cfg(test)]
mod tests;
