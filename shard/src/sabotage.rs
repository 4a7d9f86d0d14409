//! Faults that the simulator builds in to prove that it would see them.
//!
//! They exist only with the feature `sabotage`, which no program of Petrel is built with. Without
//! it [`on`] is always false, and nothing of a hook is left in the code.

/// A fault in a shard. Each is what a slip of the pen could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A packet identifier that is in flight is handed out again.
    PacketIdReused,
    /// PUBREL is not sent again on a new connection.
    PubRelForgotten,
    /// The client may have one message more in flight than it said.
    ReceiveMaximumOffByOne,
    /// The last message of a queue makes room before the queue is full.
    QueuedMessageLost,
    /// A queue is filled from the wrong end.
    QueueReversed,
    /// Session Present is not set.
    SessionPresentUnset,
    /// The client that is taken over is not told.
    TakeOverSilent,
    /// A will goes out although the client came back in time.
    WillNotCancelled,
    /// DISCONNECT 0x04 removes the will.
    WillRemovedByAnyDisconnect,
    /// The wish not to get one's own messages is ignored.
    NoLocalIgnored,
    /// Other shards are not told of a filter with a wildcard.
    InterestMissing,
    /// A repeated QoS 2 PUBLISH is routed again.
    DuplicateRouted,
    /// Messages go out at the QoS of the publisher.
    QosNotCapped,
    /// The first matching Subscription Identifier is not sent.
    IdentifierLost,
    /// The Message Expiry Interval is forwarded one second too long.
    ExpiryTooLong,
    /// An empty payload does not clear a retained message.
    RetainedNotCleared,
    /// A retained answer follows a newer live message.
    RetainedStale,
    /// A shared message that a member gives back is dropped.
    GroupReturnLost,
    /// A session that has expired is kept.
    ExpiryIgnored,
    /// PUBACKs of QoS 1 messages are not sent now and then.
    AckLost,
    /// A silent client is left alone.
    KeepAliveIgnored,
    /// The subscriptions of a session that ends stay in the matcher.
    SubscriptionLeaked,
    /// A message for many is overtaken by the next one.
    DueOvertaken,
    /// The last part of a message for many does not go out.
    PartLost,
    /// What was due to a session that has ended goes to the next one in its place.
    DueInherited,
    /// A copy that is dropped is not in the ledger.
    DropUncounted,
    /// A retained message for a new subscription is not in the ledger.
    ReplyUncounted,
    /// What waited when the process began is not in the ledger.
    RestoredUncounted,
    /// Nobody waits for a record to be kept.
    KeptIgnored,
    /// Nobody waits for what other shards have to keep.
    PeersIgnored,
    /// A QoS 2 message is delivered before its receipt is kept.
    HoldIgnored,
    /// What was queued of a QoS 2 message counts without its receipt.
    ReceiptNotNeeded,
    /// The receipt of a QoS 2 message is not recorded.
    ReceiptUnrecorded,
    /// PUBREL leaves before it is kept that the client has the message.
    ReleaseUnawaited,
    /// PUBCOMP for what is unknown leaves at once.
    CompletionUnawaited,
    /// The end of a session is not recorded.
    EndUnrecorded,
    /// The places in a session's order begin anew with each process.
    PlacesReused,
    /// A will that is due does not come back.
    WillUnrestored,
    /// Retained messages are not recorded.
    RetainedUnrecorded,
    /// That a subscription waits for retained messages is not recorded.
    PullForgotten,
    /// A message that waits is not recorded if its session is away.
    OfflineUnrecorded,
    /// What waits from before the process is never counted.
    CountForgotten,
    /// What has come into memory already is counted again.
    CountedTwice,
    /// What waits in groups from before the process is never counted.
    GroupsUncounted,
    /// A message that waits in a group is not recorded.
    GroupUnrecorded,
    /// A message that a member is lent is not recorded any more.
    LentForgotten,
    /// A QoS 2 message counts for the member that it moves to before the group has given it away.
    MoveNotNeeded,
    /// A QoS 2 message that has moved to a member stays with the group as well.
    MoveUnrecorded,
    /// A group lends a QoS 2 message before the receipt of it is kept.
    GroupHoldIgnored,
    /// A group is not told what its members have.
    LentNotDone,
    /// A group that nobody has joined again is left alone.
    GroupLeftAlone,
    /// A QoS 2 message that the client may have is dropped without a PUBREL.
    ExchangeForgotten,
    /// What a group lends goes out before all is known that the client has been sent.
    LentBeforeLoaded,
    /// What was found out of one client's right to publish is taken for another topic's.
    RightsMixedUp,
    /// A subscription is granted whatever rules deny.
    DenialIgnored,
    /// Nobody asks whether the author of a retained message still may.
    AuthorIgnored,
    /// Each message asks for memory once more; seen by counters, not by a client.
    AllocationPerMessage,
    /// Each connection leaves 64 bytes behind; seen by counters, not by a client.
    BytesPerConnection,
}

