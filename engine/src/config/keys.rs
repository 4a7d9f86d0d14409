//! Every key of the configuration file: its name, unit, range, default and effect.
//!
//! The reader takes what it accepts from these tables, and `docs/CONFIGURATION.md` is held
//! against them by a test; so a key exists in one place.

use std::path::PathBuf;

use petrel_net::certificate::user::CertificateUser;
use petrel_net::tls::{Demand, TlsVersion};
use petrel_shard::Limits;
use petrel_shard::config::QueueFull;

use crate::guard::GuardLimits;
use crate::pump::rate::PublishRate;

mod authenticator;

use super::access::{AccessConfig, Denied};
use super::security::{DEMANDS, RawCertificate, demand, demand_name};
use super::{
    EngineConfig, FdTablesChoice, NetworkLimits, Protocol, RecordLayer, RuntimeChoice,
    StorageConfig, SysConfig, WhenFull,
};
pub(super) use authenticator::AUTHENTICATOR;

/// One key of a section whose values are collected in a `T`.
pub(super) struct Key<T: 'static> {
    /// As it is written in the file.
    pub name: &'static str,
    /// What the number counts; empty for anything but numbers.
    pub unit: &'static str,
    /// Which values there are, and how they get into a `T`.
    pub kind: Kind<T>,
}

/// The type of a key's value.
pub(super) enum Kind<T: 'static> {
    /// A whole number within bounds, both included.
    Integer { min: u64, max: u64, get: fn(&T) -> Option<u64>, set: fn(&mut T, u64) },
    /// `true` or `false`.
    Bool { get: fn(&T) -> Option<bool>, set: fn(&mut T, bool) },
    /// One of a few words. `set` gets one of `names`.
    Choice { names: &'static [&'static str], get: fn(&T) -> Option<String>, set: fn(&mut T, &str) },
    /// Any string.
    Text { set: fn(&mut T, &str) },
    /// A list of strings.
    Texts { set: fn(&mut T, Vec<String>) },
    /// Sections of its own, read by whoever knows their keys.
    Sections,
}

/// The parts of `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct AllLimits {
    /// What the shards keep.
    pub protocol: Limits,
    /// What the sockets keep.
    pub network: NetworkLimits,
    /// What the process keeps.
    pub guard: GuardLimits,
    /// How much a client may publish.
    pub rate: PublishRate,
    /// Memory of the process; 0 for the usual bound.
    pub memory_bytes: u64,
}

/// `[admin]` as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RawAdmin {
    pub address: Option<String>,
    pub tokens: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// A `[[listener]]` as it stands in the file, before its rules are checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RawListener {
    pub name: Option<String>,
    pub protocol: Option<Protocol>,
    pub address: Option<String>,
    pub allow_anonymous: Option<bool>,
    pub authentication: Vec<String>,
    pub connections_maximum: u32,
    pub cert: Option<String>,
    pub key: Option<String>,
    pub record_layer: RecordLayer,
    pub path: Option<String>,
    pub client_certificate: Option<Demand>,
    pub client_ca: Option<String>,
    pub client_crl: Vec<String>,
    pub certificate_user: CertificateUser,
    pub tls_minimum: TlsVersion,
    pub tls_suites: Vec<String>,
    pub tls_groups: Vec<String>,
    pub proxy_protocol: bool,
    pub proxy_trusted: Vec<String>,
}

/// The largest number of shards. Each pair of shards has a ring, so memory grows with the square.
pub(super) const SHARDS_MAX: u64 = 256;

