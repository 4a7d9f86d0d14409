//! What the keys of a `[[listener]]` say about TLS and about who is at the other end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel_net::certificate::user::CertificateUser;
use petrel_net::certificate::{PemRole, TlsConfigError};
use petrel_net::proxy::{Network, Proxies};
use petrel_net::tls::{
    CertificateFiles, ClientCertificates, Demand, TicketSecret, TlsApplication, TlsConfig,
    TlsPolicy, TlsSettings,
};

use super::check::PlacedListener;
use super::keys::RawListener;
use super::problem::Problems;
use super::read::Places;
use super::{Listener, Protocol, TlsFiles};

/// What a listener asks of a connection below MQTT, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Certificates beside the first, for clients that ask for their names.
    pub further: Vec<TlsFiles>,
    /// Versions, suites and groups.
    pub policy: TlsPolicy,
    /// Whose certificates clients may show; `None` if they are asked for none.
    pub clients: Option<ClientCertificates>,
    /// Where in a client's certificate its user name stands.
    pub user: CertificateUser,
    /// The proxies that say who clients are; `None` if clients come themselves.
    pub proxies: Option<Arc<Proxies>>,
}

impl Security {
    /// Whether a connection may come with a certificate's name.
    pub(super) fn names_users(&self) -> bool {
        let by_proxy = self.proxies.as_ref().is_some_and(|proxies| proxies.name_users);
        by_proxy || self.user != CertificateUser::Nothing && self.clients.is_some()
    }
}

/// A `[[listener.certificate]]` as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RawCertificate {
    pub cert: Option<String>,
    pub key: Option<String>,
}

/// A `[[listener.certificate]]` and where it stands in the text.
pub(super) struct PlacedCertificate {
    pub raw: RawCertificate,
    /// Offset of its header.
    pub at: usize,
    /// Offset of each value that it has.
    pub places: Places,
}

impl PlacedCertificate {
    fn place(&self, key: &str) -> usize {
        self.places.get(key).copied().unwrap_or(self.at)
    }
}

/// The names of `client_certificate` in the file.
pub(super) const DEMANDS: &[&str] = &["none", "optional", "required"];

/// The demand for its name in the file; none for `"none"`.
pub(super) fn demand(name: &str) -> Option<Demand> {
    match name {
        "optional" => Some(Demand::Optional),
        "required" => Some(Demand::Required),
        _ => None,
    }
}

/// Its name in the file.
pub(super) const fn demand_name(demand: Option<Demand>) -> &'static str {
    match demand {
        None => "none",
        Some(Demand::Optional) => "optional",
        Some(Demand::Required) => "required",
    }
}

/// The keys that only listeners over TLS have a use for.
const OF_TLS: [&str; 10] = [
    "cert",
    "key",
    "certificate",
    "record_layer",
    "client_certificate",
    "client_ca",
    "client_crl",
    "tls_minimum",
    "tls_suites",
    "tls_groups",
];

