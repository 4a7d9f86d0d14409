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
