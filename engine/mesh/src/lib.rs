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

mod batch;
mod courier;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Instant;

use petrel_net::{Bell, Detached};
use petrel_proto::Connect;
use petrel_shard::{PeerMessage, ShardIndex};
use rtrb::{Consumer, Producer, RingBuffer};

pub use batch::{Batch, Taken};
use courier::Sent;
pub use courier::{Courier, PostOffice};

/// Parcels that a ring holds.
const RING_PARCELS: usize = 128;

/// Parcels taken in one turn, for each shard that there is.
const PARCELS_PER_TURN_MAX: usize = 32;

/// Messages that may wait for one shard before the connections that send to it are not read.
const WAITING_MESSAGES_MAX: usize = 8192;
/// The same in bytes of messages.
const WAITING_BYTES_MAX: u64 = 8 << 20;
/// Bytes of messages that a ring holds before further parcels wait, one parcel excepted.
const RING_BYTES_MAX: u64 = 8 << 20;

/// Messages that a shard has room for at most, of each other.
pub const ROOM_MAX: u32 = 8192;

/// Batches that come back to be used again, for each pair.
const SPENT_BATCHES: usize = 4;

/// What travels in one slot of a ring.
#[derive(Debug)]
pub enum Parcel {
    /// Messages of one turn.
    Messages(Batch),
    /// A connection comes home.
    Adopt(Box<Handover>),
}

/// A time of the process's monotonic clock, in nanoseconds. It is the same clock on all cores.
pub type Stamp = u64;

/// A parcel in a ring.
#[derive(Debug)]
struct Stamped {
    at: Stamp,
    bytes: u64,
    parcel: Parcel,
}

/// A parcel that waits for room, and the bytes of its messages.
#[derive(Debug)]
struct Waiting {
    bytes: u64,
    parcel: Parcel,
}

/// What both ends of a ring know.
#[derive(Debug, Default)]
struct Pair {
    /// Something waits for room, so the receiver rings back.
    blocked: AtomicBool,
    /// It does so when it has handled so many messages in all.
    ring_at: AtomicU64,
    /// Messages that the receiver has handled, of all; only it writes.
    handled: AtomicU64,
    /// Bytes of all messages that the receiver has taken out; only it writes.
    taken_bytes: AtomicU64,
}

/// A set of shards.
#[derive(Debug)]
struct Set(Box<[u64]>);

/// Into which rings of one shard something was put since it looked last, and how much each may send.
#[derive(Debug)]
struct Mail {
    rings: Box<[AtomicU64]>,
    /// Messages that a shard may have on their way before the connections that send more are not read.
    room: AtomicU32,
}

/// A connection on its way to its home, with the packet that said where that is.
#[derive(Debug)]
pub struct Handover {
    /// The connection.
    pub conn: Detached,
    /// Its CONNECT.
    pub connect: Box<Connect>,
    /// The other end.
    pub peer: petrel_net::Remote,
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
    /// When what causes the messages that are gathered could be read.
    since: Stamp,
    /// The parcels at the heads of the rings that may be taken, earliest first.
    heads: BinaryHeap<Reverse<(Stamp, u16)>>,
    /// Nothing put in later is taken in this turn.
    until: Stamp,
    parcels_left: usize,
    /// Shards for which something is gathered or waits.
    busy: Set,
    /// Shards whose rings to this one are not empty, as far as it has looked.
    known: Set,
    mail: Arc<Mail>,
    /// Carries sockets where each shard has a file table of its own.
    courier: Option<Courier>,
}

/// What one shard sends to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeshFigures {
    /// Messages, answers and questions since the start.
    pub sent: u64,
    /// Those that wait since the ring of their receiver is full.
    pub waiting: u64,
}

#[derive(Debug)]
struct Outgoing {
    ring: Producer<Stamped>,
    pair: Arc<Pair>,
    /// Bytes of all messages that were put into the ring.
    put_bytes: u64,
    /// Messages sent, of all.
    sent: u64,
    /// Of this turn.
    gathered: Batch,
    waiting: VecDeque<Waiting>,
    waiting_messages: usize,
    waiting_bytes: u64,
    /// To gather in.
    spent: Consumer<Batch>,
    /// Whose mail it is to the receiver.
    from: u16,
    mail: Arc<Mail>,
}

