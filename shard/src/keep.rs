//! What must outlive the process: who waits for which record, and what happens then.
//!
//! Each record that a shard puts into its outbox has a position. Whoever keeps records says up to which
//! position they are kept ([`crate::Input::Kept`]), in order. A PUBACK, and every other word that
//! promises something, is *owed* until all that it promises is kept: here, and at the shards that the
//! message went to, which say with [`PeerMessage::Kept`] how many of the messages of this shard they
//! have dealt with and kept.
//!
//! Without storage everything counts as kept at once, and nothing here takes part in anything.

mod receipts;

use std::collections::VecDeque;

use petrel_proto::Packet;
use smallvec::SmallVec;

use crate::peer::{GroupClaim, Lent, PeerMessage};
use crate::record::{Incarnation, Provided, Record, Stream};
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};
use crate::table::Table;
use crate::{ConnId, SessionRef, ShardIndex, Slot};

/// That there is storage, and what a shard must know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Counts the processes that used the storage, from 1.
    pub epoch: u32,
    /// Into how many lanes it is divided; a session's lane is its slot modulo this.
    pub lanes: u16,
}

/// The records of a shard and those who wait for them.
#[derive(Debug, Default)]
pub(crate) struct Keep {
    keeping: Option<Keeping>,
    shard: ShardIndex,
    /// Records that were put into outboxes.
    position: u64,
    /// How many of them are kept.
    kept: u64,
    /// Sessions that were given an incarnation.
    lives: u32,
    promises: Table<Promise>,
    /// Who waits for a position of this shard, in order.
    waiting: VecDeque<(u64, Waiter)>,
    /// By shard.
    peers: Vec<PeerKeep>,
    /// The peers that were sent a message since [`Keep::begin`].
    touched: SmallVec<[u16; 4]>,
    /// By lane.
    streams: Vec<OwnStream>,
    /// How far the receipts of other shards have come.
    committed: std::collections::HashMap<Stream, u64>,
    /// Sessions whose next message waits to be kept.
    holding: Vec<(u32, u32)>,
    /// Groups whose next message waits for the receipt of its publisher.
    pub(crate) holding_groups: Vec<Incarnation>,
    /// Messages that groups of other shards need not keep any longer.
    pub(crate) lent_done: Vec<(ShardIndex, Lent)>,
    tokens: u64,
}

/// What is between this shard and another.
#[derive(Debug, Default)]
struct PeerKeep {
    /// Messages that count, sent to it.
    sent: u64,
    /// How many of them it has dealt with and kept.
    kept: u64,
    /// Who waits for that, in order.
    waiting: VecDeque<(u64, u32)>,
    /// Messages that count, had from it.
    received: u64,
    /// How many of them wait for which position here.
    reports: VecDeque<(u64, u64)>,
    /// How many of them are dealt with and kept, and how many it has been told.
    ready: u64,
    told: u64,
    /// By lane: receipts that it has to be told of.
    committed: SmallVec<[u64; 1]>,
}

/// The receipts of QoS 2 messages whose publishers, or groups that gave them away, have their lane in
/// common.
#[derive(Debug, Default)]
struct OwnStream {
    /// How many there were.
    numbers: u64,
    /// Those that are not kept yet, oldest first.
    receipts: VecDeque<Receipt>,
}

/// Something that is recorded when all that was queued of a QoS 2 message is kept, and that makes it
/// count.
#[derive(Debug)]
struct Receipt {
    what: What,
    /// Who has queued it.
    peers: SmallVec<[u16; 4]>,
    /// All that was queued of it is kept.
    ready: bool,
    /// Its record is on its way.
    written: bool,
}

/// What a receipt says.
#[derive(Debug, Clone, Copy)]
enum What {
    /// Nothing: its number is taken, and it is not known yet for what, or was taken in vain.
    Nothing,
    /// A QoS 2 message was received from a kept session ([MQTT5-4.3.3-8]).
    Received {
        session: (u32, u32),
        incarnation: Incarnation,
        packet_id: petrel_proto::PacketId,
        /// The acknowledgement that waits for it.
        token: u64,
        /// The client has released it before it was acknowledged.
        forgotten: bool,
    },
    /// A member of a group has the message, which the group has no longer.
    Moved(Lent),
}

/// Who waits for a position.
#[derive(Debug)]
enum Waiter {
    /// A promise, which may wait for more.
    Promise(u32),
    /// A session's owed packet, which waits for nothing else.
    Owed { session: u32, generation: u32, token: u64 },
}

