//! What peers have sent, and how much of it is taken.

use std::sync::atomic::Ordering;

use petrel_mesh::{Handover, Parcel};
use petrel_shard::Input;

use super::{Pump, STAGED_BYTES_MAX, WORK_OF_A_SESSION, WORK_PER_TURN_MAX};

/// Turns that sockets which wait to be read come before what peers have sent.
const TURNS_WITHOUT_PEERS_MAX: u32 = 3;

impl Pump {
    /// Takes what the peers have sent, and what the shard has told itself, up to so much work. Who sends more
    /// than this shard wants to have waiting is held back. As among sockets, the others come first: if peers have
    /// sent more than was taken, sockets that could not be read in the last turn are read before, some turns long.
    pub(super) fn receive(&mut self) {
        let sockets_first = self.sockets_wait && self.receiving.is_some();
        if sockets_first && self.turns_without_peers < TURNS_WITHOUT_PEERS_MAX {
            self.turns_without_peers += 1;
            return;
        }
        self.turns_without_peers = 0;
        let mut left = WORK_PER_TURN_MAX;
        let mut begun = false;
        while left > 0 && self.takes_from_peers() {
            let (from, mut batch) = match self.receiving.take() {
                Some(rest) => rest,
                None => {
                    if !std::mem::replace(&mut begun, true) {
                        self.parts.mesh.begin_to_receive();
                    }
                    match self.parts.mesh.receive() {
                        Some((from, Parcel::Messages(batch))) => (from, batch),
                        Some((_, Parcel::Adopt(handover))) => {
                            left = left.saturating_sub(WORK_OF_A_SESSION);
                            self.adopt(*handover);
                            if self.is_full() {
                                self.carry_out();
                            }
                            continue;
                        }
                        None => break,
                    }
                }
            };
            while left > 0
                && self.takes_from_peers()
                && let Some(message) = batch.pop()
            {
                let parts_before = self.shard.begun_in_parts();
                self.feed(Input::Peer { from, message });
                left = left.saturating_sub(1 + std::mem::take(&mut self.receivers_work));
                if self.shard.begun_in_parts() > parts_before {
                    self.peers_parts = self.shard.begun_in_parts();
                }
                if self.is_full() {
                    // What the sockets have brought comes next.
                    self.carry_out();
                    left = 0;
                }
            }
            if batch.is_empty() {
                self.parts.mesh.give_back(from, batch);
            } else {
                self.receiving = Some((from, batch));
            }
        }
    }

    /// Whether what peers have sent before is on its way: fan-outs of theirs, and all that waits to be sent.
    pub(super) fn takes_from_peers(&mut self) -> bool {
        let staged = self.parts.wire.staged_bytes();
        let most = if self.much_staged { STAGED_BYTES_MAX / 4 } else { STAGED_BYTES_MAX };
        self.much_staged = staged > most;
        !self.much_staged && self.shard.done_in_parts() >= self.peers_parts
    }

    /// A connection whose home is here arrives from the shard that accepted it.
    fn adopt(&mut self, handover: Handover) {
        let Handover { conn, connect, peer, .. } = handover;
        let listener = conn.listener();
        if self.stop_at_ms.is_some() {
            return;
        }
        let Some(conn) = self.parts.wire.attach(conn) else {
            self.parts.counters.stranded.fetch_add(1, Ordering::Relaxed);
            return self.report.stranded(self.now.mono_ms);
        };
        self.parts.counters.adopted.fetch_add(1, Ordering::Relaxed);
        self.welcome(conn, connect, listener, peer);
    }
}
