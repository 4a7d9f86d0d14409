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

impl Shard {
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