/// Checks what a listener says about TLS, and the files that it names.
pub(super) fn security(
    placed: &PlacedListener,
    protocol: Protocol,
    folder: &Path,
    problems: &mut Problems,
) -> (Option<TlsFiles>, Security) {
    let mut security = Security { user: placed.raw.certificate_user, ..Security::default() };
    security.proxies = proxies(placed, problems);
    let name = protocol.name();
    if !protocol.is_tls() {
        let secure = if protocol == Protocol::Ws { "wss" } else { "mqtts" };
        for key in OF_TLS.into_iter().filter(|key| placed.places.contains_key(key)) {
            problems.add(
                placed.place(key),
                format!(
                    "`{key}` has no use for protocol \"{name}\", which is not encrypted; \
                     write protocol = \"{secure}\" for TLS, or take `{key}` out"
                ),
            );
        }
        check_user(placed, &security, problems);
        return (None, security);
    }
    for key in ["cert", "key"] {
        if !placed.places.contains_key(key) {
            problems.add(
                placed.at,
                format!("protocol \"{name}\" needs `{key}`, and this [[listener]] has none"),
            );
        }
    }
    let RawListener { tls_minimum, tls_suites, tls_groups, .. } = &placed.raw;
    match TlsPolicy::new(*tls_minimum, tls_suites, &[]) {
        Ok(policy) => security.policy = policy,
        Err(error) => problems.add(placed.place("tls_suites"), error.to_string()),
    }
    match TlsPolicy::new(*tls_minimum, &[], tls_groups) {
        Ok(_) => {}
        Err(error) => problems.add(placed.place("tls_groups"), error.to_string()),
    }
    if let Ok(policy) = TlsPolicy::new(*tls_minimum, tls_suites, tls_groups) {
        security.policy = policy;
    }
    security.clients = clients(placed, folder, problems);
    security.further = further(placed, folder, problems);
    check_user(placed, &security, problems);
    let resolved = |path: &String| folder.join(path);
    let (Some(cert), Some(key)) = (&placed.raw.cert, &placed.raw.key) else {
        return (None, security);
    };
    let files = TlsFiles { cert: resolved(cert), key: resolved(key) };
    // Read the way the listener will, and forgotten.
    let secret = TicketSecret::new([0; 32]);
    let application = TlsApplication::Mqtt;
    let record_layer = placed.raw.record_layer;
    if let Err(error) = load(&files, &security, application, record_layer, &secret) {
        problems.add(at_fault(placed, &security, &error), error.to_string());
    }
    (Some(files), security)
}

/// A key that says what nobody asks for misleads whoever reads it.
fn check_user(placed: &PlacedListener, security: &Security, problems: &mut Problems) {
    if !placed.places.contains_key("certificate_user") || security.clients.is_some() {
        return;
    }
    let text = match (&security.proxies, security.user) {
        (Some(_), CertificateUser::CommonName | CertificateUser::Nothing) => return,
        (Some(_), _) => {
            "of a client's certificate a proxy says only the Common Name; write certificate_user = \
             \"cn\" or \"none\""
        }
        (None, _) => {
            "`certificate_user` has no use here: this [[listener]] asks for no client certificate; \
             write `client_certificate`, or take `certificate_user` out"
        }
    };
    problems.add(placed.place("certificate_user"), text);
}

/// Whoever says where clients come from has to be named.
fn proxies(placed: &PlacedListener, problems: &mut Problems) -> Option<Arc<Proxies>> {
    let mut trusted = Vec::new();
    for text in &placed.raw.proxy_trusted {
        match text.parse::<Network>() {
            Ok(network) => trusted.push(network),
            Err(error) => {
                let shown = crate::log::Escaped(text.as_bytes());
                problems.add(placed.place("proxy_trusted"), format!("\"{shown}\" is {error}"));
            }
        }
    }
    let has_list = placed.places.contains_key("proxy_trusted");
    if placed.raw.proxy_protocol && placed.raw.proxy_trusted.is_empty() {
        let text = "`proxy_protocol` needs `proxy_trusted`, the addresses of the proxies that are \
                    believed, as in proxy_trusted = [\"10.0.0.0/8\"]: whoever may say where clients \
                    come from can be anybody";
        problems.add(placed.place(if has_list { "proxy_trusted" } else { "proxy_protocol" }), text);
    }
    if has_list && !placed.raw.proxy_protocol {
        let text = "`proxy_trusted` has no use without `proxy_protocol = true`";
        problems.add(placed.place("proxy_trusted"), text);
    }
    let name_users = placed.raw.certificate_user == CertificateUser::CommonName;
    placed.raw.proxy_protocol.then(|| Arc::new(Proxies { trusted, name_users }))
}