pub(super) const ENGINE: &[Key<EngineConfig>] = &[
    Key {
        name: "shards",
        unit: "",
        kind: Kind::Integer {
            min: 1,
            max: SHARDS_MAX,
            get: |engine| engine.shards.map(u64::from),
            set: |engine, value| engine.shards = Some(narrow(value)),
        },
    },
    Key {
        name: "runtime",
        unit: "",
        kind: Kind::Choice {
            names: RuntimeChoice::NAMES,
            get: |engine| Some(engine.runtime.name().to_owned()),
            set: |engine, name| engine.runtime = RuntimeChoice::from_name(name).unwrap_or_default(),
        },
    },
    Key {
        name: "fd_tables",
        unit: "",
        kind: Kind::Choice {
            names: FdTablesChoice::NAMES,
            get: |engine| Some(engine.fd_tables.name().to_owned()),
            set: |engine, name| {
                engine.fd_tables = FdTablesChoice::from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "ticket_secret",
        unit: "",
        kind: Kind::Text { set: |engine, text| engine.ticket_secret = Some(text.into()) },
    },
    Key {
        name: "control",
        unit: "",
        kind: Kind::Text { set: |engine, text| engine.control = Some(text.into()) },
    },
    Key {
        name: "certificate_warn_days",
        unit: "days",
        kind: Kind::Integer {
            min: 0,
            max: 3650,
            get: |engine| Some(u64::from(engine.certificate_warn_days)),
            set: |engine, value| engine.certificate_warn_days = narrow(value),
        },
    },
];

/// More threads that write help nobody: one lane writes what a core can read.
pub(super) const LANES_MAX: u64 = 16;

pub(super) const STORAGE: &[Key<StorageConfig>] = &[
    Key {
        name: "path",
        unit: "",
        kind: Kind::Text { set: |storage, text| storage.path = Some(text.into()) },
    },
    Key {
        name: "sync",
        unit: "",
        kind: Kind::Choice {
            names: StorageConfig::SYNC_NAMES,
            get: |storage| Some(storage.sync_name().to_owned()),
            set: |storage, name| {
                storage.sync = StorageConfig::sync_from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "sync_interval_ms",
        unit: "milliseconds",
        kind: Kind::Integer {
            min: 1,
            max: 3_600_000,
            get: |storage| Some(u64::from(storage.sync_interval_ms)),
            set: |storage, value| storage.sync_interval_ms = narrow(value),
        },
    },
    Key {
        name: "lanes",
        unit: "",
        kind: Kind::Integer {
            min: 1,
            max: LANES_MAX,
            get: |storage| Some(u64::from(storage.lanes)),
            set: |storage, value| storage.lanes = narrow(value),
        },
    },
    Key {
        name: "disk_limit_bytes",
        unit: "bytes",
        kind: Kind::Integer {
            min: 0,
            max: 1 << 62,
            get: |storage| Some(storage.disk_limit_bytes),
            set: |storage, value| storage.disk_limit_bytes = value,
        },
    },
    Key {
        name: "when_full",
        unit: "",
        kind: Kind::Choice {
            names: &["wait", "refuse"],
            get: |storage| {
                let name = if storage.when_full == WhenFull::Wait { "wait" } else { "refuse" };
                Some(name.to_owned())
            },
            set: |storage, name| {
                storage.when_full =
                    if name == "refuse" { WhenFull::Refuse } else { WhenFull::Wait };
            },
        },
    },
];

/// A numeric key of [`AccessConfig`] that is named like its field.
macro_rules! number_of_access {
    ($field:ident, $min:expr, $max:expr, $unit:expr) => {
        Key {
            name: stringify!($field),
            unit: $unit,
            kind: Kind::Integer {
                min: $min,
                max: $max,
                get: |access| Some(u64::from(access.$field)),
                set: |access, value| access.$field = narrow(value),
            },
        }
    };
}

pub(super) const LISTENER: &[Key<RawListener>] = &[
    Key {
        name: "protocol",
        unit: "",
        kind: Kind::Choice {
            names: Protocol::NAMES,
            get: |_| None,
            set: |listener, name| listener.protocol = Protocol::from_name(name),
        },
    },
    Key {
        name: "address",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.address = Some(text.to_owned()) },
    },
    Key {
        name: "name",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.name = Some(text.to_owned()) },
    },
    Key {
        name: "authentication",
        unit: "",
        kind: Kind::Texts { set: |listener, names| listener.authentication = names },
    },
    Key {
        name: "allow_anonymous",
        unit: "",
        kind: Kind::Bool {
            get: |_| None,
            set: |listener, value| listener.allow_anonymous = Some(value),
        },
    },
    Key {
        name: "connections_maximum",
        unit: "clients",
        kind: Kind::Integer {
            min: 0,
            max: U32_MAX,
            get: |listener| Some(u64::from(listener.connections_maximum)),
            set: |listener, value| listener.connections_maximum = narrow(value),
        },
    },
    Key {
        name: "cert",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.cert = Some(text.to_owned()) },
    },
    Key {
        name: "key",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.key = Some(text.to_owned()) },
    },
    Key {
        name: "record_layer",
        unit: "",
        kind: Kind::Choice {
            names: RecordLayer::NAMES,
            get: |listener| Some(listener.record_layer.name().to_owned()),
            set: |listener, name| {
                listener.record_layer = RecordLayer::from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "path",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.path = Some(text.to_owned()) },
    },
    Key { name: "certificate", unit: "", kind: Kind::Sections },
    Key {
        name: "client_certificate",
        unit: "",
        kind: Kind::Choice {
            names: DEMANDS,
            get: |listener| Some(demand_name(listener.client_certificate).to_owned()),
            set: |listener, name| listener.client_certificate = demand(name),
        },
    },
    Key {
        name: "client_ca",
        unit: "",
        kind: Kind::Text { set: |listener, text| listener.client_ca = Some(text.to_owned()) },
    },
    Key {
        name: "client_crl",
        unit: "",
        kind: Kind::Texts { set: |listener, files| listener.client_crl = files },
    },
    Key {
        name: "certificate_user",
        unit: "",
        kind: Kind::Choice {
            names: CertificateUser::NAMES,
            get: |listener| Some(listener.certificate_user.name().to_owned()),
            set: |listener, name| {
                listener.certificate_user = CertificateUser::from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "tls_minimum",
        unit: "",
        kind: Kind::Choice {
            names: TlsVersion::NAMES,
            get: |listener| Some(listener.tls_minimum.name().to_owned()),
            set: |listener, name| {
                listener.tls_minimum = TlsVersion::from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "tls_suites",
        unit: "",
        kind: Kind::Texts { set: |listener, names| listener.tls_suites = names },
    },
    Key {
        name: "tls_groups",
        unit: "",
        kind: Kind::Texts { set: |listener, names| listener.tls_groups = names },
    },
    Key {
        name: "proxy_protocol",
        unit: "",
        kind: Kind::Bool {
            get: |listener| Some(listener.proxy_protocol),
            set: |listener, value| listener.proxy_protocol = value,
        },
    },
    Key {
        name: "proxy_trusted",
        unit: "",
        kind: Kind::Texts { set: |listener, networks| listener.proxy_trusted = networks },
    },
];

/// The keys of `[[listener.certificate]]`.
pub(super) const CERTIFICATE: &[Key<RawCertificate>] = &[
    Key {
        name: "cert",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.cert = Some(text.to_owned()) },
    },
    Key {
        name: "key",
        unit: "",
        kind: Kind::Text { set: |raw, text| raw.key = Some(text.to_owned()) },
    },
];

/// Threads that check passwords; each takes a check's memory.
const THREADS_MAX: u64 = 64;

/// The keys of `[admin]`.
pub(super) const ADMIN: &[Key<RawAdmin>] = &[
    Key {
        name: "address",
        unit: "",
        kind: Kind::Text { set: |admin, text| admin.address = Some(text.into()) },
    },
    Key {
        name: "tokens",
        unit: "",
        kind: Kind::Text { set: |admin, text| admin.tokens = Some(text.into()) },
    },
    Key {
        name: "cert",
        unit: "",
        kind: Kind::Text { set: |admin, text| admin.cert = Some(text.into()) },
    },
    Key {
        name: "key",
        unit: "",
        kind: Kind::Text { set: |admin, text| admin.key = Some(text.into()) },
    },
];

/// The keys of `[sys]`.
pub(super) const SYS: &[Key<SysConfig>] = &[Key {
    name: "interval_s",
    unit: "seconds",
    kind: Kind::Integer {
        min: 0,
        max: 86_400,
        get: |sys| Some(u64::from(sys.interval_s)),
        // Not above the maximum.
        set: |sys, value| sys.interval_s = value as u32,
    },
}];

pub(super) const ACCESS: &[Key<AccessConfig>] = &[
    Key {
        name: "rules",
        unit: "",
        kind: Kind::Text { set: |access, text| access.rules = Some(text.into()) },
    },
    Key {
        name: "denied_publish",
        unit: "",
        kind: Kind::Choice {
            names: Denied::NAMES,
            get: |access| Some(access.denied_publish.name().to_owned()),
            set: |access, name| {
                access.denied_publish = Denied::from_name(name).unwrap_or_default();
            },
        },
    },
    Key {
        name: "share_client_ids",
        unit: "",
        kind: Kind::Bool {
            get: |access| Some(access.share_client_ids),
            set: |access, value| access.share_client_ids = value,
        },
    },
    number_of_access!(threads, 1, THREADS_MAX, "threads"),
    number_of_access!(waiting_maximum, 1, U32_MAX, "clients"),
    number_of_access!(known_s, 0, 86_400, "seconds"),
    number_of_access!(refused_s, 0, 86_400, "seconds"),
    number_of_access!(known_maximum, 0, U32_MAX, "clients"),
];

/// A numeric key of [`AllLimits`] that is named like its field.
macro_rules! number {
    ($half:ident . $field:ident, $min:expr, $max:expr, $unit:expr) => {
        Key {
            name: stringify!($field),
            unit: $unit,
            kind: Kind::Integer {
                min: $min,
                max: $max,
                get: |limits| Some(u64::from(limits.$half.$field)),
                set: |limits, value| limits.$half.$field = narrow(value),
            },
        }
    };
}

const U16_MAX: u64 = u16::MAX as u64;
const U32_MAX: u64 = u32::MAX as u64;

pub(super) const LIMITS: &[Key<AllLimits>] = &[
    number!(protocol.receive_maximum, 1, U16_MAX, "messages"),
    number!(protocol.maximum_packet_size_bytes, 64, 268_435_460, "bytes"),
    number!(protocol.topic_alias_maximum, 0, U16_MAX, "aliases"),
    number!(protocol.outgoing_topic_alias_maximum, 0, U16_MAX, "aliases"),
    number!(protocol.server_keep_alive_s, 0, U16_MAX, "seconds"),
    number!(protocol.keep_alive_min_s, 0, U16_MAX, "seconds"),
    number!(protocol.keep_alive_max_s, 0, U16_MAX, "seconds"),
    number!(protocol.session_expiry_max_s, 0, U32_MAX, "seconds"),
    number!(protocol.maximum_qos, 0, 2, ""),
    Key {
        name: "retain_available",
        unit: "",
        kind: Kind::Bool {
            get: |limits| Some(limits.protocol.retain_available),
            set: |limits, value| limits.protocol.retain_available = value,
        },
    },
    number!(protocol.session_queue_messages, 0, U32_MAX, "messages"),
    number!(protocol.session_queue_bytes, 0, 1 << 40, "bytes"),
    Key {
        name: "session_queue_full",
        unit: "",
        kind: Kind::Choice {
            names: &["drop_newest", "drop_oldest"],
            get: |limits| {
                Some(match limits.protocol.session_queue_full {
                    QueueFull::DropNewest => "drop_newest".to_owned(),
                    QueueFull::DropOldest => "drop_oldest".to_owned(),
                })
            },
            set: |limits, name| {
                limits.protocol.session_queue_full = match name {
                    "drop_oldest" => QueueFull::DropOldest,
                    _ => QueueFull::DropNewest,
                };
            },
        },
    },
    number!(protocol.outgoing_inflight_maximum, 1, U16_MAX, "messages"),
    number!(protocol.outgoing_inflight_bytes_maximum, 0, 1 << 40, "bytes"),
    number!(protocol.outgoing_bytes_maximum, 1024, 1 << 30, "bytes"),
    number!(protocol.topic_levels_maximum, 1, U16_MAX, "levels"),
    number!(protocol.topic_bytes_maximum, 1, U16_MAX, "bytes"),
    number!(protocol.client_id_bytes_maximum, 23, U16_MAX, "bytes"),
    number!(protocol.session_subscriptions_maximum, 1, U32_MAX, "subscriptions"),
    number!(protocol.filters_per_subscribe_maximum, 1, U32_MAX, "filters"),
    number!(protocol.retained_messages_maximum, 0, U32_MAX, "messages"),
    number!(protocol.retained_bytes_maximum, 0, 1 << 40, "bytes"),
    number!(protocol.receivers_per_turn, 1, U32_MAX, "receivers"),
    number!(guard.source_clients_maximum, 0, U32_MAX, "clients"),
    number!(guard.user_clients_maximum, 0, U32_MAX, "clients"),
    number!(guard.ban_after_malformed, 0, U32_MAX, "packets"),
    number!(guard.ban_after_connects, 0, U32_MAX, "CONNECTs"),
    number!(guard.ban_within_s, 1, 86_400, "seconds"),
    number!(guard.ban_s, 1, 31_536_000, "seconds"),
    Key {
        name: "memory_bytes",
        unit: "bytes",
        kind: Kind::Integer {
            min: 0,
            max: 1 << 50,
            get: |limits| Some(limits.memory_bytes),
            set: |limits, value| limits.memory_bytes = value,
        },
    },
    number!(rate.publish_messages_per_s, 0, 100_000_000, "messages"),
    number!(rate.publish_messages_burst, 1, 100_000_000, "messages"),
    number!(rate.publish_bytes_per_s, 0, 1 << 40, "bytes"),
    number!(rate.publish_bytes_burst, 1, 1 << 40, "bytes"),
    number!(rate.publish_wait_max_s, 0, 86_400, "seconds"),
    number!(network.connect_timeout_s, 1, 3600, "seconds"),
    number!(network.handshake_timeout_s, 1, 3600, "seconds"),
    number!(network.packet_timeout_s, 1, 3600, "seconds"),
    number!(network.write_timeout_s, 1, 3600, "seconds"),
    number!(network.handshakes_in_flight_maximum, 1, 1_000_000, "handshakes"),
    number!(network.source_connections_per_s, 0, 1_000_000, "connections"),
    number!(network.source_connections_burst, 1, 1_000_000, "connections"),
];

/// The value of a key in `from`, as it would be written in the file.
pub(super) fn value_text<T>(key: &Key<T>, from: &T) -> Option<String> {
    match key.kind {
        Kind::Integer { get, .. } => get(from).map(|value| value.to_string()),
        Kind::Bool { get, .. } => get(from).map(|value| value.to_string()),
        Kind::Choice { get, .. } => get(from).map(|name| format!("\"{name}\"")),
        Kind::Text { .. } | Kind::Texts { .. } | Kind::Sections => None,
    }
}

impl<T> Key<T> {
    /// Takes the value from another.
    pub(super) fn copy(&self, from: &T, to: &mut T) {
        match self.kind {
            Kind::Integer { get, set, .. } => {
                if let Some(value) = get(from) {
                    set(to, value);
                }
            }
            Kind::Bool { get, set } => {
                if let Some(value) = get(from) {
                    set(to, value);
                }
            }
            Kind::Choice { get, set, .. } => {
                if let Some(name) = get(from) {
                    set(to, &name);
                }
            }
            Kind::Text { .. } | Kind::Texts { .. } | Kind::Sections => {}
        }
    }
}

/// A value whose range was checked against its key, in the field's own type.
fn narrow<T: TryFrom<u64>>(value: u64) -> T {
    match T::try_from(value) {
        Ok(value) => value,
        Err(_) => unreachable!("the range of a key fits its field"),
    }
}
