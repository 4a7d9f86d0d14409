//! How many bytes each connection has brought and been sent, as long as somebody wants to know.
//!
//! As [`crate::traffic`] counts: MQTT Control Packets, before encryption and framing. *Cost*: a branch for what a socket
//! brings or takes at once while nobody wants to know, a cache line of its own otherwise.

use crate::ConnKey;

/// Bytes of one connection since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volume {
    /// What the client has sent.
    pub received: u64,
    /// What it has been sent, as far as its socket has taken it or will.
    pub sent: u64,
}

/// The volumes of all connections.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    is_on: bool,
    /// By position in the table of connections, with the generation of who has it.
    of: Vec<(u32, Volume)>,
}

impl Volumes {
    /// Counts from now on, or no longer. Connections that are there already are not counted.
    pub(crate) fn set(&mut self, is_on: bool) {
        if self.is_on != is_on {
            *self = Self { is_on, of: Vec::new() };
        }
    }

    /// A connection has come, with what it has had elsewhere.
    pub(crate) fn begin(&mut self, key: ConnKey, volume: Volume) {
        if !self.is_on {
            return;
        }
        let at = key.index as usize;
        if self.of.len() <= at {
            self.of.resize(at + 1, (0, Volume::default()));
        }
        self.of[at] = (key.generation, volume);
    }

    #[inline]
    pub(crate) fn received(&mut self, key: ConnKey, bytes: usize) {
        if self.is_on
            && let Some(volume) = self.entry(key)
        {
            volume.received += bytes as u64;
        }
    }

    /// Bytes that were received wait for the rest of their packet, or for their turn.
    pub(crate) fn put_back(&mut self, key: ConnKey, bytes: usize) {
        if self.is_on
            && let Some(volume) = self.entry(key)
        {
            volume.received = volume.received.saturating_sub(bytes as u64);
        }
    }

    #[inline]
    pub(crate) fn sent(&mut self, key: ConnKey, bytes: usize) {
        if self.is_on
            && let Some(volume) = self.entry(key)
        {
            volume.sent += bytes as u64;
        }
    }

    fn entry(&mut self, key: ConnKey) -> Option<&mut Volume> {
        let (generation, volume) = self.of.get_mut(key.index as usize)?;
        (*generation == key.generation).then_some(volume)
    }

    /// Those of a connection, also when it has just ended; `None` if they were not counted.
    pub(crate) fn of(&self, key: ConnKey) -> Option<Volume> {
        let (generation, volume) = self.of.get(key.index as usize)?;
        (*generation == key.generation).then_some(*volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(index: u32, generation: u32) -> ConnKey {
        ConnKey { index, generation }
    }

    #[test]
    fn bytes_are_those_of_one_connection_and_only_while_somebody_wants_to_know() {
        let mut volumes = Volumes::default();
        volumes.begin(key(3, 1), Volume::default());
        volumes.received(key(3, 1), 10);
        assert_eq!(volumes.of(key(3, 1)), None);
        volumes.set(true);
        volumes.received(key(3, 1), 10);
        assert_eq!(volumes.of(key(3, 1)), None, "it was there already");
        volumes.begin(key(3, 2), Volume { received: 5, sent: 0 });
        volumes.received(key(3, 2), 10);
        volumes.sent(key(3, 2), 4);
        volumes.sent(key(3, 1), 400);
        volumes.set(true);
        assert_eq!(volumes.of(key(3, 2)), Some(Volume { received: 15, sent: 4 }));
        assert_eq!(volumes.of(key(3, 1)), None);
        volumes.begin(key(3, 3), Volume::default());
        assert_eq!(volumes.of(key(3, 3)), Some(Volume::default()));
        volumes.set(false);
        assert_eq!(volumes.of(key(3, 3)), None);
    }
}
