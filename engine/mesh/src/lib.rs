//! From shard to shard: one ring per ordered pair, one bell per shard.
//!
//! Owns the rings and what waits for room in them. Messages to one shard are gathered during a turn
//! and leave as one parcel at its end; those of one pair never overtake each other, connections that
//! move included. Nothing here blocks: a full ring makes parcels wait on the sender's side, and the
//! sender stops reading what feeds them ([`MeshEnd::is_clogged`]).
//!
//! Parcels of different shards keep the order of cause and effect: whatever was in its ring before
//! something else was put into another ring is taken out before it, at the same receiver. A client
//! that publishes after another's publish was acknowledged counts on that, or the older of two
//! retained messages might stay. Each parcel carries the time at which it was put in, and a receiver
//! takes them in that order, up to the moment at which it began to look: what was put in before that
//! is there to be seen.

#![forbid(unsafe_code)]

mod courier;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use petrel_net::{Bell, Detached};
use petrel_proto::Connect;
use petrel_shard::{PeerMessage, ShardIndex};
use rtrb::{Consumer, Producer, RingBuffer};

use courier::Sent;
pub use courier::{Courier, PostOffice};

/// Parcels that a ring holds.
const RING_PARCELS: usize = 128;

/// Parcels taken in one turn, for each shard that there is.
const PARCELS_PER_TURN_MAX: usize = 32;

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

/// A time of the process's monotonic clock, in nanoseconds. It is the same clock on all cores.
pub type Stamp = u64;

/// A parcel in a ring.
#[derive(Debug)]
struct Stamped {
    at: Stamp,
    parcel: Parcel,
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
    /// By which the receiver finds the socket, where a courier carries it.
    pub ticket: u32,
}

/// One shard's end of the mesh.
#[derive(Debug)]
pub struct MeshEnd {
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
    bells: Arc<[Arc<Bell>]>,
    clock: Instant,
    /// The parcels at the heads of the rings that may be taken, earliest first.
    heads: BinaryHeap<Reverse<(Stamp, u16)>>,
    /// Nothing put in later is taken in this turn.
    until: Stamp,
    parcels_left: usize,
    /// Carries sockets where each shard has a file table of its own.
    courier: Option<Courier>,
}

#[derive(Debug)]
struct Outgoing {
    ring: Producer<Stamped>,
    /// Set when something waits for room, so that the receiver rings back.
    blocked: Arc<AtomicBool>,
    /// Of this turn.
    gathered: Vec<PeerMessage>,
    waiting: VecDeque<Parcel>,
    waiting_messages: usize,
}

#[derive(Debug)]
struct Incoming {
    ring: Consumer<Stamped>,
    blocked: Arc<AtomicBool>,
}

