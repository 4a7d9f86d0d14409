//! What the broker keeps for one client identifier, connected or not.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{ClientId, PacketId, Qos, SubscriptionOptions, Text, TopicFilter};
use smallvec::SmallVec;

use crate::flow::Flow;
use crate::input::Run;
use crate::name::Name;
use crate::outbox::Load;
use crate::packet_ids::PacketIds;
use crate::peer::{GroupKey, Readiness};
use crate::record::Incarnation;
use crate::standing::Standing;
use crate::subscriptions::Subscriptions;
use crate::timers::Tick;

/// No connection.
pub(crate) const OFFLINE: u32 = u32::MAX;

/// A session and its state ([MQTT5-4.1.0-1]).
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: Name,
    /// Which use of its position it is.
    pub(crate) generation: u32,
    /// Position of its connection, or [`OFFLINE`].
    pub(crate) conn: u32,
    /// Session Expiry Interval, in seconds, as it counts when the connection ends.
    pub(crate) expiry_interval_s: u32,
    /// When it ends while offline.
    pub(crate) expires_at: Tick,
    /// The nearest moment at which the timer looks at this session, if one is set.
    pub(crate) timer_at: Tick,
    pub(crate) packet_ids: PacketIds,
    pub(crate) subscriptions: Subscriptions,
    /// What is under way; [`crate::flow::Flows`] gives and takes it.
    pub(crate) flow: Option<Box<Flow>>,
    /// What few sessions have.
    pub(crate) rare: Option<Box<Rare>>,
    /// What sessions have of which something outlives the process.
    pub(crate) kept: Option<Box<Kept>>,
    /// Who its client is, where that is asked for.
    pub(crate) standing: Option<Box<Standing>>,
}

/// The state that few sessions have, kept apart so that the others do not pay for it.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    pub(crate) will: Option<Box<PendingWill>>,
    pub(crate) shared: BTreeMap<Arc<GroupKey>, SharedSubscription>,
    /// Oldest first; only the first few are asked for.
    pub(crate) retained: VecDeque<RetainedPull>,
    pub(crate) subacks: Vec<PendingSubAck>,
    /// What the owners of its groups were last told.
    pub(crate) told: Readiness,
}

/// How a session, or a shared group, stands with whoever keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) incarnation: Incarnation,
    /// More of it is kept than its will: it outlives its connection.
    pub(crate) whole: bool,
    /// A question for what is not in memory is out.
    pub(crate) loading: bool,
    /// It is looked at again when more is kept.
    pub(crate) looked_at_again: bool,
    /// The place of the next message in its order.
    pub(crate) next_sequence: u64,
    /// From this place on, what waits is not in memory; `u64::MAX` if all is.
    pub(crate) stored_from: u64,
    /// From this place on, what waits from before this process has not been counted; `u64::MAX` if all
    /// has been. See [`crate::count`].
    pub(crate) uncounted_from: u64,
    /// Messages that wait and are not in memory, and their bytes, as far as they have been counted.
    pub(crate) stored: u32,
    pub(crate) stored_bytes: u64,
    /// What is not in memory was sent before, up to this place.
    pub(crate) sent_upto: u64,
    /// Places of what is not in memory, where the oldest must make room for the newest.
    #[allow(clippy::box_collection, reason = "few configurations want it")]
    pub(crate) runs: Option<Box<VecDeque<Run>>>,
    /// Wills that have been published, until what was queued of them is kept; each with a number.
    #[allow(clippy::box_collection, reason = "nearly always there is none")]
    pub(crate) leaving: Option<Box<Vec<(u64, petrel_proto::Will)>>>,
    /// Identifiers of messages of processes before this one that are done with, until that is kept; with
    /// the positions of the records, in order.
    #[allow(clippy::box_collection, reason = "nearly always there is none")]
    pub(crate) freed: Option<Box<VecDeque<(u64, PacketId)>>>,
}

/// What has made room for something newer, and was not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) sequence: u64,
    pub(crate) qos: Qos,
}

