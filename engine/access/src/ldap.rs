//! Directories: a client is who it says if it can bind with its password.
//!
//! What a client says goes into names and filters only escaped. A bind with an empty password succeeds at many
//! directories and proves nothing, so none is ever asked with one. A directory takes many spellings for one name; a
//! client is let in only by the one that stands in its entry, or rules and bans would not know it by the others.

mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ldap3::asn1::ASNTag;
use ldap3::{dn_escape, ldap_escape, parse_filter};
use petrel_proto::Text;
use petrel_shard::Identity;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::wire::{Entry, Scope, Stream, Talk, refused};
use crate::back_end::{Failure, Heard};
use crate::check::Asker;
use crate::journal::said;
use crate::tokens::text;
use crate::trust;

/// Where a directory is and how users are found in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Directory {
    /// `ldap://` or `ldaps://`, with host and port.
    pub url: String,
    /// Begin TLS on an `ldap://` connection.
    pub starttls: bool,
    /// How the name of a user's entry is found.
    pub find: Find,
    /// The attribute with the groups of a user.
    pub groups_attribute: Option<String>,
    /// Whose certificate it may have, in PEM; those whom the system trusts otherwise.
    pub ca: Option<String>,
    /// How long a connection may take to come about, in milliseconds.
    pub connect_timeout_ms: u32,
    /// It may be on another machine though the connection is not encrypted.
    pub plaintext: bool,
}

/// How the name of a user's entry is found.
#[derive(Clone, PartialEq, Eq)]
pub enum Find {
    /// The name, with `%u` where the user name belongs.
    Name(String),
    /// By a search.
    Search {
        /// Below this entry.
        base: String,
        /// With this filter, with `%u` where the user name belongs.
        filter: String,
        /// As this entry, with this password; as nobody otherwise.
        as_whom: Option<(String, String)>,
    },
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

/// No user of a directory has a name that is longer, in bytes; some end a connection for what is too long.
const USER_BYTES_MAX: usize = 1024;

/// Where a user name stands in an entry: an attribute, and what is before and behind the name in its value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spelling {
    attribute: String,
    before: String,
    behind: String,
}

/// A directory that is asked.
pub struct Ldap {
    directory: Directory,
    /// Where users' names stand; nowhere if the name that is bound with is no entry's.
    spellings: Vec<Spelling>,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Ldap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ldap")
    }
}

/// What the directory says to a name and a password.
enum Bound {
    Right,
    Wrong,
    /// There is no such entry.
    Nobody,
}