/// Connects shards that wake each other through `bells`, one bell and one end per shard. A shard has a
/// ring to itself too, for what it has to do in a later turn.
#[must_use]
pub fn mesh(bells: &Arc<[Arc<Bell>]>) -> Vec<MeshEnd> {
    let shards = bells.len();
    let clock = Instant::now();
    let empty = || MeshEnd {
        outgoing: Vec::with_capacity(shards),
        incoming: Vec::with_capacity(shards),
        bells: Arc::clone(bells),
        clock,
        heads: BinaryHeap::with_capacity(shards),
        until: 0,
        parcels_left: 0,
        courier: None,
    };
    let mut ends: Vec<MeshEnd> = (0..shards).map(|_| empty()).collect();
    for from in 0..shards {
        for to in 0..shards {
            let (producer, consumer) = RingBuffer::new(RING_PARCELS);
            let blocked = Arc::new(AtomicBool::new(false));
            ends[from].outgoing.push(Outgoing {
                ring: producer,
                blocked: Arc::clone(&blocked),
                gathered: Vec::new(),
                waiting: VecDeque::new(),
                waiting_messages: 0,
            });
            ends[to].incoming.push(Incoming { ring: consumer, blocked });
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

    /// Sends sockets by courier from now on.
    pub fn set_courier(&mut self, courier: Courier) {
        self.courier = Some(courier);
    }

    /// The time, as parcels carry it.
    #[must_use]
    pub fn now(&self) -> Stamp {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Gathers a message; it leaves with [`MeshEnd::flush`].
    pub fn send(&mut self, to: ShardIndex, message: PeerMessage) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            outgoing.gathered.push(message);
        }
    }

    /// Gathers a connection that moves, behind the messages that were gathered before.
    pub fn hand_over(&mut self, to: ShardIndex, handover: Box<Handover>) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            outgoing.seal();
            outgoing.waiting.push_back(Parcel::Adopt(handover));
        }
    }

    /// Puts what was gathered into the rings, as far as there is room, and wakes who sleeps.
    pub fn flush(&mut self) {
        if self.is_flushed() {
            return;
        }
        let now = self.now();
        let Self { outgoing, bells, courier, .. } = self;
        for (to, outgoing) in outgoing.iter_mut().enumerate() {
            outgoing.seal();
            let way = Way { to: ShardIndex(to as u16), at: now };
            if !outgoing.waiting.is_empty() && outgoing.push(way, courier.as_mut()) {
                bells[to].ring();
            }
        }
    }

    /// True if everything that was gathered is in the rings.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.outgoing.iter().all(|it| it.gathered.is_empty() && it.waiting.is_empty())
    }

    /// True if so much waits for this shard that nothing more should be read for it.
    #[must_use]
    pub fn is_clogged(&self, to: ShardIndex) -> bool {
        self.outgoing
            .get(usize::from(to.0))
            .is_some_and(|outgoing| outgoing.waiting_messages > WAITING_MESSAGES_MAX)
    }

    /// True if hardly anything waits for this shard any more.
    #[must_use]
    pub fn has_drained(&self, to: ShardIndex) -> bool {
        self.outgoing
            .get(usize::from(to.0))
            .is_none_or(|outgoing| outgoing.waiting_messages <= WAITING_MESSAGES_MAX / 4)
    }

    /// Begins to take what is in the rings now, up to some number of parcels.
    pub fn begin_to_receive(&mut self) {
        // The time before the rings: what was put in until then is there to be seen.
        self.until = self.now();
        self.parcels_left = PARCELS_PER_TURN_MAX * self.incoming.len();
        self.heads.clear();
        for from in 0..self.incoming.len() {
            self.note_head(from);
        }
    }

    fn note_head(&mut self, from: usize) {
        if let Ok(head) = self.incoming[from].ring.peek()
            && head.at <= self.until
        {
            self.heads.push(Reverse((head.at, from as u16)));
        }
    }

    /// The next parcel, and who sent it.
    pub fn receive(&mut self) -> Option<(ShardIndex, Parcel)> {
        self.parcels_left = self.parcels_left.checked_sub(1)?;
        let Reverse((_, from)) = self.heads.pop()?;
        let incoming = &mut self.incoming[usize::from(from)];
        let Stamped { mut parcel, .. } = incoming.ring.pop().ok()?;
        if let (Some(courier), Parcel::Adopt(handover)) = (&mut self.courier, &mut parcel) {
            if let Some(socket) = courier.collect(ShardIndex(from), handover.ticket) {
                handover.conn.put_socket(socket);
            }
            // The room that this made may be another sender's.
            (0..self.incoming.len()).for_each(|from| self.call_blocked(from));
        } else {
            self.call_blocked(usize::from(from));
        }
        self.note_head(usize::from(from));
        Some((ShardIndex(from), parcel))
    }

    /// Wakes a sender that waits for room.
    fn call_blocked(&self, from: usize) {
        let incoming = &self.incoming[from];
        // Pairs with the fence in `push`: either the sender finds the room, or it is called.
        fence(Ordering::SeqCst);
        if incoming.blocked.load(Ordering::Relaxed)
            && incoming.blocked.swap(false, Ordering::AcqRel)
        {
            self.bells[from].ring();
        }
    }

    /// True if nothing that was put into a ring until then is still in it.
    #[must_use]
    pub fn has_taken_all_until(&self, then: Stamp) -> bool {
        self.incoming.iter().all(|incoming| {
            incoming.ring.peek().is_ok_and(|head| head.at > then) || incoming.ring.is_empty()
        })
    }

    /// True if some shard has sent something.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.incoming.iter().any(|incoming| !incoming.ring.is_empty())
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
    fn push(&mut self, way: Way, mut courier: Option<&mut Courier>) -> bool {
        let mut pushed = self.push_while_room(way, courier.as_deref_mut());
        if !self.waiting.is_empty() {
            self.blocked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // Room that was made before the receiver could see the flag would not be told.
            pushed |= self.push_while_room(way, courier);
        }
        pushed
    }

    fn push_while_room(&mut self, way: Way, mut courier: Option<&mut Courier>) -> bool {
        let mut pushed = false;
        while !self.ring.is_full()
            && let Some(mut parcel) = self.waiting.pop_front()
        {
            let messages = match &mut parcel {
                Parcel::Messages(messages) => messages.len(),
                Parcel::Adopt(handover) => {
                    // The socket first: when the parcel arrives, the socket is there.
                    if let Some(courier) = courier.as_deref_mut()
                        && courier.send(way.to, handover) == Sent::Full
                    {
                        self.waiting.push_front(parcel);
                        break;
                    }
                    0
                }
            };
            if let Err(rtrb::PushError::Full(full)) = self.ring.push(Stamped { at: way.at, parcel })
            {
                unreachable!("this end alone fills the ring, and it had room: {full:?}");
            }
            self.waiting_messages -= messages;
            pushed = true;
        }
        pushed
    }
}

