//! From a configuration to a running broker, and to its end.
//!
//! The order is a rule: certificates are read and addresses are claimed first, so that what the
//! operator got wrong is said before anything runs; then all shards are started; only when all of
//! them are ready are the listeners opened and handed out.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use petrel_net::tls::{RandomUnavailable, TicketSecret, TlsApplication, TlsConfig, TlsConfigError};
use petrel_net::websocket::WebSocketConfig;
use petrel_net::{Bell, Listener, Protocol, Wire, WireLimits, listener};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{Interest, Shard, ShardConfig, ShardIndex, SlotMap};

use crate::auth::AuthMethods;
use crate::config::{self, Config};
use crate::executor::{ShardThread, spawn};
use crate::grace::{Marks, OwnMark};
use crate::log;
use crate::mesh::{MeshEnd, mesh};
use crate::preflight::{self, Runtime};
use crate::pump::{Clock, Command, Counters, Parts, Pump};
use crate::watchdog::{Pulse, Watchdog};

/// How long all shards together may take to come up.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long the last wills may take to be given away.
const LAST_WILLS_WITHIN: Duration = Duration::from_secs(2);

/// Why a broker did not start. Displays as one sentence without its full stop.
#[derive(Debug)]
pub enum BootError {
    /// A certificate or key cannot be used.
    Tls(TlsConfigError),
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The system refuses what the runtime needs.
    Runtime(String),
    /// A shard did not come up.
    Shard(io::Error),
    /// The system gives no random numbers.
    Random,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Listen(address, error) => match error.kind() {
                io::ErrorKind::AddrInUse => {
                    write!(f, "{address} is in use; another program listens there")
                }
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "listening on {address} is not permitted; ports below 1024 need \
                     CAP_NET_BIND_SERVICE"
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(f, "{} is not an address of this machine", address.ip())
                }
                _ => write!(f, "cannot listen on {address}: {error}"),
            },
            Self::Runtime(sentence) => f.write_str(sentence),
            Self::Shard(error) => write!(f, "a shard did not come up: {error}"),
            Self::Random => f.write_str("the system gives no random numbers"),
        }
    }
}

impl std::error::Error for BootError {}

impl From<TlsConfigError> for BootError {
    fn from(error: TlsConfigError) -> Self {
        Self::Tls(error)
    }
}

impl From<RandomUnavailable> for BootError {
    fn from(_: RandomUnavailable) -> Self {
        Self::Random
    }
}

/// A broker that runs.
pub struct Running {
    config: Config,
    secret: TicketSecret,
    runtime: Runtime,
    addresses: Vec<SocketAddr>,
    shards: Vec<RunningShard>,
    _watchdog: Watchdog,
}

struct RunningShard {
    thread: ShardThread,
    handle: ShardHandle,
}

/// How the process speaks to a shard.
#[derive(Debug, Clone)]
struct ShardHandle {
    commands: Sender<Command>,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    pulse: Arc<Pulse>,
}

impl ShardHandle {
    fn tell(&self, command: Command) {
        // A shard that has ended needs no telling.
        if self.commands.send(command).is_ok() {
            self.bell.ring();
        }
    }
}

/// Starts a broker. It serves when this returns.
///
/// # Errors
/// What kept it from starting; nothing runs then.
pub fn start(config: Config, auth: &AuthMethods) -> Result<Running, BootError> {
    let secret = TicketSecret::generate()?;
    let protocols = protocols(&config, &secret)?;
    for it in config.listeners.iter().filter(|it| it.address.port() != 0) {
        listener::claim(it.address).map_err(|error| BootError::Listen(it.address, error))?;
    }
    let (runtime, fallback) =
        preflight::runtime(config.engine.runtime).map_err(BootError::Runtime)?;
    if let Some(sentence) = fallback {
        log::warn(sentence);
    }
    let (shards, starters) = start_shards(&config, runtime, auth)?;
    let pulses = shards.iter().map(|shard| Arc::clone(&shard.handle.pulse)).collect();
    let watchdog = Watchdog::start(pulses).map_err(BootError::Shard)?;
    let mut running =
        Running { addresses: Vec::new(), config, secret, runtime, shards, _watchdog: watchdog };
    match open_listeners(&running.config, &protocols, starters.len()) {
        Ok((addresses, listeners)) => {
            running.addresses = addresses;
            for (starter, listeners) in starters.iter().zip(listeners) {
                // A shard that ended meanwhile says why when it is joined.
                let _ = starter.send(listeners);
            }
            Ok(running)
        }
        Err(error) => {
            drop(starters);
            // They end because their start was called off, which is no news.
            let _ = running.join_all();
            Err(error)
        }
    }
}