impl Kept {
    /// True if a message that had this identifier is done with, and that is not kept.
    fn is_freed(&self, packet_id: PacketId) -> bool {
        let freed = self.freed.as_deref();
        freed.is_some_and(|freed| freed.iter().any(|(_, other)| *other == packet_id))
    }

    /// True if what waits at a place was sent by this process, and has to be seen through
    /// ([MQTT5-4.3.2-3], [MQTT5-4.3.3-7]).
    pub(crate) const fn has_sent(&self, sequence: u64) -> bool {
        sequence <= self.sent_upto
    }

    /// A message waits and is not in memory.
    pub(crate) fn store(&mut self, sequence: u64, qos: Qos, bytes: u64, with_runs: bool) {
        self.stored_from = self.stored_from.min(sequence);
        self.stored += 1;
        self.stored_bytes += bytes;
        if with_runs {
            let runs = self.runs.get_or_insert_default();
            match runs.back_mut().filter(|run| run.end() == sequence && run.qos == qos) {
                Some(run) => run.count += 1,
                _ => runs.push_back(Run { first: sequence, count: 1, qos }),
            }
        }
    }

    /// True if places are known, and what waits at this one has made room.
    pub(crate) fn has_dropped(&self, sequence: u64) -> bool {
        self.runs.as_deref().is_some_and(|runs| {
            let at = runs.partition_point(|run| run.end() <= sequence);
            runs.get(at).is_none_or(|run| sequence < run.first)
        })
    }

    /// What is not in memory begins at a place now.
    pub(crate) fn forget_runs_before(&mut self, place: u64) {
        let Some(runs) = &mut self.runs else { return };
        while let Some(run) = runs.front_mut() {
            run.cut_before(place);
            if run.count > 0 {
                return;
            }
            runs.pop_front();
        }
    }

    /// What was asked for is in memory; what waits behind it begins at `next`.
    pub(crate) fn answered(&mut self, load: &Load, next: Option<u64>) {
        self.stored_from = match next {
            Some(next) => next,
            None if self.next_sequence == load.upto => u64::MAX,
            None => load.upto,
        };
        self.forget_runs_before(self.stored_from);
    }

    /// The oldest of what is not in memory makes room.
    pub(crate) fn drop_oldest(&mut self) -> Option<Oldest> {
        let runs = self.runs.as_deref_mut()?;
        let run = runs.front_mut()?;
        let oldest = Oldest { sequence: run.first, qos: run.qos };
        run.cut_before(oldest.sequence + 1);
        if run.count == 0 {
            runs.pop_front();
        }
        let each = self.stored_bytes / u64::from(self.stored.max(1));
        self.stored = self.stored.saturating_sub(1);
        self.stored_bytes -= each;
        Some(oldest)
    }

    pub(crate) fn new(incarnation: Incarnation, whole: bool, next_sequence: u64) -> Self {
        Self {
            incarnation,
            whole,
            loading: false,
            looked_at_again: false,
            next_sequence,
            stored_from: u64::MAX,
            uncounted_from: u64::MAX,
            stored: 0,
            stored_bytes: 0,
            sent_upto: 0,
            runs: None,
            leaving: None,
            freed: None,
        }
    }
}

/// A will, armed when the connection has ended without a DISCONNECT 0x00.
#[derive(Debug)]
pub(crate) struct PendingWill {
    pub(crate) will: Box<petrel_proto::Will>,
    /// When to publish it; `u64::MAX` while the connection lives.
    pub(crate) fires_at_ms: u64,
}

/// One subscription through a shared group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedSubscription {
    pub(crate) options: SubscriptionOptions,
    pub(crate) identifier: u32,
}

/// Retained messages that a subscription still waits for.
#[derive(Debug)]
pub(crate) struct RetainedPull {
    pub(crate) query: u32,
    pub(crate) filter: TopicFilter,
    pub(crate) options: SubscriptionOptions,
    pub(crate) identifier: u32,
    /// Shards still to be asked, or asked and not finished: position, continuation, asked.
    pub(crate) sources: Vec<RetainedSource>,
    /// Hashes of the topics that this subscription got live with RETAIN since it was made: an
    /// answer for one of them may be older, and is left out.
    pub(crate) overtaken: HashSet<u64>,
}

