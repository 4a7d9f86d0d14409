//! The configuration: one TOML file, read once at start, refused as a whole if anything in it is
//! wrong.
//!
//! `docs/CONFIGURATION.md` documents every key. The tables in [`keys`] say which keys there are,
//! [`read`] turns text into values and finds what is wrong with each, and [`check`] holds the
//! rules that concern more than one key. Nothing here opens a port.

pub mod access;
mod admin;
mod authenticator;
mod change;
mod check;
mod keys;
mod log;
mod problem;
mod read;
pub mod security;
mod summary;

use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use petrel_net::tls::RecordLayer;
use petrel_shard::Limits;
pub use petrel_storage::SyncLevel;

use crate::guard::GuardLimits;
pub use crate::log::LogConfig;
use crate::pump::rate::PublishRate;

pub use access::AccessConfig;
pub use admin::AdminConfig;
pub use authenticator::{Authenticator, AuthenticatorKind, Elsewhere};
pub use problem::{ConfigError, Problem};
pub use security::Security;

/// Everything that the file decides, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[engine]`.
    pub engine: EngineConfig,
    /// One per `[[listener]]`, in the file's order; at least one.
    pub listeners: Vec<Listener>,
    /// `[limits]`, as far as the shards keep them.
    pub limits: Limits,
    /// `[limits]`, as far as the sockets keep them.
    pub network: NetworkLimits,
    /// `[limits]`, as far as the process keeps them, without those of listeners.
    pub guard: GuardLimits,
    /// `[limits]`, as far as they are about how much a client publishes.
    pub rate: PublishRate,
    /// `[limits]` `memory_bytes`: memory of the process, 0 for the usual bound.
    pub memory_bytes: u64,
    /// `[storage]`.
    pub storage: StorageConfig,
    /// `[access]`.
    pub access: AccessConfig,
    /// One per `[[authenticator]]`.
    pub authenticators: Vec<Authenticator>,
    /// `[admin]`, if it listens anywhere.
    pub admin: Option<AdminConfig>,
    /// `[log]`.
    pub log: LogConfig,
    /// `[sys]`.
    pub sys: SysConfig,
}

/// `[sys]`: what the broker publishes of itself under `$SYS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SysConfig {
    /// How often, in seconds; 0 for never.
    pub interval_s: u32,
}

/// `[engine]`: how the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// The number of shards; `None` means one per core that this process may use.
    pub shards: Option<u16>,
    /// What drives a shard.
    pub runtime: RuntimeChoice,
    /// Whose file table a shard's connections stand in.
    pub fd_tables: FdTablesChoice,
    /// The file of the secret behind TLS session tickets, its path resolved; `None` means one that
    /// lives as long as the process.
    pub ticket_secret: Option<PathBuf>,
    /// The folder by which `petrelctl` reaches the broker, its path resolved; `None` means that of the storage.
    pub control: Option<PathBuf>,
    /// So many days before a certificate ends, the log says so.
    pub certificate_warn_days: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            shards: None,
            runtime: RuntimeChoice::default(),
            fd_tables: FdTablesChoice::default(),
            ticket_secret: None,
            control: None,
            certificate_warn_days: 14,
        }
    }
}

/// `[storage]`: what outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// The folder, its path resolved; `None` means that nothing does.
    pub path: Option<PathBuf>,
    /// When what was written is made to survive the machine.
    pub sync: SyncLevel,
    /// How often that is, in milliseconds, with [`SyncLevel::Interval`].
    pub sync_interval_ms: u32,
    /// Threads that write, each to a folder of its own.
    pub lanes: u16,
    /// What the folder may take of its disk, in bytes; 0 for 95 % of the file system, or less
    /// if that is small.
    pub disk_limit_bytes: u64,
    /// What publishers of QoS 1 and 2 get while it is full or fails.
    pub when_full: WhenFull,
}

