//! Receipts of QoS 2 messages: recorded in order when all that was queued of a message is kept, and what
//! they let go when they are.

use petrel_proto::Packet;

use super::{Needs, Owed, Then, What};
use crate::peer::Lent;
use crate::record::{Incarnation, Provided, Record, Stream};
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};
use crate::{ConnId, ShardIndex};

impl Shard {
    /// Owes a PUBREC to the publisher of a QoS 2 message of a kept session; its receipt is recorded
    /// once all that was queued of it is kept, and the PUBREC leaves once the receipt is.
    pub(crate) fn owe_receipt(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        provided: Provided,
        packet: Packet,
        needs: &Needs,
    ) {
        let owed = self.session_of(conn).and_then(|index| {
            let Packet::PubRec(ack) = &packet else { return None };
            let packet_id = ack.packet_id;
            let session = self.sessions.get_mut(index)?;
            let incarnation = session.incarnation()?;
            let token = self.keep.next_token();
            let flow = self.flows.of(&mut session.flow);
            flow.owed.push_back(Owed { token, packet, ready: false });
            let session = (index, session.generation);
            Some(What::Received { session, incarnation, packet_id, token, forgotten: false })
        });
        if let Some(what) = owed
            && let Some(receipt) = self.keep.receipt(provided)
        {
            receipt.what = what;
        }
        self.await_receipt(turn, provided, needs);
    }

    /// Records a receipt when what it needs is kept, and all before it are recorded.
    fn await_receipt(&mut self, turn: &mut Turn<'_>, provided: Provided, needs: &Needs) {
        turn.out.urgent = true;
        let (lane, number) = (provided.stream.lane(), provided.number);
        let ready = self.keep.is_met(needs);
        if let Some(receipt) = self.keep.receipt(provided) {
            receipt.ready = ready;
            receipt.peers = needs.peers.iter().map(|&(peer, _)| peer).collect();
        }
        if ready {
            self.write_receipts(turn, lane);
        } else {
            self.keep.promise(needs, Then::Receipt { lane, number });
        }
    }

    /// The number of the next QoS 2 message of a kept session; [`Shard::owe_receipt`] must follow.
    pub(crate) fn next_receipt(&mut self, incarnation: Incarnation) -> Option<Provided> {
        self.keep.reserve(incarnation, What::Nothing)
    }

    /// The number under which a group gives a message away; [`Shard::await_move`] must follow.
    pub(crate) fn next_move(&mut self, lent: Lent) -> Option<Provided> {
        self.keep.reserve(lent.incarnation, What::Moved(lent))
    }

    /// The home of a member has been told that a message is the member's: the group's record goes once
    /// the member's is kept.
    pub(crate) fn await_move(&mut self, turn: &mut Turn<'_>, provided: Provided, to: ShardIndex) {
        let mut needs = Needs::default();
        match self.keep.peers.get(usize::from(to.0)) {
            Some(peer) if to != self.config.index => needs.peers.push((to.0, peer.sent)),
            _ => needs.position = self.keep.position,
        }
        self.await_receipt(turn, provided, &needs);
    }

    /// A member had given a message back before it was told that it is the member's.
    pub(crate) fn cancel_move(&mut self, provided: Provided) {
        if let Some(receipt) = self.keep.receipt(provided) {
            receipt.what = What::Nothing;
        }
    }

    /// Makes a PUBREC that has been asked for again wait for the receipt that is on its way. Returns
    /// false if none is.
    pub(crate) fn rejoin_receipt(&mut self, conn: ConnId, packet: Packet) -> bool {
        let Some(index) = self.session_of(conn) else { return false };
        let Packet::PubRec(ack) = &packet else { return false };
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let own = (index, session.generation);
        let mut receipts = self.keep.streams.iter_mut().flat_map(|stream| &mut stream.receipts);
        let found = receipts.find_map(|receipt| match &mut receipt.what {
            What::Received { session, packet_id, token, .. }
                if *session == own && *packet_id == ack.packet_id =>
            {
                Some(token)
            }
            _ => None,
        });
        let Some(token) = found else { return false };
        let flow = self.flows.of(&mut session.flow);
        if !flow.owed.iter().any(|owed| owed.token == *token) {
            self.keep.tokens += 1;
            *token = self.keep.tokens;
            flow.owed.push_back(Owed { token: *token, packet, ready: false });
        }
        true
    }

