//! Who receives what a filter matches: the list behind each filter of the shard.

use petrel_proto::{Qos, RetainHandling, SubscriptionOptions, TopicFilter};
use smallvec::SmallVec;

use crate::Shard;
use crate::matcher::FilterId;
use crate::sabotage::{self, Sabotage};
use crate::session::Subscription;

/// A session or a group that receives what a filter matches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receiver {
    pub(crate) target: Target,
    pub(crate) options: PackedOptions,
    /// Subscription Identifier; 0 for none.
    pub(crate) identifier: u32,
}

/// What kind of receiver, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A session of this shard, by position.
    Session(u32),
    /// A group owned by this shard, by position.
    Group(u32),
}

/// [`SubscriptionOptions`] in one byte, without the retain handling that only SUBSCRIBE needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedOptions(u8);

impl From<SubscriptionOptions> for PackedOptions {
    fn from(options: SubscriptionOptions) -> Self {
        Self(
            options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3,
        )
    }
}

impl PackedOptions {
    pub(crate) fn qos(self) -> Qos {
        Qos::from_u8(self.0 & 3).unwrap_or_default()
    }

    pub(crate) const fn no_local(self) -> bool {
        self.0 & 4 != 0
    }

    pub(crate) const fn retain_as_published(self) -> bool {
        self.0 & 8 != 0
    }

    pub(crate) fn unpack(self) -> SubscriptionOptions {
        SubscriptionOptions {
            qos: self.qos(),
            no_local: self.no_local(),
            retain_as_published: self.retain_as_published(),
            retain_handling: RetainHandling::Send,
        }
    }
}

/// The receivers of one filter.
pub(crate) type Receivers = SmallVec<[Receiver; 1]>;

impl Shard {
    /// Adds a receiver to a filter, which becomes known to the matcher and to the interest table
    /// if it is new. Returns the filter and the receiver's position.
    pub(crate) fn add_receiver(
        &mut self,
        filter: &TopicFilter,
        receiver: Receiver,
    ) -> (FilterId, u32) {
        let (id, new) = self.matcher.intern(filter);
        if new && !(sabotage::on(Sabotage::InterestMissing) && filter.has_wildcard()) {
            self.interest_writer.add(filter.as_bytes());
        }
        let at = id.0 as usize;
        if self.receivers.len() <= at {
            self.receivers.resize_with(at + 1, Receivers::new);
        }
        self.receivers[at].push(receiver);
        (id, (self.receivers[at].len() - 1) as u32)
    }

    /// Removes the receiver at a position of a filter; the filter goes with its last receiver.
    /// The receiver that moves into the gap is told its new position.
    pub(crate) fn remove_receiver(&mut self, filter: FilterId, position: u32) {
        let list = &mut self.receivers[filter.0 as usize];
        let from = (list.len() - 1) as u32;
        list.swap_remove(position as usize);
        let moved = list.get(position as usize).map(|receiver| receiver.target);
        if list.is_empty() {
            *list = Receivers::new();
            self.interest_writer.remove(self.matcher.filter(filter));
            self.matcher.remove(filter);
        }
        match moved {
            Some(Target::Session(session)) => {
                let moved = self.sessions.get_mut(session).and_then(|session| {
                    let subscriptions = &mut session.subscriptions;
                    let at = subscriptions.binary_search_by_key(&filter, |s| s.filter).ok()?;
                    subscriptions.get_mut(at).filter(|s| s.position == from)
                });
                debug_assert!(moved.is_some());
                if let Some(moved) = moved {
                    moved.position = position;
                }
            }
            Some(Target::Group(group)) => self.groups.moved(group, position),
            None => {}
        }
    }

    /// Subscribes a session. Returns true if the subscription is new, false if its options and
    /// identifier were replaced ([MQTT5-3.8.4-3]).
    pub(crate) fn add_subscription(
        &mut self,
        session: u32,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        identifier: u32,
    ) -> bool {
        let receiver =
            Receiver { target: Target::Session(session), options: options.into(), identifier };
        if let Some(existing) = self.find_subscription(session, filter) {
            self.receivers[existing.filter.0 as usize][existing.position as usize] = receiver;
            return false;
        }
        let (filter, position) = self.add_receiver(filter, receiver);
        if let Some(session) = self.sessions.get_mut(session) {
            let at = session.subscriptions.partition_point(|s| s.filter < filter);
            session.subscriptions.insert(at, Subscription { filter, position });
        }
        true
    }

    /// Ends a subscription. Returns false if there was none.
    pub(crate) fn remove_subscription(&mut self, session: u32, filter: &TopicFilter) -> bool {
        let Some(existing) = self.find_subscription(session, filter) else { return false };
        if let Some(session) = self.sessions.get_mut(session) {
            let subscriptions = &mut session.subscriptions;
            if let Ok(at) = subscriptions.binary_search_by_key(&existing.filter, |s| s.filter) {
                subscriptions.remove(at);
            }
        }
        self.remove_receiver(existing.filter, existing.position);
        true
    }

    /// The subscription of a session with exactly this filter ([MQTT5-3.10.4-1]).
    pub(crate) fn find_subscription(
        &self,
        session: u32,
        filter: &TopicFilter,
    ) -> Option<Subscription> {
        let id = self.matcher.find(filter.as_bytes())?;
        let subscriptions = &self.sessions.get(session)?.subscriptions;
        let at = subscriptions.binary_search_by_key(&id, |s| s.filter).ok()?;
        subscriptions.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_packing() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for (no_local, retain_as_published) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let retain_handling = RetainHandling::Send;
                let options =
                    SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
                assert_eq!(PackedOptions::from(options).unpack(), options);
            }
        }
    }
}
