//! How far connections get on their way to CONNECT, and in which state those are that are there.
//!
//! Plain counters of one shard: whoever wants to show them takes a copy now and then.

/// A step that a connection takes on its way, or the reason why it goes no further.
///
/// Whoever was accepted ends in exactly one of `ProxyRefused`, `RefusedByRate` (behind a proxy), `GoneBeforeHandshake`, `Silent`, `HandshakeNotBegun`,
/// `HandshakeDisplaced`, `HandshakeTimedOut`, `HandshakeRefused`, `HandshakeGone`, `ConnectTimedOut`, `ConnectGone`, `ConnectRefused` and
/// `Connect`, unless the broker stops before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Taken from the kernel's queue, those that are refused at once left out.
    Accepted,
    /// Closed when it was accepted, since its source address connects too often; behind a proxy, when that
    /// has said the address.
    RefusedByRate,
    /// Closed when it was accepted, since its source address is banned.
    RefusedByBan,
    /// Closed when it was accepted, since it comes from none of the proxies that the listener trusts.
    ProxyUntrusted,
    /// What a trusted proxy sent first was no good header of the PROXY protocol.
    ProxyRefused,
    /// Accepting failed for want of descriptors or memory; the connection waits in the kernel.
    AcceptFailed,
    /// The peer had gone before its handshake was begun.
    GoneBeforeHandshake,
    /// Nothing came of the handshake until its deadline.
    Silent,
    /// Something had come by the deadline, and no handshake had a place for it.
    HandshakeNotBegun,
    /// A ClientHello, or what was taken for one, was answered.
    HandshakeBegun,
    /// The handshake gave its place to another that waited for it.
    HandshakeDisplaced,
    /// The handshake was not complete at its deadline.
    HandshakeTimedOut,
    /// The handshake broke the protocol, or one side ended it with an alert.
    HandshakeRefused,
    /// The peer had gone before its handshake was complete.
    HandshakeGone,
    /// A complete handshake with all its cryptography.
    HandshakeFull,
    /// A complete handshake that resumed an earlier session.
    HandshakeResumed,
    /// A complete handshake that took a HelloRetryRequest.
    HandshakeRetried,
    /// No CONNECT had come at its deadline.
    ConnectTimedOut,
    /// The peer had gone before its CONNECT was complete.
    ConnectGone,
    /// The first packet was not a good CONNECT.
    ConnectRefused,
    /// A good CONNECT; whether it is let in is not decided here.
    Connect,
    /// A connection that had sent its CONNECT took nothing of what waited for it, for as long as that may be.
    WriteTimedOut,
}

impl Stage {
    /// All of them, in the order of a connection's way.
    pub const ALL: [Self; 22] = [
        Self::Accepted,
        Self::RefusedByRate,
        Self::RefusedByBan,
        Self::ProxyUntrusted,
        Self::ProxyRefused,
        Self::AcceptFailed,
        Self::GoneBeforeHandshake,
        Self::Silent,
        Self::HandshakeNotBegun,
        Self::HandshakeBegun,
        Self::HandshakeDisplaced,
        Self::HandshakeTimedOut,
        Self::HandshakeRefused,
        Self::HandshakeGone,
        Self::HandshakeFull,
        Self::HandshakeResumed,
        Self::HandshakeRetried,
        Self::ConnectTimedOut,
        Self::ConnectGone,
        Self::ConnectRefused,
        Self::Connect,
        Self::WriteTimedOut,
    ];

