//! Shared subscriptions: each group is owned by one shard ([MQTT5-4.8.2]).
//!
//! The owner is in the matcher for the group's filter, knows its members and their readiness, and
//! chooses one member for each message. What no member is ready for waits in the group, not with
//! one member, so nothing is stuck with a client that is away while another is there. A member's
//! home delivers as for any subscription, or returns the message. What of it outlives the process:
//! [`crate::lend`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use petrel_proto::Qos;

use crate::config::QueueFull;
use crate::deliver::READY_QUEUE_MAX;
use crate::event::DropReason;
use crate::flow::{Delivery, Stage};
use crate::keep::{Needs, Then};
use crate::ledger::drop_message;
use crate::matcher::FilterId;
use crate::peer::{
    Asked, GROUP_ATTEMPTS_MAX, GroupDelivery, GroupKey, Lent, PeerMessage, Readiness,
};
use crate::receivers::{PackedOptions, Receiver, Target};
use crate::record::{Incarnation, Provided};
use crate::sabotage::{self, Sabotage};
use crate::session::{Kept, Session, SharedSubscription};
use crate::shard::{Shard, Turn};
use crate::table::Table;
use crate::traced::{Note, lose_in_group, topic_text};
use crate::{Message, SessionRef, ShardIndex, Slot};

/// A session returns group messages once it holds this many that wait.
const MEMBER_QUEUE_MAX: usize = 4 * READY_QUEUE_MAX;
/// Messages that leave a group's queue before the members are asked again.
const GROUP_BURST_MAX: usize = 64;

/// The groups that this shard owns.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) groups: Table<Group>,
    by_key: HashMap<Arc<GroupKey>, u32>,
    /// Those that are kept.
    pub(crate) by_life: HashMap<Incarnation, u32>,
    /// Shards whose sessions have joined again what they were in before a restart.
    pub(crate) rejoined: u16,
    /// Groups were brought back, and not all shards have joined theirs again.
    pub(crate) awaits_members: bool,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: Arc<GroupKey>,
    filter: FilterId,
    /// Position in the filter's list of receivers.
    position: u32,
    pub(crate) members: Vec<Member>,
    /// Where the next choice begins.
    turn: usize,
    /// What waits and is in memory, by place.
    pub(crate) queue: BTreeMap<u64, Arc<Message>>,
    pub(crate) queue_bytes: u64,
    sequence: u64,
    /// How it stands with whoever keeps it, if it has had a member whose session is kept.
    pub(crate) kept: Option<Box<Kept>>,
    /// The position of the record that says that it is kept.
    pub(crate) recorded: u64,
    /// What of `queue` waits for the receipts of its publishers.
    pub(crate) provided: BTreeMap<u64, Provided>,
    /// What is being given to a member for good, by place.
    pub(crate) moving: BTreeMap<u64, Provided>,
}

#[derive(Debug)]
pub(crate) struct Member {
    session: SessionRef,
    pub(crate) readiness: Readiness,
}

impl Groups {
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Messages that wait in all groups.
    pub(crate) fn queued(&self) -> usize {
        self.groups.iter().map(|(_, group)| group.waiting()).sum()
    }

    /// A group's place among the receivers of its filter has changed.
    pub(crate) fn moved(&mut self, group: u32, position: u32) {
        if let Some(group) = self.groups.get_mut(group) {
            group.position = position;
        }
    }

    pub(crate) fn find(&mut self, key: &GroupKey) -> Option<(u32, &mut Group)> {
        let index = *self.by_key.get(key)?;
        self.groups.get_mut(index).map(|group| (index, group))
    }
}

impl Group {
    /// The next member in turn that is ready; for QoS 0 one that is online will do
    /// (4.8.2).
    pub(crate) fn choose(&mut self, qos: Qos) -> Option<SessionRef> {
        let count = self.members.len();
        let in_turn = |start: usize| (0..count).map(move |step| (start + step) % count);
        let ready = in_turn(self.turn).find(|&at| self.members[at].readiness.ready);
        let online = || in_turn(self.turn).find(|&at| self.members[at].readiness.online);
        let chosen = match ready {
            None if qos == Qos::AtMostOnce => online(),
            ready => ready,
        }?;
        self.turn = (chosen + 1) % count;
        Some(self.members[chosen].session)
    }
}

