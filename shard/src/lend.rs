//! What waits in a shared group and outlives the process.
//!
//! A group with a member whose session is kept has an incarnation of its own, from then on until its
//! last member leaves, and its messages of QoS 1 and 2 are recorded under that before they are
//! acknowledged. What the group lends to a member stays recorded until the member's client has it.
//!
//! A message that goes to its client at QoS 2 must go to one client only, whatever crashes
//! ([MQTT5-4.8.2-5]). So the member's home asks for it when it could send it. To a session that is
//! kept the message *moves*: the owner of the group names a receipt, the session has it recorded under
//! the condition of that receipt, and when that is kept the owner records the receipt, which says that
//! the group has it no longer. To a session that is not kept it goes once the record of the group is
//! gone for good: such a session ends with the process, and with it what it was being sent.
//!
//! Invariants: owner and home talk in one order, so what a home has given back it has given back before
//! it sees the answer to what it has asked. A receipt that is named is written sooner or later.

use std::sync::Arc;

use petrel_proto::Qos;

use crate::config::QueueFull;
use crate::deliver::{MEMORY_QUEUE_MAX, READY_QUEUE_MAX};
use crate::event::DropReason;
use crate::input::Loaded;
use crate::keep::{Hold, Then};
use crate::ledger::drop_message;
use crate::losses::lose;
use crate::outbox::Load;
use crate::peer::{
    Asked, GROUP_ATTEMPTS_MAX, GroupClaim, GroupDelivery, GroupKey, Lent, PeerMessage,
};
use crate::record::{DeliveryRecord, Incarnation, Provided, Record};
use crate::sabotage::{self, Sabotage};
use crate::session::{Kept, Session};
use crate::shard::{Shard, Turn};
use crate::share::{Group, Groups, slot_of};
use crate::traced::{Note, lose_in_group, topic_text};
use crate::waiting::{HEAD_MESSAGES, LOAD_BYTES};
use crate::{Message, Outbox, SessionRef, ShardIndex};

impl Groups {
    /// True if what waits in a group is kept.
    pub(crate) fn is_kept(&self, index: u32) -> bool {
        self.groups.get(index).is_some_and(|group| group.kept.is_some())
    }

    /// A group has given a message away for good.
    pub(crate) fn moved_away(&mut self, lent: Lent) {
        let index = self.by_life.get(&lent.incarnation).copied();
        if let Some(group) = index.and_then(|index| self.groups.get_mut(index)) {
            group.moving.remove(&lent.sequence);
        }
    }
}

impl Group {
    /// Messages that wait, in memory or not.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len() + self.stored().0 as usize
    }

    /// Bytes of the messages that wait.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.queue_bytes + self.stored().1
    }

    /// Messages that wait and are not in memory, and their bytes, as far as is known.
    fn stored(&self) -> (u32, u64) {
        self.kept.as_deref().map_or((0, 0), |kept| (kept.stored, kept.stored_bytes))
    }

    fn waits_in_store(&self) -> bool {
        self.kept.as_deref().is_some_and(|kept| kept.stored_from != u64::MAX)
    }

    /// What is said of a message at a place, if the group is kept.
    pub(crate) fn lent(&self, sequence: u64) -> Option<Lent> {
        self.kept.as_deref().map(|kept| Lent { incarnation: kept.incarnation, sequence })
    }

    /// Whether a message of so many bytes is one too many.
    fn is_full(&self, bytes: u64, messages_max: u32, bytes_max: u64) -> bool {
        self.waiting() + 1 > messages_max as usize || self.waiting_bytes() + bytes > bytes_max
    }

    /// The oldest that waits makes room. Returns its place.
    fn drop_oldest(&mut self) -> Option<u64> {
        match self.queue.pop_first() {
            Some((sequence, oldest)) => {
                self.queue_bytes -= oldest.cost_bytes() as u64;
                self.provided.remove(&sequence);
                Some(sequence)
            }
            None => self.kept.as_deref_mut()?.drop_oldest().map(|oldest| oldest.sequence),
        }
    }

    fn push(&mut self, sequence: u64, message: &Arc<Message>, provided: Option<Provided>) {
        self.queue_bytes += message.cost_bytes() as u64;
        self.queue.insert(sequence, Arc::clone(message));
        if let Some(provided) = provided {
            self.provided.insert(sequence, provided);
        }
    }

    /// Puts a message that is recorded behind what waits: in memory, or only where it is kept if what is
    /// before it is there as well, or if there is much of it.
    fn queue_up(
        &mut self,
        sequence: u64,
        message: &Arc<Message>,
        provided: Option<Provided>,
        with_runs: bool,
    ) {
        let is_wanted = self.members.iter().any(|member| member.readiness.online);
        let most = if is_wanted { MEMORY_QUEUE_MAX } else { HEAD_MESSAGES };
        let in_store = self.waits_in_store()
            || self.queue.len() >= most
            || self.queue_bytes >= LOAD_BYTES as u64;
        match self.kept.as_deref_mut().filter(|_| in_store) {
            Some(kept) => {
                kept.store(sequence, message.qos, message.cost_bytes() as u64, with_runs);
            }
            None => self.push(sequence, message, provided),
        }
    }
}

