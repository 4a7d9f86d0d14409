//! `[[authenticator]]`: who knows who clients are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel_access::tokens::Claims;
use petrel_access::{Check, OnFailure, Passwords, Terms, Tokens, passwords, scram};

use super::access::{PROBLEMS_MAX, text_of};
use super::problem::Problems;
use super::read::Places;

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
    /// A file of users with verifiers, its path resolved.
    Scram(PathBuf),
    /// Somebody else, who is asked.
    Elsewhere(Elsewhere, Box<RawAuthenticator>),
}

/// What is asked elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// Keys that sign tokens, which are fetched.
    Jwks,
    /// A program over HTTP.
    Http,
    /// A directory.
    Ldap,
    /// A database.
    Postgresql,
}

/// Headers as they stand in the file, which may be secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(pub(super) Vec<String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} headers", self.0.len())
    }
}

/// An `[[authenticator]]` as it stands in the file; its paths are resolved when it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAuthenticator {
    pub(super) name: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) file: Option<PathBuf>,
    pub(super) claims: Claims,
    pub(super) jwks: Option<String>,
    pub(super) refresh_s: u32,
    pub(super) url: Option<String>,
    pub(super) headers: Headers,
    pub(super) header_files: Vec<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) plaintext: bool,
    pub(super) bind_dn: Option<String>,
    pub(super) search_base: Option<String>,
    pub(super) search_filter: Option<String>,
    pub(super) search_dn: Option<String>,
    pub(super) groups_attribute: Option<String>,
    pub(super) starttls: bool,
    pub(super) query: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) tls: bool,
    pub(super) terms: Terms,
    pub(super) connect_timeout_ms: u32,
    /// The folder that relative paths start at.
    pub(super) folder: PathBuf,
}

impl Default for RawAuthenticator {
    fn default() -> Self {
        Self {
            name: None,
            kind: None,
            file: None,
            claims: Claims::default(),
            jwks: None,
            refresh_s: 300,
            url: None,
            headers: Headers::default(),
            header_files: Vec::new(),
            ca: None,
            plaintext: false,
            bind_dn: None,
            search_base: None,
            search_filter: None,
            search_dn: None,
            groups_attribute: None,
            starttls: false,
            query: None,
            password_file: None,
            tls: true,
            terms: Terms::default(),
            connect_timeout_ms: 2_000,
            folder: PathBuf::new(),
        }
    }
}