impl Shard {
    /// The owner of a group: home of its slot.
    pub(crate) fn group_owner(&self, group: &GroupKey) -> ShardIndex {
        self.config.slots.home(slot_of(group))
    }

    pub(crate) fn on_group_join(
        &mut self,
        turn: &mut Turn<'_>,
        key: Arc<GroupKey>,
        (session, join): (SessionRef, u32),
        readiness: Readiness,
        kept: bool,
    ) {
        let index = match self.groups.by_key.get(&key) {
            Some(&index) => index,
            None => self.make_group(&key),
        };
        if let Some(group) = self.groups.groups.get_mut(index) {
            match group.members.iter_mut().find(|member| member.session == session) {
                Some(member) => member.readiness = readiness,
                None => group.members.push(Member { session, readiness }),
            }
        }
        if kept {
            self.keep_group(turn, index);
        }
        // What is published after the SUBACK finds the group, also after a restart.
        let recorded = self.groups.groups.get(index).map_or(0, |group| group.recorded);
        let needs = Needs::position(recorded);
        self.after(turn, &needs, Then::Joined { member: session, join });
        self.drain_group(turn, index);
    }

    pub(crate) fn make_group(&mut self, key: &Arc<GroupKey>) -> u32 {
        let group = Group {
            key: Arc::clone(key),
            filter: FilterId(0),
            position: 0,
            members: Vec::new(),
            turn: 0,
            queue: BTreeMap::new(),
            queue_bytes: 0,
            sequence: 0,
            kept: None,
            recorded: 0,
            provided: BTreeMap::new(),
            moving: BTreeMap::new(),
        };
        let index = self.groups.groups.insert(group);
        self.groups.by_key.insert(Arc::clone(key), index);
        // Every member's own options apply when it delivers ([MQTT5-4.8.2-3]).
        let options = PackedOptions::from(petrel_proto::SubscriptionOptions::default());
        let receiver = Receiver::new(Target::Group(index), options, 0);
        let (filter, position) = self.add_receiver(&key.filter, receiver);
        if let Some(group) = self.groups.groups.get_mut(index) {
            (group.filter, group.position) = (filter, position);
        }
        index
    }

    pub(crate) fn on_group_leave(
        &mut self,
        turn: &mut Turn<'_>,
        key: &Arc<GroupKey>,
        session: SessionRef,
    ) {
        let Some((index, group)) = self.groups.find(key) else { return };
        group.members.retain(|member| member.session != session);
        // While members are still to come back, nobody knows which of them is the last.
        if group.members.is_empty() && !self.groups.awaits_members {
            self.end_group(turn, index);
        }
    }

    /// Ends a group that has no members.
    pub(crate) fn end_group(&mut self, turn: &mut Turn<'_>, index: u32) {
        let Some(group) = self.groups.groups.remove(index) else { return };
        for message in group.queue.values() {
            lose_in_group(turn, &message.topic, DropReason::NoGroupMember);
        }
        for _ in group.queue.len()..group.waiting() {
            drop_message(turn, DropReason::NoGroupMember);
        }
        self.groups.by_key.remove(&group.key);
        self.remove_receiver(group.filter, group.position);
        if let Some(kept) = group.kept {
            self.forget_group(turn, kept.incarnation);
        }
    }

    pub(crate) fn on_group_readiness(
        &mut self,
        turn: &mut Turn<'_>,
        key: &Arc<GroupKey>,
        session: SessionRef,
        readiness: Readiness,
    ) {
        let Some((index, group)) = self.groups.find(key) else { return };
        let Some(member) = group.members.iter_mut().find(|m| m.session == session) else { return };
        member.readiness = readiness;
        if readiness.ready {
            self.drain_group(turn, index);
        }
    }