/// Something that happens when everything it waits for has been kept.
#[derive(Debug)]
struct Promise {
    /// How much it still waits for.
    left: u32,
    then: Then,
}

/// What happens then.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    /// A session's owed packet may leave.
    Send { session: u32, generation: u32, token: u64 },
    /// The receipt of a QoS 2 message is written.
    Receipt { lane: u16, number: u64 },
    /// The receipt of a QoS 2 message is kept, and with it all before.
    Committed { lane: u16, number: u64 },
    /// A CONNACK may leave.
    ConnAck(ConnId),
    /// What was queued of a session's will is kept.
    WillOut { session: u32, generation: u32, number: u64 },
    /// The last of a session goes.
    Ended(Incarnation),
    /// A session has joined a group.
    Joined { member: SessionRef, join: u32 },
    /// A group has no record of a QoS 2 message any more: its member may be sent it.
    Taken(GroupClaim),
}

/// What has to be kept before something may be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// This position of this shard; 0 for none.
    position: u64,
    /// Each of these shards has kept that many of our messages.
    peers: SmallVec<[(u16, u64); 2]>,
}

impl Needs {
    /// A position of this shard; 0 for none.
    pub(crate) fn position(position: u64) -> Self {
        Self { position, peers: SmallVec::new() }
    }
}

/// A packet that promises something, and waits to be allowed to.
#[derive(Debug)]
pub(crate) struct Owed {
    token: u64,
    packet: Packet,
    ready: bool,
}

/// Why a delivery may not be sent yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Its record is not kept: the client would remember what the broker has forgotten.
    Kept(u64),
    /// The receipt of its message is not kept: its publisher would send it again.
    Provided(Provided),
}

