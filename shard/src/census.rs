//! How much of everything a shard holds.

use crate::Shard;
use crate::flow::Stage;

/// Counts of what a shard holds; all zero when every client has gone and every expiry has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Connections, those that still authenticate included.
    pub connections: usize,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Subscriptions, shared ones included.
    pub subscriptions: usize,
    /// Distinct filters in the matcher.
    pub filters: usize,
    /// Shared groups owned here.
    pub groups: usize,
    /// Messages that wait in groups.
    pub group_messages: usize,
    /// Messages that wait in sessions.
    pub queued_messages: usize,
    /// Outgoing QoS 1 and 2 deliveries not finished.
    pub inflight: usize,
    /// Entries in the timer wheel.
    pub timers: usize,
    /// Retained messages owned here.
    pub retained: usize,
    /// Bytes of their topics, payloads and properties.
    pub retained_bytes: u64,
    /// What waits for records to be kept.
    pub promises: usize,
    /// CONNECTs that wait for somebody to say who their clients are.
    pub parked: usize,
}

/// What all sessions and shared groups have, as a walk over them has found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Subscriptions, shared ones included.
    pub subscriptions: u64,
    /// Messages that wait: in sessions and groups, in memory or in storage, or on their way to many.
    pub queued: u64,
    /// Messages in flight that clients have not said to have.
    pub inflight: u64,
}

/// A walk over all sessions, some at a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    at: u32,
    totals: Totals,
}

impl Shard {
    /// Goes on with a walk, for so many sessions. The totals when it has come to the end, and begins anew; of a
    /// shard with so few sessions they are of one moment. Cost: a look at each of them.
    pub fn walk_on(&self, walk: &mut Walk, sessions_max: u32) -> Option<Totals> {
        let end = self.sessions.end();
        let upto = walk.at.saturating_add(sessions_max).min(end);
        for session in (walk.at..upto).filter_map(|index| self.sessions.get(index)) {
            let totals = &mut walk.totals;
            totals.subscriptions += (session.subscriptions.len() + session.shared_count()) as u64;
            totals.queued += session.queued() as u64;
            totals.inflight += session.held() - session.queued() as u64;
        }
        walk.at = upto;
        (upto == end).then(|| {
            let mut totals = std::mem::take(walk).totals;
            totals.queued += self.groups.queued() as u64 + self.fanouts.held();
            totals
        })
    }

    /// Counts what the shard holds. Cost: a walk over all sessions.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            connections: self.conns.len(),
            sessions: self.sessions.len(),
            filters: self.matcher.len(),
            groups: self.groups.len(),
            group_messages: self.groups.queued(),
            timers: self.wheel.len() + self.due.len(),
            retained: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            promises: self.keep.pending(),
            parked: self.parked.len(),
            ..Census::default()
        };
        for (_, session) in self.sessions.iter() {
            census.subscriptions += session.subscriptions.len() + session.shared_count();
            census.queued_messages += session.queued();
            census.inflight += session.inflight();
            debug_assert!(session.flow.iter().flat_map(|flow| &flow.inflight).all(|entry| {
                !matches!(&entry.stage, Stage::Published(d) if d.qos == petrel_proto::Qos::AtMostOnce)
            }));
        }
        census
    }
}
