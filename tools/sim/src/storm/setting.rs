//! What a storm is made of: how many, how patient, on what machine, at what cost.

use super::policy::Policy;

/// Nanoseconds in a microsecond.
pub(crate) const US: u64 = 1_000;
/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// CPU time of one core for each thing that a storm asks for, in nanoseconds.
///
/// Measured on the development machine (2 shared cores), ECDSA P-256, X25519, AES-128-GCM. A machine
/// that does each of them twice as fast recovers in half the time; the ratios between policies
/// hardly move. All can be given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// A SYN that finds the queue full, in the interrupt that brings it: 400 ns of it, measured by
    /// raw SYNs to a full queue against such with a wrong checksum; the way up to there is a guess.
    pub refuse: u64,
    /// The kernel's handshake, `accept4`, two socket options, `epoll_ctl`, and `close` in the end.
    pub accept: u64,
    /// From ClientHello to the server's Finished: 64 µs in memory
    /// (`cargo run --release -p petrel-net --example handshake_cost`), and the kernel's part.
    pub hello: u64,
    /// The client's Finished, and the ticket: 8 µs in memory (same command), and the kernel's part.
    pub finish: u64,
    /// CONNECT, the session taken up again, CONNACK.
    pub connect: u64,
    /// To find that a peer has gone, and to drop it.
    pub gone: u64,
    /// A message of a connected client, read to written.
    pub message: u64,
    /// What a turn costs beside what is done in it: `epoll_wait` and the books.
    pub turn: u64,
}

impl Costs {
    /// What one client costs if nothing is in vain.
    #[must_use]
    pub const fn client(&self) -> u64 {
        self.accept + self.hello + self.finish + self.connect
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            refuse: 700,
            accept: 12 * US,
            hello: 100 * US,
            finish: 30 * US,
            connect: 10 * US,
            gone: US,
            message: 3 * US,
            turn: 2 * US,
        }
    }
}

/// One storm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Clients that were connected and are cut at once.
    pub clients: u64,
    /// How long a client waits for its CONNACK before it begins anew, at once, in milliseconds.
    pub patience_ms: u64,
    /// Cores, each with one shard and a listening socket of its own.
    pub cores: u32,
    /// Shards that are simulated, the first ones; the others would be much like them.
    pub sample: u32,
    /// Network round trip, in microseconds.
    pub rtt_us: u64,
    /// Clients notice the cut within this time, evenly, in milliseconds.
    pub spread_ms: u64,
    /// Connections that may wait in the kernel, per shard: the smaller of 65,535 and `somaxconn`.
    pub backlog: usize,
    /// `handshakes_in_flight_maximum`.
    pub handshakes_max: usize,
    /// Messages per second of clients that are connected, per shard.
    pub messages: u64,
    /// Connections per second and core that [`Policy::FixedRate`] lets in.
    pub connect_rate: u64,
    /// Unit costs.
    pub costs: Costs,
    /// Whose turn it is next.
    pub policy: Policy,
    /// The simulation ends here, whoever is still away, in seconds.
    pub horizon_s: u64,
    /// A client that is back is cut again when its patience would have ended, so the load stays.
    pub endless: bool,
    /// Same seed, same run.
    pub seed: u64,
}

impl Setting {
    /// A storm of so many clients with so much patience, in milliseconds, with everything else as
    /// it is by default.
    #[must_use]
    pub fn new(clients: u64, patience_ms: u64, cores: u32, policy: Policy) -> Self {
        let mut setting = Self {
            clients,
            patience_ms,
            cores,
            sample: cores,
            rtt_us: 50_000,
            spread_ms: 1_000,
            backlog: 65_535,
            handshakes_max: 2_000,
            messages: 10_000,
            connect_rate: 3_000,
            costs: Costs::default(),
            policy,
            horizon_s: 0,
            endless: false,
            seed: 1,
        };
        setting.horizon_s = setting.horizon_by_default();
        setting
    }

    /// Five times what it would take with nothing in vain, and some patience.
    #[must_use]
    pub fn horizon_by_default(&self) -> u64 {
        (5.0 * self.ideal_s()) as u64 + 4 * self.patience_ms / 1_000 + 10
    }

    /// A load of `factor` times what the cores can do, that does not end.
    #[must_use]
    pub fn overload(self, factor: u64) -> Self {
        let per_core = self.patience_ms * (SECOND / 1_000) / self.costs.client();
        Self {
            clients: factor * per_core * u64::from(self.cores),
            spread_ms: self.patience_ms,
            horizon_s: 6 * self.patience_ms.div_ceil(1_000),
            endless: true,
            ..self
        }
    }

    /// Time to recover if every core did nothing but connect clients, none of them in vain, in
    /// seconds: N × cost / cores.
    #[must_use]
    pub fn ideal_s(&self) -> f64 {
        self.clients as f64 * self.costs.client() as f64 / SECOND as f64 / f64::from(self.cores)
    }
}