impl Running {
    /// Where it listens, in the order of the configuration, with the ports that were taken.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What drives the shards.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// What each shard counts.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.shards.iter().map(|shard| &*shard.handle.counters)
    }

    /// Times that an executor had forgotten its pump; never above 0 unless something is broken.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.shards.iter().map(|shard| shard.handle.pulse.stalls()).sum()
    }

    /// Reads the certificates again. New connections get the new ones, nobody is dropped.
    ///
    /// # Errors
    /// What is wrong with the files; the old certificates stay.
    pub fn reload(&self) -> Result<(), BootError> {
        let protocols = protocols(&self.config, &self.secret)?;
        for (index, protocol) in protocols.into_iter().enumerate() {
            for shard in &self.shards {
                shard.handle.tell(Command::SetProtocol(index as u16, protocol.clone()));
            }
        }
        Ok(())
    }

    /// Takes leave of all clients and ends. Returns within some seconds whatever they do.
    ///
    /// # Errors
    /// A shard had ended before its time, with this.
    pub fn stop(self) -> io::Result<()> {
        let (given_away, all) = mpsc::channel();
        for shard in &self.shards {
            shard.handle.tell(Command::LastWills(given_away.clone()));
        }
        drop(given_away);
        let deadline = Instant::now() + LAST_WILLS_WITHIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        // A shard that does not answer in time has other worries than wills.
        while all.recv_timeout(left()).is_ok() {}
        for shard in &self.shards {
            shard.handle.tell(Command::Stop);
        }
        self.join_all()
    }

    fn join_all(self) -> io::Result<()> {
        let mut result = Ok(());
        for shard in self.shards {
            result = result.and(shard.thread.join());
        }
        result
    }
}

/// What each listener gives to its connections.
fn protocols(config: &Config, secret: &TicketSecret) -> Result<Vec<Protocol>, BootError> {
    config.listeners.iter().map(|listener| protocol(listener, secret)).collect()
}

fn protocol(listener: &config::Listener, secret: &TicketSecret) -> Result<Protocol, BootError> {
    let application = match listener.protocol.is_websocket() {
        true => TlsApplication::WebSocket,
        false => TlsApplication::Mqtt,
    };
    let tls = listener
        .tls
        .as_ref()
        .map(|files| TlsConfig::from_pem_files(&files.cert, &files.key, application, secret))
        .transpose()?;
    if let Some(warning) = tls.as_ref().and_then(TlsConfig::warning) {
        log::warn(format_args!("{}: {warning}", listener.address));
    }
    let websocket = listener.protocol.is_websocket().then(|| {
        Arc::new(WebSocketConfig { path: listener.path.clone(), ..WebSocketConfig::default() })
    });
    Ok(match (tls, websocket) {
        (None, None) => Protocol::Mqtt,
        (Some(tls), None) => Protocol::Mqtts(tls),
        (None, Some(websocket)) => Protocol::Ws(websocket),
        (Some(tls), Some(websocket)) => Protocol::Wss(tls, websocket),
    })
}

/// Gives a shard its listeners and so lets it begin; dropped, it makes the shard end.
type Starter = mpsc::Sender<Vec<Listener>>;

fn start_shards(
    config: &Config,
    runtime: Runtime,
    auth: &AuthMethods,
) -> Result<(Vec<RunningShard>, Vec<Starter>), BootError> {
    let count = config.shard_count();
    let bells: io::Result<Vec<Arc<Bell>>> =
        (0..count).map(|_| Ok(Arc::new(Bell::new()?))).collect();
    let bells: Arc<[Arc<Bell>]> = bells.map_err(BootError::Shard)?.into();
    let hash_key = [random()?, random()?];
    let interest = Arc::new(Interest::new(HashKey::new(hash_key)));
    let clock = Clock::start();
    let marks = Marks::new(count);
    let cores = cores(count);
    let (ready, readies) = mpsc::channel();
    let mut shards = Vec::new();
    let mut starters = Vec::new();
    for (index, mesh) in mesh(&bells).into_iter().enumerate() {
        let (commands, received) = crossbeam_channel::unbounded();
        let (starter, start) = mpsc::channel();
        let handle = ShardHandle {
            commands,
            bell: Arc::clone(&bells[index]),
            counters: Arc::new(Counters::default()),
            pulse: Arc::new(Pulse::default()),
        };
        let seed = Seed {
            shard: ShardConfig {
                index: ShardIndex(index as u16),
                slots: SlotMap::even(count),
                limits: config.limits.clone(),
                auth_methods: auth.names(),
                seed: random()?,
                hash_key,
            },
            interest: Arc::clone(&interest),
            limits: wire_limits(config),
            mesh,
            mark: marks.of(ShardIndex(index as u16)),
            commands: received,
            handle: handle.clone(),
            allow_anonymous: config.listeners.iter().map(|it| it.allow_anonymous).collect(),
            auth: auth.clone(),
            clock,
        };
        let ready = ready.clone();
        let name = format!("shard-{index}");
        let build = move || seed.grow(&ready, &start);
        let thread =
            spawn(runtime, &name, cores.get(index).copied(), build).map_err(BootError::Shard)?;
        shards.push(RunningShard { thread, handle });
        starters.push(starter);
    }
    drop(ready);
    for _ in 0..count {
        if readies.recv_timeout(READY_WITHIN).is_err() {
            drop(starters);
            return Err(BootError::Shard(first_failure(shards)));
        }
    }
    Ok((shards, starters))
}