    /// The client releases a QoS 2 message whose receipt is still on its way. Returns false if none is.
    pub(crate) fn forget_receipt_early(
        &mut self,
        index: u32,
        packet_id: petrel_proto::PacketId,
    ) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let own = (index, session.generation);
        let mut receipts = self.keep.streams.iter_mut().flat_map(|stream| &mut stream.receipts);
        let found = receipts.find_map(|receipt| match &mut receipt.what {
            What::Received { session, packet_id: id, forgotten, .. }
                if *session == own && *id == packet_id && !*forgotten =>
            {
                *forgotten = !receipt.written;
                Some(*forgotten)
            }
            _ => None,
        });
        found.unwrap_or(false)
    }

    /// Records the receipts whose turn it is.
    pub(super) fn write_receipts(&mut self, turn: &mut Turn<'_>, lane: u16) {
        let Some(keeping) = self.keep.keeping else { return };
        let stream = Stream::new(keeping.epoch, self.config.index.0, lane);
        let mut last = None;
        loop {
            let own = &mut self.keep.streams[usize::from(lane)];
            let first = own.numbers + 1 - own.receipts.len() as u64;
            let at = own.receipts.iter().position(|receipt| !receipt.written);
            let Some(at) = at.filter(|&at| own.receipts[at].ready) else { break };
            let receipt = &mut own.receipts[at];
            receipt.written = true;
            let number = first + at as u64;
            let what = receipt.what;
            let provided = Provided { stream, number };
            match what {
                What::Nothing => {}
                What::Received { incarnation, packet_id, forgotten, .. } => {
                    if !sabotage::on(Sabotage::ReceiptUnrecorded) {
                        self.record(turn, Record::Received { incarnation, packet_id, provided });
                    }
                    if forgotten {
                        self.record(turn, Record::Forgotten { incarnation, packet_id });
                    }
                }
                What::Moved(Lent { incarnation, sequence }) => {
                    if !sabotage::on(Sabotage::MoveUnrecorded) {
                        self.record(turn, Record::Moved { incarnation, sequence, provided });
                    }
                }
            }
            last = Some(number);
        }
        if let Some(number) = last {
            let needs = self.keep.needs_all();
            self.after(turn, &needs, Then::Committed { lane, number });
        }
    }

    /// Receipts are kept: their PUBRECs leave, and what was queued of their messages counts.
    pub(super) fn commit_receipts(&mut self, turn: &mut Turn<'_>, lane: u16, number: u64) {
        let Some(keeping) = self.keep.keeping else { return };
        let stream = Stream::new(keeping.epoch, self.config.index.0, lane);
        let upto = self.keep.committed.entry(stream).or_default();
        *upto = number.max(*upto);
        loop {
            let own = &mut self.keep.streams[usize::from(lane)];
            let first = own.numbers + 1 - own.receipts.len() as u64;
            if own.receipts.is_empty() || first > number {
                break;
            }
            let Some(receipt) = own.receipts.pop_front() else { break };
            for peer in receipt.peers {
                let told = &mut self.keep.peers[usize::from(peer)].committed;
                if told.len() <= usize::from(lane) {
                    told.resize(usize::from(lane) + 1, 0);
                }
                told[usize::from(lane)] = number;
            }
            match receipt.what {
                What::Nothing => {}
                What::Received { session: (session, generation), token, .. } => {
                    self.send_owed(turn, session, generation, token);
                }
                What::Moved(lent) => self.groups.moved_away(lent),
            }
        }
        self.release_held(turn);
    }
}
