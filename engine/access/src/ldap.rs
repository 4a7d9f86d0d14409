//! Directories: a client is who it says if it can bind with its password.
//!
//! What a client says goes into names and filters only escaped. A bind with an empty password succeeds at many
//! directories and proves nothing, so none is ever asked with one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{
    Ldap as Session, LdapConnAsync, LdapConnSettings, LdapError, ResultEntry, Scope, SearchEntry,
    SearchOptions, dn_escape, ldap_escape,
};
use petrel_proto::Text;
use petrel_shard::Identity;
use rustls::ClientConfig;
use tokio::task::AbortHandle;

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

/// A directory that is asked.
pub struct Ldap {
    directory: Directory,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Ldap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ldap")
    }
}

/// A conversation with a directory, which ends with it.
struct Talk {
    session: Session,
    task: AbortHandle,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.task.abort();
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
        let host = match authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        if host.is_empty() || authority.contains('@') || !rest.trim_end_matches('/').eq(authority) {
            return Err("the URL must be a scheme, a host and perhaps a port, as in \
                        \"ldaps://host:636\""
                .to_owned());
        }
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
                ldap3::parse_filter(filter.replace("%u", "x"))
                    .map_err(|_| "`search_filter` is no filter; write it as in \"(uid=%u)\"")?;
            }
            Find::Name(_) => {}
        }
        let tls = is_encrypted.then(|| trust::tls(directory.ca.as_deref())).transpose()?;
        Ok(Self { directory, tls })
    }

    pub(crate) async fn ask(&self, asker: &Asker) -> Result<Heard, Failure> {
        let (Some(user), Some(password)) = (asker.credentials.user_name.as_ref(), asker.password())
        else {
            return Ok(Heard::Next);
        };
        if user.is_empty() {
            return Ok(Heard::Next);
        }
        // Passwords of directories are text, and one that is empty would be a bind as nobody, which succeeds.
        let Some(password) = std::str::from_utf8(password).ok().filter(|it| !it.is_empty()) else {
            return Ok(Heard::IsNot(u64::MAX));
        };
        let mut talk = self.connect().await?;
        let session = &mut talk.session;
        let (dn, mut groups) = match &self.directory.find {
            Find::Name(template) => (name_of(template, user.as_str()), None),
            Find::Search { base, filter, as_whom } => {
                if let Some((dn, password)) = as_whom {
                    match bind(session, dn, password).await? {
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
                let filter = filter_of(filter, user.as_str());
                let entries = self.search(session, base, Scope::Subtree, &filter).await?;
                let mut entries = entries.into_iter();
                match (entries.next(), entries.next()) {
                    (None, _) => return Ok(Heard::Next),
                    (Some(entry), None) if !entry.dn.is_empty() => {
                        let groups = self.groups(&entry);
                        (entry.dn, Some(groups))
                    }
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
        match bind(session, &dn, password).await? {
            Bound::Right => {}
            Bound::Wrong => return Ok(Heard::IsNot(u64::MAX)),
            Bound::Nobody => return Ok(Heard::Next),
        }
        if groups.is_none() && self.directory.groups_attribute.is_some() {
            let own = self.search(session, &dn, Scope::Base, "(objectClass=*)").await?;
            groups = own.first().map(|entry| self.groups(entry));
        }
        let identity = Identity {
            user: user.clone(),
            groups: groups.unwrap_or_default(),
            ..Identity::default()
        };
        Ok(Heard::Is(Arc::new(identity), u64::MAX))
    }

    async fn connect(&self) -> Result<Talk, Failure> {
        let within = Duration::from_millis(self.directory.connect_timeout_ms.into());
        let mut settings = LdapConnSettings::new().set_conn_timeout(within);
        if let Some(tls) = &self.tls {
            settings = settings.set_config(Arc::clone(tls)).set_starttls(self.directory.starttls);
        }
        let connected = LdapConnAsync::with_settings(settings, &self.directory.url).await;
        let (connection, session) = connected.map_err(|error| why(&error))?;
        // What goes wrong with it is said where somebody waits for an answer.
        let task = tokio::spawn(async move { drop(connection.drive().await) }).abort_handle();
        Ok(Talk { session, task })
    }

    async fn search(
        &self,
        session: &mut Session,
        base: &str,
        scope: Scope,
        filter: &str,
    ) -> Result<Vec<SearchEntry>, Failure> {
        const SIZE_LIMIT_EXCEEDED: u32 = 4;
        const NO_SUCH_OBJECT: u32 = 32;
        // No attribute but those that are named; "1.1" is the name of none.
        let wanted = self.directory.groups_attribute.as_deref().unwrap_or("1.1");
        // One would do; two are one too many.
        session.with_search_options(SearchOptions::new().sizelimit(2));
        let found = session.search(base, scope, filter, vec![wanted]).await;
        let result = found.map_err(|error| why(&error))?;
        match result.1.rc {
            0 | SIZE_LIMIT_EXCEEDED => {}
            NO_SUCH_OBJECT if scope == Scope::Base => {}
            code => return Err(refused("the search", code, &result.1.text)),
        }
        let is_entry = |entry: &ResultEntry| !entry.is_ref() && !entry.is_intermediate();
        Ok(result.0.into_iter().filter(is_entry).map(SearchEntry::construct).collect())
    }

    /// The groups of an entry, as they stand there. One that can be none in MQTT is none.
    fn groups(&self, entry: &SearchEntry) -> Vec<Text> {
        let Some(wanted) = &self.directory.groups_attribute else { return Vec::new() };
        let named = entry.attrs.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.flat_map(|(_, values)| values).filter_map(|value| text(value)).collect()
    }
}

/// The name of a user's entry (RFC 4514).
fn name_of(template: &str, user: &str) -> String {
    template.replace("%u", &dn_escape(user))
}

/// The filter for a user (RFC 4515).
fn filter_of(template: &str, user: &str) -> String {
    template.replace("%u", &ldap_escape(user))
}

async fn bind(session: &mut Session, dn: &str, password: &str) -> Result<Bound, Failure> {
    let result = session.simple_bind(dn, password).await.map_err(|error| why(&error))?;
    match result.rc {
        0 => Ok(Bound::Right),
        // Inappropriate authentication, invalid credentials, insufficient rights, unwilling; constraints of a
        // policy of passwords.
        19 | 48 | 49 | 50 | 53 => Ok(Bound::Wrong),
        // No such object, and a name that cannot be one.
        32 | 34 => Ok(Bound::Nobody),
        code => Err(refused("the bind", code, &result.text)),
    }
}

fn refused(what: &str, code: u32, text: &str) -> Failure {
    let text = if text.is_empty() { String::new() } else { format!(": {}", said(text)) };
    Failure(format!("it refuses {what} with result code {code}{text}"))
}

fn why(error: &LdapError) -> Failure {
    let mut text = said(&error.to_string());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = said(&cause.to_string());
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    Failure(text)
}

#[cfg(test)]
mod tests;