    /// Its name for people and machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RefusedByRate => "refused_by_rate",
            Self::RefusedByBan => "refused_by_ban",
            Self::ProxyUntrusted => "proxy_untrusted",
            Self::ProxyRefused => "proxy_refused",
            Self::AcceptFailed => "accept_failed",
            Self::GoneBeforeHandshake => "gone_before_handshake",
            Self::Silent => "silent",
            Self::HandshakeNotBegun => "handshake_not_begun",
            Self::HandshakeBegun => "handshake_begun",
            Self::HandshakeDisplaced => "handshake_displaced",
            Self::HandshakeTimedOut => "handshake_timed_out",
            Self::HandshakeRefused => "handshake_refused",
            Self::HandshakeGone => "handshake_gone",
            Self::HandshakeFull => "handshake_full",
            Self::HandshakeResumed => "handshake_resumed",
            Self::HandshakeRetried => "handshake_retried",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::ConnectGone => "connect_gone",
            Self::ConnectRefused => "connect_refused",
            Self::Connect => "connect",
            Self::WriteTimedOut => "write_timed_out",
        }
    }
}

/// Where a connection stands, and what it costs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its TLS handshake is to be begun or to be finished.
    Handshaking,
    /// Its CONNECT is to come.
    Greeting,
    /// Connected over TCP.
    Plain,
    /// Connected over TLS in the records of the library.
    Tls,
    /// Connected over TLS in records of our own.
    TlsCompact,
    /// Connected over WebSocket.
    Ws,
    /// Connected over WebSocket over TLS.
    Wss,
    /// Being closed by the broker.
    Closing,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Handshaking,
        Self::Greeting,
        Self::Plain,
        Self::Tls,
        Self::TlsCompact,
        Self::Ws,
        Self::Wss,
        Self::Closing,
    ];

    /// Its name for people and machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshaking => "handshaking",
            Self::Greeting => "greeting",
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::TlsCompact => "tls_compact",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Closing => "closing",
        }
    }
}

/// What a wire has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    stages: [u64; Stage::ALL.len()],
    states: [u64; State::ALL.len()],
    /// The most TLS handshakes that were begun and not finished at any time.
    pub handshakes_most: u64,
}

impl Census {
    /// How many numbers [`Census::numbers`] has.
    pub const NUMBERS: usize = Stage::ALL.len() + State::ALL.len() + 1;

    /// How many connections have come to a stage since the start.
    #[must_use]
    pub const fn stage(&self, stage: Stage) -> u64 {
        self.stages[stage as usize]
    }

    /// How many connections are in a state now.
    #[must_use]
    pub const fn state(&self, state: State) -> u64 {
        self.states[state as usize]
    }

    /// All numbers: the stages, the states, and the most handshakes.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let most = std::iter::once(self.handshakes_most);
        self.stages.iter().chain(&self.states).copied().chain(most)
    }

    /// A census of such numbers; those that are missing are 0.
    pub fn from_numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut census = Self::default();
        let mut numbers = numbers.into_iter();
        for into in census.stages.iter_mut().chain(&mut census.states) {
            *into = numbers.next().unwrap_or(0);
        }
        census.handshakes_most = numbers.next().unwrap_or(0);
        census
    }

    /// Adds what another shard has counted.
    pub fn add(&mut self, other: &Self) {
        let into = self.stages.iter_mut().chain(&mut self.states);
        for (into, from) in into.zip(other.stages.iter().chain(&other.states)) {
            *into += from;
        }
        self.handshakes_most = self.handshakes_most.max(other.handshakes_most);
    }

    pub(crate) const fn count(&mut self, stage: Stage) {
        self.stages[stage as usize] += 1;
    }

    pub(crate) const fn enter(&mut self, state: State) {
        self.states[state as usize] += 1;
    }

    pub(crate) const fn leave(&mut self, state: State) {
        self.states[state as usize] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_and_state_stands_in_its_place() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, at, "{}", stage.name());
        }
        for (at, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, at, "{}", state.name());
        }
    }

    #[test]
    fn shards_are_added_up_and_numbers_lead_back() {
        let mut one = Census::default();
        one.count(Stage::Accepted);
        one.enter(State::Closing);
        one.handshakes_most = 5;
        let mut both = Census::from_numbers(one.numbers());
        assert_eq!(both, one);
        both.add(&Census { handshakes_most: 3, ..one });
        assert_eq!((both.stage(Stage::Accepted), both.state(State::Closing)), (2, 2));
        assert_eq!(both.handshakes_most, 5);
    }
}
