//! TLS on the client's side, small enough for half a million connections.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use petrel_net::tls::compact::{CompactSession, TrafficSecrets, prepare_client};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, RootCertStore,
    SignatureScheme,
};

/// What all TLS connections of a run have in common.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    resumes: bool,
    agreed: Arc<Mutex<BTreeMap<Agreed, u64>>>,
}

/// What a handshake has agreed on, in the names of the standards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Agreed {
    /// Version of TLS.
    pub protocol: String,
    /// Cipher suite.
    pub suite: String,
    /// Group of the key exchange.
    pub group: String,
    /// `full`, `resumed`, or `full, retried` if the broker asked for another group.
    pub handshake: &'static str,
}

/// The TLS layer of one connection.
pub enum Layer {
    /// None.
    Plain,
    /// Not complete yet, or one that the compact layer does not speak.
    Library(Box<Library>),
    /// TLS 1.3 after the handshake.
    Compact(CompactSession),
}

/// A connection of the library.
pub struct Library {
    conn: UnbufferedClientConnection,
    secrets: TrafficSecrets,
    /// Input that is not used up.
    incoming: Vec<u8>,
    waits_for_ticket: bool,
    /// Where what it agrees on is counted, until it has been.
    agreed: Option<Arc<Mutex<BTreeMap<Agreed, u64>>>>,
}

impl TlsClient {
    /// Offers X25519 alone, as devices do: hybrid key exchange costs both sides more.
    ///
    /// # Errors
    /// As [`TlsClient::with_groups`].
    pub fn new(ca: Option<&Path>, resumes: bool, tickets: usize) -> Result<Self, String> {
        Self::with_groups(ca, &[NamedGroup::X25519], resumes, tickets)
    }

    /// Trusts the certificates of a PEM file, or every certificate at all; offers these groups, and a
    /// key share of the first.
    ///
    /// # Errors
    /// The file is no good.
    pub fn with_groups(
        ca: Option<&Path>,
        groups: &[NamedGroup],
        resumes: bool,
        tickets: usize,
    ) -> Result<Self, String> {
        let mut provider = aws_lc_rs::default_provider();
        let known = |name: &NamedGroup| {
            aws_lc_rs::ALL_KX_GROUPS.iter().copied().find(|group| group.name() == *name)
        };
        provider.kx_groups = groups.iter().filter_map(known).collect();
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = match ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                let file = |error| format!("{}: {error:?}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(file)? {
                    roots
                        .add(certificate.map_err(file)?)
                        .map_err(|error| format!("{}: {error}", path.display()))?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
                .with_no_client_auth(),
        };
        config.resumption = match resumes {
            true => Resumption::store(Arc::new(Tickets::new(tickets))),
            false => Resumption::disabled(),
        };
        prepare_client(&mut config);
        let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
        Ok(Self { config: Arc::new(config), name, resumes, agreed: Arc::default() })
    }

    /// Begins a connection; its first bytes go to `wire_out`.
    ///
    /// # Errors
    /// The library refuses.
    pub fn begin(&self, wire_out: &mut Vec<u8>) -> Result<Layer, String> {
        let conn = UnbufferedClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|error| error.to_string())?;
        let mut library = Box::new(Library {
            conn,
            secrets: TrafficSecrets::new(),
            incoming: Vec::new(),
            waits_for_ticket: self.resumes,
            agreed: Some(Arc::clone(&self.agreed)),
        });
        library.step(&mut BytesMut::new(), wire_out)?;
        Ok(Layer::Library(library))
    }

    /// True if sessions are resumed where the broker lets them.
    #[must_use]
    pub fn resumes(&self) -> bool {
        self.resumes
    }

    /// What handshakes have agreed on so far, and how many of them.
    #[must_use]
    pub fn agreed(&self) -> BTreeMap<Agreed, u64> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("resumes", &self.resumes).finish_non_exhaustive()
    }
}

