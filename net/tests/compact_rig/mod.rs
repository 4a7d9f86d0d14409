//! Both ends of a TLS 1.3 connection in memory, of which one goes over to the compact record layer.
#![allow(dead_code, reason = "each user of this folder needs another part of it")]

mod forger;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock, Mutex};

use petrel_net::tls::compact::{
    CompactSession, HandoverError, TrafficSecrets, prepare_client, prepare_server,
};
use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{
    ClientConnection, Connection, KeyLog, RootCertStore, ServerConnection, Side,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};

pub use forger::{Forger, Opened, contents};

pub const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

pub const ROLES: [Side; 2] = [Side::Server, Side::Client];

/// A certificate, made once: configurations differ in all but that.
struct Identity {
    certificate: rustls_pki_types::CertificateDer<'static>,
    key: Vec<u8>,
    pem: (String, String),
}

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Identity {
        certificate: made.cert.der().clone(),
        key: made.signing_key.serialize_der(),
        pem: (made.cert.pem(), made.signing_key.serialize_pem()),
    }
});

/// The configurations of both ends.
pub struct Site {
    pub server: ServerConfig,
    pub client: ClientConfig,
}

impl Site {
    pub fn new(suite: SupportedCipherSuite) -> Self {
        Self::with_version(suite, &TLS13)
    }

    pub fn with_version(
        suite: SupportedCipherSuite,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut provider = default_provider();
        provider.cipher_suites = vec![suite];
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        let provider = Arc::new(provider);
        let key = PrivatePkcs8KeyDer::from(IDENTITY.key.clone()).into();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![IDENTITY.certificate.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(IDENTITY.certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { server, client }
    }

    /// Prepares the side that goes over; its peer keeps the secrets for a forger.
    fn prepared(mut self, role: Side) -> (Self, Arc<Secrets>) {
        let secrets = Arc::new(Secrets::default());
        match role {
            Side::Server => {
                prepare_server(&mut self.server);
                self.client.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
            }
            Side::Client => {
                prepare_client(&mut self.client);
                self.server.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
            }
        }
        (self, secrets)
    }
}

/// What the peer's key log was told: traffic secret of the client, of the server.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<[Vec<u8>; 2]>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let at = match label {
            "CLIENT_TRAFFIC_SECRET_0" => 0,
            "SERVER_TRAFFIC_SECRET_0" => 1,
            _ => return,
        };
        self.0.lock().unwrap()[at] = secret.to_vec();
    }
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Lets an unbuffered connection use its input up, and collects what it has to say.
macro_rules! process {
    ($conn:expr, $secrets:expr, $input:expr, $out:expr) => {{
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } =
                $secrets.capture(|| $conn.process_tls_records(&mut $input[used..]));
            match state.unwrap() {
                ConnectionState::EncodeTlsData(mut data) => {
                    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                        panic!("nothing to encode")
                    };
                    let start = $out.len();
                    $out.resize(start + size.required_size, 0);
                    data.encode(&mut $out[start..]).unwrap();
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                _ => {
                    used += discard;
                    break;
                }
            }
            used += discard;
        }
        $input.drain(..used);
    }};
}

/// Shakes hands; the compact session in `role`, rustls on the other side, and the secrets of both.
pub fn shaken(
    site: Site,
    role: Side,
) -> (Result<CompactSession, HandoverError>, Connection, Arc<Secrets>) {
    let (site, log) = site.prepared(role);
    let (server, client) = (Arc::new(site.server), Arc::new(site.client));
    let mut secrets = TrafficSecrets::new();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let (session, mut peer) = match role {
        Side::Server => {
            let mut conn = UnbufferedServerConnection::new(server).unwrap();
            let mut peer = Connection::from(ClientConnection::new(client, name()).unwrap());
            while conn.is_handshaking() {
                take_from(&mut peer, &mut input);
                process!(conn, secrets, input, out);
                give_to(&mut peer, &out).unwrap();
                out.clear();
            }
            (CompactSession::from_server(conn, secrets), peer)
        }
        Side::Client => {
            let mut conn = UnbufferedClientConnection::new(client, name()).unwrap();
            let mut peer = Connection::from(ServerConnection::new(server).unwrap());
            shake_client(&mut conn, &mut secrets, &mut peer);
            (CompactSession::from_client(conn, secrets), peer)
        }
    };
    peer.set_buffer_limit(None);
    (session, peer, log)
}

