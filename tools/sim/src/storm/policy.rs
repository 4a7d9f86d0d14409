//! Whose turn it is next: the broker's own code, and what others do.

use std::fmt;
use std::str::FromStr;

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// [`petrel_net::admission::Admission`] and the depth that goes with it, as the broker has them.
    Broker,
    /// The same with the kernel's queue as deep as can be.
    DeepQueue,
    /// That again, but a handshake is not begun if its client will have gone before it is done,
    /// which nobody can know: what there is to be gained by serving in another order.
    Foresight,
    /// The connected first, then accepts all that wait, finishes what has begun, and begins the
    /// newest first.
    NewestFirst,
    /// As the broker without the cap on handshakes in flight.
    NoCap,
    /// With a deep queue and without a look whether the peer is still there.
    NoGoneCheck,
    /// As the broker, with a deep queue and a limit on connections per second, which an operator has guessed.
    FixedRate,
    /// Whoever came first, whatever it wants; all that come are accepted; nobody looks whether
    /// the peer is still there.
    Fifo,
    /// Accepts all that wait, then the rest in order; nobody looks whether the peer is still there.
    AcceptFirst,
}

impl Policy {
    /// All of them, the broker's first.
    pub const ALL: [Self; 9] = [
        Self::Broker,
        Self::DeepQueue,
        Self::Foresight,
        Self::NewestFirst,
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
            Self::DeepQueue => "deep-queue",
            Self::Foresight => "foresight",
            Self::NewestFirst => "newest-first",
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
        !matches!(self, Self::NoGoneCheck | Self::Fifo | Self::AcceptFirst)
    }

    /// True if [`petrel_net::admission::Admission`] decides.
    #[must_use]
    pub const fn admits(self) -> bool {
        !matches!(self, Self::NewestFirst | Self::Fifo | Self::AcceptFirst)
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
