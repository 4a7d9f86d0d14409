//! TLS sessions and their clients, without sockets.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::BytesMut;
use petrel_net::tls::{RecordLayer, TicketSecret, TlsApplication, TlsConfig, TlsSession};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;

use crate::counters::each;
use crate::figure::{Figure, Figures};
use crate::heap::Count;

/// Both record layers, in the order of the figures.
pub const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Compact];

/// Sessions that a state is counted with.
const SESSIONS: u32 = 1000;
/// The C allocator keeps some of what it will use again, more or less of it: bytes per session.
const HEAP_SLACK_BYTES: f64 = 30.0;

/// The settings of a listener and of its clients, TLS 1.3 without resumption.
pub struct Peers {
    server: TlsConfig,
    client: Arc<ClientConfig>,
}

impl Peers {
    /// Settings with a certificate made for them.
    ///
    /// # Errors
    /// The system has no place for files.
    pub fn new() -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = folder.path().join("both.pem");
        std::fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem())
            .map_err(|error| error.to_string())?;
        let secret = TicketSecret::new([1; 32]);
        let server = TlsConfig::from_pem_files(&path, &path, TlsApplication::Mqtt, &secret)
            .map_err(|error| error.to_string())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Ok(Self { server, client: Arc::new(client) })
    }

    /// The settings of the listener, with a record layer.
    pub fn server(&self, layer: RecordLayer) -> TlsConfig {
        self.server.clone().with_record_layer(layer)
    }

    /// A new client.
    pub fn client(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").expect("a valid name");
        ClientConnection::new(Arc::clone(&self.client), name).expect("valid settings")
    }

    /// A session that has answered a ClientHello and waits for the client's last flight.
    pub fn begun(&self, layer: RecordLayer) -> (TlsSession, ClientConnection) {
        let (mut client, mut session) =
            (self.client(), TlsSession::new(&self.server(layer)).expect("valid settings"));
        let (mut wire, mut answer) = (Vec::new(), Vec::new());
        client.write_tls(&mut wire).expect("memory takes it");
        session.read(&mut wire, &mut BytesMut::new(), &mut answer).expect("a good ClientHello");
        client.read_tls(&mut answer.as_slice()).expect("memory gives it");
        client.process_new_packets().expect("a good answer");
        (session, client)
    }

    /// A session that has shaken hands, and its client.
    pub fn shaken(&self, layer: RecordLayer) -> (TlsSession, ClientConnection) {
        let (mut session, mut client) = self.begun(layer);
        let (mut wire, mut answer) = (Vec::new(), Vec::new());
        client.write_tls(&mut wire).expect("memory takes it");
        session.read(&mut wire, &mut BytesMut::new(), &mut answer).expect("a good last flight");
        client.read_tls(&mut answer.as_slice()).expect("memory gives it");
        client.process_new_packets().expect("a good ticket");
        assert!(!session.is_handshaking() && !client.is_handshaking());
        (session, client)
    }

    /// A session that has carried 100 bytes each way.
    fn at_rest(&self, layer: RecordLayer) -> TlsSession {
        let (mut session, mut client) = self.shaken(layer);
        let mut wire = Vec::new();
        session.write(&[2; 100], &mut wire).expect("it can write");
        client.read_tls(&mut wire.as_slice()).expect("memory gives it");
        client.process_new_packets().expect("a good record");
        client.reader().read_exact(&mut [0; 100]).expect("100 bytes");
        let mut wire = record(&mut client, &[3; 100]);
        let mut plain = BytesMut::new();
        session.read(&mut wire, &mut plain, &mut Vec::new()).expect("a good record");
        assert_eq!(plain, vec![3; 100]);
        session
    }
}

/// A record of a client.
pub fn record(client: &mut ClientConnection, plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    client.writer().write_all(plain).expect("memory takes it");
    client.write_tls(&mut wire).expect("memory takes it");
    wire
}

/// Counts the bytes of TLS sessions by state.
///
/// # Errors
/// The system has no place for files.
pub fn count(figures: &mut Figures) -> Result<(), String> {
    let peers = Peers::new()?;
    for layer in LAYERS {
        let name = format!("tls, {} session at rest", layer.name());
        count_sessions(figures, &name, || peers.at_rest(layer));
    }
    let name = "tls, handshake in flight";
    count_sessions(figures, name, || peers.begun(RecordLayer::Rustls).0);
    Ok(())
}

fn count_sessions(figures: &mut Figures, name: &str, make: impl Fn() -> TlsSession) {
    let mut held = Vec::with_capacity(SESSIONS as usize);
    for _ in 0..64 {
        make();
    }
    let count = Count::begin();
    held.extend((0..SESSIONS).map(|_| make()));
    let counted = count.end();
    figures.add(format!("{name}: bytes"), each(counted.held_bytes, SESSIONS, "held"));
    let heap = (counted.heap_bytes as f64 / f64::from(SESSIONS)).round();
    let tolerance_percent = (100.0 * HEAP_SLACK_BYTES / heap).ceil();
    let heap = Figure::within(heap, "held, C included", tolerance_percent);
    figures.add(format!("{name}: heap bytes"), heap);
}
