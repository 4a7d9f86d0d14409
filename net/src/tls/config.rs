//! What every TLS connection of a listener has in common.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{NoKeyLog, SupportedCipherSuite};
use rustls_pki_types::UnixTime;

use super::tickets::{EpochTickets, TicketSecret};
use super::{compact, suites};
use crate::certificate::{self, CertificateWarning, TlsConfigError};

/// Suites in order of preference.
///
/// AES-128 with SHA-256 leads because the key schedule of a handshake is hashing, and SHA-256 has
/// instructions of its own on the CPUs we run on; SHA-384 has not.
static SUITES: [SupportedCipherSuite; 9] = [
    suites::AES_128_GCM,
    suites::CHACHA20_POLY1305,
    suites::AES_256_GCM,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Key exchange groups. The library takes the first that a client has sent a share for, in the order of
/// the client; P-256 stays because many devices send only that share.
static GROUPS: [&dyn SupportedKxGroup; 4] =
    [kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];

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

/// The TLS settings of one listener: certificate, key, suites, tickets.
///
/// Cheap to clone. Connections that were made with an older one keep running when it is replaced.
#[derive(Clone)]
pub struct TlsConfig {
    rustls: Arc<ServerConfig>,
    record_layer: RecordLayer,
    warning: Option<CertificateWarning>,
}

impl TlsConfig {
    /// Reads the certificate chain (leaf first) and the key of a listener.
    ///
    /// *Errors*: every fault of the two files is a [`TlsConfigError`] that names the file. A
    /// certificate outside its validity period is no error; see [`TlsConfig::warning`].
    pub fn from_pem_files(
        cert: &Path,
        key: &Path,
        application: TlsApplication,
        secret: &TicketSecret,
    ) -> Result<Self, TlsConfigError> {
        let provider = provider();
        let identity = certificate::load_identity(cert, key, &provider, UnixTime::now())?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|_| TlsConfigError::Provider)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified)));
        config.ignore_client_order = true;
        config.alpn_protocols = vec![application.alpn().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(EpochTickets::new(secret, application.alpn()));
        config.send_tls13_tickets = 1;
        // A replayed CONNECT would take a session over: no early data.
        config.max_early_data_size = 0;
        Ok(Self {
            rustls: Arc::new(config),
            record_layer: RecordLayer::default(),
            warning: identity.warning,
        })
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

    /// What the operator should be told about the certificate, if anything.
    pub fn warning(&self) -> Option<CertificateWarning> {
        self.warning
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
            .field("warning", &self.warning)
            .finish_non_exhaustive()
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: GROUPS.to_vec(),
        ..default_provider()
    }
}