impl Keep {
    pub(crate) fn new(keeping: Option<Keeping>, shard: ShardIndex, shards: u16) -> Self {
        let peers = if keeping.is_some() { shards } else { 0 };
        let lanes = keeping.map_or(0, |keeping| keeping.lanes);
        Self {
            keeping,
            shard,
            peers: (0..peers).map(|_| PeerKeep::default()).collect(),
            streams: (0..lanes).map(|_| OwnStream::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.keeping.is_some()
    }

    /// Into how many lanes the storage is divided; 0 if there is none.
    pub(crate) fn lanes(&self) -> u16 {
        self.keeping.map_or(0, |keeping| keeping.lanes)
    }

    /// What keeps a session.
    pub(crate) fn lane_of(&self, incarnation: Incarnation) -> usize {
        let lanes = self.keeping.map_or(1, |keeping| keeping.lanes.max(1));
        usize::from(incarnation.slot().0 % lanes)
    }

    /// A name for a session that begins.
    pub(crate) fn begin_life(&mut self, slot: Slot) -> Option<Incarnation> {
        let keeping = self.keeping?;
        self.lives += 1;
        Some(Incarnation::new(keeping.epoch, slot, self.lives))
    }

    /// Where the sequence numbers of a session begin in this process: behind those of all before.
    pub(crate) fn first_sequence(&self) -> u64 {
        let again = sabotage::on(Sabotage::PlacesReused);
        let epoch = self.keeping.map_or(0, |keeping| u64::from(keeping.epoch));
        if again { 1 } else { epoch << 40 }
    }

    /// True if everything that was put into outboxes up to a position is kept.
    pub(crate) const fn has_kept(&self, position: u64) -> bool {
        self.kept >= position
    }

    /// The position of the last record.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// A number that nothing else has.
    pub(crate) const fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Begins to note what a packet causes.
    pub(crate) fn begin(&mut self) -> u64 {
        self.touched.clear();
        self.position
    }

    /// What everything since [`Keep::begin`], which returned `since`, needs.
    pub(crate) fn needs(&self, since: u64) -> Needs {
        let position = if self.position > since { self.position } else { 0 };
        if sabotage::on(Sabotage::PeersIgnored) {
            return Needs::position(position);
        }
        let peers = self.touched.iter().map(|&at| (at, self.peers[usize::from(at)].sent));
        Needs { position, peers: peers.collect() }
    }

    /// What the records up to now need.
    pub(crate) fn needs_all(&self) -> Needs {
        Needs::position(self.position)
    }

    /// What the records up to now need, and every message that was sent.
    pub(crate) fn needs_everything(&self) -> Needs {
        let peers = self.peers.iter().enumerate();
        Needs {
            position: self.position,
            peers: peers.map(|(at, peer)| (at as u16, peer.sent)).collect(),
        }
    }

    fn is_met(&self, needs: &Needs) -> bool {
        sabotage::on(Sabotage::KeptIgnored)
            || self.has_kept(needs.position)
                && needs.peers.iter().all(|&(at, sent)| self.peers[usize::from(at)].kept >= sent)
    }

    /// Notes that a message that counts goes to another shard.
    pub(crate) fn sent(&mut self, to: ShardIndex) {
        if self.is_on() {
            self.peers[usize::from(to.0)].sent += 1;
            if !self.touched.contains(&to.0) {
                self.touched.push(to.0);
            }
        }
    }

    /// Notes that a message that counts has come from another shard, and has been dealt with since the
    /// position was `since`.
    pub(crate) fn received(&mut self, from: ShardIndex, since: u64) {
        if !self.is_on() {
            return;
        }
        let waits = self.position > since;
        let peer = &mut self.peers[usize::from(from.0)];
        peer.received += 1;
        match peer.reports.back_mut() {
            None if !waits => peer.ready = peer.received,
            // It waits for nothing but those before it.
            Some((upto, _)) if !waits => *upto = peer.received,
            _ => peer.reports.push_back((peer.received, self.position)),
        }
    }

    fn promise(&mut self, needs: &Needs, then: Then) {
        if let Then::Send { session, generation, token } = then
            && needs.peers.iter().all(|&(at, sent)| self.peers[usize::from(at)].kept >= sent)
        {
            let owed = Waiter::Owed { session, generation, token };
            return self.waiting.push_back((needs.position, owed));
        }
        let mut left = 0;
        let promise = self.promises.insert(Promise { left: 0, then });
        if !self.has_kept(needs.position) {
            left += 1;
            self.waiting.push_back((needs.position, Waiter::Promise(promise)));
        }
        for &(at, sent) in &needs.peers {
            let peer = &mut self.peers[usize::from(at)];
            if peer.kept < sent {
                left += 1;
                peer.waiting.push_back((sent, promise));
            }
        }
        debug_assert!(left > 0);
        if let Some(promise) = self.promises.get_mut(promise) {
            promise.left = left;
        }
    }

    /// One thing that a promise waits for has come. Returns what happens, if it was the last.
    fn fulfil(&mut self, promise: u32) -> Option<Then> {
        let waiting = self.promises.get_mut(promise)?;
        waiting.left -= 1;
        if waiting.left > 0 {
            return None;
        }
        self.promises.remove(promise).map(|promise| promise.then)
    }

    /// The lane that keeps what belongs to an incarnation, and the receipts of that lane.
    fn stream_of(&mut self, incarnation: Incarnation) -> Option<(u16, Stream, &mut OwnStream)> {
        let keeping = self.keeping?;
        let lane = incarnation.slot().0 % keeping.lanes;
        let stream = Stream::new(keeping.epoch, self.shard.0, lane);
        Some((lane, stream, &mut self.streams[usize::from(lane)]))
    }

    /// Takes the number of the next receipt.
    fn reserve(&mut self, incarnation: Incarnation, what: What) -> Option<Provided> {
        let (_, stream, own) = self.stream_of(incarnation)?;
        own.numbers += 1;
        let (peers, ready, written) = (SmallVec::new(), false, false);
        own.receipts.push_back(Receipt { what, peers, ready, written });
        Some(Provided { stream, number: own.numbers })
    }

    /// The receipt with a number, while it is under way.
    fn receipt(&mut self, provided: Provided) -> Option<&mut Receipt> {
        let own = self.streams.get_mut(usize::from(provided.stream.lane()))?;
        let first = own.numbers + 1 - own.receipts.len() as u64;
        own.receipts.get_mut(provided.number.checked_sub(first)? as usize)
    }

    /// What is under way of what must be kept; 0 when nothing is.
    pub(crate) fn pending(&self) -> usize {
        let streams = self.streams.iter().map(|stream| stream.receipts.len());
        self.promises.len() + self.waiting.len() + streams.sum::<usize>()
    }

    /// True if a held delivery may be sent.
    pub(crate) fn releases(&self, hold: Hold) -> bool {
        match hold {
            _ if sabotage::on(Sabotage::HoldIgnored) => true,
            Hold::Kept(position) => self.has_kept(position),
            Hold::Provided(Provided { stream, number }) => {
                self.committed.get(&stream).is_some_and(|&upto| number <= upto)
            }
        }
    }
}

impl Shard {
    /// Puts a record into the outbox.
    pub(crate) fn record(&mut self, turn: &mut Turn<'_>, record: Record) {
        debug_assert!(self.keep.is_on());
        self.keep.position += 1;
        turn.out.records.push(record);
        turn.out.records_upto = self.keep.position;
    }

    /// Sends a packet to a session's client when what it promises is kept, behind what is owed
    /// already.
    pub(crate) fn owe(&mut self, turn: &mut Turn<'_>, conn: ConnId, packet: Packet, needs: &Needs) {
        if !self.keep.is_on() {
            return self.send(turn, conn, &packet);
        }
        let Some(index) = self.session_of(conn) else { return };
        let met = self.keep.is_met(needs);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let none_before = session.flow.as_deref().is_none_or(|flow| flow.owed.is_empty());
        if met && none_before {
            return self.send(turn, conn, &packet);
        }
        let token = self.keep.next_token();
        let generation = session.generation;
        let flow = self.flows.of(&mut session.flow);
        flow.owed.push_back(Owed { token, packet, ready: met });
        if !met {
            turn.out.urgent = true;
            self.keep.promise(needs, Then::Send { session: index, generation, token });
        }
    }

    /// Something that is owed may leave, once what is owed before it has.
    fn send_owed(&mut self, turn: &mut Turn<'_>, index: u32, generation: u32, token: u64) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.generation != generation {
            return;
        }
        let Some(flow) = session.flow.as_deref_mut() else { return };
        let Some(owed) = flow.owed.iter_mut().find(|owed| owed.token == token) else { return };
        owed.ready = true;
        while let Some(conn) = self.conn_of(index) {
            let flow = self.sessions.get_mut(index).and_then(|s| s.flow.as_deref_mut());
            let Some(flow) = flow else { return };
            let Some(owed) = flow.owed.pop_front_if(|owed| owed.ready) else { break };
            self.send(turn, conn, &owed.packet);
        }
        self.settle(index);
    }

    /// The connection of a session is over: nobody is owed anything.
    pub(crate) fn forget_owed(&mut self, index: u32) {
        if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_deref_mut()) {
            flow.owed = VecDeque::new();
        }
    }