/// Where parcels go, and when.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: ShardIndex,
    at: Stamp,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

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
            properties: petrel_proto::MessageProperties::EMPTY,
            publisher: 0,
            expires_at_ms: n,
        }))
    }

    fn received(end: &mut MeshEnd) -> Vec<u64> {
        let mut numbers = Vec::new();
        end.begin_to_receive();
        while let Some((_, parcel)) = end.receive() {
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
        ends[2].begin_to_receive();
        let received = ends[2].receive();
        assert!(
            matches!(received, Some((ShardIndex(0), Parcel::Messages(it))) if it.len() == 1000)
        );
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
            got.extend(received(&mut ends[1]));
            ends[0].flush();
        }
        assert!(got.into_iter().eq(0..sent));
        assert!(ends[0].has_drained(ShardIndex(1)));
    }

    #[test]
    fn parcels_of_all_shards_come_in_the_order_in_which_they_were_put_in() {
        let mut ends = ends(3);
        for n in 0..60 {
            let from = [0, 2, 1, 1, 0][n % 5];
            ends[from].send(ShardIndex(1), message(n as u64));
            ends[from].flush();
        }
        assert!(received(&mut ends[1]).into_iter().eq(0..60));
    }

    #[test]
    fn what_is_put_in_while_a_shard_receives_waits_for_the_next_time() {
        let mut ends = ends(3);
        ends[0].send(ShardIndex(2), message(0));
        ends[0].flush();
        ends[2].begin_to_receive();
        ends[1].send(ShardIndex(2), message(1));
        ends[1].flush();
        ends[0].send(ShardIndex(2), message(2));
        ends[0].flush();
        let before = ends[2].now();
        assert!(matches!(ends[2].receive(), Some((ShardIndex(0), _))));
        assert!(ends[2].receive().is_none());
        assert!(ends[2].has_mail() && !ends[2].has_taken_all_until(before));
        assert_eq!(received(&mut ends[2]), [1, 2]);
        assert!(ends[2].has_taken_all_until(before));
    }

    /// Each number is put in after the one before was seen to be in another ring.
    #[test]
    fn a_cause_is_never_taken_after_its_effect() {
        const MESSAGES: u64 = 20_000;
        let mut ends = ends(3);
        let (mut receiver, second, first) = (ends.remove(2), ends.remove(1), ends.remove(0));
        let said = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for (mut end, parity) in [(first, 0), (second, 1)] {
                let said = &said;
                scope.spawn(move || {
                    for n in (0..MESSAGES).filter(|n| n % 2 == parity) {
                        while said.load(Ordering::Acquire) < n {
                            std::thread::yield_now();
                        }
                        end.send(ShardIndex(2), message(n));
                        end.flush();
                        while !end.is_flushed() {
                            std::thread::yield_now();
                            end.flush();
                        }
                        said.store(n + 1, Ordering::Release);
                    }
                });
            }
            let mut got = Vec::new();
            while got.len() < MESSAGES as usize {
                got.extend(received(&mut receiver));
            }
            assert!(got.into_iter().eq(0..MESSAGES));
        });
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
        ends[1].begin_to_receive();
        assert!(ends[1].receive().is_some());
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
            while !first.is_flushed() {
                std::thread::yield_now();
                first.flush();
            }
        });
        let mut got = Vec::new();
        while got.len() < MESSAGES as usize {
            got.extend(received(&mut second));
            std::thread::yield_now();
        }
        sender.join().expect("no panic");
        assert!(got.into_iter().eq(0..MESSAGES));
    }
}