    /// A message matched the group's filter: one member gets it. What `provided` says is for a group
    /// that is kept.
    pub(crate) fn deliver_to_group(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        message: &Arc<Message>,
        provided: Option<Provided>,
    ) {
        turn.out.ledger.due += 1;
        if message.qos > Qos::AtMostOnce && self.groups.is_kept(index) {
            self.keep_for_group(turn, index, message, provided);
        } else {
            self.offer_to_group(turn, index, message, 0);
        }
    }

    /// One member gets a message that the group has no record of.
    pub(crate) fn offer_to_group(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        message: &Arc<Message>,
        attempt: u8,
    ) {
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let direct = group.queue.is_empty() || message.qos == Qos::AtMostOnce || attempt > 0;
        if direct
            && attempt < GROUP_ATTEMPTS_MAX
            && let Some(member) = group.choose(message.qos)
        {
            let attempt = attempt + 1;
            return self.lend(turn, index, member, (message, None), (attempt, false));
        }
        if message.qos == Qos::AtMostOnce {
            return lose_in_group(turn, &message.topic, DropReason::NoGroupMember);
        }
        self.enqueue_in_group(turn, index, message);
        if !direct {
            self.drain_group(turn, index);
        }
    }

    /// Sends a message of a group to the home of a member.
    pub(crate) fn lend(
        &mut self,
        turn: &mut Turn<'_>,
        index: u32,
        member: SessionRef,
        (message, lent): (&Arc<Message>, Option<Lent>),
        (attempt, more): (u8, bool),
    ) {
        let Some(group) = self.groups.groups.get(index) else { return };
        let (group, message) = (Arc::clone(&group.key), Arc::clone(message));
        if let Some(lent) = lent.filter(|_| sabotage::on(Sabotage::LentForgotten)) {
            self.on_lent_done(turn, lent);
        }
        turn.out.ledger.handed += 1;
        turn.out.notes.add(|| Note::Lent {
            topic: topic_text(message.topic.as_bytes()),
            group: group.written(),
            shard: member.shard,
        });
        let asked = Asked::Nothing;
        let delivery = GroupDelivery { group, member, message, attempt, more, lent, asked };
        self.tell(turn, member.shard, PeerMessage::GroupDeliver(Box::new(delivery)));
    }

    fn enqueue_in_group(&mut self, turn: &mut Turn<'_>, index: u32, message: &Arc<Message>) {
        let limits = &self.config.limits;
        let Some(group) = self.groups.groups.get_mut(index) else { return };
        let bytes = message.cost_bytes() as u64;
        let full = |group: &Group| {
            group.queue.len() + 1 > limits.session_queue_messages as usize
                || group.queue_bytes + bytes > limits.session_queue_bytes
        };
        while limits.session_queue_full == QueueFull::DropOldest
            && bytes <= limits.session_queue_bytes
            && full(group)
            && let Some((_, oldest)) = group.queue.pop_first()
        {
            group.queue_bytes -= oldest.cost_bytes() as u64;
            lose_in_group(turn, &oldest.topic, DropReason::QueueFull);
        }
        if full(group) {
            return lose_in_group(turn, &message.topic, DropReason::QueueFull);
        }
        group.sequence += 1;
        group.queue_bytes += bytes;
        group.queue.insert(group.sequence, Arc::clone(message));
        turn.out.notes.add(|| Note::QueuedInGroup {
            topic: topic_text(message.topic.as_bytes()),
            group: group.key.written(),
        });
    }

