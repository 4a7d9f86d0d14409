//! What the log says of connections and nobody else needs: where they come from, since when, how much they bring.
//!
//! Kept only while lines about clients are wanted; of connections from before nothing is known.

use std::collections::HashMap;
use std::net::SocketAddr;

use petrel_net::ConnKey;
use petrel_net::volume::Volume;

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// When its CONNECT came, on the monotonic clock.
    pub since_ms: u64,
    /// Position of its listener.
    pub listener: u16,
    /// The other end.
    pub address: Option<SocketAddr>,
    /// Its bytes, once it has ended.
    pub volume: Option<Volume>,
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub struct Callers {
    is_on: bool,
    known: HashMap<ConnKey, Caller>,
    /// Those that have ended: they are forgotten when what the shard says of them has been written.
    gone: Vec<ConnKey>,
}

impl Callers {
    /// Whether anything is kept from now on.
    pub(super) fn set(&mut self, is_on: bool) {
        if self.is_on != is_on {
            *self = Self { is_on, ..Self::default() };
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn begin(&mut self, conn: ConnKey, caller: Caller) {
        if self.is_on {
            self.known.insert(conn, caller);
        }
    }

    /// A connection has ended.
    pub(super) fn end(&mut self, conn: ConnKey, volume: Option<Volume>) {
        if let Some(caller) = self.known.get_mut(&conn) {
            caller.volume = volume;
            self.gone.push(conn);
        }
    }

    /// What is known of a connection.
    #[must_use]
    pub fn get(&self, conn: ConnKey) -> Option<&Caller> {
        self.known.get(&conn)
    }

    /// Forgets those that have ended.
    pub(super) fn forget_gone(&mut self) {
        for conn in self.gone.drain(..) {
            self.known.remove(&conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_until_its_end_has_been_told() {
        let conn = ConnKey { index: 1, generation: 1 };
        let caller = Caller { since_ms: 7, listener: 0, address: None, volume: None };
        let mut callers = Callers::default();
        callers.begin(conn, caller);
        assert_eq!(callers.get(conn), None);
        callers.set(true);
        callers.begin(conn, caller);
        callers.set(true);
        assert_eq!(callers.get(conn), Some(&caller));
        let volume = Some(Volume { received: 3, sent: 4 });
        callers.end(conn, volume);
        assert_eq!(callers.get(conn), Some(&Caller { volume, ..caller }));
        callers.forget_gone();
        assert_eq!(callers.get(conn), None);
        callers.end(conn, None);
        assert!(callers.gone.is_empty());
    }
}