/// One shard that a pull asks.
#[derive(Debug)]
pub(crate) struct RetainedSource {
    pub(crate) shard: crate::ShardIndex,
    pub(crate) after: Option<Text>,
    pub(crate) asked: bool,
}

/// A SUBACK that waits for groups on other shards.
#[derive(Debug)]
pub(crate) struct PendingSubAck {
    pub(crate) packet_id: PacketId,
    pub(crate) reasons: SmallVec<[petrel_proto::ReasonCode; 4]>,
    /// The joins that have not been answered.
    pub(crate) waiting: BTreeSet<u32>,
}

impl Session {
    pub(crate) fn new(client_id: &ClientId, generation: u32) -> Self {
        Self {
            client_id: Name::new(client_id.as_bytes()),
            generation,
            conn: OFFLINE,
            expiry_interval_s: 0,
            expires_at: Tick::NEVER,
            timer_at: Tick::NEVER,
            packet_ids: PacketIds::default(),
            subscriptions: Subscriptions::default(),
            flow: None,
            rare: None,
            kept: None,
            standing: None,
        }
    }

    /// The client identifier as others are told it. Cost: a copy.
    pub(crate) fn client_id(&self) -> ClientId {
        Text::new(Bytes::copy_from_slice(self.client_id.as_bytes())).unwrap_or_default()
    }

    pub(crate) fn is_online(&self) -> bool {
        self.conn != OFFLINE
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives back the memory of rare state that is over.
    pub(crate) fn trim_rare(&mut self) {
        let Some(rare) = self.rare.as_deref_mut() else { return };
        if rare.retained.is_empty() {
            rare.retained = VecDeque::new();
        }
        if rare.subacks.is_empty() {
            rare.subacks = Vec::new();
        }
        let over = rare.will.is_none()
            && rare.shared.is_empty()
            && rare.retained.is_empty()
            && rare.subacks.is_empty();
        if over {
            self.rare = None;
        }
    }

    pub(crate) fn will(&self) -> Option<&PendingWill> {
        self.rare.as_deref()?.will.as_deref()
    }

    /// How many shared subscriptions it has.
    pub(crate) fn shared_count(&self) -> usize {
        self.rare.as_deref().map_or(0, |rare| rare.shared.len())
    }

    /// Its subscription through a group.
    pub(crate) fn find_shared(&self, group: &GroupKey) -> Option<&SharedSubscription> {
        self.rare.as_deref()?.shared.get(group)
    }

    /// True if anything waits that is not in memory, and that the client may have been sent with an
    /// identifier of its own.
    pub(crate) fn waits_for_sent(&self, first_sequence: u64) -> bool {
        self.kept.as_deref().is_some_and(|kept| {
            kept.stored_from < first_sequence || kept.has_sent(kept.stored_from)
        })
    }

    /// True while a subscription waits for retained messages.
    pub(crate) fn waits_for_retained(&self) -> bool {
        self.rare.as_deref().is_some_and(|rare| !rare.retained.is_empty())
    }

    /// An identifier for the next message to this client; `None` if there is none for now.
    ///
    /// That of a message with a place in the session's order follows from its place, so that it is the
    /// same after a restart ([MQTT5-4.4.0-1]) without being kept.
    pub(crate) fn allocate_packet_id(&mut self, sequence: u64) -> Option<PacketId> {
        if sequence > 0 {
            return identifier_of(sequence).filter(|_| self.identifier_is_free(sequence));
        }
        let in_flight = self.flow.iter().flat_map(|flow| &flow.inflight);
        self.packet_ids.allocate(in_flight.map(|entry| entry.packet_id))
    }

    /// True unless the identifier that follows from a place is in flight, or would be after a failure.
    pub(crate) fn identifier_is_free(&self, sequence: u64) -> bool {
        if let Some(kept) = self.kept.as_deref().filter(|kept| kept.freed.is_some())
            && identifier_of(sequence).is_some_and(|id| kept.is_freed(id))
        {
            return false;
        }
        let Some(flow) = self.flow.as_deref().filter(|_| sequence > 0) else { return true };
        // What comes back after a restart, and what a group lends before that, may be out of order.
        flow.is_next(sequence)
            || identifier_of(sequence).is_none_or(|id| flow.find_inflight(id).is_none())
    }

    /// True if something else in flight has the identifier that follows from a place, or something in
    /// memory that waits before that.
    pub(crate) fn has_before(&self, sequence: u64) -> bool {
        let (Some(flow), Some(id)) = (self.flow.as_deref(), identifier_of(sequence)) else {
            return false;
        };
        let mut waiting = flow.queue.deliveries.iter().map(|waiting| waiting.place.sequence());
        flow.find_inflight(id).is_some()
            || waiting.any(|at| (1..sequence).contains(&at) && identifier_of(at) == Some(id))
    }

    /// What it is called where it is kept, if anything of it is.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.kept.as_deref().map(|kept| kept.incarnation)
    }