/// What is wrong with an authenticator, and at which key.
type Wrong = (&'static str, String);

/// Of tokens.
const CLAIMS: &[&str] = &["issuer", "audience", "user_claim", "groups_claim", "rights_claim"];
/// Of whatever is reached over a network.
const REACHED: &[&str] =
    &["ca", "plaintext", "in_flight_maximum", "timeout_ms", "connect_timeout_ms", "on_failure"];
/// Of what has a breaker.
const BREAKER: &[&str] = &["breaker_failures", "breaker_pause_ms"];
const HEADERS: &[&str] = &["headers", "header_files"];
const OF_LDAP: &[&str] = &[
    "url",
    "starttls",
    "bind_dn",
    "search_base",
    "search_filter",
    "search_dn",
    "password_file",
    "groups_attribute",
];

impl RawAuthenticator {
    pub(super) const KINDS: &'static [&'static str] =
        &["passwords", "jwt", "certificate", "scram", "http", "ldap", "postgresql"];

    /// Its kind, and the keys that it has a use for beside `name` and `kind`.
    fn uses(&self) -> (Option<Elsewhere>, &'static str, Vec<&'static [&'static str]>) {
        match (self.kind.as_deref(), &self.jwks) {
            (Some("jwt"), Some(_)) => {
                let own = &["jwks", "refresh_s"];
                (Some(Elsewhere::Jwks), "jwt\" with `jwks", vec![own, CLAIMS, HEADERS, REACHED])
            }
            (Some("jwt"), None) => (None, "jwt\" with `file", vec![&["file"], CLAIMS]),
            // The listener says whose certificates count.
            (Some("certificate"), _) => (None, "certificate", Vec::new()),
            (Some("http"), _) => {
                let all: Vec<&'static [&'static str]> = vec![&["url"], HEADERS, REACHED, BREAKER];
                (Some(Elsewhere::Http), "http", all)
            }
            (Some("ldap"), _) => (Some(Elsewhere::Ldap), "ldap", vec![OF_LDAP, REACHED, BREAKER]),
            (Some("postgresql"), _) => {
                let own = &["url", "query", "password_file", "tls"];
                (Some(Elsewhere::Postgresql), "postgresql", vec![own, REACHED, BREAKER])
            }
            (Some("scram"), _) => (None, "scram", vec![&["file"]]),
            _ => (None, "passwords", vec![&["file"]]),
        }
    }

    /// What it cannot do without.
    fn required(&self, kind: Option<Elsewhere>) -> &'static [&'static str] {
        match kind {
            // It has been said that there is none, or none of that name.
            None if self.kind.is_none() || self.kind.as_deref() == Some("certificate") => &[],
            None => &["file"],
            Some(Elsewhere::Jwks) => &["jwks"],
            Some(Elsewhere::Http) => &["url"],
            Some(Elsewhere::Postgresql) => &["url", "query"],
            Some(Elsewhere::Ldap) if self.search_base.is_some() || self.search_filter.is_some() => {
                &["url", "search_base", "search_filter"]
            }
            Some(Elsewhere::Ldap) => &["url", "bind_dn"],
        }
    }

    /// Rules that concern more than one key.
    fn check(&self, kind: Option<Elsewhere>) -> Result<(), Wrong> {
        let wrong = |key: &'static str, text: &str| Err((key, text.to_owned()));
        if kind == Some(Elsewhere::Jwks) && self.terms.on_failure == OnFailure::Allow {
            return wrong(
                "on_failure",
                "`on_failure` cannot be \"allow\" for jwt: a token that cannot be checked says \
                 nothing of who brings it; write \"refuse\" or \"next\"",
            );
        }
        if kind == Some(Elsewhere::Ldap) && self.bind_dn.is_some() && self.search_base.is_some() {
            return wrong(
                "bind_dn",
                "`bind_dn` and `search_base` are two ways to find an entry; take one out",
            );
        }
        if kind == Some(Elsewhere::Ldap) && self.search_dn.is_some() != self.password_file.is_some()
        {
            let key = if self.search_dn.is_some() { "search_dn" } else { "password_file" };
            return wrong(key, "`search_dn` and `password_file` go together: name both, or none");
        }
        Ok(())
    }

    /// The value of each header, with those that stand in files.
    #[cfg(feature = "http")]
    fn headers(&self) -> Result<Vec<(String, String)>, Wrong> {
        let mut headers = Vec::new();
        for (key, lines) in [("headers", &self.headers.0), ("header_files", &self.header_files)] {
            for line in lines {
                let Some((name, value)) = line.split_once(':') else {
                    let text = format!(
                        "an element of `{key}` has no colon; write it as in \"X-Api-Key: {}\"",
                        if key == "headers" { "value" } else { "key.txt" }
                    );
                    return Err((key, text));
                };
                let value = match key {
                    "header_files" => secret_of(&self.folder.join(value.trim()))
                        .map_err(|why| ("header_files", why))?,
                    _ => value.trim().to_owned(),
                };
                headers.push((name.trim().to_owned(), value));
            }
        }
        Ok(headers)
    }

    #[cfg(any(feature = "http", feature = "ldap", feature = "postgresql"))]
    fn ca(&self) -> Result<Option<String>, Wrong> {
        let ca = self.ca.as_ref().map(|file| text_of(&self.folder.join(file)));
        ca.transpose().map_err(|why| ("ca", why))
    }

    #[cfg(any(feature = "ldap", feature = "postgresql"))]
    fn password(&self) -> Result<Option<String>, Wrong> {
        let password = self.password_file.as_ref().map(|file| secret_of(&self.folder.join(file)));
        password.transpose().map_err(|why| ("password_file", why))
    }

    #[cfg(feature = "http")]
    fn address(&self, url: &Option<String>) -> Result<petrel_access::http::Address, Wrong> {
        Ok(petrel_access::http::Address {
            url: url.clone().unwrap_or_default(),
            headers: self.headers()?,
            ca: self.ca()?,
            connect_timeout_ms: self.connect_timeout_ms,
            plaintext: self.plaintext,
        })
    }
}

/// The one line of a file that holds a secret.
#[cfg(any(feature = "http", feature = "ldap", feature = "postgresql"))]
fn secret_of(file: &Path) -> Result<String, String> {
    let text = text_of(file)?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() || secret.contains(['\n', '\r']) {
        return Err(format!("{} must hold one line, the secret", file.display()));
    }
    Ok(secret.to_owned())
}

/// An `[[authenticator]]` and where it stands in the text.
pub(super) struct PlacedAuthenticator {
    pub raw: RawAuthenticator,
    /// Offset of its header.
    pub at: usize,
    /// Offset of each value that it has.
    pub places: Places,
}