#[derive(Debug)]
struct Incoming {
    ring: Consumer<Stamped>,
    pair: Arc<Pair>,
    spent: Producer<Batch>,
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
        since: 0,
        heads: BinaryHeap::with_capacity(shards),
        until: 0,
        parcels_left: 0,
        busy: Set::new(shards),
        known: Set::new(shards),
        mail: Arc::new(Mail::new(shards)),
        courier: None,
    };
    let mut ends: Vec<MeshEnd> = (0..shards).map(|_| empty()).collect();
    for from in 0..shards {
        for to in 0..shards {
            let (producer, consumer) = RingBuffer::new(RING_PARCELS);
            let (spent_producer, spent) = RingBuffer::new(SPENT_BATCHES);
            let pair = Arc::new(Pair::default());
            let mail = Arc::clone(&ends[to].mail);
            ends[from].outgoing.push(Outgoing {
                ring: producer,
                pair: Arc::clone(&pair),
                put_bytes: 0,
                sent: 0,
                gathered: Batch::default(),
                waiting: VecDeque::new(),
                waiting_messages: 0,
                waiting_bytes: 0,
                spent,
                // A process has far fewer shards than 2^16.
                from: from as u16,
                mail,
            });
            ends[to].incoming.push(Incoming { ring: consumer, pair, spent: spent_producer });
        }
    }
    ends
}

impl MeshEnd {
    /// What this end has done and what waits.
    #[must_use]
    pub fn figures(&self) -> MeshFigures {
        let mut figures = MeshFigures::default();
        for outgoing in &self.outgoing {
            figures.sent += outgoing.sent;
            figures.waiting += outgoing.waiting_messages as u64;
        }
        figures
    }

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

    /// What causes the messages that are gathered could be read at this time; parcels carry it.
    pub const fn set_since(&mut self, since: Stamp) {
        self.since = since;
    }

