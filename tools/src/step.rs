//! The steps on a message's way through a broker and back, for programs that say where it ended.

use crate::failure::Failure;

/// A step, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// From TCP to CONNACK.
    Connect,
    /// From SUBSCRIBE to SUBACK.
    Subscribe,
    /// From PUBLISH to what says that the broker has the message, at QoS 1 and 2.
    Publish,
    /// From PUBLISH to the same message coming back.
    RoundTrip,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Subscribe, Self::Publish, Self::RoundTrip];

    /// As a word, for labels and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::RoundTrip => "round_trip",
        }
    }

    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::RoundTrip => "round trip",
            other => other.name(),
        }
    }

    /// What makes a failure one of this step.
    pub fn failed(self) -> impl Fn(Failure) -> Failed {
        move |failure| Failed { step: self, failure }
    }
}

/// Where it ended, and why.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The step that did not succeed.
    pub step: Step,
    /// Why.
    pub failure: Failure,
}

impl Failed {
    /// The step and why, as one sentence.
    pub fn sentence(&self) -> String {
        format!("step {}: {}", self.step.in_words(), self.failure)
    }
}