impl Ldap {
    /// One that has not been connected to.
    ///
    /// # Errors
    /// A sentence about what is wrong with its address or the way to find users.
    pub fn new(directory: Directory) -> Result<Self, String> {
        let (scheme, rest) = directory.url.split_once("://").unwrap_or_default();
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or_default(),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let usual = if scheme == "ldaps" { 636 } else { 389 };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok(),
            None => port.is_empty().then_some(usual),
        };
        let port = port.filter(|port| *port > 0);
        let is_all = rest.trim_end_matches('/') == authority;
        let (false, false, true, Some(port)) =
            (host.is_empty(), authority.contains('@'), is_all, port)
        else {
            return Err("the URL must be a scheme, a host and perhaps a port, as in \
                        \"ldaps://host:636\""
                .to_owned());
        };
        let is_encrypted = match (scheme, directory.starttls) {
            ("ldaps", true) => {
                return Err(
                    "`starttls` is for ldap://, and the URL begins with ldaps://".to_owned()
                );
            }
            ("ldaps", false) | ("ldap", true) => true,
            ("ldap", false) => false,
            _ => return Err("the URL must begin with ldaps:// or ldap://".to_owned()),
        };
        if !is_encrypted && !directory.plaintext && !trust::is_here(host) {
            return Err("passwords would go over a connection that is not encrypted; write \
                        ldaps://, `starttls = true`, or `plaintext = true` if nobody can listen \
                        on the way"
                .to_owned());
        }
        match &directory.find {
            Find::Name(template) if !template.contains("%u") => {
                return Err("`bind_dn` has no %u, which is the user name".to_owned());
            }
            Find::Search { filter, .. } if !filter.contains("%u") => {
                return Err("`search_filter` has no %u, which is the user name".to_owned());
            }
            Find::Search { filter, .. } => {
                filter_of(filter, "x")
                    .ok_or("`search_filter` is no filter; write it as in \"(uid=%u)\"")?;
            }
            Find::Name(_) => {}
        }
        let spellings = match &directory.find {
            Find::Name(template) => spellings(template, &[',', '+']),
            Find::Search { filter, .. } => spellings(filter, &['(', ')']),
        };
        let has_star = |it: &Spelling| it.before.contains('*') || it.behind.contains('*');
        if spellings.iter().any(has_star) {
            return Err("`search_filter` has a * beside %u, so that a user would have many names"
                .to_owned());
        }
        let tls = is_encrypted.then(|| trust::tls(directory.ca.as_deref())).transpose()?;
        let host = host.to_owned();
        Ok(Self { directory, spellings, host, port, tls })
    }

    pub(crate) async fn ask(&self, asker: &Asker) -> Result<Heard, Failure> {
        let (Some(user), Some(password)) = (asker.credentials.user_name.as_ref(), asker.password())
        else {
            return Ok(Heard::Next(u64::MAX));
        };
        if user.is_empty() || user.len() > USER_BYTES_MAX {
            return Ok(Heard::Next(u64::MAX));
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        if self.spellings.is_empty() && !user.as_str().bytes().all(is_plain) {
            return Ok(Heard::IsNot(u64::MAX));
        }
        // Passwords of directories are text, and one that is empty would be a bind as nobody, which succeeds.
        let Some(password) = std::str::from_utf8(password).ok().filter(|it| !it.is_empty()) else {
            return Ok(Heard::IsNot(u64::MAX));
        };
        let within = Duration::from_millis(self.directory.connect_timeout_ms.into());
        let connected = tokio::time::timeout(within, self.connect()).await;
        let mut talk = connected.unwrap_or_else(|_| {
            let ms = self.directory.connect_timeout_ms;
            Err(Failure(format!("there was no connection within {ms} ms")))
        })?;
        let (dn, mut own) = match &self.directory.find {
            Find::Name(template) => (name_of(template, user.as_str()), None),
            Find::Search { base, filter, as_whom } => {
                if let Some((dn, password)) = as_whom {
                    match bind(&mut talk, dn, password).await? {
                        Bound::Right => {}
                        Bound::Wrong | Bound::Nobody => {
                            return Err(Failure(
                                "it does not take the name or the password that \
                                                Petrel searches with"
                                    .to_owned(),
                            ));
                        }
                    }
                }
                // It has been read before; what is put in is escaped.
                let filter = filter_of(filter, user.as_str())
                    .ok_or_else(|| Failure("the search has no filter".to_owned()))?;
                let entries = self.search(&mut talk, base, Scope::Subtree, &filter).await?;
                let mut entries = entries.into_iter();
                match (entries.next(), entries.next()) {
                    (None, _) => return Ok(Heard::Next(u64::MAX)),
                    (Some(entry), None) if !entry.dn.is_empty() => (entry.dn.clone(), Some(entry)),
                    _ => {
                        return Err(Failure(
                            "the search finds several entries for one user; it \
                                            must find one or none"
                                .to_owned(),
                        ));
                    }
                }
            }
        };
        match bind(&mut talk, &dn, password).await? {
            Bound::Right => {}
            Bound::Wrong => return Ok(Heard::IsNot(u64::MAX)),
            Bound::Nobody => return Ok(Heard::Next(u64::MAX)),
        }
        if own.is_none() && !self.wanted().is_empty() {
            let found = self.search(&mut talk, &dn, Scope::Base, EVERY_ENTRY).await?;
            own = found.into_iter().next();
        }
        if !self.spellings.is_empty() && !self.is_spelled_so(own.as_ref(), user.as_str())? {
            return Ok(Heard::IsNot(u64::MAX));
        }
        let groups = own.map(|entry| self.groups(&entry)).unwrap_or_default();
        let identity = Identity { user: user.clone(), groups, ..Identity::default() };
        Ok(Heard::Is(Arc::new(identity), u64::MAX))
    }

    async fn connect(&self) -> Result<Talk, Failure> {
        let failed = |error: std::io::Error| Failure(said(&error.to_string()));
        let mut stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return Ok(Talk::new(Stream::Plain(stream))) };
        if self.directory.starttls {
            stream = Talk::new(Stream::Plain(stream)).start_tls().await?;
        }
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Failure("its host is no name for TLS".to_owned()))?;
        let connected = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        Ok(Talk::new(Stream::Tls(Box::new(connected.map_err(failed)?))))
    }

    async fn search(
        &self,
        talk: &mut Talk,
        base: &str,
        scope: Scope,
        filter: &[u8],
    ) -> Result<Vec<Entry>, Failure> {
        const SIZE_LIMIT_EXCEEDED: u32 = 4;
        const NO_SUCH_OBJECT: u32 = 32;
        // No attribute but those that are named; "1.1" is the name of none.
        let mut wanted = self.wanted();
        if wanted.is_empty() {
            wanted.push("1.1");
        }
        let (entries, ended) = talk.search(base, scope, filter, &wanted).await?;
        match ended {
            Some(ended) if !matches!(ended.code, 0 | SIZE_LIMIT_EXCEEDED) => match scope {
                Scope::Base if ended.code == NO_SUCH_OBJECT => Ok(entries),
                _ => Err(refused("the search", &ended)),
            },
            _ => Ok(entries),
        }
    }

    /// The attributes that are looked at.
    fn wanted(&self) -> Vec<&str> {
        let names = self.spellings.iter().map(|spelling| spelling.attribute.as_str());
        names.chain(self.directory.groups_attribute.as_deref()).collect()
    }

    /// Whether a user name is written as in the entry.
    fn is_spelled_so(&self, entry: Option<&Entry>, user: &str) -> Result<bool, Failure> {
        let mut is_shown = false;
        for Spelling { attribute, before, behind } in &self.spellings {
            let named = entry.into_iter().flat_map(|entry| &entry.attributes);
            let named = named.filter(|(name, _)| name.eq_ignore_ascii_case(attribute));
            let expected = format!("{before}{user}{behind}");
            for value in named.flat_map(|(_, values)| values) {
                is_shown = true;
                if *value == expected {
                    return Ok(true);
                }
            }
        }
        if is_shown {
            return Ok(false);
        }
        let names: Vec<_> = self.spellings.iter().map(|it| it.attribute.as_str()).collect();
        Err(Failure(format!(
            "the entry of a user does not show its `{}`, so nobody knows how the name is written; let Petrel \
             read that attribute",
            names.join("`, `")
        )))
    }

    /// The groups of an entry, as they stand there. One that can be none in MQTT is none.
    fn groups(&self, entry: &Entry) -> Vec<Text> {
        let Some(wanted) = &self.directory.groups_attribute else { return Vec::new() };
        let named = entry.attributes.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.flat_map(|(_, values)| values).filter_map(|value| text(value)).collect()
    }
}

