//! `[access]`: what clients may do, and how it is found out who they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel_access::{Chain, Checks, Settings, rules as rule_files};
use petrel_shard::Access;
use petrel_shard::access::Rules;

use super::problem::Problems;
use super::{Config, Listener};

/// `[access]`: what clients may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessConfig {
    /// The file of rules, its path resolved; `None` means that everybody may do everything.
    pub rules: Option<PathBuf>,
    /// What becomes of clients that publish what they may not, and cannot be told.
    pub denied_publish: Denied,
    /// Whether a client identifier may be used by other users than the one whose session it is.
    pub share_client_ids: bool,
    /// Threads that check passwords.
    pub threads: u16,
    /// Clients of one shard that wait to be checked.
    pub waiting_maximum: u32,
    /// How long it is known that somebody was let in, in seconds.
    pub known_s: u32,
    /// How long it is known that somebody was not, in seconds.
    pub refused_s: u32,
    /// Clients of which that is known at once.
    pub known_maximum: u32,
}

/// What becomes of a client that publishes what it may not, where it cannot be told: at QoS 0, and before MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denied {
    /// Its message goes nowhere.
    #[default]
    Drop,
    /// It is disconnected as well.
    Disconnect,
}

impl Denied {
    /// The names in the file.
    pub const NAMES: &'static [&'static str] = &["drop", "disconnect"];

    /// The choice for its name in the file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "drop" => Some(Self::Drop),
            "disconnect" => Some(Self::Disconnect),
            _ => None,
        }
    }

    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Disconnect => "disconnect",
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            rules: None,
            denied_publish: Denied::default(),
            share_client_ids: false,
            threads: 1,
            waiting_maximum: 50_000,
            known_s: 300,
            refused_s: 5,
            known_maximum: 1_000_000,
        }
    }
}

/// No file of rules or users is as long as this, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// More problems of one file help nobody.
pub(super) const PROBLEMS_MAX: usize = 20;

/// The rules of a file.
pub(super) fn rules(file: &Path, listeners: &[Listener]) -> Result<Rules, Vec<String>> {
    let text = text_of(file).map_err(|why| vec![why])?;
    let names: Vec<String> = listeners.iter().map(|listener| listener.name.clone()).collect();
    rule_files::parse(&text, &names).map_err(|problems| {
        let mut places = Problems::new(&text);
        for problem in problems.into_iter().take(PROBLEMS_MAX) {
            places.add(problem.offset, problem.text);
        }
        let told = places.into_sorted().into_iter();
        told.map(|it| format!("{}:{}:{}: {}", file.display(), it.line, it.column, it.text))
            .collect()
    })
}

pub(super) fn text_of(file: &Path) -> Result<String, String> {
    let unreadable = |why: &dyn std::fmt::Display| format!("cannot read {}: {why}", file.display());
    let bytes = fs::metadata(file).map_err(|error| unreadable(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(unreadable(&format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    fs::read_to_string(file).map_err(|error| unreadable(&error))
}

impl Config {
    /// What the authenticators know now, for each listener.
    ///
    /// # Errors
    /// What is wrong with their files.
    pub fn read_checks(&self) -> Result<Checks, String> {
        let mut checks = Vec::new();
        for authenticator in &self.authenticators {
            checks.push(authenticator.read().map_err(|problems| {
                let texts: Vec<_> = problems.into_iter().map(|(_, text)| text).collect();
                texts.join("\n")
            })?);
        }
        let chain = |listener: &Listener| Chain {
            listener: listener.name.clone(),
            checks: listener.authentication.iter().map(|&at| checks[at].clone()).collect(),
        };
        Ok(Checks(self.listeners.iter().map(chain).collect()))
    }

    /// The rules as their file has them now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_rules(&self) -> Result<Option<Arc<Rules>>, String> {
        let Some(file) = &self.access.rules else { return Ok(None) };
        let rules = rules(file, &self.listeners).map_err(|problems| problems.join("\n"))?;
        Ok(Some(Arc::new(rules)))
    }

    /// What shards are told of all this.
    #[must_use]
    pub fn shard_access(&self, rules: Option<Arc<Rules>>) -> Access {
        let asks = self.listeners.iter().any(|listener| !listener.authentication.is_empty());
        Access {
            is_on: asks || rules.is_some() || self.engine.control.is_some(),
            rules,
            shares_client_ids: self.access.share_client_ids,
            disconnects: self.access.denied_publish == Denied::Disconnect,
        }
    }

    /// How clients are checked.
    #[must_use]
    pub fn check_settings(&self) -> Settings {
        let AccessConfig { threads, waiting_maximum, known_maximum, .. } = self.access;
        Settings {
            threads,
            waiting_per_shard: waiting_maximum,
            known_ms: u64::from(self.access.known_s) * 1000,
            refused_ms: u64::from(self.access.refused_s) * 1000,
            known_maximum,
        }
    }
}