/// The owner of a group.
impl Shard {
    /// A member joins whose session is kept: so is the group from now on, with what waits in it.
    pub(crate) fn keep_group(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        if group.kept.is_some() {
            return;
        }
        let Some(incarnation) = self.keep.begin_life(slot_of(&group.key)) else { return };
        group.kept = Some(Box::new(Kept::new(incarnation, true, self.keep.first_sequence())));
        let key = Arc::clone(&group.key);
        group.recorded = self.keep.position() + 1;
        group.queue_bytes = 0;
        let waiting = std::mem::take(&mut group.queue);
        self.groups.by_life.insert(incarnation, index);
        self.record(turn, Record::Group { incarnation, key });
        for message in waiting.into_values() {
            let Some(lent) = self.record_for_group(turn, index, &message, None) else { return };
            if let Some(group) = self.groups.groups.get_mut(index) {
                group.push(lent.sequence, &message, None);
            }
        }
    }

    /// A kept group has ended.
    pub(crate) fn forget_group(&mut self, turn: &mut Turn<'_>, incarnation: Incarnation) {
        self.groups.by_life.remove(&incarnation);
        self.record(turn, Record::Ended { incarnation });
    }

    /// Brings back a group, without members. Called for all that are kept, before any input.
    ///
    /// One whose members do not come back ends when all shards have brought back their sessions.
    pub fn restore_group(&mut self, incarnation: Incarnation, key: &Arc<GroupKey>) {
        let index = match self.groups.find(key) {
            Some((index, _)) => index,
            None => self.make_group(key),
        };
        let mut kept = Kept::new(incarnation, true, self.keep.first_sequence());
        (kept.stored_from, kept.uncounted_from) = (0, 0);
        if let Some(group) = self.groups.groups.get_mut(index) {
            group.kept = Some(Box::new(kept));
        }
        self.groups.by_life.insert(incarnation, index);
        self.groups.awaits_members = true;
    }

    /// The sessions of this shard that were brought back have joined their groups.
    pub(crate) fn tell_rejoined(&mut self, turn: &mut Turn<'_>) {
        if self.keep.is_on() {
            for shard in 0..self.config.slots.shards() {
                self.tell(turn, ShardIndex(shard), PeerMessage::Rejoined);
            }
        }
    }

    /// Those of one more shard have. When all have, what has no members is over.
    pub(crate) fn on_rejoined(&mut self, turn: &mut Turn<'_>) {
        self.groups.rejoined += 1;
        let all = self.groups.rejoined == self.config.slots.shards();
        if !all || sabotage::on(Sabotage::GroupLeftAlone) {
            return;
        }
        self.groups.awaits_members = false;
        let groups = self.groups.groups.iter();
        let empty: Vec<u32> =
            groups.filter(|(_, group)| group.members.is_empty()).map(|(index, _)| index).collect();
        for index in empty {
            self.end_group(turn, index);
        }
    }

    /// A message of QoS 1 or 2 matched the filter of a kept group.
    pub(crate) fn keep_for_group(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        let provided = provided.filter(|_| !sabotage::on(Sabotage::GroupHoldIgnored));
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let waits = !group.queue.is_empty() || group.waits_in_store();
        if !waits
            && provided.is_none()
            && let Some(member) = group.choose(message.qos)
        {
            let lent = self.record_for_group(turn, index, message, None);
            return self.lend(turn, index, member, (message, lent), (1, false));
        }
        self.enqueue_kept(turn, index, message, provided);
        self.drain_group(turn, index);
    }