    /// How it stands with whoever keeps it, if it outlives its connection.
    pub(crate) fn kept_whole(&mut self) -> Option<&mut Kept> {
        self.kept.as_deref_mut().filter(|kept| kept.whole)
    }

    /// The same, as a question.
    pub(crate) fn is_kept_whole(&self) -> bool {
        self.kept.as_deref().is_some_and(|kept| kept.whole)
    }

    /// Messages that wait and are not in memory.
    pub(crate) fn stored(&self) -> (u32, u64) {
        self.kept.as_deref().map_or((0, 0), |kept| (kept.stored, kept.stored_bytes))
    }

    /// True if something waits that is not in memory, or may.
    pub(crate) fn waits_in_store(&self) -> bool {
        self.kept.as_deref().is_some_and(|kept| kept.stored_from != u64::MAX)
    }

    /// Messages that wait to be sent, in memory or not.
    pub(crate) fn queued(&self) -> usize {
        self.queued_in_memory() + self.stored().0 as usize
    }

    /// Messages that wait to be sent and are in memory.
    pub(crate) fn queued_in_memory(&self) -> usize {
        self.flow.as_deref().map_or(0, |flow| flow.queue.len())
    }

    /// Messages for the client that it does not have: those that wait, and those in flight that it has not said to
    /// have.
    pub(crate) fn held(&self) -> u64 {
        let in_flight = self.flow.as_deref().map_or(0, Flow::published);
        (self.queued() + in_flight) as u64
    }

    /// Outgoing QoS 1 and 2 deliveries that are not finished.
    pub(crate) fn inflight(&self) -> usize {
        self.flow.as_deref().map_or(0, |flow| flow.inflight.len())
    }
}

/// The identifier of the message at a place in the order of a kept session.
pub(crate) fn identifier_of(sequence: u64) -> Option<PacketId> {
    // Below 65,535.
    PacketId::new((sequence % 65_535) as u16 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Inflight, Place, Stage};

    #[test]
    fn an_identifier_in_flight_is_not_free_whatever_came_before_it() {
        for places in [[10, 80_000], [80_000, 10], [0, 10]] {
            let mut session = Session::new(&ClientId::default(), 1);
            let flow = session.flow.get_or_insert_default();
            for sequence in places {
                let stage = Stage::Released { place: Place::new(sequence, true, false), record: 0 };
                let packet_id = identifier_of(sequence).unwrap();
                flow.put_in_flight(Inflight { packet_id, stage, charged: false, sent: true });
            }
            // 80,000 is near, and 10 has the same identifier.
            assert!(!session.identifier_is_free(10 + 2 * 65_535), "{places:?}");
            assert!(session.identifier_is_free(11 + 2 * 65_535), "{places:?}");
        }
    }

    /// A session and its connection are most of what an idle client costs in the shard.
    #[test]
    fn an_idle_client_stays_small() {
        assert_eq!(size_of::<Option<Session>>(), 96);
        assert_eq!(size_of::<Option<crate::connection::Connection>>(), 48);
    }
}