/// Checks every authenticator, with the files that it names.
pub(super) fn authenticators(
    placed: Vec<PlacedAuthenticator>,
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Authenticator> {
    let mut found: Vec<Authenticator> = Vec::new();
    for PlacedAuthenticator { mut raw, at, places } in placed {
        let before = problems.len();
        let (elsewhere, title, uses) = raw.uses();
        let required = ["name", "kind"].iter().chain(raw.required(elsewhere));
        for key in required.filter(|key| !places.contains_key(*key)) {
            let or = match (raw.kind.as_deref(), *key) {
                (Some("jwt"), "file") => " and no `jwks`",
                (Some("ldap"), "bind_dn") => ", and no `search_base` with `search_filter`",
                _ => "",
            };
            problems.add(at, format!("this [[authenticator]] has no `{key}`{or}"));
        }
        let place = |key: &str| places.get(key).copied().unwrap_or(at);
        let is_of_use = |key: &str| {
            ["name", "kind"].contains(&key) || uses.iter().any(|keys| keys.contains(&key))
        };
        if raw.kind.is_some() {
            for key in places.keys().filter(|key| !is_of_use(key)) {
                let text = format!("`{key}` has no use for kind = \"{}", end_of(title));
                problems.add(place(key), text);
            }
        }
        if let Err((key, text)) = raw.check(elsewhere) {
            problems.add(place(key), text);
        }
        let Some(name) = raw.name.clone() else { continue };
        if name.is_empty() || found.iter().any(|other| other.name == name) {
            let text = format!("the name {name:?} is empty, or another authenticator has it");
            problems.add(place("name"), text);
        }
        raw.folder = folder.to_path_buf();
        let kind = match (raw.kind.as_deref(), elsewhere, &raw.file) {
            (_, Some(elsewhere), _) => AuthenticatorKind::Elsewhere(elsewhere, Box::new(raw)),
            (Some("certificate"), ..) => AuthenticatorKind::Certificate,
            (Some("jwt"), None, Some(file)) => {
                AuthenticatorKind::Jwt(folder.join(file), raw.claims)
            }
            (Some("scram"), None, Some(file)) => AuthenticatorKind::Scram(folder.join(file)),
            (_, None, Some(file)) => AuthenticatorKind::Passwords(folder.join(file)),
            (_, None, None) => continue,
        };
        let authenticator = Authenticator { name, kind };
        if problems.len() == before
            && let Err(wrong) = authenticator.read()
        {
            wrong.into_iter().for_each(|(key, text)| problems.add(place(key), text));
        }
        found.push(authenticator);
    }
    found
}

/// The end of a kind's title, with its quotes.
fn end_of(title: &str) -> String {
    if title.contains('`') { format!("{title}`") } else { format!("{title}\"") }
}

impl Authenticator {
    /// What it knows now.
    pub(super) fn read(&self) -> Result<Check, Vec<Wrong>> {
        match &self.kind {
            AuthenticatorKind::Passwords(file) => {
                let passwords = read_passwords(file);
                let passwords = passwords.map_err(|all| {
                    all.into_iter().map(|text| ("file", text)).collect::<Vec<_>>()
                })?;
                Ok(Check::Passwords(Arc::new(passwords)))
            }
            AuthenticatorKind::Jwt(file, claims) => {
                let text = text_of(file).map_err(|why| vec![("file", why)])?;
                let tokens = Tokens::parse(&text, claims.clone())
                    .map_err(|why| vec![("file", format!("{}: {why}", file.display()))])?;
                Ok(Check::Tokens(Arc::new(tokens)))
            }
            AuthenticatorKind::Certificate => Ok(Check::Certificate),
            AuthenticatorKind::Scram(file) => {
                let text = text_of(file).map_err(|why| vec![("file", why)])?;
                let users = scram::Users::parse(&text).map_err(|wrong| {
                    let told = wrong.into_iter().take(PROBLEMS_MAX);
                    told.map(|(line, why)| ("file", format!("{}:{line}: {why}", file.display())))
                        .collect::<Vec<_>>()
                })?;
                Ok(Check::Scram(Arc::new(users)))
            }
            AuthenticatorKind::Elsewhere(kind, raw) => {
                check_of(*kind, &self.name, raw).map_err(|wrong| vec![wrong])
            }
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

/// Who is asked elsewhere, not yet asked.
fn check_of(kind: Elsewhere, name: &str, raw: &RawAuthenticator) -> Result<Check, Wrong> {
    #[cfg(any(feature = "http", feature = "ldap", feature = "postgresql"))]
    let back_end = |kind| {
        let back_end = petrel_access::BackEnd::new(name.to_owned(), raw.terms, kind);
        Check::Asks(Arc::new(back_end))
    };
    match kind {
        #[cfg(feature = "http")]
        Elsewhere::Jwks => {
            let source = petrel_access::jwks::Source {
                address: raw.address(&raw.jwks)?,
                refresh_ms: u64::from(raw.refresh_s) * 1000,
                claims: raw.claims.clone(),
            };
            let fetched = petrel_access::jwks::Fetched::new(name.to_owned(), raw.terms, source);
            fetched.map(|it| Check::Fetched(Arc::new(it))).map_err(|why| ("jwks", why))
        }
        #[cfg(feature = "http")]
        Elsewhere::Http => {
            let address = raw.address(&raw.url)?;
            let http = petrel_access::http::Http::new(&address, raw.terms.in_flight_max);
            let http = http.map_err(|why| ("url", why))?;
            Ok(back_end(petrel_access::back_end::Kind::Http(http)))
        }
        #[cfg(feature = "ldap")]
        Elsewhere::Ldap => {
            use petrel_access::ldap::{Directory, Find, Ldap};
            let find = match (&raw.bind_dn, &raw.search_base, &raw.search_filter) {
                (Some(name), ..) => Find::Name(name.clone()),
                (None, base, filter) => Find::Search {
                    base: base.clone().unwrap_or_default(),
                    filter: filter.clone().unwrap_or_default(),
                    as_whom: raw.search_dn.clone().zip(raw.password()?),
                },
            };
            let directory = Directory {
                url: raw.url.clone().unwrap_or_default(),
                starttls: raw.starttls,
                find,
                groups_attribute: raw.groups_attribute.clone(),
                ca: raw.ca()?,
                connect_timeout_ms: raw.connect_timeout_ms,
                plaintext: raw.plaintext,
            };
            let ldap = Ldap::new(directory).map_err(|why| ("url", why))?;
            Ok(back_end(petrel_access::back_end::Kind::Ldap(ldap)))
        }
        #[cfg(feature = "postgresql")]
        Elsewhere::Postgresql => {
            use petrel_access::postgresql::{Database, Postgresql};
            let database = Database {
                url: raw.url.clone().unwrap_or_default(),
                password: raw.password()?,
                query: raw.query.clone().unwrap_or_default(),
                tls: raw.tls,
                ca: raw.ca()?,
                connect_timeout_ms: raw.connect_timeout_ms,
                timeout_ms: raw.terms.timeout_ms,
                plaintext: raw.plaintext,
            };
            let database = Postgresql::new(&database).map_err(|why| ("url", why))?;
            Ok(back_end(petrel_access::back_end::Kind::Postgresql(database)))
        }
        #[cfg(not(all(feature = "http", feature = "ldap", feature = "postgresql")))]
        #[allow(unreachable_patterns, reason = "which kinds are left depends on the features")]
        other => {
            let _ = (name, raw);
            let (what, feature) = match other {
                Elsewhere::Jwks => ("`jwks`", "http"),
                Elsewhere::Http => ("kind = \"http\"", "http"),
                Elsewhere::Ldap => ("kind = \"ldap\"", "ldap"),
                Elsewhere::Postgresql => ("kind = \"postgresql\"", "postgresql"),
            };
            let key = if other == Elsewhere::Jwks { "jwks" } else { "kind" };
            let text = format!(
                "{what} is not in this build of Petrel; build it with the cargo feature `{feature}`"
            );
            Err((key, text))
        }
    }
}

impl fmt::Display for Authenticator {
    /// Its name, what it is, and where.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.kind {
            AuthenticatorKind::Passwords(file) => {
                write!(f, "{name}, passwords in {}", file.display())
            }
            AuthenticatorKind::Jwt(file, _) => {
                write!(f, "{name}, tokens, keys in {}", file.display())
            }
            AuthenticatorKind::Certificate => write!(f, "{name}, certificates of clients"),
            AuthenticatorKind::Scram(file) => {
                write!(f, "{name}, SCRAM-SHA-256, users in {}", file.display())
            }
            AuthenticatorKind::Elsewhere(kind, raw) => {
                let (what, url) = match kind {
                    Elsewhere::Jwks => ("tokens, keys from", &raw.jwks),
                    Elsewhere::Http => ("HTTP", &raw.url),
                    Elsewhere::Ldap => ("LDAP", &raw.url),
                    Elsewhere::Postgresql => ("PostgreSQL", &raw.url),
                };
                // What stands behind the host may be a key.
                let url = url.as_deref().unwrap_or_default();
                let host = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
                let host = host.split(['?', '#']).next().unwrap_or_default();
                write!(f, "{name}, {what} {host}, on failure {}", raw.terms.on_failure.name())
            }
        }
    }
}

#[cfg(test)]
mod tests;
