//! Whose turn it is next: the broker's own code, and what others do.

use std::fmt;
use std::str::FromStr;

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// [`petrel_net::admission::Admission`], as the broker has it.
    Broker,
    /// The same without the cap on handshakes in flight.
    NoCap,
    /// The same without a look whether the peer is still there.
    NoGoneCheck,
    /// The same with a limit on connections per second, which an operator has guessed.
    FixedRate,
    /// Whoever came first, whatever it wants; all that come are accepted; nobody looks whether
    /// the peer is still there.
    Fifo,
    /// Accepts all that wait, then the rest in order; nobody looks whether the peer is still there.
    AcceptFirst,
}

impl Policy {
    /// All of them, the broker's first.
    pub const ALL: [Self; 6] = [
        Self::Broker,
        Self::NoCap,
        Self::NoGoneCheck,
        Self::FixedRate,
        Self::Fifo,
        Self::AcceptFirst,
    ];

    /// As it is called on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::NoCap => "no-cap",
            Self::NoGoneCheck => "no-gone-check",
            Self::FixedRate => "fixed-rate",
            Self::Fifo => "fifo",
            Self::AcceptFirst => "accept-first",
        }
    }

    /// True if a handshake is gone on with only if its peer is still there.
    #[must_use]
    pub const fn looks(self) -> bool {
        matches!(self, Self::Broker | Self::NoCap | Self::FixedRate)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| format!("{name:?} is not a policy"))
    }
}