/// What becomes of messages that cannot be kept at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Their publishers are not read.
    #[default]
    Wait,
    /// MQTT 5 publishers are told 0x97 (Quota exceeded); others are not read.
    Refuse,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            path: None,
            sync: SyncLevel::default(),
            sync_interval_ms: 1_000,
            lanes: 1,
            disk_limit_bytes: 0,
            when_full: WhenFull::default(),
        }
    }
}

impl StorageConfig {
    /// The names of the levels in the file.
    pub const SYNC_NAMES: &'static [&'static str] = &["commit", "interval", "never"];

    /// The level for its name in the file.
    #[must_use]
    pub fn sync_from_name(name: &str) -> Option<SyncLevel> {
        match name {
            "commit" => Some(SyncLevel::Commit),
            "interval" => Some(SyncLevel::Interval),
            "never" => Some(SyncLevel::Never),
            _ => None,
        }
    }

    /// The name of its level in the file.
    #[must_use]
    pub const fn sync_name(&self) -> &'static str {
        match self.sync {
            SyncLevel::Commit => "commit",
            SyncLevel::Interval => "interval",
            SyncLevel::Never => "never",
        }
    }
}

/// What drives a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RuntimeChoice {
    /// Glommio where the system allows io_uring, else epoll.
    #[default]
    Auto,
    /// Glommio, or no start.
    Glommio,
    /// Plain threads with epoll.
    Epoll,
}

/// Whose file table the connections of a shard stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FdTablesChoice {
    /// One for each shard where the limit of open files is low, else one for all.
    #[default]
    Auto,
    /// One for the process.
    Shared,
    /// One for each shard, or no start.
    PerShard,
}

/// `[[listener]]`: one address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What rules call it; its address if it has no name.
    pub name: String,
    /// Who is asked for clients that say who they are, in this order: positions of authenticators.
    pub authentication: Vec<usize>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Where; port 0 takes a free port.
    pub address: SocketAddr,
    /// Whether clients that prove nothing are let in.
    pub allow_anonymous: bool,
    /// Clients that it has at once, at most; 0 for any number.
    pub connections_maximum: u32,
    /// Present exactly for the protocols over TLS.
    pub tls: Option<TlsFiles>,
    /// What protects the records of TLS 1.3; of no meaning without TLS.
    pub record_layer: RecordLayer,
    /// Further certificates, what TLS it speaks, and what it asks of the other end.
    pub security: Security,
    /// The URL path of the protocols over WebSocket, with its leading slash; empty for the others.
    pub path: String,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

/// The PEM files of a listener, with relative paths resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What the sockets keep: times in seconds, and how many connections are begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkLimits {
    /// From accepting to the whole CONNECT.
    pub connect_timeout_s: u32,
    /// From accepting to the end of the TLS handshake.
    pub handshake_timeout_s: u32,
    /// From the first byte of a packet to its last.
    pub packet_timeout_s: u32,
    /// How long bytes may wait for a socket that takes none.
    pub write_timeout_s: u32,
    /// TLS handshakes that one shard has begun and not finished.
    pub handshakes_in_flight_maximum: u32,
    /// Connections that one source address may make per second; 0 for any number.
    pub source_connections_per_s: u32,
    /// Connections that one source address may make at once.
    pub source_connections_burst: u32,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            connect_timeout_s: 10,
            handshake_timeout_s: 8,
            packet_timeout_s: 30,
            write_timeout_s: 60,
            handshakes_in_flight_maximum: 2000,
            source_connections_per_s: 0,
            source_connections_burst: 20,
        }
    }
}

impl Default for Config {
    /// What runs without a file: MQTT and WebSocket on loopback, anonymous clients allowed.
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            listeners: default_listeners(),
            limits: Limits::default(),
            network: NetworkLimits::default(),
            guard: GuardLimits::default(),
            rate: PublishRate::default(),
            memory_bytes: 0,
            storage: StorageConfig::default(),
            access: AccessConfig::default(),
            authenticators: Vec::new(),
            admin: None,
            log: LogConfig::default(),
            sys: SysConfig::default(),
        }
    }
}

