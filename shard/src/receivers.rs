//! Who receives what a filter matches: the list behind each filter of the shard.

use petrel_proto::{Qos, SubscriptionOptions, TopicFilter};

use crate::Shard;
use crate::matcher::FilterId;
use crate::sabotage::{self, Sabotage};
use crate::subscriptions::Subscription;

/// A session or a group that receives what a filter matches, in 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// A position, with [`GROUP`] if it is that of a group.
    target: u32,
    /// Subscription Identifier, 0 for none, above the options: the one has 28 bits, the other 4.
    asks: u32,
}

const GROUP: u32 = 1 << 31;

/// What kind of receiver, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A session of this shard, by position.
    Session(u32),
    /// A group owned by this shard, by position.
    Group(u32),
}

impl Receiver {
    /// Bounds: positions are below 2^31, identifiers below 2^28 ([`petrel_proto`] decodes no other).
    pub(crate) fn new(target: Target, options: PackedOptions, identifier: u32) -> Self {
        let target = match target {
            Target::Session(index) => index,
            Target::Group(index) => index | GROUP,
        };
        Self { target, asks: identifier << 4 | u32::from(options.0) }
    }

    #[inline]
    pub(crate) const fn target(self) -> Target {
        match self.target & GROUP {
            0 => Target::Session(self.target),
            _ => Target::Group(self.target & !GROUP),
        }
    }

    #[inline]
    pub(crate) const fn options(self) -> PackedOptions {
        PackedOptions(self.asks as u8 & 15)
    }

    /// Subscription Identifier; 0 for none.
    #[inline]
    pub(crate) const fn identifier(self) -> u32 {
        self.asks >> 4
    }
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
}

/// The receivers of one filter, at least one.
///
/// *Bounds*: 16 bytes for one; a block of the heap for more, of at most nine bytes for each and 24.
#[derive(Debug)]
pub(crate) enum Receivers {
    One(Receiver),
    #[allow(
        clippy::box_collection,
        reason = "a vector would make the other case half as large again"
    )]
    Many(Box<Vec<Receiver>>),
}

impl Receivers {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[Receiver] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn get_mut(&mut self, position: u32) -> Option<&mut Receiver> {
        match self {
            Self::One(one) => Some(one).filter(|_| position == 0),
            Self::Many(many) => many.get_mut(position as usize),
        }
    }

    /// Adds a receiver and returns its position.
    fn push(&mut self, new: Receiver) -> u32 {
        match self {
            Self::One(one) => {
                *self = Self::Many(Box::new(vec![*one, new]));
                1
            }
            Self::Many(many) => {
                if many.len() == many.capacity() {
                    // Doubling would leave up to half of it unused for as long as the filter lives.
                    many.reserve_exact(2.max(many.len() / 8));
                }
                many.push(new);
                (many.len() - 1) as u32
            }
        }
    }

    /// Takes out one of several receivers; the last one takes its position.
    fn swap_remove(&mut self, position: u32) {
        let Self::Many(many) = self else { return };
        many.swap_remove(position as usize);
        if many.len() * 4 < many.capacity() {
            many.shrink_to(many.len() * 2);
        }
        if let [one] = ***many {
            *self = Self::One(one);
        }
    }
}

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
        match self.receivers.get_mut(id.0) {
            Some(list) => (id, list.push(receiver)),
            None => {
                self.receivers.insert(id.0, Receivers::One(receiver));
                (id, 0)
            }
        }
    }

    /// Removes the receiver at a position of a filter; the filter goes with its last receiver.
    /// The receiver that moves into the gap is told its new position.
    pub(crate) fn remove_receiver(&mut self, filter: FilterId, position: u32) {
        let Some(list) = self.receivers.get_mut(filter.0) else { return };
        let from = (list.as_slice().len() - 1) as u32;
        if from == 0 {
            self.receivers.remove(filter.0);
            self.interest_writer.remove(self.matcher.filter(filter));
            self.matcher.remove(filter);
            return;
        }
        list.swap_remove(position);
        let moved = list.as_slice().get(position as usize).map(|receiver| receiver.target());
        match moved {
            Some(Target::Session(session)) => {
                let moved = self.sessions.get_mut(session).and_then(|session| {
                    session.subscriptions.find_mut(filter).filter(|s| s.position == from)
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
        let receiver = Receiver::new(Target::Session(session), options.into(), identifier);
        if let Some(existing) = self.find_subscription(session, filter) {
            let list = self.receivers.get_mut(existing.filter.0);
            if let Some(old) = list.and_then(|list| list.get_mut(existing.position)) {
                *old = receiver;
            }
            return false;
        }
        let (filter, position) = self.add_receiver(filter, receiver);
        if let Some(session) = self.sessions.get_mut(session) {
            session.subscriptions.insert(Subscription { filter, position });
        }
        true
    }

    /// Ends a subscription. Returns false if there was none.
    pub(crate) fn remove_subscription(&mut self, session: u32, filter: &TopicFilter) -> bool {
        let Some(existing) = self.find_subscription(session, filter) else { return false };
        if let Some(session) = self.sessions.get_mut(session) {
            session.subscriptions.remove(existing.filter);
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
        self.sessions.get(session)?.subscriptions.find(id)
    }
}

#[cfg(test)]
mod tests {
    use petrel_proto::RetainHandling;

    use super::*;

    #[test]
    fn a_further_receiver_takes_nine_bytes_at_most() {
        let receiver = |n| Receiver::new(Target::Session(n), PackedOptions(1), 0);
        let mut receivers = Receivers::One(receiver(0));
        for n in 1..10_000 {
            assert_eq!(receivers.push(receiver(n)), n);
            let Receivers::Many(many) = &receivers else { panic!("there are several") };
            let bytes = many.capacity() * size_of::<Receiver>();
            assert!(bytes <= 9 * many.len() + 24, "{bytes} bytes for {}", many.len());
        }
        for n in (2..10_000).rev() {
            receivers.swap_remove(n);
            assert_eq!(receivers.as_slice().len(), n as usize);
        }
    }

    #[test]
    fn options_survive_packing() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for (no_local, retain_as_published) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let retain_handling = RetainHandling::Send;
                let options =
                    SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
                let packed = PackedOptions::from(options);
                assert_eq!(
                    (packed.qos(), packed.no_local(), packed.retain_as_published()),
                    (qos, no_local, retain_as_published)
                );
            }
        }
    }
}
