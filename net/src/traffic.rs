//! MQTT Control Packets by type and direction, and their bytes, before encryption and framing.
//!
//! Plain counters of one shard: whoever wants to show them takes a copy now and then. *Cost*: an addition for a packet,
//! and one for what a socket brings or takes at once.

/// Types of packets, 0 included, which is none.
const TYPES: usize = 16;

/// Packets and bytes since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// What clients have sent.
    pub received: OneWay,
    /// What they have been sent, as far as sockets have taken it or will.
    pub sent: OneWay,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OneWay {
    packets: [u64; TYPES],
    bytes: u64,
}

impl OneWay {
    /// What packets are called, by type from 1.
    pub const NAMES: [&'static str; 15] = [
        "connect",
        "connack",
        "publish",
        "puback",
        "pubrec",
        "pubrel",
        "pubcomp",
        "subscribe",
        "suback",
        "unsubscribe",
        "unsuback",
        "pingreq",
        "pingresp",
        "disconnect",
        "auth",
    ];

    /// Counts a packet by its first byte.
    #[inline]
    pub(crate) fn count(&mut self, first_byte: Option<&u8>) {
        let kind = first_byte.map_or(0, |byte| byte >> 4);
        self.packets[usize::from(kind)] += 1;
    }

    /// Counts the bytes of packets.
    pub(crate) const fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Takes bytes back that were counted and wait for the rest of their packet, or for their turn.
    pub(crate) const fn put_bytes_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }

    /// Packets, by name.
    pub fn packets(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.packets.into_iter().skip(1))
    }

    /// Bytes of all of them.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Traffic {
    /// How many numbers [`Traffic::numbers`] has.
    pub const NUMBERS: usize = 2 * (TYPES + 1);

    /// All numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        let of = |way: OneWay| way.packets.into_iter().chain([way.bytes]);
        of(self.received).chain(of(self.sent))
    }

    /// From what [`Self::numbers`] gave; numbers that are missing are 0.
    #[must_use]
    pub fn from_numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut numbers = numbers.into_iter();
        let mut next = || numbers.next().unwrap_or(0);
        let mut one = || OneWay { packets: std::array::from_fn(|_| next()), bytes: next() };
        Self { received: one(), sent: one() }
    }

    /// Adds what another shard has counted.
    pub fn add(&mut self, other: &Self) {
        *self =
            Self::from_numbers(self.numbers().zip(other.numbers()).map(|(one, more)| one + more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_by_type_and_added_up() {
        let mut traffic = Traffic::default();
        traffic.received.count(Some(&0x32));
        traffic.received.add_bytes(17);
        traffic.received.put_bytes_back(7);
        traffic.sent.count(Some(&0x40));
        traffic.sent.add_bytes(4);
        let mut all = traffic;
        all.add(&traffic);
        assert_eq!(Traffic::from_numbers(all.numbers()), all);
        let named = |way: OneWay| way.packets().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(named(all.received), [("publish", 2)]);
        assert_eq!(named(all.sent), [("puback", 2)]);
        assert_eq!((all.received.bytes(), all.sent.bytes()), (20, 8));
    }
}