impl Config {
    /// The folder by which `petrelctl` reaches the broker.
    #[must_use]
    pub fn control_folder(&self) -> Option<&Path> {
        self.engine.control.as_deref().or(self.storage.path.as_deref())
    }

    /// The memory that the process may have, in bytes; `None` if nobody knows.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        match self.memory_bytes {
            0 => crate::memory::usual_bound(),
            bytes => Some(bytes),
        }
    }

    /// Bounds of the whole process.
    #[must_use]
    pub fn guard_limits(&self) -> GuardLimits {
        let listeners = self.listeners.iter().map(|listener| listener.connections_maximum);
        GuardLimits { listeners: listeners.collect(), ..self.guard.clone() }
    }

    /// Reads and checks a file, certificate files included.
    ///
    /// # Errors
    /// Every problem of the file that can be found at once, each with its place.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        let unreadable = |reason: String| ConfigError::Unreadable { file: name.clone(), reason };
        let io_error = |error: io::Error| unreadable(error.to_string());
        let mut bytes = Vec::new();
        let opened = fs::File::open(file).map_err(io_error)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            unreadable(format!(
                "it is not UTF-8 text (byte {} and after)",
                error.utf8_error().valid_up_to()
            ))
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder)
            .map_err(|problems| ConfigError::Invalid { file: name.clone(), problems })
    }

    /// Checks a text as if it stood in a file of `folder`.
    ///
    /// # Errors
    /// Every problem that can be found at once, in the order of the text.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Vec<Problem>> {
        read::read(text, folder)
    }

    /// The number of shards that will run.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.engine.shards.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            u16::try_from(cores.min(keys::SHARDS_MAX as usize)).unwrap_or(1)
        })
    }
}

impl RuntimeChoice {
    /// The names in the file.
    pub const NAMES: &'static [&'static str] = &["auto", "glommio", "epoll"];

    /// The choice for its name in the file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "glommio" => Some(Self::Glommio),
            "epoll" => Some(Self::Epoll),
            _ => None,
        }
    }

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Glommio => "glommio",
            Self::Epoll => "epoll",
        }
    }
}

impl FdTablesChoice {
    /// The names in the file.
    pub const NAMES: &'static [&'static str] = &["auto", "shared", "per-shard"];

    /// The choice for its name in the file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "shared" => Some(Self::Shared),
            "per-shard" => Some(Self::PerShard),
            _ => None,
        }
    }

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Shared => "shared",
            Self::PerShard => "per-shard",
        }
    }
}

impl Protocol {
    /// The names in the file.
    pub const NAMES: &'static [&'static str] = &["mqtt", "mqtts", "ws", "wss"];

    /// The protocol for its name in the file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "mqtt" => Some(Self::Mqtt),
            "mqtts" => Some(Self::Mqtts),
            "ws" => Some(Self::Ws),
            "wss" => Some(Self::Wss),
            _ => None,
        }
    }

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether it runs over TLS.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether it runs over WebSocket.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// No configuration is as long as this, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The URL path of WebSocket listeners that name none.
const DEFAULT_PATH: &str = "/mqtt";

fn default_listeners() -> Vec<Listener> {
    let on_loopback = |protocol: Protocol, port, path: &str| Listener {
        name: format!("127.0.0.1:{port}"),
        authentication: Vec::new(),
        protocol,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        allow_anonymous: true,
        connections_maximum: 0,
        tls: None,
        record_layer: RecordLayer::default(),
        security: Security::default(),
        path: path.to_owned(),
    };
    vec![on_loopback(Protocol::Mqtt, 1883, ""), on_loopback(Protocol::Ws, 8083, DEFAULT_PATH)]
}

#[cfg(test)]
mod security_tests;
#[cfg(test)]
mod tests;