    fn enqueue_kept(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        let limits = &self.config.limits;
        let (mut messages_max, mut bytes_max) =
            (limits.session_queue_messages, limits.session_queue_bytes);
        let drops_oldest = limits.session_queue_full == QueueFull::DropOldest;
        let bytes = message.cost_bytes() as u64;
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        if !group.provided.is_empty() && group.members.iter().any(|one| one.readiness.ready) {
            // What waits for the receipt of a publisher would be in flight to a member by now.
            messages_max = messages_max.saturating_add(u32::from(limits.outgoing_inflight_maximum));
            bytes_max = bytes_max.saturating_add(limits.outgoing_inflight_bytes_maximum);
        }
        let mut gone = Vec::new();
        while drops_oldest
            && bytes <= bytes_max
            && group.is_full(bytes, messages_max, bytes_max)
            && let Some(oldest) = group.drop_oldest()
        {
            drop_message(turn, DropReason::QueueFull);
            gone.extend(group.lent(oldest));
        }
        let is_full = group.is_full(bytes, messages_max, bytes_max);
        for lent in gone {
            self.on_lent_done(turn, lent);
        }
        if is_full {
            return lose_in_group(turn, &message.topic, DropReason::QueueFull);
        }
        let Some(lent) = self.record_for_group(turn, index, message, provided) else { return };
        if let Some(group) = self.groups.groups.get_mut(index) {
            group.queue_up(lent.sequence, message, provided, drops_oldest);
            turn.out.notes.add(|| Note::QueuedInGroup {
                topic: topic_text(message.topic.as_bytes()),
                group: group.key.written(),
            });
        }
    }

    /// Gives a message its place in a kept group, and a record.
    fn record_for_group(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) -> Option<Lent> {
        let kept = self.groups.groups.get_mut(index)?.kept.as_deref_mut()?;
        let (incarnation, sequence) = (kept.incarnation, kept.next_sequence);
        kept.next_sequence += 1;
        if !sabotage::on(Sabotage::GroupUnrecorded) {
            let delivery = Box::new(DeliveryRecord {
                message: Arc::clone(message),
                qos: message.qos,
                retain: false,
                identifiers: Default::default(),
                stored: false,
                provided,
            });
            self.record(turn, Record::Queued { incarnation, sequence, delivery });
        }
        Some(Lent { incarnation, sequence })
    }

    /// True if the first that waits may not be lent yet, since its publisher would send it again after a
    /// failure; the group is looked at again when more is kept.
    pub(crate) fn holds_in_group(&mut self, index: u32, first: u64) -> bool {
        let Some(group) = self.groups.groups.get_mut(index) else { return false };
        let Some(&provided) = group.provided.get(&first) else { return false };
        if self.keep.releases(Hold::Provided(provided)) {
            group.provided.remove(&first);
            return false;
        }
        if let Some(kept) = group.kept.as_deref_mut()
            && !std::mem::replace(&mut kept.looked_at_again, true)
        {
            self.keep.holding_groups.push(kept.incarnation);
        }
        true
    }

    /// More has been kept for which a group waits.
    pub(crate) fn drain_kept_group(&mut self, turn: &mut Turn<'_>, incarnation: Incarnation) {
        if let Some(&index) = self.groups.by_life.get(&incarnation) {
            let group = self.groups.groups.get_mut(index);
            if let Some(kept) = group.and_then(|group| group.kept.as_deref_mut()) {
                kept.looked_at_again = false;
            }
            self.drain_group(turn, index);
        }
    }

    /// Asks for what waits in a group and is not in memory, if a member could take it.
    pub(crate) fn load_for_group(&mut self, turn: &mut Turn<'_>, index: u32) {
        let shard = self.config.index;
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let is_wanted = group.members.iter().any(|member| member.readiness.ready);
        let Some(kept) = group.kept.as_deref_mut().filter(|_| is_wanted) else { return };
        if kept.stored_from == u64::MAX || kept.loading {
            return;
        }
        kept.loading = true;
        turn.out.loads.push(Load {
            session: SessionRef { shard, index, generation: 0 },
            incarnation: kept.incarnation,
            from: kept.stored_from,
            upto: kept.next_sequence,
            messages_max: READY_QUEUE_MAX,
            bytes_max: LOAD_BYTES,
        });
    }