impl Layer {
    /// True if the connection can carry application bytes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Plain | Self::Compact(_) => true,
            Self::Library(library) => !library.conn.is_handshaking(),
        }
    }

    /// Takes bytes from the wire; what they mean goes to `plain`, what is to be answered to
    /// `wire_out`. True if the connection can carry application bytes.
    ///
    /// # Errors
    /// The connection is over.
    pub fn read(
        &mut self,
        wire: &mut [u8],
        plain: &mut BytesMut,
        wire_out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        match self {
            Self::Plain => {
                plain.extend_from_slice(wire);
                Ok(true)
            }
            Self::Compact(session) => match session.read(wire, plain, wire_out) {
                Ok(false) => Ok(true),
                Ok(true) => Err("the broker closed TLS".to_owned()),
                Err(fault) => Err(fault.to_string()),
            },
            Self::Library(library) => {
                library.incoming.extend_from_slice(wire);
                library.step(plain, wire_out)?;
                let ready = !library.conn.is_handshaking();
                if ready {
                    library.count();
                }
                if ready && library.may_shrink() {
                    self.shrink(plain, wire_out)?;
                }
                Ok(ready)
            }
        }
    }

    /// Wraps application bytes.
    ///
    /// # Errors
    /// The connection is over.
    pub fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Plain => wire_out.extend_from_slice(plain),
            Self::Compact(session) => {
                session.write(plain, wire_out).map_err(|fault| fault.to_string())?;
            }
            Self::Library(library) => library.write(plain, wire_out)?,
        }
        Ok(())
    }

    /// Leaves the library behind.
    fn shrink(&mut self, plain: &mut BytesMut, wire_out: &mut Vec<u8>) -> Result<(), String> {
        let Self::Library(library) = std::mem::replace(self, Self::Plain) else { return Ok(()) };
        let Library { conn, secrets, mut incoming, .. } = *library;
        let mut session =
            CompactSession::from_client(conn, secrets).map_err(|error| error.to_string())?;
        session.read(&mut incoming, plain, wire_out).map_err(|fault| fault.to_string())?;
        *self = Self::Compact(session);
        Ok(())
    }
}

impl Library {
    /// Counts what was agreed on, once.
    fn count(&mut self) {
        let Some(counts) = self.agreed.take() else { return };
        let named = |name: Option<String>| name.unwrap_or_else(|| "none".to_owned());
        let conn = &self.conn;
        let agreed = Agreed {
            protocol: named(conn.protocol_version().map(|it| format!("{it:?}"))),
            suite: named(conn.negotiated_cipher_suite().map(|it| format!("{:?}", it.suite()))),
            group: named(conn.negotiated_key_exchange_group().map(|it| format!("{:?}", it.name()))),
            handshake: match conn.handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                Some(HandshakeKind::FullWithHelloRetryRequest) => "full, retried",
                _ => "full",
            },
        };
        *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(agreed).or_default() += 1;
    }

    fn may_shrink(&self) -> bool {
        CompactSession::accepts(&self.conn)
            && (!self.waits_for_ticket || self.conn.tls13_tickets_received() > 0)
    }

    fn step(&mut self, plain: &mut BytesMut, wire_out: &mut Vec<u8>) -> Result<(), String> {
        let Self { conn, secrets, incoming, .. } = self;
        loop {
            let UnbufferedStatus { mut discard, state } =
                secrets.capture(|| conn.process_tls_records(incoming));
            let mut blocked = false;
            match state.map_err(|error| error.to_string())? {
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = wire_out.len();
                    wire_out.resize(at + 4096, 0);
                    let encoded = match data.encode(&mut wire_out[at..]) {
                        Err(EncodeError::InsufficientSize(needed)) => {
                            wire_out.resize(at + needed.required_size, 0);
                            data.encode(&mut wire_out[at..])
                        }
                        other => other,
                    };
                    let bytes = encoded.map_err(|error| error.to_string())?;
                    wire_out.truncate(at + bytes);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| error.to_string())?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                    blocked = true;
                }
                other => return Err(format!("the broker ended TLS: {other:?}")),
            }
            incoming.drain(..discard);
            if blocked {
                if incoming.is_empty() {
                    *incoming = Vec::new();
                }
                return Ok(());
            }
        }
    }

    fn write(&mut self, plain: &[u8], wire_out: &mut Vec<u8>) -> Result<(), String> {
        let Self { conn, incoming, .. } = self;
        let UnbufferedStatus { state, .. } = conn.process_tls_records(incoming);
        match state.map_err(|error| error.to_string())? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let at = wire_out.len();
                wire_out.resize(at + plain.len() + 256, 0);
                let bytes = traffic
                    .encrypt(plain, &mut wire_out[at..])
                    .map_err(|error| format!("{error:?}"))?;
                wire_out.truncate(at + bytes);
                Ok(())
            }
            other => Err(format!("TLS cannot write: {other:?}")),
        }
    }
}

/// Tickets of all connections of a run; any of them does for any connection.
struct Tickets {
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
    group: Mutex<Option<NamedGroup>>,
    most: usize,
}

impl Tickets {
    fn new(most: usize) -> Self {
        Self { tickets: Mutex::new(VecDeque::new()), group: Mutex::new(None), most }
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _name: ServerName<'static>, group: NamedGroup) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
    }

    fn kx_hint(&self, _name: &ServerName<'_>) -> Option<NamedGroup> {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() < self.most {
            tickets.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Accepts any certificate; the signature of the handshake is checked, for it is part of the cost.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