    /// Gathers a message; it leaves with [`MeshEnd::flush`].
    pub fn send(&mut self, to: ShardIndex, message: PeerMessage) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            self.busy.insert(to.0);
            outgoing.sent += 1;
            outgoing.gathered.push(message);
        }
    }

    /// Gathers all messages, of which nothing of use is left. What is more than a message that is passed on goes
    /// through `sends`, which may keep it back.
    #[inline]
    pub fn send_all(
        &mut self,
        messages: &mut [(ShardIndex, PeerMessage)],
        mut sends: impl FnMut(ShardIndex, PeerMessage) -> Option<PeerMessage>,
    ) {
        let mut rest = messages;
        while let [(to, _), ..] = *rest {
            let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) else { return };
            self.busy.insert(to.0);
            // Most of a turn go to one shard.
            let (mut run, mut kept_back) = (0, 0);
            for (other, message) in &mut *rest {
                if *other != to {
                    break;
                }
                run += 1;
                match message {
                    PeerMessage::Passed(message) => outgoing.gathered.pass(message),
                    told => match sends(to, std::mem::replace(told, PeerMessage::Rejoined)) {
                        Some(told) => outgoing.gathered.push(told),
                        None => kept_back += 1,
                    },
                }
            }
            outgoing.sent += run as u64 - kept_back;
            rest = &mut rest[run..];
        }
    }

    /// Gathers a connection that moves, behind the messages that were gathered before.
    pub fn hand_over(&mut self, to: ShardIndex, handover: Box<Handover>) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            self.busy.insert(to.0);
            outgoing.seal(self.since);
            outgoing.waiting.push_back(Waiting { bytes: 0, parcel: Parcel::Adopt(handover) });
        }
    }

    /// Puts what was gathered into the rings, as far as there is room, and wakes who sleeps.
    pub fn flush(&mut self) {
        if self.is_flushed() {
            return;
        }
        let now = self.now();
        let Self { outgoing, bells, courier, busy, since, .. } = self;
        busy.retain(|to| {
            let Some(outgoing) = outgoing.get_mut(usize::from(to)) else { return false };
            outgoing.seal(*since);
            let way = Way { to: ShardIndex(to), at: now };
            if !outgoing.waiting.is_empty() && outgoing.push(way, courier.as_mut()) {
                outgoing.mail.announce(outgoing.from);
                bells[usize::from(to)].ring();
            }
            !outgoing.waiting.is_empty()
        });
    }

    /// True if everything that was gathered is in the rings.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.busy.is_empty()
    }

    /// True if so much waits for this shard that nothing more should be read for it, or as much is on its way
    /// as it has room for ([`MeshEnd::set_room`]).
    #[must_use]
    pub fn is_clogged(&self, to: ShardIndex) -> bool {
        self.outgoing.get(usize::from(to.0)).is_some_and(|outgoing| {
            outgoing.waiting_messages > WAITING_MESSAGES_MAX
                || outgoing.waiting_bytes > WAITING_BYTES_MAX
                || outgoing.on_their_way() >= outgoing.room()
        })
    }

    /// How many more messages this shard has room for, if hardly anything waits for it any more. While that is
    /// none, this one is woken when what it depends on changes.
    #[must_use]
    pub fn room(&self, to: ShardIndex) -> usize {
        self.outgoing.get(usize::from(to.0)).map_or(usize::MAX, Outgoing::room_again)
    }

    /// Tells the others how many messages each of them may have on their way to this shard, at most
    /// [`ROOM_MAX`].
    pub fn set_room(&self, room: u32) {
        let room = room.min(ROOM_MAX);
        if self.mail.room.load(Ordering::Relaxed) != room {
            let before = self.mail.room.swap(room, Ordering::AcqRel);
            if before == 0 {
                // Who has nothing on its way is not told by anything else.
                (0..self.incoming.len()).for_each(|from| self.call_blocked(from, u64::MAX));
            }
        }
    }

    /// So many messages of a shard have been handled.
    pub fn handled(&self, from: ShardIndex, messages: usize) {
        let Some(incoming) = self.incoming.get(usize::from(from.0)) else { return };
        // Only this end writes it.
        let handled = incoming.pair.handled.load(Ordering::Relaxed) + messages as u64;
        incoming.pair.handled.store(handled, Ordering::Release);
        self.call_blocked(usize::from(from.0), handled);
    }

    /// Begins to take what is in the rings now, up to some number of parcels.
    pub fn begin_to_receive(&mut self) {
        // The time before the rings: what was put in until then is there to be seen.
        self.until = self.now();
        self.parcels_left = PARCELS_PER_TURN_MAX * self.incoming.len();
        self.heads.clear();
        let Self { mail, known, incoming, heads, until, .. } = self;
        mail.collect(known);
        known.retain(|from| note_head(incoming, heads, *until, from));
    }

    /// The next parcel, and who sent it.
    pub fn receive(&mut self) -> Option<(ShardIndex, Parcel)> {
        self.parcels_left = self.parcels_left.checked_sub(1)?;
        let Reverse((_, from)) = self.heads.pop()?;
        let incoming = &mut self.incoming[usize::from(from)];
        let Stamped { mut parcel, bytes, .. } = incoming.ring.pop().ok()?;
        // Only this end writes it.
        let taken = incoming.pair.taken_bytes.load(Ordering::Relaxed) + bytes;
        incoming.pair.taken_bytes.store(taken, Ordering::Relaxed);
        if let (Some(courier), Parcel::Adopt(handover)) = (&mut self.courier, &mut parcel) {
            if let Some(socket) = courier.collect(ShardIndex(from), handover.ticket) {
                handover.conn.put_socket(socket);
            }
            // The room that this made may be another sender's.
            (0..self.incoming.len()).for_each(|from| self.call_blocked(from, u64::MAX));
        } else {
            let handled = incoming.pair.handled.load(Ordering::Relaxed);
            self.call_blocked(usize::from(from), handled);
        }
        if !note_head(&self.incoming, &mut self.heads, self.until, from) {
            self.known.remove(from);
        }
        Some((ShardIndex(from), parcel))
    }

    /// Gives a batch back to the shard that sent it, to be used again.
    pub fn give_back(&mut self, from: ShardIndex, mut spent: Batch) {
        spent.clear();
        if spent.is_small()
            && let Some(incoming) = self.incoming.get_mut(usize::from(from.0))
        {
            // There may be enough of them.
            let _ = incoming.spent.push(spent);
        }
    }

    /// Gives memory back that is there to be used again; to be called now and then.
    pub fn rest(&mut self) {
        for outgoing in &mut self.outgoing {
            drop(outgoing.spent.pop());
        }
    }

    /// Wakes a sender that waits for room, or for so many messages to be handled.
    fn call_blocked(&self, from: usize, handled: u64) {
        let incoming = &self.incoming[from];
        // Pairs with the fences in `push` and `room_again`: either the sender finds it, or it is called.
        fence(Ordering::SeqCst);
        if incoming.pair.blocked.load(Ordering::Relaxed)
            && handled >= incoming.pair.ring_at.load(Ordering::Relaxed)
            && incoming.pair.blocked.swap(false, Ordering::AcqRel)
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
        !self.known.is_empty() || self.mail.is_there()
    }
}