#[cfg(feature = "sabotage")]
mod switch {
    use super::Sabotage;
    use std::cell::Cell;

    thread_local!(static FAULT: Cell<Option<Sabotage>> = const { Cell::new(None) });

    impl Sabotage {
        /// All faults that a client could see.
        pub const ALL: [Self; 30] = [
            Self::PacketIdReused,
            Self::PubRelForgotten,
            Self::ReceiveMaximumOffByOne,
            Self::QueuedMessageLost,
            Self::QueueReversed,
            Self::SessionPresentUnset,
            Self::TakeOverSilent,
            Self::WillNotCancelled,
            Self::WillRemovedByAnyDisconnect,
            Self::NoLocalIgnored,
            Self::InterestMissing,
            Self::DuplicateRouted,
            Self::QosNotCapped,
            Self::IdentifierLost,
            Self::ExpiryTooLong,
            Self::RetainedNotCleared,
            Self::RetainedStale,
            Self::GroupReturnLost,
            Self::ExpiryIgnored,
            Self::AckLost,
            Self::KeepAliveIgnored,
            Self::SubscriptionLeaked,
            Self::DueOvertaken,
            Self::PartLost,
            Self::DueInherited,
            Self::RightsMixedUp,
            Self::DenialIgnored,
            Self::AuthorIgnored,
            Self::DropUncounted,
            Self::ReplyUncounted,
        ];
    }

    impl Sabotage {
        /// All faults that a client could see of a broker that crashes.
        pub const ALL_OF_KEEPING: [Self; 26] = [
            Self::KeptIgnored,
            Self::PeersIgnored,
            Self::HoldIgnored,
            Self::ReceiptNotNeeded,
            Self::ReceiptUnrecorded,
            Self::ReleaseUnawaited,
            Self::CompletionUnawaited,
            Self::EndUnrecorded,
            Self::PlacesReused,
            Self::WillUnrestored,
            Self::RetainedUnrecorded,
            Self::PullForgotten,
            Self::OfflineUnrecorded,
            Self::CountForgotten,
            Self::CountedTwice,
            Self::GroupsUncounted,
            Self::GroupUnrecorded,
            Self::LentForgotten,
            Self::MoveNotNeeded,
            Self::MoveUnrecorded,
            Self::GroupHoldIgnored,
            Self::LentNotDone,
            Self::GroupLeftAlone,
            Self::ExchangeForgotten,
            Self::LentBeforeLoaded,
            Self::RestoredUncounted,
        ];
    }

    /// Builds a fault into the shards of this thread, or takes it out.
    pub fn set(fault: Option<Sabotage>) {
        FAULT.set(fault);
    }

    /// Whether the fault is built in.
    pub(crate) fn on(fault: Sabotage) -> bool {
        FAULT.get() == Some(fault)
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use switch::on;
#[cfg(feature = "sabotage")]
pub use switch::set;

/// Whether the fault is built in: never.
#[cfg(not(feature = "sabotage"))]
#[inline(always)]
pub(crate) const fn on(_: Sabotage) -> bool {
    false
}