/// What kept a shard from coming up. Joins only threads that are ending: those that failed, and
/// those whose starter was dropped.
fn first_failure(shards: Vec<RunningShard>) -> io::Error {
    let failed = shards.into_iter().filter_map(|shard| shard.thread.join().err()).next();
    failed.unwrap_or_else(|| io::ErrorKind::TimedOut.into())
}

/// Everything that a shard's thread needs to build its pump.
struct Seed {
    shard: ShardConfig,
    interest: Arc<Interest>,
    limits: WireLimits,
    mesh: MeshEnd,
    mark: OwnMark,
    commands: crossbeam_channel::Receiver<Command>,
    handle: ShardHandle,
    allow_anonymous: Vec<bool>,
    auth: AuthMethods,
    clock: Clock,
}

impl Seed {
    /// Builds the pump on its own thread, says so, and waits for the listeners.
    fn grow(
        self,
        ready: &mpsc::Sender<()>,
        start: &mpsc::Receiver<Vec<Listener>>,
    ) -> io::Result<Pump> {
        let now_ms = self.clock.now().mono_ms;
        let parts = Parts {
            index: self.shard.index,
            slots: self.shard.slots.clone(),
            wire: Wire::new(self.limits, Arc::clone(&self.handle.bell), now_ms)?,
            mesh: self.mesh,
            bell: self.handle.bell,
            commands: self.commands,
            allow_anonymous: self.allow_anonymous,
            auth: self.auth,
            counters: self.handle.counters,
            mark: self.mark,
            pulse: self.handle.pulse,
            clock: self.clock,
        };
        let mut pump = Pump::new(Shard::new(self.shard, self.interest), parts);
        let gone = |_| io::Error::other("the start was called off");
        ready.send(()).map_err(|_| io::Error::other("the start was called off"))?;
        for listener in start.recv().map_err(gone)? {
            pump.wire_mut().listen(listener)?;
        }
        Ok(pump)
    }
}

fn wire_limits(config: &Config) -> WireLimits {
    let ms = |seconds: u32| u64::from(seconds) * 1000;
    WireLimits {
        packet_bytes_max: config.limits.maximum_packet_size_bytes,
        connect_timeout_ms: ms(config.network.connect_timeout_s),
        packet_timeout_ms: ms(config.network.packet_timeout_s),
        write_timeout_ms: ms(config.network.write_timeout_s),
        read_stop_bytes: 2 * config.limits.outgoing_bytes_maximum as usize,
    }
}

/// One core per shard, or none at all if there are more shards than cores: then the scheduler of
/// the system does better than a fixed choice.
fn cores(shards: u16) -> Vec<core_affinity::CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if usize::from(shards) <= cores.len() { cores } else { Vec::new() }
}

type Opened = (Vec<SocketAddr>, Vec<Vec<Listener>>);

/// Opens every address once per shard.
fn open_listeners(
    config: &Config,
    protocols: &[Protocol],
    shards: usize,
) -> Result<Opened, BootError> {
    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
    for (index, (it, protocol)) in config.listeners.iter().zip(protocols).enumerate() {
        let mut address = it.address;
        for of_shard in &mut listeners {
            let opened = Listener::open(address, protocol.clone(), index as u16)
                .and_then(|listener| Ok((listener.local_address()?, listener)));
            let (bound, listener) = opened.map_err(|error| BootError::Listen(address, error))?;
            address = bound;
            of_shard.push(listener);
        }
        addresses.push(address);
    }
    Ok((addresses, listeners))
}

fn random() -> Result<u64, BootError> {
    getrandom::u64().map_err(|_| BootError::Random)
}