/// Where `%u` stands in a template of `attribute=value` between these signs.
fn spellings(template: &str, between: &[char]) -> Vec<Spelling> {
    let parts = template.split(between).filter(|part| part.contains("%u"));
    let spelling = |part: &str| {
        let (attribute, value) = part.split_once('=')?;
        // Other ways to match, as in `~=` and `:rule:=`.
        let attribute = attribute.split([':', '~', '<', '>']).next()?.trim();
        let (before, behind) = value.split_once("%u")?;
        let (attribute, before, behind) = (attribute.into(), before.into(), behind.into());
        Some(Spelling { attribute, before, behind })
    };
    parts.filter_map(spelling).collect()
}

/// The name of a user's entry (RFC 4514).
fn name_of(template: &str, user: &str) -> String {
    template.replace("%u", &dn_escape(user))
}

/// The filter for a user (RFC 4515), as it goes to the directory; `None` if the template is none.
fn filter_of(template: &str, user: &str) -> Option<Vec<u8>> {
    let tag = parse_filter(template.replace("%u", &ldap_escape(user))).ok()?;
    let mut bytes = bytes::BytesMut::new();
    lber::write::encode_into(&mut bytes, tag.into_structure()).ok()?;
    Some(bytes.to_vec())
}

/// The filter for whatever has a class, which everything has.
const EVERY_ENTRY: &[u8] = b"\x87\x0bobjectClass";

async fn bind(talk: &mut Talk, dn: &str, password: &str) -> Result<Bound, Failure> {
    let ended = talk.bind(dn, password).await?;
    match ended.code {
        0 => Ok(Bound::Right),
        // Inappropriate authentication, invalid credentials, insufficient rights, unwilling; constraints of a
        // policy of passwords.
        19 | 48 | 49 | 50 | 53 => Ok(Bound::Wrong),
        // No such object, and a name that cannot be one.
        32 | 34 => Ok(Bound::Nobody),
        _ => Err(refused("the bind", &ended)),
    }
}

#[cfg(test)]
mod tests;