    /// What was asked for.
    pub(crate) fn on_group_loaded(&mut self, turn: &mut Turn<'_>, index: u32, loaded: Loaded) {
        let Loaded { load, messages, void, next } = loaded;
        let drops_oldest = self.limits().session_queue_full == QueueFull::DropOldest;
        let first_sequence = self.keep.first_sequence();
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let Some(kept) = group.kept.as_deref_mut() else { return };
        kept.loading = false;
        let counted_before = kept.uncounted_from;
        let counts = |sequence| sequence < counted_before || sequence >= first_sequence;
        // What has made room since the question is among the answer.
        let places = messages.iter().map(|stored| stored.sequence);
        let dropped: Vec<u64> =
            places.filter(|&at| drops_oldest && counts(at) && kept.has_dropped(at)).collect();
        kept.answered(&load, next);
        kept.pass_uncounted();
        let waiting = messages.into_iter().filter_map(|one| Some((one.sequence, one.delivery?)));
        for (sequence, record) in waiting {
            if dropped.binary_search(&sequence).is_ok() {
                continue;
            }
            turn.out.ledger.restored += u64::from(!counts(sequence));
            if let Some(kept) = group.kept.as_deref_mut().filter(|_| counts(sequence)) {
                let bytes = record.message.cost_bytes() as u64;
                kept.stored = kept.stored.saturating_sub(1);
                kept.stored_bytes = kept.stored_bytes.saturating_sub(bytes);
            }
            group.push(sequence, &record.message, record.provided);
        }
        if let Some(kept) = group.kept.as_deref_mut().filter(|kept| kept.stored_from == u64::MAX) {
            // What has expired where it was kept.
            for _ in 0..std::mem::take(&mut kept.stored) {
                drop_message(turn, DropReason::Expired);
            }
            kept.stored_bytes = 0;
        }
        let incarnation = load.incarnation;
        for sequence in void {
            self.record(turn, Record::Done { incarnation, sequence });
        }
        self.drain_group(turn, index);
    }

    /// A member of a kept group gives back what it was lent: another gets it, or it waits at its place.
    pub(crate) fn take_back(&mut self, turn: &mut Turn<'_>, index: u32, delivery: &GroupDelivery) {
        let message = &delivery.message;
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let own = delivery.lent.filter(|lent| {
            delivery.asked != Asked::ToForget && group.lent(lent.sequence) == Some(*lent)
        });
        let Some(lent) = own else {
            // The group has no record of it, or none any more.
            return match message.qos {
                Qos::AtMostOnce => self.offer_to_group(turn, index, message, delivery.attempt),
                _ => self.keep_for_group(turn, index, message, None),
            };
        };
        let moving = group.moving.remove(&lent.sequence);
        let member =
            if delivery.attempt < GROUP_ATTEMPTS_MAX { group.choose(message.qos) } else { None };
        if member.is_none() {
            group.push(lent.sequence, message, None);
        }
        if let Some(provided) = moving {
            self.cancel_move(provided);
        }
        if let Some(member) = member {
            let attempt = delivery.attempt + 1;
            self.lend(turn, index, member, (message, Some(lent)), (attempt, false));
        }
    }

    /// A member that could send a QoS 2 message wants it for itself.
    pub(crate) fn on_group_take(&mut self, turn: &mut Turn<'_>, claim: Box<GroupClaim>) {
        let Lent { incarnation, sequence } = claim.lent;
        let Some(&index) = self.groups.by_life.get(&incarnation) else {
            // In a later turn even if this is the member's home, since what is sent then may ask again.
            return turn.out.peers.push((claim.member.shard, PeerMessage::GroupGone(claim)));
        };
        if !claim.kept {
            self.on_lent_done(turn, claim.lent);
            let needs = self.keep.needs_all();
            return self.after(turn, &needs, Then::Taken(*claim));
        }
        let Some(provided) = self.next_move(claim.lent) else { return };
        if let Some(group) = self.groups.groups.get_mut(index) {
            group.moving.insert(sequence, provided);
        }
        let to = claim.member.shard;
        if to != self.config.index {
            self.keep.sent(to);
        }
        self.tell(turn, to, PeerMessage::GroupMove(claim, provided));
        self.await_move(turn, provided, to);
    }

    /// A message that was lent is with its client, or will never be.
    pub(crate) fn on_lent_done(&mut self, turn: &mut Turn<'_>, lent: Lent) {
        let Lent { incarnation, sequence } = lent;
        if self.groups.by_life.contains_key(&incarnation) {
            self.record(turn, Record::Done { incarnation, sequence });
        }
    }
}