    /// Does something when what it needs is kept, which may be now.
    pub(crate) fn after(&mut self, turn: &mut Turn<'_>, needs: &Needs, then: Then) {
        if self.keep.is_met(needs) {
            self.keep_promise(turn, then);
        } else {
            turn.out.urgent = true;
            self.keep.promise(needs, then);
        }
    }

    /// Lets a CONNACK leave when everything recorded so far is kept. Returns false if it is.
    pub(crate) fn await_kept(&mut self, turn: &mut Turn<'_>, conn: ConnId) -> bool {
        let needs = self.keep.needs_all();
        if self.keep.is_met(&needs) {
            return false;
        }
        turn.out.urgent = true;
        self.keep.promise(&needs, Then::ConnAck(conn));
        true
    }

    /// Records have been kept, up to a position.
    pub(crate) fn on_kept(&mut self, turn: &mut Turn<'_>, upto: u64) {
        self.keep.kept = self.keep.kept.max(upto);
        for at in 0..self.keep.peers.len() {
            let peer = &mut self.keep.peers[at];
            while let Some((received, _)) =
                peer.reports.pop_front_if(|(_, position)| *position <= upto)
            {
                peer.ready = received;
            }
        }
        while let Some((_, waiter)) =
            self.keep.waiting.pop_front_if(|(position, _)| *position <= upto)
        {
            match waiter {
                Waiter::Owed { session, generation, token } => {
                    self.send_owed(turn, session, generation, token);
                }
                Waiter::Promise(promise) => {
                    if let Some(then) = self.keep.fulfil(promise) {
                        self.keep_promise(turn, then);
                    }
                }
            }
        }
        self.release_held(turn);
    }