    /// Hands queued messages to members that are ready, a burst at a time; the last of a burst
    /// asks its member to say whether it is ready for more.
    pub(crate) fn drain_group(&mut self, turn: &mut Turn<'_>, index: u32) {
        let mut sent = 0;
        while sent < GROUP_BURST_MAX {
            let Some(group) = self.groups.groups.get_mut(index) else { return };
            let Some((&first, _)) = group.queue.first_key_value() else {
                return self.load_for_group(turn, index);
            };
            if group.kept.is_some() && self.holds_in_group(index, first) {
                return;
            }
            let Some(group) = self.groups.groups.get_mut(index) else { return };
            let Some(member) = group.choose(Qos::AtLeastOnce) else { return };
            let Some((sequence, message)) = group.queue.pop_first() else { return };
            group.queue_bytes -= message.cost_bytes() as u64;
            let lent = group.lent(sequence);
            if message.expired(turn.now_ms) {
                lose_in_group(turn, &message.topic, DropReason::Expired);
                if let Some(lent) = lent {
                    self.on_lent_done(turn, lent);
                }
                continue;
            }
            sent += 1;
            let more = sent == GROUP_BURST_MAX;
            self.lend(turn, index, member, (&message, lent), (1, more));
        }
    }

    /// A message of a group for a session of this shard.
    pub(crate) fn on_group_deliver(&mut self, turn: &mut Turn<'_>, delivery: Box<GroupDelivery>) {
        let (more, group, member) = (delivery.more, Arc::clone(&delivery.group), delivery.member);
        self.take_group_message(turn, delivery);
        if more && let Some(index) = self.resolve(member) {
            let readiness = self.readiness(index);
            let owner = self.group_owner(&group);
            // In a later turn even if the owner is this shard, so that a long queue cannot recurse.
            turn.out.peers.push((owner, PeerMessage::GroupReadiness { group, member, readiness }));
        }
    }

    fn take_group_message(&mut self, turn: &mut Turn<'_>, delivery: Box<GroupDelivery>) {
        turn.out.ledger.taken += 1;
        let queue_max = MEMBER_QUEUE_MAX.min(self.member_queue_max());
        let taker = self.resolve(delivery.member).filter(|&index| {
            self.sessions.get(index).is_some_and(|session| {
                session.is_online()
                    && (session.queued() < queue_max || delivery.message.qos == Qos::AtMostOnce)
            })
        });
        let subscription = taker.and_then(|index| {
            let found = self.sessions.get(index)?.find_shared(&delivery.group)?;
            Some((index, *found))
        });
        let Some((index, SharedSubscription { options, identifier })) = subscription else {
            if let Some(index) = self.resolve(delivery.member) {
                // The group must know why, and hear when that is over.
                self.tell_groups(turn, index);
            }
            let owner = self.group_owner(&delivery.group);
            turn.out.ledger.handed += 1;
            return self.tell(turn, owner, PeerMessage::GroupReturn(delivery));
        };
        let message = Arc::clone(&delivery.message);
        let qos = options.qos.min(message.qos);
        let retain = message.retain && options.retain_as_published;
        let identifiers = (identifier != 0).then_some(identifier);
        if qos == Qos::AtMostOnce {
            let identifiers = identifiers.as_slice();
            self.deliver_at_most_once(turn, index, &*message, retain, identifiers);
            if let Some(lent) = delivery.lent {
                self.lent_is_done(turn, lent);
            }
            return;
        }
        let identifiers = identifiers.into_iter().collect();
        let mut lent = Delivery::new(message, (qos, retain), identifiers);
        lent.group = Some(delivery);
        self.deliver_lent(turn, index, lent);
    }

    /// A member could not take a message: another gets it, or it waits in the group.
    pub(crate) fn on_group_return(&mut self, turn: &mut Turn<'_>, delivery: &GroupDelivery) {
        if sabotage::on(Sabotage::GroupReturnLost) {
            return;
        }
        turn.out.ledger.taken += 1;
        match self.groups.find(&delivery.group) {
            Some((index, group)) if group.kept.is_some() => {
                self.take_back(turn, index, delivery);
            }
            Some((index, _)) => {
                self.offer_to_group(turn, index, &delivery.message, delivery.attempt);
            }
            None => lose_in_group(turn, &delivery.message.topic, DropReason::NoGroupMember),
        }
    }

