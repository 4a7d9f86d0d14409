//! Faults built in on purpose, to prove that the oracles see them.

use petrel_shard::{Input, PeerMessage};

/// A fault in the part between the shards and the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Two messages change places in a ring.
    RingReorders,
    /// A message between shards is lost now and then.
    RingLoses,
    /// A message between shards arrives twice now and then.
    RingDoubles,
    /// The report that a socket has drained is lost.
    FlushedLost,
    /// The end of a connection is not told.
    ClosedLost,
    /// A CONNECT stays on the shard that accepted it.
    HomeIgnored,
    /// Time does not pass for the shards.
    TimerLost,
    /// An acknowledgement of a client does not reach its shard now and then.
    AckLost,
    /// A question about retained messages overtakes what other shards have for the one it goes to.
    QuestionOvertakes,
}

impl Sabotage {
    /// All faults.
    pub const ALL: [Self; 9] = [
        Self::RingReorders,
        Self::RingLoses,
        Self::RingDoubles,
        Self::FlushedLost,
        Self::ClosedLost,
        Self::HomeIgnored,
        Self::TimerLost,
        Self::AckLost,
        Self::QuestionOvertakes,
    ];

    /// Whether the fault keeps an input from its shard.
    #[must_use]
    pub fn swallows(self, input: &Input, step: u64) -> bool {
        match self {
            Self::FlushedLost => matches!(input, Input::Flushed { pending_bytes: 0, .. }),
            Self::ClosedLost => matches!(input, Input::Closed { .. }),
            Self::TimerLost => matches!(input, Input::Timer),
            Self::AckLost => {
                let ack =
                    matches!(input, Input::Packet { packet: petrel_proto::Packet::PubAck(_), .. });
                ack && step.is_multiple_of(3)
            }
            _ => false,
        }
    }

    /// How often a message is put into its ring.
    #[must_use]
    pub fn copies(self, message: &PeerMessage, step: u64) -> usize {
        let publish = matches!(message, PeerMessage::Passed(_) | PeerMessage::Publish(_));
        match self {
            Self::RingLoses if publish && step.is_multiple_of(5) => 0,
            Self::RingDoubles if publish && step.is_multiple_of(5) => 2,
            _ => 1,
        }
    }
}
