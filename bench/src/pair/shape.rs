//! Who sends to whom.

/// How publishers and subscribers are tied together by their topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each publisher has a subscriber of its own.
    Pair,
    /// Many publishers, one subscriber to all of them.
    FanIn,
    /// One publisher, many subscribers.
    FanOut,
}

impl Shape {
    /// Publishers, of so many clients on the side that has many.
    pub fn publishers(self, count: usize) -> usize {
        if self == Self::FanOut { 1 } else { count }
    }

    /// Subscribers, of so many clients on the side that has many.
    pub fn subscribers(self, count: usize) -> usize {
        if self == Self::FanIn { 1 } else { count }
    }

    /// The topic of a publisher. Its last level is the number of the first that has this topic.
    pub fn topic(self, publisher: usize) -> String {
        match self {
            Self::Pair => format!("bench/pair/{publisher}"),
            Self::FanIn | Self::FanOut => "bench/pair/0".to_owned(),
        }
    }

    /// What a subscriber subscribes to.
    pub fn filter(self, subscriber: usize) -> String {
        self.topic(subscriber)
    }
}