/// The home of a member.
impl Shard {
    /// Asks for the QoS 2 messages that the client could be sent if they were its own.
    #[inline]
    pub(crate) fn claim_lent(&mut self, turn: &mut Turn<'_>, index: u32) {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_deref());
        if flow.is_some_and(|flow| flow.queue.has_claimable()) {
            self.ask_for_lent(turn, index);
        }
    }

    fn ask_for_lent(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(conn) = self.conn_of(index) else { return };
        let quota = self.connection(conn).map_or(0, |connection| connection.send_quota);
        let member = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let kept = session.is_kept_whole();
        let Some(flow) = session.flow.as_deref_mut() else { return };
        let how = if kept { Asked::ToMove } else { Asked::ToForget };
        for lent in flow.queue.ask(usize::from(quota), how) {
            let owner = self.config.slots.home(lent.incarnation.slot());
            let claim = Box::new(GroupClaim { lent, member, kept });
            self.tell(turn, owner, PeerMessage::GroupTake(claim));
        }
    }

    /// A message is a kept session's own, once its group has recorded that. If the session has given it
    /// back meanwhile, the group knows.
    pub(crate) fn on_group_move(
        &mut self,
        turn: &mut Turn<'_>,
        from: ShardIndex,
        claim: &GroupClaim,
        provided: Provided,
    ) {
        let since = self.keep.position();
        if let Some(index) = self.resolve(claim.member) {
            self.take_over(turn, index, claim.lent, provided);
            // What had to wait behind it may be sent, whatever has become of it.
            self.look_again(index);
        }
        if from != self.config.index {
            self.keep.received(from, since);
        }
    }

    fn take_over(&mut self, turn: &mut Turn<'_>, index: u32, lent: Lent, provided: Provided) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let in_store = session.waits_in_store();
        let found = session.flow.as_deref_mut().and_then(|flow| flow.queue.take_asked(lent));
        let Some((at, mut delivery)) = found else { return };
        delivery.group = None;
        let condition = Some(provided).filter(|_| !sabotage::on(Sabotage::MoveNotNeeded));
        self.admit(turn, index, &mut delivery, condition);
        if in_store {
            // It will be loaded with the rest.
            self.queue_up(index, delivery);
        } else if let Some(Session { flow: Some(flow), .. }) = self.sessions.get_mut(index) {
            flow.queue.put_back(at, delivery);
        }
    }

    /// The group has no record of a message any more: the client may be sent it.
    pub(crate) fn on_group_taken(&mut self, turn: &mut Turn<'_>, claim: &GroupClaim) {
        let Some(index) = self.resolve(claim.member) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        if let Some(flow) = session.flow.as_deref_mut()
            && let Some((at, mut delivery)) = flow.queue.take_asked(claim.lent)
        {
            if let Some(group) = &mut delivery.group {
                group.lent = None;
            }
            flow.queue.put_back(at, delivery);
        }
        self.drain(turn, index);
    }

    /// A message went with its group, before the session joined that anew.
    pub(crate) fn on_group_gone(&mut self, turn: &mut Turn<'_>, claim: &GroupClaim) {
        let Some(index) = self.resolve(claim.member) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow.as_deref_mut();
        if let Some((_, gone)) = flow.and_then(|flow| flow.queue.take_asked(claim.lent)) {
            lose(turn, index, gone.message.topic.as_bytes(), DropReason::NoGroupMember);
        }
        self.drain(turn, index);
    }

    /// The client has what a group had lent it, or never will: the group need not keep it.
    pub(crate) fn lent_is_done(&mut self, turn: &mut Turn<'_>, lent: Lent) {
        if sabotage::on(Sabotage::LentNotDone) {
            return;
        }
        let owner = self.config.slots.home(lent.incarnation.slot());
        if owner == self.config.index {
            self.on_lent_done(turn, lent);
        } else {
            self.keep.lent_done.push((owner, lent));
        }
    }

    /// Tells the owners of groups what they need not keep, all of a turn in one message each.
    pub(crate) fn tell_what_is_done(&mut self, out: &mut Outbox) {
        if self.keep.lent_done.is_empty() {
            return;
        }
        let mut done = std::mem::take(&mut self.keep.lent_done);
        done.sort_by_key(|(owner, _)| *owner);
        for of_one in done.chunk_by(|(one, _), (other, _)| one == other) {
            let all = of_one.iter().map(|(_, lent)| *lent).collect();
            out.peers.push((of_one[0].0, PeerMessage::GroupDone(all)));
        }
    }
}
