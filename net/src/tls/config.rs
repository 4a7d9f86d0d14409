//! What every TLS connection of a listener has in common.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::NoKeyLog;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::UnixTime;

use super::clients::{ClientCertificates, Clients};
use super::compact;
use super::policy::TlsPolicy;
use super::sni::ByName;
use super::tickets::{EpochTickets, TicketSecret};
use crate::certificate::user::CertificateUser;
use crate::certificate::validity::{Dated, DatedKind, seconds};
use crate::certificate::{self, CertificateWarning, TlsConfigError};

/// The protocol that runs inside TLS, as named in ALPN.
///
/// A client that offers no ALPN is always accepted; one that offers only other names is refused, as
/// RFC 7301 section 3.2 demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsApplication {
    /// MQTT directly inside TLS: ALPN `mqtt`.
    Mqtt,
    /// MQTT over WebSocket over HTTP: ALPN `http/1.1`.
    WebSocket,
}

impl TlsApplication {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Mqtt => b"mqtt",
            Self::WebSocket => b"http/1.1",
        }
    }
}

/// What protects the records of TLS 1.3 connections once their handshake is complete.
///
/// The handshake, and all of TLS 1.2, is the library's in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordLayer {
    /// The library: some 2.4 KB per idle connection.
    #[default]
    Rustls,
    /// [`compact`]: some 150 bytes per idle connection.
    Compact,
}

impl RecordLayer {
    /// The names in the configuration file.
    pub const NAMES: &'static [&'static str] = &["rustls", "compact"];

    /// The record layer for its name in the configuration file.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "rustls" => Some(Self::Rustls),
            "compact" => Some(Self::Compact),
            _ => None,
        }
    }

    /// Its name in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rustls => "rustls",
            Self::Compact => "compact",
        }
    }
}

/// A certificate chain and its key.
#[derive(Debug, Clone, Copy)]
pub struct CertificateFiles<'a> {
    /// PEM file with the chain, the leaf first.
    pub cert: &'a Path,
    /// PEM file with the private key of the leaf.
    pub key: &'a Path,
}

/// All that a [`TlsConfig`] is made from.
#[derive(Debug, Clone, Copy)]
pub struct TlsSettings<'a> {
    /// At least one; a client is shown the one that is for the name it asks for, else the first.
    pub certificates: &'a [CertificateFiles<'a>],
    /// What is spoken inside.
    pub application: TlsApplication,
    /// What protects the records of TLS 1.3.
    pub record_layer: RecordLayer,
    /// Versions, suites, groups.
    pub policy: &'a TlsPolicy,
    /// Whose certificates clients may show, if they are asked for any.
    pub clients: Option<&'a ClientCertificates>,
    /// Where in a client's certificate its user name stands.
    pub user: CertificateUser,
}

/// The TLS settings of one listener: certificates, keys, suites, tickets, clients' certificates.
///
/// Cheap to clone. Connections that were made with an older one keep running when it is replaced.
#[derive(Clone)]
pub struct TlsConfig {
    rustls: Arc<ServerConfig>,
    record_layer: RecordLayer,
    clients: Option<Arc<Clients>>,
    dated: Arc<[Dated]>,
}

impl TlsConfig {
    /// Reads the files of a listener.
    ///
    /// *Errors*: every fault of the files is a [`TlsConfigError`] that names the file. What is outside
    /// its validity period is no error; see [`TlsConfig::dated`].
    pub fn new(settings: &TlsSettings<'_>, secret: &TicketSecret) -> Result<Self, TlsConfigError> {
        let TlsSettings { certificates, application, policy, .. } = *settings;
        let provider = Arc::new(policy.provider());
        let mut dated = Vec::new();
        let mut shown = Vec::new();
        for CertificateFiles { cert, key } in certificates {
            let identity = certificate::load_identity(cert, key, &provider)?;
            dated.push(identity.dated);
            shown.push(identity.certified);
        }
        let clients = settings.clients.map(|it| Clients::load(it, settings.user, &provider));
        let (clients, verifier) = match clients.transpose()? {
            Some((clients, verifier)) => (Some(clients), verifier),
            None => (None, WebPkiClientVerifier::no_client_auth()),
        };
        dated.extend(clients.iter().flat_map(|clients| clients.dated.iter().cloned()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&policy.versions())
            .map_err(|_| TlsConfigError::Provider)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName::new(shown)));
        config.ignore_client_order = true;
        config.alpn_protocols = vec![application.alpn().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let scope = clients.as_ref().map_or(&[][..], |clients| &clients.scope);
        config.ticketer = Arc::new(EpochTickets::new(secret, application.alpn(), scope));
        config.send_tls13_tickets = 1;
        // A replayed CONNECT would take a session over: no early data.
        config.max_early_data_size = 0;
        let record_layer = RecordLayer::default();
        let this = Self { rustls: Arc::new(config), record_layer, clients, dated: dated.into() };
        Ok(this.with_record_layer(settings.record_layer))
    }

    /// Reads the certificate chain (leaf first) and the key of a listener that asks clients for nothing.
    ///
    /// *Errors*: as [`TlsConfig::new`].
    pub fn from_pem_files(
        cert: &Path,
        key: &Path,
        application: TlsApplication,
        secret: &TicketSecret,
    ) -> Result<Self, TlsConfigError> {
        let settings = TlsSettings {
            certificates: &[CertificateFiles { cert, key }],
            application,
            record_layer: RecordLayer::default(),
            policy: &TlsPolicy::default(),
            clients: None,
            user: CertificateUser::default(),
        };
        Self::new(&settings, secret)
    }

    /// The same settings with another record layer; [`RecordLayer::Rustls`] until this is called.
    #[must_use]
    pub fn with_record_layer(mut self, record_layer: RecordLayer) -> Self {
        let config = Arc::make_mut(&mut self.rustls);
        match record_layer {
            RecordLayer::Compact => compact::prepare_server(config),
            RecordLayer::Rustls => {
                config.enable_secret_extraction = false;
                config.key_log = Arc::new(NoKeyLog);
            }
        }
        self.record_layer = record_layer;
        self
    }

    /// Everything of which the files say how long it holds.
    #[must_use]
    pub fn dated(&self) -> &[Dated] {
        &self.dated
    }

    /// What is wrong with the period of the certificates that clients are shown, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<CertificateWarning> {
        let now_s = seconds(UnixTime::now());
        let own = self.dated.iter().filter(|it| it.kind == DatedKind::Certificate);
        own.filter_map(|it| it.warning(now_s)).next()
    }

    pub(super) fn clients(&self) -> Option<Arc<Clients>> {
        self.clients.clone()
    }

    pub(super) fn record_layer(&self) -> RecordLayer {
        self.record_layer
    }

    pub(super) fn rustls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.rustls)
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("record_layer", &self.record_layer)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}
/// What a server of HTTP/1.1 shows its clients: the certificate chain (leaf first) of two PEM files, for a library that
/// drives streams.
///
/// *Errors*: as [`TlsConfig::new`].
pub fn for_streams(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let policy = TlsPolicy::default();
    let provider = Arc::new(policy.provider());
    let identity = certificate::load_identity(cert, key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&policy.versions())
        .map_err(|_| TlsConfigError::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByName::new(vec![identity.certified])));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
