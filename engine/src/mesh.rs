//! From shard to shard: one ring per ordered pair, one bell per shard.
//!
//! Owns the rings and what waits for room in them. Messages to one shard are gathered during a turn
//! and leave as one parcel at its end; those of one pair never overtake each other, connections that
//! move included. Nothing here blocks: a full ring makes parcels wait on the sender's side, and the
//! sender stops reading what feeds them ([`MeshEnd::is_clogged`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use petrel_net::{Bell, Detached};
use petrel_proto::Connect;
use petrel_shard::{PeerMessage, ShardIndex};
use rtrb::{Consumer, Producer, RingBuffer};

/// Parcels that a ring holds.
const RING_PARCELS: usize = 128;

/// Messages that may wait for one shard before the connections that send to it are not read.
const WAITING_MESSAGES_MAX: usize = 8192;

/// What travels in one slot of a ring.
#[derive(Debug)]
pub enum Parcel {
    /// Messages of one turn.
    Messages(Vec<PeerMessage>),
    /// A connection comes home.
    Adopt(Box<Handover>),
}

/// A connection on its way to its home, with the packet that said where that is.
#[derive(Debug)]
pub struct Handover {
    /// The connection.
    pub conn: Detached,
    /// Its CONNECT.
    pub connect: Box<Connect>,
    /// The other end.
    pub peer: Option<std::net::SocketAddr>,
}

/// One shard's end of the mesh.
#[derive(Debug)]
pub struct MeshEnd {
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Option<Incoming>>,
    bells: Arc<[Arc<Bell>]>,
}

#[derive(Debug)]
struct Outgoing {
    ring: Producer<Parcel>,
    /// Set when something waits for room, so that the receiver rings back.
    blocked: Arc<AtomicBool>,
    /// Of this turn.
    gathered: Vec<PeerMessage>,
    waiting: VecDeque<Parcel>,
    waiting_messages: usize,
}

#[derive(Debug)]
struct Incoming {
    ring: Consumer<Parcel>,
    blocked: Arc<AtomicBool>,
}

/// Connects shards that wake each other through `bells`, one bell and one end per shard.
#[must_use]
pub fn mesh(bells: &Arc<[Arc<Bell>]>) -> Vec<MeshEnd> {
    let shards = bells.len();
    let empty = || MeshEnd {
        outgoing: (0..shards).map(|_| None).collect(),
        incoming: (0..shards).map(|_| None).collect(),
        bells: Arc::clone(bells),
    };
    let mut ends: Vec<MeshEnd> = (0..shards).map(|_| empty()).collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (producer, consumer) = RingBuffer::new(RING_PARCELS);
            let blocked = Arc::new(AtomicBool::new(false));
            ends[from].outgoing[to] = Some(Outgoing {
                ring: producer,
                blocked: Arc::clone(&blocked),
                gathered: Vec::new(),
                waiting: VecDeque::new(),
                waiting_messages: 0,
            });
            ends[to].incoming[from] = Some(Incoming { ring: consumer, blocked });
        }
    }
    ends
}

impl MeshEnd {
    /// The number of shards.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.bells.len() as u16
    }

    /// Gathers a message; it leaves with [`MeshEnd::flush`].
    pub fn send(&mut self, to: ShardIndex, message: PeerMessage) {
        if let Some(outgoing) = self.outgoing_mut(to) {
            outgoing.gathered.push(message);
        }
    }

    /// Gathers a connection that moves, behind the messages that were gathered before.
    pub fn hand_over(&mut self, to: ShardIndex, handover: Box<Handover>) {
        if let Some(outgoing) = self.outgoing_mut(to) {
            outgoing.seal();
            outgoing.waiting.push_back(Parcel::Adopt(handover));
        }
    }

    /// Puts what was gathered into the rings, as far as there is room, and wakes who sleeps.
    pub fn flush(&mut self) {
        for (to, outgoing) in self.outgoing.iter_mut().enumerate() {
            let Some(outgoing) = outgoing else { continue };
            outgoing.seal();
            if !outgoing.waiting.is_empty() && outgoing.push() {
                self.bells[to].ring();
            }
        }
    }

    /// True if so much waits for this shard that nothing more should be read for it.
    #[must_use]
    pub fn is_clogged(&self, to: ShardIndex) -> bool {
        self.outgoing
            .get(usize::from(to.0))
            .and_then(Option::as_ref)
            .is_some_and(|outgoing| outgoing.waiting_messages > WAITING_MESSAGES_MAX)
    }

    /// True if hardly anything waits for this shard any more.
    #[must_use]
    pub fn has_drained(&self, to: ShardIndex) -> bool {
        self.outgoing
            .get(usize::from(to.0))
            .and_then(Option::as_ref)
            .is_none_or(|outgoing| outgoing.waiting_messages <= WAITING_MESSAGES_MAX / 4)
    }

    /// The next parcel from this shard.
    pub fn receive(&mut self, from: ShardIndex) -> Option<Parcel> {
        let incoming = self.incoming.get_mut(usize::from(from.0))?.as_mut()?;
        let parcel = incoming.ring.pop().ok()?;
        // Pairs with the fence in `push`: either the sender finds the room, or it is called.
        fence(Ordering::SeqCst);
        if incoming.blocked.load(Ordering::Relaxed)
            && incoming.blocked.swap(false, Ordering::AcqRel)
        {
            self.bells[usize::from(from.0)].ring();
        }
        Some(parcel)
    }

    /// True if some shard has sent something.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.incoming.iter().flatten().any(|incoming| !incoming.ring.is_empty())
    }

    fn outgoing_mut(&mut self, to: ShardIndex) -> Option<&mut Outgoing> {
        self.outgoing.get_mut(usize::from(to.0))?.as_mut()
    }
}