    /// Another shard has kept so many of the messages of this one.
    pub(crate) fn on_peer_kept(&mut self, turn: &mut Turn<'_>, from: ShardIndex, count: u64) {
        let Some(peer) = self.keep.peers.get_mut(usize::from(from.0)) else { return };
        peer.kept = count;
        loop {
            let waiting = &mut self.keep.peers[usize::from(from.0)].waiting;
            let Some((_, promise)) = waiting.pop_front_if(|(sent, _)| *sent <= count) else {
                break;
            };
            if let Some(then) = self.keep.fulfil(promise) {
                self.keep_promise(turn, then);
            }
        }
    }

    /// The receipts of another shard have come so far.
    pub(crate) fn on_peer_committed(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardIndex,
        lane: u16,
        number: u64,
    ) {
        let Some(keeping) = self.keep.keeping else { return };
        self.keep.committed.insert(Stream::new(keeping.epoch, from.0, lane), number);
        self.release_held(turn);
    }

    fn keep_promise(&mut self, turn: &mut Turn<'_>, then: Then) {
        match then {
            Then::Send { session, generation, token } => {
                self.send_owed(turn, session, generation, token);
            }
            Then::Receipt { lane, number } => {
                let provided = Provided { stream: Stream::new(0, 0, lane), number };
                if let Some(receipt) = self.keep.receipt(provided) {
                    receipt.ready = true;
                }
                self.write_receipts(turn, lane);
            }
            Then::Committed { lane, number } => self.commit_receipts(turn, lane, number),
            Then::ConnAck(conn) => self.finish_connect(turn, conn),
            Then::WillOut { session, generation, number } => {
                self.will_is_out(turn, (session, generation), number);
            }
            Then::Ended(incarnation) => self.record(turn, Record::Ended { incarnation }),
            Then::Joined { member, join } => {
                self.tell(turn, member.shard, PeerMessage::GroupJoined { member, join });
            }
            Then::Taken(claim) => {
                let to = claim.member.shard;
                self.tell(turn, to, PeerMessage::GroupTaken(Box::new(claim)));
            }
        }
    }

    /// True if what waits at a place may be sent now; else its session is looked at again when more is
    /// kept, or when an identifier is free.
    #[inline]
    pub(crate) fn may_send(&mut self, index: u32, sequence: u64) -> bool {
        sequence == 0 || self.is_released(index, sequence)
    }

    fn is_released(&mut self, index: u32, sequence: u64) -> bool {
        if self.forget_freed(index) {
            self.look_again(index);
        }
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let is_free = session.identifier_is_free(sequence);
        let Some(flow) = session.flow.as_deref_mut() else { return is_free };
        let Some(hold) = flow.held(sequence) else { return is_free };
        if self.keep.releases(hold) {
            flow.release(sequence);
            return is_free;
        }
        self.look_again(index);
        false
    }

    /// Looks at a session again when more is kept.
    pub(crate) fn look_again(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let holding = (index, session.generation);
        let is_noted = match session.kept.as_deref_mut() {
            Some(kept) => std::mem::replace(&mut kept.looked_at_again, true),
            None => self.keep.holding.last() == Some(&holding),
        };
        if !is_noted {
            self.keep.holding.push(holding);
        }
    }

    fn release_held(&mut self, turn: &mut Turn<'_>) {
        for (index, generation) in std::mem::take(&mut self.keep.holding) {
            let session = self.sessions.get_mut(index);
            let Some(session) = session.filter(|it| it.generation == generation) else { continue };
            if let Some(kept) = session.kept.as_deref_mut() {
                kept.looked_at_again = false;
            }
            self.drain(turn, index);
        }
        for incarnation in std::mem::take(&mut self.keep.holding_groups) {
            self.drain_kept_group(turn, incarnation);
        }
    }

    /// Ends a turn: tells the other shards what has been kept for them. Called once for many inputs,
    /// before the outbox is carried out.
    pub fn end_turn(&mut self, out: &mut crate::Outbox) {
        self.tell_what_is_done(out);
        for at in 0..self.keep.peers.len() {
            let to = ShardIndex(at as u16);
            let peer = &mut self.keep.peers[at];
            if peer.ready > peer.told {
                peer.told = peer.ready;
                out.peers.push((to, PeerMessage::Kept { count: peer.ready }));
            }
            out.urgent |= !peer.reports.is_empty();
            for (lane, number) in peer.committed.iter_mut().enumerate() {
                if *number > 0 {
                    let number = std::mem::take(number);
                    out.peers.push((to, PeerMessage::Committed { lane: lane as u16, number }));
                }
            }
        }
    }
}