/// Has the first parcel of a ring taken in its turn, if it may be; false if the ring is empty.
fn note_head(
    incoming: &[Incoming],
    heads: &mut BinaryHeap<Reverse<(Stamp, u16)>>,
    until: Stamp,
    from: u16,
) -> bool {
    let Some(Ok(head)) = incoming.get(usize::from(from)).map(|incoming| incoming.ring.peek())
    else {
        return false;
    };
    if head.at <= until {
        heads.push(Reverse((head.at, from)));
    }
    true
}

impl Set {
    fn new(shards: usize) -> Self {
        Self(vec![0; shards.div_ceil(64)].into())
    }

    fn insert(&mut self, shard: u16) {
        if let Some(word) = self.0.get_mut(usize::from(shard / 64)) {
            *word |= 1 << (shard % 64);
        }
    }

    fn remove(&mut self, shard: u16) {
        if let Some(word) = self.0.get_mut(usize::from(shard / 64)) {
            *word &= !(1 << (shard % 64));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Takes out, in order, what a condition does not hold for.
    fn retain(&mut self, mut stays: impl FnMut(u16) -> bool) {
        for (base, word) in (0..).step_by(64).zip(&mut *self.0) {
            let mut rest = *word;
            while rest != 0 {
                let bit = rest.trailing_zeros() as u16;
                rest &= rest - 1;
                if !stays(base + bit) {
                    *word &= !(1 << bit);
                }
            }
        }
    }
}

impl Mail {
    fn new(shards: usize) -> Self {
        let rings = (0..shards.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { rings, room: AtomicU32::new(ROOM_MAX) }
    }

    /// Something was put into the ring of this shard.
    fn announce(&self, from: u16) {
        if let Some(word) = self.rings.get(usize::from(from / 64)) {
            // Either the receiver takes the bit later and sees what was put in, or finds the bit set again.
            word.fetch_or(1 << (from % 64), Ordering::AcqRel);
        }
    }

    /// Moves what has been announced to the rings that are known not to be empty.
    fn collect(&self, known: &mut Set) {
        for (word, known) in self.rings.iter().zip(&mut *known.0) {
            if word.load(Ordering::Relaxed) != 0 {
                *known |= word.swap(0, Ordering::AcqRel);
            }
        }
    }

    fn is_there(&self) -> bool {
        self.rings.iter().any(|word| word.load(Ordering::Acquire) != 0)
    }
}

impl Outgoing {
    /// Messages that have been sent and not been handled.
    fn on_their_way(&self) -> u64 {
        self.sent - self.pair.handled.load(Ordering::Acquire)
    }

    /// Messages that may be on their way.
    fn room(&self) -> u64 {
        self.mail.room.load(Ordering::Relaxed).into()
    }

    /// How many more there is room for, once half of that is free; until then the receiver rings back.
    fn room_again(&self) -> usize {
        if self.waiting_messages > WAITING_MESSAGES_MAX / 4
            || self.waiting_bytes > WAITING_BYTES_MAX / 4
        {
            // What waits for the ring is told by the ring.
            return 0;
        }
        let free = || {
            let (on_their_way, room) = (self.on_their_way(), self.room());
            if on_their_way > room / 2 || room == 0 { 0 } else { room - on_their_way }
        };
        if free() == 0 {
            let enough = self.sent.saturating_sub(self.room() / 2);
            let ring_at = if self.waiting.is_empty() { enough } else { 0 };
            self.pair.ring_at.store(ring_at, Ordering::Relaxed);
            self.pair.blocked.store(true, Ordering::Relaxed);
            // Pairs with the fence in `call_blocked`: either this end sees the change, or it is called.
            fence(Ordering::SeqCst);
        }
        free() as usize
    }

    fn seal(&mut self, since: Stamp) {
        if !self.gathered.is_empty() {
            let next = self.spent.pop().unwrap_or_default();
            let mut messages = std::mem::replace(&mut self.gathered, next);
            messages.set_since(since);
            let bytes = messages.bytes();
            self.waiting_messages += messages.len();
            self.waiting_bytes += bytes;
            self.waiting.push_back(Waiting { bytes, parcel: Parcel::Messages(messages) });
        }
    }

    /// Moves parcels into the ring; true if one went.
    fn push(&mut self, way: Way, mut courier: Option<&mut Courier>) -> bool {
        let mut pushed = self.push_while_room(way, courier.as_deref_mut());
        if !self.waiting.is_empty() {
            self.pair.ring_at.store(0, Ordering::Relaxed);
            self.pair.blocked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // Room that was made before the receiver could see the flag would not be told.
            pushed |= self.push_while_room(way, courier);
        }
        pushed
    }

    fn push_while_room(&mut self, way: Way, mut courier: Option<&mut Courier>) -> bool {
        let mut pushed = false;
        while self.has_room()
            && let Some(mut next) = self.waiting.pop_front()
        {
            let messages = match &mut next.parcel {
                Parcel::Messages(messages) => messages.len(),
                Parcel::Adopt(handover) => {
                    // The socket first: when the parcel arrives, the socket is there.
                    if let Some(courier) = courier.as_deref_mut()
                        && courier.send(way.to, handover) == Sent::Full
                    {
                        self.waiting.push_front(next);
                        break;
                    }
                    0
                }
            };
            let Waiting { bytes, parcel } = next;
            let stamped = Stamped { at: way.at, bytes, parcel };
            if let Err(rtrb::PushError::Full(full)) = self.ring.push(stamped) {
                unreachable!("this end alone fills the ring, and it had room: {full:?}");
            }
            self.waiting_messages -= messages;
            self.waiting_bytes -= bytes;
            self.put_bytes += bytes;
            pushed = true;
        }
        pushed
    }

    /// True if one parcel more may be put into the ring.
    fn has_room(&self) -> bool {
        let held = self.put_bytes - self.pair.taken_bytes.load(Ordering::Relaxed);
        held < RING_BYTES_MAX && !self.ring.is_full()
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
        while let Some((from, parcel)) = end.receive() {
            let Parcel::Messages(mut messages) = parcel else { panic!("only messages were sent") };
            let number = |message: PeerMessage| message.published().map(|it| it.expires_at_ms);
            let count = messages.len();
            numbers.extend(
                std::iter::from_fn(|| messages.pop().map(Taken::message)).filter_map(number),
            );
            end.handled(from, count);
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
    fn parcels_carry_since_when_what_caused_them_could_be_read() {
        let mut ends = ends(2);
        for since in [30, 20] {
            ends[0].send(ShardIndex(1), message(0));
            ends[0].set_since(since);
            ends[0].flush();
        }
        ends[1].begin_to_receive();
        let found = std::iter::from_fn(|| ends[1].receive()).map(|(_, parcel)| match parcel {
            Parcel::Messages(batch) => batch.since(),
            Parcel::Adopt(_) => panic!("only messages were sent"),
        });
        assert!(found.eq([30, 20]));
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
        assert!(ends[0].room(ShardIndex(1)) > 0);
    }

    #[test]
    fn a_shard_that_stalls_is_sent_so_many_bytes_and_no_more() {
        let mut ends = ends(2);
        let large = PeerMessage::Publish(Arc::new(Message {
            payload: bytes::Bytes::from(vec![0; 100_000]),
            ..Arc::unwrap_or_clone(match message(0) {
                PeerMessage::Publish(message) => message,
                _ => unreachable!("it is a publish"),
            })
        }));
        let mut sent = 0;
        while !ends[0].is_clogged(ShardIndex(1)) {
            ends[0].send(ShardIndex(1), large.clone());
            ends[0].flush();
            sent += 1;
        }
        let bytes_max = RING_BYTES_MAX + WAITING_BYTES_MAX + 2 * 100_000;
        assert!(sent * 100_000 <= bytes_max, "{sent} messages");
        let mut got = 0;
        while got < sent {
            got += received(&mut ends[1]).len() as u64;
            ends[0].flush();
        }
        assert!(ends[0].room(ShardIndex(1)) > 0 && ends[0].is_flushed());
    }

    #[test]
    fn the_memory_of_batches_goes_back_and_forth() {
        let mut ends = ends(2);
        let mut places = std::collections::HashSet::new();
        for n in 0..100 {
            let PeerMessage::Publish(told) = message(n) else { panic!("it is a publish") };
            let payload = bytes::Bytes::from(vec![n as u8; 100]);
            let passed = Message { payload, ..Arc::unwrap_or_clone(told) };
            (0..9).for_each(|_| ends[0].send(ShardIndex(1), PeerMessage::Passed(passed.clone())));
            ends[0].flush();
            ends[1].begin_to_receive();
            let Some((from, Parcel::Messages(mut messages))) = ends[1].receive() else {
                panic!("one parcel was sent")
            };
            let mut got = std::iter::from_fn(|| messages.pop().map(Taken::message));
            let first = got.next().expect("nine were sent");
            assert_eq!(first.published(), Some(&passed));
            places.insert(passed_at(&first));
            assert!(got.all(|it| it.published() == Some(&passed)));
            drop(first);
            ends[1].give_back(from, messages);
        }
        assert!(places.len() <= 3, "{} places", places.len());
    }

    fn passed_at(message: &PeerMessage) -> *const u8 {
        message.published().expect("it is a publish").payload.as_ptr()
    }

    #[test]
    fn a_hundred_shards_find_their_mail() {
        let mut ends = ends(100);
        for from in [0, 63, 64, 99] {
            ends[from].send(ShardIndex(70), message(from as u64));
            ends[from].flush();
        }
        assert_eq!(received(&mut ends[70]), [0, 63, 64, 99]);
        assert!(!ends[70].has_mail());
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
    fn who_waits_for_a_shard_without_room_is_woken_when_it_has_some() {
        let ends = ends(3);
        ends[0].bells[0].arm();
        ends[2].set_room(0);
        assert!(!ends[0].is_clogged(ShardIndex(1)) && ends[0].is_clogged(ShardIndex(2)));
        assert_eq!(ends[0].room(ShardIndex(2)), 0);
        assert_eq!(ends[0].bells[0].rung(), 0);
        ends[2].set_room(7);
        assert_eq!((ends[0].bells[0].rung(), ends[1].bells[1].rung()), (1, 0));
        assert!(!ends[0].is_clogged(ShardIndex(2)));
        assert_eq!(ends[0].room(ShardIndex(2)), 7);
    }

    /// Whatever the room is: messages are on their way up to it, and half of them have been handled when the
    /// sender is woken.
    #[test]
    fn a_shard_has_no_more_on_its_way_than_there_is_room_for() {
        for room in [1, 2, 3, 10, 100] {
            let mut ends = ends(2);
            ends[1].set_room(room);
            for round in 0..5 {
                let mut sent = ends[0].outgoing[1].on_their_way();
                while !ends[0].is_clogged(ShardIndex(1)) {
                    ends[0].send(ShardIndex(1), message(sent));
                    sent += 1;
                }
                ends[0].flush();
                assert_eq!(sent, u64::from(room), "round {round}");
                assert_eq!(ends[0].room(ShardIndex(1)), 0);
                ends[0].bells[0].arm();
                let before = ends[0].bells[0].rung();
                ends[1].begin_to_receive();
                while let Some((from, Parcel::Messages(mut messages))) = ends[1].receive() {
                    while messages.pop().is_some() {
                        let left = ends[0].outgoing[1].on_their_way();
                        let rung = ends[0].bells[0].rung() - before;
                        assert_eq!(
                            rung,
                            u64::from(left <= u64::from(room) / 2),
                            "{left} of {room}"
                        );
                        ends[1].handled(from, 1);
                    }
                }
                assert_eq!(ends[0].bells[0].rung() - before, 1);
                ends[0].bells[0].disarm();
                assert_eq!(ends[0].room(ShardIndex(1)), room as usize);
            }
        }
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
