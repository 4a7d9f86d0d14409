//! The configuration in a few lines, for `--check-config`.

use std::fmt;

use petrel_net::tls::TlsPolicy;

use super::keys::{AllLimits, LIMITS, value_text};
use super::security::demand_name;
use super::{Config, Listener, RecordLayer};
use crate::log::{Destination, Format};

/// Displays what will run; made by [`Config::summary`].
pub struct Summary<'a>(&'a Config);

impl Config {
    /// What will run, in a few lines.
    #[must_use]
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0;
        let shards = config.shard_count();
        let why = if config.engine.shards.is_none() { " (one per core)" } else { "" };
        writeln!(f, "shards: {shards}{why}, runtime: {}", config.engine.runtime.name())?;
        if let Some(path) = &config.engine.ticket_secret {
            writeln!(f, "secret of session tickets: {}", path.display())?;
        }
        match &config.storage.path {
            Some(path) => writeln!(
                f,
                "storage: {}, sync {}, lanes {}",
                path.display(),
                config.storage.sync_name(),
                config.storage.lanes
            )?,
            None => writeln!(f, "storage: none, nothing outlives the process")?,
        }
        for authenticator in &config.authenticators {
            writeln!(f, "authenticator: {authenticator}")?;
        }
        for listener in &config.listeners {
            write!(f, "listener: {listener}")?;
            for (at, &asked) in listener.authentication.iter().enumerate() {
                let name = config.authenticators.get(asked).map_or("", |it| &it.name);
                write!(f, "{}{name}", if at == 0 { ", asks " } else { " and " })?;
            }
            writeln!(f)?;
        }
        if let Some(admin) = &config.admin {
            writeln!(f, "admin interface: {admin}")?;
        }
        if config.log.to != Destination::Stderr || config.log.format != Format::Text {
            write!(f, "log: {} to {}", config.log.format.name(), config.log.to.name())?;
            match &config.log.file {
                Some(file) => writeln!(f, " {}", file.display())?,
                None => writeln!(f)?,
            }
        }
        match &config.access.rules {
            Some(path) => writeln!(f, "rules: {}", path.display())?,
            None => writeln!(f, "rules: none, whoever comes in may do everything")?,
        }
        let defaults = AllLimits::default();
        let chosen = config.all_limits();
        let changed: Vec<_> = LIMITS
            .iter()
            .filter_map(|key| {
                let value = value_text(key, &chosen)?;
                (value_text(key, &defaults)? != value).then(|| format!("{} = {value}", key.name))
            })
            .collect();
        match changed.is_empty() {
            true => write!(f, "limits: all at their defaults"),
            false => write!(f, "limits: {}, the others at their defaults", changed.join(", ")),
        }
    }
}

impl fmt::Display for Listener {
    /// Protocol, address and who is let in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}{}", self.protocol.name(), self.address, self.path)?;
        if let Some(tls) = &self.tls {
            write!(f, ", certificate {}", tls.cert.display())?;
            if self.record_layer != RecordLayer::default() {
                write!(f, ", record layer {}", self.record_layer.name())?;
            }
            match self.security.further.len() {
                0 => {}
                1 => f.write_str(", one further certificate")?,
                more => write!(f, ", {more} further certificates")?,
            }
            if self.security.policy != TlsPolicy::default() {
                write!(f, ", {}", self.security.policy)?;
            }
            if let Some(clients) = &self.security.clients {
                let demand = demand_name(Some(clients.demand));
                write!(f, ", client certificates {demand}, by {}", clients.ca.display())?;
                match clients.crls.is_empty() {
                    true => f.write_str(", without a list of revoked ones")?,
                    false => f.write_str(", revoked ones refused")?,
                }
            }
        }
        if let Some(proxies) = &self.security.proxies {
            let trusted: Vec<_> = proxies.trusted.iter().map(ToString::to_string).collect();
            write!(f, ", behind proxies in {}", trusted.join(" "))?;
        }
        f.write_str(match self.allow_anonymous {
            true => ", anonymous clients allowed",
            false => ", anonymous clients refused",
        })
    }
}
