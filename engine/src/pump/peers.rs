//! What peers have sent, and how much of it is taken.

use std::sync::atomic::Ordering;

use petrel_mesh::{Handover, Parcel, Taken};
use petrel_shard::{Input, ShardIndex};

use super::{Pump, STAGED_BYTES_MAX, WORK_OF_A_SESSION, WORK_PER_TURN_MAX};

/// Turns that sockets which wait to be read come before what peers have sent.
const TURNS_WITHOUT_PEERS_MAX: u32 = 3;

/// What may be on its way to all shards of a core, in packets: the room that a shard gives its peers is as much
/// as comes to its part of that, by what their messages have cost before. It is how long others wait behind it.
const WORK_OF_PEERS_MAX: usize = 8_192;
/// Messages that there is always room for: with fewer, each costs a wake to and fro.
const ROOM_MIN: usize = 4;
/// What a message is taken to cost while nobody knows.
const COST_AT_FIRST: usize = 32;

/// What the messages of peers cost: for each of them the same is one delivery, or thousands.
#[derive(Debug)]
pub(super) struct PeerLoad {
    /// Work, in packets, and messages since the costs were looked at last.
    work: usize,
    messages: usize,
    /// What a message costs: as much as lately at most, and slowly less.
    cost: usize,
    /// Who has sent something since the last tick, and how many had before that.
    senders: Vec<bool>,
    senders_before: usize,
    work_max: usize,
}

impl PeerLoad {
    /// For one of so many shards.
    pub(super) fn new(shards: u16) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let work_max = WORK_OF_PEERS_MAX / usize::from(shards).div_ceil(cores);
        let senders = vec![false; usize::from(shards)];
        Self { work: 0, messages: 0, cost: COST_AT_FIRST, senders, senders_before: 1, work_max }
    }

    /// So much has been done.
    pub(super) const fn did(&mut self, work: usize) {
        self.work += work;
    }

    /// So many messages of a peer have been handled.
    pub(super) fn took(&mut self, from: ShardIndex, messages: usize) {
        self.senders[usize::from(from.0)] = true;
        self.messages += messages;
    }

    /// Time has passed.
    pub(super) fn tick(&mut self) {
        self.senders_before = self.senders.iter().filter(|sent| **sent).count().max(1);
        if !self.senders.contains(&true) {
            (self.cost, self.work) = (COST_AT_FIRST, 0);
        }
        self.senders.fill(false);
    }

    /// How many messages there is room for, for each peer.
    pub(super) fn room(&mut self) -> u32 {
        if let Some(each) = self.work.checked_div(self.messages) {
            self.cost = (1 + each).max(self.cost - self.cost.div_ceil(8));
            (self.work, self.messages) = (0, 0);
        }
        let senders = self.senders.iter().filter(|sent| **sent).count().max(self.senders_before);
        // At most the work.
        (self.work_max / (self.cost.max(1) * senders)).max(ROOM_MIN) as u32
    }
}

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
            let before = batch.len();
            let outbox = &self.outbox;
            self.times.handles(batch.since(), || super::gathered(outbox));
            while left > 0
                && self.takes_from_peers()
                && let Some(message) = batch.pop()
            {
                let parts_before = self.shard.begun_in_parts();
                match message {
                    Taken::Passed(message) => {
                        self.work_on(|shard, now, out| {
                            shard.handle_passed(now, from, &message, out)
                        });
                    }
                    Taken::Told(message) => self.feed(Input::Peer { from, message }),
                }
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
            let handled = before - batch.len();
            self.load.took(from, handled);
            self.parts.mesh.handled(from, handled);
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
            return self.report.stranded();
        };
        self.parts.counters.adopted.fetch_add(1, Ordering::Relaxed);
        self.welcome(conn, connect, listener, peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(load: &mut PeerLoad, turns: &[(u16, usize, usize)]) -> u32 {
        for &(from, messages, work) in turns {
            load.did(work);
            load.took(ShardIndex(from), messages);
        }
        load.room()
    }

    /// Shards with a core each, or it would depend on the machine.
    fn load() -> PeerLoad {
        PeerLoad { work_max: WORK_OF_PEERS_MAX, ..PeerLoad::new(4) }
    }

    #[test]
    fn peers_have_room_for_what_their_messages_cost() {
        let mut load = load();
        assert_eq!(load.room(), 256, "as long as nobody knows");
        // Ten messages to 1,200 each are 3,000 packets.
        assert_eq!(room(&mut load, &[(1, 10, 3000)]), 8192 / 301);
        assert_eq!(load.room(), 8192 / 301, "nothing has come since");
        // What is cheap again is known to be so after some turns.
        let cheap = (0..60).map(|_| room(&mut load, &[(1, 100, 0)]));
        assert_eq!(cheap.last(), Some(8192));
        // Each of several has its part, and there is always some.
        assert_eq!(room(&mut load, &[(1, 10, 3000), (2, 10, 3000)]), 8192 / (301 * 2));
        assert_eq!(room(&mut load, &[(1, 1, 100_000)]), ROOM_MIN as u32);
    }

    #[test]
    fn what_was_known_is_forgotten_when_nothing_comes() {
        let mut load = load();
        room(&mut load, &[(1, 10, 3000), (2, 1, 0)]);
        load.tick();
        assert_eq!(load.room(), 8192 / (273 * 2));
        load.tick();
        assert_eq!(load.room(), 256);
    }
}