fn clients(
    placed: &PlacedListener,
    folder: &Path,
    problems: &mut Problems,
) -> Option<ClientCertificates> {
    let Some(demand) = placed.raw.client_certificate else {
        for key in ["client_ca", "client_crl"].iter().filter(|it| placed.places.contains_key(*it)) {
            let text = format!(
                "`{key}` has no use without client certificates; write client_certificate = \
                 \"required\" or \"optional\", or take `{key}` out"
            );
            problems.add(placed.place(key), text);
        }
        return None;
    };
    let Some(ca) = &placed.raw.client_ca else {
        let text = "`client_certificate` needs `client_ca`, the file with the authorities whose \
                    certificates count";
        if !placed.places.contains_key("client_ca") {
            problems.add(placed.place("client_certificate"), text);
        }
        return None;
    };
    let crls = placed.raw.client_crl.iter().map(|path| folder.join(path)).collect();
    Some(ClientCertificates { demand, ca: folder.join(ca), crls })
}

fn further(placed: &PlacedListener, folder: &Path, problems: &mut Problems) -> Vec<TlsFiles> {
    let mut all = Vec::new();
    for PlacedCertificate { raw, at, places } in &placed.certificates {
        for key in ["cert", "key"].iter().filter(|key| !places.contains_key(*key)) {
            problems.add(*at, format!("this [[listener.certificate]] has no `{key}`"));
        }
        if let (Some(cert), Some(key)) = (&raw.cert, &raw.key) {
            all.push(TlsFiles { cert: folder.join(cert), key: folder.join(key) });
        }
    }
    all
}

/// Where to point for a file that cannot be used.
fn at_fault(placed: &PlacedListener, security: &Security, error: &TlsConfigError) -> usize {
    let path = error.path();
    let is = |other: &PathBuf| path == Some(other.as_path());
    if let Some(clients) = &security.clients {
        if is(&clients.ca) {
            return placed.place("client_ca");
        }
        if clients.crls.iter().any(is) {
            return placed.place("client_crl");
        }
    }
    for (files, certificate) in security.further.iter().zip(&placed.certificates) {
        if is(&files.cert) || is(&files.key) {
            return certificate.place(if is(&files.key) { "key" } else { "cert" });
        }
    }
    placed.place(match error {
        TlsConfigError::Unreadable { role: PemRole::PrivateKey, .. }
        | TlsConfigError::TooLarge { role: PemRole::PrivateKey, .. }
        | TlsConfigError::NoKey { .. }
        | TlsConfigError::EncryptedKey { .. }
        | TlsConfigError::UnusableKey { .. }
        | TlsConfigError::KeyMismatch { .. } => "key",
        _ => "cert",
    })
}

fn load(
    first: &TlsFiles,
    security: &Security,
    application: TlsApplication,
    record_layer: petrel_net::tls::RecordLayer,
    secret: &TicketSecret,
) -> Result<TlsConfig, TlsConfigError> {
    let all = std::iter::once(first).chain(&security.further);
    let certificates: Vec<_> =
        all.map(|it| CertificateFiles { cert: &it.cert, key: &it.key }).collect();
    let settings = TlsSettings {
        certificates: &certificates,
        application,
        record_layer,
        policy: &security.policy,
        clients: security.clients.as_ref(),
        user: security.user,
    };
    TlsConfig::new(&settings, secret)
}

impl Listener {
    /// What its TLS connections have in common, as its files are now; `None` without TLS.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load_tls(&self, secret: &TicketSecret) -> Result<Option<TlsConfig>, TlsConfigError> {
        let application = match self.protocol.is_websocket() {
            true => TlsApplication::WebSocket,
            false => TlsApplication::Mqtt,
        };
        let load = |files| load(files, &self.security, application, self.record_layer, secret);
        self.tls.as_ref().map(load).transpose()
    }

    /// All files that [`Listener::load_tls`] reads.
    pub fn tls_files(&self) -> impl Iterator<Item = &Path> {
        let own = self.tls.iter().chain(&self.security.further);
        let own = own.filter(|_| self.tls.is_some()).flat_map(|it| [&it.cert, &it.key]);
        let clients = self.security.clients.iter();
        let clients = clients.flat_map(|it| std::iter::once(&it.ca).chain(&it.crls));
        own.chain(clients).map(PathBuf::as_path)
    }
}