    /// What a session may have waiting while it takes messages of a group that is kept: there is no need
    /// to drop from its queue what can wait in the group.
    fn member_queue_max(&self) -> usize {
        let most = self.limits().session_queue_messages.max(1) as usize;
        if self.keep.is_on() { most } else { usize::MAX }
    }

    /// How a session stands towards its groups. Once it was not ready it is ready again when half
    /// of that has drained, so that a client at the border does not make it tell all its groups
    /// with every acknowledgement.
    pub(crate) fn readiness(&self, index: u32) -> Readiness {
        self.sessions.get(index).map_or(Readiness::default(), |session| {
            let online = session.is_online();
            let told = session.rare.as_deref().is_some_and(|rare| rare.told.ready);
            let queue_max = if told { READY_QUEUE_MAX } else { READY_QUEUE_MAX / 2 };
            let queue_max = queue_max.min(self.member_queue_max());
            Readiness { online, ready: online && session.queued() < queue_max }
        })
    }

    /// Tells the owners of a session's groups if its readiness has changed.
    pub(crate) fn tell_groups(&mut self, turn: &mut Turn<'_>, index: u32) {
        let readiness = self.readiness(index);
        let member = self.session_ref(index);
        let Some(rare) = self.sessions.get_mut(index).and_then(|s| s.rare.as_deref_mut()) else {
            return;
        };
        if rare.shared.is_empty() || rare.told == readiness {
            return;
        }
        rare.told = readiness;
        let groups: Vec<_> = rare.shared.keys().map(Arc::clone).collect();
        for group in groups {
            let owner = self.group_owner(&group);
            self.tell(turn, owner, PeerMessage::GroupReadiness { group, member, readiness });
        }
    }

    /// The client is away: what it had not been sent goes back to its groups. What is in flight
    /// stays, since the client may have it ([MQTT5-4.8.2-4]).
    pub(crate) fn release_group_messages(&mut self, turn: &mut Turn<'_>, index: u32) {
        let member = self.session_ref(index);
        self.tell_groups(turn, index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(flow) = session.flow.as_deref_mut() else { return };
        let waiting = flow.queue.extract(|delivery| delivery.group.is_some());
        self.return_to_groups(turn, member, waiting);
    }

    /// Gives messages back to the groups they came from.
    pub(crate) fn return_to_groups(
        &mut self,
        turn: &mut Turn<'_>,
        member: SessionRef,
        deliveries: Vec<Delivery>,
    ) {
        for Delivery { group, .. } in deliveries {
            let Some(mut returned) = group else { continue };
            (returned.member, returned.attempt, returned.more) = (member, 1, false);
            let owner = self.group_owner(&returned.group);
            turn.out.ledger.handed += 1;
            self.tell(turn, owner, PeerMessage::GroupReturn(returned));
        }
    }
}

/// The slot of a group: who owns it, and what keeps what waits in it.
pub(crate) fn slot_of(group: &GroupKey) -> Slot {
    let mut name = group.share.as_bytes().to_vec();
    name.push(b'/');
    name.extend_from_slice(group.filter.as_bytes());
    Slot::of(&name)
}

/// What a session that ends owes to its groups: all that waits, and QoS 1 messages that were not
/// acknowledged. A QoS 2 message in flight goes to nobody else ([MQTT5-4.8.2-5]).
pub(crate) fn take_orphans(session: &mut Session) -> Vec<Delivery> {
    let Some(flow) = session.flow.as_deref_mut() else { return Vec::new() };
    let inflight = std::mem::take(&mut flow.inflight);
    flow.inflight_bytes = 0;
    let unacknowledged = inflight.into_iter().filter_map(|entry| match entry.stage {
        Stage::Published(d) if d.group.is_some() && d.qos == Qos::AtLeastOnce => Some(d),
        _ => None,
    });
    let mut orphans: Vec<Delivery> = unacknowledged.collect();
    orphans.extend(flow.queue.extract(|delivery| delivery.group.is_some()));
    orphans
}
