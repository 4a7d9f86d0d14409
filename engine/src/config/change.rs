//! What of a changed configuration a broker that runs can take on.

use super::keys::{AllLimits, LIMITS, value_text};
use super::{Config, Listener};

/// Keys of `[limits]` that a shard or the process looks at whenever they matter. The others are told to clients when
/// they connect, or given to sockets when they are made.
const LIVE: &[&str] = &[
    "outgoing_topic_alias_maximum",
    "keep_alive_min_s",
    "keep_alive_max_s",
    "session_expiry_max_s",
    "session_queue_messages",
    "session_queue_bytes",
    "session_queue_full",
    "outgoing_inflight_maximum",
    "outgoing_inflight_bytes_maximum",
    "outgoing_bytes_maximum",
    "topic_levels_maximum",
    "topic_bytes_maximum",
    "client_id_bytes_maximum",
    "session_subscriptions_maximum",
    "filters_per_subscribe_maximum",
    "retained_messages_maximum",
    "retained_bytes_maximum",
    "receivers_per_turn",
    "source_clients_maximum",
    "user_clients_maximum",
    "ban_after_malformed",
    "ban_after_connects",
    "ban_within_s",
    "ban_s",
    "memory_bytes",
    "publish_messages_per_s",
    "publish_messages_burst",
    "publish_bytes_per_s",
    "publish_bytes_burst",
    "publish_wait_max_s",
];

impl Config {
    pub(super) fn all_limits(&self) -> AllLimits {
        AllLimits {
            protocol: self.limits.clone(),
            network: self.network,
            guard: self.guard.clone(),
            rate: self.rate,
            memory_bytes: self.memory_bytes,
        }
    }

    fn set_limits(&mut self, all: AllLimits) {
        let AllLimits { protocol, network, guard, rate, memory_bytes } = all;
        (self.limits, self.network, self.guard) = (protocol, network, guard);
        (self.rate, self.memory_bytes) = (rate, memory_bytes);
    }

    /// This configuration with all of another that a broker can take on while it runs, and the names of what it
    /// can not.
    #[must_use]
    pub fn taking_on(&self, new: &Self) -> (Self, Vec<String>) {
        let mut taken = self.clone();
        let mut left = Vec::new();
        let mut limits = self.all_limits();
        let wanted = new.all_limits();
        for key in LIMITS {
            if value_text(key, &limits) == value_text(key, &wanted) {
                continue;
            }
            if LIVE.contains(&key.name) {
                key.copy(&wanted, &mut limits);
            } else {
                left.push(format!("[limits] {}", key.name));
            }
        }
        taken.set_limits(limits);
        taken.sys = new.sys;
        let mut is_left = |differs: bool, name: &str| {
            if differs {
                left.push(name.to_owned());
            }
        };
        is_left(self.engine != new.engine, "[engine]");
        is_left(self.storage != new.storage, "[storage]");
        is_left(self.access != new.access, "[access]");
        is_left(self.admin != new.admin, "[admin]");
        let (log, log_is_left) = self.log.taking_on(&new.log);
        taken.log = log;
        is_left(log_is_left, "[log]");
        is_left(self.authenticators != new.authenticators, "[[authenticator]]");
        if self.listeners.len() == new.listeners.len() {
            for (at, one) in taken.listeners.iter_mut().enumerate() {
                // They may stand in another order; several may be for any port.
                let is_same = |wanted: &&Listener| wanted.address == one.address;
                let in_place = new.listeners.get(at).filter(is_same);
                let wanted = in_place.or_else(|| new.listeners.iter().find(is_same));
                let Some(wanted) = wanted else {
                    is_left(true, &format!("[[listener]] {}", one.name));
                    continue;
                };
                let live =
                    Listener { connections_maximum: wanted.connections_maximum, ..one.clone() };
                is_left(live != *wanted, &format!("[[listener]] {}", one.name));
                *one = live;
            }
        } else {
            is_left(true, "the number of [[listener]]s");
        }
        (taken, left)
    }
}
