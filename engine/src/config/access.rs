//! `[access]` and `[[authenticator]]`: who clients are and what they may do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel_access::desk::Check;
use petrel_access::tokens::Claims;
use petrel_access::{Checks, Passwords, Settings, Tokens, passwords, rules as rule_files};
use petrel_shard::Access;
use petrel_shard::access::Rules;

use super::problem::Problems;
use super::read::Places;
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

/// `[[authenticator]]`: one way to find out who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticator {
    /// As listeners name it.
    pub name: String,
    /// What it is.
    pub kind: AuthenticatorKind,
}

/// What an authenticator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthenticatorKind {
    /// A file of users, its path resolved.
    Passwords(PathBuf),
    /// A file of keys that sign tokens, its path resolved, and what tokens have to say.
    Jwt(PathBuf, Claims),
    /// The client's own certificate.
    Certificate,
}

/// An `[[authenticator]]` as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RawAuthenticator {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub file: Option<PathBuf>,
    pub claims: Claims,
}

impl RawAuthenticator {
    pub const KINDS: &'static [&'static str] = &["passwords", "jwt", "certificate"];
    /// The keys that only tokens have a use for.
    const OF_JWT: &'static [&'static str] =
        &["issuer", "audience", "user_claim", "groups_claim", "rights_claim"];
}

/// An `[[authenticator]]` and where it stands in the text.
pub(super) struct PlacedAuthenticator {
    pub raw: RawAuthenticator,
    /// Offset of its header.
    pub at: usize,
    /// Offset of each value that it has.
    pub places: Places,
}

/// Checks every authenticator, with the file that it names.
pub(super) fn authenticators(
    placed: Vec<PlacedAuthenticator>,
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Authenticator> {
    let mut found: Vec<Authenticator> = Vec::new();
    for PlacedAuthenticator { raw, at, places } in placed {
        let by_certificate = raw.kind.as_deref() == Some("certificate");
        for key in ["name", "kind", "file"] {
            let is_needless = by_certificate && key == "file";
            if !places.contains_key(key) && !is_needless {
                problems.add(at, format!("this [[authenticator]] has no `{key}`"));
            }
        }
        let place = |key: &str| places.get(key).copied().unwrap_or(at);
        let file = raw.file.or_else(|| by_certificate.then(PathBuf::new));
        let (Some(name), Some(file)) = (raw.name, file) else { continue };
        if name.is_empty() || found.iter().any(|other| other.name == name) {
            let text = format!("the name {name:?} is empty, or another authenticator has it");
            problems.add(place("name"), text);
        }
        let file = folder.join(file);
        let kind = match raw.kind.as_deref() {
            Some("jwt") => AuthenticatorKind::Jwt(file, raw.claims),
            other => {
                for key in RawAuthenticator::OF_JWT.iter().filter(|key| places.contains_key(*key)) {
                    problems.add(place(key), format!("`{key}` is for kind = \"jwt\""));
                }
                if other == Some("certificate") {
                    if places.contains_key("file") {
                        let text = "`file` has no use for kind = \"certificate\": the listener's \
                                    `client_ca` says whose certificates count";
                        problems.add(place("file"), text);
                    }
                    AuthenticatorKind::Certificate
                } else {
                    AuthenticatorKind::Passwords(file)
                }
            }
        };
        if let Err(wrong) = kind.read() {
            wrong.into_iter().for_each(|text| problems.add(place("file"), text));
        }
        found.push(Authenticator { name, kind });
    }
    found
}

/// No file of rules or users is as long as this, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// More problems of one file help nobody.
const PROBLEMS_MAX: usize = 20;

impl AuthenticatorKind {
    /// What it knows now.
    fn read(&self) -> Result<Check, Vec<String>> {
        match self {
            Self::Passwords(file) => Ok(Check::Passwords(Arc::new(read_passwords(file)?))),
            Self::Jwt(file, claims) => {
                let text = text_of(file).map_err(|why| vec![why])?;
                let tokens = Tokens::parse(&text, claims.clone())
                    .map_err(|why| vec![format!("{}: {why}", file.display())])?;
                Ok(Check::Tokens(Arc::new(tokens)))
            }
            Self::Certificate => Ok(Check::Certificate),
        }
    }
}

/// The users of a file.
fn read_passwords(file: &Path) -> Result<Passwords, Vec<String>> {
    let text = text_of(file).map_err(|why| vec![why])?;
    Passwords::parse(&text).map_err(|problems| {
        let told = problems.into_iter().take(PROBLEMS_MAX);
        told.map(|passwords::Problem { line, text }| format!("{}:{line}: {text}", file.display()))
            .collect()
    })
}

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

fn text_of(file: &Path) -> Result<String, String> {
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
        for Authenticator { kind, .. } in &self.authenticators {
            checks.push(kind.read().map_err(|problems| problems.join("\n"))?);
        }
        let chain = |listener: &Listener| {
            listener.authentication.iter().map(|&at| checks[at].clone()).collect()
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