/// Completes the client's side of a handshake.
pub fn shake_client(
    conn: &mut UnbufferedClientConnection,
    secrets: &mut TrafficSecrets,
    peer: &mut Connection,
) {
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        process!(conn, secrets, input, out);
        give_to(peer, &out).unwrap();
        out.clear();
        if !conn.is_handshaking() {
            return;
        }
        take_from(peer, &mut input);
    }
}

/// Shakes hands as a server over a socket; the peer has to be silent until it hears something.
pub fn serve(mut site: Site, stream: &mut TcpStream) -> CompactSession {
    prepare_server(&mut site.server);
    let mut conn = UnbufferedServerConnection::new(Arc::new(site.server)).unwrap();
    let mut secrets = TrafficSecrets::new();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    while conn.is_handshaking() {
        receive(stream, &mut input);
        process!(conn, secrets, input, out);
        stream.write_all(&out).unwrap();
        out.clear();
    }
    CompactSession::from_server(conn, secrets).unwrap()
}

/// Shakes hands as a client over a socket.
pub fn connect(mut site: Site, stream: &mut TcpStream) -> CompactSession {
    prepare_client(&mut site.client);
    let mut conn = UnbufferedClientConnection::new(Arc::new(site.client), name()).unwrap();
    let mut secrets = TrafficSecrets::new();
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        process!(conn, secrets, input, out);
        stream.write_all(&out).unwrap();
        out.clear();
        if !conn.is_handshaking() {
            assert!(input.is_empty());
            return CompactSession::from_client(conn, secrets).unwrap();
        }
        receive(stream, &mut input);
    }
}

fn receive(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).unwrap();
    assert_ne!(count, 0, "the peer has gone");
    input.extend_from_slice(&buffer[..count]);
}

/// The certificate and its key as PEM.
pub fn pem() -> (&'static str, &'static str) {
    (&IDENTITY.pem.0, &IDENTITY.pem.1)
}

pub fn pair(role: Side, suite: SupportedCipherSuite) -> (CompactSession, Connection) {
    let (session, peer, _) = shaken(Site::new(suite), role);
    (session.unwrap(), peer)
}

/// A compact session whose peer is replaced by somebody who has its keys and no scruples.
pub fn forged(role: Side, suite: SupportedCipherSuite) -> (CompactSession, Forger) {
    let mut site = Site::new(suite);
    // The forger starts with record number 0 in both directions.
    site.server.send_tls13_tickets = 0;
    let (session, _, secrets) = shaken(site, role);
    let [client, server] = secrets.0.lock().unwrap().clone();
    let forger = match role {
        Side::Server => Forger::new(suite, &client, &server),
        Side::Client => Forger::new(suite, &server, &client),
    };
    (session.unwrap(), forger)
}

pub fn take_from(peer: &mut Connection, wire: &mut Vec<u8>) {
    while peer.wants_write() {
        peer.write_tls(wire).unwrap();
    }
}

/// Gives bytes to rustls, and returns what it makes of them.
pub fn give_to(peer: &mut Connection, mut wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let mut plain = Vec::new();
    while !wire.is_empty() {
        peer.read_tls(&mut wire).unwrap();
        let waiting = peer.process_new_packets()?.plaintext_bytes_to_read();
        let start = plain.len();
        plain.resize(start + waiting, 0);
        peer.reader().read_exact(&mut plain[start..]).unwrap();
    }
    Ok(plain)
}

pub fn says(peer: &mut Connection, bytes: &[u8]) -> Vec<u8> {
    peer.writer().write_all(bytes).unwrap();
    let mut wire = Vec::new();
    take_from(peer, &mut wire);
    wire
}