impl Outgoing {
    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            let messages = std::mem::take(&mut self.gathered);
            self.waiting_messages += messages.len();
            self.waiting.push_back(Parcel::Messages(messages));
        }
    }

    /// Moves parcels into the ring; true if one went.
    fn push(&mut self) -> bool {
        let mut pushed = self.push_while_room();
        if !self.waiting.is_empty() {
            self.blocked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // Room that was made before the receiver could see the flag would not be told.
            pushed |= self.push_while_room();
        }
        pushed
    }

    fn push_while_room(&mut self) -> bool {
        let mut pushed = false;
        while let Some(parcel) = self.waiting.pop_front() {
            let messages = match &parcel {
                Parcel::Messages(messages) => messages.len(),
                Parcel::Adopt(_) => 0,
            };
            if let Err(rtrb::PushError::Full(parcel)) = self.ring.push(parcel) {
                self.waiting.push_front(parcel);
                break;
            }
            self.waiting_messages -= messages;
            pushed = true;
        }
        pushed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use petrel_proto::TopicName;
    use petrel_shard::Message;

    use super::*;

    fn ends(shards: usize) -> Vec<MeshEnd> {
        let bells: Vec<Arc<Bell>> =
            (0..shards).map(|_| Arc::new(Bell::new().expect("there are descriptors"))).collect();
        mesh(&bells.into())
    }

    /// The number stands in the message's expiry.
    fn message(n: u64) -> PeerMessage {
        PeerMessage::Publish(Arc::new(Message {
            topic: TopicName::EMPTY,
            payload: bytes::Bytes::new(),
            qos: petrel_proto::Qos::AtMostOnce,
            retain: false,
            properties: None,
            publisher: 0,
            expires_at_ms: n,
        }))
    }

    fn received(end: &mut MeshEnd, from: u16) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(parcel) = end.receive(ShardIndex(from)) {
            let Parcel::Messages(messages) = parcel else { panic!("only messages were sent") };
            numbers.extend(messages.iter().map(|message| match message {
                PeerMessage::Publish(message) => message.expires_at_ms,
                _ => panic!("only publishes were sent"),
            }));
        }
        numbers
    }

    #[test]
    fn messages_of_a_turn_travel_in_one_parcel() {
        let mut ends = ends(3);
        for n in 0..1000 {
            ends[0].send(ShardIndex(2), message(n));
        }
        assert!(!ends[2].has_mail());
        ends[0].flush();
        assert!(ends[2].has_mail() && !ends[1].has_mail());
        let parcel = ends[2].receive(ShardIndex(0));
        assert!(matches!(parcel, Some(Parcel::Messages(messages)) if messages.len() == 1000));
        assert!(!ends[2].has_mail());
    }

    #[test]
    fn a_full_ring_loses_nothing_and_keeps_the_order() {
        let mut ends = ends(2);
        let mut sent = 0;
        while !ends[0].is_clogged(ShardIndex(1)) {
            for _ in 0..10 {
                ends[0].send(ShardIndex(1), message(sent));
                sent += 1;
            }
            ends[0].flush();
        }
        let mut got = Vec::new();
        while got.len() < sent as usize {
            got.extend(received(&mut ends[1], 0));
            ends[0].flush();
        }
        assert!(got.into_iter().eq(0..sent));
        assert!(ends[0].has_drained(ShardIndex(1)));
    }

    #[test]
    fn room_in_a_ring_that_was_full_wakes_the_sender() {
        let mut ends = ends(2);
        for n in 0..=RING_PARCELS as u64 {
            ends[0].send(ShardIndex(1), message(n));
            ends[0].flush();
        }
        ends[0].bells[0].arm();
        assert_eq!(ends[0].bells[0].rung(), 0);
        assert!(ends[1].receive(ShardIndex(0)).is_some());
        assert_eq!(ends[0].bells[0].rung(), 1);
    }

    #[test]
    fn only_a_shard_that_sleeps_is_woken() {
        let mut ends = ends(2);
        for n in 0..10 {
            ends[0].send(ShardIndex(1), message(n));
            ends[0].flush();
        }
        assert_eq!(ends[0].bells[1].rung(), 0);
        ends[1].bells[1].arm();
        for n in 0..10 {
            ends[0].send(ShardIndex(1), message(n));
            ends[0].flush();
        }
        assert_eq!(ends[0].bells[1].rung(), 1);
    }

    #[test]
    fn shards_in_threads_of_their_own_miss_nothing() {
        const MESSAGES: u64 = 20_000;
        let mut ends = ends(2);
        let (mut second, mut first) = (ends.remove(1), ends.remove(0));
        let sender = std::thread::spawn(move || {
            for n in 0..MESSAGES {
                first.send(ShardIndex(1), message(n));
                first.flush();
                while first.is_clogged(ShardIndex(1)) {
                    std::thread::yield_now();
                    first.flush();
                }
            }
            while !first.outgoing[1].as_ref().is_none_or(|it| it.waiting.is_empty()) {
                std::thread::yield_now();
                first.flush();
            }
        });
        let mut got = Vec::new();
        while got.len() < MESSAGES as usize {
            got.extend(received(&mut second, 0));
            std::thread::yield_now();
        }
        sender.join().expect("no panic");
        assert!(got.into_iter().eq(0..MESSAGES));
    }
}
